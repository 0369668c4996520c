#include "fastmlp/random.h"

#include <utility>

#include "threading/stop.h"

namespace fastmlp {
namespace {

// The high 64 bits of the 128-bit product, computed from 32-bit halves.
uint64_t multiply_high(uint64_t a, uint64_t b) {
  const uint64_t a0 = a & 0xFFFFFFFFu, a1 = a >> 32;
  const uint64_t b0 = b & 0xFFFFFFFFu, b1 = b >> 32;
  const uint64_t mid = a1 * b0 + ((a0 * b0) >> 32);
  return a1 * b1 + (mid >> 32) + (((mid & 0xFFFFFFFFu) + a0 * b1) >> 32);
}

}  // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, uint64_t key) {
  constexpr int kRounds = 10;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

uint64_t random_bits(uint64_t seed, Stream stream, uint32_t group, uint64_t i) {
  const auto r = philox({static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32),
                         group, static_cast<uint32_t>(stream)},
                        seed);
  return r[0] | uint64_t{r[1]} << 32;
}

void random_below(uint64_t* out, Index count, uint64_t n, uint64_t seed, Stream stream,
                  uint64_t first) {
  const uint64_t end = first + static_cast<uint64_t>(count);
  for (uint64_t k = first & ~uint64_t{1}; k < end; k += 2) {
    const uint64_t pair = k / 2;
    const auto r =
        philox({static_cast<uint32_t>(pair), static_cast<uint32_t>(pair >> 32), 0,
                static_cast<uint32_t>(stream)},
               seed);
    if (k >= first) out[k - first] = multiply_high(r[0] | uint64_t{r[1]} << 32, n);
    if (k + 1 < end) out[k + 1 - first] = multiply_high(r[2] | uint64_t{r[3]} << 32, n);
  }
}

void shuffle(int64_t* order, Index n, uint64_t seed, uint32_t epoch) {
  for (Index i = 0; i < n; ++i) order[i] = i;
  constexpr Index kBetweenLooks = 1 << 16;
  for (Index i = n - 1; i > 0; --i) {
    if (i % kBetweenLooks == 0) detail::check_stop();
    const uint64_t draw =
        random_bits(seed, Stream::shuffle, epoch, static_cast<uint64_t>(i));
    const Index j =
        static_cast<Index>(multiply_high(draw, static_cast<uint64_t>(i) + 1));
    std::swap(order[i], order[j]);
  }
}

}  // namespace fastmlp
