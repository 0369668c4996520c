// A multilayer perceptron: h_0 = x, h_l = layer_l(h_{l-1}), y = h_L, where a layer is
// dense, act(h W + b), or one of those that LayerSpec makes.
//
// All parameters lie in one flat vector in the order of the layers: of a dense one W
// (in, out), row-major, then b; of a normalisation the scale, then the shift; of a
// residual block those of its body, then of its projection. Rows are samples; x is
// (rows, n_in), y is (rows, n_out), both contiguous.
//
//   fastmlp::Mlp<float> mlp(2, {{16, fastmlp::Activation::tanh},
//                               fastmlp::LayerSpec::dropout(0.1),
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
#include <utility>
#include <vector>

#include "fastmlp/layer_spec.h"
#include "fastmlp/loss.h"
#include "fastmlp/optimizer.h"
#include "fastmlp/types.h"

namespace fastmlp {

// Where a step's parameters and statistics lie, in the order of computation.
struct LayerInfo {
  std::string name;  // where its layer is in the specification: "2", "3.body.0", ...
  LayerKind kind;
  Index n_in, n_out;
  Index weight, bias;  // offsets into the parameters, -1: none; or scale and shift
  Index statistics;    // batch_norm: offset into the buffers, else -1
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

// Told of every step of an epoch, with no lock held. False stops as an interruption.
struct StepListener {
  bool (*stepped)(void* context, Index step, double loss) = nullptr;
  void* context = nullptr;

  // Throws Interrupted.
  void tell(Index step, double loss) const {
    if (stepped && !stepped(context, step, loss)) throw Interrupted();
  }
};

struct Draw;  // which random numbers, dropout.h

// How far an epoch has come: the steps taken, and the sums that its loss is made of.
struct EpochProgress {
  Index steps = 0;
  double total = 0.0, divisor = 0.0;

  // The loss so far: a mean over rows (or weights), or a sum.
  double loss(Reduction reduction) const {
    if (reduction == Reduction::sum) return total;
    return divisor == 0.0 ? 0.0 : total / divisor;
  }
};

struct EpochOptions {
  Index batch_size = 32;
  bool shuffle = false;  // by (seed, epoch); see random.h
  uint64_t seed = 0;
  uint32_t epoch = 0;
  // Where an epoch has parts: what came before, kept up to date after each step (before
  // the listener is told), and the first row, in the epoch's order, to go on with.
  EpochProgress* progress = nullptr;
  Index first_row = 0;
  Interruption interruption = {};
  const double* lr = nullptr;  // of each step to come, instead of the optimiser's
  StepListener listener = {};
  // Rows of the data that make up the epoch, n_order of them, in this order; instead of
  // all of them and without shuffle. They may repeat. Null: all rows.
  const int64_t* order = nullptr;
  Index n_order = 0;
  double l2 = 0.0;  // see value_and_grad; subtracted where the optimiser maximises
};

// Parameters and optimiser state as they were at the first step of the last epoch whose
// loss was finite: what a diverged epoch is rolled back to.
template <class T>
struct LastGoodState {
  bool valid = false;
  AlignedBuffer<T> params, buffers;
  std::array<AlignedBuffer<T>, kMaxSlots> slots;
  int64_t step_count = 0, batches_tracked = 0;
};

// What random numbers training draws outside fit_epoch, which are a function of this,
// and how many batches running statistics have seen.
struct TrainingState {
  uint64_t seed = 0;
  uint64_t passes = 0;  // in training mode, optimiser steps aside
  int64_t batches_tracked = 0;
};

// Copies of what the last optimiser step has left behind.
template <class T>
struct LastStep {
  Index rows = 0;  // 0: there is nothing any more; of a large batch only its last ones
  std::vector<T> grads;   // (n_params)
  std::vector<T> before;  // the parameters before it, if watched, else empty
  std::vector<std::vector<T>> outputs;  // (rows, width) of each step of layers()
};

// Inference may run in several threads at once; training takes turns with everything
// else. Any method may throw std::bad_alloc, and those that take rows
// std::invalid_argument (no rows, targets that do not fit the loss); then they have
// changed nothing.
template <class T>
class Mlp {
 public:
  // Throws std::invalid_argument: no layers, a width < 1, or sizes that overflow.
  Mlp(Index n_in, std::vector<LayerSpec> layers);
  ~Mlp();
  Mlp(const Mlp&) = delete;
  Mlp& operator=(const Mlp&) = delete;

