// Packing for products whose operands are rounded to bfloat16, and the products of few
// rows. See bfloat16_kernels.h for the arithmetic and the contract.
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
FASTMLP_INLINE Index words_per_chain(Index k) {
  const Index steps = k < kBfloat16Block ? k : kBfloat16Block;
  return (steps + 2 * kStepsPerWord - 1) / (2 * kStepsPerWord);
}
FASTMLP_INLINE Index packed_words(Index k) {
  return (k + kBfloat16Block - 1) / kBfloat16Block * kWords;
}

constexpr Index kBfloat16Columns = tile_columns<float>();

__attribute__((noinline)) static void round_all(float* dst, const float* src, Index n) {
  for_each_vector<float>(n, [=](auto io, Index i) FASTMLP_LAMBDA {
    io.store(dst + i, to_bfloat16(io.load(src + i)));
  });
}

#if defined(FASTMLP_ISA_avx512_bf16) || defined(FASTMLP_ISA_amx)
static_assert(kBfloat16Block == 2 * Vec<float>::kLanes && kWords == Vec<float>::kLanes,
              "a block of steps is two vectors, and its words are one");

// Calls f with the two vectors of up to a block of contiguous steps; those beyond count
// as 0.
template <class F>
FASTMLP_INLINE Vec<float> of_block(const float* src, Index depth, F f) {
  using V = Vec<float>;
  constexpr Index L = V::kLanes;
  if (depth >= kBfloat16Block) return f(V::load(src), V::load(src + L));
  return f(V::load_partial(src, depth < L ? depth : L),
           V::load_partial(src + L, depth > L ? depth - L : 0));
}
FASTMLP_INLINE Vec<float> packed_words_at(const float* src, Index depth) {
  return of_block(src, depth, packed_words_of);
}
#endif

// Writes the words of a row of k contiguous steps, in whole blocks.
FASTMLP_INLINE void pack_steps(float* dst, const float* src, Index k) {
#if defined(FASTMLP_ISA_avx512_bf16) || defined(FASTMLP_ISA_amx)
  for (Index p = 0; p < k; p += kBfloat16Block, dst += kWords) {
    packed_words_at(src + p, k - p).store(dst);
  }
#else
  for_each_vector<float>(k, [=](auto io, Index p) FASTMLP_LAMBDA {
    io.store(dst + p, to_bfloat16(io.load(src + p)));
  });
  const Index end = packed_words(k);
  if (k < end) memset(dst + k, 0, static_cast<size_t>(end - k) * sizeof(float));
#endif
}

