// What the second-order solvers share: they minimise a smooth function of a flat
// vector, of which they see nothing but values and derivatives.
#pragma once

#include <functional>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/types.h"

namespace fastmlp {

// The value at theta; writes the gradient.
template <class T>
using Objective = std::function<double(T* grad, const T* theta)>;

enum class SolverStatus : int {
  improved,    // go on
  converged,   // no element of the gradient exceeds the tolerance
  stalled,     // the value can be made no smaller, within rounding
  not_finite,  // value or gradient are not finite where the iteration would begin
};

// One iteration. If it threw or was not_finite, theta has not changed.
struct SolverReport {
  SolverStatus status = SolverStatus::improved;
  double before = 0.0, after = 0.0;  // values
  double gradient = 0.0;             // the largest element after it, without sign
  double step = 0.0;                 // L-BFGS: of the direction
  Index evaluations = 0;
  bool finished() const { return status != SolverStatus::improved; }
};

// Where a solver stands, and where it tries to go.
template <class T>
struct SolverPoint {
  bool known = false;    // theta, value and grad are those of some objective
  bool certain = false;  // ... of the one that comes next
  double value = 0.0;
  AlignedBuffer<T> theta, grad, trial, trial_grad;
};

}  // namespace fastmlp
