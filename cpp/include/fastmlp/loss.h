// Losses over a batch. A row's loss is the mean over its outputs (cross-entropy: the
// row's one value); "mean" is sum(w l) / sum(w) over rows, "sum" is the sum over all
// elements, weighted by w. Formulas: kernel_table.h.
#pragma once

#include "fastmlp/types.h"

namespace fastmlp {

struct Loss {
  LossKind kind = LossKind::mse;
  double delta = 1.0;  // huber, pseudo_huber
  Reduction reduction = Reduction::mean;
};

// What predictions are compared with: rows of values, or class labels (cross_entropy).
template <class T>
struct Targets {
  const T* values = nullptr;        // (rows, n_out), contiguous
  const int64_t* labels = nullptr;  // (rows,)
  const T* weights = nullptr;       // (rows,); null: all 1
};

// Throws std::invalid_argument unless there are values, or (for cross_entropy) labels,
// all of them in [0, n_out).
template <class T>
void check_targets(const Loss& loss, const Targets<T>& targets, Index rows,
                   Index n_out);

// What sum(w l) over rows (l summed over outputs) is divided by. 0 if all weights are
// 0.
template <class T>
double loss_normalizer(const Loss& loss, const T* weights, Index rows, Index n_out);

// scale[r] = w_r / normalizer, or 0 if that is 0: what a row's gradient is multiplied
// by. `order`, if given, picks the weights: row r has weights[order[r]].
template <class T>
void fill_row_scale(T* scale, const T* weights, const int64_t* order, double normalizer,
                    Index rows);

// sum(w l) in double, in an order fixed by the number of rows.
template <class T>
double weighted_sum(const T* row_loss, const T* weights, const int64_t* order,
                    Index rows);

// The loss of pred (rows, n_out) and, unless dpred is null, its gradient (may be pred).
// Throws std::bad_alloc, and what check_targets throws.
template <class T>
double loss_value_and_grad(const Loss& loss, T* dpred, const T* pred,
                           const Targets<T>& targets, Index rows, Index n_out);

}  // namespace fastmlp
