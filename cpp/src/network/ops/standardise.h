// Columns scaled by statistics of data: h = (x - mean) / sqrt(var) or, for the inverse,
// h = x sqrt(var) + mean. Mean and variance are buffers that training leaves unchanged.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "network/ops/norms.h"
#include "network/ops/op.h"

namespace fastmlp::detail {

// The op's statistics are two vectors of n_out elements: the mean, and the factor of
// each column, 1 / sqrt(var) or sqrt(var).
struct StandardiseOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    op.inverse = spec.inverse;
    plan_moments(net, op);
    const int index = net.push(std::move(op));
    net.fixed_ops.push_back(index);
    return index;
  }

  template <class T>
  static void take_memory(Arena<T>& arena, const OpPlan& op, Index /*rows*/,
                          OpMemory<T>& memory) {
    memory.statistics = arena.take(2 * op.n_out);
  }

  template <class T>
  static void initialize_buffers(const OpPlan& op, T* buffers) {
    initialize_moments(op, buffers);
  }

  template <class T>
  static void use_running_statistics(const OpPlan& op, const T* buffers,
                                     T* statistics) {
    const Index n = op.n_out;
    const T* const mean = buffers + op.statistics;
    const T* const var = mean + n;
    T* const factor = statistics + n;
    std::copy_n(mean, n, statistics);
    if (op.inverse) {
      for (Index j = 0; j < n; ++j) factor[j] = std::sqrt(var[j]);
    } else {
      reciprocal_deviation(factor, var, 0.0, n);
    }
  }

  template <class T>
  static void use_running_statistics_in_pass(const OpPlan& op, const T* buffers,
                                             T* statistics) {
    use_running_statistics(op, buffers, statistics);
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out;
    const T* const mean = a.statistics;
    const T* const factor = mean + n;
    if (op.inverse) {
      for (Index r = 0; r < a.rows; ++r) std::copy_n(mean, n, a.z + r * n);
      scale_columns(a.table, a.z, a.x, factor, a.rows, n, true);
    } else {
      a.table.batch_norm_forward(a.z, n, nullptr, n, a.x, n, mean, factor, nullptr,
                                 nullptr, a.rows, n);
    }
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    scale_columns(a.table, a.dx, a.dz, a.statistics + op.n_out, a.rows, op.n_out,
                  op.adds_input);
  }

  template <class T>
  static void take_shared_memory(Arena<T>& arena, const OpPlan& op, bool /*packs*/,
                                 bool /*packs_transposed*/, OpMemory<T>& shared) {
    shared.statistics = arena.take(2 * op.n_out);
  }

  template <class T>
  static void prepare(const Team& team, const KernelTable<T>&, const OpPlan& op,
                      const NetworkView<T>& net, const OpMemory<T>& shared) {
    if (team.rank() == 0) use_running_statistics(op, net.buffers, shared.statistics);
  }

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    scale_columns(a.table, out, t, a.statistics + op.n_out, a.all(), op.n_out);
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    scale_columns(a.table, c.dx, c.dz, a.statistics + op.n_out, a.all(), op.n_out,
                  c.adds_input);
  }
};

}  // namespace fastmlp::detail
