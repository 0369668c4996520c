// Products in bfloat16 by vectors. The lanes of a vector are columns of C.
#pragma once

#include "bfloat16-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// Rows of a tile that is two vectors wide. With 32 registers, the two chains and the
// sum of each of its vectors stay in registers; with 16, the compiler keeps the sums in
// memory. Tiles one vector wide have twice the rows, for as many chains.
#if defined(FASTMLP_ISA_avx2)
constexpr int kBfloat16Rows = 3;
#else
constexpr int kBfloat16Rows = 4;
#endif

// If rows are contiguous along k, they remain rows. Otherwise each strip of
// kBfloat16Rows rows becomes a panel: tiles read a part of a cache line for each word,
// and the other parts would take their place in the level-1 cache.
static Bfloat16Left bfloat16_pack_left(float* dst, LeftOperand<float> a, Index m,
                                       Index k) {
  const Index rows = (m + kBfloat16Rows - 1) / kBfloat16Rows * kBfloat16Rows;
  const Index words = packed_words(k);
  const Index strip = kBfloat16Rows * words;
  if (a.cs == 1) {
    for (Index i = 0; i < m; ++i) pack_steps(dst + i * words, a.data + i * a.rs, k);
    if (m < rows) {
      memset(dst + m * words, 0,
             static_cast<size_t>((rows - m) * words) * sizeof(float));
    }
    return {dst, words, 1, strip};
  }
  // Whole vectors and whole strips at a time.
  constexpr Index kChunk = 48;
  static_assert(kChunk % Vec<float>::kLanes == 0 && kChunk % kBfloat16Rows == 0);
  float row[kChunk];
  for (Index i = 0; i < rows; i += kChunk) {
    const Index lanes = m - i < kChunk ? m - i : kChunk;
    const Index padded = rows - i < kChunk ? rows - i : kChunk;
    float* out = dst + i * words;
    for (Index p = 0; p < k; p += kBfloat16Block) {
      const Index depth = k - p < kBfloat16Block ? k - p : kBfloat16Block;
      for (Index w = 0; w < kWords; ++w, out += kBfloat16Rows) {
        pack_word(row, a.data + p * a.cs + i, a.cs, w, depth, lanes, padded);
        for (Index r = 0; r < padded; r += kBfloat16Rows) {
          memcpy(out + r * words, row + r, kBfloat16Rows * sizeof(float));
        }
      }
    }
  }
  return {dst, 1, kBfloat16Rows, strip};
}

// The arguments of a tile: C[rows, columns] = S + A B as in bfloat16_kernels.h.
struct Bfloat16Tile {
  float* c;
  Index ldc;
  Bfloat16Left a;
  const float* b;  // the tile's panel
  Index rows, columns, k;
  const float* bias;
  bool accumulate;
  Epilogue<float> epilogue;
};

// One step of a chain: acc += A(., w) B(w, .) for a word w.
template <int MR, int NV>
FASTMLP_INLINE void bfloat16_step(Vec<float> (&acc)[MR][NV], const float* a,
                                  const Bfloat16Left& left, const float* b) {
  using V = Vec<float>;
  V bv[NV];
  for (int v = 0; v < NV; ++v) bv[v] = V::load(b + v * V::kLanes);
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
    const V ar =
        V::set1(a[r / kBfloat16Rows * left.strip + r % kBfloat16Rows * left.rs]);
    for (int v = 0; v < NV; ++v) acc[r][v] = multiply_add(ar, bv[v], acc[r][v]);
  }
}

