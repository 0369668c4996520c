// Some columns of the input: h_j = x_{c_j} for given indices c.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "network/ops/op.h"

namespace fastmlp::detail {

struct ColumnsOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    if (spec.columns.empty())
      throw std::invalid_argument("layer " + op.name +
                                  " (columns) must take at least one column");
    for (const Index c : spec.columns) {
      if (c >= 0 && c < op.n_in) continue;
      throw std::invalid_argument(
          "the columns of layer " + op.name + " (columns) must be from 0 to " +
          std::to_string(op.n_in - 1) + ", got " + std::to_string(c));
    }
    op.columns = spec.columns;
    op.n_out = static_cast<Index>(spec.columns.size());
    op.moves_columns = true;
    return net.push(std::move(op));
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    take(op, a.z, a.x, a.rows);
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    give(op, a.dx, a.dz, a.rows, op.adds_input);
  }

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    take(op, out, t, a.all());
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    give(op, c.dx, c.dz, a.all(), c.adds_input);
  }

 private:
  template <class T>
  static void take(const OpPlan& op, T* to, const T* x, Index rows) {
    for (Index r = 0; r < rows; ++r, x += op.n_in) {
      for (const Index c : op.columns) *to++ = x[c];
    }
  }

  // The reverse. A column that is taken several times gets the sum.
  template <class T>
  static void give(const OpPlan& op, T* dx, const T* d, Index rows, bool adds) {
    if (!dx) return;
    if (!adds) std::fill_n(dx, rows * op.n_in, T(0));
    for (Index r = 0; r < rows; ++r, dx += op.n_in) {
      for (const Index c : op.columns) dx[c] += *d++;
    }
  }
};

}  // namespace fastmlp::detail
