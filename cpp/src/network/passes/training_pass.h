// One training pass over a batch: forward, loss, backward, update.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>

#include "fastmlp/dropout.h"
#include "fastmlp/mlp.h"
#include "network/dense.h"
#include "network/ops/layers.h"
#include "network/passes/diagnosis.h"
#include "network/passes/pass_args.h"
#include "network/workspace.h"
#include "threading/parallel.h"

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

// Forward, head, backward and update of one batch in one parallel region:
//   every member packs its part of the weights
//   --- barrier; then for each chunk of rows:
//       every member takes its rows forward and back
//       --- barrier
//       every member makes its part of the weight gradients
//       --- barrier
//   every member updates its part of the parameters
// A batch_norm in training needs all rows at each of its two ends, so it cuts the way
// forward and the way back into segments with barriers between; the chunk is the batch.
template <class T>
class Pass {
 public:
  Pass(const NetworkPlan& net, const T* params, Workspace<T>& ws,
       const PassArgs<T>& request)
      : net_(net), params_(params), ws_(ws), rq_(request), table_(kernels<T>()) {
    const double flops = 6.0 * static_cast<double>(rq_.rows) * net.work;
    plan_ = plan_team(flops, (rq_.rows + table_.mr - 1) / table_.mr, rq_.second);
    // What comes from outside is called by one thread, from which it may throw.
    if (net.has_custom) plan_ = {};
    by_batch_ = rq_.training && !net.batch_norms.empty();
    const bool both = rq_.forward && rq_.backward;
    chunk_ = both && !by_batch_ ? chunk_rows<T>(net, rq_.rows) : rq_.rows;
    // What forward left must not be lost to more threads' scratch.
    if (!rq_.forward) plan_ = {std::min(plan_.most, ws_.threads()), nullptr};
    block_rows_ = std::min(chunk_ / plan_.most, tile_rows<T>(net));
    ws_.prepare(net, chunk_, rq_.rows, plan_.most);
  }

  // The loss (0 for a given dy). The update is left out if it or the gradient is not
  // finite.
  double run() {
    const Index rows = rq_.rows;
    pack_forward_ = rq_.forward && rows >= table_.packing_pays;
    double value = 0.0;
    run_team(plan_, [&](const Team& team) {
      if (team.rank() == 0 && rq_.loss) {
        normalizer_ = normalizer();
        decay_ = decay();
        fill_row_scale<T>(ws_.row_scale, rq_.targets.weights, rq_.order, normalizer_,
                          rows);
      }
      if (pack_forward_) {
        pack_forward(team, table_, net_, params_, ws_.packed, block_rows_);
      }
      if (rq_.backward) {
        pack_backward(team, table_, net_, params_, ws_.packed_transposed,
                      rq_.dx != nullptr, block_rows_);
      }
      // On the way back alone, they are what forward has taken.
      if (!by_batch_ && rq_.forward) use_running_statistics(team);
      if (rq_.l2 != 0.0) square_weights(team);
      team.barrier();
      for (Index first = 0; first < rows; first += chunk_) {
        const Index n = std::min(chunk_, rows - first);
        if (first > 0) team.barrier();
        rows_by_segments(team, first, n);
        if (!rq_.backward) continue;
        team.barrier();
        weight_gradients(team, first, n);
      }
      double mean = 0.0;
      if (rq_.loss) {
        // Every member adds the same numbers in the same order: no need to wait.
        const double sum =
            weighted_sum<T>(ws_.row_loss, rq_.targets.weights, rq_.order, rows);
        mean = normalizer_ == 0.0 ? 0.0 : sum / normalizer_;
        mean += penalty();
        if (team.rank() == 0) value = mean;
      }
      if (!rq_.optimizer) return;
      team.barrier();
      if (std::isfinite(mean) && gradient_is_finite()) update(team);
    });
    return value;
  }

