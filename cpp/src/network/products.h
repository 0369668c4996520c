// Helpers around matrix products.
#pragma once

#include "fastmlp/gemm.h"
#include "fastmlp/kernel_table.h"

namespace fastmlp::detail {

// One team member's memory for blocks of a product's operands. Either may be null.
template <class T>
struct Scratch {
  T* left = nullptr;
  T* right = nullptr;
};

// Computes C = S + A B and applies `epilogue`. Element (p, j) of B is b[p * rs + j *
// cs]. B is packed in blocks if there is scratch memory for them, else read from
// `right`.
template <class T>
void product(const KernelTable<T>& table, MatrixView<T> c, LeftOperand<T> a, const T* b,
             Index rs, Index cs, RightOperand<T> right, Index k, const T* bias,
             bool accumulate, const Scratch<T>& scratch,
             const Epilogue<T>& epilogue = {}) {
  if (scratch.right) {
    gemm_packing<T>(table, c, a, b, rs, cs, k, bias, accumulate, scratch.left,
                    scratch.right, epilogue);
  } else {
    gemm_blocked<T>(table, c, a, right, k, bias, accumulate, scratch.left, epilogue);
  }
}

// dst[j, i] = src[i, j] for src (m, n). Meant for matrices that are small compared with
// the surrounding work.
template <class T>
void transpose(T* dst, Index lddst, const T* src, Index ldsrc, Index m, Index n) {
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) dst[j * lddst + i] = src[i * ldsrc + j];
  }
}

}  // namespace fastmlp::detail
