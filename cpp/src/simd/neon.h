// NEON (aarch64): 4 float or 2 double lanes; partial loads and stores by half vectors
// and single lanes.
//
// min and max are done by compare and select, because vminq and vmaxq treat NaN and
// zeros differently.
#pragma once

#include <arm_neon.h>

namespace fastmlp {
namespace FASTMLP_ISA {

template <>
struct Mask<float> {
  uint32x4_t m;
};
template <>
struct Bits<float> {
  uint32x4_t b;
};
template <>
struct Vec<float> {
  static constexpr Index kLanes = 4;
  float32x4_t v;

  static FASTMLP_MEMBER Vec load(const float* p) { return {vld1q_f32(p)}; }
  static FASTMLP_MEMBER Vec load_partial(const float* p, Index n) {
    if (n >= kLanes) return load(p);
    const float32x2_t zero = vdup_n_f32(0.0f);
    if (n <= 0) return {vcombine_f32(zero, zero)};
    const float32x2_t low = n >= 2 ? vld1_f32(p) : vld1_lane_f32(p, zero, 0);
    const float32x2_t high = n >= 3 ? vld1_lane_f32(p + 2, zero, 0) : zero;
    return {vcombine_f32(low, high)};
  }
  static FASTMLP_MEMBER Vec set1(float x) { return {vdupq_n_f32(x)}; }
  FASTMLP_MEMBER void store(float* p) const { vst1q_f32(p, v); }
  FASTMLP_MEMBER void store_partial(float* p, Index n) const {
    if (n >= kLanes) return store(p);
    if (n == 1) vst1q_lane_f32(p, v, 0);
    if (n >= 2) vst1_f32(p, vget_low_f32(v));
    if (n >= 3) vst1q_lane_f32(p + 2, v, 2);
  }
};

// clang-format off
FASTMLP_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return {vaddq_f32(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return {vsubq_f32(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return {vmulq_f32(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> operator/(Vec<float> a, Vec<float> b) { return {vdivq_f32(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
FASTMLP_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
FASTMLP_INLINE Vec<float> sqrt(Vec<float> a) { return {vsqrtq_f32(a.v)}; }
FASTMLP_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
FASTMLP_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
FASTMLP_INLINE Mask<float> operator<(Vec<float> a, Vec<float> b) { return {vcltq_f32(a.v, b.v)}; }
FASTMLP_INLINE Mask<float> operator<=(Vec<float> a, Vec<float> b) { return {vcleq_f32(a.v, b.v)}; }
FASTMLP_INLINE Mask<float> operator>(Vec<float> a, Vec<float> b) { return {vcgtq_f32(a.v, b.v)}; }
FASTMLP_INLINE Mask<float> operator>=(Vec<float> a, Vec<float> b) { return {vcgeq_f32(a.v, b.v)}; }
FASTMLP_INLINE Mask<float> operator==(Vec<float> a, Vec<float> b) { return {vceqq_f32(a.v, b.v)}; }
FASTMLP_INLINE Mask<float> is_nan(Vec<float> a) { return {vmvnq_u32(vceqq_f32(a.v, a.v))}; }
FASTMLP_INLINE Mask<float> operator&(Mask<float> a, Mask<float> b) { return {vandq_u32(a.m, b.m)}; }
FASTMLP_INLINE Mask<float> operator|(Mask<float> a, Mask<float> b) { return {vorrq_u32(a.m, b.m)}; }
FASTMLP_INLINE Mask<float> operator!(Mask<float> a) { return {vmvnq_u32(a.m)}; }
FASTMLP_INLINE bool any(Mask<float> a) { return vmaxvq_u32(a.m) != 0; }
FASTMLP_INLINE Vec<float> select(Mask<float> m, Vec<float> a, Vec<float> b) { return {vbslq_f32(m.m, a.v, b.v)}; }
FASTMLP_INLINE Bits<float> to_bits(Vec<float> a) { return {vreinterpretq_u32_f32(a.v)}; }
FASTMLP_INLINE Vec<float> from_bits(Bits<float> a) { return {vreinterpretq_f32_u32(a.b)}; }
template <> FASTMLP_SPECIAL Bits<float> set1_bits<float>(uint32_t u) { return {vdupq_n_u32(u)}; }
FASTMLP_INLINE Bits<float> operator+(Bits<float> a, Bits<float> b) { return {vaddq_u32(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator-(Bits<float> a, Bits<float> b) { return {vsubq_u32(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator&(Bits<float> a, Bits<float> b) { return {vandq_u32(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator|(Bits<float> a, Bits<float> b) { return {vorrq_u32(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator^(Bits<float> a, Bits<float> b) { return {veorq_u32(a.b, b.b)}; }
template <int N> FASTMLP_INLINE Bits<float> shl(Bits<float> a) { return {vshlq_n_u32(a.b, N)}; }
template <int N> FASTMLP_INLINE Bits<float> shr(Bits<float> a) { return {vshrq_n_u32(a.b, N)}; }
FASTMLP_INLINE Mask<float> nonzero(Bits<float> a) { return {vtstq_u32(a.b, a.b)}; }
// clang-format on

template <>
struct Mask<double> {
  uint64x2_t m;
};
template <>
struct Bits<double> {
  uint64x2_t b;
};
template <>
struct Vec<double> {
  static constexpr Index kLanes = 2;
  float64x2_t v;

  static FASTMLP_MEMBER Vec load(const double* p) { return {vld1q_f64(p)}; }
  static FASTMLP_MEMBER Vec load_partial(const double* p, Index n) {
    if (n >= kLanes) return load(p);
    const float64x1_t zero = vdup_n_f64(0.0);
    return {vcombine_f64(n > 0 ? vld1_f64(p) : zero, zero)};
  }
  static FASTMLP_MEMBER Vec set1(double x) { return {vdupq_n_f64(x)}; }
  FASTMLP_MEMBER void store(double* p) const { vst1q_f64(p, v); }
  FASTMLP_MEMBER void store_partial(double* p, Index n) const {
    if (n >= kLanes) return store(p);
    if (n > 0) vst1_f64(p, vget_low_f64(v));
  }
};

// clang-format off
FASTMLP_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) { return {vaddq_f64(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) { return {vsubq_f64(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) { return {vmulq_f64(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> operator/(Vec<double> a, Vec<double> b) { return {vdivq_f64(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
FASTMLP_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) { return {vfmsq_f64(c.v, a.v, b.v)}; }
FASTMLP_INLINE Vec<double> sqrt(Vec<double> a) { return {vsqrtq_f64(a.v)}; }
FASTMLP_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {vbslq_f64(vcltq_f64(a.v, b.v), a.v, b.v)}; }
FASTMLP_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {vbslq_f64(vcgtq_f64(a.v, b.v), a.v, b.v)}; }
FASTMLP_INLINE Mask<double> operator<(Vec<double> a, Vec<double> b) { return {vcltq_f64(a.v, b.v)}; }
FASTMLP_INLINE Mask<double> operator<=(Vec<double> a, Vec<double> b) { return {vcleq_f64(a.v, b.v)}; }
FASTMLP_INLINE Mask<double> operator>(Vec<double> a, Vec<double> b) { return {vcgtq_f64(a.v, b.v)}; }
FASTMLP_INLINE Mask<double> operator>=(Vec<double> a, Vec<double> b) { return {vcgeq_f64(a.v, b.v)}; }
FASTMLP_INLINE Mask<double> operator==(Vec<double> a, Vec<double> b) { return {vceqq_f64(a.v, b.v)}; }
FASTMLP_INLINE Mask<double> operator&(Mask<double> a, Mask<double> b) { return {vandq_u64(a.m, b.m)}; }
FASTMLP_INLINE Mask<double> operator|(Mask<double> a, Mask<double> b) { return {vorrq_u64(a.m, b.m)}; }
FASTMLP_INLINE Mask<double> operator!(Mask<double> a) { return {vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(a.m)))}; }
FASTMLP_INLINE Mask<double> is_nan(Vec<double> a) { return !Mask<double>{vceqq_f64(a.v, a.v)}; }
FASTMLP_INLINE bool any(Mask<double> a) { return vmaxvq_u32(vreinterpretq_u32_u64(a.m)) != 0; }
FASTMLP_INLINE Vec<double> select(Mask<double> m, Vec<double> a, Vec<double> b) { return {vbslq_f64(m.m, a.v, b.v)}; }
FASTMLP_INLINE Bits<double> to_bits(Vec<double> a) { return {vreinterpretq_u64_f64(a.v)}; }
FASTMLP_INLINE Vec<double> from_bits(Bits<double> a) { return {vreinterpretq_f64_u64(a.b)}; }
template <> FASTMLP_SPECIAL Bits<double> set1_bits<double>(uint64_t u) { return {vdupq_n_u64(u)}; }
FASTMLP_INLINE Bits<double> operator+(Bits<double> a, Bits<double> b) { return {vaddq_u64(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator-(Bits<double> a, Bits<double> b) { return {vsubq_u64(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator&(Bits<double> a, Bits<double> b) { return {vandq_u64(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator|(Bits<double> a, Bits<double> b) { return {vorrq_u64(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator^(Bits<double> a, Bits<double> b) { return {veorq_u64(a.b, b.b)}; }
template <int N> FASTMLP_INLINE Bits<double> shl(Bits<double> a) { return {vshlq_n_u64(a.b, N)}; }
template <int N> FASTMLP_INLINE Bits<double> shr(Bits<double> a) { return {vshrq_n_u64(a.b, N)}; }
FASTMLP_INLINE Mask<double> nonzero(Bits<double> a) { return {vtstq_u64(a.b, a.b)}; }
FASTMLP_INLINE Bits<double> multiply_low_halves(Bits<double> a, Bits<double> b) { return {vmull_u32(vmovn_u64(a.b), vmovn_u64(b.b))}; }
// clang-format on

FASTMLP_INLINE void transpose(Vec<float> (&rows)[4]) {
  const float64x2_t even01 = vreinterpretq_f64_f32(vtrn1q_f32(rows[0].v, rows[1].v));
  const float64x2_t odd01 = vreinterpretq_f64_f32(vtrn2q_f32(rows[0].v, rows[1].v));
  const float64x2_t even23 = vreinterpretq_f64_f32(vtrn1q_f32(rows[2].v, rows[3].v));
  const float64x2_t odd23 = vreinterpretq_f64_f32(vtrn2q_f32(rows[2].v, rows[3].v));
  rows[0].v = vreinterpretq_f32_f64(vtrn1q_f64(even01, even23));
  rows[1].v = vreinterpretq_f32_f64(vtrn1q_f64(odd01, odd23));
  rows[2].v = vreinterpretq_f32_f64(vtrn2q_f64(even01, even23));
  rows[3].v = vreinterpretq_f32_f64(vtrn2q_f64(odd01, odd23));
}
FASTMLP_INLINE void transpose(Vec<double> (&rows)[2]) {
  const float64x2_t first = vtrn1q_f64(rows[0].v, rows[1].v);
  rows[1].v = vtrn2q_f64(rows[0].v, rows[1].v);
  rows[0].v = first;
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
