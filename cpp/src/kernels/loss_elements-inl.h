// Losses that compare each prediction with one target. In the order of the list in
// fastmlp/types.h, with r = pred - target, value and derivative are:
//   mse           r^2                                     2 r
//   mae           |r|                                     sign(r), 0 at 0
//   huber         r^2 / 2, or d (|r| - d / 2) for |r| > d r clipped to [-d, d]
//   pseudo_huber  d^2 (q - 1), q = sqrt(1 + (r / d)^2)    r / q
//   binary_cross_entropy  max(p, 0) - p y + log(1 + e^-|p|)   sigmoid(p) - y
//     if y = 1 has weight c: c y log(1 + e^-p) + (1 - y) log(1 + e^p)
//   poisson       e^p - y p                               e^p - y
//   quantile      (1 - q) r for r > 0, -q r otherwise     1 - q, -q, 0 at 0
//   hinge         max(0, margin - y p)                    -y, 0 for y p > margin
//   smooth_l1     r^2 / (2 b), or |r| - b / 2 for |r| >= b    r / b clipped to [-1, 1]
//   log_cosh      log cosh r                              tanh r
//   soft_margin   log(1 + e^(-y p))                       -y sigmoid(-y p)
//   expectile     (1 - q) r^2 for r > 0, q r^2 otherwise  2 (1 - q) r, 2 q r
//   binary_focal  a y f(p) + (1 - a) (1 - y) f(-p), both factors 1 if a < 0, with
//     f(z) = -log(s) (1 - s)^g, s = sigmoid(z)
//   gamma         p + y e^-p                              1 - y e^-p
//   tweedie       e^(b p) / b + y e^(-a p) / a, a = power - 1, b = 2 - power
//                                                         e^(b p) - y e^(-a p)
#pragma once

#include "activation-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// At infinite predictions, losses have the limits of their values and slopes. The
// formulas alone would give inf - inf or 0 * inf in places.
template <class T>
FASTMLP_INLINE Vec<T> infinity() {
  return from_bits(set1_bits<T>(Ieee<T>::kInf));
}

template <class T>
struct ValueAndSlope {
  Vec<T> value, slope;
};

// Arguments of KernelTable::loss_rows. Row i of each array begins at i times its ld.
template <class T>
struct LossRows {
  T* dpred;
  Index lddpred;
  T* row_loss;
  const T* pred;
  Index ldpred;
  const T* target;
  Index ldtarget;
  const int64_t* labels;
  const T* row_scale;
  Index m, n;

  FASTMLP_MEMBER const T* p(Index i) const { return pred + i * ldpred; }
  FASTMLP_MEMBER const T* y(Index i) const { return target + i * ldtarget; }
  FASTMLP_MEMBER T* d(Index i) const { return dpred ? dpred + i * lddpred : nullptr; }
  FASTMLP_MEMBER Vec<T> scale(Index i) const { return Vec<T>::set1(row_scale[i]); }
};

struct SquaredError {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>, Vec<T>) {
    const Vec<T> r = p - y;
    return {r * r, r + r};
  }
};

struct AbsoluteError {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>, Vec<T>) {
    const Vec<T> r = p - y;
    const Vec<T> zero = num<T>(0), one = num<T>(1);
    // r * 0 keeps NaN.
    return {abs(r), select(r > zero, one, select(r < zero, -one, r * zero))};
  }
};

struct Huber {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> delta, Vec<T>) {
    const Vec<T> r = p - y;
    const Vec<T> a = abs(r), half = num<T>(0.5);
    const Vec<T> far = delta * (a - half * delta);
    const Vec<T> clipped = select(r > delta, delta, select(r < -delta, -delta, r));
    return {select(a <= delta, half * r * r, far), clipped};
  }
};

struct PseudoHuber {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> delta, Vec<T>) {
    const Vec<T> r = p - y;
    const Vec<T> s = r / delta;
    // For |s| > 1e15, q rounds to |s|, and s^2 might overflow.
    const Vec<T> far = num<T>(1e15);
    const Vec<T> q = select(abs(s) > far, abs(s), sqrt(fma(s, s, num<T>(1))));
    // delta^2 (q - 1) = r^2 / (q + 1), which avoids the cancellation at small r.
    const Mask<T> infinite = abs(r) == infinity<T>();
    return {select(infinite, abs(r), r / (q + num<T>(1)) * r),
            select(infinite, select(r > num<T>(0), delta, -delta), r / q)};
  }
};

