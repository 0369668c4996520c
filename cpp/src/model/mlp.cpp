#include "fastmlp/mlp.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "fastmlp/fp_environment.h"
#include "fastmlp/random.h"
#include "network/derivatives/derivatives.h"
#include "network/ops/plan_network.h"
#include "network/passes/inference.h"
#include "network/passes/training_pass.h"

namespace fastmlp {
namespace {

using detail::NetworkPlan;
using detail::OpPlan;
using detail::Pass;
using detail::PassArgs;
using detail::Workspace;

void check_rows(Index rows) {
  if (rows < 1) throw std::invalid_argument("x: there must be at least one row");
}

// The variance of a batch of one row is no variance.
void check_training_rows(const NetworkPlan& net, Index rows) {
  check_rows(rows);
  if (rows == 1 && !net.batch_norms.empty()) {
    throw std::invalid_argument(
        "x: batch normalisation needs batches of at least two rows in training");
  }
}

void check_order(const std::vector<int64_t>& order, Index rows) {
  for (size_t i = 0; i < order.size(); ++i) {
    if (order[i] >= 0 && order[i] < rows) continue;
    throw std::invalid_argument("order: the number " + std::to_string(order[i]) +
                                " at " + std::to_string(i) + " is not one of " +
                                std::to_string(rows) + " rows (0 to " +
                                std::to_string(rows - 1) + ")");
  }
}

void check_l2(double l2) {
  if (!std::isfinite(l2) || l2 < 0)
    throw std::invalid_argument("l2: must be finite and not negative");
}

template <class T>
void check_batch(const Batch<T>& batch, const Loss& loss, Index n_out) {
  check_rows(batch.rows);
  check_targets(loss, batch.targets, batch.rows, n_out);
}

}  // namespace

template <class T>
struct Mlp<T>::Impl {
  NetworkPlan net;
  AlignedBuffer<T> params;
  AlignedBuffer<T> buffers;  // running statistics
  int64_t batches_tracked = 0;
  uint64_t seed = 0;         // of what training draws outside fit_epoch
  uint64_t passes = 0;       // in training mode, other than steps
  mutable ModelMutex mutex;  // shared: reads the parameters; exclusive: trains

  // Used under the exclusive lock.
  Workspace<T> training;
  AlignedBuffer<T> grads;
  AlignedBuffer<double> squares;  // of chunks of weights, where there is l2
  std::vector<int64_t> order;
  // What forward keeps for backward.
  Workspace<T> kept;
  std::atomic<Index> kept_rows{0};
  bool kept_training = false;
  // What the last step leaves to be looked at.
  std::atomic<bool> watch{false};
  AlignedBuffer<T> before;
  bool has_before = false;
  Index last_rows = 0;  // 0: there is nothing
  const Workspace<T>* last_values = nullptr;

  // The fork generation + 1 of the process in which an epoch is under way, else 0.
  std::atomic<int> in_epoch{0};

  // Whether a second thread pays for a small batch.
  mutable HelperPolicy second_in_training, second_in_inference;

  // Memory that inference borrows, one for each call under way, so that calls allocate
  // only until there is enough.
  mutable PoolMutex pool_mutex{false};
  mutable std::vector<detail::InferenceMemory<T>> pool;

  explicit Impl(Index n_in, const std::vector<LayerSpec>& layers)
      : net(detail::plan_network(n_in, layers)),
        params(net.n_params),
        buffers(net.n_buffers),
        mutex(net.has_custom) {
    std::fill_n(params.data(), net.n_params, T(0));
    for (const int b : net.batch_norms) {
      detail::BatchNormOp::initialize_running_statistics(
          net.ops[static_cast<size_t>(b)], buffers.data());
    }
  }

  detail::NetworkView<T> view() const { return {net, params.data(), buffers.data()}; }

  void infer(const detail::InferenceArgs<T>& args) const {
    detail::Inference<T> inference(view(), args, &second_in_inference);
    Lease lease(*this);
    inference.run(lease.memory);
  }

