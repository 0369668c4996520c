// The implementation of Mlp: memory, locks, and code that its methods share.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fastmlp/mlp.h"
#include "network/ops/plan_network.h"
#include "network/passes/inference.h"
#include "network/passes/training_pass.h"
#include "number_text.h"
#include "threading/exclusive_use.h"
#include "threading/fork_safety.h"
#include "threading/stop.h"

namespace fastmlp {
namespace detail {

inline void check_rows(Index rows) {
  if (rows < 1) throw std::invalid_argument("x must have at least one row, got none");
}

template <class T>
void check_inputs(const NetworkPlan& net, const T* x, Index rows) {
  check_rows(rows);
  check_categories(net, x, rows);
}

// Batch norm needs at least two rows: one row has zero variance.
inline void check_training_rows(const NetworkPlan& net, Index rows) {
  check_rows(rows);
  if (rows == 1 && !net.batch_ops.empty()) {
    throw std::invalid_argument(
        "x must have at least two rows in training with batch normalisation, got one");
  }
}

inline void check_l2(double l2) {
  if (!std::isfinite(l2) || l2 < 0)
    throw std::invalid_argument("l2 must be finite and not negative, got " +
                                in_full(l2));
}

template <class T>
void require_dense(const Batch<T>& batch) {
  if (batch.sparse) throw std::invalid_argument("x must be dense for this method");
}

template <class T>
void check_sparse(const NetworkPlan& net, const SparseRows<T>& x) {
  if (x && x.order) {
    throw std::invalid_argument("sparse rows of x must have no order of their own");
  }
  if (x && !net.takes_sparse()) {
    throw std::invalid_argument(
        "x may be sparse only if the first layer of the network is dense");
  }
  if (x && net.operands == Operands::bfloat16) {
    throw std::invalid_argument(
        "x must be dense if the operands of products are in bfloat16");
  }
}

template <class T>
void check_batch(const NetworkPlan& net, const Batch<T>& batch, const Loss& loss) {
  check_rows(batch.rows);
  check_sparse(net, batch.sparse);
  if (batch.x) check_categories(net, batch.x, batch.rows);
  check_targets(loss, batch.targets, batch.rows, net.n_out);
  check_target_values(loss, batch.targets, batch.rows, net.n_out);
}

// Calls f, once more whenever it was asked to stop because of a signal that then turns
// out not to end the work. f must change nothing before it throws Interrupted.
template <class F>
auto again_after_signals(const Interruption& interruption, F f) {
  for (;;) {
    try {
      return f();
    } catch (const Interrupted&) {
      // f holds no lock now.
      interruption.check();
      if (stop_requested()) throw;
    }
  }
}

// An optimiser step on one batch.
template <class T>
struct StepArgs {
  const Batch<T>& batch;
  const Loss& loss;
  Optimizer& optimizer;
  Draw draw;
  Index number;                         // counted from 0, for messages
  const int64_t* order = nullptr;       // rows of the batch; null: all in order
  LastGoodState<T>* save_to = nullptr;  // the state before the step; may be null
  bool keeps_parameters = true;         // with `watch`: keep them for last_step
  double l2 = 0.0;
};

}  // namespace detail

template <class T>
struct Mlp<T>::Impl {
  using Pass = detail::Pass<T>;
  using PassArgs = detail::PassArgs<T>;

  detail::NetworkPlan net;
  AlignedBuffer<T> params;
  AlignedBuffer<T> buffers;  // running statistics
  TrainingState state;
  mutable ModelMutex mutex;  // shared to read the parameters, exclusive to train

  // Memory of training, used under the exclusive lock.
  detail::Workspace<T> training;
  AlignedBuffer<T> grads;
  AlignedBuffer<double> squares;     // sums of squares of chunks of weights, for l2
  std::vector<int64_t> order;        // order of the rows of the running epoch
  detail::MatrixMemory<T> matrices;  // of updates by Muon

  // Values that forward keeps for backward.
  detail::Workspace<T> kept;
  std::atomic<Index> kept_rows{0};
  bool kept_training = false;