  // Moves running means and variances towards those of the batch.
  void update_running_statistics(T* buffers) const {
    const T rows = static_cast<T>(rq_.rows);
    for (const int b : net_.batch_norms) {
      const OpPlan& layer = net_.layers[static_cast<size_t>(b)];
      const Index n = layer.n_out;
      const BatchStatistics<T> batch = statistics_of(b);
      T* const mean = buffers + layer.statistics;
      T* const var = mean + n;
      const T m = static_cast<T>(layer.momentum),
              rest = static_cast<T>(1 - layer.momentum);
      // The unbiased variance, as torch has it.
      const T unbiased = rows / (rows - T(1));
      for (Index j = 0; j < n; ++j) {
        mean[j] = rest * mean[j] + m * batch.mean[j];
        var[j] = rest * var[j] + m * (batch.var[j] * unbiased);
      }
    }
  }

  // The rows whose values the pass leaves in the workspace.
  Index rows_at_the_end() const { return rq_.rows - (rq_.rows - 1) / chunk_ * chunk_; }

  bool gradient_is_finite() const { return finite_.load(std::memory_order_relaxed); }

  // Why the loss or the gradient is not finite, by what this pass left behind.
  std::string diagnosis() const {
    return Diagnosis<T>(net_, params_, ws_, rq_, chunk_ >= rq_.rows).text();
  }

 private:
  double normalizer() const {
    return loss_normalizer(*rq_.loss, rq_.targets, rq_.order, rq_.rows, net_.n_out);
  }

  // What l2 adds to the gradient for each unit of a weight.
  double decay() const {
    if (rq_.l2 == 0.0) return 0.0;
    const double divisor = sum_of_weights<T>(rq_.targets.weights, rq_.order, rq_.rows);
    return divisor == 0.0 ? 0.0 : rq_.l2 / divisor;
  }

  // This member's share of the chunks of the dense weights' squares.
  void square_weights(const Team& team) const {
    const Range mine = team.share(weight_chunks(net_));
    Index before = 0;
    for (const OpPlan& layer : net_.layers) {
      if (!layer.is_dense()) continue;
      const Index size = layer.n_in * layer.n_out;
      const Index chunks = square_chunks(size);
      const Index end = std::min(before + chunks, mine.end);
      for (Index c = std::max(before, mine.begin); c < end; ++c) {
        rq_.squares[c] = squares_of_chunk(params_ + layer.weight, size, c - before);
      }
      before += chunks;
    }
  }

  double penalty() const {
    if (decay_ == 0.0) return 0.0;
    double sum = 0.0;
    const Index chunks = weight_chunks(net_);
    for (Index c = 0; c < chunks; ++c) sum += rq_.squares[c];
    // It is taken off what is to grow: weights are to shrink either way.
    const bool ascends = rq_.optimizer && rq_.optimizer->config().maximize;
    return (ascends ? -0.5 : 0.5) * decay_ * sum;
  }

  // The output of a step for rows of the chunk from r on.
  const T* value_of(int step, Index first, Index r) const {
    if (step == kInput) {
      return rq_.order ? ws_.x + r * net_.n_in : rq_.x + (first + r) * net_.n_in;
    }
    const size_t l = static_cast<size_t>(step);
    return ws_.h[l] + r * net_.layers[l].n_out;
  }

  // Where the gradient of a step's output for these rows goes; null: nobody asks.
  T* gradient_of(int step, Index first, Index r) const {
    if (step == kInput) return rq_.dx ? rq_.dx + (first + r) * net_.n_in : nullptr;
    const size_t l = static_cast<size_t>(step);
    if (!wanted(net_.layers[l])) return nullptr;
    return ws_.dz[l] + r * net_.layers[l].n_out;
  }
  bool wanted(const OpPlan& layer) const { return layer.learns || rq_.dx; }

  BatchStatistics<T> statistics_of(int step) const {
    const size_t l = static_cast<size_t>(step);
    return {ws_.statistics[l], net_.layers[l].n_out};
  }

