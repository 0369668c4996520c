// Common parts of tangents, cotangents and second derivatives: memory, the values of a
// tile of rows, and derivatives of activations.
#pragma once

#include <algorithm>
#include <vector>

#include "network/arena.h"
#include "network/derivatives/request.h"
#include "network/ops/ops.h"
#include "threading/stop.h"

namespace fastmlp::detail {

// One team member's memory for a tile.
template <class T>
struct TileMemory {
  // The memory of one op.
  struct OfOp : OpMemory<T> {
    T* slope = nullptr;  // the derivative of the activation
    // For second derivatives: the tangents before and after the activation, the
    // cotangent (one for each row), and the tangents of the cotangent. The latter are
    // stored only if has_dot is true; otherwise they are 0.
    T* before = nullptr;
    T* tangent = nullptr;
    T* cotangent = nullptr;
    T* dot = nullptr;
    bool has_dot = false;
  };
  std::vector<OfOp> ops;
  std::vector<T*> slots;    // for first derivatives
  T* correction = nullptr;  // memory for EffectiveParams::pull_back
  T* losses = nullptr;      // of each row
  T* scales = nullptr;      // of each row's loss
  T* identity = nullptr;    // unit vectors, where they are needed in memory
  T* product = nullptr;     // second: cotangent * act''
  T* scratch = nullptr;     // left operands
  // For each row of a relu's outputs: the indices of the positive outputs, and how many
  // there are.
  std::vector<int32_t> list, count;
};

// One member's work on one tile.
template <class T>
class DerivativePass {
 public:
  DerivativePass(const NetworkView<T>& view, const Request<T>& request,
                 const DerivativePlan& derivative_plan,
                 const std::vector<OpMemory<T>>& shared_memory, TileMemory<T>& memory,
                 const Tile& its_tile)
      : net(view.net),
        params(view.params),
        rq(request),
        plan(derivative_plan),
        table(kernels<T>()),
        me(memory),
        tile(its_tile),
        shared_(shared_memory) {}

  const NetworkPlan& net;
  const T* const params;
  const Request<T>& rq;
  const DerivativePlan& plan;
  const KernelTable<T>& table;
  TileMemory<T>& me;
  const Tile tile;

  size_t n_ops() const { return net.ops.size(); }
  const OpPlan& op(size_t l) const { return net.ops[l]; }
  typename TileMemory<T>::OfOp& memory(size_t l) const { return me.ops[l]; }
  // The first row of this tile in an output with `width` elements for each row and
  // direction.
  T* out(Index width) const {
    return rq.out + (tile.row * rq.directions + tile.first) * width;
  }

  // `directions`: number of directions for each row.
  DirectionArgs<T> args(size_t l, Index directions) const {
    return {table,
            params,
            tile.rows,
            directions,
            me.ops[l].kept,
            statistics(l),
            plan.packs_tangents[l] ? shared_[l].packed : nullptr,
            shared_[l].packed_transposed,
            me.scratch};
  }
  const OpMemory<T>& shared(size_t l) const { return shared_[l]; }

  // The output of an op, or the network's input.
  const T* value_of(int index) const {
    if (index == kInput) return rq.x + tile.row * net.n_in;
    const OpPlan& of = op(static_cast<size_t>(index));
    return of.is_identity_at_inference ? value_of(of.input)
                                       : me.ops[static_cast<size_t>(index)].h;
  }
  const T* output() const { return value_of(static_cast<int>(n_ops()) - 1); }

  // The values from which an activation's derivative is computed.
  const T* saved_of(size_t l) const {
    const auto& its = me.ops[l];
    if (!activation_saves_input(op(l).activation.kind)) return its.h;
    return its.z ? its.z : value_of(op(l).input);
  }

  void compute_values() const {
    for (size_t l = 0; l < n_ops(); ++l) {
      const OpPlan& each = op(l);
      if (each.is_identity_at_inference) continue;
      const auto& its = me.ops[l];
      ForwardArgs<T> a = {table, params, 0, tile.rows};
      a.x = value_of(each.input);
      if (each.other != kNone) a.other = value_of(each.other);
      a.h = its.h;
      a.z = its.z ? its.z : its.h;
      a.kept = its.kept;
      a.statistics = statistics(l);
      a.packed = plan.packs_values[l] ? shared_[l].packed : nullptr;
      a.scratch.left = me.scratch;
      visit(each.kind, [&](auto kind) { kind.forward(a, each); });
      if (its.slope) compute_slope(l, a.x);
    }
    if (rq.y && tile.first == 0) {
      std::copy_n(output(), tile.rows * net.n_out, rq.y + tile.row * net.n_out);
    }
  }

  // Multiplies groups of rows of `in` by the derivative of an op's activation. `out`
  // may alias `in`. `in_step` is the distance in rows between two groups of `in`; if it
  // is 0, all groups use the same rows.
  void times_derivative(size_t l, T* out, const T* in, Index in_step) const {
    const OpPlan& each = op(l);
    const auto& its = me.ops[l];
    const Index n = each.n_out, k = tile.directions;
    if (each.activation == Activation::softmax) {
      for (Index i = 0; i < tile.rows; ++i) {
        table.activation_backward(each.activation, out + i * k * n, n,
                                  in + i * in_step * n, n, its.h + i * n, 0, k, n);
      }
    } else if (has_activation(each)) {
      const bool masks = !its.slope;
      table.scale_groups(out, in, in_step, masks ? its.h : its.slope, masks, tile.rows,
                         k, n);
    } else if (out != in) {
      repeat(out, in, in_step, n);
    }
  }

  // Copies groups of rows of n columns. `in_step` is the same as in times_derivative.
  void repeat(T* out, const T* in, Index in_step, Index n) const {
    table.scale_groups(out, in, in_step, nullptr, false, tile.rows, tile.directions, n);
  }

  // c = a B, or c += a B if `adds`, for a packed B with n columns. For each row of
  // values, skips the columns of `a` in which the output of op l, a relu, is 0.
  void multiply_gathered(size_t l, T* c, Index n, const T* a, const T* packed,
                         bool adds) const {
    const Index k = op(l).n_out;
    for (Index i = 0; i < tile.rows; ++i) {
      const T* const h = me.ops[l].h + i * k;
      int32_t* const list = me.list.data() + i * k;
      int32_t found = 0;
      for (Index p = 0; p < k; ++p) {
        list[found] = static_cast<int32_t>(p);
        found += h[p] > 0;
      }
      me.count[static_cast<size_t>(i)] = found;
    }
    table.gemm_gather_k(c, a, packed_right<T>(table, packed, k), me.list.data(), k,
                        me.count.data(), tile.rows, tile.directions, n, k, adds);
  }

  // Fills each row with the unit vector of its direction.
  void fill_unit_vectors(T* rows, Index n) const {
    std::fill_n(rows, tile.all() * n, T(0));
    for (Index r = 0; r < tile.all(); ++r) {
      rows[r * n + tile.first + r % tile.directions] = T(1);
    }
  }

 private:
  T* statistics(size_t l) const {
    return op(l).statistics >= 0 ? shared_[l].statistics : me.ops[l].statistics;
  }

  void compute_slope(size_t l, const T* x) const {
    const OpPlan& each = op(l);
    T* const slope = me.ops[l].slope;
    const Index n = each.n_out, size = tile.rows * n;
    if (each.custom) return custom_derivative(each, slope, x, size);
    std::fill_n(slope, size, T(1));
    table.activation_backward(each.activation, slope, n, slope, n, saved_of(l), n,
                              tile.rows, n);
  }

  const std::vector<OpMemory<T>>& shared_;
};

}  // namespace fastmlp::detail
