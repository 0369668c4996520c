// Normalisations: of rows by layer_norm, rms_norm and group_norm, of columns by
// batch_norm.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "network/ops/op.h"
#include "number_text.h"

namespace fastmlp::detail {

// eps in this type: not 0 unless it is, so that a variance of 0 does not give NaN.
template <class T>
T epsilon(double eps) {
  return eps > 0 ? std::max(static_cast<T>(eps), std::numeric_limits<T>::min()) : T(0);
}

// rstd = 1 / sqrt(var + eps).
template <class T>
void reciprocal_deviation(T* rstd, const T* var, double eps, Index n) {
  const T small = epsilon<T>(eps);
  for (Index j = 0; j < n; ++j) rstd[j] = T(1) / std::sqrt(var[j] + small);
}

// The part of `plan` that all normalisations share. With `bias` there is a scale and,
// unless `has_shift` is false, also a shift.
inline void plan_norm(NetworkPlan& net, const LayerSpec& spec, OpPlan& op,
                      bool has_shift = true) {
  if (!(spec.eps >= 0))
    throw std::invalid_argument(
        "the eps of a normalisation must not be negative, got " + in_full(spec.eps));
  op.eps = epsilon<double>(spec.eps);  // in training, subnormal numbers count as 0
  op.n_kept = op.n_out;
  if (!spec.bias) return;
  op.weight = net.add_params(1, op.n_out);
  op.weight_size = op.n_out;
  if (has_shift) op.bias = net.add_params(1, op.n_out);
}

// Scales start at one; shifts are zero already.
template <class T>
void initialize_norm(const OpPlan& op, T* params) {
  if (op.weight >= 0) std::fill_n(params + op.weight, op.n_out, T(1));
}

// Adds buffers for a mean and a variance of each column.
inline void plan_moments(NetworkPlan& net, OpPlan& op) {
  op.statistics = net.add_buffers(op.n_out);
  net.add_buffers(op.n_out);
}

// Means start at 0 and variances at 1.
template <class T>
void initialize_moments(const OpPlan& op, T* buffers) {
  std::fill_n(buffers + op.statistics, op.n_out, T(0));
  std::fill_n(buffers + op.statistics + op.n_out, op.n_out, T(1));
}

// Computes this member's columns of the gradients of scale and shift: the sums over the
// rows of dz * normalised values and of dz.
template <class T>
void sum_norm_gradients(const WeightGradientArgs<T>& a, const OpPlan& op, Range mine) {
  const Index n = op.n_out, j = mine.begin;
  a.table.column_dot(a.grads + op.weight + j, a.dz + j, n, a.kept + j, n, a.rows,
                     mine.size(), a.accumulate);
  if (op.bias < 0) return;
  a.table.column_sum(a.grads + op.bias + j, a.dz + j, n, a.rows, mine.size(),
                     a.accumulate);
}

template <class T>
bool norm_gradients_are_finite(const WeightGradientArgs<T>& a, const OpPlan& op,
                               Range mine) {
  const Index n = mine.size();
  return a.table.all_finite(a.grads + op.weight + mine.begin, n, 1, n) &&
         (op.bias < 0 || a.table.all_finite(a.grads + op.bias + mine.begin, n, 1, n));
}

// Computes the gradients of scale and shift for each row of dz separately.
template <class T>
void norm_row_gradients(const DirectionArgs<T>& a, const OpPlan& op, T* grads,
                        Index stride, const T* dz) {
  if (op.weight < 0) return;
  const Index n = op.n_out;
  for (Index r = 0; r < a.all(); ++r) {
    a.table.multiply(grads + r * stride + op.weight, dz + r * n,
                     a.kept + r / a.directions * n, n);
  }
  copy_bias_gradients(op, grads, stride, dz, a.all());
}

// A normalisation of rows. It is layer_norm if kCentred, else rms_norm, which takes the
// mean to be 0 and has no shift. The statistics hold 1 / deviation for each group of
// each row; only group_norm has more than one group.
template <bool kCentred>
struct RowNormOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    plan_norm(net, spec, op, kCentred);
    return net.push(std::move(op));
  }

  template <class T>
  static void take_memory(Arena<T>& arena, const OpPlan& op, Index rows,
                          OpMemory<T>& memory) {
    take_row_memory(arena, op, rows, memory);
  }

  template <class T>
  static void take_row_memory(Arena<T>& arena, const OpPlan& op, Index rows,
                              OpMemory<T>& memory) {
    memory.kept = arena.take(rows * op.n_out);
    memory.statistics = arena.take(rows * op.groups);
  }

  template <class T>
  static void initialize(const OpPlan& op, size_t /*index*/, T* params,
                         uint64_t /*seed*/) {
    initialize_norm(op, params);
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out;
    T* const rstd = a.statistics ? a.statistics + a.row * op.groups : nullptr;
    a.table.layer_norm_forward(a.z, n, a.kept, n, rstd, a.x, n,
                               parameters(a.params, op.weight),
                               parameters(a.params, op.bias), epsilon<T>(op.eps),
                               kCentred, a.rows, op.groups, n);
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    if (!a.dx) return;
    const Index n = op.n_out, groups = op.groups;
    a.table.layer_norm_backward(
        a.dx, n, a.dz, n, a.kept, n, a.statistics + a.row * groups, groups,
        parameters(a.params, op.weight), kCentred, op.adds_input, a.rows, groups, n);
  }

  template <class T>
  static bool weight_gradients(const WeightGradientArgs<T>& a, const OpPlan& op) {
    const Range mine = a.team.share(op.n_out, a.table.lanes);
    sum_norm_gradients(a, op, mine);
    return norm_gradients_are_finite(a, op, mine);
  }

  static constexpr bool is_linear = false;

  // The Jacobian of the normalised values is symmetric, so `project` is used for
  // tangents as well as for cotangents.
  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    project<T>(a, op, out, t, nullptr, false);
    if (op.weight >= 0) {
      scale_columns(a.table, out, out, a.params + op.weight, a.all(), op.n_out);
    }
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    if (c.dx) {
      project(a, op, c.dx, c.dz, parameters(a.params, op.weight), c.adds_input);
    }
  }

  template <class T>
  static void row_gradients(const DirectionArgs<T>& a, const OpPlan& op, T* grads,
                            Index stride, const T* /*x*/, const T* dz) {
    norm_row_gradients(a, op, grads, stride, dz);
  }

  template <class T>
  static void second(const DirectionArgs<T>& a, const OpPlan& op,
                     const CotangentArgs<T>& c, const T* dz, const T* t) {
    a.table.layer_norm_second(c.dx, c.dz, dz, t, a.kept, a.statistics,
                              parameters(a.params, op.weight), kCentred, c.adds_input,
                              a.rows, a.directions, op.groups, op.n_out);
  }

 private:
  // out = d, or out += d if `adds`, with d = rstd * (g - mean(g) - xhat * mean(g *
  // xhat)) and g = in * scale. The term mean(g) is left out unless the op is centred.
  template <class T>
  static void project(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* in,
                      const T* scale, bool adds) {
    const Index n = op.n_out, k = a.directions, groups = op.groups;
    if (k == 1) {
      a.table.layer_norm_backward(out, n, in, n, a.kept, n, a.statistics, groups, scale,
                                  kCentred, adds, a.rows, groups, n);
      return;
    }
    // All directions of a row have the same normalised values and factors.
    for (Index i = 0; i < a.rows; ++i) {
      a.table.layer_norm_backward(out + i * k * n, n, in + i * k * n, n, a.kept + i * n,
                                  0, a.statistics + i * groups, 0, scale, kCentred,
                                  adds, k, groups, n);
    }
  }
};
using LayerNormOp = RowNormOp<true>;
using RMSNormOp = RowNormOp<false>;

