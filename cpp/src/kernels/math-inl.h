// Elementary functions over Vec<T>, T = float or double.
//
// They use only + - * / fma and integer lane operations, so that a lane's result
// depends on its argument alone: not on the instruction set, the lane count or its
// neighbours.
//
// Every function accepts all arguments unless it says otherwise; NaN gives NaN. Where
// the floating-point environment keeps subnormal numbers, so do they.  "Error" is the
// largest distance from the exact value in units in the last place, as float / double.
// For float it is the maximum over all arguments (test_math --exhaustive), for double
// the maximum over the random and special arguments of test_math, with a margin of 0.1
// or 0.2 added; test_math enforces these bounds.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "math_coefficients.h"
#include "simd.h"

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
struct Ieee;
template <>
struct Ieee<float> {
  static constexpr int kMantissa = 23;
  static constexpr uint32_t kBias = 127;
  static constexpr uint32_t kSign = 0x80000000u;
  static constexpr uint32_t kInf = 0x7F800000u;
  static constexpr uint32_t kMantissaMask = 0x007FFFFFu;
  static constexpr uint32_t kSqrtHalf = 0x3F3504F3u;
  // Adding kRound to a small number leaves its nearest integer in the low mantissa
  // bits.
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
};
template <>
struct Ieee<double> {
  static constexpr int kMantissa = 52;
  static constexpr uint64_t kBias = 1023;
  static constexpr uint64_t kSign = 0x8000000000000000u;
  static constexpr uint64_t kInf = 0x7FF0000000000000u;
  static constexpr uint64_t kMantissaMask = 0x000FFFFFFFFFFFFFu;
  static constexpr uint64_t kSqrtHalf = 0x3FE6A09E667F3BCDu;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
};

// Chooses the constant for the element type, float or double.
template <class T>
FASTMLP_INLINE constexpr T pick_scalar(float f, double d) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return f;
  } else {
    return d;
  }
}
template <class T>
FASTMLP_INLINE Vec<T> pick(float f, double d) {
  return Vec<T>::set1(pick_scalar<T>(f, d));
}

// c[I] + c[I + Step] x + c[I + 2 Step] x^2 + ... by Horner's rule.  Recursive, because
// compilers do not unroll loops beyond some length.
template <int I, int Step, class T, int N>
FASTMLP_INLINE Vec<T> horner_of(Vec<T> x, const T (&c)[N]) {
  const Vec<T> first = Vec<T>::set1(c[I]);
  if constexpr (I + Step < N) {
    return fma(horner_of<I + Step, Step>(x, c), x, first);
  } else {
    return first;
  }
}
// The polynomial with even and odd powers summed separately, which halves the chain of
// dependent operations at the cost of one multiplication, but loses digits where the
// two halves cancel.
template <class T, int N>
FASTMLP_INLINE Vec<T> poly_of(Vec<T> x, const T (&c)[N]) {
  if constexpr (N < 5) {
    return horner_of<0, 1>(x, c);
  } else {
    const Vec<T> q = x * x;
    return fma(horner_of<1, 2>(q, c), x, horner_of<0, 2>(q, c));
  }
}
template <class T, int N, int M>
FASTMLP_INLINE Vec<T> horner(Vec<T> x, const float (&f)[N], const double (&d)[M]) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return horner_of<0, 1>(x, f);
  } else {
    return horner_of<0, 1>(x, d);
  }
}
template <class T, int N, int M>
FASTMLP_INLINE Vec<T> poly(Vec<T> x, const float (&f)[N], const double (&d)[M]) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return poly_of(x, f);
  } else {
    return poly_of(x, d);
  }
}

// Returns 2^n, where the low bits of z hold n + bias. The shift moves these into the
// exponent's field and drops all bits above them.
template <class T>
FASTMLP_INLINE Vec<T> exponent_of(Bits<T> z) {
  return from_bits(shl<Ieee<T>::kMantissa>(z));
}

// Gives a result >= 0 the sign of x, including the sign of a zero.
template <class T>
FASTMLP_INLINE Vec<T> with_sign_of(Vec<T> x, Vec<T> result) {
  return from_bits(to_bits(result) | (to_bits(x) & set1_bits<T>(Ieee<T>::kSign)));
}

