"""The core's elementary functions and activations as C99 functions.

Each function performs the same operations in the same order as the function of the same
name in ``cpp/src/kernels``, so that results are bitwise equal.
"""

from __future__ import annotations

import re

import numpy as np

from ... import _core
from ..activations import ACTIVATIONS, TANH_SERIES
from ..layers import LAYERS

# Coefficients of the polynomials in math_coefficients.h, lowest power first: one str
# for float and one for double.
POLYNOMIALS = {
    "exp": (
        "0x1p-1 0x1.5554b6p-3 0x1.5555bap-5 0x1.1223a6p-7 0x1.6c5558p-10",
        "0x1p-1 0x1.5555555555559p-3 0x1.5555555555548p-5 0x1.111111110f7d6p-7 "
        "0x1.6c16c16c1cd21p-10 0x1.a01a01af804afp-13 0x1.a01a018303f7dp-16 "
        "0x1.71ddf9352631p-19 0x1.27e52b0c5e93cp-22 0x1.af5d5bc597b83p-26 "
        "0x1.1ef58ab056648p-29",
    ),
    "tanh": (
        "-0x1.55554ep-2 0x1.110594p-3 -0x1.afd7fcp-5",
        "-0x1.55555555554bcp-2 0x1.11111110e0929p-3 -0x1.ba1ba116a3b06p-5 "
        "0x1.664ec9bdd1e3ep-6 -0x1.223c6c11ac5c2p-7 0x1.c3821fed2274dp-9",
    ),
    "log01": (
        "0x1.5555p-1 0x1.99d2b4p-2 0x1.1eb0fep-2 0x1.1f17eep-2",
        "0x1.5555555555535p-1 0x1.99999999a0773p-2 0x1.249249208a999p-2 "
        "0x1.c71c741d8a1fp-3 0x1.745cb3d3006e4p-3 0x1.3b1ddfab2416ep-3 "
        "0x1.1067883300313p-3 0x1.efdc5dac867b6p-4 0x1.559e04beedd4ep-4 "
        "0x1.5c8ba46f8a904p-3",
    ),
    "sin": (
        "-0x1.555546p-3 0x1.110776p-7 -0x1.9952fap-13",
        "-0x1.5555555555548p-3 0x1.111111110f73p-7 -0x1.a01a019be928p-13 "
        "0x1.71de35553673p-19 -0x1.ae5e4b90422eap-26 0x1.5d8b5a1074911p-33",
    ),
    "cos": (
        "0x1.55554ap-5 -0x1.6c0c28p-10 0x1.99e80cp-16",
        "0x1.555555555554bp-5 -0x1.6c16c16c1500dp-10 0x1.a01a019c8dd0ep-16 "
        "-0x1.27e4f7f04eac3p-22 0x1.1ee9daca2e6edp-29 -0x1.8fa5ebb67fb74p-37",
    ),
    "erfc": (
        "0x1.f9006ap-1 -0x1.2505f8p-1 0x1.1fbca4p-3 0x1.fd05fap-6 -0x1.34b674p-6 "
        "-0x1.963b7ep-8 0x1.2f854cp-9 0x1.c6d934p-10 0x1.ae6d5p-17 -0x1.5b0a76p-12 "
        "-0x1.a8d81ap-14",
        "0x1.18932bf08e154p+0 -0x1.f3fe31ecb49c3p-1 0x1.8be202d26c727p-1 "
        "-0x1.14eacb1ad0195p-1 0x1.52cac2370f235p-2 -0x1.645fd8a4c9a1fp-3 "
        "0x1.38dbd2c93557fp-4 -0x1.b00c0525abfacp-6 0x1.908f46ebf5a3dp-8 "
        "-0x1.269b6059fce01p-12 -0x1.dd282fe3f7d38p-12 0x1.72ce3fd43a10dp-13 "
        "-0x1.e80f3f587c18ap-19 -0x1.3c7f125e015c2p-16 0x1.3b31a76fbf72ep-18 "
        "0x1.8087fb79d784fp-20 -0x1.c78e24d363624p-21 -0x1.751d8f7ee8168p-24 "
        "0x1.0b0c057b0364p-23 0x1.4a5d1175cc4bfp-27 -0x1.db8c4eb1992aep-27 "
        "-0x1.7c382192befe9p-29",
    ),
}
# Polynomials that are evaluated by a single chain of fused multiply-adds. All others
# with five or more coefficients use two chains.
_ONE_CHAIN = ("erfc",)

