// Packing: copies the operands of a product into the order in which its tiles read
// them. See kernel_table.h for the contract.
#pragma once

#include <string.h>

#include "fastmlp/kernel_table.h"
#include "simd.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// The fastest tiles measured with GCC 12 on Zen 4: 8 x 2 vectors with 32 registers,
// 6 x 2 with 16. Taller tiles spill. NEON has 32 registers and uses the former.
#if defined(FASTMLP_ISA_avx512) || defined(FASTMLP_ISA_neon)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 6;
#endif
constexpr int kTileVectors = 2;
template <class T>
constexpr Index tile_columns() {
  return kTileVectors * Vec<T>::kLanes;
}

// Packs `lanes` steps of k of a left panel whose rows are contiguous along k. With
// kEdge, packs the last `depth` <= lanes steps.
template <class T, bool kEdge>
FASTMLP_INLINE void pack_left_square(T* dst, const T* src, Index rs, Index depth) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  constexpr int kGroups = (kTileRows + L - 1) / L;
  constexpr Index kLast = kTileRows - (kGroups - 1) * L;  // rows of the last group
  static_assert(L - kLast <= kTileRows, "excess lanes must fit into the next step");
  V rows[kGroups][L];
#pragma GCC unroll 8
  for (int g = 0; g < kGroups; ++g) {
    // Missing rows are replaced by copies of others. If half a group is missing, half
    // of the shuffles are then duplicates, which the compiler removes.
#pragma GCC unroll 16
    for (Index q = 0; q < L; ++q) {
      const T* row = src + (g * L + (g == kGroups - 1 ? q % kLast : q)) * rs;
      rows[g][q] = kEdge ? V::load_partial(row, depth) : V::load(row);
    }
    transpose(rows[g]);
  }
#pragma GCC unroll 16
  for (Index i = 0; i < L; ++i) {
    if (kEdge && i >= depth) break;
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
      // Excess lanes of the last group are written into the next step, which is stored
      // after this one. The last step of the panel must not write these lanes.
      T* out = dst + i * kTileRows + g * L;
      if (kEdge && kLast < L && g == kGroups - 1 && i == depth - 1) {
        rows[g][i].store_partial(out, kLast);
      } else {
        rows[g][i].store(out);
      }
    }
  }
}

template <class T>
void pack_left(T* dst, LeftOperand<T> a, Index m, Index k) {
  constexpr Index L = Vec<T>::kLanes;
  const bool contiguous = a.rs == 1 || a.cs == 1;
  const Index whole = contiguous ? m - m % kTileRows : 0;  // rows packed by vectors
  if (a.rs == 1) {
    // A few steps of k at a time: contiguous elements of A are read from end to end,
    // and whole cache lines are written to each panel.
    constexpr Index kSteps = 8;
    for (Index p0 = 0; p0 < k; p0 += kSteps) {
      const Index p1 = k < p0 + kSteps ? k : p0 + kSteps;
      for (Index i = 0; i < whole; i += kTileRows) {
        for (Index p = p0; p < p1; ++p) {
          memcpy(dst + i * k + p * kTileRows, a.data + p * a.cs + i,
                 kTileRows * sizeof(T));
        }
      }
    }
  } else if (a.cs == 1) {
    for (Index i = 0; i < whole; i += kTileRows) {
      T* const panel = dst + i * k;
      const T* const src = a.data + i * a.rs;
      Index p = 0;
      for (; p + L < k; p += L) {
        pack_left_square<T, false>(panel + p * kTileRows, src + p, a.rs, L);
      }
      if (p < k) {
        pack_left_square<T, true>(panel + p * kTileRows, src + p, a.rs, k - p);
      }
    }
  }
  for (Index i = whole; i < m; i += kTileRows) {
    const Index rows = m - i < kTileRows ? m - i : kTileRows;
    for (Index p = 0; p < k; ++p) {
      for (Index r = 0; r < rows; ++r) {
        dst[i * k + p * kTileRows + r] = a.data[(i + r) * a.rs + p * a.cs];
      }
    }
  }
}