  // Data for last_step.
  std::atomic<bool> watch{false};
  AlignedBuffer<T> before;
  bool has_before = false;
  Index last_rows = 0;  // 0: last_step has nothing to return
  const detail::Workspace<T>* last_values = nullptr;

  // Set while an epoch is running, because the epoch uses `order`.
  BusyFlag in_epoch;

  // Measurements of whether the helper thread pays for a small batch.
  mutable HelperPolicy training_helper, inference_helper;

  // Memory that inference borrows, one element of the pool for each concurrent call.
  // Once the pool has enough elements, calls no longer allocate memory.
  mutable PoolMutex pool_mutex{false};
  mutable std::vector<detail::InferenceMemory<T>> pool;

  Impl(Index n_in, const std::vector<LayerSpec>& layers, Operands operands)
      : net(detail::plan_network(n_in, layers, operands)),
        params(net.n_params),
        buffers(net.n_buffers),
        mutex(net.has_custom) {
    if (operands != Operands::full && !std::is_same_v<T, float>)
      throw std::invalid_argument("operands may be in bfloat16 only if T is float");
    std::fill_n(params.data(), net.n_params, T(0));
    for (const detail::OpPlan& op : net.ops) {
      detail::visit(op.kind,
                    [&](auto kind) { kind.initialize_buffers(op, buffers.data()); });
    }
  }

  detail::NetworkView<T> view() const { return {net, params.data(), buffers.data()}; }

  // Memory taken from the pool and given back at the end of the scope.
  struct Lease {
    const Impl& impl;
    detail::InferenceMemory<T> memory;
    explicit Lease(const Impl& owner) : impl(owner) {
      const std::lock_guard lock(impl.pool_mutex);
      if (impl.pool.empty()) return;
      memory = std::move(impl.pool.back());
      impl.pool.pop_back();
    }
    ~Lease() {
      const std::lock_guard lock(impl.pool_mutex);
      try {
        impl.pool.push_back(std::move(memory));
      } catch (const std::bad_alloc&) {
        // If the pool cannot grow, the memory is simply freed.
      }
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
  };

  void infer(const detail::InferenceArgs<T>& args) const {
    detail::Inference<T> inference(view(), args, &inference_helper);
    Lease lease(*this);
    inference.run(lease.memory);
  }

  PassArgs pass_args(const T* x, Index rows) const {
    PassArgs args = {x, rows};
    args.buffers = buffers.data();
    return args;
  }

  void set_training(PassArgs& args, const Draw& draw) const {
    args.training = true;
    args.draw = draw;
  }
  // Also selects training mode, but for a pass that is not an optimiser step. The
  // random numbers are selected by state.passes, the number of such passes so far.
  void set_training(PassArgs& args) const {
    set_training(args, {state.seed, kPassDraws, state.passes});
  }

  // Arguments of a pass that computes the gradient of a loss.
  PassArgs loss_args(T* gradient, const Batch<T>& batch, const Loss& loss) const {
    PassArgs args = pass_args(batch.x, batch.rows);
    args.sparse = batch.sparse;
    args.loss = &loss;
    args.targets = batch.targets;
    args.grads = gradient;
    return args;
  }

  // Arguments of a pass that computes the gradients of sum(dy * y).
  PassArgs vjp_args(T* y, T* dx, T* gradient, const T* x, const T* dy,
                    Index rows) const {
    PassArgs args = pass_args(x, rows);
    args.dy = dy;
    args.y = y;
    args.dx = dx;
    args.grads = gradient;
    return args;
  }

  // Arguments of the backward pass that follows the last forward.
  PassArgs backward_args(const T* dy, Index rows) const {
    if (kept_rows == 0) {
      throw std::logic_error(
          "forward must be called before backward, without training between the two "
          "calls");
    }
    if (rows != kept_rows) {
      throw std::invalid_argument(
          "dy must have " + detail::counted(kept_rows, "row", "rows") +
          ", as many as in the last forward pass, got " + std::to_string(rows));
    }
    PassArgs args = pass_args(kept.x, rows);
    args.forward = false;
    args.dy = dy;
    args.training = kept_training;
    return args;
  }

