#include "fastmlp/mlp.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "fastmlp/fp_environment.h"
#include "fastmlp/gemm.h"
#include "fastmlp/random.h"
#include "parallel.h"
#include "workspace.h"

namespace fastmlp {
namespace {

using detail::LayerPlan;
using detail::NetworkPlan;
using detail::Workspace;

// --- choices by shape
// ------------------------------------------------------------------- None of these
// touches the bits: rows are independent going forward and backward, and a weight
// gradient's chain runs over the rows in order however they are grouped.

// Rows that training takes at a time: their values should stay in the second-level
// cache, yet be enough to make fetching weights and weight gradients once more worth
// it.
template <class T>
Index chunk_rows(const NetworkPlan& net, Index rows) {
  constexpr Index kBytes = 1 << 20;
  constexpr Index kFewest = 512;
  const Index fitting = kBytes / (net.values_per_row * static_cast<Index>(sizeof(T)));
  const Index most = std::max(kFewest, fitting);
  // Chunks of about the same size, of whole register tiles.
  constexpr Index kTile = 24;
  const Index chunks = (rows + most - 1) / most;
  const Index even = (rows + chunks - 1) / chunks;
  return std::min(rows, (even + kTile - 1) / kTile * kTile);
}

// Rows taken through all layers together: small while the weights stay in cache, more
// where every tile has to fetch them again.
template <class T>
Index tile_rows(const NetworkPlan& net) {
  constexpr double kCachedBytes = 256 << 10;
  return net.weights * sizeof(T) > kCachedBytes ? 96 : 48;
}

// Packing the weights costs one pass over them and is used once per row tile.
bool worth_packing(Index rows, Index mr) { return rows > 4 * mr; }

// --- layers ----------------------------------------------------------------------

template <class T>
RightOperand<T> weight_operand(const KernelTable<T>& table, const LayerPlan& layer,
                               const T* params, const T* packed) {
  return packed ? detail::packed_right(table, packed, layer.n_in)
                : detail::plain_right(table, params + layer.weight, layer.n_out);
}

// h = act(z), z = x W + b for `rows` contiguous rows; z may be h.
template <class T>
void dense_forward(const KernelTable<T>& table, const LayerPlan& layer, const T* params,
                   const T* packed, T* h, T* z, const T* x, Index rows) {
  const Index n = layer.n_out;
  const T* bias = layer.bias >= 0 ? params + layer.bias : nullptr;
  detail::gemm_blocked<T>(table, {z, rows, n, n}, {x, layer.n_in, 1},
                          weight_operand(table, layer, params, packed), layer.n_in,
                          bias, false, nullptr);
  if (layer.activation != Activation::identity) {
    table.activation_forward(layer.activation, h, n, z, n, rows, n);
  }
}

// Each member packs its share of the columns of every layer's weights.
template <class T>
void pack_forward(const Team& team, const KernelTable<T>& table, const NetworkPlan& net,
                  const T* params, const std::vector<T*>& packed) {
  for (size_t l = 0; l < net.layers.size(); ++l) {
    const LayerPlan& layer = net.layers[l];
    const Range columns = team.share(layer.n_out, table.nr);
    table.pack_right(packed[l] + columns.begin * layer.n_in,
                     params + layer.weight + columns.begin, layer.n_out, 1, layer.n_in,
                     columns.size());
  }
}

template <class T>
void pack_backward(const Team& team, const KernelTable<T>& table,
                   const NetworkPlan& net, const T* params,
                   const std::vector<T*>& packed, size_t first_layer) {
  for (size_t l = first_layer; l < net.layers.size(); ++l) {
    const LayerPlan& layer = net.layers[l];
    const Range columns = team.share(layer.n_in, table.nr);
    table.pack_right(packed[l] + columns.begin * layer.n_out,
                     params + layer.weight + columns.begin * layer.n_out, 1,
                     layer.n_out, layer.n_out, columns.size());
  }
}

template <class T>
void gather_rows(T* dst, const T* src, const int64_t* order, Index rows, Index width) {
  for (Index r = 0; r < rows; ++r) {
    std::copy_n(src + order[r] * width, width, dst + r * width);
  }
}

void check_rows(Index rows) {
  if (rows < 1) throw std::invalid_argument("x: there must be at least one row");
}

template <class T>
Index first_nonfinite(const T* x, Index n) {
  for (Index i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return i;
  }
  return -1;
}

template <class T>
void check_batch(const Batch<T>& batch, const Loss& loss, Index n_out) {
  check_rows(batch.rows);
  check_targets(loss, batch.targets, batch.rows, n_out);
}

// --- a training pass -------------------------------------------------------------

// What a pass is asked for. Its head is a loss with targets, or a given dy.
template <class T>
struct PassRequest {
  const T* x;
  Index rows;
  // One of the two alone takes all rows at once and leaves the values in the workspace,
  // or finds them there.
  bool forward = true;
  bool backward = true;
  const int64_t* order = nullptr;  // row r is x[order[r]], targets likewise
  const Loss* loss = nullptr;
  Targets<T> targets = {};
  const T* dy = nullptr;
  T* y = nullptr;      // out, unless null
  T* dx = nullptr;     // out, unless null
  T* grads = nullptr;  // out
  Optimizer* optimizer = nullptr;
  OptimizerSlots<T>* slots = nullptr;
  T* params_to_update = nullptr;
  LastGoodState<T>* save_to = nullptr;  // before the update
};

// Forward, head, backward and update of one batch in one parallel region:
//   every member packs its part of the weights
//   --- barrier; then for each chunk of rows:
//       every member takes its rows forward and back
//       --- barrier
//       every member makes its part of the weight gradients
//       --- barrier
//   every member updates its part of the parameters
template <class T>
class Pass {
 public:
  Pass(const NetworkPlan& net, const T* params, Workspace<T>& ws,
       const PassRequest<T>& request)
      : net_(net), params_(params), ws_(ws), rq_(request), table_(kernels<T>()) {
    const double flops = 6.0 * static_cast<double>(rq_.rows) * net.weights;
    threads_ = threads_for_work(flops, (rq_.rows + table_.mr - 1) / table_.mr);
    const bool both = rq_.forward && rq_.backward;
    chunk_ = both ? chunk_rows<T>(net, rq_.rows) : rq_.rows;
    // What forward left must not be lost to more threads' scratch.
    if (!rq_.forward) threads_ = std::min(threads_, ws_.threads());
    ws_.prepare(net, chunk_, rq_.rows, threads_);
  }

