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

// The largest number of components of a mixture, which must be exact as a float.
constexpr double kMostComponents = 1 << 24;

bool is_component_count(double k) {
  return k >= 1.0 && k <= kMostComponents && k == std::floor(k);
}

const char* per_output_name(LossKind kind) {
  switch (kind) {
    case LossKind::cross_entropy:
      return "class_weight";
    case LossKind::quantile:
    case LossKind::expectile:
      return "q";
    case LossKind::student_t_nll:
      return "df";
    case LossKind::focal:
      return "alpha";
    case LossKind::multi_margin:
    case LossKind::ordinal:
      return "weight";
    default:
      return "pos_weight";
  }
}

// Throws if numbers per output are given and are not one for each target of a row.
void check_size(Index n, Index width, const char* name) {
  if (n == 0 || n == width) return;
  throw std::invalid_argument(std::string("loss: ") + name +
                              " needs one number per output, got " + std::to_string(n) +
                              " for " + detail::counted(width, "output", "outputs"));
}

void check_loss(const Loss& loss, Index n_out) {
  if (!std::isfinite(loss.scale) || loss.scale <= 0) {
    throw std::invalid_argument(
        "the scale of the loss must be finite and positive, got " +
        detail::in_full(loss.scale));
  }
  if (loss.action) {
    if (facts_of(loss.kind).form != LossForm::element || loss.per_output.size() > 0 ||
        loss.output_weight.size() > 0) {
      throw std::invalid_argument(
          "loss: ActionValue can only be combined with losses that compare one "
          "prediction with one target and have no parameters per output");
    }
    return;
  }
  if (loss.kind == LossKind::mixture_density && !is_component_count(loss.delta)) {
    throw std::invalid_argument(
        "loss: the number of components must be an integer from 1 to 16777216, got " +
        detail::in_full(loss.delta));
  }
  const Index each = predictions_per_target(loss);
  if (n_out % each != 0) {
    const bool mixture = loss.kind == LossKind::mixture_density;
    throw std::invalid_argument(
        std::string("loss: ") +
        (mixture ? "MixtureDensity needs a logit, a mean and a log deviation for each "
                   "component of each target"
         : loss.kind == LossKind::gaussian_nll
             ? "GaussianNLL needs a mean and a log variance for each target"
             : "StudentTNLL needs a location and a log scale for each target") +
        ", got " + detail::counted(n_out, "output", "outputs"));
  }
  if (loss.kind == LossKind::quantile && loss.second != 0.0 &&
      (loss.per_output.size() == 0 || n_out > kMostLevels)) {
    throw std::invalid_argument("loss: non_crossing needs a sequence of at most " +
                                std::to_string(kMostLevels) + " quantiles");
  }
  if (is_of_rows(loss) && loss.output_weight.size() > 0) {
    throw std::invalid_argument("loss: output_weight needs a loss of single outputs");
  }
  const Index width = target_width(loss, n_out);
  check_size(loss.output_weight.size(), width, "output_weight");
  check_size(loss.per_output.size(), width, per_output_name(loss.kind));
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
  check(loss.second);
  for (const double value : loss.per_output.values()) check(value);
  for (const double value : loss.output_weight.values()) check(value);
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

Index predictions_per_target(const Loss& loss) {
  if (facts_of(loss.kind).form != LossForm::density) return 1;
  if (loss.kind != LossKind::mixture_density) return 2;
  return is_component_count(loss.delta) ? 3 * static_cast<Index>(loss.delta) : 3;
}

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
    if (takes_only_labels(loss.kind))
      throw std::invalid_argument("y must hold class labels, but they are missing");
    return;
  }
  if (!takes_labels(loss.kind) && !loss.action) {
    throw std::invalid_argument(
        "y must not hold class labels, which only losses of classes accept");
  }
  const Index classes = loss.action ? n_out : class_count(loss.kind, n_out);
  for (Index r = 0; r < rows; ++r) {
    if (targets.labels[r] >= 0 && targets.labels[r] < classes) continue;
    if (loss.ignored && targets.labels[r] == *loss.ignored) continue;
    throw std::invalid_argument(
        std::string("y: the ") + (loss.action ? "action " : "label ") +
        std::to_string(targets.labels[r]) + " in row " + std::to_string(r) +
        " is out of range for " +
        (loss.action ? detail::counted(classes, "action", "actions")
                     : detail::counted(classes, "class", "classes")) +
        " (0 to " + std::to_string(classes - 1) + ")");
  }
}

Allowed allowed_targets(const Loss& loss) {
  if (loss.kind == LossKind::kl_div && loss.second != 0.0) return Allowed::numbers;
  return facts_of(loss.kind).allowed;
}

