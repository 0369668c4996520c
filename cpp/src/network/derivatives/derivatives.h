// Derivatives of a network in inference mode, separately for each row: dropout does
// nothing and batch_norm uses its running statistics, so rows do not influence each
// other.
//
// The values of a group of rows are computed once. Then K directions for each row, a
// matrix of rows * K rows, go through the products of the layers: forward as tangents
// or backward as cotangents, whichever takes fewer operations for the network's shape.
// Second derivatives are tangents of the cotangents (forward over reverse).
#pragma once

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/loss.h"
#include "network/plan.h"

namespace fastmlp::detail {

// All of these take x (rows, n_in), contiguous, rows >= 1; choose the number of threads
// by the amount of work; and use `memory` during the call, which grows as needed.
// Results are contiguous and overwritten. They throw std::bad_alloc and whatever a
// custom activation throws; the last two throw std::invalid_argument if the network has
// a custom activation.

// j (rows, n_out, n_in) = d y / d x.
template <class T>
void jacobian(const NetworkView<T>& view, T* j, const T* x, Index rows,
              AlignedBuffer<T>& memory);

// y (rows, n_out), dy (rows, n_out) = d y / d x times v (rows, n_in).
template <class T>
void jvp(const NetworkView<T>& view, T* y, T* dy, const T* x, const T* v, Index rows,
         AlignedBuffer<T>& memory);

// j (rows, n_out, n_params) = d y / d params, in the order of the parameters. As a
// matrix of rows * n_out rows it is the Jacobian of a least-squares problem. y (rows,
// n_out), unless null, receives the outputs.
template <class T>
void param_jacobian(const NetworkView<T>& view, T* j, T* y, const T* x, Index rows,
                    AlignedBuffer<T>& memory);

// grads (rows, n_params): row r is the gradient of w_r * (loss of row r). The loss of a
// row is the sum over its outputs or, with reduction "mean", their mean; cross-entropy
// has one value for each row. Throws what check_targets throws.
template <class T>
void per_sample_grads(const NetworkView<T>& view, T* grads, const T* x,
                      const Targets<T>& targets, const Loss& loss, Index rows,
                      AlignedBuffer<T>& memory);

// hv (rows, n_in): the Hessian of sum(weights * y) for each row times v (rows, n_in).
// weights: n_out.
template <class T>
void hvp(const NetworkView<T>& view, T* hv, const T* x, const T* v, const T* weights,
         Index rows, AlignedBuffer<T>& memory);

// h (rows, n_in, n_in): that Hessian itself.
template <class T>
void hessian(const NetworkView<T>& view, T* h, const T* x, const T* weights, Index rows,
             AlignedBuffer<T>& memory);

}  // namespace fastmlp::detail