  Index n_in() const;
  Index n_out() const;
  Index n_params() const;
  // Their steps, in the order of computation: of a residual block its body's, then its
  // projection's, then its own. An activation by itself belongs to the step before it,
  // where that has none.
  std::vector<LayerInfo> layers() const;
  // Zeros until set or initialised.
  T* params();
  const T* params() const;
  // Running means (0 at first) and variances (1) of each batch_norm.
  Index n_buffers() const;
  T* buffers();
  TrainingState training_state() const;
  void set_training_state(const TrainingState& state);

  // Scales one, shifts and biases zero, weights uniform with He's variance 2 / fan_in
  // before ReLU-like activations, LeCun's 1 / fan_in before selu, Glorot's
  // 2 / (fan_in + fan_out) elsewhere.
  void initialize(uint64_t seed);

  // Polyak averaging: parameters += weight * (the other's - parameters), each by one
  // fused multiply-add; running statistics as well. Throws std::invalid_argument for
  // another number of either.
  void interpolate(const Mlp& other, double weight);

  void predict(T* y, const T* x, Index rows) const;
  // Training in another thread may come between two blocks of many rows.
  double evaluate(const Batch<T>& batch, const Loss& loss,
                  const Interruption& interruption = {}) const;

  // In training mode dropout drops, and batch_norm takes the statistics of the batch
  // and moves its running ones; it needs at least two rows then. train_step and
  // fit_epoch are always in training mode, predict and evaluate never.

  // Keeps a copy of the input and what the layers computed, for backward. In training
  // mode it draws the next numbers of its own, or those of `draw`, an optimiser's step.
  void forward(T* y, const T* x, Index rows, bool training = false,
               const Draw* draw = nullptr);
  // Gradients of sum(dy * y), y of the last forward, whose rows these must be.
  // Throws std::logic_error if there was none.
  void backward(T* dx, T* grads, const T* dy, Index rows);
  Index forward_rows() const;  // of the last forward, 0 if there was none
  // backward and an update by its gradient. Throws Diverged if that is not finite, and
  // what backward throws.
  void backward_step(const T* dy, Index rows, Optimizer& optimizer);
  void vjp(T* y, T* dx, T* grads, const T* x, const T* dy, Index rows,
           bool training = false);

  // l2 / 2 times the sum of the squares of all dense layers' weights, divided by the
  // sum of the rows' weights (without weights: their number), is added to the loss,
  // whatever its reduction; nothing if that sum is 0.
  double value_and_grad(T* grads, const Batch<T>& batch, const Loss& loss,
                        bool training = false, double l2 = 0.0);
  // With other parameters in place of the network's own, n_params() of them.
  void forward_at(T* y, const T* theta, const T* x, Index rows);
  double value_and_grad_at(T* grads, const T* theta, const Batch<T>& batch,
                           const Loss& loss);
  // Sets the parameters if they still are `expected`, to the bit, else returns false.
  bool replace_params(const T* expected, const T* wanted);
  // The loss before the update. Throws Diverged if it or the gradient is not finite.
  double train_step(const Batch<T>& batch, const Loss& loss, Optimizer& optimizer);
  // One pass over the data in steps of batch_size rows, the last one maybe shorter. The
  // mean of the steps' losses by rows (by weight where there are weights), or their sum
  // under Reduction::sum, of all of the epoch so far. Throws Diverged, with the state
  // rolled back to `last_good`, and Interrupted.
  double fit_epoch(const Batch<T>& data, const Loss& loss, Optimizer& optimizer,
                   const EpochOptions& options, LastGoodState<T>& last_good);

  // Derivatives of each row by itself, in inference mode, as many rows at once as there
  // is memory for. Those of second order throw std::invalid_argument where there is a
  // CustomActivation.
  //
  // j (rows, n_out, n_in) = d y / d x.
  void jacobian(T* j, const T* x, Index rows) const;
  // dy (rows, n_out) = d y / d x times v (rows, n_in).
  void jvp(T* y, T* dy, const T* x, const T* v, Index rows) const;
  // j (rows, n_out, n_params) = d y / d params.
  void param_jacobian(T* j, const T* x, Index rows) const;
  // grads (rows, n_params): the gradient of each row's loss times its weight. A row's
  // loss is the sum over its outputs, or their mean if the loss's reduction is that.
  void per_sample_grads(T* grads, const Batch<T>& batch, const Loss& loss) const;
  // The second derivatives of sum(weights * y), weights (n_out), for each row: h (rows,
  // n_in, n_in), or hv (rows, n_in), these times v (rows, n_in).
  void hessian(T* h, const T* x, const T* weights, Index rows) const;
  void hvp(T* hv, const T* x, const T* v, const T* weights, Index rows) const;

  // Whether steps keep the parameters as they were before them.
  void set_watch(bool on);
  bool watch() const;
  LastStep<T> last_step() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastmlp
