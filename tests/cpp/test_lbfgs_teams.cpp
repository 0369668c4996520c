// L-BFGS gives the same bits with more threads than processors, when the members of a
// team leave their barriers at very different times.
#include <cstdio>
#include <vector>

#include "check.h"
#include "fastmlp/lbfgs.h"
#include "fastmlp/threads.h"

namespace {

using namespace fastmlp;

// The point after some iterations on sum(c (x - 1)^2) / 2, c from 1 to 10 by column.
std::vector<double> minimum(Index n, int threads, int iterations) {
  set_num_threads(threads);
  LbfgsConfig config;
  config.history = 10;
  Lbfgs<double> solver(config);
  const Objective<double> objective = [n](double* grad, const double* x) {
    double value = 0.0;
    for (Index i = 0; i < n; ++i) {
      const double c = 1 + 0.01 * static_cast<double>(i % 900);
      grad[i] = c * (x[i] - 1);
      value += grad[i] * (x[i] - 1) / 2;
    }
    return value;
  };
  std::vector<double> x(static_cast<size_t>(n), 0.0);
  for (int i = 0; i < iterations; ++i) solver.iterate(x.data(), n, objective);
  set_num_threads(0);
  return x;
}

}  // namespace

int main() {
  constexpr Index kSize = 300'000;  // enough for a team
  constexpr int kIterations = 25;
  const std::vector<double> alone = minimum(kSize, 1, kIterations);
  for (const int threads : {2, 5, 8})
    CHECK(minimum(kSize, threads, kIterations) == alone);
  if (failures == 0) std::printf("all checks passed\n");
  return failures == 0 ? 0 : 1;
}
