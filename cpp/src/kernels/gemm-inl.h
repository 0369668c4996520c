// Matrix products. See kernel_table.h for the contract.
//
// A register tile holds MR rows x NV vectors of C; each k step loads NV vectors of B
// and broadcasts one element of A per row. Vectors run along the columns of C only, so
// every element of C is one chain of fused multiply-adds in ascending k whatever the
// tile, the blocking or the vector width.
#pragma once

#include "math-inl.h"
#include "pack-inl.h"
#include "simd.h"
#include "sweep-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// One to three rows need more vectors side by side to hide the latency of the chains.
constexpr int kWideRows = 3;
constexpr int kWideVectors = 4;

// One tile: C[MR, n], n in ((NV - 1) * lanes, NV * lanes]; kTail: n is not a whole
// number of vectors. kPackedLeft: a.rs == 1 and a.cs == MR are known at compile time.
template <class T, int MR, int NV, bool kTail, bool kPackedLeft>
FASTMLP_INLINE void gemm_tile(T* c, Index ldc, LeftOperand<T> a, const T* b, Index ldb,
                              Index n, Index k, const T* bias, bool accumulate) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  const Index rs = kPackedLeft ? 1 : a.rs;
  const Index cs = kPackedLeft ? MR : a.cs;
  const Index tail = n - (NV - 1) * L;
  const auto load = [tail](const T* p, int v) FASTMLP_LAMBDA {
    return kTail && v == NV - 1 ? V::load_partial(p + v * L, tail) : V::load(p + v * L);
  };

  // GCC unrolls outermost loops too late to keep acc in registers alone: without the
  // pragmas it is also stored in every step of k.
  V acc[MR][NV];
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
    for (int v = 0; v < NV; ++v) {
      acc[r][v] = accumulate ? load(c + r * ldc, v)
                  : bias     ? load(bias, v)
                             : V::set1(T(0));
    }
  }
  const T* ap = a.data;
  for (Index p = 0; p < k; ++p) {
    V bv[NV];
    for (int v = 0; v < NV; ++v) bv[v] = load(b, v);
    for (int r = 0; r < MR; ++r) {
      const V ar = V::set1(ap[r * rs]);
      for (int v = 0; v < NV; ++v) acc[r][v] = fma(ar, bv[v], acc[r][v]);
    }
    ap += cs;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
    for (int v = 0; v < NV; ++v) {
      T* out = c + r * ldc + v * L;
      if (kTail && v == NV - 1) {
        acc[r][v].store_partial(out, tail);
      } else {
        acc[r][v].store(out);
      }
    }
  }
}

template <class T, int MR, bool kPackedLeft>
void gemm_tile_columns(T* c, Index ldc, LeftOperand<T> a, const T* b, Index ldb,
                       Index n, Index k, const T* bias, bool accumulate) {
  constexpr Index L = Vec<T>::kLanes;
  static_assert(kTileVectors == 2, "the cases below are one and two vectors");
  if (n == 2 * L) {
    gemm_tile<T, MR, 2, false, kPackedLeft>(c, ldc, a, b, ldb, n, k, bias, accumulate);
  } else if (n > L) {
    gemm_tile<T, MR, 2, true, kPackedLeft>(c, ldc, a, b, ldb, n, k, bias, accumulate);
  } else if (n == L) {
    gemm_tile<T, MR, 1, false, kPackedLeft>(c, ldc, a, b, ldb, n, k, bias, accumulate);
  } else {
    gemm_tile<T, MR, 1, true, kPackedLeft>(c, ldc, a, b, ldb, n, k, bias, accumulate);
  }
}

template <class T>
using GemmTile = void (*)(T*, Index, LeftOperand<T>, const T*, Index, Index, Index,
                          const T*, bool);

