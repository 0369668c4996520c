// Products whose operands are rounded to bfloat16. See bfloat16_kernels.h for the
// arithmetic and the contract.
#pragma once

#include "bfloat16.h"
#include "fastmlp/bfloat16_kernels.h"
#include "loops-inl.h"
#include "pack-inl.h"
#include "simd.h"

namespace fastmlp {
namespace FASTMLP_ISA {

constexpr Index kWords = kBfloat16Block / kStepsPerWord;
// Words in each chain of a block of k steps.
FASTMLP_INLINE Index chain_words(Index k) {
  const Index steps = k < kBfloat16Block ? k : kBfloat16Block;
  return (steps + 2 * kStepsPerWord - 1) / (2 * kStepsPerWord);
}
FASTMLP_INLINE Index packed_words(Index k) {
  return (k + kBfloat16Block - 1) / kBfloat16Block * kWords;
}

// Two chains of MR x NV vectors, and the two operands of each step, fill 32 registers.
// With 16 registers, the compiler keeps the finished chain in memory meanwhile.
constexpr int kLowRows = 6;
constexpr Index kLowColumns = tile_columns<float>();

__attribute__((noinline)) static void round_all(float* dst, const float* src, Index n) {
  for_each_vector<float>(n, [=](auto io, Index i) FASTMLP_LAMBDA {
    io.store(dst + i, to_bfloat16(io.load(src + i)));
  });
}

// The words of a row of k contiguous steps.
FASTMLP_INLINE void pack_steps(float* dst, const float* src, Index k) {
  constexpr Index L = Vec<float>::kLanes;
  constexpr Index kStored = L / kStepsPerWord;
  Index p = 0;
  for (; p + L <= k; p += L, dst += kStored)
    store_words(dst, Vec<float>::load(src + p));
  if (p < k) {
    store_words(dst, Vec<float>::load_partial(src + p, k - p));
    p += L, dst += kStored;
  }
  // The rest of the last block.
  const Vec<float> zero = Vec<float>::set1(0.0f);
  for (; p % kBfloat16Block != 0; p += L, dst += kStored) store_words(dst, zero);
}

// Writes word w of `lanes` rows of A or columns of B whose elements of one step are
// contiguous and whose steps are `ld` elements apart. The block has `depth` steps;
// those beyond count as 0, and so do lanes beyond, up to `padded`.
FASTMLP_INLINE void pack_word(float* dst, const float* src, Index ld, Index w,
                              Index depth, Index lanes, Index padded) {
  constexpr Index L = Vec<float>::kLanes;
  const auto word = [=](Index i, Index n) FASTMLP_LAMBDA {
    return word_of(w, [=](Index k) FASTMLP_LAMBDA {
      if (k >= depth) return Vec<float>::set1(0.0f);
      const float* const at = src + k * ld + i;
      return n >= L ? Vec<float>::load(at) : Vec<float>::load_partial(at, n);
    });
  };
  Index i = 0;
  for (; i + L <= lanes; i += L) word(i, L).store(dst + i);
  for (; i < padded; i += L) {
    const Vec<float> x = i < lanes ? word(i, lanes - i) : Vec<float>::set1(0.0f);
    if (padded - i >= L) {
      x.store(dst + i);
    } else {
      x.store_partial(dst + i, padded - i);
    }
  }
}

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

static void low_pack_right(float* dst, Index panel_stride, const float* b, Index rs,
                           Index cs, Index k, Index n) {
  // A block of B whose columns are contiguous along k is first transposed into here.
  alignas(64) float turned[kBfloat16Block * kLowColumns];
  const auto block = [&](Index p, Index j) FASTMLP_LAMBDA {
    const Index depth = k - p < kBfloat16Block ? k - p : kBfloat16Block;
    const Index columns = n - j < kLowColumns ? n - j : kLowColumns;
    float* const out = dst + j / kLowColumns * panel_stride +
                       p / kBfloat16Block * kWords * kLowColumns;
    const float* src = b + p * rs + j * cs;
    Index ld = rs;
    if (cs != 1) {
      pack_right_panel(turned, src, rs, cs, depth, columns);
      src = turned;
      ld = kLowColumns;
    }
    // Of a last block, only the words that the product uses.
    const Index words = 2 * chain_words(depth);
    for (Index w = 0; w < words; ++w) {
      pack_word(out + w * kLowColumns, src, ld, w, depth, columns, kLowColumns);
    }
  };
  if (cs == 1) {
    for (Index p = 0; p < k; p += kBfloat16Block) {
      for (Index j = 0; j < n; j += kLowColumns) block(p, j);
    }
  } else {
    for (Index j = 0; j < n; j += kLowColumns) {
      for (Index p = 0; p < k; p += kBfloat16Block) block(p, j);
    }
  }
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

template <int N>
struct Count {
  static constexpr int kCount = N;
};

// M rows and NV vectors of columns of a product with B as it is.
template <int M, int NV, class Io>
FASTMLP_INLINE void few_rows_tile(Io io, float* c, Index ldc, const float* a, Index lda,
                                  const float* b, Index ldb, Index k, const float* bias,
                                  const Epilogue<float>& epilogue) {
  using V = Vec<float>;
  constexpr Index L = V::kLanes;
  V sum[M][NV];
  for (int r = 0; r < M; ++r) {
    for (int v = 0; v < NV; ++v) sum[r][v] = V::set1(0.0f);
  }
  for (Index p = 0; p < k; p += kBfloat16Block) {
    const Index depth = k - p < kBfloat16Block ? k - p : kBfloat16Block;
    float left[M][kBfloat16Block];
    for (int r = 0; r < M; ++r) round_all(left[r], a + r * lda + p, depth);
    V chain[2][M][NV];
    for (int parity = 0; parity < 2; ++parity) {
      V(&acc)[M][NV] = chain[parity];
      for (int r = 0; r < M; ++r) {
        for (int v = 0; v < NV; ++v) acc[r][v] = V::set1(0.0f);
      }
      for (Index s = parity; s < depth; s += 2) {
        V bv[NV];
        for (int v = 0; v < NV; ++v) {
          bv[v] = to_bfloat16(io.load(b + (p + s) * ldb + v * L));
        }
        for (int r = 0; r < M; ++r) {
          const V ar = V::set1(left[r][s]);
          for (int v = 0; v < NV; ++v) acc[r][v] = fma(ar, bv[v], acc[r][v]);
        }
      }
    }
    for (int r = 0; r < M; ++r) {
      for (int v = 0; v < NV; ++v) {
        sum[r][v] = sum[r][v] + (chain[0][r][v] + chain[1][r][v]);
      }
    }
  }
  for (int r = 0; r < M; ++r) {
    for (int v = 0; v < NV; ++v) {
      V x = sum[r][v];
      if (bias) x = x + io.load(bias + v * L);
      if (epilogue.kind == EpilogueKind::relu) {
        x = rectified(x);
      } else if (epilogue.kind == EpilogueKind::relu_backward) {
        x = where_positive(io.load(epilogue.saved + r * epilogue.ld + v * L), x);
      }
      io.store(c + r * ldc + v * L, x);
    }
  }
}

template <int M>
void few_rows_strip(float* c, Index ldc, const float* a, Index lda, const float* b,
                    Index ldb, Index n, Index k, const float* bias,
                    const Epilogue<float>& epilogue) {
  constexpr Index L = Vec<float>::kLanes;
  constexpr int NV = M == 1 ? 4 : M == 2 ? 2 : 1;
  const auto tile = [&](auto io, auto vectors, Index j) FASTMLP_LAMBDA {
    Epilogue<float> there = epilogue;
    if (there.saved) there.saved += j;
    few_rows_tile<M, decltype(vectors)::kCount>(io, c + j, ldc, a, lda, b + j, ldb, k,
                                                bias ? bias + j : nullptr, there);
  };
  Index j = 0;
  for (; j + NV * L <= n; j += NV * L) tile(FullVector<float>{}, Count<NV>{}, j);
  if (NV > 1) {
    for (; j + L <= n; j += L) tile(FullVector<float>{}, Count<1>{}, j);
  }
  if (j < n) tile(TailVector<float>{n - j}, Count<1>{}, j);
}

static void low_few_rows(float* c, Index ldc, const float* a, Index lda, const float* b,
                         Index ldb, Index m, Index n, Index k, const float* bias,
                         const Epilogue<float>& epilogue) {
  constexpr int kMost = 4;
  Epilogue<float> there = epilogue;
  for (Index i = 0; i < m; i += kMost) {
    const Index rows = m - i < kMost ? m - i : kMost;
    const auto strip = rows == 1   ? few_rows_strip<1>
                       : rows == 2 ? few_rows_strip<2>
                       : rows == 3 ? few_rows_strip<3>
                                   : few_rows_strip<4>;
    if (epilogue.saved) there.saved = epilogue.saved + i * epilogue.ld;
    strip(c + i * ldc, ldc, a + i * lda, lda, b, ldb, n, k, bias, there);
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
