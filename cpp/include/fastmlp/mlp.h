// A multilayer perceptron: h_0 = x, h_l = act_l(h_{l-1} W_l + b_l), y = h_L.
//
// All parameters lie in one flat vector, W_0, b_0, W_1, b_1, ..., each W (in, out)
// row-major. Rows are samples; x is (rows, n_in), y is (rows, n_out), both contiguous.
//
//   fastmlp::Mlp<float> mlp(2, {{16, fastmlp::Activation::tanh},
//                               {1, fastmlp::Activation::identity}});
//   mlp.initialize(0);
//   fastmlp::OptimizerConfig config;
//   config.kind = fastmlp::OptimizerKind::adam;
//   fastmlp::Optimizer adam(config);
//   double loss = mlp.train_step({x, {y}, rows}, {fastmlp::LossKind::mse}, adam);
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "fastmlp/loss.h"
#include "fastmlp/optimizer.h"
#include "fastmlp/types.h"

namespace fastmlp {

struct DenseSpec {
  Index width;
  Activation activation = Activation::identity;
  bool bias = true;
};

template <class T>
struct Batch {
  const T* x;
  Targets<T> targets;
  Index rows;
};

// The loss or the gradient of a step is not finite. The step was not taken.
class Diverged : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// fit_epoch was told to stop. The model stands as the last whole step left it.
class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("training was interrupted") {}
};

// Asked between steps, and between blocks of rows; true stops.
struct Interruption {
  bool (*requested)(void* context) = nullptr;
  void* context = nullptr;

  // Throws Interrupted.
  void check() const {
    if (requested && requested(context)) throw Interrupted();
  }
};

struct EpochOptions {
  Index batch_size = 32;
  bool shuffle = false;  // by (seed, epoch); see random.h
  uint64_t seed = 0;
  uint32_t epoch = 0;
  Interruption interruption = {};
  const double* lr = nullptr;  // of each step, instead of the optimiser's
};

// Parameters and optimiser state as they were at the first step of the last epoch whose
// loss was finite: what a diverged epoch is rolled back to.
template <class T>
struct LastGoodState {
  bool valid = false;
  AlignedBuffer<T> params;
  std::array<AlignedBuffer<T>, kMaxSlots> slots;
  int64_t step_count = 0;
};

// Inference may run in several threads at once; training takes turns with everything
// else. Any method may throw std::bad_alloc, and those that take rows
// std::invalid_argument (no rows, targets that do not fit the loss); then they have
// changed nothing.
template <class T>
class Mlp {
 public:
  // Throws std::invalid_argument: no layers, a width < 1, or sizes that overflow.
  Mlp(Index n_in, std::vector<DenseSpec> layers);
  ~Mlp();
  Mlp(const Mlp&) = delete;
  Mlp& operator=(const Mlp&) = delete;

  Index n_in() const;
  Index n_out() const;
  Index n_params() const;
  Index n_layers() const;
  // Zeros until set or initialised.
  T* params();
  const T* params() const;
  // Views into params(): (in, out), and out elements or null.
  MatrixView<T> weight(Index layer);
  T* bias(Index layer);

  // Weights uniform with He's variance 2 / fan_in before ReLU-like activations, LeCun's
  // 1 / fan_in before selu, Glorot's 2 / (fan_in + fan_out) elsewhere; biases zero.
  void initialize(uint64_t seed);

  // Polyak averaging: parameters += weight * (the other's - parameters), each by one
  // fused multiply-add. Throws std::invalid_argument for another number of them.
  void interpolate(const Mlp& other, double weight);

  void predict(T* y, const T* x, Index rows) const;
  // Training in another thread may come between two blocks of many rows.
  double evaluate(const Batch<T>& batch, const Loss& loss,
                  const Interruption& interruption = {}) const;

  // Keeps a copy of the input and what the layers computed, for backward.
  void forward(T* y, const T* x, Index rows);
  // Gradients of sum(dy * y), y of the last forward, whose rows these must be.
  // Throws std::logic_error if there was none.
  void backward(T* dx, T* grads, const T* dy, Index rows);
  Index forward_rows() const;  // of the last forward, 0 if there was none
  void vjp(T* y, T* dx, T* grads, const T* x, const T* dy, Index rows);

  double value_and_grad(T* grads, const Batch<T>& batch, const Loss& loss);
  // The loss before the update. Throws Diverged if it or the gradient is not finite.
  double train_step(const Batch<T>& batch, const Loss& loss, Optimizer& optimizer);
  // One pass over the data in steps of batch_size rows, the last one maybe shorter. The
  // mean of the steps' losses by rows (by weight where there are weights), or their sum
  // under Reduction::sum. Throws Diverged, with the state rolled back to `last_good`,
  // and Interrupted.
  double fit_epoch(const Batch<T>& data, const Loss& loss, Optimizer& optimizer,
                   const EpochOptions& options, LastGoodState<T>& last_good);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastmlp
