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
template <int NV>
FASTMLP_INLINE void low_chain(Vec<float> (&acc)[kLowRows][NV], const float* a, Index rs,
                              Index cs, const float* b, Index words) {
  using V = Vec<float>;
#pragma GCC unroll 8
  for (int r = 0; r < kLowRows; ++r) {
    for (int v = 0; v < NV; ++v) acc[r][v] = V::set1(0.0f);
  }
#pragma GCC unroll 2
  for (Index w = 0; w < words; ++w) {
    V bv[NV];
    for (int v = 0; v < NV; ++v) bv[v] = V::load(b + v * V::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kLowRows; ++r) {
      const V ar = V::set1(a[r * rs]);
      for (int v = 0; v < NV; ++v) acc[r][v] = multiply_add(ar, bv[v], acc[r][v]);
    }
    a += 2 * cs;
    b += 2 * kLowColumns;
  }
}

// columns in ((NV - 1) lanes, NV lanes]; kTail: less than NV lanes. Rows of A beyond
// `rows` are zeros.
template <int NV, bool kTail>
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
    V even[kLowRows][NV], odd[kLowRows][NV];
    low_chain<NV>(even, a, rs, cs, b, words);
    low_chain<NV>(odd, a + cs, rs, cs, b + kLowColumns, words);
    a += kWords * cs;
    b += kWords * kLowColumns;
    const bool reads_c = p > 0 || t.accumulate;
    p += kBfloat16Block;
    const bool ends = p >= t.k;
#pragma GCC unroll 8
    for (int r = 0; r < kLowRows; ++r) {
      if (r >= t.rows) continue;
      float* const c = t.c + r * t.ldc;
      for (int v = 0; v < NV; ++v) {
        V x = (reads_c ? load(c, v) : V::set1(0.0f)) + (even[r][v] + odd[r][v]);
        if (ends) {
          if (t.bias) x = x + load(t.bias, v);
          if (t.epilogue.kind == EpilogueKind::relu) {
            x = rectified(x);
          } else if (t.epilogue.kind == EpilogueKind::relu_backward) {
            x = where_positive(load(t.epilogue.saved + r * t.epilogue.ld, v), x);
          }
        }
        if (kTail && v == NV - 1) {
          x.store_partial(c + v * L, tail);
        } else {
          x.store(c + v * L);
        }
      }
    }
  } while (p < t.k);
}

static void low_strip(LowTile t, Index panel_stride, Index n) {
  constexpr Index L = Vec<float>::kLanes;
  static_assert(kLowColumns == 2 * L, "a tile is one or two vectors");
  const auto columns = [&](Index count) FASTMLP_LAMBDA {
    t.columns = count;
    if (count == 2 * L) {
      low_tile<2, false>(t);
    } else if (count > L) {
      low_tile<2, true>(t);
    } else if (count == L) {
      low_tile<1, false>(t);
    } else {
      low_tile<1, true>(t);
    }
  };
  for (Index j = 0; j < n; j += kLowColumns) {
    columns(n - j < kLowColumns ? n - j : kLowColumns);
    t.c += kLowColumns;
    t.b += panel_stride;
    if (t.bias) t.bias += kLowColumns;
    if (t.epilogue.saved) t.epilogue.saved += kLowColumns;
  }
}

static void low_gemm(float* c, Index ldc, const Bfloat16Left& a, const Bfloat16Right& b,
                     Index m, Index n, Index k, const float* bias, bool accumulate,
                     const Epilogue<float>& epilogue) {
  LowTile t = {c, ldc, a, b.data, 0, 0, k, bias, accumulate, epilogue};
  for (Index i = 0; i < m; i += kLowRows) {
    t.rows = m - i < kLowRows ? m - i : kLowRows;
    t.c = c + i * ldc;
    t.a.data = a.data + i * a.rs;
    if (epilogue.saved) t.epilogue.saved = epilogue.saved + i * epilogue.ld;
    low_strip(t, b.panel_stride, n);
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
