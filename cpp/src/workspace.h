// The plan of a network's memory: where parameters, activations, gradients, packed
// weights and scratch lie. Made once for a number of rows, so that a step allocates
// nothing.
#pragma once

#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/kernel_table.h"
#include "fastmlp/mlp.h"

namespace fastmlp::detail {

// Up to so many outputs of a layer, products may be made transposed.
constexpr Index kFewOutputs = 16;

struct LayerPlan {
  Index n_in, n_out;
  Activation activation;
  Index weight;  // offset into the parameters
  Index bias;    // offset, -1: none

  bool saves_input() const { return activation_saves_input(activation); }
};

struct NetworkPlan {
  std::vector<LayerPlan> layers;
  Index n_in, n_out, n_params;
  Index widest;          // of all layers' inputs and outputs
  double weights;        // number of weights, biases aside
  Index values_per_row;  // elements that training keeps per row

  NetworkPlan(Index n_in, const std::vector<DenseSpec>& specs);
};

// Elements of Scratch::left that the layers of a network want for up to `rows` rows.
Index layer_scratch_size(const NetworkPlan& net, Index rows);

// One member's memory for blocks of a product's operands. `right` may be null.
template <class T>
struct Scratch {
  T* left;
  T* right;
};

// Whether a layer's weights are packed block by block as they are used, by each member
// for itself: packed beforehand, they would be gone from cache when they are wanted.
// `rows`: those that use a block.
template <class T>
bool packed_in_blocks(const LayerPlan& layer, Index rows) {
  constexpr Index kBytes = 2 << 20;
  constexpr Index kRows = 192;
  return rows >= kRows &&
         layer.n_in * layer.n_out * static_cast<Index>(sizeof(T)) >= kBytes;
}

// Memory of a training pass, `rows` rows at a time.
template <class T>
class Workspace {
 public:
  // Does nothing if what there is suffices; else everything in it is lost. `batch_rows`
  // >= `rows`: rows of the whole batch, for what is kept per row of it.
  void prepare(const NetworkPlan& net, Index rows, Index batch_rows, int threads);
  int threads() const { return threads_; }

  Index rows = 0;
  // Per layer. z is h unless the activation's derivative needs its input.
  std::vector<T*> h, z, dz;
  std::vector<T*> packed, packed_transposed;
  T* x = nullptr;             // gathered or kept input (rows, n_in)
  T* target = nullptr;        // gathered targets (rows, n_out)
  int64_t* labels = nullptr;  // gathered labels (rows)
  T* row_loss = nullptr;      // (batch_rows)
  T* row_scale = nullptr;     // (batch_rows)
  Scratch<T> scratch(int rank) const {
    T* const left = scratch_ + rank * (left_size_ + right_size_);
    return {left, left + left_size_};
  }

 private:
  AlignedBuffer<T> buffer_;
  AlignedBuffer<int64_t> label_buffer_;
  Index batch_rows_ = 0;
  int threads_ = 0;
  T* scratch_ = nullptr;
  Index left_size_ = 0, right_size_ = 0;
};

}  // namespace fastmlp::detail
