// Layers that are random in training: random words by Philox4x32-10 (see random.h),
// sixteen counters at a time.
#pragma once

#include <string.h>

#include "loops-inl.h"
#include "math-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// A block of elements uses the random words of sixteen counters.
constexpr Index kCounters = 16, kBlockElements = 4 * kCounters;
// Number of blocks computed together, so that some time passes between the narrow
// stores of random words and the wide loads that read them.
constexpr Index kBlocks = 2, kWords = kBlocks * kBlockElements;

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
                         uint32_t most, const DropoutArgs<T>& args) {
  const T scale = args.scale, shift = args.shift, dropped = args.dropped;
  for (Index i = 0; i < n; ++i) {
    const bool keep = word[i] <= most;
    const T value = x[i] * scale + shift;
    mask[i] = keep ? scale : T(0);
    h[i] = keep ? value : dropped;
  }
}

// Calls f(words, skip, done, count) until n elements are done: words + skip are the
// random words of `count` elements from element first + done on. Most counts are
// kWords.
template <class F>
FASTMLP_INLINE void for_each_words(Index first, Index n, uint64_t key, uint64_t draw,
                                   F f) {
  uint32_t words[kWords];
  Index done = 0;
  while (done < n) {
    const Index element = first + done;
    const Index group = element / kWords, skip = element % kWords;
    philox_words(words, static_cast<uint64_t>(group) * (kBlocks * kCounters), draw,
                 key);
    const Index left = n - done, rest = kWords - skip;
    const Index count = left < rest ? left : rest;
    f(words, skip, done, count);
    done += count;
  }
}

template <class T>
void dropout(T* h, T* mask, const T* x, Index first, Index n,
             const DropoutArgs<T>& args) {
  // The largest word for which an element is kept. bound >= 1, so the subtraction does
  // not wrap around.
  const uint32_t most = static_cast<uint32_t>(args.bound - 1);
  const auto body = [&](const uint32_t* words, Index skip, Index done,
                        Index count) FASTMLP_LAMBDA {
    if (count == kWords) {
      drop(h + done, mask + done, x + done, words, kWords, most, args);
    } else {
      drop(h + done, mask + done, x + done, words + skip, count, most, args);
    }
  };
  for_each_words(first, n, args.key, args.draw, body);
}

// Normal numbers from the words of 2 kCounters elements: kCounters pairs, whose
// elements are kCounters apart.
template <class T>
FASTMLP_INLINE void normal_pairs(T* out, const uint32_t* words) {
  using V = Vec<T>;
  T u[kCounters], angle[kCounters];
  for (Index l = 0; l < kCounters; ++l) {
    const float half = static_cast<float>(static_cast<int32_t>(words[l] >> 1));
    u[l] = static_cast<T>((half + 0.5f) * 0x1p-31f);
    angle[l] =
        static_cast<T>(static_cast<float>(static_cast<int32_t>(words[kCounters + l])));
  }
  const V scale = V::set1(T(3.14159265358979323846 * 0x1p-31));
  for (Index l = 0; l < kCounters; l += V::kLanes) {
    const V radius = sqrt(V::set1(T(-2)) * vlog(V::load(u + l)));
    const V t = V::load(angle + l) * scale;
    (radius * vcos(t)).store(out + l);
    (radius * vsin(t)).store(out + kCounters + l);
  }
}

template <class T>
void gaussian_noise(T* h, T* factors, const T* x, Index first, Index n,
                    const GaussianArgs<T>& args) {
  using V = Vec<T>;
  const V deviation = V::set1(args.deviation), one = V::set1(T(1));
  const auto block = [&](const uint32_t* words, Index skip, Index done,
                         Index count) FASTMLP_LAMBDA {
    T normals[kWords];
    for (Index i = 0; i < kWords; i += 2 * kCounters) {
      // Pairs of which no element is needed are left out.
      if (i + 2 * kCounters > skip && i < skip + count) {
        normal_pairs(normals + i, words + i);
      }
    }
    const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
      const V z = io.load(normals + skip + i), v = io.load(x + done + i);
      if (factors) {
        const V factor = fma(deviation, z, one);
        io.store(factors + done + i, factor);
        io.store(h + done + i, v * factor);
      } else {
        io.store(h + done + i, fma(deviation, z, v));
      }
    };
    for_each_vector<T>(count, body);
  };
  for_each_words(first, n, args.key, args.draw, block);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
