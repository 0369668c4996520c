// Inference: the outputs of rows, or their losses.
#pragma once

#include <algorithm>
#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/loss.h"
#include "fastmlp/sparse.h"
#include "network/ops/ops.h"
#include "network/passes/tile_rows.h"
#include "threading/parallel.h"
#include "threading/stop.h"

namespace fastmlp::detail {

// Writes y unless it is null, and row_loss if there is a loss.
template <class T>
struct InferenceArgs {
  const T* x;  // null with sparse rows
  Index rows;
  SparseRows<T> sparse = {};  // in place of x
  T* y = nullptr;
  const Loss* loss = nullptr;
  const Targets<T>* targets = nullptr;
  T* row_loss = nullptr;
};

// Memory for one call at a time, which grows as needed.
template <class T>
struct InferenceMemory {
  AlignedBuffer<T> buffer;
  std::vector<T*> packed;  // into the buffer, by op
};

template <class T>
class Inference {
 public:
  Inference(const NetworkView<T>& network, const InferenceArgs<T>& args,
            HelperPolicy* helper)
      : net_(network.net),
        params_(network.params),
        buffers_(network.buffers),
        args_(args),
        table_(kernels<T>()),
        bfloat16_(net_.operands == Operands::bfloat16 ? &active_bfloat16_kernels()
                                                      : nullptr) {
    // With few rows, reading a weight takes longer than computing with it: as long as
    // about this many operations.
    constexpr double kFewestFlops = 6.0;
    const double flops = std::max(2.0, kFewestFlops / static_cast<double>(args.rows)) *
                         work_of_rows(net_, args.rows, args.sparse);
    few_ = args.rows < 2 * table_.mr;
    plan_ = plan_team(flops,
                      few_ ? (net_.widest + table_.nr - 1) / table_.nr
                           : (args.rows + table_.mr - 1) / table_.mr,
                      helper);
    // Custom activations may throw, so they must be called by a single thread: no
    // parallel plan.
    if (net_.has_custom) plan_ = {};
    tile_ = std::min(args.rows, tile_rows<T>(net_));
    values_ = tile_ * net_.widest_output;
  }

  void run(InferenceMemory<T>& memory) {
    const Index packed_size = this->packed_size();
    const Index scratch_size = few_ ? 0 : dense_left_scratch_size<T>(net_, tile_);
    const Index per_member =
        net_.n_inference_buffers * values_ + tile_ + net_.n_buffers + scratch_size;
    const Index size = packed_size + plan_.most * per_member;
    memory.buffer.reserve(size + EffectiveParams<T>::memory_size(net_));
    T* const base = memory.buffer.data();
    place_packed(memory.packed, base);
    const EffectiveParams<T> effective(net_, params_, buffers_, base + size);
    params_ = effective.data();
    run_team(plan_, [&](const Team& team) {
      effective.compute(team);
      if (packed_size > 0) {
        for (size_t l = 0; l < net_.ops.size(); ++l) {
          if (!memory.packed[l]) continue;
          DenseOp::pack(team, table_, bfloat16_, net_.ops[l], params_,
                        memory.packed[l]);
        }
        team.barrier();
      }
      const bool by_columns = few_ && team.size() > 1;
      Member me;
      me.buffers = base + packed_size + (by_columns ? 0 : team.rank() * per_member);
      me.row_scale = me.buffers + net_.n_inference_buffers * values_;
      me.statistics = me.row_scale + tile_;
      me.scratch = few_ ? nullptr : me.statistics + net_.n_buffers;
      me.packed = memory.packed.data();
      if (!by_columns || team.rank() == 0) use_running_statistics(me);
      if (by_columns) {
        infer_by_columns(team, me);
      } else {
        infer_by_rows(team, me);
      }
    });
  }

 private:
  // A team member's memory.
  struct Member {
    T* buffers;        // outputs of ops: n_inference_buffers of values_ elements
    T* row_scale;      // of the loss
    T* statistics;     // of ops, at their offsets in the running statistics
    T* scratch;        // left operands
    T* const* packed;  // weights or null, shared by all members
  };

  // Whether all members use a packed copy of an op's weights. Products of columns are
  // too few for that.
  bool packs(const OpPlan& op) const {
    return op.is_dense() && !is_sparse(op) && !(few_ && plan_.most > 1) &&
           DenseOp::packing_pays(table_, bfloat16_, op, args_.rows);
  }

  bool is_sparse(const OpPlan& op) const { return args_.sparse && op.input == kInput; }

  Index packed_size() const {
    Index size = 0;
    for (const OpPlan& op : net_.ops) {
      if (packs(op)) size += DenseOp::packed_size(table_, bfloat16_, op);
    }
    return size;
  }