// columns in ((NV - 1) lanes, NV lanes]; kTail: less than NV lanes. kShort: k is at
// most one block, and C is not accumulated. Rows of A beyond `rows` are zeros.
template <int MR, int NV, bool kTail, bool kShort>
FASTMLP_INLINE void bfloat16_tile(const Bfloat16Tile& t) {
  using V = Vec<float>;
  constexpr Index L = V::kLanes;
  const Index tail = t.columns - (NV - 1) * L;
  const auto load = [tail](const float* p, int v) FASTMLP_LAMBDA {
    return kTail && v == NV - 1 ? V::load_partial(p + v * L, tail) : V::load(p + v * L);
  };
  V sum[MR][NV];
  const auto each = [&](auto f) FASTMLP_LAMBDA {
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      for (int v = 0; v < NV; ++v) f(r, v, sum[r][v]);
    }
  };
  const auto each_of_c = [&](auto f) FASTMLP_LAMBDA {
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      if (r >= t.rows) break;
      for (int v = 0; v < NV; ++v) f(r, v, sum[r][v]);
    }
  };
  if (!kShort) {
    each([](int, int, V& x) FASTMLP_LAMBDA { x = V::set1(0.0f); });
    if (t.accumulate) {
      each_of_c([&](int r, int v, V& x)
                    FASTMLP_LAMBDA { x = load(t.c + r * t.ldc, v); });
    }
  }
  const Index cs = t.a.cs;
  const float* a = t.a.data;
  const float* b = t.b;
  Index k = t.k;
  do {
    const Index words = words_per_chain(k);
    V even[MR][NV], odd[MR][NV];
    each([&](int r, int v, V&)
             FASTMLP_LAMBDA { even[r][v] = odd[r][v] = V::set1(0.0f); });
    const float* aw = a;
    const float* bw = b;
#pragma GCC unroll 2
    for (Index w = 0; w < words; ++w) {
      bfloat16_step<MR, NV>(even, aw, t.a, bw);
      bfloat16_step<MR, NV>(odd, aw + cs, t.a, bw + kBfloat16Columns);
      aw += 2 * cs;
      bw += 2 * kBfloat16Columns;
    }
    // A chain that begins at +0 cannot end at -0, so that S = 0 need not be added.
    each([&](int r, int v, V& x) FASTMLP_LAMBDA {
      const V both = even[r][v] + odd[r][v];
      x = kShort ? both : x + both;
    });
    a += kWords * cs;
    b += kWords * kBfloat16Columns;
    k -= kBfloat16Block;
  } while (!kShort && k > 0);

  if (t.bias) {
    each([&](int, int v, V& x) FASTMLP_LAMBDA { x = x + load(t.bias, v); });
  }
  if (t.epilogue.kind == EpilogueKind::relu) {
    each([](int, int, V& x) FASTMLP_LAMBDA { x = rectified(x); });
  } else if (t.epilogue.kind == EpilogueKind::relu_backward) {
    each_of_c([&](int r, int v, V& x) FASTMLP_LAMBDA {
      x = where_positive(load(t.epilogue.saved + r * t.epilogue.ld, v), x);
    });
  }
  each_of_c([&](int r, int v, V& x) FASTMLP_LAMBDA {
    float* const c = t.c + r * t.ldc + v * L;
    if (kTail && v == NV - 1) {
      x.store_partial(c, tail);
    } else {
      x.store(c);
    }
  });
}

template <int MR, int NV, bool kShort>
FASTMLP_INLINE void bfloat16_tile_rows(const Bfloat16Tile& t) {
  if (t.columns == NV * Vec<float>::kLanes) {
    bfloat16_tile<MR, NV, false, kShort>(t);
  } else {
    bfloat16_tile<MR, NV, true, kShort>(t);
  }
}

// All strips of A times one panel of B, which stays in the level-1 cache meanwhile.
template <bool kShort>
static void bfloat16_panel(Bfloat16Tile t, Index m) {
  constexpr Index L = Vec<float>::kLanes;
  static_assert(kBfloat16Columns == 2 * L, "a tile is one or two vectors");
  const bool narrow = t.columns <= L;
  const Bfloat16Left a = t.a;
  float* const c = t.c;
  const float* const saved = t.epilogue.saved;
  for (Index i = 0; i < m; i += t.rows) {
    const Index most =
        narrow && m - i > kBfloat16Rows ? 2 * kBfloat16Rows : kBfloat16Rows;
    t.rows = m - i < most ? m - i : most;
    t.a.data = a.data + i / kBfloat16Rows * a.strip;
    t.c = c + i * t.ldc;
    if (saved) t.epilogue.saved = saved + i * t.epilogue.ld;
    if (t.columns > L) {
      bfloat16_tile_rows<kBfloat16Rows, 2, kShort>(t);
    } else if (most == kBfloat16Rows) {
      bfloat16_tile_rows<kBfloat16Rows, 1, kShort>(t);
    } else {
      bfloat16_tile_rows<2 * kBfloat16Rows, 1, kShort>(t);
    }
  }
}

static void bfloat16_gemm(float* c, Index ldc, const Bfloat16Left& a,
                          const Bfloat16Right& b, Index m, Index n, Index k,
                          const float* bias, bool accumulate,
                          const Epilogue<float>& epilogue) {
  Bfloat16Tile t = {c, ldc, a, b.data, 0, 0, k, bias, accumulate, epilogue};
  const bool is_short = k <= kBfloat16Block && !accumulate;
  for (Index j = 0; j < n; j += kBfloat16Columns) {
    t.columns = n - j < kBfloat16Columns ? n - j : kBfloat16Columns;
    if (is_short) {
      bfloat16_panel<true>(t, m);
    } else {
      bfloat16_panel<false>(t, m);
    }
    t.c += kBfloat16Columns;
    t.b += b.panel_stride;
    if (bias) t.bias += kBfloat16Columns;
    if (epilogue.saved) t.epilogue.saved += kBfloat16Columns;
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
