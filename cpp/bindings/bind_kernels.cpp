// _core.kernels: every kernel as a function, for tests, benchmarks and the curious.
// Names, arguments and side effects are those of fastmlp.reference.
#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "arrays.h"
#include "fastmlp/aligned_buffer.h"
#include "fastmlp/gemm.h"
#include "fastmlp/kernel_table.h"
#include "fastmlp/noise.h"
#include "fastmlp/optimizer.h"
#include "fastmlp/random.h"
#include "names.h"
#include "number_text.h"
#include "optimizer_config.h"
#include "sparse.h"
#include "targets.h"

namespace fastmlp::bindings {
namespace {

template <class T>
MatrixView<T> matrix(const ArrayView<T>& a) {
  return {a.data, a.shape[0], a.shape[1], a.shape[1]};
}

template <class T>
void refuse_overlap(const ArrayView<T>& c, const ArrayView<const T>& a,
                    const ArrayView<const T>& b) {
  if (overlap(c, a) || overlap(c, b)) {
    throw py::value_error("the result c must not overlap the operands a and b");
  }
}

void gemm_nn_(py::object c, py::object a, py::object b, py::object bias,
              bool accumulate) {
  if (accumulate && !bias.is_none()) {
    throw py::value_error("bias must be None when accumulate is True");
  }
  by_dtype(c, "c", [&](auto t) {
    using T = decltype(t);
    const auto cv = require<T>(c, "c", {-1, -1});
    const auto av = require<const T>(a, "a", {cv.shape[0], -1});
    const auto bv = require<const T>(b, "b", {av.shape[1], cv.shape[1]});
    refuse_overlap(cv, av, bv);
    const T* bias_data = require_or_null<const T>(bias, "bias", {cv.shape[1]});
    gemm_nn<T>(matrix(cv), matrix(av), matrix(bv), bias_data, accumulate);
  });
}

void gemm_nt_(py::object c, py::object a, py::object b, bool accumulate) {
  by_dtype(c, "c", [&](auto t) {
    using T = decltype(t);
    const auto cv = require<T>(c, "c", {-1, -1});
    const auto av = require<const T>(a, "a", {cv.shape[0], -1});
    const auto bv = require<const T>(b, "b", {cv.shape[1], av.shape[1]});
    refuse_overlap(cv, av, bv);
    gemm_nt<T>(matrix(cv), matrix(av), matrix(bv), accumulate);
  });
}

void gemm_tn_(py::object c, py::object a, py::object b, bool accumulate) {
  by_dtype(c, "c", [&](auto t) {
    using T = decltype(t);
    const auto cv = require<T>(c, "c", {-1, -1});
    const auto av = require<const T>(a, "a", {-1, cv.shape[0]});
    const auto bv = require<const T>(b, "b", {av.shape[0], cv.shape[1]});
    refuse_overlap(cv, av, bv);
    gemm_tn<T>(matrix(cv), matrix(av), matrix(bv), accumulate);
  });
}

void activation_forward_(py::object h, py::object z, const std::string& activation,
                         const std::vector<double>& constants) {
  const ActivationSpec spec = activation_from(activation, constants);
  by_dtype(h, "h", [&](auto t) {
    using T = decltype(t);
    const auto hv = require<T>(h, "h", {-1, -1});
    const auto zv = require<const T>(z, "z", {hv.shape[0], hv.shape[1]});
    kernels<T>().activation_forward(spec, hv.data, hv.shape[1], zv.data, hv.shape[1],
                                    hv.shape[0], hv.shape[1]);
  });
}

void dense_forward_(py::object h, py::object x, py::object w, py::object bias,
                    const std::string& activation,
                    const std::vector<double>& constants) {
  activation_from(activation, constants);  // raises before h is written
  gemm_nn_(h, x, w, bias, false);
  activation_forward_(h, h, activation, constants);
}

void activation_backward_(py::object dz, py::object dh, py::object saved,
                          const std::string& activation,
                          const std::vector<double>& constants) {
  const ActivationSpec spec = activation_from(activation, constants);
  by_dtype(dz, "dz", [&](auto t) {
    using T = decltype(t);
    const auto zv = require<T>(dz, "dz", {-1, -1});
    const Index m = zv.shape[0], n = zv.shape[1];
    const auto hv = require<const T>(dh, "dh", {m, n});
    const auto sv = require<const T>(saved, "saved", {m, n});
    kernels<T>().activation_backward(spec, zv.data, n, hv.data, n, sv.data, n, m, n);
  });
}

void activation_second_(py::object out, py::object c, py::object saved,
                        const std::string& activation,
                        const std::vector<double>& constants) {
  const ActivationSpec spec = activation_from(activation, constants);
  if (spec == Activation::softmax) {
    throw py::value_error("activation: softmax has no elementwise second derivative");
  }
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {-1, -1});
    const Index m = ov.shape[0], n = ov.shape[1];
    const auto cv = require<const T>(c, "c", {m, n});
    const auto sv = require<const T>(saved, "saved", {m, n});
    kernels<T>().activation_second(spec, ov.data, cv.data, sv.data, m * n);
  });
}

