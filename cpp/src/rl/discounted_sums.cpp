#include "fastmlp/discounted_sums.h"

namespace fastmlp {

template <class T>
void accumulate_backwards(T* x, const T* factor, Index steps, Index width) {
  for (Index t = steps - 2; t >= 0; --t) {
    T* const row = x + t * width;
    const T* const below = row + width;
    const T* const f = factor + t * width;
    for (Index i = 0; i < width; ++i) row[i] += f[i] * below[i];
  }
}

template <class T>
void action_value_targets(T* out, const T* q, const T* by, const float* reward,
                          const bool* terminated, double gamma, const float* discounts,
                          Index rows, Index actions) {
  for (Index b = 0; b < rows; ++b) {
    const T* const score = by + b * actions;
    Index best = 0;
    for (Index a = 1; a < actions; ++a) {
      const bool is_nan = score[a] != score[a];
      if (score[a] > score[best] || is_nan) best = a;
      if (score[best] != score[best]) break;
    }
    const T r = static_cast<T>(reward[b]);
    const T discount = static_cast<T>(discounts ? discounts[b] : gamma);
    out[b] = terminated[b] ? r : r + discount * q[b * actions + best];
  }
}

template void accumulate_backwards(float*, const float*, Index, Index);
template void accumulate_backwards(double*, const double*, Index, Index);
template void action_value_targets(float*, const float*, const float*, const float*,
                                   const bool*, double, const float*, Index, Index);
template void action_value_targets(double*, const double*, const double*, const float*,
                                   const bool*, double, const float*, Index, Index);

}  // namespace fastmlp
