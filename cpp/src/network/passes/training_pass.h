// One training pass over a batch: forward, loss, backward, update.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include "fastmlp/fp_environment.h"
#include "network/ops/ops.h"
#include "network/passes/diagnosis.h"
#include "network/passes/pass_args.h"
#include "network/passes/tile_rows.h"
#include "network/passes/update.h"
#include "network/passes/workspace.h"
#include "threading/parallel.h"
#include "threading/stop.h"

namespace fastmlp::detail {

constexpr Index kBlockedRowGrain = 96;
static_assert(kBlockedRowGrain % kRowGrain == 0 &&
              kBlockedRowGrain % kBfloat16Block == 0);

// Rows that training processes at a time: few enough that their values stay in the
// second-level cache, many enough that fetching weights and weight gradients for each
// chunk pays.
template <class T>
Index chunk_rows(const NetworkPlan& net, Index rows) {
  // Not the machine's cache, because users see chunks: after a step, the workspace
  // holds the values of the last chunk, which `fastmlp.Monitor` records.
  constexpr Index kBytes = 1 << 20;
  constexpr Index kFewest = 512;
  const Index fitting = kBytes / (net.values_per_row * static_cast<Index>(sizeof(T)));
  const Index most = std::max(kFewest, fitting);
  // Chunks of about the same size, of whole register tiles.
  const Index chunks = (rows + most - 1) / most;
  const Index even = (rows + chunks - 1) / chunks;
  // Sums over the rows of a batch in bfloat16 take the rows in blocks, which no chunk
  // may divide.
  const Index grain = net.operands == Operands::full ? kRowGrain : kBlockedRowGrain;
  return std::min(rows, (even + grain - 1) / grain * grain);
}

template <class T>
void gather_rows(T* dst, const T* src, const int64_t* order, Index rows, Index width) {
  // How many rows ahead to prefetch: the hardware cannot predict the addresses of
  // shuffled rows.
  constexpr Index kAhead = 8;
  for (Index r = 0; r < rows; ++r) {
    if (r + kAhead < rows) __builtin_prefetch(src + order[r + kAhead] * width);
    std::copy_n(src + order[r] * width, width, dst + r * width);
  }
}

// Forward, loss, backward and update of one batch in one parallel region:
//   every member computes its part of parametrised weights, if there are any
//   --- barrier
//   every member packs its part of the weights
//   --- barrier; then for each chunk of rows:
//       every member runs forward and backward on its rows
//       --- barrier
//       every member computes its part of the weight gradients
//       --- barrier
//   every member turns its part of the gradients of parametrised weights
//   --- barrier
//   every member updates its part of the parameters
// Ops that in training depend on the whole batch need all rows before their forward and
// before their backward. So they divide both passes into segments with barriers between
// them, and the chunk is the whole batch.
// If the call is asked to stop, members skip the work before the update, but no
// barrier.
template <class T>
class Pass {
 public:
  Pass(const NetworkPlan& net, const T* params, Workspace<T>& ws,
       const PassArgs<T>& args)
      : net_(net), given_(params), ws_(ws), args_(args), table_(kernels<T>()) {
    if (net.operands == Operands::bfloat16 && !args.full_operands) {
      bfloat16_ = &active_bfloat16_kernels();
    }
    double flops = 6.0 * work_of_rows(net, args_.rows, sparse_rows(0));
    if (args_.matrices) flops += matrix_update_flops(net, *args_.optimizer);
    plan_ = plan_team(flops, (args_.rows + table_.mr - 1) / table_.mr, args_.helper);
    // Custom activations may throw, so they must be called by a single thread: no
    // parallel plan.
    if (net.has_custom) plan_ = {};
    by_batch_ = args_.training && !net.batch_ops.empty();
    const bool both = args_.forward && args_.backward;
    chunk_ = both && !by_batch_ ? chunk_rows<T>(net, args_.rows) : args_.rows;
    // A larger team would need more scratch memory, and allocating it would lose the
    // values that forward has left.
    if (!args_.forward) plan_ = {std::min(plan_.most, ws_.threads()), nullptr};
    block_rows_ = std::min(chunk_ / plan_.most, tile_rows<T>(net));
    ws_.prepare(net, chunk_, args_.rows, plan_.most, !args_.sparse);
    if (args_.matrices) args_.matrices->prepare(net, plan_.most);
    params_ = effective().data();
  }