// Returns x if |x| is so small that f(x) rounds to x, else `result`. This keeps -0 and
// subnormals.
template <class T>
FASTMLP_INLINE Vec<T> identity_if_tiny(Vec<T> x, Vec<T> result) {
  return select(abs(x) < pick<T>(0x1p-26f, 0x1p-55), x, result);
}

// e^r - 1 for |r| <= ln(2) / 2.
template <class T>
FASTMLP_INLINE Vec<T> expm1_reduced(Vec<T> r) {
  return fma(r * r, poly(r, kExpF, kExpD), r);
}

// x = n ln 2 + r with |r| <= ln(2) / 2; z has n + bias in its low bits.
template <class T>
struct ExpReduced {
  Vec<T> r;
  Bits<T> z;
};
template <class T>
FASTMLP_INLINE ExpReduced<T> exp_reduce(Vec<T> x, T bias) {
  const Vec<T> round = Vec<T>::set1(Ieee<T>::kRound + bias);
  const Vec<T> z = fma(x, pick<T>(kLog2EF, kLog2ED), round);
  const Vec<T> n = z - round;
  const Vec<T> r = fnma(n, pick<T>(kLn2HiF, kLn2HiD), x);
  return {fnma(n, pick<T>(kLn2LoF, kLn2LoD), r), to_bits(z)};
}

// e^x.  Error 1.1 / 1.1.  Overflows and underflows where the exact value does; for
// float it is monotonic.
template <class T>
FASTMLP_INLINE Vec<T> vexp(Vec<T> x) {
  using I = Ieee<T>;
  // The constants are the first arguments because min and max return their second
  // argument if either is NaN. So a NaN in x stays NaN.
  x = max(pick<T>(-104.0f, -746.0), min(pick<T>(89.0f, 710.0), x));
  const ExpReduced<T> e = exp_reduce(x, T(2 * I::kBias));
  const Vec<T> p = Vec<T>::set1(1) + expm1_reduced(e.r);
  // 2^n is applied as two factors, because it may be subnormal or above the largest
  // number.
  const Bits<T> half = shr<1>(e.z);
  return p * exponent_of(half) * exponent_of(e.z - half);
}

// e^x for x <= 0 (results for other arguments are meaningless), cheaper than vexp and
// bitwise equal to it: intermediate values are scaled by 2^64, so that they stay
// normal.
template <class T>
FASTMLP_INLINE Vec<T> vexp_nonpositive(Vec<T> x) {
  x = max(pick<T>(-104.0f, -746.0), x);
  const ExpReduced<T> e = exp_reduce(x, T(Ieee<T>::kBias + 64));
  const Vec<T> p = Vec<T>::set1(1) + expm1_reduced(e.r);
  return p * exponent_of(e.z) * Vec<T>::set1(T(0x1p-64));
}

// e^x - 1.  Error 1.7 / 2.0.
template <class T>
FASTMLP_INLINE Vec<T> vexpm1(Vec<T> x) {
  const Vec<T> c = max(pick<T>(-18.0f, -38.0), min(pick<T>(89.0f, 710.0), x));
  const ExpReduced<T> e = exp_reduce(c, T(Ieee<T>::kBias - 1));
  const Vec<T> half = exponent_of(e.z);  // 2^(n - 1), as 2^n may be too large
  const Vec<T> y = fma(half, expm1_reduced(e.r), half - Vec<T>::set1(T(0.5)));
  return identity_if_tiny(x, y + y);
}

// tanh x.  Error 1.85 / 1.95.  tanh(-x) = -tanh(x) bitwise, |tanh x| <= 1, and it is
// monotonic to within one unit in the last place.
//
// With |x| = n ln(2) / 2 + h, s = 2^n and t = tanh h, the addition theorem gives
//   tanh |x| = (A + B t) / (B + A t),  A = s - 1, B = s + 1.
// A constant c close to tanh |x| is split off, so that the rest is small and its
// rounding errors matter less:
//   tanh |x| = c + ((A - c B) + (B - c A) t) / (B + A t),
// c = min(n / 4, 1) is 0 where the result may be small, and makes A - c B and B - c A
// exact.
template <class T>
FASTMLP_INLINE Vec<T> vtanh(Vec<T> x) {
  using I = Ieee<T>;
  const Vec<T> one = Vec<T>::set1(1);
  const Vec<T> round = Vec<T>::set1(I::kRound + T(I::kBias));
  const Vec<T> a = min(pick<T>(10.0f, 20.0), abs(x));
  const Vec<T> z = fma(a, pick<T>(2 * kLog2EF, 2 * kLog2ED), round);
  const Vec<T> n = z - round;
  // The low part of ln(2) / 2 is omitted: its effect is smaller than a rounding error.
  const Vec<T> h = fnma(n, pick<T>(kLn2HiF / 2, kLn2HiD / 2), a);
  const Vec<T> s = exponent_of(to_bits(z));
  const Vec<T> q = h * h;
  const Vec<T> t = fma(h * q, poly(q, kTanhF, kTanhD), h);
  const Vec<T> below = s - one;
  const Vec<T> above = s + one;
  const Vec<T> c = min(n * Vec<T>::set1(T(0.25)), one);
  const Vec<T> top = fma(fnma(c, below, above), t, fnma(c, above, below));
  return with_sign_of(x, c + top / fma(below, t, above));
}

