// Losses by rows, with value and gradient in one pass: the choice of the kernel. See
// kernel_table.h for the contract and the files included here for the formulas.
#pragma once

#include "loss_classes-inl.h"
#include "loss_density-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// Sets the losses and gradients of the rows for which missing(i) holds to 0.
template <class T, class Missing>
void clear_rows(const LossRows<T>& rows, Missing missing) {
  for (Index i = 0; i < rows.m; ++i) {
    if (!missing(i)) continue;
    rows.row_loss[i] = T(0);
    T* const d = rows.d(i);
    for (Index j = 0; d && j < rows.n; ++j) d[j] = T(0);
  }
}

// The losses of quantiles that are the sums of the first prediction and softplus of the
// following ones, so that they do not cross.
template <class T>
void quantile_steps_rows(const T* q, Counted<T> counted, const LossRows<T>& rows) {
  const Index n = rows.n;
  T level[kMostLevels], rate[kMostLevels];
  for (Index i = 0; i < rows.m; ++i) {
    const T* const p = rows.p(i);
    const T* const y = rows.y(i);
    T* const d = rows.d(i);
    const auto step = [&](auto io, Index j) FASTMLP_LAMBDA {
      io.store(level + j, vsoftplus(io.load(p + j)));
      io.store(rate + j, vsigmoid(io.load(p + j)));
    };
    for_each_vector<T>(n, step);
    level[0] = p[0];
    rate[0] = T(1);
    for (Index j = 1; j < n; ++j) level[j] = level[j - 1] + level[j];
    const Vec<T> unused = num<T>(0), scale = rows.scale(i);
    RowSum<T> sum;
    const auto compare = [&](auto io, Index j) FASTMLP_LAMBDA {
      const Vec<T> target = io.load(y + j), weight = counted.load(io, j);
      const ValueAndSlope<T> l =
          Quantile::at<T>(io.load(level + j), target, io.load(q + j), unused);
      sum.add(j, zero_tail(io, counted.of(l.value, target, weight)));
      io.store(level + j, counted.of(l.slope, target, weight));
    };
    for_each_vector<T>(n, compare);
    rows.row_loss[i] = sum.total(n);
    if (!d) continue;
    for (Index j = n - 1; j > 0; --j) level[j - 1] = level[j - 1] + level[j];
    const auto chain = [&](auto io, Index j) FASTMLP_LAMBDA {
      io.store(d + j, io.load(level + j) * io.load(rate + j) * scale);
    };
    for_each_vector<T>(n, chain);
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
  const LossRows<T> rows = {dpred,    lddpred, row_loss,  pred, ldpred, target,
                            ldtarget, labels,  row_scale, m,    n};
  const Counted<T> counted = {args.masked, args.output_weight};
  const OneForAll<T> one = {Vec<T>::set1(args.delta)};
  const OnePerColumn<T> each = {args.per_output};
#define FASTMLP_TILED_LOSS(F) tiled_loss_rows(compare_elements<T, F>, args, rows)
#define FASTMLP_ELEMENTWISE_LOSS_BY(F, parameter)                                      \
  counted.fully()                                                                      \
      ? elementwise_loss_rows<T, F>(parameter, dpred, lddpred, row_loss, pred, ldpred, \
                                    target, ldtarget, row_scale, m, n)                 \
      : FASTMLP_TILED_LOSS(F)
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
    case LossKind::smooth_l1:
      return FASTMLP_TILED_LOSS(SmoothL1);
    case LossKind::log_cosh:
      return FASTMLP_TILED_LOSS(LogCosh);
    case LossKind::binary_cross_entropy:
      if (args.per_output) {
        return FASTMLP_ELEMENTWISE_LOSS_BY(WeightedBinaryCrossEntropy, each);
      }
      if (args.delta != T(1)) {
        return FASTMLP_ELEMENTWISE_LOSS(WeightedBinaryCrossEntropy);
      }
      return FASTMLP_ELEMENTWISE_LOSS(BinaryCrossEntropy);
    case LossKind::binary_focal:
      return FASTMLP_TILED_LOSS(BinaryFocal);
    case LossKind::poisson:
      return FASTMLP_ELEMENTWISE_LOSS(Poisson);
    case LossKind::gamma:
      return FASTMLP_TILED_LOSS(GammaNll);
    case LossKind::tweedie:
      return FASTMLP_TILED_LOSS(Tweedie);
    case LossKind::quantile:
      if (args.second != T(0)) {
        return quantile_steps_rows(args.per_output, counted, rows);
      }
      if (args.per_output) return FASTMLP_ELEMENTWISE_LOSS_BY(Quantile, each);
      return FASTMLP_ELEMENTWISE_LOSS(Quantile);
    case LossKind::expectile:
      return FASTMLP_TILED_LOSS(Expectile);
    case LossKind::hinge:
      return FASTMLP_ELEMENTWISE_LOSS(Hinge);
    case LossKind::soft_margin:
      return FASTMLP_TILED_LOSS(SoftMargin);
    case LossKind::gaussian_nll:
      return two_part_loss_rows(GaussianTerm<T>(args.delta), one, counted, rows);
    case LossKind::student_t_nll:
      if (args.per_output) {
        return two_part_loss_rows(StudentTerm<T>(), each, counted, rows);
      }
      return two_part_loss_rows(StudentTerm<T>(), one, counted, rows);
    case LossKind::mixture_density:
      return mixture_rows(static_cast<Index>(args.delta), counted, rows);
    case LossKind::cross_entropy:
      if (args.per_output || args.smoothing != T(0)) {
        soft_cross_entropy_rows(args, dpred, lddpred, row_loss, pred, ldpred, target,
                                ldtarget, labels, row_scale, m, n);
      } else {
        cross_entropy_rows(args, dpred, lddpred, row_loss, pred, ldpred, target,
                           ldtarget, labels, row_scale, m, n);
      }
      break;
    case LossKind::kl_div:
      kl_div_rows(args.second != T(0), rows);
      break;
    case LossKind::focal:
      focal_rows(args, rows);
      break;
    case LossKind::multi_margin:
      multi_margin_rows(args, rows);
      break;
    case LossKind::ordinal:
      ordinal_rows(args, rows);
      break;
  }
#undef FASTMLP_TILED_LOSS
#undef FASTMLP_ELEMENTWISE_LOSS
#undef FASTMLP_ELEMENTWISE_LOSS_BY
  // The losses that compare whole rows.
  if (labels && args.ignores) {
    clear_rows(rows, [&](Index i) { return labels[i] == args.ignored; });
  } else if (!labels && args.masked) {
    clear_rows(rows, [&](Index i) {
      const T* const y = rows.y(i);
      bool missing = false;
      for (Index j = 0; j < n; ++j) missing |= y[j] != y[j];
      return missing;
    });
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
