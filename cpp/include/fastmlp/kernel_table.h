// The contract between the layers above (threads, memory, order of work) and the
// kernels below (one instruction set each). Every slot is single-threaded, allocates
// nothing and throws nothing. Results do not depend on the instruction set: see each
// slot's order of operations. Arguments must not alias unless a slot allows it. Any
// alignment is allowed, and so are sizes of zero, except n in softmax and
// cross_entropy. Elements beyond the stated sizes are neither read nor written.
#pragma once

#include "fastmlp/optimizer_kinds.h"
#include "fastmlp/sparse.h"
#include "fastmlp/types.h"

namespace fastmlp {

// Left operand of a product: element (i, p) is data[i * rs + p * cs]. If packed by
// pack_left, it consists of panels of `mr` rows, each k-major, so that rs == 1 and
// cs == mr within a panel.
template <class T>
struct LeftOperand {
  const T* data;
  Index rs;
  Index cs;
};

// Right operand of a product, with its columns in panels of `nr`: element (p, j) is
// data[(j / nr) * panel_stride + p * ld + j % nr]. A plain row-major matrix has
// panel_stride == nr. If packed by pack_right, ld == nr and panel_stride is the one
// passed to pack_right.
template <class T>
struct RightOperand {
  const T* data;
  Index ld;
  Index panel_stride;
};

// The operation applied to an element c of a product between its last multiply-add and
// its store:
//   relu           0 where c <= 0
//   relu_backward  0 unless the element of `saved` in the same row and column is > 0
enum class EpilogueKind { none, relu, relu_backward };
template <class T>
struct Epilogue {
  EpilogueKind kind = EpilogueKind::none;
  const T* saved = nullptr;
  Index ld = 0;
};

// scale: factor that clips by norm (1: no clipping); limit: bound that clips by value
// (infinity: no clipping); l1: size of the L1 penalty, negative for ascent because the
// optimiser negates the gradient afterwards.
template <class T>
struct ConditionArgs {
  T scale, limit, l1;
};

template <class T>
struct LossArgs {
  LossKind kind;
  // The parameter of the loss: delta of huber and pseudo_huber, beta of smooth_l1, the
  // weight of y = 1 in binary_cross_entropy, q of quantile and expectile, gamma of
  // binary_focal and focal, the power of tweedie, the minimum variance of gaussian_nll,
  // the degrees of freedom of student_t_nll, the number of components of
  // mixture_density, the margin of hinge and multi_margin.
  T delta;
  // A second parameter: the weight alpha of y = 1 in binary_focal (negative: none), the
  // weight alpha of focal (0: none), the power of multi_margin (1 or 2); not 0 if the
  // targets of kl_div are logarithms, or if the predictions of quantile are a first
  // quantile and steps to the following ones (needs per_output, and n <= kMostLevels).
  T second = 0;
  T smoothing = 0;  // cross_entropy: label smoothing, spread evenly over all classes
  // One number per column, or null. For cross_entropy, focal and multi_margin these are
  // class weights, for ordinal weights of columns (null: all 1). For
  // binary_cross_entropy, quantile, expectile and student_t_nll (per target) they are
  // used in place of delta.
  const T* per_output = nullptr;
  // Losses of elements and densities: a weight for each target of a row (null: all 1).
  const T* output_weight = nullptr;
  // Whether NaN in `target` marks a missing target, whose loss and gradient are 0. In a
  // loss of whole rows, one NaN marks the row as missing.
  bool masked = false;
  bool action = false;  // see KernelTable::loss_rows
  // Whether rows with the label `ignored` are left out. The label may be any number.
  bool ignores = false;
  int64_t ignored = 0;
};

template <class T>
struct DropoutArgs {
  uint64_t key, draw;
  uint64_t bound;  // (1 - p) 2^32 for a drop probability p; 2^32 keeps every element
  T scale;
  T shift = T(-0.0);  // -0 leaves every number as it is, zeros of both signs included
  T dropped = 0;
};

template <class T>
struct GaussianArgs {
  uint64_t key, draw;
  T deviation;
};

// The largest number of quantiles that are given by steps.
constexpr Index kMostLevels = 256;

// Blocks and memory are planned in the same way for every instruction set, because the
// `nr` of each divides kMostPanelColumns and the `mr` of each divides kRowGrain.
constexpr Index kMostPanelColumns = 32;
constexpr Index kRowGrain = 24;

// The sums over a row below (softmax, losses) share one order: element j is added to
// partial sum j % 16; the 16 partial sums are added pairwise at distance 8, 4, 2, 1.
constexpr Index kRowSumLanes = 16;
// Sums of squares use the same scheme with this larger number of partial sums, for
// speed.
constexpr Index kSquareSumLanes = 32;
// The least group size at which gemm_gather_k, which skips the zeros after a relu, is
// faster than gemm. The Jacobian in generated C headers uses the same threshold, so
// that its results have the same bits.
constexpr Index kGatherPays = 4;
// Number of rows in a block of a sum over a batch; see column_moments.
constexpr Index kBlockRows = 32;

// Rows a multiple of this many bytes apart start in the same set of a level-1 cache
// with 64 sets of 64-byte lines, so that they evict each other.
constexpr Index kCollidingBytes = 4096;

// The least numbers of rows of A for which packing a row-major B pays: if B is small,
// if it is large (see packing_pays in gemm.h), and if its rows evict each other.
struct PackingPays {
  Index small, large, colliding;
};

template <class T>
struct KernelTable {
  Isa isa;
  Index lanes;  // elements of a vector
  Index mr;     // rows of a register tile = rows of a packed left panel
  Index nr;     // columns of a register tile = columns of a packed right panel
  PackingPays packing_pays;

  // C[m, n] = S + A[m, k] B[k, n], each element one chain of fused multiply-adds in
  // ascending p, followed by `epilogue`. S is C itself if `accumulate`; otherwise it is
  // bias[n] in every row, or 0 if bias is null. C is not read unless `accumulate`.
  void (*gemm)(T* c, Index ldc, LeftOperand<T> a, RightOperand<T> b, Index m, Index n,
               Index k, const T* bias, bool accumulate, const Epilogue<T>& epilogue);

  // C[m, n] = S + A B[., n] for the sparse rows A[m, .], with S = bias[n], or 0 if bias
  // is null: each element the chain of `gemm` without the terms where A is 0. With
  // `rectify`, followed by relu as in EpilogueKind.
  void (*sparse_product)(T* c, Index ldc, const SparseRows<T>& a, Index m, const T* b,
                         Index ldb, Index n, const T* bias, bool rectify);
  // dW[p - begin, n] += the sum over rows i of A[i, p] dZ[i, n], in ascending order of
  // i, for begin <= p < end: the chain of `gemm` without the terms where A is 0.
  void (*sparse_gradient)(T* dw, Index lddw, const SparseRows<T>& a, Index m,
                          Index begin, Index end, const T* dz, Index lddz, Index n);

  // dst = panels of mr rows of A[m, k], k-major: ceil(m / mr) * mr * k elements.
  // Elements that belong to rows >= m of the last panel are not written.
  void (*pack_left)(T* dst, LeftOperand<T> a, Index m, Index k);

  // dst = panels of nr columns of B[k, n], B(p, j) = b[p * rs + j * cs], k-major:
  // k * nr elements each. Elements that belong to columns >= n of the last panel are
  // not written. Panels start panel_stride >= k * nr elements apart. With a larger
  // panel_stride, deeper panels can be filled by several calls, k rows at a time; the
  // elements between the written ranges stay unchanged.
  void (*pack_right)(T* dst, Index panel_stride, const T* b, Index rs, Index cs,
                     Index k, Index n);

  // out[n] = (accumulate ? out : 0) + sum of the rows of A[m, n], in ascending order.
  void (*column_sum)(T* out, const T* a, Index lda, Index m, Index n, bool accumulate);

  // Whether no element of A[m, n] is an infinity or NaN.
  bool (*all_finite)(const T* a, Index lda, Index m, Index n);

  // H = act(Z), elementwise, softmax by rows. H may be Z.
  void (*activation_forward)(const ActivationSpec& activation, T* h, Index ldh,
                             const T* z, Index ldz, Index m, Index n);

  // dZ = dH * act'(S), where S is Z if activation_saves_input(activation.kind), else H.
  // For softmax, dZ = H (dH - sum_j dH_j H_j) by rows. dZ may be dH.
  void (*activation_backward)(const ActivationSpec& activation, T* dz, Index lddz,
                              const T* dh, Index lddh, const T* saved, Index lds,
                              Index m, Index n);

  // Compares row r of pred[m, n] with target[m, n], or with the class labels[m] if
  // these are given (cross_entropy, focal, multi_margin: 0 <= label < n; ordinal: 0 <=
  // label <= n):
  //   row_loss[r] = sum over j of loss(pred[r, j], target[r, j])
  //   dpred[r, :] = row_scale[r] * d row_loss[r] / d pred[r, :]  (unless dpred is null)
  // Losses of densities compare c columns with each target, target[m, n / c]: a row of
  // pred holds the first parameters of all targets, then all second ones, and so on:
  // means, logarithms of variances (gaussian_nll); locations, logarithms of scales
  // (student_t_nll); logits, means, logarithms of deviations, k of each for each target
  // (mixture_density, c = 3 k). If args.action is set, only pred[r, labels[r]] is
  // compared, with target[m, 1], and dpred is 0 in the other columns; args.action must
  // only be combined with losses of elements, without numbers per column. dpred may be
  // pred.
  void (*loss_rows)(const LossArgs<T>& args, T* dpred, Index lddpred, T* row_loss,
                    const T* pred, Index ldpred, const T* target, Index ldtarget,
                    const int64_t* labels, const T* row_scale, Index m, Index n);

  // For each row r of X[m, n], n >= 1: mean = sum / n, var = sum of (x - mean)^2 / n,
  //   rstd[r] = 1 / sqrt(var + eps), Xhat = (x - mean) * rstd[r],
  //   H = Xhat * scale[n] + shift[n], fused (if scale is null: H = Xhat)
  // Xhat and rstd are not written if null. H may be X; Xhat may be H if scale is null.
  // If `centred` is false (RMSNorm), this and the other layer_norm kernels have no
  // shift, and 0 replaces `mean` here and mean(g), mean(u), mean(v) and mean(t) below.
  // Each row consists of `parts` equal parts, which divide n (1: LayerNorm; more:
  // GroupNorm). The means here and below are over the elements of a part, and each part
  // has its own factor in rstd[m, parts].
  void (*layer_norm_forward)(T* h, Index ldh, T* xhat, Index ldxhat, T* rstd,
                             const T* x, Index ldx, const T* scale, const T* shift,
                             T eps, bool centred, Index m, Index parts, Index n);
  // With g = dH * scale (g = dH if scale is null): dX = (accumulate ? dX : 0)
  //   + rstd[r] * (g - mean(g) - Xhat * mean(g * Xhat)), means over the row.
  // The factors of two rows are ldrstd apart. dX may be dH.
  void (*layer_norm_backward)(T* dx, Index lddx, const T* dh, Index lddh, const T* xhat,
                              Index ldxhat, const T* rstd, Index ldrstd, const T* scale,
                              bool centred, bool accumulate, Index m, Index parts,
                              Index n);

