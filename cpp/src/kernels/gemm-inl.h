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

// When packing a row-major B pays. Tiles that are two cache lines wide read plain rows
// nearly as fast as panels, so that packing pays only for many rows; for tiles half as
// wide it pays earlier, and earlier still if B is not in the level-1 cache.
#if defined(FASTMLP_ISA_avx512)
constexpr PackingPays kPackingPays = {384, 384, 4 * kTileRows};
#else
constexpr PackingPays kPackingPays = {192, 48, kTileRows + 1};
#endif

// Up to this many rows, a tile needs more vectors per row to hide the latency of the
// chains of multiply-adds: 8 chains do, and 9 and their operands fit into 16 registers.
constexpr int kWideRows = 3;
constexpr int wide_vectors(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : 3; }

// From this many bytes on, a B that few rows of A use is read in whole rows instead:
// tiles jump from row to row, which the prefetchers of the caches do not follow well.
// One row needs each element once; with two or three, tiles pay off as long as B fits
// into a level-3 cache. A threshold that ignores the machine's caches costs up to 7 %.
constexpr Index kBytesToStream = Index{512} << 10, kBytesToStreamRows = Index{8} << 20;
constexpr Index kLeastDepthToStream = 16;  // with fewer rows of B, tiles are faster
constexpr Index kStreamedBytes = 8 << 10;  // of C at a time, to stay in level 1
constexpr int kStreamedRows = 8;  // rows of B at a time for one row of A, else half

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
  // Fewer instructions per multiply-add: up to 8 % for whole tiles on Zen 3, 40 % for
  // narrow ones.
#pragma GCC unroll 4
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

// C[MR, n] from S, or from C unless kFirst, and from G rows of B.
template <class T, int MR, int G, bool kFirst>
FASTMLP_INLINE void gemm_stream_group(const TileArgs<T>& t, Index p) {
  using V = Vec<T>;
  V ar[MR][G];
  for (int r = 0; r < MR; ++r) {
    for (int g = 0; g < G; ++g) {
      ar[r][g] = V::set1(t.a.data[r * t.a.rs + (p + g) * t.a.cs]);
    }
  }
  const T* const b = t.b + p * t.ldb;
  const auto columns = [&](auto io, Index j) FASTMLP_LAMBDA {
    V acc[MR];
    for (int r = 0; r < MR; ++r) {
      acc[r] = !kFirst || t.accumulate ? io.load(t.c + r * t.ldc + j)
               : t.bias                ? io.load(t.bias + j)
                                       : V::set1(T(0));
    }
    for (int g = 0; g < G; ++g) {
      const V bv = io.load(b + g * t.ldb + j);
      for (int r = 0; r < MR; ++r) acc[r] = fma(ar[r][g], bv, acc[r]);
    }
    for (int r = 0; r < MR; ++r) io.store(t.c + r * t.ldc + j, acc[r]);
  };
  for_each_vector<T>(t.n, columns);
}

// C[MR, n] for k >= G, as specified in kernel_table.h, with the rows of B read from end
// to end. C is loaded and stored once per G rows, so it should fit into level 1.
template <class T, int MR>
void gemm_stream(const TileArgs<T>& t) {
  constexpr int G = MR == 1 ? kStreamedRows : kStreamedRows / 2;
  gemm_stream_group<T, MR, G, true>(t, 0);
  Index p = G;
  for (; p + G <= t.k; p += G) gemm_stream_group<T, MR, G, false>(t, p);
  if (G > 4 && p + 4 <= t.k) {
    gemm_stream_group<T, MR, 4, false>(t, p);
    p += 4;
  }
  for (; p < t.k; ++p) gemm_stream_group<T, MR, 1, false>(t, p);
  if (t.epilogue.kind == EpilogueKind::none) return;
  const bool forward = t.epilogue.kind == EpilogueKind::relu;
  for (int r = 0; r < MR; ++r) {
    T* const c = t.c + r * t.ldc;
    const T* const saved = t.epilogue.saved + r * t.epilogue.ld;
    for_each_vector<T>(t.n, [=](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> x = io.load(c + j);
      io.store(c + j, forward ? rectified(x) : where_positive(io.load(saved + j), x));
    });
  }
}

// Multiplies the few rows, MR, of a small A by an unpacked B. Unless B is better read
// in whole rows: wide tiles first, then a strip for the remaining columns.
template <class T, int MR>
void gemm_few_rows(const TileArgs<T>& t) {
  constexpr int kVectors = wide_vectors(MR);
  constexpr Index L = Vec<T>::kLanes, W = kVectors * L;
  constexpr Index kSize = sizeof(T);
  const bool streams =
      t.k * t.n * kSize >= (MR == 1 ? kBytesToStream : kBytesToStreamRows) ||
      t.ldb * kSize % kCollidingBytes == 0;
  if (streams && t.n >= W && t.k >= kLeastDepthToStream) {
    constexpr Index kColumns = kStreamedBytes / (MR * kSize) / L * L;
    for (Index j = 0; j < t.n; j += kColumns) {
      gemm_stream<T, MR>(t.moved(j, j, t.n - j < kColumns ? t.n - j : kColumns));
    }
    return;
  }
  Index j = 0;
  for (; j + W <= t.n; j += W) {
    gemm_tile<Vec<T>, MR, kVectors, false, false>(t.moved(j, j, W));
  }
  if (kVectors > 4 && j + 4 * L <= t.n) {
    gemm_tile<Vec<T>, MR, 4, false, false>(t.moved(j, j, 4 * L));
    j += 4 * L;
  }
  if (j < t.n) gemm_strip<T, MR, false>(t.moved(j, j, t.n - j), tile_columns<T>());
}

template <class T>
void gemm(T* c, Index ldc, LeftOperand<T> a, RightOperand<T> b, Index m, Index n,
          Index k, const T* bias, bool accumulate, const Epilogue<T>& epilogue) {
  TileArgs<T> strip = {c, ldc, a, b.data, b.ld, n, k, bias, accumulate, epilogue};
  if (m <= kWideRows && b.panel_stride == tile_columns<T>()) {
    static_assert(kWideRows == 3, "the cases below are one to three rows");
    if (m == 1) gemm_few_rows<T, 1>(strip);
    if (m == 2) gemm_few_rows<T, 2>(strip);
    if (m == 3) gemm_few_rows<T, 3>(strip);
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
