// Losses by rows, value and gradient in one pass. See kernel_table.h for the contract.
// With r = pred - target:
//   mse           r^2                                     2 r
//   mae           |r|                                     sign(r), 0 at 0
//   huber         r^2 / 2, or d (|r| - d / 2) for |r| > d r clipped to [-d, d]
//   pseudo_huber  d^2 (q - 1), q = sqrt(1 + (r / d)^2)    r / q
//   cross_entropy -sum y log softmax(pred)                softmax(pred) sum(y) - y
//   binary_cross_entropy  max(p, 0) - p y + log(1 + e^-|p|)   sigmoid(p) - y
#pragma once

#include "activation-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

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
    // Far out s^2 would overflow, and q is |s| to the last bit long before.
    const Vec<T> far = num<T>(1e15);
    const Vec<T> q = select(abs(s) > far, abs(s), sqrt(fma(s, s, num<T>(1))));
    // delta^2 (q - 1) = r^2 / (q + 1) without the cancellation at small r.
    return {r / (q + num<T>(1)) * r, r / q};
  }
};

struct BinaryCrossEntropy {
  template <class T>
  static FASTMLP_MEMBER ValueAndSlope<T> at(Vec<T> p, Vec<T> y, Vec<T>) {
    const Vec<T> zero = num<T>(0);
    const Vec<T> positive = max(zero, p);
    const Vec<T> value = fnma(p, y, positive) + vlog1p01(vexp_nonpositive(-abs(p)));
    return {value, vsigmoid(p) - y};
  }
};

template <class T, class F>
void elementwise_loss_rows(T delta, T* dpred, Index lddpred, T* row_loss, const T* pred,
                           Index ldpred, const T* target, Index ldtarget,
                           const T* row_scale, Index m, Index n) {
  const Vec<T> d = Vec<T>::set1(delta);
  const bool contiguous = ldpred == n && ldtarget == n && (!dpred || lddpred == n);
  if (n == 1 && contiguous) {
    const Vec<T> zero = num<T>(0);
    const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
      const ValueAndSlope<T> l =
          F::template at<T>(io.load(pred + i), io.load(target + i), d);
      io.store(row_loss + i, zero + l.value);
      if (dpred) io.store(dpred + i, l.slope * io.load(row_scale + i));
    };
    return sweep<T>(m, body);
  }

  const auto block = [=](Index i, Index count, Index g) FASTMLP_LAMBDA {
    Vec<T> p[kRowSumLanes], y[kRowSumLanes], scale[kRowSumLanes], loss[kRowSumLanes];
    load_columns(p, pred + i * ldpred, g * ldpred, count, g * n);
    load_columns(y, target + i * ldtarget, g * ldtarget, count, g * n);
    load_columns(scale, row_scale + i, g, count, g);
    for (Index r = 0; r < g; ++r) {
      for (Index j = r * n; j < r * n + n; ++j) {
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
      const ValueAndSlope<T> l = F::template at<T>(
          io.load(pred + i * ldpred + j), io.load(target + i * ldtarget + j), d);
      sum.add(j, keep(io, l.value));
      if (dpred) io.store(dpred + i * lddpred + j, l.slope * scale);
    };
    sweep<T>(n, body);
    row_loss[i] = sum.total(n);
  }
}

template <class T>
FASTMLP_INLINE T scalar_log(T x) {
  T lane[Vec<T>::kLanes];
  vlog(Vec<T>::set1(x)).store(lane);
  return lane[0];
}

// The columns of a block of rows, and what becomes of them:
//   p  predictions; then the terms of the loss, if there are probabilities
//   y  probabilities, or in y[0] the labels
//   e  the gradient
// Returns the loss.
template <class T>
FASTMLP_INLINE Vec<T> cross_entropy_columns(Vec<T>* e, Vec<T>* p, const Vec<T>* y,
                                            bool labels, Vec<T> scale, Index n) {
  const Vec<T> one = num<T>(1);
  const Vec<T> top = max_columns(p, n);
  for (Index j = 0; j < n; ++j) {
    p[j] = p[j] - top;
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
    p[j] = y[j] * (log_total - p[j]);
    e[j] = (e[j] * share - y[j]) * scale;
  }
  return sum_columns(p, n);
}

// log-sum-exp by the row maximum.
template <class T>
void cross_entropy_rows(T* dpred, Index lddpred, T* row_loss, const T* pred,
                        Index ldpred, const T* target, Index ldtarget,
                        const int64_t* labels, const T* row_scale, Index m, Index n) {
  const auto block = [=](Index i, Index count, Index g) FASTMLP_LAMBDA {
    constexpr Index L = Vec<T>::kLanes;
    Vec<T> p[kRowSumLanes], y[kRowSumLanes], e[kRowSumLanes];
    Vec<T> scale[kRowSumLanes], loss[kRowSumLanes];
    load_columns(p, pred + i * ldpred, g * ldpred, count, g * n);
    if (labels) {
      // As numbers, which are exact.
      T numbers[kRowSumLanes * L];
      for (Index q = 0; q < count * g; ++q) numbers[q] = static_cast<T>(labels[i + q]);
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
    const T at_label = labels ? p[labels[i]] : T(0);

    // The exponentials are kept in d, unless that is p and p is still needed. To read
    // again at once what was stored as a partial vector takes as long as an
    // exponential.
    const bool kept = d && (labels || d != p) && n >= 2 * Vec<T>::kLanes;
    RowSum<T> exps;
    const auto sum_exps = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> e = vexp_nonpositive(io.load(p + j) - vtop);
      if (kept) io.store(d + j, e);
      exps.add(j, keep(io, e));
    };
    sweep<T>(n, sum_exps);
    const T total = exps.total(n);
    const T log_total = scalar_log(total);

    T mass = T(1);
    if (labels) {
      row_loss[i] = log_total - (at_label - top);
    } else {
      RowSum<T> loss, ys;
      const Vec<T> vlog_total = Vec<T>::set1(log_total);
      const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
        const Vec<T> yj = io.load(y + j);
        loss.add(j, keep(io, yj * (vlog_total - (io.load(p + j) - vtop))));
        ys.add(j, yj);
      };
      sweep<T>(n, body);
      row_loss[i] = loss.total(n);
      mass = ys.total(n);
    }

    if (!d) continue;
    const Vec<T> share = Vec<T>::set1(mass / total);
    const Vec<T> scale = Vec<T>::set1(row_scale[i]);
    const auto slope = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> exp =
          kept ? io.load(d + j) : vexp_nonpositive(io.load(p + j) - vtop);
      const Vec<T> e = exp * share;
      io.store(d + j, labels ? e * scale : (e - io.load(y + j)) * scale);
    };
    sweep<T>(n, slope);
    if (labels) d[labels[i]] = d[labels[i]] - row_scale[i];
  }
}

template <class T>
void loss_rows(const LossArgs<T>& args, T* dpred, Index lddpred, T* row_loss,
               const T* pred, Index ldpred, const T* target, Index ldtarget,
               const int64_t* labels, const T* row_scale, Index m, Index n) {
#define FASTMLP_ELEMENTWISE_LOSS(F)                                               \
  elementwise_loss_rows<T, F>(args.delta, dpred, lddpred, row_loss, pred, ldpred, \
                              target, ldtarget, row_scale, m, n)
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
      return FASTMLP_ELEMENTWISE_LOSS(BinaryCrossEntropy);
    case LossKind::cross_entropy:
      return cross_entropy_rows(dpred, lddpred, row_loss, pred, ldpred, target,
                                ldtarget, labels, row_scale, m, n);
  }
#undef FASTMLP_ELEMENTWISE_LOSS
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
