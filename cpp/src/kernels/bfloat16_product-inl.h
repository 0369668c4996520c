// Products in bfloat16 by vectors. The lanes of a vector are columns of C.
#pragma once

#include "bfloat16-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// Two chains of MR x NV vectors, and the two operands of each step, fill 32 registers.
// With 16 registers, the compiler keeps the finished chain in memory meanwhile.
constexpr int kLowRows = 6;
static Bfloat16Left low_pack_left(float* dst, LeftOperand<float> a, Index m, Index k) {
  const Index rows = (m + kLowRows - 1) / kLowRows * kLowRows;
  const Index words = packed_words(k);
  if (a.cs == 1) {
    for (Index i = 0; i < m; ++i) pack_steps(dst + i * words, a.data + i * a.rs, k);
    if (m < rows) {
      memset(dst + m * words, 0,
             static_cast<size_t>((rows - m) * words) * sizeof(float));
    }
    return {dst, words, 1};
  }
  float* out = dst;
  for (Index p = 0; p < k; p += kBfloat16Block) {
    const Index depth = k - p < kBfloat16Block ? k - p : kBfloat16Block;
    for (Index w = 0; w < kWords; ++w, out += rows) {
      pack_word(out, a.data + p * a.cs, a.cs, w, depth, m, rows);
    }
  }
  return {dst, 1, rows};
}

// The arguments of a tile: C[rows, columns] = S + A B as in bfloat16_kernels.h.
struct LowTile {
  float* c;
  Index ldc;
  Bfloat16Left a;
  const float* b;  // the tile's panel
  Index rows, columns, k;
  const float* bias;
  bool accumulate;
  Epilogue<float> epilogue;
};

// acc = the chain of `words` words from the first one on; every second word belongs to
// the other chain.
template <int MR, int NV>
FASTMLP_INLINE void low_chain(Vec<float> (&acc)[MR][NV], const float* a, Index rs,
                              Index cs, const float* b, Index words) {
  using V = Vec<float>;
#pragma GCC unroll 12
  for (int r = 0; r < MR; ++r) {
    for (int v = 0; v < NV; ++v) acc[r][v] = V::set1(0.0f);
  }
#pragma GCC unroll 2
  for (Index w = 0; w < words; ++w) {
    V bv[NV];
    for (int v = 0; v < NV; ++v) bv[v] = V::load(b + v * V::kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < MR; ++r) {
      const V ar = V::set1(a[r * rs]);
      for (int v = 0; v < NV; ++v) acc[r][v] = multiply_add(ar, bv[v], acc[r][v]);
    }
    a += 2 * cs;
    b += 2 * kLowColumns;
  }
}

// columns in ((NV - 1) lanes, NV lanes]; kTail: less than NV lanes. Rows of A beyond
// `rows` are zeros.
template <int MR, int NV, bool kTail>
FASTMLP_INLINE void low_tile(const LowTile& t) {
  using V = Vec<float>;
  constexpr Index L = V::kLanes;
  const Index tail = t.columns - (NV - 1) * L;
  const auto load = [tail](const float* p, int v) FASTMLP_LAMBDA {
    return kTail && v == NV - 1 ? V::load_partial(p + v * L, tail) : V::load(p + v * L);
  };
  const Index rs = t.a.rs, cs = t.a.cs;
  const float* a = t.a.data;
  const float* b = t.b;
  Index p = 0;
  do {
    const Index words = chain_words(t.k - p);
    V even[MR][NV], odd[MR][NV];
    low_chain<MR, NV>(even, a, rs, cs, b, words);
    low_chain<MR, NV>(odd, a + cs, rs, cs, b + kLowColumns, words);
    a += kWords * cs;
    b += kWords * kLowColumns;
    // A chain that begins at +0 cannot end at -0, so that S = 0 need not be added.
    const auto each = [&](auto f) FASTMLP_LAMBDA {
#pragma GCC unroll 12
      for (int r = 0; r < MR; ++r) {
        if (r >= t.rows) break;
        for (int v = 0; v < NV; ++v) f(r, v, even[r][v]);
      }
    };
    if (p > 0 || t.accumulate) {
      each([&](int r, int v, V& x)
               FASTMLP_LAMBDA { x = load(t.c + r * t.ldc, v) + (x + odd[r][v]); });
    } else {
      each([&](int r, int v, V& x) FASTMLP_LAMBDA { x = x + odd[r][v]; });
    }
    p += kBfloat16Block;
    if (p >= t.k) {
      if (t.bias) {
        each([&](int, int v, V& x) FASTMLP_LAMBDA { x = x + load(t.bias, v); });
      }
      if (t.epilogue.kind == EpilogueKind::relu) {
        each([&](int, int, V& x) FASTMLP_LAMBDA { x = rectified(x); });
      } else if (t.epilogue.kind == EpilogueKind::relu_backward) {
        each([&](int r, int v, V& x) FASTMLP_LAMBDA {
          x = where_positive(load(t.epilogue.saved + r * t.epilogue.ld, v), x);
        });
      }
    }
    each([&](int r, int v, V& x) FASTMLP_LAMBDA {
      float* const c = t.c + r * t.ldc + v * L;
      if (kTail && v == NV - 1) {
        x.store_partial(c, tail);
      } else {
        x.store(c);
      }
    });
  } while (p < t.k);
}

template <int MR>
FASTMLP_INLINE void low_tile_of(const LowTile& t) {
  constexpr Index L = Vec<float>::kLanes;
  static_assert(kLowColumns == 2 * L, "a tile is one or two vectors");
  if constexpr (MR == kLowRows) {
    if (t.columns == 2 * L) return low_tile<MR, 2, false>(t);
    if (t.columns > L) return low_tile<MR, 2, true>(t);
  }
  if (t.columns == L) return low_tile<MR, 1, false>(t);
  low_tile<MR, 1, true>(t);
}

// A panel of B stays in the level-1 cache while the strips of A pass by. Of narrow
// panels, two strips are taken at a time, for as many chains as in a wide tile.
static void low_gemm(float* c, Index ldc, const Bfloat16Left& a, const Bfloat16Right& b,
                     Index m, Index n, Index k, const float* bias, bool accumulate,
                     const Epilogue<float>& epilogue) {
  LowTile t = {c, ldc, a, b.data, 0, 0, k, bias, accumulate, epilogue};
  for (Index j = 0; j < n; j += kLowColumns) {
    t.columns = n - j < kLowColumns ? n - j : kLowColumns;
    t.b = b.data + j / kLowColumns * b.panel_stride;
    if (bias) t.bias = bias + j;
    const bool narrow = t.columns <= Vec<float>::kLanes;
    for (Index i = 0; i < m; i += t.rows) {
      const bool two = narrow && m - i > kLowRows;
      const Index most = two ? 2 * kLowRows : kLowRows;
      t.rows = m - i < most ? m - i : most;
      t.c = c + i * ldc + j;
      t.a.data = a.data + i * a.rs;
      if (epilogue.saved) t.epilogue.saved = epilogue.saved + i * epilogue.ld + j;
      if (two) {
        low_tile_of<2 * kLowRows>(t);
      } else {
        low_tile_of<kLowRows>(t);
      }
    }
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
