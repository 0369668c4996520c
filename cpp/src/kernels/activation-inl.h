// Activations: each a struct of vector functions, forward(z, c),
// backward(dh, s, c) = dh * act' and second(s, c) = act'', where s is z if
// activation_saves_input(kind), else h, and c are the constants of the formula.
// Formulas are PyTorch's.
#pragma once

#include "columns-inl.h"
#include "loops-inl.h"
#include "math-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
FASTMLP_INLINE Vec<T> num(double x) {
  return Vec<T>::set1(static_cast<T>(x));
}

// The constants of an activation's formula, in the order of FASTMLP_ACTIVATIONS.
template <class T>
struct Constants {
  Vec<T> first, second;
};
template <class T>
FASTMLP_INLINE Constants<T> constants_of(const ActivationSpec& activation) {
  return {num<T>(activation.constants[0]), num<T>(activation.constants[1])};
}

// The second derivative of a piecewise linear activation.
struct PiecewiseLinear {
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T>, Constants<T>) {
    return num<T>(0);
  }
};

struct Identity : PiecewiseLinear {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return z;
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T>, Constants<T>) {
    return dh;
  }
};

// relu'(0) = 0.
struct Relu : PiecewiseLinear {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return rectified(z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T>) {
    return where_positive(h, dh);
  }
};

// leaky_relu with the constant slope >= 0, so that h has the sign of z.
struct LeakyRelu : PiecewiseLinear {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T> c) {
    return select(z > num<T>(0), z, z * c.first);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T> c) {
    return select(h > num<T>(0), dh, dh * c.first);
  }
};

// threshold with the constants threshold and value: z above the threshold, else value.
// The derivative is that of z, because value may exceed the threshold.
struct Threshold : PiecewiseLinear {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T> c) {
    return select(z <= c.first, c.second, z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> z, Constants<T> c) {
    return select(z <= c.first, num<T>(0), dh);
  }
};

// z within [low, high], and the nearer limit outside; NaN propagates. min and max are
// not used because instruction sets differ in which of two numbers they return if a
// subnormal one counts as equal to the other.
template <class T>
FASTMLP_INLINE Vec<T> clipped(Vec<T> z, Vec<T> low, Vec<T> high) {
  return select(z <= low, low, select(z >= high, high, z));
}

// hardtanh with the constants min_val < max_val: z clipped to these limits; derivative
// 0 at the limits (Collobert 2004).
struct HardTanh : PiecewiseLinear {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T> c) {
    return clipped(z, c.first, c.second);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T> c) {
    return select((h <= c.first) | (h >= c.second), num<T>(0), dh);
  }
};

// relu6: hardtanh with the limits 0 and 6 (Krizhevsky 2010).
struct Relu6 : PiecewiseLinear {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return clipped(z, num<T>(0), num<T>(6));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T>) {
    return HardTanh::backward(dh, h, {num<T>(0), num<T>(6)});
  }
};

// hardsigmoid: relu6(z + 3) / 6 (Howard et al. 2019); derivative 1/6 for 0 < h < 1.
struct HardSigmoid : PiecewiseLinear {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T> c) {
    return Relu6::forward(z + num<T>(3), c) / num<T>(6);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T>) {
    return HardTanh::backward(dh, h, {num<T>(0), num<T>(1)}) / num<T>(6);
  }
};

// hardswish: z hardsigmoid(z) (Howard et al. 2019); derivative (2 z + 3) / 6 for
// -3 < z < 3.
struct HardSwish {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T> c) {
    // z is clipped because -infinity * 0 is NaN.
    return max(num<T>(-3), z) * HardSigmoid::forward(z, c);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> z, Constants<T>) {
    const Vec<T> slope = (z + z + num<T>(3)) / num<T>(6);
    return dh *
           select(z <= num<T>(-3), num<T>(0), select(z >= num<T>(3), num<T>(1), slope));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> z, Constants<T>) {
    return select(abs(z) >= num<T>(3), num<T>(0), num<T>(1.0 / 3));
  }
};

// softshrink with the constant lambd >= 0: z moved towards 0 by lambd, or 0 if it would
// pass it.
struct SoftShrink : PiecewiseLinear {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T> c) {
    return z - clipped(z, -c.first, c.first);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T>) {
    return select(h == num<T>(0), num<T>(0), dh);
  }
};

// hardshrink with the constant lambd >= 0: 0 for |z| <= lambd, else z.
struct HardShrink : SoftShrink {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T> c) {
    return select(abs(z) <= c.first, num<T>(0), z);
  }
};

// tanhshrink: z - tanh z; derivative tanh^2 z.
struct TanhShrink {
  // Coefficients of (z - tanh z) / z^3 by powers of z^2 (Abramowitz & Stegun 1964,
  // 4.5.64), which suffice for |z| < 0.3.
  static constexpr double kSeries[] = {
      1.0 / 3,
      -2.0 / 15,
      17.0 / 315,
      -62.0 / 2835,
      1382.0 / 155925,
      -21844.0 / 6081075,
      929569.0 / 638512875,
      -6404582.0 / 10854718875,
      443861162.0 / 1856156927625,
      -18888466084.0 / 194896477400625,
      113927491862.0 / 2900518163668125,
  };
  static constexpr int kTerms = sizeof kSeries / sizeof *kSeries;
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    // For small z, the difference would lose digits.
    const Vec<T> q = z * z;
    Vec<T> series = num<T>(kSeries[kTerms - 1]);
    for (int i = kTerms - 2; i >= 0; --i) series = fma(series, q, num<T>(kSeries[i]));
    return select(abs(z) < num<T>(0.3), z * q * series, z - vtanh(z));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> z, Constants<T>) {
    const Vec<T> t = vtanh(z);
    return dh * (t * t);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> z, Constants<T>) {
    const Vec<T> t = vtanh(z);
    return num<T>(2) * t * fnma(t, t, num<T>(1));
  }
};

// elu with the constant alpha >= 0: z, or alpha (e^z - 1) = h for z <= 0, whose
// derivative is h + alpha.
struct Elu {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T> c) {
    return select(z < num<T>(0), c.first * vexpm1(min(num<T>(0), z)), z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T> c) {
    return select(h > num<T>(0), dh, fma(dh, h, dh * c.first));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> h, Constants<T> c) {
    return select(h > num<T>(0), num<T>(0), h + c.first);
  }
};

// celu with the constant alpha > 0: z, or alpha (e^(z / alpha) - 1) = h for z <= 0,
// whose derivative is h / alpha + 1 (Barron 2017).
struct Celu {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T> c) {
    const Vec<T> below = min(num<T>(0), z) / c.first;
    return select(z < num<T>(0), c.first * vexpm1(below), z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T> c) {
    return select(h > num<T>(0), dh, fma(dh, h / c.first, dh));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> h, Constants<T> c) {
    return select(h > num<T>(0), num<T>(0), (h / c.first + num<T>(1)) / c.first);
  }
};

// selu: Klambauer et al. 2017, eq. 2, with the constants for which mean 0 and variance
// 1 are a fixed point.
struct Selu {
  static constexpr double kAlpha = 1.6732632423543772848170429916717;
  static constexpr double kScale = 1.0507009873554804934193349852946;
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return select(z > num<T>(0), z * num<T>(kScale),
                  vexpm1(min(num<T>(0), z)) * num<T>(kScale * kAlpha));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T>) {
    return dh * select(h > num<T>(0), num<T>(kScale), h + num<T>(kScale * kAlpha));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> h, Constants<T>) {
    return select(h > num<T>(0), num<T>(0), h + num<T>(kScale * kAlpha));
  }
};

// gelu: z Phi(z); derivative Phi(z) + z phi(z) (Hendrycks & Gimpel 2016).
struct Gelu {
  static constexpr double kHalfRoot = 0.70710678118654752440;  // sqrt(1/2)
  static constexpr double kDensity = 0.39894228040143267794;   // 1 / sqrt(2 pi)
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return z * (num<T>(0.5) * verfc(z * num<T>(-kHalfRoot)));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> z, Constants<T>) {
    const Vec<T> cdf = num<T>(0.5) * verfc(z * num<T>(-kHalfRoot));
    const Vec<T> pdf = vexp(z * z * num<T>(-0.5)) * num<T>(kDensity);
    return dh * fma(z, pdf, cdf);
  }
  // phi(z) (2 - z^2)
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> z, Constants<T>) {
    // For |z| > 40, phi is 0 and z^2 may overflow.
    const Vec<T> c = max(num<T>(-40), min(num<T>(40), z));
    const Vec<T> q = c * c;
    return vexp(q * num<T>(-0.5)) * num<T>(kDensity) * (num<T>(2) - q);
  }
};

// gelu, tanh form: z/2 (1 + tanh u), u = sqrt(2/pi) (z + 0.044715 z^3).
struct GeluTanh {
  static constexpr double kRoot = 0.79788456080286535588;  // sqrt(2 / pi)
  static constexpr double kCubic = 0.044715;
  template <class T>
  static FASTMLP_MEMBER Vec<T> inner_tanh(Vec<T> z) {
    return vtanh(z * fma(z * z, num<T>(kRoot * kCubic), num<T>(kRoot)));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    const Vec<T> half = z * num<T>(0.5);
    return fma(half, inner_tanh(z), half);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> z, Constants<T>) {
    // c is z clipped to the range outside which the gate (1 + tanh u) / 2 is constant,
    // because z^3 could overflow otherwise. With the sigmoid s and w = s(-|2 u|), the
    // gate is w or 1 - w, and its derivative is w (1 - w) 2 u'.
    const Vec<T> c = max(num<T>(-30), min(num<T>(30), z));
    const Vec<T> q = c * c;
    const Vec<T> u2 = c * fma(q, num<T>(2 * kRoot * kCubic), num<T>(2 * kRoot));
    const Vec<T> w = vsigmoid(-abs(u2)), rest = num<T>(1) - w;
    const Vec<T> gate = select(c > num<T>(0), rest, w);
    const Vec<T> du2 = fma(q, num<T>(6 * kRoot * kCubic), num<T>(2 * kRoot));
    return dh * fma(c * du2, w * rest, gate);
  }
  // (1 - t^2) (u' + z u'' / 2 - z t u'^2) with t = tanh u; 1 - t^2 = 4 w (1 - w) and
  // |t| = 1 - 2 w with w = s(-|2 u|), as in backward.
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> z, Constants<T>) {
    const Vec<T> c = max(num<T>(-30), min(num<T>(30), z));
    const Vec<T> q = c * c;
    const Vec<T> u2 = c * fma(q, num<T>(2 * kRoot * kCubic), num<T>(2 * kRoot));
    const Vec<T> w = vsigmoid(-abs(u2)), rest = num<T>(1) - w;
    const Vec<T> du = fma(q, num<T>(3 * kRoot * kCubic), num<T>(kRoot));
    const Vec<T> straight = fma(q, num<T>(6 * kRoot * kCubic), num<T>(kRoot));
    // z t = |z| |t|, as u has the sign of z.
    const Vec<T> zt = abs(c) * (rest - w);
    return num<T>(4) * (w * rest) * fnma(zt * du, du, straight);
  }
};

// silu: z s(z); derivative s (1 + z (1 - s)).
struct Silu {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return z * vsigmoid(z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> z, Constants<T>) {
    const Vec<T> s = vsigmoid(z);
    return dh * (s * fma(z, num<T>(1) - s, num<T>(1)));
  }
  // s (1 - s) (2 + z (1 - 2 s))
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> z, Constants<T>) {
    // With w = s(-|z|), s (1 - s) is w (1 - w), and z (1 - 2 s) = -|z| (1 - 2 w).
    const Vec<T> c = min(abs(z), num<T>(1000));  // beyond, w is 0
    const Vec<T> w = vsigmoid(-c), rest = num<T>(1) - w;
    return w * rest * fnma(c, rest - w, num<T>(2));
  }
};

// mish: z w(z), w = tanh(log(1 + e^z)); derivative w + z w' (Misra 2019). w = p / d is
// a quotient of polynomials in e = e^-|z|, which neither overflow nor cancel:
//   z > 0: p = 1 + 2 e, d = p + 2 e^2; else p = e^2 + 2 e, d = p + 2.
struct Mish {
  template <class T>
  struct Gate {
    Vec<T> e, w, d;
  };
  template <class T>
  static FASTMLP_MEMBER Gate<T> gate(Vec<T> z) {
    const Vec<T> e = vexp_nonpositive(-abs(z)), q = e * e;
    const auto above = z > num<T>(0);
    const Vec<T> p = fma(num<T>(2), e, select(above, num<T>(1), q));
    const Vec<T> d = p + select(above, q + q, num<T>(2));
    return {e, p / d, d};
  }
  // z clipped to the range outside which w is 0 or 1 and w' is 0, because z w' would be
  // NaN at infinity.
  template <class T>
  static FASTMLP_MEMBER Vec<T> bounded(Vec<T> z) {
    return max(num<T>(-1000), min(num<T>(1000), z));
  }
  // w' = 4 e k (1 + e) / d^2, k = e for z > 0, else 1
  template <class T>
  static FASTMLP_MEMBER Vec<T> slope(Gate<T> g, Vec<T> k) {
    return num<T>(4) * (g.e * k) * (num<T>(1) + g.e) / (g.d * g.d);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return z * gate(z).w;
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> z, Constants<T>) {
    const Vec<T> c = bounded(z);
    const Gate<T> g = gate(c);
    const Vec<T> k = select(c > num<T>(0), g.e, num<T>(1));
    return dh * fma(c, slope(g, k), g.w);
  }
  // 2 w' + z w'', w'' = w' (1 - s - 2 w s) with the sigmoid s; 1 - s = k / (1 + e)
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> z, Constants<T>) {
    const Vec<T> c = bounded(z);
    const Gate<T> g = gate(c);
    const auto above = c > num<T>(0);
    const Vec<T> k = select(above, g.e, num<T>(1));
    const Vec<T> rest = select(above, num<T>(1), g.e);
    const Vec<T> bend = (k - num<T>(2) * g.w * rest) / (num<T>(1) + g.e);
    return slope(g, k) * fma(c, bend, num<T>(2));
  }
};

// softplus with the constant beta > 0: log(1 + e^(beta z)) / beta without overflow;
// derivative s(beta z) = 1 - e^(-beta h).
struct Softplus {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T> c) {
    const Vec<T> log = vlog1p01(vexp_nonpositive(-abs(c.first * z)));
    return max(num<T>(0), z) + log * (num<T>(1) / c.first);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T> c) {
    return dh * -vexpm1(-(c.first * h));
  }
  // beta s (1 - s) with 1 - s = e^(-beta h)
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> h, Constants<T> c) {
    const Vec<T> u = -(c.first * h);
    return vexp(u) * -vexpm1(u) * c.first;
  }
};

// logsigmoid: log s(z) = -softplus(-z); derivative s(-z) = 1 - e^h.
struct LogSigmoid {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return min(num<T>(0), z) - vlog1p01(vexp_nonpositive(-abs(z)));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T>) {
    return dh * -vexpm1(h);
  }
  // -s (1 - s) with s = e^h
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> h, Constants<T>) {
    return vexp(h) * vexpm1(h);
  }
};

// softsign: z / (1 + |z|); derivative (1 - |h|)^2.
struct Softsign {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return z / (num<T>(1) + abs(z));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T>) {
    const Vec<T> q = num<T>(1) - abs(h);
    return dh * (q * q);
  }
  // -2 sign(h) (1 - |h|)^3
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> h, Constants<T>) {
    const Vec<T> q = num<T>(1) - abs(h);
    const Vec<T> cube = num<T>(2) * (q * q * q);
    return select(h > num<T>(0), -cube, select(h < num<T>(0), cube, num<T>(0)));
  }
};

struct Sigmoid {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return vsigmoid(z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T>) {
    return dh * fnma(h, h, h);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> h, Constants<T>) {
    return fnma(h, h, h) * fnma(num<T>(2), h, num<T>(1));
  }
};

struct Tanh {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return vtanh(z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T>) {
    return dh * fnma(h, h, num<T>(1));
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> h, Constants<T>) {
    return num<T>(-2) * h * fnma(h, h, num<T>(1));
  }
};

struct Sin {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return vsin(z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> z, Constants<T>) {
    return dh * vcos(z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> z, Constants<T>) {
    return -vsin(z);
  }
};

struct Cos {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return vcos(z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> z, Constants<T>) {
    return dh * -vsin(z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> z, Constants<T>) {
    return -vcos(z);
  }
};

struct Exp {
  template <class T>
  static FASTMLP_MEMBER Vec<T> forward(Vec<T> z, Constants<T>) {
    return vexp(z);
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> backward(Vec<T> dh, Vec<T> h, Constants<T>) {
    return dh * h;
  }
  template <class T>
  static FASTMLP_MEMBER Vec<T> second(Vec<T> h, Constants<T>) {
    return h;
  }
};

template <class T, class F>
void map_forward(const ActivationSpec& activation, T* h, Index ldh, const T* z,
                 Index ldz, Index m, Index n) {
  const Constants<T> c = constants_of<T>(activation);
  join_rows(m, n, ldh == n && ldz == n);
  for (Index i = 0; i < m; ++i) {
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      io.store(h + i * ldh + j, F::template forward<T>(io.load(z + i * ldz + j), c));
    };
    for_each_vector<T>(n, body);
  }
}

template <class T, class F>
void map_backward(const ActivationSpec& activation, T* dz, Index lddz, const T* dh,
                  Index lddh, const T* saved, Index lds, Index m, Index n) {
  const Constants<T> c = constants_of<T>(activation);
  join_rows(m, n, lddz == n && lddh == n && lds == n);
  for (Index i = 0; i < m; ++i) {
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      io.store(dz + i * lddz + j,
               F::template backward<T>(io.load(dh + i * lddh + j),
                                       io.load(saved + i * lds + j), c));
    };
    for_each_vector<T>(n, body);
  }
}

// Computes e[j] = exp(x[j] - max) and returns the sum of e. `e` may be x.
template <class T>
FASTMLP_INLINE T exp_below_max(T* e, const T* x, T max, Index n) {
  RowSum<T> sum;
  const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
    const Vec<T> v = vexp_nonpositive(io.load(x + j) - Vec<T>::set1(max));
    io.store(e + j, v);
    sum.add(j, zero_tail(io, v));
  };
  for_each_vector<T>(n, body);
  return sum.total(n);
}

