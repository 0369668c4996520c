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

// Packing the weights costs one pass over them and is used once per row tile.
inline bool worth_packing(Index rows, Index mr) { return rows > 4 * mr; }

template <class T>
RightOperand<T> weight_operand(const KernelTable<T>& table, const LayerPlan& layer,
                               const T* params, const T* packed) {
  return packed ? packed_right(table, packed, layer.n_in)
                : plain_right(table, params + layer.weight, layer.n_out);
}

// h = act(z), z = x W + b for `rows` contiguous rows; z may be h.
template <class T>
void dense_forward(const KernelTable<T>& table, const LayerPlan& layer, const T* params,
                   const T* packed, T* h, T* z, const T* x, Index rows) {
  const Index n = layer.n_out;
  const T* bias = layer.bias >= 0 ? params + layer.bias : nullptr;
  gemm_blocked<T>(table, {z, rows, n, n}, {x, layer.n_in, 1},
                  weight_operand(table, layer, params, packed), layer.n_in, bias, false,
                  nullptr);
  if (layer.activation != Activation::identity) {
    table.activation_forward(layer.activation, h, n, z, n, rows, n);
  }
}

// Each member packs its share of the columns of every layer's weights.
template <class T>
void pack_forward(const Team& team, const KernelTable<T>& table, const NetworkPlan& net,
                  const T* params, const std::vector<T*>& packed) {
  for (size_t l = 0; l < net.layers.size(); ++l) {
    const LayerPlan& layer = net.layers[l];
    const Range columns = team.share(layer.n_out, table.nr);
    table.pack_right(packed[l] + columns.begin * layer.n_in,
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
    table.pack_right(packed[l] + columns.begin * layer.n_out,
                     params + layer.weight + columns.begin * layer.n_out, 1,
                     layer.n_out, layer.n_out, columns.size());
  }
}

}  // namespace fastmlp::detail
