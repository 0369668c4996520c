// The parameters as ops read them.
//
// The weight W of a dense op may be computed from a parameter v[n_in, n_out] that
// stands for it (OpPlan::parametrization):
//   weight_norm    W = v magnitude[n_out] / the norms of v's columns
//                  (Salimans & Kingma 2016); a column of zeros gives zeros
//   spectral_norm  W = v / sigma, sigma = sum over i, j of right[i] v[i, j] left[j]
//                  (Miyato et al. 2018), or 0 if sigma is 0. The vectors left[n_out]
//                  and right[n_in] are running statistics. A forward pass in training
//                  first takes a step of the power method,
//                  left = v^T right / |v^T right|, right = v left / |v left|,
//                  with norms of at least 1e-12, except that a norm of 0 leaves the
//                  vector as it is. Gradients take both vectors as constants.
//
// The ops know nothing of this. They read a copy of the parameters in which W is in the
// place of v, and they write the gradient of W to the place of v. Afterwards pull_back
// replaces this gradient by those of v and of the magnitude.
#pragma once

#include <algorithm>
#include <cmath>

#include "fastmlp/random.h"
#include "network/ops/op.h"

namespace fastmlp::detail {

// Plans what a parametrised op has besides v.
inline void plan_parametrization(NetworkPlan& net, OpPlan& op) {
  op.derived = net.n_derived;
  if (op.parametrization == Parametrization::spectral_norm) {
    net.has_spectral_norm = true;
    op.statistics = net.add_buffers(op.n_out + op.n_in);
    net.n_derived += 2 * (op.n_out + op.n_in) + 1;  // see SpectralMemory
  } else {
    op.magnitude = net.add_params(1, op.n_out);
    net.n_derived += 3 * op.n_out;  // see NormMemory
  }
}

template <class T>
class EffectiveParams {
 public:
  // Elements of memory that a network needs for this; 0 if none of its weights is
  // computed.
  static Index memory_size(const NetworkPlan& net) {
    return net.n_derived > 0 ? net.n_params + net.n_derived : 0;
  }

  // `iterates`: whether `compute` takes a step of the power method.
  EffectiveParams(const NetworkPlan& net, const T* params, const T* buffers, T* memory,
                  bool iterates = false)
      : net_(net),
        table_(kernels<T>()),
        given_(params),
        buffers_(buffers),
        memory_(memory),
        iterates_(iterates) {}

  // Valid after `compute`.
  const T* data() const { return net_.n_derived > 0 ? memory_ : given_; }

  // All members must call this function. It ends with a barrier, unless there is
  // nothing to do.
  void compute(const Team& team) const {
    if (net_.n_derived == 0) return;
    net_.each_array(
        [&](Index begin, Index end, const OpPlan& op, bool /*frozen*/, bool is_weight) {
          if (is_weight && op.is_parametrized()) return;
          const Range mine = team.share(end - begin, kCacheLine<T>);
          std::copy(given_ + begin + mine.begin, given_ + begin + mine.end,
                    memory_ + begin + mine.begin);
        });
    if (net_.has_spectral_norm) find_singular_vectors(team);
    each_op([&](const OpPlan& op) {
      if (is_spectral(op)) {
        if (team.rank() == 0) find_sigma(op);
      } else {
        find_factors(op, team.share(op.n_out, table_.lanes));
      }
    });
    team.barrier();
    each_op([&](const OpPlan& op) { scale_rows(op, team.share(op.n_in)); });
    team.barrier();
  }

  // The norms of v's columns: the magnitudes with which W is v.
  const T* norms(const OpPlan& op) const { return NormMemory(*this, op).norm; }

  // Sets all singular vectors to numbers from -1 to 1, the same in all ops.
  static void draw_singular_vectors(const NetworkPlan& net, T* buffers) {
    for (const OpPlan& op : net.ops) {
      if (!is_spectral(op)) continue;
      for (Index i = 0; i < op.n_out + op.n_in; ++i) {
        const uint64_t bits =
            random_bits(0, Stream::initialize, 0, static_cast<uint64_t>(i));
        buffers[op.statistics + i] =
            static_cast<T>(2 * (static_cast<double>(bits >> 11) * 0x1p-53) - 1);
      }
    }
  }

  // Writes the singular vectors that the last `compute` used to the running statistics.
  void keep_singular_vectors(T* buffers) const {
    each_op([&](const OpPlan& op) {
      if (!is_spectral(op)) return;
      const SpectralMemory own(*this, op);
      std::copy_n(own.left, op.n_out, buffers + op.statistics);
      std::copy_n(own.right, op.n_in, buffers + op.statistics + op.n_out);
    });
  }

