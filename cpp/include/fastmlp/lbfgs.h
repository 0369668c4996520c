// Limited-memory BFGS: Nocedal & Wright, "Numerical Optimization", 2nd edition,
// algorithms 7.4 and 7.5, with a line search for the strong Wolfe conditions.
//
//   fastmlp::Lbfgs<double> lbfgs({});
//   do report = lbfgs.iterate(theta, n, f); while (!report.finished());
#pragma once

#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/solver_types.h"

namespace fastmlp {

struct LbfgsConfig {
  Index history = 10;          // pairs (s, y) kept, at least 1
  Index max_line_search = 25;  // evaluations per line search
  double c1 = 1e-4, c2 = 0.9;  // Wolfe conditions, 0 < c1 < c2 < 1
  double tolerance = 1e-7;     // converged: no gradient element is larger in magnitude
};

// Throws std::bad_alloc and whatever the objective throws; theta is then unchanged.
template <class T>
class Lbfgs {
 public:
  explicit Lbfgs(const LbfgsConfig& config) : config_(config) {}
  const LbfgsConfig& config() const { return config_; }

  // Call this if the objective may have changed. The next iteration then evaluates the
  // objective again at the current point and discards the pairs (s, y) if the result
  // differs.
  void expect_change() { point_.certain = false; }
  SolverReport iterate(T* theta, Index n, const Objective<T>& objective);
  void reset();

  // Everything a solver needs to resume exactly where another one stopped. s and y hold
  // pairs * size elements, the oldest pair first.
  struct State {
    Index iterations = 0, evaluations = 0, size = 0, pairs = 0;
    double value = 0.0;
    std::vector<T> theta, grad, s, y;
  };
  State state() const;
  void load(const State& state);
  Index iterations() const { return iterations_; }
  Index evaluations() const { return evaluations_; }

 private:
  void prepare(Index n);
  void find_direction();
  // s and y of pair i, counted from the oldest pair; row(i) is its place in the ring
  // buffer.
  T* s(Index i) const { return s_.data() + row(i) * n_; }
  T* y(Index i) const { return y_.data() + row(i) * n_; }
  Index row(Index i) const { return (first_ + i) % config_.history; }

  LbfgsConfig config_;
  Index n_ = 0;
  Index iterations_ = 0, evaluations_ = 0;
  SolverPoint<T> point_;
  Index first_ = 0, pairs_ = 0;
  AlignedBuffer<T> direction_, best_, best_grad_;
  AlignedBuffer<T> s_, y_;
  std::vector<double> sy_, yy_;  // s . y and y . y of each pair, by place in the ring
  std::vector<double> alphas_, partial_;
};

}  // namespace fastmlp
