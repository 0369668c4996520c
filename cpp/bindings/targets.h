// From (y, sample_weight) to Targets, for whatever takes a loss.
#pragma once

#include <optional>
#include <string>

#include "arrays.h"
#include "fastmlp/loss.h"

namespace fastmlp::bindings {

// Nothing if the arrays cannot be used as they are. Throws ValueError for a class label
// out of range, which no conversion can mend.
template <class T>
std::optional<Targets<T>> targets_of(py::handle y, py::handle sample_weight,
                                     const Loss& loss, Index rows, Index n_out) {
  Targets<T> targets;
  if (!sample_weight.is_none()) {
    const auto w = view<const T>(sample_weight);
    if (!w || w->ndim != 1 || w->shape[0] != rows) return std::nullopt;
    targets.weights = w->data;
  }
  if (loss.kind == LossKind::cross_entropy) {
    if (const auto labels = view<const int64_t>(y)) {
      if (labels->ndim != 1 || labels->shape[0] != rows) return std::nullopt;
      const Index bad = first_bad_label(labels->data, rows, n_out);
      if (bad >= 0) {
        throw py::value_error("y: the label " + std::to_string(labels->data[bad]) +
                              " in row " + std::to_string(bad) +
                              " is out of range for " + std::to_string(n_out) +
                              " classes (0 to " + std::to_string(n_out - 1) + ")");
      }
      targets.labels = labels->data;
      return targets;
    }
  }
  const auto values = view<const T>(y);
  if (!values || values->shape[0] != rows || values->shape[1] != n_out) {
    return std::nullopt;
  }
  targets.values = values->data;
  return targets;
}

}  // namespace fastmlp::bindings
