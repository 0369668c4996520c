// AVX2 + FMA: 8 float or 4 double lanes. Partial loads are done by vmaskmov, partial
// stores in pieces of 4, 2 and 1 elements: AMD's CPUs up to Zen 3 take about twenty
// operations for a store by vmaskmov.
#pragma once

#include <immintrin.h>

namespace fastmlp {
namespace FASTMLP_ISA {

template <>
struct Mask<float> {
  __m256 m;
};
template <>
struct Bits<float> {
  __m256i b;
};
template <>
struct Vec<float> {
  static constexpr Index kLanes = 8;
  __m256 v;

  static FASTMLP_MEMBER __m256i lanes_below(Index n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static FASTMLP_MEMBER Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static FASTMLP_MEMBER Vec load_partial(const float* p, Index n) {
    return {_mm256_maskload_ps(p, lanes_below(n))};
  }
  static FASTMLP_MEMBER Vec set1(float x) { return {_mm256_set1_ps(x)}; }
  FASTMLP_MEMBER void store(float* p) const { _mm256_storeu_ps(p, v); }
  FASTMLP_MEMBER void store_partial(float* p, Index n) const {
    __m128 x = _mm256_castps256_ps128(v);
    if (n & 4) {
      _mm_storeu_ps(p, x);
      x = _mm256_extractf128_ps(v, 1);
      p += 4;
    }
    if (n & 2) {
      _mm_storel_pi(reinterpret_cast<__m64*>(p), x);
      x = _mm_movehl_ps(x, x);
      p += 2;
    }
    if (n & 1) _mm_store_ss(p, x);
  }
};

// clang-format off
FASTMLP_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return {_mm256_add_ps(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return {_mm256_sub_ps(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return {_mm256_mul_ps(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> operator/(Vec<float> a, Vec<float> b) { return {_mm256_div_ps(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FASTMLP_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
FASTMLP_INLINE Vec<float> sqrt(Vec<float> a) { return {_mm256_sqrt_ps(a.v)}; }
FASTMLP_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm256_min_ps(a.v, b.v)}; }
FASTMLP_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm256_max_ps(a.v, b.v)}; }
FASTMLP_INLINE Mask<float> operator<(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
FASTMLP_INLINE Mask<float> operator<=(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
FASTMLP_INLINE Mask<float> operator>(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
FASTMLP_INLINE Mask<float> operator>=(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
FASTMLP_INLINE Mask<float> operator==(Vec<float> a, Vec<float> b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
FASTMLP_INLINE Mask<float> is_nan(Vec<float> a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
FASTMLP_INLINE Mask<float> operator&(Mask<float> a, Mask<float> b) { return {_mm256_and_ps(a.m, b.m)}; }
FASTMLP_INLINE Mask<float> operator|(Mask<float> a, Mask<float> b) { return {_mm256_or_ps(a.m, b.m)}; }
FASTMLP_INLINE Mask<float> operator!(Mask<float> a) { return {_mm256_xor_ps(a.m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))}; }
FASTMLP_INLINE bool any(Mask<float> a) { return _mm256_movemask_ps(a.m) != 0; }
FASTMLP_INLINE Vec<float> select(Mask<float> m, Vec<float> a, Vec<float> b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }
FASTMLP_INLINE Bits<float> to_bits(Vec<float> a) { return {_mm256_castps_si256(a.v)}; }
FASTMLP_INLINE Vec<float> from_bits(Bits<float> a) { return {_mm256_castsi256_ps(a.b)}; }
template <> FASTMLP_SPECIAL Bits<float> set1_bits<float>(uint32_t u) { return {_mm256_set1_epi32(static_cast<int>(u))}; }
FASTMLP_INLINE Bits<float> operator+(Bits<float> a, Bits<float> b) { return {_mm256_add_epi32(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator-(Bits<float> a, Bits<float> b) { return {_mm256_sub_epi32(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator&(Bits<float> a, Bits<float> b) { return {_mm256_and_si256(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator|(Bits<float> a, Bits<float> b) { return {_mm256_or_si256(a.b, b.b)}; }
FASTMLP_INLINE Bits<float> operator^(Bits<float> a, Bits<float> b) { return {_mm256_xor_si256(a.b, b.b)}; }
template <int N> FASTMLP_INLINE Bits<float> shl(Bits<float> a) { return {_mm256_slli_epi32(a.b, N)}; }
template <int N> FASTMLP_INLINE Bits<float> shr(Bits<float> a) { return {_mm256_srli_epi32(a.b, N)}; }
FASTMLP_INLINE Mask<float> nonzero(Bits<float> a) { return !Mask<float>{_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.b, _mm256_setzero_si256()))}; }
// clang-format on

template <>
struct Mask<double> {
  __m256d m;
};
template <>
struct Bits<double> {
  __m256i b;
};
template <>
struct Vec<double> {
  static constexpr Index kLanes = 4;
  __m256d v;

  static FASTMLP_MEMBER __m256i lanes_below(Index n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static FASTMLP_MEMBER Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
  static FASTMLP_MEMBER Vec load_partial(const double* p, Index n) {
    return {_mm256_maskload_pd(p, lanes_below(n))};
  }
  static FASTMLP_MEMBER Vec set1(double x) { return {_mm256_set1_pd(x)}; }
  FASTMLP_MEMBER void store(double* p) const { _mm256_storeu_pd(p, v); }
  FASTMLP_MEMBER void store_partial(double* p, Index n) const {
    __m128d x = _mm256_castpd256_pd128(v);
    if (n & 2) {
      _mm_storeu_pd(p, x);
      x = _mm256_extractf128_pd(v, 1);
      p += 2;
    }
    if (n & 1) _mm_store_sd(p, x);
  }
};

// clang-format off
FASTMLP_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) { return {_mm256_add_pd(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) { return {_mm256_sub_pd(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) { return {_mm256_mul_pd(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> operator/(Vec<double> a, Vec<double> b) { return {_mm256_div_pd(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
FASTMLP_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm256_fnmadd_pd(a.v, b.v, c.v)}; }
FASTMLP_INLINE Vec<double> sqrt(Vec<double> a) { return {_mm256_sqrt_pd(a.v)}; }
FASTMLP_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm256_min_pd(a.v, b.v)}; }
FASTMLP_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm256_max_pd(a.v, b.v)}; }
FASTMLP_INLINE Mask<double> operator<(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ)}; }
FASTMLP_INLINE Mask<double> operator<=(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)}; }
FASTMLP_INLINE Mask<double> operator>(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GT_OQ)}; }
FASTMLP_INLINE Mask<double> operator>=(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GE_OQ)}; }
FASTMLP_INLINE Mask<double> operator==(Vec<double> a, Vec<double> b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ)}; }
FASTMLP_INLINE Mask<double> is_nan(Vec<double> a) { return {_mm256_cmp_pd(a.v, a.v, _CMP_UNORD_Q)}; }
FASTMLP_INLINE Mask<double> operator&(Mask<double> a, Mask<double> b) { return {_mm256_and_pd(a.m, b.m)}; }
FASTMLP_INLINE Mask<double> operator|(Mask<double> a, Mask<double> b) { return {_mm256_or_pd(a.m, b.m)}; }
FASTMLP_INLINE Mask<double> operator!(Mask<double> a) { return {_mm256_xor_pd(a.m, _mm256_castsi256_pd(_mm256_set1_epi32(-1)))}; }
FASTMLP_INLINE bool any(Mask<double> a) { return _mm256_movemask_pd(a.m) != 0; }
FASTMLP_INLINE Vec<double> select(Mask<double> m, Vec<double> a, Vec<double> b) { return {_mm256_blendv_pd(b.v, a.v, m.m)}; }
FASTMLP_INLINE Bits<double> to_bits(Vec<double> a) { return {_mm256_castpd_si256(a.v)}; }
FASTMLP_INLINE Vec<double> from_bits(Bits<double> a) { return {_mm256_castsi256_pd(a.b)}; }
template <> FASTMLP_SPECIAL Bits<double> set1_bits<double>(uint64_t u) { return {_mm256_set1_epi64x(static_cast<long long>(u))}; }
FASTMLP_INLINE Bits<double> operator+(Bits<double> a, Bits<double> b) { return {_mm256_add_epi64(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator-(Bits<double> a, Bits<double> b) { return {_mm256_sub_epi64(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator&(Bits<double> a, Bits<double> b) { return {_mm256_and_si256(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator|(Bits<double> a, Bits<double> b) { return {_mm256_or_si256(a.b, b.b)}; }
FASTMLP_INLINE Bits<double> operator^(Bits<double> a, Bits<double> b) { return {_mm256_xor_si256(a.b, b.b)}; }
template <int N> FASTMLP_INLINE Bits<double> shl(Bits<double> a) { return {_mm256_slli_epi64(a.b, N)}; }
template <int N> FASTMLP_INLINE Bits<double> shr(Bits<double> a) { return {_mm256_srli_epi64(a.b, N)}; }
FASTMLP_INLINE Mask<double> nonzero(Bits<double> a) { return !Mask<double>{_mm256_castsi256_pd(_mm256_cmpeq_epi64(a.b, _mm256_setzero_si256()))}; }
FASTMLP_INLINE Bits<double> multiply_low_halves(Bits<double> a, Bits<double> b) { return {_mm256_mul_epu32(a.b, b.b)}; }
// clang-format on

// Pairs of rows, then pairs of pairs, exchange elements within 128-bit lanes; the lanes
// themselves are exchanged last. GCC keeps the rows in registers only if the loops over
// them are unrolled early.
FASTMLP_INLINE void transpose(Vec<float> (&rows)[8]) {
  __m256 t[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const __m256d low01 =
        _mm256_castps_pd(_mm256_unpacklo_ps(rows[i].v, rows[i + 1].v));
    const __m256d high01 =
        _mm256_castps_pd(_mm256_unpackhi_ps(rows[i].v, rows[i + 1].v));
    const __m256d low23 =
        _mm256_castps_pd(_mm256_unpacklo_ps(rows[i + 2].v, rows[i + 3].v));
    const __m256d high23 =
        _mm256_castps_pd(_mm256_unpackhi_ps(rows[i + 2].v, rows[i + 3].v));
    t[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
    t[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
    t[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
    t[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    rows[c].v = _mm256_permute2f128_ps(t[c], t[4 + c], 0x20);
    rows[4 + c].v = _mm256_permute2f128_ps(t[c], t[4 + c], 0x31);
  }
}
FASTMLP_INLINE void transpose(Vec<double> (&rows)[4]) {
  const __m256d low01 = _mm256_unpacklo_pd(rows[0].v, rows[1].v);
  const __m256d high01 = _mm256_unpackhi_pd(rows[0].v, rows[1].v);
  const __m256d low23 = _mm256_unpacklo_pd(rows[2].v, rows[3].v);
  const __m256d high23 = _mm256_unpackhi_pd(rows[2].v, rows[3].v);
  rows[0].v = _mm256_permute2f128_pd(low01, low23, 0x20);
  rows[1].v = _mm256_permute2f128_pd(high01, high23, 0x20);
  rows[2].v = _mm256_permute2f128_pd(low01, low23, 0x31);
  rows[3].v = _mm256_permute2f128_pd(high01, high23, 0x31);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
