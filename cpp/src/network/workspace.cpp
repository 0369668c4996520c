#include "network/workspace.h"

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
                                " x " + std::to_string(c) + " elements in one layer");
  }
  return a + b * c;
}

// Hands out consecutive cache-line aligned parts of one buffer, first counting, then
// real.
template <class T>
class Arena {
 public:
  explicit Arena(T* base) : base_(base) {}
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

NetworkPlan::NetworkPlan(Index inputs, const std::vector<LayerSpec>& specs)
    : n_in(inputs),
      n_out(inputs),
      n_params(0),
      n_buffers(0),
      widest(inputs),
      weights(0),
      work(0),
      values_per_row(0) {
  if (specs.empty()) throw std::invalid_argument("a network needs at least one layer");
  if (inputs < 1) throw std::invalid_argument("the input width must be at least 1");
  values_per_row = checked_add_product(0, 1, inputs);
  n_out = width_of(append(specs, kInput, ""));
  plan_gradients();
  plan_inference();
}

Index NetworkPlan::width_of(int step) const {
  return step == kInput ? n_in : layers[static_cast<size_t>(step)].n_out;
}

int NetworkPlan::push(OpPlan layer) {
  constexpr double kElementwiseWork = 4;
  const Index n = layer.n_out;
  if (layer.is_dense()) {
    layer.weight = n_params;
    n_params = checked_add_product(n_params, layer.n_in, n);
    const double size = static_cast<double>(layer.n_in) * static_cast<double>(n);
    weights += size;
    work += size;
  } else {
    work += kElementwiseWork * static_cast<double>(n);
  }
  Index values = 2 + layer.saves_input();
  if (layer.kind == LayerKind::dropout || layer.kind == LayerKind::layer_norm ||
      layer.kind == LayerKind::batch_norm || layer.custom) {
    ++values;
  }
  values_per_row = checked_add_product(values_per_row, values, n);
  widest = std::max(widest, n);
  has_custom = has_custom || layer.custom;
  layers.push_back(std::move(layer));
  return static_cast<int>(layers.size()) - 1;
}

// Appends the steps of a sequence of layers that takes the output of step `input`;
// returns the one whose output is the sequence's.
int NetworkPlan::append(const std::vector<LayerSpec>& specs, int input,
                        const std::string& prefix) {
  int last = input;
  for (size_t i = 0; i < specs.size(); ++i) {
    const LayerSpec& spec = specs[i];
    const std::string name = prefix + std::to_string(i);
    const Index width = width_of(last);
    OpPlan layer = {spec.kind, width, width};
    layer.input = last;
    layer.name = name;
    switch (spec.kind) {
      case LayerKind::dense:
        if (spec.width < 1)
          throw std::invalid_argument("a layer's width must be at least 1");
        layer.n_out = spec.width;
        layer.activation = spec.activation;
        last = push(std::move(layer));
        if (spec.bias) {
          layers.back().bias = n_params;
          n_params = checked_add_product(n_params, 1, spec.width);
        }
        break;
      case LayerKind::activation: {
        // An activation that nothing stands before is done with the step before.
        OpPlan* const before = last != input ? &layers.back() : nullptr;
        if (before && !spec.custom && !before->custom &&
            !before->is_identity_at_inference() &&
            before->activation == Activation::identity) {
          before->activation = spec.activation;
          values_per_row =
              checked_add_product(values_per_row, before->saves_input(), width);
          break;
        }
        layer.activation = spec.activation;
        layer.custom = spec.custom;
        last = push(std::move(layer));
        break;
      }
      case LayerKind::dropout:
        if (!(spec.rate >= 0 && spec.rate < 1))
          throw std::invalid_argument("a dropout's rate must be in [0, 1)");
        layer.rate = spec.rate;
        layer.stream = dropouts_++;
        last = push(std::move(layer));
        break;
      case LayerKind::layer_norm:
      case LayerKind::batch_norm:
        if (!(spec.eps >= 0))
          throw std::invalid_argument("a normalisation's eps must not be negative");
        layer.eps = spec.eps;
        layer.momentum = spec.momentum;
        if (spec.bias) {
          layer.weight = n_params;
          layer.bias = n_params + width;
          n_params = checked_add_product(n_params, 2, width);
        }
        if (spec.kind == LayerKind::batch_norm) {
          layer.statistics = n_buffers;
          n_buffers = checked_add_product(n_buffers, 2, width);
          batch_norms.push_back(static_cast<int>(layers.size()));
        }
        last = push(std::move(layer));
        break;
      case LayerKind::add: {
        if (spec.body.empty())
          throw std::invalid_argument("a residual block needs at least one layer");
        const int body = append(spec.body, last, name + ".body.");
        const Index n = width_of(body);
        int other = last;
        if (n != width) {
          OpPlan projection = {LayerKind::dense, width, n};
          projection.input = last;
          projection.name = name + ".projection";
          other = push(std::move(projection));
          layers.back().bias = n_params;
          n_params = checked_add_product(n_params, 1, n);
        }
        layer.n_in = layer.n_out = n;
        layer.input = body;
        layer.other = other;
        last = push(std::move(layer));
        break;
      }
    }
  }
  return last;
}

// Who writes a gradient first on the way back, who adds to it, and whose memory it may
// share. Steps are gone through last to first.
void NetworkPlan::plan_gradients() {
  const size_t n = layers.size();
  std::vector<int> uses(n + 1, 0);  // of a step's output; the network's input last
  const auto at = [&](int step) {
    return step == kInput ? n : static_cast<size_t>(step);
  };
  for (OpPlan& layer : layers) {
    layer.learns = layer.weight >= 0;
    for (const int from : {layer.input, layer.other}) {
      if (from == kNone) continue;
      ++uses[at(from)];
      if (from >= 0 && layers[at(from)].learns) layer.learns = true;
    }
  }
  std::vector<int> written(n + 1, 0);
  for (size_t i = n; i-- > 0;) {
    OpPlan& layer = layers[i];
    if (layer.other != kNone) layer.adds_other = written[at(layer.other)]++ > 0;
    layer.adds_input = written[at(layer.input)]++ > 0;
    if (layer.input < 0) continue;
    OpPlan& source = layers[at(layer.input)];
    const bool alone = uses[at(layer.input)] == 1;
    layer.shares_input =
        alone && (layer.kind == LayerKind::dropout || layer.kind == LayerKind::add ||
                  layer.kind == LayerKind::activation);
    // The last to write to a gradient may finish it.
    if (layer.is_dense() && source.activation == Activation::relu &&
        written[at(layer.input)] == uses[at(layer.input)]) {
      layer.ends_relu = source.relu_ended = true;
    }
  }
}

// Buffers for the outputs: one is free again after the last step that reads it.
void NetworkPlan::plan_inference() {
  const size_t n = layers.size();
  std::vector<size_t> last_use(n, n);
  std::vector<int> owner(n);  // whose buffer holds a step's output; kInput: x itself
  const auto resolved = [&](int step) {
    return step == kInput ? kInput : owner[static_cast<size_t>(step)];
  };
  for (size_t i = 0; i < n; ++i) {
    const OpPlan& layer = layers[i];
    owner[i] =
        layer.is_identity_at_inference() ? resolved(layer.input) : static_cast<int>(i);
    for (const int from : {layer.input, layer.other}) {
      const int held = from == kNone ? kInput : resolved(from);
      if (held >= 0) last_use[static_cast<size_t>(held)] = i;
    }
  }
  output_step = owner[n - 1];
  if (output_step >= 0) last_use[static_cast<size_t>(output_step)] = n;
  n_inference_buffers = 0;
  std::vector<bool> taken;
  for (size_t i = 0; i < n; ++i) {
    OpPlan& layer = layers[i];
    if (layer.is_identity_at_inference()) {
      layer.buffer =
          owner[i] < 0 ? kInput : layers[static_cast<size_t>(owner[i])].buffer;
      continue;
    }
    size_t free = 0;
    while (free < taken.size() && taken[free]) ++free;
    if (free == taken.size()) taken.push_back(true);
    taken[free] = true;
    layer.buffer = static_cast<int>(free);
    for (size_t j = 0; j <= i; ++j) {
      if (owner[j] == static_cast<int>(j) && last_use[j] == i) {
        taken[static_cast<size_t>(layers[j].buffer)] = false;
      }
    }
  }
  n_inference_buffers = static_cast<int>(taken.size());
}

Index weight_chunks(const NetworkPlan& net) {
  Index chunks = 0;
  for (const OpPlan& layer : net.layers) {
    if (layer.is_dense()) chunks += square_chunks(layer.n_in * layer.n_out);
  }
  return chunks;
}

Index layer_scratch_size(const NetworkPlan& net, Index rows) {
  Index size = left_scratch_size(std::max(rows, net.widest));
  for (const OpPlan& layer : net.layers) {
    if (!layer.is_dense() || layer.n_out > kFewOutputs) continue;
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
    Arena<T> carver(base);
    std::vector<bool> shared(n_layers, false);  // gradients that have their memory
    x = carver.take(n_rows * net.n_in);
    target = carver.take(n_rows * net.n_out);
    row_loss = carver.take(batch_rows);
    row_scale = carver.take(batch_rows);
    for (size_t l = n_layers; l-- > 0;) {
      const OpPlan& layer = net.layers[l];
      const Index values = n_rows * layer.n_out;
      h[l] = carver.take(values);
      z[l] = layer.saves_input() ? carver.take(values) : h[l];
      if (!shared[l]) dz[l] = carver.take(values);
      if (layer.shares_input) {
        dz[static_cast<size_t>(layer.input)] = dz[l];
        shared[static_cast<size_t>(layer.input)] = true;
      }
      switch (layer.kind) {
        case LayerKind::dense:
          packed[l] = carver.take(packed_right_bound(layer.n_in, layer.n_out));
          packed_transposed[l] =
              carver.take(packed_right_bound(layer.n_out, layer.n_in));
          break;
        case LayerKind::dropout:
          kept[l] = carver.take(values);
          break;
        case LayerKind::layer_norm:
          kept[l] = carver.take(values);
          statistics[l] = carver.take(n_rows);
          break;
        case LayerKind::batch_norm:
          kept[l] = carver.take(values);
          statistics[l] = carver.take(kBatchStatistics * layer.n_out);
          break;
        case LayerKind::activation:
          if (layer.custom) kept[l] = carver.take(values);
          break;
        case LayerKind::add:
          break;
      }
    }
    left_size_ = layer_scratch_size(net, n_rows);
    right_size_ = 0;
    for (const OpPlan& layer : net.layers) {
      if (!layer.is_dense() || !packed_in_blocks<T>(layer, n_rows)) continue;
      // The weights, these transposed, and the rows of dz.
      right_size_ =
          std::max({right_size_, right_scratch_size<T>(layer.n_in, layer.n_out),
                    right_scratch_size<T>(layer.n_out, layer.n_in),
                    right_scratch_size<T>(n_rows, layer.n_out)});
    }
    scratch_ = carver.take((left_size_ + right_size_) * threads);
    return carver.used();
  };
  for (auto* pointers :
       {&h, &z, &dz, &kept, &statistics, &packed, &packed_transposed}) {
    pointers->assign(n_layers, nullptr);
  }
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
