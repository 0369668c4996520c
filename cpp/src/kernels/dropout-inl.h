// Dropout: random words by Philox4x32-10 (see random.h), sixteen counters at a time.
#pragma once

#include <string.h>

#include "sweep-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

constexpr Index kWordsAtOnce = 64;

// words[16 w + l] = word w of philox(counter g0 + l, draw) for l < 16. g0 is a multiple
// of 16, so that the lower half of the counter does not overflow.
FASTMLP_INLINE void philox_words(uint32_t* words, uint64_t g0, uint64_t draw,
                                 uint64_t key) {
  using B = Bits<float>;
  constexpr Index kCounters = 16, L = Vec<float>::kLanes, kVectors = kCounters / L;
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const B multiplier0 = set1_bits<float>(0xD2511F53);
  const B multiplier1 = set1_bits<float>(0xCD9E8D57);
  uint32_t first[kCounters];
  for (Index l = 0; l < kCounters; ++l) first[l] = low(g0) + static_cast<uint32_t>(l);
  // All vectors go through a round together, so that their multiplications overlap.
  B c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
  for (Index v = 0; v < kVectors; ++v) {
    memcpy(&c0[v], first + v * L, sizeof(B));
    c1[v] = set1_bits<float>(high(g0));
    c2[v] = set1_bits<float>(low(draw));
    c3[v] = set1_bits<float>(high(draw));
  }
  uint32_t k0 = low(key), k1 = high(key);
  for (int round = 0; round < 10; ++round) {
    const B key0 = set1_bits<float>(k0), key1 = set1_bits<float>(k1);
    for (Index v = 0; v < kVectors; ++v) {
      B low0, high0, low1, high1;
      multiply_wide(c0[v], multiplier0, low0, high0);
      multiply_wide(c2[v], multiplier1, low1, high1);
      c0[v] = high1 ^ c1[v] ^ key0;
      c1[v] = low1;
      c2[v] = high0 ^ c3[v] ^ key1;
      c3[v] = low0;
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  for (Index v = 0; v < kVectors; ++v) {
    uint32_t* const to = words + v * L;
    memcpy(to, &c0[v], sizeof(B));
    memcpy(to + kCounters, &c1[v], sizeof(B));
    memcpy(to + 2 * kCounters, &c2[v], sizeof(B));
    memcpy(to + 3 * kCounters, &c3[v], sizeof(B));
  }
}

// Elements that lie in one block; integer comparisons are for the compiler to vectorise.
template <class T>
FASTMLP_INLINE void drop(T* h, T* mask, const T* x, const uint32_t* word, Index n,
                         uint32_t most, T scale) {
  for (Index i = 0; i < n; ++i) {
    const bool keep = word[i] <= most;
    const T value = x[i] * scale;
    mask[i] = keep ? scale : T(0);
    h[i] = keep ? value : T(0);
  }
}

template <class T>
void dropout(T* h, T* mask, const T* x, Index first, Index n,
             const DropoutArgs<T>& args) {
  uint32_t words[kWordsAtOnce];
  // What is kept: words up to this one, of which there always are some.
  const uint32_t most = static_cast<uint32_t>(args.bound - 1);
  Index done = 0;
  while (done < n) {
    const Index element = first + done;
    const Index block = element / kWordsAtOnce, skip = element % kWordsAtOnce;
    philox_words(words, static_cast<uint64_t>(block) * 16, args.draw, args.key);
    const Index left = n - done, rest = kWordsAtOnce - skip;
    const Index count = left < rest ? left : rest;
    if (count == kWordsAtOnce) {
      drop(h + done, mask + done, x + done, words, kWordsAtOnce, most, args.scale);
    } else {
      drop(h + done, mask + done, x + done, words + skip, count, most, args.scale);
    }
    done += count;
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
