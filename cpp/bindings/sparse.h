// Sparse rows for the core, from the arrays of a CSR matrix.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "arrays.h"
#include "fastmlp/sparse.h"

namespace fastmlp::bindings {

// A CSR matrix that cannot change: it has its own copy of the structure, so that no
// write to the user's arrays can lead the core outside the matrix. The numbers are the
// user's own array.
class SparseMatrix {
 public:
  // Throws unless the rows are in order and each row's columns ascend within `width`.
  SparseMatrix(py::array values,
               const py::array_t<int64_t, py::array::c_style>& columns,
               const py::array_t<int64_t, py::array::c_style>& starts, Index width);

  Index rows() const { return static_cast<Index>(starts_.size()) - 1; }
  Index width() const { return width_; }
  const py::array& values() const { return values_; }

  // The rows for the core, or nullopt if the numbers are not of type T.
  template <class T>
  std::optional<SparseRows<T>> view() const {
    const auto numbers = bindings::view<const T>(values_);
    if (!numbers) return std::nullopt;
    return SparseRows<T>{starts_.data(), columns_.data(), numbers->data};
  }

  // The same matrix with other numbers in the same places.
  SparseMatrix with_values(py::array values) const;
  SparseMatrix slice(Index begin, Index end) const;
  // Copies these rows, whose numbers must be valid.
  SparseMatrix take(const int64_t* order, Index n) const;
  py::array to_dense() const;

 private:
  SparseMatrix() = default;

  py::array values_;
  std::vector<int32_t> columns_;
  std::vector<int64_t> starts_;
  Index width_ = 0;
};

}  // namespace fastmlp::bindings
