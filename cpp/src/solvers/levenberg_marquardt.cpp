#include "fastmlp/levenberg_marquardt.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "fastmlp/fp_environment.h"
#include "number_text.h"
#include "solvers/cholesky.h"
#include "solvers/ordered_sums.h"
#include "solvers/solver_iteration.h"

namespace fastmlp {
namespace {

// Largest ratio 2 |a| / |d| of an accepted step: above it the series d + a / 2 cannot
// be trusted (Transtrum & Sethna 2012, section 3).
constexpr double kMaxAcceleration = 0.75;

}  // namespace

template <class T>
void LevenbergMarquardt<T>::prepare(Index n) {
  if (n == n_) return;
  if (point_.known)
    throw std::invalid_argument("the solver holds state for " +
                                detail::counted(n_, "parameter", "parameters") +
                                ", but got " + std::to_string(n));
  if (n > std::numeric_limits<Index>::max() / n) throw std::bad_alloc();
  for (auto* buffer : {&point_.theta, &point_.grad, &point_.trial, &point_.trial_grad})
    buffer->reserve(n);
  direction_.reserve(n);
  acceleration_.reserve(n);
  h_.reserve(n * n);
  factor_.reserve(n * n);
  n_ = n;
}

template <class T>
void LevenbergMarquardt<T>::reset() {
  point_.known = point_.certain = false;
  lambda_ = 0.0;
  growth_ = 2.0;
  iterations_ = evaluations_ = 0;
}

template <class T>
SolverReport LevenbergMarquardt<T>::iterate(T* theta, Index n,
                                            const LeastSquares<T>& problem) {
  const CoreFpEnvironment environment;
  prepare(n);
  constexpr double kEps = static_cast<double>(std::numeric_limits<T>::epsilon());
  SolverReport report;
  const auto evaluate = [&](T* grad, const T* at) {
    const double value = problem.objective(grad, at);
    ++report.evaluations;
    ++evaluations_;
    return value;
  };

  if (!set_point(point_, theta, n, evaluate)) {
    lambda_ = 0.0;
    growth_ = 2.0;
  }
  const RestoredOnThrow lambda(lambda_), growth(growth_);
  const RestoredOnThrow evaluations(evaluations_);
  if (!can_iterate(point_, n, config_.tolerance, report)) return report;

  problem.gauss_newton(h_.data(), point_.theta.data());
  double most = 0.0;
  for (Index i = 0; i < n; ++i) most = std::max(most, h_.data()[i * n + i]);
  if (!(lambda_ > 0.0)) lambda_ = config_.damping * (most > 0.0 ? most : 1.0);
  const auto raise = [&] {
    lambda_ *= growth_;
    growth_ *= 2;
  };

  report.status = SolverStatus::stalled;
  for (Index tries = 0; tries < config_.max_tries; ++tries) {
    for (Index i = 0; i < n; ++i) {
      std::copy_n(h_.data() + i * n, i + 1, factor_.data() + i * n);
      factor_.data()[i * n + i] += lambda_;
    }
    if (!cholesky(factor_.data(), n)) {
      raise();
      continue;
    }
    double* const d = direction_.data();
    for (Index i = 0; i < n; ++i) d[i] = -static_cast<double>(point_.grad.data()[i]);
    cholesky_solve(factor_.data(), n, d);

    const double* a = nullptr;
    if (config_.acceleration && problem.residual_curvature) {
      double* const acceleration = acceleration_.data();
      problem.residual_curvature(acceleration, point_.theta.data(), d);
      for (Index i = 0; i < n; ++i) acceleration[i] = -acceleration[i];
      cholesky_solve(factor_.data(), n, acceleration);
      const double dd = ordered_dot<double>(d, d, n);
      const double aa = ordered_dot<double>(acceleration, acceleration, n);
      if (!(4 * aa <= kMaxAcceleration * kMaxAcceleration * dd)) {
        raise();
        continue;
      }
      a = acceleration;
    }

    // The decrease that the quadratic model predicts: d (lambda d - g) / 2.
    double predicted = 0.0;
    bool moved = false;
    for (Index i = 0; i < n; ++i) {
      predicted +=
          d[i] * (lambda_ * d[i] - static_cast<double>(point_.grad.data()[i])) / 2;
      const double at = static_cast<double>(point_.theta.data()[i]);
      point_.trial.data()[i] = static_cast<T>(at + d[i] + (a ? a[i] / 2 : 0.0));
      moved = moved || point_.trial.data()[i] != point_.theta.data()[i];
    }
    if (!moved) return report;
    const double value = evaluate(point_.trial_grad.data(), point_.trial.data());
    const double steepest = largest_or_nan(point_.trial_grad.data(), n);
    const double gain = (point_.value - value) / predicted;
    if (!(value < point_.value) || !(gain > 0) || !std::isfinite(steepest)) {
      raise();
      continue;
    }

    const double surplus = 2 * gain - 1;
    lambda_ *= std::max(1.0 / 3, 1 - surplus * surplus * surplus);
    growth_ = 2.0;
    std::swap(point_.theta, point_.trial);
    std::swap(point_.grad, point_.trial_grad);
    std::copy_n(point_.theta.data(), n, theta);
    report.after = point_.value = value;
    report.gradient = steepest;
    report.step = 1.0;
    ++iterations_;
    if (steepest <= config_.tolerance) {
      report.status = SolverStatus::converged;
    } else if (report.before - value > kEps * report.before) {
      report.status = SolverStatus::improved;
    }
    return report;
  }
  return report;
}

template <class T>
typename LevenbergMarquardt<T>::State LevenbergMarquardt<T>::state() const {
  State state;
  state.iterations = iterations_;
  state.evaluations = evaluations_;
  if (!point_.known) return state;
  state.size = n_;
  state.value = point_.value;
  state.lambda = lambda_;
  state.growth = growth_;
  state.theta.assign(point_.theta.data(), point_.theta.data() + n_);
  state.grad.assign(point_.grad.data(), point_.grad.data() + n_);
  return state;
}

template <class T>
void LevenbergMarquardt<T>::load(const State& state) {
  point_.known = point_.certain = false;
  iterations_ = state.iterations;
  evaluations_ = state.evaluations;
  if (state.size == 0) return;
  prepare(state.size);
  point_.value = state.value;
  lambda_ = state.lambda;
  growth_ = state.growth;
  std::copy_n(state.theta.data(), n_, point_.theta.data());
  std::copy_n(state.grad.data(), n_, point_.grad.data());
  point_.known = true;
}

template class LevenbergMarquardt<float>;
template class LevenbergMarquardt<double>;

}  // namespace fastmlp
