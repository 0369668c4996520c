#include "fastmlp/gemm_bfloat16.h"

#include <algorithm>

#include "gemm_blocks.h"

namespace fastmlp::detail {
namespace {

// Inference takes fewer than two register tiles of rows without scratch memory.
static_assert(kRowsToPackBfloat16 >= 2 * kStripRows,
              "packed operands come with scratch memory");

constexpr Index rounded_up(Index n, Index grain) {
  return (n + grain - 1) / grain * grain;
}

// kc in whole blocks of the arithmetic, so that each begins a new pair of chains.
GemmBlocks blocks_for(const Bfloat16Kernels& kernels, Index m, Index n, Index k) {
  GemmBlocks blocks = gemm_blocks(gemm_limits<float>(), m, n, k, kernels.nr);
  // A panel of B fits into the level-1 cache.
  const Index bytes = kernels.words * kernels.nr * static_cast<Index>(sizeof(float));
  const Index most = std::max<Index>(1, caches().l1d.bytes / bytes);
  blocks.kc = std::min(rounded_up(blocks.kc, kBfloat16Block), most * kBfloat16Block);
  return blocks;
}

// block_of_b(p, j, kp, nj) returns the operand for kp steps and nj columns of B from
// (p, j) on.
template <class BlockOfB>
void in_blocks(const Bfloat16Kernels& kernels, MatrixView<float> c,
               LeftOperand<float> a, BlockOfB block_of_b, Index k, const float* bias,
               bool accumulate, float* left_scratch, const Epilogue<float>& epilogue) {
  const Index m = c.rows, n = c.cols;
  const GemmBlocks blocks = blocks_for(kernels, m, n, k);
  const Index kc = blocks.kc, mc = blocks.mc, nc = blocks.nc;
  Bfloat16Left left = {};
  Bfloat16Right right = {};
  const auto take_left = [&](Index i, Index p) {
    left = kernels.pack_left(left_scratch, {a.data + i * a.rs + p * a.cs, a.rs, a.cs},
                             std::min(m - i, mc), std::min(k - p, kc));
  };
  const auto take_right = [&](Index p, Index j) {
    right = block_of_b(p, j, std::min(k - p, kc), std::min(n - j, nc));
  };
  const auto multiply = [&](Index i, Index p, Index j) {
    const bool ends = p + kc >= k;
    Epilogue<float> at_end;
    if (ends) {
      at_end = epilogue;
      if (epilogue.saved) at_end.saved += i * epilogue.ld + j;
    }
    kernels.gemm(c.data + i * c.ld + j, c.ld, left, right, std::min(m - i, mc),
                 std::min(n - j, nc), std::min(k - p, kc),
                 ends && bias ? bias + j : nullptr, accumulate || p > 0, at_end);
  };
  for_each_block(blocks, m, n, k, take_left, take_right, multiply);
}

}  // namespace

Index bfloat16_right_bound(Index k, Index n) {
  return packed_right_bound(rounded_up(k, kBfloat16Block), n);
}

Index bfloat16_left_scratch_size(Index m, Index k) {
  static_assert(
      kFewBlockRows % kBfloat16MostRows == 0 && kMostBlockRows % kBfloat16MostRows == 0,
      "padded rows exceed no block");
  const GemmLimits& limits = gemm_limits<float>();
  const Index most = limits.keeps_b ? kFewBlockRows : kMostBlockRows;
  // The smallest multiple of mr that is at least m.
  return std::min(m + kBfloat16MostRows, most) *
         rounded_up(std::min(k, limits.steps), kBfloat16Block);
}

Index bfloat16_right_scratch_size(Index k, Index n) {
  const GemmLimits& limits = gemm_limits<float>();
  const Index kc = std::min(k, limits.steps), nc = std::min(n, kMostBlockColumns);
  // Rounding kc up adds less than a block of steps to each column.
  return std::min(bfloat16_right_bound(kc, nc),
                  std::max(limits.block_of_b, kFewestBlockColumns * kc) +
                      kMostBlockColumns * kBfloat16Block);
}

void gemm_bfloat16(const Bfloat16Kernels& kernels, MatrixView<float> c,
                   LeftOperand<float> a, const float* packed, Index k,
                   const float* bias, bool accumulate, float* left_scratch,
                   const Epilogue<float>& epilogue) {
  const Index stride = bfloat16_panel_stride(kernels, k);
  const auto block = [&](Index p, Index j, Index, Index) -> Bfloat16Right {
    const Index words = p / kBfloat16Block * kernels.words;
    return {packed + j / kernels.nr * stride + words * kernels.nr, stride};
  };
  in_blocks(kernels, c, a, block, k, bias, accumulate, left_scratch, epilogue);
}

void gemm_bfloat16_packing(const Bfloat16Kernels& kernels, MatrixView<float> c,
                           LeftOperand<float> a, const float* b, Index rs, Index cs,
                           Index k, const float* bias, bool accumulate,
                           float* left_scratch, float* right_scratch,
                           const Epilogue<float>& epilogue) {
  const auto block = [&](Index p, Index j, Index kp, Index nj) -> Bfloat16Right {
    const Index stride = bfloat16_panel_stride(kernels, kp);
    kernels.pack_right(right_scratch, stride, b + p * rs + j * cs, rs, cs, kp, nj);
    return {right_scratch, stride};
  };
  in_blocks(kernels, c, a, block, k, bias, accumulate, left_scratch, epilogue);
}

}  // namespace fastmlp::detail
