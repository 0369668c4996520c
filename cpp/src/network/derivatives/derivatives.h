// Derivatives of a network in inference mode, for each row separately: dropout is the
// identity and batch_norm uses its running statistics, so rows do not affect each
// other.
//
// A group of rows first goes forward once. Then K directions for each row, stored as a
// matrix of rows * K rows, go through the layers' products: as tangents forward or as
// cotangents backward, whichever takes fewer operations for this network's shape.
// Second derivatives are tangents of the cotangents (forward over reverse).
#pragma once

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/loss.h"
#include "network/plan.h"

namespace fastmlp::detail {

// All of these functions take a contiguous x (rows, n_in) with rows >= 1 and choose the
// number of threads by the amount of work. They work in `memory`, which they enlarge if
// necessary. Results are contiguous and overwritten. Errors: std::bad_alloc, any
// exception of a custom activation, and in the last two functions std::invalid_argument
// if the network has a custom activation.

// j (rows, n_out, n_in) = d y / d x.
template <class T>
void jacobian(const NetworkView<T>& view, T* j, const T* x, Index rows,
              AlignedBuffer<T>& memory);

// Computes y (rows, n_out) and dy (rows, n_out), which is d y / d x times v (rows,
// n_in).
template <class T>
void jvp(const NetworkView<T>& view, T* y, T* dy, const T* x, const T* v, Index rows,
         AlignedBuffer<T>& memory);

// j (rows, n_out, n_params) = d y / d params, in the order of the parameters. Seen as a
// matrix of rows * n_out rows, j is the Jacobian of a least-squares problem. If y
// (rows, n_out) is not null, it receives the outputs.
template <class T>
void param_jacobian(const NetworkView<T>& view, T* j, T* y, const T* x, Index rows,
                    AlignedBuffer<T>& memory);

// Row r of grads (rows, n_params) receives the gradient of w_r * (loss of row r). A
// row's loss is the sum over its outputs or their mean, depending on `reduction`;
// cross-entropy has a single value for each row. Throws the same errors as
// check_targets.
template <class T>
void per_sample_grads(const NetworkView<T>& view, T* grads, const T* x,
                      const Targets<T>& targets, const Loss& loss, Index rows,
                      AlignedBuffer<T>& memory);

// hv (rows, n_in): for each row, the Hessian of sum(weights * y) times that row of v
// (rows, n_in). weights has n_out elements.
template <class T>
void hvp(const NetworkView<T>& view, T* hv, const T* x, const T* v, const T* weights,
         Index rows, AlignedBuffer<T>& memory);

// h (rows, n_in, n_in): the Hessian of sum(weights * y) for each row.
template <class T>
void hessian(const NetworkView<T>& view, T* h, const T* x, const T* weights, Index rows,
             AlignedBuffer<T>& memory);

}  // namespace fastmlp::detail
