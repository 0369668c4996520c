// Loops over arrays, by whole vectors and one partial vector for the tail, and the sum
// over a row, whose order does not depend on the vector width.
#pragma once

#include "fastmlp/kernel_table.h"
#include "simd.h"

#define FASTMLP_LAMBDA __attribute__((always_inline))

namespace fastmlp {
namespace FASTMLP_ISA {

// The loads and stores of a loop body. The same body is compiled once for whole vectors
// and once for the tail.
template <class T>
struct FullVector {
  FASTMLP_MEMBER Vec<T> load(const T* p) const { return Vec<T>::load(p); }
  FASTMLP_MEMBER void store(T* p, Vec<T> v) const { v.store(p); }
};
template <class T>
struct TailVector {
  Index n;
  FASTMLP_MEMBER Vec<T> load(const T* p) const { return Vec<T>::load_partial(p, n); }
  FASTMLP_MEMBER void store(T* p, Vec<T> v) const { v.store_partial(p, n); }
};

// Calls body(io, i) for i = 0, lanes, 2 lanes, ... < n.
template <class T, class Body>
FASTMLP_INLINE void for_each_vector(Index n, Body body) {
  constexpr Index L = Vec<T>::kLanes;
  Index i = 0;
  for (; i + L <= n; i += L) body(FullVector<T>{}, i);
  if (i < n) body(TailVector<T>{n - i}, i);
}

// Treats contiguous rows as one long row, which has fewer tails.
FASTMLP_INLINE void join_rows(Index& m, Index& n, bool contiguous) {
  if (contiguous) {
    n *= m;
    m = 1;
  }
}

// The sum of a row in the order stated in kernel_table.h: partial sums j % 16, then a
// tree. In a partial vector, the lanes beyond the row must be +0, which leaves the
// partial sums unchanged.
template <class T>
struct RowSum {
  static constexpr Index kVectors = kRowSumLanes / Vec<T>::kLanes;
  Vec<T> part[kVectors];

  FASTMLP_MEMBER RowSum() {
    for (Index v = 0; v < kVectors; ++v) part[v] = Vec<T>::set1(T(0));
  }
  // `j` is the column of the first lane of x.
  FASTMLP_MEMBER void add(Index j, Vec<T> x) {
    const Index v = (j / Vec<T>::kLanes) % kVectors;
    part[v] = part[v] + x;
  }
  // `n` is the length of the row. For a short row, branches of the tree that are zero
  // are skipped.
  FASTMLP_MEMBER T total(Index n) const {
    T lane[kRowSumLanes];
    for (Index v = 0; v < kVectors; ++v) part[v].store(lane + v * Vec<T>::kLanes);
    for (Index d = kRowSumLanes / 2; d > 0; d /= 2) {
      if (n <= d) continue;
      for (Index i = 0; i < d; ++i) lane[i] = lane[i] + lane[i + d];
    }
    return lane[0];
  }
};

// x in lanes below n and +0 in the others; for a whole vector, x unchanged.
template <class T>
FASTMLP_INLINE Vec<T> zero_tail(FullVector<T>, Vec<T> x) {
  return x;
}
template <class T>
FASTMLP_INLINE Vec<T> zero_tail(TailVector<T> io, Vec<T> x) {
  T ones[Vec<T>::kLanes];
  Vec<T>::set1(T(1)).store(ones);
  const Vec<T> zero = Vec<T>::set1(T(0));
  return select(io.load(ones) > zero, x, zero);
}

// The largest element of a row of n >= 1 elements. A NaN is skipped unless it comes
// first, so callers must propagate NaN by other means. Only the sign of a zero may
// depend on the order of comparisons.
template <class T>
FASTMLP_INLINE T row_max(const T* x, Index n) {
  using V = Vec<T>;
  T lane[V::kLanes];
  V best = V::set1(x[0]);
  Index j = 0;
  for (; j + V::kLanes <= n; j += V::kLanes) best = max(V::load(x + j), best);
  best.store(lane);
  T result = lane[0];
  for (Index i = 1; i < V::kLanes; ++i) result = lane[i] > result ? lane[i] : result;
  for (; j < n; ++j) result = x[j] > result ? x[j] : result;
  return result;
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