// 1 / (1 + e^-x).  Error 1.7 / 1.7.
//
// With e = exp(-|x|) and w = e / (1 + e), the result is e - e w for x < 0 and 1 - w
// otherwise.
template <class T>
FASTMLP_INLINE Vec<T> vsigmoid(Vec<T> x) {
  const Vec<T> one = Vec<T>::set1(1);
  const Vec<T> e =
      vexp_nonpositive(from_bits(to_bits(x) | set1_bits<T>(Ieee<T>::kSign)));
  const Vec<T> top = select(x < Vec<T>::set1(0), e, one);
  return fnma(top, e / (one + e), top);
}

// u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); u is normal.
template <class T>
struct LogReduced {
  Vec<T> e;        // 2^kMantissa + e + bias as a floating-point number
  Bits<T> biased;  // e + bias as an integer
  Vec<T> f;
};
template <class T>
FASTMLP_INLINE LogReduced<T> log_reduce(Vec<T> u) {
  using I = Ieee<T>;
  using U = typename BitsOf<T>::type;
  const Bits<T> shifted =
      to_bits(u) + set1_bits<T>((U(I::kBias) << I::kMantissa) - I::kSqrtHalf);
  const Bits<T> biased = shr<I::kMantissa>(shifted);
  const Bits<T> m =
      (shifted & set1_bits<T>(I::kMantissaMask)) + set1_bits<T>(I::kSqrtHalf);
  // Putting the integer `biased` into the mantissa of 2^kMantissa gives the
  // floating-point number 2^kMantissa + biased.
  const Bits<T> sum =
      biased | set1_bits<T>((U(I::kBias) + I::kMantissa) << I::kMantissa);
  return {from_bits(sum), biased, from_bits(m) - Vec<T>::set1(1)};
}

// e ln 2 + log(1 + f).  With s = f / (2 + f) and R = 2 atanh(s) / s - 2,
//   log(1 + f) = 2 atanh s = f - s (f - R).
template <class T>
FASTMLP_INLINE Vec<T> log_assemble(Vec<T> e, Vec<T> f) {
  const Vec<T> s = f / (Vec<T>::set1(2) + f);
  const Vec<T> q = s * s;
  const Vec<T> rest = fnma(q, poly(q, kLogF, kLogD), f);
  const Vec<T> low = fnma(s, rest, e * pick<T>(kLn2LoF, kLn2LoD));
  return fma(e, pick<T>(kLn2HiF, kLn2HiD), f + low);
}

// Replaces the result of a logarithm where its argument u is not in (0, inf).
template <class T>
FASTMLP_INLINE Vec<T> log_edges(Vec<T> u, Vec<T> result) {
  using I = Ieee<T>;
  const Vec<T> zero = Vec<T>::set1(0);
  const Vec<T> inf = from_bits(set1_bits<T>(I::kInf));
  const Vec<T> nan = from_bits(set1_bits<T>(I::kInf | I::kMantissaMask));
  result = select(u < inf, result, u);  // inf and NaN
  return select(u > zero, result, select(u == zero, -inf, nan));
}

