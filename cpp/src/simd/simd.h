// The smallest vector type that the kernels need, implemented once per instruction set.
//
// Everything here lives in namespace fastmlp::FASTMLP_ISA and is always inlined, so
// that the linker can never pick a symbol compiled with the flags of another ISA.
//
// Each implementation must provide, for T = float and double (negation and abs are
// defined below by bit operations):
//
//   Vec<T>          kLanes; load, load_partial(p, n) (lanes >= n are zero and are not
//                   read), store, store_partial(p, n), both for n < kLanes; set1;
//                   + - * /
//   fma(a, b, c)    a * b + c, rounded once
//   fnma(a, b, c)   c - a * b, rounded once
//   sqrt
//   min, max        (a < b ? a : b), (a > b ? a : b): the second operand on NaN and
//                   on a tie
//   Mask<T>         result of <, <=, >, >=, ==, is_nan; & | !; any(mask)
//   select(m, a, b) m ? a : b per lane
//   Bits<T>         the lanes as unsigned integers of the same width: + - & | ^,
//                   shl<N>, shr<N> (logical), set1_bits<T>(u), nonzero(bits) -> Mask
//   to_bits(v), from_bits(b)
//   multiply_low_halves(a, b)
//                   Bits<double>: products of the lower 32 bits of the lanes
//   transpose(rows) Vec<T>[kLanes] in place, in registers: swaps lane j of rows[i] with
//                   lane i of rows[j]
//
// All operations round correctly in each lane (IEEE 754), so results do not depend on
// the number of lanes. Horizontal sums are left out on purpose, since their order would
// depend on the width, and so are reciprocal estimates, which differ between vendors.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "fastmlp/types.h"

#ifndef FASTMLP_ISA
#error "simd.h is for kernel translation units: define FASTMLP_ISA"
#endif

#define FASTMLP_INLINE static inline __attribute__((always_inline))
#define FASTMLP_MEMBER inline __attribute__((always_inline))
// Like FASTMLP_INLINE, for specialisations of templates, which cannot have a storage
// class.
#define FASTMLP_SPECIAL inline __attribute__((always_inline))

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
struct Vec;
template <class T>
struct Mask;
template <class T>
struct Bits;
template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = uint32_t;
};
template <>
struct BitsOf<double> {
  using type = uint64_t;
};
template <class T>
Bits<T> set1_bits(typename BitsOf<T>::type u);

}  // namespace FASTMLP_ISA
}  // namespace fastmlp

#if defined(FASTMLP_ISA_avx512) || defined(FASTMLP_ISA_avx512_bf16) || \
    defined(FASTMLP_ISA_amx)
#include "avx512.h"
#elif defined(FASTMLP_ISA_avx2)
#include "avx2.h"
#elif defined(FASTMLP_ISA_neon)
#include "neon.h"
#else
#include "scalar.h"
#endif

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
FASTMLP_INLINE Vec<T> operator-(Vec<T> a) {
  constexpr int kSign = 8 * sizeof(T) - 1;
  return from_bits(to_bits(a) ^ set1_bits<T>(typename BitsOf<T>::type(1) << kSign));
}
template <class T>
FASTMLP_INLINE Vec<T> abs(Vec<T> a) {
  return from_bits(to_bits(a) & set1_bits<T>(typename BitsOf<T>::type(-1) >> 1));
}

// 0 where a <= 0, else a; NaN propagates.
template <class T>
FASTMLP_INLINE Vec<T> rectified(Vec<T> a) {
  return select(a <= Vec<T>::set1(T(0)), Vec<T>::set1(T(0)), a);
}
// Keeps lanes of `a` where gate > 0 and sets the others to 0.
template <class T>
FASTMLP_INLINE Vec<T> where_positive(Vec<T> gate, Vec<T> a) {
  return select(gate > Vec<T>::set1(T(0)), a, Vec<T>::set1(T(0)));
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
