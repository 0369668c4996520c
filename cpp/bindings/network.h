// The network behind a Python object, with elements of type float or double, and the
// state of a fit.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "arrays.h"
#include "fastmlp/mlp.h"
#include "names.h"
#include "threading/exclusive_use.h"

namespace fastmlp::bindings {

template <class T>
struct Network {
  Mlp<T> mlp;
  LastGoodState<T> last_good;  // of the running fit
  BusyFlag fitting;            // set during a fit
  py::object fit_token;        // identifies that fit

  // Python sets the parameters itself.
  Network(Index n_in, std::vector<LayerSpec> layers, Operands operands)
      : mlp(n_in, std::move(layers), std::nullopt, operands) {}
};

// An activation given by a Python object with two functions of arrays: `function`,
// z -> h, and `derivative`, z -> dh/dz.
//
// The reference to the object is weak, and the model in Python holds the object. The
// functions may refer to the model (bound methods often do), and Python's garbage
// collector could not see a cycle through this class, because it does not look into the
// arrays that share a network's memory.
class PythonActivation : public CustomActivation {
 public:
  explicit PythonActivation(py::object functions) : functions_(functions) {}
  ~PythonActivation() override {
    const py::gil_scoped_acquire acquire;
    functions_ = py::object();
  }
  PythonActivation(const PythonActivation&) = delete;
  PythonActivation& operator=(const PythonActivation&) = delete;
  void forward(float* h, const float* z, Index n) const override {
    call("function", h, z, n);
  }
  void forward(double* h, const double* z, Index n) const override {
    call("function", h, z, n);
  }
  void derivative(float* d, const float* z, Index n) const override {
    call("derivative", d, z, n);
  }
  void derivative(double* d, const double* z, Index n) const override {
    call("derivative", d, z, n);
  }

 private:
  // out = f(in). The Python function gets a copy of `in`, which it may keep after the
  // call.
  template <class T>
  void call(const char* what, T* out, const T* in, Index n) const {
    const py::gil_scoped_acquire acquire;
    const CallbackFpEnvironment environment;
    const py::object functions = functions_();
    if (functions.is_none()) {
      throw std::runtime_error(
          "the model with this custom activation does not exist any more");
    }
    const py::object f = functions.attr(what);
    const StoppedBy nothing(nullptr);  // stops calls of the function's own
    py::array_t<T> argument(n);
    std::copy_n(in, n, argument.mutable_data());
    const py::array given = py::array::ensure(f(argument));
    const bool real =
        given && std::string("fiub").find(given.dtype().kind()) != std::string::npos;
    if (!real || given.ndim() != 1 || given.shape(0) != n) {
      std::string got = "an object that is not an array";
      if (given) {
        got = py::str(given.dtype()).cast<std::string>() + " of shape " +
              py::str(given.attr("shape")).cast<std::string>();
      }
      throw py::value_error(
          std::string("the ") + what +
          " of a custom activation must return real numbers with the shape of "
          "its argument, (" +
          std::to_string(n) + ",), got " + got);
    }
    const auto values =
        py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(given);
    std::copy_n(values.data(), n, out);
  }

