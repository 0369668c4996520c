// The protocol of calls with arrays: a binding uses its arrays without conversion, or
// returns NotImplemented.
//
// A binding takes views of its arrays and never converts them. If an array has an
// unsuitable dtype, layout or shape, the binding returns NotImplemented; the Python
// layer then converts the array and calls again, or explains what is wrong with it.
// Otherwise the binding creates the output arrays, releases the GIL and calls the core.
//
// The functions below are the common parts of such calls. They are inlined templates,
// since a call of a small network takes about a microsecond.
#pragma once

#include <optional>

#include "arrays.h"
#include "fastmlp/mlp.h"
#include "interrupts.h"
#include "network.h"
#include "sparse.h"
#include "targets.h"

namespace fastmlp::bindings {

// --- the arguments ---

// The rows of a matrix, or a vector as a single row.
template <class T>
struct Rows {
  const T* data;
  Index count;
  bool is_vector;

  // The shape of an output with `sizes` numbers for each row. If the input is a vector,
  // the output has no axis for the rows.
  template <class... Sizes>
  Shape output(Sizes... sizes) const {
    return is_vector ? Shape(sizes...) : Shape(count, sizes...);
  }
};

// x as one or more rows of `width` numbers, or nullopt if it cannot be used as such
// without conversion. `vectors`: whether x may be a vector.
template <class T>
std::optional<Rows<T>> rows_of(py::handle x, Index width, bool vectors) {
  const auto v = view<const T>(x);
  if (!v) return std::nullopt;
  const bool is_vector = v->ndim == 1;
  if (is_vector && !vectors) return std::nullopt;
  const Rows<T> rows = {v->data, is_vector ? 1 : v->shape[0], is_vector};
  const Index found = is_vector ? v->shape[0] : v->shape[1];
  if (found != width || rows.count == 0) return std::nullopt;
  return rows;
}

// Sets `sparse` to the rows of a SparseMatrix of this type and width, and returns their
// number, without data; otherwise returns nullopt.
template <class T>
std::optional<Rows<T>> sparse_rows_of(py::handle x, Index width,
                                      SparseRows<T>& sparse) {
  if (!py::isinstance<SparseMatrix>(x)) return std::nullopt;
  const auto& matrix = py::cast<const SparseMatrix&>(x);
  const auto rows = matrix.view<T>();
  if (!rows || matrix.width() != width) return std::nullopt;
  sparse = *rows;
  return Rows<T>{nullptr, matrix.rows(), false};
}

// Returns f(mlp, rows of x) if x can be used as inputs, else NotImplemented.
template <class F>
py::object with_rows(AnyMlp& self, py::handle x, bool vectors, F f) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto rows = rows_of<T>(x, n.mlp.n_in(), vectors);
    if (!rows) return not_implemented();
    return f(n.mlp, *rows);
  });
}

// Returns f(mlp, rows of x, rows of v) if x can be used as inputs and v has the same
// number of rows, each with width(mlp) numbers; else NotImplemented.
template <class Width, class F>
py::object with_two_rows(AnyMlp& self, py::handle x, py::handle v, Width width, F f) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const auto xs = rows_of<T>(x, n.mlp.n_in(), true);
    const auto vs = rows_of<T>(v, width(n.mlp), true);
    if (!xs || !vs || xs->is_vector != vs->is_vector || xs->count != vs->count) {
      return not_implemented();
    }
    return f(n.mlp, *xs, *vs);
  });
}

// Returns f(mlp, dy, rows) if dy can be used as the gradient of the outputs of the last
// forward call, else NotImplemented.
template <class F>
py::object with_output_gradient(AnyMlp& self, py::handle dy, F f) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    const Index rows = n.mlp.forward_rows();
    const auto d = rows_of<T>(dy, n.mlp.n_out(), false);
    // If there was no forward call, f is called whatever dy is, and the core raises the
    // error.
    if (rows > 0 && (!d || d->count != rows)) return not_implemented();
    return f(n.mlp, d ? d->data : nullptr, rows);
  });
}

// Whether a call takes a SparseMatrix as x.
enum class Sparse { refused, taken };

// Returns f(network, batch) if (x, y, sample_weight) can be used as a batch for this
// loss, else NotImplemented.
template <Sparse kSparse = Sparse::refused, class F>
py::object with_batch(AnyMlp& self, py::handle x, py::handle y, const Loss& loss,
                      py::handle sample_weight, F f) {
  return self.visit([&](auto& n) -> py::object {
    using T = decltype(element_of(n));
    auto rows = rows_of<T>(x, n.mlp.n_in(), false);
    SparseRows<T> sparse;
    if constexpr (kSparse == Sparse::taken) {
      if (!rows) rows = sparse_rows_of<T>(x, n.mlp.n_in(), sparse);
    }
    if (!rows) return not_implemented();
    // The Python layer explains that one output is too few.
    const bool too_few = is_of_rows(loss) && class_count(loss.kind, n.mlp.n_out()) == 1;
    if (too_few) return not_implemented();
    const auto targets =
        targets_of<T>(y, sample_weight, loss, rows->count, n.mlp.n_out());
    if (!targets) return not_implemented();
    return f(n, Batch<T>{rows->data, *targets, rows->count, sparse});
  });
}

// --- the work ---

// The approximate number of operations to process `rows` rows, in `directions`
// directions each.
template <class T>
double operations(const Mlp<T>& mlp, Index rows, Index directions = 1) {
  const Index for_row = mlp.n_params() + mlp.n_in() + mlp.n_out();
  return 6.0 * static_cast<double>(for_row) * static_cast<double>(rows) *
         static_cast<double>(directions);
}

// new_arrays with the element type of a network, for a call that processes `rows` rows.
// Ctrl-C stops it.
template <class T, size_t N, class F>
py::object new_arrays(const Mlp<T>& mlp, Index rows, const Shape (&shapes)[N], F f,
                      Index directions = 1) {
  return new_arrays<T>(shapes, f, operations(mlp, rows, directions));
}

}  // namespace fastmlp::bindings