// Packs lanes x lanes elements of a right panel whose columns are contiguous along k.
// With kEdge, `depth` steps of k and `cols` columns remain; both may exceed `lanes`.
template <class T, bool kEdge>
FASTMLP_INLINE void pack_right_square(T* dst, const T* src, Index cs, Index depth,
                                      Index cols) {
  using V = Vec<T>;
  V rows[V::kLanes];
#pragma GCC unroll 16
  for (Index q = 0; q < V::kLanes; ++q, src += cs) {
    if (kEdge) {
      rows[q] = q < cols ? V::load_partial(src, depth) : V::set1(T(0));
    } else {
      rows[q] = V::load(src);
    }
  }
  transpose(rows);
  const bool whole = !kEdge || cols >= V::kLanes;
#pragma GCC unroll 16
  for (Index i = 0; i < V::kLanes; ++i) {
    if (kEdge && i >= depth) break;
    T* const out = dst + i * tile_columns<T>();
    if (whole) {
      rows[i].store(out);
    } else {
      rows[i].store_partial(out, cols);
    }
  }
}

// Packs one vector's width of a right panel whose columns are contiguous along k.
template <class T>
void pack_right_strip(T* dst, const T* src, Index cs, Index k, Index cols) {
  constexpr Index L = Vec<T>::kLanes;
  Index p = 0;
  if (cols >= L) {
    for (; p + L <= k; p += L) {
      pack_right_square<T, false>(dst + p * tile_columns<T>(), src + p, cs, L, L);
    }
  }
  for (; p < k; p += L) {
    pack_right_square<T, true>(dst + p * tile_columns<T>(), src + p, cs, k - p, cols);
  }
}

// Packs the first `cols` columns of a panel: all of them, or fewer in the last panel.
template <class T>
void pack_right_panel(T* dst, const T* b, Index rs, Index cs, Index k, Index cols) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  constexpr Index kColumns = tile_columns<T>();
  if (cs == 1) {
    for (Index p = 0; p < k; ++p) {
      const T* const src = b + p * rs;
      T* const out = dst + p * kColumns;
      Index q = 0;
      for (; q + L <= cols; q += L) V::load(src + q).store(out + q);
      if (q < cols) V::load_partial(src + q, cols - q).store_partial(out + q, cols - q);
    }
  } else if (rs == 1) {
    for (Index q = 0; q < cols; q += L) {
      pack_right_strip(dst + q, b + q * cs, cs, k, cols - q);
    }
  } else {
    for (Index p = 0; p < k; ++p) {
      for (Index q = 0; q < cols; ++q) dst[p * kColumns + q] = b[p * rs + q * cs];
    }
  }
}

template <class T>
void pack_right(T* dst, Index panel_stride, const T* b, Index rs, Index cs, Index k,
                Index n) {
  constexpr Index kColumns = tile_columns<T>();
  constexpr Index kLine = 64 / sizeof(T);
  const auto block = [&](Index p, Index j, Index depth) {
    pack_right_panel(dst + j / kColumns * panel_stride + p * kColumns,
                     b + p * rs + j * cs, rs, cs, k - p < depth ? k - p : depth,
                     n - j < kColumns ? n - j : kColumns);
  };
  if (cs == 1) {
    // A few rows of B at a time, from end to end: traversing all rows for each panel
    // would jump from page to page.
    constexpr Index kDepth = 8;
    for (Index p = 0; p < k; p += kDepth) {
      for (Index j = 0; j < n; j += kColumns) block(p, j, kDepth);
    }
  } else {
    // Panel by panel, a few cache lines of each column at a time: if a line of dst
    // holds two vectors, it is still in cache when the second one is written.
    constexpr Index kDepth = 4 * kLine;
    for (Index j = 0; j < n; j += kColumns) {
      for (Index p = 0; p < k; p += kDepth) block(p, j, kDepth);
    }
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
