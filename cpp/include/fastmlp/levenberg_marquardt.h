// Levenberg-Marquardt for sums of squares, f = |r|^2 / 2 up to a constant factor, with
// Nielsen's rule for the damping (H. B. Nielsen, "Damping parameter in Marquardt's
// method", IMM-REP-1999-05) and the geodesic acceleration of Transtrum & Sethna 2012
// ("Improvements to the Levenberg-Marquardt algorithm for nonlinear least-squares
// minimization").
#pragma once

#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/solver_types.h"

namespace fastmlp {

struct LevenbergMarquardtConfig {
  double damping = 1e-3;     // the first lambda, relative to the largest of diag(H)
  Index max_tries = 30;      // steps tried per iteration
  double tolerance = 1e-10;  // converged: no gradient element is larger in magnitude
  bool acceleration = true;
};

// A sum of squares of residuals, given by functions of theta.
template <class T>
struct LeastSquares {
  Objective<T> objective;  // value and gradient
  // The lower triangle of the Gauss-Newton matrix H (n, n), row-major.
  std::function<void(double* h, const T* theta)> gauss_newton;
  // out = J^T r'', scaled like the gradient, where r'' is the second derivative of the
  // residuals along d. If this function is empty, steps are not accelerated.
  std::function<void(double* out, const T* theta, const double* d)> residual_curvature =
      {};
};

// An iteration solves (H + lambda I) d = -g and (H + lambda I) a = -J^T r'' and takes
// the step d + a / 2, raising lambda until the step lowers the value and a is small
// compared with d. Marquardt used the diagonal of H in place of I, but the diagonal
// would hardly damp the parameters of units whose derivative vanishes, and with it fits
// of networks took more iterations. Throws std::bad_alloc and whatever the functions
// throw; theta is then unchanged.
template <class T>
class LevenbergMarquardt {
 public:
  explicit LevenbergMarquardt(const LevenbergMarquardtConfig& config)
      : config_(config) {}
  const LevenbergMarquardtConfig& config() const { return config_; }

  // See Lbfgs::expect_change.
  void expect_change() { point_.certain = false; }
  SolverReport iterate(T* theta, Index n, const LeastSquares<T>& problem);
  void reset();

  struct State {
    Index iterations = 0, evaluations = 0, size = 0;
    double value = 0.0, lambda = 0.0, growth = 0.0;
    std::vector<T> theta, grad;
  };
  State state() const;
  void load(const State& state);
  Index iterations() const { return iterations_; }
  Index evaluations() const { return evaluations_; }
  double lambda() const { return lambda_; }  // 0: not set yet

  // Bytes that a solver for n parameters needs for its two matrices.
  static double matrix_bytes(Index n) {
    return 2.0 * sizeof(double) * static_cast<double>(n) * static_cast<double>(n);
  }

 private:
  void prepare(Index n);

  LevenbergMarquardtConfig config_;
  Index n_ = 0;
  Index iterations_ = 0, evaluations_ = 0;
  SolverPoint<T> point_;
  double lambda_ = 0.0, growth_ = 2.0;
  AlignedBuffer<double> h_, factor_, direction_, acceleration_;
};

}  // namespace fastmlp
