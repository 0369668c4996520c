// The update of a network's parameters by an optimiser.
#pragma once

#include <algorithm>

#include "network/passes/pass_args.h"
#include "network/plan.h"
#include "threading/parallel.h"

namespace fastmlp::detail {

// Updates the team member's share of the parameters with a gradient, after saving what
// args.saved asks for. `decay` is an L2 coefficient for dense weights, added to the
// optimiser's own. All members must call this function.
template <class T>
void update_parameters(const Team& team, const NetworkPlan& net,
                       const PassArgs<T>& args, const T* grads, double decay) {
  const Optimizer& optimizer = *args.optimizer;
  T* const params = args.params_to_update;
  if (optimizer.clips_by_norm()) {
    const Range chunks = team.share(square_chunks(net.n_params));
    optimizer.sum_squares(*args.slots, grads, chunks.begin, chunks.end);
    team.barrier();
  }
  const double clip_scale = optimizer.clip_scale();
  const Range mine = team.share(net.n_params, kCacheLine<T>);
  const auto save = [&](T* to, const T* from) {
    if (to) std::copy(from + mine.begin, from + mine.end, to + mine.begin);
  };
  save(args.saved.params, params);
  for (size_t i = 0; i < kMaxSlots; ++i) {
    save(args.saved.slots[i], args.slots->slot[i].data());
  }
  const auto apply = [&](Index begin, Index end, bool decayed, double l2) {
    begin = std::max(begin, mine.begin);
    end = std::min(end, mine.end);
    if (begin >= end) return;
    optimizer.apply(*args.slots, params, grads, begin, end, clip_scale, decayed, l2);
  };
  const bool all = !optimizer.spares_some();
  if (all && decay == 0.0) return apply(mine.begin, mine.end, true, 0.0);
  for (const OpPlan& op : net.ops) {
    const bool dense = op.is_dense();
    if (op.weight >= 0) {
      apply(op.weight, op.weight + op.weight_size, all || dense, dense ? decay : 0.0);
    }
    if (op.bias >= 0) apply(op.bias, op.bias + op.n_out, all, 0.0);
  }
}

}  // namespace fastmlp::detail
