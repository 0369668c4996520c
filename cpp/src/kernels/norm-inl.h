// Normalisation of rows and of columns, forward and back. Formulas, aliasing and orders
// of summation: kernel_table.h. (Ba et al. 2016; Ioffe & Szegedy 2015.)
#pragma once

#include "sweep-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// The sum over j < n of term(io, j), a vector from column j on. Terms of lanes beyond n
// must be +0.
template <class T, class Term>
FASTMLP_INLINE T sum_of_row(Index n, Term term) {
  RowSum<T> sum;
  const auto body = [&](auto io, Index j)
                        FASTMLP_LAMBDA { sum.add(j, keep(io, term(io, j))); };
  sweep<T>(n, body);
  return sum.total(n);
}

template <class T>
void layer_norm_forward(T* h, Index ldh, T* xhat, Index ldxhat, T* rstd, const T* x,
                        Index ldx, const T* scale, const T* shift, T eps, Index m,
                        Index n) {
  using V = Vec<T>;
  const T count = static_cast<T>(n);
  for (Index i = 0; i < m; ++i) {
    const T* const row = x + i * ldx;
    T* const to = h + i * ldh;
    T* const hat = xhat ? xhat + i * ldxhat : nullptr;
    const auto value = [&](auto io, Index j)
                           FASTMLP_LAMBDA { return io.load(row + j); };
    const V mean = V::set1(sum_of_row<T>(n, value) / count);
    const auto square = [&](auto io, Index j) FASTMLP_LAMBDA {
      const V d = io.load(row + j) - mean;
      return d * d;
    };
    const V var = V::set1(sum_of_row<T>(n, square) / count);
    const V r = V::set1(T(1)) / sqrt(var + V::set1(eps));
    if (rstd) r.store_partial(rstd + i, 1);
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const V normal = (io.load(row + j) - mean) * r;
      if (hat) io.store(hat + j, normal);
      io.store(to + j,
               scale ? fma(normal, io.load(scale + j), io.load(shift + j)) : normal);
    };
    sweep<T>(n, body);
  }
}

template <class T>
void layer_norm_backward(T* dx, Index lddx, const T* dh, Index lddh, const T* xhat,
                         Index ldxhat, const T* rstd, const T* scale, bool accumulate,
                         Index m, Index n) {
  using V = Vec<T>;
  const T count = static_cast<T>(n);
  for (Index i = 0; i < m; ++i) {
    const T* const from = dh + i * lddh;
    const T* const hat = xhat + i * ldxhat;
    T* const to = dx + i * lddx;
    const auto gradient = [&](auto io, Index j) FASTMLP_LAMBDA {
      const V g = io.load(from + j);
      return scale ? g * io.load(scale + j) : g;
    };
    RowSum<T> sum, sum_hat;
    const auto add = [&](auto io, Index j) FASTMLP_LAMBDA {
      const V g = gradient(io, j);
      sum.add(j, keep(io, g));
      sum_hat.add(j, keep(io, g * io.load(hat + j)));
    };
    sweep<T>(n, add);
    const V mean = V::set1(sum.total(n) / count);
    const V mean_hat = V::set1(sum_hat.total(n) / count);
    const V r = V::set1(rstd[i]);
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const V d = fnma(io.load(hat + j), mean_hat, gradient(io, j) - mean);
      io.store(to + j, accumulate ? fma(r, d, io.load(to + j)) : r * d);
    };
    sweep<T>(n, body);
  }
}

// part(i, end) for the blocks of rows i .. end that m rows fall into.
template <class Part>
FASTMLP_INLINE void each_block(Index m, Part part) {
  for (Index i = 0; i < m; i += kBlockRows) {
    part(i, m - i < kBlockRows ? m : i + kBlockRows);
  }
}