  // Sums over a batch, here and in batch_norm_sums, run down a column in blocks of
  // kBlockRows rows. Each block is summed from 0, then the blocks' sums are added, all
  // in ascending order. Rounding errors thus grow with m / kBlockRows instead of m.
  //
  // Computes mean and variance of the columns of X[m, n] in two passes; the second pass
  // corrects the rounding error of the first (Chan, Golub & LeVeque 1983). With
  // c = sum(x) / m and s = sum(x - c) / m, it computes mean[n] = c + s and
  // var[n] = max(0, sum((x - c)^2) / m - s^2), where the squares are accumulated, and
  // s^2 is subtracted, by fused multiply-adds.
  void (*column_moments)(T* mean, T* var, const T* x, Index ldx, Index m, Index n);
  // Xhat = (x - mean[n]) * rstd[n]; H = Xhat * scale[n] + shift[n] as in
  // layer_norm_forward. Xhat may be null. H may be X.
  void (*batch_norm_forward)(T* h, Index ldh, T* xhat, Index ldxhat, const T* x,
                             Index ldx, const T* mean, const T* rstd, const T* scale,
                             const T* shift, Index m, Index n);
  // dX = (accumulate ? dX : 0)
  //   + (scale[n] * rstd[n]) * (dH - mean_dh[n] - Xhat * mean_dhx[n]); dX may be dH.
  void (*batch_norm_backward)(T* dx, Index lddx, const T* dh, Index lddh, const T* xhat,
                              Index ldxhat, const T* rstd, const T* scale,
                              const T* mean_dh, const T* mean_dhx, bool accumulate,
                              Index m, Index n);
  // sum_dh[n] = sum(dH), sum_dhx[n] = sum(dH * Xhat) by fused multiply-adds. These are
  // the gradients of shift and scale, and m times mean_dh and mean_dhx above.
  void (*batch_norm_sums)(T* sum_dh, T* sum_dhx, const T* dh, Index lddh, const T* xhat,
                          Index ldxhat, Index m, Index n);
  // out[n] = (accumulate ? out : 0) + sum over rows of A * B, one chain of fused
  // multiply-adds in ascending order of rows.
  void (*column_dot)(T* out, const T* a, Index lda, const T* b, Index ldb, Index m,
                     Index n, bool accumulate);

  // H = X F[m, n] with the factors F = 1 where X > 0, else slope[n], or slope[0] if
  // `shared`. F may be null, H may be X.
  void (*prelu_forward)(T* h, T* factors, const T* x, const T* slope, bool shared,
                        Index m, Index n);
  // The gradient of the slopes: sums of dH min(X, 0). out[n] is summed over rows, one
  // chain of fused multiply-adds in ascending order; out[0] if `shared` over all
  // elements, for which the rows of both are contiguous, in the order of RowSum.
  void (*prelu_gradient)(T* out, const T* dh, Index lddh, const T* x, Index ldx,
                         bool shared, Index m, Index n, bool accumulate);

  // A gated linear unit has 2 n inputs, a row's halves x1 and x2, and the outputs
  // H = x1 act(x2). The rows of F hold the factors [act(x2), x1 act'(x2)]. Rows of
  // directions come in groups as in scale_groups; with a group of 1, glu_backward is
  // the backward pass. All arrays are contiguous.
  //
  // out[., n] = t1 F1 + t2 F2 for tangents [t1, t2] of X, the first product fused.
  void (*glu_tangent)(T* out, const T* t, const T* factors, Index m, Index group,
                      Index n);
  // dX[., 2 n] = (accumulate ? dX : 0) + [dH F1, dH F2], fused.
  void (*glu_backward)(T* dx, const T* dh, const T* factors, bool accumulate, Index m,
                       Index group, Index n);
  // Differentiates glu_backward of cotangents c[m, n] along each direction of a group,
  // as layer_norm_second: `t` holds the tangents of X, `dot` those of c (all 0 if it is
  // null). The rows of `slopes` hold G = [act'(x2), x1 act''(x2)].
  //   out = (accumulate ? out : 0)
  //         + [dot F1 + t2 (c G1), dot F2 + t1 (c G1) + t2 (c G2)]
  void (*glu_second)(T* out, const T* dot, const T* c, const T* t, const T* factors,
                     const T* slopes, bool accumulate, Index m, Index group, Index n);

  // out = a + b and out = a * b, n elements each. out may be a or b.
  void (*add)(T* out, const T* a, const T* b, Index n);
  void (*multiply)(T* out, const T* a, const T* b, Index n);

