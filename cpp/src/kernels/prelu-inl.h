// A leaky ReLU with learned slopes (He et al. 2015, eqs. 1 and 8).
#pragma once

#include "loops-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
void prelu_forward(T* h, T* factors, const T* x, const T* slope, bool shared, Index m,
                   Index n) {
  using V = Vec<T>;
  if (shared) join_rows(m, n, true);
  for (Index i = 0; i < m; ++i, h += n, x += n, factors += factors ? n : 0) {
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const V own = shared ? V::set1(*slope) : io.load(slope + j);
      const V v = io.load(x + j);
      const V factor = select(v > V::set1(T(0)), V::set1(T(1)), own);
      if (factors) io.store(factors + j, factor);
      io.store(h + j, v * factor);
    };
    for_each_vector<T>(n, body);
  }
}

// dh min(x, 0); NaN propagates.
template <class T>
FASTMLP_INLINE Vec<T> slope_gradient(Vec<T> sum, Vec<T> dh, Vec<T> x) {
  const Vec<T> zero = Vec<T>::set1(T(0));
  return fma(dh, select(x > zero, zero, x), sum);
}

template <class T>
void prelu_gradient(T* out, const T* dh, Index lddh, const T* x, Index ldx, bool shared,
                    Index m, Index n, bool accumulate) {
  using V = Vec<T>;
  if (shared) {
    RowSum<T> sum;
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const V zero = V::set1(T(0));
      sum.add(j, zero_tail(io, slope_gradient(zero, io.load(dh + j), io.load(x + j))));
    };
    for_each_vector<T>(m * n, body);
    *out = accumulate ? *out + sum.total(m * n) : sum.total(m * n);
    return;
  }
  const auto columns = [&](auto io, Index j) FASTMLP_LAMBDA {
    V sum = accumulate ? io.load(out + j) : V::set1(T(0));
    for (Index i = 0; i < m; ++i) {
      sum = slope_gradient(sum, io.load(dh + i * lddh + j), io.load(x + i * ldx + j));
    }
    io.store(out + j, sum);
  };
  for_each_vector<T>(n, columns);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
