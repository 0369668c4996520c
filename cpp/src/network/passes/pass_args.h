// The arguments of a pass over a batch.
#pragma once

#include <array>

#include "fastmlp/loss.h"
#include "fastmlp/optimizer.h"
#include "fastmlp/random.h"
#include "fastmlp/sparse.h"
#include "network/passes/matrix_update.h"
#include "threading/helper_policy.h"

namespace fastmlp::detail {

// A pass starts from a loss with targets, or from a given dy.
template <class T>
struct PassArgs {
  const T* x;  // null with sparse rows
  Index rows;
  // A pass with only one of `forward` and `backward` processes all rows at once:
  // forward leaves the values in the workspace, and backward reads them there.
  bool forward = true;
  bool backward = true;
  SparseRows<T> sparse = {};       // in place of x, without an order of its own
  const int64_t* order = nullptr;  // row r is x[order[r]], targets likewise
  const Loss* loss = nullptr;
  Targets<T> targets = {};
  const T* dy = nullptr;
  T* y = nullptr;      // out, may be null
  T* dx = nullptr;     // out, may be null
  T* grads = nullptr;  // out
  bool training = false;
  bool full_operands = false;  // whatever the network's operands in training
  Draw draw = {};              // random numbers of training
  const T* buffers = nullptr;  // running statistics, used if not in training
  // With a loss: l2 / 2 times the sum of the squares of the dense weights, divided by
  // the sum of the rows' weights, is added to the loss.
  double l2 = 0.0;
  double* squares = nullptr;       // with l2: memory for weight_chunks()
  HelperPolicy* helper = nullptr;  // null: a small batch takes one thread

  // The update, if there is an optimiser.
  Optimizer* optimizer = nullptr;
  OptimizerSlots<T>* slots = nullptr;
  T* params_to_update = nullptr;
  MatrixMemory<T>* matrices = nullptr;  // if weights are orthogonalised
  // Where to copy the parameters and the optimiser's slots before the update; pointers
  // may be null.
  struct {
    T* params = nullptr;
    std::array<T*, kMaxSlots> slots = {};
  } saved = {};
};

}  // namespace fastmlp::detail
