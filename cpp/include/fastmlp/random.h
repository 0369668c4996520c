// Counter-based random numbers: a pure function of (key, counter), so that a draw does
// not depend on threads or on what was drawn before, and training resumes exactly.
#pragma once

#include <array>

#include "fastmlp/types.h"

namespace fastmlp {

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key);

// What a draw is for: the last word of the counter, so that uses never overlap.
enum class Stream : uint32_t {
  shuffle = 0x53485546,
  initialize = 0x494E4954,
  dropout = 0x44524F50,
  replay = 0x52504C59
};

// 64 random bits: element `i` of stream `stream` under `seed`, in epoch (or layer)
// `group`.
uint64_t random_bits(uint64_t seed, Stream stream, uint32_t group, uint64_t i);

// out[k] = number first + k of those of 0..n-1 that (seed, stream) stands for, n > 0:
// a 64-bit number each, two of them to a call of philox.
void random_below(uint64_t* out, Index count, uint64_t n, uint64_t seed, Stream stream,
                  uint64_t first);

// order[0..n) = the permutation of 0..n-1 that (seed, epoch) stands for (Fisher-Yates).
void shuffle(int64_t* order, Index n, uint64_t seed, uint32_t epoch);

}  // namespace fastmlp
