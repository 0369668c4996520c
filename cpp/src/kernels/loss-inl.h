// Losses by rows, with value and gradient in one pass. See kernel_table.h for the
// contract. With r = pred - target, value and derivative are:
//   mse           r^2                                     2 r
//   mae           |r|                                     sign(r), 0 at 0
//   huber         r^2 / 2, or d (|r| - d / 2) for |r| > d r clipped to [-d, d]
//   pseudo_huber  d^2 (q - 1), q = sqrt(1 + (r / d)^2)    r / q
//   cross_entropy -sum y log softmax(pred)                softmax(pred) sum(y) - y
//   binary_cross_entropy  max(p, 0) - p y + log(1 + e^-|p|)   sigmoid(p) - y
//     if y = 1 has weight c: c y log(1 + e^-p) + (1 - y) log(1 + e^p)
//   poisson       e^p - y p                               e^p - y
//   quantile      (1 - q) r for r > 0, -q r otherwise     1 - q, -q, 0 at 0
//   hinge         max(0, margin - y p)                    -y, 0 for y p > margin
//   gaussian_nll  (s + r^2 / v) / 2, v = e^s   by p: r / v, by s: (1 - r^2 / v) / 2
//     if e^s < eps, the value uses v = eps and s = log(eps). The derivative by s is
//     then e^s / eps times the one above rather than 0, so that s can increase again.
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

struct SquaredError {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>) {
    const Vec<T> r = p - y;
    return {r * r, r + r};
  }
};

struct AbsoluteError {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>) {
    const Vec<T> r = p - y;
    const Vec<T> zero = num<T>(0), one = num<T>(1);
    // r * 0 keeps NaN.
    return {abs(r), select(r > zero, one, select(r < zero, -one, r * zero))};
  }
};

struct Huber {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> delta) {
    const Vec<T> r = p - y;
    const Vec<T> a = abs(r), half = num<T>(0.5);
    const Vec<T> far = delta * (a - half * delta);
    const Vec<T> clipped = select(r > delta, delta, select(r < -delta, -delta, r));
    return {select(a <= delta, half * r * r, far), clipped};
  }
};

struct PseudoHuber {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> delta) {
    const Vec<T> r = p - y;
    const Vec<T> s = r / delta;
    // s^2 may overflow for large |s|, but for |s| > 1e15, q rounds to |s| anyway.
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
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>) {
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
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> c) {
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
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>) {
    const Vec<T> e = vexp(p), zero = num<T>(0);
    // At p = -inf the value is 0 for y = 0, else infinite.
    const Vec<T> limit = select(p < zero, select(y == zero, y, -(y * p)), e);
    return {select(abs(p) == infinity<T>(), limit, fnma(y, p, e)), e - y};
  }
};

struct Quantile {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> q) {
    const Vec<T> r = p - y;
    const Vec<T> zero = num<T>(0), above = num<T>(1) - q;
    // r * 0 keeps NaN.
    return {select(r > zero, above * r, -q * r),
            select(r > zero, above, select(r < zero, -q, r * zero))};
  }
};

struct Hinge {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T> margin) {
    const Vec<T> short_of = fnma(y, p, margin);
    const Vec<T> zero = num<T>(0);
    // At the kink the derivative is -y, the same as where the loss is positive. If it
    // were 0 there, a margin of 0 (the perceptron) would make the gradient vanish at
    // p = 0.
    return {rectified(short_of),
            select(short_of < zero, zero, select(is_nan(short_of), short_of, -y))};
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
          F::template at<T>(io.load(pred + i), io.load(target + i), d);
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
        const ValueAndSlope<T> l = F::template at<T>(p[j], y[j], d);
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
      const ValueAndSlope<T> l =
          F::template at<T>(io.load(pred + i * ldpred + j),
                            io.load(target + i * ldtarget + j), parameter.load(io, j));
      sum.add(j, zero_tail(io, l.value));
      if (dpred) io.store(dpred + i * lddpred + j, l.slope * scale);
    };
    for_each_vector<T>(n, body);
    row_loss[i] = sum.total(n);
  }
}

