#include <pybind11/critical_section.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "arrays.h"
#include "calls.h"
#include "fastmlp/kernel_table.h"
#include "fastmlp/mlp.h"
#include "fastmlp/random.h"
#include "names.h"
#include "network.h"
#include "optimizer_config.h"
#include "solvers.h"

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

py::object effective_params(AnyMlp& self) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    py::array_t<T> out(n.mlp.n_params());
    T* const to = out.mutable_data();
    without_gil([&] { n.mlp.effective_params(to); });
    return std::move(out);
  });
}

void set_frozen(AnyMlp& self, const std::vector<std::tuple<bool, bool, bool>>& given) {
  std::vector<Frozen> of_ops;
  for (const auto& [weight, bias, magnitude] : given) {
    of_ops.push_back({weight, bias, magnitude});
  }
  self.visit([&](auto& n) { without_gil([&] { n.mlp.set_frozen(of_ops); }); });
}

void set_rates(AnyMlp& self, const std::vector<double>& rates) {
  self.visit([&](auto& n) { without_gil([&] { n.mlp.set_rates(rates); }); });
}

std::vector<OpInfo> ops(AnyMlp& self) {
  return self.visit([&](auto& n) { return n.mlp.ops(); });
}

py::object last_step(AnyMlp& self) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const LastStep<T> last = without_gil([&] { return n.mlp.last_step(); });
    if (last.rows == 0) return py::none();
    py::dict result;
    result["rows"] = last.rows;
    result["grads"] = copy_of(last.grads);
    result["before"] = py::none();
    if (!last.before.empty()) result["before"] = copy_of(last.before);
    py::list outputs;
    for (const std::vector<T>& h : last.outputs) {
      const Index size = static_cast<Index>(h.size());
      outputs.append(copy_of(h, {last.rows, size / last.rows}));
    }
    result["outputs"] = outputs;
    return result;
  });
}

// A view of `out` if the outputs for the rows of x can be written there, else nullopt.
template <class T>
std::optional<ArrayView<T>> output_for(Mlp<T>& mlp, const Rows<T>& x, py::handle out) {
  const auto y = view<T>(out);
  const Index n_out = mlp.n_out();
  const bool fits = y && (y->ndim == 1) == x.is_vector &&
                    y->size() == x.count * n_out &&
                    (y->ndim == 1 || y->shape[1] == n_out);
  const auto overlaps = [&](const T* data, Index size) {
    return overlap(*y, {data, 1, {size, 1}});
  };
  if (!fits || overlaps(x.data, x.count * mlp.n_in()) ||
      overlaps(mlp.params(), mlp.n_params()) ||
      overlaps(mlp.buffers(), mlp.n_buffers())) {
    return std::nullopt;
  }
  return y;
}

py::object predict_sparse(AnyMlp& self, py::handle x, py::object out) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    SparseRows<T> sparse;
    const auto rows = sparse_rows_of<T>(x, n.mlp.n_in(), sparse);
    if (!rows) return not_implemented();
    const Shape shape(rows->count, n.mlp.n_out());
    const auto into = [&](T* y) { n.mlp.predict(y, sparse, rows->count); };
    if (out.is_none()) return new_arrays(n.mlp, rows->count, {shape}, into);
    const auto y = view<T>(out);
    if (!y || y->ndim != 2 || y->shape[0] != rows->count ||
        y->shape[1] != n.mlp.n_out()) {
      return not_implemented();
    }
    interruptible(operations(n.mlp, rows->count), [&] { into(y->data); });
    return out;
  });
}

py::object predict(AnyMlp& self, py::object x, py::object out) {
  if (py::isinstance<SparseMatrix>(x)) return predict_sparse(self, x, out);
  return with_rows(self, x, true, [&](auto& mlp, const auto& rows) -> py::object {
    const auto into = [&](auto* y) { mlp.predict(y, rows.data, rows.count); };
    if (out.is_none()) {
      return new_arrays(mlp, rows.count, {rows.output(mlp.n_out())}, into);
    }
    const auto y = output_for(mlp, rows, out);
    if (!y) return not_implemented();
    interruptible(operations(mlp, rows.count), [&] { into(y->data); });
    return out;
  });
}

