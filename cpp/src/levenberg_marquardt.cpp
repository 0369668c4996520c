#include "fastmlp/levenberg_marquardt.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "cholesky.h"
#include "fastmlp/fp_environment.h"
#include "vectors.h"

namespace fastmlp {
namespace {

// The greatest 2 |a| / |d| of a step that is taken: beyond it the series is not to be
// trusted (section 3 of the paper).
constexpr double kMostBend = 0.75;

template <class T>
bool same_bits(const T* a, const T* b, Index n) {
  return std::memcmp(a, b, sizeof(T) * static_cast<size_t>(n)) == 0;
}

}  // namespace

template <class T>
void LevenbergMarquardt<T>::prepare(Index n) {
  if (n == n_) return;
  if (known_) throw std::invalid_argument("the solver holds state for another size");
  if (n > std::numeric_limits<Index>::max() / n) throw std::bad_alloc();
  for (auto* buffer : {&theta_, &grad_, &trial_, &trial_grad_}) buffer->reserve(n);
  direction_.reserve(n);
  bend_.reserve(n);
  h_.reserve(n * n);
  factor_.reserve(n * n);
  n_ = n;
}

template <class T>
void LevenbergMarquardt<T>::reset() {
  known_ = certain_ = false;
  lambda_ = 0.0;
  growth_ = 2.0;
  iterations_ = evaluations_ = 0;
}

template <class T>
SolverReport LevenbergMarquardt<T>::iterate(T* theta, Index n,
                                            const LeastSquares<T>& problem) {
  const DefaultFpEnvironment environment;
  prepare(n);
  constexpr double kEps = static_cast<double>(std::numeric_limits<T>::epsilon());
  SolverReport report;
  const auto evaluate = [&](T* grad, const T* at) {
    ++report.evaluations;
    ++evaluations_;
    return problem.objective(grad, at);
  };

  // Where it begins: known from the last iteration, unless something has changed.
  if (!known_ || !certain_ || !same_bits(theta, theta_.data(), n)) {
    std::copy_n(theta, n, trial_.data());
    const double value = evaluate(trial_grad_.data(), trial_.data());
    const bool same = known_ && value == value_ &&
                      same_bits(trial_.data(), theta_.data(), n) &&
                      same_bits(trial_grad_.data(), grad_.data(), n);
    if (!same) {
      lambda_ = 0.0;
      growth_ = 2.0;
    }
    std::swap(theta_, trial_);
    std::swap(grad_, trial_grad_);
    value_ = value;
    known_ = certain_ = true;
  }
  report.before = report.after = value_;
  report.gradient = largest(grad_.data(), n);
  if (!std::isfinite(value_) || !std::isfinite(report.gradient)) {
    certain_ = false;
    report.status = SolverStatus::not_finite;
    return report;
  }
  if (report.gradient <= config_.tolerance) {
    report.status = SolverStatus::converged;
    return report;
  }

  problem.gauss_newton(h_.data(), theta_.data());
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
    for (Index i = 0; i < n; ++i) d[i] = -static_cast<double>(grad_.data()[i]);
    cholesky_solve(factor_.data(), n, d);

    const double* a = nullptr;
    if (config_.acceleration && problem.bend) {
      double* const bend = bend_.data();
      problem.bend(bend, theta_.data(), d);
      for (Index i = 0; i < n; ++i) bend[i] = -bend[i];
      cholesky_solve(factor_.data(), n, bend);
      const double dd = ordered_dot<double>(d, d, n),
                   aa = ordered_dot<double>(bend, bend, n);
      if (!(4 * aa <= kMostBend * kMostBend * dd)) {
        raise();
        continue;
      }
      a = bend;
    }

    // What the model of second order promises: d (lambda d - g) / 2.
    double promised = 0.0;
    bool moved = false;
    for (Index i = 0; i < n; ++i) {
      promised += d[i] * (lambda_ * d[i] - static_cast<double>(grad_.data()[i])) / 2;
      const double at = static_cast<double>(theta_.data()[i]);
      trial_.data()[i] = static_cast<T>(at + d[i] + (a ? a[i] / 2 : 0.0));
      moved = moved || trial_.data()[i] != theta_.data()[i];
    }
    if (!moved) return report;
    const double value = evaluate(trial_grad_.data(), trial_.data());
    const double steepest = largest(trial_grad_.data(), n);
    const double gain = (value_ - value) / promised;
    if (!(value < value_) || !(gain > 0) || !std::isfinite(steepest)) {
      raise();
      continue;
    }

    const double surplus = 2 * gain - 1;
    lambda_ *= std::max(1.0 / 3, 1 - surplus * surplus * surplus);
    growth_ = 2.0;
    std::swap(theta_, trial_);
    std::swap(grad_, trial_grad_);
    std::copy_n(theta_.data(), n, theta);
    report.after = value_ = value;
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
  if (!known_) return state;
  state.size = n_;
  state.value = value_;
  state.lambda = lambda_;
  state.growth = growth_;
  state.theta.assign(theta_.data(), theta_.data() + n_);
  state.grad.assign(grad_.data(), grad_.data() + n_);
  return state;
}

template <class T>
void LevenbergMarquardt<T>::load(const State& state) {
  known_ = certain_ = false;
  iterations_ = state.iterations;
  evaluations_ = state.evaluations;
  if (state.size == 0) return;
  prepare(state.size);
  value_ = state.value;
  lambda_ = state.lambda;
  growth_ = state.growth;
  std::copy_n(state.theta.data(), n_, theta_.data());
  std::copy_n(state.grad.data(), n_, grad_.data());
  known_ = true;
}

template class LevenbergMarquardt<float>;
template class LevenbergMarquardt<double>;

}  // namespace fastmlp
