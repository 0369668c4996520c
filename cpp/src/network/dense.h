// Dense layers in terms of products and activations, and how rows are grouped for them:
// what training and inference share.
//
// The choices by shape here do not touch the bits: rows are independent of each other,
// and a weight gradient's chain runs over the rows in order however they are grouped.
#pragma once

#include <algorithm>
#include <vector>

#include "fastmlp/gemm.h"
#include "network/workspace.h"
#include "threading/parallel.h"

namespace fastmlp::detail {

// Rows taken through all layers together: few while the weights stay in cache, more
// where every tile has to fetch them again.
template <class T>
Index tile_rows(const NetworkPlan& net) {
  constexpr double kCachedBytes = 256 << 10;
  constexpr double kLargeBytes = 4 << 20;
  const double bytes = net.weights * sizeof(T);
  return bytes <= kCachedBytes ? 96 : bytes <= kLargeBytes ? 256 : 512;
}

template <class T>
RightOperand<T> weight_operand(const KernelTable<T>& table, const OpPlan& layer,
                               const T* params, const T* packed) {
  return packed ? packed_right(table, packed, layer.n_in)
                : plain_right(table, params + layer.weight, layer.n_out);
}

// Whether a layer's activation and its derivative are done within the products.
inline bool has_fused_activation(const OpPlan& layer) {
  return layer.activation == Activation::relu;
}
template <class T>
Epilogue<T> epilogue_of(const OpPlan& layer) {
  Epilogue<T> epilogue;
  if (has_fused_activation(layer)) epilogue.kind = EpilogueKind::relu;
  return epilogue;
}

// C = S + A B, then `epilogue`, for a B of which element (p, j) is b[p * rs + j * cs]:
// packed in blocks if there is scratch for that, else read as `right` has it.
template <class T>
void product(const KernelTable<T>& table, MatrixView<T> c, LeftOperand<T> a, const T* b,
             Index rs, Index cs, RightOperand<T> right, Index k, const T* bias,
             bool accumulate, const Scratch<T>& scratch,
             const Epilogue<T>& epilogue = {}) {
  if (scratch.right) {
    gemm_packing<T>(table, c, a, b, rs, cs, k, bias, accumulate, scratch.left,
                    scratch.right, epilogue);
  } else {
    gemm_blocked<T>(table, c, a, right, k, bias, accumulate, scratch.left, epilogue);
  }
}

// Whether a product with the weights is better made transposed, with vectors along what
// there is much of and not along the outputs.
inline bool has_few_outputs(const OpPlan& layer) {
  return layer.n_out <= kFewOutputs && layer.n_in >= 2 * layer.n_out;
}

// The same for the forward product, where the inputs have to be packed for it: worth it
// for fewer outputs.
inline bool has_few_outputs_forward(const OpPlan& layer) {
  return layer.n_out <= kFewOutputs / 2 && has_few_outputs(layer);
}

// dst[j, i] = src[i, j], src (m, n): for matrices small beside the work around them.
template <class T>
void transpose(T* dst, Index lddst, const T* src, Index ldsrc, Index m, Index n) {
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) dst[j * lddst + i] = src[i * ldsrc + j];
  }
}

// z (rows, n_out) = x W + b by its transpose: `nr` rows of x at a time become a packed
// right operand, W the left one.
template <class T>
void forward_transposed(const KernelTable<T>& table, const OpPlan& layer,
                        const T* params, T* z, const T* x, Index rows,
                        const Epilogue<T>& epilogue, T* scratch) {
  const Index n = layer.n_out, k = layer.n_in;
  T* const panel = scratch;
  T* const zt = panel + table.nr * k;
  for (Index r = 0; r < rows; r += table.nr) {
    const Index m = std::min(table.nr, rows - r);
    table.pack_right(panel, k * table.nr, x + r * k, 1, k, k, m);
    for (Index o = 0; o < n; ++o) {
      std::fill_n(zt + o * m, m, layer.bias >= 0 ? params[layer.bias + o] : T(0));
    }
    table.gemm(zt, m, {params + layer.weight, 1, n}, packed_right(table, panel, k), n,
               m, k, nullptr, true, epilogue);
    transpose(z + r * n, n, zt, m, n, m);
  }
}

