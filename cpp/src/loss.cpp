#include "fastmlp/loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/kernel_table.h"
#include "number_text.h"
#include "threading/parallel.h"
#include "threading/stop.h"

namespace fastmlp {
namespace {

// The sum of term(0) .. term(n - 1). It is computed as eight partial sums, whose
// additions overlap, and these are added pairwise.
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

void check_loss(const Loss& loss, Index n_out) {
  if (!std::isfinite(loss.scale) || loss.scale <= 0) {
    throw std::invalid_argument(
        "the scale of the loss must be finite and positive, got " +
        detail::in_full(loss.scale));
  }
  if (loss.action) {
    if (loss.kind == LossKind::cross_entropy || loss.kind == LossKind::gaussian_nll ||
        loss.per_output.size() > 0) {
      throw std::invalid_argument(
          "loss: ActionValue cannot be combined with cross-entropy, GaussianNLL or "
          "a loss that has parameters per output");
    }
    return;
  }
  if (loss.kind == LossKind::gaussian_nll && n_out % 2 != 0) {
    throw std::invalid_argument(
        "loss: GaussianNLL needs a mean and a log variance for each target, got " +
        detail::counted(n_out, "output", "outputs"));
  }
  const Index n = loss.per_output.size();
  if (n == 0 || n == n_out) return;
  const char* const name = loss.kind == LossKind::cross_entropy ? "class_weight"
                           : loss.kind == LossKind::quantile    ? "q"
                                                                : "pos_weight";
  throw std::invalid_argument(std::string("loss: ") + name +
                              " needs one number per output, got " + std::to_string(n) +
                              " for " + detail::counted(n_out, "output", "outputs"));
}

// Throws if a finite parameter is infinite in T.
template <class T>
void check_parameters(const Loss& loss) {
  const auto check = [](double value) {
    if (std::abs(value) <= static_cast<double>(std::numeric_limits<T>::max())) return;
    throw std::invalid_argument("loss: its parameter " + detail::in_full(value) +
                                " is too large for predictions of this dtype");
  };
  check(loss.delta);
  for (const double value : loss.per_output.values()) check(value);
}

// The parameter of a loss in T. A positive one stays positive, because losses divide by
// it.
template <class T>
T parameter(const Loss& loss) {
  const T given = static_cast<T>(loss.delta);
  return loss.delta > 0 ? std::max(given, std::numeric_limits<T>::min()) : given;
}

template <class T, class Bad>
void refuse_values(const T* values, Index rows, Index width, const char* wanted,
                   Bad bad) {
  bool any = false;
  for (Index i = 0; i < rows * width; ++i) any |= bad(values[i]);
  if (!any) return;
  const T* const first = std::find_if(values, values + rows * width, bad);
  throw std::invalid_argument(std::string("y must hold ") + wanted + ", got " +
                              detail::in_full(static_cast<double>(*first)) +
                              " in row " + std::to_string((first - values) / width));
}

}  // namespace

PerOutput::PerOutput(std::vector<double> values)
    : doubles_(std::move(values)), floats_(doubles_.begin(), doubles_.end()) {}

template <class T>
void check_targets(const Loss& loss, const Targets<T>& targets, Index rows,
                   Index n_out) {
  check_loss(loss, n_out);
  check_parameters<T>(loss);
  if (!targets.values && (loss.action || !targets.labels)) {
    throw std::invalid_argument("y must hold the targets, but they are missing");
  }
  if (!targets.labels) {
    if (loss.action)
      throw std::invalid_argument("y must hold the actions, but they are missing");
    return;
  }
  if (loss.kind != LossKind::cross_entropy && !loss.action) {
    throw std::invalid_argument(
        "y must not hold class labels, which only cross-entropy accepts");
  }
  for (Index r = 0; r < rows; ++r) {
    if (targets.labels[r] >= 0 && targets.labels[r] < n_out) continue;
    if (loss.ignored && targets.labels[r] == *loss.ignored) continue;
    throw std::invalid_argument(
        std::string("y: the ") + (loss.action ? "action " : "label ") +
        std::to_string(targets.labels[r]) + " in row " + std::to_string(r) +
        " is out of range for " +
        (loss.action ? detail::counted(n_out, "action", "actions")
                     : detail::counted(n_out, "class", "classes")) +
        " (0 to " + std::to_string(n_out - 1) + ")");
  }
}

Allowed allowed_targets(LossKind kind) {
  switch (kind) {
    case LossKind::cross_entropy:
    case LossKind::binary_cross_entropy:
      return Allowed::probabilities;
    case LossKind::hinge:
      return Allowed::signs;
    case LossKind::poisson:
      return Allowed::counts;
    default:
      return Allowed::numbers;
  }
}

template <class T>
void check_target_values(const Loss& loss, const Targets<T>& targets, Index rows,
                         Index n_out) {
  const T* const y = targets.values;
  const Index width = target_width(loss, n_out);
  const auto no_probability = [](T v) { return (v < T(0)) | (v > T(1)); };
  if (!y) return;
  switch (allowed_targets(loss.kind)) {
    case Allowed::numbers:
      return;
    case Allowed::probabilities:
      return refuse_values(y, rows, width, "probabilities from 0 to 1", no_probability);
    case Allowed::signs:
      return refuse_values(y, rows, width, "only -1 and 1",
                           [](T v) { return (v != T(1)) & (v != T(-1)) & (v == v); });
    case Allowed::counts:
      return refuse_values(y, rows, width, "non-negative counts",
                           [](T v) { return v < T(0); });
  }
}

template <class T>
double loss_normalizer(const Loss& loss, const Targets<T>& targets,
                       const int64_t* order, Index rows, Index n_out) {
  if (loss.reduction == Reduction::sum) return 1.0 / loss.scale;
  const double total =
      rows_are_weighted(loss, targets)
          ? ordered_sum(rows,
                        [&](Index r) {
                          return row_weight(loss, targets, order ? order[r] : r);
                        })
          : static_cast<double>(rows);
  if (loss.kind == LossKind::cross_entropy) return total / loss.scale;
  return total * static_cast<double>(target_width(loss, n_out)) / loss.scale;
}

template <class T>
double sum_of_weights(const T* weights, const int64_t* order, Index rows) {
  if (!weights) return static_cast<double>(rows);
  return ordered_sum(rows, [&](Index r) {
    return static_cast<double>(weights[order ? order[r] : r]);
  });
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
void loss_rows(const Loss& loss, T* dpred, T* row_loss, const T* pred, const T* target,
               const int64_t* labels, const T* row_scale, Index rows, Index n_out) {
  const LossArgs<T> args = {loss.kind,
                            parameter<T>(loss),
                            static_cast<T>(loss.smoothing),
                            loss.per_output.data<T>(),
                            loss.action,
                            loss.ignored.has_value(),
                            loss.ignored.value_or(0)};
  kernels<T>().loss_rows(args, dpred, n_out, row_loss, pred, n_out, target,
                         target_width(loss, n_out), labels, row_scale, rows, n_out);
}

template <class T>
double loss_value_and_grad(const Loss& loss, T* dpred, const T* pred,
                           const Targets<T>& targets, Index rows, Index n_out) {
  check_targets(loss, targets, rows, n_out);
  check_target_values(loss, targets, rows, n_out);
  const AlignedBuffer<T> buffer(2 * rows);
  T* row_loss = buffer.data();
  T* row_scale = row_loss + rows;
  double value = 0.0;
  constexpr Index kBetweenLooks = 1 << 20;  // elements
  run_team({}, [&](const Team&) {
    const double normalizer = loss_normalizer(loss, targets, nullptr, rows, n_out);
    fill_row_scale<T>(row_scale, targets.weights, nullptr, normalizer, rows);
    const Index block = std::max<Index>(1, kBetweenLooks / n_out);
    const Index width = target_width(loss, n_out);
    for (Index r = 0; r < rows && !detail::stop_requested(); r += block) {
      const Targets<T> part = targets.from_row(r, width);
      loss_rows<T>(loss, dpred ? dpred + r * n_out : nullptr, row_loss + r,
                   pred + r * n_out, part.values, part.labels, row_scale + r,
                   std::min(block, rows - r), n_out);
    }
    value = weighted_sum<T>(row_loss, targets.weights, nullptr, rows);
    value = normalizer == 0.0 ? 0.0 : value / normalizer;
  });
  return value;
}

#define FASTMLP_INSTANTIATE(T)                                                      \
  template void check_targets(const Loss&, const Targets<T>&, Index, Index);        \
  template void check_target_values(const Loss&, const Targets<T>&, Index, Index);  \
  template double loss_normalizer(const Loss&, const Targets<T>&, const int64_t*,   \
                                  Index, Index);                                    \
  template double sum_of_weights(const T*, const int64_t*, Index);                  \
  template void fill_row_scale(T*, const T*, const int64_t*, double, Index);        \
  template double weighted_sum(const T*, const T*, const int64_t*, Index);          \
  template void loss_rows(const Loss&, T*, T*, const T*, const T*, const int64_t*,  \
                          const T*, Index, Index);                                  \
  template double loss_value_and_grad(const Loss&, T*, const T*, const Targets<T>&, \
                                      Index, Index);
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

}  // namespace fastmlp
