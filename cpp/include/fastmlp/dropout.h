// The random numbers of dropout: a function of (seed, epoch, step, layer, element).
#pragma once

#include <math.h>

#include "fastmlp/kernel_table.h"
#include "fastmlp/random.h"

namespace fastmlp {

// Arguments of KernelTable::dropout for the network's dropout layer with number
// `layer`, which drops elements with probability `rate`.
template <class T>
DropoutArgs<T> dropout_args(double rate, const Draw& draw, uint32_t layer) {
  const double kept = 1 - rate;
  const double bound = floor(kept * 0x1p32);
  return {random_bits(draw.seed, Stream::dropout, draw.epoch, layer), draw.step,
          bound < 1 ? 1 : static_cast<uint64_t>(bound), static_cast<T>(1 / kept)};
}

}  // namespace fastmlp
