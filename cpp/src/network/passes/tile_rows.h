// How many rows at a time training and inference take through all ops.
#pragma once

#include "fastmlp/caches.h"
#include "fastmlp/sparse.h"
#include "network/plan.h"

namespace fastmlp::detail {

// Few rows if the weights stay in the cache, more rows if every tile has to fetch the
// weights again.
template <class T>
Index tile_rows(const NetworkPlan& net) {
  const double bytes = net.weights * sizeof(T);
  const auto cache = static_cast<double>(l2_of_core());
  return bytes <= cache / 4 ? 96 : bytes <= 4 * cache ? 256 : 512;
}

// Multiply-adds of a forward pass over `rows` rows, which are sparse if `sparse` has
// any.
template <class T>
double work_of_rows(const NetworkPlan& net, Index rows, const SparseRows<T>& sparse) {
  const auto n = static_cast<double>(rows);
  if (!sparse) return n * net.work;
  return n * net.sparse_work(static_cast<double>(sparse.count(rows)) / n);
}

}  // namespace fastmlp::detail
