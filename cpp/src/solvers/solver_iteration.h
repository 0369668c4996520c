// How an iteration of a solver begins.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "fastmlp/solver_types.h"
#include "solvers/ordered_sums.h"

namespace fastmlp {

template <class T>
bool same_bits(const T* a, const T* b, Index n) {
  return std::memcmp(a, b, sizeof(T) * static_cast<size_t>(n)) == 0;
}

// Makes theta (n elements) the point: known from the last iteration, unless something
// may have changed; then evaluate(grad, at) gives the value there. Returns whether what
// is remembered of earlier iterations still holds.
template <class T, class Evaluate>
bool stand_at(SolverPoint<T>& point, const T* theta, Index n, Evaluate evaluate) {
  if (point.known && point.certain && same_bits(theta, point.theta.data(), n)) {
    return true;
  }
  std::copy_n(theta, n, point.trial.data());
  const double value = evaluate(point.trial_grad.data(), point.trial.data());
  const bool same = point.known && value == point.value &&
                    same_bits(point.trial.data(), point.theta.data(), n) &&
                    same_bits(point.trial_grad.data(), point.grad.data(), n);
  std::swap(point.theta, point.trial);
  std::swap(point.grad, point.trial_grad);
  point.value = value;
  point.known = point.certain = true;
  return same;
}

// Writes what the point says into the report; returns whether there is a way to go.
template <class T>
bool may_go_on(SolverPoint<T>& point, Index n, double tolerance, SolverReport& report) {
  report.before = report.after = point.value;
  report.gradient = largest_or_nan(point.grad.data(), n);
  if (!std::isfinite(point.value) || !std::isfinite(report.gradient)) {
    point.certain = false;
    report.status = SolverStatus::not_finite;
  } else if (report.gradient <= tolerance) {
    report.status = SolverStatus::converged;
  }
  return !report.finished();
}

}  // namespace fastmlp
