// Losses over a batch. With Reduction::mean, the loss is the mean of the terms of all
// targets, weighted by the products of the weights of rows and outputs; a loss of rows
// has one term per row. With Reduction::sum, it is the sum of the terms times the
// weights. Targets that are missing do not count. Formulas: kernels/loss-inl.h.
#pragma once

#include <optional>
#include <type_traits>
#include <vector>

#include "fastmlp/types.h"

namespace fastmlp {

// One number for each output, stored as float and as double for the kernels of both
// types.
class PerOutput {
 public:
  PerOutput() = default;
  explicit PerOutput(std::vector<double> values);
  Index size() const { return static_cast<Index>(doubles_.size()); }
  const std::vector<double>& values() const { return doubles_; }
  // Null if there are no values.
  template <class T>
  const T* data() const {
    if (doubles_.empty()) return nullptr;
    if constexpr (std::is_same_v<T, float>) {
      return floats_.data();
    } else {
      return doubles_.data();
    }
  }

 private:
  std::vector<double> doubles_;
  std::vector<float> floats_;
};

struct Loss {
  LossKind kind = LossKind::mse;
  // The parameter of the loss: delta of huber and pseudo_huber, beta of smooth_l1, the
  // weight of y = 1 in binary_cross_entropy, q of quantile and expectile, gamma of
  // binary_focal and focal, the power of tweedie, the minimum variance of gaussian_nll,
  // the degrees of freedom of student_t_nll, the number of components of
  // mixture_density, the margin of hinge and multi_margin.
  double delta = 1.0;
  Reduction reduction = Reduction::mean;
  double smoothing = 0.0;  // cross_entropy: label smoothing
  // One number per output. For cross_entropy, focal and multi_margin these are class
  // weights, for ordinal weights of outputs; for binary_cross_entropy, quantile,
  // expectile and student_t_nll they are used in place of delta.
  PerOutput per_output = {};
  // For action values: the row's label is the action, and only the prediction for this
  // action is compared with the row's one target value.
  bool action = false;
  double scale = 1.0;  // multiplies the loss, and hence its gradient
  // Rows with this label have the weight 0.
  std::optional<int64_t> ignored = {};
  double second = 0.0;           // see LossArgs::second
  PerOutput output_weight = {};  // of each target of a row; empty: all 1
  bool masked = false;           // NaN marks a missing target
};

// The targets of a batch: rows of values, or class labels, or both if Loss::action is
// set, where the labels are the actions.
template <class T>
struct Targets {
  const T* values = nullptr;        // (rows, target_width), contiguous
  const int64_t* labels = nullptr;  // (rows,)
  const T* weights = nullptr;       // (rows,); null: all 1

  // The targets from row `first` on; `width` is the number of columns of `values`.
  Targets from_row(Index first, Index width) const {
    return {values ? values + first * width : nullptr,
            labels ? labels + first : nullptr, weights ? weights + first : nullptr};
  }
};

inline bool is_of_rows(const Loss& loss) {
  return facts_of(loss.kind).form == LossForm::row;
}

// Number of predictions that are compared with one target.
Index predictions_per_target(const Loss& loss);

// Number of columns of Targets::values if a row of predictions has n_out elements.
inline Index target_width(const Loss& loss, Index n_out) {
  return loss.action ? 1 : n_out / predictions_per_target(loss);
}

// Whether the targets may be class labels, and whether they must be.
inline bool takes_labels(LossKind kind) {
  return kind == LossKind::cross_entropy || facts_of(kind).allowed == Allowed::labels;
}
inline bool takes_only_labels(LossKind kind) {
  return facts_of(kind).allowed == Allowed::labels;
}

// Number of classes if a row of predictions has n_out elements.
inline Index class_count(LossKind kind, Index n_out) {
  return kind == LossKind::ordinal ? n_out + 1 : n_out;
}

// Throws std::invalid_argument unless the loss can be used with n_out predictions per
// row, its scale is finite and positive, its parameters are finite in T, and the
// targets hold the values and labels that the loss needs, with labels of classes that
// exist unless they are ignored.
template <class T>
void check_targets(const Loss& loss, const Targets<T>& targets, Index rows,
                   Index n_out);

Allowed allowed_targets(const Loss& loss);

// Throws std::invalid_argument if a value is not one that the loss allows. NaN passes.
template <class T>
void check_target_values(const Loss& loss, const Targets<T>& targets, Index rows,
                         Index n_out);

// The weight of a row in a mean: the sample's weight times the weight of its class in
// cross_entropy. If targets may be missing, this is multiplied by the sum of the
// weights of the row's targets that are there, or by 1 or 0 in a loss of rows.
template <class T>
double row_weight(const Loss& loss, const Targets<T>& targets, Index row, Index n_out);

// Whether the weights of rows may differ.
template <class T>
bool rows_are_weighted(const Loss& loss, const Targets<T>& targets);

// The weight of one target's term besides the sample's weight: that of its output, or 0
// if it is missing.
template <class T>
double target_weight(const Loss& loss, const Targets<T>& targets, Index row,
                     Index column, Index n_out);

// The divisor that turns sum(w l) over rows with sample weights w into the loss,
// including the factor Loss::scale; l is the sum of a row's terms. With Reduction::mean
// the divisor is 0 if all weights are 0. `order`, if given, selects the rows: row r is
// the targets' row order[r].
template <class T>
double loss_normalizer(const Loss& loss, const Targets<T>& targets,
                       const int64_t* order, Index rows, Index n_out);

// The sum of the sample weights (null: the number of rows), in double, in an order
// fixed by the number of rows. `order`, if given, selects the weights.
template <class T>
double sum_of_weights(const T* weights, const int64_t* order, Index rows);

// scale[r] = w_r / normalizer, or 0 if normalizer is 0: the factor of a row's gradient.
// `order`, if given, selects the weights: row r has weights[order[r]].
template <class T>
void fill_row_scale(T* scale, const T* weights, const int64_t* order, double normalizer,
                    Index rows);

// The same if each row counts as a batch of its own.
template <class T>
void fill_own_row_scale(T* scale, const Loss& loss, const Targets<T>& targets,
                        Index rows, Index n_out);

// sum(w l) over rows with sample weights w (null: all 1) and losses l, in double, in an
// order fixed by the number of rows. `order`, if given, selects the weights.
template <class T>
double weighted_sum(const T* row_loss, const T* weights, const int64_t* order,
                    Index rows);

// Calls KernelTable::loss_rows of the active ISA for pred (rows, n_out; ld = n_out).
template <class T>
void loss_rows(const Loss& loss, T* dpred, T* row_loss, const T* pred, const T* target,
               const int64_t* labels, const T* row_scale, Index rows, Index n_out);

// Returns the loss of pred (rows, n_out). Writes the gradient to dpred, which may be
// pred itself, or null if the gradient is not needed. Throws std::bad_alloc and
// whatever check_targets throws.
template <class T>
double loss_value_and_grad(const Loss& loss, T* dpred, const T* pred,
                           const Targets<T>& targets, Index rows, Index n_out);

}  // namespace fastmlp
