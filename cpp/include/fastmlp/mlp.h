// A multilayer perceptron: h_0 = x, h_l = layer_l(h_{l-1}), y = h_L, where a layer is
// dense, act(h W + b), or another kind of LayerSpec.
//
// All parameters are in one flat vector in the order of the layers: for a dense layer W
// (in, out), row-major, then b, or b, the magnitudes and what stands for W if it is
// parametrised; for a normalisation the scale, then the shift; for a residual block the
// parameters of its body, then those of its projection. Rows are samples; x is (rows,
// n_in) and y is (rows, n_out), both contiguous.
//
//   fastmlp::Mlp<float> mlp(2, {{16, fastmlp::Activation::tanh},
//                               fastmlp::LayerSpec::dropout(0.1),
//                               {1, fastmlp::Activation::identity}});
//   fastmlp::OptimizerConfig config;
//   config.kind = fastmlp::OptimizerKind::adam;
//   fastmlp::Optimizer adam(config);
//   double loss = mlp.train_step({x, {y}, rows}, {fastmlp::LossKind::mse}, adam);
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fastmlp/layer_spec.h"
#include "fastmlp/loss.h"
#include "fastmlp/optimizer.h"
#include "fastmlp/sparse.h"
#include "fastmlp/training.h"
#include "fastmlp/types.h"

namespace fastmlp {

struct Draw;  // see random.h

// Which of an op's arrays of parameters are frozen.
struct Frozen {
  bool weight = false;  // or scale
  bool bias = false;    // or shift
  bool magnitude = false;
};

// An op: a step of the network's computation, which implements a layer or part of one.
// The ops are listed in the order of computation. A residual block becomes the ops of
// its body, a dense op if it has a projection, and an op for the addition. An
// activation layer becomes the activation of the op before it, unless that op already
// has one.
struct OpInfo {
  // `input` is the index of the op whose output this op takes, or kNetworkInput.
  static constexpr int kNetworkInput = -1;
  static constexpr int kNone = -2;

  std::string name;  // the layer's name in the specification: "2", "3.body.0", ...
  LayerKind kind;
  Index n_in, n_out;
  int input;
  int other;  // the second addend of add, or the right part of concat, else kNone
  ActivationSpec activation;
  bool has_custom;     // whether a CustomActivation is used in place of `activation`
  Index weight_size;   // elements of the weight or scale
  Index weight, bias;  // offsets into the parameters (or of scale and shift), or -1
  Parametrization parametrization;  // of the weight
  Index magnitude;   // offset of n_out magnitudes into the parameters, or -1
  Index statistics;  // offset into the running statistics, or -1
  Frozen frozen;
};

template <class T>
struct Batch {
  const T* x;  // (rows, n_in); null if there are sparse rows
  Targets<T> targets;
  Index rows;
  SparseRows<T> sparse = {};  // in place of x, if the network takes_sparse()

  // The batch of `n` rows from row r on. `n_in` and `width`: of x and of the targets.
  Batch slice(Index r, Index n, Index n_in, Index width) const {
    return {x ? x + r * n_in : nullptr, targets.from_row(r, width), n, sparse.from(r)};
  }
};

// Inference may run in several threads at once; training excludes all other calls. Any
// method may throw std::bad_alloc. Methods that take rows throw std::invalid_argument
// if there are no rows or the targets do not fit the loss. While a
// StoppedBy (stop.h) is alive, long calls may throw Interrupted. After each of these
// exceptions the network is unchanged, except that fit_epoch keeps its complete steps.
template <class T>
class Mlp {
 public:
  // The parameters are those of initialize(seed), or all zero if the seed is nullopt.
  // Throws std::invalid_argument if `layers` is empty, a width is below 1, sizes
  // overflow, or T is double and the operands are to be in bfloat16.
  //
  // With operands in bfloat16, predict, evaluate, and the methods of training round the
  // operands of products (bfloat16_kernels.h defines the arithmetic); everything else
  // is computed in T. Derivatives of each row and the methods whose names end in `_at`
  // have full operands always.
  Mlp(Index n_in, std::vector<LayerSpec> layers, std::optional<uint64_t> seed = 0,
      Operands operands = Operands::full);
  ~Mlp();
  // A network that has been moved from may only be destroyed or assigned to.
  Mlp(Mlp&&) noexcept;
  Mlp& operator=(Mlp&&) noexcept;
  Mlp(const Mlp&) = delete;
  Mlp& operator=(const Mlp&) = delete;

  Index n_in() const;
  Index n_out() const;
  Index n_params() const;
  std::vector<OpInfo> ops() const;
  Operands operands() const;
  T* params();
  const T* params() const;
  // Running statistics: for each batch normalisation its means (initially 0), then its
  // variances (initially 1); for each weight with spectral normalisation its left
  // (out), then its right singular vector (in).
  Index n_buffers() const;
  T* buffers();
  TrainingState training_state() const;
  void set_training_state(const TrainingState& state);

  // Freezes arrays of parameters, given for each op in the order of ops(), and
  // unfreezes all others. Training and solvers leave frozen parameters unchanged, and
  // derivatives with respect to them are 0. Throws std::invalid_argument unless there
  // is one entry per op, and arrays that an op does not have are not frozen.
  void set_frozen(const std::vector<Frozen>& of_ops);

  // Number of layers that are random in training.
  Index n_random() const;
  // Sets the rates of these layers in order, or of gaussian_noise the standard
  // deviation. Throws std::invalid_argument unless there is a valid one for each.
  void set_rates(const std::vector<double>& rates);

