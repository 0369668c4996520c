// Types of the second-order solvers, which minimise a smooth function of a flat vector
// given only its values and derivatives.
#pragma once

#include <functional>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/types.h"

namespace fastmlp {

// Returns the value at theta and writes the gradient.
template <class T>
using Objective = std::function<double(T* grad, const T* theta)>;

enum class SolverStatus : int {
  improved,    // continue
  converged,   // no element of the gradient exceeds the tolerance in magnitude
  stalled,     // the value cannot be lowered, within rounding
  not_finite,  // value or gradient is not finite at the starting point
};

// The result of an iteration. theta is unchanged if the status is not_finite.
struct SolverReport {
  SolverStatus status = SolverStatus::improved;
  double before = 0.0, after = 0.0;  // values of the objective
  double gradient = 0.0;  // largest magnitude of a gradient element at the end
  double step = 0.0;      // L-BFGS: step length in units of the direction
  Index evaluations = 0;
  bool finished() const { return status != SolverStatus::improved; }
};

// The current point of a solver, and the trial point.
template <class T>
struct SolverPoint {
  bool known = false;    // whether theta, value and grad have been computed
  bool certain = false;  // whether the objective is known to be unchanged
  double value = 0.0;
  AlignedBuffer<T> theta, grad, trial, trial_grad;
};

}  // namespace fastmlp
