// Cross-entropy, with labels or probabilities, class weights and label smoothing; see
// loss-inl.h.
#pragma once

#include "loss_elements-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

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

// The label of row i; 0 for a row without a label, whose loss `clear_rows` removes.
template <class T>
FASTMLP_INLINE int64_t label_of(const LossArgs<T>& args, const int64_t* labels,
                                Index i) {
  return args.ignores && labels[i] == args.ignored ? 0 : labels[i];
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

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
