// The second-order solvers on a network: each iteration sees the whole batch, in
// inference mode, so that the function it minimises is one and the same. The network's
// parameters change only at its end, when it has found better ones.
#pragma once

#include "fastmlp/lbfgs.h"
#include "fastmlp/levenberg_marquardt.h"
#include "fastmlp/mlp.h"

namespace fastmlp {

// Throws Diverged if the iteration cannot begin as value or gradient are not finite,
// Interrupted, std::runtime_error if something else changed the parameters meanwhile,
// and what Mlp::value_and_grad throws; the parameters are unchanged then.
template <class T>
SolverReport iterate(Lbfgs<T>& solver, Mlp<T>& mlp, const Batch<T>& batch,
                     const Loss& loss, const Interruption& interruption = {});
// For LossKind::mse alone, else std::invalid_argument.
template <class T>
SolverReport iterate(LevenbergMarquardt<T>& solver, Mlp<T>& mlp, const Batch<T>& batch,
                     const Loss& loss, const Interruption& interruption = {});

// |r|^2 / 2 for residuals r that come together with their Jacobian: `residuals` sets
// both vectors, (rows,) and (rows, n) row-major, for theta. The result keeps a copy.
template <class T>
using Residuals = std::function<void(std::vector<double>& r,
                                     std::vector<double>& jacobian, const T* theta)>;
template <class T>
LeastSquares<T> least_squares(Index n, Residuals<T> residuals);

// h += J^T J for J (rows, n), row-major: the lower triangle. One chain of fused
// multiply-adds in ascending rows for each element, so J may come in blocks.
void add_normal_matrix(double* h, const double* jacobian, Index rows, Index n);

}  // namespace fastmlp
