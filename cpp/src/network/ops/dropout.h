// Dropout: in training an element is 0 with probability `rate`, else x / (1 - rate).
#pragma once

#include <stdexcept>
#include <string>

#include "fastmlp/dropout.h"
#include "network/ops/op.h"
#include "number_text.h"

namespace fastmlp::detail {

struct DropoutOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    if (!(spec.rate >= 0 && spec.rate < 1))
      throw std::invalid_argument(
          "the rate of a dropout layer must be in [0, 1), got " + in_full(spec.rate));
    op.rate = spec.rate;
    op.stream = net.n_streams++;
    op.n_kept = op.n_out;
    op.is_identity_at_inference = true;
    op.works_in_place = true;
    return net.push(std::move(op));
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out, size = a.rows * n;
    if (!a.draw) {
      std::copy_n(a.x, size, a.h);
      return;
    }
    a.table.dropout(a.h, a.kept, a.x, (a.first_row + a.row) * n, size,
                    dropout_args<T>(op.rate, *a.draw, op.stream));
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    if (a.training) a.table.multiply(a.dz, a.dz, a.kept, a.rows * op.n_out);
    pass_gradient_on(a, op);
  }
};

}  // namespace fastmlp::detail
