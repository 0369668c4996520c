// Matrix products on whole matrices, and the cache-blocked single-threaded product that
// the network is built from. Every element of a product is one chain of fused
// multiply-adds in ascending k, whatever the blocking.
#pragma once

#include "fastmlp/kernel_table.h"
#include "fastmlp/types.h"

namespace fastmlp {

// C = A B (+ bias in every row), C = A B^T and C = A^T B. With `accumulate` the product
// is added to C, and bias is not used. C must not overlap A or B. Larger products use
// more threads. Throws std::bad_alloc.
template <class T>
void gemm_nn(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
             const T* bias, bool accumulate);
template <class T>
void gemm_nt(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
             bool accumulate);
template <class T>
void gemm_tn(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
             bool accumulate);

namespace detail {

// Number of elements of a packed k x n right operand.
template <class T>
Index packed_right_size(const KernelTable<T>& table, Index k, Index n) {
  return (n + table.nr - 1) / table.nr * table.nr * k;
}

// The largest packed_right_size of any instruction set: a buffer of this size stays
// large enough if the active instruction set changes.
constexpr Index packed_right_bound(Index k, Index n) {
  return (n + kMostPanelColumns - 1) / kMostPanelColumns * kMostPanelColumns * k;
}

// Whether packing a row-major B[k, n], with rows `ld` apart, pays for m rows of A.
template <class T>
bool packing_pays(const KernelTable<T>& table, Index m, Index n, Index k, Index ld) {
  constexpr Index kSize = sizeof(T), kLarge = 128 << 10, kLevel1Ways = 8;
  const PackingPays& least = table.packing_pays;
  const bool collides = ld * kSize % kCollidingBytes == 0 && k > kLevel1Ways;
  if (collides && m >= least.colliding) return true;
  return m >= (k * n * kSize >= kLarge ? least.large : least.small);
}

// Number of elements of scratch memory for one block of an m x k left operand, and for
// one block of a k x n right operand.
template <class T>
Index left_scratch_size(Index m, Index k);
template <class T>
Index right_scratch_size(Index k, Index n);

template <class T>
RightOperand<T> packed_right(const KernelTable<T>& table, const T* packed, Index k) {
  return {packed, table.nr, k * table.nr};
}
template <class T>
RightOperand<T> plain_right(const KernelTable<T>& table, const T* b, Index ld) {
  return {b, ld, table.nr};
}

// C[m, n] = S + A B in blocks that stay in cache, followed by `epilogue`, with S as in
// KernelTable::gemm. The left operand is packed into `left_scratch` if that is faster.
template <class T>
void gemm_blocked(const KernelTable<T>& table, MatrixView<T> c, LeftOperand<T> a,
                  RightOperand<T> b, Index k, const T* bias, bool accumulate,
                  T* left_scratch, const Epilogue<T>& epilogue = {});

// From this number of rows on, each thread packs the right operand by itself: packing
// then takes a small part of the product's time, and the packed blocks are used while
// they are in the thread's own cache.
constexpr Index kRowsForPackingAlone = 192;

// The same product with an unpacked B(p, j) = b[p * rs + j * cs], which is packed into
// `right_scratch` block by block. This suits a B so large that, if it were packed as a
// whole, the packed copy would be evicted from the cache before it is used.
template <class T>
void gemm_packing(const KernelTable<T>& table, MatrixView<T> c, LeftOperand<T> a,
                  const T* b, Index rs, Index cs, Index k, const T* bias,
                  bool accumulate, T* left_scratch, T* right_scratch,
                  const Epilogue<T>& epilogue = {});

}  // namespace detail
}  // namespace fastmlp
