#include <pybind11/critical_section.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "arrays.h"
#include "fastmlp/dropout.h"
#include "fastmlp/mlp.h"
#include "names.h"
#include "network.h"
#include "solvers.h"
#include "targets.h"

namespace fastmlp::bindings {
namespace {

py::object params(py::object self) {
  return py::cast<AnyMlp&>(self).visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    return py::array_t<T>(n.mlp.n_params(), n.mlp.params(), self);
  });
}

py::object buffers(py::object self) {
  return py::cast<AnyMlp&>(self).visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    return py::array_t<T>(n.mlp.n_buffers(), n.mlp.buffers(), self);
  });
}

std::vector<OpInfo> ops(AnyMlp& self) {
  return self.visit([&](auto& n) { return n.mlp.ops(); });
}

// The same as (name, kind, n_in, n_out, offsets of weight, bias and statistics).
py::object layers(AnyMlp& self) {
  py::list list;
  for (const OpInfo& op : ops(self)) {
    list.append(py::make_tuple(op.name, layer_kind_name(op.kind), op.n_in, op.n_out,
                               op.weight, op.bias, op.statistics));
  }
  return list;
}

py::object last_step(AnyMlp& self) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    LastStep<T> last;
    {
      const py::gil_scoped_release release;
      last = n.mlp.last_step();
    }
    if (last.rows == 0) return py::none();
    // As a vector, or as a matrix of so many rows.
    const auto array = [](const std::vector<T>& from, Index rows) {
      const Index size = static_cast<Index>(from.size());
      auto made =
          rows == 0 ? new_array<T>(size, 1, 1) : new_array<T>(rows, size / rows, 2);
      std::copy_n(from.data(), size, made.mutable_data());
      return made;
    };
    py::dict result;
    result["rows"] = last.rows;
    result["grads"] = array(last.grads, 0);
    result["before"] = last.before.empty() ? py::object(py::none())
                                           : py::object(array(last.before, 0));
    py::list outputs;
    for (const std::vector<T>& h : last.outputs) outputs.append(array(h, last.rows));
    result["outputs"] = outputs;
    return result;
  });
}

py::object predict(AnyMlp& self, py::object x, py::object out) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto xv = rows_of<T>(x, n.mlp.n_in(), true);
    if (!xv) return not_implemented();
    const Index n_out = n.mlp.n_out();
    if (out.is_none()) out = new_array<T>(xv->shape[0], n_out, xv->ndim);
    const auto yv = view<T>(out);
    if (!yv || yv->ndim != xv->ndim || yv->size() != xv->shape[0] * n_out ||
        (yv->ndim == 2 && yv->shape[1] != n_out) || overlap(*yv, *xv) ||
        overlap(*yv, {n.mlp.params(), 1, {n.mlp.n_params(), 1}}) ||
        overlap(*yv, {n.mlp.buffers(), 1, {n.mlp.n_buffers(), 1}})) {
      return not_implemented();
    }
    {
      const py::gil_scoped_release release;
      n.mlp.predict(yv->data, xv->data, xv->shape[0]);
    }
    return out;
  });
}

// (seed, epoch, step), see dropout.h
using DrawTuple = std::tuple<uint64_t, uint32_t, uint64_t>;

py::object forward(AnyMlp& self, py::object x, bool training,
                   const std::optional<DrawTuple>& numbers) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto xv = rows_of<T>(x, n.mlp.n_in(), false);
    if (!xv) return not_implemented();
    auto y = new_array<T>(xv->shape[0], n.mlp.n_out(), 2);
    T* const data = y.mutable_data();
    {
      const py::gil_scoped_release release;
      Draw draw;
      if (numbers) std::tie(draw.seed, draw.epoch, draw.step) = *numbers;
      n.mlp.forward(data, xv->data, xv->shape[0], training, numbers ? &draw : nullptr);
    }
    return y;
  });
}

py::object backward(AnyMlp& self, py::object dy) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const Index rows = n.mlp.forward_rows();
    const auto dv = rows_of<T>(dy, n.mlp.n_out(), false);
    if (rows > 0 && (!dv || dv->shape[0] != rows)) return not_implemented();
    auto dx = new_array<T>(rows, n.mlp.n_in(), 2);
    auto grads = new_array<T>(n.mlp.n_params(), 1, 1);
    T* const dx_data = dx.mutable_data();
    T* const grads_data = grads.mutable_data();
    {
      const py::gil_scoped_release release;
      n.mlp.backward(dx_data, grads_data, dv ? dv->data : nullptr, rows);
    }
    return py::make_tuple(dx, grads);
  });
}

py::object backward_step(AnyMlp& self, py::object dy, Optimizer& optimizer) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const Index rows = n.mlp.forward_rows();
    const auto dv = rows_of<T>(dy, n.mlp.n_out(), false);
    if (rows > 0 && (!dv || dv->shape[0] != rows)) return not_implemented();
    const py::gil_scoped_release release;
    n.mlp.backward_step(dv ? dv->data : nullptr, rows, optimizer);
    return py::none();
  });
}

py::object vjp(AnyMlp& self, py::object x, py::object dy, bool training) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto xv = rows_of<T>(x, n.mlp.n_in(), true);
    const auto dv = rows_of<T>(dy, n.mlp.n_out(), true);
    if (!xv || !dv || xv->ndim != dv->ndim || xv->shape[0] != dv->shape[0]) {
      return not_implemented();
    }
    auto y = new_array<T>(xv->shape[0], n.mlp.n_out(), xv->ndim);
    auto dx = new_array<T>(xv->shape[0], n.mlp.n_in(), xv->ndim);
    auto grads = new_array<T>(n.mlp.n_params(), 1, 1);
    T* const y_data = y.mutable_data();
    T* const dx_data = dx.mutable_data();
    T* const grads_data = grads.mutable_data();
    {
      const py::gil_scoped_release release;
      n.mlp.vjp(y_data, dx_data, grads_data, xv->data, dv->data, xv->shape[0],
                training);
    }
    return py::make_tuple(y, dx, grads);
  });
}

// A new array of (rows, a, b), without the rows if x is one row; the last is left out
// if b is negative.
template <class T>
py::array_t<T> array_by_row(const ArrayView<const T>& x, Index a, Index b) {
  std::vector<Index> shape;
  if (x.ndim == 2) shape.push_back(x.shape[0]);
  shape.push_back(a);
  if (b >= 0) shape.push_back(b);
  return py::array_t<T>(shape);
}

py::object jacobian(AnyMlp& self, py::object x) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto xv = rows_of<T>(x, n.mlp.n_in(), true);
    if (!xv) return not_implemented();
    auto j = array_by_row<T>(*xv, n.mlp.n_out(), n.mlp.n_in());
    T* const data = j.mutable_data();
    {
      const py::gil_scoped_release release;
      n.mlp.jacobian(data, xv->data, xv->shape[0]);
    }
    return j;
  });
}

py::object param_jacobian(AnyMlp& self, py::object x) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto xv = rows_of<T>(x, n.mlp.n_in(), true);
    if (!xv) return not_implemented();
    auto j = array_by_row<T>(*xv, n.mlp.n_out(), n.mlp.n_params());
    T* const data = j.mutable_data();
    {
      const py::gil_scoped_release release;
      n.mlp.param_jacobian(data, xv->data, xv->shape[0]);
    }
    return j;
  });
}

py::object jvp(AnyMlp& self, py::object x, py::object v) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto xv = rows_of<T>(x, n.mlp.n_in(), true);
    const auto vv = rows_of<T>(v, n.mlp.n_in(), true);
    if (!xv || !vv || xv->ndim != vv->ndim || xv->shape[0] != vv->shape[0]) {
      return not_implemented();
    }
    auto y = array_by_row<T>(*xv, n.mlp.n_out(), -1);
    auto dy = array_by_row<T>(*xv, n.mlp.n_out(), -1);
    T* const y_data = y.mutable_data();
    T* const dy_data = dy.mutable_data();
    {
      const py::gil_scoped_release release;
      n.mlp.jvp(y_data, dy_data, xv->data, vv->data, xv->shape[0]);
    }
    return py::make_tuple(y, dy);
  });
}

py::object hvp(AnyMlp& self, py::object x, py::object v, py::object weights) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto xv = rows_of<T>(x, n.mlp.n_in(), true);
    const auto vv = rows_of<T>(v, n.mlp.n_in(), true);
    const T* const w = require<const T>(weights, "weights", {n.mlp.n_out()}).data;
    if (!xv || !vv || xv->ndim != vv->ndim || xv->shape[0] != vv->shape[0]) {
      return not_implemented();
    }
    auto hv = array_by_row<T>(*xv, n.mlp.n_in(), -1);
    T* const data = hv.mutable_data();
    {
      const py::gil_scoped_release release;
      n.mlp.hvp(data, xv->data, vv->data, w, xv->shape[0]);
    }
    return hv;
  });
}

