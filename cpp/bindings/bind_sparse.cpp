// SparseMatrix: sparse rows as inputs.
#include <algorithm>
#include <limits>
#include <string>

#include "sparse.h"

namespace fastmlp::bindings {
namespace {

// Calls f(numbers) with their type.
template <class F>
void by_element(const py::array& values, F f) {
  if (const auto numbers = view<const float>(values)) {
    f(numbers->data);
  } else {
    f(view<const double>(values)->data);
  }
}

// A new array of the type of `values`.
py::array new_values(const py::array& values, const std::vector<py::ssize_t>& shape) {
  return py::array(values.dtype(), py::array::ShapeContainer(shape));
}

py::array checked_values(py::array values) {
  if (view<const float>(values) || view<const double>(values)) return values;
  throw py::type_error("the numbers must be a C-contiguous float32 or float64 array");
}

}  // namespace

SparseMatrix::SparseMatrix(py::array values,
                           const py::array_t<int64_t, py::array::c_style>& columns,
                           const py::array_t<int64_t, py::array::c_style>& starts,
                           Index width)
    : values_(checked_values(std::move(values))), width_(width) {
  if (values_.ndim() != 1 || columns.ndim() != 1 || starts.ndim() != 1) {
    throw py::value_error("data, indices and indptr must be vectors");
  }
  if (width < 1 || width > std::numeric_limits<int32_t>::max()) {
    throw py::value_error(
        "a sparse matrix must have from 1 to 2147483647 columns, got " +
        std::to_string(width));
  }
  const int64_t entries = std::min<int64_t>(values_.size(), columns.size());
  const Index n = starts.size();
  if (n < 2) throw py::value_error("a sparse matrix must have at least one row");
  starts_.assign(starts.data(), starts.data() + n);
  for (Index r = 0; r < n; ++r) {
    const int64_t least = r == 0 ? 0 : starts_[static_cast<size_t>(r) - 1];
    const int64_t at = starts_[static_cast<size_t>(r)];
    if (at >= least && at <= entries) continue;
    throw py::value_error("indptr[" + std::to_string(r) + "] must be from " +
                          std::to_string(least) + " to " + std::to_string(entries) +
                          ", got " + std::to_string(at));
  }
  columns_.resize(static_cast<size_t>(entries));
  const int64_t* const from = columns.data();
  for (size_t r = 0; r + 1 < starts_.size(); ++r) {
    int64_t before = -1;
    for (int64_t i = starts_[r]; i < starts_[r + 1]; ++i) {
      if (from[i] <= before || from[i] >= width) {
        throw py::value_error(
            "the column indices of each row must ascend and be less than " +
            std::to_string(width) + ", got " + std::to_string(from[i]) + " after " +
            std::to_string(before) + " in row " + std::to_string(r));
      }
      before = from[i];
      columns_[static_cast<size_t>(i)] = static_cast<int32_t>(from[i]);
    }
  }
}

SparseMatrix SparseMatrix::with_values(py::array values) const {
  if (values.size() != values_.size()) {
    throw py::value_error("values must have " + std::to_string(values_.size()) +
                          " numbers, got " + std::to_string(values.size()));
  }
  SparseMatrix other = *this;
  other.values_ = checked_values(std::move(values));
  return other;
}

SparseMatrix SparseMatrix::slice(Index begin, Index end) const {
  std::vector<int64_t> order(static_cast<size_t>(end - begin));
  for (Index r = begin; r < end; ++r) order[static_cast<size_t>(r - begin)] = r;
  return take(order.data(), end - begin);
}

SparseMatrix SparseMatrix::take(const int64_t* order, Index n) const {
  SparseMatrix part;
  part.width_ = width_;
  part.starts_.assign(1, 0);
  for (Index r = 0; r < n; ++r) {
    const auto row = static_cast<size_t>(order[r]);
    part.starts_.push_back(part.starts_.back() + starts_[row + 1] - starts_[row]);
  }
  const int64_t entries = part.starts_.back();
  part.columns_.resize(static_cast<size_t>(entries));
  part.values_ = new_values(values_, {entries});
  by_element(values_, [&](const auto* numbers) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(numbers)>>;
    T* const to = static_cast<T*>(part.values_.mutable_data());
    for (Index r = 0; r < n; ++r) {
      const auto row = static_cast<size_t>(order[r]);
      const int64_t begin = starts_[row], size = starts_[row + 1] - begin;
      const int64_t at = part.starts_[static_cast<size_t>(r)];
      std::copy_n(numbers + begin, size, to + at);
      std::copy_n(columns_.begin() + begin, size, part.columns_.begin() + at);
    }
  });
  return part;
}

py::array SparseMatrix::to_dense() const {
  py::array dense = new_values(values_, {rows(), width_});
  by_element(values_, [&](const auto* numbers) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(numbers)>>;
    T* const to = static_cast<T*>(dense.mutable_data());
    std::fill_n(to, rows() * width_, T(0));
    for (Index r = 0; r < rows(); ++r) {
      const auto row = static_cast<size_t>(r);
      for (int64_t i = starts_[row]; i < starts_[row + 1]; ++i) {
        to[r * width_ + columns_[static_cast<size_t>(i)]] = numbers[i];
      }
    }
  });
  return dense;
}

void bind_sparse(py::module_& m) {
  using py::arg;
  using Integers = py::array_t<int64_t, py::array::c_style>;
  const auto make = [](py::array data, const Integers& indices, const Integers& indptr,
                       Index n_columns) {
    return std::make_unique<SparseMatrix>(std::move(data), indices, indptr, n_columns);
  };
  def_init(new_class<SparseMatrix>(m, "SparseMatrix"), make, arg("data"),
           arg("indices"), arg("indptr"), arg("n_columns"))
      .def("__len__", &SparseMatrix::rows)
      .def_property_readonly(
          "shape",
          [](const SparseMatrix& a) { return py::make_tuple(a.rows(), a.width()); })
      .def_property_readonly("dtype",
                             [](const SparseMatrix& a) { return a.values().dtype(); })
      .def_property_readonly("data", &SparseMatrix::values)
      .def("with_data", &SparseMatrix::with_values, arg("data"))
      .def("__getitem__",
           [](const SparseMatrix& a, const py::slice& rows) {
             size_t start, stop, step, n;
             if (!rows.compute(static_cast<size_t>(a.rows()), &start, &stop, &step,
                               &n)) {
               throw py::error_already_set();
             }
             if (step != 1) throw py::value_error("the step of a slice must be 1");
             return a.slice(static_cast<Index>(start), static_cast<Index>(start + n));
           })
      .def("__getitem__",
           [](const SparseMatrix& a, py::handle rows) {
             const auto order = require<const int64_t>(rows, "rows", {-1});
             const auto valid = [&](int64_t r) { return r >= 0 && r < a.rows(); };
             if (!std::all_of(order.data, order.data + order.size(), valid)) {
               throw py::index_error("a row is out of range");
             }
             return a.take(order.data, order.size());
           })
      .def("toarray", &SparseMatrix::to_dense);
}

}  // namespace fastmlp::bindings