// Natural logarithm.  Error 0.95 / 0.9.  -inf at 0, NaN for negative arguments.
template <class T>
FASTMLP_INLINE Vec<T> vlog(Vec<T> x) {
  using I = Ieee<T>;
  constexpr T kTwoToMantissa = T(typename BitsOf<T>::type(1) << I::kMantissa);
  const Vec<T> scale = Vec<T>::set1(kTwoToMantissa);
  const Mask<T> small = x < pick<T>(0x1p-126f, 0x1p-1022);
  const LogReduced<T> l = log_reduce(select(small, x * scale, x));
  const Vec<T> offset =
      select(small, Vec<T>::set1(kTwoToMantissa + T(I::kBias) + T(I::kMantissa)),
             Vec<T>::set1(kTwoToMantissa + T(I::kBias)));
  return log_edges(x, log_assemble(l.e - offset, l.f));
}

// log(1 + x).  Error 1.5 / 1.5.  -inf at -1, NaN for x < -1.
template <class T>
FASTMLP_INLINE Vec<T> vlog1p(Vec<T> x) {
  using I = Ieee<T>;
  using U = typename BitsOf<T>::type;
  const Vec<T> one = Vec<T>::set1(1);
  // 1 + x = u + low exactly.
  const Vec<T> u = one + x;
  const Vec<T> back = u - one;
  const Vec<T> low = (one - (u - back)) + (x - back);
  const LogReduced<T> l = log_reduce(u);
  // 2^(1 - e), which unlike 2^-e is never subnormal. (It may be 0, but only where low
  // is 0.)
  const Vec<T> scale =
      from_bits(shl<I::kMantissa>(set1_bits<T>(U(2 * I::kBias + 1)) - l.biased));
  const Vec<T> f = fma(low * Vec<T>::set1(T(0.5)), scale, l.f);
  const Vec<T> e = l.e - Vec<T>::set1(T(U(1) << I::kMantissa) + T(I::kBias));
  return identity_if_tiny(x, log_edges(u, log_assemble(e, f)));
}

// log(1 + x) for 0 <= x <= 1, at a third of the cost of vlog1p.  Error 1.1 / 1.1.
template <class T>
FASTMLP_INLINE Vec<T> vlog1p01(Vec<T> x) {
  const Vec<T> s = x / (Vec<T>::set1(2) + x);
  const Vec<T> q = s * s;
  return fnma(s, fnma(q, poly(q, kLog01F, kLog01D), x), x);
}

// log(1 + e^x) without overflow.
template <class T>
FASTMLP_INLINE Vec<T> vsoftplus(Vec<T> x) {
  const Vec<T> zero = Vec<T>::set1(T(0));
  return max(zero, x) + vlog1p01(vexp_nonpositive(-abs(x)));
}

// The high half of a 64 x 64 bit product.
FASTMLP_INLINE uint64_t multiply_high(uint64_t a, uint64_t b) {
  const uint64_t al = a & 0xFFFFFFFFu, ah = a >> 32;
  const uint64_t bl = b & 0xFFFFFFFFu, bh = b >> 32;
  const uint64_t middle = ah * bl + (al * bl >> 32);
  return ah * bh + (middle >> 32) + ((al * bh + (middle & 0xFFFFFFFFu)) >> 32);
}