py::object hessian(AnyMlp& self, py::object x, py::object weights) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto xv = rows_of<T>(x, n.mlp.n_in(), true);
    const T* const w = require<const T>(weights, "weights", {n.mlp.n_out()}).data;
    if (!xv) return not_implemented();
    auto h = array_by_row<T>(*xv, n.mlp.n_in(), n.mlp.n_in());
    T* const data = h.mutable_data();
    {
      const py::gil_scoped_release release;
      n.mlp.hessian(data, xv->data, w, xv->shape[0]);
    }
    return h;
  });
}

// The batch that (x, y, sample_weight) make, if they can be used as they are.
template <class T>
std::optional<Batch<T>> batch_of(const Mlp<T>& mlp, py::handle x, py::handle y,
                                 const Loss& loss, py::handle sample_weight) {
  const auto xv = rows_of<T>(x, mlp.n_in(), false);
  if (!xv) return std::nullopt;
  const Index rows = xv->shape[0];
  const auto targets = targets_of<T>(y, sample_weight, loss, rows, mlp.n_out());
  if (!targets) return std::nullopt;
  return Batch<T>{xv->data, *targets, rows};
}

py::object per_sample_grads(AnyMlp& self, py::object x, py::object y, const Loss& loss,
                            py::object sample_weight) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto batch = batch_of<T>(n.mlp, x, y, loss, sample_weight);
    if (!batch) return not_implemented();
    auto grads = new_array<T>(batch->rows, n.mlp.n_params(), 2);
    T* const data = grads.mutable_data();
    {
      const py::gil_scoped_release release;
      n.mlp.per_sample_grads(data, *batch, loss);
    }
    return grads;
  });
}

void check_l2(double l2) {
  if (!std::isfinite(l2) || l2 < 0) {
    throw py::value_error("l2: must be finite and not negative, got " +
                          py::repr(py::float_(l2)).cast<std::string>());
  }
}

py::object value_and_grad(AnyMlp& self, py::object x, py::object y, const Loss& loss,
                          py::object sample_weight, bool training, double l2) {
  check_l2(l2);
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto batch = batch_of<T>(n.mlp, x, y, loss, sample_weight);
    if (!batch) return not_implemented();
    auto grads = new_array<T>(n.mlp.n_params(), 1, 1);
    T* const grads_data = grads.mutable_data();
    double value = 0.0;
    {
      const py::gil_scoped_release release;
      value = n.mlp.value_and_grad(grads_data, *batch, loss, training, l2);
    }
    return py::make_tuple(value, grads);
  });
}

py::object train_step(AnyMlp& self, py::object x, py::object y, const Loss& loss,
                      Optimizer& optimizer, py::object sample_weight) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto batch = batch_of<T>(n.mlp, x, y, loss, sample_weight);
    if (!batch) return not_implemented();
    double value = 0.0;
    {
      const py::gil_scoped_release release;
      value = n.mlp.train_step(*batch, loss, optimizer);
    }
    return py::float_(value);
  });
}

// Looks for Ctrl-C now and then: taking the GIL costs more than a small step.
class SignalPoll {
 public:
  Interruption interruption() { return {&SignalPoll::requested, this}; }

 private:
  static bool requested(void* context) {
    auto* poll = static_cast<SignalPoll*>(context);
    const Clock::time_point now = Clock::now();
    if (now < poll->next) return false;
    poll->next = now + kEvery;
    const py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
  }

  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kEvery{20};
  Clock::time_point next = Clock::now() + kEvery;
};

// Calls listener(step, loss) after each step; what it raises stops the epoch.
class StepCall {
 public:
  explicit StepCall(py::handle listener) : listener_(listener) {}
  StepListener listener() {
    return listener_.is_none() ? StepListener{} : StepListener{&StepCall::call, this};
  }

 private:
  static bool call(void* context, Index step, double loss) {
    const py::gil_scoped_acquire acquire;
    const py::handle listener = static_cast<StepCall*>(context)->listener_;
    PyObject* result = PyObject_CallFunction(listener.ptr(), "nd",
                                             static_cast<Py_ssize_t>(step), loss);
    Py_XDECREF(result);
    return result != nullptr;
  }

  py::handle listener_;
};

py::object evaluate(AnyMlp& self, py::object x, py::object y, const Loss& loss,
                    py::object sample_weight) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto batch = batch_of<T>(n.mlp, x, y, loss, sample_weight);
    if (!batch) return not_implemented();
    SignalPoll poll;
    double value = 0.0;
    try {
      const py::gil_scoped_release release;
      value = n.mlp.evaluate(*batch, loss, poll.interruption());
    } catch (const Interrupted&) {
      throw py::error_already_set();
    }
    return py::float_(value);
  });
}

