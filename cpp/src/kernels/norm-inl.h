// Normalisation of rows and of columns, forward and back. Formulas, aliasing and orders
// of summation: kernel_table.h. (Ba et al. 2016; Zhang & Sennrich 2019; Wu & He 2018;
// Ioffe & Szegedy 2015.)
#pragma once

#include "loops-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// The sum of a row's n terms; term(io, j) returns the vector of terms from column j on.
template <class T, class Term>
FASTMLP_INLINE T sum_of_row(Index n, Term term) {
  RowSum<T> sum;
  const auto body = [&](auto io, Index j)
                        FASTMLP_LAMBDA { sum.add(j, zero_tail(io, term(io, j))); };
  for_each_vector<T>(n, body);
  return sum.total(n);
}

// The sums over each row of a block, which has at most as many rows as a vector has
// lanes. The last additions of each sum are done for all rows at once.
template <class T>
struct BlockSums {
  static constexpr Index L = Vec<T>::kLanes;
  Vec<T> part[L];

  FASTMLP_MEMBER void set(Index q, const RowSum<T>& sum) {
    Vec<T> fold[RowSum<T>::kVectors];
    for (Index v = 0; v < RowSum<T>::kVectors; ++v) fold[v] = sum.part[v];
    for (Index d = RowSum<T>::kVectors / 2; d > 0; d /= 2) {
      for (Index v = 0; v < d; ++v) fold[v] = fold[v] + fold[v + d];
    }
    part[q] = fold[0];
  }
  // Lane q of the result is the total of row q, or 0 for q >= rows.
  FASTMLP_MEMBER Vec<T> totals(Index rows) {
    for (Index q = rows; q < L; ++q) part[q] = Vec<T>::set1(T(0));
    transpose(part);
    for (Index d = L / 2; d > 0; d /= 2) {
      for (Index i = 0; i < d; ++i) part[i] = part[i] + part[i + d];
    }
    return part[0];
  }
};

// p + offset, or null.
template <class P>
FASTMLP_INLINE P* shifted(P* p, Index offset) {
  return p ? p + offset : nullptr;
}

// The following functions normalise the first n elements of each row. `ldrstd` is the
// distance between the factors of two rows.

template <class T, bool kCentred>
void row_norm_forward(T* h, Index ldh, T* xhat, Index ldxhat, T* rstd, Index ldrstd,
                      const T* x, Index ldx, const T* scale, const T* shift, T eps,
                      Index m, Index n) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  const V count = V::set1(static_cast<T>(n));
  BlockSums<T> sums;
  T mean[L] = {}, factor[L];
  for (Index i = 0; i < m; i += L) {
    const Index rows = m - i < L ? m - i : L;
    if constexpr (kCentred) {
      for (Index q = 0; q < rows; ++q) {
        const T* const row = x + (i + q) * ldx;
        RowSum<T> sum;
        const auto add = [&](auto io, Index j)
                             FASTMLP_LAMBDA { sum.add(j, io.load(row + j)); };
        for_each_vector<T>(n, add);
        sums.set(q, sum);
      }
      (sums.totals(rows) / count).store(mean);
    }
    for (Index q = 0; q < rows; ++q) {
      const T* const row = x + (i + q) * ldx;
      const V middle = V::set1(mean[q]);
      RowSum<T> sum;
      const auto add = [&](auto io, Index j) FASTMLP_LAMBDA {
        V d = io.load(row + j);
        if constexpr (kCentred) d = d - middle;
        sum.add(j, zero_tail(io, d * d));
      };
      for_each_vector<T>(n, add);
      sums.set(q, sum);
    }
    const V var = sums.totals(rows) / count;
    (V::set1(T(1)) / sqrt(var + V::set1(eps))).store(factor);
    for (Index q = 0; q < rows; ++q) {
      const T* const row = x + (i + q) * ldx;
      T* const to = h + (i + q) * ldh;
      T* const hat = xhat ? xhat + (i + q) * ldxhat : nullptr;
      if (rstd) rstd[(i + q) * ldrstd] = factor[q];
      const V middle = V::set1(mean[q]), r = V::set1(factor[q]);
      const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
        V d = io.load(row + j);
        if constexpr (kCentred) d = d - middle;
        const V normal = d * r;
        if (hat) io.store(hat + j, normal);
        V result = normal;
        if constexpr (kCentred) {
          if (scale) result = fma(normal, io.load(scale + j), io.load(shift + j));
        } else {
          if (scale) result = normal * io.load(scale + j);
        }
        io.store(to + j, result);
      };
      for_each_vector<T>(n, body);
    }
  }
}