  // The loss (0 for a given dy). The update is left out if it or the gradient is not
  // finite.
  double run() {
    const Index rows = rq_.rows;
    const size_t first_dx = rq_.dx ? 0 : 1;
    pack_forward_ = rq_.forward && worth_packing(rows, table_.mr);
    double value = 0.0;
    run_team(threads_, [&](const Team& team) {
      if (team.rank() == 0 && rq_.loss) {
        normalizer_ = normalizer();
        fill_row_scale<T>(ws_.row_scale, rq_.targets.weights, rq_.order, normalizer_,
                          rows);
      }
      if (pack_forward_) pack_forward(team, table_, net_, params_, ws_.packed);
      if (rq_.backward) {
        pack_backward(team, table_, net_, params_, ws_.packed_transposed, first_dx);
      }
      team.barrier();
      for (Index first = 0; first < rows; first += chunk_) {
        const Index n = std::min(chunk_, rows - first);
        if (first > 0) team.barrier();
        rows_forward_and_back(team, first, n);
        if (!rq_.backward) continue;
        team.barrier();
        weight_gradients(team, first, n);
      }
      if (!rq_.loss) return;
      // Every member adds the same numbers in the same order: no need to wait.
      const double sum =
          weighted_sum<T>(ws_.row_loss, rq_.targets.weights, rq_.order, rows);
      const double mean = normalizer_ == 0.0 ? 0.0 : sum / normalizer_;
      if (team.rank() == 0) value = mean;
      if (!rq_.optimizer) return;
      team.barrier();
      if (std::isfinite(mean) && gradient_is_finite()) update(team);
    });
    return value;
  }

  bool gradient_is_finite() const { return finite_.load(std::memory_order_relaxed); }