// The Gaussian loss as a function of a mean and a log variance, and its derivatives
// with respect to both.
template <class T>
struct GaussianTerm {
  Vec<T> value, by_mean, by_log_variance;
};

template <class T>
FASTMLP_INLINE GaussianTerm<T> gaussian_nll(Vec<T> p, Vec<T> s, Vec<T> y, Vec<T> eps,
                                            Vec<T> log_eps) {
  const Vec<T> r = p - y, one = num<T>(1), half = num<T>(0.5);
  const Vec<T> wanted = vexp(s);
  const Mask<T> low = wanted < eps;
  const Vec<T> v = select(low, eps, wanted);
  const Vec<T> share = select(low, wanted / eps, one);
  // An infinite variance outweighs an infinite error.
  const Mask<T> lost = (v == infinity<T>()) & !is_nan(r);
  const Vec<T> by_mean = select(lost, num<T>(0), r / v);
  const Vec<T> error = select(lost, num<T>(0), r * by_mean);
  return {half * (select(low, log_eps, s) + error), by_mean,
          half * share * (one - error)};
}

template <class T>
void gaussian_nll_rows(T least_variance, T* dpred, Index lddpred, T* row_loss,
                       const T* pred, Index ldpred, const T* target, Index ldtarget,
                       const T* row_scale, Index m, Index n) {
  const Index k = n / 2;
  const Vec<T> eps = Vec<T>::set1(least_variance), log_eps = vlog(eps);
  const auto block = [=](Index i, Index count, Index g) FASTMLP_LAMBDA {
    Vec<T> p[kRowSumLanes], y[kRowSumLanes], scale[kRowSumLanes], loss[kRowSumLanes];
    load_columns(p, pred + i * ldpred, g * ldpred, count, g * n);
    load_columns(y, target + i * ldtarget, g * ldtarget, count, g * k);
    load_columns(scale, row_scale + i, g, count, g);
    for (Index r = 0; r < g; ++r) {
      Vec<T>* const mean = p + r * n;
      Vec<T>* const term = y + r * k;
      for (Index j = 0; j < k; ++j) {
        const GaussianTerm<T> l =
            gaussian_nll(mean[j], mean[k + j], term[j], eps, log_eps);
        term[j] = l.value;
        mean[j] = l.by_mean * scale[r];
        mean[k + j] = l.by_log_variance * scale[r];
      }
      loss[r] = sum_columns(term, k);
    }
    store_columns(row_loss + i, g, loss, count, g);
    if (dpred) store_columns(dpred + i * lddpred, g * lddpred, p, count, g * n);
  };
  const bool contiguous = ldpred == n && ldtarget == k && (!dpred || lddpred == n);
  const Index done = each_block_of_rows<T>(m, n, contiguous, block);

  for (Index i = done; i < m; ++i) {
    const T* p = pred + i * ldpred;
    const T* y = target + i * ldtarget;
    T* const d = dpred ? dpred + i * lddpred : nullptr;
    const Vec<T> scale = Vec<T>::set1(row_scale[i]);
    RowSum<T> sum;
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const GaussianTerm<T> l = gaussian_nll(io.load(p + j), io.load(p + k + j),
                                             io.load(y + j), eps, log_eps);
      sum.add(j, zero_tail(io, l.value));
      if (!d) return;
      io.store(d + j, l.by_mean * scale);
      io.store(d + k + j, l.by_log_variance * scale);
    };
    for_each_vector<T>(k, body);
    row_loss[i] = sum.total(k);
  }
}

template <class T>
FASTMLP_INLINE T scalar_log(T x) {
  T lane[Vec<T>::kLanes];
  vlog(Vec<T>::set1(x)).store(lane);
  return lane[0];
}

// A logit less the largest of its row. An infinite logit is the largest.
template <class T>
FASTMLP_INLINE Vec<T> below(Vec<T> p, Vec<T> top) {
  return select(p == infinity<T>(), num<T>(0), p - top);
}