# Constants in math_coefficients.h by name: one value for float and one for double.
NUMBERS = {
    "log2e": ("0x1.715476p+0", "0x1.71547652b82fep+0"),
    "ln2_high": ("0x1.62e43p-1", "0x1.62e42fefa39efp-1"),
    "ln2_low": ("-0x1.05c61p-29", "0x1.abc9e3b39803fp-56"),
    "two_over_pi": ("0x1.45f306p-1", "0x1.45f306dc9c883p-1"),
    "half_pi_1": ("0x1.921fb6p+0", "0x1.921fb54442d18p+0"),
    "half_pi_2": ("-0x1.777a5cp-25", "0x1.1a62633145c07p-54"),
    "half_pi_3": ("-0x1.ee59dap-50", "-0x1.f1976b7ed8fbcp-110"),
    "erfc_centre": ("0x1.a8p+0", "0x1p+2"),
}

# Further constants, such as limits of ranges. A single number applies to both types.
_ROUND = 1.5 * 2.0**23, 1.5 * 2.0**52
_BIAS = 127, 1023
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946
_GELU_ROOT = 0.79788456080286535588  # sqrt(2 / pi)
_GELU_CUBIC = 0.044715
_VALUES: dict[str, float | tuple[float, ...]] = {
    **{n: (float.fromhex(f), float.fromhex(d)) for n, (f, d) in NUMBERS.items()},
    # Adding "round" to a small number leaves the nearest integer in the low bits of the
    # sum's mantissa. Adding one of the other round_... constants leaves that integer
    # plus an offset there.
    "round": _ROUND,
    "round_exp": (_ROUND[0] + 2 * _BIAS[0], _ROUND[1] + 2 * _BIAS[1]),
    "round_expm1": (_ROUND[0] + _BIAS[0] - 1, _ROUND[1] + _BIAS[1] - 1),
    "round_tanh": (_ROUND[0] + _BIAS[0], _ROUND[1] + _BIAS[1]),
    "round_64": (_ROUND[0] + _BIAS[0] + 64, _ROUND[1] + _BIAS[1] + 64),
    "exp_low": (-104.0, -746.0),
    "exp_high": (89.0, 710.0),
    "expm1_low": (-18.0, -38.0),
    "tiny": (2.0**-26, 2.0**-55),
    "tanh_high": (10.0, 20.0),
    "two_log2e": tuple(2 * float.fromhex(v) for v in NUMBERS["log2e"]),
    "half_ln2": tuple(float.fromhex(v) / 2 for v in NUMBERS["ln2_high"]),
    "sin_fast": (2.0**14, 2.0**28),
    "erfc_high": (10.1, 27.3),
    "selu_scale": _SELU_SCALE,
    "selu_low": _SELU_SCALE * _SELU_ALPHA,
    "minus_half_root": -0.70710678118654752440,  # -sqrt(1/2)
    "density": 0.39894228040143267794,  # 1 / sqrt(2 pi)
    **{f"tanh_series_{i}": value for i, value in enumerate(TANH_SERIES)},
    "gelu_root": _GELU_ROOT,
    "gelu_cubic": _GELU_ROOT * _GELU_CUBIC,
    "gelu_root_2": 2 * _GELU_ROOT,
    "gelu_cubic_2": 2 * _GELU_ROOT * _GELU_CUBIC,
    "gelu_cubic_6": 6 * _GELU_ROOT * _GELU_CUBIC,
}

# Numbers that depend on the type, as text: for float and for double.
_BY_TYPE = {
    "#mantissa": ("23", "52"),
    "#sign": ("31", "63"),
    "#implicit": ("0x800000u", "0x10000000000000u"),
    "#spare": ("29", "0"),  # 53 digits less those of the type
    "#first": ("117", "1013"),
    "#scale": ("67", "963"),  # the exponent of 2^-60
    "#digits": ("24", "53"),
}

