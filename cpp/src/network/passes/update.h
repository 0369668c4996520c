// The update of a network's parameters by an optimiser.
#pragma once

#include <algorithm>
#include <optional>

#include "network/passes/matrix_update.h"
#include "network/passes/pass_args.h"
#include "network/plan.h"
#include "threading/parallel.h"

namespace fastmlp::detail {

// What an update needs to know of an array of parameters.
struct UpdateKind {
  bool frozen;
  int group;
  bool decayed;    // see Optimizer::apply
  bool penalised;  // by the L2 penalty of the loss
  bool matrix;     // a weight that is orthogonalised, see matrix_update.h
  bool operator==(const UpdateKind& other) const {
    return frozen == other.frozen && group == other.group && decayed == other.decayed &&
           penalised == other.penalised && matrix == other.matrix;
  }
};

// `penalised`: whether the loss has an L2 penalty.
inline UpdateKind update_kind(const Optimizer& optimizer, Index begin,
                              bool dense_weight, bool frozen, bool penalised) {
  const int group = optimizer.group_of(begin);
  const OptimizerConfig& config = optimizer.config_of(group);
  const bool spared = config.decay_weights_only && !dense_weight &&
                      (config.l1 != 0 || config.weight_decay != 0) &&
                      !optimizer.decays_all(group);
  return {frozen, group, !spared, penalised && dense_weight,
          dense_weight && config.use_muon};
}

// The gradients that are clipped together by their norm: those of a group that is
// clipped alone, or those of all other parameters.
struct ClipKind {
  bool clipped;
  int group;
  bool operator==(const ClipKind& other) const {
    return clipped == other.clipped && group == other.group;
  }
};

inline ClipKind clip_kind(const Optimizer& optimizer, int group, bool frozen) {
  return {!frozen && optimizer.config_of(group).clip_norm > 0,
          optimizer.clips_alone(group) ? group : kNoGroup};
}

// Calls f(range, kind) for each longest run of parameters of one kind, where
// kind_of(begin, op, frozen, is_weight) is the kind of an array.
template <class KindOf, class F>
void each_run(const NetworkPlan& net, KindOf kind_of, F f) {
  using Kind = decltype(kind_of(Index(), net.ops.front(), false, false));
  std::optional<Kind> last;
  Range run = {0, 0};
  net.each_array(
      [&](Index begin, Index end, const OpPlan& op, bool frozen, bool is_weight) {
        const Kind kind = kind_of(begin, op, frozen, is_weight);
        if (last && *last == kind && run.end == begin) {
          run.end = end;
          return;
        }
        if (last) f(run, *last);
        last = kind;
        run = {begin, end};
      });
  if (last) f(run, *last);
}

template <class F>
void each_clipped_run(const NetworkPlan& net, const Optimizer& optimizer, F f) {
  each_run(
      net,
      [&](Index begin, const OpPlan&, bool frozen, bool) {
        return clip_kind(optimizer, optimizer.group_of(begin), frozen);
      },
      [&](Range run, ClipKind kind) {
        if (kind.clipped) f(run, kind.group);
      });
}

// Number of sums of squares that clipping by norm needs.
inline Index clip_chunks(const NetworkPlan& net, const Optimizer& optimizer) {
  Index chunks = 0;
  each_clipped_run(net, optimizer,
                   [&](Range run, int) { chunks += square_chunks(run.size()); });
  return chunks;
}

// The factors of clipping by norm. All members must call `sum`, and then `after` behind
// a barrier.
template <class T>
class Clipping {
 public:
  Clipping(const NetworkPlan& net, const Optimizer& optimizer, double* squares)
      : net_(net), optimizer_(optimizer), squares_(squares) {}