struct BinaryCrossEntropy {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>, Vec<T>) {
    const Vec<T> zero = num<T>(0);
    const Vec<T> positive = max(zero, p);
    const Vec<T> value = fnma(p, y, positive) + vlog1p01(vexp_nonpositive(-abs(p)));
    const Vec<T> wrong = select(p > zero, num<T>(1), zero) - y;
    const Vec<T> limit = select(wrong == zero, zero, wrong * p);
    return {select(abs(p) == infinity<T>(), limit, value), vsigmoid(p) - y};
  }
};

// With c = 1 the values are those of BinaryCrossEntropy, up to rounding.
struct WeightedBinaryCrossEntropy {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> c, Vec<T>) {
    const Vec<T> zero = num<T>(0), one = num<T>(1);
    const Vec<T> log_one_plus = vlog1p01(vexp_nonpositive(-abs(p)));
    const Vec<T> ones = c * y, zeros = one - y;
    const auto term = [&](Vec<T> share, Vec<T> logit) FASTMLP_LAMBDA {
      const Vec<T> full = share * (max(zero, logit) + log_one_plus);
      return select(share == zero, zero, full);
    };
    // 1 - sigmoid(p) would lose the digits of sigmoid(-p) where the latter is small.
    return {term(ones, -p) + term(zeros, p), zeros * vsigmoid(p) - ones * vsigmoid(-p)};
  }
};

struct Poisson {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>, Vec<T>) {
    const Vec<T> e = vexp(p), zero = num<T>(0);
    // At p = -inf the value is 0 for y = 0, else infinite.
    const Vec<T> limit = select(p < zero, select(y == zero, y, -(y * p)), e);
    return {select(abs(p) == infinity<T>(), limit, fnma(y, p, e)), e - y};
  }
};

struct Quantile {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> q, Vec<T>) {
    const Vec<T> r = p - y;
    const Vec<T> zero = num<T>(0), above = num<T>(1) - q;
    // r * 0 keeps NaN.
    return {select(r > zero, above * r, -q * r),
            select(r > zero, above, select(r < zero, -q, r * zero))};
  }
};

struct Hinge {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> margin, Vec<T>) {
    const Vec<T> short_of = fnma(y, p, margin);
    const Vec<T> zero = num<T>(0);
    // At the kink the derivative is -y, the same as where the loss is positive. If it
    // were 0 there, a margin of 0 (the perceptron) would make the gradient vanish at
    // p = 0.
    return {rectified(short_of),
            select(short_of < zero, zero, select(is_nan(short_of), short_of, -y))};
  }
};

struct SmoothL1 {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> beta, Vec<T>) {
    const Vec<T> r = p - y;
    const Vec<T> a = abs(r), half = num<T>(0.5), s = r / beta;
    const Mask<T> near = a < beta;
    return {select(near, half * r * s, a - half * beta),
            select(near, s, AbsoluteError::at<T>(p, y, y, y).slope)};
  }
};

struct LogCosh {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>, Vec<T>) {
    const Vec<T> r = p - y;
    const Vec<T> a = abs(r), t = vtanh(r), one = num<T>(1);
    // |r| - log 2 + log(1 + e^-2|r|) would cancel for small r, where
    // log cosh r = -log(1 - tanh(r)^2) / 2 is accurate.
    const Vec<T> far = (a - num<T>(0.69314718055994530942)) +
                       vlog1p01(vexp_nonpositive(num<T>(-2) * a));
    return {select(a < one, num<T>(-0.5) * vlog1p(-(t * t)), far), t};
  }
};

struct SoftMargin {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>, Vec<T>) {
    const Vec<T> z = -(y * p);
    return {vsoftplus(z), -(y * vsigmoid(z))};
  }
};

struct Expectile {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> q, Vec<T>) {
    const Vec<T> r = p - y;
    const Vec<T> weighted = select(r > num<T>(0), num<T>(1) - q, q) * r;
    return {weighted * r, weighted + weighted};
  }
};

struct BinaryFocal {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> gamma,
                                            Vec<T> alpha) {
    const Vec<T> zero = num<T>(0), one = num<T>(1);
    const Mask<T> balanced = alpha >= zero;
    const ValueAndSlope<T> ones = term(select(balanced, alpha * y, y), p, gamma);
    const ValueAndSlope<T> zeros =
        term(select(balanced, (one - alpha) * (one - y), one - y), -p, gamma);
    return {ones.value + zeros.value, ones.slope - zeros.slope};
  }

 private:
  // share f(z). With s = sigmoid(z), -log(s) = softplus(-z) and (1 - s)^gamma =
  // e^(-gamma softplus(z)).
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> term(Vec<T> share, Vec<T> z, Vec<T> gamma) {
    const Vec<T> zero = num<T>(0);
    const Vec<T> low = vsoftplus(-z);
    const Vec<T> weight = share * select(gamma == zero, num<T>(1),
                                         vexp_nonpositive(-(gamma * vsoftplus(z))));
    const Mask<T> gone = weight == zero;
    const Vec<T> share_of_low = select(z == -infinity<T>(), zero, vsigmoid(z) * low);
    const Vec<T> slope = fma(gamma, share_of_low, vsigmoid(-z));
    return {select(gone, weight, weight * low), -(weight * slope)};
  }
};

struct GammaNll {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>, Vec<T>) {
    const Vec<T> e = y * vexp(-p);
    // At p = -inf, e outweighs p.
    return {select(e == infinity<T>(), e, p + e), num<T>(1) - e};
  }
};

struct Tweedie {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> power, Vec<T>) {
    const Vec<T> zero = num<T>(0);
    const Vec<T> a = power - num<T>(1), b = num<T>(2) - power;
    const Vec<T> mean = vexp(b * p);
    const Vec<T> ratio = select(y == zero, zero, y * vexp(-(a * p)));
    return {mean / b + ratio / a, mean - ratio};
  }
};

// How targets count: each with the weight of its column (null: 1), or not at all if it
// is NaN and `masked` is set.
template <class T>
struct Counted {
  bool masked;
  const T* weights;

  FASTMLP_MEMBER bool fully() const { return !masked && !weights; }
  template <class Io>
  FASTMLP_MEMBER Vec<T> load(Io io, Index j) const {
    return weights ? io.load(weights + j) : num<T>(1);
  }
  FASTMLP_MEMBER Vec<T> column(Index j) const {
    return Vec<T>::set1(weights ? weights[j] : T(1));
  }
  // A value or slope for the target y in a column of this weight.
  FASTMLP_MEMBER Vec<T> of(Vec<T> x, Vec<T> y, Vec<T> weight) const {
    const Vec<T> weighted = x * weight;
    return masked ? select(is_nan(y), num<T>(0), weighted) : weighted;
  }
};

// The parameter of a loss: one value for all columns, or one for each.
template <class T>
struct OneForAll {
  Vec<T> value;
  template <class Io>
  FASTMLP_MEMBER Vec<T> load(Io, Index) const {
    return value;
  }
  FASTMLP_MEMBER Vec<T> column(Index) const { return value; }
};
template <class T>
struct OnePerColumn {
  const T* values;
  template <class Io>
  FASTMLP_MEMBER Vec<T> load(Io io, Index j) const {
    return io.load(values + j);
  }
  FASTMLP_MEMBER Vec<T> column(Index j) const { return Vec<T>::set1(values[j]); }
};