  // Taken from the pool, given back at the end of the scope.
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
        // The pool is a convenience: without it the buffer is simply freed.
      }
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
  };

  // f(what derivatives read, memory for them) while nobody trains.
  template <class F>
  void derive(Index rows, F f) const {
    check_rows(rows);
    const std::shared_lock lock(mutex);
    Lease lease(*this);
    f(view(), lease.memory.buffer);
  }

  // Marks that an epoch is under way: the order of rows is the model's.
  struct Epoch {
    Impl& impl;
    explicit Epoch(Impl& owner) : impl(owner) {
      const int here = fork_generation() + 1;
      int found = impl.in_epoch.load();
      if (found == here || !impl.in_epoch.compare_exchange_strong(found, here)) {
        throw std::runtime_error("another fit of this model is under way");
      }
    }
    ~Epoch() { impl.in_epoch.store(0); }
    Epoch(const Epoch&) = delete;
    Epoch& operator=(const Epoch&) = delete;
  };

  // The numbers drawn outside fit_epoch, which has the epochs from 0 on.
  static constexpr uint32_t kStepDraws = 0xFFFFFFFF, kPassDraws = 0xFFFFFFFE;

  // Makes a request one for training mode. `draw`: which random numbers.
  void train(PassArgs<T>& rq, const Draw& draw) const {
    rq.training = true;
    rq.draw = draw;
  }
  // The same for a pass that is no optimiser's step: each has numbers of its own.
  void train_once(PassArgs<T>& rq) const { train(rq, {seed, kPassDraws, passes}); }

  PassArgs<T> request(const T* x, Index rows) const {
    PassArgs<T> rq = {x, rows};
    rq.buffers = buffers.data();
    return rq;
  }

  // The way back from what forward kept.
  PassArgs<T> back_request(const T* dy, Index rows) const {
    if (kept_rows == 0)
      throw std::logic_error(
          "backward needs a forward before it, and no training between");
    if (rows != kept_rows) {
      throw std::invalid_argument("dy: the last forward had " +
                                  std::to_string(kept_rows) + " rows, not " +
                                  std::to_string(rows));
    }
    PassArgs<T> rq = request(kept.x, rows);
    rq.forward = false;
    rq.dy = dy;
    rq.training = kept_training;
    return rq;
  }

  // After a pass in training mode.
  void follow_batch(const Pass<T>& pass) {
    if (net.batch_norms.empty()) return;
    pass.update_running_statistics(buffers.data());
    ++batches_tracked;
  }

  void follow_pass(const Pass<T>& pass) {
    ++passes;
    follow_batch(pass);
  }

  // A pass without an update.
  double value_pass(PassArgs<T>& rq, const T* theta, bool in_training) {
    last_rows = 0;  // what the last step left is about to be lost
    rq.second = &second_in_training;
    if (in_training) train_once(rq);
    Pass<T> pass(net, theta, training, rq);
    const double value = pass.run();
    if (in_training) follow_pass(pass);
    return value;
  }
  double loss_pass(T* gradient, const T* theta, const Batch<T>& batch, const Loss& loss,
                   bool in_training, double l2 = 0.0) {
    PassArgs<T> rq = request(batch.x, batch.rows);
    rq.loss = &loss;
    rq.targets = batch.targets;
    rq.grads = gradient;
    penalize(rq, l2);
    return value_pass(rq, theta, in_training);
  }

  void penalize(PassArgs<T>& rq, double l2) {
    if (l2 == 0.0) return;
    squares.reserve(detail::weight_chunks(net));
    rq.l2 = l2;
    rq.squares = squares.data();
  }

  // What every update needs, whatever the gradient comes from.
  void plan_update(PassArgs<T>& rq, Optimizer& optimizer) {
    grads.reserve(net.n_params);
    optimizer.begin_step(1);
    rq.grads = grads.data();
    rq.optimizer = &optimizer;
    rq.slots = &optimizer.prepare<T>(0, net.n_params);
    rq.params_to_update = params.data();
  }

  void keep_before(bool keep) {
    has_before = keep;
    if (!keep) return;
    before.reserve(net.n_params);
    std::copy_n(params.data(), net.n_params, before.data());
  }

  // One optimiser step on one batch, under the exclusive lock and the optimiser's.
  // `steps_before`: for the message. `last`: of an epoch.
  double step(const Batch<T>& batch, const int64_t* batch_order, const Loss& loss,
              Optimizer& optimizer, LastGoodState<T>* save_to, Index steps_before,
              const Draw& draw, bool last = true, double l2 = 0.0) {
    kept_rows = 0;  // the parameters are about to change
    last_rows = 0;
    PassArgs<T> rq = request(batch.x, batch.rows);
    rq.order = batch_order;
    rq.loss = &loss;
    rq.targets = batch.targets;
    rq.second = &second_in_training;
    train(rq, draw);
    penalize(rq, l2);
    plan_update(rq, optimizer);
    if (save_to) {
      save_to->params.reserve(net.n_params);
      save_to->buffers.reserve(net.n_buffers);
      for (size_t i = 0; i < kMaxSlots; ++i) {
        if (rq.slots->slot[i].data()) save_to->slots[i].reserve(net.n_params);
      }
      rq.save_to = save_to;
    }
    keep_before(watch && last);
    Pass<T> pass(net, params.data(), training, rq);
    const double value = pass.run();
    if (!std::isfinite(value) || !pass.gradient_is_finite()) {
      const char* loss_is = std::isfinite(value) ? "finite"
                            : std::isnan(value)  ? "nan"
                                                 : "infinite";
      throw Diverged("training diverged at step " + std::to_string(steps_before + 1) +
                     ": the loss is " + loss_is + "; " + pass.diagnosis());
    }
    if (save_to) {
      if (net.n_buffers > 0)
        std::copy_n(buffers.data(), net.n_buffers, save_to->buffers.data());
      save_to->batches_tracked = batches_tracked;
      save_to->step_count = optimizer.step_count();
      save_to->valid = true;
    }
    follow_batch(pass);
    last_rows = pass.rows_at_the_end();
    last_values = &training;
    optimizer.end_step();
    return value;
  }

  void restore(const LastGoodState<T>& saved, Optimizer& optimizer) {
    std::copy_n(saved.params.data(), net.n_params, params.data());
    if (net.n_buffers > 0)
      std::copy_n(saved.buffers.data(), net.n_buffers, buffers.data());
    batches_tracked = saved.batches_tracked;
    OptimizerSlots<T>& slots = optimizer.prepare<T>(0, net.n_params);
    for (size_t i = 0; i < kMaxSlots; ++i) {
      if (slots.slot[i].data() && saved.slots[i].data()) {
        std::copy_n(saved.slots[i].data(), net.n_params, slots.slot[i].data());
      }
    }
    optimizer.set_step_count(saved.step_count);
  }
};