// a = n pi / 2 + r with |r| <= pi / 4, for any finite a >= 2^14 (Payne and Hanek,
// 1983).  Bits of 2 / pi that contribute multiples of 4 to 2 a / pi are skipped.  The
// 192 bits after them leave more than 60 correct bits in r, even if a is as close to a
// multiple of pi / 2 as a double can be.  Returns r; *quadrant = n modulo 4.
FASTMLP_INLINE double reduce_by_half_pi(double a, unsigned* quadrant) {
  uint64_t bits;
  memcpy(&bits, &a, sizeof bits);
  const uint64_t m = (bits & 0x000FFFFFFFFFFFFFu) | 0x0010000000000000u;
  // a = m 2^e.  Bits of 2 / pi of weight 2^(2 - e) and above contribute multiples of 4.
  const int e = static_cast<int>(bits >> 52) - 1075;
  const int first = 64 + e - 2;
  uint32_t p[6];
  for (int i = 0; i < 6; ++i) {
    const uint32_t* w = kTwoOverPiBits + first / 32 + i;
    p[i] = static_cast<uint32_t>(((uint64_t(w[0]) << 32 | w[1]) << (first % 32)) >> 32);
  }
  // y = m p modulo 2^192, most significant word first: 2 a / pi in units of 2^-190.
  uint32_t y[6];
  uint64_t carry = 0;
  for (int i = 5; i >= 0; --i) {
    carry += (m & 0xFFFFFFFFu) * p[i];
    y[i] = static_cast<uint32_t>(carry);
    carry >>= 32;
  }
  carry = 0;
  for (int i = 4; i >= 0; --i) {
    carry += (m >> 32) * p[i + 1] + y[i];
    y[i] = static_cast<uint32_t>(carry);
    carry >>= 32;
  }
  // Round to the nearest integer; keep the sign and the magnitude of the remainder.
  const bool negative = (y[0] & 0x20000000u) != 0;
  *quadrant = ((y[0] >> 30) + negative) & 3u;
  if (negative) {
    carry = 1;
    for (int i = 5; i >= 0; --i) {
      carry += static_cast<uint32_t>(~y[i]);
      y[i] = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
  }
  y[0] &= 0x3FFFFFFFu;
  int word = 0;
  while (word < 3 && y[word] == 0) ++word;
  const uint64_t top = uint64_t(y[word]) << 32 | y[word + 1];
  const int zeros = __builtin_clzll(top | 1);
  const uint64_t fraction = (top << zeros) | (uint64_t(y[word + 2]) << zeros >> 32);
  // The remainder is fraction 2^(-62 - 32 word - zeros), here multiplied by pi / 2. The
  // product is shifted right by one bit, so that it fits into a signed integer.
  const uint64_t product = multiply_high(fraction, kHalfPiBits) >> 1;
  const uint64_t scale_bits = static_cast<uint64_t>(1023 - 60 - 32 * word - zeros)
                              << 52;
  double scale;
  memcpy(&scale, &scale_bits, sizeof scale);
  const double r = static_cast<double>(static_cast<int64_t>(product)) * scale;
  return negative ? -r : r;
}

// The largest argument for which the reduction with pi / 2 in three parts is accurate
// enough.
template <class T>
FASTMLP_INLINE constexpr T sin_fast_limit() {
  return pick_scalar<T>(0x1p14f, 0x1p28);
}

// Replaces r and n (given as z = kRound + n) in the lanes whose argument a[i] exceeds
// sin_fast_limit().
template <class T>
static __attribute__((noinline, cold)) void reduce_large(const T* a, T* r, T* z) {
  for (Index i = 0; i < Vec<T>::kLanes; ++i) {
    if (a[i] <= sin_fast_limit<T>()) continue;
    unsigned quadrant = 0;
    const T nan_if_infinite = a[i] - a[i];
    if (nan_if_infinite == 0) {
      r[i] = static_cast<T>(reduce_by_half_pi(static_cast<double>(a[i]), &quadrant));
    } else {
      r[i] = nan_if_infinite;
    }
    z[i] = Ieee<T>::kRound + static_cast<T>(quadrant);
  }
}

// sin(a + kQuadrant pi / 2) for a >= 0.
template <int kQuadrant, class T>
FASTMLP_INLINE Vec<T> sin_of_magnitude(Vec<T> a) {
  using I = Ieee<T>;
  using U = typename BitsOf<T>::type;
  const Vec<T> one = Vec<T>::set1(1);
  const Vec<T> round = Vec<T>::set1(I::kRound);
  Vec<T> z = fma(a, pick<T>(kTwoOverPiF, kTwoOverPiD), round);
  const Vec<T> n = z - round;
  // The first step is exact. The parts must be subtracted one after another, because r
  // may come close to 0 in any of the steps.
  Vec<T> r = fnma(n, pick<T>(kHalfPi1F, kHalfPi1D), a);
  r = fnma(n, pick<T>(kHalfPi2F, kHalfPi2D), r);
  r = fnma(n, pick<T>(kHalfPi3F, kHalfPi3D), r);
  if (__builtin_expect(any(!(a <= Vec<T>::set1(sin_fast_limit<T>()))), 0)) {
    T lanes[3][Vec<T>::kLanes];
    a.store(lanes[0]);
    r.store(lanes[1]);
    z.store(lanes[2]);
    reduce_large(lanes[0], lanes[1], lanes[2]);
    r = Vec<T>::load(lanes[1]);
    z = Vec<T>::load(lanes[2]);
  }
  const Bits<T> quadrant = to_bits(z) + set1_bits<T>(U(kQuadrant));
  const Vec<T> q = r * r;
  const Vec<T> sine = fma(r * q, poly(q, kSinF, kSinD), r);
  const Vec<T> cosine =
      fma(q * q, poly(q, kCosF, kCosD), fnma(q, Vec<T>::set1(T(0.5)), one));
  const Vec<T> y = select(nonzero(quadrant & set1_bits<T>(1)), cosine, sine);
  // Bit 1 of the quadrant is the sign.
  const Bits<T> flip = shl<8 * sizeof(T) - 2>(quadrant) & set1_bits<T>(I::kSign);
  return from_bits(to_bits(y) ^ flip);
}

// sin x.  Error 1.6 / 1.6, however large x is; NaN if x is infinite.  Odd, bitwise.
template <class T>
FASTMLP_INLINE Vec<T> vsin(Vec<T> x) {
  const Vec<T> y = sin_of_magnitude<0>(abs(x));
  return from_bits(to_bits(y) ^ (to_bits(x) & set1_bits<T>(Ieee<T>::kSign)));
}

// cos x.  Error 1.6 / 1.6, however large x is; NaN if x is infinite.  Even, bitwise.
template <class T>
FASTMLP_INLINE Vec<T> vcos(Vec<T> x) {
  return sin_of_magnitude<1>(abs(x));
}

// erf x.  Error 1.95 / 1.8.  Odd, bitwise; |erf x| <= 1.
//
// erf |x| = 1 - e^u with u = ln(erfc |x|) = |x| Q(|x|) takes one polynomial and no
// division.
template <class T>
FASTMLP_INLINE Vec<T> verf(Vec<T> x) {
  using I = Ieee<T>;
  const Vec<T> round = Vec<T>::set1(I::kRound + T(I::kBias));
  const Vec<T> a = min(pick<T>(3.95f, 5.95), abs(x));
  const Vec<T> u =
      fma(a, pick<T>(kErfLeadingF, kErfLeadingD), a * poly(a, kErfF, kErfD));
  const Vec<T> z = fma(u, pick<T>(kLog2EF, kLog2ED), round);
  const Vec<T> r = fnma(z - round, pick<T>(kLn2HiF, kLn2HiD), u);
  const Vec<T> s = exponent_of(to_bits(z));
  return with_sign_of(x, fnma(s, expm1_reduced(r), Vec<T>::set1(1) - s));
}

// erfc x = 1 - erf x.  Error 3.8 / 4.5, relative to erfc itself: the tail is as
// accurate as the rest, down to the subnormal numbers.
//
// For a = |x|, erfc a = e^(-a^2) P(t) / (a + K), t = (a - K) / (a + K).
template <class T>
FASTMLP_INLINE Vec<T> verfc(Vec<T> x) {
  using I = Ieee<T>;
  const Vec<T> one = Vec<T>::set1(1);
  const Vec<T> round = Vec<T>::set1(I::kRound + T(I::kBias) + T(64));
  const Vec<T> centre = pick<T>(kErfcCentreF, kErfcCentreD);
  const Vec<T> a = min(pick<T>(10.1f, 27.3), abs(x));
  // Computes exp(-a^2); the rounding error of the square is added to the reduced
  // argument.
  const Vec<T> square = a * a;
  const Vec<T> error = fma(a, a, -square);
  const Vec<T> z = fnma(square, pick<T>(kLog2EF, kLog2ED), round);
  const Vec<T> n = z - round;
  const Vec<T> low = fma(n, pick<T>(kLn2LoF, kLn2LoD), error);
  const Vec<T> r = fnma(n, pick<T>(kLn2HiF, kLn2HiD), -square) - low;
  // w = 1 / (a + K), corrected for the rounding errors of the sum and of the quotient.
  const Vec<T> d = a + centre;
  const Vec<T> w0 = one / d;
  const Vec<T> w = fma(fnma(a - (d - centre), w0, fnma(d, w0, one)), w0, w0);
  const Vec<T> t = fnma(centre + centre, w, one);  // (a - K) / (a + K)
  const Vec<T> g = w * horner(t, kErfcF, kErfcD);
  const Vec<T> y =
      fma(g, expm1_reduced(r), g) * exponent_of(to_bits(z)) * Vec<T>::set1(T(0x1p-64));
  return select(x < Vec<T>::set1(0), Vec<T>::set1(2) - y, y);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
