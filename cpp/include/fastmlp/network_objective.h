// Trains a network with the second-order solvers. Every iteration uses the whole batch
// in inference mode, so that the minimised function stays the same. The network's
// parameters change only at the end of an iteration, and only if the iteration has
// found better ones.
#pragma once

#include "fastmlp/lbfgs.h"
#include "fastmlp/levenberg_marquardt.h"
#include "fastmlp/mlp.h"

namespace fastmlp {

// Throws Diverged if the value or the gradient is not finite at the start, Interrupted,
// std::runtime_error if another call changed the parameters meanwhile, and whatever
// Mlp::value_and_grad throws. In each case this call leaves the parameters unchanged.
// `l2`: see Mlp::value_and_grad.
template <class T>
SolverReport iterate(Lbfgs<T>& solver, Mlp<T>& mlp, const Batch<T>& batch,
                     const Loss& loss, const Interruption& interruption = {},
                     double l2 = 0.0);
// Throws std::invalid_argument unless the loss is LossKind::mse.
template <class T>
SolverReport iterate(LevenbergMarquardt<T>& solver, Mlp<T>& mlp, const Batch<T>& batch,
                     const Loss& loss, const Interruption& interruption = {},
                     double l2 = 0.0);

// The objective |r|^2 / 2 as LeastSquares. `residuals` computes the residuals r,
// (rows,), and their Jacobian, (rows, n) row-major, at theta and stores both in its
// output arguments. The result keeps a copy of the function.
template <class T>
using Residuals = std::function<void(std::vector<double>& r,
                                     std::vector<double>& jacobian, const T* theta)>;
template <class T>
LeastSquares<T> least_squares(Index n, Residuals<T> residuals);

// h += J^T J for J (rows, n), row-major; only the lower triangle is computed. Each
// element is one chain of fused multiply-adds in ascending order of rows, so J may be
// passed in blocks of rows.
void add_normal_matrix(double* h, const double* jacobian, Index rows, Index n);

}  // namespace fastmlp