template <class T>
Mlp<T>::Mlp(Index n_in, std::vector<LayerSpec> layers)
    : impl_(std::make_unique<Impl>(n_in, layers)) {}
template <class T>
Mlp<T>::~Mlp() = default;

template <class T>
Index Mlp<T>::n_in() const {
  return impl_->net.n_in;
}
template <class T>
Index Mlp<T>::n_out() const {
  return impl_->net.n_out;
}
template <class T>
Index Mlp<T>::n_params() const {
  return impl_->net.n_params;
}
template <class T>
std::vector<LayerInfo> Mlp<T>::layers() const {
  std::vector<LayerInfo> infos;
  for (const OpPlan& l : impl_->net.ops) {
    infos.push_back({l.name, l.kind, l.n_in, l.n_out, l.weight, l.bias, l.statistics});
  }
  return infos;
}
template <class T>
Index Mlp<T>::n_buffers() const {
  return impl_->net.n_buffers;
}
template <class T>
T* Mlp<T>::buffers() {
  return impl_->buffers.data();
}
template <class T>
TrainingState Mlp<T>::training_state() const {
  return {impl_->seed, impl_->passes, impl_->batches_tracked};
}
template <class T>
void Mlp<T>::set_training_state(const TrainingState& state) {
  const std::unique_lock lock(impl_->mutex);
  impl_->seed = state.seed;
  impl_->passes = state.passes;
  impl_->batches_tracked = state.batches_tracked;
}
template <class T>
T* Mlp<T>::params() {
  return impl_->params.data();
}
template <class T>
const T* Mlp<T>::params() const {
  return impl_->params.data();
}
template <class T>
void Mlp<T>::initialize(uint64_t seed) {
  const std::unique_lock lock(impl_->mutex);
  const DefaultFpEnvironment environment;
  std::fill_n(params(), n_params(), T(0));
  for (size_t l = 0; l < impl_->net.ops.size(); ++l) {
    const OpPlan& op = impl_->net.ops[l];
    detail::visit(op.kind, [&](auto kind) { kind.initialize(op, l, params(), seed); });
  }
}

