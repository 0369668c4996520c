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

// Words for multiply_add: of steps k and k + 2 if there are instructions for pairs,
// else of one step. The even words of a block make up one chain, the odd ones another.
//   chain_word(w, step)       word w of each lane, where step(k) returns the lanes of
//                             step k
//   chain_words(x, y)         the words of a block of steps, the lanes of x and y
//   multiply_add(a, b, c)     c + a b for each lane, step by step
// Packed operands consist of these words, except for AMX.
#if defined(FASTMLP_ISA_avx512_bf16) || defined(FASTMLP_ISA_amx)

constexpr Index kStepsPerWord = 2;

// 32 numbers, rounded: 16 in the lower half, 16 in the upper one.
FASTMLP_INLINE __m512i to_halves(Vec<float> lower, Vec<float> upper) {
  const __m512 least = _mm512_set1_ps(0x1p-55f);
  const __mmask16 keeps_lower =
      _mm512_cmp_ps_mask(_mm512_abs_ps(lower.v), least, _CMP_NLT_UQ);
  const __mmask16 keeps_upper =
      _mm512_cmp_ps_mask(_mm512_abs_ps(upper.v), least, _CMP_NLT_UQ);
  const __mmask32 kept = _mm512_kunpackw(keeps_upper, keeps_lower);
  return (__m512i)_mm512_maskz_cvtne2ps_pbh(kept, upper.v, lower.v);
}
// Two steps of each lane, in its lower and its upper half.
FASTMLP_INLINE Vec<float> pair(Vec<float> lower, Vec<float> upper) {
  // Element i of `lower`, then element i of `upper`, which is 16 places further on.
  alignas(64) static constexpr uint16_t kOrder[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_load_si512(kOrder);
  return {
      _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, to_halves(lower, upper)))};
}

FASTMLP_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)};
}
// VDPBF16PS takes the upper half first, so that it holds step k, and the lower one k +
// 2. Of four steps, the first word has the even ones, the second the odd ones.
template <class Step>
FASTMLP_INLINE Vec<float> chain_word(Index w, Step step) {
  const Index k = 4 * (w / 2) + w % 2;
  return pair(step(k + 2), step(k));
}
FASTMLP_INLINE Vec<float> chain_words(Vec<float> x, Vec<float> y) {
  // Of four steps 0 1 2 3: 2 0 3 1, from the lowest half to the highest.
  const __m512i order = _mm512_broadcast_i32x4(
      _mm_set_epi8(11, 10, 15, 14, 9, 8, 13, 12, 3, 2, 7, 6, 1, 0, 5, 4));
  return {_mm512_castsi512_ps(_mm512_shuffle_epi8(to_halves(x, y), order))};
}

#else

constexpr Index kStepsPerWord = 1;

FASTMLP_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) {
  return fma(a, b, c);
}
template <class Step>
FASTMLP_INLINE Vec<float> chain_word(Index w, Step step) {
  return to_bfloat16(step(w));
}

#endif

#if defined(FASTMLP_ISA_amx)

// A packed word holds steps 2 w (lower half) and 2 w + 1 (upper half).
constexpr bool kTakesWholeBlocks = true;

template <class Step>
FASTMLP_INLINE Vec<float> packed_word(Index w, Step step) {
  return pair(step(2 * w), step(2 * w + 1));
}
FASTMLP_INLINE Vec<float> packed_words_of(Vec<float> x, Vec<float> y) {
  return {_mm512_castsi512_ps(to_halves(x, y))};
}

#else

constexpr bool kTakesWholeBlocks = false;

template <class Step>
FASTMLP_INLINE Vec<float> packed_word(Index w, Step step) {
  return chain_word(w, step);
}
#if defined(FASTMLP_ISA_avx512_bf16)
FASTMLP_INLINE Vec<float> packed_words_of(Vec<float> x, Vec<float> y) {
  return chain_words(x, y);
}
#endif

#endif

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
