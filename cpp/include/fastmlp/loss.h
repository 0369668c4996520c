// Losses over a batch. With Reduction::mean, a row's loss l is the mean over its
// outputs (for cross-entropy, the row's single value), and the loss is sum(w l) /
// sum(w) over rows with weights w. With Reduction::sum, the loss is the sum over all
// elements, weighted by w. Formulas: kernels/loss-inl.h.
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
  // The parameter of the loss: delta of huber and pseudo_huber, the weight of y = 1 in
  // binary_cross_entropy, q of quantile, the minimum variance of gaussian_nll, the
  // margin of hinge.
  double delta = 1.0;
  Reduction reduction = Reduction::mean;
  double smoothing = 0.0;  // cross_entropy: label smoothing
  // One number per output. For cross_entropy these are class weights; for
  // binary_cross_entropy and quantile they are used in place of delta.
  PerOutput per_output = {};
  // For action values: the row's label is the action, and only the prediction for this
  // action is compared with the row's one target value.
  bool action = false;
  double scale = 1.0;  // multiplies the loss, and hence its gradient
  // cross_entropy: rows with this label have the weight 0.
  std::optional<int64_t> ignored = {};
};

// The targets of a batch: rows of values, or class labels (cross_entropy), or both if
// Loss::action is set, where the labels are the actions.
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

// Number of columns of Targets::values if a row of predictions has n_out elements.
inline Index target_width(const Loss& loss, Index n_out) {
  if (loss.action) return 1;
  return loss.kind == LossKind::gaussian_nll ? n_out / 2 : n_out;
}

// Throws std::invalid_argument unless the loss can be used with n_out predictions per
// row, its scale is finite and positive, its parameters are finite in T, and the
// targets hold the values and labels that the loss needs, with labels in [0, n_out)
// unless they are ignored.
template <class T>
void check_targets(const Loss& loss, const Targets<T>& targets, Index rows,
                   Index n_out);

// The values that a loss allows as targets: any number, probabilities from 0 to 1,
// -1 and 1, or numbers that are not negative.
enum class Allowed { numbers, probabilities, signs, counts };
Allowed allowed_targets(LossKind kind);

// Throws std::invalid_argument if a value is not one that the loss allows. NaN passes.
template <class T>
void check_target_values(const Loss& loss, const Targets<T>& targets, Index rows,
                         Index n_out);

// The weight of a row in a mean: the sample's weight times the weight of its class.
template <class T>
double row_weight(const Loss& loss, const Targets<T>& targets, Index row) {
  const double w = targets.weights ? static_cast<double>(targets.weights[row]) : 1.0;
  if (loss.kind != LossKind::cross_entropy || !targets.labels) return w;
  if (loss.ignored && targets.labels[row] == *loss.ignored) return 0.0;
  const T* const of_class = loss.per_output.data<T>();
  return of_class ? w * static_cast<double>(of_class[targets.labels[row]]) : w;
}

// Whether the weights of rows may differ.
template <class T>
bool rows_are_weighted(const Loss& loss, const Targets<T>& targets) {
  return targets.weights || (loss.kind == LossKind::cross_entropy && targets.labels &&
                             (loss.per_output.size() > 0 || loss.ignored));
}

// The divisor that turns sum(w l) over rows with weights w into the loss, including the
// factor Loss::scale; l is a row's loss summed over its outputs. With Reduction::mean
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