template <class T>
void Mlp<T>::interpolate(const Mlp& other, double weight) {
  if (&other == this) return;
  const Index n = n_params(), extra = impl_->net.n_buffers;
  if (other.n_params() != n || other.impl_->net.n_buffers != extra) {
    const auto sizes = [](Index parameters, Index statistics) {
      return std::to_string(parameters) + " parameters and " +
             std::to_string(statistics) + " running statistics";
    };
    throw std::invalid_argument("other: has " +
                                sizes(other.n_params(), other.impl_->net.n_buffers) +
                                ", not " + sizes(n, extra));
  }
  // A copy first: whoever holds one model's lock must not wait for another's.
  AlignedBuffer<T> goal(n + extra);
  {
    const std::shared_lock lock(other.impl_->mutex);
    std::copy_n(other.params(), n, goal.data());
    if (extra > 0) std::copy_n(other.impl_->buffers.data(), extra, goal.data() + n);
  }
  const std::unique_lock lock(impl_->mutex);
  const DefaultFpEnvironment environment;
  impl_->kept_rows = 0;  // the parameters change
  const T w = static_cast<T>(weight);
  kernels<T>().interpolate(params(), goal.data(), w, n);
  if (extra > 0) {
    kernels<T>().interpolate(impl_->buffers.data(), goal.data() + n, w, extra);
  }
}

template <class T>
void Mlp<T>::predict(T* y, const T* x, Index rows) const {
  check_rows(rows);
  const std::shared_lock lock(impl_->mutex);
  detail::InferenceArgs<T> rq = {x, rows};
  rq.y = y;
  impl_->infer(rq);
}

template <class T>
double Mlp<T>::evaluate(const Batch<T>& batch, const Loss& loss,
                        const Interruption& interruption) const {
  // Enough rows to make packing the weights again for each block negligible.
  constexpr Index kBlock = 16384;
  check_batch(batch, loss, n_out());
  const AlignedBuffer<T> row_loss(batch.rows);
  for (Index first = 0; first < batch.rows; first += kBlock) {
    // No lock is held while the caller is asked: that may run anything.
    interruption.check();
    const std::shared_lock lock(impl_->mutex);
    const Targets<T> targets =
        batch.targets.from_row(first, target_width(loss, n_out()));
    detail::InferenceArgs<T> rq = {batch.x + first * n_in(),
                                   std::min(kBlock, batch.rows - first)};
    rq.loss = &loss;
    rq.targets = &targets;
    rq.row_loss = row_loss.data() + first;
    impl_->infer(rq);
  }
  const DefaultFpEnvironment environment;
  const T* weights = batch.targets.weights;
  const double normalizer =
      loss_normalizer(loss, batch.targets, nullptr, batch.rows, n_out());
  const double sum = weighted_sum<T>(row_loss.data(), weights, nullptr, batch.rows);
  return normalizer == 0.0 ? 0.0 : sum / normalizer;
}

