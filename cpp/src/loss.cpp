#include "fastmlp/loss.h"

#include <stdexcept>
#include <string>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/kernel_table.h"
#include "parallel.h"

namespace fastmlp {
namespace {

// sum of term(0) .. term(n - 1): eight chains, so that the additions overlap, then a
// tree.
template <class Term>
double ordered_sum(Index n, Term term) {
  constexpr Index kChains = 8;
  double chain[kChains] = {};
  for (Index i = 0; i < n; ++i) chain[i % kChains] += term(i);
  for (Index d = kChains / 2; d > 0; d /= 2) {
    for (Index i = 0; i < d; ++i) chain[i] += chain[i + d];
  }
  return chain[0];
}

}  // namespace

template <class T>
void check_targets(const Loss& loss, const Targets<T>& targets, Index rows,
                   Index n_out) {
  if (!targets.labels) {
    if (!targets.values) throw std::invalid_argument("y: there are no targets");
    return;
  }
  if (loss.kind != LossKind::cross_entropy) {
    throw std::invalid_argument("y: class labels are for cross-entropy");
  }
  for (Index r = 0; r < rows; ++r) {
    if (targets.labels[r] >= 0 && targets.labels[r] < n_out) continue;
    throw std::invalid_argument("y: the label " + std::to_string(targets.labels[r]) +
                                " in row " + std::to_string(r) +
                                " is out of range for " + std::to_string(n_out) +
                                " classes (0 to " + std::to_string(n_out - 1) + ")");
  }
}

template <class T>
double loss_normalizer(const Loss& loss, const T* weights, Index rows, Index n_out) {
  if (loss.reduction == Reduction::sum) return 1.0;
  const double total =
      weights
          ? ordered_sum(rows, [&](Index r) { return static_cast<double>(weights[r]); })
          : static_cast<double>(rows);
  return loss.kind == LossKind::cross_entropy ? total
                                              : total * static_cast<double>(n_out);
}

template <class T>
void fill_row_scale(T* scale, const T* weights, const int64_t* order, double normalizer,
                    Index rows) {
  const double unit = normalizer == 0.0 ? 0.0 : 1.0 / normalizer;
  for (Index r = 0; r < rows; ++r) {
    const double w = weights ? static_cast<double>(weights[order ? order[r] : r]) : 1.0;
    scale[r] = static_cast<T>(w * unit);
  }
}

template <class T>
double weighted_sum(const T* row_loss, const T* weights, const int64_t* order,
                    Index rows) {
  return ordered_sum(rows, [&](Index r) {
    const double w = weights ? static_cast<double>(weights[order ? order[r] : r]) : 1.0;
    return w * static_cast<double>(row_loss[r]);
  });
}

template <class T>
double loss_value_and_grad(const Loss& loss, T* dpred, const T* pred,
                           const Targets<T>& targets, Index rows, Index n_out) {
  check_targets(loss, targets, rows, n_out);
  const KernelTable<T>& table = kernels<T>();
  const AlignedBuffer<T> buffer(2 * rows);
  T* row_loss = buffer.data();
  T* row_scale = row_loss + rows;
  double value = 0.0;
  run_team({}, [&](const Team&) {
    const double normalizer = loss_normalizer(loss, targets.weights, rows, n_out);
    fill_row_scale<T>(row_scale, targets.weights, nullptr, normalizer, rows);
    table.loss_rows({loss.kind, static_cast<T>(loss.delta)}, dpred, n_out, row_loss,
                    pred, n_out, targets.values, n_out, targets.labels, row_scale, rows,
                    n_out);
    value = weighted_sum<T>(row_loss, targets.weights, nullptr, rows);
    value = normalizer == 0.0 ? 0.0 : value / normalizer;
  });
  return value;
}

#define FASTMLP_INSTANTIATE(T)                                                      \
  template void check_targets(const Loss&, const Targets<T>&, Index, Index);        \
  template double loss_normalizer(const Loss&, const T*, Index, Index);             \
  template void fill_row_scale(T*, const T*, const int64_t*, double, Index);        \
  template double weighted_sum(const T*, const T*, const int64_t*, Index);          \
  template double loss_value_and_grad(const Loss&, T*, const T*, const Targets<T>&, \
                                      Index, Index);
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

}  // namespace fastmlp