// Between the two, no other fit of this model can begin, in whichever thread or
// callback. The GIL guards them, or the critical section where there is no GIL. Only
// the token that began a fit ends it, so that a caller may end its fit without knowing
// whether the beginning was refused.
void begin_fit(py::object self, py::object token) {
  const py::scoped_critical_section section(self);
  py::cast<AnyMlp&>(self).visit([&](auto& n) {
    if (!n.fitting.try_set()) {
      throw std::runtime_error("another fit of this model is under way");
    }
    n.fit_token = token;
    n.last_good.valid = false;
  });
}

void end_fit(py::object self, py::object token) {
  const py::scoped_critical_section section(self);
  py::cast<AnyMlp&>(self).visit([&](auto& n) {
    if (!token.is(n.fit_token)) return;
    n.fit_token = py::object();
    n.fitting.clear();
  });
}

py::object fit_epoch(AnyMlp& self, py::object x, py::object y, const Loss& loss,
                     Optimizer& optimizer, py::object sample_weight, Index batch_size,
                     uint64_t seed, uint32_t epoch, EpochProgress& progress,
                     bool shuffle, py::object lr, Index first_row, py::object listener,
                     py::object order, double l2) {
  if (batch_size < 1) throw py::value_error("batch_size: must be at least 1");
  check_l2(l2);
  if (!order.is_none() && shuffle)
    throw py::value_error("order: not with shuffle=True");
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto batch = batch_of<T>(n.mlp, x, y, loss, sample_weight);
    if (!batch) return not_implemented();
    SignalPoll poll;
    EpochOptions options;
    options.batch_size = batch_size;
    options.shuffle = shuffle;
    options.seed = seed;
    options.epoch = epoch;
    options.progress = &progress;
    options.first_row = first_row;
    options.interruption = poll.interruption();
    StepCall call(listener);
    options.listener = call.listener();
    options.l2 = l2;
    Index rows = batch->rows;
    if (!order.is_none()) {
      const auto numbers = require<const int64_t>(order, "order", {-1});
      rows = options.n_order = numbers.shape[0];
      options.order = numbers.data;
      if (rows == 0) throw py::value_error("order: there must be at least one row");
    }
    if (first_row < 0 || first_row > rows)
      throw py::value_error("first_row: must be a row, or how many there are");
    const Index steps = (rows - first_row + batch_size - 1) / batch_size;
    options.lr = require_or_null<const double>(lr, "lr", {steps});
    double value = 0.0;
    try {
      // The arrays and objects are held by this call's arguments.
      const py::gil_scoped_release release;
      value = n.mlp.fit_epoch(*batch, loss, optimizer, options, n.last_good);
    } catch (const Interrupted&) {
      throw py::error_already_set();
    }
    return py::float_(value);
  });
}

// One iteration of a second-order solver on all rows at once.
template <class Any>
py::object iterate_with(AnyMlp& self, Any& solver, py::object x, py::object y,
                        const Loss& loss, py::object sample_weight) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto batch = batch_of<T>(n.mlp, x, y, loss, sample_weight);
    if (!batch) return not_implemented();
    const SolverUse use(solver);
    auto& typed = solver.template of<T>();
    SignalPoll poll;
    SolverReport report;
    try {
      const py::gil_scoped_release release;
      report = iterate(typed, n.mlp, *batch, loss, poll.interruption());
    } catch (const Interrupted&) {
      throw py::error_already_set();
    }
    return report_tuple(report);
  });
}

void interpolate(AnyMlp& self, AnyMlp& other, double weight) {
  self.visit([&](auto& n) {
    other.visit([&](auto& o) {
      if constexpr (std::is_same_v<decltype(n), decltype(o)>) {
        const py::gil_scoped_release release;
        n.mlp.interpolate(o.mlp, weight);
      } else {
        throw py::type_error("other: has parameters of another dtype");
      }
    });
  });
}

}  // namespace