template <class T>
void Mlp<T>::jacobian(T* j, const T* x, Index rows) const {
  impl_->derive(rows, [&](const auto& view, auto& memory) {
    detail::jacobian(view, j, x, rows, memory);
  });
}

template <class T>
void Mlp<T>::jvp(T* y, T* dy, const T* x, const T* v, Index rows) const {
  impl_->derive(rows, [&](const auto& view, auto& memory) {
    detail::jvp(view, y, dy, x, v, rows, memory);
  });
}

template <class T>
void Mlp<T>::param_jacobian(T* j, const T* x, Index rows) const {
  impl_->derive(rows, [&](const auto& view, auto& memory) {
    detail::param_jacobian<T>(view, j, nullptr, x, rows, memory);
  });
}

template <class T>
void Mlp<T>::per_sample_grads(T* grads, const Batch<T>& batch, const Loss& loss) const {
  impl_->derive(batch.rows, [&](const auto& view, auto& memory) {
    detail::per_sample_grads(view, grads, batch.x, batch.targets, loss, batch.rows,
                             memory);
  });
}

template <class T>
void Mlp<T>::hessian(T* h, const T* x, const T* weights, Index rows) const {
  impl_->derive(rows, [&](const auto& view, auto& memory) {
    detail::hessian(view, h, x, weights, rows, memory);
  });
}

template <class T>
void Mlp<T>::hvp(T* hv, const T* x, const T* v, const T* weights, Index rows) const {
  impl_->derive(rows, [&](const auto& view, auto& memory) {
    detail::hvp(view, hv, x, v, weights, rows, memory);
  });
}

template <class T>
void Mlp<T>::forward(T* y, const T* x, Index rows, bool training, const Draw* draw) {
  const std::unique_lock lock(impl_->mutex);
  Impl& impl = *impl_;
  check_rows(rows);
  if (training) check_training_rows(impl.net, rows);
  impl.kept_rows = 0;
  if (impl.last_values == &impl.kept) impl.last_rows = 0;
  PassArgs<T> rq = impl.request(x, rows);
  rq.backward = false;
  rq.y = y;
  if (training && draw)
    impl.train(rq, *draw);
  else if (training)
    impl.train_once(rq);
  Pass<T> pass(impl.net, params(), impl.kept, rq);
  pass.run();
  if (training) impl.follow_pass(pass);
  std::copy_n(x, rows * n_in(), impl.kept.x);
  impl.kept_training = training;
  impl.kept_rows = rows;
}

template <class T>
void Mlp<T>::backward(T* dx, T* grads, const T* dy, Index rows) {
  const std::unique_lock lock(impl_->mutex);
  PassArgs<T> rq = impl_->back_request(dy, rows);
  rq.dx = dx;
  rq.grads = grads;
  Pass<T>(impl_->net, params(), impl_->kept, rq).run();
}

template <class T>
void Mlp<T>::backward_step(const T* dy, Index rows, Optimizer& optimizer) {
  const std::lock_guard optimizer_lock(optimizer.mutex());
  const std::unique_lock lock(impl_->mutex);
  Impl& impl = *impl_;
  PassArgs<T> rq = impl.back_request(dy, rows);
  impl.last_rows = 0;  // its gradient is about to be lost
  impl.plan_update(rq, optimizer);
  impl.keep_before(impl.watch);
  Pass<T> pass(impl.net, params(), impl.kept, rq);
  pass.run();
  if (!pass.gradient_is_finite()) {
    throw Diverged("training diverged at step " +
                   std::to_string(optimizer.step_count() + 1) + ": " +
                   pass.diagnosis());
  }
  impl.kept_rows = 0;  // the parameters have changed
  impl.last_rows = rows;
  impl.last_values = &impl.kept;
  optimizer.end_step();
}

template <class T>
Index Mlp<T>::forward_rows() const {
  return impl_->kept_rows;
}

