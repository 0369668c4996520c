// The network behind one Python object: of either element type, with what a fit keeps.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "arrays.h"
#include "fastmlp/fork_safety.h"
#include "fastmlp/mlp.h"
#include "names.h"

namespace fastmlp::bindings {

template <class T>
struct Network {
  Mlp<T> mlp;
  LastGoodState<T> last_good;  // of the fit under way
  int fit_in = 0;              // its process: fork generation + 1
  py::object fit_token;        // its mark; null: no fit

  Network(Index n_in, std::vector<LayerSpec> layers) : mlp(n_in, std::move(layers)) {}
};

// A pair of Python functions of arrays, z -> h and z -> dh/dz.
class PythonActivation : public CustomActivation {
 public:
  PythonActivation(py::object function, py::object derivative)
      : function_(std::move(function)), derivative_(std::move(derivative)) {}
  ~PythonActivation() override {
    const py::gil_scoped_acquire acquire;
    function_ = py::object();
    derivative_ = py::object();
  }
  PythonActivation(const PythonActivation&) = delete;
  PythonActivation& operator=(const PythonActivation&) = delete;
  void forward(float* h, const float* z, Index n) const override {
    call(function_, "its function", h, z, n);
  }
  void forward(double* h, const double* z, Index n) const override {
    call(function_, "its function", h, z, n);
  }
  void derivative(float* d, const float* z, Index n) const override {
    call(derivative_, "its derivative", d, z, n);
  }
  void derivative(double* d, const double* z, Index n) const override {
    call(derivative_, "its derivative", d, z, n);
  }

 private:
  // out = f(in) by way of a copy: what Python is given may outlive the call.
  template <class T>
  static void call(const py::object& f, const char* what, T* out, const T* in,
                   Index n) {
    const InUserCode outside;
    const py::gil_scoped_acquire acquire;
    py::array_t<T> argument(n);
    std::copy_n(in, n, argument.mutable_data());
    const py::array given = py::array::ensure(f(argument));
    const bool real =
        given && std::string("fiub").find(given.dtype().kind()) != std::string::npos;
    if (!real || given.ndim() != 1 || given.shape(0) != n) {
      std::string got = "something else";
      if (given) {
        got = py::str(given.dtype()).cast<std::string>() + " of shape " +
              py::str(given.attr("shape")).cast<std::string>();
      }
      throw py::value_error(std::string("a custom activation: ") + what +
                            " must return numbers in the shape it is given, (" +
                            std::to_string(n) + ",), got " + got);
    }
    const auto values =
        py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(given);
    std::copy_n(values.data(), n, out);
  }

  py::object function_, derivative_;
};

// Layers as Python describes them: a tuple each, its kind first.
inline std::vector<LayerSpec> layers_from(const py::sequence& layers) {
  std::vector<LayerSpec> specs;
  for (const py::handle item : layers) {
    const auto layer = py::cast<py::tuple>(item);
    const auto kind = py::cast<std::string>(layer[0]);
    if (kind == "dense") {
      specs.emplace_back(py::cast<Index>(layer[1]),
                         activation_from(py::cast<std::string>(layer[2])),
                         py::cast<bool>(layer[3]));
    } else if (kind == "activation" && layer.size() == 3) {
      specs.push_back(LayerSpec::activation_only(
          std::make_shared<PythonActivation>(layer[1], layer[2])));
    } else if (kind == "activation") {
      specs.push_back(
          LayerSpec::activation_only(activation_from(py::cast<std::string>(layer[1]))));
    } else if (kind == "dropout") {
      specs.push_back(LayerSpec::dropout(py::cast<double>(layer[1])));
    } else if (kind == "layer_norm") {
      specs.push_back(
          LayerSpec::layer_norm(py::cast<double>(layer[1]), py::cast<bool>(layer[2])));
    } else if (kind == "batch_norm") {
      specs.push_back(LayerSpec::batch_norm(py::cast<double>(layer[1]),
                                            py::cast<double>(layer[2]),
                                            py::cast<bool>(layer[3])));
    } else if (kind == "residual") {
      specs.push_back(
          LayerSpec::residual(layers_from(py::cast<py::sequence>(layer[1]))));
    } else {
      throw py::value_error("layers: unknown kind " + kind);
    }
  }
  return specs;
}

// One Python class for both element types.
class AnyMlp {
 public:
  AnyMlp(const std::string& dtype, Index n_in, const py::sequence& sequence) {
    const std::vector<LayerSpec> layers = layers_from(sequence);
    if (dtype == "float32") {
      network_ = std::make_unique<Network<float>>(n_in, layers);
    } else if (dtype == "float64") {
      network_ = std::make_unique<Network<double>>(n_in, layers);
    } else {
      throw py::value_error("dtype: expected float32 or float64, got " + dtype);
    }
  }

  // f(network) with the network of either type.
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

// x as a batch of rows: (rows, n_in), or one row of n_in if `row_allowed`.
template <class T>
std::optional<ArrayView<const T>> rows_of(py::handle x, Index width, bool row_allowed) {
  auto v = view<const T>(x);
  if (!v) return v;
  if (v->ndim == 1 && row_allowed) {
    v->shape[1] = v->shape[0];
    v->shape[0] = 1;
  } else if (v->ndim == 1) {
    return std::nullopt;
  }
  if (v->shape[1] != width || v->shape[0] == 0) return std::nullopt;
  return v;
}

}  // namespace fastmlp::bindings
