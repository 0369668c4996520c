// The random numbers of layers that are random in training: a function of (seed, epoch,
// step, layer, element).
#pragma once

#include <math.h>

#include "fastmlp/kernel_table.h"
#include "fastmlp/random.h"

namespace fastmlp {

// The key of the random numbers of the network's random layer with number `layer`.
inline uint64_t noise_key(const Draw& draw, uint32_t layer) {
  return random_bits(draw.seed, Stream::noise, draw.epoch, layer);
}

// Arguments of KernelTable::dropout for a layer that drops elements with probability
// `rate`. With `alpha`, an element x, or the limit of selu at -infinity in its place,
// becomes a x + b, so that mean 0 and variance 1 stay as they are (Klambauer et al.
// 2017, section "New dropout technique").
template <class T>
DropoutArgs<T> dropout_args(double rate, bool alpha, const Draw& draw, uint32_t layer) {
  constexpr double kLimit = -1.7580993408473766;  // -scale alpha of selu
  const double kept = 1 - rate;
  const double most = floor(kept * 0x1p32);
  const uint64_t bound = most < 1 ? 1 : static_cast<uint64_t>(most);
  const uint64_t key = noise_key(draw, layer);
  if (!alpha) return {key, draw.step, bound, static_cast<T>(1 / kept)};
  const double a = 1 / sqrt(kept * (1 + rate * kLimit * kLimit));
  const double b = -a * kLimit * rate;
  return {key,
          draw.step,
          bound,
          static_cast<T>(a),
          static_cast<T>(b),
          static_cast<T>(a * kLimit + b)};
}

// Arguments of KernelTable::gaussian_noise for numbers with this standard deviation.
template <class T>
GaussianArgs<T> gaussian_args(double deviation, const Draw& draw, uint32_t layer) {
  return {noise_key(draw, layer), draw.step, static_cast<T>(deviation)};
}

}  // namespace fastmlp