// h = act(z), z = x W + b for `rows` contiguous rows; z may be h. W is read packed, or
// packed in blocks if there is scratch for that, or else as it lies. Where a layer has
// few outputs, and there are rows enough and scratch on the left, the product is made
// transposed.
template <class T>
void dense_forward(const KernelTable<T>& table, const OpPlan& layer, const T* params,
                   const T* packed, T* h, T* z, const T* x, Index rows,
                   const Scratch<T>& scratch) {
  const Index n = layer.n_out;
  const T* bias = layer.bias >= 0 ? params + layer.bias : nullptr;
  const Epilogue<T> epilogue = epilogue_of<T>(layer);
  if (scratch.left && has_few_outputs_forward(layer) && rows >= table.nr) {
    forward_transposed(table, layer, params, z, x, rows, epilogue, scratch.left);
  } else {
    product<T>(table, {z, rows, n, n}, {x, layer.n_in, 1}, params + layer.weight, n, 1,
               weight_operand(table, layer, params, packed), layer.n_in, bias, false,
               scratch, epilogue);
  }
  if (layer.activation != Activation::identity && !has_fused_activation(layer)) {
    table.activation_forward(layer.activation, h, n, z, n, rows, n);
  }
}

// This member's share of the columns of h = act(x W + b), for a few rows.
template <class T>
void dense_forward_columns(const KernelTable<T>& table, const Team& team,
                           const OpPlan& layer, const T* params, T* h, const T* x,
                           Index rows) {
  const Index n = layer.n_out;
  const Range mine = team.share(n, table.nr);
  T* const part = h + mine.begin;
  const Epilogue<T> epilogue = epilogue_of<T>(layer);
  gemm_blocked<T>(table, {part, rows, mine.size(), n}, {x, layer.n_in, 1},
                  plain_right<T>(table, params + layer.weight + mine.begin, n),
                  layer.n_in,
                  layer.bias >= 0 ? params + layer.bias + mine.begin : nullptr, false,
                  nullptr, epilogue);
  if (layer.activation == Activation::softmax) {
    // It needs whole rows.
    team.barrier();
    if (team.rank() > 0) return;
    table.activation_forward(layer.activation, h, n, h, n, rows, n);
  } else if (!has_fused_activation(layer)) {
    table.activation_forward(layer.activation, part, n, part, n, rows, mine.size());
  }
}

// dW (rows, n_out) = S + h^T dz over `k` rows of h (., ldh) and dz (., n_out), S = dW
// or 0, by its transpose: vectors run along the inputs, of which there are many, and
// not along the few outputs. `scratch` holds rows * n_out elements.
template <class T>
void weight_gradient_transposed(const KernelTable<T>& table, T* dw, const T* h,
                                Index ldh, Index rows, const T* dz, Index n_out,
                                Index k, bool accumulate, T* scratch) {
  if (accumulate) transpose(scratch, rows, dw, n_out, rows, n_out);
  gemm_blocked<T>(table, {scratch, n_out, rows, rows}, {dz, 1, n_out},
                  plain_right(table, h, ldh), k, nullptr, accumulate, nullptr);
  transpose(dw, n_out, scratch, rows, n_out, rows);
}

// Each member packs its share of the columns of every layer's weights, for use by
// `block_rows` rows at a time.
template <class T>
void pack_forward(const Team& team, const KernelTable<T>& table, const NetworkPlan& net,
                  const T* params, const std::vector<T*>& packed, Index block_rows) {
  for (size_t l = 0; l < net.layers.size(); ++l) {
    const OpPlan& layer = net.layers[l];
    if (!layer.is_dense() || packed_in_blocks<T>(layer, block_rows)) continue;
    const Range columns = team.share(layer.n_out, table.nr);
    table.pack_right(packed[l] + columns.begin * layer.n_in, layer.n_in * table.nr,
                     params + layer.weight + columns.begin, layer.n_out, 1, layer.n_in,
                     columns.size());
  }
}

template <class T>
void pack_backward(const Team& team, const KernelTable<T>& table,
                   const NetworkPlan& net, const T* params,
                   const std::vector<T*>& packed, bool with_dx, Index block_rows) {
  for (size_t l = 0; l < net.layers.size(); ++l) {
    const OpPlan& layer = net.layers[l];
    if (!layer.is_dense() || packed_in_blocks<T>(layer, block_rows)) continue;
    const int from = layer.input;
    const bool learns = from >= 0 && net.layers[static_cast<size_t>(from)].learns;
    if (!with_dx && !learns) continue;
    const Range columns = team.share(layer.n_in, table.nr);
    table.pack_right(packed[l] + columns.begin * layer.n_out, layer.n_out * table.nr,
                     params + layer.weight + columns.begin * layer.n_out, 1,
                     layer.n_out, layer.n_out, columns.size());
  }
}

}  // namespace fastmlp::detail