// Group normalisation (Wu & He 2018).
struct GroupNormOp : LayerNormOp {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int start) {
    if (spec.groups < 1 || op.n_in % spec.groups != 0)
      throw std::invalid_argument(
          "layer " + op.name + " (group_norm) divides its input into " +
          std::to_string(spec.groups) + " groups, which must divide its width, " +
          std::to_string(op.n_in));
    op.groups = spec.groups;
    return LayerNormOp::plan(net, spec, std::move(op), start);
  }
};

// Batch normalisation. In training it depends on the whole batch; see op.h. Its
// statistics are vectors of n_out elements: the mean and 1 / deviation; in training
// also the variance and, for backward, the batch means of dz and of dz * normalised
// values; for derivatives of each row also the factor by which each column is
// multiplied.
struct BatchNormOp : OpDefaults {
  // Number of vectors of statistics in training, and for derivatives of each row.
  static constexpr Index kTrainingStatistics = 5;
  static constexpr Index kRowStatistics = 3;

  template <class T>
  class Statistics {
   public:
    Statistics(T* at, Index n) : at_(at), n_(n) {}
    T* mean() const { return at_; }
    T* rstd() const { return at_ + n_; }
    T* var() const { return at_ + 2 * n_; }
    T* mean_dz() const { return at_ + 3 * n_; }
    T* mean_dzx() const { return at_ + 4 * n_; }
    T* factor() const { return at_ + 2 * n_; }  // rstd * scale; see kRowStatistics

