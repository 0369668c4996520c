#include "network/derivatives/derivatives.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "network/ops/ops.h"
#include "threading/parallel.h"

namespace fastmlp::detail {
namespace {

enum class Mode {
  tangents,    // of the outputs along directions of the input
  cotangents,  // of the inputs, or parameters, from directions of the output
  second       // tangents of cotangents
};

template <class T>
struct Request {
  Mode mode;
  const T* x;
  Index rows;
  Index directions;  // for each row
  T* out;
  T* y = nullptr;
  const T* v = nullptr;        // tangents, second: the directions; null: unit vectors
  const T* weights = nullptr;  // second: of the outputs
  bool of_params = false;      // cotangents: parameters instead of inputs
  // cotangents: one direction, the gradient of this loss; else unit vectors.
  const Loss* loss = nullptr;
  const Targets<T>* targets = nullptr;
};

// Whether the activation is piecewise linear: its second derivative is zero.
bool is_piecewise_linear(const OpPlan& op) {
  return !op.custom && facts_of(op.activation).is_piecewise_linear;
}

bool has_activation(const OpPlan& layer) {
  return layer.custom || layer.activation != Activation::identity;
}

// Whether the derivative of the activation is a vector to multiply by.
bool has_derivative(const OpPlan& layer) {
  return has_activation(layer) && layer.activation != Activation::relu &&
         layer.activation != Activation::softmax;
}

bool is_norm(const OpPlan& layer) {
  return layer.kind == LayerKind::layer_norm || layer.kind == LayerKind::batch_norm;
}

template <class T>
class Derivation {
 public:
  Derivation(const NetworkView<T>& view, const Request<T>& request)
      : net_(view.net),
        params_(view.params),
        buffers_(view.buffers),
        rq_(request),
        table_(kernels<T>()),
        n_layers_(net_.ops.size()) {
    plan_seed();
    plan_relu_sparsity();
    plan_slots();
    plan_tiles();
  }

  void run(AlignedBuffer<T>& memory) {
    shared_.resize(n_layers_);
    members_.resize(static_cast<size_t>(team_.most));
    Index longest = 0;
    for (size_t l = 0; l < n_layers_; ++l) {
      if (gathered_[l]) longest = std::max({longest, layer(l).n_in, layer(l).n_out});
    }
    for (Member& member : members_) {
      member.list.resize(static_cast<size_t>(longest * tile_rows_));
      member.count.resize(static_cast<size_t>(tile_rows_));
      for (auto* list :
           {&member.h, &member.z, &member.slope, &member.hat, &member.rstd,
            &member.before, &member.tangent, &member.cotangent, &member.dot}) {
        list->assign(n_layers_, nullptr);
      }
      member.slots.assign(slot_width_.size(), nullptr);
      member.has_dot.assign(n_layers_, 0);
    }
    memory.reserve(carve(nullptr));
    carve(memory.data());
    run_team(team_, [&](const Team& team) {
      prepare(team);
      team.barrier();
      go(team, members_[static_cast<size_t>(team.rank())]);
    });
  }

 private:
  // Of all members: packed weights, and what inference makes of running statistics.
  struct Shared {
    T* packed = nullptr;
    T* packed_transposed = nullptr;
    T* statistics = nullptr;  // batch_norm
    T* factor = nullptr;      // batch_norm: rstd * scale
  };

  // One member's memory, for a tile of rows, per step.
  struct Member {
    // Values: h; what is before the activation, if it has a place of its own; the
    // derivative of the activation; normalised values and 1 / deviation.
    std::vector<T*> h, z, slope, hat, rstd;
    // First derivatives: tangents or cotangents, in memory that is used again.
    std::vector<T*> slots;
    // Second derivatives: tangents before and after the activation, the cotangent (one
    // for each row), its tangents and whether they are there or still 0.
    std::vector<T*> before, tangent, cotangent, dot;
    std::vector<char> has_dot;
    T* spread = nullptr;    // one number for each direction
    T* row = nullptr;       // a row's values: losses, scales
    T* identity = nullptr;  // tangents of the input, where they are needed as such
    T* product = nullptr;   // cotangent * act''
    T* scratch = nullptr;   // left operands
    std::vector<int32_t> list, count;  // which values of a relu are > 0, by row
  };

  // A group of rows, and which of their directions.
  struct Tile {
    Index row, rows;
    Index first, directions;
    Index all() const { return rows * directions; }
  };

  const OpPlan& layer(size_t l) const { return net_.ops[l]; }
  Index width(int step) const {
    return step == kInput ? net_.n_in : layer(static_cast<size_t>(step)).n_out;
  }
  bool wants_second() const { return rq_.mode == Mode::second; }
  bool back() const { return rq_.mode != Mode::tangents; }
  bool unit_tangents() const { return rq_.mode != Mode::cotangents && !rq_.v; }

  // Planning ------------------------------------------------------------------------