# Some C libraries round the product and the sum separately: newlib, for example, and
# some others for small machines. <fma> is fma or fmaf, and <FMA> the same in capitals.
_FMA = """
/* A multiply-add that is rounded once. The C library's is used if it is an instruction
   or the library is known to be right. */
#if !defined(FASTMLP_OWN_FMA) && \\
    (defined(FP_FAST_<FMA>) || defined(__FP_FAST_<FMA>) || \\
    (defined(__linux__) && !defined(__UCLIBC__) && !defined(__NEWLIB__)) || \\
    defined(__APPLE__) || defined(__FreeBSD__) || defined(_MSC_VER))
#define @fma <fma>
#else
<own>
#endif
"""
# For float: the product is exact in double. The sum is rounded to odd, so that rounding
# it to float gives the nearest number (Boldo & Melquiond 2008).
# For double: in integers. Both terms are numbers of 128 bits times a power of two, with
# at least two bits to spare at the top; digits that a shift loses set the last bit.
_OWN_FMA = (
    """\
static inline float @fma(float a, float b, float c) {
  const double p = (double)a * (double)b, s = p + (double)c;
  const double q = s - p, error = (p - (s - q)) + ((double)c - q);
  uint64_t u;
  double odd;
  memcpy(&u, &s, sizeof u);
  if (s - s == 0 && error != 0 && !(u & 1u)) {
    u = (s > 0) == (error > 0) ? u + 1 : u - 1;
  }
  memcpy(&odd, &u, sizeof odd);
  return (float)odd;
}""",
    """\
typedef struct {
  uint64_t high, low;
  int exponent, negative;
} @term;

/* Returns the exponent of x, and its 53 digits in *m; x is finite and not 0. */
static inline int @digits(double x, uint64_t *m) {
  int exponent;
  memcpy(m, &x, sizeof *m);
  exponent = (int)(*m >> 52 & 0x7FFu);
  *m &= 0xFFFFFFFFFFFFFu;
  if (exponent > 0) {
    *m |= 0x10000000000000u;
  } else {
    for (exponent = 1; !(*m >> 52); --exponent) *m <<= 1;
  }
  return exponent - 1075;
}

/* Shifts t to the right until its exponent is the given one. */
static inline void @shift(@term *t, int exponent) {
  int by = exponent - t->exponent;
  uint64_t lost = 0;
  t->exponent = exponent;
  if (by >= 64) {
    lost = t->low;
    t->low = t->high;
    t->high = 0;
    by -= 64;
  }
  if (by >= 64) {
    lost |= t->low;
    t->low = 0;
  } else if (by > 0) {
    lost |= t->low << (64 - by);
    t->low = t->low >> by | t->high << (64 - by);
    t->high >>= by;
  }
  t->low |= lost != 0;
}

static inline double @fma(double a, double b, double c) {
  @term p, s, swap;
  const uint64_t low = 0xFFFFFFFFu;
  uint64_t m, n, middle, rest, half;
  int e, drop;
  double y;
  if (!(c - c == 0) && a - a == 0 && b - b == 0) return c;
  if (!(a - a == 0) || !(b - b == 0) || a == 0 || b == 0) return a * b + c;
  if (c == 0) return a * b;

  p.negative = (a < 0) != (b < 0);
  p.exponent = @digits(a, &m) + @digits(b, &n) - 20;
  /* The product m n, of 106 digits at most, times 2^20. */
  m <<= 10;
  n <<= 10;
  middle = (m >> 32) * (n & low) + ((m & low) * (n & low) >> 32);
  p.low = m * n;
  p.high = (m >> 32) * (n >> 32) + (middle >> 32);
  middle = (middle & low) + (m & low) * (n >> 32);
  p.high += middle >> 32;
  s.negative = c < 0;
  s.exponent = @digits(c, &s.high) - 72;
  s.high <<= 8;
  s.low = 0;
  e = p.exponent > s.exponent ? p.exponent : s.exponent;
  @shift(&p, e);
  @shift(&s, e);

  if (p.negative == s.negative) {
    s.low += p.low;
    s.high += p.high + (s.low < p.low);
  } else {
    if (p.high > s.high || (p.high == s.high && p.low > s.low)) {
      swap = p;
      p = s;
      s = swap;
    }
    s.high -= p.high + (s.low < p.low);
    s.low -= p.low;
    if (!s.high && !s.low) return 0;
  }

  /* Bring the first digit to bit 62 of the low half. */
  if (s.high || s.low >> 63) {
    for (drop = 1; s.high >> drop; ++drop) {
    }
    @shift(&s, e + drop + 1);
  }
  for (; !(s.low >> 62); s.low <<= 1) --s.exponent;
  e = s.exponent + 1085;
  if (e >= 2047) return s.negative ? -HUGE_VAL : HUGE_VAL;
  drop = e > 0 ? 10 : 11 - e;
  if (drop > 63) return s.negative ? -0.0 : 0.0;
  rest = s.low & (((uint64_t)1 << drop) - 1);
  half = (uint64_t)1 << (drop - 1);
  m = s.low >> drop;
  if (rest > half || (rest == half && (m & 1u))) ++m;
  if (e > 0) m += (uint64_t)(e - 1) << 52;
  memcpy(&y, &m, sizeof y);
  if (e <= 0) {  /* the processor's mode may be to flush such numbers to 0 */
    volatile double one = 1.0;
    y *= one;
  }
  return s.negative ? -y : y;
}""",
)