// The fields of a Draw: (seed, epoch, step).
using DrawTuple = std::tuple<uint64_t, uint32_t, uint64_t>;

py::object forward(AnyMlp& self, py::object x, bool training,
                   const std::optional<DrawTuple>& numbers) {
  Draw draw;
  if (numbers) std::tie(draw.seed, draw.epoch, draw.step) = *numbers;
  return with_rows(self, x, false, [&](auto& mlp, const auto& rows) {
    return new_arrays(mlp, rows.count, {rows.output(mlp.n_out())}, [&](auto* y) {
      mlp.forward(y, rows.data, rows.count, training, numbers ? &draw : nullptr);
    });
  });
}

py::object backward(AnyMlp& self, py::object dy) {
  return with_output_gradient(self, dy, [&](auto& mlp, const auto* d, Index rows) {
    return new_arrays(mlp, rows, {Shape(rows, mlp.n_in()), mlp.n_params()},
                      [&](auto* dx, auto* grads) { mlp.backward(dx, grads, d, rows); });
  });
}

py::object backward_step(AnyMlp& self, py::object dy, Optimizer& optimizer) {
  return with_output_gradient(self, dy, [&](auto& mlp, const auto* d, Index rows) {
    interruptible(operations(mlp, rows),
                  [&] { mlp.backward_step(d, rows, optimizer); });
    return py::none();
  });
}

py::object update(AnyMlp& self, py::object grads, Optimizer& optimizer) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto g = view<const T>(grads);
    if (!g || g->ndim != 1 || g->size() != n.mlp.n_params()) return not_implemented();
    const ArrayView<T> params = {n.mlp.params(), 1, {g->size(), 1}};
    if (overlap(params, *g)) return not_implemented();
    without_gil([&] { n.mlp.update(g->data, optimizer); });
    return py::none();
  });
}

constexpr auto kInputWidth = [](const auto& mlp) { return mlp.n_in(); };
constexpr auto kOutputWidth = [](const auto& mlp) { return mlp.n_out(); };

py::object vjp(AnyMlp& self, py::object x, py::object dy, bool training) {
  return with_two_rows(
      self, x, dy, kOutputWidth, [&](auto& mlp, const auto& xs, const auto& dys) {
        return new_arrays(
            mlp, xs.count,
            {xs.output(mlp.n_out()), xs.output(mlp.n_in()), mlp.n_params()},
            [&](auto* y, auto* dx, auto* grads) {
              mlp.vjp(y, dx, grads, xs.data, dys.data, xs.count, training);
            });
      });
}

py::object jacobian(AnyMlp& self, py::object x) {
  return with_rows(self, x, true, [&](auto& mlp, const auto& rows) {
    const Index directions = std::min(mlp.n_in(), mlp.n_out());
    return new_arrays(
        mlp, rows.count, {rows.output(mlp.n_out(), mlp.n_in())},
        [&](auto* j) { mlp.jacobian(j, rows.data, rows.count); }, directions);
  });
}

py::object param_jacobian(AnyMlp& self, py::object x) {
  return with_rows(self, x, true, [&](auto& mlp, const auto& rows) {
    return new_arrays(
        mlp, rows.count, {rows.output(mlp.n_out(), mlp.n_params())},
        [&](auto* j) { mlp.param_jacobian(j, rows.data, rows.count); }, mlp.n_out());
  });
}