  // Where the directions are unit vectors, the first product of a dense layer with them
  // is its weights. Anything else needs the unit vectors themselves.
  void plan_seed() {
    const OpPlan& last = net_.ops.back();
    seeds_from_weights_ = rq_.mode == Mode::cotangents && !rq_.of_params && !rq_.loss &&
                          last.is_dense() && !has_activation(last);
    uses_.assign(n_layers_ + 1, 0);
    for (const OpPlan& step : net_.ops) {
      for (const int from : {step.input, step.other}) {
        if (from == kNone) continue;
        ++uses_[from == kInput ? n_layers_ : static_cast<size_t>(from)];
        if (from == kInput && !step.is_dense()) needs_identity_ = true;
      }
    }
    needs_identity_ = needs_identity_ && unit_tangents();
  }

  // Whether the cotangent of a step is wanted.
  bool wanted(int step) const {
    if (!rq_.of_params) return true;
    return step >= 0 && layer(static_cast<size_t>(step)).learns;
  }

  // Of what comes out of a relu about half is 0 for a row of values. The other half can
  // be picked out for a product, if there are enough directions to pay for that: then
  // relu's derivative need not be multiplied by. Only where nothing else takes what is
  // before it.
  void plan_relu_sparsity() {
    constexpr Index kPays = 4;
    gathered_.assign(n_layers_, 0);
    if (rq_.directions < kPays || wants_second() || rq_.of_params) return;
    for (size_t l = 0; l < n_layers_; ++l) {
      const OpPlan& step = layer(l);
      if (!step.is_dense() || step.n_out > std::numeric_limits<int32_t>::max())
        continue;
      if (rq_.mode == Mode::cotangents) {
        gathered_[l] = step.activation == Activation::relu;
      } else if (step.input >= 0) {
        const size_t from = static_cast<size_t>(step.input);
        gathered_[l] = layer(from).activation == Activation::relu && uses_[from] == 1;
      }
    }
  }

  // Whether a step's tangents are left as they are before its relu.
  bool derivative_is_deferred(size_t l) const {
    if (rq_.mode != Mode::tangents) return false;
    for (size_t to = l + 1; to < n_layers_; ++to) {
      if (layer(to).input == static_cast<int>(l) && gathered_[to]) return true;
    }
    return false;
  }

  // Memory for first derivatives: who holds which slot, from when to when.
  void plan_slots() {
    slot_.assign(n_layers_, -1);
    std::vector<char> taken;
    const auto take = [&](Index n) {
      size_t s = 0;
      while (s < taken.size() && taken[s]) ++s;
      if (s == taken.size()) {
        taken.push_back(0);
        slot_width_.push_back(0);
      }
      taken[s] = 1;
      slot_width_[s] = std::max(slot_width_[s], n);
      return static_cast<int>(s);
    };
    const auto free = [&](int s) { taken[static_cast<size_t>(s)] = 0; };
    if (rq_.mode == Mode::cotangents) {
      slot_[n_layers_ - 1] = seeds_from_weights_ ? -1 : take(net_.n_out);
      for (size_t l = n_layers_; l-- > 0;) {
        const OpPlan& step = layer(l);
        bool handed_on = false;
        for (const int to : {step.other, step.input}) {
          if (to < 0 || !wanted(to)) continue;
          int& slot = slot_[static_cast<size_t>(to)];
          if (slot >= 0) continue;
          // The only step that takes another's output, if it keeps its width, may turn
          // its own gradient into that of the other in place.
          handed_on = to == step.input && !step.is_dense() &&
                      uses_[static_cast<size_t>(to)] == 1;
          slot = handed_on ? slot_[l] : take(width(to));
        }
        if (!handed_on && slot_[l] >= 0) free(slot_[l]);
      }
    } else if (rq_.mode == Mode::tangents) {
      std::vector<int> left(uses_.begin(), uses_.end());
      for (size_t l = 0; l < n_layers_; ++l) {
        slot_[l] = take(layer(l).n_out);
        for (const int from : {layer(l).input, layer(l).other}) {
          if (from >= 0 && --left[static_cast<size_t>(from)] == 0) {
            free(slot_[static_cast<size_t>(from)]);
          }
        }
      }
    }
  }