void column_sum_(py::object out, py::object a) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {-1});
    const auto av = require<const T>(a, "a", {-1, ov.shape[0]});
    kernels<T>().column_sum(ov.data, av.data, av.shape[1], av.shape[0], av.shape[1],
                            false);
  });
}

// Refuses a number of parts of a row that does not divide its width.
void check_parts(Index parts, Index n) {
  if (parts < 1 || n % parts != 0) {
    throw py::value_error("parts must divide the number of columns, " +
                          std::to_string(n) + ", got " + std::to_string(parts));
  }
}

void layer_norm_forward_(py::object h, py::object xhat, py::object rstd, py::object x,
                         py::object scale, py::object shift, double eps, bool centred,
                         Index parts) {
  by_dtype(h, "h", [&](auto t) {
    using T = decltype(t);
    const auto hv = require<T>(h, "h", {-1, -1});
    const Index m = hv.shape[0], n = hv.shape[1];
    check_parts(parts, n);
    kernels<T>().layer_norm_forward(hv.data, n,
                                    require_or_null<T>(xhat, "xhat", {m, n}), n,
                                    require_or_null<T>(rstd, "rstd", {m * parts}),
                                    require<const T>(x, "x", {m, n}).data, n,
                                    require_or_null<const T>(scale, "scale", {n}),
                                    require_or_null<const T>(shift, "shift", {n}),
                                    static_cast<T>(eps), centred, m, parts, n);
  });
}

void layer_norm_backward_(py::object dx, py::object dh, py::object xhat,
                          py::object rstd, py::object scale, bool accumulate,
                          bool centred, Index parts) {
  by_dtype(dx, "dx", [&](auto t) {
    using T = decltype(t);
    const auto xv = require<T>(dx, "dx", {-1, -1});
    const Index m = xv.shape[0], n = xv.shape[1];
    check_parts(parts, n);
    kernels<T>().layer_norm_backward(
        xv.data, n, require<const T>(dh, "dh", {m, n}).data, n,
        require<const T>(xhat, "xhat", {m, n}).data, n,
        require<const T>(rstd, "rstd", {m * parts}).data, parts,
        require_or_null<const T>(scale, "scale", {n}), centred, accumulate, m, parts,
        n);
  });
}

// How many of the `all` rows of directions belong to each of the `rows` rows of values.
Index group_of(Index all, Index rows) {
  if (rows < 1 || all % rows != 0) {
    throw py::value_error("the number of rows of directions, " + std::to_string(all) +
                          ", must be a multiple of the number of rows of values, " +
                          std::to_string(rows));
  }
  return all / rows;
}

// Calls a slot of the kernel table that combines each row of `scale` with a group of
// rows of `a`. If `a` has a single group, all rows of `scale` use it. The slot is
// called as slot(table, out, a, rows between groups of a, scale, groups, rows of a
// group, columns).
template <class Slot>
void by_groups(py::object out, py::object a, py::object scale, Slot slot) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {-1, -1});
    const Index n = ov.shape[1];
    const auto sv = require<const T>(scale, "scale", {-1, n});
    const Index m = sv.shape[0], group = group_of(ov.shape[0], m);
    const auto av = require<const T>(a, "a", {-1, n});
    const bool shared = av.shape[0] == group;
    if (!shared) require<const T>(a, "a", {m * group, n});
    slot(kernels<T>(), ov.data, av.data, shared ? 0 : group, sv.data, m, group, n);
  });
}

void scale_groups_(py::object out, py::object a, py::object scale, bool masks) {
  by_groups(out, a, scale,
            [&](const auto& table, auto* o, auto* rows, Index stride, auto* by, Index m,
                Index group, Index n) {
              table.scale_groups(o, rows, stride, by, masks, m, group, n);
            });
}

void add_scaled_groups_(py::object out, py::object a, py::object scale) {
  by_groups(out, a, scale,
            [](const auto& table, auto* o, auto* rows, Index stride, auto* by, Index m,
               Index group,
               Index n) { table.add_scaled_groups(o, rows, stride, by, m, group, n); });
}

void outer_rows_(py::object out, py::object x, py::object d) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto xv = require<const T>(x, "x", {-1, -1});
    const auto dv = require<const T>(d, "d", {-1, -1});
    const Index m = xv.shape[0], k = xv.shape[1], n = dv.shape[1];
    const Index group = group_of(dv.shape[0], m);
    const auto ov = require<T>(out, "out", {m * group, k * n});
    kernels<T>().outer_rows(ov.data, k * n, xv.data, k, dv.data, m, group, k, n);
  });
}

