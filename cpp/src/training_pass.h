// One training pass over a batch: forward, loss, backward, update.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>

#include "dense.h"
#include "fastmlp/mlp.h"
#include "parallel.h"
#include "workspace.h"

namespace fastmlp::detail {

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
  const Index chunks = (rows + most - 1) / most;
  const Index even = (rows + chunks - 1) / chunks;
  return std::min(rows, (even + kRowGrain - 1) / kRowGrain * kRowGrain);
}

template <class T>
void gather_rows(T* dst, const T* src, const int64_t* order, Index rows, Index width) {
  // No cache guesses where a shuffled row lies.
  constexpr Index kAhead = 8;
  for (Index r = 0; r < rows; ++r) {
    if (r + kAhead < rows) __builtin_prefetch(src + order[r + kAhead] * width);
    std::copy_n(src + order[r] * width, width, dst + r * width);
  }
}

template <class T>
Index first_nonfinite(const T* x, Index n) {
  for (Index i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return i;
  }
  return -1;
}

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
  SecondThread* second = nullptr;       // null: a small batch is taken alone
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
    plan_ = plan_team(flops, (rq_.rows + table_.mr - 1) / table_.mr, rq_.second);
    const bool both = rq_.forward && rq_.backward;
    chunk_ = both ? chunk_rows<T>(net, rq_.rows) : rq_.rows;
    // What forward left must not be lost to more threads' scratch.
    if (!rq_.forward) plan_ = {std::min(plan_.most, ws_.threads()), nullptr};
    block_rows_ = std::min(chunk_ / plan_.most, tile_rows<T>(net));
    ws_.prepare(net, chunk_, rq_.rows, plan_.most);
  }

  // The loss (0 for a given dy). The update is left out if it or the gradient is not
  // finite.
  double run() {
    const Index rows = rq_.rows;
    const size_t first_dx = rq_.dx ? 0 : 1;
    pack_forward_ = rq_.forward && rows >= table_.packing_pays;
    double value = 0.0;
    run_team(plan_, [&](const Team& team) {
      if (team.rank() == 0 && rq_.loss) {
        normalizer_ = normalizer();
        fill_row_scale<T>(ws_.row_scale, rq_.targets.weights, rq_.order, normalizer_,
                          rows);
      }
      if (pack_forward_) {
        pack_forward(team, table_, net_, params_, ws_.packed, block_rows_);
      }
      if (rq_.backward) {
        pack_backward(team, table_, net_, params_, ws_.packed_transposed, first_dx,
                      block_rows_);
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
      const Index width = rq_.loss ? target_width(*rq_.loss, net_.n_out) : 0;
      if (target && first_nonfinite(target + row * width, width) >= 0) {
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
    return loss_normalizer(*rq_.loss, rq_.targets, rq_.order, rq_.rows, net_.n_out);
  }

  const T* chunk_input(Index first) const {
    return rq_.order ? ws_.x : rq_.x + first * net_.n_in;
  }

  void rows_forward_and_back(const Team& team, Index first, Index n) {
    const Index tile = tile_rows<T>(net_);
    const Range mine = team.share(n, table_.mr);
    for (Index r = mine.begin; r < mine.end; r += tile) {
      const Index m = std::min(tile, mine.end - r);
      if (rq_.forward) forward_tile(team, first, r, m);
      if (!rq_.backward) continue;
      head_tile(first, r, m);
      backward_tile(team, first, r, m);
    }
  }

  // With a right half only if the layer's operands are packed in blocks.
  Scratch<T> scratch_for(const LayerPlan& layer, const Team& team) const {
    Scratch<T> scratch = ws_.scratch(team.rank());
    if (!packed_in_blocks<T>(layer, block_rows_)) scratch.right = nullptr;
    return scratch;
  }

  void forward_tile(const Team& team, Index first, Index r, Index m) {
    if (rq_.order) {
      gather_rows(ws_.x + r * net_.n_in, rq_.x, rq_.order + first + r, m, net_.n_in);
    }
    const T* input = chunk_input(first) + r * net_.n_in;
    for (size_t l = 0; l < net_.layers.size(); ++l) {
      const Index n = net_.layers[l].n_out;
      T* h = ws_.h[l] + r * n;
      dense_forward<T>(table_, net_.layers[l], params_,
                       pack_forward_ ? ws_.packed[l] : nullptr, h, ws_.z[l] + r * n,
                       input, m, scratch_for(net_.layers[l], team));
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
    }
    if (rq_.targets.values) {
      const Index width = target_width(*rq_.loss, n);
      target = rq_.targets.values + at * width;
      if (rq_.order) {
        T* const gathered = ws_.target + r * width;
        gather_rows(gathered, rq_.targets.values, rq_.order + at, m, width);
        target = gathered;
      }
    }
    loss_rows<T>(*rq_.loss, d, ws_.row_loss + at, ws_.h.back() + r * n, target, labels,
                 ws_.row_scale + at, m, n);
  }

  void backward_tile(const Team& team, Index first, Index r, Index m) {
    bool is_dz = false;  // whether dz holds d loss / d z already, and not d loss / d h
    for (size_t l = net_.layers.size(); l-- > 0;) {
      const LayerPlan& layer = net_.layers[l];
      const Index n = layer.n_out;
      T* dz = ws_.dz[l] + r * n;
      if (!is_dz && layer.activation != Activation::identity) {
        const T* saved = (layer.saves_input() ? ws_.z[l] : ws_.h[l]) + r * n;
        table_.activation_backward(layer.activation, dz, n, dz, n, saved, n, m, n);
      }
      if (l == 0 && !rq_.dx) break;
      T* dh =
          l > 0 ? ws_.dz[l - 1] + r * layer.n_in : rq_.dx + (first + r) * layer.n_in;
      Finish<T> finish;
      is_dz = l > 0 && finished_in_product(net_.layers[l - 1]);
      if (is_dz) {
        finish = {Finishing::relu_backward, ws_.h[l - 1] + r * layer.n_in, layer.n_in};
      }
      product<T>(table_, {dh, m, layer.n_in, layer.n_in}, {dz, n, 1},
                 params_ + layer.weight, 1, n,
                 packed_right<T>(table_, ws_.packed_transposed[l], n), n, nullptr,
                 false, scratch_for(layer, team), finish);
    }
  }

  // dW = h^T dz and db = sum of the rows of dz, added to those of the chunks before.
  // Each member owns a part of dW and runs over all rows in order.
  void weight_gradients(const Team& team, Index first, Index n) {
    const bool accumulate = first > 0;
    bool finite = true;
    for (size_t l = 0; l < net_.layers.size(); ++l) {
      const LayerPlan& layer = net_.layers[l];
      const Scratch<T> scratch = scratch_for(layer, team);
      const bool by_rows = layer.n_in >= layer.n_out;
      const bool across = few_outputs(layer);
      const Index grain = across ? table_.lanes : table_.mr;
      const Range rows = by_rows ? team.share(layer.n_in, grain) : Range{0, layer.n_in};
      const Range cols =
          by_rows ? Range{0, layer.n_out} : team.share(layer.n_out, table_.nr);
      const T* h = (l > 0 ? ws_.h[l - 1] : chunk_input(first)) + rows.begin;
      const T* dz = ws_.dz[l] + cols.begin;
      T* dw = rq_.grads + layer.weight + rows.begin * layer.n_out + cols.begin;
      if (across) {
        weight_gradient_across<T>(table_, dw, h, layer.n_in, rows.size(), dz,
                                  layer.n_out, n, accumulate, scratch.left);
      } else {
        product<T>(table_, {dw, rows.size(), cols.size(), layer.n_out},
                   {h, 1, layer.n_in}, dz, layer.n_out, 1,
                   plain_right<T>(table_, dz, layer.n_out), n, nullptr, accumulate,
                   scratch);
      }
      finite = finite && table_.all_finite(dw, layer.n_out, rows.size(), cols.size());
      if (layer.bias >= 0) {
        const Range mine = team.share(layer.n_out, table_.lanes);
        T* db = rq_.grads + layer.bias + mine.begin;
        table_.column_sum(db, ws_.dz[l] + mine.begin, layer.n_out, n, mine.size(),
                          accumulate);
        finite = finite && table_.all_finite(db, mine.size(), 1, mine.size());
      }
    }
    if (!finite) finite_.store(false, std::memory_order_relaxed);
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
  TeamPlan plan_;
  Index chunk_;
  Index block_rows_;  // that a member takes at once
  bool pack_forward_ = false;
  std::atomic<bool> finite_{true};  // the gradients, so far
  double normalizer_ = 1.0;
};

}  // namespace fastmlp::detail
