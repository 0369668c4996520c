// Inputs that are mostly 0.
#pragma once

#include <stdint.h>

#include "fastmlp/types.h"

namespace fastmlp {

// Rows of a matrix in compressed sparse row format (CSR): row r of the matrix has the
// numbers values[starts[r]] .. values[starts[r + 1] - 1] in the columns of the same
// entries of `columns`, which ascend within a row; all others are 0.
template <class T>
struct SparseRows {
  const int64_t* starts = nullptr;  // null if the inputs are dense
  const int32_t* columns = nullptr;
  const T* values = nullptr;
  // Row r is row order[r] of the matrix; null: row r. Methods of Mlp take null only.
  const int64_t* order = nullptr;

  explicit operator bool() const { return starts != nullptr; }
  int64_t row(Index r) const { return order ? order[r] : r; }

  // Number of entries of the first n rows.
  int64_t count(Index n) const {
    if (!order) return starts[n] - starts[0];
    int64_t sum = 0;
    for (Index r = 0; r < n; ++r) sum += starts[order[r] + 1] - starts[order[r]];
    return sum;
  }

  // The rows from row r on.
  SparseRows from(Index r) const {
    SparseRows rows = *this;
    if (order) {
      rows.order += r;
    } else if (starts) {
      rows.starts += r;
    }
    return rows;
  }
};

}  // namespace fastmlp