# C code of the functions by name. T stands for float or double, U for the unsigned
# integer of the same size, @name for another of these functions and $name for a number
# above. sqrt and fabs become sqrtf and fabsf for float; fma becomes a function of the
# header, which `fused` writes. The core's
# select(m, a, b) is written as m ? a : b, min(a, b) as a < b ? a : b, and max(a, b) as
# a > b ? a : b.
_FUNCTIONS = {
    "to_bits": """
static inline U @to_bits(T x) {
  U u;
  memcpy(&u, &x, sizeof u);
  return u;
}
""",
    # Returns 2^n for a z whose low bits hold n plus the exponent bias.
    "exponent": """
static inline T @exponent(U z) {
  T x;
  z <<= #mantissa;
  memcpy(&x, &z, sizeof x);
  return x;
}
""",
    "expm1_reduced": """
/* e^r - 1 for |r| <= ln(2) / 2. */
static inline T @expm1_reduced(T r) {
  return fma(r * r, @poly_exp(r), r);
}
""",
    "exp": """
static inline T @exp(T x) {
  T z, n, r, p;
  U bits, half;
  x = $exp_high < x ? $exp_high : x;
  x = $exp_low > x ? $exp_low : x;
  z = fma(x, $log2e, $round_exp);
  n = z - $round_exp;
  r = fma(-n, $ln2_high, x);
  r = fma(-n, $ln2_low, r);
  p = 1.0 + @expm1_reduced(r);
  bits = @to_bits(z);
  half = bits >> 1;
  return p * @exponent(half) * @exponent(bits - half);
}
""",
    "exp_nonpositive": """
static inline T @exp_nonpositive(T x) {
  T z, n, r, p;
  x = $exp_low > x ? $exp_low : x;
  z = fma(x, $log2e, $round_64);
  n = z - $round_64;
  r = fma(-n, $ln2_high, x);
  r = fma(-n, $ln2_low, r);
  p = 1.0 + @expm1_reduced(r);
  return p * @exponent(@to_bits(z)) * 0x1p-64;
}
""",
    "expm1": """
static inline T @expm1(T x) {
  T c, z, n, r, half, y;
  c = $exp_high < x ? $exp_high : x;
  c = $expm1_low > c ? $expm1_low : c;
  z = fma(c, $log2e, $round_expm1);
  n = z - $round_expm1;
  r = fma(-n, $ln2_high, c);
  r = fma(-n, $ln2_low, r);
  half = @exponent(@to_bits(z));
  y = fma(half, @expm1_reduced(r), half - 0.5);
  return fabs(x) < $tiny ? x : y + y;
}
""",
    "tanh": """
static inline T @tanh(T x) {
  const T size = fabs(x);
  const T a = $tanh_high < size ? $tanh_high : size;
  const T z = fma(a, $two_log2e, $round_tanh);
  const T n = z - $round_tanh;
  const T h = fma(-n, $half_ln2, a);
  const T s = @exponent(@to_bits(z));
  const T q = h * h;
  const T t = fma(h * q, @poly_tanh(q), h);
  const T below = s - 1.0;
  const T above = s + 1.0;
  const T quarter = n * 0.25;
  const T c = quarter < 1.0 ? quarter : 1.0;
  const T top = fma(fma(-c, below, above), t, fma(-c, above, below));
  return copysign(c + top / fma(below, t, above), x);
}
""",
    "sigmoid": """
static inline T @sigmoid(T x) {
  const T e = @exp_nonpositive(-fabs(x));
  const T top = x < 0.0 ? e : 1.0;
  return fma(-top, e / (1.0 + e), top);
}
""",
    "log1p01": """
/* log(1 + x) for 0 <= x <= 1. */
static inline T @log1p01(T x) {
  const T s = x / (2.0 + x);
  const T q = s * s;
  return fma(-s, fma(-q, @poly_log01(q), x), x);
}
""",
    # A number of 63 bits, rounded to nearest, ties to even. The core converts it to
    # double and then to float; both roundings are repeated here in integers, so that
    # the code for float needs no arithmetic with doubles.
    "rounded": """
/* m rounded to its first `digits` binary digits. */
static inline uint64_t @rounded(uint64_t m, int digits) {
  int drop = 0;
  uint64_t low, half;
  while (m >> drop >> digits) ++drop;
  if (drop == 0) return m;
  low = m & (((uint64_t)1 << drop) - 1);
  half = (uint64_t)1 << (drop - 1);
  m -= low;
  if (low > half || (low == half && (m >> drop & 1u))) m += (uint64_t)1 << drop;
  return m;
}
""",
    "reduce": """
/* a modulo pi / 2 for finite a >= 2^14, between -pi / 4 and pi / 4, from as many binary
   digits of 2 / pi as necessary; the quotient modulo 4 goes to *quadrant. */
static inline T @reduce(T a, unsigned *quadrant) {
  static const uint32_t digits[] = {
  0x00000000u, 0x00000000u, 0xA2F9836Eu, 0x4E441529u, 0xFC2757D1u, 0xF534DDC0u,
  0xDB629599u, 0x3C439041u, 0xFE5163ABu, 0xDEBBC561u, 0xB7246E3Au, 0x424DD2E0u,
  0x06492EEAu, 0x09D1921Cu, 0xFE1DEB1Cu, 0xB129A73Eu, 0xE88235F5u, 0x2EBB4484u,
  0xE99C7026u, 0xB45F7E41u, 0x3991D639u, 0x835339F4u, 0x9C845F8Bu, 0xBDF9283Bu,
  0x1FF897FFu, 0xDE05980Fu, 0xEF2F118Bu, 0x5A0A6D1Fu, 0x6D367ECFu, 0x27CB09B7u,
  0x4F463F66u, 0x9E5FEA2Du, 0x7527BAC7u, 0xEBE5F17Bu, 0x3D0739F7u, 0x8A5292EAu,
  0x6BFB5FB1u, 0x1F8D5D08u, 0x56033046u, 0xFC7B6BABu, 0xF0CFBC20u, 0x9AF4361Du
  };
  const uint64_t half_pi = 0xC90FDAA22168C235u;
  uint64_t m, carry, fraction, high, low, middle, product;
  uint32_t p[6], y[6];
  U bits;
  T scale;
  int first, i, word = 0, zeros = 0, negative;
  memcpy(&bits, &a, sizeof bits);
  m = (uint64_t)((bits & (#implicit - 1)) | #implicit) << #spare;
  first = (int)(bits >> #mantissa) - #first;
  for (i = 0; i < 6; ++i) {
    const uint32_t *w = digits + first / 32 + i;
    p[i] = (uint32_t)((((uint64_t)w[0] << 32 | w[1]) << (first % 32)) >> 32);
  }
  carry = 0;
  for (i = 5; i >= 0; --i) {
    carry += (m & 0xFFFFFFFFu) * p[i];
    y[i] = (uint32_t)carry;
    carry >>= 32;
  }
  carry = 0;
  for (i = 4; i >= 0; --i) {
    carry += (m >> 32) * p[i + 1] + y[i];
    y[i] = (uint32_t)carry;
    carry >>= 32;
  }
  negative = (y[0] & 0x20000000u) != 0;
  *quadrant = ((y[0] >> 30) + (unsigned)negative) & 3u;
  if (negative) {
    carry = 1;
    for (i = 5; i >= 0; --i) {
      carry += (uint32_t)~y[i];
      y[i] = (uint32_t)carry;
      carry >>= 32;
    }
  }
  y[0] &= 0x3FFFFFFFu;
  while (word < 3 && y[word] == 0) ++word;
  fraction = (uint64_t)y[word] << 32 | y[word + 1];
  while (zeros < 63 && !((fraction << zeros) >> 63)) ++zeros;
  fraction = (fraction << zeros) | ((uint64_t)y[word + 2] << zeros >> 32);
  /* The high half of fraction * half_pi, halved. */
  high = (fraction >> 32) * (half_pi & 0xFFFFFFFFu);
  low = (fraction & 0xFFFFFFFFu) * (half_pi & 0xFFFFFFFFu);
  middle = high + (low >> 32);
  high = (fraction & 0xFFFFFFFFu) * (half_pi >> 32) + (middle & 0xFFFFFFFFu);
  product = (fraction >> 32) * (half_pi >> 32) + (middle >> 32) + (high >> 32);
  bits = (U)(#scale - 32 * word - zeros) << #mantissa;
  memcpy(&scale, &bits, sizeof scale);
  scale *= (T)(int64_t)@rounded(@rounded(product >> 1, 53), #digits);
  return negative ? -scale : scale;
}
""",
    "sin_quadrant": """
/* sin(a + quadrant pi / 2) for a >= 0. */
static inline T @sin_quadrant(T a, U quadrant) {
  T z = fma(a, $two_over_pi, $round);
  const T n = z - $round;
  T r, q, y;
  r = fma(-n, $half_pi_1, a);
  r = fma(-n, $half_pi_2, r);
  r = fma(-n, $half_pi_3, r);
  if (!(a <= $sin_fast)) {
    unsigned steps = 0;
    r = a - a; /* NaN unless a is finite */
    if (r <= 0.0) r = @reduce(a, &steps);
    z = $round + (T)steps;
  }
  quadrant += @to_bits(z);
  q = r * r;
  if (quadrant & 1u) {
    y = fma(q * q, @poly_cos(q), fma(-q, 0.5, 1.0));
  } else {
    y = fma(r * q, @poly_sin(q), r);
  }
  return quadrant & 2u ? -y : y;
}
""",
    "sin": """
static inline T @sin(T x) {
  const T y = @sin_quadrant(fabs(x), 0u);
  return @to_bits(x) >> #sign ? -y : y;
}
""",
    "cos": """
static inline T @cos(T x) {
  return @sin_quadrant(fabs(x), 1u);
}
""",
    "erfc": """
static inline T @erfc(T x) {
  const T size = fabs(x);
  const T a = $erfc_high < size ? $erfc_high : size;
  const T square = a * a;
  const T error = fma(a, a, -square);
  const T z = fma(-square, $log2e, $round_64);
  const T n = z - $round_64;
  const T low = fma(n, $ln2_low, error);
  const T r = fma(-n, $ln2_high, -square) - low;
  const T d = a + $erfc_centre;
  const T w0 = 1.0 / d;
  const T rest = fma(-(a - (d - $erfc_centre)), w0, fma(-d, w0, 1.0));
  const T w = fma(rest, w0, w0);
  const T t = fma(-($erfc_centre + $erfc_centre), w, 1.0);
  const T g = w * @poly_erfc(t);
  const T y = fma(g, @expm1_reduced(r), g) * @exponent(@to_bits(z)) * 0x1p-64;
  return x < 0.0 ? 2.0 - y : y;
}
""",
    # A sum over a row consists of 16 partial sums, which this function adds pairwise as
    # a tree.
    "tree": """
static inline T @tree(T *part) {
  size_t d, i;
  for (d = 8; d > 0; d /= 2) {
    for (i = 0; i < d; ++i) part[i] = part[i] + part[i + d];
  }
  return part[0];
}
""",
}

