// Counter-based random numbers: a pure function of (key, counter). They depend neither
// on threads nor on earlier draws, so resumed training draws the same numbers.
#pragma once

#include <array>

#include "fastmlp/types.h"

namespace fastmlp {

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key);

// The purpose of a draw. It is the last word of the counter, so that different purposes
// never share numbers.
enum class Stream : uint32_t {
  shuffle = 0x53485546,
  initialize = 0x494E4954,
  noise = 0x44524F50,
  replay = 0x52504C59
};

// 64 random bits: element `i` of the sequence that belongs to (seed, stream, group). A
// group is an epoch or a layer.
uint64_t random_bits(uint64_t seed, Stream stream, uint32_t group, uint64_t i);

// out[k] = element first + k of the sequence of numbers in [0, n) that belongs to
// (seed, stream), n > 0. Each number takes 64 random bits, so a call of philox yields
// two numbers.
void random_below(uint64_t* out, Index count, uint64_t n, uint64_t seed, Stream stream,
                  uint64_t first);

// Selects the random numbers that a pass in training mode draws.
struct Draw {
  uint64_t seed = 0;
  uint32_t epoch = 0;
  uint64_t step = 0;
};

// Values of Draw::epoch outside Mlp::fit_epoch, whose epochs count from 0. Optimiser
// steps use kStepDraws with the optimiser's step count; other passes in training mode
// use kPassDraws with the number of the pass.
constexpr uint32_t kStepDraws = 0xFFFFFFFF;
constexpr uint32_t kPassDraws = 0xFFFFFFFE;

// order[0..n) = the permutation of 0..n-1 that belongs to (seed, epoch) (Fisher-Yates).
void shuffle(int64_t* order, Index n, uint64_t seed, uint32_t epoch);

}  // namespace fastmlp
