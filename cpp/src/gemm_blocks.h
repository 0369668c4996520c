// The sizes of a product's blocks and the order of its loops, from the caches.
//
// If the level-3 cache is near, a large block of B stays in it:
//
//   for each kc steps of k, each nc columns:  pack B, kc x nc, for level 3
//     for each mc rows:                       pack A, mc x kc, for level 2
//       for each strip of mr rows:            mr x kc of A, at most level 1
//         for each panel of nr columns:       one tile of C
//
// Otherwise a small block of B stays in level 2:
//
//   for each mc rows, each kc steps of k:     pack A, mc x kc
//     for each nc columns:                    pack B, kc x nc, for level 2
//       for each strip of mr rows:            mr x kc of A, at most level 1
//         for each panel of nr columns:       one tile of C
//
// Beyond level 2, A is then read once per nc columns and B once per mc rows, so that
// neither needs much bandwidth there. See Low, Igual, Smith and Quintana-Orti,
// "Analytical Modeling Is Enough for High-Performance BLIS", ACM TOMS 43(2), 2016;
// unlike there, the innermost loop reuses the strip of A, not the panel of B.
#pragma once

#include <algorithm>

#include "fastmlp/caches.h"
#include "fastmlp/gemm.h"
#include "fastmlp/kernel_table.h"
#include "threading/stop.h"

namespace fastmlp::detail {

// Cuts n into the fewest blocks of up to `most`, nearly equal in size, and returns that
// size, a multiple of `grain`. `most` must be a multiple of `grain`.
inline Index even_block(Index n, Index most, Index grain) {
  if (n <= most) return most;
  const Index blocks = (n + most - 1) / most;
  return ((n + blocks - 1) / blocks + grain - 1) / grain * grain;
}

constexpr Index kStripRows = 8;  // at least mr of every instruction set

// The limits that the caches set; they suit every instruction set.
struct GemmLimits {
  Index steps;       // kc: a strip of A is no larger than the level-1 cache
  Index block_of_b;  // elements of kc x nc
  bool keeps_b;      // the first of the orders above
};

template <class T>
GemmLimits gemm_limits(const Caches& caches) {
  constexpr Index kSize = sizeof(T);
  // With a strip as large as the cache, B evicts parts of it, which are then fetched
  // from level 2 again. That costs less than loading and storing C more often, which is
  // needed once per kc steps: on Zen 3, half the steps are 1 to 4 % slower.
  constexpr Index kFewestSteps = 64, kMostSteps = 1024, kGrain = 16;
  const Index steps = caches.l1d.bytes / (kStripRows * kSize) / kGrain * kGrain;
  // Other cores use the level-3 cache too, and so do A and C.
  const Index bytes = caches.l3_is_near ? caches.l3.bytes / 8 : l2_of_core(caches) / 2;
  return {std::clamp(steps, kFewestSteps, kMostSteps), bytes / kSize,
          caches.l3_is_near};
}

// The same for this machine.
template <class T>
const GemmLimits& gemm_limits() {
  static const GemmLimits limits = gemm_limits<T>(caches());
  return limits;
}

struct GemmBlocks {
  Index kc, mc, nc;
  bool keeps_b;
};
constexpr Index kFewestBlockColumns = 2 * kMostPanelColumns;
constexpr Index kMostBlockColumns = 1024;
// mc if A is packed inside: a few strips at a time stay close. If it is packed outside:
// each element of a block of B takes part in mc multiply-adds, more than any memory
// needs.
constexpr Index kFewBlockRows = 4 * kRowGrain, kMostBlockRows = 20 * kRowGrain;

// The blocks for C[m, n] = A[m, k] B[k, n] with panels of nr columns.
inline GemmBlocks gemm_blocks(const GemmLimits& limits, Index m, Index n, Index k,
                              Index nr) {
  constexpr Index kGrain = 8;
  // The usual case in small networks, without divisions: a single block of B, for which
  // both orders are the same.
  if (k <= limits.steps && n <= kMostBlockColumns &&
      packed_right_bound(k, n) <= limits.block_of_b) {
    return {limits.steps, kFewBlockRows, kMostBlockColumns, true};
  }
  const Index kc = even_block(k, limits.steps, kGrain);
  const Index columns = limits.block_of_b / std::min(std::max<Index>(k, 1), kc) /
                        kMostPanelColumns * kMostPanelColumns;
  const Index nc =
      even_block(n, std::clamp(columns, kFewestBlockColumns, kMostBlockColumns), nr);
  const Index mc =
      limits.keeps_b ? kFewBlockRows : even_block(m, kMostBlockRows, kRowGrain);
  return {kc, mc, nc, limits.keeps_b};
}

// Runs the loops over blocks in the order above for C[m, n] and k steps:
// take_left(i, p) for mc rows and kc steps of A, take_right(p, j) for kc steps and nc
// columns of B, multiply(i, p, j) with the blocks taken last. Stops between blocks, and
// leaves C unfinished, if the call is asked to stop.
template <class TakeLeft, class TakeRight, class Multiply>
void for_each_block(const GemmBlocks& blocks, Index m, Index n, Index k,
                    TakeLeft take_left, TakeRight take_right, Multiply multiply) {
  const Index kc = blocks.kc, mc = blocks.mc, nc = blocks.nc;
  const Index p_end = std::max<Index>(k, 1);  // C is initialised even if k is 0
  if (blocks.keeps_b) {
    for (Index p = 0; p < p_end; p += kc) {
      for (Index j = 0; j < n; j += nc) {
        take_right(p, j);
        for (Index i = 0; i < m; i += mc) {
          if (i > 0 && stop_requested()) return;
          take_left(i, p);
          multiply(i, p, j);
        }
      }
    }
  } else {
    for (Index i = 0; i < m; i += mc) {
      for (Index p = 0; p < p_end; p += kc) {
        take_left(i, p);
        for (Index j = 0; j < n; j += nc) {
          if (j > 0 && stop_requested()) return;
          take_right(p, j);
          multiply(i, p, j);
        }
      }
    }
  }
}

// The most elements of a block of A, and of a packed block of B, of products with at
// most m, n and k.
inline Index most_left_elements(const GemmLimits& limits, Index m, Index k) {
  const Index rows = (m + kRowGrain - 1) / kRowGrain * kRowGrain;
  return std::min(rows, limits.keeps_b ? kFewBlockRows : kMostBlockRows) *
         std::min(k, limits.steps);
}
inline Index most_right_elements(const GemmLimits& limits, Index k, Index n) {
  const Index kc = std::min(k, limits.steps);
  return std::min(packed_right_bound(kc, std::min(n, kMostBlockColumns)),
                  std::max(limits.block_of_b, kFewestBlockColumns * kc));
}

}  // namespace fastmlp::detail
