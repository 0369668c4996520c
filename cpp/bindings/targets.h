// Conversion of (y, sample_weight) to Targets, for every binding that takes a loss.
#pragma once

#include <optional>

#include "arrays.h"
#include "fastmlp/loss.h"

namespace fastmlp::bindings {

// The targets, or nullopt if the arrays cannot be used without conversion. The values
// of labels are not checked.
template <class T>
std::optional<Targets<T>> targets_of(py::handle y, py::handle sample_weight,
                                     const Loss& loss, Index rows, Index n_out) {
  Targets<T> targets;
  if (!sample_weight.is_none()) {
    const auto w = view<const T>(sample_weight);
    if (!w || w->ndim != 1 || w->shape[0] != rows) return std::nullopt;
    targets.weights = w->data;
  }
  if (loss.action) {
    if (!PyTuple_Check(y.ptr()) || PyTuple_GET_SIZE(y.ptr()) != 2) return std::nullopt;
    const auto actions = view<const int64_t>(PyTuple_GET_ITEM(y.ptr(), 0));
    if (!actions || actions->ndim != 1 || actions->shape[0] != rows) {
      return std::nullopt;
    }
    targets.labels = actions->data;
    y = PyTuple_GET_ITEM(y.ptr(), 1);
  }
  if (takes_labels(loss.kind)) {
    if (const auto labels = view<const int64_t>(y)) {
      if (labels->ndim != 1 || labels->shape[0] != rows) return std::nullopt;
      targets.labels = labels->data;
      return targets;
    }
    if (takes_only_labels(loss.kind)) return std::nullopt;
  }
  const auto values = view<const T>(y);
  if (!values || values->shape[0] != rows ||
      values->shape[1] != target_width(loss, n_out)) {
    return std::nullopt;
  }
  targets.values = values->data;
  return targets;
}

}  // namespace fastmlp::bindings