   private:
    T* at_;
    Index n_;
  };

  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    plan_norm(net, spec, op);
    op.momentum = spec.momentum;
    plan_moments(net, op);
    const int index = net.push(std::move(op));
    net.batch_ops.push_back(index);
    return index;
  }

  template <class T>
  static void take_memory(Arena<T>& arena, const OpPlan& op, Index rows,
                          OpMemory<T>& memory) {
    memory.kept = arena.take(rows * op.n_out);
    memory.statistics = arena.take(kTrainingStatistics * op.n_out);
  }

  template <class T>
  static void initialize(const OpPlan& op, size_t /*index*/, T* params,
                         uint64_t /*seed*/) {
    initialize_norm(op, params);
  }

  template <class T>
  static void initialize_buffers(const OpPlan& op, T* buffers) {
    initialize_moments(op, buffers);
  }

  // With running statistics, the op is a fixed affine map of each column.
  template <class T>
  static void use_running_statistics(const OpPlan& op, const T* buffers,
                                     T* statistics) {
    const Statistics<T> s(statistics, op.n_out);
    const Index n = op.n_out;
    std::copy_n(buffers + op.statistics, n, s.mean());
    reciprocal_deviation(s.rstd(), buffers + op.statistics + n, op.eps, n);
  }

  template <class T>
  static void use_running_statistics_in_pass(const OpPlan& op, const T* buffers,
                                             T* statistics) {
    use_running_statistics(op, buffers, statistics);
    const Statistics<T> s(statistics, op.n_out);
    std::fill_n(s.mean_dz(), op.n_out, T(0));
    std::fill_n(s.mean_dzx(), op.n_out, T(0));
  }

  template <class T>
  static void update_running_statistics(const OpPlan& op, T* buffers, T* statistics,
                                        Index rows) {
    const Statistics<T> batch(statistics, op.n_out);
    const Index n = op.n_out;
    T* const mean = buffers + op.statistics;
    T* const var = mean + n;
    const T m = static_cast<T>(op.momentum), rest = static_cast<T>(1 - op.momentum);
    // The unbiased variance, as in torch.
    const T unbiased = static_cast<T>(rows) / (static_cast<T>(rows) - T(1));
    for (Index j = 0; j < n; ++j) {
      mean[j] = rest * mean[j] + m * batch.mean()[j];
      var[j] = rest * var[j] + m * (batch.var()[j] * unbiased);
    }
  }

  template <class T>
  static void batch_statistics(const KernelTable<T>& table, const Team& team,
                               const OpPlan& op, T* statistics, const T* x,
                               Index rows) {
    const Statistics<T> s(statistics, op.n_out);
    const Range mine = team.share(op.n_out, table.lanes);
    const Index j = mine.begin;
    table.column_moments(s.mean() + j, s.var() + j, x + j, op.n_in, rows, mine.size());
    reciprocal_deviation(s.rstd() + j, s.var() + j, op.eps, mine.size());
  }

  template <class T>
  static void batch_gradients(const KernelTable<T>& table, const Team& team,
                              const OpPlan& op, const OpMemory<T>& memory, T* grads,
                              Index rows) {
    const Statistics<T> s(memory.statistics, op.n_out);
    const Range mine = team.share(op.n_out, table.lanes);
    const Index first = mine.begin, n = op.n_out;
    table.batch_norm_sums(s.mean_dz() + first, s.mean_dzx() + first, memory.dz + first,
                          n, memory.kept + first, n, rows, mine.size());
    const T divisor = static_cast<T>(rows);
    for (Index j = mine.begin; j < mine.end; ++j) {
      if (op.weight >= 0) {
        grads[op.weight + j] = s.mean_dzx()[j];
        grads[op.bias + j] = s.mean_dz()[j];
      }
      s.mean_dz()[j] /= divisor;
      s.mean_dzx()[j] /= divisor;
    }
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out;
    const Statistics<T> s(a.statistics, n);
    a.table.batch_norm_forward(a.z, n, a.kept, n, a.x, n, s.mean(), s.rstd(),
                               parameters(a.params, op.weight),
                               parameters(a.params, op.bias), a.rows, n);
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    if (!a.whole_batch) backward_to_input(a, op);
  }

  template <class T>
  static void backward_to_input(const BackwardArgs<T>& a, const OpPlan& op) {
    if (!a.dx) return;
    const Index n = op.n_out;
    const Statistics<T> s(a.statistics, n);
    a.table.batch_norm_backward(a.dx, n, a.dz, n, a.kept, n, s.rstd(),
                                parameters(a.params, op.weight), s.mean_dz(),
                                s.mean_dzx(), op.adds_input, a.rows, n);
  }

  template <class T>
  static bool weight_gradients(const WeightGradientArgs<T>& a, const OpPlan& op) {
    const Range mine = a.team.share(op.n_out, a.table.lanes);
    if (!a.whole_batch) sum_norm_gradients(a, op, mine);
    return norm_gradients_are_finite(a, op, mine);
  }

  template <class T>
  static void take_shared_memory(Arena<T>& arena, const OpPlan& op, bool /*packs*/,
                                 bool /*packs_transposed*/, OpMemory<T>& shared) {
    shared.statistics = arena.take(kRowStatistics * op.n_out);
  }

  template <class T>
  static void prepare(const Team& team, const KernelTable<T>&, const OpPlan& op,
                      const NetworkView<T>& net, const OpMemory<T>& shared) {
    if (team.rank() != 0) return;
    use_running_statistics(op, net.buffers, shared.statistics);
    const Statistics<T> s(shared.statistics, op.n_out);
    for (Index j = 0; j < op.n_out; ++j) {
      s.factor()[j] =
          op.weight >= 0 ? s.rstd()[j] * net.params[op.weight + j] : s.rstd()[j];
    }
  }

  template <class T>
  static void take_row_memory(Arena<T>& arena, const OpPlan& op, Index rows,
                              OpMemory<T>& memory) {
    memory.kept = arena.take(rows * op.n_out);
  }

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    scale_columns(a.table, out, t, factor(a, op), a.all(), op.n_out);
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    scale_columns(a.table, c.dx, c.dz, factor(a, op), a.all(), op.n_out, c.adds_input);
  }

  template <class T>
  static void row_gradients(const DirectionArgs<T>& a, const OpPlan& op, T* grads,
                            Index stride, const T* /*x*/, const T* dz) {
    norm_row_gradients(a, op, grads, stride, dz);
  }

 private:
  template <class T>
  static const T* factor(const DirectionArgs<T>& a, const OpPlan& op) {
    return Statistics<const T>(a.statistics, op.n_out).factor();
  }
};

}  // namespace fastmlp::detail