  // Why the loss or the gradient is not finite, by what this pass left behind.
  std::string diagnosis() const {
    for (Index r = 0; r < rq_.rows; ++r) {
      const Index row = rq_.order ? rq_.order[r] : r;
      if (first_nonfinite(rq_.x + row * net_.n_in, net_.n_in) >= 0) {
        return "x holds a value that is not finite in row " + std::to_string(row);
      }
      const T* target = rq_.targets.values;
      if (target && first_nonfinite(target + row * net_.n_out, net_.n_out) >= 0) {
        return "y holds a value that is not finite in row " + std::to_string(row);
      }
    }
    const Index rows = std::min(chunk_, rq_.rows);
    for (size_t l = 0; l < net_.layers.size(); ++l) {
      if (!finite_of_layer(params_, l)) {
        return "the parameters of " + name_of_layer(l) + " are not finite";
      }
      // With more than one chunk only the last one's values are still there.
      if (rq_.rows == rows &&
          first_nonfinite(ws_.h[l], rows * net_.layers[l].n_out) >= 0) {
        return "the output of " + name_of_layer(l) + " is not finite";
      }
    }
    // Gradients overflow on the way back: the last layer that is hit comes first.
    for (size_t l = net_.layers.size(); l-- > 0;) {
      if (!finite_of_layer(rq_.grads, l)) {
        return "the gradient of " + name_of_layer(l) + " is not finite";
      }
    }
    return "the loss itself overflows";
  }

 private:
  std::string name_of_layer(size_t l) const {
    return "layer " + std::to_string(l) + " (dense " +
           std::to_string(net_.layers[l].n_in) + " -> " +
           std::to_string(net_.layers[l].n_out) + ")";
  }
  // The part of a vector like the parameters that belongs to a layer.
  bool finite_of_layer(const T* vector, size_t l) const {
    const Index begin = net_.layers[l].weight;
    const bool last = l + 1 == net_.layers.size();
    const Index end = last ? net_.n_params : net_.layers[l + 1].weight;
    return first_nonfinite(vector + begin, end - begin) < 0;
  }

  double normalizer() const {
    if (!rq_.order || !rq_.targets.weights) {
      return loss_normalizer(*rq_.loss, rq_.targets.weights, rq_.rows, net_.n_out);
    }
    gather_rows(ws_.row_loss, rq_.targets.weights, rq_.order, rq_.rows, 1);
    return loss_normalizer(*rq_.loss, ws_.row_loss, rq_.rows, net_.n_out);
  }

  const T* chunk_input(Index first) const {
    return rq_.order ? ws_.x : rq_.x + first * net_.n_in;
  }

  void rows_forward_and_back(const Team& team, Index first, Index n) {
    const Index tile = tile_rows<T>(net_);
    const Range mine = team.share(n, table_.mr);
    for (Index r = mine.begin; r < mine.end; r += tile) {
      const Index m = std::min(tile, mine.end - r);
      if (rq_.forward) forward_tile(first, r, m);
      if (!rq_.backward) continue;
      head_tile(first, r, m);
      backward_tile(first, r, m);
    }
  }

  void forward_tile(Index first, Index r, Index m) {
    if (rq_.order) {
      gather_rows(ws_.x + r * net_.n_in, rq_.x, rq_.order + first + r, m, net_.n_in);
    }
    const T* input = chunk_input(first) + r * net_.n_in;
    for (size_t l = 0; l < net_.layers.size(); ++l) {
      const Index n = net_.layers[l].n_out;
      T* h = ws_.h[l] + r * n;
      dense_forward<T>(table_, net_.layers[l], params_,
                       pack_forward_ ? ws_.packed[l] : nullptr, h, ws_.z[l] + r * n,
                       input, m);
      input = h;
    }
    if (rq_.y) std::copy_n(input, m * net_.n_out, rq_.y + (first + r) * net_.n_out);
  }

  // dz of the last layer := d loss / d h, or the given dy.
  void head_tile(Index first, Index r, Index m) {
    const Index n = net_.n_out;
    const Index at = first + r;
    T* d = ws_.dz.back() + r * n;
    if (!rq_.loss) {
      std::copy_n(rq_.dy + at * n, m * n, d);
      return;
    }
    const T* target = nullptr;
    const int64_t* labels = nullptr;
    if (rq_.targets.labels) {
      labels = rq_.targets.labels + at;
      if (rq_.order) {
        gather_rows(ws_.labels + r, rq_.targets.labels, rq_.order + at, m, 1);
        labels = ws_.labels + r;
      }
    } else {
      target = rq_.targets.values + at * n;
      if (rq_.order) {
        gather_rows(ws_.target + r * n, rq_.targets.values, rq_.order + at, m, n);
        target = ws_.target + r * n;
      }
    }
    table_.loss_rows({rq_.loss->kind, static_cast<T>(rq_.loss->delta)}, d, n,
                     ws_.row_loss + at, ws_.h.back() + r * n, n, target, n, labels,
                     ws_.row_scale + at, m, n);
  }

