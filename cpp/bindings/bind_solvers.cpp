#include <algorithm>
#include <string>
#include <vector>

#include "interrupts.h"
#include "solvers.h"

namespace fastmlp::bindings {
namespace {

template <class T>
std::vector<T> taken(const py::dict& state, const char* name, Index rows, Index cols) {
  const auto array = rows < 0 ? require<const T>(state[name], name, {cols})
                              : require<const T>(state[name], name, {rows, cols});
  return {array.data, array.data + array.size()};
}

template <class T>
py::dict arrays_of(const typename Lbfgs<T>::State& s) {
  py::dict d;
  d["theta"] = copy_of(s.theta);
  d["grad"] = copy_of(s.grad);
  d["s"] = copy_of(s.s, {s.pairs, s.size});
  d["y"] = copy_of(s.y, {s.pairs, s.size});
  return d;
}

template <class T>
py::dict arrays_of(const typename LevenbergMarquardt<T>::State& s) {
  py::dict d;
  d["theta"] = copy_of(s.theta);
  d["grad"] = copy_of(s.grad);
  d["lambda"] = s.lambda;
  d["growth"] = s.growth;
  return d;
}

template <class T>
void fill(typename Lbfgs<T>::State& s, const py::dict& from) {
  const auto pairs = require<const T>(from["s"], "s", {-1, s.size});
  s.pairs = pairs.shape[0];
  s.s = taken<T>(from, "s", s.pairs, s.size);
  s.y = taken<T>(from, "y", s.pairs, s.size);
}

template <class T>
void fill(typename LevenbergMarquardt<T>::State& s, const py::dict& from) {
  s.lambda = py::cast<double>(from["lambda"]);
  s.growth = py::cast<double>(from["growth"]);
}

// If a solver exists, calls f(solver, zero), where zero has the solver's element type.
// Returns whether a solver exists.
template <class Any, class F>
bool with_solver(Any& any, F f) {
  if (any.f32) f(*any.f32, float{});
  if (any.f64) f(*any.f64, double{});
  return any.f32 || any.f64;
}

template <class Any>
py::dict state(Any& any) {
  const SolverUse use(any);
  py::dict result;
  result["step"] = 0;
  result["evaluations"] = 0;
  with_solver(any, [&](auto& solver, auto t) {
    using T = decltype(t);
    const auto s = solver.state();
    result["step"] = s.iterations;
    result["evaluations"] = s.evaluations;
    if (s.size == 0) return;
    result["value"] = s.value;
    result["arrays"] = arrays_of<T>(s);
  });
  return result;
}

template <class T, class Any, template <class> class Solver>
void load_as(Any& any, const py::dict& from) {
  typename Solver<T>::State s;
  s.iterations = py::cast<Index>(from["step"]);
  s.evaluations = py::cast<Index>(from["evaluations"]);
  if (from.contains("arrays")) {
    const auto arrays = py::cast<py::dict>(from["arrays"]);
    s.value = py::cast<double>(from["value"]);
    s.size = require<const T>(arrays["theta"], "theta", {-1}).size();
    s.theta = taken<T>(arrays, "theta", -1, s.size);
    s.grad = taken<T>(arrays, "grad", -1, s.size);
    fill<T>(s, arrays);
  }
  any.reset();
  any.template of<T>().load(s);
}

template <class Any, template <class> class Solver>
void load_state(Any& any, const py::dict& from) {
  const SolverUse use(any);
  const bool single =
      from.contains("arrays") &&
      view<const float>(py::cast<py::dict>(from["arrays"])["theta"]).has_value();
  if (single) {
    load_as<float, Any, Solver>(any, from);
  } else {
    load_as<double, Any, Solver>(any, from);
  }
}

template <class T>
py::array_t<T> point(const T* theta, Index n) {
  py::array_t<T> array(n);
  std::copy_n(theta, n, array.mutable_data());
  return array;
}

// Updates theta in place until the solver has finished, in at most max_iterations
// iterations. f(theta) returns (value, grad).
py::tuple minimize_lbfgs(AnyLbfgs& any, py::object theta, const py::function& f,
                         Index max_iterations) {
  const SolverUse use(any);
  SolverReport report;
  by_dtype(theta, "theta", [&](auto t) {
    using T = decltype(t);
    const auto at = require<T>(theta, "theta", {-1});
    const Index n = at.size();
    const Objective<T> objective = [&](T* grad, const T* where) {
      const StoppedBy nothing(nullptr);
      const CallbackFpEnvironment environment;
      const py::tuple result = f(point(where, n));
      const auto g = require<const T>(result[1], "grad", {n});
      std::copy_n(g.data, n, grad);
      return py::cast<double>(result[0]);
    };
    auto& solver = any.of<T>();
    Index i = 0;
    interruptible_with_gil([&] {
      for (; i < max_iterations && !report.finished(); ++i) {
        report = solver.iterate(at.data, n, objective);
      }
    });
  });
  return report_tuple(report);
}

// Like minimize_lbfgs, for a function f(theta) that returns (residuals, jacobian), both
// float64.
py::tuple minimize_lm(AnyLevenbergMarquardt& any, py::object theta,
                      const py::function& f, Index max_iterations) {
  const SolverUse use(any);
  SolverReport report;
  by_dtype(theta, "theta", [&](auto t) {
    using T = decltype(t);
    const auto at = require<T>(theta, "theta", {-1});
    const Index n = at.size();
    const auto residuals = [&](std::vector<double>& r, std::vector<double>& jacobian,
                               const T* where) {
      const StoppedBy nothing(nullptr);
      const CallbackFpEnvironment environment;
      const py::tuple result = f(point(where, n));
      const auto rv = require<const double>(result[0], "residuals", {-1});
      const auto jv = require<const double>(result[1], "jacobian", {rv.size(), n});
      r.assign(rv.data, rv.data + rv.size());
      jacobian.assign(jv.data, jv.data + jv.size());
    };
    const LeastSquares<T> problem = least_squares<T>(n, residuals);
    auto& solver = any.of<T>();
    Index i = 0;
    interruptible_with_gil([&] {
      for (; i < max_iterations && !report.finished(); ++i) {
        report = solver.iterate(at.data, n, problem);
      }
    });
  });
  return report_tuple(report);
}

template <class Any, template <class> class Solver>
py::class_<Any> bind_common(py::module_& m, const char* name) {
  py::class_<Any> c = new_class<Any>(m, name);
  c.def_property_readonly("iterations",
                          [](Any& any) {
                            Index n = 0;
                            with_solver(any,
                                        [&](auto& s, auto) { n = s.iterations(); });
                            return n;
                          })
      .def_property_readonly("evaluations",
                             [](Any& any) {
                               Index n = 0;
                               with_solver(any,
                                           [&](auto& s, auto) { n = s.evaluations(); });
                               return n;
                             })
      .def("expect_change",
           [](Any& any) {
             const SolverUse use(any);
             with_solver(any, [](auto& s, auto) { s.expect_change(); });
           })
      .def("reset",
           [](Any& any) {
             const SolverUse use(any);
             any.reset();
           })
      .def("state", &state<Any>)
      .def("load_state", &load_state<Any, Solver>, py::arg("state"));
  return c;
}

}  // namespace

void bind_solvers(py::module_& m) {
  using py::arg;
  const auto make_lbfgs = [](Index history, Index max_line_search, double c1, double c2,
                             double tolerance) {
    LbfgsConfig c;
    c.history = history;
    c.max_line_search = max_line_search;
    c.c1 = c1;
    c.c2 = c2;
    c.tolerance = tolerance;
    return std::make_unique<AnyLbfgs>(c);
  };
  def_init(bind_common<AnyLbfgs, Lbfgs>(m, "Lbfgs"), make_lbfgs, arg("history"),
           arg("max_line_search"), arg("c1"), arg("c2"), arg("tolerance"))
      .def("minimize", &minimize_lbfgs, arg("theta"), arg("f"), arg("max_iterations"));
  const auto make_lm = [](double damping, Index max_tries, double tolerance,
                          bool acceleration) {
    LevenbergMarquardtConfig c;
    c.damping = damping;
    c.max_tries = max_tries;
    c.tolerance = tolerance;
    c.acceleration = acceleration;
    return std::make_unique<AnyLevenbergMarquardt>(c);
  };
  def_init(
      bind_common<AnyLevenbergMarquardt, LevenbergMarquardt>(m, "LevenbergMarquardt"),
      make_lm, arg("damping"), arg("max_tries"), arg("tolerance"), arg("acceleration"))
      .def("minimize", &minimize_lm, arg("theta"), arg("f"), arg("max_iterations"));
}

}  // namespace fastmlp::bindings
