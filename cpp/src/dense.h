// Dense layers in terms of products and activations, and how rows are grouped for them:
// what training and inference share.
//
// The choices by shape here do not touch the bits: rows are independent of each other, and
// a weight gradient's chain runs over the rows in order however they are grouped.
#pragma once

#include <vector>

#include "fastmlp/gemm.h"
#include "parallel.h"
#include "workspace.h"

namespace fastmlp::detail {

// Rows taken through all layers together: small while the weights stay in cache, more
// where every tile has to fetch them again.
template <class T>
Index tile_rows(const NetworkPlan& net) {
  constexpr double kCachedBytes = 256 << 10;
  return net.weights * sizeof(T) > kCachedBytes ? 96 : 48;
}

template <class T>
RightOperand<T> weight_operand(const KernelTable<T>& table, const LayerPlan& layer,
                               const T* params, const T* packed) {
  return packed ? packed_right(table, packed, layer.n_in)
                : plain_right(table, params + layer.weight, layer.n_out);
}

// h = act(z), z = x W + b for `rows` contiguous rows; z may be h. `scratch`: for the
// product, or null.
template <class T>
void dense_forward(const KernelTable<T>& table, const LayerPlan& layer, const T* params,
                   const T* packed, T* h, T* z, const T* x, Index rows, T* scratch) {
  const Index n = layer.n_out;
  const T* bias = layer.bias >= 0 ? params + layer.bias : nullptr;
  Finish<T> finish;
  if (layer.activation == Activation::relu) finish.kind = Finishing::relu;
  gemm_blocked<T>(table, {z, rows, n, n}, {x, layer.n_in, 1},
                  weight_operand(table, layer, params, packed), layer.n_in, bias, false,
                  scratch, finish);
  if (layer.activation != Activation::identity && finish.kind == Finishing::none) {
    table.activation_forward(layer.activation, h, n, z, n, rows, n);
  }
}

// Whether the weight gradient is better made with vectors along the inputs.
inline bool few_outputs(const LayerPlan& layer) {
  return layer.n_out <= kFewOutputs && layer.n_in >= 2 * layer.n_out;
}

// dst[j, i] = src[i, j], src (m, n): for matrices small beside the work around them.
template <class T>
void transpose(T* dst, Index lddst, const T* src, Index ldsrc, Index m, Index n) {
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) dst[j * lddst + i] = src[i * ldsrc + j];
  }
}

// dW (rows, n_out) = S + h^T dz over `k` rows of h (., ldh) and dz (., n_out), S = dW or 0,
// by its transpose: vectors run along the inputs, of which there are many, and not along
// the few outputs. `scratch` holds rows * n_out elements.
template <class T>
void weight_gradient_across(const KernelTable<T>& table, T* dw, const T* h, Index ldh,
                            Index rows, const T* dz, Index n_out, Index k,
                            bool accumulate, T* scratch) {
  if (accumulate) transpose(scratch, rows, dw, n_out, rows, n_out);
  gemm_blocked<T>(table, {scratch, n_out, rows, rows}, {dz, 1, n_out},
                  plain_right(table, h, ldh), k, nullptr, accumulate, nullptr);
  transpose(dw, n_out, scratch, rows, n_out, rows);
}

// Each member packs its share of the columns of every layer's weights.
template <class T>
void pack_forward(const Team& team, const KernelTable<T>& table, const NetworkPlan& net,
                  const T* params, const std::vector<T*>& packed) {
  for (size_t l = 0; l < net.layers.size(); ++l) {
    const LayerPlan& layer = net.layers[l];
    const Range columns = team.share(layer.n_out, table.nr);
    table.pack_right(packed[l] + columns.begin * layer.n_in, layer.n_in * table.nr,
                     params + layer.weight + columns.begin, layer.n_out, 1, layer.n_in,
                     columns.size());
  }
}

template <class T>
void pack_backward(const Team& team, const KernelTable<T>& table,
                   const NetworkPlan& net, const T* params,
                   const std::vector<T*>& packed, size_t first_layer) {
  for (size_t l = first_layer; l < net.layers.size(); ++l) {
    const LayerPlan& layer = net.layers[l];
    const Range columns = team.share(layer.n_in, table.nr);
    table.pack_right(packed[l] + columns.begin * layer.n_out, layer.n_out * table.nr,
                     params + layer.weight + columns.begin * layer.n_out, 1,
                     layer.n_out, layer.n_out, columns.size());
  }
}

}  // namespace fastmlp::detail
