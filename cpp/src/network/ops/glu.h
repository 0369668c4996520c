// A gated linear unit (Dauphin et al. 2017; with other activations: Shazeer 2020):
// h = x1 gate(x2) for the halves x1 and x2 of each row of the input.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "network/ops/op.h"

namespace fastmlp::detail {

struct GLUOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    if (op.n_in % 2 != 0)
      throw std::invalid_argument("layer " + op.name +
                                  " (glu) halves its input, whose width must be even, "
                                  "got " +
                                  std::to_string(op.n_in));
    if (spec.activation == Activation::softmax)
      throw std::invalid_argument("the activation of a glu layer must be elementwise");
    op.gate = checked(spec.activation);
    op.n_kept = op.n_in;
    op.n_out = op.n_in / 2;
    return net.push(std::move(op));
  }

  // Derivatives of rows keep what training keeps and, as statistics, the slopes.
  template <class T>
  static void take_row_memory(Arena<T>& arena, const OpPlan& op, Index rows,
                              OpMemory<T>& memory) {
    memory.kept = arena.take(rows * op.n_kept);
    memory.statistics = arena.take(rows * op.n_in);
  }

  // Keeps the factors and the slopes of the kernels.
  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out;
    if (a.kept) {
      keep_factors(a, op);
    } else {
      a.table.activation_forward(op.gate, a.z, n, a.x + n, 2 * n, a.rows, n);
    }
    for (Index i = 0; i < a.rows; ++i) {
      const T* const gate = a.kept ? a.kept + 2 * i * n : a.z + i * n;
      a.table.multiply(a.z + i * n, gate, a.x + 2 * i * n, n);
    }
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    if (!a.dx) return;
    a.table.glu_backward(a.dx, a.dz, a.kept, op.adds_input, a.rows, 1, op.n_out);
  }

  static constexpr bool is_linear = false;

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    a.table.glu_tangent(out, t, a.kept, a.rows, a.directions, op.n_out);
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    if (!c.dx) return;
    a.table.glu_backward(c.dx, c.dz, a.kept, c.adds_input, a.rows, a.directions,
                         op.n_out);
  }

  template <class T>
  static void second(const DirectionArgs<T>& a, const OpPlan& op,
                     const CotangentArgs<T>& c, const T* dz, const T* t) {
    a.table.glu_second(c.dx, c.dz, dz, t, a.kept, a.statistics, c.adds_input, a.rows,
                       a.directions, op.n_out);
  }

 private:
  template <class T>
  static void keep_factors(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out;
    const T* const x2 = a.x + n;
    T* const slope = a.kept + n;
    for (Index i = 0; i < a.rows; ++i) std::fill_n(slope + 2 * i * n, n, T(1));
    a.table.activation_forward(op.gate, a.kept, 2 * n, x2, 2 * n, a.rows, n);
    const T* const saved = activation_saves_input(op.gate.kind) ? x2 : a.kept;
    a.table.activation_backward(op.gate, slope, 2 * n, slope, 2 * n, saved, 2 * n,
                                a.rows, n);
    for (Index at = 0; at < 2 * a.rows * n; at += 2 * n) {
      const T* const x1 = a.x + at;
      if (a.statistics) {
        T* const slopes = a.statistics + 2 * a.row * n + at;
        std::copy_n(slope + at, n, slopes);
        a.table.activation_second(op.gate, slopes + n, x1, saved + at, n);
      }
      a.table.multiply(slope + at, slope + at, x1, n);
    }
  }
};

}  // namespace fastmlp::detail
