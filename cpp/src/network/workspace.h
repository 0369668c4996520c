// The plan of a network's memory: where parameters, activations, gradients, packed
// weights and scratch lie. Made once for a number of rows, so that a step allocates
// nothing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/kernel_table.h"
#include "fastmlp/mlp.h"

namespace fastmlp::detail {

// Up to so many outputs of a layer, products may be made transposed.
constexpr Index kFewOutputs = 16;

// A step of the network. Residual blocks are flattened: their body's steps, a dense
// step for the projection if there is one, then `add`. A step takes the output of
// another one, by its index, or kInput, what the network is given.
constexpr int kInput = -1;
constexpr int kNone = -2;
struct OpPlan {
  LayerKind kind;
  Index n_in, n_out;
  Activation activation = Activation::identity;  // of its own, after all else
  Index weight = -1;  // offset into the parameters; normalisation: of the scale
  Index bias = -1;    // offset; normalisation: of the shift; -1: none
  int input = kInput;
  int other = kNone;  // add: the second addend
  double rate = 0, eps = 0, momentum = 0;
  Index statistics = -1;  // batch_norm: offset of running means; variances follow
  uint32_t stream = 0;    // dropout: its number among those of the network
  std::shared_ptr<const CustomActivation> custom = nullptr;
  std::string name = {};

  // What follows from the network around it.
  bool learns = false;        // it or a step before it has parameters
  bool adds_input = false;    // its gradient is added to what `input` has already
  bool adds_other = false;    // the same for `other`
  bool shares_input = false;  // its gradient is that of `input`, in the same place
  bool ends_relu = false;     // its product applies the derivative of `input`'s relu
  bool relu_ended = false;    // so it need not be applied to this step's gradient
  int buffer = 0;             // for its output in inference; kInput: it has none

  bool is_dense() const { return kind == LayerKind::dense; }
  // Whether what is before the activation is kept in a place of its own.
  bool saves_input() const {
    return activation_saves_input(activation) && kind != LayerKind::activation;
  }
  // Whether it leaves its input as it is when there is no training.
  bool is_identity_at_inference() const { return kind == LayerKind::dropout; }
};

struct NetworkPlan {
  std::vector<OpPlan> layers;  // in the order of computation
  Index n_in, n_out, n_params, n_buffers;
  Index widest;          // of all layers' inputs and outputs
  double weights;        // number of weights of dense layers, biases aside
  double work;           // per row, in multiply-adds, of a forward pass
  Index values_per_row;  // elements that training keeps per row
  int n_inference_buffers;
  int output_step;  // whose output in inference is the network's; kInput: its input
  bool has_custom = false;
  std::vector<int> batch_norms;  // their steps, ascending

  NetworkPlan(Index n_in, const std::vector<LayerSpec>& specs);

 private:
  int append(const std::vector<LayerSpec>& specs, int input, const std::string& prefix);
  int push(OpPlan layer);
  Index width_of(int step) const;
  void plan_gradients();
  void plan_inference();
  uint32_t dropouts_ = 0;
};

// Chunks, of kSquaresChunk elements of one dense layer's weights each, of which the sum
// of the weights' squares is made.
Index weight_chunks(const NetworkPlan& net);

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
bool packed_in_blocks(const OpPlan& layer, Index rows) {
  constexpr Index kBytes = 2 << 20;
  constexpr Index kRows = 192;
  return rows >= kRows &&
         layer.n_in * layer.n_out * static_cast<Index>(sizeof(T)) >= kBytes;
}

// What is known of the columns of a batch_norm's input: mean, variance, 1 / deviation;
// then on the way back the means over the batch of dy and of dy times the normalised
// value.
constexpr Index kBatchStatistics = 5;

// Memory of a training pass, `rows` rows at a time.
template <class T>
class Workspace {
 public:
  // Does nothing if what there is suffices; else everything in it is lost. `batch_rows`
  // >= `rows`: rows of the whole batch, for what is kept per row of it.
  void prepare(const NetworkPlan& net, Index rows, Index batch_rows, int threads);
  int threads() const { return threads_; }

  Index rows = 0;
  // Per layer. z is h unless the activation's derivative needs its input. dz is the
  // gradient of its output, then that before its activation. kept: dropout's mask,
  // normalised values, or a custom activation's derivative (all like h). statistics: of
  // a layer_norm 1 / deviation by row; of a batch_norm kBatchStatistics vectors of
  // n_out.
  std::vector<T*> h, z, dz, kept, statistics;
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
