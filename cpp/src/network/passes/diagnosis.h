// The message that explains why the loss or gradient of a training step is not finite.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "network/passes/pass_args.h"
#include "network/passes/workspace.h"
#include "number_text.h"

namespace fastmlp::detail {

template <class T>
double norm_of(const T* x, Index n) {
  double sum = 0.0;
  for (Index i = 0; i < n; ++i) {
    sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return std::sqrt(sum);
}

// The largest magnitude. NaN is ignored.
template <class T>
double largest_ignoring_nan(const T* x, Index n) {
  double most = 0.0;
  for (Index i = 0; i < n; ++i) {
    const double size = std::fabs(static_cast<double>(x[i]));
    if (size > most) most = size;
  }
  return most;
}

template <class T>
Index first_nonfinite(const T* x, Index n) {
  for (Index i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return i;
  }
  return -1;
}

// Finds the explanation in the values of a pass. `all_rows`: whether the workspace
// holds the values of all rows rather than only those of the last chunk.
template <class T>
class Diagnosis {
 public:
  Diagnosis(const NetworkPlan& net, const T* params, const Workspace<T>& ws,
            const PassArgs<T>& args, bool all_rows)
      : net_(net), params_(params), ws_(ws), args_(args), all_rows_(all_rows) {}

  // Says which value of the step first became infinite or NaN, gives the learning rate
  // and other figures, and names the likely cause.
  std::string text() const {
    const Finding found = find_nonfinite();
    return found.what + "; learning rate " + in_short(args_.optimizer->config().lr) +
           ", gradient norm " + in_short(norm_of(args_.grads, net_.n_params)) +
           ". Likely cause: " + likely_cause(found);
  }

 private:
  enum class Place { input, target, parameters, output, given, gradient, loss };
  struct Finding {
    Place place;
    std::string what;
    size_t op = 0;  // the op concerned, for parameters, output and gradient
  };

  // The stored numbers of a row of the inputs.
  struct Row {
    const T* data;
    Index size;
  };
  Row input_row(Index row) const {
    const SparseRows<T>& sparse = args_.sparse;
    if (!sparse) return {args_.x + row * net_.n_in, net_.n_in};
    const int64_t begin = sparse.starts[row], end = sparse.starts[row + 1];
    return {sparse.values + begin, static_cast<Index>(end - begin)};
  }

  Finding find_nonfinite() const {
    for (Index r = 0; r < args_.rows; ++r) {
      const Index row = args_.order ? args_.order[r] : r;
      const Row x = input_row(row);
      if (first_nonfinite(x.data, x.size) >= 0) {
        return {Place::input,
                "x holds a value that is not finite in row " + std::to_string(row)};
      }
      const T* target = args_.targets.values;
      const Index width = args_.loss ? target_width(*args_.loss, net_.n_out) : 0;
      const bool missing = args_.loss && args_.loss->masked;
      for (Index j = 0; target && j < width; ++j) {
        const T value = target[row * width + j];
        if (std::isfinite(value) || (missing && std::isnan(value))) continue;
        return {Place::target,
                "y holds a value that is not finite in row " + std::to_string(row)};
      }
    }
    for (size_t l = 0; l < net_.ops.size(); ++l) {
      if (!finite_of_op(params_, l)) {
        return {Place::parameters,
                "the parameters of " + layer_of_op(l) + " are not finite", l};
      }
      if (all_rows_ &&
          first_nonfinite(ws_.ops[l].h, args_.rows * net_.ops[l].n_out) >= 0) {
        return {Place::output, "the output of " + layer_of_op(l) + " is not finite", l};
      }
    }
    if (args_.dy) {
      const Index at = first_nonfinite(args_.dy, args_.rows * net_.n_out);
      if (at >= 0) {
        return {Place::given, "the gradient of the loss is not finite in row " +
                                  std::to_string(at / net_.n_out)};
      }
    }
    // Backward runs from the last op to the first, so the last op with a gradient that
    // is not finite overflowed first.
    for (size_t l = net_.ops.size(); l-- > 0;) {
      if (!finite_of_op(args_.grads, l)) {
        return {Place::gradient, "the gradient of " + layer_of_op(l) + " is not finite",
                l};
      }
    }
    return {Place::loss, "the loss itself overflows, on outputs of " +
                             layer_of_op(net_.ops.size() - 1)};
  }

  // Data of this magnitude have evidently not been scaled.
  static constexpr double kUnscaled = 1e3;

  std::string likely_cause(const Finding& found) const {
    const bool trained = args_.optimizer->step_count() > 0;
    double x = 0.0, y = 0.0;
    for (Index r = 0; r < args_.rows; ++r) {
      const Index row = args_.order ? args_.order[r] : r;
      const Row inputs = input_row(row);
      x = std::max(x, largest_ignoring_nan(inputs.data, inputs.size));
      if (!args_.targets.values) continue;
      const Index width = args_.loss ? target_width(*args_.loss, net_.n_out) : 0;
      y = std::max(y, largest_ignoring_nan(args_.targets.values + row * width, width));
    }
    switch (found.place) {
      case Place::input:
      case Place::target:
        return "the data: remove or replace NaN and infinity";
      case Place::given:
        return "the loss: its gradient is not finite although the outputs are";
      case Place::parameters:
        return trained
                   ? "an update before this step went too far: lower the learning rate"
                   : "the parameters were not finite before training";
      default:
        break;
    }
    if (found.place == Place::output &&
        net_.ops[found.op].activation == Activation::exp) {
      return "exp overflows: scale the layer's input, or lower the learning rate";
    }
    if (x > kUnscaled) {
      return "the input is not scaled, its largest magnitude is " + in_short(x) +
             ": standardise it, or lower the learning rate";
    }
    if (found.place != Place::output && y > kUnscaled) {
      return "the targets are not scaled, their largest magnitude is " + in_short(y) +
             ": standardise them, or lower the learning rate";
    }
    if (trained) {
      return "the parameters have grown to " +
             in_short(largest_ignoring_nan(params_, net_.n_params)) +
             ": the learning rate is too large; lower it, warm it up, or clip "
             "gradients";
    }
    return "the parameters before the first step are too large, their largest "
           "magnitude "
           "is " +
           in_short(largest_ignoring_nan(params_, net_.n_params));
  }

  std::string layer_of_op(size_t l) const {
    const OpPlan& op = net_.ops[l];
    std::string kind = layer_kind_name(op.kind);
    std::replace(kind.begin(), kind.end(), '_', ' ');
    const std::string in = std::to_string(op.n_in), out = std::to_string(op.n_out);
    return "layer " + op.name + " (" + kind + " " +
           (op.is_dense() || op.n_in != op.n_out ? in + " -> " + out : out) + ")";
  }
  // Whether the part of `vector` that belongs to op l is finite. `vector` is laid out
  // like the parameters.
  bool finite_of_op(const T* vector, size_t l) const {
    const OpPlan& op = net_.ops[l];
    const auto finite = [&](Index offset, Index size) {
      return offset < 0 || first_nonfinite(vector + offset, size) < 0;
    };
    return finite(op.weight, op.weight_size) && finite(op.bias, op.n_out) &&
           finite(op.magnitude, op.n_out);
  }

  const NetworkPlan& net_;
  const T* params_;
  const Workspace<T>& ws_;
  const PassArgs<T>& args_;
  bool all_rows_;
};

}  // namespace fastmlp::detail
