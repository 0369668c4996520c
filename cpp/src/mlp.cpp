#include "fastmlp/mlp.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "fastmlp/fp_environment.h"
#include "fastmlp/random.h"
#include "training_pass.h"

namespace fastmlp {
namespace {

using detail::LayerPlan;
using detail::NetworkPlan;
using detail::Pass;
using detail::PassRequest;
using detail::Scratch;
using detail::Workspace;

void check_rows(Index rows) {
  if (rows < 1) throw std::invalid_argument("x: there must be at least one row");
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
  mutable ModelMutex mutex;  // shared: reads the parameters; exclusive: trains

  // Used under the exclusive lock.
  Workspace<T> training;
  AlignedBuffer<T> grads;
  std::vector<int64_t> order;
  // What forward keeps for backward.
  Workspace<T> kept;
  std::atomic<Index> kept_rows{0};

  // The fork generation + 1 of the process in which an epoch is under way, else 0.
  std::atomic<int> in_epoch{0};

  // Whether a second thread pays for a small batch.
  mutable SecondThread second_in_training, second_in_inference;

  // What inference borrows, one per call under way: so that calls allocate only until
  // there is enough.
  struct Borrowed {
    AlignedBuffer<T> buffer;
    std::vector<T*> packed;  // into the buffer, per layer
  };
  mutable PoolMutex pool_mutex;
  mutable std::vector<Borrowed> pool;

  explicit Impl(Index n_in, const std::vector<DenseSpec>& layers)
      : net(n_in, layers), params(net.n_params) {
    std::fill_n(params.data(), net.n_params, T(0));
  }

  // Inference: to y unless null, to losses of rows otherwise.
  struct InferRequest {
    const T* x;
    Index rows;
    T* y = nullptr;
    const Loss* loss = nullptr;
    const Targets<T>* targets = nullptr;
    T* row_loss = nullptr;
  };

  void infer(const InferRequest& rq) const {
    const KernelTable<T>& table = kernels<T>();
    // Reading a weight takes as long as some operations, which matters for a few rows.
    constexpr double kFewestFlops = 6.0;
    const double flops =
        std::max(2.0 * static_cast<double>(rq.rows), kFewestFlops) * net.weights;
    const bool few = rq.rows < 2 * table.mr;
    const TeamPlan plan = plan_team(flops,
                                    few ? (net.widest + table.nr - 1) / table.nr
                                        : (rq.rows + table.mr - 1) / table.mr,
                                    &second_in_inference);
    const bool pack = rq.rows >= table.packing_pays;
    const Index tile = std::min(rq.rows, detail::tile_rows<T>(net));

    Index packed_size = 0;
    for (const LayerPlan& layer : net.layers) {
      packed_size +=
          pack ? detail::packed_right_size(table, layer.n_in, layer.n_out) : 0;
    }
    const Index values = tile * net.widest;
    const Index loss_values = tile;  // the rows' scales
    const Index scratch_size = few ? 0 : detail::layer_scratch_size(net, 1);
    const Index per_thread = 2 * values + loss_values + scratch_size;
    Lease lease(*this, packed_size + plan.most * per_thread);
    T* const base = lease.borrowed.buffer.data();
    std::vector<T*>& packed = lease.borrowed.packed;
    if (pack) {
      packed.resize(net.layers.size());
      T* at = base;
      for (size_t l = 0; l < packed.size(); ++l) {
        const LayerPlan& layer = net.layers[l];
        packed[l] = at;
        at += detail::packed_right_size(table, layer.n_in, layer.n_out);
      }
    }

    run_team(plan, [&](const Team& team) {
      if (pack) {
        detail::pack_forward(team, table, net, params.data(), packed, 0);
        team.barrier();
      }
      if (few && team.size() > 1) {
        T* const buffers[2] = {base, base + values};
        infer_by_columns(rq, team, buffers, base + 2 * values);
        return;
      }
      T* const mine = base + packed_size + team.rank() * per_thread;
      T* const buffers[2] = {mine, mine + values};
      T* const row_scale = mine + 2 * values;
      const Scratch<T> scratch = {few ? nullptr : row_scale + loss_values, nullptr};
      const Range rows = team.share(rq.rows, table.mr);
      for (Index r = rows.begin; r < rows.end; r += tile) {
        const Index m = std::min(tile, rows.end - r);
        const T* input = rq.x + r * net.n_in;
        for (size_t l = 0; l < net.layers.size(); ++l) {
          T* h = layer_output(rq, buffers, l, r);
          detail::dense_forward<T>(table, net.layers[l], params.data(),
                                   pack ? packed[l] : nullptr, h, h, input, m, scratch);
          input = h;
        }
        if (rq.loss) loss_of_rows(rq, input, r, m, row_scale);
      }
    });
  }

  // Where the output of layer l for rows from r on goes.
  T* layer_output(const InferRequest& rq, T* const (&buffers)[2], size_t l,
                  Index r) const {
    const bool last = l + 1 == net.layers.size();
    return last && rq.y ? rq.y + r * net.n_out : buffers[l % 2];
  }

  void loss_of_rows(const InferRequest& rq, const T* y, Index r, Index m,
                    T* row_scale) const {
    std::fill_n(row_scale, m, T(1));
    const Targets<T> t = rq.targets->from_row(r, target_width(*rq.loss, net.n_out));
    loss_rows<T>(*rq.loss, nullptr, rq.row_loss + r, y, t.values, t.labels, row_scale,
                 m, net.n_out);
  }

  // All rows at once, each member making its share of every layer's outputs.
  void infer_by_columns(const InferRequest& rq, const Team& team,
                        T* const (&buffers)[2], T* row_scale) const {
    const T* input = rq.x;
    for (size_t l = 0; l < net.layers.size(); ++l) {
      T* const h = layer_output(rq, buffers, l, 0);
      detail::dense_forward_columns(kernels<T>(), team, net.layers[l], params.data(), h,
                                    input, rq.rows);
      team.barrier();
      input = h;
    }
    if (rq.loss && team.rank() == 0) loss_of_rows(rq, input, 0, rq.rows, row_scale);
  }

  // Taken from the pool, given back at the end of the scope.
  struct Lease {
    const Impl& impl;
    Borrowed borrowed;
    Lease(const Impl& owner, Index size) : impl(owner) {
      {
        const std::lock_guard lock(impl.pool_mutex);
        if (!impl.pool.empty()) {
          borrowed = std::move(impl.pool.back());
          impl.pool.pop_back();
        }
      }
      borrowed.buffer.reserve(size);
    }
    ~Lease() {
      const std::lock_guard lock(impl.pool_mutex);
      try {
        impl.pool.push_back(std::move(borrowed));
      } catch (const std::bad_alloc&) {
        // The pool is a convenience: without it the buffer is simply freed.
      }
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
  };

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

  // One optimiser step on one batch, under the exclusive lock and the optimiser's.
  // `steps_before`: for the message.
  double step(const Batch<T>& batch, const int64_t* batch_order, const Loss& loss,
              Optimizer& optimizer, LastGoodState<T>* save_to, Index steps_before) {
    kept_rows = 0;  // the parameters are about to change
    grads.reserve(net.n_params);
    optimizer.begin_step(1);
    PassRequest<T> rq = {batch.x, batch.rows};
    rq.order = batch_order;
    rq.loss = &loss;
    rq.targets = batch.targets;
    rq.grads = grads.data();
    rq.optimizer = &optimizer;
    rq.slots = &optimizer.prepare<T>(0, net.n_params);
    rq.params_to_update = params.data();
    rq.second = &second_in_training;
    if (save_to) {
      save_to->params.reserve(net.n_params);
      for (size_t i = 0; i < kMaxSlots; ++i) {
        if (rq.slots->slot[i].data()) save_to->slots[i].reserve(net.n_params);
      }
      rq.save_to = save_to;
    }
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
      save_to->step_count = optimizer.step_count();
      save_to->valid = true;
    }
    optimizer.end_step();
    return value;
  }

  void restore(const LastGoodState<T>& saved, Optimizer& optimizer) {
    std::copy_n(saved.params.data(), net.n_params, params.data());
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
Mlp<T>::Mlp(Index n_in, std::vector<DenseSpec> layers)
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
Index Mlp<T>::n_layers() const {
  return static_cast<Index>(impl_->net.layers.size());
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
MatrixView<T> Mlp<T>::weight(Index layer) {
  const LayerPlan& l = impl_->net.layers.at(static_cast<size_t>(layer));
  return {params() + l.weight, l.n_in, l.n_out, l.n_out};
}
template <class T>
T* Mlp<T>::bias(Index layer) {
  const LayerPlan& l = impl_->net.layers.at(static_cast<size_t>(layer));
  return l.bias >= 0 ? params() + l.bias : nullptr;
}

template <class T>
void Mlp<T>::initialize(uint64_t seed) {
  const std::unique_lock lock(impl_->mutex);
  const DefaultFpEnvironment environment;
  std::fill_n(params(), n_params(), T(0));
  for (Index l = 0; l < n_layers(); ++l) {
    const LayerPlan& layer = impl_->net.layers[static_cast<size_t>(l)];
    const double fan_in = static_cast<double>(layer.n_in);
    const double fan_out = static_cast<double>(layer.n_out);
    double variance = 2 / (fan_in + fan_out);
    switch (layer.activation) {
      case Activation::relu:
      case Activation::leaky_relu:
      case Activation::elu:
      case Activation::gelu:
      case Activation::gelu_tanh:
      case Activation::silu:
      case Activation::softplus:
        variance = 2 / fan_in;
        break;
      case Activation::selu:
        variance = 1 / fan_in;
        break;
      default:
        break;
    }
    const double bound = std::sqrt(3 * variance);
    T* w = params() + layer.weight;
    for (Index i = 0; i < layer.n_in * layer.n_out; ++i) {
      const uint64_t bits = random_bits(
          seed, Stream::initialize, static_cast<uint32_t>(l), static_cast<uint64_t>(i));
      // 53 bits to [0, 1), exactly, then to [-bound, bound).
      const double unit = static_cast<double>(bits >> 11) * 0x1p-53;
      w[i] = static_cast<T>((2 * unit - 1) * bound);
    }
  }
}

template <class T>
void Mlp<T>::predict(T* y, const T* x, Index rows) const {
  check_rows(rows);
  const std::shared_lock lock(impl_->mutex);
  typename Impl::InferRequest rq = {x, rows};
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
    typename Impl::InferRequest rq = {batch.x + first * n_in(),
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
void Mlp<T>::forward(T* y, const T* x, Index rows) {
  check_rows(rows);
  const std::unique_lock lock(impl_->mutex);
  impl_->kept_rows = 0;
  PassRequest<T> rq = {x, rows};
  rq.backward = false;
  rq.y = y;
  Pass<T>(impl_->net, params(), impl_->kept, rq).run();
  std::copy_n(x, rows * n_in(), impl_->kept.x);
  impl_->kept_rows = rows;
}

template <class T>
void Mlp<T>::backward(T* dx, T* grads, const T* dy, Index rows) {
  const std::unique_lock lock(impl_->mutex);
  if (impl_->kept_rows == 0)
    throw std::logic_error(
        "backward needs a forward before it, and no training between");
  if (rows != impl_->kept_rows) {
    throw std::invalid_argument("dy: the last forward had " +
                                std::to_string(impl_->kept_rows) + " rows, not " +
                                std::to_string(rows));
  }
  PassRequest<T> rq = {impl_->kept.x, rows};
  rq.forward = false;
  rq.dy = dy;
  rq.dx = dx;
  rq.grads = grads;
  Pass<T>(impl_->net, params(), impl_->kept, rq).run();
}

template <class T>
Index Mlp<T>::forward_rows() const {
  return impl_->kept_rows;
}

template <class T>
void Mlp<T>::vjp(T* y, T* dx, T* grads, const T* x, const T* dy, Index rows) {
  check_rows(rows);
  const std::unique_lock lock(impl_->mutex);
  PassRequest<T> rq = {x, rows};
  rq.dy = dy;
  rq.y = y;
  rq.dx = dx;
  rq.grads = grads;
  rq.second = &impl_->second_in_training;
  Pass<T>(impl_->net, params(), impl_->training, rq).run();
}

template <class T>
double Mlp<T>::value_and_grad(T* grads, const Batch<T>& batch, const Loss& loss) {
  check_batch(batch, loss, n_out());
  const std::unique_lock lock(impl_->mutex);
  PassRequest<T> rq = {batch.x, batch.rows};
  rq.loss = &loss;
  rq.targets = batch.targets;
  rq.grads = grads;
  rq.second = &impl_->second_in_training;
  return Pass<T>(impl_->net, params(), impl_->training, rq).run();
}

template <class T>
double Mlp<T>::train_step(const Batch<T>& batch, const Loss& loss,
                          Optimizer& optimizer) {
  check_batch(batch, loss, n_out());
  // Always the optimiser first: two threads must not each hold one of the two.
  const std::lock_guard optimizer_lock(optimizer.mutex());
  const std::unique_lock lock(impl_->mutex);
  const Index steps = static_cast<Index>(optimizer.step_count());
  return impl_->step(batch, nullptr, loss, optimizer, nullptr, steps);
}

template <class T>
double Mlp<T>::fit_epoch(const Batch<T>& data, const Loss& loss, Optimizer& optimizer,
                         const EpochOptions& options, LastGoodState<T>& last_good) {
  check_batch(data, loss, n_out());
  if (options.batch_size < 1)
    throw std::invalid_argument("batch_size must be at least 1");
  const DefaultFpEnvironment environment;
  Impl& impl = *impl_;
  const typename Impl::Epoch epoch(impl);
  if (options.shuffle) {
    const std::unique_lock lock(impl.mutex);
    impl.order.resize(static_cast<size_t>(data.rows));
    shuffle(impl.order.data(), data.rows, options.seed, options.epoch);
  }
  double total = 0.0, divisor = 0.0;
  Index steps = 0;
  for (Index first = 0; first < data.rows; first += options.batch_size, ++steps) {
    // No lock is held while the caller is asked: that may run anything.
    options.interruption.check();
    const std::lock_guard optimizer_lock(optimizer.mutex());
    const std::unique_lock lock(impl.mutex);
    const Index rows = std::min(options.batch_size, data.rows - first);
    const int64_t* order = options.shuffle ? impl.order.data() + first : nullptr;
    Batch<T> batch = {data.x, data.targets, rows};
    if (!order) {
      batch.x += first * n_in();
      batch.targets = data.targets.from_row(first, target_width(loss, n_out()));
    }
    double value;
    try {
      value = impl.step(batch, order, loss, optimizer,
                        first == 0 ? &last_good : nullptr, steps);
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
    total += value * share;
    divisor += share;
  }
  // The last update has no next loss to show that it went too far.
  const std::lock_guard optimizer_lock(optimizer.mutex());
  const std::unique_lock lock(impl.mutex);
  const Index n = impl.net.n_params;
  if (!kernels<T>().all_finite(impl.params.data(), n, 1, n)) {
    impl.restore(last_good, optimizer);
    throw Diverged("training diverged at step " + std::to_string(steps) +
                   ": the parameters are not finite after it");
  }
  if (loss.reduction == Reduction::sum) return total;
  return divisor == 0.0 ? 0.0 : total / divisor;
}

template class Mlp<float>;
template class Mlp<double>;

}  // namespace fastmlp
