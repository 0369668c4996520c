// The solver behind a Python object, with elements of type float or double. It is
// created at its first use.
#pragma once

#include <optional>
#include <stdexcept>

#include "arrays.h"
#include "fastmlp/network_objective.h"
#include "threading/exclusive_use.h"

namespace fastmlp::bindings {

template <template <class> class Solver, class Config>
struct AnySolver {
  Config config;
  std::optional<Solver<float>> f32;
  std::optional<Solver<double>> f64;
  BusyFlag busy;

  explicit AnySolver(const Config& c) : config(c) {}

  // The solver for element type T. Throws std::invalid_argument if a solver for the
  // other type exists.
  template <class T>
  Solver<T>& of() {
    if constexpr (std::is_same_v<T, float>) {
      if (f64)
        throw std::invalid_argument(
            "the solver's state is float64, but the parameters are float32");
      if (!f32) f32.emplace(config);
      return *f32;
    } else {
      if (f32)
        throw std::invalid_argument(
            "the solver's state is float32, but the parameters are float64");
      if (!f64) f64.emplace(config);
      return *f64;
    }
  }
  void reset() {
    f32.reset();
    f64.reset();
  }
};
using AnyLbfgs = AnySolver<Lbfgs, LbfgsConfig>;
using AnyLevenbergMarquardt = AnySolver<LevenbergMarquardt, LevenbergMarquardtConfig>;

// RAII: while alive, no other call can use the solver.
class SolverUse : public ExclusiveUse {
 public:
  template <class Any>
  explicit SolverUse(Any& solver)
      : ExclusiveUse(solver.busy, "the solver is in use by another thread") {}
};

inline py::tuple report_tuple(const SolverReport& r) {
  constexpr const char* kStatus[] = {"improved", "converged", "stalled", "not_finite"};
  return py::make_tuple(kStatus[static_cast<int>(r.status)], r.before, r.after,
                        r.gradient, r.step, r.evaluations);
}

}  // namespace fastmlp::bindings
