// Dropout: random words by Philox4x32-10 (see random.h), sixteen counters at a time.
// Integers throughout, so the loops are plain ones, for the compiler to vectorise.
#pragma once

#include "sweep-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

constexpr Index kWordsAtOnce = 64;

// words[16 w + l] = word w of philox(counter g0 + l, draw) for l < 16.
FASTMLP_INLINE void philox_words(uint32_t* words, uint64_t g0, uint64_t draw,
                                 uint64_t key) {
  constexpr int kLanes = 16;
  constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    // g0 is a multiple of 16, so that the lower half does not overflow.
    c0[l] = static_cast<uint32_t>(g0) + static_cast<uint32_t>(l);
    c1[l] = static_cast<uint32_t>(g0 >> 32);
    c2[l] = static_cast<uint32_t>(draw);
    c3[l] = static_cast<uint32_t>(draw >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int l = 0; l < kLanes; ++l) {
      const uint64_t p0 = uint64_t{kMultiplier0} * c0[l];
      const uint64_t p1 = uint64_t{kMultiplier1} * c2[l];
      c0[l] = static_cast<uint32_t>(p1 >> 32) ^ c1[l] ^ k0;
      c1[l] = static_cast<uint32_t>(p1);
      c2[l] = static_cast<uint32_t>(p0 >> 32) ^ c3[l] ^ k1;
      c3[l] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  for (int l = 0; l < kLanes; ++l) {
    words[l] = c0[l];
    words[kLanes + l] = c1[l];
    words[2 * kLanes + l] = c2[l];
    words[3 * kLanes + l] = c3[l];
  }
}

template <class T>
void dropout(T* h, T* mask, const T* x, Index first, Index n,
             const DropoutArgs<T>& args) {
  uint32_t words[kWordsAtOnce];
  // What is kept: words up to this one, of which there always are some.
  const uint32_t most = static_cast<uint32_t>(args.bound - 1);
  const T scale = args.scale;
  Index done = 0;
  while (done < n) {
    const Index element = first + done;
    const Index block = element / kWordsAtOnce, skip = element % kWordsAtOnce;
    philox_words(words, static_cast<uint64_t>(block) * 16, args.draw, args.key);
    const Index left = n - done, rest = kWordsAtOnce - skip;
    const Index count = left < rest ? left : rest;
    const uint32_t* const word = words + skip;
    for (Index i = 0; i < count; ++i) {
      const bool keep = word[i] <= most;
      const T value = x[done + i] * scale;
      mask[done + i] = keep ? scale : T(0);
      h[done + i] = keep ? value : T(0);
    }
    done += count;
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