  // Returns the loss (0 for a given dy). The update is skipped if the loss or the
  // gradient is not finite.
  double run() {
    const Index rows = args_.rows;
    double value = 0.0;
    run_team(plan_, [&](const Team& team) {
      if (team.rank() == 0 && args_.loss) {
        normalizer_ = normalizer();
        decay_ = decay();
        fill_row_scale<T>(ws_.row_scale, args_.targets.weights, args_.order,
                          normalizer_, rows);
      }
      effective().compute(team);
      pack(team);
      // A backward pass alone uses the statistics that its forward pass has set.
      if (args_.forward && team.rank() == 0) {
        use_running_statistics(net_.fixed_ops);
        if (!by_batch_) use_running_statistics(net_.batch_ops);
      }
      if (args_.l2 != 0.0) square_weights(team);
      team.barrier();
      for (Index first = 0; first < rows; first += chunk_) {
        const Index n = std::min(chunk_, rows - first);
        if (first > 0) team.barrier();
        rows_by_segments(team, first, n);
        if (!args_.backward) continue;
        team.barrier();
        if (!stop_requested()) weight_gradients(team, first, n);
      }
      if (args_.grads && net_.n_derived > 0) {
        team.barrier();
        if (!effective().pull_back(team, args_.grads)) note_not_finite();
      }
      double mean = 0.0;
      if (args_.loss) {
        // Every member adds the same numbers in the same order, so no barrier is
        // needed.
        const double sum =
            weighted_sum<T>(ws_.row_loss, args_.targets.weights, args_.order, rows);
        mean = normalizer_ == 0.0 ? 0.0 : sum / normalizer_;
        mean += penalty();
        if (team.rank() == 0) value = mean;
      }
      if (!args_.optimizer) return;
      team.barrier();
      if (!team.commit()) return;
      if (std::isfinite(mean) && gradient_is_finite()) {
        update_parameters(team, net_, args_, args_.grads,
                          decays_in_gradient() ? 0.0 : decay_);
      }
    });
    if (args_.grads && !args_.optimizer) net_.clear_frozen(args_.grads);
    return value;
  }

  // Moves running statistics towards those of the batch, and sets singular vectors.
  void update_running_statistics(T* buffers) const {
    const CoreFpEnvironment environment;
    for (const int b : net_.batch_ops) {
      visit(op(b).kind, [&](auto kind) {
        kind.update_running_statistics(op(b), buffers, memory(b).statistics,
                                       args_.rows);
      });
    }
    effective().keep_singular_vectors(buffers);
  }

  // The workspace still holds the values of this many rows after the pass, the last of
  // the batch.
  Index rows_at_the_end() const {
    return args_.rows - (args_.rows - 1) / chunk_ * chunk_;
  }

  bool gradient_is_finite() const { return finite_.load(std::memory_order_relaxed); }

  // Explains from the values of this pass why the loss or the gradient is not finite.
  std::string diagnosis() const {
    return Diagnosis<T>(net_, given_, ws_, args_, chunk_ >= args_.rows).text();
  }

 private:
  // A backward pass alone uses the singular vectors that its forward pass has set.
  EffectiveParams<T> effective() const {
    return {net_, given_, args_.buffers, ws_.effective,
            args_.training && args_.forward};
  }

  void note_not_finite() { finite_.store(false, std::memory_order_relaxed); }

  double normalizer() const {
    return loss_normalizer(*args_.loss, args_.targets, args_.order, args_.rows,
                           net_.n_out);
  }

  // l2 adds this factor times the weight to each weight's gradient.
  double decay() const {
    if (args_.l2 == 0.0) return 0.0;
    const double divisor =
        sum_of_weights<T>(args_.targets.weights, args_.order, args_.rows);
    return divisor == 0.0 ? 0.0 : args_.l2 / divisor;
  }

