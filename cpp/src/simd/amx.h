// The tiles of AMX. Tiles 0 to 3 hold 16 x 16 sums, tiles 4 and 5 rows of A, tiles 6
// and 7 columns of B. FASTMLP_EMULATED_TILES replaces the instructions by plain code,
// so that a test of the kernels runs on CPUs without AMX.
#pragma once

#include <stdint.h>
#include <string.h>

#include "simd.h"

namespace fastmlp {
namespace FASTMLP_ISA {

constexpr Index kTileSide = 16;  // rows of a tile, and 32-bit elements of its rows

// The operand of LDTILECFG: 16 rows of 64 bytes for each tile.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// GCC's intrinsics for LDTILECFG and TILELOADD are assembly that does not tell the
// compiler all that it reads. So the configuration is a constant, which nothing stores,
// and this function keeps stores to operands from moving behind the loads of tiles.
inline void finish_stores() { __asm__ volatile("" ::: "memory"); }

#if defined(FASTMLP_EMULATED_TILES)

struct Tiles {
  float tile[8][kTileSide][kTileSide];
};
inline Tiles& tiles() {
  static Tiles all;
  return all;
}
inline float bfloat16_half(float word, bool upper) {
  uint32_t bits;
  memcpy(&bits, &word, sizeof bits);
  bits = upper ? bits & 0xffff0000u : bits << 16;
  memcpy(&word, &bits, sizeof word);
  return word;
}
// As Intel's manual describes TDPBF16PS.
inline void multiply_tiles(int c, int a, int b) {
  for (Index i = 0; i < kTileSide; ++i) {
    for (Index j = 0; j < kTileSide; ++j) {
      float chain[2] = {0.0f, 0.0f};
      for (Index w = 0; w < kTileSide; ++w) {
        for (int upper = 0; upper < 2; ++upper) {
          chain[upper] =
              __builtin_fmaf(bfloat16_half(tiles().tile[a][i][w], upper),
                             bfloat16_half(tiles().tile[b][w][j], upper), chain[upper]);
        }
      }
      float& sum = tiles().tile[c][i][j];
      sum = sum + (chain[0] + chain[1]);
    }
  }
}
inline void move_tile(int t, float* to, const float* from, Index stride_bytes) {
  for (Index i = 0; i < kTileSide; ++i) {
    float* const row = tiles().tile[t][i];
    const Index at = i * stride_bytes / static_cast<Index>(sizeof(float));
    memcpy(to ? to + at : row, from ? from + at : row, kTileSide * sizeof(float));
  }
}
#define FASTMLP_TILE_CONFIGURE(config) static_cast<void>(config)
#define FASTMLP_TILE_RELEASE() static_cast<void>(0)
#define FASTMLP_TILE_ZERO(t) memset(tiles().tile[t], 0, sizeof tiles().tile[t])
#define FASTMLP_TILE_LOAD(t, from, stride) move_tile(t, nullptr, from, stride)
#define FASTMLP_TILE_STORE(t, to, stride) move_tile(t, to, nullptr, stride)
#define FASTMLP_TILE_MULTIPLY(c, a, b) multiply_tiles(c, a, b)

#else

// Macros, because GCC needs literal numbers of tiles.
#define FASTMLP_TILE_CONFIGURE(config) _tile_loadconfig(config)
#define FASTMLP_TILE_RELEASE() _tile_release()
#define FASTMLP_TILE_ZERO(t) _tile_zero(t)
#define FASTMLP_TILE_LOAD(t, from, stride) \
  _tile_loadd(t, from, static_cast<size_t>(stride))
#define FASTMLP_TILE_STORE(t, to, stride) \
  _tile_stored(t, to, static_cast<size_t>(stride))
#define FASTMLP_TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)

#endif

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