  void set_l2(PassArgs& args, double l2) {
    if (l2 == 0.0) return;
    squares.reserve(detail::weight_chunks(net));
    args.l2 = l2;
    args.squares = squares.data();
  }

  // Makes the pass end with an update of the parameters.
  void set_update(PassArgs& args, Optimizer& optimizer) {
    grads.reserve(net.n_params);
    optimizer.begin_step(1);
    args.grads = grads.data();
    args.optimizer = &optimizer;
    args.slots = &optimizer.prepare<T>(0, net.n_params);
    if (optimizer.clips_by_norm()) {
      args.slots->squares.reserve(detail::clip_chunks(net, optimizer));
    }
    args.params_to_update = params.data();
    if (optimizer.uses_muon()) args.matrices = &matrices;
    if (optimizer.accumulates()) net.clear_frozen(grads.data());
  }

  void keep_before(bool keep) {
    has_before = keep;
    if (!keep) return;
    before.reserve(net.n_params);
    std::copy_n(params.data(), net.n_params, before.data());
  }

  // To be called after a pass in training mode.
  void count_batch(const Pass& pass) {
    pass.update_running_statistics(buffers.data());
    if (!net.batch_ops.empty()) ++state.batches_tracked;
  }

  // To be called instead of count_batch if the pass was not an optimiser step.
  void count_pass(const Pass& pass) {
    ++state.passes;
    count_batch(pass);
  }

  // Runs a pass without an update. Returns the loss.
  double run_pass(PassArgs& args, const T* theta, bool in_training) {
    last_rows = 0;  // the values of the last step are about to be lost
    args.helper = &training_helper;
    if (in_training) set_training(args);
    Pass pass(net, theta, training, args);
    const double value = pass.run();
    if (in_training) count_pass(pass);
    return value;
  }

  // Runs such a pass with theta in place of the parameters and with full operands.
  double run_pass_at(PassArgs& args, const T* theta) {
    args.full_operands = true;
    return run_pass(args, theta, false);
  }

  // Calls f(view of the network, memory) to compute derivatives. No thread can train
  // the model meanwhile.
  template <class F>
  void derive(const T* x, Index rows, F f) const {
    detail::check_inputs(net, x, rows);
    const std::shared_lock lock(mutex);
    Lease lease(*this);
    f(view(), lease.memory.buffer);
  }

  // Calls f(the parameters as ops read them), perhaps after a step of the power method.
  template <class F>
  void with_effective_params(bool iterates, F f) const {
    Lease lease(*this);
    lease.memory.buffer.reserve(detail::EffectiveParams<T>::memory_size(net));
    const detail::EffectiveParams<T> effective(net, params.data(), buffers.data(),
                                               lease.memory.buffer.data(), iterates);
    run_team({}, [&](const Team& team) { effective.compute(team); });
    f(effective);
  }

  // Sets all magnitudes to the norms with which the weights are the values that stand
  // for them, and finds singular vectors. The caller holds the exclusive lock.
  void start_parametrizations() {
    using Effective = detail::EffectiveParams<T>;
    constexpr int kFirstSteps = 15;  // of the power method, as in PyTorch
    if (net.n_derived == 0) return;
    Effective::draw_singular_vectors(net, buffers.data());
    for (int i = 0; i < kFirstSteps && net.has_spectral_norm; ++i) {
      with_effective_params(true, [&](const Effective& effective) {
        effective.keep_singular_vectors(buffers.data());
      });
    }
    with_effective_params(false, [&](const Effective& effective) {
      for (const detail::OpPlan& op : net.ops) {
        if (op.magnitude < 0) continue;
        std::copy_n(effective.norms(op), op.n_out, params.data() + op.magnitude);
      }
    });
  }

  // Callers of step and restore must hold the model's exclusive lock and the
  // optimiser's lock.
  double step(const detail::StepArgs<T>& args);
  void restore(const LastGoodState<T>& saved, Optimizer& optimizer);
};

}  // namespace fastmlp