void gemm_gather_k_(py::object c, py::object a, py::object b, py::object gate,
                    bool accumulate) {
  by_dtype(c, "c", [&](auto t) {
    using T = decltype(t);
    const auto cv = require<T>(c, "c", {-1, -1});
    const auto gv = require<const T>(gate, "gate", {-1, -1});
    const Index m = gv.shape[0], k = gv.shape[1], n = cv.shape[1];
    const Index group = group_of(cv.shape[0], m);
    const auto av = require<const T>(a, "a", {m * group, k});
    const auto bv = require<const T>(b, "b", {k, n});
    const KernelTable<T>& table = kernels<T>();
    const AlignedBuffer<T> packed(detail::packed_right_bound(k, n));
    table.pack_right(packed.data(), k * table.nr, bv.data, n, 1, k, n);
    std::vector<int32_t> list(static_cast<size_t>(m * k)), count;
    for (Index i = 0; i < m; ++i) {
      int32_t found = 0;
      for (Index p = 0; p < k; ++p) {
        if (!(gv.data[i * k + p] > 0)) continue;
        list[static_cast<size_t>(i * k + found++)] = static_cast<int32_t>(p);
      }
      count.push_back(found);
    }
    table.gemm_gather_k(cv.data, av.data, detail::packed_right(table, packed.data(), k),
                        list.data(), k, count.data(), m, group, n, k, accumulate);
  });
}

void softmax_second_(py::object out, py::object dot, py::object c, py::object t,
                     py::object h) {
  by_dtype(out, "out", [&](auto type) {
    using T = decltype(type);
    const auto ov = require<T>(out, "out", {-1, -1});
    const Index all = ov.shape[0], n = ov.shape[1];
    const auto cv = require<const T>(c, "c", {-1, n});
    const Index m = cv.shape[0];
    kernels<T>().softmax_second(ov.data, require_or_null<const T>(dot, "dot", {all, n}),
                                cv.data, require<const T>(t, "t", {all, n}).data,
                                require<const T>(h, "h", {m, n}).data, m,
                                group_of(all, m), n);
  });
}

void layer_norm_second_(py::object out, py::object dot, py::object c, py::object t,
                        py::object xhat, py::object rstd, py::object scale,
                        bool accumulate, bool centred, Index parts) {
  by_dtype(out, "out", [&](auto type) {
    using T = decltype(type);
    const auto ov = require<T>(out, "out", {-1, -1});
    const Index all = ov.shape[0], n = ov.shape[1];
    const auto cv = require<const T>(c, "c", {-1, n});
    const Index m = cv.shape[0];
    check_parts(parts, n);
    kernels<T>().layer_norm_second(ov.data,
                                   require_or_null<const T>(dot, "dot", {all, n}),
                                   cv.data, require<const T>(t, "t", {all, n}).data,
                                   require<const T>(xhat, "xhat", {m, n}).data,
                                   require<const T>(rstd, "rstd", {m * parts}).data,
                                   require_or_null<const T>(scale, "scale", {n}),
                                   centred, accumulate, m, group_of(all, m), parts, n);
  });
}

void column_moments_(py::object mean, py::object var, py::object x) {
  by_dtype(mean, "mean", [&](auto t) {
    using T = decltype(t);
    const auto mv = require<T>(mean, "mean", {-1});
    const Index n = mv.shape[0];
    const auto xv = require<const T>(x, "x", {-1, n});
    kernels<T>().column_moments(mv.data, require<T>(var, "var", {n}).data, xv.data, n,
                                xv.shape[0], n);
  });
}

void batch_norm_forward_(py::object h, py::object xhat, py::object x, py::object mean,
                         py::object rstd, py::object scale, py::object shift) {
  by_dtype(h, "h", [&](auto t) {
    using T = decltype(t);
    const auto hv = require<T>(h, "h", {-1, -1});
    const Index m = hv.shape[0], n = hv.shape[1];
    kernels<T>().batch_norm_forward(
        hv.data, n, require_or_null<T>(xhat, "xhat", {m, n}), n,
        require<const T>(x, "x", {m, n}).data, n,
        require<const T>(mean, "mean", {n}).data,
        require<const T>(rstd, "rstd", {n}).data,
        require_or_null<const T>(scale, "scale", {n}),
        require_or_null<const T>(shift, "shift", {n}), m, n);
  });
}

