// Layers that are random in training and do nothing at inference.
#pragma once

#include <cmath>
#include <stdexcept>
#include <string>

#include "fastmlp/noise.h"
#include "network/ops/op.h"
#include "number_text.h"

namespace fastmlp::detail {

// `kind` is one of the kinds that are random in training. All but gaussian_noise
// multiply each element by a random factor, which they keep.
template <LayerKind kind>
struct NoiseOp : OpDefaults {
  static constexpr bool drops =
      kind == LayerKind::dropout || kind == LayerKind::alpha_dropout;
  static constexpr bool adds = kind == LayerKind::gaussian_noise;

  static void check_rate(double rate) {
    if (rate >= 0 && (adds ? std::isfinite(rate) : rate < 1)) return;
    throw std::invalid_argument(
        (adds ? "the standard deviation of noise must be finite and not negative, got "
              : "the rate of a dropout layer must be in [0, 1), got ") +
        in_full(rate));
  }

  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    check_rate(spec.rate);
    op.rate = spec.rate;
    op.is_random = true;
    op.stream = net.n_random++;
    op.n_kept = adds ? 0 : op.n_out;
    op.is_identity_at_inference = true;
    op.works_in_place = true;
    return net.push(std::move(op));
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out, size = a.rows * n, first = (a.first_row + a.row) * n;
    if (!a.draw) {
      std::copy_n(a.x, size, a.h);
    } else if constexpr (drops) {
      constexpr bool alpha = kind == LayerKind::alpha_dropout;
      a.table.dropout(a.h, a.kept, a.x, first, size,
                      dropout_args<T>(op.rate, alpha, *a.draw, op.stream));
    } else {
      const double deviation = adds ? op.rate : std::sqrt(op.rate / (1 - op.rate));
      a.table.gaussian_noise(a.h, adds ? nullptr : a.kept, a.x, first, size,
                             gaussian_args<T>(deviation, *a.draw, op.stream));
    }
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    if (a.training && !adds) a.table.multiply(a.dz, a.dz, a.kept, a.rows * op.n_out);
    pass_gradient_on(a, op);
  }
};

}  // namespace fastmlp::detail
