// Reverse mode: propagates directions at the output back to the inputs or the
// parameters.
#pragma once

#include <algorithm>

#include "network/derivatives/derivative_pass.h"

namespace fastmlp::detail {

// The directions at the network's output: unit vectors, or the gradient of the loss of
// each row.
template <class T>
void fill_output_cotangents(const DerivativePass<T>& pass, T* c) {
  const Request<T>& rq = pass.rq;
  const Tile& tile = pass.tile;
  const Index n = pass.net.n_out;
  if (!rq.loss) return pass.fill_unit_vectors(c, n);
  const Targets<T> targets = rq.targets->from_row(tile.row, target_width(*rq.loss, n));
  // This applies the weights of the rows as well.
  fill_own_row_scale<T>(pass.me.scales, *rq.loss, targets, tile.rows, n);
  loss_rows<T>(*rq.loss, c, pass.me.losses, pass.output(), targets.values,
               targets.labels, pass.me.scales, tile.rows, n);
}

// Sets the gradients of an op's frozen parameters to 0 in all rows of the output.
template <class T>
void clear_frozen(const DerivativePass<T>& pass, const OpPlan& op) {
  const Index stride = pass.net.n_params;
  T* row = pass.out(stride);
  for (Index r = 0; r < pass.tile.all(); ++r, row += stride) {
    if (op.weight_frozen) std::fill_n(row + op.weight, op.weight_size, T(0));
    if (op.bias_frozen) std::fill_n(row + op.bias, op.n_out, T(0));
    if (op.magnitude_frozen) std::fill_n(row + op.magnitude, op.n_out, T(0));
  }
}

// Computes rq.out (rows, directions, n_in), or (rows, directions, n_params) if
// rq.of_params. `seeds`: the transposed weights of the last op, if
// plan.seeds_from_weights.
template <class T>
void compute_cotangents(const DerivativePass<T>& pass, const T* seeds,
                        const EffectiveParams<T>& effective) {
  const Request<T>& rq = pass.rq;
  const DerivativePlan& plan = pass.plan;
  const Tile& tile = pass.tile;
  // Returns null if the cotangent is not needed.
  const auto cotangent_of = [&](int op) -> T* {
    if (op == kNone) return nullptr;
    if (op == kInput) return rq.of_params ? nullptr : pass.out(pass.net.n_in);
    const int slot = plan.slot[static_cast<size_t>(op)];
    return slot < 0 ? nullptr : pass.me.slots[static_cast<size_t>(slot)];
  };

  size_t end = pass.n_ops();
  size_t done = end;  // the op whose activation has already been applied
  if (plan.seeds_from_weights) {
    // No other op reads the last op's input. So the derivative of the activation that
    // produces this input can be applied while the weights are copied.
    --end;
    const OpPlan& last = pass.net.ops.back();
    const T* const rows = seeds + tile.first * last.n_in;
    T* const to = cotangent_of(last.input);
    const size_t before = static_cast<size_t>(last.input);
    if (last.input == kInput || plan.gathers[before]) {
      pass.repeat(to, rows, 0, last.n_in);
    } else {
      pass.times_derivative(before, to, rows, 0);
      done = before;
    }
  } else {
    T* const c = cotangent_of(static_cast<int>(end) - 1);
    if (c) fill_output_cotangents(pass, c);
  }
  for (size_t l = end; l-- > 0;) {
    if (stop_requested()) return;
    T* const dz = cotangent_of(static_cast<int>(l));
    const OpPlan& op = pass.op(l);
    if (rq.of_params && !op.trains()) clear_frozen(pass, op);
    if (!dz) continue;  // neither it nor an op before it has parameters to train
    if (l != done && !plan.gathers[l]) {
      pass.times_derivative(l, dz, dz, tile.directions);
    }
    const CotangentArgs<T> c = {dz, cotangent_of(op.input), op.adds_input,
                                cotangent_of(op.other), op.adds_other};
    if (plan.gathers[l]) {
      pass.multiply_gathered(l, c.dx, op.n_in, dz, pass.shared(l).packed_transposed,
                             c.adds_input);
      continue;
    }
    visit(op.kind, [&](auto kind) {
      const DirectionArgs<T> a = pass.args(l, tile.directions);
      if (rq.of_params && op.trains()) {
        const Index stride = pass.net.n_params;
        kind.row_gradients(a, op, pass.out(stride), stride, pass.value_of(op.input),
                           dz);
        if (op.is_parametrized()) {
          T* row = pass.out(stride);
          for (Index r = 0; r < pass.tile.all(); ++r, row += stride) {
            effective.pull_back(op, row, pass.me.correction);
          }
        }
        clear_frozen(pass, op);
      }
      kind.cotangent(a, op, c);
    });
  }
}

}  // namespace fastmlp::detail
