// A leaky ReLU with learned slopes (He et al. 2015): h = x f with the factor f = 1 for
// x > 0, else the slope. There is one slope for each unit or one for all.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "network/ops/op.h"

namespace fastmlp::detail {

struct PReLUOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    if (!(spec.slope >= -kMostConstant && spec.slope <= kMostConstant))
      throw std::invalid_argument("the initial slope of a prelu layer must be finite");
    op.slope = spec.slope;
    op.weight_size = spec.shared ? 1 : op.n_out;
    op.weight = net.add_params(1, op.weight_size);
    op.n_kept = op.n_out;
    return net.push(std::move(op));
  }

  template <class T>
  static void take_row_memory(Arena<T>& arena, const OpPlan& op, Index rows,
                              OpMemory<T>& memory) {
    memory.kept = arena.take(rows * op.n_out);
  }

  template <class T>
  static void initialize(const OpPlan& op, size_t /*index*/, T* params,
                         uint64_t /*seed*/) {
    std::fill_n(params + op.weight, op.weight_size, static_cast<T>(op.slope));
  }

  // Keeps the factors.
  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    a.table.prelu_forward(a.z, a.kept, a.x, a.params + op.weight, is_shared(op), a.rows,
                          op.n_out);
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    if (!a.dx) return;
    multiply(a.table, a.dx, a.dz, a.kept, a.rows, 1, op.n_out, op.adds_input);
  }

  template <class T>
  static bool weight_gradients(const WeightGradientArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out;
    T* const out = a.grads + op.weight;
    if (is_shared(op)) {
      if (a.team.rank() != 0) return true;
      a.table.prelu_gradient(out, a.dz, n, a.x, n, true, a.rows, n, a.accumulate);
      return a.table.all_finite(out, 1, 1, 1);
    }
    const Range mine = a.team.share(n, a.table.lanes);
    const Index j = mine.begin;
    a.table.prelu_gradient(out + j, a.dz + j, n, a.x + j, n, false, a.rows, mine.size(),
                           a.accumulate);
    return a.table.all_finite(out + j, mine.size(), 1, mine.size());
  }

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    multiply(a.table, out, t, a.kept, a.rows, a.directions, op.n_out, false);
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    if (!c.dx) return;
    multiply(a.table, c.dx, c.dz, a.kept, a.rows, a.directions, op.n_out, c.adds_input);
  }

  template <class T>
  static void row_gradients(const DirectionArgs<T>& a, const OpPlan& op, T* grads,
                            Index stride, const T* x, const T* dz) {
    const Index n = op.n_out;
    for (Index r = 0; r < a.all(); ++r) {
      a.table.prelu_gradient(grads + r * stride + op.weight, dz + r * n, n,
                             x + r / a.directions * n, n, is_shared(op), 1, n, false);
    }
  }

 private:
  static bool is_shared(const OpPlan& op) { return op.weight_size < op.n_out; }

  // Multiplies each row of a group by the factors of that group.
  template <class T>
  static void multiply(const KernelTable<T>& table, T* out, const T* in,
                       const T* factors, Index rows, Index group, Index n, bool adds) {
    if (adds) {
      table.add_scaled_groups(out, in, group, factors, rows, group, n);
    } else {
      table.scale_groups(out, in, group, factors, false, rows, group, n);
    }
  }
};

}  // namespace fastmlp::detail