py::object jvp(AnyMlp& self, py::object x, py::object v) {
  return with_two_rows(
      self, x, v, kInputWidth, [&](auto& mlp, const auto& xs, const auto& vs) {
        const Shape shape = xs.output(mlp.n_out());
        return new_arrays(mlp, xs.count, {shape, shape}, [&](auto* y, auto* dy) {
          mlp.jvp(y, dy, xs.data, vs.data, xs.count);
        });
      });
}

// The weights w of the outputs in the function sum(w * y) that is differentiated twice.
// The Python layer has already converted them.
template <class T>
const T* output_weights(const Mlp<T>& mlp, py::handle weights) {
  return require<const T>(weights, "weights", {mlp.n_out()}).data;
}

py::object hvp(AnyMlp& self, py::object x, py::object v, py::object weights) {
  return with_two_rows(
      self, x, v, kInputWidth, [&](auto& mlp, const auto& xs, const auto& vs) {
        const auto* const w = output_weights(mlp, weights);
        return new_arrays(mlp, xs.count, {xs.output(mlp.n_in())}, [&](auto* hv) {
          mlp.hvp(hv, xs.data, vs.data, w, xs.count);
        });
      });
}

py::object hessian(AnyMlp& self, py::object x, py::object weights) {
  return with_rows(self, x, true, [&](auto& mlp, const auto& rows) {
    const auto* const w = output_weights(mlp, weights);
    return new_arrays(
        mlp, rows.count, {rows.output(mlp.n_in(), mlp.n_in())},
        [&](auto* h) { mlp.hessian(h, rows.data, w, rows.count); }, mlp.n_in());
  });
}

py::object per_sample_grads(AnyMlp& self, py::object x, py::object y, const Loss& loss,
                            py::object sample_weight) {
  return with_batch(self, x, y, loss, sample_weight, [&](auto& n, const auto& batch) {
    return new_arrays(n.mlp, batch.rows, {Shape(batch.rows, n.mlp.n_params())},
                      [&](auto* grads) { n.mlp.per_sample_grads(grads, batch, loss); });
  });
}

py::object value_and_grad(AnyMlp& self, py::object x, py::object y, const Loss& loss,
                          py::object sample_weight, bool training, double l2) {
  return with_batch<Sparse::taken>(
      self, x, y, loss, sample_weight, [&](auto& n, const auto& batch) {
        return new_arrays(n.mlp, batch.rows, {n.mlp.n_params()}, [&](auto* grads) {
          return n.mlp.value_and_grad(grads, batch, loss, training, l2);
        });
      });
}

py::object train_step(AnyMlp& self, py::handle x, py::handle y, const Loss& loss,
                      Optimizer& optimizer, py::handle sample_weight) {
  return with_batch<Sparse::taken>(
      self, x, y, loss, sample_weight, [&](auto& n, const auto& batch) {
        return py::float_(interruptible(operations(n.mlp, batch.rows), [&] {
          return n.mlp.train_step(batch, loss, optimizer);
        }));
      });
}

py::object evaluate(AnyMlp& self, py::object x, py::object y, const Loss& loss,
                    py::object sample_weight) {
  return with_batch<Sparse::taken>(
      self, x, y, loss, sample_weight, [&](auto& n, const auto& batch) {
        const bool is_long = operations(n.mlp, batch.rows) >= kLongFrom;
        return py::float_(interruptible(is_long, [&](const Interruption& interruption) {
          return n.mlp.evaluate(batch, loss, interruption);
        }));
      });
}

// Calls listener(step, loss) after each step. If the listener raises an exception, the
// epoch stops.
class StepCall {
 public:
  explicit StepCall(py::handle listener) : listener_(listener) {}
  StepListener listener() {
    return listener_.is_none() ? StepListener{} : StepListener{&StepCall::call, this};
  }

 private:
  static bool call(void* context, Index step, double loss) {
    const py::gil_scoped_acquire acquire;
    const CallbackFpEnvironment environment;
    const StoppedBy nothing(nullptr);  // stops calls of the listener's own
    const py::handle listener = static_cast<StepCall*>(context)->listener_;
    PyObject* result = PyObject_CallFunction(listener.ptr(), "nd",
                                             static_cast<Py_ssize_t>(step), loss);
    Py_XDECREF(result);
    return result != nullptr;
  }