template <class T>
void layer_norm_forward(T* h, Index ldh, T* xhat, Index ldxhat, T* rstd, const T* x,
                        Index ldx, const T* scale, const T* shift, T eps, bool centred,
                        Index m, Index parts, Index n) {
  const auto kernel = centred ? row_norm_forward<T, true> : row_norm_forward<T, false>;
  const Index size = n / parts;
  for (Index p = 0; p < parts; ++p) {
    const Index j = p * size;
    kernel(h + j, ldh, shifted(xhat, j), ldxhat, shifted(rstd, p), parts, x + j, ldx,
           shifted(scale, j), shifted(shift, j), eps, m, size);
  }
}

template <class T, bool kCentred>
void row_norm_backward(T* dx, Index lddx, const T* dh, Index lddh, const T* xhat,
                       Index ldxhat, const T* rstd, Index ldrstd, const T* scale,
                       bool accumulate, Index m, Index n) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  const V count = V::set1(static_cast<T>(n));
  BlockSums<T> sums, sums_hat;
  T mean[L] = {}, mean_hat[L];
  for (Index i = 0; i < m; i += L) {
    const Index rows = m - i < L ? m - i : L;
    for (Index q = 0; q < rows; ++q) {
      const T* const from = dh + (i + q) * lddh;
      const T* const hat = xhat + (i + q) * ldxhat;
      RowSum<T> sum, sum_hat;
      const auto add = [&](auto io, Index j) FASTMLP_LAMBDA {
        const V d = io.load(from + j);
        const V g = scale ? d * io.load(scale + j) : d;
        if constexpr (kCentred) sum.add(j, g);
        sum_hat.add(j, g * io.load(hat + j));
      };
      for_each_vector<T>(n, add);
      if constexpr (kCentred) sums.set(q, sum);
      sums_hat.set(q, sum_hat);
    }
    if constexpr (kCentred) (sums.totals(rows) / count).store(mean);
    (sums_hat.totals(rows) / count).store(mean_hat);
    for (Index q = 0; q < rows; ++q) {
      const T* const from = dh + (i + q) * lddh;
      const T* const hat = xhat + (i + q) * ldxhat;
      T* const to = dx + (i + q) * lddx;
      const V middle = V::set1(mean[q]), middle_hat = V::set1(mean_hat[q]);
      const V r = V::set1(rstd[(i + q) * ldrstd]);
      const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
        const V d = io.load(from + j);
        const V g = scale ? d * io.load(scale + j) : d;
        const V rest = fnma(io.load(hat + j), middle_hat, kCentred ? g - middle : g);
        io.store(to + j, accumulate ? fma(r, rest, io.load(to + j)) : r * rest);
      };
      for_each_vector<T>(n, body);
    }
  }
}

template <class T>
void layer_norm_backward(T* dx, Index lddx, const T* dh, Index lddh, const T* xhat,
                         Index ldxhat, const T* rstd, Index ldrstd, const T* scale,
                         bool centred, bool accumulate, Index m, Index parts, Index n) {
  const auto kernel =
      centred ? row_norm_backward<T, true> : row_norm_backward<T, false>;
  const Index size = n / parts;
  for (Index p = 0; p < parts; ++p) {
    const Index j = p * size;
    kernel(dx + j, lddx, dh + j, lddh, xhat + j, ldxhat, rstd + p, ldrstd,
           shifted(scale, j), accumulate, m, size);
  }
}

