// How many rows at a time training and inference take through all ops.
#pragma once

#include "network/plan.h"

namespace fastmlp::detail {

// Few rows if the weights stay in the cache, more rows if every tile has to fetch the
// weights again.
template <class T>
Index tile_rows(const NetworkPlan& net) {
  constexpr double kCachedBytes = 256 << 10;
  constexpr double kLargeBytes = 4 << 20;
  const double bytes = net.weights * sizeof(T);
  return bytes <= kCachedBytes ? 96 : bytes <= kLargeBytes ? 256 : 512;
}

}  // namespace fastmlp::detail
