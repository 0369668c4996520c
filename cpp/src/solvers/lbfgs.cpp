#include "fastmlp/lbfgs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "fastmlp/fp_environment.h"
#include "number_text.h"
#include "solvers/line_search.h"
#include "solvers/ordered_sums.h"
#include "solvers/solver_iteration.h"
#include "threading/parallel.h"

namespace fastmlp {
template <class T>
void Lbfgs<T>::prepare(Index n) {
  if (n == n_) return;
  if (point_.known)
    throw std::invalid_argument("the solver holds state for " +
                                detail::counted(n_, "parameter", "parameters") +
                                ", but got " + std::to_string(n));
  const auto history = static_cast<size_t>(config_.history);
  for (auto* buffer : {&point_.theta, &point_.grad, &direction_, &point_.trial,
                       &point_.trial_grad, &best_, &best_grad_}) {
    buffer->reserve(n);
  }
  if (n > std::numeric_limits<Index>::max() / config_.history) throw std::bad_alloc();
  s_.reserve(n * config_.history);
  y_.reserve(n * config_.history);
  sy_.resize(history);
  yy_.resize(history);
  partial_.resize(2 * static_cast<size_t>(sum_chunks(n)));
  n_ = n;
}

template <class T>
void Lbfgs<T>::reset() {
  point_.known = point_.certain = false;
  pairs_ = first_ = iterations_ = evaluations_ = 0;
}

template <class T>
SolverReport Lbfgs<T>::iterate(T* theta, Index n, const Objective<T>& objective) {
  const CoreFpEnvironment environment;
  prepare(n);
  constexpr double kEps = static_cast<double>(std::numeric_limits<T>::epsilon());
  SolverReport report;
  const auto evaluate = [&](T* grad, const T* at) {
    const double value = objective(grad, at);
    ++report.evaluations;
    ++evaluations_;
    return value;
  };

  if (!set_point(point_, theta, n, evaluate)) pairs_ = 0;
  const RestoredOnThrow pairs(pairs_), evaluations(evaluations_);
  if (!can_iterate(point_, n, config_.tolerance, report)) return report;

  // Try a line search; if it fails, try once more without the history.
  while (true) {
    find_direction();
    double slope = ordered_dot(point_.grad.data(), direction_.data(), n);
    if (!(slope < 0) && pairs_ > 0) {
      pairs_ = 0;
      continue;
    }
    const double norm =
        std::sqrt(ordered_dot(point_.grad.data(), point_.grad.data(), n));
    const double first = pairs_ > 0 ? 1.0 : std::min(1.0, 1.0 / norm);
    LineSearch search(
        {config_.c1, config_.c2, static_cast<int>(config_.max_line_search)},
        point_.value, slope, first);
    LineSearch::Verdict verdict = LineSearch::Verdict::give_up;
    double best_value = point_.value;
    if (slope < 0) {
      do {
        const T step = static_cast<T>(search.step());
        std::copy_n(point_.theta.data(), n, point_.trial.data());
        kernels<T>().axpy(point_.trial.data(), direction_.data(), step, n);
        const double tried = search.step();
        const double value = evaluate(point_.trial_grad.data(), point_.trial.data());
        verdict = search.observe(
            value, ordered_dot(point_.trial_grad.data(), direction_.data(), n));
        if (search.best()) {
          std::swap(point_.trial, best_);
          std::swap(point_.trial_grad, best_grad_);
          best_value = value;
          report.step = tried;
        }
      } while (verdict == LineSearch::Verdict::search);
    }
    if (verdict == LineSearch::Verdict::found || search.any_decrease()) {
      // s is the difference of the rounded points, not the step times the direction.
      const Index into = pairs_ < config_.history ? pairs_ : 0;
      T* const s_new = s(into);
      T* const y_new = y(into);
      for (Index i = 0; i < n; ++i) {
        s_new[i] = best_.data()[i] - point_.theta.data()[i];
        y_new[i] = best_grad_.data()[i] - point_.grad.data()[i];
      }
      // The new pair has overwritten the oldest one, even if the new pair turns out
      // unusable.
      const double sy = ordered_dot(s_new, y_new, n);
      const double yy = ordered_dot(y_new, y_new, n);
      const double ss = ordered_dot(s_new, s_new, n);
      const bool curved = sy > kEps * std::sqrt(ss * yy) && std::isfinite(yy);
      if (curved) {
        sy_[static_cast<size_t>(row(into))] = sy;
        yy_[static_cast<size_t>(row(into))] = yy;
      }
      if (pairs_ == config_.history) {
        first_ = (first_ + 1) % config_.history;
        if (!curved) --pairs_;
      } else if (curved) {
        ++pairs_;
      }
      std::swap(point_.theta, best_);
      std::swap(point_.grad, best_grad_);
      std::copy_n(point_.theta.data(), n, theta);
      report.after = point_.value = best_value;
      report.gradient = largest_or_nan(point_.grad.data(), n);
      ++iterations_;
      if (report.gradient <= config_.tolerance) {
        report.status = SolverStatus::converged;
      } else if (report.before - report.after <= kEps * std::fabs(report.before)) {
        report.status = SolverStatus::stalled;
      }
      return report;
    }
    if (pairs_ == 0) {
      report.status = SolverStatus::stalled;
      return report;
    }
    pairs_ = 0;
  }
}

// The two loops of algorithm 7.4 over the pairs (s, y). Members of the team own chunks
// of the vectors; each member adds up the sums of all chunks, in the same order.
template <class T>
void Lbfgs<T>::find_direction() {
  const KernelTable<T>& table = kernels<T>();
  const Index chunks = sum_chunks(n_);
  const double flops = 8.0 * static_cast<double>(pairs_) * static_cast<double>(n_);
  const TeamPlan plan = plan_team(flops, chunks);
  alphas_.resize(static_cast<size_t>(plan.most * config_.history));
  run_team(plan, [&](const Team& team) {
    const Range mine = team.share(chunks);
    T* const d = direction_.data();
    double* const alpha = alphas_.data() + team.rank() * config_.history;
    int turn = 0;
    // If `add` is not null, adds factor * `add` to d. Then, if `with` is not null,
    // returns the dot product of d and `with`, else 0.
    const auto step = [&](T factor, const T* add, const T* with) {
      // Other members may still be reading the partial sums of the last step, but not
      // older ones. So with two sets of partial sums, used in turn, one barrier per
      // step is enough.
      if (with) turn ^= 1;
      double* const partial = partial_.data() + turn * chunks;
      for (Index c = mine.begin; c < mine.end; ++c) {
        const Index at = c * kSumChunk, count = std::min(kSumChunk, n_ - at);
        if (add) table.axpy(d + at, add + at, factor, count);
        if (with) partial[c] = static_cast<double>(table.dot(d + at, with + at, count));
      }
      double sum = 0.0;
      if (!with) return sum;
      team.barrier();
      for (Index c = 0; c < chunks; ++c) sum += partial[c];
      return sum;
    };
    const Index begin = std::min(n_, mine.begin * kSumChunk);
    const Index end = std::min(n_, mine.end * kSumChunk);
    for (Index i = begin; i < end; ++i) d[i] = -point_.grad.data()[i];
    if (pairs_ == 0) return;

    T factor = T(0);
    const T* add = nullptr;
    for (Index i = pairs_ - 1; i >= 0; --i) {
      alpha[i] = step(factor, add, s(i)) / sy_[static_cast<size_t>(row(i))];
      factor = static_cast<T>(-alpha[i]);
      add = y(i);
    }
    step(factor, add, nullptr);
    const auto last = static_cast<size_t>(row(pairs_ - 1));
    const T gamma = static_cast<T>(sy_[last] / yy_[last]);
    for (Index i = begin; i < end; ++i) d[i] *= gamma;
    add = nullptr;
    for (Index i = 0; i < pairs_; ++i) {
      const double beta = step(factor, add, y(i)) / sy_[static_cast<size_t>(row(i))];
      factor = static_cast<T>(alpha[i] - beta);
      add = s(i);
    }
    step(factor, add, nullptr);
  });
}

template <class T>
typename Lbfgs<T>::State Lbfgs<T>::state() const {
  State state;
  state.iterations = iterations_;
  state.evaluations = evaluations_;
  if (!point_.known) return state;
  state.size = n_;
  state.pairs = pairs_;
  state.value = point_.value;
  state.theta.assign(point_.theta.data(), point_.theta.data() + n_);
  state.grad.assign(point_.grad.data(), point_.grad.data() + n_);
  for (Index i = 0; i < pairs_; ++i) {
    state.s.insert(state.s.end(), s(i), s(i) + n_);
    state.y.insert(state.y.end(), y(i), y(i) + n_);
  }
  return state;
}

template <class T>
void Lbfgs<T>::load(const State& state) {
  if (state.pairs > config_.history)
    throw std::invalid_argument(
        "state must not have more (s, y) pairs than the solver's history, " +
        std::to_string(config_.history));
  point_.known = false;
  iterations_ = state.iterations;
  evaluations_ = state.evaluations;
  first_ = pairs_ = 0;
  point_.certain = false;
  if (state.size == 0) return;
  prepare(state.size);
  point_.value = state.value;
  std::copy_n(state.theta.data(), n_, point_.theta.data());
  std::copy_n(state.grad.data(), n_, point_.grad.data());
  for (pairs_ = 0; pairs_ < state.pairs; ++pairs_) {
    std::copy_n(state.s.data() + pairs_ * n_, n_, s(pairs_));
    std::copy_n(state.y.data() + pairs_ * n_, n_, y(pairs_));
    const auto at = static_cast<size_t>(row(pairs_));
    sy_[at] = ordered_dot(s(pairs_), y(pairs_), n_);
    yy_[at] = ordered_dot(y(pairs_), y(pairs_), n_);
  }
  point_.known = true;
}

template class Lbfgs<float>;
template class Lbfgs<double>;

}  // namespace fastmlp
