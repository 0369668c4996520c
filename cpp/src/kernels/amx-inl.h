// Products in bfloat16 by the tiles of AMX: 32 rows x 32 columns of C at a time, in
// four tiles. One TDPBF16PS takes a tile through a block of k, exactly as
// bfloat16_kernels.h defines it. A left operand is packed by rows, a right one by words
// of steps (2 w, 2 w + 1).
#pragma once

#include "amx.h"
#include "bfloat16-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

constexpr Index kAmxRows = 2 * kTileSide;
static_assert(kBfloat16Columns == 2 * kTileSide && kWords == kTileSide);

static Bfloat16Left amx_pack_left(float* dst, LeftOperand<float> a, Index m, Index k) {
  const Index rows = (m + kAmxRows - 1) / kAmxRows * kAmxRows;
  const Index words = packed_words(k);
  if (a.cs == 1) {
    for (Index i = 0; i < m; ++i) pack_steps(dst + i * words, a.data + i * a.rs, k);
    memset(dst + m * words, 0, static_cast<size_t>((rows - m) * words) * sizeof(float));
    return {dst, words, 1, kAmxRows * words};
  }
  // Words of 16 rows at a time, transposed.
  for (Index p = 0; p < k; p += kBfloat16Block) {
    const Index depth = k - p < kBfloat16Block ? k - p : kBfloat16Block;
    for (Index i = 0; i < rows; i += kTileSide) {
      const Index lanes = m - i < 0 ? 0 : m - i < kTileSide ? m - i : kTileSide;
      Vec<float> word[kTileSide];
      for (Index w = 0; w < kTileSide; ++w) {
        float row[kTileSide];
        pack_word(row, a.data + p * a.cs + i, a.cs, w, depth, lanes, kTileSide);
        word[w] = Vec<float>::load(row);
      }
      transpose(word);
      float* const out = dst + i * words + p / kBfloat16Block * kWords;
      for (Index r = 0; r < kTileSide; ++r) word[r].store(out + r * words);
    }
  }
  return {dst, words, 1, kAmxRows * words};
}

// Computes 32 x 32 elements of C. At the edges of C, the caller passes a buffer of this
// size as `c`; the packed operands have zeros for its further rows and columns.
FASTMLP_INLINE void amx_tile(float* c, Index ldc, const float* a, Index rs,
                             const float* b, Index k, bool reads_c) {
  constexpr Index kSize = sizeof(float), kSide = kTileSide;
  const Index c_step = ldc * kSize, a_step = rs * kSize;
  constexpr Index kStepB = kBfloat16Columns * kSize;
  finish_stores();
  if (reads_c) {
    FASTMLP_TILE_LOAD(0, c, c_step);
    FASTMLP_TILE_LOAD(1, c + kSide, c_step);
    FASTMLP_TILE_LOAD(2, c + kSide * ldc, c_step);
    FASTMLP_TILE_LOAD(3, c + kSide * ldc + kSide, c_step);
  } else {
    FASTMLP_TILE_ZERO(0);
    FASTMLP_TILE_ZERO(1);
    FASTMLP_TILE_ZERO(2);
    FASTMLP_TILE_ZERO(3);
  }
  const float* left = a;
  for (Index p = 0; p < k; p += kBfloat16Block) {
    FASTMLP_TILE_LOAD(4, left, a_step);
    FASTMLP_TILE_LOAD(6, b, kStepB);
    FASTMLP_TILE_LOAD(7, b + kSide, kStepB);
    FASTMLP_TILE_MULTIPLY(0, 4, 6);
    FASTMLP_TILE_LOAD(5, left + kSide * rs, a_step);
    FASTMLP_TILE_MULTIPLY(1, 4, 7);
    FASTMLP_TILE_MULTIPLY(2, 5, 6);
    FASTMLP_TILE_MULTIPLY(3, 5, 7);
    left += kWords;
    b += kWords * kBfloat16Columns;
  }
  FASTMLP_TILE_STORE(0, c, c_step);
  FASTMLP_TILE_STORE(1, c + kSide, c_step);
  FASTMLP_TILE_STORE(2, c + kSide * ldc, c_step);
  FASTMLP_TILE_STORE(3, c + kSide * ldc + kSide, c_step);
}

static void amx_gemm(float* c, Index ldc, const Bfloat16Left& a, const Bfloat16Right& b,
                     Index m, Index n, Index k, const float* bias, bool accumulate,
                     const Epilogue<float>& epilogue) {
  static constexpr TileConfig kConfig;
  FASTMLP_TILE_CONFIGURE(&kConfig);
  const bool finishes = bias || epilogue.kind != EpilogueKind::none;
  alignas(64) float edge[kAmxRows * kBfloat16Columns] = {};
  for (Index i = 0; i < m; i += kAmxRows) {
    const Index rows = m - i < kAmxRows ? m - i : kAmxRows;
    const float* const strip = a.data + i * a.rs;
    for (Index j = 0; j < n; j += kBfloat16Columns) {
      const Index columns = n - j < kBfloat16Columns ? n - j : kBfloat16Columns;
      const float* const panel = b.data + j / kBfloat16Columns * b.panel_stride;
      float* const to = c + i * ldc + j;
      const bool whole = rows == kAmxRows && columns == kBfloat16Columns;
      if (whole && !finishes) {
        amx_tile(to, ldc, strip, a.rs, panel, k, accumulate);
        continue;
      }
      if (accumulate) {
        for (Index r = 0; r < rows; ++r) {
          memcpy(edge + r * kBfloat16Columns, to + r * ldc,
                 static_cast<size_t>(columns) * sizeof(float));
        }
      }
      amx_tile(edge, kBfloat16Columns, strip, a.rs, panel, k, accumulate);
      for (Index r = 0; r < rows; ++r) {
        const float* const from = edge + r * kBfloat16Columns;
        float* const row = to + r * ldc;
        const float* const saved =
            epilogue.saved ? epilogue.saved + (i + r) * epilogue.ld + j : nullptr;
        for_each_vector<float>(columns, [=](auto io, Index q) FASTMLP_LAMBDA {
          const Vec<float> x =
              finished(io, io.load(from + q), bias ? bias + j + q : nullptr,
                       epilogue.kind, saved + q);
          io.store(row + q, x);
        });
      }
    }
  }
  FASTMLP_TILE_RELEASE();
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
