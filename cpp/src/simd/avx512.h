// AVX-512 F: 16 float or 8 double lanes; partial loads and stores by mask register.
#pragma once

#include <immintrin.h>

namespace fastmlp {
namespace FASTMLP_ISA {

template <>
struct Mask<float> {
  __mmask16 m;
};
template <>
struct Bits<float> {
  __m512i b;
};
template <>
struct Vec<float> {
  static constexpr Index kLanes = 16;
  __m512 v;

  static FASTMLP_MEMBER __mmask16 lanes_below(Index n) {
    return n >= kLanes ? static_cast<__mmask16>(~0)
                       : static_cast<__mmask16>((1u << (n > 0 ? n : 0)) - 1u);
  }
  static FASTMLP_MEMBER Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static FASTMLP_MEMBER Vec load_partial(const float* p, Index n) {
    return {_mm512_maskz_loadu_ps(lanes_below(n), p)};
  }
  static FASTMLP_MEMBER Vec set1(float x) { return {_mm512_set1_ps(x)}; }
  FASTMLP_MEMBER void store(float* p) const { _mm512_storeu_ps(p, v); }
  FASTMLP_MEMBER void store_partial(float* p, Index n) const {
    _mm512_mask_storeu_ps(p, lanes_below(n), v);
  }
};

// clang-format off
FASTMLP_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return {_mm512_add_ps(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return {_mm512_sub_ps(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return {_mm512_mul_ps(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> operator/(Vec<float> a, Vec<float> b) { return {_mm512_div_ps(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FASTMLP_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
FASTMLP_INLINE Vec<float> sqrt(Vec<float> a) { return {_mm512_sqrt_ps(a.v)}; }
FASTMLP_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm512_min_ps(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm512_max_ps(a.v, b.v)}; }
FASTMLP_INLINE Mask<float> operator<(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
FASTMLP_INLINE Mask<float> operator<=(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
FASTMLP_INLINE Mask<float> operator>(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
FASTMLP_INLINE Mask<float> operator>=(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
FASTMLP_INLINE Mask<float> operator==(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
FASTMLP_INLINE Mask<float> is_nan(Vec<float> a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
FASTMLP_INLINE Mask<float> operator&(Mask<float> a, Mask<float> b) { return {static_cast<__mmask16>(a.m & b.m)}; }
FASTMLP_INLINE Mask<float> operator|(Mask<float> a, Mask<float> b) { return {static_cast<__mmask16>(a.m | b.m)}; }
FASTMLP_INLINE Mask<float> operator!(Mask<float> a) { return {static_cast<__mmask16>(~a.m)}; }
FASTMLP_INLINE bool any(Mask<float> a) { return a.m != 0; }
FASTMLP_INLINE Vec<float> select(Mask<float> m, Vec<float> a, Vec<float> b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
FASTMLP_INLINE Bits<float> to_bits(Vec<float> a) { return {_mm512_castps_si512(a.v)}; }
FASTMLP_INLINE Vec<float> from_bits(Bits<float> a) { return {_mm512_castsi512_ps(a.b)}; }
template <> FASTMLP_SPECIAL Bits<float> set1_bits<float>(uint32_t u) { return {_mm512_set1_epi32(static_cast<int>(u))}; }
FASTMLP_INLINE Bits<float> operator+(Bits<float> a, Bits<float> b) { return {_mm512_add_epi32(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator-(Bits<float> a, Bits<float> b) { return {_mm512_sub_epi32(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator&(Bits<float> a, Bits<float> b) { return {_mm512_and_si512(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator|(Bits<float> a, Bits<float> b) { return {_mm512_or_si512(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator^(Bits<float> a, Bits<float> b) { return {_mm512_xor_si512(a.b, b.b)}; }
template <int N> FASTMLP_INLINE Bits<float> shl(Bits<float> a) { return {_mm512_slli_epi32(a.b, N)}; }
template <int N> FASTMLP_INLINE Bits<float> shr(Bits<float> a) { return {_mm512_srli_epi32(a.b, N)}; }
FASTMLP_INLINE Mask<float> nonzero(Bits<float> a) { return {_mm512_test_epi32_mask(a.b, a.b)}; }
// clang-format on

template <>
struct Mask<double> {
  __mmask8 m;
};
template <>
struct Bits<double> {
  __m512i b;
};
template <>
struct Vec<double> {
  static constexpr Index kLanes = 8;
  __m512d v;

  static FASTMLP_MEMBER __mmask8 lanes_below(Index n) {
    return n >= kLanes ? static_cast<__mmask8>(~0)
                       : static_cast<__mmask8>((1u << (n > 0 ? n : 0)) - 1u);
  }
  static FASTMLP_MEMBER Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
  static FASTMLP_MEMBER Vec load_partial(const double* p, Index n) {
    return {_mm512_maskz_loadu_pd(lanes_below(n), p)};
  }
  static FASTMLP_MEMBER Vec set1(double x) { return {_mm512_set1_pd(x)}; }
  FASTMLP_MEMBER void store(double* p) const { _mm512_storeu_pd(p, v); }
  FASTMLP_MEMBER void store_partial(double* p, Index n) const {
    _mm512_mask_storeu_pd(p, lanes_below(n), v);
  }
};

// clang-format off
FASTMLP_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) { return {_mm512_add_pd(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) { return {_mm512_sub_pd(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) { return {_mm512_mul_pd(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> operator/(Vec<double> a, Vec<double> b) { return {_mm512_div_pd(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
FASTMLP_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm512_fnmadd_pd(a.v, b.v, c.v)}; }
FASTMLP_INLINE Vec<double> sqrt(Vec<double> a) { return {_mm512_sqrt_pd(a.v)}; }
FASTMLP_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm512_min_pd(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm512_max_pd(a.v, b.v)}; }
FASTMLP_INLINE Mask<double> operator<(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)}; }
FASTMLP_INLINE Mask<double> operator<=(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ)}; }
FASTMLP_INLINE Mask<double> operator>(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ)}; }
FASTMLP_INLINE Mask<double> operator>=(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GE_OQ)}; }
FASTMLP_INLINE Mask<double> operator==(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)}; }
FASTMLP_INLINE Mask<double> is_nan(Vec<double> a) { return {_mm512_cmp_pd_mask(a.v, a.v, _CMP_UNORD_Q)}; }
FASTMLP_INLINE Mask<double> operator&(Mask<double> a, Mask<double> b) { return {static_cast<__mmask8>(a.m & b.m)}; }
FASTMLP_INLINE Mask<double> operator|(Mask<double> a, Mask<double> b) { return {static_cast<__mmask8>(a.m | b.m)}; }
FASTMLP_INLINE Mask<double> operator!(Mask<double> a) { return {static_cast<__mmask8>(~a.m)}; }
FASTMLP_INLINE bool any(Mask<double> a) { return a.m != 0; }
FASTMLP_INLINE Vec<double> select(Mask<double> m, Vec<double> a, Vec<double> b) { return {_mm512_mask_blend_pd(m.m, b.v, a.v)}; }
FASTMLP_INLINE Bits<double> to_bits(Vec<double> a) { return {_mm512_castpd_si512(a.v)}; }
FASTMLP_INLINE Vec<double> from_bits(Bits<double> a) { return {_mm512_castsi512_pd(a.b)}; }
template <> FASTMLP_SPECIAL Bits<double> set1_bits<double>(uint64_t u) { return {_mm512_set1_epi64(static_cast<long long>(u))}; }
FASTMLP_INLINE Bits<double> operator+(Bits<double> a, Bits<double> b) { return {_mm512_add_epi64(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator-(Bits<double> a, Bits<double> b) { return {_mm512_sub_epi64(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator&(Bits<double> a, Bits<double> b) { return {_mm512_and_si512(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator|(Bits<double> a, Bits<double> b) { return {_mm512_or_si512(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator^(Bits<double> a, Bits<double> b) { return {_mm512_xor_si512(a.b, b.b)}; }
template <int N> FASTMLP_INLINE Bits<double> shl(Bits<double> a) { return {_mm512_slli_epi64(a.b, N)}; }
template <int N> FASTMLP_INLINE Bits<double> shr(Bits<double> a) { return {_mm512_srli_epi64(a.b, N)}; }
FASTMLP_INLINE Mask<double> nonzero(Bits<double> a) { return {_mm512_test_epi64_mask(a.b, a.b)}; }
FASTMLP_INLINE Bits<double> multiply_low_halves(Bits<double> a, Bits<double> b) { return {_mm512_mul_epu32(a.b, b.b)}; }
// clang-format on

// The transposes below exchange elements within 128-bit lanes, first between pairs of
// rows, then between pairs of pairs. The remaining 4 x 4 transpose of the lanes is done
// here for rows[kStride * i + c], i = 0 .. 3. GCC keeps the rows in registers only if
// the loops over them are unrolled early.
template <int kStride>
FASTMLP_INLINE void transpose_lanes(__m512 (&rows)[4 * kStride]) {
#pragma GCC unroll 4
  for (int c = 0; c < kStride; ++c) {
    const __m512 r0 = rows[c], r1 = rows[kStride + c];
    const __m512 r2 = rows[2 * kStride + c], r3 = rows[3 * kStride + c];
    const __m512 even01 = _mm512_shuffle_f32x4(r0, r1, 0x88);  // lanes 0, 2 of both
    const __m512 even23 = _mm512_shuffle_f32x4(r2, r3, 0x88);
    const __m512 odd01 = _mm512_shuffle_f32x4(r0, r1, 0xdd);  // lanes 1, 3 of both
    const __m512 odd23 = _mm512_shuffle_f32x4(r2, r3, 0xdd);
    rows[c] = _mm512_shuffle_f32x4(even01, even23, 0x88);
    rows[kStride + c] = _mm512_shuffle_f32x4(odd01, odd23, 0x88);
    rows[2 * kStride + c] = _mm512_shuffle_f32x4(even01, even23, 0xdd);
    rows[3 * kStride + c] = _mm512_shuffle_f32x4(odd01, odd23, 0xdd);
  }
}
FASTMLP_INLINE void transpose(Vec<float> (&rows)[16]) {
  __m512 t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512d low01 =
        _mm512_castps_pd(_mm512_unpacklo_ps(rows[i].v, rows[i + 1].v));
    const __m512d high01 =
        _mm512_castps_pd(_mm512_unpackhi_ps(rows[i].v, rows[i + 1].v));
    const __m512d low23 =
        _mm512_castps_pd(_mm512_unpacklo_ps(rows[i + 2].v, rows[i + 3].v));
    const __m512d high23 =
        _mm512_castps_pd(_mm512_unpackhi_ps(rows[i + 2].v, rows[i + 3].v));
    t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
    t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
    t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
    t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
  }
  transpose_lanes<4>(t);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i].v = t[i];
}
FASTMLP_INLINE void transpose(Vec<double> (&rows)[8]) {
  __m512 t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(rows[i].v, rows[i + 1].v));
    t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(rows[i].v, rows[i + 1].v));
  }
  transpose_lanes<2>(t);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) rows[i].v = _mm512_castps_pd(t[i]);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
