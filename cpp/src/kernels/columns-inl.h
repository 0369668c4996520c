// Narrow rows, of at most kRowSumLanes elements, are processed `lanes` at a time, with
// one vector for each column. Operations that occur once per row (its maximum, its
// sums, a logarithm) are then done for all of these rows at once. Each element
// undergoes the same operations, and each row's sum has the same order, as when rows
// are processed one by one, so the results are bitwise equal.
#pragma once

#include "loops-inl.h"

// Marks functions that are too large to be inlined into every loss and activation.
#define FASTMLP_ONCE static __attribute__((noinline))

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T, class Block>
FASTMLP_ONCE Index go_through_blocks(Index m, Index most, Block block) {
  constexpr Index L = Vec<T>::kLanes;
  Index i = 0;
  while (4 * (m - i) > L) {
    const Index left = m - i, fit = left / L;
    const Index count = fit ? L : left;
    const Index g = !fit ? 1 : fit < most ? fit : most;
    block(i, count, g);
    i += count * g;
  }
  return i;
}

// Calls block(i, count, g) for consecutive blocks of the m rows, from the first row on,
// while enough rows are left for this to be faster than processing single rows, and
// returns the number of rows processed. A block consists of count * g rows from row i
// on, with count <= lanes; g consecutive rows, contiguous in memory, are treated as one
// row of g * n elements, where g * n <= kRowSumLanes.
template <class T, class Block>
FASTMLP_INLINE Index each_block_of_rows(Index m, Index n, bool contiguous,
                                        Block block) {
  constexpr Index L = Vec<T>::kLanes;
  if (L == 1 || n > kRowSumLanes || 4 * m <= L) return 0;
  // Rows of one element need no transposition, so joining them would not help.
  const Index most = contiguous && n > 1 ? kRowSumLanes / n : 1;
  return go_through_blocks<T>(m, most, block);
}

// Divides a matrix with n columns into square blocks of `lanes` columns and calls
// square(j) with the first column j of each block. The last block may overlap the one
// before it, so that only rows shorter than a vector need partial vectors.
template <class T, class Square>
FASTMLP_INLINE void each_square(Index n, Square square) {
  constexpr Index L = Vec<T>::kLanes;
  Index j = 0;
  for (; j + L <= n; j += L) square(j);
  if (j < n) square(n > L ? n - L : 0);
}

// Loads `count` rows of n elements as n vectors: lane q of columns[j] is element j of
// row q. Lanes >= count are unspecified.
template <class T>
FASTMLP_ONCE void load_columns(Vec<T>* columns, const T* src, Index ld, Index count,
                               Index n) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  if (n == 1 && ld == 1) {
    columns[0] = count < L ? V::load_partial(src, count) : V::load(src);
    return;
  }
  const auto square = [&](Index j) FASTMLP_LAMBDA {
    V rows[L];
    const T* row = src + j;
#pragma GCC unroll 16
    for (Index q = 0; q < L; ++q) {
      rows[q] = n < L ? V::load_partial(row, n) : V::load(row);
      row += q + 1 < count ? ld : 0;
    }
    transpose(rows);
#pragma GCC unroll 16
    for (Index k = 0; k < L; ++k) {
      if (k < n) columns[j + k] = rows[k];
    }
  };
  each_square<T>(n, square);
}

#if defined(FASTMLP_ISA_avx512)
constexpr bool kPartialStoresAreCheap = true;
#else
constexpr bool kPartialStoresAreCheap = false;
#endif

// The inverse of load_columns.
template <class T>
FASTMLP_ONCE void store_columns(T* dst, Index ld, const Vec<T>* columns, Index count,
                                Index n) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  if (n == 1 && ld == 1) {
    if (count < L) {
      columns[0].store_partial(dst, count);
    } else {
      columns[0].store(dst);
    }
    return;
  }
  if (n < L && !kPartialStoresAreCheap) {
    T buffer[L][L];
    for (Index j = 0; j < n; ++j) columns[j].store(buffer[j]);
    for (Index q = 0; q < count; ++q) {
      for (Index j = 0; j < n; ++j) dst[q * ld + j] = buffer[j][q];
    }
    return;
  }
  const auto square = [&](Index j) FASTMLP_LAMBDA {
    V rows[L];
#pragma GCC unroll 16
    for (Index k = 0; k < L; ++k) rows[k] = columns[k < n ? j + k : j];
    transpose(rows);
#pragma GCC unroll 16
    for (Index q = 0; q < L; ++q) {
      if (q >= count) break;
      T* const row = dst + q * ld + j;
      if (n < L) {
        rows[q].store_partial(row, n);
      } else {
        rows[q].store(row);
      }
    }
  };
  each_square<T>(n, square);
}

// The sum of each row in the order of RowSum; each partial sum has at most one element
// here. RowSum's partial sums start from +0. This changes the result only for rows in
// which all elements are -0, so it suffices to add +0 at the end.
template <class T>
FASTMLP_INLINE Vec<T> sum_columns(const Vec<T>* columns, Index n) {
  constexpr Index kHalf = kRowSumLanes / 2;
  Vec<T> part[kHalf];
  Index count = n < kHalf ? n : kHalf;
  for (Index i = 0; i < count; ++i) {
    part[i] = i + kHalf < n ? columns[i] + columns[i + kHalf] : columns[i];
  }
  for (Index d = kHalf / 2; d > 0; d /= 2) {
    for (Index i = 0; i + d < count; ++i) part[i] = part[i] + part[i + d];
    count = count < d ? count : d;
  }
  return Vec<T>::set1(T(0)) + part[0];
}

// The largest element of each row; NaN is treated as in row_max.
template <class T>
FASTMLP_INLINE Vec<T> max_columns(const Vec<T>* columns, Index n) {
  Vec<T> best = columns[0];
  for (Index j = 1; j < n; ++j) best = max(columns[j], best);
  return best;
}

#undef FASTMLP_ONCE

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