  // Applies a dropout layer to its elements first .. first + n - 1: mask = scale and
  // h = x * scale + shift, not fused, for kept elements, mask = 0 and h = dropped for
  // the others. With
  // g = 16 b + i % 16, element e = 64 b + i is kept if word i / 16 of
  // philox({g, g >> 32, draw, draw >> 32}, key), see random.h, is below `bound`.
  // h may be x.
  void (*dropout)(T* h, T* mask, const T* x, Index first, Index n,
                  const DropoutArgs<T>& args);
  // Applies a layer with Gaussian noise to its elements first .. first + n - 1:
  //   h = x + deviation * z, fused, or if `factors` is not null
  //   factors = 1 + deviation * z, fused, and h = x * factors
  // with standard normal z from the random words of dropout (Box & Muller 1958). The
  // elements 64 b + i and 64 b + i + 16 with i % 32 < 16 share their words v and w. For
  // the first z = r cos t, for the second z = r sin t, where
  //   r = sqrt(-2 log((float(v / 2) + 0.5f) 2^-31)), t = float(w) pi 2^-31, w signed.
  // Since log, cos and sin take the same numbers in both types, so does the noise, up
  // to rounding. h may be x.
  void (*gaussian_noise)(T* h, T* factors, const T* x, Index first, Index n,
                         const GaussianArgs<T>& args);

  // In the slots with a `group` below, each of the m rows of values has a group of
  // `group` rows of directions. All arrays are contiguous; direction k of group i is
  // row i * group + k. `a_step` is the distance in rows from one group of `a` to the
  // next: `group`, or 0 if all groups share the same rows of `a`.
  //
  // out = A * (row i of scale[m, n]); with `masks`, A where scale > 0, else 0; with a
  // null scale, A. out may be A.
  void (*scale_groups)(T* out, const T* a, Index a_step, const T* scale, bool masks,
                       Index m, Index group, Index n);
  // out += A * (row i of scale[m, n]), fused.
  void (*add_scaled_groups)(T* out, const T* a, Index a_step, const T* scale, Index m,
                            Index group, Index n);
  // out[r, p * n + j] = x[i, p] * d[r, j] for row r of group i, where x is [m, k] and d
  // has n columns.
  void (*outer_rows)(T* out, Index ldout, const T* x, Index ldx, const T* d, Index m,
                     Index group, Index k, Index n);

  // C[r, n] = S + the sum over p in list[i, 0 .. count[i]) of A[r, p] B[p, n] for row r
  // of group i, each element one chain of fused multiply-adds in the order of the list;
  // S = C if `accumulate`, else 0. A has k columns, B is packed, and lists start ldlist
  // elements apart.
  void (*gemm_gather_k)(T* c, const T* a, RightOperand<T> b, const int32_t* list,
                        Index ldlist, const int32_t* count, Index m, Index group,
                        Index n, Index k, bool accumulate);

  // out = c * act''(S), n elements, with S as in activation_backward; not for softmax.
  // out may be c.
  void (*activation_second)(const ActivationSpec& activation, T* out, const T* c,
                            const T* saved, Index n);
  // softmax_second differentiates activation_backward for softmax, and
  // layer_norm_second differentiates layer_norm_backward, along each direction of a
  // group. Both differentiated kernels are applied to cotangents c[m, n]. For each
  // direction, `t` holds the tangents of the values (H or X), `dot` those of c (all 0
  // if it is null), and `out` receives the tangents of dZ or dX.
  // For softmax, `t` holds the tangents of H:
  //   out = t * (c - sum(c * H)) + H * (dot - sum(dot * H + c * t))
  // For layer_norm, `t` holds the tangents of X. With u = c * scale, v = dot * scale
  // (u = c and v = dot if scale is null) and means over the row:
  //   q = mean(v * Xhat) + rstd * (mean(u * t) - mean(u) * mean(t)
  //                                - mean(u * Xhat) * mean(t * Xhat))
  //   out = (accumulate ? out : 0) + rstd * (v - mean(v)
  //         - rstd * mean(t * Xhat) * (u - mean(u))
  //         - rstd * mean(u * Xhat) * (t - mean(t))
  //         + Xhat * (2 * rstd * mean(u * Xhat) * mean(t * Xhat) - q))
  // `out` may alias `dot`.
  void (*softmax_second)(T* out, const T* dot, const T* c, const T* t, const T* h,
                         Index m, Index group, Index n);
  void (*layer_norm_second)(T* out, const T* dot, const T* c, const T* t, const T* xhat,
                            const T* rstd, const T* scale, bool centred,
                            bool accumulate, Index m, Index group, Index parts,
                            Index n);

