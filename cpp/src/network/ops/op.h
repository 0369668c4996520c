// The common parts of all kinds of ops. A kind of op is a struct of static functions:
//
//   plan              turns the layer's specification into an OpPlan: checks, widths,
//                     parameters, running statistics, random streams
//   take_memory       takes the memory that training keeps for the op
//   initialize        sets initial parameters
//   forward           computes rows of its output; the same function in training, at
//                     inference and for derivatives
//   backward          computes the gradient of its input from that of its output
//   weight_gradients  computes its parameters' gradients from all rows of a chunk
//   tangent           propagates directions from its input to its output
//   cotangent         propagates directions from its output to its input
//   row_gradients     computes its parameters' gradients for each row separately
//   second            computes the tangents of the cotangent; only ops that are not
//                     linear have it
//
// The last four are for derivatives of each row separately, at inference, and leave out
// the activation, which their caller applies.
//
// In training some ops depend on the whole batch (NetworkPlan::batch_ops). For such an
// op, a pass calls batch_statistics before its forward. Its backward does not compute
// dx; the pass calls batch_gradients and backward_to_input afterwards. At inference
// such an op uses running statistics.
//
// Rows are contiguous throughout.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fastmlp/bfloat16_kernels.h"
#include "fastmlp/kernel_table.h"
#include "fastmlp/layer_spec.h"
#include "fastmlp/random.h"
#include "network/arena.h"
#include "network/plan.h"
#include "network/products.h"
#include "number_text.h"
#include "threading/parallel.h"