  // Computes the team member's share of the sums of squares.
  void sum(const Team& team, const T* grads) const {
    const Range mine = team.share(clip_chunks(net_, optimizer_));
    Index before = 0;
    each_clipped_run(net_, optimizer_, [&](Range run, int) {
      const Index chunks = square_chunks(run.size());
      const Index end = std::min(before + chunks, mine.end);
      for (Index c = std::max(before, mine.begin); c < end; ++c) {
        squares_[c] = squares_of_chunk(grads + run.begin, run.size(), c - before);
      }
      before += chunks;
    });
  }

  // The factor for the gradients of a group.
  double scale(int group) const {
    const ClipKind kind = clip_kind(optimizer_, group, false);
    if (!kind.clipped) return 1.0;
    double sum = 0.0;
    Index at = 0;
    each_clipped_run(net_, optimizer_, [&](Range run, int owner) {
      const Index end = at + square_chunks(run.size());
      for (; at < end; ++at) sum += owner == kind.group ? squares_[at] : 0.0;
    });
    return optimizer_.clip_scale(sum, kind.group);
  }

 private:
  const NetworkPlan& net_;
  const Optimizer& optimizer_;
  double* squares_;
};

// Updates the team member's share of the parameters with a gradient, after saving what
// args.saved asks for. `decay` is an L2 coefficient for dense weights, added to the
// optimiser's own. All members must call this function.
template <class T>
void update_parameters(const Team& team, const NetworkPlan& net,
                       const PassArgs<T>& args, const T* grads, double decay) {
  const Optimizer& optimizer = *args.optimizer;
  const OptimizerSlots<T>& slots = *args.slots;
  T* const params = args.params_to_update;
  const Range mine = team.share(net.n_params, optimizer.grain(kCacheLine<T>));
  const auto save = [&](T* to, const T* from) {
    if (to) std::copy(from + mine.begin, from + mine.end, to + mine.begin);
  };
  save(args.saved.params, params);
  for (size_t i = 0; i < kMaxSlots; ++i) {
    save(args.saved.slots[i], slots.slot[i].data());
  }
  if (optimizer.accumulates()) {
    optimizer.collect(slots, grads, mine.begin, mine.end);
    if (!optimizer.completes()) return;
    grads = slots.slot[kGradientSlot].data();
    team.barrier();
  }
  const bool clips = optimizer.clips_by_norm();
  const Clipping<T> clipping(net, optimizer, slots.squares.data());
  if (clips) {
    clipping.sum(team, grads);
    team.barrier();
  }
  const auto kind_of = [&](Index begin, const OpPlan& op, bool frozen, bool is_weight) {
    // The gradient of a parametrised weight contains the penalty already.
    return update_kind(optimizer, begin, op.is_dense() && is_weight, frozen,
                       decay != 0.0 && !op.is_parametrized());
  };
  each_run(net, kind_of, [&](Range run, UpdateKind kind) {
    const Index begin = std::max(run.begin, mine.begin);
    const Index end = std::min(run.end, mine.end);
    if (begin >= end) return;
    if (kind.frozen) return optimizer.pass_by(slots, params, begin, end);
    if (kind.matrix) return;
    optimizer.apply(slots, params, grads, begin, end,
                    clips ? clipping.scale(kind.group) : 1.0, kind.decayed,
                    kind.penalised ? decay : 0.0, kind.group);
  });
  if (!args.matrices) return;
  team.barrier();  // until all members have saved their parts
  net.each_array([&](Index begin, Index end, const OpPlan& op, bool frozen,
                     bool is_weight) {
    const UpdateKind kind = kind_of(begin, op, frozen, is_weight);
    if (!kind.matrix || frozen) return;
    const OptimizerConfig& config = optimizer.config_of(kind.group);
    MatrixUpdate<T> update(team, op, config, *args.matrices, params + begin,
                           slots.slot[0].data() + begin);
    update.run(grads + begin, clips ? clipping.scale(kind.group) : 1.0,
               kind.penalised ? decay : 0.0, kind.decayed ? config.weight_decay : 0.0);
    const Range own = team.share(end - begin, kCacheLine<T>);
    optimizer.average(slots, params, begin + own.begin, begin + own.end);
  });
}

}  // namespace fastmlp::detail
