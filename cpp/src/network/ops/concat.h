// Two arrays side by side: h = act([x, other]).
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "network/ops/op.h"

namespace fastmlp::detail {

struct ConcatOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    const size_t n = spec.branches.size();
    if (n < 2)
      throw std::invalid_argument("a concat layer needs at least two branches");
    int left = kNone;
    for (size_t i = 0; i < n; ++i) {
      const LayerSpec::Branch& branch = spec.branches[i];
      const int last =
          plan_layers(net, branch.layers, op.input, op.name + "." + branch.name + ".");
      left = i == 0 ? last : join(net, left, last, name_of(op, i, n));
    }
    return left;
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    side_by_side(a.z, a.x, a.other, op, a.rows);
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    split(a.table, op, a.dz, a.rows, a.dx, op.adds_input, a.d_other, op.adds_other);
  }

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* other) {
    side_by_side(out, t, other, op, a.all());
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    split(a.table, op, c.dz, a.all(), c.dx, c.adds_input, c.d_other, c.adds_other);
  }

 private:
  // The last op has the name of the layer.
  static std::string name_of(const OpPlan& op, size_t i, size_t n) {
    return i + 1 == n ? op.name : op.name + ".joined" + std::to_string(i);
  }

  static int join(NetworkPlan& net, int left, int right, std::string name) {
    const Index n = net.width_of(left);
    OpPlan op = {LayerKind::concat, n, net.joined_width(n, net.width_of(right))};
    op.input = left;
    op.other = right;
    op.name = std::move(name);
    return net.push(std::move(op));
  }

  template <class T>
  static void side_by_side(T* to, const T* left, const T* right, const OpPlan& op,
                           Index rows) {
    const Index n = op.n_in, m = op.n_out - n;
    for (Index r = 0; r < rows; ++r) {
      T* const row = to + r * op.n_out;
      std::copy_n(left + r * n, n, row);
      std::copy_n(right + r * m, m, row + n);
    }
  }

  // The reverse. `left` or `right` may be null: not needed. They may be the same array,
  // of which the first writer is `right`, as the plan says.
  template <class T>
  static void split(const KernelTable<T>& table, const OpPlan& op, const T* d,
                    Index rows, T* left, bool adds_left, T* right, bool adds_right) {
    const Index n = op.n_in, m = op.n_out - n;
    for (Index r = 0; r < rows; ++r, d += op.n_out) {
      if (right) accumulate_gradient(table, right + r * m, d + n, m, adds_right);
      if (left) accumulate_gradient(table, left + r * n, d, n, adds_left);
    }
  }
};

}  // namespace fastmlp::detail