  // Turns the gradients of effective weights in `grads` into those of the parameters,
  // and returns whether this member's part is finite. All members must call this
  // function, after a barrier.
  bool pull_back(const Team& team, T* grads) const {
    if (net_.n_derived == 0) return true;
    bool finite = true;
    const auto each_trained = [&](auto f) {
      each_op([&](const OpPlan& op) {
        if (op.trains_weight()) f(op);
      });
    };
    each_trained([&](const OpPlan& op) {
      if (is_spectral(op)) {
        T* const dots = SpectralMemory(*this, op).products;
        const Range rows = team.share(op.n_in);
        for (Index i = rows.begin; i < rows.end; ++i) dots[i] = row_dot(op, grads, i);
      } else {
        T* const correction = NormMemory(*this, op).correction;
        turn_columns(op, grads, correction, team.share(op.n_out, table_.lanes));
      }
    });
    team.barrier();
    each_trained([&](const OpPlan& op) {
      const Range rows = team.share(op.n_in);
      if (is_spectral(op)) {
        const T* const dots = SpectralMemory(*this, op).products;
        T dot = 0;
        for (Index i = 0; i < op.n_in; ++i) dot += dots[i];
        turn_rows(op, grads, dot, rows);
      } else {
        turn_rows(op, grads, NormMemory(*this, op).correction, rows);
      }
      finite = finite && is_finite(op, grads, team, rows);
    });
    return finite;
  }

  // The same for one op, by one thread, with memory for op.n_out elements.
  void pull_back(const OpPlan& op, T* grads, T* correction) const {
    const Range rows = {0, op.n_in};
    if (is_spectral(op)) {
      T dot = 0;
      for (Index i = 0; i < op.n_in; ++i) dot += row_dot(op, grads, i);
      turn_rows(op, grads, dot, rows);
    } else {
      turn_columns(op, grads, correction, {0, op.n_out});
      turn_rows(op, grads, correction, rows);
    }
  }

 private:
  static constexpr double kLeastNorm = 1e-12;

  // What is kept for an op with weight normalisation: the norms of v's columns, the
  // factors magnitude / norm, and memory for pull_back.
  struct NormMemory {
    NormMemory(const EffectiveParams& all, const OpPlan& op)
        : norm(all.memory_ + all.net_.n_params + op.derived),
          factor(norm + op.n_out),
          correction(factor + op.n_out) {}
    T *norm, *factor, *correction;
  };
  // The same with spectral normalisation: the singular vectors, the products of v with
  // them, which are not normalised, and sigma.
  struct SpectralMemory {
    SpectralMemory(const EffectiveParams& all, const OpPlan& op)
        : left(all.memory_ + all.net_.n_params + op.derived),
          right(left + op.n_out),
          unscaled(right + op.n_in),
          products(unscaled + op.n_out),
          sigma(products + op.n_in) {}
    T *left, *right, *unscaled, *products, *sigma;
  };

  static bool is_spectral(const OpPlan& op) {
    return op.parametrization == Parametrization::spectral_norm;
  }
  template <class F>
  void each_op(F f) const {
    for (const OpPlan& op : net_.ops) {
      if (op.is_parametrized()) f(op);
    }
  }
  // Calls f(op, its memory) for each op with spectral normalisation, then waits.
  template <class F>
  void spectral_phase(const Team& team, F f) const {
    each_op([&](const OpPlan& op) {
      if (is_spectral(op)) f(op, SpectralMemory(*this, op));
    });
    team.barrier();
  }

  void find_singular_vectors(const Team& team) const {
    if (iterates_) {
      spectral_phase(team, [&](const OpPlan& op, const SpectralMemory& own) {
        const Range columns = team.share(op.n_out, table_.lanes);
        const T* const right = buffers_ + op.statistics + op.n_out;
        const T* const v = given_ + op.weight + columns.begin;
        T* const to = own.unscaled + columns.begin;
        std::fill_n(to, columns.size(), T(0));
        for (Index i = 0; i < op.n_in; ++i) {
          table_.axpy(to, v + i * op.n_out, right[i], columns.size());
        }
      });
    }
    spectral_phase(team, [&](const OpPlan& op, const SpectralMemory& own) {
      if (team.rank() > 0) return;
      const T* const before = buffers_ + op.statistics;
      std::copy_n(before, op.n_out, own.left);
      std::copy_n(before + op.n_out, op.n_in, own.right);
      if (iterates_) normalise(own.left, own.unscaled, op.n_out);
    });
    spectral_phase(team, [&](const OpPlan& op, const SpectralMemory& own) {
      const Range rows = team.share(op.n_in);
      const T* const v = given_ + op.weight;
      for (Index i = rows.begin; i < rows.end; ++i) {
        own.products[i] = table_.dot(v + i * op.n_out, own.left, op.n_out);
      }
    });
  }

