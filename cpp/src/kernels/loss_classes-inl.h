// Losses of whole rows besides the cross-entropy. With s = softmax(pred), the label l
// and n columns:
//   kl_div        sum y (log y - log s); if args.second is set, the target is log y
//     by p_j: s_j sum(y) - y_j
//   multi_margin  c_l / n sum over j != l of max(0, margin - p_l + p_j)^args.second
//   focal         -c_l (1 - s_l)^gamma log s_l, or args.second in place of c_l
//     by p_j, j != l: c_l (1 - s_l)^gamma (s_j - gamma s_l log(s_l) s_j / (1 - s_l));
//     by p_l: minus the sum of the others
//   ordinal       sum of c_j binary_cross_entropy(p_j, j < l)
#pragma once

#include "loss_cross_entropy-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
FASTMLP_INLINE T first_lane(Vec<T> x) {
  T lane[Vec<T>::kLanes];
  x.store(lane);
  return lane[0];
}

// x with a 0 in this lane, if there is such a lane.
template <class T>
FASTMLP_INLINE Vec<T> without(Vec<T> x, Index lane) {
  if (lane < 0 || lane >= Vec<T>::kLanes) return x;
  T lanes[Vec<T>::kLanes];
  x.store(lanes);
  lanes[lane] = T(0);
  return Vec<T>::load(lanes);
}

// w x, where 0 times infinity is 0.
template <class T>
FASTMLP_INLINE Vec<T> share_of(Vec<T> w, Vec<T> x) {
  const Vec<T> zero = num<T>(0);
  return select(w == zero, zero, w * x);
}

// The sum of e^p_j relative to the largest p_j of a row.
template <class T>
FASTMLP_INLINE T sum_of_exps(const T* p, Index n, Vec<T> top) {
  RowSum<T> sum;
  const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
    sum.add(j, zero_tail(io, vexp_nonpositive(below(io.load(p + j), top))));
  };
  for_each_vector<T>(n, body);
  return sum.total(n);
}

template <class T>
void kl_div_rows(bool of_logarithms, const LossRows<T>& rows) {
  const Index n = rows.n;
  for (Index i = 0; i < rows.m; ++i) {
    const T* const p = rows.p(i);
    const T* const y = rows.y(i);
    T* const d = rows.d(i);
    const Vec<T> top = Vec<T>::set1(row_max(p, n));
    const T total = sum_of_exps(p, n, top);
    const Vec<T> log_total = Vec<T>::set1(scalar_log(total));
    const auto target = [=](Vec<T> t)
                            FASTMLP_LAMBDA { return of_logarithms ? vexp(t) : t; };
    RowSum<T> loss, mass;
    const auto term = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> t = io.load(y + j), u = target(t);
      const Vec<T> log_u = of_logarithms ? t : vlog(t);
      const Vec<T> ratio = log_u + (log_total - below(io.load(p + j), top));
      loss.add(j, zero_tail(io, share_of(u, ratio)));
      mass.add(j, zero_tail(io, u));
    };
    for_each_vector<T>(n, term);
    rows.row_loss[i] = loss.total(n);
    if (!d) continue;
    const Vec<T> share = Vec<T>::set1(mass.total(n) / total), scale = rows.scale(i);
    const auto slope = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> e = vexp_nonpositive(below(io.load(p + j), top));
      io.store(d + j, (e * share - target(io.load(y + j))) * scale);
    };
    for_each_vector<T>(n, slope);
  }
}

template <class T>
void multi_margin_rows(const LossArgs<T>& args, const LossRows<T>& rows) {
  const Index n = rows.n;
  const Vec<T> zero = num<T>(0), one = num<T>(1), margin = Vec<T>::set1(args.delta);
  const bool squared = args.second == T(2);
  for (Index i = 0; i < rows.m; ++i) {
    const T* const p = rows.p(i);
    T* const d = rows.d(i);
    const int64_t label = label_of(args, rows.labels, i);
    const Vec<T> chosen = Vec<T>::set1(p[label]);
    const T weight = args.per_output ? args.per_output[label] : T(1);
    const Vec<T> share = Vec<T>::set1(weight / static_cast<T>(n));
    // How much a class is above the one of the label, plus the margin. Equal infinite
    // scores are equal.
    const auto excess = [=](Vec<T> q) FASTMLP_LAMBDA {
      const Vec<T> z = margin + select(q == chosen, zero, q - chosen);
      return select(z < zero, zero, z);
    };
    // The label's own class has the excess `margin`, which does not count.
    RowSum<T> loss, slopes;
    const auto slope_at = [=](Vec<T> z) FASTMLP_LAMBDA {
      return squared ? z + z : select(z == zero, zero, select(is_nan(z), z, one));
    };
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> z = without(excess(io.load(p + j)), label - j);
      const Vec<T> slope = share_of(share, slope_at(z));
      loss.add(j, zero_tail(io, share_of(share, squared ? z * z : z)));
      slopes.add(j, zero_tail(io, slope));
      if (d) io.store(d + j, slope * rows.scale(i));
    };
    for_each_vector<T>(n, body);
    rows.row_loss[i] = loss.total(n);
    if (d) d[label] = -(slopes.total(n) * rows.row_scale[i]);
  }
}