template <class T>
void check_target_values(const Loss& loss, const Targets<T>& targets, Index rows,
                         Index n_out) {
  const T* const y = targets.values;
  const Index width = target_width(loss, n_out);
  const auto no_probability = [](T v) { return (v < T(0)) | (v > T(1)); };
  if (!y) return;
  switch (allowed_targets(loss)) {
    case Allowed::numbers:
    case Allowed::labels:
      return;
    case Allowed::probabilities:
      return refuse_values(y, rows, width, "probabilities from 0 to 1", no_probability);
    case Allowed::signs:
      return refuse_values(y, rows, width, "only -1 and 1",
                           [](T v) { return (v != T(1)) & (v != T(-1)) & (v == v); });
    case Allowed::counts:
      return refuse_values(y, rows, width, "non-negative counts",
                           [](T v) { return v < T(0); });
    case Allowed::positive:
      return refuse_values(y, rows, width, "positive numbers",
                           [](T v) { return v <= T(0); });
  }
}

template <class T>
double target_weight(const Loss& loss, const Targets<T>& targets, Index row,
                     Index column, Index n_out) {
  if (loss.masked && targets.values &&
      std::isnan(targets.values[row * target_width(loss, n_out) + column])) {
    return 0.0;
  }
  const T* const weights = loss.output_weight.data<T>();
  return weights ? static_cast<double>(weights[column]) : 1.0;
}

template <class T>
double row_weight(const Loss& loss, const Targets<T>& targets, Index row, Index n_out) {
  const double w = targets.weights ? static_cast<double>(targets.weights[row]) : 1.0;
  if (targets.labels && !loss.action) {
    if (loss.ignored && targets.labels[row] == *loss.ignored) return 0.0;
    if (loss.kind != LossKind::cross_entropy) return w;
    const T* const of_class = loss.per_output.data<T>();
    return of_class ? w * static_cast<double>(of_class[targets.labels[row]]) : w;
  }
  if (!loss.masked) return w;
  double sum = 0.0, least = 1.0;
  for (Index j = 0; j < target_width(loss, n_out); ++j) {
    const double weight = target_weight(loss, targets, row, j, n_out);
    sum += weight;
    least = std::min(least, weight);
  }
  return w * (is_of_rows(loss) ? least : sum);
}

template <class T>
bool rows_are_weighted(const Loss& loss, const Targets<T>& targets) {
  if (targets.weights) return true;
  if (!targets.labels || loss.action) return loss.masked;
  return loss.ignored ||
         (loss.kind == LossKind::cross_entropy && loss.per_output.size() > 0);
}

template <class T>
double loss_normalizer(const Loss& loss, const Targets<T>& targets,
                       const int64_t* order, Index rows, Index n_out) {
  if (loss.reduction == Reduction::sum) return 1.0 / loss.scale;
  const double total =
      rows_are_weighted(loss, targets)
          ? ordered_sum(rows,
                        [&](Index r) {
                          return row_weight(loss, targets, order ? order[r] : r, n_out);
                        })
          : static_cast<double>(rows);
  // The weights of rows whose targets may be missing include those of the outputs.
  const bool included = loss.masked && targets.values;
  if (is_of_rows(loss) || included) return total / loss.scale;
  const Index width = target_width(loss, n_out);
  const T* const weights = loss.output_weight.data<T>();
  const double of_row =
      weights
          ? ordered_sum(width, [&](Index j) { return static_cast<double>(weights[j]); })
          : static_cast<double>(width);
  return total * of_row / loss.scale;
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
void fill_own_row_scale(T* scale, const Loss& loss, const Targets<T>& targets,
                        Index rows, Index n_out) {
  const Index width = target_width(loss, n_out);
  for (Index r = 0; r < rows; ++r) {
    Targets<T> own;
    if (loss.masked && targets.values) own.values = targets.values + r * width;
    const double divisor = loss_normalizer(loss, own, nullptr, 1, n_out);
    const T* const weight = targets.weights ? targets.weights + r : nullptr;
    fill_row_scale<T>(scale + r, weight, nullptr, divisor, 1);
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
                            static_cast<T>(loss.second),
                            static_cast<T>(loss.smoothing),
                            loss.per_output.data<T>(),
                            loss.output_weight.data<T>(),
                            loss.masked,
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

#define FASTMLP_INSTANTIATE(T)                                                        \
  template void check_targets(const Loss&, const Targets<T>&, Index, Index);          \
  template void check_target_values(const Loss&, const Targets<T>&, Index, Index);    \
  template double target_weight(const Loss&, const Targets<T>&, Index, Index, Index); \
  template double row_weight(const Loss&, const Targets<T>&, Index, Index);           \
  template bool rows_are_weighted(const Loss&, const Targets<T>&);                    \
  template void fill_own_row_scale(T*, const Loss&, const Targets<T>&, Index, Index); \
  template double loss_normalizer(const Loss&, const Targets<T>&, const int64_t*,     \
                                  Index, Index);                                      \
  template double sum_of_weights(const T*, const int64_t*, Index);                    \
  template void fill_row_scale(T*, const T*, const int64_t*, double, Index);          \
  template double weighted_sum(const T*, const T*, const int64_t*, Index);            \
  template void loss_rows(const Loss&, T*, T*, const T*, const T*, const int64_t*,    \
                          const T*, Index, Index);                                    \
  template double loss_value_and_grad(const Loss&, T*, const T*, const Targets<T>&,   \
                                      Index, Index);
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

}  // namespace fastmlp
