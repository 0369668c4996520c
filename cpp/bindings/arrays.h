// Views of numpy arrays without any conversion, and functions that create arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fastmlp/fp_environment.h"
#include "fastmlp/types.h"

namespace fastmlp::bindings {

namespace py = pybind11;

template <class T>
constexpr const char* dtype_name() {
  if constexpr (std::is_same_v<T, float>) return "float32";
  if constexpr (std::is_same_v<T, double>) return "float64";
  if constexpr (std::is_same_v<T, bool>) return "bool";
  if constexpr (std::is_same_v<T, unsigned char>) return "uint8";
  return "int64";
}

template <class T>
struct ArrayView {
  T* data;
  Index ndim;
  Index shape[2];  // a 1-D array has (size, 1)

  Index size() const { return shape[0] * shape[1]; }
};

// A view of an aligned, C-contiguous array of T in native byte order with one or two
// dimensions; it must be writeable if T is not const. Returns nullopt for any other
// object, including subclasses of ndarray: their memory may have another meaning, as in
// masked arrays, so the Python layer handles them.
template <class T>
std::optional<ArrayView<T>> view(py::handle object) {
  using Element = std::remove_const_t<T>;
  const auto& api = py::detail::npy_api::get();
  if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) !=
      reinterpret_cast<PyObject*>(api.PyArray_Type_)) {
    return std::nullopt;
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  constexpr int kNeeded = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((array.flags() & kNeeded) != kNeeded || array.ndim() < 1 || array.ndim() > 2) {
    return std::nullopt;
  }
  if (!std::is_const_v<T> && !array.writeable()) return std::nullopt;
  // Comparing these two fields is enough for most arrays. Unpickled arrays have
  // distinct dtype objects, which only numpy can compare.
  const py::dtype got = array.dtype();
  const bool usual =
      got.normalized_num() == py::dtype::num_of<Element>() && got.byteorder() == '=';
  if (!usual && !api.PyArray_EquivTypes_(got.ptr(), py::dtype::of<Element>().ptr())) {
    return std::nullopt;
  }
  return ArrayView<T>{const_cast<Element*>(static_cast<const Element*>(array.data())),
                      array.ndim(),
                      {array.shape(0), array.ndim() == 2 ? array.shape(1) : 1}};
}

template <class T>
bool overlap(const ArrayView<T>& a, const ArrayView<const T>& b) {
  return a.data < b.data + b.size() && b.data < a.data + a.size();
}

// Like view, but raises an error that names the argument if the array cannot be used or
// does not have the expected shape, in which -1 means any size.
template <class T>
ArrayView<T> require(py::handle object, const char* name,
                     std::initializer_list<Index> shape) {
  const auto found = view<T>(object);
  if (!found) {
    throw py::type_error(std::string(name) + " must be a C-contiguous" +
                         (std::is_const_v<T> ? " " : " writeable ") +
                         dtype_name<std::remove_const_t<T>>() + " array, got " +
                         std::string(py::str(py::type::of(object))));
  }
  bool fits = found->ndim == static_cast<Index>(shape.size());
  std::string wanted, got;
  Index i = 0;
  for (const Index size : shape) {
    if (fits && size >= 0 && found->shape[i] != size) fits = false;
    wanted +=
        (i > 0 ? ", " : "") + (size < 0 ? std::string("any") : std::to_string(size));
    ++i;
  }
  if (fits) return *found;
  for (Index d = 0; d < found->ndim; ++d) {
    got += (d > 0 ? ", " : "") + std::to_string(found->shape[d]);
  }
  throw py::value_error(std::string(name) + " must have shape (" + wanted + "), got (" +
                        got + ")");
}

// The memory of the array, checked as in `require`, or nullptr for None.
template <class T>
T* require_or_null(py::handle object, const char* name,
                   std::initializer_list<Index> shape) {
  return object.is_none() ? nullptr : require<T>(object, name, shape).data;
}

// Calls f with a value of the array's element type, float or double, in the core's
// floating-point environment.
template <class F>
void by_dtype(py::handle object, const char* name, F f) {
  const CoreFpEnvironment environment;
  if (view<const float>(object)) {
    f(float{});
  } else if (view<const double>(object)) {
    f(double{});
  } else {
    throw py::type_error(std::string(name) +
                         " must be a C-contiguous float32 or float64 array, got " +
                         std::string(py::str(py::type::of(object))));
  }
}

// The sizes of a new array.
class Shape {
 public:
  template <class... Sizes>
  Shape(Index first, Sizes... more)
      : sizes_{first, more...}, ndim_(1 + sizeof...(more)) {
    static_assert(1 + sizeof...(more) <= kMaxDims);
  }
  py::array::ShapeContainer sizes() const {
    return py::array::ShapeContainer(sizes_, sizes_ + ndim_);
  }

 private:
  static constexpr size_t kMaxDims = 3;
  Index sizes_[kMaxDims];
  size_t ndim_;
};

// A new array with uninitialised memory.
template <class T>
py::array_t<T> new_array(const Shape& shape) {
  return py::array_t<T>(shape.sizes());
}

// A new array with these elements, one-dimensional if no shape is given.
template <class T>
py::array_t<T> copy_of(const std::vector<T>& from, const Shape& shape) {
  auto array = new_array<T>(shape);
  std::copy(from.begin(), from.end(), array.mutable_data());
  return array;
}
template <class T>
py::array_t<T> copy_of(const std::vector<T>& from) {
  return copy_of(from, static_cast<Index>(from.size()));
}

// f() without the GIL.
template <class F>
decltype(auto) without_gil(F f) {
  const py::gil_scoped_release release;
  return f();
}

// A class whose objects cannot be pickled. Python's own __reduce__ of the protocols 0
// and 1 would make an object without a C++ value, which pybind11 answers with an abort.
template <class T, class... Extra>
py::class_<T> new_class(py::handle scope, const char* name, const Extra&... extra) {
  py::class_<T> c(scope, name, extra...);
  const auto refuse = [](const py::object& self, const py::args&) -> py::object {
    const auto type = py::str(py::type::of(self).attr("__name__")).cast<std::string>();
    throw py::type_error("cannot pickle '" + type + "' object");
  };
  c.def("__reduce_ex__", refuse).def("__reduce__", refuse);
  return c;
}

template <class T, class F, class... Args, class... Extra>
void def_init_as(py::class_<T>& c, F make, std::unique_ptr<T> (*)(Args...),
                 const Extra&... extra) {
  const auto init = [make](py::detail::value_and_holder& place, Args... args) {
    std::unique_ptr<T> made = make(std::forward<Args>(args)...);
    place.value_ptr() = made.get();
    try {
      place.type->init_instance(place.inst, nullptr);
    } catch (...) {
      place.value_ptr() = nullptr;
      throw;
    }
    (void)made.release();
  };
  c.def("__init__", init, py::detail::is_new_style_constructor(), extra...);
}

// Adds a constructor: make(args...) returns a std::unique_ptr<T>. With py::init, memory
// that runs out while pybind11 registers the new object ends the process: the exception
// either frees the object twice or leaves pybind11 where nothing catches it. Here the
// object is registered where pybind11 catches exceptions, and keeps one owner.
template <class T, class F, class... Extra>
py::class_<T> def_init(py::class_<T> c, F make, const Extra&... extra) {
  using Signature = py::detail::function_signature_t<F>;
  def_init_as<T>(c, make, static_cast<Signature*>(nullptr), extra...);
  return c;
}

inline py::object not_implemented() {
  return py::reinterpret_borrow<py::object>(Py_NotImplemented);
}

}  // namespace fastmlp::bindings