void batch_norm_backward_(py::object dx, py::object dh, py::object xhat,
                          py::object rstd, py::object scale, py::object mean_dh,
                          py::object mean_dhx, bool accumulate) {
  by_dtype(dx, "dx", [&](auto t) {
    using T = decltype(t);
    const auto xv = require<T>(dx, "dx", {-1, -1});
    const Index m = xv.shape[0], n = xv.shape[1];
    kernels<T>().batch_norm_backward(
        xv.data, n, require<const T>(dh, "dh", {m, n}).data, n,
        require<const T>(xhat, "xhat", {m, n}).data, n,
        require<const T>(rstd, "rstd", {n}).data,
        require_or_null<const T>(scale, "scale", {n}),
        require<const T>(mean_dh, "mean_dh", {n}).data,
        require<const T>(mean_dhx, "mean_dhx", {n}).data, accumulate, m, n);
  });
}

void batch_norm_sums_(py::object sum_dh, py::object sum_dhx, py::object dh,
                      py::object xhat) {
  by_dtype(sum_dh, "sum_dh", [&](auto t) {
    using T = decltype(t);
    const auto sv = require<T>(sum_dh, "sum_dh", {-1});
    const Index n = sv.shape[0];
    const auto hv = require<const T>(dh, "dh", {-1, n});
    const Index m = hv.shape[0];
    kernels<T>().batch_norm_sums(sv.data, require<T>(sum_dhx, "sum_dhx", {n}).data,
                                 hv.data, n,
                                 require<const T>(xhat, "xhat", {m, n}).data, n, m, n);
  });
}

void column_dot_(py::object out, py::object a, py::object b, bool accumulate) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {-1});
    const Index n = ov.shape[0];
    const auto av = require<const T>(a, "a", {-1, n});
    const auto bv = require<const T>(b, "b", {av.shape[0], n});
    kernels<T>().column_dot(ov.data, av.data, n, bv.data, n, av.shape[0], n,
                            accumulate);
  });
}

void prelu_forward_(py::object h, py::object factors, py::object x, py::object slope) {
  by_dtype(h, "h", [&](auto t) {
    using T = decltype(t);
    const auto hv = require<T>(h, "h", {-1, -1});
    const Index m = hv.shape[0], n = hv.shape[1];
    T* const factor = require_or_null<T>(factors, "factors", {m, n});
    const auto xv = require<const T>(x, "x", {m, n});
    const auto sv = require<const T>(slope, "slope", {-1});
    kernels<T>().prelu_forward(hv.data, factor, xv.data, sv.data, sv.shape[0] < n, m,
                               n);
  });
}

void prelu_gradient_(py::object dslope, py::object dh, py::object x, bool accumulate) {
  by_dtype(dslope, "dslope", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(dslope, "dslope", {-1});
    const auto dv = require<const T>(dh, "dh", {-1, -1});
    const Index m = dv.shape[0], n = dv.shape[1];
    const auto xv = require<const T>(x, "x", {m, n});
    kernels<T>().prelu_gradient(ov.data, dv.data, n, xv.data, n, ov.shape[0] < n, m, n,
                                accumulate);
  });
}

// Calls f(T{}, factors, m, group, n), given m rows of factors and `all` rows of
// directions with n outputs each.
template <class F>
void by_halves(py::object rows, const char* name, py::object factors, F f) {
  by_dtype(rows, name, [&](auto t) {
    using T = decltype(t);
    const auto rv = require<const T>(rows, name, {-1, -1});
    const Index all = rv.shape[0], n = rv.shape[1];
    const auto fv = require<const T>(factors, "factors", {-1, 2 * n});
    f(t, fv.data, fv.shape[0], group_of(all, fv.shape[0]), n);
  });
}

void glu_tangent_(py::object out, py::object t, py::object factors) {
  by_halves(out, "out", factors, [&](auto type, auto* f, Index m, Index k, Index n) {
    using T = decltype(type);
    kernels<T>().glu_tangent(require<T>(out, "out", {m * k, n}).data,
                             require<const T>(t, "t", {m * k, 2 * n}).data, f, m, k, n);
  });
}

void glu_backward_(py::object dx, py::object dh, py::object factors, bool accumulate) {
  by_halves(dh, "dh", factors, [&](auto type, auto* f, Index m, Index k, Index n) {
    using T = decltype(type);
    kernels<T>().glu_backward(require<T>(dx, "dx", {m * k, 2 * n}).data,
                              require<const T>(dh, "dh", {m * k, n}).data, f,
                              accumulate, m, k, n);
  });
}

void glu_second_(py::object out, py::object dot, py::object c, py::object t,
                 py::object factors, py::object slopes, bool accumulate) {
  by_halves(c, "c", factors, [&](auto type, auto* f, Index m, Index, Index n) {
    using T = decltype(type);
    const auto tv = require<const T>(t, "t", {-1, 2 * n});
    const Index all = tv.shape[0];
    kernels<T>().glu_second(require<T>(out, "out", {all, 2 * n}).data,
                            require_or_null<const T>(dot, "dot", {all, n}),
                            require<const T>(c, "c", {m, n}).data, tv.data, f,
                            require<const T>(slopes, "slopes", {m, 2 * n}).data,
                            accumulate, m, group_of(all, m), n);
  });
}