  // Rows and directions taken at once: so that all stays in the second-level cache.
  void plan_tiles() {
    constexpr Index kBytes = 384 << 10;
    constexpr Index kMostRows = 192, kFewestDirections = 16;
    double operations = net_.work;
    Index for_row = 0, for_direction = 0;  // elements
    double for_each = 0;                   // operations for a direction
    for (const OpPlan& step : net_.ops) {
      for_row += 3 * step.n_out;
      if (wants_second()) for_direction += 3 * step.n_out;
      const double size = static_cast<double>(step.n_in) *
                          static_cast<double>(step.is_dense() ? step.n_out : 1);
      for_each += (wants_second() ? 2 : 1) * size;
    }
    for (const Index n : slot_width_) for_direction += n;
    if (needs_identity_) for_direction += net_.n_in;
    if (rq_.of_params) for_each += static_cast<double>(net_.n_params);
    const Index k = rq_.directions;
    operations += static_cast<double>(k) * for_each;
    const double flops = 2.0 * static_cast<double>(rq_.rows) * operations;

    const Index budget = kBytes / static_cast<Index>(sizeof(T));
    Index rows = budget / std::max<Index>(for_row + k * for_direction, 1);
    if (rows < 1 && for_direction > 0) {
      const Index fitting = std::max(kFewestDirections, budget / for_direction);
      chunks_ = std::max<Index>(1, k / fitting);
    }
    team_ = plan_team(flops, rq_.rows * std::max<Index>(1, k / kFewestDirections));
    // What comes from outside is called by one thread.
    if (net_.has_custom) team_ = {};
    if (rq_.rows < team_.most) {
      chunks_ = std::max(chunks_, std::min<Index>(team_.most, k / kFewestDirections));
    }
    tile_directions_ = (k + chunks_ - 1) / chunks_;
    chunks_ = (k + tile_directions_ - 1) / tile_directions_;
    if (chunks_ > 1) rows = 1;
    rows = std::min({std::max<Index>(rows, 1), kMostRows, rq_.rows});
    tile_rows_ = rows > table_.mr ? rows / table_.mr * table_.mr : rows;
    pack_values_ = rq_.rows >= table_.packing_pays;
    pack_tangents_ = rq_.mode != Mode::cotangents &&
                     rq_.rows * rq_.directions >= table_.packing_pays;
    // Products by list take packed weights only.
    for (const char gathered : gathered_) {
      pack_tangents_ = pack_tangents_ || gathered;
    }
  }

  // Hands out memory, first counting, then real.
  Index carve(T* base) {
    constexpr Index kLine = static_cast<Index>(kAlignment / sizeof(T));
    Index used = 0;
    const auto take = [&](Index size) {
      T* const at = base ? base + used : nullptr;
      used += (size + kLine - 1) / kLine * kLine;
      return at;
    };
    for (size_t l = 0; l < n_layers_; ++l) {
      const OpPlan& step = layer(l);
      Shared& shared = shared_[l];
      if (step.is_dense()) {
        if (pack_values_ || pack_tangents_) {
          shared.packed = take(packed_right_bound(step.n_in, step.n_out));
        }
        if (back()) {
          shared.packed_transposed = take(packed_right_bound(step.n_out, step.n_in));
        }
      } else if (step.kind == LayerKind::batch_norm) {
        shared.statistics = take(BatchNormOp::kInferenceStatistics * step.n_out);
        shared.factor = take(step.n_out);
      }
    }
    if (seeds_from_weights_) seed_ = take(net_.ops.back().n_in * net_.n_out);
    for (Member& member : members_) carve_member(member, take);
    return used;
  }

  template <class Take>
  void carve_member(Member& me, Take take) {
    const Index rows = tile_rows_, all = tile_rows_ * tile_directions_;
    Index widest = 0;
    for (size_t l = 0; l < n_layers_; ++l) {
      const OpPlan& step = layer(l);
      const Index n = step.n_out;
      widest = std::max(widest, n);
      if (step.is_identity_at_inference) continue;
      me.h[l] = take(rows * n);
      if (step.saves_input()) me.z[l] = take(rows * n);
      if (has_derivative(step)) me.slope[l] = take(rows * n);
      if (is_norm(step)) me.hat[l] = take(rows * n);
      if (step.kind == LayerKind::layer_norm) me.rstd[l] = take(rows);
    }
    if (wants_second()) {
      for (size_t l = 0; l < n_layers_; ++l) {
        const Index n = layer(l).n_out;
        me.cotangent[l] = take(rows * n);
        me.dot[l] = take(all * n);
        if (layer(l).is_identity_at_inference) continue;
        me.tangent[l] = take(all * n);
        me.before[l] = has_activation(layer(l)) ? take(all * n) : me.tangent[l];
      }
      me.product = take(rows * widest);
    }
    for (size_t s = 0; s < slot_width_.size(); ++s) {
      me.slots[s] = take(all * slot_width_[s]);
    }
    me.spread = take(tile_directions_);
    me.row = take(2 * rows);
    if (needs_identity_) me.identity = take(all * net_.n_in);
    me.scratch = take(dense_left_scratch_size(net_, std::max(rows, all)));
  }

  // The region ----------------------------------------------------------------------

  void prepare(const Team& team) {
    for (size_t l = 0; l < n_layers_; ++l) {
      const OpPlan& step = layer(l);
      const Shared& shared = shared_[l];
      if (step.is_dense()) {
        const Index k = step.n_in, n = step.n_out;
        const T* const w = params_ + step.weight;
        if (shared.packed) {
          const Range columns = team.share(n, table_.nr);
          table_.pack_right(shared.packed + columns.begin * k, k * table_.nr,
                            w + columns.begin, n, 1, k, columns.size());
        }
        if (shared.packed_transposed) {
          const Range columns = team.share(k, table_.nr);
          table_.pack_right(shared.packed_transposed + columns.begin * n, n * table_.nr,
                            w + columns.begin * n, 1, n, n, columns.size());
        }
      } else if (step.kind == LayerKind::batch_norm && team.rank() == 0) {
        const Index n = step.n_out;
        BatchNormOp::use_running_statistics(step, buffers_, shared.statistics);
        const T* const rstd = BatchNormOp::Statistics<T>(shared.statistics, n).rstd();
        for (Index j = 0; j < n; ++j) {
          shared.factor[j] =
              step.weight >= 0 ? rstd[j] * params_[step.weight + j] : rstd[j];
        }
      }
    }
    if (seeds_from_weights_ && team.rank() == 0) {
      const OpPlan& last = net_.ops.back();
      transpose(seed_, last.n_in, params_ + last.weight, last.n_out, last.n_in,
                last.n_out);
    }
  }

