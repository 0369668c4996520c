// The dot product and axpy of flat vectors, for the solvers.
#pragma once

#include "loops-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
T dot(const T* a, const T* b, Index n) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  RowSum<T> sum;
  Index i = 0;
  // Process kRowSumLanes elements per iteration; the partial sums stay in registers.
  for (; i + kRowSumLanes <= n; i += kRowSumLanes) {
    for (Index v = 0; v < RowSum<T>::kVectors; ++v) {
      sum.part[v] = fma(V::load(a + i + v * L), V::load(b + i + v * L), sum.part[v]);
    }
  }
  const auto rest = [&](auto io, Index j) FASTMLP_LAMBDA {
    V& part = sum.part[j / L];
    part = fma(io.load(a + i + j), io.load(b + i + j), part);
  };
  for_each_vector<T>(n - i, rest);
  return sum.total(n);
}

template <class T>
void axpy(T* y, const T* x, T alpha, Index n) {
  const Vec<T> factor = Vec<T>::set1(alpha);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    io.store(y + i, fma(factor, io.load(x + i), io.load(y + i)));
  };
  for_each_vector<T>(n, body);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