// out = a (op) b for one of the table's elementwise functions.
template <class Slot>
void combine(py::object out, py::object a, py::object b, Slot slot) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {-1});
    const Index n = ov.shape[0];
    slot(kernels<T>())(ov.data, require<const T>(a, "a", {n}).data,
                       require<const T>(b, "b", {n}).data, n);
  });
}
void add_(py::object out, py::object a, py::object b) {
  combine(out, a, b, [](const auto& table) { return table.add; });
}
void multiply_(py::object out, py::object a, py::object b) {
  combine(out, a, b, [](const auto& table) { return table.multiply; });
}

// Calls f(h, x, n) with the data of the arrays: n elements of a layer, from element
// `first` on.
template <class F>
void on_elements(py::object h, py::object x, Index first, F f) {
  if (first < 0)
    throw py::value_error("first must not be negative, got " + std::to_string(first));
  by_dtype(h, "h", [&](auto t) {
    using T = decltype(t);
    const auto hv = require<T>(h, "h", {-1});
    const Index n = hv.shape[0];
    f(hv.data, require<const T>(x, "x", {n}).data, n);
  });
}

void dropout_(py::object h, py::object mask, py::object x, double p, uint64_t seed,
              uint32_t epoch, uint64_t step, uint32_t layer, Index first, bool alpha) {
  if (!(p >= 0 && p < 1))
    throw py::value_error("p must be in [0, 1), got " + detail::in_full(p));
  on_elements(h, x, first, [&](auto* out, const auto* in, Index n) {
    using T = std::remove_reference_t<decltype(*out)>;
    kernels<T>().dropout(out, require<T>(mask, "mask", {n}).data, in, first, n,
                         dropout_args<T>(p, alpha, {seed, epoch, step}, layer));
  });
}

void gaussian_noise_(py::object h, py::object factors, py::object x, double deviation,
                     uint64_t seed, uint32_t epoch, uint64_t step, uint32_t layer,
                     Index first) {
  if (!(deviation >= 0))
    throw py::value_error("deviation must not be negative, got " +
                          detail::in_full(deviation));
  on_elements(h, x, first, [&](auto* out, const auto* in, Index n) {
    using T = std::remove_reference_t<decltype(*out)>;
    kernels<T>().gaussian_noise(
        out, require_or_null<T>(factors, "factors", {n}), in, first, n,
        gaussian_args<T>(deviation, {seed, epoch, step}, layer));
  });
}

void loss_rows_(py::object dpred, py::object row_loss, py::object pred,
                py::object target, py::object row_scale, const std::string& loss,
                double delta, double smoothing, py::object per_output,
                py::object actions, std::optional<int64_t> ignored, double second,
                py::object output_weight, bool masked) {
  const LossKind kind = from_name<LossKind>(kLossNames, loss, "loss");
  by_dtype(pred, "pred", [&](auto t) {
    using T = decltype(t);
    const auto pv = require<const T>(pred, "pred", {-1, -1});
    const Index m = pv.shape[0], n = pv.shape[1];
    T* d = require_or_null<T>(dpred, "dpred", {m, n});
    T* losses = require<T>(row_loss, "row_loss", {m}).data;
    const T* scale = require<const T>(row_scale, "row_scale", {m}).data;
    Loss what = {kind, delta, Reduction::mean, smoothing};
    what.second = second;
    what.masked = masked;
    const Index width = target_width(what, n);
    if (const T* p = require_or_null<const T>(per_output, "per_output", {width})) {
      what.per_output = PerOutput({p, p + width});
    }
    if (const T* w =
            require_or_null<const T>(output_weight, "output_weight", {width})) {
      what.output_weight = PerOutput({w, w + width});
    }
    what.action = !actions.is_none();
    what.ignored = ignored;
    const py::object y = what.action ? py::make_tuple(actions, target) : target;
    const auto targets = targets_of<T>(y, py::none(), what, m, n);
    if (!targets) {
      if (what.action) require<const int64_t>(actions, "actions", {m});
      require<const T>(target, "target", {m, width});  // raises a specific error
      throw py::value_error("target must have a shape that matches pred");
    }
    check_targets<T>(what, *targets, m, n);
    loss_rows<T>(what, d, losses, pv.data, targets->values, targets->labels, scale, m,
                 n);
  });
}

