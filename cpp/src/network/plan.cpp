#include "network/plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "network/arena.h"

namespace fastmlp::detail {
namespace {

constexpr Index kLargest = std::numeric_limits<Index>::max() / 64;

// a + b * c for sizes. Throws if no array could hold so many elements.
Index checked_add_product(Index a, Index b, Index c) {
  if (b > 0 && c > (kLargest - a) / b) {
    throw std::invalid_argument("the network is too large: it would need an array of " +
                                std::to_string(b) + " x " + std::to_string(c) +
                                " elements");
  }
  return a + b * c;
}

}  // namespace

NetworkPlan::NetworkPlan(Index inputs, Operands products)
    : n_in(inputs), n_out(inputs), widest(inputs), operands(products) {
  if (inputs < 1)
    throw std::invalid_argument("the input width must be at least 1, got " +
                                std::to_string(inputs));
  values_per_row = checked_add_product(0, 1, inputs);
}

Index NetworkPlan::add_params(Index rows, Index columns) {
  const Index offset = n_params;
  n_params = checked_add_product(n_params, rows, columns);
  return offset;
}

Index NetworkPlan::add_buffers(Index n) {
  const Index offset = n_buffers;
  n_buffers = checked_add_product(n_buffers, 1, n);
  return offset;
}

Index NetworkPlan::joined_width(Index a, Index b) {
  return checked_add_product(a, 1, b);
}

Index NetworkPlan::product_width(Index a, Index b) {
  return checked_add_product(0, a, b);
}

int NetworkPlan::push(OpPlan op) {
  constexpr double kElementwiseWork = 4;
  const double n = static_cast<double>(op.n_out);
  if (op.is_dense()) {
    const double size = static_cast<double>(op.n_in) * n;
    weights += size;
    work += size;
  } else {
    work += kElementwiseWork * n;
  }
  widest = std::max(widest, op.n_out);
  widest_output = std::max(widest_output, op.n_out);
  has_custom = has_custom || op.custom;
  ops.push_back(std::move(op));
  return static_cast<int>(ops.size()) - 1;
}

bool NetworkPlan::takes_sparse() const {
  return std::all_of(ops.begin(), ops.end(), [](const OpPlan& op) {
    return op.other != kInput && (op.input != kInput || op.is_dense());
  });
}

double NetworkPlan::sparse_work(double inputs) const {
  double saved = 0;
  for (const OpPlan& op : ops) {
    if (op.input != kInput) continue;
    saved += (static_cast<double>(op.n_in) - inputs) * static_cast<double>(op.n_out);
  }
  return work - saved;
}

void NetworkPlan::finish(int last) {
  n_out = width_of(last);
  for (const OpPlan& op : ops) {
    // h and dz, then z if the op has it, with n_out elements per row each; and `kept`.
    const Index arrays = 2 + op.saves_input();
    values_per_row = checked_add_product(values_per_row, arrays, op.n_out);
    values_per_row = checked_add_product(values_per_row, 1, op.n_kept);
  }
  plan_learning();
  plan_gradients();
  plan_inference();
}

void NetworkPlan::plan_learning() {
  for (OpPlan& op : ops) {
    op.learns = op.trains();
    for (const int from : {op.input, op.other}) {
      if (from >= 0 && ops[static_cast<size_t>(from)].learns) op.learns = true;
    }
  }
}

// Determines which op writes a gradient first in the backward pass, which ops add to
// it, and which may share its memory.
void NetworkPlan::plan_gradients() {
  const size_t n = ops.size();
  std::vector<int> uses(n + 1, 0);  // of an op's output; the network's input last
  const auto at = [&](int op) { return op == kInput ? n : static_cast<size_t>(op); };
  for (const OpPlan& op : ops) {
    for (const int from : {op.input, op.other}) {
      if (from != kNone) ++uses[at(from)];
    }
  }
  std::vector<int> written(n + 1, 0);
  for (size_t i = n; i-- > 0;) {
    OpPlan& op = ops[i];
    if (op.other != kNone) op.adds_other = written[at(op.other)]++ > 0;
    op.adds_input = written[at(op.input)]++ > 0;
    if (op.input < 0) continue;
    OpPlan& source = ops[at(op.input)];
    op.shares_input = op.works_in_place && uses[at(op.input)] == 1;
    // The last op that writes to the gradient of a relu's output also multiplies this
    // gradient by the derivative of the relu.
    if (op.is_dense() && source.activation == Activation::relu &&
        written[at(op.input)] == uses[at(op.input)]) {
      op.ends_relu = source.relu_ended = true;
    }
  }
}

// Assigns buffers to the outputs. A buffer is free again after the last op that reads
// it.
void NetworkPlan::plan_inference() {
  const size_t n = ops.size();
  std::vector<size_t> last_use(n, n);
  std::vector<int> owner(n);  // whose buffer holds an op's output; kInput: x itself
  const auto resolved = [&](int op) {
    return op == kInput ? kInput : owner[static_cast<size_t>(op)];
  };
  for (size_t i = 0; i < n; ++i) {
    const OpPlan& op = ops[i];
    owner[i] = op.is_identity_at_inference ? resolved(op.input) : static_cast<int>(i);
    for (const int from : {op.input, op.other}) {
      const int held = from == kNone ? kInput : resolved(from);
      if (held >= 0) last_use[static_cast<size_t>(held)] = i;
    }
  }
  output_op = owner[n - 1];
  if (output_op >= 0) last_use[static_cast<size_t>(output_op)] = n;
  SlotAllocator slots;
  for (size_t i = 0; i < n; ++i) {
    OpPlan& op = ops[i];
    if (op.is_identity_at_inference) {
      op.buffer = owner[i] < 0 ? kInput : ops[static_cast<size_t>(owner[i])].buffer;
      continue;
    }
    op.buffer = slots.take(op.n_out);
    for (size_t j = 0; j <= i; ++j) {
      if (owner[j] == static_cast<int>(j) && last_use[j] == i) {
        slots.release(ops[j].buffer);
      }
    }
  }
  n_inference_buffers = static_cast<int>(slots.sizes().size());
}

}  // namespace fastmlp::detail
