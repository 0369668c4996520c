// Half<T>: a vector of half the width, for the last few columns of a product. Half<T>
// differs from Vec<T> only where it is cheaper than a whole vector with half its lanes
// masked: CPUs that execute a 512-bit instruction as two halves (Zen 4) execute two
// 256-bit ones in the same time. Elsewhere it is Vec<T>. It has the operations that a
// tile of a product needs: loads, stores, set1, fma, rectified, where_positive.
#pragma once

#include "simd.h"

namespace fastmlp {
namespace FASTMLP_ISA {

#if defined(FASTMLP_ISA_avx512)
template <class T>
struct Half;

template <>
struct Half<float> {
  static constexpr Index kLanes = 8;
  __m256 v;

  static FASTMLP_MEMBER __mmask8 lanes_below(Index n) {
    return static_cast<__mmask8>((1u << n) - 1u);
  }
  static FASTMLP_MEMBER Half load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static FASTMLP_MEMBER Half load_partial(const float* p, Index n) {
    return {_mm256_maskz_loadu_ps(lanes_below(n), p)};
  }
  static FASTMLP_MEMBER Half set1(float x) { return {_mm256_set1_ps(x)}; }
  FASTMLP_MEMBER void store(float* p) const { _mm256_storeu_ps(p, v); }
  FASTMLP_MEMBER void store_partial(float* p, Index n) const {
    _mm256_mask_storeu_ps(p, lanes_below(n), v);
  }
};
FASTMLP_INLINE Half<float> fma(Half<float> a, Half<float> b, Half<float> c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
FASTMLP_INLINE Half<float> rectified(Half<float> a) {
  const __mmask8 kept = _mm256_cmp_ps_mask(a.v, _mm256_setzero_ps(), _CMP_NLE_UQ);
  return {_mm256_maskz_mov_ps(kept, a.v)};
}
FASTMLP_INLINE Half<float> where_positive(Half<float> gate, Half<float> a) {
  const __mmask8 kept = _mm256_cmp_ps_mask(gate.v, _mm256_setzero_ps(), _CMP_GT_OQ);
  return {_mm256_maskz_mov_ps(kept, a.v)};
}

template <>
struct Half<double> {
  static constexpr Index kLanes = 4;
  __m256d v;

  static FASTMLP_MEMBER __mmask8 lanes_below(Index n) {
    return static_cast<__mmask8>((1u << n) - 1u);
  }
  static FASTMLP_MEMBER Half load(const double* p) { return {_mm256_loadu_pd(p)}; }
  static FASTMLP_MEMBER Half load_partial(const double* p, Index n) {
    return {_mm256_maskz_loadu_pd(lanes_below(n), p)};
  }
  static FASTMLP_MEMBER Half set1(double x) { return {_mm256_set1_pd(x)}; }
  FASTMLP_MEMBER void store(double* p) const { _mm256_storeu_pd(p, v); }
  FASTMLP_MEMBER void store_partial(double* p, Index n) const {
    _mm256_mask_storeu_pd(p, lanes_below(n), v);
  }
};
FASTMLP_INLINE Half<double> fma(Half<double> a, Half<double> b, Half<double> c) {
  return {_mm256_fmadd_pd(a.v, b.v, c.v)};
}
FASTMLP_INLINE Half<double> rectified(Half<double> a) {
  const __mmask8 kept = _mm256_cmp_pd_mask(a.v, _mm256_setzero_pd(), _CMP_NLE_UQ);
  return {_mm256_maskz_mov_pd(kept, a.v)};
}
FASTMLP_INLINE Half<double> where_positive(Half<double> gate, Half<double> a) {
  const __mmask8 kept = _mm256_cmp_pd_mask(gate.v, _mm256_setzero_pd(), _CMP_GT_OQ);
  return {_mm256_maskz_mov_pd(kept, a.v)};
}
#else
template <class T>
using Half = Vec<T>;
#endif

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
