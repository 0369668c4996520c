// The smallest vector type the kernels need, one implementation per instruction set.
//
// Everything here lives in namespace fastmlp::FASTMLP_ISA and is always inlined, so
// that no symbol compiled with one ISA's flags can be picked by the linker for another.
//
// Required of each implementation, for T = float and double:
//
//   Vec<T>   kLanes; load, load_partial(p, n) (lanes >= n are zero and are not read),
//            store, store_partial(p, n), set1; + - * / and unary -
//   fma(a, b, c)    a * b + c, rounded once
//   fnma(a, b, c)   c - a * b, rounded once
//   sqrt, abs
//   min, max        (a < b ? a : b), (a > b ? a : b): the second operand on NaN or a
//   tie Mask<T>         result of <, <=, >, >=, ==, is_nan; & | !; any(mask) select(m,
//   a, b) m ? a : b per lane Bits<T>         the lanes as unsigned integers of the same
//   width: + - & | ^,
//                   shl<N>, shr<N> (logical), set1_bits<T>(u), nonzero(bits) -> Mask
//   to_bits(v), from_bits(b)
//
// All operations are IEEE exact per lane, so the lane count never shows in a result.
// Absent on purpose: horizontal sums (their order would depend on the width) and
// reciprocal estimates (they differ between vendors).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "fastmlp/types.h"

#ifndef FASTMLP_ISA
#error "simd.h is for kernel translation units: define FASTMLP_ISA"
#endif

#define FASTMLP_INLINE static inline __attribute__((always_inline))
#define FASTMLP_MEMBER inline __attribute__((always_inline))

#if defined(FASTMLP_ISA_avx512)
#include "avx512.h"
#elif defined(FASTMLP_ISA_avx2)
#include "avx2.h"
#elif defined(FASTMLP_ISA_neon)
#include "neon.h"
#else
#include "scalar.h"
#endif
