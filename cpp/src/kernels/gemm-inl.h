// Matrix products. See kernel_table.h for the contract.
//
// A register tile holds MR rows x NV vectors of C; each k step loads NV vectors of B
// and broadcasts one element of A per row. The lanes of a vector are columns of C, so
// every element of C is one chain of fused multiply-adds in ascending k, whatever the
// tile, the blocking or the vector width.
#pragma once

#include "half.h"
#include "loops-inl.h"
#include "math-inl.h"
#include "pack-inl.h"
#include "simd.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// The least number of rows of A for which packing a row-major B pays. Tiles that are
// two cache lines wide read plain rows nearly as fast as panels, so that packing pays
// only for many rows; for tiles half as wide it pays much earlier.
#if defined(FASTMLP_ISA_avx512)
constexpr Index kPackingPays = 384;
#else
constexpr Index kPackingPays = 32;
#endif

// Up to this many rows, a tile needs more vectors per row to hide the latency of the
// chains of multiply-adds.
constexpr int kWideRows = 3;
constexpr int kWideVectors = 4;

static_assert(kRowGrain % kTileRows == 0, "blocks of rows are whole tiles");
static_assert(kMostPanelColumns % tile_columns<float>() == 0 &&
                  kMostPanelColumns % tile_columns<double>() == 0,
              "memory is planned for panels of at most kMostPanelColumns");

// The arguments of a tile: C[., n] = S + A B as specified in kernel_table.h.
template <class T>
struct TileArgs {
  T* c;
  Index ldc;
  LeftOperand<T> a;
  const T* b;
  Index ldb, n, k;
  const T* bias;
  bool accumulate;
  Epilogue<T> epilogue;

  // The arguments for the same rows and the columns from `j` on; these start `b_step`
  // elements later in B.
  FASTMLP_MEMBER TileArgs moved(Index j, Index b_step, Index columns) const {
    TileArgs to = *this;
    to.c += j;
    to.b += b_step;
    to.n = columns;
    if (bias) to.bias += j;
    if (epilogue.kind == EpilogueKind::relu_backward) to.epilogue.saved += j;
    return to;
  }
};

// How many steps of k ahead to prefetch B; 0: never. On Intel's CPUs, 4 steps raise a
// tile of 8 x 2 AVX-512 vectors from 72 to 85 % of the FMA peak while B is in the
// level-2 cache. AVX2 tiles on Zen 3 gain nothing, or lose 2 % if B is in level 1.
// Tiles of few rows never prefetch, because they have no instruction slots to spare.
#if defined(FASTMLP_ISA_avx512)
constexpr Index kPrefetchSteps = 4;
#else
constexpr Index kPrefetchSteps = 0;
#endif

// C[MR, n], n in ((NV - 1) * lanes, NV * lanes]. kTail: n is not a multiple of the
// lanes of V. kPackedLeft: a.rs == 1 and a.cs == MR are known at compile time.
template <class V, int MR, int NV, bool kTail, bool kPackedLeft, class T>
FASTMLP_INLINE void gemm_tile(const TileArgs<T>& t) {
  constexpr Index L = V::kLanes;
  const Index rs = kPackedLeft ? 1 : t.a.rs;
  const Index cs = kPackedLeft ? MR : t.a.cs;
  const Index tail = t.n - (NV - 1) * L;
  const auto load = [tail](const T* p, int v) FASTMLP_LAMBDA {
    return kTail && v == NV - 1 ? V::load_partial(p + v * L, tail) : V::load(p + v * L);
  };

  // GCC unrolls outermost loops too late to keep acc in registers only: without the
  // pragmas it also stores acc in every step of k.
  V acc[MR][NV];
  const auto each = [&](auto f) FASTMLP_LAMBDA {
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      for (int v = 0; v < NV; ++v) f(r, v, acc[r][v]);
    }
  };
  if (t.accumulate) {
    each([&](int r, int v, V& x) FASTMLP_LAMBDA { x = load(t.c + r * t.ldc, v); });
  } else if (t.bias) {
    each([&](int, int v, V& x) FASTMLP_LAMBDA { x = load(t.bias, v); });
  } else {
    each([&](int, int, V& x) FASTMLP_LAMBDA { x = V::set1(T(0)); });
  }
  const T* a = t.a.data;
  const T* b = t.b;
  for (Index p = 0; p < t.k; ++p) {
    V bv[NV];
    for (int v = 0; v < NV; ++v) bv[v] = load(b, v);
    if (kPrefetchSteps > 0 && MR > kWideRows && !kTail) {
      for (int v = 0; v < NV; ++v)
        __builtin_prefetch(b + kPrefetchSteps * t.ldb + v * L);
    }
    for (int r = 0; r < MR; ++r) {
      const V ar = V::set1(a[r * rs]);
      for (int v = 0; v < NV; ++v) acc[r][v] = fma(ar, bv[v], acc[r][v]);
    }
    a += cs;
    b += t.ldb;
  }
  if (t.epilogue.kind == EpilogueKind::relu) {
    each([&](int, int, V& x) FASTMLP_LAMBDA { x = rectified(x); });
  } else if (t.epilogue.kind == EpilogueKind::relu_backward) {
    each([&](int r, int v, V& x) FASTMLP_LAMBDA {
      x = where_positive(load(t.epilogue.saved + r * t.epilogue.ld, v), x);
    });
  }
  each([&](int r, int v, V& x) FASTMLP_LAMBDA {
    T* out = t.c + r * t.ldc + v * L;
    if (kTail && v == NV - 1) {
      x.store_partial(out, tail);
    } else {
      x.store(out);
    }
  });
}