  void go(const Team& team, Member& me) {
    const Range mine = team.share(rq_.rows * chunks_);
    Index known = -1;  // the row whose values are there, if they are of one row
    for (Index u = mine.begin; u < mine.end;) {
      Tile tile;
      tile.row = u / chunks_;
      tile.rows = chunks_ > 1 ? 1 : std::min(tile_rows_, mine.end - u);
      tile.first = u % chunks_ * tile_directions_;
      tile.directions = std::min(tile_directions_, rq_.directions - tile.first);
      if (chunks_ == 1 || tile.row != known) values(me, tile);
      known = tile.row;
      switch (rq_.mode) {
        case Mode::tangents:
          tangents(me, tile);
          break;
        case Mode::cotangents:
          cotangents(me, tile);
          break;
        case Mode::second:
          second(me, tile);
          break;
      }
      u += tile.rows;
    }
  }

  // Values --------------------------------------------------------------------------

  const T* value_of(const Member& me, const Tile& tile, int step) const {
    if (step == kInput) return rq_.x + tile.row * net_.n_in;
    const OpPlan& of = layer(static_cast<size_t>(step));
    return of.is_identity_at_inference ? value_of(me, tile, of.input)
                                       : me.h[static_cast<size_t>(step)];
  }

  // What an activation's derivative is a function of.
  const T* saved_of(const Member& me, const Tile& tile, size_t l) const {
    if (!activation_saves_input(layer(l).activation)) return me.h[l];
    return me.z[l] ? me.z[l] : value_of(me, tile, layer(l).input);
  }

  void values(Member& me, const Tile& tile) const {
    const Index m = tile.rows;
    for (size_t l = 0; l < n_layers_; ++l) {
      const OpPlan& step = layer(l);
      if (step.is_identity_at_inference) continue;
      const Index n = step.n_out;
      ForwardArgs<T> args = {table_, params_, 0, m};
      args.x = value_of(me, tile, step.input);
      if (step.other != kNone) args.other = value_of(me, tile, step.other);
      args.h = me.h[l];
      args.z = me.z[l] ? me.z[l] : me.h[l];
      args.kept = me.hat[l];
      args.statistics = step.statistics >= 0 ? shared_[l].statistics : me.rstd[l];
      args.packed = pack_values_ ? shared_[l].packed : nullptr;
      args.scratch.left = me.scratch;
      visit(step.kind, [&](auto kind) { kind.forward(args, step); });
      if (step.custom) {
        custom_derivative(step, me.slope[l], args.x, m * n);
        continue;
      }
      if (me.slope[l]) {
        std::fill_n(me.slope[l], m * n, T(1));
        table_.activation_backward(step.activation, me.slope[l], n, me.slope[l], n,
                                   saved_of(me, tile, l), n, m, n);
      }
    }
    if (rq_.y && tile.first == 0) {
      std::copy_n(value_of(me, tile, static_cast<int>(n_layers_) - 1), m * net_.n_out,
                  rq_.y + tile.row * net_.n_out);
    }
  }

  // out = in times the derivative of a step's activation, for groups of rows; out may
  // be in. in_step: rows that groups of `in` are apart, 0: all take the same ones.
  void times_derivative(const Member& me, size_t l, T* out, const T* in, Index in_step,
                        const Tile& tile) const {
    const OpPlan& step = layer(l);
    const Index n = step.n_out, k = tile.directions;
    if (step.activation == Activation::softmax) {
      for (Index i = 0; i < tile.rows; ++i) {
        table_.activation_backward(step.activation, out + i * k * n, n,
                                   in + i * in_step * n, n, me.h[l] + i * n, 0, k, n);
      }
    } else if (has_activation(step)) {
      const bool masks = !me.slope[l];
      table_.scale_groups(out, in, in_step, masks ? me.h[l] : me.slope[l], masks,
                          tile.rows, k, n);
    } else if (out != in) {
      table_.scale_groups(out, in, in_step, nullptr, false, tile.rows, k, n);
    }
  }

  // The projection of a layer_norm's derivative, which is its own transpose but for the
  // scale: out (+)= rstd * (g - mean(g) - hat * mean(g * hat)), g = in * scale.
  void layer_norm_rows(const Member& me, size_t l, T* out, const T* in, const T* scale,
                       bool accumulate, const Tile& tile) const {
    const Index n = layer(l).n_out, k = tile.directions;
    for (Index i = 0; i < tile.rows; ++i) {
      std::fill_n(me.spread, k, me.rstd[l][i]);
      table_.layer_norm_backward(out + i * k * n, n, in + i * k * n, n,
                                 me.hat[l] + i * n, 0, me.spread, scale, accumulate, k,
                                 n);
    }
  }