template <class T>
FASTMLP_INLINE T scalar_below(T p, T top) {
  return p == static_cast<T>(__builtin_inf()) ? T(0) : p - top;
}

// The label of row i; 0 for a row without a label, whose loss `clear_ignored` removes.
template <class T>
FASTMLP_INLINE int64_t label_of(const LossArgs<T>& args, const int64_t* labels,
                                Index i) {
  return args.ignores && labels[i] == args.ignored ? 0 : labels[i];
}

// Sets the losses and gradients of rows without a label to 0.
template <class T>
void clear_ignored(const LossArgs<T>& args, T* dpred, Index lddpred, T* row_loss,
                   const int64_t* labels, Index m, Index n) {
  for (Index i = 0; i < m; ++i) {
    if (labels[i] != args.ignored) continue;
    row_loss[i] = T(0);
    for (Index j = 0; dpred && j < n; ++j) dpred[i * lddpred + j] = T(0);
  }
}

// A term of the cross-entropy: u times -log softmax. A class with target 0 contributes
// 0 even if its log-probability is -inf.
template <class T>
FASTMLP_INLINE Vec<T> term_of(Vec<T> u, Vec<T> log_total, Vec<T> p) {
  const Vec<T> zero = num<T>(0);
  return select(u == zero, zero, u * (log_total - p));
}

// The cross-entropy of a block of rows, given by columns:
//   p  predictions; overwritten (without labels, by the terms of the loss)
//   y  target probabilities, or the labels in y[0]
//   e  the gradient, on return
// Returns the loss.
template <class T>
FASTMLP_INLINE Vec<T> cross_entropy_columns(Vec<T>* e, Vec<T>* p, const Vec<T>* y,
                                            bool labels, Vec<T> scale, Index n) {
  const Vec<T> one = num<T>(1);
  const Vec<T> top = max_columns(p, n);
  for (Index j = 0; j < n; ++j) {
    p[j] = below(p[j], top);
    e[j] = vexp_nonpositive(p[j]);
  }
  const Vec<T> total = sum_columns(e, n);
  const Vec<T> log_total = vlog(total);
  if (labels) {
    const Vec<T> share = one / total;
    Vec<T> column = num<T>(0), chosen = p[0];
    for (Index j = 0; j < n; ++j, column = column + one) {
      const Mask<T> here = y[0] == column;
      const Vec<T> slope = e[j] * share * scale;
      chosen = select(here, p[j], chosen);
      e[j] = select(here, slope - scale, slope);
    }
    return log_total - chosen;
  }
  const Vec<T> share = sum_columns(y, n) / total;
  for (Index j = 0; j < n; ++j) {
    p[j] = term_of(y[j], log_total, p[j]);
    e[j] = (e[j] * share - y[j]) * scale;
  }
  return sum_columns(p, n);
}

// log-sum-exp is computed relative to the row maximum.
template <class T>
void cross_entropy_rows(const LossArgs<T>& args, T* dpred, Index lddpred, T* row_loss,
                        const T* pred, Index ldpred, const T* target, Index ldtarget,
                        const int64_t* labels, const T* row_scale, Index m, Index n) {
  const auto block = [=](Index i, Index count, Index g) FASTMLP_LAMBDA {
    constexpr Index L = Vec<T>::kLanes;
    Vec<T> p[kRowSumLanes], y[kRowSumLanes], e[kRowSumLanes];
    Vec<T> scale[kRowSumLanes], loss[kRowSumLanes];
    load_columns(p, pred + i * ldpred, g * ldpred, count, g * n);
    if (labels) {
      // The labels converted to T. This is exact, because rows are narrow here and the
      // labels are less than n.
      T numbers[kRowSumLanes * L];
      for (Index q = 0; q < count * g; ++q) {
        numbers[q] = static_cast<T>(label_of(args, labels, i + q));
      }
      load_columns(y, numbers, g, count, g);
    } else {
      load_columns(y, target + i * ldtarget, g * ldtarget, count, g * n);
    }
    load_columns(scale, row_scale + i, g, count, g);
    for (Index r = 0; r < g; ++r) {
      loss[r] = cross_entropy_columns(e + r * n, p + r * n, y + (labels ? r : r * n),
                                      labels != nullptr, scale[r], n);
    }
    store_columns(row_loss + i, g, loss, count, g);
    if (dpred) store_columns(dpred + i * lddpred, g * lddpred, e, count, g * n);
  };
  const bool contiguous =
      ldpred == n && (labels || ldtarget == n) && (!dpred || lddpred == n);
  const Index done = each_block_of_rows<T>(m, n, contiguous, block);

  for (Index i = done; i < m; ++i) {
    const T* p = pred + i * ldpred;
    const T* y = labels ? nullptr : target + i * ldtarget;
    T* d = dpred ? dpred + i * lddpred : nullptr;
    const T top = row_max(p, n);
    const Vec<T> vtop = Vec<T>::set1(top);
    const int64_t label = labels ? label_of(args, labels, i) : 0;
    const T at_label = labels ? scalar_below(p[label], top) : T(0);

    // The exponentials are kept in d, unless d is p and p is still needed. For short
    // rows they are recomputed, because reading back a partial vector that has just
    // been stored takes as long as an exponential.
    const bool kept = d && (labels || d != p) && n >= 2 * Vec<T>::kLanes;
    RowSum<T> exps;
    const auto sum_exps = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> e = vexp_nonpositive(below(io.load(p + j), vtop));
      if (kept) io.store(d + j, e);
      exps.add(j, zero_tail(io, e));
    };
    for_each_vector<T>(n, sum_exps);
    const T total = exps.total(n);
    const T log_total = scalar_log(total);

    T mass = T(1);
    if (labels) {
      row_loss[i] = log_total - at_label;
    } else {
      RowSum<T> loss, ys;
      const Vec<T> vlog_total = Vec<T>::set1(log_total);
      const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
        const Vec<T> yj = io.load(y + j);
        const Vec<T> pj = below(io.load(p + j), vtop);
        loss.add(j, zero_tail(io, term_of(yj, vlog_total, pj)));
        ys.add(j, yj);
      };
      for_each_vector<T>(n, body);
      row_loss[i] = loss.total(n);
      mass = ys.total(n);
    }

    if (!d) continue;
    const Vec<T> share = Vec<T>::set1(mass / total);
    const Vec<T> scale = Vec<T>::set1(row_scale[i]);
    const auto slope = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> exp =
          kept ? io.load(d + j) : vexp_nonpositive(below(io.load(p + j), vtop));
      const Vec<T> e = exp * share;
      io.store(d + j, labels ? e * scale : (e - io.load(y + j)) * scale);
    };
    for_each_vector<T>(n, slope);
    if (labels) d[label] = d[label] - row_scale[i];
  }
}

// Targets u_j = c_j ((1 - a) y_j + a / n) with class weights c and smoothing a; the
// cross-entropy is -sum_j u_j log softmax(pred)_j. With labels, y is 1 at the label and
// 0 elsewhere, so u_j is c_j a / n in all columns plus c_j (1 - a) at the label.
template <class T>
struct SoftTargets {
  const T* weights;  // class weights; null: all 1
  T kept, spread;    // 1 - a, a / n
  T shared;          // the sum of c_j a / n, for labels