  // Rows of a chunk forward and back, segment by segment.
  void rows_by_segments(const Team& team, Index first, Index n) {
    const size_t cuts = by_batch_ ? net_.batch_norms.size() : 0;
    const auto begin = [&](size_t i) {
      return i == 0 ? size_t{0} : static_cast<size_t>(net_.batch_norms[i - 1]);
    };
    const auto end = [&](size_t i) {
      return i < cuts ? begin(i + 1) : net_.layers.size();
    };
    for (size_t i = 0; i < cuts && rq_.forward; ++i) {
      each_tile(team, n, [&](Index r, Index m) {
        forward_tile(team, first, r, m, begin(i), end(i));
      });
      team.barrier();
      batch_moments(team, net_.batch_norms[i], first, n);
      team.barrier();
    }
    each_tile(team, n, [&](Index r, Index m) {
      if (rq_.forward) {
        forward_tile(team, first, r, m, begin(cuts), end(cuts));
        if (rq_.y) copy_output(first, r, m);
      }
      if (!rq_.backward) return;
      head_tile(first, r, m);
      backward_tile(team, first, r, m, begin(cuts), end(cuts));
    });
    if (!rq_.backward) return;
    for (size_t i = cuts; i-- > 0;) {
      team.barrier();
      batch_gradients(team, net_.batch_norms[i], n);
      team.barrier();
      each_tile(team, n, [&](Index r, Index m) {
        batch_norm_back(net_.batch_norms[i], first, r, m);
        backward_tile(team, first, r, m, begin(i), end(i));
      });
    }
  }

  // body(r, m) for this member's rows of a chunk of n, m of them from r on.
  template <class Body>
  void each_tile(const Team& team, Index n, Body body) {
    const Index tile = tile_rows<T>(net_);
    const Range mine = team.share(n, table_.mr);
    for (Index r = mine.begin; r < mine.end; r += tile) {
      const Index m = std::min(tile, mine.end - r);
      body(r, m);
    }
  }

  void copy_output(Index first, Index r, Index m) const {
    const T* const y = ws_.h.back() + r * net_.n_out;
    std::copy_n(y, m * net_.n_out, rq_.y + (first + r) * net_.n_out);
  }

  // With a right half only if the layer's operands are packed in blocks.
  Scratch<T> scratch_for(const OpPlan& layer, const Team& team) const {
    Scratch<T> scratch = ws_.scratch(team.rank());
    if (!packed_in_blocks<T>(layer, block_rows_)) scratch.right = nullptr;
    return scratch;
  }

  // Steps begin .. end for m rows from r on.
  void forward_tile(const Team& team, Index first, Index r, Index m, size_t begin,
                    size_t end) {
    if (rq_.order && begin == 0) {
      gather_rows(ws_.x + r * net_.n_in, rq_.x, rq_.order + first + r, m, net_.n_in);
    }
    for (size_t l = begin; l < end; ++l) {
      const OpPlan& layer = net_.layers[l];
      const Index n = layer.n_out;
      T* const h = ws_.h[l] + r * n;
      T* const z = ws_.z[l] + r * n;
      const T* const x = value_of(layer.input, first, r);
      if (layer.is_dense()) {
        dense_forward<T>(table_, layer, params_,
                         pack_forward_ ? ws_.packed[l] : nullptr, h, z, x, m,
                         scratch_for(layer, team));
      } else {
        other_forward(l, h, z, x, first, r, m);
      }
    }
  }

