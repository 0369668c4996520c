// Parts of the solvers that Python cannot call: the Cholesky factorisation and the line
// search.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "fastmlp/isa.h"
#include "fastmlp/network_objective.h"
#include "fastmlp/threads.h"
#include "solvers/cholesky.h"
#include "solvers/line_search.h"

namespace {

using namespace fastmlp;

// A symmetric positive definite matrix: B^T B + I with B of small pseudo-random
// numbers.
std::vector<double> positive_matrix(Index n) {
  std::vector<double> b(static_cast<size_t>(n * n)), a(b.size(), 0.0);
  uint32_t state = 1;
  for (double& x : b) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<double>(state >> 8) / (1 << 24) - 0.5;
  }
  add_normal_matrix(a.data(), b.data(), n, n);
  for (Index i = 0; i < n; ++i) a[static_cast<size_t>(i * n + i)] += 1.0;
  return a;
}

// Sizes around multiples of the block size.
constexpr Index kSizes[] = {1, 2, 5, 63, 64, 65, 128, 200, 330};

void test_cholesky() {
  for (const Index n : kSizes) {
    const std::vector<double> a = positive_matrix(n);
    std::vector<double> l = a;
    CHECK(cholesky(l.data(), n));
    double worst = 0.0, most = 0.0;
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j <= i; ++j) {
        double sum = 0.0;
        for (Index k = 0; k <= j; ++k) {
          sum += l[static_cast<size_t>(i * n + k)] * l[static_cast<size_t>(j * n + k)];
        }
        const double exact = a[static_cast<size_t>(i * n + j)];
        worst = std::fmax(worst, std::fabs(sum - exact));
        most = std::fmax(most, std::fabs(exact));
      }
    }
    // The backward error of Cholesky's method is below (n + 1) eps times the diagonal.
    constexpr double kEps = std::numeric_limits<double>::epsilon();
    CHECK(worst <= static_cast<double>(n + 1) * kEps * most);

    std::vector<double> x(static_cast<size_t>(n));
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j < n; ++j) {
        const double aij = a[static_cast<size_t>(i > j ? i * n + j : j * n + i)];
        x[static_cast<size_t>(i)] += aij * static_cast<double>(j % 7 - 3);
      }
    }
    cholesky_solve(l.data(), n, x.data());
    for (Index i = 0; i < n; ++i) {
      // The condition numbers of these matrices are below their sizes.
      CHECK(std::fabs(x[static_cast<size_t>(i)] - static_cast<double>(i % 7 - 3)) <
            1e-11 * static_cast<double>(n));
    }
  }
}

