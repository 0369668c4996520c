// The Cholesky factor of a symmetric positive definite matrix, A = L L^T.
#pragma once

#include "fastmlp/types.h"

namespace fastmlp {

// Of A (n, n), row-major, only the lower triangle is read, and replaced by L; what lies
// above it may be overwritten. False if A is not positive definite, or not finite: then
// the contents are of no use. In an order fixed by n alone. Throws std::bad_alloc.
bool cholesky(double* a, Index n);

// x in L L^T x = b, in place.
void cholesky_solve(const double* l, Index n, double* b);

}  // namespace fastmlp