  SoftTargets(const LossArgs<T>& args, Index n)
      : weights(args.per_output),
        kept(T(1) - args.smoothing),
        spread(args.smoothing / static_cast<T>(n)) {
    RowSum<T> sum;
    const auto add = [&](auto io, Index j) FASTMLP_LAMBDA {
      sum.add(j, zero_tail(io, weight(io, j) * Vec<T>::set1(spread)));
    };
    for_each_vector<T>(n, add);
    shared = sum.total(n);
  }
  bool smooth() const { return spread != T(0); }
  template <class Io>
  FASTMLP_MEMBER Vec<T> weight(Io io, Index j) const {
    return weights ? io.load(weights + j) : Vec<T>::set1(T(1));
  }
  FASTMLP_MEMBER Vec<T> weight_of_column(Index j) const {
    return Vec<T>::set1(weights ? weights[j] : T(1));
  }
  // c_j (1 - a) for j = label.
  FASTMLP_MEMBER T at_label(int64_t label) const {
    return weights ? weights[label] * kept : kept;
  }
  // u_j, given y_j and c_j.
  FASTMLP_MEMBER Vec<T> of(Vec<T> y, Vec<T> weight) const {
    return weight * fma(Vec<T>::set1(kept), y, Vec<T>::set1(spread));
  }
};

// Like cross_entropy_columns. With labels, y[0] holds the labels and y[1] the values of
// SoftTargets::at_label for them.
template <class T>
FASTMLP_INLINE Vec<T> soft_cross_entropy_columns(Vec<T>* e, Vec<T>* p, Vec<T>* y,
                                                 bool labels, Vec<T> scale, Index n,
                                                 const SoftTargets<T>& soft) {
  const Vec<T> one = num<T>(1);
  const Vec<T> top = max_columns(p, n);
  for (Index j = 0; j < n; ++j) {
    p[j] = below(p[j], top);
    e[j] = vexp_nonpositive(p[j]);
  }
  const Vec<T> total = sum_columns(e, n);
  const Vec<T> log_total = vlog(total);
  if (!labels) {
    for (Index j = 0; j < n; ++j) y[j] = soft.of(y[j], soft.weight_of_column(j));
    const Vec<T> share = sum_columns(y, n) / total;
    for (Index j = 0; j < n; ++j) {
      p[j] = term_of(y[j], log_total, p[j]);
      e[j] = (e[j] * share - y[j]) * scale;
    }
    return sum_columns(p, n);
  }
  const Vec<T> at_label = y[1], spread = Vec<T>::set1(soft.spread);
  const Vec<T> share = (Vec<T>::set1(soft.shared) + at_label) / total;
  const Vec<T> more = at_label * scale;
  Vec<T> column = num<T>(0), chosen = p[0];
  for (Index j = 0; j < n; ++j, column = column + one) {
    const Mask<T> here = y[0] == column;
    const Vec<T> u = soft.weight_of_column(j) * spread;
    const Vec<T> slope = (e[j] * share - u) * scale;
    chosen = select(here, p[j], chosen);
    e[j] = select(here, slope - more, slope);
    p[j] = term_of(u, log_total, p[j]);
  }
  const Vec<T> rest = sum_columns(p, n);
  return rest + term_of(at_label, log_total, chosen);
}