  py::handle listener_;
};

// Between begin_fit and end_fit, no other fit of this model can begin in any thread or
// callback. Both functions are guarded by the GIL, or in free-threaded Python by the
// critical section. end_fit does nothing unless it gets the token of the running fit,
// so it may be called even if begin_fit has failed.
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
                     bool shuffle, const std::optional<py::dict>& scheduled,
                     Index first_row, py::object listener, py::object order, double l2,
                     py::object rates) {
  return with_batch<Sparse::taken>(
      self, x, y, loss, sample_weight, [&](auto& n, const auto& batch) {
        EpochOptions options;
        options.batch_size = batch_size;
        options.shuffle = shuffle;
        options.seed = seed;
        options.epoch = epoch;
        options.progress = &progress;
        options.first_row = first_row;
        StepCall call(listener);
        options.listener = call.listener();
        options.l2 = l2;
        if (!order.is_none()) {
          const auto numbers = require<const int64_t>(order, "order", {-1});
          options.order = numbers.data;
          options.n_order = numbers.shape[0];
        }
        const Index steps_left = options.steps_left(batch.rows);
        for (const auto& [key, values] : scheduled.value_or(py::dict())) {
          const auto name = py::cast<std::string>(key);
          options.scheduled.push_back(
              {number_named(name),
               require<const double>(values, name.c_str(), {steps_left}).data});
        }
        const Index n_random = n.mlp.n_random();
        if (!rates.is_none()) {
          options.rates =
              require<const double>(rates, "rates", {steps_left, n_random}).data;
        }
        const Index rows = options.order ? options.n_order : batch.rows;
        const Index steps = progress.steps;
        // While the GIL is released, the arguments of this function keep the arrays and
        // the other objects alive.
        return py::float_(interruptible(true, [&](const Interruption& interruption) {
          options.interruption = interruption;
          // If an interrupted epoch is run again, it continues after its last step.
          const Index done = progress.steps - steps;
          options.first_row = std::min(first_row + done * batch_size, rows);
          EpochOptions rest = options;
          for (EpochOptions::Scheduled& each : rest.scheduled) each.values += done;
          if (rest.rates) rest.rates += done * n_random;
          return n.mlp.fit_epoch(batch, loss, optimizer, rest, n.last_good);
        }));
      });
}

// An iteration of a second-order solver on all rows at once.
template <class Any, Sparse kSparse>
py::object iterate_with(AnyMlp& self, Any& solver, py::object x, py::object y,
                        const Loss& loss, py::object sample_weight, double l2) {
  return with_batch<kSparse>(
      self, x, y, loss, sample_weight, [&](auto& n, const auto& batch) {
        const SolverUse use(solver);
        auto& typed = solver.template of<decltype(element_of(n))>();
        return report_tuple(interruptible(true, [&](const Interruption& interruption) {
          return iterate(typed, n.mlp, batch, loss, interruption, l2);
        }));
      });
}

void interpolate(AnyMlp& self, AnyMlp& other, double weight) {
  self.visit([&](auto& n) {
    other.visit([&](auto& o) {
      if constexpr (std::is_same_v<decltype(n), decltype(o)>) {
        const py::gil_scoped_release release;
        n.mlp.interpolate(o.mlp, weight);
      } else {
        throw py::type_error("other must have the same dtype as this model");
      }
    });
  });
}

}  // namespace