// The optimisers' steps go through OptimizerConfig, from which the core computes the
// scalars of their kernels.
void step_(py::object param, py::object grad, const OptimizerConfig& config,
           int64_t step, const SharedNumbers& shared,
           const std::array<py::object, kStateSlots>& slots) {
  if (step < 1)
    throw py::value_error("step must be at least 1, got " + std::to_string(step));
  const auto names = slot_names(config);
  for (size_t i = 0; i < slots.size(); ++i) {
    if (names[i] && slots[i].is_none()) {
      throw py::value_error(std::string(names[i]) + " must be an array, got None");
    }
  }
  by_dtype(param, "param", [&](auto t) {
    using T = decltype(t);
    const auto pv = require<T>(param, "param", {-1});
    const Index n = pv.shape[0];
    const auto gv = require<const T>(grad, "grad", {n});
    std::array<T*, kMaxSlots> state{};
    for (size_t i = 0; i < slots.size(); ++i) {
      state[i] = require_or_null<T>(slots[i], "state", {n});
    }
    apply_optimizer<T>(config, step, pv.data, state, gv.data, n, 0.0, shared);
  });
}

template <size_t>
using Object = py::object;

// Binds <kind>_step(param, slots..., grad, scalars...).
template <OptimizerKind kind, size_t... slot, size_t... scalar>
void bind_step(py::module_& m, std::index_sequence<slot...>,
               std::index_sequence<scalar...>) {
  static constexpr const OptimizerFacts& facts = facts_of(kind);
  m.def((std::string(to_name(kOptimizerNames, kind)) + "_step").c_str(),
        [](py::object param, Object<slot>... slots, py::object grad,
           Object<scalar>... scalars) {
          OptimizerConfig config;
          config.kind = kind;
          int64_t step = 1;
          SharedNumbers shared = {};
          const auto set = [&](const std::string& name, const py::object& value) {
            const auto* const names = facts.shared;
            const auto* const end = names + facts.shared_count();
            const auto* const found = std::find(names, end, name);
            if (name == "step") {
              step = py::cast<int64_t>(value);
            } else if (found != end) {
              shared[static_cast<size_t>(found - names)] = py::cast<double>(value);
            } else {
              assignment(kind, name, value)(config);
            }
          };
          (set(facts.scalars[scalar], scalars), ...);
          std::array<py::object, kStateSlots> state;
          state.fill(py::none());
          ((state[slot] = slots), ...);
          step_(param, grad, config, step, shared, state);
        },
        py::arg("param"), py::arg(facts.slots[slot].argument)..., py::arg("grad"),
        py::arg(facts.scalars[scalar])...);
}

void bind_steps(py::module_& m) {
#define FASTMLP_STEP(name, Name)                                  \
  bind_step<OptimizerKind::name>(                                 \
      m, std::make_index_sequence<k##Name##Facts.slot_count()>(), \
      std::make_index_sequence<k##Name##Facts.scalar_count()>());
  FASTMLP_OPTIMIZERS(FASTMLP_STEP)
#undef FASTMLP_STEP
}

void dot_(py::object out, py::object a, py::object b) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {1});
    const auto av = require<const T>(a, "a", {-1});
    const auto bv = require<const T>(b, "b", {av.shape[0]});
    ov.data[0] = kernels<T>().dot(av.data, bv.data, av.shape[0]);
  });
}

void axpy_(py::object y, py::object x, double alpha) {
  by_dtype(y, "y", [&](auto t) {
    using T = decltype(t);
    const auto yv = require<T>(y, "y", {-1});
    const auto xv = require<const T>(x, "x", {yv.shape[0]});
    kernels<T>().axpy(yv.data, xv.data, static_cast<T>(alpha), yv.shape[0]);
  });
}

void sum_of_squares_(py::object out, py::object x) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {1});
    const auto xv = require<const T>(x, "x", {-1});
    *ov.data = kernels<T>().sum_of_squares(xv.data, xv.shape[0]);
  });
}

void prodigy_sums_(py::object out, py::object param, py::object s, py::object p0,
                   py::object grad, double beta3, double s_share, double weight_decay,
                   bool maximize) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {2});
    const auto pv = require<const T>(param, "param", {-1});
    const Index n = pv.shape[0];
    const auto sv = require<const T>(s, "s", {n});
    const T* const from = require_or_null<const T>(p0, "p0", {n});
    const auto gv = require<const T>(grad, "grad", {n});
    T sums[2];
    kernels<T>().prodigy_sums({static_cast<T>(beta3), static_cast<T>(s_share),
                               static_cast<T>(weight_decay), maximize},
                              sums, pv.data, sv.data, from, gv.data, n);
    std::copy_n(sums, 2, ov.data);
  });
}

void condition_gradient_(py::object out, py::object grad, py::object param,
                         double scale, double limit, double l1) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {-1});
    const Index n = ov.shape[0];
    const auto gv = require<const T>(grad, "grad", {n});
    const auto pv = require<const T>(param, "param", {n});
    kernels<T>().condition_gradient(
        {static_cast<T>(scale), static_cast<T>(limit), static_cast<T>(l1)}, ov.data,
        gv.data, pv.data, n);
  });
}