_FUNCTIONS |= {
    "silu_slope": """
static inline T @silu_slope(T z, T s) {
  return s * fma(z, 1.0 - s, 1.0);
}
""",
}


def _activation_function(kind: str, name: str, variable: str, text: str) -> None:
    """Add a function of z or h and of those constants of the activation it uses."""
    constants = [f"T {constant}" for constant in used_constants(name, text)]
    head = f"static inline T @{kind}_{name}({', '.join([f'T {variable}', *constants])})"
    body = text if "return" in text else f"  return {text};"
    _FUNCTIONS[f"{kind}_{name}"] = f"\n{head} {{\n{body}\n}}\n"


def used_constants(name: str, text: str) -> list[str]:
    """Return the names of the activation's constants that occur in the C code."""
    known = _core.ACTIVATION_CONSTANTS.get(name, {})
    return [constant for constant in known if re.search(rf"\b{constant}\b", text)]


# The functions act_... compute h = act(z). The functions slope_... compute the
# derivative from z or h.
for _name, _form in ACTIVATIONS.items():
    if _form.c:
        _activation_function("act", _name, "z", _form.c)
    if _form.c_derivative:
        variable = "z" if _form.of_input else "h"
        _activation_function("slope", _name, variable, _form.c_derivative)
_FUNCTIONS |= {
    "softmax": """
static inline void @softmax(T *h, const T *z, size_t n) {
  T part[16] = {0};
  T top = z[0], sum;
  size_t i;
  for (i = 1; i < n; ++i) top = z[i] > top ? z[i] : top;
  for (i = 0; i < n; ++i) {
    h[i] = @exp_nonpositive(z[i] - top);
    part[i % 16] = part[i % 16] + h[i];
  }
  sum = @tree(part);
  for (i = 0; i < n; ++i) h[i] = h[i] / sum;
}
""",
    # The functions below propagate derivatives from a node's input to its output in
    # forward mode, and from its output to its input in backward mode. Derivatives are
    # stored as [element][direction]; d is the index of the direction.
    "times_slope": """
static inline void @times_slope(T *t, const T *slope, size_t n) {
  size_t i, d;
  for (i = 0; i < n; ++i) {
    for (d = 0; d < @D; ++d) t[i * @D + d] = t[i * @D + d] * slope[i];
  }
}
""",
    "times_relu": """
static inline void @times_relu(T *t, const T *h, size_t n) {
  size_t i, d;
  for (i = 0; i < n; ++i) {
    for (d = 0; d < @D; ++d) {
      t[i * @D + d] = h[i] > 0.0 ? t[i * @D + d] : 0.0;
    }
  }
}
""",
    "times_softmax": """
static inline void @times_softmax(T *t, const T *h, size_t n) {
  size_t i, d;
  for (d = 0; d < @D; ++d) {
    T part[16] = {0};
    T mean;
    for (i = 0; i < n; ++i) {
      part[i % 16] = part[i % 16] + t[i * @D + d] * h[i];
    }
    mean = @tree(part);
    for (i = 0; i < n; ++i) t[i * @D + d] = h[i] * (t[i * @D + d] - mean);
  }
}
""",
    # The weight from input p to output j is w[p * by_p + j * by_j]. If relu is not
    # null, only the inputs p with relu[p] > 0 are used.
    "times_weights": """
static inline void @times_weights(T *to, const T *from, const T *w, const T *relu,
                                  size_t k, size_t n, size_t by_p, size_t by_j,
                                  int add) {
  size_t p, j, d;
  for (j = 0; j < n; ++j) {
    T sum[@D];
    for (d = 0; d < @D; ++d) sum[d] = add ? to[j * @D + d] : 0.0;
    for (p = 0; p < k; ++p) {
      const T weight = w[p * by_p + j * by_j];
      if (relu && !(relu[p] > 0.0)) continue;
      for (d = 0; d < @D; ++d) sum[d] = fma(from[p * @D + d], weight, sum[d]);
    }
    for (d = 0; d < @D; ++d) to[j * @D + d] = sum[d];
  }
}
""",
    # For each direction d, writes row (first + d) of a matrix as the derivatives in
    # this direction, or zeros if the matrix does not have that row.
    "seed": """
static inline void @seed(T *to, const T *w, size_t n, size_t first, size_t rows,
                         size_t by_row, size_t by_column) {
  size_t i, d;
  for (i = 0; i < n; ++i) {
    for (d = 0; d < @D; ++d) {
      const size_t row = first + d;
      to[i * @D + d] = row < rows ? w[row * by_row + i * by_column] : 0.0;
    }
  }
}
""",
    "unit": """
static inline void @unit(T *to, size_t n, size_t first) {
  size_t i, d;
  for (i = 0; i < n; ++i) {
    for (d = 0; d < @D; ++d) to[i * @D + d] = i == first + d ? 1.0 : 0.0;
  }
}
""",
}

