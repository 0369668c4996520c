// Numbers rounded to bfloat16, and words of them (see bfloat16_kernels.h). A vector of
// words is a Vec<float>, of which only the bits count.
#pragma once

#include "simd.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// The nearest bfloat16 of each lane, ties to even, as a float. NaN stays a quiet NaN.
FASTMLP_INLINE Vec<float> to_bfloat16(Vec<float> x) {
  const Bits<float> u = to_bits(x);
  const Bits<float> odd = shr<16>(u) & set1_bits<float>(1);
  const Bits<float> upper = set1_bits<float>(0xffff0000u);
  const Vec<float> nearest = from_bits((u + odd + set1_bits<float>(0x7fff)) & upper);
  const Vec<float> nan = from_bits((u | set1_bits<float>(0x00400000)) & upper);
  const Vec<float> rounded = select(is_nan(x), nan, nearest);
  const Vec<float> least = Vec<float>::set1(0x1p-55f);
  return select(abs(x) < least, Vec<float>::set1(0.0f), rounded);
}

#if defined(FASTMLP_ISA_avx512_bf16) || defined(FASTMLP_ISA_amx)

constexpr Index kStepsPerWord = 2;

// 16 numbers, rounded.
FASTMLP_INLINE __m256i to_halves(Vec<float> x) {
  const __mmask16 kept =
      _mm512_cmp_ps_mask(_mm512_abs_ps(x.v), _mm512_set1_ps(0x1p-55f), _CMP_NLT_UQ);
  return (__m256i)_mm512_maskz_cvtneps_pbh(kept, x.v);
}
// Two steps of each lane in its lower and its upper half.
FASTMLP_INLINE Vec<float> pair(Vec<float> lower, Vec<float> upper) {
  return from_bits(shr<16>(to_bits(to_bfloat16(lower))) | to_bits(to_bfloat16(upper)));
}

#endif

#if defined(FASTMLP_ISA_avx512_bf16)

// A word holds steps k (upper half) and k + 2 (lower half), because VDPBF16PS takes the
// upper half first. Of four steps, the first word has the even ones, the second the odd
// ones.
constexpr bool kTakesWholeBlocks = false;

// c + a b for each lane, in two fused multiply-adds.
FASTMLP_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)};
}
// Word w of a block, where step(k) returns the lanes of step k.
template <class Step>
FASTMLP_INLINE Vec<float> word_of(Index w, Step step) {
  const Index k = 4 * (w / 2) + w % 2;
  return pair(step(k + 2), step(k));
}
// Writes the words of 16 consecutive steps: 8 words.
FASTMLP_INLINE void store_words(float* dst, Vec<float> x) {
  // Of four steps 0 1 2 3: 2 0 3 1, from the lowest half to the highest.
  const __m256i order =
      _mm256_set_epi8(11, 10, 15, 14, 9, 8, 13, 12, 3, 2, 7, 6, 1, 0, 5, 4, 11, 10, 15,
                      14, 9, 8, 13, 12, 3, 2, 7, 6, 1, 0, 5, 4);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst),
                      _mm256_shuffle_epi8(to_halves(x), order));
}

#elif defined(FASTMLP_ISA_amx)

// A word holds steps 2 w (lower half) and 2 w + 1 (upper half).
constexpr bool kTakesWholeBlocks = true;

template <class Step>
FASTMLP_INLINE Vec<float> word_of(Index w, Step step) {
  return pair(step(2 * w), step(2 * w + 1));
}
FASTMLP_INLINE void store_words(float* dst, Vec<float> x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst), to_halves(x));
}

#else

constexpr Index kStepsPerWord = 1;
constexpr bool kTakesWholeBlocks = false;

FASTMLP_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) {
  return fma(a, b, c);
}
template <class Step>
FASTMLP_INLINE Vec<float> word_of(Index w, Step step) {
  return to_bfloat16(step(w));
}
FASTMLP_INLINE void store_words(float* dst, Vec<float> x) { to_bfloat16(x).store(dst); }

#endif

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
