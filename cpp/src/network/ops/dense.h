// Dense layers: h = act(x W + b).
//
// Algorithms are chosen by shape. The choice does not change the bits of the results:
// rows are independent of each other, and each weight gradient is summed over the rows
// in order, however the rows are grouped.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "fastmlp/caches.h"
#include "fastmlp/gemm.h"
#include "fastmlp/gemm_bfloat16.h"
#include "fastmlp/optimizer.h"
#include "fastmlp/random.h"
#include "network/ops/dense_bfloat16.h"
#include "network/ops/effective_params.h"
#include "network/ops/op.h"
#include "threading/stop.h"

namespace fastmlp::detail {

// Largest number of outputs for which products may be computed transposed.
constexpr Index kFewOutputs = 16;

// Whether a product with the weights is better computed transposed, with vectors along
// the long dimension and not along the outputs.
inline bool has_few_outputs(const OpPlan& op) {
  return op.n_out <= kFewOutputs && op.n_in >= 2 * op.n_out;
}

// Whether the forward product is better computed transposed. Its inputs must then be
// packed, which pays only if the outputs are even fewer.
inline bool has_few_outputs_forward(const OpPlan& op) {
  return op.n_out <= kFewOutputs / 2 && has_few_outputs(op);
}

// Whether each member packs the weights block by block just before it uses them: if
// they were packed in advance, they would have left the cache by the time they are
// used. `rows`: number of rows that use a block.
template <class T>
bool packed_in_blocks(const OpPlan& op, Index rows) {
  return rows >= kRowsForPackingAlone &&
         op.weight_size * static_cast<Index>(sizeof(T)) >= 2 * l2_of_core();
}

// Elements of Scratch::left that dense ops need for up to `rows` rows.
template <class T>
Index dense_left_scratch_size(const NetworkPlan& net, Index rows) {
  // The left operand is a matrix of values or, for weight gradients, its transpose.
  Index size = std::max(left_scratch_size<T>(rows, net.widest),
                        left_scratch_size<T>(net.widest, rows));
  if (net.operands == Operands::bfloat16) {
    size = std::max({size, bfloat16_left_scratch_size(rows, net.widest),
                     bfloat16_left_scratch_size(net.widest, rows),
                     dense_bfloat16_scratch_size(net, rows)});
  }
  for (const OpPlan& op : net.ops) {
    if (!op.is_dense() || op.n_out > kFewOutputs) continue;
    // Room for one panel of input rows and for the transpose of the outputs (few here)
    // or of their gradient.
    const Index across = packed_right_bound(op.n_in, 1) +
                         kFewOutputs * std::max(op.n_in, kMostPanelColumns);
    size = std::max(size, across);
  }
  return size;
}

// Elements of Scratch::right in training, with blocks of `rows` rows.
template <class T>
Index dense_right_scratch_size(const NetworkPlan& net, Index rows) {
  Index size = 0;
  for (const OpPlan& op : net.ops) {
    if (!op.is_dense()) continue;
    if (op.operands == Operands::bfloat16) {
      size = std::max({size, bfloat16_right_scratch_size(rows, op.n_out),
                       bfloat16_right_scratch_size(rows, op.n_in),
                       bfloat16_right_scratch_size(op.n_in, op.n_out),
                       bfloat16_right_scratch_size(op.n_out, op.n_in)});
    }
    // The operands packed in blocks: the rows of dz, and large weights and their
    // transpose.
    if (!has_few_outputs(op)) {
      size = std::max(size, right_scratch_size<T>(rows, op.n_out));
    }
    if (packed_in_blocks<T>(op, rows)) {
      size = std::max({size, right_scratch_size<T>(op.n_in, op.n_out),
                       right_scratch_size<T>(op.n_out, op.n_in)});
    }
  }
  return size;
}

// Number of chunks (see square_chunks) in the sum of the squares of all dense weights.
inline Index weight_chunks(const NetworkPlan& net) {
  Index chunks = 0;
  for (const OpPlan& op : net.ops) {
    if (op.is_dense()) chunks += square_chunks(op.weight_size);
  }
  return chunks;
}

struct DenseOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    if (spec.width < 1)
      throw std::invalid_argument("the width of a layer must be at least 1, got " +
                                  std::to_string(spec.width));
    op.n_out = spec.width;
    op.activation = checked(spec.activation);
    op.weight_size = op.n_in * op.n_out;
    op.operands = net.operands;
    op.parametrization = spec.parametrization;
    if (op.is_parametrized()) {
      // The order of PyTorch's parameters.
      if (spec.bias) op.bias = net.add_params(1, op.n_out);
      plan_parametrization(net, op);
      op.weight = net.add_params(op.n_in, op.n_out);
    } else {
      op.weight = net.add_params(op.n_in, op.n_out);
      if (spec.bias) op.bias = net.add_params(1, op.n_out);
    }
    return net.push(std::move(op));
  }

  template <class T>
  static void take_memory(Arena<T>& arena, const OpPlan& op, Index /*rows*/,
                          OpMemory<T>& memory) {
    memory.packed = arena.take(packed_bound(op, op.n_in, op.n_out));
    memory.packed_transposed = arena.take(packed_bound(op, op.n_out, op.n_in));
  }

  // Draws uniform weights with the variance that suits the activation. Biases are zero
  // already.
  template <class T>
  static void initialize(const OpPlan& op, size_t index, T* params, uint64_t seed) {
    draw_weights(op, index, params, seed, initial_variance(op));
  }

  // Packs W in blocks if there is scratch memory for them; otherwise reads W packed in
  // advance or, without such a copy, unpacked. With few outputs, enough rows and
  // scratch memory, computes the product transposed.
  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out;
    if (a.sparse) {
      sparse_forward(a, op, {0, n}, a.z);
    } else if (a.bfloat16) {
      DenseBfloat16::forward(a, op, Range{0, n}, a.z, scratch_for(op, a),
                             epilogue_of<T>(op));
    } else if (a.scratch.left && has_few_outputs_forward(op) && a.rows >= a.table.nr) {
      forward_transposed(a, op);
    } else {
      const RightOperand<T> right = a.packed
                                        ? packed_right(a.table, a.packed, op.n_in)
                                        : plain_right(a.table, a.params + op.weight, n);
      product<T>(a.table, {a.z, a.rows, n, n}, {a.x, op.n_in, 1}, a.params + op.weight,
                 n, 1, right, op.n_in, parameters(a.params, op.bias), false,
                 scratch_for(op, a), epilogue_of<T>(op));
    }
    if (!has_fused_activation(op)) activate(a, op);
  }

  // Computes this member's columns of h, for a few rows.
  template <class T>
  static void forward_columns(const ForwardArgs<T>& a, const OpPlan& op,
                              const Team& team) {
    const Index n = op.n_out;
    const Range mine = team.share(n, a.table.nr);
    T* const part = a.h + mine.begin;
    if (a.sparse) {
      sparse_forward(a, op, mine, a.h);
    } else if (a.bfloat16) {
      DenseBfloat16::forward(a, op, mine, a.h, Scratch<T>{}, epilogue_of<T>(op));
    } else {
      const T* const bias = op.bias >= 0 ? a.params + op.bias + mine.begin : nullptr;
      gemm_blocked<T>(a.table, {part, a.rows, mine.size(), n}, {a.x, op.n_in, 1},
                      plain_right<T>(a.table, a.params + op.weight + mine.begin, n),
                      op.n_in, bias, false, nullptr, epilogue_of<T>(op));
    }
    if (op.activation == Activation::softmax) {
      // Softmax needs whole rows.
      team.barrier();
      if (team.rank() == 0) activate(a, op);
    } else if (!has_fused_activation(op)) {
      a.table.activation_forward(op.activation, part, n, part, n, a.rows, mine.size());
    }
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    if (!a.dx) return;
    const Index n = op.n_out;
    Epilogue<T> epilogue;
    if (op.ends_relu) epilogue = {EpilogueKind::relu_backward, a.x, op.n_in};
    if (a.bfloat16) {
      return DenseBfloat16::backward(a, op, scratch_for(op, a), epilogue);
    }
    product<T>(a.table, {a.dx, a.rows, op.n_in, op.n_in}, {a.dz, n, 1},
               a.params + op.weight, 1, n,
               packed_right<T>(a.table, a.packed_transposed, n), n, nullptr,
               op.adds_input, scratch_for(op, a), epilogue);
  }

  // Computes dW = x^T dz and db = the sum of the rows of dz. Each member owns a part of
  // dW and runs over all rows in order.
  template <class T>
  static bool weight_gradients(const WeightGradientArgs<T>& a, const OpPlan& op) {
    bool finite = !op.trains_weight() || weight_gradient(a, op);
    if (op.trains_bias()) finite = bias_gradient(a, op) && finite;
    return finite;
  }

  template <class T>
  static void take_shared_memory(Arena<T>& arena, const OpPlan& op, bool packs,
                                 bool packs_transposed, OpMemory<T>& shared) {
    if (packs) shared.packed = arena.take(packed_right_bound(op.n_in, op.n_out));
    if (packs_transposed) {
      shared.packed_transposed = arena.take(packed_right_bound(op.n_out, op.n_in));
    }
  }

  template <class T>
  static void prepare(const Team& team, const KernelTable<T>& table, const OpPlan& op,
                      const NetworkView<T>& net, const OpMemory<T>& shared) {
    if (shared.packed) pack(team, table, nullptr, op, net.params, shared.packed);
    if (shared.packed_transposed) {
      pack_transposed(team, table, nullptr, op, net.params, shared.packed_transposed);
    }
  }

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    const RightOperand<T> right =
        a.packed ? packed_right<T>(a.table, a.packed, op.n_in)
                 : plain_right<T>(a.table, a.params + op.weight, op.n_out);
    gemm_blocked<T>(a.table, {out, a.all(), op.n_out, op.n_out}, {t, op.n_in, 1}, right,
                    op.n_in, nullptr, false, a.scratch);
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    if (!c.dx) return;
    gemm_blocked<T>(a.table, {c.dx, a.all(), op.n_in, op.n_in}, {c.dz, op.n_out, 1},
                    packed_right<T>(a.table, a.packed_transposed, op.n_out), op.n_out,
                    nullptr, c.adds_input, a.scratch);
  }

  template <class T>
  static void row_gradients(const DirectionArgs<T>& a, const OpPlan& op, T* grads,
                            Index stride, const T* x, const T* dz) {
    const Index n = op.n_out;
    constexpr Index kBetweenLooks = 1 << 22;  // elements written
    const Index few =
        std::max<Index>(1, kBetweenLooks / (op.weight_size * a.directions));
    for (Index r = 0; r < a.rows && !stop_requested(); r += few) {
      a.table.outer_rows(grads + r * a.directions * stride + op.weight, stride,
                         x + r * op.n_in, op.n_in, dz + r * a.directions * n,
                         std::min(few, a.rows - r), a.directions, op.n_in, n);
    }
    copy_bias_gradients(op, grads, stride, dz, a.all());
  }

  // Whether the forward product of `rows` rows is better with packed weights.
  template <class T>
  static bool packing_pays(const KernelTable<T>& table, const Bfloat16Kernels* bfloat16,
                           const OpPlan& op, Index rows) {
    if (bfloat16) return rows >= kRowsToPackBfloat16;
    return detail::packing_pays(table, rows, op.n_out, op.n_in, op.n_out);
  }

  // Elements of packed weights.
  template <class T>
  static Index packed_size(const KernelTable<T>& table, const Bfloat16Kernels* bfloat16,
                           const OpPlan& op) {
    return bfloat16 ? bfloat16_right_bound(op.n_in, op.n_out)
                    : packed_right_size(table, op.n_in, op.n_out);
  }

  // pack packs this member's columns of the weights, pack_transposed those of the
  // transposed weights.
  template <class T>
  static void pack(const Team& team, const KernelTable<T>& table,
                   const Bfloat16Kernels* bfloat16, const OpPlan& op, const T* params,
                   T* packed) {
    if (bfloat16) return DenseBfloat16::pack(team, *bfloat16, op, params, packed);
    const Range columns = team.share(op.n_out, table.nr);
    table.pack_right(packed + columns.begin * op.n_in, op.n_in * table.nr,
                     params + op.weight + columns.begin, op.n_out, 1, op.n_in,
                     columns.size());
  }
  template <class T>
  static void pack_transposed(const Team& team, const KernelTable<T>& table,
                              const Bfloat16Kernels* bfloat16, const OpPlan& op,
                              const T* params, T* packed) {
    if (bfloat16) {
      return DenseBfloat16::pack_transposed(team, *bfloat16, op, params, packed);
    }
    const Range columns = team.share(op.n_in, table.nr);
    table.pack_right(packed + columns.begin * op.n_out, op.n_out * table.nr,
                     params + op.weight + columns.begin * op.n_out, 1, op.n_out,
                     op.n_out, columns.size());
  }

 private:
  // Computes this member's part of dW and returns whether it is finite.
  template <class T>
  static bool weight_gradient(const WeightGradientArgs<T>& a, const OpPlan& op) {
    const KernelTable<T>& table = a.table;
    const Index n_in = op.n_in, n_out = op.n_out;
    const bool by_rows = a.sparse || n_in >= n_out;
    const bool across = has_few_outputs(op) && !a.bfloat16;
    const Index grain = across ? table.lanes : a.bfloat16 ? a.bfloat16->mr : table.mr;
    const Range rows = by_rows ? a.team.share(n_in, grain) : Range{0, n_in};
    const Range cols = by_rows ? Range{0, n_out} : a.team.share(n_out, table.nr);
    const T* const x = a.sparse ? nullptr : a.x + rows.begin;
    const T* const dz = a.dz + cols.begin;
    T* const dw = a.grads + op.weight + rows.begin * n_out + cols.begin;
    if (a.sparse) {
      if (!a.accumulate) std::fill_n(dw, rows.size() * n_out, T(0));
      table.sparse_gradient(dw, n_out, a.sparse, a.rows, rows.begin, rows.end, dz,
                            n_out, n_out);
    } else if (a.bfloat16) {
      DenseBfloat16::weight_gradients(a, op, rows, cols, dw);
    } else if (across) {
      weight_gradient_transposed<T>(table, dw, x, n_in, rows.size(), dz, n_out, a.rows,
                                    a.accumulate, a.scratch.left);
    } else {
      Scratch<T> scratch = a.scratch;
      if (!packed_in_blocks<T>(op, a.block_rows) &&
          !detail::packing_pays(table, rows.size(), cols.size(), a.rows, n_out)) {
        scratch.right = nullptr;
      }
      product<T>(table, {dw, rows.size(), cols.size(), n_out}, {x, 1, n_in}, dz, n_out,
                 1, plain_right<T>(table, dz, n_out), a.rows, nullptr, a.accumulate,
                 scratch);
    }
    if (a.decay != 0.0) {
      add_decay(a, dw, a.params + (dw - a.grads), n_out, rows.size(), cols.size());
    }
    return table.all_finite(dw, n_out, rows.size(), cols.size());
  }

  // The same for db.
  template <class T>
  static bool bias_gradient(const WeightGradientArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out;
    const Range mine = a.team.share(n, a.table.lanes);
    T* const db = a.grads + op.bias + mine.begin;
    a.table.column_sum(db, a.dz + mine.begin, n, a.rows, mine.size(), a.accumulate);
    return a.table.all_finite(db, mine.size(), 1, mine.size());
  }

  // The elements of packed k x n weights on any instruction set.
  static Index packed_bound(const OpPlan& op, Index k, Index n) {
    return op.operands == Operands::bfloat16 ? bfloat16_right_bound(k, n)
                                             : packed_right_bound(k, n);
  }

  // Whether the activation and its derivative are applied within the products.
  static bool has_fused_activation(const OpPlan& op) {
    return op.activation == Activation::relu;
  }
  template <class T>
  static Epilogue<T> epilogue_of(const OpPlan& op) {
    Epilogue<T> epilogue;
    if (has_fused_activation(op)) epilogue.kind = EpilogueKind::relu;
    return epilogue;
  }

  // Computes columns of z = x W + b for sparse rows x, with the activation if it is
  // fused.
  template <class T>
  static void sparse_forward(const ForwardArgs<T>& a, const OpPlan& op, Range columns,
                             T* z) {
    const Index n = op.n_out;
    a.table.sparse_product(z + columns.begin, n, a.sparse, a.rows,
                           a.params + op.weight + columns.begin, n, columns.size(),
                           op.bias >= 0 ? a.params + op.bias + columns.begin : nullptr,
                           has_fused_activation(op));
  }

  // Scratch memory whose right part is null unless the op's operands are packed in
  // blocks.
  template <class T, template <class> class Args>
  static Scratch<T> scratch_for(const OpPlan& op, const Args<T>& a) {
    Scratch<T> scratch = a.scratch;
    if (!packed_in_blocks<T>(op, a.block_rows)) scratch.right = nullptr;
    return scratch;
  }

  // The variance proposed by He, LeCun or Glorot, depending on the activation (see
  // FASTMLP_ACTIVATIONS).
  static double initial_variance(const OpPlan& op) {
    const double fan_in = static_cast<double>(op.n_in);
    const double fan_out = static_cast<double>(op.n_out);
    switch (facts_of(op.activation.kind).weight_scale) {
      case WeightScale::he:
        return 2 / fan_in;
      case WeightScale::lecun:
        return 1 / fan_in;
      case WeightScale::glorot:
        return 2 / (fan_in + fan_out);
    }
    __builtin_unreachable();
  }

  // Computes z = x W + b as its transpose: W is the left operand, and `nr` rows of x at
  // a time are packed as the right operand.
  template <class T>
  static void forward_transposed(const ForwardArgs<T>& a, const OpPlan& op) {
    const KernelTable<T>& table = a.table;
    const Epilogue<T> epilogue = epilogue_of<T>(op);
    const Index n = op.n_out, k = op.n_in;
    T* const panel = a.scratch.left;
    T* const zt = panel + table.nr * k;
    for (Index r = 0; r < a.rows; r += table.nr) {
      const Index m = std::min(table.nr, a.rows - r);
      table.pack_right(panel, k * table.nr, a.x + r * k, 1, k, k, m);
      for (Index o = 0; o < n; ++o) {
        std::fill_n(zt + o * m, m, op.bias >= 0 ? a.params[op.bias + o] : T(0));
      }
      table.gemm(zt, m, {a.params + op.weight, 1, n}, packed_right(table, panel, k), n,
                 m, k, nullptr, true, epilogue);
      transpose(a.z + r * n, n, zt, m, n, m);
    }
  }

  // Computes dW (rows, n_out) = S + x^T dz as its transpose, where S is dW or 0. The
  // sum runs over `k` rows of x (., ldx) and dz (., n_out). Vectors then run along the
  // many inputs instead of the few outputs. `scratch` holds rows * n_out elements.
  template <class T>
  static void weight_gradient_transposed(const KernelTable<T>& table, T* dw, const T* x,
                                         Index ldx, Index rows, const T* dz,
                                         Index n_out, Index k, bool accumulate,
                                         T* scratch) {
    if (accumulate) transpose(scratch, rows, dw, n_out, rows, n_out);
    gemm_blocked<T>(table, {scratch, n_out, rows, rows}, {dz, 1, n_out},
                    plain_right(table, x, ldx), k, nullptr, accumulate, nullptr);
    transpose(dw, n_out, scratch, rows, n_out, rows);
  }

  // dw += decay w for a block of the weights.
  template <class T>
  static void add_decay(const WeightGradientArgs<T>& a, T* dw, const T* w, Index ld,
                        Index rows, Index cols) {
    const T decay = static_cast<T>(a.decay);
    if (cols == ld) return a.table.axpy(dw, w, decay, rows * cols);
    for (Index i = 0; i < rows; ++i) {
      a.table.axpy(dw + i * ld, w + i * ld, decay, cols);
    }
  }
};

}  // namespace fastmlp::detail
