// Sums over long vectors that do not depend on the number of threads or the instruction
// set: the dot kernel sums chunks of a fixed length, and the sums of the chunks are
// added in double in ascending order.
#pragma once

#include "fastmlp/kernel_table.h"
#include "fastmlp/types.h"

namespace fastmlp {

constexpr Index kSumChunk = 1024;

inline Index sum_chunks(Index n) { return (n + kSumChunk - 1) / kSumChunk; }

template <class T>
double ordered_dot(const T* a, const T* b, Index n) {
  const KernelTable<T>& table = kernels<T>();
  double sum = 0.0;
  for (Index i = 0; i < n; i += kSumChunk) {
    const Index count = n - i < kSumChunk ? n - i : kSumChunk;
    sum += static_cast<double>(table.dot(a + i, b + i, count));
  }
  return sum;
}

// The largest magnitude, or NaN if an element is NaN.
template <class T>
double largest_or_nan(const T* a, Index n) {
  T most = T(0);
  for (Index i = 0; i < n; ++i) {
    const T size = a[i] < T(0) ? -a[i] : a[i];
    if (!(size <= most)) most = size;
    if (most != most) break;
  }
  return static_cast<double>(most);
}

}  // namespace fastmlp