  void backward_tile(Index first, Index r, Index m) {
    for (size_t l = net_.layers.size(); l-- > 0;) {
      const LayerPlan& layer = net_.layers[l];
      const Index n = layer.n_out;
      T* dz = ws_.dz[l] + r * n;
      if (layer.activation != Activation::identity) {
        const T* saved = (layer.saves_input() ? ws_.z[l] : ws_.h[l]) + r * n;
        table_.activation_backward(layer.activation, dz, n, dz, n, saved, n, m, n);
      }
      if (l == 0 && !rq_.dx) break;
      T* dh =
          l > 0 ? ws_.dz[l - 1] + r * layer.n_in : rq_.dx + (first + r) * layer.n_in;
      detail::gemm_blocked<T>(
          table_, {dh, m, layer.n_in, layer.n_in}, {dz, n, 1},
          detail::packed_right<T>(table_, ws_.packed_transposed[l], n), n, nullptr,
          false, nullptr);
    }
  }

  // dW = h^T dz and db = sum of the rows of dz, added to those of the chunks before.
  // Each member owns a part of dW and runs over all rows in order.
  void weight_gradients(const Team& team, Index first, Index n) {
    const bool accumulate = first > 0;
    T* scratch = ws_.scratch(team.rank());
    for (size_t l = 0; l < net_.layers.size(); ++l) {
      const LayerPlan& layer = net_.layers[l];
      const T* input = l > 0 ? ws_.h[l - 1] : chunk_input(first);
      const bool by_rows = layer.n_in >= layer.n_out;
      const Range rows =
          by_rows ? team.share(layer.n_in, table_.mr) : Range{0, layer.n_in};
      const Range cols =
          by_rows ? Range{0, layer.n_out} : team.share(layer.n_out, table_.nr);
      T* dw = rq_.grads + layer.weight + rows.begin * layer.n_out + cols.begin;
      detail::gemm_blocked<T>(
          table_, {dw, rows.size(), cols.size(), layer.n_out},
          {input + rows.begin, 1, layer.n_in},
          detail::plain_right<T>(table_, ws_.dz[l] + cols.begin, layer.n_out), n,
          nullptr, accumulate, scratch);
      bool finite = table_.all_finite(dw, layer.n_out, rows.size(), cols.size());
      if (layer.bias >= 0) {
        const Range mine = team.share(layer.n_out, table_.lanes);
        T* db = rq_.grads + layer.bias + mine.begin;
        table_.column_sum(db, ws_.dz[l] + mine.begin, layer.n_out, n, mine.size(),
                          accumulate);
        finite = finite && table_.all_finite(db, mine.size(), 1, mine.size());
      }
      if (!finite) finite_.store(false, std::memory_order_relaxed);
    }
  }

  void update(const Team& team) {
    constexpr Index kLine = static_cast<Index>(kAlignment / sizeof(T));
    const Range mine = team.share(net_.n_params, kLine);
    if (rq_.save_to) {
      const auto save = [&](T* to, const T* from) {
        if (to && from) std::copy(from + mine.begin, from + mine.end, to + mine.begin);
      };
      save(rq_.save_to->params.data(), params_);
      for (size_t i = 0; i < kMaxSlots; ++i) {
        save(rq_.save_to->slots[i].data(), rq_.slots->slot[i].data());
      }
    }
    rq_.optimizer->apply(*rq_.slots, rq_.params_to_update, rq_.grads, mine.begin,
                         mine.end);
  }

  const NetworkPlan& net_;
  const T* params_;
  Workspace<T>& ws_;
  const PassRequest<T>& rq_;
  const KernelTable<T>& table_;
  int threads_;
  Index chunk_;
  bool pack_forward_ = false;
  std::atomic<bool> finite_{true};  // the gradients, so far
  double normalizer_ = 1.0;
};

}  // namespace

// --- Mlp -------------------------------------------------------------------------

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