  void multiply(MatrixView<T> c, const T* a, Index k, const T* packed, const T* plain,
                bool accumulate, const Member& me) const {
    const RightOperand<T> right = packed ? packed_right<T>(table_, packed, k)
                                         : plain_right<T>(table_, plain, c.cols);
    gemm_blocked<T>(table_, c, {a, k, 1}, right, k, nullptr, accumulate, me.scratch);
  }

  // The same with weights `packed`, taking only what a step's relu lets through.
  void multiply_gathered(Member& me, const Tile& tile, size_t relu, T* c, Index n,
                         const T* a, const T* packed, bool accumulate) const {
    const Index k = layer(relu).n_out;
    for (Index i = 0; i < tile.rows; ++i) {
      const T* const h = me.h[relu] + i * k;
      int32_t* const list = me.list.data() + i * k;
      int32_t found = 0;
      for (Index p = 0; p < k; ++p) {
        list[found] = static_cast<int32_t>(p);
        found += h[p] > 0;
      }
      me.count[static_cast<size_t>(i)] = found;
    }
    table_.gemm_gather_k(c, a, packed_right<T>(table_, packed, k), me.list.data(), k,
                         me.count.data(), tile.rows, tile.directions, n, k, accumulate);
  }

  // out (+)= in W^T for `rows` rows.
  void times_weights_transposed(const Member& me, size_t l, T* out, const T* in,
                                Index rows, bool accumulate) const {
    const OpPlan& step = layer(l);
    multiply({out, rows, step.n_in, step.n_in}, in, step.n_out,
             shared_[l].packed_transposed, nullptr, accumulate, me);
  }

  // Tangents ------------------------------------------------------------------------

  // Of a step's output; null: unit vectors that are nowhere.
  const T* tangent_of(const Member& me, const Tile& tile, int step) const {
    if (step == kInput) {
      return rq_.v ? rq_.v + tile.row * rq_.directions * net_.n_in : me.identity;
    }
    const size_t l = static_cast<size_t>(step);
    if (!wants_second()) return me.slots[static_cast<size_t>(slot_[l])];
    return layer(l).is_identity_at_inference ? tangent_of(me, tile, layer(l).input)
                                             : me.tangent[l];
  }

  void fill_identity(Member& me, const Tile& tile) const {
    const Index n = net_.n_in;
    std::fill_n(me.identity, tile.all() * n, T(0));
    for (Index r = 0; r < tile.all(); ++r) {
      me.identity[r * n + tile.first + r % tile.directions] = T(1);
    }
  }

  // `before` and `after` the activation; they may be the same.
  void tangents_of_step(Member& me, const Tile& tile, size_t l, T* before,
                        T* after) const {
    const OpPlan& step = layer(l);
    const Index n = step.n_out, all = tile.all();
    const T* const from = tangent_of(me, tile, step.input);
    switch (step.kind) {
      case LayerKind::dense: {
        const T* const w = params_ + step.weight;
        if (gathered_[l]) {
          multiply_gathered(me, tile, static_cast<size_t>(step.input), before, n, from,
                            shared_[l].packed, false);
          break;
        }
        if (step.input == kInput && unit_tangents()) {
          const T* const rows = w + tile.first * n;
          if (derivative_is_deferred(l)) {
            table_.scale_groups(after, rows, 0, nullptr, false, tile.rows,
                                tile.directions, n);
            return;
          }
          if (before != after) {
            table_.scale_groups(before, rows, 0, nullptr, false, tile.rows,
                                tile.directions, n);
          }
          return times_derivative(me, l, after, rows, 0, tile);
        }
        multiply({before, all, n, n}, from, step.n_in,
                 pack_tangents_ ? shared_[l].packed : nullptr, w, false, me);
        break;
      }
      case LayerKind::layer_norm:
        layer_norm_rows(me, l, before, from, nullptr, false, tile);
        if (step.weight >= 0) {
          table_.scale_groups(before, before, all, params_ + step.weight, false, 1, all,
                              n);
        }
        break;
      case LayerKind::batch_norm:
        table_.scale_groups(before, from, all, shared_[l].factor, false, 1, all, n);
        break;
      case LayerKind::add:
        table_.add(before, from, tangent_of(me, tile, step.other), all * n);
        break;
      case LayerKind::activation:
      case LayerKind::dropout:
        std::copy_n(from, all * n, before);
    }
    if (!derivative_is_deferred(l))
      times_derivative(me, l, after, before, tile.directions, tile);
  }

  void tangents(Member& me, const Tile& tile) const {
    if (needs_identity_) fill_identity(me, tile);
    for (size_t l = 0; l < n_layers_; ++l) {
      T* const t = me.slots[static_cast<size_t>(slot_[l])];
      tangents_of_step(me, tile, l, t, t);
    }
    const T* const t = me.slots[static_cast<size_t>(slot_.back())];
    const Index n = net_.n_out, k = tile.directions;
    T* const out = rq_.out + tile.row * n * rq_.directions + tile.first;
    if (rq_.directions == 1) {
      std::copy_n(t, tile.rows * n, out);
      return;
    }
    for (Index i = 0; i < tile.rows; ++i) {
      transpose(out + i * n * rq_.directions, rq_.directions, t + i * k * n, n, k, n);
    }
  }