  // Sets scales to one, shifts and biases to zero, and weights to uniform random
  // numbers with He's variance 2 / fan_in before ReLU-like activations, LeCun's 1 /
  // fan_in before selu, Glorot's 2 / (fan_in + fan_out) elsewhere. A parametrised
  // weight begins with these values, too.
  void initialize(uint64_t seed);

  // For parametrised weights. start_parametrizations sets the magnitudes so that each
  // weight is exactly what stands for it in the parameters, and finds singular vectors
  // by 15 steps of the power method. effective_params writes a copy of the parameters
  // to out (n_params) in which the weights are in that place.
  void start_parametrizations();
  void effective_params(T* out) const;

  // Polyak averaging: parameters += weight * (other's parameters - parameters), each by
  // one fused multiply-add; running statistics are treated likewise. Throws
  // std::invalid_argument if the two networks differ in their number of parameters or
  // of running statistics.
  void interpolate(const Mlp& other, double weight);

  // Whether the first layers are dense, so that inputs may be sparse rows.
  bool takes_sparse() const;

  void predict(T* y, const T* x, Index rows) const;
  void predict(T* y, const SparseRows<T>& x, Index rows) const;
  // Many rows are evaluated in blocks, and another thread may train between two blocks.
  double evaluate(const Batch<T>& batch, const Loss& loss,
                  const Interruption& interruption = {}) const;

  // In training mode dropout is active, and batch normalisation uses the statistics of
  // the batch, which must have at least two rows, and updates the running statistics.
  // train_step and fit_epoch are always in training mode, predict and evaluate never.

  // Keeps a copy of the input and the values of all ops for backward. In training mode,
  // `draw` selects the random numbers; if it is null, every pass draws new ones.
  void forward(T* y, const T* x, Index rows, bool training = false,
               const Draw* draw = nullptr);
  // Computes the gradients of sum(dy * y), where y is the output of the last call of
  // forward and `rows` the number of its rows. Throws std::logic_error if there was no
  // such call.
  void backward(T* dx, T* grads, const T* dy, Index rows);
  Index forward_rows() const;  // rows of the last forward call; 0 if there was none
  // Calls backward and updates the parameters with the resulting gradient. Throws
  // Diverged if the gradient is not finite, and whatever backward throws.
  void backward_step(const T* dy, Index rows, Optimizer& optimizer);
  // Updates the parameters with a gradient (n_params). Throws Diverged if it is not
  // finite.
  void update(const T* grads, Optimizer& optimizer);
  void vjp(T* y, T* dx, T* grads, const T* x, const T* dy, Index rows,
           bool training = false);

  // The loss and its gradient, plus an L2 penalty. Whatever the loss's reduction, the
  // penalty is l2 / 2 times the sum of the squares of all dense weights, divided by the
  // sum of the sample weights (by the number of rows if there are no sample weights).
  // It is 0 if the sample weights sum to 0.
  double value_and_grad(T* grads, const Batch<T>& batch, const Loss& loss,
                        bool training = false, double l2 = 0.0);
  // forward, vjp and value_and_grad with theta (n_params) in place of the parameters.
  void forward_at(T* y, const T* theta, const T* x, Index rows);
  void vjp_at(T* y, T* dx, T* grads, const T* theta, const T* x, const T* dy,
              Index rows);
  double value_and_grad_at(T* grads, const T* theta, const Batch<T>& batch,
                           const Loss& loss, double l2 = 0.0);
  // Sets the parameters to `wanted` if they are bitwise equal to `expected`, else
  // returns false.
  bool replace_params(const T* expected, const T* wanted);
  // Returns the loss before the update. Throws Diverged if the loss or the gradient is
  // not finite.
  double train_step(const Batch<T>& batch, const Loss& loss, Optimizer& optimizer);
  // Makes one pass over the data in steps of batch_size rows; the last step may have
  // fewer. Returns the loss of the epoch so far. Under Reduction::mean this is the mean
  // of the steps' losses, each weighted by the number of its rows or the sum of their
  // weights; under Reduction::sum it is the sum of the steps' losses. Throws
  // Interrupted, and Diverged after rolling the state back to `last_good`.
  double fit_epoch(const Batch<T>& data, const Loss& loss, Optimizer& optimizer,
                   const EpochOptions& options, LastGoodState<T>& last_good);

  // Derivatives of each row separately, in inference mode. The methods for second
  // derivatives throw std::invalid_argument if the network has a CustomActivation.
  //
  // j (rows, n_out, n_in) = d y / d x.
  void jacobian(T* j, const T* x, Index rows) const;
  // Computes y (rows, n_out) and dy (rows, n_out) = d y / d x times v (rows, n_in).
  void jvp(T* y, T* dy, const T* x, const T* v, Index rows) const;
  // j (rows, n_out, n_params) = d y / d params.
  void param_jacobian(T* j, const T* x, Index rows) const;
  // grads (rows, n_params): the gradient of each row's loss times its weight. A row's
  // loss is the sum of its outputs' losses, or their mean under Reduction::mean.
  void per_sample_grads(T* grads, const Batch<T>& batch, const Loss& loss) const;
  // For each row, h (rows, n_in, n_in) is the Hessian of sum(weights * y) with respect
  // to x, where weights has n_out elements, and hv (rows, n_in) is the product of this
  // Hessian and v (rows, n_in).
  void hessian(T* h, const T* x, const T* weights, Index rows) const;
  void hvp(T* hv, const T* x, const T* v, const T* weights, Index rows) const;

  // Sets whether optimiser steps keep a copy of the parameters from before the update.
  void set_watch(bool on);
  bool watch() const;
  LastStep<T> last_step() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastmlp
