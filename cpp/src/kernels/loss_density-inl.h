// Negative log likelihoods of densities with several predictions for each target. The
// predictions of a row are all first parameters, then all second ones, and so on; terms
// that do not depend on the predictions are left out. With r = pred - target:
//   gaussian_nll  (s + r^2 / v) / 2, v = e^s   by p: r / v, by s: (1 - r^2 / v) / 2
//     if e^s < eps, the value uses v = eps and s = log(eps). The derivative by s is
//     then e^s / eps times the one above rather than 0, so that s can increase again.
//   student_t_nll  s + (nu + 1) / 2 log(1 + z^2 / nu), z = r e^-s   with t = z^2 /
//     (nu + z^2), by p: (nu + 1) t / r, by s: 1 - (nu + 1) t
//   mixture_density  log sum e^a - log sum e^b, b = a - s - z^2 / 2, z = r e^-s, for k
//     logits a, means and log deviations s per target; with the shares g = softmax(b),
//     by a: softmax(a) - g, by p: g z e^-s, by s: g (1 - z^2)
#pragma once

#include "loss_elements-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// A loss as a function of a location and a logarithm of a scale, and its derivatives
// with respect to both.
template <class T>
struct TwoPartTerm {
  Vec<T> value, by_location, by_log_scale;
};

template <class T>
struct GaussianTerm {
  Vec<T> eps, log_eps;

  explicit GaussianTerm(T least_variance)
      : eps(Vec<T>::set1(least_variance)), log_eps(vlog(eps)) {}

  FASTMLP_MEMBER TwoPartTerm<T> operator()(Vec<T> p, Vec<T> s, Vec<T> y, Vec<T>) const {
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
};

template <class T>
struct StudentTerm {
  FASTMLP_MEMBER TwoPartTerm<T> operator()(Vec<T> p, Vec<T> s, Vec<T> y,
                                           Vec<T> nu) const {
    const Vec<T> r = p - y, zero = num<T>(0), one = num<T>(1), half = num<T>(0.5);
    const Vec<T> inverse = vexp(-s);
    // No error is 0 deviations, and so is any error on an infinite scale.
    const Mask<T> none = (r == zero) | ((inverse == zero) & !is_nan(r));
    const Vec<T> z = select(none, zero, r * inverse);
    // q^2 = z^2 / nu may overflow, so that its inverse is used where q > 1.
    const Vec<T> q = abs(z) / sqrt(nu), back = one / q;
    const Mask<T> far = q > one;
    const Vec<T> square = select(far, back * back, q * q);
    const Vec<T> bend = half * vlog1p01(square), more = nu + one;
    const Vec<T> log_q = vlog(abs(r)) - half * vlog(nu);
    const Vec<T> t = select(far, one, square) / (one + square);
    const Vec<T> near_slope = more / nu * (z * inverse) / (one + square);
    return {
        select(far, fnma(nu, s, more * (log_q + bend)), fma(more, bend, s)),
        select(far, more * t / r, select(none, select(is_nan(s), s, zero), near_slope)),
        fnma(more, t, one)};
  }
};

// `parameter` is the third argument of the term: one for all targets, or one for each.
template <class T, class Term, class Parameter>
void two_part_loss_rows(Term compare, Parameter parameter, Counted<T> counted,
                        const LossRows<T>& rows) {
  const Index m = rows.m, n = rows.n, k = n / 2;
  const auto term_of_target = [=](Vec<T> p, Vec<T> s, Vec<T> y, Vec<T> d,
                                  Vec<T> weight) FASTMLP_LAMBDA {
    const TwoPartTerm<T> l = compare(p, s, y, d);
    if (counted.fully()) return l;
    return TwoPartTerm<T>{counted.of(l.value, y, weight),
                          counted.of(l.by_location, y, weight),
                          counted.of(l.by_log_scale, y, weight)};
  };
  const auto block = [=](Index i, Index count, Index g) FASTMLP_LAMBDA {
    Vec<T> p[kRowSumLanes], y[kRowSumLanes], scale[kRowSumLanes], loss[kRowSumLanes];
    load_columns(p, rows.p(i), g * rows.ldpred, count, g * n);
    load_columns(y, rows.y(i), g * rows.ldtarget, count, g * k);
    load_columns(scale, rows.row_scale + i, g, count, g);
    for (Index r = 0; r < g; ++r) {
      Vec<T>* const location = p + r * n;
      Vec<T>* const term = y + r * k;
      for (Index j = 0; j < k; ++j) {
        const TwoPartTerm<T> l = term_of_target(location[j], location[k + j], term[j],
                                                parameter.column(j), counted.column(j));
        term[j] = l.value;
        location[j] = l.by_location * scale[r];
        location[k + j] = l.by_log_scale * scale[r];
      }
      loss[r] = sum_columns(term, k);
    }
    store_columns(rows.row_loss + i, g, loss, count, g);
    if (rows.dpred) store_columns(rows.d(i), g * rows.lddpred, p, count, g * n);
  };
  const bool contiguous =
      rows.ldpred == n && rows.ldtarget == k && (!rows.dpred || rows.lddpred == n);
  const Index done = each_block_of_rows<T>(m, n, contiguous, block);

  for (Index i = done; i < m; ++i) {
    const T* const p = rows.p(i);
    const T* const y = rows.y(i);
    T* const d = rows.d(i);
    const Vec<T> scale = rows.scale(i);
    RowSum<T> sum;
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const TwoPartTerm<T> l =
          term_of_target(io.load(p + j), io.load(p + k + j), io.load(y + j),
                         parameter.load(io, j), counted.load(io, j));
      sum.add(j, zero_tail(io, l.value));
      if (!d) return;
      io.store(d + j, l.by_location * scale);
      io.store(d + k + j, l.by_log_scale * scale);
    };
    for_each_vector<T>(k, body);
    rows.row_loss[i] = sum.total(k);
  }
}