void test_cholesky_refuses() {
  for (const Index n : kSizes) {
    for (const double bad :
         {-1.0, 0.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
      std::vector<double> a = positive_matrix(n);
      a.back() = bad;
      CHECK(!cholesky(a.data(), n));
    }
  }
}

void test_cholesky_same_bits() {
  const std::string initial = isa_name(active_isa());
  constexpr Index n = 330;
  std::vector<double> expected;
  for (const Isa isa : available_isas()) {
    set_active_isa(isa_name(isa));
    for (const int threads : {1, 3}) {
      set_num_threads(threads);
      std::vector<double> l = positive_matrix(n);
      CHECK(cholesky(l.data(), n));
      std::vector<double> x(static_cast<size_t>(n), 1.0);
      cholesky_solve(l.data(), n, x.data());
      if (expected.empty()) expected = x;
      CHECK(std::memcmp(expected.data(), x.data(), sizeof(double) * x.size()) == 0);
    }
  }
  set_num_threads(0);
  set_active_isa(initial);
}

struct Line {
  double value, slope;
};

// Functions 1 to 3 of More & Thuente's section 5, a quadratic, and one with a barrier.
Line line(int which, double t) {
  switch (which) {
    case 0: {
      constexpr double b = 2.0;
      return {-t / (t * t + b), (t * t - b) / ((t * t + b) * (t * t + b))};
    }
    case 1: {
      constexpr double b = 0.004;
      return {std::pow(t + b, 5) - 2 * std::pow(t + b, 4),
              5 * std::pow(t + b, 4) - 8 * std::pow(t + b, 3)};
    }
    case 2: {
      constexpr double b = 0.01, l = 39.0, pi = 3.14159265358979323846;
      const double base = t <= 1 - b   ? 1 - t
                          : t >= 1 + b ? t - 1
                                       : (t - 1) * (t - 1) / (2 * b) + b / 2;
      const double slope = t <= 1 - b ? -1 : t >= 1 + b ? 1 : (t - 1) / b;
      return {base + 2 * (1 - b) / (l * pi) * std::sin(l * pi / 2 * t),
              slope + (1 - b) * std::cos(l * pi / 2 * t)};
    }
    case 3:
      return {(t - 3) * (t - 3), 2 * (t - 3)};
    default:  // undefined for arguments >= 1
      if (t >= 1) return {std::nan(""), std::nan("")};
      return {-t - 0.05 * std::log(1 - t), -1 + 0.05 / (1 - t)};
  }
}

void test_line_search() {
  for (int which = 0; which < 5; ++which) {
    for (const double first : {1e-3, 1e-1, 1e1, 1e3}) {
      for (const double c2 : {0.9, 0.1}) {
        const Line start = line(which, 0.0);
        const LineSearch::Options options = {1e-4, c2, 40};
        LineSearch search(options, start.value, start.slope, first);
        auto verdict = LineSearch::Verdict::search;
        double t = 0.0;
        while (verdict == LineSearch::Verdict::search) {
          t = search.step();
          CHECK(t > 0.0);
          const Line here = line(which, t);
          verdict = search.observe(here.value, here.slope);
        }
        CHECK(verdict == LineSearch::Verdict::found);
        CHECK(search.best());
        const Line end = line(which, t);
        CHECK(end.value <= start.value + 1e-4 * t * start.slope);
        CHECK(std::fabs(end.slope) <= c2 * std::fabs(start.slope));
      }
    }
  }

  // On a function without a minimum, the search gives up and returns its best step.
  LineSearch search({1e-4, 0.9, 10}, 0.0, -1.0, 1.0);
  auto verdict = LineSearch::Verdict::search;
  while (verdict == LineSearch::Verdict::search) {
    verdict = search.observe(-search.step(), -1.0);
  }
  CHECK(verdict == LineSearch::Verdict::give_up);
  CHECK(search.any_decrease());
}

// With pairs for all dimensions, the curvature of a quadratic is exact, so few
// iterations are needed; the solver reports when it has converged.
void test_quadratic() {
  constexpr Index n = 5;
  const Objective<double> f = [](double* grad, const double* theta) {
    double value = 0.0;
    for (Index i = 0; i < n; ++i) {
      const double d = theta[i] - static_cast<double>(i);
      grad[i] = static_cast<double>(i + 1) * d;
      value += grad[i] * d / 2;
    }
    return value;
  };
  std::vector<double> theta(n, 10.0);
  Lbfgs<double> lbfgs({});
  SolverReport report;
  int iterations = 0;
  while (!report.finished() && iterations < 50) {
    report = lbfgs.iterate(theta.data(), n, f);
    ++iterations;
  }
  CHECK(report.status == SolverStatus::converged);
  CHECK(iterations <= 4 * n);
  for (Index i = 0; i < n; ++i) {
    CHECK(std::fabs(theta[static_cast<size_t>(i)] - static_cast<double>(i)) < 1e-6);
  }
}

// Rosenbrock's function as residuals, 10 (t1 - t0^2) and 1 - t0. `before_call` is called
// before each evaluation.
LeastSquares<double> rosenbrock(const std::function<void()>& before_call) {
  const auto residuals = [=](std::vector<double>& r, std::vector<double>& jacobian,
                             const double* t) {
    before_call();
    r = {10 * (t[1] - t[0] * t[0]), 1 - t[0]};
    jacobian = {-20 * t[0], 10, -1, 0};
  };
  return least_squares<double>(2, residuals);
}

// An iteration that ends with an exception, in whichever evaluation, leaves no trace:
// the next one continues as if it had not begun.
template <class Solver, class Iterate>
void test_interrupted(Solver make, Iterate iterate) {
  constexpr int kIterations = 12;
  const auto run = [&](int throws_at, bool& has_thrown) {
    int calls = 0;
    has_thrown = false;
    const LeastSquares<double> problem = rosenbrock([&] {
      if (++calls != throws_at) return;
      has_thrown = true;
      throw Interrupted();
    });
    auto solver = make();
    std::vector<double> t = {-1.2, 1.0};
    for (int i = 0; i < kIterations; ++i) {
      try {
        iterate(solver, t.data(), problem);
      } catch (const Interrupted&) {
        --i;
      }
    }
    t.push_back(static_cast<double>(solver.evaluations()));
    return t;
  };
  bool has_thrown = false;
  const std::vector<double> wanted = run(0, has_thrown);
  int at = 1;
  for (has_thrown = true; has_thrown; ++at) {
    CHECK(run(at, has_thrown) == wanted);
  }
  CHECK(at > kIterations);
}

void test_interrupted() {
  test_interrupted([] { return Lbfgs<double>(LbfgsConfig{}); },
                   [](auto& solver, double* t, const LeastSquares<double>& problem) {
                     solver.iterate(t, 2, problem.objective);
                   });
  test_interrupted(
      [] { return LevenbergMarquardt<double>(LevenbergMarquardtConfig{}); },
      [](auto& solver, double* t, const LeastSquares<double>& problem) {
        solver.iterate(t, 2, problem);
      });
}

}  // namespace

int main() {
  test_cholesky();
  test_cholesky_refuses();
  test_cholesky_same_bits();
  test_line_search();
  test_quadratic();
  test_interrupted();
  if (failures == 0) std::printf("all checks passed\n");
  return failures == 0 ? 0 : 1;
}