// The last columns of a strip, n in [1, 2 lanes).
template <class T, int MR, bool kPackedLeft>
FASTMLP_INLINE void gemm_tail(const TileArgs<T>& t) {
  using V = Vec<T>;
  using H = Half<T>;
  if (t.n > V::kLanes) {
    gemm_tile<V, MR, 2, true, kPackedLeft>(t);
  } else if (t.n == V::kLanes) {
    gemm_tile<V, MR, 1, false, kPackedLeft>(t);
  } else if (t.n > H::kLanes || H::kLanes == V::kLanes) {
    gemm_tile<V, MR, 1, true, kPackedLeft>(t);
  } else {
    gemm_tile<H, MR, 1, true, kPackedLeft>(t);
  }
}

// MR rows and any n; panels of B start `panel_stride` elements apart.
template <class T, int MR, bool kPackedLeft>
void gemm_strip(const TileArgs<T>& strip, Index panel_stride) {
  static_assert(kTileVectors == 2, "a tile is one or two vectors");
  constexpr Index kColumns = tile_columns<T>();
  Index j = 0, at = 0;
  for (; j + kColumns <= strip.n; j += kColumns, at += panel_stride) {
    gemm_tile<Vec<T>, MR, 2, false, kPackedLeft>(strip.moved(j, at, kColumns));
  }
  if (j < strip.n) {
    gemm_tail<T, MR, kPackedLeft>(strip.moved(j, at, strip.n - j));
  }
}

template <class T>
using GemmStrip = void (*)(const TileArgs<T>&, Index);

// Calls gemm_strip with the number of rows, 1 .. MR, as template argument, selected by
// a chain of comparisons.
template <class T, int MR>
FASTMLP_INLINE GemmStrip<T> strip_for_rows(Index rows) {
  if constexpr (MR == 1) {
    return gemm_strip<T, 1, false>;
  } else {
    return rows == MR ? gemm_strip<T, MR, false> : strip_for_rows<T, MR - 1>(rows);
  }
}

// Multiplies the few rows, MR, of a small A by an unpacked B: wide tiles first, then a
// strip for the remaining columns.
template <class T, int MR>
void gemm_wide(const TileArgs<T>& t) {
  constexpr Index W = kWideVectors * Vec<T>::kLanes;
  Index j = 0;
  for (; j + W <= t.n; j += W) {
    gemm_tile<Vec<T>, MR, kWideVectors, false, false>(t.moved(j, j, W));
  }
  if (j < t.n) gemm_strip<T, MR, false>(t.moved(j, j, t.n - j), tile_columns<T>());
}

template <class T>
void gemm(T* c, Index ldc, LeftOperand<T> a, RightOperand<T> b, Index m, Index n,
          Index k, const T* bias, bool accumulate, const Epilogue<T>& epilogue) {
  TileArgs<T> strip = {c, ldc, a, b.data, b.ld, n, k, bias, accumulate, epilogue};
  if (m <= kWideRows && b.panel_stride == tile_columns<T>()) {
    static_assert(kWideRows == 3, "the cases below are one to three rows");
    if (m == 1) gemm_wide<T, 1>(strip);
    if (m == 2) gemm_wide<T, 2>(strip);
    if (m == 3) gemm_wide<T, 3>(strip);
    return;
  }
  // The transpose of a matrix with kTileRows columns also satisfies this test, but its
  // layout is that of a single packed panel.
  const bool packed = a.rs == 1 && a.cs == kTileRows;
  for (Index i = 0; i < m; i += kTileRows) {
    const Index rows = m - i < kTileRows ? m - i : kTileRows;
    // The panels of a packed left operand start k * kTileRows elements apart.
    strip.a.data = a.data + (packed ? i * k : i * a.rs);
    strip.c = c + i * ldc;
    if (epilogue.saved) strip.epilogue.saved = epilogue.saved + i * epilogue.ld;
    if (packed && rows == kTileRows) {
      gemm_strip<T, kTileRows, true>(strip, b.panel_stride);
    } else {
      strip_for_rows<T, kTileRows>(rows)(strip, b.panel_stride);
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
  for_each_vector<T>(n, columns);
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
    for_each_vector<T>(n, body);
  }
  return !any(!finite);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