  // Cotangents ----------------------------------------------------------------------

  T* cotangent_of(const Member& me, const Tile& tile, int step) const {
    if (step == kInput) {
      return rq_.out + (tile.row * rq_.directions + tile.first) * net_.n_in;
    }
    const int slot = slot_[static_cast<size_t>(step)];
    return slot < 0 ? nullptr : me.slots[static_cast<size_t>(slot)];
  }

  void fill_seeds(Member& me, const Tile& tile, T* c) const {
    const Index n = net_.n_out;
    if (!rq_.loss) {
      std::fill_n(c, tile.all() * n, T(0));
      for (Index r = 0; r < tile.all(); ++r) {
        c[r * n + tile.first + r % tile.directions] = T(1);
      }
      return;
    }
    const Targets<T> targets =
        rq_.targets->from_row(tile.row, target_width(*rq_.loss, n));
    T* const losses = me.row;
    T* const scales = me.row + tile_rows_;
    // What a row by itself without a weight is divided by.
    const double divisor = loss_normalizer<T>(*rq_.loss, {}, nullptr, 1, n);
    fill_row_scale<T>(scales, targets.weights, nullptr, divisor, tile.rows);
    const T* const y = value_of(me, tile, static_cast<int>(n_layers_) - 1);
    loss_rows<T>(*rq_.loss, c, losses, y, targets.values, targets.labels, scales,
                 tile.rows, n);
  }

  void cotangents(Member& me, const Tile& tile) const {
    const Index all = tile.all();
    size_t top = n_layers_;
    size_t sloped = n_layers_;  // the step whose activation is done with already
    if (seeds_from_weights_) {
      // The last layer's weights are the cotangents of its input, which nothing else
      // takes: that step's activation can be applied on the way.
      const OpPlan& last = net_.ops.back();
      const T* const rows = seed_ + tile.first * last.n_in;
      T* const to = cotangent_of(me, tile, last.input);
      --top;
      if (last.input == kInput) {
        table_.scale_groups(to, rows, 0, nullptr, false, tile.rows, tile.directions,
                            last.n_in);
      } else {
        sloped = static_cast<size_t>(last.input);
        if (gathered_[sloped]) {
          table_.scale_groups(to, rows, 0, nullptr, false, tile.rows, tile.directions,
                              last.n_in);
        } else {
          times_derivative(me, sloped, to, rows, 0, tile);
        }
      }
    } else {
      fill_seeds(me, tile, cotangent_of(me, tile, static_cast<int>(n_layers_) - 1));
    }
    for (size_t l = top; l-- > 0;) {
      T* const c = cotangent_of(me, tile, static_cast<int>(l));
      if (!c) continue;  // nothing before it learns
      const OpPlan& step = layer(l);
      if (l != sloped && !gathered_[l])
        times_derivative(me, l, c, c, tile.directions, tile);
      if (rq_.of_params) param_gradients(me, tile, l, c);
      if (step.other != kNone && wanted(step.other)) {
        accumulate_gradient(cotangent_of(me, tile, step.other), c, all * step.n_out,
                            step.adds_other);
      }
      if (!wanted(step.input)) continue;
      T* const to = cotangent_of(me, tile, step.input);
      if (gathered_[l]) {
        multiply_gathered(me, tile, l, to, step.n_in, c, shared_[l].packed_transposed,
                          step.adds_input);
      } else if (step.is_dense()) {
        times_weights_transposed(me, l, to, c, all, step.adds_input);
      } else if (step.kind == LayerKind::layer_norm) {
        layer_norm_rows(me, l, to, c, parameters(params_, step.weight), step.adds_input,
                        tile);
      } else if (step.kind == LayerKind::batch_norm) {
        times_columns(to, c, shared_[l].factor, all, step.n_out, step.adds_input);
      } else {
        accumulate_gradient(to, c, all * step.n_out, step.adds_input);
      }
    }
  }

  void accumulate_gradient(T* to, const T* from, Index n, bool adds) const {
    if (to == from) return;
    if (adds) {
      table_.add(to, to, from, n);
    } else {
      std::copy_n(from, n, to);
    }
  }

  void times_columns(T* to, const T* from, const T* factor, Index rows, Index n,
                     bool adds) const {
    if (adds) {
      table_.add_scaled_groups(to, from, rows, factor, 1, rows, n);
    } else {
      table_.scale_groups(to, from, rows, factor, false, 1, rows, n);
    }
  }

  // c: d of a step's output before its activation.
  void param_gradients(const Member& me, const Tile& tile, size_t l, const T* c) const {
    const OpPlan& step = layer(l);
    if (step.weight < 0) return;
    const Index n = step.n_out, k = tile.directions, stride = net_.n_params;
    T* const out = rq_.out + (tile.row * rq_.directions + tile.first) * stride;
    if (step.is_dense()) {
      table_.outer_rows(out + step.weight, stride, value_of(me, tile, step.input),
                        step.n_in, c, tile.rows, k, step.n_in, n);
    } else {
      for (Index r = 0; r < tile.all(); ++r) {
        table_.multiply(out + r * stride + step.weight, c + r * n,
                        me.hat[l] + r / k * n, n);
      }
    }
    if (step.bias < 0) return;
    for (Index r = 0; r < tile.all(); ++r) {
      std::copy_n(c + r * n, n, out + r * stride + step.bias);
    }
  }