// x in lanes below n and `fill` in the others; for a whole vector, x unchanged.
template <class T>
FASTMLP_INLINE Vec<T> fill_tail(FullVector<T>, Vec<T> x, Vec<T>) {
  return x;
}
template <class T>
FASTMLP_INLINE Vec<T> fill_tail(TailVector<T> io, Vec<T> x, Vec<T> fill) {
  T ones[Vec<T>::kLanes];
  Vec<T>::set1(T(1)).store(ones);
  return select(io.load(ones) > num<T>(0), x, fill);
}

// The largest of f(io, j) over j < n.
template <class T, class F>
FASTMLP_INLINE T largest(Index n, F f) {
  const Vec<T> least = -infinity<T>();
  Vec<T> best = least;
  const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
    best = max(fill_tail(io, f(io, j), least), best);
  };
  for_each_vector<T>(n, body);
  T lane[Vec<T>::kLanes];
  best.store(lane);
  return row_max(lane, Vec<T>::kLanes) + T(0);  // -0 becomes +0
}

// log sum e^f(io, j) over j < n, as top + log_total.
template <class T>
struct LogSum {
  Vec<T> top, log_total;

  template <class F>
  FASTMLP_MEMBER LogSum(Index n, F f) : top(Vec<T>::set1(largest<T>(n, f))) {
    RowSum<T> exps;
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      exps.add(j, zero_tail(io, vexp_nonpositive(below_top(f(io, j)))));
    };
    for_each_vector<T>(n, body);
    log_total = vlog(Vec<T>::set1(exps.total(n)));
  }
  // The largest terms count equally, even if they are infinite.
  FASTMLP_MEMBER Vec<T> below_top(Vec<T> x) const {
    return select(x == top, num<T>(0), x - top);
  }
  FASTMLP_MEMBER Vec<T> share(Vec<T> x) const { return vexp(below_top(x) - log_total); }
};