  py::object functions_;  // a weak reference
};

std::vector<LayerSpec> layers_from(const py::sequence& layers);

// A field of LayerSpec, by name.
struct LayerField {
  const char* name;
  void (*set)(LayerSpec& spec, py::handle value);
};
constexpr LayerField kLayerFields[] = {
    {"width", [](LayerSpec& s, py::handle v) { s.width = py::cast<Index>(v); }},
    {"activation",
     [](LayerSpec& s, py::handle v) {
       const auto [name, constants] =
           py::cast<std::pair<std::string, std::vector<double>>>(v);
       s.activation = activation_from(name, constants);
     }},
    {"custom",
     [](LayerSpec& s, py::handle v) {
       s.custom = std::make_shared<PythonActivation>(py::weakref(v));
     }},
    {"bias", [](LayerSpec& s, py::handle v) { s.bias = py::cast<bool>(v); }},
    {"parametrization",
     [](LayerSpec& s, py::handle v) {
       s.parametrization = from_name<Parametrization>(
           kParametrizationNames, py::cast<std::string>(v), "parametrization");
     }},
    {"rate", [](LayerSpec& s, py::handle v) { s.rate = py::cast<double>(v); }},
    {"eps", [](LayerSpec& s, py::handle v) { s.eps = py::cast<double>(v); }},
    {"momentum", [](LayerSpec& s, py::handle v) { s.momentum = py::cast<double>(v); }},
    {"groups", [](LayerSpec& s, py::handle v) { s.groups = py::cast<Index>(v); }},
    {"slope", [](LayerSpec& s, py::handle v) { s.slope = py::cast<double>(v); }},
    {"shared", [](LayerSpec& s, py::handle v) { s.shared = py::cast<bool>(v); }},
    {"inverse", [](LayerSpec& s, py::handle v) { s.inverse = py::cast<bool>(v); }},
    {"body", [](LayerSpec& s,
                py::handle v) { s.body = layers_from(py::cast<py::sequence>(v)); }},
    {"columns",
     [](LayerSpec& s, py::handle v) { s.columns = py::cast<std::vector<Index>>(v); }},
    {"sizes",
     [](LayerSpec& s, py::handle v) { s.sizes = py::cast<std::vector<Index>>(v); }},
    {"branches",
     [](LayerSpec& s, py::handle v) {
       for (const py::handle branch : py::cast<py::sequence>(v)) {
         const auto [name, layers] =
             py::cast<std::pair<std::string, py::sequence>>(branch);
         s.branches.push_back({name, layers_from(layers)});
       }
     }},
};

// Makes a layer from a dict that holds its kind and those fields that differ from their
// defaults.
inline LayerSpec layer_from(const py::dict& layer) {
  LayerSpec spec(from_name<LayerKind>(kLayerKindNames,
                                      py::cast<std::string>(layer["kind"]), "layer"));
  for (const auto& [key, value] : layer) {
    const auto name = py::cast<std::string>(key);
    if (name == "kind") continue;
    const auto* const field =
        std::find_if(std::begin(kLayerFields), std::end(kLayerFields),
                     [&](const LayerField& f) { return name == f.name; });
    if (field == std::end(kLayerFields))
      throw py::value_error("a layer in layers has the unknown field '" + name + "'");
    field->set(spec, value);
  }
  return spec;
}

inline std::vector<LayerSpec> layers_from(const py::sequence& layers) {
  std::vector<LayerSpec> specs;
  for (const py::handle layer : layers) {
    specs.push_back(layer_from(py::cast<py::dict>(layer)));
  }
  return specs;
}

// A network of either element type. Python has one class for both.
class AnyMlp {
 public:
  AnyMlp(const std::string& dtype, Index n_in, const py::sequence& sequence,
         const std::string& operand_names) {
    const std::vector<LayerSpec> layers = layers_from(sequence);
    const auto operands =
        from_name<Operands>(kOperandsNames, operand_names, "operands");
    if (dtype == "float32") {
      network_ = std::make_unique<Network<float>>(n_in, layers, operands);
    } else if (dtype == "float64") {
      network_ = std::make_unique<Network<double>>(n_in, layers, operands);
    } else {
      throw py::value_error("dtype must be float32 or float64, got " + dtype);
    }
  }

  // Calls f with the Network<float> or the Network<double>.
  template <class F>
  decltype(auto) visit(F f) {
    return std::visit([&](auto& network) -> decltype(auto) { return f(*network); },
                      network_);
  }

 private:
  std::variant<std::unique_ptr<Network<float>>, std::unique_ptr<Network<double>>>
      network_;
};

template <class T>
T element_of(const Network<T>&);

}  // namespace fastmlp::bindings
