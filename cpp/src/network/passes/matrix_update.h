// The update of weight matrices by Muon (Jordan et al. 2024), with the formulas of
// torch.optim.Muon:
//   m = momentum m + (1 - momentum) g;  u = g + momentum (m - g), or m without Nesterov
//   X = u / max(|u|, eps), then ns_steps times:  X = a X + (b A + c A A) X, A = X X^T
//   W = (1 - lr weight_decay) W - lr r X
// X is the matrix or its transpose, whichever has fewer rows. r is sqrt(max(1, out /
// in)) or, to match the size of AdamW's steps, 0.2 sqrt(max(out, in)).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/gemm.h"
#include "fastmlp/optimizer.h"
#include "fastmlp/stop.h"
#include "network/plan.h"
#include "threading/parallel.h"

namespace fastmlp::detail {

// Operations of such updates of all weights.
inline double matrix_update_flops(const NetworkPlan& net, const Optimizer& optimizer) {
  double flops = 0;
  for (const OpPlan& op : net.ops) {
    if (!op.is_dense()) continue;
    const double few = static_cast<double>(std::min(op.n_in, op.n_out));
    const double size = static_cast<double>(op.weight_size);
    // X X^T and A A, of which half is computed, and the product with X.
    flops += few * size + few * few * few + 2 * few * size;
  }
  return flops * optimizer.config().ns_steps;
}

// The memory of such updates.
template <class T>
class MatrixMemory {
 public:
  // Provides memory for all weights and `threads` threads. Throws std::bad_alloc.
  void prepare(const NetworkPlan& net, int threads) {
    Index size = 0, side = 0, left = 0, right = 0;
    for (const OpPlan& op : net.ops) {
      if (!op.is_dense()) continue;
      const Index few = std::min(op.n_in, op.n_out), many = std::max(op.n_in, op.n_out);
      size = std::max(size, op.weight_size);
      side = std::max(side, few * few);
      left = std::max(
          {left, left_scratch_size<T>(many, few), left_scratch_size<T>(few, many)});
      right = std::max(
          {right, right_scratch_size<T>(many, few), right_scratch_size<T>(few, many)});
    }
    values_.reserve(2 * size + 2 * side + threads * (left + right));
    squares_.reserve(square_chunks(size));
    size_ = size, side_ = side, left_ = left, right_ = right;
  }
  T* x() const { return values_.data(); }
  T* y() const { return x() + size_; }
  T* gram() const { return y() + size_; }
  T* polynomial() const { return gram() + side_; }
  T* left(int rank) const { return polynomial() + side_ + rank * (left_ + right_); }
  T* right(int rank) const { return left(rank) + left_; }
  double* squares() const { return squares_.data(); }

 private:
  AlignedBuffer<T> values_;
  AlignedBuffer<double> squares_;
  Index size_ = 0, side_ = 0, left_ = 0, right_ = 0;
};

// The update of one matrix. All members of the team must call `run`.
template <class T>
class MatrixUpdate {
 public:
  // `config`: the hyperparameters of the matrix. `decay`: the coefficient of the loss's
  // L2 penalty. `momentum`: the array of state for the weight.
  MatrixUpdate(const Team& team, const OpPlan& op, const OptimizerConfig& config,
               const MatrixMemory<T>& memory, T* weight, T* momentum)
      : team_(team),
        op_(op),
        config_(config),
        memory_(memory),
        table_(kernels<T>()),
        weight_(weight),
        momentum_(momentum),
        mine_(team.share(op.weight_size, kCacheLine<T>)) {}

  void run(const T* grad, double clip_scale, double decay, double weight_decay) {
    const StoppedBy nothing(nullptr);  // the update has begun
    T* x = memory_.x();
    T* y = memory_.y();
    direction(x, grad, clip_scale, decay);
    team_.barrier();
    normalise(x);
    for (Index i = 0; i < static_cast<Index>(config_.ns_steps); ++i) {
      team_.barrier();
      iterate(y, x);
      std::swap(x, y);
    }
    team_.barrier();
    if (weight_decay != 0) {
      scale(weight_, weight_, 1 - config_.lr * weight_decay, mine_);
    }
    table_.axpy(weight_ + mine_.begin, x + mine_.begin,
                static_cast<T>(-config_.lr * ratio()), mine_.size());
    team_.barrier();  // the memory is about to be used for another matrix
  }

 private:
  // Rows of a symmetric product that a member computes at a time.
  static constexpr Index kBlock = 96;

  // out = factor in; may alias.
  void scale(T* out, const T* in, double factor, Range part) const {
    const ConditionArgs<T> args = {static_cast<T>(factor),
                                   std::numeric_limits<T>::infinity(), T(0)};
    table_.condition_gradient(args, out + part.begin, in + part.begin, in + part.begin,
                              part.size());
  }

