// What a pass over a batch is asked for.
#pragma once

#include "fastmlp/dropout.h"
#include "fastmlp/mlp.h"
#include "threading/helper_policy.h"

namespace fastmlp::detail {

// What a pass is asked for. Its head is a loss with targets, or a given dy.
template <class T>
struct PassArgs {
  const T* x;
  Index rows;
  // One of the two alone takes all rows at once and leaves the values in the workspace,
  // or finds them there.
  bool forward = true;
  bool backward = true;
  const int64_t* order = nullptr;  // row r is x[order[r]], targets likewise
  const Loss* loss = nullptr;
  Targets<T> targets = {};
  const T* dy = nullptr;
  T* y = nullptr;      // out, unless null
  T* dx = nullptr;     // out, unless null
  T* grads = nullptr;  // out
  Optimizer* optimizer = nullptr;
  OptimizerSlots<T>* slots = nullptr;
  T* params_to_update = nullptr;
  LastGoodState<T>* save_to = nullptr;  // before the update
  HelperPolicy* second = nullptr;       // null: a small batch is taken alone
  bool training = false;  // else dropout passes and batch_norm takes `buffers`
  Draw draw = {};         // of dropout
  const T* buffers = nullptr;
  // With a loss: l2 / 2 times the sum of the dense weights' squares, divided by the sum
  // of the rows' weights, is added to it.
  double l2 = 0.0;
  double* squares = nullptr;  // where there is l2: memory for weight_chunks()
};

}  // namespace fastmlp::detail