  // A step that is not dense, keeping what its way back needs.
  void other_forward(size_t l, T* h, T* z, const T* x, Index first, Index r, Index m) {
    const OpPlan& layer = net_.layers[l];
    const Index n = layer.n_out, size = m * n;
    T* const kept = ws_.kept[l] ? ws_.kept[l] + r * n : nullptr;
    const T* const scale = parameters(params_, layer.weight);
    const T* const shift = parameters(params_, layer.bias);
    switch (layer.kind) {
      case LayerKind::dense:
        break;
      case LayerKind::activation:
        if (layer.custom) {
          layer.custom->forward(h, x, size);
        } else {
          table_.activation_forward(layer.activation, h, n, x, n, m, n);
        }
        return;
      case LayerKind::dropout:
        if (rq_.training) {
          table_.dropout(h, kept, x, (first + r) * n, size,
                         dropout_args<T>(layer.rate, rq_.draw, layer.stream));
        } else {
          std::copy_n(x, size, h);
        }
        return;
      case LayerKind::layer_norm:
        table_.layer_norm_forward(z, n, kept, n, ws_.statistics[l] + r, x, n, scale,
                                  shift, static_cast<T>(layer.eps), m, n);
        break;
      case LayerKind::batch_norm: {
        const BatchStatistics<T> batch = statistics_of(static_cast<int>(l));
        table_.batch_norm_forward(z, n, kept, n, x, n, batch.mean, batch.rstd, scale,
                                  shift, m, n);
        break;
      }
      case LayerKind::add:
        table_.add(z, x, value_of(layer.other, first, r), size);
        break;
    }
    if (layer.activation != Activation::identity) {
      table_.activation_forward(layer.activation, h, n, z, n, m, n);
    }
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

  // Steps end .. begin, last to first: from the gradient of each one's output to that
  // of what it takes.
  void backward_tile(const Team& team, Index first, Index r, Index m, size_t begin,
                     size_t end) {
    for (size_t l = end; l-- > begin;) {
      const OpPlan& layer = net_.layers[l];
      if (!wanted(layer)) continue;
      const Index n = layer.n_out;
      T* const dz = ws_.dz[l] + r * n;
      if (layer.activation != Activation::identity && !layer.relu_ended) {
        const T* saved = (layer.saves_input() ? ws_.z[l] : ws_.h[l]) + r * n;
        // An activation by itself has its input in the step before.
        if (layer.kind == LayerKind::activation &&
            activation_saves_input(layer.activation)) {
          saved = value_of(layer.input, first, r);
        }
        table_.activation_backward(layer.activation, dz, n, dz, n, saved, n, m, n);
      }
      if (!layer.is_dense()) {
        other_backward(l, dz, first, r, m);
        continue;
      }
      T* const dh = gradient_of(layer.input, first, r);
      if (!dh) continue;
      Epilogue<T> epilogue;
      if (layer.ends_relu) {
        epilogue = {EpilogueKind::relu_backward, value_of(layer.input, first, r),
                    layer.n_in};
      }
      product<T>(table_, {dh, m, layer.n_in, layer.n_in}, {dz, n, 1},
                 params_ + layer.weight, 1, n,
                 packed_right<T>(table_, ws_.packed_transposed[l], n), n, nullptr,
                 layer.adds_input, scratch_for(layer, team), epilogue);
    }
  }

  void other_backward(size_t l, T* dz, Index first, Index r, Index m) {
    const OpPlan& layer = net_.layers[l];
    const Index n = layer.n_out, size = m * n;
    T* const kept = ws_.kept[l] ? ws_.kept[l] + r * n : nullptr;
    T* const dx = gradient_of(layer.input, first, r);
    switch (layer.kind) {
      case LayerKind::dense:
        return;
      case LayerKind::activation:
        if (layer.custom) {
          layer.custom->derivative(kept, value_of(layer.input, first, r), size);
          table_.multiply(dz, dz, kept, size);
        }
        break;
      case LayerKind::dropout:
        if (rq_.training) table_.multiply(dz, dz, kept, size);
        break;
      case LayerKind::layer_norm:
        if (!dx) return;
        table_.layer_norm_backward(dx, n, dz, n, kept, n, ws_.statistics[l] + r,
                                   parameters(params_, layer.weight), layer.adds_input,
                                   m, n);
        return;
      case LayerKind::batch_norm:
        if (!by_batch_) batch_norm_back(static_cast<int>(l), first, r, m);
        return;
      case LayerKind::add:
        accumulate_gradient(gradient_of(layer.other, first, r), dz, size,
                            layer.adds_other);
        break;
    }
    if (!layer.shares_input) accumulate_gradient(dx, dz, size, layer.adds_input);
  }

  void accumulate_gradient(T* to, const T* d, Index size, bool adds) const {
    if (!to) return;
    if (adds) {
      table_.add(to, to, d, size);
    } else {
      std::copy_n(d, size, to);
    }
  }

  // From the gradient of a batch_norm's output to that of its input.
  void batch_norm_back(int step, Index first, Index r, Index m) {
    const size_t l = static_cast<size_t>(step);
    const OpPlan& layer = net_.layers[l];
    const Index n = layer.n_out;
    T* const dx = gradient_of(layer.input, first, r);
    if (!dx) return;
    const BatchStatistics<T> batch = statistics_of(step);
    table_.batch_norm_backward(dx, n, ws_.dz[l] + r * n, n, ws_.kept[l] + r * n, n,
                               batch.rstd, parameters(params_, layer.weight),
                               batch.mean_dh, batch.mean_dhx, layer.adds_input, m, n);
  }

  // Mean and deviation of the columns of a batch_norm's input, by owner of the column.
  void batch_moments(const Team& team, int step, Index first, Index n) {
    const OpPlan& layer = net_.layers[static_cast<size_t>(step)];
    const Range mine = team.share(layer.n_out, table_.lanes);
    const BatchStatistics<T> batch = statistics_of(step);
    table_.column_moments(batch.mean + mine.begin, batch.var + mine.begin,
                          value_of(layer.input, first, 0) + mine.begin, layer.n_in, n,
                          mine.size());
    reciprocal_deviation(batch.rstd + mine.begin, batch.var + mine.begin, layer.eps,
                         mine.size());
  }

  // The gradients of a batch_norm's scale and shift, and the means over the batch that
  // its input's gradient needs; by owner of the column.
  void batch_gradients(const Team& team, int step, Index n) {
    const size_t l = static_cast<size_t>(step);
    const OpPlan& layer = net_.layers[l];
    if (!wanted(layer)) return;
    const BatchStatistics<T> batch = statistics_of(step);
    const Range mine = team.share(layer.n_out, table_.lanes);
    const Index first = mine.begin, width = layer.n_out;
    table_.batch_norm_sums(batch.mean_dh + first, batch.mean_dhx + first,
                           ws_.dz[l] + first, width, ws_.kept[l] + first, width, n,
                           mine.size());
    const T rows = static_cast<T>(n);
    for (Index j = mine.begin; j < mine.end; ++j) {
      if (layer.weight >= 0) {
        rq_.grads[layer.weight + j] = batch.mean_dhx[j];
        rq_.grads[layer.bias + j] = batch.mean_dh[j];
      }
      batch.mean_dh[j] /= rows;
      batch.mean_dhx[j] /= rows;
    }
  }

  // InUserCode training a batch_norm is a fixed map of each column.
  void use_running_statistics(const Team& team) {
    if (team.rank() > 0) return;
    for (const int b : net_.batch_norms) {
      const OpPlan& layer = net_.layers[static_cast<size_t>(b)];
      const Index n = layer.n_out;
      const BatchStatistics<T> batch = statistics_of(b);
      const T* const mean = rq_.buffers + layer.statistics;
      std::copy_n(mean, n, batch.mean);
      std::copy_n(mean + n, n, batch.var);
      reciprocal_deviation(batch.rstd, batch.var, layer.eps, n);
      std::fill_n(batch.mean_dh, n, T(0));
      std::fill_n(batch.mean_dhx, n, T(0));
    }
  }

  // Sums over n rows of dy xhat and of dy, for a range of a normalisation's columns.
  void norm_gradients(size_t l, T* dscale, T* dshift, Range columns, Index n,
                      bool accumulate) const {
    const Index width = net_.layers[l].n_out, j = columns.begin;
    table_.column_dot(dscale + j, ws_.dz[l] + j, width, ws_.kept[l] + j, width, n,
                      columns.size(), accumulate);
    table_.column_sum(dshift + j, ws_.dz[l] + j, width, n, columns.size(), accumulate);
  }

  // dW = h^T dz and db = sum of the rows of dz, added to those of the chunks before.
  // Each member owns a part of dW and runs over all rows in order.
  void weight_gradients(const Team& team, Index first, Index n) {
    const bool accumulate = first > 0;
    bool finite = true;
    for (size_t l = 0; l < net_.layers.size(); ++l) {
      const OpPlan& layer = net_.layers[l];
      if (layer.weight < 0) continue;
      if (!layer.is_dense()) {
        const Range mine = team.share(layer.n_out, table_.lanes);
        T* const dscale = rq_.grads + layer.weight;
        T* const dshift = rq_.grads + layer.bias;
        if (layer.kind == LayerKind::layer_norm || !by_batch_) {
          norm_gradients(l, dscale, dshift, mine, n, accumulate);
        }
        finite = finite &&
                 table_.all_finite(dscale + mine.begin, mine.size(), 1, mine.size()) &&
                 table_.all_finite(dshift + mine.begin, mine.size(), 1, mine.size());
        continue;
      }
      const Scratch<T> scratch = scratch_for(layer, team);
      const bool by_rows = layer.n_in >= layer.n_out;
      const bool across = has_few_outputs(layer);
      const Index grain = across ? table_.lanes : table_.mr;
      const Range rows = by_rows ? team.share(layer.n_in, grain) : Range{0, layer.n_in};
      const Range cols =
          by_rows ? Range{0, layer.n_out} : team.share(layer.n_out, table_.nr);
      const T* h = value_of(layer.input, first, 0) + rows.begin;
      const T* dz = ws_.dz[l] + cols.begin;
      T* dw = rq_.grads + layer.weight + rows.begin * layer.n_out + cols.begin;
      if (across) {
        weight_gradient_transposed<T>(table_, dw, h, layer.n_in, rows.size(), dz,
                                      layer.n_out, n, accumulate, scratch.left);
      } else {
        product<T>(table_, {dw, rows.size(), cols.size(), layer.n_out},
                   {h, 1, layer.n_in}, dz, layer.n_out, 1,
                   plain_right<T>(table_, dz, layer.n_out), n, nullptr, accumulate,
                   scratch);
      }
      // An optimiser adds it on its way through the parameters.
      if (decay_ != 0.0 && !rq_.optimizer && first + n == rq_.rows) {
        add_decay(dw, params_ + (dw - rq_.grads), layer.n_out, rows.size(),
                  cols.size());
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

  // dw += decay w for a block of a layer's weights.
  void add_decay(T* dw, const T* w, Index ld, Index rows, Index cols) const {
    const T decay = static_cast<T>(decay_);
    if (cols == ld) return table_.axpy(dw, w, decay, rows * cols);
    for (Index i = 0; i < rows; ++i) {
      table_.axpy(dw + i * ld, w + i * ld, decay, cols);
    }
  }

  void update(const Team& team) {
    constexpr Index kLine = static_cast<Index>(kAlignment / sizeof(T));
    const Optimizer& optimizer = *rq_.optimizer;
    if (optimizer.clips_by_norm()) {
      const Range chunks = team.share(square_chunks(net_.n_params));
      optimizer.sum_squares(*rq_.slots, rq_.grads, chunks.begin, chunks.end);
      team.barrier();
    }
    const double clip_scale = optimizer.clip_scale();
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
    const auto apply = [&](Index begin, Index end, bool decayed, double l2) {
      begin = std::max(begin, mine.begin);
      end = std::min(end, mine.end);
      if (begin >= end) return;
      optimizer.apply(*rq_.slots, rq_.params_to_update, rq_.grads, begin, end,
                      clip_scale, decayed, l2);
    };
    const bool all = !optimizer.spares_some();
    if (all && decay_ == 0.0) return apply(mine.begin, mine.end, true, 0.0);
    for (const OpPlan& layer : net_.layers) {
      const bool dense = layer.is_dense();
      const Index size = dense ? layer.n_in * layer.n_out : layer.n_out;
      if (layer.weight >= 0) {
        apply(layer.weight, layer.weight + size, all || dense, dense ? decay_ : 0.0);
      }
      if (layer.bias >= 0) apply(layer.bias, layer.bias + layer.n_out, all, 0.0);
    }
  }

  const NetworkPlan& net_;
  const T* params_;
  Workspace<T>& ws_;
  const PassArgs<T>& rq_;
  const KernelTable<T>& table_;
  TeamPlan plan_;
  Index chunk_;
  Index block_rows_;  // that a member takes at once
  bool by_batch_;     // whether a batch_norm needs all rows at once
  bool pack_forward_ = false;
  std::atomic<bool> finite_{true};  // the gradients, so far
  double normalizer_ = 1.0;
  double decay_ = 0.0;
};

}  // namespace fastmlp::detail
