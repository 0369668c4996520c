// What a call for derivatives wants, and how its work is cut up.
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
  // cotangents: one direction, the gradient of this loss; null: unit vectors.
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

// What depends on the network and the request's sizes alone.
struct DerivativePlan {
  TeamPlan team;

  // Consumers of each op's output; of the network's input last.
  std::vector<int> uses;
  // Of dense ops: whether the product skips what a relu made 0. In tangents that is the
  // relu of the op's input, in cotangents its own.
  std::vector<char> gathers;
  // Whether an op's tangents are left as they are before its relu, because the op that
  // takes them gathers.
  std::vector<char> defers_relu;
  // Cotangents of unit vectors: those of the last op's input are its weights.
  bool seeds_from_weights = false;
  // Whether tangents of the input that are unit vectors are needed in memory. Otherwise
  // their product with a dense op's weights is those weights.
  bool needs_identity = false;

  // First derivatives live in slots: which one holds each op's (-1: none), and elements
  // of each slot for a row and direction.
  std::vector<int> slot;
  std::vector<Index> slot_width;

  // Rows and directions taken at once, and chunks of the directions of a row. With more
  // than one chunk a tile has one row.
  Index tile_rows = 1, tile_directions = 1, chunks = 1;
  bool packs_values = false, packs_tangents = false;
};

template <class T>
DerivativePlan plan_derivatives(const NetworkPlan& net, const Request<T>& request);

inline bool has_activation(const OpPlan& op) {
  return op.custom || op.activation != Activation::identity;
}

// Whether the derivative of the activation is a vector to multiply by.
inline bool has_slope(const OpPlan& op) {
  return has_activation(op) && op.activation != Activation::relu &&
         op.activation != Activation::softmax;
}

// Whether the activation's second derivative is zero.
inline bool is_piecewise_linear(const OpPlan& op) {
  return !op.custom && facts_of(op.activation).is_piecewise_linear;
}

}  // namespace fastmlp::detail