  void place_packed(std::vector<T*>& packed, T* at) const {
    packed.resize(net_.ops.size());
    for (size_t l = 0; l < packed.size(); ++l) {
      const OpPlan& op = net_.ops[l];
      packed[l] = nullptr;
      if (!packs(op)) continue;
      packed[l] = at;
      at += DenseOp::packed_size(table_, bfloat16_, op);
    }
  }

  void use_running_statistics(const Member& me) const {
    for (const auto* const some : {&net_.batch_ops, &net_.fixed_ops}) {
      for (const int i : *some) {
        const OpPlan& op = net_.ops[static_cast<size_t>(i)];
        visit(op.kind, [&](auto kind) {
          kind.use_running_statistics(op, buffers_, me.statistics + op.statistics);
        });
      }
    }
  }

  // Pointer to the output of op l, from row r on, for writing.
  T* output_of(const Member& me, size_t l, Index r) const {
    if (static_cast<int>(l) == net_.output_op && args_.y) {
      return args_.y + r * net_.n_out;
    }
    return me.buffers + net_.ops[l].buffer * values_;
  }

  // Pointer to the output of an op, or to the network's input, from row r on.
  const T* value_of(const Member& me, int index, Index r) const {
    while (index != kInput &&
           net_.ops[static_cast<size_t>(index)].is_identity_at_inference) {
      index = net_.ops[static_cast<size_t>(index)].input;
    }
    if (index == kInput) return args_.x ? args_.x + r * net_.n_in : nullptr;
    return output_of(me, static_cast<size_t>(index), r);
  }

  // Calls f(op, args) for each op that is not the identity at inference, for m rows
  // from r on.
  template <class F>
  void each_op(const Member& me, Index r, Index m, F f) const {
    ForwardArgs<T> args = {table_, params_, 0, m};
    args.scratch.left = me.scratch;
    args.bfloat16 = bfloat16_;
    for (size_t l = 0; l < net_.ops.size(); ++l) {
      const OpPlan& op = net_.ops[l];
      if (op.is_identity_at_inference) continue;
      args.x = value_of(me, op.input, r);
      args.sparse = is_sparse(op) ? args_.sparse.from(r) : SparseRows<T>{};
      if (op.other != kNone) args.other = value_of(me, op.other, r);
      args.h = args.z = output_of(me, l, r);
      args.statistics = op.statistics >= 0 ? me.statistics + op.statistics : nullptr;
      args.packed = me.packed[l];
      f(op, args);
    }
  }

  void infer_by_rows(const Team& team, const Member& me) const {
    const Range rows = team.share(args_.rows, table_.mr);
    for (Index r = rows.begin; r < rows.end && !stop_requested(); r += tile_) {
      const Index m = std::min(tile_, rows.end - r);
      each_op(me, r, m, [](const OpPlan& op, const ForwardArgs<T>& args) {
        visit(op.kind, [&](auto kind) { kind.forward(args, op); });
      });
      finish_tile(me, r, m);
    }
  }

  // All rows at once. Each member computes its columns of every dense op's output; the
  // first one alone computes the other ops.
  void infer_by_columns(const Team& team, const Member& me) const {
    each_op(me, 0, args_.rows, [&](const OpPlan& op, const ForwardArgs<T>& args) {
      if (op.is_dense()) {
        DenseOp::forward_columns(args, op, team);
      } else if (team.rank() == 0) {
        visit(op.kind, [&](auto kind) { kind.forward(args, op); });
      }
      team.barrier();
    });
    if (team.rank() == 0) finish_tile(me, 0, args_.rows);
  }

  void finish_tile(const Member& me, Index r, Index m) const {
    const int last = static_cast<int>(net_.ops.size()) - 1;
    const T* const y = value_of(me, last, r);
    if (args_.y && net_.output_op == kInput) {
      std::copy_n(y, m * net_.n_out, args_.y + r * net_.n_out);
    }
    if (!args_.loss) return;
    std::fill_n(me.row_scale, m, T(1));
    const Targets<T> t =
        args_.targets->from_row(r, target_width(*args_.loss, net_.n_out));
    loss_rows<T>(*args_.loss, nullptr, args_.row_loss + r, y, t.values, t.labels,
                 me.row_scale, m, net_.n_out);
  }

  const NetworkPlan& net_;
  const T* params_;
  const T* buffers_;
  const InferenceArgs<T>& args_;
  const KernelTable<T>& table_;
  const Bfloat16Kernels* bfloat16_;  // null: full operands
  TeamPlan plan_;
  bool few_;      // few rows: each member computes some of the columns
  Index tile_;    // rows taken through all ops together
  Index values_;  // elements of an op's output for a tile, at most
};

}  // namespace fastmlp::detail
