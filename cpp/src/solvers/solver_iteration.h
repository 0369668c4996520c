// The steps with which an iteration of every solver begins.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <utility>

#include "fastmlp/solver_types.h"
#include "solvers/ordered_sums.h"

namespace fastmlp {

// RAII: gives a variable its value back if the scope ends with an exception, so that an
// iteration that was interrupted is repeated as if it had never begun.
template <class V>
class RestoredOnThrow {
 public:
  explicit RestoredOnThrow(V& variable)
      : variable_(variable),
        value_(variable),
        exceptions_(std::uncaught_exceptions()) {}
  ~RestoredOnThrow() {
    if (std::uncaught_exceptions() > exceptions_) variable_ = value_;
  }
  RestoredOnThrow(const RestoredOnThrow&) = delete;
  RestoredOnThrow& operator=(const RestoredOnThrow&) = delete;

 private:
  V& variable_;
  const V value_;
  const int exceptions_;
};

template <class T>
bool same_bits(const T* a, const T* b, Index n) {
  return std::memcmp(a, b, sizeof(T) * static_cast<size_t>(n)) == 0;
}

// Makes theta (n elements) the current point. The value and gradient of the last
// iteration are used again if theta is still that iteration's point and the objective
// is known to be unchanged (point.certain); otherwise evaluate(grad, at) is called.
// Returns whether the history of earlier iterations is still valid.
template <class T, class Evaluate>
bool set_point(SolverPoint<T>& point, const T* theta, Index n, Evaluate evaluate) {
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

// Fills the report for the current point. Returns whether the solver can iterate from
// there.
template <class T>
bool can_iterate(SolverPoint<T>& point, Index n, double tolerance,
                 SolverReport& report) {
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
