// Forward mode: propagates directions at the input through all ops.
#pragma once

#include "network/derivatives/derivative_pass.h"

namespace fastmlp::detail {

// Computes `after`, the tangents of an op's output, from those of its inputs. `before`
// receives the tangents before the activation; it may alias `after`.
template <class T>
void tangents_of_op(const DerivativePass<T>& pass, size_t l, T* before, T* after,
                    const T* t, const T* other) {
  const OpPlan& op = pass.op(l);
  const Tile& tile = pass.tile;
  const Index n = op.n_out;
  const bool applies_activation = !pass.plan.defers_relu[l];
  if (op.is_dense() && op.input == kInput && pass.rq.has_unit_tangents()) {
    // The product of unit vectors and W is W.
    const T* const rows = pass.params + op.weight + tile.first * n;
    if (before != after || !applies_activation) pass.repeat(before, rows, 0, n);
    if (applies_activation) pass.times_derivative(l, after, rows, 0);
    return;
  }
  if (pass.plan.gathers[l]) {
    pass.multiply_gathered(static_cast<size_t>(op.input), before, n, t,
                           pass.shared(l).packed, false);
  } else {
    visit(op.kind, [&](auto kind) {
      kind.tangent(pass.args(l, tile.directions), op, before, t, other);
    });
  }
  if (applies_activation) pass.times_derivative(l, after, before, tile.directions);
}

// The directions at the network's input; null if they are unit vectors that are not in
// memory.
template <class T>
const T* input_tangents(const DerivativePass<T>& pass) {
  const Request<T>& rq = pass.rq;
  return rq.v ? rq.v + pass.tile.row * rq.directions * pass.net.n_in : pass.me.identity;
}

// Computes rq.out (rows, n_out, directions).
template <class T>
void compute_tangents(const DerivativePass<T>& pass) {
  const auto slot_of = [&](size_t l) {
    return pass.me.slots[static_cast<size_t>(pass.plan.slot[l])];
  };
  const auto tangent_of = [&](int op) -> const T* {
    if (op == kNone) return nullptr;
    return op == kInput ? input_tangents(pass) : slot_of(static_cast<size_t>(op));
  };
  const Tile& tile = pass.tile;
  if (pass.me.identity) pass.fill_unit_vectors(pass.me.identity, pass.net.n_in);
  for (size_t l = 0; l < pass.n_ops(); ++l) {
    const OpPlan& op = pass.op(l);
    if (stop_requested()) return;
    tangents_of_op(pass, l, slot_of(l), slot_of(l), tangent_of(op.input),
                   tangent_of(op.other));
  }
  const T* const t = slot_of(pass.n_ops() - 1);
  const Index n = pass.net.n_out, k = tile.directions, directions = pass.rq.directions;
  T* const out = pass.rq.out + tile.row * n * directions + tile.first;
  if (directions == 1) {
    std::copy_n(t, tile.rows * n, out);
    return;
  }
  for (Index i = 0; i < tile.rows; ++i) {
    transpose(out + i * n * directions, directions, t + i * k * n, n, k, n);
  }
}

}  // namespace fastmlp::detail