// The tile for `rows` = 1 .. kTileRows, found by counting MR down at compile time.
template <class T, int MR>
FASTMLP_INLINE GemmTile<T> tile_for_rows(Index rows) {
  if constexpr (MR == 1) {
    return gemm_tile_columns<T, 1, false>;
  } else {
    return rows == MR ? gemm_tile_columns<T, MR, false>
                      : tile_for_rows<T, MR - 1>(rows);
  }
}

// Few rows against an unpacked B: wide tiles first, then the narrow ones for the rest.
template <class T, int MR>
void gemm_wide(T* c, Index ldc, LeftOperand<T> a, RightOperand<T> b, Index n, Index k,
               const T* bias, bool accumulate) {
  constexpr Index W = kWideVectors * Vec<T>::kLanes;
  Index j = 0;
  for (; j + W <= n; j += W) {
    gemm_tile<T, MR, kWideVectors, false, false>(c + j, ldc, a, b.data + j, b.ld, W, k,
                                                 bias ? bias + j : nullptr, accumulate);
  }
  for (; j < n; j += tile_columns<T>()) {
    const Index nj = n - j < tile_columns<T>() ? n - j : tile_columns<T>();
    gemm_tile_columns<T, MR, false>(c + j, ldc, a, b.data + j, b.ld, nj, k,
                                    bias ? bias + j : nullptr, accumulate);
  }
}

template <class T>
void gemm(T* c, Index ldc, LeftOperand<T> a, RightOperand<T> b, Index m, Index n,
          Index k, const T* bias, bool accumulate) {
  constexpr Index kColumns = tile_columns<T>();
  if (m <= kWideRows && b.panel_stride == kColumns) {
    static_assert(kWideRows == 3, "the cases below are one to three rows");
    if (m == 1) gemm_wide<T, 1>(c, ldc, a, b, n, k, bias, accumulate);
    if (m == 2) gemm_wide<T, 2>(c, ldc, a, b, n, k, bias, accumulate);
    if (m == 3) gemm_wide<T, 3>(c, ldc, a, b, n, k, bias, accumulate);
    return;
  }
  const bool packed = a.rs == 1 && a.cs == kTileRows;
  for (Index i = 0; i < m; i += kTileRows) {
    const Index rows = m - i < kTileRows ? m - i : kTileRows;
    // A packed left operand's panels lie one after the other, k * kTileRows apart.
    const LeftOperand<T> ai = {a.data + (packed ? i * k : i * a.rs), a.rs, a.cs};
    const GemmTile<T> tile = packed && rows == kTileRows
                                 ? gemm_tile_columns<T, kTileRows, true>
                                 : tile_for_rows<T, kTileRows>(rows);
    for (Index j = 0; j < n; j += kColumns) {
      const Index nj = n - j < kColumns ? n - j : kColumns;
      tile(c + i * ldc + j, ldc, ai, b.data + (j / kColumns) * b.panel_stride, b.ld, nj,
           k, bias ? bias + j : nullptr, accumulate);
    }
  }
}

template <class T>
void column_sum(T* out, const T* a, Index lda, Index m, Index n, bool accumulate) {
  using V = Vec<T>;
  const auto columns = [&](auto io, Index j) FASTMLP_LAMBDA {
    V sum = accumulate ? io.load(out + j) : V::set1(T(0));
    for (Index i = 0; i < m; ++i) sum = sum + io.load(a + i * lda + j);
    io.store(out + j, sum);
  };
  sweep<T>(n, columns);
}

template <class T>
bool all_finite(const T* a, Index lda, Index m, Index n) {
  using V = Vec<T>;
  join_rows(m, n, lda == n);
  const V infinity = from_bits(set1_bits<T>(Ieee<T>::kInf));
  Mask<T> finite = V::set1(T(0)) < infinity;
  for (Index i = 0; i < m; ++i) {
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      finite = finite & (abs(io.load(a + i * lda + j)) < infinity);
    };
    sweep<T>(n, body);
  }
  return !any(!finite);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