for _layer_form in LAYERS.values():
    _FUNCTIONS |= _layer_form.c_functions


def functions(names: set[str], dtype: np.dtype[np.floating], prefix: str) -> str:
    """Return the C code of the named functions and of all functions that they call.

    Parameters
    ----------
    names
        Names in `_FUNCTIONS`.
    dtype
        float32 or float64.
    prefix
        Prefix of the functions' names in C.
    """
    wanted: dict[str, str] = {}

    def want(name: str) -> None:
        if name not in wanted:
            text = _polynomial(name, dtype) or _FUNCTIONS[name]
            for other in re.findall(r"@([a-z]\w*)", text):
                if other != name:
                    want(other)
            wanted[name] = text

    for name in sorted(names):
        want(name)
    return "".join(instantiate(text, dtype, prefix) for text in wanted.values())


def instantiate(text: str, dtype: np.dtype[np.floating], prefix: str) -> str:
    """Translate text in the notation of _FUNCTIONS to C, for a dtype and a prefix."""
    single = dtype == np.float32
    text = text.replace("@", f"{prefix}_")
    for name, values in _BY_TYPE.items():
        text = text.replace(name, values[0 if single else 1])
    text = re.sub(r"\bT\b", "float" if single else "double", text)
    text = re.sub(r"\bU\b", "uint32_t" if single else "uint64_t", text)
    if single:
        text = re.sub(r"\b(sqrt|fabs|copysign)\(", r"\1f(", text)
        text = re.sub(r"(?<![\w$.])(\d+\.\d+|0x1p-\d+)\b", r"\1f", text)
    text = re.sub(r"(?<!\w)fma\((?!\))", f"{prefix}_fma(", text)
    return re.sub(r"\$(\w+)", lambda found: number(found[1], dtype), text)