template <class T>
void column_moments(T* mean, T* var, const T* x, Index ldx, Index m, Index n) {
  using V = Vec<T>;
  const V count = V::set1(static_cast<T>(m)), zero = V::set1(T(0));
  const auto columns = [&](auto io, Index j) FASTMLP_LAMBDA {
    V sum = zero;
    const auto add = [&](Index i, Index end) FASTMLP_LAMBDA {
      V part = zero;
      for (; i < end; ++i) part = part + io.load(x + i * ldx + j);
      sum = sum + part;
    };
    each_block(m, add);
    const V middle = sum / count;
    V rest = zero, squares = zero;
    const auto add_squares = [&](Index i, Index end) FASTMLP_LAMBDA {
      V part = zero, square = zero;
      for (; i < end; ++i) {
        const V d = io.load(x + i * ldx + j) - middle;
        part = part + d;
        square = fma(d, d, square);
      }
      rest = rest + part;
      squares = squares + square;
    };
    each_block(m, add_squares);
    const V shift = rest / count;
    io.store(mean + j, middle + shift);
    // Rounding may take it below 0; max lets NaN in second place through.
    io.store(var + j, max(zero, fnma(shift, shift, squares / count)));
  };
  sweep<T>(n, columns);
}

template <class T>
void batch_norm_forward(T* h, Index ldh, T* xhat, Index ldxhat, const T* x, Index ldx,
                        const T* mean, const T* rstd, const T* scale, const T* shift,
                        Index m, Index n) {
  using V = Vec<T>;
  for (Index i = 0; i < m; ++i) {
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const V normal =
          (io.load(x + i * ldx + j) - io.load(mean + j)) * io.load(rstd + j);
      if (xhat) io.store(xhat + i * ldxhat + j, normal);
      io.store(h + i * ldh + j,
               scale ? fma(normal, io.load(scale + j), io.load(shift + j)) : normal);
    };
    sweep<T>(n, body);
  }
}

template <class T>
void batch_norm_backward(T* dx, Index lddx, const T* dh, Index lddh, const T* xhat,
                         Index ldxhat, const T* rstd, const T* scale, const T* mean_dh,
                         const T* mean_dhx, bool accumulate, Index m, Index n) {
  using V = Vec<T>;
  for (Index i = 0; i < m; ++i) {
    T* const to = dx + i * lddx;
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const V centred = io.load(dh + i * lddh + j) - io.load(mean_dh + j);
      const V d = fnma(io.load(xhat + i * ldxhat + j), io.load(mean_dhx + j), centred);
      const V r = io.load(rstd + j);
      const V factor = scale ? r * io.load(scale + j) : r;
      io.store(to + j, accumulate ? fma(factor, d, io.load(to + j)) : factor * d);
    };
    sweep<T>(n, body);
  }
}

template <class T>
void batch_norm_sums(T* sum_dh, T* sum_dhx, const T* dh, Index lddh, const T* xhat,
                     Index ldxhat, Index m, Index n) {
  using V = Vec<T>;
  const auto columns = [&](auto io, Index j) FASTMLP_LAMBDA {
    V sum = V::set1(T(0)), dot = sum;
    const auto add = [&](Index i, Index end) FASTMLP_LAMBDA {
      V part = V::set1(T(0)), product = part;
      for (; i < end; ++i) {
        const V g = io.load(dh + i * lddh + j);
        part = part + g;
        product = fma(g, io.load(xhat + i * ldxhat + j), product);
      }
      sum = sum + part;
      dot = dot + product;
    };
    each_block(m, add);
    io.store(sum_dh + j, sum);
    io.store(sum_dhx + j, dot);
  };
  sweep<T>(n, columns);
}

template <class T>
void column_dot(T* out, const T* a, Index lda, const T* b, Index ldb, Index m, Index n,
                bool accumulate) {
  using V = Vec<T>;
  const auto columns = [&](auto io, Index j) FASTMLP_LAMBDA {
    V sum = accumulate ? io.load(out + j) : V::set1(T(0));
    for (Index i = 0; i < m; ++i) {
      sum = fma(io.load(a + i * lda + j), io.load(b + i * ldb + j), sum);
    }
    io.store(out + j, sum);
  };
  sweep<T>(n, columns);
}

template <class T>
void add(T* out, const T* a, const T* b, Index n) {
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    io.store(out + i, io.load(a + i) + io.load(b + i));
  };
  sweep<T>(n, body);
}

template <class T>
void multiply(T* out, const T* a, const T* b, Index n) {
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    io.store(out + i, io.load(a + i) * io.load(b + i));
  };
  sweep<T>(n, body);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