// A component of a mixture: the logarithm of its weighted density without constants,
// the error in standard deviations, and the reciprocal of the latter.
template <class T>
struct MixturePart {
  Vec<T> log_density, z, inverse;

  FASTMLP_MEMBER MixturePart(Vec<T> a, Vec<T> mean, Vec<T> s, Vec<T> y) {
    const Vec<T> r = mean - y, zero = num<T>(0);
    inverse = vexp(-s);
    const Mask<T> none = (r == zero) | ((inverse == zero) & !is_nan(r));
    z = select(none, zero, r * inverse);
    const Vec<T> density = (a - s) - num<T>(0.5) * z * z;
    const Mask<T> beyond = abs(z) == infinity<T>();
    log_density = select(beyond, -infinity<T>(), density);
  }
};

// The loss of one target. `k` parameters of each kind begin at a, mean and s. The
// gradient times `scale` is written to the same places of d, unless it is null.
template <class T>
FASTMLP_INLINE T mixture_of_target(T* da, T* dmean, T* ds, const T* a, const T* mean,
                                   const T* s, T target, Vec<T> scale, Index k) {
  const Vec<T> y = Vec<T>::set1(target), zero = num<T>(0), one = num<T>(1);
  const auto logit = [=](auto io, Index j) FASTMLP_LAMBDA { return io.load(a + j); };
  const LogSum<T> prior(k, logit);
  const auto part = [=](auto io, Index j) FASTMLP_LAMBDA {
    return MixturePart<T>(prior.below_top(logit(io, j)), io.load(mean + j),
                          io.load(s + j), y);
  };
  const auto density = [=](auto io, Index j)
                           FASTMLP_LAMBDA { return part(io, j).log_density; };
  const LogSum<T> joint(k, density);
  T lane[Vec<T>::kLanes];
  ((prior.log_total - joint.log_total) - joint.top).store(lane);
  if (!da) return lane[0];
  const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
    const MixturePart<T> here = part(io, j);
    const Vec<T> share = joint.share(here.log_density);
    const Vec<T> first = prior.share(logit(io, j)) - share;
    const Mask<T> gone = share == zero;
    const Vec<T> by_mean = select(gone, zero, share * here.z * here.inverse);
    const Vec<T> by_s = select(gone, zero, share * fnma(here.z, here.z, one));
    io.store(da + j, first * scale);
    io.store(dmean + j, by_mean * scale);
    io.store(ds + j, by_s * scale);
  };
  for_each_vector<T>(k, body);
  return lane[0];
}

template <class T>
void mixture_rows(Index k, Counted<T> counted, const LossRows<T>& rows) {
  const Index width = rows.n / 3, targets = width / k;
  for (Index i = 0; i < rows.m; ++i) {
    const T* const y = rows.y(i);
    RowSum<T> sum;
    for (Index t = 0; t < targets; t += Vec<T>::kLanes) {
      T values[Vec<T>::kLanes];
      Vec<T>::set1(T(0)).store(values);
      for (Index q = 0; q < Vec<T>::kLanes && t + q < targets; ++q) {
        const T* const p = rows.p(i) + (t + q) * k;
        T* const d = rows.dpred ? rows.d(i) + (t + q) * k : nullptr;
        const T weight = counted.weights ? counted.weights[t + q] : T(1);
        if (counted.masked && y[t + q] != y[t + q]) {
          for (Index j = 0; d && j < k; ++j) {
            d[j] = d[width + j] = d[2 * width + j] = T(0);
          }
          continue;
        }
        const Vec<T> scale = Vec<T>::set1(weight * rows.row_scale[i]);
        values[q] =
            weight * mixture_of_target(d, d ? d + width : d, d ? d + 2 * width : d, p,
                                       p + width, p + 2 * width, y[t + q], scale, k);
      }
      sum.add(t, Vec<T>::load(values));
    }
    rows.row_loss[i] = sum.total(targets);
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
