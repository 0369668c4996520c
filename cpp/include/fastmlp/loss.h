// Losses over a batch. A row's loss is the mean over its outputs (cross-entropy: the
// row's one value); "mean" is sum(w l) / sum(w) over rows, "sum" is the sum over all
// elements, weighted by w. Formulas: kernels/loss-inl.h.
#pragma once

#include <type_traits>
#include <vector>

#include "fastmlp/types.h"

namespace fastmlp {

// One number for each output, kept in both element types for the kernels.
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
  // huber, pseudo_huber: delta; binary_cross_entropy: the weight of y = 1; quantile: q;
  // gaussian_nll: the minimum variance; hinge: the margin.
  double delta = 1.0;
  Reduction reduction = Reduction::mean;
  double smoothing = 0.0;  // cross_entropy: label smoothing
  // cross_entropy: class weights; binary_cross_entropy, quantile: used in place of
  // delta.
  PerOutput per_output = {};
  // For action values: only the prediction at the row's label is compared, with one
  // value.
  bool action = false;
  double scale = 1.0;  // a factor of the value, and so of the gradient
};

// What predictions are compared with: rows of values, or class labels (cross_entropy),
// or both: actions and their values (Loss::action).
template <class T>
struct Targets {
  const T* values = nullptr;        // (rows, target_width), contiguous
  const int64_t* labels = nullptr;  // (rows,)
  const T* weights = nullptr;       // (rows,); null: all 1

  // The targets of the rows from `first` on.
  Targets from_row(Index first, Index width) const {
    return {values ? values + first * width : nullptr,
            labels ? labels + first : nullptr, weights ? weights + first : nullptr};
  }
};

// Columns of Targets::values for n_out predictions in a row.
inline Index target_width(const Loss& loss, Index n_out) {
  if (loss.action) return 1;
  return loss.kind == LossKind::gaussian_nll ? n_out / 2 : n_out;
}

// Throws std::invalid_argument unless the loss applies to n_out predictions, its scale
// is finite and positive, and the targets hold the values and labels that it needs,
// with labels in [0, n_out).
template <class T>
void check_targets(const Loss& loss, const Targets<T>& targets, Index rows,
                   Index n_out);

// The weight of a row in a mean: the sample's weight times the weight of its class.
template <class T>
double row_weight(const Loss& loss, const Targets<T>& targets, Index row) {
  const double w = targets.weights ? static_cast<double>(targets.weights[row]) : 1.0;
  if (loss.kind != LossKind::cross_entropy || !targets.labels) return w;
  const T* const of_class = loss.per_output.data<T>();
  return of_class ? w * static_cast<double>(of_class[targets.labels[row]]) : w;
}

// Whether the weights of rows may differ.
template <class T>
bool rows_are_weighted(const Loss& loss, const Targets<T>& targets) {
  return targets.weights || (loss.kind == LossKind::cross_entropy && targets.labels &&
                             loss.per_output.size() > 0);
}

// The divisor of sum(w l) over rows (with l summed over outputs), which includes the
// loss's scale. 0 if all weights are 0. `order`, if given, selects the rows: row r is
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

// sum(w l) in double, in an order fixed by the number of rows.
template <class T>
double weighted_sum(const T* row_loss, const T* weights, const int64_t* order,
                    Index rows);

// KernelTable::loss_rows of the active ISA for pred (rows, n_out; ld = n_out).
template <class T>
void loss_rows(const Loss& loss, T* dpred, T* row_loss, const T* pred, const T* target,
               const int64_t* labels, const T* row_scale, Index rows, Index n_out);

// Returns the loss of pred (rows, n_out). Writes its gradient to dpred, which may be
// pred, or null if it is not needed. Throws std::bad_alloc and whatever check_targets
// throws.
template <class T>
double loss_value_and_grad(const Loss& loss, T* dpred, const T* pred,
                           const Targets<T>& targets, Index rows, Index n_out);

}  // namespace fastmlp
