// Piecewise-linear encodings of numbers (Gorishniy et al. 2022, section 3.2): for bin t
// of column c of the input, h_ct = (x_c - lower_ct) slope_ct, at least 0 except in the
// first bin, at most 1 except in the last. Training leaves lower and slope, two vectors
// of n_out elements, unchanged. Sums over the bins of a column run in their order.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "network/ops/norms.h"
#include "network/ops/op.h"

namespace fastmlp::detail {

struct PiecewiseLinearOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    if (spec.width < 1)
      throw std::invalid_argument(
          "a piecewise_linear layer must have at least one bin, got " +
          std::to_string(spec.width));
    op.n_out = net.product_width(op.n_in, spec.width);
    op.n_kept = op.n_out;
    op.moves_columns = true;
    plan_moments(net, op);
    const int index = net.push(std::move(op));
    net.fixed_ops.push_back(index);
    return index;
  }

  template <class T>
  static void take_memory(Arena<T>& arena, const OpPlan& op, Index rows,
                          OpMemory<T>& memory) {
    memory.kept = arena.take(rows * op.n_kept);
    memory.statistics = arena.take(2 * op.n_out);
  }

  template <class T>
  static void take_row_memory(Arena<T>& arena, const OpPlan& op, Index rows,
                              OpMemory<T>& memory) {
    memory.kept = arena.take(rows * op.n_kept);
  }

  // Bins of width 1 from 0 on.
  template <class T>
  static void initialize_buffers(const OpPlan& op, T* buffers) {
    const Index bins = op.n_out / op.n_in;
    T* const lower = buffers + op.statistics;
    for (Index i = 0; i < op.n_out; ++i) lower[i] = static_cast<T>(i % bins);
    std::fill_n(lower + op.n_out, op.n_out, T(1));
  }

  template <class T>
  static void use_running_statistics(const OpPlan& op, const T* buffers,
                                     T* statistics) {
    std::copy_n(buffers + op.statistics, 2 * op.n_out, statistics);
  }

  template <class T>
  static void use_running_statistics_in_pass(const OpPlan& op, const T* buffers,
                                             T* statistics) {
    use_running_statistics(op, buffers, statistics);
  }

  // Keeps the derivatives: the slope, or 0 outside of the bin.
  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index bins = op.n_out / op.n_in;
    const T* const lower = a.statistics;
    const T* const slope = lower + op.n_out;
    T* z = a.z;
    T* kept = a.kept;
    for (Index r = 0; r < a.rows; ++r) {
      for (Index i = 0; i < op.n_out; ++i) {
        const Index t = i % bins;
        const T at = (a.x[r * op.n_in + i / bins] - lower[i]) * slope[i];
        const bool below = t > 0 && at < 0, above = t + 1 < bins && at > 1;
        *z++ = below ? T(0) : above ? T(1) : at;
        if (kept) *kept++ = below || above ? T(0) : slope[i];
      }
    }
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    to_input(op, a.dx, a.dz, a.kept, a.rows, 1, op.adds_input);
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

  // Where the op is not linear its derivative is constant, so it counts as linear.
  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    const Index bins = op.n_out / op.n_in;
    for (Index r = 0; r < a.all(); ++r) {
      const T* const slope = a.kept + r / a.directions * op.n_out;
      for (Index i = 0; i < op.n_out; ++i) {
        out[r * op.n_out + i] = slope[i] * t[r * op.n_in + i / bins];
      }
    }
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    to_input(op, c.dx, c.dz, a.kept, a.rows, a.directions, c.adds_input);
  }

 private:
  template <class T>
  static void to_input(const OpPlan& op, T* dx, const T* d, const T* slopes, Index rows,
                       Index directions, bool adds) {
    if (!dx) return;
    const Index bins = op.n_out / op.n_in;
    for (Index r = 0; r < rows * directions; ++r) {
      const T* const slope = slopes + r / directions * op.n_out;
      for (Index c = 0; c < op.n_in; ++c) {
        T sum = 0;
        for (Index i = c * bins; i < (c + 1) * bins; ++i) {
          sum += d[r * op.n_out + i] * slope[i];
        }
        T& to = dx[r * op.n_in + c];
        to = adds ? to + sum : sum;
      }
    }
  }
};

}  // namespace fastmlp::detail
