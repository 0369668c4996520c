// The layers that are not dense, for a group of rows: what training and inference
// share. Rows are contiguous throughout, and independent of each other.
#pragma once

#include <cmath>

#include "fastmlp/kernel_table.h"
#include "network/workspace.h"

namespace fastmlp::detail {

// The vectors of a batch_norm's statistics (see kBatchStatistics).
template <class T>
struct BatchStatistics {
  T *mean, *var, *rstd, *mean_dh, *mean_dhx;
  BatchStatistics(T* at, Index n)
      : mean(at),
        var(at + n),
        rstd(at + 2 * n),
        mean_dh(at + 3 * n),
        mean_dhx(at + 4 * n) {}
};

// rstd = 1 / sqrt(var + eps).
template <class T>
void reciprocal_deviation(T* rstd, const T* var, double eps, Index n) {
  const T small = static_cast<T>(eps);
  for (Index j = 0; j < n; ++j) rstd[j] = T(1) / std::sqrt(var[j] + small);
}

template <class T>
const T* parameters(const T* params, Index offset) {
  return offset >= 0 ? params + offset : nullptr;
}

// h = layer(x) in inference for a layer that is not dense and does not pass. `other`:
// add's second addend. `mean`, `rstd`: batch_norm's. h may be x.
template <class T>
void infer_step(const KernelTable<T>& table, const OpPlan& layer, const T* params, T* h,
                const T* x, const T* other, const T* mean, const T* rstd, Index rows) {
  const Index n = layer.n_out;
  const T* const scale = parameters(params, layer.weight);
  const T* const shift = parameters(params, layer.bias);
  const T* z = h;
  switch (layer.kind) {
    case LayerKind::layer_norm:
      table.layer_norm_forward(h, n, nullptr, 0, nullptr, x, n, scale, shift,
                               static_cast<T>(layer.eps), rows, n);
      break;
    case LayerKind::batch_norm:
      table.batch_norm_forward(h, n, nullptr, 0, x, n, mean, rstd, scale, shift, rows,
                               n);
      break;
    case LayerKind::add:
      table.add(h, x, other, rows * n);
      break;
    default:  // an activation alone
      if (layer.custom) return layer.custom->forward(h, x, rows * n);
      z = x;
  }
  if (layer.activation != Activation::identity || z != h) {
    table.activation_forward(layer.activation, h, n, z, n, rows, n);
  }
}

}  // namespace fastmlp::detail
