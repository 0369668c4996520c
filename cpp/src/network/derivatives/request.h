// The request for derivatives, and the plan that divides its work into tiles.
#pragma once

#include <vector>

#include "fastmlp/loss.h"
#include "network/plan.h"
#include "threading/parallel.h"

namespace fastmlp::detail {

enum class Mode {
  tangents,    // of the outputs along directions of the input
  cotangents,  // of the inputs, or of parameters, from directions of the output
  second       // tangents of cotangents
};

template <class T>
struct Request {
  Mode mode;
  const T* x;
  Index rows;
  Index directions;  // for each row
  T* out;
  T* y = nullptr;              // outputs; null: not needed
  const T* v = nullptr;        // tangents, second: the directions; null: unit vectors
  const T* weights = nullptr;  // second: of the outputs
  bool of_params = false;      // cotangents: of parameters instead of inputs
  // Used only for cotangents. If set, each row has a single direction: the gradient of
  // this loss with respect to the row's output. If null,
  // the directions are unit vectors.
  const Loss* loss = nullptr;
  const Targets<T>* targets = nullptr;

  // Whether tangents start from unit vectors.
  bool has_unit_tangents() const { return mode != Mode::cotangents && !v; }
};

// A group of rows, and a range of their directions.
struct Tile {
  Index row, rows;
  Index first, directions;
  Index all() const { return rows * directions; }
};

// Decisions that depend only on the network and on the sizes in the request.
struct DerivativePlan {
  TeamPlan team;

  // For each op, how many ops read its output; the last element counts the readers of
  // the network's input.
  std::vector<int> uses;
  // For each dense op, whether its product skips elements that a relu has made 0: for
  // tangents the relu of the op before it, for cotangents its own relu.
  std::vector<char> gathers;
  // For each op, whether its tangents are not multiplied by the derivative of its relu,
  // because the product of the op that reads them skips the zeros.
  std::vector<char> defers_relu;
  // For cotangents of unit vectors: whether the cotangents of the last op's input are
  // simply the weights of that op.
  bool seeds_from_weights = false;
  // Whether unit vectors at the network's input have to be stored in memory. A dense op
  // does not need them, because their product with its weights is the weights.
  bool needs_identity = false;

  // First derivatives are stored in slots: `slot` holds each op's slot (-1: none),
  // `slot_width` the number of elements of each slot for one row and direction.
  std::vector<int> slot;
  std::vector<Index> slot_width;

  // Numbers of rows and directions in a tile, and the number of chunks into which a
  // row's directions are divided. With more than one chunk a tile has one row.
  Index tile_rows = 1, tile_directions = 1, chunks = 1;
  std::vector<char> packs_values, packs_tangents;  // of each op
};

template <class T>
DerivativePlan plan_derivatives(const NetworkPlan& net, const Request<T>& request);

inline bool has_activation(const OpPlan& op) {
  return op.custom || op.activation != Activation::identity;
}

// Whether the derivative of the activation is stored as a vector. The derivative of
// relu is applied as a mask instead, and the Jacobian of softmax is not diagonal.
inline bool has_slope(const OpPlan& op) {
  return has_activation(op) && op.activation != Activation::relu &&
         op.activation != Activation::softmax;
}

// Whether the activation's second derivative is zero.
inline bool is_piecewise_linear(const OpPlan& op) {
  return !op.custom && facts_of(op.activation.kind).is_piecewise_linear;
}

}  // namespace fastmlp::detail
