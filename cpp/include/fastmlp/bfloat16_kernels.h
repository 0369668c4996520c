// The contract of the kernels for products whose operands are rounded to bfloat16. The
// rules of kernel_table.h hold here too.
//
// The arithmetic. An operand is rounded to the nearest bfloat16, ties to even; numbers
// below 2^-55 in magnitude become 0; infinities and NaN stay. A product takes k in
// blocks of kBfloat16Block steps, counted from 0. In each block, one chain of fused
// multiply-adds in float32 runs over the even steps in ascending order, another over
// the odd ones, both from 0. The element of C is first S, then in each block
//
//   c = c + (even + odd)
//
// S is C itself if `accumulate`, else 0. A bias is added, and the epilogue applied,
// after the last block.
//
// This is what the instruction TDPBF16PS of AMX does. Two VDPBF16PS on pairs of steps
// (k, k + 2) do the same, and so do fused multiply-adds. A product of two operands is 0
// or at least 2^-110 and has 16 significant bits, so that no sum in a block can be
// subnormal, and flushing subnormal numbers to 0 changes nothing.
#pragma once

#include "fastmlp/kernel_table.h"
#include "fastmlp/types.h"

namespace fastmlp {

constexpr Index kBfloat16Block = 32;

// Packed operands consist of words of 32 bits: one operand in float32, or two in
// bfloat16.
//
// A packed left operand, in strips of `mr` rows. Word w of row i is
// data[i / mr * strip + i % mr * rs + w * cs].
struct Bfloat16Left {
  const float* data;
  Index rs, cs, strip;
};

// A packed right operand: panels of `nr` columns that start panel_stride words apart.
// Word w of column j is data[(j / nr) * panel_stride + w * nr + j % nr].
struct Bfloat16Right {
  const float* data;
  Index panel_stride;
};

struct Bfloat16Kernels {
  Index mr;     // rows of a register tile; blocks of packed rows are multiples of it
  Index nr;     // columns of a register tile and of a packed right panel
  Index words;  // of a block of k; the last block of an operand takes as many

  // dst[n] = the rounded elements of src[n]. dst may be src.
  void (*round)(float* dst, const float* src, Index n);

  // Rounds and packs A[m, k], where a.rs or a.cs is 1. dst has room for m rows, rounded
  // up to a multiple of mr, of `words` words for each block of k.
  Bfloat16Left (*pack_left)(float* dst, LeftOperand<float> a, Index m, Index k);

  // Rounds and packs B[k, n], B(p, j) = b[p * rs + j * cs], where rs or cs is 1. Panels
  // have nr columns, also the last one, and `words` words for each block of k.
  void (*pack_right)(float* dst, Index panel_stride, const float* b, Index rs, Index cs,
                     Index k, Index n);

  // C[m, n] = S + A[m, k] B[k, n] (+ bias[n] in every row), followed by `epilogue`.
  // bias may be null.
  void (*gemm)(float* c, Index ldc, const Bfloat16Left& a, const Bfloat16Right& b,
               Index m, Index n, Index k, const float* bias, bool accumulate,
               const Epilogue<float>& epilogue);

  // The same for operands that are neither rounded nor packed, and S = 0. Suits few
  // rows, for which packing B would take longer than the product.
  void (*few_rows)(float* c, Index ldc, const float* a, Index lda, const float* b,
                   Index ldb, Index m, Index n, Index k, const float* bias,
                   const Epilogue<float>& epilogue);
};

// The kernels of the active ISA.
const Bfloat16Kernels& active_bfloat16_kernels();

}  // namespace fastmlp
