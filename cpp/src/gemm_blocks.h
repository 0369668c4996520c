// The sizes of a product's blocks, from the sizes of the caches. They follow the
// analysis of Low, Igual, Smith and Quintana-Orti, "Analytical Modeling Is Enough for
// High-Performance BLIS", ACM TOMS 43(2), 2016, with the roles of the operands
// exchanged: a strip of A stays in the level-1 cache and B streams past it from level
// 2, which measured faster than the opposite.
//
//   for each mc rows, each kc steps of k:     pack A, mc x kc
//     for each nc columns:                    pack B, kc x nc; it stays in level 2
//       for each strip of mr rows:            it stays in level 1, mr x kc
//         for each panel of nr columns:       one tile of C
//
// A is read from wherever it is once for nc columns, and B once for mc rows, so that
// neither needs much bandwidth beyond level 2, however slow the memory is there.
#pragma once

#include <algorithm>

#include "fastmlp/caches.h"
#include "fastmlp/kernel_table.h"

namespace fastmlp::detail {

struct GemmBlocks {
  Index kc, mc, nc;
};

// The largest blocks. `kc` and `nc` are such that half the level-1 cache holds a strip
// of A and half the level-2 cache of a core holds a block of B; the other halves are
// for what streams past. All are limits for every instruction set.
template <class T>
GemmBlocks gemm_blocks(const Caches& caches) {
  constexpr Index kSize = sizeof(T), kMostTileRows = 8;
  // Half of the ways, because lines that are accessed in order fill the cache way by
  // way.
  const Index ways = caches.l1d.ways;
  const Index strip = caches.l1d.bytes / ways * std::max<Index>(ways / 2, 1);
  // C is loaded and stored once per kc steps; longer sums hardly reduce that cost.
  constexpr Index kFewestSteps = 64, kMostSteps = 1024, kStepGrain = 16;
  const Index steps = strip / (kMostTileRows * kSize) / kStepGrain * kStepGrain;
  const Index kc = std::clamp(steps, kFewestSteps, kMostSteps);
  constexpr Index kFewestColumns = 2 * kMostPanelColumns, kMostColumns = 1024;
  const Index columns =
      caches.l2_of_core() / 2 / (kc * kSize) / kMostPanelColumns * kMostPanelColumns;
  // Each element of B takes part in mc multiply-adds per fetch: far more than any
  // memory needs.
  constexpr Index kRows = 20 * kRowGrain;
  return {kc, kRows, std::clamp(columns, kFewestColumns, kMostColumns)};
}

// The same for this machine.
template <class T>
const GemmBlocks& gemm_blocks() {
  static const GemmBlocks blocks = gemm_blocks<T>(caches());
  return blocks;
}

// The size of blocks, a multiple of `grain`, if n is cut into as few nearly equal
// blocks of at most `most` as possible; `most` is a multiple of `grain`.
inline Index even_block(Index n, Index most, Index grain) {
  if (n <= most) return most;
  const Index blocks = (n + most - 1) / most;
  return ((n + blocks - 1) / blocks + grain - 1) / grain * grain;
}

}  // namespace fastmlp::detail
