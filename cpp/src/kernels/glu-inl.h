// Gated linear units: their derivatives (Dauphin et al. 2017, section 2).
#pragma once

#include "derivative-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
void glu_tangent(T* out, const T* t, const T* factors, Index m, Index group, Index n) {
  using V = Vec<T>;
  const auto body = [&](auto io, Index i, Index j) FASTMLP_LAMBDA {
    const V f1 = io.load(factors + 2 * i * n + j);
    const V f2 = io.load(factors + 2 * i * n + n + j);
    for (Index r = i * group; r < (i + 1) * group; ++r) {
      const V t1 = io.load(t + 2 * r * n + j), t2 = io.load(t + 2 * r * n + n + j);
      io.store(out + r * n + j, fma(t1, f1, t2 * f2));
    }
  };
  for_each_row_vector<T>(m, n, body);
}

template <class T>
void glu_backward(T* dx, const T* dh, const T* factors, bool accumulate, Index m,
                  Index group, Index n) {
  using V = Vec<T>;
  const auto body = [&](auto io, Index i, Index j) FASTMLP_LAMBDA {
    const V f1 = io.load(factors + 2 * i * n + j);
    const V f2 = io.load(factors + 2 * i * n + n + j);
    for (Index r = i * group; r < (i + 1) * group; ++r) {
      const V d = io.load(dh + r * n + j);
      T* const first = dx + 2 * r * n + j;
      T* const second = first + n;
      io.store(first, accumulate ? fma(d, f1, io.load(first)) : d * f1);
      io.store(second, accumulate ? fma(d, f2, io.load(second)) : d * f2);
    }
  };
  for_each_row_vector<T>(m, n, body);
}

template <class T>
void glu_second(T* out, const T* dot, const T* c, const T* t, const T* factors,
                const T* slopes, bool accumulate, Index m, Index group, Index n) {
  using V = Vec<T>;
  const auto body = [&](auto io, Index i, Index j) FASTMLP_LAMBDA {
    const V f1 = io.load(factors + 2 * i * n + j);
    const V f2 = io.load(factors + 2 * i * n + n + j);
    const V value = io.load(c + i * n + j);
    const V g1 = value * io.load(slopes + 2 * i * n + j);
    const V g2 = value * io.load(slopes + 2 * i * n + n + j);
    for (Index r = i * group; r < (i + 1) * group; ++r) {
      const V t1 = io.load(t + 2 * r * n + j), t2 = io.load(t + 2 * r * n + n + j);
      V y1 = t2 * g1, y2 = fma(t1, g1, t2 * g2);
      if (dot) {
        const V d = io.load(dot + r * n + j);
        y1 = fma(d, f1, y1);
        y2 = fma(d, f2, y2);
      }
      T* const first = out + 2 * r * n + j;
      T* const second = first + n;
      io.store(first, accumulate ? io.load(first) + y1 : y1);
      io.store(second, accumulate ? io.load(second) + y2 : y2);
    }
  };
  for_each_row_vector<T>(m, n, body);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