template <class T>
void focal_rows(const LossArgs<T>& args, const LossRows<T>& rows) {
  const Index n = rows.n;
  const Vec<T> zero = num<T>(0), one = num<T>(1), gamma = Vec<T>::set1(args.delta);
  for (Index i = 0; i < rows.m; ++i) {
    const T* const p = rows.p(i);
    T* const d = rows.d(i);
    const int64_t label = label_of(args, rows.labels, i);
    const Vec<T> top = Vec<T>::set1(row_max(p, n));
    const T alpha = args.second == T(0) ? T(1) : args.second;
    const Vec<T> weight =
        Vec<T>::set1(args.per_output ? args.per_output[label] : alpha);
    // The sums without the label's class and without the first of the largest, so that
    // neither 1 - s nor log s is a difference of nearly equal numbers.
    RowSum<T> others, below_top;
    Index largest = 0;
    while (p[largest] < first_lane(top)) ++largest;
    const auto add = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> e = zero_tail(io, vexp_nonpositive(below(io.load(p + j), top)));
      others.add(j, without(e, label - j));
      below_top.add(j, without(e, largest - j));
    };
    for_each_vector<T>(n, add);
    const Vec<T> rest = Vec<T>::set1(others.total(n));
    const Vec<T> at_label = below(Vec<T>::set1(p[label]), top);
    const Vec<T> own = vexp_nonpositive(at_label), total = own + rest;
    const Vec<T> log_s = at_label - vlog1p(Vec<T>::set1(below_top.total(n)));
    const Vec<T> s = own / total, wrong = rest / total;
    const Vec<T> power = weight * select(gamma == zero, one, vexp(gamma * vlog(wrong)));
    rows.row_loss[i] = first_lane(-share_of(power, log_s));
    if (!d) continue;
    const Vec<T> bend = gamma * share_of(s, log_s), scale = rows.scale(i);
    // For the other classes, s_j = e_j / total and s_j / (1 - s_l) = e_j / rest.
    const Vec<T> bend_of_rest = select(bend == zero, zero, bend / rest);
    const Vec<T> each = share_of(power, one / total - bend_of_rest);
    const auto slope = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> e = vexp_nonpositive(below(io.load(p + j), top));
      io.store(d + j, e * each * scale);
    };
    for_each_vector<T>(n, slope);
    d[label] = first_lane(-(share_of(power, wrong - bend) * scale));
  }
}

// The targets of columns are 1 before the label, else 0 (Cao, Mirjalili & Raschka,
// 2020).
template <class T>
void ordinal_rows(const LossArgs<T>& args, const LossRows<T>& rows) {
  for (Index i = 0; i < rows.m; ++i) {
    const T* const p = rows.p(i);
    T* const d = rows.d(i);
    const int64_t label = label_of(args, rows.labels, i);
    const Vec<T> scale = rows.scale(i), one = num<T>(1);
    RowSum<T> loss;
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      T reached[Vec<T>::kLanes];
      for (Index q = 0; q < Vec<T>::kLanes; ++q) {
        reached[q] = j + q < label ? T(1) : T(0);
      }
      const ValueAndSlope<T> l = WeightedBinaryCrossEntropy::at<T>(
          io.load(p + j), Vec<T>::load(reached), one, one);
      const Vec<T> weight = args.per_output ? io.load(args.per_output + j) : one;
      loss.add(j, zero_tail(io, share_of(weight, l.value)));
      if (d) io.store(d + j, weight * l.slope * scale);
    };
    for_each_vector<T>(rows.n, body);
    rows.row_loss[i] = loss.total(rows.n);
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
