#include "network/derivatives/derivatives.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "network/derivatives/cotangents.h"
#include "network/derivatives/second_order.h"
#include "network/derivatives/tangents.h"
#include "threading/stop.h"

namespace fastmlp::detail {
namespace {

template <class T>
class Derivation {
 public:
  Derivation(const NetworkView<T>& view, const Request<T>& request)
      : given_(view.params),
        view_(view),
        net_(view.net),
        rq_(request),
        plan_(plan_derivatives(view.net, request)),
        shared_(net_.ops.size()),
        members_(static_cast<size_t>(plan_.team.most)) {}

  void run(AlignedBuffer<T>& memory) {
    Arena<T> count(nullptr);
    take_memory(count);
    memory.reserve(count.used());
    Arena<T> arena(memory.data());
    take_memory(arena);
    view_.params = effective().data();
    run_team(plan_.team, [&](const Team& team) {
      effective().compute(team);
      prepare(team);
      team.barrier();
      derive(team, members_[static_cast<size_t>(team.rank())]);
    });
  }

 private:
  bool wants_second() const { return rq_.mode == Mode::second; }
  EffectiveParams<T> effective() const {
    return {net_, given_, view_.buffers, effective_memory_};
  }

  void take_memory(Arena<T>& arena) {
    const bool packs_transposed = rq_.mode != Mode::tangents;
    for (size_t l = 0; l < net_.ops.size(); ++l) {
      const OpPlan& op = net_.ops[l];
      const bool packs = plan_.packs_values[l] || plan_.packs_tangents[l];
      visit(op.kind, [&](auto kind) {
        kind.take_shared_memory(arena, op, packs, packs_transposed, shared_[l]);
      });
    }
    effective_memory_ = arena.take(EffectiveParams<T>::memory_size(net_));
    if (plan_.seeds_from_weights) {
      seeds_ = arena.take(net_.ops.back().n_in * net_.n_out);
    }
    for (TileMemory<T>& member : members_) take_tile_memory(arena, member);
  }

  void take_tile_memory(Arena<T>& arena, TileMemory<T>& me) const {
    const Index rows = plan_.tile_rows, all = rows * plan_.tile_directions;
    Index widest = 0, longest_list = 0;
    me.ops.resize(net_.ops.size());
    for (size_t l = 0; l < net_.ops.size(); ++l) {
      const OpPlan& op = net_.ops[l];
      auto& its = me.ops[l];
      const Index n = op.n_out;
      widest = std::max(widest, n);
      if (plan_.gathers[l]) longest_list = std::max({longest_list, op.n_in, n});
      if (wants_second()) {
        its.cotangent = arena.take(rows * n);
        its.dot = arena.take(all * n);
      }
      if (op.is_identity_at_inference) continue;
      its.h = arena.take(rows * n);
      if (op.saves_input()) its.z = arena.take(rows * n);
      if (has_slope(op)) its.slope = arena.take(rows * n);
      visit(op.kind, [&](auto kind) { kind.take_row_memory(arena, op, rows, its); });
      if (wants_second()) {
        its.tangent = arena.take(all * n);
        its.before = has_activation(op) ? arena.take(all * n) : its.tangent;
      }
    }
    if (wants_second()) me.product = arena.take(rows * widest);
    me.slots.clear();
    for (const Index width : plan_.slot_width)
      me.slots.push_back(arena.take(all * width));
    if (net_.n_derived > 0) me.correction = arena.take(net_.widest);
    me.losses = arena.take(rows);
    me.scales = arena.take(rows);
    if (plan_.needs_identity) me.identity = arena.take(all * net_.n_in);
    me.scratch = arena.take(dense_left_scratch_size<T>(net_, std::max(rows, all)));
    me.list.resize(static_cast<size_t>(longest_list * rows));
    me.count.resize(static_cast<size_t>(rows));
  }

  void prepare(const Team& team) {
    for (size_t l = 0; l < net_.ops.size(); ++l) {
      const OpPlan& op = net_.ops[l];
      visit(op.kind, [&](auto kind) {
        kind.prepare(team, kernels<T>(), op, view_, shared_[l]);
      });
    }
    if (plan_.seeds_from_weights && team.rank() == 0) {
      const OpPlan& last = net_.ops.back();
      transpose(seeds_, last.n_in, view_.params + last.weight, last.n_out, last.n_in,
                last.n_out);
    }
  }

  // Computes this member's share of the tiles.
  void derive(const Team& team, TileMemory<T>& me) const {
    const Index chunks = plan_.chunks;
    const Range mine = team.share(rq_.rows * chunks);
    Index known = -1;  // the row whose values are in memory, if tiles have one row
    for (Index u = mine.begin; u < mine.end && !stop_requested();) {
      Tile tile;
      tile.row = u / chunks;
      tile.rows = chunks > 1 ? 1 : std::min(plan_.tile_rows, mine.end - u);
      tile.first = u % chunks * plan_.tile_directions;
      tile.directions = std::min(plan_.tile_directions, rq_.directions - tile.first);
      const DerivativePass<T> pass(view_, rq_, plan_, shared_, me, tile);
      if (chunks == 1 || tile.row != known) pass.compute_values();
      known = tile.row;
      switch (rq_.mode) {
        case Mode::tangents:
          compute_tangents(pass);
          break;
        case Mode::cotangents:
          compute_cotangents(pass, seeds_, effective());
          break;
        case Mode::second:
          compute_second_order(pass);
          break;
      }
      u += tile.rows;
    }
  }

