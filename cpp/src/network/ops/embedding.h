// Learned vectors for categories: h = [E_0[x_0], E_1[x_1], ...], where column c of the
// input holds a whole number that selects a row of the table E_c. The derivative with
// respect to the input is 0.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "network/ops/op.h"

namespace fastmlp::detail {

// Throws std::invalid_argument unless all columns of x that hold categories hold whole
// numbers in the range of their embedding.
template <class T>
void check_categories(const NetworkPlan& net, const T* x, Index rows) {
  for (const Category& category : net.categories) {
    const T size = static_cast<T>(category.size);
    const T* at = x + category.column;
    for (Index r = 0; r < rows; ++r, at += net.n_in) {
      if (*at >= 0 && *at < size && std::floor(*at) == *at) continue;
      throw std::invalid_argument(
          "column " + std::to_string(category.column) +
          " of x must hold whole numbers from 0 to " +
          std::to_string(category.size - 1) + ", the numbers of categories, got " +
          in_full(static_cast<double>(*at)) + " in row " + std::to_string(r));
    }
  }
}

struct EmbeddingOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    const std::string layer = "layer " + op.name + " (embedding)";
    const Index n = static_cast<Index>(spec.sizes.size());
    if (n != op.n_in)
      throw std::invalid_argument(layer + " has " + counted(n, "number", "numbers") +
                                  " of categories, but its input has " +
                                  counted(op.n_in, "column", "columns"));
    if (spec.width < 1)
      throw std::invalid_argument("the width of an embedding must be at least 1, got " +
                                  std::to_string(spec.width));
    const OpPlan* const before =
        op.input == kInput ? nullptr : &net.ops[static_cast<size_t>(op.input)];
    const bool selects = before && before->kind == LayerKind::columns &&
                         before->input == kInput &&
                         before->activation == Activation::identity;
    if (before && !selects)
      throw std::invalid_argument(
          layer +
          " must take columns of the network's input: it must come first, or "
          "after a layer that selects columns of the input");
    Index total = 0;
    for (Index c = 0; c < n; ++c) {
      const Index size = spec.sizes[static_cast<size_t>(c)];
      if (size < 1)
        throw std::invalid_argument(
            "the numbers of categories of an embedding must be at least 1, got " +
            std::to_string(size));
      op.columns.push_back(total);  // where the table begins
      total = net.joined_width(total, size);
      net.categories.push_back(
          {selects ? before->columns[static_cast<size_t>(c)] : c, size});
    }
    op.sizes = spec.sizes;
    op.weight = net.add_params(total, spec.width);
    op.weight_size = total * spec.width;
    op.n_out = net.product_width(n, spec.width);
    op.moves_columns = true;
    return net.push(std::move(op));
  }

  template <class T>
  static void initialize(const OpPlan& op, size_t index, T* params, uint64_t seed) {
    draw_weights(op, index, params, seed, 1.0);
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index d = units(op);
    T* to = a.z;
    for (Index i = 0; i < a.rows * op.n_in; ++i, to += d) {
      std::copy_n(a.params + op.weight + row_of(op, a.x, i) * d, d, to);
    }
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    clear(a.dx, a.rows * op.n_in, op.adds_input);
  }

  // Each member owns some columns of the output, for which it runs over all rows in
  // order.
  template <class T>
  static bool weight_gradients(const WeightGradientArgs<T>& a, const OpPlan& op) {
    const Range mine = a.team.share(op.n_out, a.table.lanes);
    const Index d = units(op);
    bool finite = true;
    for (Index c = 0; c < op.n_in; ++c) {
      const Index begin = std::max(mine.begin - c * d, Index{0});
      const Index n = std::min(mine.end - c * d, d) - begin;
      if (n <= 0) continue;
      T* const table =
          a.grads + op.weight + op.columns[static_cast<size_t>(c)] * d + begin;
      const Index size = op.sizes[static_cast<size_t>(c)];
      if (!a.accumulate) {
        for (Index k = 0; k < size; ++k) std::fill_n(table + k * d, n, T(0));
      }
      for (Index r = 0; r < a.rows; ++r) {
        T* const row = table + static_cast<Index>(a.x[r * op.n_in + c]) * d;
        a.table.add(row, row, a.dz + r * op.n_out + c * d + begin, n);
      }
      finite = a.table.all_finite(table, d, size, n) && finite;
    }
    return finite;
  }

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out,
                      const T* /*t*/, const T* /*other*/) {
    std::fill_n(out, a.all() * op.n_out, T(0));
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    clear(c.dx, a.all() * op.n_in, c.adds_input);
  }

  template <class T>
  static void row_gradients(const DirectionArgs<T>& a, const OpPlan& op, T* grads,
                            Index stride, const T* x, const T* dz) {
    const Index d = units(op);
    for (Index r = 0; r < a.all(); ++r) {
      T* const mine = grads + r * stride + op.weight;
      std::fill_n(mine, op.weight_size, T(0));
      for (Index c = 0; c < op.n_in; ++c, dz += d) {
        const Index row = row_of(op, x, r / a.directions * op.n_in + c);
        std::copy_n(dz, d, mine + row * d);
      }
    }
  }

 private:
  static Index units(const OpPlan& op) { return op.n_out / op.n_in; }

  // The row of the tables, one below the other, that element i of the input selects.
  template <class T>
  static Index row_of(const OpPlan& op, const T* x, Index i) {
    return op.columns[static_cast<size_t>(i % op.n_in)] + static_cast<Index>(x[i]);
  }

  // The gradient of the input: it is 0, or adds 0.
  template <class T>
  static void clear(T* dx, Index size, bool adds) {
    if (dx && !adds) std::fill_n(dx, size, T(0));
  }
};

}  // namespace fastmlp::detail
