// Cache-blocked products whose operands are rounded to bfloat16; bfloat16_kernels.h
// defines the arithmetic.
#pragma once

#include "fastmlp/bfloat16_kernels.h"
#include "fastmlp/types.h"

namespace fastmlp {
namespace detail {

// From this number of rows of A on, rounding and packing B pays.
constexpr Index kRowsToPackBfloat16 = 16;

// At least the mr of every instruction set.
constexpr Index kBfloat16MostRows = 32;

// Sizes of memory that suit every instruction set, in elements: a packed k x n right
// operand, and scratch for one block of an m x k left operand and of a k x n right one.
Index bfloat16_right_bound(Index k, Index n);
Index bfloat16_left_scratch_size(Index m, Index k);
Index bfloat16_right_scratch_size(Index k, Index n);

// Distance between the panels of a k x n right operand packed as a whole.
inline Index bfloat16_panel_stride(const Bfloat16Kernels& kernels, Index k) {
  return (k + kBfloat16Block - 1) / kBfloat16Block * kernels.words * kernels.nr;
}

// C[m, n] = S + A B + bias as in Bfloat16Kernels::gemm, with the blocks of A packed
// into `left_scratch`. If the call is asked to stop, C is left unfinished.
//
// B is `packed`, as a whole.
void gemm_bfloat16(const Bfloat16Kernels& kernels, MatrixView<float> c,
                   LeftOperand<float> a, const float* packed, Index k,
                   const float* bias, bool accumulate, float* left_scratch,
                   const Epilogue<float>& epilogue);
// B(p, j) = b[p * rs + j * cs] is packed block by block into `right_scratch`.
void gemm_bfloat16_packing(const Bfloat16Kernels& kernels, MatrixView<float> c,
                           LeftOperand<float> a, const float* b, Index rs, Index cs,
                           Index k, const float* bias, bool accumulate,
                           float* left_scratch, float* right_scratch,
                           const Epilogue<float>& epilogue);

}  // namespace detail
}  // namespace fastmlp