// The rows of all matrices are `ld` apart.
template <class T>
void row_norm_second(T* out, const T* dot, const T* c, const T* t, const T* xhat,
                     Index ld, const T* rstd, Index ldrstd, const T* scale,
                     bool centred, bool accumulate, Index m, Index group, Index n) {
  using V = Vec<T>;
  const T count = static_cast<T>(n);
  for (Index i = 0; i < m; ++i, c += ld, xhat += ld) {
    const auto scaled = [&](auto io, const T* row, Index j) FASTMLP_LAMBDA {
      const V x = io.load(row + j);
      return scale ? x * io.load(scale + j) : x;
    };
    const auto mean_of = [&](auto term)
                             FASTMLP_LAMBDA { return sum_of_row<T>(n, term) / count; };
    // The mean that is subtracted from a row; 0 for RMSNorm.
    const auto middle_of = [&](auto term) FASTMLP_LAMBDA {
      return centred ? mean_of(term) : T(0);
    };
    const T u_mean =
        middle_of([&](auto io, Index j) FASTMLP_LAMBDA { return scaled(io, c, j); });
    const T u_hat = mean_of([&](auto io, Index j) FASTMLP_LAMBDA {
      return scaled(io, c, j) * io.load(xhat + j);
    });
    const T r = rstd[i * ldrstd];
    for (Index k = 0; k < group; ++k, out += ld, t += ld, dot = shifted(dot, ld)) {
      const T t_mean =
          middle_of([&](auto io, Index j) FASTMLP_LAMBDA { return io.load(t + j); });
      const T t_hat = mean_of([&](auto io, Index j) FASTMLP_LAMBDA {
        return io.load(t + j) * io.load(xhat + j);
      });
      const T u_t = mean_of([&](auto io, Index j) FASTMLP_LAMBDA {
        return scaled(io, c, j) * io.load(t + j);
      });
      T dot_mean = 0, dot_hat = 0;
      if (dot) {
        dot_mean = middle_of([&](auto io, Index j)
                                 FASTMLP_LAMBDA { return scaled(io, dot, j); });
        dot_hat = mean_of([&](auto io, Index j) FASTMLP_LAMBDA {
          return scaled(io, dot, j) * io.load(xhat + j);
        });
      }
      const T turn = r * (u_t - t_mean * u_mean - t_hat * u_hat);
      const V of_hat = V::set1(T(2) * (r * t_hat * u_hat) - (dot_hat + turn));
      const V of_u = V::set1(r * t_hat), of_t = V::set1(r * u_hat);
      const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
        V d = io.load(xhat + j) * of_hat;
        if (dot) d = d + (scaled(io, dot, j) - V::set1(dot_mean));
        d = fnma(of_u, scaled(io, c, j) - V::set1(u_mean), d);
        d = fnma(of_t, io.load(t + j) - V::set1(t_mean), d);
        const V scale_out = V::set1(r);
        io.store(out + j,
                 accumulate ? fma(scale_out, d, io.load(out + j)) : scale_out * d);
      };
      for_each_vector<T>(n, body);
    }
  }
}

template <class T>
void layer_norm_second(T* out, const T* dot, const T* c, const T* t, const T* xhat,
                       const T* rstd, const T* scale, bool centred, bool accumulate,
                       Index m, Index group, Index parts, Index n) {
  const Index size = n / parts;
  for (Index p = 0; p < parts; ++p) {
    const Index j = p * size;
    row_norm_second(out + j, shifted(dot, j), c + j, t + j, xhat + j, n, rstd + p,
                    parts, shifted(scale, j), centred, accumulate, m, group, size);
  }
}

// Calls part(i, end) for each block [i, end) of the m rows.
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
    // Rounding may make the variance negative. max returns its second operand on NaN,
    // so NaN propagates.
    io.store(var + j, max(zero, fnma(shift, shift, squares / count)));
  };
  for_each_vector<T>(n, columns);
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
    for_each_vector<T>(n, body);
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
    for_each_vector<T>(n, body);
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
  for_each_vector<T>(n, columns);
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
  for_each_vector<T>(n, columns);
}

template <class T>
void add(T* out, const T* a, const T* b, Index n) {
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    io.store(out + i, io.load(a + i) + io.load(b + i));
  };
  for_each_vector<T>(n, body);
}

template <class T>
void multiply(T* out, const T* a, const T* b, Index n) {
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    io.store(out + i, io.load(a + i) * io.load(b + i));
  };
  for_each_vector<T>(n, body);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