// Writes word w of `lanes` rows of A or columns of B whose elements of one step are
// contiguous and whose steps are `ld` elements apart. The block has `depth` steps;
// those beyond count as 0, and so do lanes beyond, up to `padded`.
FASTMLP_INLINE void pack_word(float* dst, const float* src, Index ld, Index w,
                              Index depth, Index lanes, Index padded) {
  constexpr Index L = Vec<float>::kLanes;
  const auto word = [=](Index i, Index n) FASTMLP_LAMBDA {
    return packed_word(w, [=](Index k) FASTMLP_LAMBDA {
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

// Writes the words of a block of `columns` columns of B, each contiguous along k and cs
// elements apart.
FASTMLP_INLINE void pack_turned(float* out, const float* b, Index cs, Index depth,
                                Index columns, Index words) {
#if defined(FASTMLP_ISA_avx512_bf16) || defined(FASTMLP_ISA_amx)
  // The words of a column are a vector; 16 of them are transposed.
  constexpr Index L = Vec<float>::kLanes;
  for (Index j = 0; j < kBfloat16Columns; j += L) {
    Vec<float> turned[L];
#pragma GCC unroll 16
    for (Index q = 0; q < L; ++q) {
      turned[q] = j + q < columns ? packed_words_at(b + (j + q) * cs, depth)
                                  : Vec<float>::set1(0.0f);
    }
    transpose(turned);
#pragma GCC unroll 16
    for (Index w = 0; w < L; ++w) {
      if (w < words) turned[w].store(out + w * kBfloat16Columns + j);
    }
  }
#else
  alignas(64) float turned[kBfloat16Block * kBfloat16Columns];
  pack_right_panel(turned, b, 1, cs, depth, columns);
  for (Index w = 0; w < words; ++w) {
    pack_word(out + w * kBfloat16Columns, turned, kBfloat16Columns, w, depth, columns,
              kBfloat16Columns);
  }
#endif
}

static void bfloat16_pack_right(float* dst, Index panel_stride, const float* b,
                                Index rs, Index cs, Index k, Index n) {
  const auto block = [&](Index p, Index j) FASTMLP_LAMBDA {
    const Index depth = k - p < kBfloat16Block ? k - p : kBfloat16Block;
    const Index columns = n - j < kBfloat16Columns ? n - j : kBfloat16Columns;
    float* const out = dst + j / kBfloat16Columns * panel_stride +
                       p / kBfloat16Block * kWords * kBfloat16Columns;
    const float* const src = b + p * rs + j * cs;
    // Of a last block, only the words that the product uses.
    const Index words = kTakesWholeBlocks ? kWords : 2 * words_per_chain(depth);
    if (cs != 1) return pack_turned(out, src, cs, depth, columns, words);
    for (Index w = 0; w < words; ++w) {
      pack_word(out + w * kBfloat16Columns, src, rs, w, depth, columns,
                kBfloat16Columns);
    }
  };
  if (cs == 1) {
    for (Index p = 0; p < k; p += kBfloat16Block) {
      for (Index j = 0; j < n; j += kBfloat16Columns) block(p, j);
    }
  } else {
    for (Index j = 0; j < n; j += kBfloat16Columns) {
      for (Index p = 0; p < k; p += kBfloat16Block) block(p, j);
    }
  }
}

// The end of a product for one vector: x + bias, then the epilogue. `bias`, which may
// be null, and `saved` point to the vector's columns.
template <class Io>
FASTMLP_INLINE Vec<float> finished(Io io, Vec<float> x, const float* bias,
                                   EpilogueKind kind, const float* saved) {
  if (bias) x = x + io.load(bias);
  if (kind == EpilogueKind::relu) return rectified(x);
  if (kind == EpilogueKind::relu_backward) return where_positive(io.load(saved), x);
  return x;
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
    for (int r = 0; r < M; ++r) {
      const float* const row = a + r * lda + p;
#if defined(FASTMLP_ISA_avx512_bf16) || defined(FASTMLP_ISA_amx)
      of_block(row, depth, chain_words).store(left[r]);
#else
      round_all(left[r], row, depth);
#endif
    }
    V chain[2][M][NV];
    for (int parity = 0; parity < 2; ++parity) {
      V(&acc)[M][NV] = chain[parity];
      for (int r = 0; r < M; ++r) {
        for (int v = 0; v < NV; ++v) acc[r][v] = V::set1(0.0f);
      }
      // A block of odd depth has an odd chain that is shorter by one step.
      const Index words =
          (depth - parity + 2 * kStepsPerWord - 1) / (2 * kStepsPerWord);
      for (Index s = 0; s < words; ++s) {
        const Index w = 2 * s + parity;
        V bv[NV];
        for (int v = 0; v < NV; ++v) {
          const float* const at = b + p * ldb + v * L;
          bv[v] = chain_word(w, [=](Index q) FASTMLP_LAMBDA {
            return q < depth ? io.load(at + q * ldb) : V::set1(0.0f);
          });
        }
        for (int r = 0; r < M; ++r) {
          const V ar = V::set1(left[r][w]);
          for (int v = 0; v < NV; ++v) acc[r][v] = multiply_add(ar, bv[v], acc[r][v]);
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
      const V x = finished(io, sum[r][v], bias ? bias + v * L : nullptr, epilogue.kind,
                           epilogue.saved + r * epilogue.ld + v * L);
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

static void bfloat16_few_rows(float* c, Index ldc, const float* a, Index lda,
                              const float* b, Index ldb, Index m, Index n, Index k,
                              const float* bias, const Epilogue<float>& epilogue) {
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
