// A learned factor for each unit: h = x s.
#pragma once

#include "network/ops/norms.h"
#include "network/ops/op.h"

namespace fastmlp::detail {

struct ScaleOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& /*spec*/, OpPlan op,
                  int /*start*/) {
    op.weight = net.add_params(1, op.n_out);
    op.weight_size = op.n_out;
    return net.push(std::move(op));
  }

  template <class T>
  static void initialize(const OpPlan& op, size_t /*index*/, T* params,
                         uint64_t /*seed*/) {
    initialize_norm(op, params);
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    scale_columns(a.table, a.z, a.x, a.params + op.weight, a.rows, op.n_out);
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    scale_columns(a.table, a.dx, a.dz, a.params + op.weight, a.rows, op.n_out,
                  op.adds_input);
  }

  template <class T>
  static bool weight_gradients(const WeightGradientArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out;
    const Range mine = a.team.share(n, a.table.lanes);
    const Index j = mine.begin;
    T* const out = a.grads + op.weight + j;
    a.table.column_dot(out, a.dz + j, n, a.x + j, n, a.rows, mine.size(), a.accumulate);
    return a.table.all_finite(out, mine.size(), 1, mine.size());
  }

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    scale_columns(a.table, out, t, a.params + op.weight, a.all(), op.n_out);
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    scale_columns(a.table, c.dx, c.dz, a.params + op.weight, a.all(), op.n_out,
                  c.adds_input);
  }

  template <class T>
  static void row_gradients(const DirectionArgs<T>& a, const OpPlan& op, T* grads,
                            Index stride, const T* x, const T* dz) {
    const Index n = op.n_out;
    for (Index r = 0; r < a.all(); ++r) {
      a.table.multiply(grads + r * stride + op.weight, dz + r * n,
                       x + r / a.directions * n, n);
    }
  }
};

}  // namespace fastmlp::detail
