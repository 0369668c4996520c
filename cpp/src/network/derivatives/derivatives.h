// Derivatives of a network in inference mode, of each row by itself: dropout passes and
// batch_norm uses its running statistics, so rows do not touch each other.
//
// A group of rows is taken forward once; then K directions for each row, as a matrix of
// rows * K rows, go through the products of the layers: tangents on the way forward or
// cotangents on the way back, whichever costs fewer operations by the shape of the
// network. Second derivatives are tangents of the cotangents (forward over reverse).
#pragma once

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/loss.h"
#include "network/plan.h"

namespace fastmlp::detail {

// All of these take x (rows, n_in), contiguous, rows >= 1; use as many threads as the
// work is worth; and need `memory` for the call, which grows if need be. Results are
// contiguous and overwritten. They throw std::bad_alloc, what a custom activation
// throws, and the last two std::invalid_argument where there is a custom activation.

// j (rows, n_out, n_in) = d y / d x.
template <class T>
void jacobian(const NetworkView<T>& view, T* j, const T* x, Index rows,
              AlignedBuffer<T>& memory);

// y (rows, n_out), dy (rows, n_out) = d y / d x times v (rows, n_in).
template <class T>
void jvp(const NetworkView<T>& view, T* y, T* dy, const T* x, const T* v, Index rows,
         AlignedBuffer<T>& memory);

// j (rows, n_out, n_params) = d y / d params, in the order of the parameters: as a
// matrix of rows * n_out rows the Jacobian of a least-squares problem, of any rows x
// points to. y (rows, n_out), unless null, are the outputs.
template <class T>
void param_jacobian(const NetworkView<T>& view, T* j, T* y, const T* x, Index rows,
                    AlignedBuffer<T>& memory);

// grads (rows, n_params): row r is the gradient of w_r * (loss of row r), the loss
// summed over outputs, or as `reduction` says their mean (cross-entropy: one value).
// Throws what check_targets throws.
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