  // to = from / |from|, unless that norm is 0.
  void normalise(T* to, const T* from, Index n) const {
    const T norm = std::sqrt(table_.sum_of_squares(from, n));
    if (norm == T(0)) return;
    const T divisor = std::max(norm, static_cast<T>(kLeastNorm));
    for (Index i = 0; i < n; ++i) to[i] = from[i] / divisor;
  }

  void find_sigma(const OpPlan& op) const {
    const SpectralMemory own(*this, op);
    if (iterates_) normalise(own.right, own.products, op.n_in);
    *own.sigma = table_.dot(own.right, own.products, op.n_in);
  }

  void find_factors(const OpPlan& op, Range columns) const {
    const NormMemory own(*this, op);
    const Index n = op.n_out, j = columns.begin;
    const T* const v = given_ + op.weight + j;
    table_.column_dot(own.norm + j, v, n, v, n, op.n_in, columns.size(), false);
    for (Index k = j; k < columns.end; ++k) {
      own.norm[k] = std::sqrt(own.norm[k]);
      own.factor[k] = over(given_[op.magnitude + k], own.norm[k]);
    }
  }

  // Computes rows of W.
  void scale_rows(const OpPlan& op, Range rows) const {
    const Index at = op.weight + rows.begin * op.n_out;
    if (is_spectral(op)) {
      scale(memory_ + at, given_ + at, over(T(1), *SpectralMemory(*this, op).sigma),
            rows.size() * op.n_out);
    } else {
      scale_columns(table_, memory_ + at, given_ + at, NormMemory(*this, op).factor,
                    rows.size(), op.n_out);
    }
  }

  // d magnitude = sum(dW v) / norm and dv = factor dW - factor d magnitude / norm v,
  // sums over columns.
  void turn_columns(const OpPlan& op, T* grads, T* correction, Range columns) const {
    const NormMemory own(*this, op);
    const Index n = op.n_out, j = columns.begin;
    T* const d = grads + op.magnitude;
    table_.column_dot(d + j, grads + op.weight + j, n, given_ + op.weight + j, n,
                      op.n_in, columns.size(), false);
    for (Index k = j; k < columns.end; ++k) {
      d[k] = over(d[k], own.norm[k]);
      correction[k] = -over(own.factor[k] * d[k], own.norm[k]);
    }
  }
  void turn_rows(const OpPlan& op, T* grads, const T* correction, Range rows) const {
    const Index n = op.n_out, at = op.weight + rows.begin * n;
    T* const d = grads + at;
    scale_columns(table_, d, d, NormMemory(*this, op).factor, rows.size(), n);
    scale_columns(table_, d, given_ + at, correction, rows.size(), n, true);
  }

  // dv = dW / sigma - sum(dW v) / sigma^2 right left^T; `dot`: that sum.
  T row_dot(const OpPlan& op, const T* grads, Index i) const {
    const Index at = op.weight + i * op.n_out;
    return table_.dot(grads + at, given_ + at, op.n_out);
  }
  void turn_rows(const OpPlan& op, T* grads, T dot, Range rows) const {
    const SpectralMemory own(*this, op);
    const Index n = op.n_out;
    const T share = -over(over(dot, *own.sigma), *own.sigma);
    T* const d = grads + op.weight;
    scale(d + rows.begin * n, d + rows.begin * n, over(T(1), *own.sigma),
          rows.size() * n);
    for (Index i = rows.begin; i < rows.end; ++i) {
      table_.axpy(d + i * n, own.left, share * own.right[i], n);
    }
  }

  bool is_finite(const OpPlan& op, const T* grads, const Team& team, Range rows) const {
    const Index n = op.n_out;
    const auto finite = [&](Index offset, Index size) {
      return table_.all_finite(grads + offset, size, 1, size);
    };
    const Range columns = team.share(n, table_.lanes);
    return finite(op.weight + rows.begin * n, rows.size() * n) &&
           (op.magnitude < 0 || finite(op.magnitude + columns.begin, columns.size()));
  }

  // a / b, or 0 if b is 0.
  static T over(T a, T b) { return b == T(0) ? T(0) : a / b; }

  // to = factor from; may alias.
  static void scale(T* to, const T* from, T factor, Index n) {
    for (Index i = 0; i < n; ++i) to[i] = factor * from[i];
  }

  const NetworkPlan& net_;
  const KernelTable<T>& table_;
  const T* given_;
  const T* buffers_;
  T* memory_;
  bool iterates_;
};

}  // namespace fastmlp::detail
