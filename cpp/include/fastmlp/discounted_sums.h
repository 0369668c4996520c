// Sums and targets of reinforcement learning, computed from rewards.
#pragma once

#include "fastmlp/types.h"

namespace fastmlp {

// x[t] += factor[t] * x[t + 1] for each of `width` columns, from the second-to-last row
// backwards. The last row of factor is not read.
template <class T>
void accumulate_backwards(T* x, const T* factor, Index steps, Index width);

// out[b] = reward[b] + gamma q[b, a], where a is the index of the largest element of
// by[b, :] (the first of several; NaN counts as largest); out[b] = reward[b] if
// terminated[b]. If `discounts` is not nullptr, discounts[b] replaces gamma.
template <class T>
void action_value_targets(T* out, const T* q, const T* by, const float* reward,
                          const bool* terminated, double gamma, const float* discounts,
                          Index rows, Index actions);

}  // namespace fastmlp
