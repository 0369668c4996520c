// The end of a residual block: h = act(x + other).
#pragma once

#include <stdexcept>
#include <string>

#include "network/ops/dense.h"
#include "network/ops/op.h"

namespace fastmlp::detail {

struct AddOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    if (spec.body.empty())
      throw std::invalid_argument("a residual block needs at least one layer");
    const int input = op.input;
    const int body = plan_layers(net, spec.body, input, op.name + ".body.");
    const Index n = net.width_of(body);
    op.other = input;
    if (n != op.n_in) {
      OpPlan projection = {LayerKind::dense, op.n_in, n};
      projection.input = input;
      projection.name = op.name + ".projection";
      op.other = DenseOp::plan(net, LayerSpec(n), std::move(projection), input);
    }
    op.n_in = op.n_out = n;
    op.input = body;
    op.works_in_place = true;
    return net.push(std::move(op));
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    a.table.add(a.z, a.x, a.other, a.rows * op.n_out);
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    accumulate_gradient(a.table, a.d_other, a.dz, a.rows * op.n_out, op.adds_other);
    pass_gradient_on(a, op);
  }

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* other) {
    a.table.add(out, t, other, a.all() * op.n_out);
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    const Index size = a.all() * op.n_out;
    accumulate_gradient(a.table, c.d_other, c.dz, size, c.adds_other);
    accumulate_gradient(a.table, c.dx, c.dz, size, c.adds_input);
  }
};

}  // namespace fastmlp::detail
