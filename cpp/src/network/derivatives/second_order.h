// Forward over reverse: the tangents of the cotangents.
#pragma once

#include <utility>

#include "network/derivatives/tangents.h"

namespace fastmlp::detail {

// Propagates an op's cotangent, and the tangents of that cotangent, back through the
// op's activation.
template <class T>
void activation_second_order(const DerivativePass<T>& pass, size_t l) {
  const OpPlan& op = pass.op(l);
  if (!has_activation(op)) return;
  auto& its = pass.memory(l);
  const KernelTable<T>& table = pass.table;
  const Index n = op.n_out, m = pass.tile.rows, k = pass.tile.directions;
  T* const c = its.cotangent;
  T* const dot = its.dot;
  if (op.activation == Activation::softmax) {
    table.softmax_second(dot, its.has_dot ? dot : nullptr, c, its.tangent, its.h, m, k,
                         n);
  } else {
    if (its.has_dot) pass.times_derivative(l, dot, dot, k);
    if (!is_piecewise_linear(op)) {
      table.activation_second(op.activation, pass.me.product, c, pass.saved_of(l),
                              m * n);
      if (its.has_dot) {
        table.add_scaled_groups(dot, its.before, k, pass.me.product, m, k, n);
      } else {
        table.scale_groups(dot, its.before, k, pass.me.product, false, m, k, n);
      }
    }
  }
  its.has_dot = its.has_dot || !is_piecewise_linear(op);
  table.activation_backward(op.activation, c, n, c, n, pass.saved_of(l), n, m, n);
}

// The tangents of an op's output; null if they are unit vectors that are not in memory.
template <class T>
const T* tangent_of(const DerivativePass<T>& pass, int op) {
  if (op == kNone) return nullptr;
  if (op == kInput) return input_tangents(pass);
  const size_t l = static_cast<size_t>(op);
  return pass.op(l).is_identity_at_inference ? tangent_of(pass, pass.op(l).input)
                                             : pass.memory(l).tangent;
}

// Propagates an op's cotangent, and the tangents of that cotangent, from the op's
// output to its inputs. `has_out` tells whether rq.out already holds values to add to;
// the function updates it.
template <class T>
void second_order_of_op(const DerivativePass<T>& pass, size_t l, bool& has_out) {
  const OpPlan& op = pass.op(l);
  const auto& its = pass.memory(l);
  const auto cotangent = [&](int to) {
    return to < 0 ? nullptr : pass.memory(static_cast<size_t>(to)).cotangent;
  };
  const auto dot = [&](int to) {
    if (to == kNone) return static_cast<T*>(nullptr);
    return to == kInput ? pass.out(pass.net.n_in)
                        : pass.memory(static_cast<size_t>(to)).dot;
  };
  // Returns whether the destination already holds values to add to, and marks it as
  // holding values from now on.
  const auto adds_dot = [&](int to) {
    if (to == kNone) return false;
    return std::exchange(
        to == kInput ? has_out : pass.memory(static_cast<size_t>(to)).has_dot, true);
  };
  visit(op.kind, [&](auto kind) {
    if (its.has_dot || !kind.is_linear) {
      CotangentArgs<T> c = {its.has_dot ? its.dot : nullptr, dot(op.input), false,
                            dot(op.other)};
      c.adds_other = adds_dot(op.other);
      c.adds_input = adds_dot(op.input);
      const DirectionArgs<T> a = pass.args(l, pass.tile.directions);
      if constexpr (kind.is_linear) {
        kind.cotangent(a, op, c);
      } else {
        kind.second(a, op, c, its.cotangent, tangent_of(pass, op.input));
      }
    }
    kind.cotangent(pass.args(l, 1), op,
                   {its.cotangent, cotangent(op.input), op.adds_input,
                    cotangent(op.other), op.adds_other});
  });
}

// Computes rq.out (rows, directions, n_in).
template <class T>
void compute_second_order(const DerivativePass<T>& pass) {
  const Tile& tile = pass.tile;
  const Index n_in = pass.net.n_in, n_out = pass.net.n_out;
  if (pass.me.identity) pass.fill_unit_vectors(pass.me.identity, n_in);
  for (size_t l = 0; l < pass.n_ops(); ++l) {
    const OpPlan& op = pass.op(l);
    auto& its = pass.memory(l);
    // The tangents of a cotangent are 0 as long as all ops on the way back have been
    // linear. While they are 0, they are neither stored nor multiplied.
    its.has_dot = false;
    if (stop_requested()) return;
    // The last op's tangents are read only by the second derivative of its activation.
    const bool is_unused = l + 1 == pass.n_ops() && is_piecewise_linear(op);
    if (op.is_identity_at_inference || is_unused) continue;
    tangents_of_op(pass, l, its.before, its.tangent, tangent_of(pass, op.input),
                   tangent_of(pass, op.other));
  }
  T* const c = pass.memory(pass.n_ops() - 1).cotangent;
  for (Index i = 0; i < tile.rows; ++i) {
    std::copy_n(pass.rq.weights, n_out, c + i * n_out);
  }
  bool has_out = false;
  for (size_t l = pass.n_ops(); l-- > 0;) {
    if (stop_requested()) return;
    activation_second_order(pass, l);
    second_order_of_op(pass, l, has_out);
  }
  if (!has_out) std::fill_n(pass.out(n_in), tile.all() * n_in, T(0));
}

}  // namespace fastmlp::detail