  // Computes this member's chunks of the sum of the squares of the dense weights.
  void square_weights(const Team& team) const {
    const Range mine = team.share(weight_chunks(net_));
    Index before = 0;
    for (const OpPlan& op : net_.ops) {
      if (!op.is_dense()) continue;
      const Index chunks = square_chunks(op.weight_size);
      const Index end = std::min(before + chunks, mine.end);
      for (Index c = std::max(before, mine.begin); c < end; ++c) {
        args_.squares[c] =
            squares_of_chunk(params_ + op.weight, op.weight_size, c - before);
      }
      before += chunks;
    }
  }

  double penalty() const {
    if (decay_ == 0.0) return 0.0;
    double sum = 0.0;
    const Index chunks = weight_chunks(net_);
    for (Index c = 0; c < chunks; ++c) sum += args_.squares[c];
    // The penalty is subtracted if the optimiser maximises, so that weights shrink
    // either way.
    const bool ascends = args_.optimizer && args_.optimizer->config().maximize;
    return (ascends ? -0.5 : 0.5) * decay_ * sum;
  }

  const OpPlan& op(int index) const { return net_.ops[static_cast<size_t>(index)]; }
  const OpMemory<T>& memory(int index) const {
    return ws_.ops[static_cast<size_t>(index)];
  }

  // An op's output from row r of the chunk onwards; `first` is the batch row at which
  // the chunk begins.
  const T* value_of(int index, Index first, Index r) const {
    if (index == kInput) {
      if (args_.sparse) return nullptr;
      return args_.order ? ws_.x + r * net_.n_in : args_.x + (first + r) * net_.n_in;
    }
    return memory(index).h + r * op(index).n_out;
  }

  // The gradient of that output; null if it is not needed.
  T* gradient_of(int index, Index first, Index r) const {
    if (index == kInput) return args_.dx ? args_.dx + (first + r) * net_.n_in : nullptr;
    if (!wanted(op(index))) return nullptr;
    return memory(index).dz + r * op(index).n_out;
  }
  bool wanted(const OpPlan& op) const { return op.learns || args_.dx; }

  // The sparse rows that an op takes, from batch row r on; none if its input is dense.
  SparseRows<T> sparse_of(const OpPlan& op, Index r) const {
    return is_sparse(op) ? sparse_rows(r) : SparseRows<T>{};
  }
  SparseRows<T> sparse_rows(Index r) const {
    if (!args_.sparse) return {};
    SparseRows<T> rows = args_.sparse;
    rows.order = args_.order;
    return rows.from(r);
  }
  bool is_sparse(const OpPlan& op) const { return args_.sparse && op.input == kInput; }

  // Whether the forward product of a dense op uses packed weights.
  bool packs_forward(const OpPlan& op) const {
    return args_.forward && !is_sparse(op) &&
           DenseOp::packing_pays(table_, bfloat16_, op, args_.rows);
  }

  // Each member packs its part of the weights.
  void pack(const Team& team) const {
    for (size_t l = 0; l < net_.ops.size(); ++l) {
      const OpPlan& op = net_.ops[l];
      if (!op.is_dense() || packed_in_blocks<T>(op, block_rows_)) continue;
      if (packs_forward(op))
        DenseOp::pack(team, table_, bfloat16_, op, params_, ws_.ops[l].packed);
      if (args_.backward && gradient_of(op.input, 0, 0)) {
        DenseOp::pack_transposed(team, table_, bfloat16_, op, params_,
                                 ws_.ops[l].packed_transposed);
      }
    }
  }