void bind_mlp(py::module_& m) {
  using py::arg;
  const py::none none;
  py::register_exception<Diverged>(m, "DivergenceError", PyExc_FloatingPointError);
  def_init(new_class<EpochProgress>(m, "EpochProgress"),
           [] { return std::make_unique<EpochProgress>(); })
      .def_readwrite("steps", &EpochProgress::steps)
      .def_readwrite("total", &EpochProgress::total)
      .def_readwrite("divisor", &EpochProgress::divisor);
  m.attr("STEP_DRAWS") = kStepDraws;
  m.attr("PASS_DRAWS") = kPassDraws;
  m.attr("GATHER_PAYS") = kGatherPays;
  // A getter for the offset stored in `field`. It returns None if the op has no such
  // parameters.
  const auto offset = [](Index OpInfo::* field) {
    return [field](const OpInfo& op) {
      return op.*field < 0 ? std::nullopt : std::optional<Index>(op.*field);
    };
  };
  new_class<OpInfo>(m, "OpInfo")
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
                               return to_name(kActivationNames, op.activation.kind);
                             })
      .def_readonly("weight_size", &OpInfo::weight_size)
      .def_property_readonly("weight", offset(&OpInfo::weight))
      .def_property_readonly("bias", offset(&OpInfo::bias))
      .def_property_readonly("parametrization",
                             [](const OpInfo& op) {
                               return to_name(kParametrizationNames,
                                              op.parametrization);
                             })
      .def_property_readonly("magnitude", offset(&OpInfo::magnitude))
      .def_property_readonly("statistics", offset(&OpInfo::statistics))
      .def_property_readonly("weight_frozen",
                             [](const OpInfo& op) { return op.frozen.weight; })
      .def_property_readonly("bias_frozen",
                             [](const OpInfo& op) { return op.frozen.bias; })
      .def_property_readonly("magnitude_frozen",
                             [](const OpInfo& op) { return op.frozen.magnitude; });
  const auto make = [](const std::string& dtype, Index n_in, const py::sequence& layers,
                       const std::string& operands) {
    return std::make_unique<AnyMlp>(dtype, n_in, layers, operands);
  };
  def_init(new_class<AnyMlp>(m, "Mlp"), make, arg("dtype"), arg("n_in"), arg("layers"),
           arg("operands") = "full")
      .def_property_readonly("params", &params)
      .def_property_readonly("buffers", &buffers)
      .def("set_frozen", &set_frozen, arg("of_ops"))
      .def("set_rates", &set_rates, arg("rates"))
      .def("effective_params", &effective_params)
      .def("start_parametrizations",
           [](AnyMlp& self) {
             self.visit(
                 [](auto& n) { without_gil([&] { n.mlp.start_parametrizations(); }); });
           })
      .def_property_readonly(
          "takes_sparse",
          [](AnyMlp& self) {
            return self.visit([](auto& n) { return n.mlp.takes_sparse(); });
          })
      .def_property_readonly("ops", &ops)
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
      .def("update", &update, arg("grads"), arg("optimizer"))
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
      .def("iterate_lbfgs", &iterate_with<AnyLbfgs, Sparse::taken>, arg("solver"),
           arg("x"), arg("y"), arg("loss"), arg("sample_weight"), arg("l2") = 0.0)
      .def("iterate_lm", &iterate_with<AnyLevenbergMarquardt, Sparse::refused>,
           arg("solver"), arg("x"), arg("y"), arg("loss"), arg("sample_weight"),
           arg("l2") = 0.0)
      .def("begin_fit", &begin_fit, arg("token"))
      .def("end_fit", &end_fit, arg("token"))
      .def("fit_epoch", &fit_epoch, arg("x"), arg("y"), arg("loss"), arg("optimizer"),
           arg("sample_weight"), py::kw_only(), arg("batch_size"), arg("seed"),
           arg("epoch"), arg("progress"), arg("shuffle") = true,
           arg("scheduled") = none, arg("first_row") = 0, arg("listener") = none,
           arg("order") = none, arg("l2") = 0.0, arg("rates") = none)
      .def("interpolate", &interpolate, arg("other"), arg("weight"));
}

}  // namespace fastmlp::bindings
