// Dropout: random words by Philox4x32-10 (see random.h), sixteen counters at a time.
#pragma once

#include <string.h>

#include "loops-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// A block of elements uses the random words of sixteen counters.
constexpr Index kCounters = 16, kBlockElements = 4 * kCounters;
// Number of blocks computed together, so that some time passes between the narrow
// stores of random words and the wide loads that read them.
constexpr Index kBlocks = 2;

// words[64 b + 16 w + l] = word w of philox(counter g0 + 16 b + l, draw), for l < 16
// and b < kBlocks. g0 is a multiple of 16 kBlocks, so the lower half of the counter
// cannot overflow within one call.
FASTMLP_INLINE void philox_words(uint32_t* words, uint64_t g0, uint64_t draw,
                                 uint64_t key) {
  // A word is the lower half of a 64-bit lane, as the multiplication requires; the
  // upper half is ignored. As many vectors as fit into registers go through the rounds
  // together, so that their multiplications overlap.
  using B = Bits<double>;
  constexpr Index L = Vec<double>::kLanes, kVectors = L >= 4 ? 4 : 2;
  const B multiplier0 = set1_bits<double>(0xD2511F53);
  const B multiplier1 = set1_bits<double>(0xCD9E8D57);
  for (Index first = 0; first < kBlocks * kCounters; first += kVectors * L) {
    uint64_t lanes[kVectors * L];
    for (Index l = 0; l < kVectors * L; ++l) {
      lanes[l] = g0 + static_cast<uint64_t>(first + l);
    }
    B c[4][kVectors];
    for (Index v = 0; v < kVectors; ++v) {
      memcpy(&c[0][v], lanes + v * L, sizeof(B));
      c[1][v] = set1_bits<double>(g0 >> 32);
      c[2][v] = set1_bits<double>(draw);
      c[3][v] = set1_bits<double>(draw >> 32);
    }
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const B key0 = set1_bits<double>(k0), key1 = set1_bits<double>(k1);
#pragma GCC unroll 4
      for (Index v = 0; v < kVectors; ++v) {
        const B product0 = multiply_low_halves(c[0][v], multiplier0);
        const B product1 = multiply_low_halves(c[2][v], multiplier1);
        c[0][v] = shr<32>(product1) ^ c[1][v] ^ key0;
        c[1][v] = product1;
        c[2][v] = shr<32>(product0) ^ c[3][v] ^ key1;
        c[3][v] = product0;
      }
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
#pragma GCC unroll 4
    for (Index w = 0; w < 4; ++w) {
#pragma GCC unroll 4
      for (Index v = 0; v < kVectors; ++v) {
        const Index counter = first + v * L;
        uint32_t* const to = words + counter / kCounters * kBlockElements +
                             w * kCounters + counter % kCounters;
        uint64_t wide[L];
        memcpy(wide, &c[w][v], sizeof wide);
        for (Index l = 0; l < L; ++l) to[l] = static_cast<uint32_t>(wide[l]);
      }
    }
  }
}

// Applies dropout to n elements, given their random words. This is a plain loop, so
// that the compiler vectorises the integer comparison.
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
  constexpr Index kWords = kBlocks * kBlockElements;
  uint32_t words[kWords];
  // The largest word for which an element is kept. bound >= 1, so the subtraction does
  // not wrap around.
  const uint32_t most = static_cast<uint32_t>(args.bound - 1);
  Index done = 0;
  while (done < n) {
    const Index element = first + done;
    const Index group = element / kWords, skip = element % kWords;
    philox_words(words, static_cast<uint64_t>(group) * (kBlocks * kCounters), args.draw,
                 args.key);
    const Index left = n - done, rest = kWords - skip;
    const Index count = left < rest ? left : rest;
    if (count == kWords) {
      drop(h + done, mask + done, x + done, words, kWords, most, args.scale);
    } else {
      drop(h + done, mask + done, x + done, words + skip, count, most, args.scale);
    }
    done += count;
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