void bind_mlp(py::module_& m) {
  using py::arg;
  const py::none none;
  py::register_exception<Diverged>(m, "DivergenceError", PyExc_FloatingPointError);
  py::class_<EpochProgress>(m, "EpochProgress")
      .def(py::init<>())
      .def_readwrite("steps", &EpochProgress::steps)
      .def_readwrite("total", &EpochProgress::total)
      .def_readwrite("divisor", &EpochProgress::divisor);
  m.attr("STEP_DRAWS") = kStepDraws;
  m.attr("PASS_DRAWS") = kPassDraws;
  // An offset, or None where there is nothing.
  const auto offset = [](Index OpInfo::* field) {
    return [field](const OpInfo& op) {
      return op.*field < 0 ? std::nullopt : std::optional<Index>(op.*field);
    };
  };
  py::class_<OpInfo>(m, "OpInfo")
      .def_readonly("name", &OpInfo::name)
      .def_property_readonly("kind",
                             [](const OpInfo& op) { return layer_kind_name(op.kind); })
      .def_readonly("n_in", &OpInfo::n_in)
      .def_readonly("n_out", &OpInfo::n_out)
      .def_readonly("input", &OpInfo::input)
      .def_property_readonly("other",
                             [](const OpInfo& op) -> std::optional<int> {
                               if (op.other == OpInfo::kNone) return std::nullopt;
                               return op.other;
                             })
      .def_property_readonly("activation",
                             [](const OpInfo& op) -> std::optional<const char*> {
                               if (op.has_custom) return std::nullopt;
                               return to_name(kActivationNames, op.activation);
                             })
      .def_property_readonly("weight", offset(&OpInfo::weight))
      .def_property_readonly("bias", offset(&OpInfo::bias))
      .def_property_readonly("statistics", offset(&OpInfo::statistics));
  py::class_<AnyMlp>(m, "Mlp")
      .def(py::init<const std::string&, Index, const py::sequence&>(), arg("dtype"),
           arg("n_in"), arg("layers"))
      .def_property_readonly("params", &params)
      .def_property_readonly("buffers", &buffers)
      .def_property_readonly("ops", &ops)
      .def_property_readonly("layers", &layers)
      .def_property(
          "training_state",
          [](AnyMlp& self) {
            return self.visit([](auto& n) {
              const TrainingState s = n.mlp.training_state();
              return py::make_tuple(s.seed, s.passes, s.batches_tracked);
            });
          },
          [](AnyMlp& self, const std::tuple<uint64_t, uint64_t, int64_t>& state) {
            self.visit([&](auto& n) {
              const py::gil_scoped_release release;
              n.mlp.set_training_state(
                  {std::get<0>(state), std::get<1>(state), std::get<2>(state)});
            });
          })
      .def_property(
          "watch",
          [](AnyMlp& self) {
            return self.visit([](auto& n) { return n.mlp.watch(); });
          },
          [](AnyMlp& self, bool on) {
            self.visit([&](auto& n) { n.mlp.set_watch(on); });
          })
      .def("last_step", &last_step)
      .def_property_readonly(
          "n_params",
          [](AnyMlp& self) {
            return self.visit([](auto& n) { return n.mlp.n_params(); });
          })
      .def("predict", &predict, arg("x"), arg("out") = none)
      .def("forward", &forward, arg("x"), arg("training") = false, arg("draw") = none)
      .def("backward", &backward, arg("dy"))
      .def("backward_step", &backward_step, arg("dy"), arg("optimizer"))
      .def("vjp", &vjp, arg("x"), arg("dy"), arg("training") = false)
      .def("jacobian", &jacobian, arg("x"))
      .def("jvp", &jvp, arg("x"), arg("v"))
      .def("hvp", &hvp, arg("x"), arg("v"), arg("weights"))
      .def("hessian", &hessian, arg("x"), arg("weights"))
      .def("param_jacobian", &param_jacobian, arg("x"))
      .def("per_sample_grads", &per_sample_grads, arg("x"), arg("y"), arg("loss"),
           arg("sample_weight") = none)
      .def("value_and_grad", &value_and_grad, arg("x"), arg("y"), arg("loss"),
           arg("sample_weight") = none, arg("training") = false, arg("l2") = 0.0)
      .def("train_step", &train_step, arg("x"), arg("y"), arg("loss"), arg("optimizer"),
           arg("sample_weight") = none)
      .def("evaluate", &evaluate, arg("x"), arg("y"), arg("loss"),
           arg("sample_weight") = none)
      .def("iterate_lbfgs", &iterate_with<AnyLbfgs>, arg("solver"), arg("x"), arg("y"),
           arg("loss"), arg("sample_weight"))
      .def("iterate_lm", &iterate_with<AnyLevenbergMarquardt>, arg("solver"), arg("x"),
           arg("y"), arg("loss"), arg("sample_weight"))
      .def("begin_fit", &begin_fit, arg("token"))
      .def("end_fit", &end_fit, arg("token"))
      .def("fit_epoch", &fit_epoch, arg("x"), arg("y"), arg("loss"), arg("optimizer"),
           arg("sample_weight"), py::kw_only(), arg("batch_size"), arg("seed"),
           arg("epoch"), arg("progress"), arg("shuffle") = true, arg("lr") = none,
           arg("first_row") = 0, arg("listener") = none, arg("order") = none,
           arg("l2") = 0.0)
      .def("interpolate", &interpolate, arg("other"), arg("weight"));
}

}  // namespace fastmlp::bindings