template <class T>
void Mlp<T>::vjp(T* y, T* dx, T* grads, const T* x, const T* dy, Index rows,
                 bool training) {
  check_rows(rows);
  if (training) check_training_rows(impl_->net, rows);
  const std::unique_lock lock(impl_->mutex);
  PassArgs<T> rq = impl_->request(x, rows);
  rq.dy = dy;
  rq.y = y;
  rq.dx = dx;
  rq.grads = grads;
  impl_->value_pass(rq, params(), training);
}

template <class T>
double Mlp<T>::value_and_grad(T* grads, const Batch<T>& batch, const Loss& loss,
                              bool training, double l2) {
  check_batch(batch, loss, n_out());
  check_l2(l2);
  if (training) check_training_rows(impl_->net, batch.rows);
  const std::unique_lock lock(impl_->mutex);
  return impl_->loss_pass(grads, params(), batch, loss, training, l2);
}

template <class T>
void Mlp<T>::forward_at(T* y, const T* theta, const T* x, Index rows) {
  check_rows(rows);
  const std::unique_lock lock(impl_->mutex);
  PassArgs<T> rq = impl_->request(x, rows);
  rq.backward = false;
  rq.y = y;
  impl_->value_pass(rq, theta, false);
}

template <class T>
double Mlp<T>::value_and_grad_at(T* grads, const T* theta, const Batch<T>& batch,
                                 const Loss& loss) {
  check_batch(batch, loss, n_out());
  const std::unique_lock lock(impl_->mutex);
  return impl_->loss_pass(grads, theta, batch, loss, false);
}

template <class T>
bool Mlp<T>::replace_params(const T* expected, const T* wanted) {
  const std::unique_lock lock(impl_->mutex);
  const size_t bytes = sizeof(T) * static_cast<size_t>(n_params());
  if (std::memcmp(params(), expected, bytes) != 0) return false;
  if (std::memcmp(expected, wanted, bytes) == 0) return true;
  impl_->kept_rows = 0;
  std::memcpy(params(), wanted, bytes);
  return true;
}

template <class T>
double Mlp<T>::train_step(const Batch<T>& batch, const Loss& loss,
                          Optimizer& optimizer) {
  check_batch(batch, loss, n_out());
  check_training_rows(impl_->net, batch.rows);
  // Always the optimiser first: two threads must not each hold one of the two.
  const std::lock_guard optimizer_lock(optimizer.mutex());
  const std::unique_lock lock(impl_->mutex);
  const int64_t steps = optimizer.step_count();
  const Draw draw = {impl_->seed, Impl::kStepDraws, static_cast<uint64_t>(steps)};
  return impl_->step(batch, nullptr, loss, optimizer, nullptr,
                     static_cast<Index>(steps), draw);
}