namespace fastmlp::detail {

// An op's memory in training, for all rows of a chunk.
template <class T>
struct OpMemory {
  T* h = nullptr;   // its output
  T* z = nullptr;   // before the activation; the same as h unless backward needs both
  T* dz = nullptr;  // the gradient of h, then that of z
  // OpPlan::n_kept further values per row that backward needs, such as a mask or
  // normalised values.
  T* kept = nullptr;
  T* statistics = nullptr;  // of rows or columns, laid out by the op
  T* packed = nullptr;      // packed weights and their packed transpose
  T* packed_transposed = nullptr;
};

// Rows of an op's forward pass: `rows` of them, starting at row `row` of its memory.
// All pointers except `statistics` point to the data of that first row.
template <class T>
struct ForwardArgs {
  const KernelTable<T>& table;
  const T* params;
  Index row, rows;
  const T* x = nullptr;        // (rows, n_in)
  SparseRows<T> sparse = {};   // in place of x, for a dense op at the input
  const T* other = nullptr;    // (rows, n_in), if there is a second input
  T* h = nullptr;              // out (rows, n_out)
  T* z = nullptr;              // out: values before the activation; may be h
  T* kept = nullptr;           // out (see OpMemory); null: not needed
  T* statistics = nullptr;     // see OpMemory; those of rows may be null: not needed
  const T* packed = nullptr;   // packed weights; null: use the unpacked ones
  Index block_rows = 0;        // number of rows that use a block of packed weights
  Scratch<T> scratch = {};     // for products; `left` may be null
  const Draw* draw = nullptr;  // random numbers; null outside training
  Index first_row = 0;         // index in the batch of row 0 of the memory
  // The kernels of products with operands in bfloat16; null: full operands.
  const Bfloat16Kernels* bfloat16 = nullptr;
};

// Rows of an op's backward pass, given as in ForwardArgs. On entry dz is the gradient
// of h.
template <class T>
struct BackwardArgs {
  const KernelTable<T>& table;
  const T* params;
  Index row, rows;
  const T* x;  // (rows, n_in)
  const T* h;  // (rows, n_out)
  const T* z;  // before the activation, if the op saves it
  T* kept;
  T* statistics;
  T* dz;                 // in; out: the gradient of z
  T* dx = nullptr;       // out or added to; null: not needed
  T* d_other = nullptr;  // the same for the second input
  const T* packed_transposed = nullptr;
  Index block_rows = 0;
  Scratch<T> scratch = {};
  bool training = false;     // false: as at inference
  bool whole_batch = false;  // use the statistics of the batch in ops that have them
  const Bfloat16Kernels* bfloat16 = nullptr;  // see ForwardArgs
};

// Arguments for computing the gradients of an op's parameters from `rows` rows of a
// chunk. Each member of the team writes its own part of `grads`.
template <class T>
struct WeightGradientArgs {
  const KernelTable<T>& table;
  const Team& team;
  const T* params;
  T* grads;
  Index rows;
  bool accumulate;  // add to the values in `grads`
  const T* x;       // (rows, n_in)
  const T* dz;      // (rows, n_out)
  const T* kept;
  Index block_rows;
  Scratch<T> scratch;
  bool whole_batch;                 // see BackwardArgs
  double decay;                     // add decay * W to weight matrices
  SparseRows<T> sparse;             // in place of x, for a dense op at the input
  const Bfloat16Kernels* bfloat16;  // see ForwardArgs
};

// Derivatives of `rows` rows of values along `directions` directions each. Matrices of
// tangents or cotangents have all() rows: first all directions of the first row of
// values, then those of the second, and so on.
template <class T>
struct DirectionArgs {
  const KernelTable<T>& table;
  const T* params;
  Index rows, directions;
  const T* kept;        // the values that forward kept, see take_row_memory
  const T* statistics;  // the statistics that forward used
  const T* packed;      // packed weights; null: use the unpacked ones
  const T* packed_transposed;
  T* scratch;  // left operands
  Index all() const { return rows * directions; }
};

// Arguments for the step from dz, the cotangent of an op's output before its
// activation, to the cotangents of its inputs, which are overwritten or added to.
template <class T>
struct CotangentArgs {
  const T* dz;
  T* dx;  // null: not needed; may be dz if op.works_elementwise()
  bool adds_input;
  T* d_other = nullptr;  // null: not needed
  bool adds_other = false;
};

template <class T>
const T* parameters(const T* params, Index offset) {
  return offset >= 0 ? params + offset : nullptr;
}

// An activation whose constants suit its formula; throws std::invalid_argument for
// others.
inline const ActivationSpec& checked(const ActivationSpec& activation) {
  const ActivationFacts& facts = facts_of(activation.kind);
  for (int i = 0; i < kActivationConstants && facts.constants[i].name; ++i) {
    const double value = activation.constants[i];
    if (value >= facts.constants[i].least && value <= kMostConstant) continue;
    throw std::invalid_argument(std::string(facts.constants[i].name) +
                                " of an activation must be from " +
                                in_full(facts.constants[i].least) + " to " +
                                in_full(kMostConstant) + ", got " + in_full(value));
  }
  if (activation == Activation::hardtanh &&
      !(static_cast<float>(activation.constants[0]) <
        static_cast<float>(activation.constants[1]))) {
    throw std::invalid_argument("min_val of hardtanh must be less than max_val, " +
                                in_full(activation.constants[1]) + ", got " +
                                in_full(activation.constants[0]));
  }
  return activation;
}

// Draws an op's weights from a uniform distribution with mean 0 and this variance.
// `index`: the op's index in its network.
template <class T>
void draw_weights(const OpPlan& op, size_t index, T* params, uint64_t seed,
                  double variance) {
  const double bound = std::sqrt(3 * variance);
  T* const w = params + op.weight;
  for (Index i = 0; i < op.weight_size; ++i) {
    const uint64_t bits =
        random_bits(seed, Stream::initialize, static_cast<uint32_t>(index),
                    static_cast<uint64_t>(i));
    // Map 53 bits exactly to [0, 1), then to [-bound, bound).
    const double unit = static_cast<double>(bits >> 11) * 0x1p-53;
    w[i] = static_cast<T>((2 * unit - 1) * bound);
  }
}

// The end of forward: h = act(z).
template <class T>
void activate(const ForwardArgs<T>& a, const OpPlan& op) {
  if (op.activation == Activation::identity) return;
  a.table.activation_forward(op.activation, a.h, op.n_out, a.z, op.n_out, a.rows,
                             op.n_out);
}

// The beginning of backward: dz holds the gradient of the output h, and is overwritten
// with the gradient of z. `z`: the values before the activation.
template <class T>
void activation_backward(const BackwardArgs<T>& a, const OpPlan& op, const T* z) {
  if (op.activation == Activation::identity || op.relu_ended) return;
  const Index n = op.n_out;
  const T* const saved = activation_saves_input(op.activation.kind) ? z : a.h;
  a.table.activation_backward(op.activation, a.dz, n, a.dz, n, saved, n, a.rows, n);
}

// to = d, or to += d if `adds`. Does nothing if `to` is null or is d itself.
template <class T>
void accumulate_gradient(const KernelTable<T>& table, T* to, const T* d, Index size,
                         bool adds) {
  if (!to || to == d) return;
  if (adds) {
    table.add(to, to, d, size);
  } else {
    std::copy_n(d, size, to);
  }
}

// to = rows of d times a factor for each column, or to += this if `adds`. Does nothing
// if `to` is null.
template <class T>
void scale_columns(const KernelTable<T>& table, T* to, const T* d, const T* factors,
                   Index rows, Index n, bool adds = false) {
  if (!to) return;
  if (adds) {
    table.add_scaled_groups(to, d, rows, factors, 1, rows, n);
  } else {
    table.scale_groups(to, d, rows, factors, false, 1, rows, n);
  }
}

// Copies each row of dz, which is the gradient of the bias for that row, to the same
// row of `grads`.
template <class T>
void copy_bias_gradients(const OpPlan& op, T* grads, Index stride, const T* dz,
                         Index rows) {
  if (op.bias < 0) return;
  for (Index r = 0; r < rows; ++r) {
    std::copy_n(dz + r * op.n_out, op.n_out, grads + r * stride + op.bias);
  }
}

// The end of backward for an op whose dz is by now the gradient of its input: dx = dz,
// or dx += dz if op.adds_input. Does nothing if dx shares the memory of dz.
template <class T>
void pass_gradient_on(const BackwardArgs<T>& a, const OpPlan& op) {
  if (op.shares_input) return;
  accumulate_gradient(a.table, a.dx, a.dz, a.rows * op.n_out, op.adds_input);
}

// Defaults for the functions that an op does not define itself.
struct OpDefaults {
  // Throws std::invalid_argument if the rate of a random op is not valid.
  static void check_rate(double /*rate*/) {}

