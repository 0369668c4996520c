// Inference bound to an input buffer and an output buffer, so that a call has almost
// nothing to check.
#include <pybind11/pybind11.h>

#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "arrays.h"
#include "calls.h"
#include "network.h"
#include "threading/exclusive_use.h"

namespace fastmlp::bindings {
namespace {

// Calls share the buffers, so only one may run at a time.
constexpr const char* kBusy =
    "this predictor is already in use, by another thread or by a call further up the "
    "stack; it has only one pair of buffers, so create one predictor for each";

class Predictor {
 public:
  // `convert`: a Python function that converts its argument to an array that can be
  // used in place of x, or raises an exception. `functions` is only kept alive: the
  // network refers weakly to the functions of custom activations.
  Predictor(py::object net, py::object x, py::object y, py::object convert,
            py::object functions)
      : net_(std::move(net)),
        x_(std::move(x)),
        y_(std::move(y)),
        convert_(std::move(convert)),
        functions_(std::move(functions)),
        held_(py::make_tuple(x_, y_)),
        any_(&py::cast<AnyMlp&>(net_)) {
    any_->visit([&](auto& n) {
      using T = decltype(element_of(n));
      const auto rows = rows_of<T>(x_, n.mlp.n_in(), true);
      const auto yv = view<T>(y_);
      if (!rows || !yv || yv->size() != rows->count * n.mlp.n_out()) {
        throw py::value_error("x and y must have the network's dtype and widths");
      }
      rows_ = rows->count;
      ndim_ = py::cast<py::array>(x_).ndim();
      from_ = rows->data;
      to_ = yv->data;
    });
  }

  // Python objects through which a predictor may refer to itself.
  int visit(visitproc visitor, void* arg) const {
    for (const py::object* object : {&convert_, &functions_}) {
      if (const int stop = visitor(object->ptr(), arg)) return stop;
    }
    return 0;
  }
  void clear() {
    convert_ = py::none();
    functions_ = py::none();
  }

  const py::object& x() const { return x_; }
  const py::object& y() const { return y_; }

 private:
  // A view of x if it can be used without conversion, else nullopt. (Clang 14 does not
  // instantiate it unless it is defined before call.)
  template <class T>
  std::optional<ArrayView<const T>> fitting(py::handle x, Index n_in) const {
    const auto xv = view<const T>(x);
    const bool fits = xv && xv->ndim == ndim_ && xv->size() == rows_ * n_in &&
                      xv->shape[0] == (ndim_ == 1 ? n_in : rows_) &&
                      !overlap({static_cast<T*>(to_), 1, {y_size(), 1}}, *xv);
    return fits ? xv : std::nullopt;
  }

 public:
  // Without an argument, the input is the buffer x.
  py::object call(py::handle argument) {
    const ExclusiveUse use(busy_, kBusy);
    return any_->visit([&](auto& n) -> py::object {
      using T = decltype(element_of(n));
      const T* from = static_cast<const T*>(from_);
      py::object converted;
      if (argument) {
        auto xv = fitting<T>(argument, n.mlp.n_in());
        if (!xv) {
          converted = convert_(argument);
          xv = fitting<T>(converted, n.mlp.n_in());
          if (!xv)
            throw py::value_error("x must have the shape of the predictor's buffer");
        }
        from = xv->data;
      }
      interruptible(operations(n.mlp, rows_),
                    [&] { n.mlp.predict(static_cast<T*>(to_), from, rows_); });
      return y_;
    });
  }

 private:
  Index y_size() const { return py::reinterpret_borrow<py::array>(y_).size(); }

  py::object net_, x_, y_, convert_, functions_;
  // Extra references to x and y: numpy refuses resize() on arrays with a reference
  // count above 1.
  py::tuple held_;
  AnyMlp* any_;
  Index rows_ = 0, ndim_ = 0;
  const void* from_ = nullptr;
  void* to_ = nullptr;
  BusyFlag busy_;
};

// Installed as tp_call, because in a call of a small network, pybind11's dispatch would
// take a large part of the time.
PyObject* call(PyObject* self, PyObject* args, PyObject* kwargs) {
  const Py_ssize_t given = PyTuple_GET_SIZE(args);
  if (given > 1 || (kwargs && PyDict_GET_SIZE(kwargs) > 0)) {
    PyErr_SetString(PyExc_TypeError,
                    "a predictor takes one argument, x, or none to use its buffer");
    return nullptr;
  }
  try {
    auto* const instance = reinterpret_cast<py::detail::instance*>(self);
    auto* const predictor = instance->get_value_and_holder().value_ptr<Predictor>();
    if (!predictor) throw py::value_error("this predictor has not been initialised");
    const PyObject* const argument = given == 1 ? PyTuple_GET_ITEM(args, 0) : nullptr;
    return predictor->call(py::handle(const_cast<PyObject*>(argument))).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// The value of a Python object of the class, or null if it is not complete.
Predictor* value_of(PyObject* self) {
  if (!py::detail::is_holder_constructed(self)) return nullptr;
  auto* const instance = reinterpret_cast<py::detail::instance*>(self);
  return instance->get_value_and_holder().value_ptr<Predictor>();
}

// The functions that Python's garbage collector calls: custom activations may refer to
// an object that holds the predictor.
int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  const Predictor* const predictor = value_of(self);
  return predictor ? predictor->visit(visit, arg) : 0;
}
int clear(PyObject* self) {
  if (Predictor* const predictor = value_of(self)) predictor->clear();
  return 0;
}

}  // namespace

void bind_predictor(py::module_& m) {
  using py::arg;
  const auto set_up = py::custom_type_setup([](PyHeapTypeObject* heap) {
    PyTypeObject& type = heap->ht_type;
    type.tp_call = &call;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = &traverse;
    type.tp_clear = &clear;
  });
  const auto make = [](py::object net, py::object x, py::object y, py::object convert,
                       py::object functions) {
    return std::make_unique<Predictor>(std::move(net), std::move(x), std::move(y),
                                       std::move(convert), std::move(functions));
  };
  def_init(new_class<Predictor>(m, "Predictor", set_up,
                                "Inference bound to the buffers x and y: what "
                                "fastmlp.MLP.predictor returns."),
           make, arg("net"), arg("x"), arg("y"), arg("convert"), arg("functions"))
      .def_property_readonly("x", &Predictor::x)
      .def_property_readonly("y", &Predictor::y)
      .def("__repr__", [](const Predictor& self) {
        return py::str("<Predictor: {} {} -> {}>")
            .format(self.x().attr("dtype"), self.x().attr("shape"),
                    self.y().attr("shape"));
      });
}

}  // namespace fastmlp::bindings
