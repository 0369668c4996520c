#include "network/derivatives/request.h"

#include <algorithm>
#include <limits>

#include "fastmlp/caches.h"
#include "fastmlp/kernel_table.h"
#include "network/arena.h"
#include "network/ops/dense.h"

namespace fastmlp::detail {
namespace {

template <class T>
class Planner {
 public:
  Planner(const NetworkPlan& net, const Request<T>& request)
      : net_(net),
        rq_(request),
        table_(kernels<T>()),
        n_ops_(net.ops.size()),
        wants_second_(request.mode == Mode::second) {}

  DerivativePlan run() {
    plan_seed();
    plan_gathering();
    plan_slots();
    plan_tiles();
    return std::move(plan_);
  }

 private:
  const OpPlan& op(size_t l) const { return net_.ops[l]; }

  void plan_seed() {
    const OpPlan& last = net_.ops.back();
    plan_.seeds_from_weights = rq_.mode == Mode::cotangents && !rq_.of_params &&
                               !rq_.loss && last.is_dense() && !has_activation(last);
    plan_.uses.assign(n_ops_ + 1, 0);
    for (const OpPlan& each : net_.ops) {
      for (const int from : {each.input, each.other}) {
        if (from == kNone) continue;
        ++plan_.uses[from == kInput ? n_ops_ : static_cast<size_t>(from)];
        if (from == kInput && !each.is_dense()) plan_.needs_identity = true;
      }
    }
    plan_.needs_identity = plan_.needs_identity && rq_.has_unit_tangents();
  }

  // For a row, about half of a relu's outputs are 0. With enough directions it pays to
  // gather only the units with nonzero outputs for a matrix product: for tangents, the
  // product of the next dense op; for cotangents, the product of the relu's own dense
  // op. The multiplication by relu's derivative, which is 0 or 1, then becomes
  // unnecessary. Tangents are gathered only if no other op reads them, because another
  // op would need them multiplied.
  void plan_gathering() {
    plan_.gathers.assign(n_ops_, 0);
    plan_.defers_relu.assign(n_ops_, 0);
    if (rq_.directions < kGatherPays || wants_second_ || rq_.of_params) return;
    for (size_t l = 0; l < n_ops_; ++l) {
      const OpPlan& each = op(l);
      if (!each.is_dense() || each.n_out > std::numeric_limits<int32_t>::max())
        continue;
      if (rq_.mode == Mode::cotangents) {
        plan_.gathers[l] = each.activation == Activation::relu;
      } else if (each.input >= 0) {
        const size_t from = static_cast<size_t>(each.input);
        const bool gathers =
            op(from).activation == Activation::relu && plan_.uses[from] == 1;
        plan_.gathers[l] = plan_.defers_relu[from] = gathers;
      }
    }
  }

  void plan_slots() {
    plan_.slot.assign(n_ops_, -1);
    SlotAllocator slots;
    if (rq_.mode == Mode::cotangents) {
      plan_cotangent_slots(slots);
    } else if (rq_.mode == Mode::tangents) {
      plan_tangent_slots(slots);
    }
    plan_.slot_width = slots.sizes();
  }

  bool needs_cotangent(int of) const {
    return !rq_.of_params || op(static_cast<size_t>(of)).learns;
  }

  void plan_cotangent_slots(SlotAllocator& slots) {
    std::vector<int>& slot = plan_.slot;
    slot.back() = plan_.seeds_from_weights ? -1 : slots.take(net_.n_out);
    for (size_t l = n_ops_; l-- > 0;) {
      const OpPlan& each = op(l);
      bool handed_on = false;
      for (const int to : {each.other, each.input}) {
        if (to < 0 || !needs_cotangent(to)) continue;
        int& its_slot = slot[static_cast<size_t>(to)];
        if (its_slot >= 0) continue;
        // If an op's output is as wide as its input and no other op reads that input,
        // the cotangent of the input may overwrite the cotangent of the output.
        handed_on = to == each.input && each.works_elementwise() &&
                    plan_.uses[static_cast<size_t>(to)] == 1;
        its_slot = handed_on ? slot[l] : slots.take(net_.width_of(to));
      }
      if (!handed_on && slot[l] >= 0) slots.release(slot[l]);
    }
  }