template <class T>
void softmax_forward(T* h, Index ldh, const T* z, Index ldz, Index m, Index n) {
  const auto block = [=](Index i, Index count, Index g) FASTMLP_LAMBDA {
    Vec<T> e[kRowSumLanes];
    load_columns(e, z + i * ldz, g * ldz, count, g * n);
    for (Vec<T>* row = e; row < e + g * n; row += n) {
      const Vec<T> top = max_columns(row, n);
      for (Index j = 0; j < n; ++j) row[j] = vexp_nonpositive(row[j] - top);
      const Vec<T> sum = sum_columns(row, n);
      for (Index j = 0; j < n; ++j) row[j] = row[j] / sum;
    }
    store_columns(h + i * ldh, g * ldh, e, count, g * n);
  };
  const Index done = each_block_of_rows<T>(m, n, ldh == n && ldz == n, block);

  for (Index i = done; i < m; ++i) {
    T* row = h + i * ldh;
    const T* in = z + i * ldz;
    const Vec<T> sum = Vec<T>::set1(exp_below_max(row, in, row_max(in, n), n));
    const auto body = [&](auto io, Index j)
                          FASTMLP_LAMBDA { io.store(row + j, io.load(row + j) / sum); };
    for_each_vector<T>(n, body);
  }
}

template <class T>
void softmax_backward(T* dz, Index lddz, const T* dh, Index lddh, const T* h, Index ldh,
                      Index m, Index n) {
  const auto block = [=](Index i, Index count, Index g) FASTMLP_LAMBDA {
    Vec<T> d[kRowSumLanes], s[kRowSumLanes], dot[kRowSumLanes];
    load_columns(d, dh + i * lddh, g * lddh, count, g * n);
    load_columns(s, h + i * ldh, g * ldh, count, g * n);
    for (Index r = 0; r < g * n; r += n) {
      for (Index j = 0; j < n; ++j) dot[j] = d[r + j] * s[r + j];
      const Vec<T> mean = sum_columns(dot, n);
      for (Index j = 0; j < n; ++j) d[r + j] = s[r + j] * (d[r + j] - mean);
    }
    store_columns(dz + i * lddz, g * lddz, d, count, g * n);
  };
  const bool contiguous = lddz == n && lddh == n && ldh == n;
  const Index done = each_block_of_rows<T>(m, n, contiguous, block);

  for (Index i = done; i < m; ++i) {
    const T* drow = dh + i * lddh;
    const T* row = h + i * ldh;
    RowSum<T> sum;
    const auto dot = [&](auto io, Index j) FASTMLP_LAMBDA {
      sum.add(j, zero_tail(io, io.load(drow + j) * io.load(row + j)));
    };
    for_each_vector<T>(n, dot);
    const Vec<T> mean = Vec<T>::set1(sum.total(n));
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      io.store(dz + i * lddz + j, io.load(row + j) * (io.load(drow + j) - mean));
    };
    for_each_vector<T>(n, body);
  }
}

template <class T>
void activation_forward(const ActivationSpec& activation, T* h, Index ldh, const T* z,
                        Index ldz, Index m, Index n) {
  switch (activation.kind) {
#define X(name, F, ...)  \
  case Activation::name: \
    return map_forward<T, F>(activation, h, ldh, z, ldz, m, n);
    FASTMLP_ELEMENTWISE_ACTIVATIONS(X)
#undef X
    case Activation::softmax:
      return softmax_forward(h, ldh, z, ldz, m, n);
  }
}

template <class T>
void activation_backward(const ActivationSpec& activation, T* dz, Index lddz,
                         const T* dh, Index lddh, const T* saved, Index lds, Index m,
                         Index n) {
  switch (activation.kind) {
#define X(name, F, ...)  \
  case Activation::name: \
    return map_backward<T, F>(activation, dz, lddz, dh, lddh, saved, lds, m, n);
    FASTMLP_ELEMENTWISE_ACTIVATIONS(X)
#undef X
    case Activation::softmax:
      return softmax_backward(dz, lddz, dh, lddh, saved, lds, m, n);
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