// Calls f(sparse rows, their number) for CSR arrays, whose structure is checked.
template <class T, class F>
void with_csr(const py::array& values, const py::object& columns,
              const py::object& starts, Index width, const py::object& order, F f) {
  using Integers = py::array_t<int64_t, py::array::c_style>;
  const SparseMatrix csr(values, py::cast<Integers>(columns),
                         py::cast<Integers>(starts), width);
  const auto rows = csr.view<T>();
  if (!rows) throw py::type_error("values must have the dtype of the other arrays");
  if (order.is_none()) return f(*rows, csr.rows());
  const auto numbers = require<const int64_t>(order, "order", {-1});
  for (Index r = 0; r < numbers.size(); ++r) {
    if (numbers.data[r] < 0 || numbers.data[r] >= csr.rows()) {
      throw py::index_error("order: a row is out of range");
    }
  }
  SparseRows<T> ordered = *rows;
  ordered.order = numbers.data;
  f(ordered, numbers.size());
}

void sparse_product_(py::object c, py::array values, py::object columns,
                     py::object starts, py::object b, py::object bias,
                     py::object order) {
  by_dtype(c, "c", [&](auto t) {
    using T = decltype(t);
    const auto bv = require<const T>(b, "b", {-1, -1});
    const Index n = bv.shape[1];
    const T* const s = require_or_null<const T>(bias, "bias", {n});
    with_csr<T>(values, columns, starts, bv.shape[0], order, [&](auto rows, Index m) {
      const auto cv = require<T>(c, "c", {m, n});
      kernels<T>().sparse_product(cv.data, n, rows, m, bv.data, n, n, s, false);
    });
  });
}

void sparse_gradient_(py::object dw, py::array values, py::object columns,
                      py::object starts, py::object dz, py::object order) {
  by_dtype(dw, "dw", [&](auto t) {
    using T = decltype(t);
    const auto dwv = require<T>(dw, "dw", {-1, -1});
    const Index k = dwv.shape[0], n = dwv.shape[1];
    with_csr<T>(values, columns, starts, k, order, [&](auto rows, Index m) {
      const auto dzv = require<const T>(dz, "dz", {m, n});
      // In two parts, as two threads share the work.
      const Index half = k / 2;
      const auto& table = kernels<T>();
      table.sparse_gradient(dwv.data, n, rows, m, 0, half, dzv.data, n, n);
      table.sparse_gradient(dwv.data + half * n, n, rows, m, half, k, dzv.data, n, n);
    });
  });
}

void interpolate_(py::object out, py::object x, double weight) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {-1});
    const auto xv = require<const T>(x, "x", {ov.shape[0]});
    kernels<T>().interpolate(ov.data, xv.data, static_cast<T>(weight), ov.shape[0]);
  });
}

void elementary_(py::object out, py::object x, const std::string& function) {
  const Elementary f = from_name<Elementary>(kElementaryNames, function, "function");
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {-1});
    const auto xv = require<const T>(x, "x", {ov.shape[0]});
    kernels<T>().elementary(f, ov.data, xv.data, ov.shape[0]);
  });
}

void shuffle_(py::object order, uint64_t seed, uint32_t epoch) {
  const auto view = require<int64_t>(order, "order", {-1});
  shuffle(view.data, view.shape[0], seed, epoch);
}

}  // namespace

