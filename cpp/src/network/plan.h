// The plan of a network: its ops in the order of computation, and everything that
// depends on their shapes alone.
//
// A plan consists of ops; the user's network consists of layers. A residual block
// becomes the ops of its body, a dense op if it has a projection, and an add op. The
// outputs of branches are joined in pairs, by one concat op less than branches. An
// activation becomes part of the op before it, if that op has no activation yet.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "fastmlp/kernel_table.h"
#include "fastmlp/layer_spec.h"

namespace fastmlp::detail {

// Special values of OpPlan::input and OpPlan::other, which otherwise hold the index of
// an op: the network's input, and no input.
constexpr int kInput = -1;
constexpr int kNone = -2;

struct OpPlan {
  LayerKind kind;
  Index n_in, n_out;
  ActivationSpec activation = Activation::identity;  // applied last
  Index weight = -1;  // offset into the parameters, -1: none; a normalisation's scale
  Index weight_size = 0;               // elements
  Operands operands = Operands::full;  // of its products
  Index bias = -1;  // offset, -1: none; n_out elements; a normalisation's shift
  // If the weight is computed (see effective_params.h): how, the offset of n_out
  // magnitudes, and the offset of the memory for it. The values at `weight` are then
  // those that stand for the weight.
  Parametrization parametrization = Parametrization::none;
  Index magnitude = -1;
  Index derived = -1;
  int input = kInput;
  int other = kNone;  // the second input, if there is one
  double rate = 0, eps = 0, momentum = 0;
  Index groups = 1;                            // of a row, normalised separately
  double slope = 0;                            // initial value of prelu's slopes
  ActivationSpec gate = Activation::identity;  // of the second half of glu's input
  std::vector<Index> columns = {};  // of the input, that the op takes or looks up
  std::vector<Index> sizes = {};    // numbers of categories of an embedding's columns
  Index statistics = -1;            // offset into the running statistics, -1: none
  bool inverse = false;             // standardise turns standard values back
  bool is_random = false;           // whether it draws random numbers in training
  uint32_t stream = 0;              // its number among the random ops
  std::shared_ptr<const CustomActivation> custom = nullptr;
  std::string name = {};  // of its layer: "2", "3.body.0", "3.projection"
  // Frozen parameters: training leaves them unchanged, and gradients with respect to
  // them are 0.
  bool weight_frozen = false, bias_frozen = false, magnitude_frozen = false;

  // Properties of the op's kind, set by the plan() of that kind.
  Index n_kept = 0;  // further values that training keeps per row
  bool is_identity_at_inference = false;
  bool works_in_place = false;  // its backward may overwrite dz with dx
  bool moves_columns = false;   // output j does not come from input j alone

  // Properties that depend on the other ops, set by NetworkPlan::finish.
  bool learns = false;      // it or an op before it has parameters that are not frozen
  bool adds_input = false;  // backward adds to the gradient of `input`, else writes it
  bool adds_other = false;  // the same for `other`
  bool shares_input = false;  // its dz and the gradient of `input` share their memory
  bool ends_relu = false;     // its product applies the derivative of `input`'s relu
  bool relu_ended = false;    // the next op applies this op's relu derivative
  int buffer = 0;             // of its output at inference; kInput: no buffer

  bool is_dense() const { return kind == LayerKind::dense; }
  // Whether row j of its output, or of derivatives, may overwrite row j of its input.
  bool works_elementwise() const {
    return !is_dense() && !moves_columns && n_in == n_out;
  }
  bool is_parametrized() const { return parametrization != Parametrization::none; }
  // Whether training needs the gradient of the weight.
  bool trains_weight() const {
    return (weight >= 0 && !weight_frozen) || (magnitude >= 0 && !magnitude_frozen);
  }
  bool trains_bias() const { return bias >= 0 && !bias_frozen; }
  bool trains() const { return trains_weight() || trains_bias(); }
  // Whether the values before the activation are kept in separate memory. An op that is
  // only an activation reads them from the output of the op before it.
  bool saves_input() const {
    return activation_saves_input(activation.kind) && kind != LayerKind::activation;
  }
};

// A column of the network's input that holds the number of a category, from 0 on.
struct Category {
  Index column, size;
};

struct NetworkPlan {
  std::vector<OpPlan> ops;
  std::vector<Category> categories;
  Index n_in, n_out;
  Index n_params = 0, n_buffers = 0;
  bool has_spectral_norm = false;
  Index n_derived = 0;       // elements of memory for computing weights
  Index widest;              // of all inputs and outputs
  Index widest_output = 1;   // of all ops
  double weights = 0;        // elements of all weight matrices
  double work = 0;           // multiply-adds of a forward pass per row
  Index values_per_row = 0;  // elements that training keeps per row
  int n_inference_buffers = 0;
  int output_op = kInput;  // the op whose output at inference is the network's
  bool has_custom = false;
  Operands operands = Operands::full;  // of the products in training and inference
  uint32_t n_random = 0;               // random ops
  // Indices of ops, ascending: those that in training depend on the whole batch, and
  // those whose statistics training leaves unchanged.
  std::vector<int> batch_ops, fixed_ops;

  // A plan without ops, which ops/plan_network.h fills.
  NetworkPlan(Index inputs, Operands products);

  Index width_of(int op) const {
    return op == kInput ? n_in : ops[static_cast<size_t>(op)].n_out;
  }

  // Whether the network's input goes to dense ops alone, which can take sparse rows.
  bool takes_sparse() const;
  // Multiply-adds of a forward pass per row if that many inputs of a row are not 0.
  double sparse_work(double inputs) const;

  // The following throw std::invalid_argument for sizes that overflow.

  // Adds rows x columns parameters, or n running statistics, and returns the offset of
  // the first one.
  Index add_params(Index rows, Index columns);
  Index add_buffers(Index n);
  // The width of two arrays side by side.
  static Index joined_width(Index a, Index b);
  // The width of an array with b elements for each of a.
  static Index product_width(Index a, Index b);
  // Appends an op and returns its index.
  int push(OpPlan op);
  // Sets the properties that depend on all ops together. The network's output is the
  // output of op `last`.
  void finish(int last);
  // Sets OpPlan::learns of all ops. To be called after parameters were frozen.
  void plan_learning();

  // Calls f(begin, end, op, frozen, is_weight) for each array of parameters, in the
  // order of the ops.
  template <class F>
  void each_array(F f) const {
    for (const OpPlan& op : ops) {
      if (op.weight >= 0) {
        f(op.weight, op.weight + op.weight_size, op, op.weight_frozen, true);
      }
      if (op.bias >= 0) f(op.bias, op.bias + op.n_out, op, op.bias_frozen, false);
      if (op.magnitude >= 0) {
        f(op.magnitude, op.magnitude + op.n_out, op, op.magnitude_frozen, false);
      }
    }
  }
  // Sets the frozen elements of a gradient (n_params) to 0.
  template <class T>
  void clear_frozen(T* grads) const {
    each_array([&](Index begin, Index end, const OpPlan&, bool frozen, bool) {
      if (frozen) std::fill(grads + begin, grads + end, T(0));
    });
  }

 private:
  void plan_gradients();
  void plan_inference();
};

// A read-only view of a network. The caller holds the network's lock.
template <class T>
struct NetworkView {
  const NetworkPlan& net;
  const T* params;
  const T* buffers;  // running statistics; null if there are none
};

}  // namespace fastmlp::detail