// Like cross_entropy_rows, for SoftTargets.
template <class T>
void soft_cross_entropy_rows(const LossArgs<T>& args, T* dpred, Index lddpred,
                             T* row_loss, const T* pred, Index ldpred, const T* target,
                             Index ldtarget, const int64_t* labels, const T* row_scale,
                             Index m, Index n) {
  const SoftTargets<T> soft(args, n);
  const auto block = [=](Index i, Index count, Index g) FASTMLP_LAMBDA {
    constexpr Index L = Vec<T>::kLanes;
    Vec<T> p[kRowSumLanes], y[kRowSumLanes], e[kRowSumLanes];
    Vec<T> scale[kRowSumLanes], loss[kRowSumLanes];
    Vec<T> number[kRowSumLanes], at_label[kRowSumLanes];
    load_columns(p, pred + i * ldpred, g * ldpred, count, g * n);
    if (labels) {
      T numbers[kRowSumLanes * L], more[kRowSumLanes * L];
      for (Index q = 0; q < count * g; ++q) {
        const int64_t label = label_of(args, labels, i + q);
        numbers[q] = static_cast<T>(label);
        more[q] = soft.at_label(label);
      }
      load_columns(number, numbers, g, count, g);
      load_columns(at_label, more, g, count, g);
    } else {
      load_columns(y, target + i * ldtarget, g * ldtarget, count, g * n);
    }
    load_columns(scale, row_scale + i, g, count, g);
    for (Index r = 0; r < g; ++r) {
      Vec<T> of_label[2] = {number[r], at_label[r]};
      loss[r] = soft_cross_entropy_columns(e + r * n, p + r * n,
                                           labels ? of_label : y + r * n,
                                           labels != nullptr, scale[r], n, soft);
    }
    store_columns(row_loss + i, g, loss, count, g);
    if (dpred) store_columns(dpred + i * lddpred, g * lddpred, e, count, g * n);
  };
  const bool contiguous =
      ldpred == n && (labels || ldtarget == n) && (!dpred || lddpred == n);
  const Index done = each_block_of_rows<T>(m, n, contiguous, block);

  for (Index i = done; i < m; ++i) {
    const T* p = pred + i * ldpred;
    const T* y = labels ? nullptr : target + i * ldtarget;
    T* d = dpred ? dpred + i * lddpred : nullptr;
    const T top = row_max(p, n);
    const Vec<T> vtop = Vec<T>::set1(top);
    const int64_t label = labels ? label_of(args, labels, i) : 0;
    const T chosen = labels ? scalar_below(p[label], top) : T(0);
    const T at_label = labels ? soft.at_label(label) : T(0);
    const auto u_of = [&](auto io, Index j) FASTMLP_LAMBDA {
      return labels ? soft.weight(io, j) * Vec<T>::set1(soft.spread)
                    : soft.of(io.load(y + j), soft.weight(io, j));
    };

    // Whether the exponentials are kept in d, as in cross_entropy_rows.
    const bool kept = d && d != p && n >= 2 * Vec<T>::kLanes;
    RowSum<T> exps;
    const auto sum_exps = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> e = vexp_nonpositive(below(io.load(p + j), vtop));
      if (kept) io.store(d + j, e);
      exps.add(j, zero_tail(io, e));
    };
    for_each_vector<T>(n, sum_exps);
    const T total = exps.total(n);
    const Vec<T> log_total = Vec<T>::set1(scalar_log(total));

    RowSum<T> loss, us;
    if (!labels || soft.smooth()) {
      const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
        const Vec<T> u = u_of(io, j);
        loss.add(j, zero_tail(io, term_of(u, log_total, below(io.load(p + j), vtop))));
        us.add(j, zero_tail(io, u));
      };
      for_each_vector<T>(n, body);
    }
    T mass = us.total(n);
    row_loss[i] = loss.total(n);
    if (labels) {
      T lane[Vec<T>::kLanes];
      term_of(Vec<T>::set1(at_label), log_total, Vec<T>::set1(chosen)).store(lane);
      row_loss[i] = row_loss[i] + lane[0];
      mass = soft.shared + at_label;
    }

    if (!d) continue;
    const Vec<T> share = Vec<T>::set1(mass / total);
    const Vec<T> scale = Vec<T>::set1(row_scale[i]);
    const auto slope = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> exp =
          kept ? io.load(d + j) : vexp_nonpositive(below(io.load(p + j), vtop));
      io.store(d + j, (exp * share - u_of(io, j)) * scale);
    };
    for_each_vector<T>(n, slope);
    if (labels) d[label] = d[label] - at_label * row_scale[i];
  }
}

template <class T>
void loss_rows(const LossArgs<T>& args, T* dpred, Index lddpred, T* row_loss,
               const T* pred, Index ldpred, const T* target, Index ldtarget,
               const int64_t* labels, const T* row_scale, Index m, Index n);

