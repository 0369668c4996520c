// The Cholesky factor of a symmetric positive definite matrix, A = L L^T.
#pragma once

#include "fastmlp/types.h"

namespace fastmlp {

// Replaces the lower triangle of A (n, n), row-major, by L; the rest is not read and
// may be overwritten. If A is not positive definite or not finite, returns false and
// leaves the contents undefined. The order of operations depends on n alone. Throws
// std::bad_alloc.
bool cholesky(double* a, Index n);

// Solves L L^T x = b in place: b becomes x.
void cholesky_solve(const double* l, Index n, double* b);

}  // namespace fastmlp