  // The step of each optimiser: one elementwise pass over flat vectors of n elements,
  // so any split of the range gives the same bits. `slots` holds the arrays of state in
  // the order of the kind's OptimizerFacts; unused ones are null. `grad` is only read.
#define FASTMLP_STEP(name, Name)                                            \
  void (*name##_step)(const Name##Args<T>& args, T* param, T* const* slots, \
                      const T* grad, Index n);
  FASTMLP_OPTIMIZERS(FASTMLP_STEP)
#undef FASTMLP_STEP

  // The sum of a[i] * b[i]. It is split into partial sums like the sums over a row (see
  // kRowSumLanes); each partial sum is one chain of fused multiply-adds.
  T (*dot)(const T* a, const T* b, Index n);

  // y[i] += alpha * x[i], fused.
  void (*axpy)(T* y, const T* x, T alpha, Index n);
  // The sum of x[i]^2: element i is added to partial sum i % 32 by a fused
  // multiply-add; the 32 partial sums are added pairwise at distance 16, 8, 4, 2, 1.
  T (*sum_of_squares)(const T* x, Index n);

  // Two sums for Prodigy, in the order of sums over a row: of g (p0 - param), or 0 if
  // p0 is null, and of |beta3 s + s_share g|. g is grad, negated if the optimiser
  // maximises, plus weight_decay * param.
  void (*prodigy_sums)(const ProdigySumsArgs<T>& args, T (&out)[2], const T* param,
                       const T* s, const T* p0, const T* grad, Index n);

  // out = grad * scale, clamped to [-limit, limit] (NaN stays NaN), plus
  // l1 sign(param), with sign(0) = 0.
  void (*condition_gradient)(const ConditionArgs<T>& args, T* out, const T* grad,
                             const T* param, Index n);

  // out += weight * (x - out), by one fused multiply-add. With weight 0, `out` does not
  // change; with weight 1, it becomes a copy of x.
  void (*interpolate)(T* out, const T* x, T weight, Index n);

  // out = f(x), n elements. out may be x.
  void (*elementary)(Elementary f, T* out, const T* x, Index n);
};

// All kernels of a table except the steps of the optimisers.
// clang-format off
#define FASTMLP_KERNELS(X)                                                    \
  X(gemm) X(sparse_product) X(sparse_gradient) X(pack_left) X(pack_right)     \
  X(column_sum) X(all_finite)                                                 \
  X(activation_forward) X(activation_backward) X(loss_rows)                   \
  X(layer_norm_forward) X(layer_norm_backward) X(column_moments)              \
  X(batch_norm_forward) X(batch_norm_backward) X(batch_norm_sums)             \
  X(column_dot) X(add) X(multiply) X(dropout) X(gaussian_noise)               \
  X(scale_groups)                                                             \
  X(add_scaled_groups) X(outer_rows) X(gemm_gather_k) X(activation_second)    \
  X(softmax_second) X(layer_norm_second) X(dot) X(axpy) X(sum_of_squares)     \
  X(prodigy_sums) X(condition_gradient) X(interpolate) X(elementary)          \
  X(prelu_forward) X(prelu_gradient) X(glu_tangent) X(glu_backward)           \
  X(glu_second)
// clang-format on
#define FASTMLP_COUNT(name, ...) +1
static_assert(sizeof(KernelTable<float>) - offsetof(KernelTable<float>, gemm) ==
                  (FASTMLP_KERNELS(FASTMLP_COUNT) FASTMLP_OPTIMIZERS(FASTMLP_COUNT)) *
                      sizeof(void (*)()),
              "FASTMLP_KERNELS must list every slot");
#undef FASTMLP_COUNT

struct KernelTables {
  KernelTable<float> f32;
  KernelTable<double> f64;
};

// The tables of the active ISA.
const KernelTables& active_kernels();

template <class T>
const KernelTable<T>& kernels();

template <>
inline const KernelTable<float>& kernels<float>() {
  return active_kernels().f32;
}
template <>
inline const KernelTable<double>& kernels<double>() {
  return active_kernels().f64;
}

}  // namespace fastmlp