template <class T, class F, class Parameter>
void elementwise_loss_rows(Parameter parameter, T* dpred, Index lddpred, T* row_loss,
                           const T* pred, Index ldpred, const T* target, Index ldtarget,
                           const T* row_scale, Index m, Index n) {
  const bool contiguous = ldpred == n && ldtarget == n && (!dpred || lddpred == n);
  if (n == 1 && contiguous) {
    const Vec<T> zero = num<T>(0);
    const Vec<T> d = parameter.column(0);
    const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
      const ValueAndSlope<T> l =
          F::template at<T>(io.load(pred + i), io.load(target + i), d, d);
      io.store(row_loss + i, zero + l.value);
      if (dpred) io.store(dpred + i, l.slope * io.load(row_scale + i));
    };
    return for_each_vector<T>(m, body);
  }

  const auto block = [=](Index i, Index count, Index g) FASTMLP_LAMBDA {
    Vec<T> p[kRowSumLanes], y[kRowSumLanes], scale[kRowSumLanes], loss[kRowSumLanes];
    load_columns(p, pred + i * ldpred, g * ldpred, count, g * n);
    load_columns(y, target + i * ldtarget, g * ldtarget, count, g * n);
    load_columns(scale, row_scale + i, g, count, g);
    for (Index r = 0; r < g; ++r) {
      for (Index j = r * n; j < r * n + n; ++j) {
        const Vec<T> d = parameter.column(j - r * n);
        const ValueAndSlope<T> l = F::template at<T>(p[j], y[j], d, d);
        p[j] = l.value;
        y[j] = l.slope * scale[r];
      }
      loss[r] = sum_columns(p + r * n, n);
    }
    store_columns(row_loss + i, g, loss, count, g);
    if (dpred) store_columns(dpred + i * lddpred, g * lddpred, y, count, g * n);
  };
  const Index done = each_block_of_rows<T>(m, n, contiguous, block);

  for (Index i = done; i < m; ++i) {
    const Vec<T> scale = Vec<T>::set1(row_scale[i]);
    RowSum<T> sum;
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> d = parameter.load(io, j);
      const ValueAndSlope<T> l = F::template at<T>(
          io.load(pred + i * ldpred + j), io.load(target + i * ldtarget + j), d, d);
      sum.add(j, zero_tail(io, l.value));
      if (dpred) io.store(dpred + i * lddpred + j, l.slope * scale);
    };
    for_each_vector<T>(n, body);
    row_loss[i] = sum.total(n);
  }
}

// Values and slopes of n elements; `d` has the loss's parameter for each.
template <class T>
using CompareElements = void (*)(T second, T* value, T* slope, const T* p, const T* y,
                                 const T* d, Index n);
template <class T, class F>
void compare_elements(T second, T* value, T* slope, const T* p, const T* y, const T* d,
                      Index n) {
  const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
    const ValueAndSlope<T> l = F::template at<T>(io.load(p + j), io.load(y + j),
                                                 io.load(d + j), Vec<T>::set1(second));
    io.store(value + j, l.value);
    io.store(slope + j, l.slope);
  };
  for_each_vector<T>(n, body);
}

// Like elementwise_loss_rows, with the same bits, for targets that do not all count
// equally, and for losses that are too rare or too slow to be compiled into loops of
// their own: the elements of a tile of rows are compared first.
template <class T>
void tiled_loss_rows(CompareElements<T> compare, const LossArgs<T>& args,
                     const LossRows<T>& rows) {
  constexpr Index kTile = 256;  // a multiple of kRowSumLanes
  const Counted<T> counted = {args.masked, args.output_weight};
  const Index m = rows.m, n = rows.n;
  const bool contiguous =
      rows.ldpred == n && rows.ldtarget == n && (!rows.dpred || rows.lddpred == n);
  const Index group = contiguous && n <= kTile ? kTile / n : 1;
  const Index width = n <= kTile ? n : kTile;
  T value[kTile], slope[kTile], parameter[kTile];
  for (Index j = 0; j < group * width; ++j) {
    parameter[j] = args.per_output ? args.per_output[j % n] : args.delta;
  }
  const bool wide = args.per_output && n > kTile;
  const auto finish = [&](RowSum<T>& sum, Index i, Index first, Index at,
                          Index count) FASTMLP_LAMBDA {
    T* const d = rows.d(i);
    const Vec<T> scale = rows.scale(i);
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> y = io.load(rows.y(i) + first + j);
      const Vec<T> weight = counted.load(io, first + j);
      const Vec<T> l = counted.of(io.load(value + at + j), y, weight);
      sum.add(first + j, zero_tail(io, l));
      if (!d) return;
      io.store(d + first + j, counted.of(io.load(slope + at + j), y, weight) * scale);
    };
    for_each_vector<T>(count, body);
  };
  for (Index i = 0; i < m; i += group) {
    const Index count = m - i < group ? m - i : group;
    RowSum<T> sum;
    for (Index j = 0; j < n; j += width) {
      const Index part = n - j < width ? n - j : width;
      compare(args.second, value, slope, rows.p(i) + j, rows.y(i) + j,
              wide ? args.per_output + j : parameter, count * part);
      if (n > kTile) finish(sum, i, j, 0, part);
    }
    for (Index r = 0; r < count && n <= kTile; ++r) {
      RowSum<T> own;
      finish(own, i + r, 0, r * n, n);
      rows.row_loss[i + r] = own.total(n);
    }
    if (n > kTile) rows.row_loss[i] = sum.total(n);
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
