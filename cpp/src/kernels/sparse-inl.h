// Products with sparse rows: only the numbers that are stored are multiplied. Each
// element of a result is the chain of fused multiply-adds of the dense product without
// the terms that are 0.
#pragma once

#include "fastmlp/sparse.h"
#include "gemm-inl.h"
#include "loops-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// An integer known at compile time.
template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// How many entries of a row ahead to prefetch the other operand: the hardware cannot
// predict the addresses.
constexpr int64_t kAheadInRow = 8;

// c[n], n in ((NV - 1) * lanes, NV * lanes], for entries begin .. end - 1 of A.
template <class V, int NV, bool kTail, class T>
FASTMLP_INLINE void sparse_strip(T* c, const SparseRows<T>& a, int64_t begin,
                                 int64_t end, const T* b, Index ldb, Index n,
                                 const T* bias, bool rectify) {
  constexpr Index L = V::kLanes;
  const Index tail = n - (NV - 1) * L;
  const auto load = [tail](const T* p, int v) FASTMLP_LAMBDA {
    return kTail && v == NV - 1 ? V::load_partial(p + v * L, tail) : V::load(p + v * L);
  };
  V acc[NV];
  for (int v = 0; v < NV; ++v) acc[v] = bias ? load(bias, v) : V::set1(T(0));
  for (int64_t i = begin; i < end; ++i) {
    if (i + kAheadInRow < end) {
      __builtin_prefetch(b + static_cast<Index>(a.columns[i + kAheadInRow]) * ldb);
    }
    const V x = V::set1(a.values[i]);
    const T* const row = b + static_cast<Index>(a.columns[i]) * ldb;
    for (int v = 0; v < NV; ++v) acc[v] = fma(x, load(row, v), acc[v]);
  }
  for (int v = 0; v < NV; ++v) {
    if (rectify) acc[v] = rectified(acc[v]);
    if (kTail && v == NV - 1) {
      acc[v].store_partial(c + v * L, tail);
    } else {
      acc[v].store(c + v * L);
    }
  }
}

// C[m, n] = bias[n] (0 if null) + A B[., n], followed by relu if `rectify`.
template <class T>
void sparse_product(T* c, Index ldc, const SparseRows<T>& a, Index m, const T* b,
                    Index ldb, Index n, const T* bias, bool rectify) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  constexpr int kMost = 4;  // independent chains, which hide the latency of a step
  for (Index r = 0; r < m; ++r) {
    const int64_t row = a.row(r);
    const int64_t begin = a.starts[row], end = a.starts[row + 1];
    Index j = 0;
    const auto strip = [&](auto vectors, auto tail, Index columns) FASTMLP_LAMBDA {
      sparse_strip<V, decltype(vectors)::value, decltype(tail)::value>(
          c + r * ldc + j, a, begin, end, b + j, ldb, columns,
          bias ? bias + j : nullptr, rectify);
      j += columns;
    };
    while (j + kMost * L <= n) strip(Constant<kMost>{}, Constant<0>{}, kMost * L);
    while (j + L <= n) strip(Constant<1>{}, Constant<0>{}, L);
    if (j < n) strip(Constant<1>{}, Constant<1>{}, n - j);
  }
}

// dw[p - begin, n] += the sum over the rows i of A of A[i, p] dz[i, n], in ascending
// order, for p in begin .. end - 1.
template <class T>
void sparse_gradient(T* dw, Index lddw, const SparseRows<T>& a, Index m, Index begin,
                     Index end, const T* dz, Index lddz, Index n) {
  using V = Vec<T>;
  for (Index r = 0; r < m; ++r) {
    const int64_t row = a.row(r);
    // The first entry in column `begin` or later, by bisection.
    int64_t i = a.starts[row], beyond = a.starts[row + 1];
    const int64_t last = beyond;
    while (i < beyond) {
      const int64_t middle = i + (beyond - i) / 2;
      if (a.columns[middle] < begin) {
        i = middle + 1;
      } else {
        beyond = middle;
      }
    }
    for (; i < last && a.columns[i] < end; ++i) {
      if (i + kAheadInRow < last && a.columns[i + kAheadInRow] < end) {
        __builtin_prefetch(dw + (a.columns[i + kAheadInRow] - begin) * lddw, 1);
      }
      const V x = V::set1(a.values[i]);
      T* const to = dw + (a.columns[i] - begin) * lddw;
      const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
        io.store(to + j, fma(x, io.load(dz + r * lddz + j), io.load(to + j)));
      };
      for_each_vector<T>(n, body);
    }
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