  const T* given_;       // parameters
  NetworkView<T> view_;  // with the parameters as ops read them
  const NetworkPlan& net_;
  const Request<T>& rq_;
  const DerivativePlan plan_;
  std::vector<OpMemory<T>> shared_;  // by op
  std::vector<TileMemory<T>> members_;
  T* seeds_ = nullptr;  // the last op's weights, transposed
  T* effective_memory_ = nullptr;
};

template <class T>
void derive(const NetworkView<T>& view, const Request<T>& request,
            AlignedBuffer<T>& memory) {
  Derivation<T>(view, request).run(memory);
}

void refuse_custom(const NetworkPlan& net, const char* what) {
  if (!net.has_custom) return;
  throw std::invalid_argument(std::string(what) +
                              ": a custom activation has no second derivative");
}

}  // namespace

template <class T>
void jacobian(const NetworkView<T>& view, T* j, const T* x, Index rows,
              AlignedBuffer<T>& memory) {
  const NetworkPlan& net = view.net;
  // Multiply-adds for each direction in forward and in reverse mode. Products with unit
  // vectors cost none.
  double forward = 0, back = 0;
  for (const OpPlan& op : net.ops) {
    if (!op.is_dense()) continue;
    const double size = static_cast<double>(op.n_in) * static_cast<double>(op.n_out);
    if (op.input != kInput) forward += size;
    if (&op != &net.ops.back() || has_activation(op)) back += size;
  }
  const bool is_forward =
      static_cast<double>(net.n_in) * forward < static_cast<double>(net.n_out) * back;
  Request<T> rq = {is_forward ? Mode::tangents : Mode::cotangents, x, rows,
                   is_forward ? net.n_in : net.n_out, j};
  derive(view, rq, memory);
}

template <class T>
void jvp(const NetworkView<T>& view, T* y, T* dy, const T* x, const T* v, Index rows,
         AlignedBuffer<T>& memory) {
  Request<T> rq = {Mode::tangents, x, rows, 1, dy, y, v};
  derive(view, rq, memory);
}

template <class T>
void param_jacobian(const NetworkView<T>& view, T* j, T* y, const T* x, Index rows,
                    AlignedBuffer<T>& memory) {
  Request<T> rq = {Mode::cotangents, x, rows, view.net.n_out, j, y};
  rq.of_params = true;
  derive(view, rq, memory);
}

template <class T>
void per_sample_grads(const NetworkView<T>& view, T* grads, const T* x,
                      const Targets<T>& targets, const Loss& loss, Index rows,
                      AlignedBuffer<T>& memory) {
  check_targets(loss, targets, rows, view.net.n_out);
  check_target_values(loss, targets, rows, view.net.n_out);
  Request<T> rq = {Mode::cotangents, x, rows, 1, grads};
  rq.of_params = true;
  rq.loss = &loss;
  rq.targets = &targets;
  derive(view, rq, memory);
}

template <class T>
void hvp(const NetworkView<T>& view, T* hv, const T* x, const T* v, const T* weights,
         Index rows, AlignedBuffer<T>& memory) {
  refuse_custom(view.net, "hvp");
  Request<T> rq = {Mode::second, x, rows, 1, hv, nullptr, v, weights};
  derive(view, rq, memory);
}

template <class T>
void hessian(const NetworkView<T>& view, T* h, const T* x, const T* weights, Index rows,
             AlignedBuffer<T>& memory) {
  refuse_custom(view.net, "hessian");
  Request<T> rq = {Mode::second, x, rows, view.net.n_in, h, nullptr, nullptr, weights};
  derive(view, rq, memory);
}

#define FASTMLP_INSTANTIATE(T)                                                      \
  template void jacobian(const NetworkView<T>&, T*, const T*, Index,                \
                         AlignedBuffer<T>&);                                        \
  template void jvp(const NetworkView<T>&, T*, T*, const T*, const T*, Index,       \
                    AlignedBuffer<T>&);                                             \
  template void param_jacobian(const NetworkView<T>&, T*, T*, const T*, Index,      \
                               AlignedBuffer<T>&);                                  \
  template void per_sample_grads(const NetworkView<T>&, T*, const T*,               \
                                 const Targets<T>&, const Loss&, Index,             \
                                 AlignedBuffer<T>&);                                \
  template void hvp(const NetworkView<T>&, T*, const T*, const T*, const T*, Index, \
                    AlignedBuffer<T>&);                                             \
  template void hessian(const NetworkView<T>&, T*, const T*, const T*, Index,       \
                        AlignedBuffer<T>&);
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

}  // namespace fastmlp::detail