  // Forward and backward of a chunk's rows, segment by segment.
  void rows_by_segments(const Team& team, Index first, Index n) {
    const size_t cuts = by_batch_ ? net_.batch_ops.size() : 0;
    const auto begin = [&](size_t i) {
      return i == 0 ? size_t{0} : static_cast<size_t>(net_.batch_ops[i - 1]);
    };
    const auto end = [&](size_t i) {
      return i < cuts ? begin(i + 1) : net_.ops.size();
    };
    for (size_t i = 0; i < cuts && args_.forward; ++i) {
      each_tile(team, n, [&](Index r, Index m) {
        forward_tile(team, first, r, m, begin(i), end(i));
      });
      team.barrier();
      const int b = net_.batch_ops[i];
      visit(op(b).kind, [&](auto kind) {
        kind.batch_statistics(table_, team, op(b), memory(b).statistics,
                              value_of(op(b).input, first, 0), n);
      });
      team.barrier();
    }
    each_tile(team, n, [&](Index r, Index m) {
      if (args_.forward) {
        forward_tile(team, first, r, m, begin(cuts), end(cuts));
        if (args_.y) copy_output(first, r, m);
      }
      if (!args_.backward) return;
      head_tile(first, r, m);
      backward_tile(team, first, r, m, begin(cuts), end(cuts));
    });
    if (!args_.backward) return;
    for (size_t i = cuts; i-- > 0;) {
      const int b = net_.batch_ops[i];
      team.barrier();
      if (wanted(op(b))) {
        visit(op(b).kind, [&](auto kind) {
          kind.batch_gradients(table_, team, op(b), memory(b), args_.grads, n);
        });
      }
      team.barrier();
      each_tile(team, n, [&](Index r, Index m) {
        if (wanted(op(b))) {
          const BackwardArgs<T> args = backward_args(team, b, first, r, m);
          visit(op(b).kind, [&](auto kind) { kind.backward_to_input(args, op(b)); });
        }
        backward_tile(team, first, r, m, begin(i), end(i));
      });
    }
  }

  // Calls body(r, m) for this member's part of the n rows of a chunk: m rows from r on.
  template <class Body>
  void each_tile(const Team& team, Index n, Body body) {
    const Index tile = tile_rows<T>(net_);
    const Range mine = team.share(n, table_.mr);
    for (Index r = mine.begin; r < mine.end && !stop_requested(); r += tile) {
      const Index m = std::min(tile, mine.end - r);
      body(r, m);
    }
  }

  void copy_output(Index first, Index r, Index m) const {
    const T* const y = ws_.ops.back().h + r * net_.n_out;
    std::copy_n(y, m * net_.n_out, args_.y + (first + r) * net_.n_out);
  }

  // Runs forward through ops begin .. end for m rows from r on.
  void forward_tile(const Team& team, Index first, Index r, Index m, size_t begin,
                    size_t end) {
    if (args_.order && begin == 0 && !args_.sparse) {
      gather_rows(ws_.x + r * net_.n_in, args_.x, args_.order + first + r, m,
                  net_.n_in);
    }
    ForwardArgs<T> args = {table_, params_, r, m};
    args.block_rows = block_rows_;
    args.scratch = ws_.scratch(team.rank());
    args.draw = args_.training ? &args_.draw : nullptr;
    args.first_row = first;
    args.bfloat16 = bfloat16_;
    for (size_t l = begin; l < end; ++l) {
      const OpPlan& op = net_.ops[l];
      const OpMemory<T>& memory = ws_.ops[l];
      const Index at = r * op.n_out;
      args.x = value_of(op.input, first, r);
      args.sparse = sparse_of(op, first + r);
      if (op.other != kNone) args.other = value_of(op.other, first, r);
      args.h = memory.h + at;
      args.z = memory.z + at;
      args.kept = memory.kept ? memory.kept + r * op.n_kept : nullptr;
      args.statistics = memory.statistics;
      args.packed = op.is_dense() && packs_forward(op) ? memory.packed : nullptr;
      visit(op.kind, [&](auto kind) { kind.forward(args, op); });
    }
  }

  // Sets the gradient of the last op's output: that of the loss, or the given dy.
  void head_tile(Index first, Index r, Index m) {
    const Index n = net_.n_out;
    const Index at = first + r;
    T* d = ws_.ops.back().dz + r * n;
    if (!args_.loss) {
      std::copy_n(args_.dy + at * n, m * n, d);
      return;
    }
    const T* target = nullptr;
    const int64_t* labels = nullptr;
    if (args_.targets.labels) {
      labels = args_.targets.labels + at;
      if (args_.order) {
        gather_rows(ws_.labels + r, args_.targets.labels, args_.order + at, m, 1);
        labels = ws_.labels + r;
      }
    }
    if (args_.targets.values) {
      const Index width = target_width(*args_.loss, n);
      target = args_.targets.values + at * width;
      if (args_.order) {
        T* const gathered = ws_.target + r * width;
        gather_rows(gathered, args_.targets.values, args_.order + at, m, width);
        target = gathered;
      }
    }
    loss_rows<T>(*args_.loss, d, ws_.row_loss + at, ws_.ops.back().h + r * n, target,
                 labels, ws_.row_scale + at, m, n);
  }