  void plan_tangent_slots(SlotAllocator& slots) {
    std::vector<int> left(plan_.uses.begin(), plan_.uses.end());
    for (size_t l = 0; l < n_ops_; ++l) {
      plan_.slot[l] = slots.take(op(l).n_out);
      for (const int from : {op(l).input, op(l).other}) {
        if (from >= 0 && --left[static_cast<size_t>(from)] == 0) {
          slots.release(plan_.slot[static_cast<size_t>(from)]);
        }
      }
    }
  }

  // Chooses the largest numbers of rows and directions of a tile for which the tile's
  // memory fits in the second-level cache.
  void plan_tiles() {
    // The rest of the cache is for weights.
    const Index bytes = l2_of_core() / 8 * 3;
    constexpr Index kMostRows = 192, kFewestDirections = 16;
    Index for_row = 0, for_direction = 0;  // elements
    double for_each = 0;                   // operations for a direction
    for (const OpPlan& each : net_.ops) {
      for_row += 3 * each.n_out;
      if (wants_second_) for_direction += 3 * each.n_out;
      const double size = static_cast<double>(each.n_in) *
                          static_cast<double>(each.is_dense() ? each.n_out : 1);
      for_each += (wants_second_ ? 2 : 1) * size;
    }
    for (const Index n : plan_.slot_width) for_direction += n;
    if (plan_.needs_identity) for_direction += net_.n_in;
    if (rq_.of_params) for_each += static_cast<double>(net_.n_params);
    const Index k = rq_.directions;
    const double operations = net_.work + static_cast<double>(k) * for_each;
    const double flops = 2.0 * static_cast<double>(rq_.rows) * operations;

    const Index budget = bytes / static_cast<Index>(sizeof(T));
    Index rows = budget / std::max<Index>(for_row + k * for_direction, 1);
    Index chunks = 1;
    if (rows < 1 && for_direction > 0) {
      const Index fitting = std::max(kFewestDirections, budget / for_direction);
      chunks = std::max<Index>(1, k / fitting);
    }
    plan_.team = plan_team(flops, rq_.rows * std::max<Index>(1, k / kFewestDirections));
    // Custom activations may throw, so they must be called by a single thread: no
    // team.
    if (net_.has_custom) plan_.team = {};
    if (rq_.rows < plan_.team.most) {
      chunks =
          std::max(chunks, std::min<Index>(plan_.team.most, k / kFewestDirections));
    }
    plan_.tile_directions = (k + chunks - 1) / chunks;
    plan_.chunks = (k + plan_.tile_directions - 1) / plan_.tile_directions;
    if (plan_.chunks > 1) rows = 1;
    rows = std::min({std::max<Index>(rows, 1), kMostRows, rq_.rows});
    plan_.tile_rows = rows > table_.mr ? rows / table_.mr * table_.mr : rows;
    // multiply_gathered reads packed weights.
    const bool gathers =
        std::find(plan_.gathers.begin(), plan_.gathers.end(), 1) != plan_.gathers.end();
    plan_.packs_values.assign(n_ops_, 0);
    plan_.packs_tangents.assign(n_ops_, 0);
    for (size_t l = 0; l < n_ops_; ++l) {
      const OpPlan& op = net_.ops[l];
      if (!op.is_dense()) continue;
      plan_.packs_values[l] = DenseOp::packing_pays(table_, nullptr, op, rq_.rows);
      plan_.packs_tangents[l] =
          gathers ||
          (rq_.mode != Mode::cotangents &&
           DenseOp::packing_pays(table_, nullptr, op, rq_.rows * rq_.directions));
    }
  }

  const NetworkPlan& net_;
  const Request<T>& rq_;
  const KernelTable<T>& table_;
  const size_t n_ops_;
  const bool wants_second_;
  DerivativePlan plan_;
};

}  // namespace

template <class T>
DerivativePlan plan_derivatives(const NetworkPlan& net, const Request<T>& request) {
  return Planner<T>(net, request).run();
}

template DerivativePlan plan_derivatives(const NetworkPlan&, const Request<float>&);
template DerivativePlan plan_derivatives(const NetworkPlan&, const Request<double>&);

}  // namespace fastmlp::detail
