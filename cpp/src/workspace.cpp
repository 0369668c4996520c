#include "workspace.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "fastmlp/gemm.h"

namespace fastmlp::detail {
namespace {

constexpr Index kLargest = std::numeric_limits<Index>::max() / 64;

// a + b * c for sizes, refusing what no array could hold.
Index checked_add_product(Index a, Index b, Index c) {
  if (b > 0 && c > (kLargest - a) / b) {
    throw std::invalid_argument("the network's sizes overflow: " + std::to_string(b) +
                                " x " + std::to_string(c) + " weights in one layer");
  }
  return a + b * c;
}

// Hands out consecutive cache-line aligned parts of one buffer, first counting, then
// real.
template <class T>
class Carver {
 public:
  explicit Carver(T* base) : base_(base) {}
  T* take(Index size) {
    constexpr Index kLine = static_cast<Index>(kAlignment / sizeof(T));
    T* at = base_ ? base_ + used_ : nullptr;
    used_ += (size + kLine - 1) / kLine * kLine;
    return at;
  }
  Index used() const { return used_; }

 private:
  T* base_;
  Index used_ = 0;
};

}  // namespace

NetworkPlan::NetworkPlan(Index inputs, const std::vector<DenseSpec>& specs)
    : n_in(inputs),
      n_out(inputs),
      n_params(0),
      widest(inputs),
      weights(0),
      values_per_row(inputs) {
  if (specs.empty()) throw std::invalid_argument("a network needs at least one layer");
  if (inputs < 1) throw std::invalid_argument("the input width must be at least 1");
  for (const DenseSpec& spec : specs) {
    if (spec.width < 1)
      throw std::invalid_argument("a layer's width must be at least 1");
    LayerPlan layer = {n_out, spec.width, spec.activation, n_params, -1};
    n_params = checked_add_product(n_params, layer.n_in, layer.n_out);
    if (spec.bias) {
      layer.bias = n_params;
      n_params = checked_add_product(n_params, 1, layer.n_out);
    }
    weights += static_cast<double>(layer.n_in) * static_cast<double>(layer.n_out);
    widest = std::max(widest, layer.n_out);
    values_per_row += layer.n_out * (layer.saves_input() ? 3 : 2);
    n_out = layer.n_out;
    layers.push_back(layer);
  }
}

Index layer_scratch_size(const NetworkPlan& net, Index rows) {
  Index size = left_scratch_size(std::max(rows, net.widest));
  for (const LayerPlan& layer : net.layers) {
    if (layer.n_out > kFewOutputs) continue;
    // A panel of rows of the inputs, and the few outputs (or the gradient) transposed.
    const Index across = packed_right_bound(layer.n_in, 1) +
                         kFewOutputs * std::max(layer.n_in, kMostPanelColumns);
    size = std::max(size, across);
  }
  return size;
}

template <class T>
void Workspace<T>::prepare(const NetworkPlan& net, Index n_rows, Index batch_rows,
                           int threads) {
  if (n_rows <= rows && batch_rows <= batch_rows_ && threads <= threads_) return;
  n_rows = std::max(n_rows, rows);
  batch_rows = std::max(batch_rows, batch_rows_);
  threads = std::max(threads, threads_);
  const size_t n_layers = net.layers.size();
  const auto carve = [&](T* base) {
    Carver<T> carver(base);
    x = carver.take(n_rows * net.n_in);
    target = carver.take(n_rows * net.n_out);
    row_loss = carver.take(batch_rows);
    row_scale = carver.take(batch_rows);
    for (size_t l = 0; l < n_layers; ++l) {
      const LayerPlan& layer = net.layers[l];
      h[l] = carver.take(n_rows * layer.n_out);
      z[l] = layer.saves_input() ? carver.take(n_rows * layer.n_out) : h[l];
      dz[l] = carver.take(n_rows * layer.n_out);
      packed[l] = carver.take(packed_right_bound(layer.n_in, layer.n_out));
      packed_transposed[l] = carver.take(packed_right_bound(layer.n_out, layer.n_in));
    }
    left_size_ = layer_scratch_size(net, n_rows);
    right_size_ = 0;
    for (const LayerPlan& layer : net.layers) {
      if (!packed_in_blocks<T>(layer, n_rows)) continue;
      // The weights, these transposed, and the rows of dz.
      right_size_ =
          std::max({right_size_, right_scratch_size<T>(layer.n_in, layer.n_out),
                    right_scratch_size<T>(layer.n_out, layer.n_in),
                    right_scratch_size<T>(n_rows, layer.n_out)});
    }
    scratch_ = carver.take((left_size_ + right_size_) * threads);
    return carver.used();
  };
  h.resize(n_layers);
  z.resize(n_layers);
  dz.resize(n_layers);
  packed.resize(n_layers);
  packed_transposed.resize(n_layers);
  // Nothing is valid until the memory is there.
  rows = 0;
  const Index size = carve(nullptr);
  buffer_.reserve(size);
  label_buffer_.reserve(n_rows);
  carve(buffer_.data());
  labels = label_buffer_.data();
  rows = n_rows;
  batch_rows_ = batch_rows;
  threads_ = threads;
}

template class Workspace<float>;
template class Workspace<double>;

}  // namespace fastmlp::detail