void bind_kernels(py::module_ m) {
  using py::arg;
  const py::none none;
  m.def("gemm_nn", &gemm_nn_, arg("c"), arg("a"), arg("b"), arg("bias") = none,
        arg("accumulate") = false);
  m.def("gemm_nt", &gemm_nt_, arg("c"), arg("a"), arg("b"), arg("accumulate") = false);
  m.def("gemm_tn", &gemm_tn_, arg("c"), arg("a"), arg("b"), arg("accumulate") = false);
  m.def("dense_forward", &dense_forward_, arg("h"), arg("x"), arg("w"), arg("bias"),
        arg("activation"), arg("constants") = py::tuple());
  m.def("sparse_product", &sparse_product_, arg("c"), arg("values"), arg("columns"),
        arg("starts"), arg("b"), arg("bias") = none, arg("order") = none);
  m.def("sparse_gradient", &sparse_gradient_, arg("dw"), arg("values"), arg("columns"),
        arg("starts"), arg("dz"), arg("order") = none);
  m.def("column_sum", &column_sum_, arg("out"), arg("a"));
  m.def("activation_forward", &activation_forward_, arg("h"), arg("z"),
        arg("activation"), arg("constants") = py::tuple());
  m.def("activation_backward", &activation_backward_, arg("dz"), arg("dh"),
        arg("saved"), arg("activation"), arg("constants") = py::tuple());
  m.def("scale_groups", &scale_groups_, arg("out"), arg("a"), arg("scale"),
        arg("masks") = false);
  m.def("add_scaled_groups", &add_scaled_groups_, arg("out"), arg("a"), arg("scale"));
  m.def("outer_rows", &outer_rows_, arg("out"), arg("x"), arg("d"));
  m.def("gemm_gather_k", &gemm_gather_k_, arg("c"), arg("a"), arg("b"), arg("gate"),
        arg("accumulate") = false);
  m.def("softmax_second", &softmax_second_, arg("out"), arg("dot"), arg("c"), arg("t"),
        arg("h"));
  m.def("layer_norm_second", &layer_norm_second_, arg("out"), arg("dot"), arg("c"),
        arg("t"), arg("xhat"), arg("rstd"), arg("scale"), arg("accumulate") = false,
        arg("centred") = true, arg("parts") = 1);
  m.def("activation_second", &activation_second_, arg("out"), arg("c"), arg("saved"),
        arg("activation"), arg("constants") = py::tuple());
  m.def("loss_rows", &loss_rows_, arg("dpred"), arg("row_loss"), arg("pred"),
        arg("target"), arg("row_scale"), arg("loss"), arg("delta") = 1.0,
        arg("smoothing") = 0.0, arg("per_output") = none, arg("actions") = none,
        arg("ignored") = none, arg("second") = 0.0, arg("output_weight") = none,
        arg("masked") = false);
  bind_steps(m);
  m.def("layer_norm_forward", &layer_norm_forward_, arg("h"), arg("xhat"), arg("rstd"),
        arg("x"), arg("scale"), arg("shift"), arg("eps"), arg("centred") = true,
        arg("parts") = 1);
  m.def("layer_norm_backward", &layer_norm_backward_, arg("dx"), arg("dh"), arg("xhat"),
        arg("rstd"), arg("scale"), arg("accumulate") = false, arg("centred") = true,
        arg("parts") = 1);
  m.def("column_moments", &column_moments_, arg("mean"), arg("var"), arg("x"));
  m.def("batch_norm_forward", &batch_norm_forward_, arg("h"), arg("xhat"), arg("x"),
        arg("mean"), arg("rstd"), arg("scale"), arg("shift"));
  m.def("batch_norm_backward", &batch_norm_backward_, arg("dx"), arg("dh"), arg("xhat"),
        arg("rstd"), arg("scale"), arg("mean_dh"), arg("mean_dhx"),
        arg("accumulate") = false);
  m.def("batch_norm_sums", &batch_norm_sums_, arg("sum_dh"), arg("sum_dhx"), arg("dh"),
        arg("xhat"));
  m.def("prelu_forward", &prelu_forward_, arg("h"), arg("factors"), arg("x"),
        arg("slope"));
  m.def("prelu_gradient", &prelu_gradient_, arg("dslope"), arg("dh"), arg("x"),
        arg("accumulate") = false);
  m.def("glu_tangent", &glu_tangent_, arg("out"), arg("t"), arg("factors"));
  m.def("glu_backward", &glu_backward_, arg("dx"), arg("dh"), arg("factors"),
        arg("accumulate") = false);
  m.def("glu_second", &glu_second_, arg("out"), arg("dot"), arg("c"), arg("t"),
        arg("factors"), arg("slopes"), arg("accumulate") = false);
  m.def("column_dot", &column_dot_, arg("out"), arg("a"), arg("b"),
        arg("accumulate") = false);
  m.def("add", &add_, arg("out"), arg("a"), arg("b"));
  m.def("multiply", &multiply_, arg("out"), arg("a"), arg("b"));
  m.def("dropout", &dropout_, arg("h"), arg("mask"), arg("x"), arg("p"), arg("seed"),
        arg("epoch"), arg("step"), arg("layer"), arg("first") = 0,
        arg("alpha") = false);
  m.def("gaussian_noise", &gaussian_noise_, arg("h"), arg("factors"), arg("x"),
        arg("deviation"), arg("seed"), arg("epoch"), arg("step"), arg("layer"),
        arg("first") = 0);
  m.def("dot", &dot_, arg("out"), arg("a"), arg("b"));
  m.def("axpy", &axpy_, arg("y"), arg("x"), arg("alpha"));
  m.def("sum_of_squares", &sum_of_squares_, arg("out"), arg("x"));
  m.def("prodigy_sums", &prodigy_sums_, arg("out"), arg("param"), arg("s"), arg("p0"),
        arg("grad"), arg("beta3"), arg("s_share"), arg("weight_decay"),
        arg("maximize"));
  m.def("condition_gradient", &condition_gradient_, arg("out"), arg("grad"),
        arg("param"), arg("scale"), arg("limit"), arg("l1"));
  m.def("interpolate", &interpolate_, arg("out"), arg("x"), arg("weight"));
  m.def("elementary", &elementary_, arg("out"), arg("x"), arg("function"));
  m.def("shuffle", &shuffle_, arg("order"), arg("seed"), arg("epoch"));
}

}  // namespace fastmlp::bindings
