// _core.kernels: every kernel on its own, for tests, benchmarks and the curious. Same
// names, arguments and side effects as fastmlp.reference.
#include <string>

#include "arrays.h"
#include "fastmlp/gemm.h"
#include "fastmlp/kernel_table.h"
#include "fastmlp/optimizer.h"
#include "fastmlp/random.h"
#include "names.h"
#include "optimizer_config.h"
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
    throw py::value_error("the result must not overlap the operands");
  }
}

void gemm_nn_(py::object c, py::object a, py::object b, py::object bias,
              bool accumulate) {
  if (accumulate && !bias.is_none()) {
    throw py::value_error("bias: must be None when accumulate is true");
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

void activation_forward_(py::object h, py::object z, const std::string& activation) {
  const Activation kind = activation_from(activation);
  by_dtype(h, "h", [&](auto t) {
    using T = decltype(t);
    const auto hv = require<T>(h, "h", {-1, -1});
    const auto zv = require<const T>(z, "z", {hv.shape[0], hv.shape[1]});
    kernels<T>().activation_forward(kind, hv.data, hv.shape[1], zv.data, hv.shape[1],
                                    hv.shape[0], hv.shape[1]);
  });
}

void dense_forward_(py::object h, py::object x, py::object w, py::object bias,
                    const std::string& activation) {
  activation_from(activation);  // before h is written
  gemm_nn_(h, x, w, bias, false);
  activation_forward_(h, h, activation);
}

void activation_backward_(py::object dz, py::object dh, py::object saved,
                          const std::string& activation) {
  const Activation kind = activation_from(activation);
  by_dtype(dz, "dz", [&](auto t) {
    using T = decltype(t);
    const auto zv = require<T>(dz, "dz", {-1, -1});
    const Index m = zv.shape[0], n = zv.shape[1];
    const auto hv = require<const T>(dh, "dh", {m, n});
    const auto sv = require<const T>(saved, "saved", {m, n});
    kernels<T>().activation_backward(kind, zv.data, n, hv.data, n, sv.data, n, m, n);
  });
}

void activation_second_(py::object out, py::object c, py::object saved,
                        const std::string& activation) {
  const Activation kind = activation_from(activation);
  if (kind == Activation::softmax) {
    throw py::value_error("activation: softmax has no second derivative by element");
  }
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto ov = require<T>(out, "out", {-1, -1});
    const Index m = ov.shape[0], n = ov.shape[1];
    const auto cv = require<const T>(c, "c", {m, n});
    const auto sv = require<const T>(saved, "saved", {m, n});
    kernels<T>().activation_second(kind, ov.data, cv.data, sv.data, m * n);
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

void loss_rows_(py::object dpred, py::object row_loss, py::object pred,
                py::object target, py::object row_scale, const std::string& loss,
                double delta) {
  const LossKind kind = from_name<LossKind>(kLossNames, loss, "loss");
  by_dtype(pred, "pred", [&](auto t) {
    using T = decltype(t);
    const auto pv = require<const T>(pred, "pred", {-1, -1});
    const Index m = pv.shape[0], n = pv.shape[1];
    T* d = require_or_null<T>(dpred, "dpred", {m, n});
    T* losses = require<T>(row_loss, "row_loss", {m}).data;
    const T* scale = require<const T>(row_scale, "row_scale", {m}).data;
    const auto targets = targets_of<T>(target, py::none(), {kind, delta}, m, n);
    if (!targets) {
      require<const T>(target, "target", {m, n});  // says what is wrong with it
      throw py::value_error("target: does not fit pred");
    }
    check_targets<T>({kind, delta}, *targets, m, n);
    kernels<T>().loss_rows({kind, static_cast<T>(delta)}, d, n, losses, pv.data, n,
                           targets->values, n, targets->labels, scale, m, n);
  });
}

// The optimisers' kernels through OptimizerConfig, which owns how their scalars are
// made.
void step_(py::object param, py::object grad, const OptimizerConfig& config,
           int64_t step, const std::array<py::object, 3>& slots) {
  if (step < 1) throw py::value_error("step: counts from 1");
  const auto names = slot_names(config);
  for (size_t i = 0; i < kMaxSlots; ++i) {
    if (names[i] && slots[i].is_none()) {
      throw py::value_error(std::string(names[i]) + ": must not be None");
    }
  }
  by_dtype(param, "param", [&](auto t) {
    using T = decltype(t);
    const auto pv = require<T>(param, "param", {-1});
    const Index n = pv.shape[0];
    const auto gv = require<const T>(grad, "grad", {n});
    apply_optimizer<T>(config, step, pv.data,
                       {require_or_null<T>(slots[0], "state", {n}),
                        require_or_null<T>(slots[1], "state", {n}),
                        require_or_null<T>(slots[2], "state", {n})},
                       gv.data, n);
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
        arg("activation"));
  m.def("column_sum", &column_sum_, arg("out"), arg("a"));
  m.def("activation_forward", &activation_forward_, arg("h"), arg("z"),
        arg("activation"));
  m.def("activation_backward", &activation_backward_, arg("dz"), arg("dh"),
        arg("saved"), arg("activation"));
  m.def("activation_second", &activation_second_, arg("out"), arg("c"), arg("saved"),
        arg("activation"));
  m.def("loss_rows", &loss_rows_, arg("dpred"), arg("row_loss"), arg("pred"),
        arg("target"), arg("row_scale"), arg("loss"), arg("delta") = 1.0);
  m.def(
      "sgd_step",
      [](py::object param, py::object buf, py::object grad, double lr, double momentum,
         double dampening, bool nesterov, double weight_decay, bool maximize,
         int64_t step) {
        OptimizerConfig c;
        c.kind = OptimizerKind::sgd;
        c.lr = lr;
        c.momentum = momentum;
        c.dampening = dampening;
        c.nesterov = nesterov;
        c.weight_decay = weight_decay;
        c.maximize = maximize;
        step_(param, grad, c, step,
              std::array<py::object, 3>{buf, py::none(), py::none()});
      },
      arg("param"), arg("buf"), arg("grad"), arg("lr"), arg("momentum"),
      arg("dampening"), arg("nesterov"), arg("weight_decay"), arg("maximize"),
      arg("step"));
  m.def(
      "adagrad_step",
      [](py::object param, py::object sum, py::object grad, double lr, double lr_decay,
         double eps, double weight_decay, bool maximize, const std::string& eps_mode,
         int64_t step) {
        OptimizerConfig c;
        c.kind = OptimizerKind::adagrad;
        c.lr = lr;
        c.lr_decay = lr_decay;
        c.eps = eps;
        c.weight_decay = weight_decay;
        c.maximize = maximize;
        c.eps_mode = eps_mode_from(eps_mode, c.kind);
        step_(param, grad, c, step,
              std::array<py::object, 3>{sum, py::none(), py::none()});
      },
      arg("param"), arg("sum"), arg("grad"), arg("lr"), arg("lr_decay"), arg("eps"),
      arg("weight_decay"), arg("maximize"), arg("eps_mode"), arg("step"));
  m.def(
      "rmsprop_step",
      [](py::object param, py::object square_avg, py::object momentum_buf,
         py::object grad_avg, py::object grad, double lr, double alpha, double eps,
         double momentum, double weight_decay, bool maximize,
         const std::string& eps_mode) {
        OptimizerConfig c;
        c.kind = OptimizerKind::rmsprop;
        c.lr = lr;
        c.alpha = alpha;
        c.eps = eps;
        c.momentum = momentum;
        c.weight_decay = weight_decay;
        c.maximize = maximize;
        c.eps_mode = eps_mode_from(eps_mode, c.kind);
        step_(param, grad, c, 1,
              std::array<py::object, 3>{square_avg, momentum_buf, grad_avg});
      },
      arg("param"), arg("square_avg"), arg("momentum_buf"), arg("grad_avg"),
      arg("grad"), arg("lr"), arg("alpha"), arg("eps"), arg("momentum"),
      arg("weight_decay"), arg("maximize"), arg("eps_mode"));
  m.def(
      "adam_step",
      [](py::object param, py::object exp_avg, py::object exp_avg_sq,
         py::object max_exp_avg_sq, py::object grad, double lr, double beta1,
         double beta2, double eps, double weight_decay, bool decoupled, bool maximize,
         const std::string& eps_mode, int64_t step) {
        OptimizerConfig c;
        c.kind = OptimizerKind::adam;
        c.lr = lr;
        c.beta1 = beta1;
        c.beta2 = beta2;
        c.eps = eps;
        c.weight_decay = weight_decay;
        c.decoupled = decoupled;
        c.maximize = maximize;
        c.eps_mode = eps_mode_from(eps_mode, c.kind);
        step_(param, grad, c, step,
              std::array<py::object, 3>{exp_avg, exp_avg_sq, max_exp_avg_sq});
      },
      arg("param"), arg("exp_avg"), arg("exp_avg_sq"), arg("max_exp_avg_sq"),
      arg("grad"), arg("lr"), arg("beta1"), arg("beta2"), arg("eps"),
      arg("weight_decay"), arg("decoupled"), arg("maximize"), arg("eps_mode"),
      arg("step"));
  m.def("elementary", &elementary_, arg("out"), arg("x"), arg("function"));
  m.def("shuffle", &shuffle_, arg("order"), arg("seed"), arg("epoch"));
}

}  // namespace fastmlp::bindings