// Gathers each row's prediction for its action into one column and computes the loss of
// this column.
template <class T>
void action_rows(LossArgs<T> args, T* dpred, Index lddpred, T* row_loss, const T* pred,
                 Index ldpred, const T* target, Index ldtarget, const int64_t* actions,
                 const T* row_scale, Index m, Index n) {
  constexpr Index kBlock = 64;
  args.action = false;
  T column[kBlock];
  for (Index i = 0; i < m; i += kBlock) {
    const Index count = m - i < kBlock ? m - i : kBlock;
    for (Index q = 0; q < count; ++q) {
      column[q] = pred[(i + q) * ldpred + actions[i + q]];
    }
    loss_rows<T>(args, dpred ? column : nullptr, 1, row_loss + i, column, 1,
                 target + i * ldtarget, ldtarget, nullptr, row_scale + i, count, 1);
    if (!dpred) continue;
    for (Index q = 0; q < count; ++q) {
      T* const d = dpred + (i + q) * lddpred;
      for (Index j = 0; j < n; ++j) d[j] = T(0);
      d[actions[i + q]] = column[q];
    }
  }
}

template <class T>
void loss_rows(const LossArgs<T>& args, T* dpred, Index lddpred, T* row_loss,
               const T* pred, Index ldpred, const T* target, Index ldtarget,
               const int64_t* labels, const T* row_scale, Index m, Index n) {
  if (args.action) {
    return action_rows(args, dpred, lddpred, row_loss, pred, ldpred, target, ldtarget,
                       labels, row_scale, m, n);
  }
  const OneForAll<T> one = {Vec<T>::set1(args.delta)};
  const OnePerColumn<T> each = {args.per_output};
#define FASTMLP_ELEMENTWISE_LOSS_BY(F, parameter)                                \
  elementwise_loss_rows<T, F>(parameter, dpred, lddpred, row_loss, pred, ldpred, \
                              target, ldtarget, row_scale, m, n)
#define FASTMLP_ELEMENTWISE_LOSS(F) FASTMLP_ELEMENTWISE_LOSS_BY(F, one)
  switch (args.kind) {
    case LossKind::mse:
      return FASTMLP_ELEMENTWISE_LOSS(SquaredError);
    case LossKind::mae:
      return FASTMLP_ELEMENTWISE_LOSS(AbsoluteError);
    case LossKind::huber:
      return FASTMLP_ELEMENTWISE_LOSS(Huber);
    case LossKind::pseudo_huber:
      return FASTMLP_ELEMENTWISE_LOSS(PseudoHuber);
    case LossKind::binary_cross_entropy:
      if (args.per_output) {
        return FASTMLP_ELEMENTWISE_LOSS_BY(WeightedBinaryCrossEntropy, each);
      }
      if (args.delta != T(1)) {
        return FASTMLP_ELEMENTWISE_LOSS(WeightedBinaryCrossEntropy);
      }
      return FASTMLP_ELEMENTWISE_LOSS(BinaryCrossEntropy);
    case LossKind::poisson:
      return FASTMLP_ELEMENTWISE_LOSS(Poisson);
    case LossKind::quantile:
      if (args.per_output) return FASTMLP_ELEMENTWISE_LOSS_BY(Quantile, each);
      return FASTMLP_ELEMENTWISE_LOSS(Quantile);
    case LossKind::hinge:
      return FASTMLP_ELEMENTWISE_LOSS(Hinge);
    case LossKind::gaussian_nll:
      return gaussian_nll_rows(args.delta, dpred, lddpred, row_loss, pred, ldpred,
                               target, ldtarget, row_scale, m, n);
    case LossKind::cross_entropy:
      if (args.per_output || args.smoothing != T(0)) {
        soft_cross_entropy_rows(args, dpred, lddpred, row_loss, pred, ldpred, target,
                                ldtarget, labels, row_scale, m, n);
      } else {
        cross_entropy_rows(args, dpred, lddpred, row_loss, pred, ldpred, target,
                           ldtarget, labels, row_scale, m, n);
      }
      if (labels && args.ignores) {
        clear_ignored(args, dpred, lddpred, row_loss, labels, m, n);
      }
      return;
  }
#undef FASTMLP_ELEMENTWISE_LOSS
#undef FASTMLP_ELEMENTWISE_LOSS_BY
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