  // Second derivatives --------------------------------------------------------------

  void second(Member& me, const Tile& tile) const {
    const Index m = tile.rows, all = tile.all();
    if (needs_identity_) fill_identity(me, tile);
    for (size_t l = 0; l < n_layers_; ++l) {
      const OpPlan& step = layer(l);
      // Nobody takes the last one's, unless its activation is bent.
      const bool unused = l + 1 == n_layers_ && is_piecewise_linear(step);
      if (step.is_identity_at_inference || unused) continue;
      tangents_of_step(me, tile, l, me.before[l], me.tangent[l]);
    }
    for (Index i = 0; i < m; ++i) {
      std::copy_n(rq_.weights, net_.n_out, me.cotangent.back() + i * net_.n_out);
    }
    // Tangents of cotangents start as 0, and stay so as long as all is linear: what is
    // not there yet is neither stored nor multiplied.
    std::fill(me.has_dot.begin(), me.has_dot.end(), char(0));
    T* const out = rq_.out + (tile.row * rq_.directions + tile.first) * net_.n_in;
    bool has_out = false;
    for (size_t l = n_layers_; l-- > 0;) {
      const OpPlan& step = layer(l);
      const Index n = step.n_out;
      activation_second_order(me, tile, l);
      const T* const c = me.cotangent[l];
      const T* const dot = me.has_dot[l] ? me.dot[l] : nullptr;
      const auto place = [&](int to) {
        return to == kInput ? out : me.dot[static_cast<size_t>(to)];
      };
      // Whether there is something in a place; from now on there is.
      const auto adds_dot = [&](int to) {
        if (to == kInput) return std::exchange(has_out, true);
        return std::exchange(me.has_dot[static_cast<size_t>(to)], char(1)) != 0;
      };
      const auto cotangent = [&](int to) {
        return to < 0 ? nullptr : me.cotangent[static_cast<size_t>(to)];
      };
      if (step.other != kNone) {
        if (T* const co = cotangent(step.other)) {
          accumulate_gradient(co, c, m * n, step.adds_other);
        }
        if (dot)
          accumulate_gradient(place(step.other), dot, all * n, adds_dot(step.other));
      }
      T* const co = cotangent(step.input);
      T* const to = place(step.input);
      if (step.kind == LayerKind::layer_norm) {
        const T* const scale = parameters(params_, step.weight);
        table_.layer_norm_second(to, dot, c, tangent_of(me, tile, step.input),
                                 me.hat[l], me.rstd[l], scale, adds_dot(step.input), m,
                                 tile.directions, n);
        if (co) {
          table_.layer_norm_backward(co, n, c, n, me.hat[l], n, me.rstd[l], scale,
                                     step.adds_input, m, n);
        }
      } else if (step.is_dense()) {
        if (co) times_weights_transposed(me, l, co, c, m, step.adds_input);
        if (dot) {
          times_weights_transposed(me, l, to, dot, all, adds_dot(step.input));
        }
      } else if (step.kind == LayerKind::batch_norm) {
        const T* const factor = shared_[l].factor;
        if (co) times_columns(co, c, factor, m, n, step.adds_input);
        if (dot) times_columns(to, dot, factor, all, n, adds_dot(step.input));
      } else {
        if (co) accumulate_gradient(co, c, m * n, step.adds_input);
        if (dot) accumulate_gradient(to, dot, all * n, adds_dot(step.input));
      }
    }
    if (!has_out) std::fill_n(out, all * net_.n_in, T(0));
  }

  // A step's cotangent and its tangents, from after its activation to before it.
  void activation_second_order(Member& me, const Tile& tile, size_t l) const {
    const OpPlan& step = layer(l);
    if (!has_activation(step)) return;
    const Index n = step.n_out, m = tile.rows, k = tile.directions;
    T* const c = me.cotangent[l];
    T* const dot = me.dot[l];
    if (step.activation == Activation::softmax) {
      table_.softmax_second(dot, me.has_dot[l] ? dot : nullptr, c, me.tangent[l],
                            me.h[l], m, k, n);
    } else {
      if (me.has_dot[l]) times_derivative(me, l, dot, dot, k, tile);
      if (!is_piecewise_linear(step)) {
        table_.activation_second(step.activation, me.product, c, saved_of(me, tile, l),
                                 m * n);
        if (me.has_dot[l]) {
          table_.add_scaled_groups(dot, me.before[l], k, me.product, m, k, n);
        } else {
          table_.scale_groups(dot, me.before[l], k, me.product, false, m, k, n);
        }
      }
    }
    me.has_dot[l] = me.has_dot[l] || !is_piecewise_linear(step);
    table_.activation_backward(step.activation, c, n, c, n, saved_of(me, tile, l), n, m,
                               n);
  }