  BackwardArgs<T> backward_args(const Team& team, int index, Index first, Index r,
                                Index m) const {
    const OpPlan& op = this->op(index);
    const OpMemory<T>& memory = this->memory(index);
    const Index at = r * op.n_out;
    BackwardArgs<T> args = {table_,
                            params_,
                            r,
                            m,
                            value_of(op.input, first, r),
                            memory.h + at,
                            memory.z + at,
                            memory.kept ? memory.kept + r * op.n_kept : nullptr,
                            memory.statistics,
                            memory.dz + at};
    args.dx = gradient_of(op.input, first, r);
    if (op.other != kNone) args.d_other = gradient_of(op.other, first, r);
    args.packed_transposed = memory.packed_transposed;
    args.block_rows = block_rows_;
    args.scratch = ws_.scratch(team.rank());
    args.training = args_.training;
    args.whole_batch = by_batch_;
    args.bfloat16 = bfloat16_;
    return args;
  }

  // Runs backward through ops end .. begin, from the last to the first: computes the
  // gradients of each op's inputs from the gradient of its output.
  void backward_tile(const Team& team, Index first, Index r, Index m, size_t begin,
                     size_t end) {
    for (size_t l = end; l-- > begin;) {
      const OpPlan& op = net_.ops[l];
      if (!wanted(op)) continue;
      const BackwardArgs<T> args =
          backward_args(team, static_cast<int>(l), first, r, m);
      visit(op.kind, [&](auto kind) { kind.backward(args, op); });
    }
  }

  // For ops that do not take the statistics of the batch.
  void use_running_statistics(const std::vector<int>& some) {
    for (const int i : some) {
      visit(op(i).kind, [&](auto kind) {
        kind.use_running_statistics_in_pass(op(i), args_.buffers, memory(i).statistics);
      });
    }
  }

  // An optimiser adds the decay itself, in its pass over the parameters, unless the
  // gradient becomes part of a mean.
  bool decays_in_gradient() const {
    return !args_.optimizer || args_.optimizer->accumulates();
  }
  // The penalty is minimised even if an optimiser maximises.
  double signed_decay() const {
    return args_.optimizer && args_.optimizer->config().maximize ? -decay_ : decay_;
  }

  // Adds this chunk's gradients of all parameters to those of earlier chunks. Each
  // member owns a part of each parameter array and runs over all rows in order.
  void weight_gradients(const Team& team, Index first, Index n) {
    const bool last = first + n == args_.rows;
    bool finite = true;
    for (size_t l = 0; l < net_.ops.size(); ++l) {
      const OpPlan& op = net_.ops[l];
      if (!op.trains()) continue;
      const bool decays = last && (decays_in_gradient() || op.is_parametrized());
      const WeightGradientArgs<T> args = {table_,
                                          team,
                                          params_,
                                          args_.grads,
                                          n,
                                          first > 0,
                                          value_of(op.input, first, 0),
                                          ws_.ops[l].dz,
                                          ws_.ops[l].kept,
                                          block_rows_,
                                          ws_.scratch(team.rank()),
                                          by_batch_,
                                          decays ? signed_decay() : 0.0,
                                          sparse_of(op, first),
                                          bfloat16_};
      const bool mine_finite =
          visit(op.kind, [&](auto kind) { return kind.weight_gradients(args, op); });
      finite = finite && mine_finite;
    }
    if (!finite) note_not_finite();
  }

  const NetworkPlan& net_;
  const T* given_;             // parameters
  const T* params_ = nullptr;  // as ops read them
  Workspace<T>& ws_;
  const PassArgs<T>& args_;
  const KernelTable<T>& table_;
  const Bfloat16Kernels* bfloat16_ = nullptr;  // null: full operands
  TeamPlan plan_;
  Index chunk_;
  Index block_rows_;                // rows that a member processes at a time
  bool by_batch_;                   // whether ops use the statistics of the batch
  std::atomic<bool> finite_{true};  // whether all gradients so far are finite
  double normalizer_ = 1.0;
  double decay_ = 0.0;
};

}  // namespace fastmlp::detail
