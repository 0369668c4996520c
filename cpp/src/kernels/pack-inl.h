// Copies of operands in the order in which the product's tiles read them. See
// kernel_table.h for the contract.
#pragma once

#include "fastmlp/kernel_table.h"
#include "simd.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// Tiles that measure best with GCC 12 on Zen 4: 8 x 2 vectors where there are 32
// registers, 6 x 2 where there are 16. Taller tiles spill. NEON goes by its 32
// registers.
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

template <class T>
void pack_left(T* dst, LeftOperand<T> a, Index m, Index k) {
  for (Index i = 0; i < m; i += kTileRows) {
    const Index rows = m - i < kTileRows ? m - i : kTileRows;
    const T* src = a.data + i * a.rs;
    if (rows == kTileRows && a.rs == 1) {
      for (Index p = 0; p < k; ++p) {
        for (int r = 0; r < kTileRows; ++r) dst[p * kTileRows + r] = src[p * a.cs + r];
      }
    } else {
      for (Index r = 0; r < rows; ++r) {
        for (Index p = 0; p < k; ++p) dst[p * kTileRows + r] = src[r * a.rs + p * a.cs];
      }
    }
    dst += k * kTileRows;
  }
}

template <class T>
void pack_right(T* dst, const T* b, Index rs, Index cs, Index k, Index n) {
  using V = Vec<T>;
  constexpr Index kColumns = tile_columns<T>();
  // Transposing writes one element per line of dst: stay within a first-level cache.
  constexpr Index kBlock = 64;
  for (Index j = 0; j < n; j += kColumns) {
    const Index cols = n - j < kColumns ? n - j : kColumns;
    const T* src = b + j * cs;
    if (cs == 1) {
      for (Index p = 0; p < k; ++p) {
        Index q = 0;
        for (; q + V::kLanes <= cols; q += V::kLanes) {
          V::load(src + p * rs + q).store(dst + p * kColumns + q);
        }
        V::load_partial(src + p * rs + q, cols - q)
            .store_partial(dst + p * kColumns + q, cols - q);
      }
    } else {
      for (Index p0 = 0; p0 < k; p0 += kBlock) {
        const Index p1 = k < p0 + kBlock ? k : p0 + kBlock;
        for (Index q = 0; q < cols; ++q) {
          for (Index p = p0; p < p1; ++p) dst[p * kColumns + q] = src[q * cs + p * rs];
        }
      }
    }
    dst += k * kColumns;
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