  const NetworkPlan& net_;
  const T* params_;
  const T* buffers_;
  const Request<T> rq_;
  const KernelTable<T>& table_;
  const size_t n_layers_;
  TeamPlan team_;
  std::vector<int> uses_;       // of a step's output; of the network's input last
  std::vector<char> gathered_;  // dense steps that take rows of weights by list
  bool seeds_from_weights_ = false;
  bool needs_identity_ = false;
  bool pack_values_ = false, pack_tangents_ = false;
  std::vector<int> slot_;          // of each step; -1: none
  std::vector<Index> slot_width_;  // elements for a row and direction
  Index tile_rows_ = 1, tile_directions_ = 1;
  Index chunks_ = 1;  // of the directions of a row; more than one: rows one by one
  std::vector<Shared> shared_;
  std::vector<Member> members_;
  T* seed_ = nullptr;  // the last layer's weights, transposed
};

template <class T>
void derive(const NetworkView<T>& view, const Request<T>& request,
            AlignedBuffer<T>& memory) {
  Derivation<T>(view, request).run(memory);
}

void refuse_custom(const NetworkPlan& net, const char* what) {
  if (!net.has_custom) return;
  throw std::invalid_argument(std::string(what) +
                              ": an activation given as functions has no second "
                              "derivative");
}

}  // namespace

template <class T>
void jacobian(const NetworkView<T>& view, T* j, const T* x, Index rows,
              AlignedBuffer<T>& memory) {
  const NetworkPlan& net = view.net;
  // Multiply-adds for each direction and way; products with unit vectors cost none.
  double forward = 0, back = 0;
  for (const OpPlan& layer : net.ops) {
    if (!layer.is_dense()) continue;
    const double size =
        static_cast<double>(layer.n_in) * static_cast<double>(layer.n_out);
    if (layer.input != kInput) forward += size;
    if (&layer != &net.ops.back() || has_activation(layer)) back += size;
  }
  const bool is_forward =
      static_cast<double>(net.n_in) * forward < static_cast<double>(net.n_out) * back;
  Request<T> rq = {is_forward ? Mode::tangents : Mode::cotangents, x, rows,
                   is_forward ? net.n_in : net.n_out, j};
  derive(view, rq, memory);
}

template <class T>
void jvp(const NetworkView<T>& view, T* y, T* dy, const T* x, const T* v, Index rows,
         AlignedBuffer<T>& memory) {
  Request<T> rq = {Mode::tangents, x, rows, 1, dy, y, v};
  derive(view, rq, memory);
}

template <class T>
void param_jacobian(const NetworkView<T>& view, T* j, T* y, const T* x, Index rows,
                    AlignedBuffer<T>& memory) {
  Request<T> rq = {Mode::cotangents, x, rows, view.net.n_out, j, y};
  rq.of_params = true;
  derive(view, rq, memory);
}

template <class T>
void per_sample_grads(const NetworkView<T>& view, T* grads, const T* x,
                      const Targets<T>& targets, const Loss& loss, Index rows,
                      AlignedBuffer<T>& memory) {
  check_targets(loss, targets, rows, view.net.n_out);
  Request<T> rq = {Mode::cotangents, x, rows, 1, grads};
  rq.of_params = true;
  rq.loss = &loss;
  rq.targets = &targets;
  derive(view, rq, memory);
}

template <class T>
void hvp(const NetworkView<T>& view, T* hv, const T* x, const T* v, const T* weights,
         Index rows, AlignedBuffer<T>& memory) {
  refuse_custom(view.net, "hvp");
  Request<T> rq = {Mode::second, x, rows, 1, hv, nullptr, v, weights};
  derive(view, rq, memory);
}

template <class T>
void hessian(const NetworkView<T>& view, T* h, const T* x, const T* weights, Index rows,
             AlignedBuffer<T>& memory) {
  refuse_custom(view.net, "hessian");
  Request<T> rq = {Mode::second, x, rows, view.net.n_in, h, nullptr, nullptr, weights};
  derive(view, rq, memory);
}

#define FASTMLP_INSTANTIATE(T)                                                      \
  template void jacobian(const NetworkView<T>&, T*, const T*, Index,                \
                         AlignedBuffer<T>&);                                        \
  template void jvp(const NetworkView<T>&, T*, T*, const T*, const T*, Index,       \
                    AlignedBuffer<T>&);                                             \
  template void param_jacobian(const NetworkView<T>&, T*, T*, const T*, Index,      \
                               AlignedBuffer<T>&);                                  \
  template void per_sample_grads(const NetworkView<T>&, T*, const T*,               \
                                 const Targets<T>&, const Loss&, Index,             \
                                 AlignedBuffer<T>&);                                \
  template void hvp(const NetworkView<T>&, T*, const T*, const T*, const T*, Index, \
                    AlignedBuffer<T>&);                                             \
  template void hessian(const NetworkView<T>&, T*, const T*, const T*, Index,       \
                        AlignedBuffer<T>&);
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

}  // namespace fastmlp::detail