  // Buffers that inference borrows, one per call under way.
  mutable PoolMutex pool_mutex;
  mutable std::vector<AlignedBuffer<T>> pool;

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
    const double flops = 2.0 * static_cast<double>(rq.rows) * net.weights;
    const int threads = threads_for_work(flops, (rq.rows + table.mr - 1) / table.mr);
    const bool pack = worth_packing(rq.rows, table.mr);
    const Index tile = std::min(rq.rows, tile_rows<T>(net));

    Index packed_size = 0;
    for (const LayerPlan& layer : net.layers) {
      packed_size +=
          pack ? detail::packed_right_size(table, layer.n_in, layer.n_out) : 0;
    }
    const Index values = tile * net.widest;
    const Index loss_values = tile;  // the rows' scales
    const Index per_thread = 2 * values + loss_values;
    const Lease lease(*this, packed_size + threads * per_thread);
    T* const base = lease.buffer.data();
    std::vector<T*> packed;
    if (pack) {
      T* at = base;
      for (const LayerPlan& layer : net.layers) {
        packed.push_back(at);
        at += detail::packed_right_size(table, layer.n_in, layer.n_out);
      }
    }

    run_team(threads, [&](const Team& team) {
      if (pack) {
        pack_forward(team, table, net, params.data(), packed);
        team.barrier();
      }
      T* const mine = base + packed_size + team.rank() * per_thread;
      T* const buffers[2] = {mine, mine + values};
      T* const row_scale = mine + 2 * values;
      std::fill_n(row_scale, rq.loss ? tile : 0, T(1));
      const Range rows = team.share(rq.rows, table.mr);
      for (Index r = rows.begin; r < rows.end; r += tile) {
        const Index m = std::min(tile, rows.end - r);
        const T* input = rq.x + r * net.n_in;
        for (size_t l = 0; l < net.layers.size(); ++l) {
          const bool last = l + 1 == net.layers.size();
          T* h = last && rq.y ? rq.y + r * net.n_out : buffers[l % 2];
          dense_forward<T>(table, net.layers[l], params.data(),
                           pack ? packed[l] : nullptr, h, h, input, m);
          input = h;
        }
        if (rq.loss) {
          const Targets<T>& t = *rq.targets;
          table.loss_rows({rq.loss->kind, static_cast<T>(rq.loss->delta)}, nullptr, 0,
                          rq.row_loss + r, input, net.n_out,
                          t.values ? t.values + r * net.n_out : nullptr, net.n_out,
                          t.labels ? t.labels + r : nullptr, row_scale, m, net.n_out);
        }
      }
    });
  }

  // A buffer of the pool, given back at the end of the scope.
  struct Lease {
    const Impl& impl;
    AlignedBuffer<T> buffer;
    Lease(const Impl& owner, Index size) : impl(owner) {
      {
        const std::lock_guard lock(impl.pool_mutex);
        if (!impl.pool.empty()) {
          buffer = std::move(impl.pool.back());
          impl.pool.pop_back();
        }
      }
      buffer.reserve(size);
    }
    ~Lease() {
      const std::lock_guard lock(impl.pool_mutex);
      try {
        impl.pool.push_back(std::move(buffer));
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
    Targets<T> targets = batch.targets;
    if (targets.values) targets.values += first * n_out();
    if (targets.labels) targets.labels += first;
    typename Impl::InferRequest rq = {batch.x + first * n_in(),
                                      std::min(kBlock, batch.rows - first)};
    rq.loss = &loss;
    rq.targets = &targets;
    rq.row_loss = row_loss.data() + first;
    impl_->infer(rq);
  }
  const DefaultFpEnvironment environment;
  const T* weights = batch.targets.weights;
  const double normalizer = loss_normalizer(loss, weights, batch.rows, n_out());
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
      if (batch.targets.values) batch.targets.values += first * n_out();
      if (batch.targets.labels) batch.targets.labels += first;
      if (batch.targets.weights) batch.targets.weights += first;
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
    if (loss.reduction == Reduction::mean && batch.targets.weights) {
      share = 0.0;
      for (Index r = 0; r < rows; ++r)
        share += batch.targets.weights[order ? order[r] : r];
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