template <class T>
double Mlp<T>::fit_epoch(const Batch<T>& data, const Loss& loss, Optimizer& optimizer,
                         const EpochOptions& options, LastGoodState<T>& last_good) {
  check_batch(data, loss, n_out());
  if (options.batch_size < 1)
    throw std::invalid_argument("batch_size must be at least 1");
  check_l2(options.l2);
  if (options.order && options.shuffle)
    throw std::invalid_argument("order: not with shuffle");
  const Index n_rows = options.order ? options.n_order : data.rows;
  check_rows(n_rows);
  if (options.first_row < 0 || options.first_row > n_rows)
    throw std::invalid_argument("first_row must be a row, or how many there are");
  const DefaultFpEnvironment environment;
  Impl& impl = *impl_;
  const typename Impl::Epoch epoch(impl);
  check_training_rows(impl.net, std::min(options.batch_size, n_rows));
  if (const Index rest = n_rows % options.batch_size; rest > 0)
    check_training_rows(impl.net, rest);
  if (options.shuffle) {
    const std::unique_lock lock(impl.mutex);
    impl.order.resize(static_cast<size_t>(n_rows));
    shuffle(impl.order.data(), n_rows, options.seed, options.epoch);
  } else if (options.order) {
    // A copy: what was checked must not be changed by a listener.
    const std::unique_lock lock(impl.mutex);
    impl.order.assign(options.order, options.order + n_rows);
    check_order(impl.order, data.rows);
  }
  const bool in_order = options.shuffle || options.order;
  EpochProgress own;
  EpochProgress& progress = options.progress ? *options.progress : own;
  const double* lr = options.lr;
  for (Index first = options.first_row; first < n_rows; first += options.batch_size) {
    // No lock is held while the caller is asked: that may run anything.
    options.interruption.check();
    std::unique_lock optimizer_lock(optimizer.mutex());
    std::unique_lock lock(impl.mutex);
    const Index steps = progress.steps;
    if (lr) optimizer.mutable_config().lr = *lr++;
    const Index rows = std::min(options.batch_size, n_rows - first);
    const int64_t* order = in_order ? impl.order.data() + first : nullptr;
    Batch<T> batch = {data.x, data.targets, rows};
    if (!order) {
      batch.x += first * n_in();
      batch.targets = data.targets.from_row(first, target_width(loss, n_out()));
    }
    double value;
    try {
      const Draw draw = {options.seed, options.epoch, static_cast<uint64_t>(steps)};
      // What a diverged epoch goes back to: its beginning, or where it was resumed.
      const bool good = steps == 0 || (first > 0 && first == options.first_row);
      value = impl.step(batch, order, loss, optimizer, good ? &last_good : nullptr,
                        steps, draw, first + rows == n_rows, options.l2);
    } catch (const Diverged&) {
      if (last_good.valid) impl.restore(last_good, optimizer);
      throw;
    }
    double share = loss.reduction == Reduction::sum ? 1.0 : static_cast<double>(rows);
    if (loss.reduction == Reduction::mean && rows_are_weighted(loss, batch.targets)) {
      share = 0.0;
      for (Index r = 0; r < rows; ++r)
        share += row_weight(loss, batch.targets, order ? order[r] : r);
    }
    progress.total += value * share;
    progress.divisor += share;
    ++progress.steps;
    lock.unlock();
    optimizer_lock.unlock();
    options.listener.tell(steps, value);
  }
  // The last update has no next loss to show that it went too far.
  const std::lock_guard optimizer_lock(optimizer.mutex());
  const std::unique_lock lock(impl.mutex);
  const Index n = impl.net.n_params;
  if (!kernels<T>().all_finite(impl.params.data(), n, 1, n)) {
    if (last_good.valid) impl.restore(last_good, optimizer);
    throw Diverged("training diverged at step " + std::to_string(progress.steps) +
                   ": the parameters are not finite after it; learning rate " +
                   detail::in_short(optimizer.config().lr) + ", gradient norm " +
                   detail::in_short(detail::norm_of(impl.grads.data(), n)) +
                   ". Likely cause: the update went too far: lower the learning rate");
  }
  return progress.loss(loss.reduction);
}

template <class T>
void Mlp<T>::set_watch(bool on) {
  impl_->watch = on;
}
template <class T>
bool Mlp<T>::watch() const {
  return impl_->watch;
}
template <class T>
LastStep<T> Mlp<T>::last_step() const {
  const std::shared_lock lock(impl_->mutex);
  const Impl& impl = *impl_;
  LastStep<T> last;
  if (impl.last_rows == 0) return last;
  const auto copy = [](const T* from, Index n) {
    return std::vector<T>(from, from + n);
  };
  last.rows = impl.last_rows;
  last.grads = copy(impl.grads.data(), impl.net.n_params);
  if (impl.has_before) last.before = copy(impl.before.data(), impl.net.n_params);
  for (size_t l = 0; l < impl.net.ops.size(); ++l) {
    const Index values = last.rows * impl.net.ops[l].n_out;
    last.outputs.push_back(copy(impl.last_values->ops[l].h, values));
  }
  return last;
}

template class Mlp<float>;
template class Mlp<double>;

}  // namespace fastmlp