def fused(dtype: np.dtype[np.floating], prefix: str) -> str:
    """Return the C code of the fused multiply-add that the other functions use."""
    single = dtype == np.float32
    own = instantiate(_OWN_FMA[0 if single else 1], dtype, prefix)
    name = "fmaf" if single else "fma"
    text = _FMA.replace("<fma>", name).replace("<FMA>", name.upper())
    return text.replace("@", f"{prefix}_").replace("<own>", own)


def number(name: str, dtype: np.dtype[np.floating]) -> str:
    """Return the C literal of a named number, in parentheses if it is negative."""
    value = _VALUES[name]
    if isinstance(value, tuple):
        value = value[dtype != np.float32]
    text = literals([float(dtype.type(value))], dtype)[0]
    return f"({text})" if text.startswith("-") else text


def literals(values: list[float], dtype: np.dtype[np.floating]) -> list[str]:
    """Return C literals of values, which must be representable in the type."""
    if not np.isfinite(values).all():
        special = {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}
        return [special.get(str(v)) or literals([v], dtype)[0] for v in values]
    text = re.sub(r"\.?0*p", "p", " ".join(map(float.hex, values)))
    if dtype == np.float32:
        text = text.replace(" ", "f ") + "f"
    return text.split()


def _polynomial(name: str, dtype: np.dtype[np.floating]) -> str:
    """Return the C code of the function poly_... of this name, or "" for others."""
    kind, _, table = name.partition("_")
    if kind != "poly":
        return ""
    hexadecimal = POLYNOMIALS[table][dtype != np.float32].split()
    c = literals([float.fromhex(v) for v in hexadecimal], dtype)
    lines = [f"static inline T @poly_{table}(T x) {{"]
    if len(c) < 5 or table in _ONE_CHAIN:
        lines += _horner("y", "x", c)
        lines.append("  return y;")
    else:
        lines.append("  const T q = x * x;")
        lines += _horner("even", "q", c[::2])
        lines += _horner("odd", "q", c[1::2])
        lines.append("  return fma(odd, x, even);")
    return "\n".join(["", *lines, "}", ""])


def _horner(y: str, x: str, c: list[str]) -> list[str]:
    return [f"  T {y} = {c[-1]};"] + [
        f"  {y} = fma({y}, {x}, {a});" for a in reversed(c[:-1])
    ]