  void direction(T* u, const T* grad, double clip_scale, double decay) const {
    const double sign = config_.maximize ? -1.0 : 1.0;
    const T limit = config_.clip_value > 0 ? static_cast<T>(config_.clip_value)
                                           : std::numeric_limits<T>::infinity();
    const Index at = mine_.begin, n = mine_.size();
    table_.condition_gradient(
        {static_cast<T>(sign * clip_scale), limit, static_cast<T>(config_.l1)}, u + at,
        grad + at, weight_ + at, n);
    if (decay != 0) table_.axpy(u + at, weight_ + at, static_cast<T>(decay), n);
    const T rest = static_cast<T>(1 - config_.momentum);
    table_.interpolate(momentum_ + at, u + at, rest, n);
    const T share = config_.nesterov ? static_cast<T>(config_.momentum) : T(1);
    table_.interpolate(u + at, momentum_ + at, share, n);
  }

  void normalise(T* x) const {
    const Index size = op_.weight_size, chunks = square_chunks(size);
    const Range own = team_.share(chunks);
    for (Index c = own.begin; c < own.end; ++c) {
      memory_.squares()[c] = squares_of_chunk(x, size, c);
    }
    team_.barrier();
    double sum = 0.0;
    for (Index c = 0; c < chunks; ++c) sum += memory_.squares()[c];
    // Below the root of the smallest number, squares are 0. The reciprocal of a large
    // norm may be subnormal, but not that of its root.
    const double least = std::sqrt(static_cast<double>(std::numeric_limits<T>::min()));
    const double root = std::sqrt(std::max({std::sqrt(sum), config_.ns_eps, least}));
    scale(x, x, 1 / root, mine_);
    scale(x, x, 1 / root, mine_);
  }

  // y = a x + (b A + c A A) x, or with the factors of the last product in reverse.
  void iterate(T* y, const T* x) const {
    const Index n_in = op_.n_in, n_out = op_.n_out;
    const bool wide = n_in <= n_out;
    const Index side = std::min(n_in, n_out);
    T* const gram = memory_.gram();
    T* const polynomial = memory_.polynomial();
    if (wide) {
      symmetric(gram, side, {x, n_out, 1}, x, 1, n_out, n_out);
    } else {
      symmetric(gram, side, {x, 1, n_out}, x, n_out, 1, n_in);
    }
    symmetric(polynomial, side, {gram, side, 1}, gram, side, 1, side);
    const Range part = team_.share(side * side, kCacheLine<T>);
    scale(polynomial, polynomial, config_.ns_c, part);
    table_.axpy(polynomial + part.begin, gram + part.begin,
                static_cast<T>(config_.ns_b), part.size());
    scale(y, x, config_.ns_a, mine_);
    team_.barrier();
    const Range rows = team_.share(n_in, table_.mr);
    const LeftOperand<T> left =
        wide ? LeftOperand<T>{polynomial, side, 1} : LeftOperand<T>{x, n_out, 1};
    const T* const right = wide ? x : polynomial;
    product(y, n_out, left, rows, n_out, right, n_out, 1, side, true);
  }

  // Computes the m x m matrix c = a b, which is symmetric: the blocks up to the
  // diagonal are computed, the others copied. Behind it is a barrier.
  void symmetric(T* c, Index m, LeftOperand<T> a, const T* b, Index rs, Index cs,
                 Index k) const {
    const Index size = team_.size();
    for (Index block = team_.rank(); block * kBlock < m; block += size) {
      const Range rows = {block * kBlock, std::min(m, (block + 1) * kBlock)};
      product(c, m, a, rows, rows.end, b, rs, cs, k, false);
    }
    team_.barrier();
    const Range own = team_.share(m, table_.mr);
    for (Index i = own.begin; i < own.end; ++i) {
      for (Index j = (i / kBlock + 1) * kBlock; j < m; ++j) c[i * m + j] = c[j * m + i];
    }
    team_.barrier();
  }

  // Computes rows of c (ld apart): their first `cols` elements.
  void product(T* c, Index ld, LeftOperand<T> a, Range rows, Index cols, const T* b,
               Index rs, Index cs, Index k, bool accumulate) const {
    if (rows.size() <= 0) return;
    gemm_packing<T>(table_, {c + rows.begin * ld, rows.size(), cols, ld},
                    {a.data + rows.begin * a.rs, a.rs, a.cs}, b, rs, cs, k, nullptr,
                    accumulate, memory_.left(team_.rank()),
                    memory_.right(team_.rank()));
  }

  double ratio() const {
    const double in = static_cast<double>(op_.n_in);
    const double out = static_cast<double>(op_.n_out);
    return config_.match_rms_adamw ? 0.2 * std::sqrt(std::max(out, in))
                                   : std::sqrt(std::max(1.0, out / in));
  }

  const Team& team_;
  const OpPlan& op_;
  const OptimizerConfig& config_;
  const MatrixMemory<T>& memory_;
  const KernelTable<T>& table_;
  T* weight_;
  T* momentum_;
  Range mine_;
};

}  // namespace fastmlp::detail