  // Initial running statistics.
  template <class T>
  static void initialize_buffers(const OpPlan&, T* /*buffers*/) {}

  // Converts an op's running statistics into the statistics that forward uses at
  // inference. `statistics` has as many elements as the op has running statistics.
  template <class T>
  static void use_running_statistics(const OpPlan&, const T* /*buffers*/,
                                     T* /*statistics*/) {}
  // Like use_running_statistics, for a pass that also goes backward. `statistics` is
  // OpMemory::statistics.
  template <class T>
  static void use_running_statistics_in_pass(const OpPlan&, const T* /*buffers*/,
                                             T* /*statistics*/) {}
  // Moves running statistics towards the statistics of a batch of `rows` rows.
  template <class T>
  static void update_running_statistics(const OpPlan&, T* /*buffers*/,
                                        T* /*statistics*/, Index /*rows*/) {}

  // Computes this member's columns of the statistics of all rows of x.
  template <class T>
  static void batch_statistics(const KernelTable<T>&, const Team&, const OpPlan&,
                               T* /*statistics*/, const T* /*x*/, Index /*rows*/) {}
  // Computes this member's columns of the parameters' gradients, and of the sums over
  // all rows that backward_to_input needs.
  template <class T>
  static void batch_gradients(const KernelTable<T>&, const Team&, const OpPlan&,
                              const OpMemory<T>&, T* /*grads*/, Index /*rows*/) {}
  template <class T>
  static void backward_to_input(const BackwardArgs<T>&, const OpPlan&) {}

  template <class T>
  static void take_memory(Arena<T>& arena, const OpPlan& op, Index rows,
                          OpMemory<T>& memory) {
    if (op.n_kept > 0) memory.kept = arena.take(rows * op.n_kept);
  }

  // `index`: the op's index in its network.
  template <class T>
  static void initialize(const OpPlan&, size_t /*index*/, T* /*params*/,
                         uint64_t /*seed*/) {}

  // Computes this member's part of the gradients and returns whether it is finite.
  template <class T>
  static bool weight_gradients(const WeightGradientArgs<T>&, const OpPlan&) {
    return true;
  }

  // Derivatives of each row. These defaults suit an op that is the identity apart from
  // its activation.

  // Whether the op without its activation is linear. If not, the op has a function
  //   second(a, op, c, dz, t):
  // which turns c.dz, the tangents of the cotangent dz (rows, n_out), into the tangents
  // of the cotangents of the op's inputs. If c.dz is null, the tangents of dz are
  // 0. `t` holds the tangents of the op's input.
  static constexpr bool is_linear = true;

  // Takes from the arena the memory that all members of the team share: for packed
  // weights if `packs`, for packed transposed weights if `packs_transposed`, and for
  // statistics.
  template <class T>
  static void take_shared_memory(Arena<T>&, const OpPlan&, bool /*packs*/,
                                 bool /*packs_transposed*/, OpMemory<T>&) {}
  // Fills this member's part of the shared memory.
  template <class T>
  static void prepare(const Team&, const KernelTable<T>&, const OpPlan&,
                      const NetworkView<T>&, const OpMemory<T>&) {}
  // Takes memory for the values that forward keeps for the derivatives of `rows` rows.
  template <class T>
  static void take_row_memory(Arena<T>&, const OpPlan&, Index /*rows*/, OpMemory<T>&) {}

  // out = J t for each of the all() rows of t; `other` holds the tangents of the second
  // input. If op.works_elementwise(), `out` may alias `t`.
  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    if (out != t) std::copy_n(t, a.all() * op.n_out, out);
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    accumulate_gradient(a.table, c.dx, c.dz, a.all() * op.n_out, c.adds_input);
  }

  // For each row of dz, writes the gradients of the op's parameters to the same row of
  // `grads`, at the op's offsets. Rows of `grads` are `stride` elements apart. x:
  // `rows` rows of the op's input.
  template <class T>
  static void row_gradients(const DirectionArgs<T>&, const OpPlan&, T* /*grads*/,
                            Index /*stride*/, const T* /*x*/, const T* /*dz*/) {}
};

// Appends the ops of a sequence of layers, whose input is the output of op `input`.
// Returns the op whose output is the output of the sequence. Names begin with `prefix`.
int plan_layers(NetworkPlan& net, const std::vector<LayerSpec>& specs, int input,
                const std::string& prefix);

}  // namespace fastmlp::detail
