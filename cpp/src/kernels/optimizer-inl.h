// Optimiser steps with torch's formulas; optimizer_kinds.h describes the scalars and
// the arrays of state.
#pragma once

#include "loops-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// The gradient g, negated if the optimiser maximises, plus weight_decay * p (L2).
// Without weight decay p is not used, because 0 * inf would be NaN.
template <class T>
FASTMLP_INLINE Vec<T> effective_gradient(Vec<T> g, Vec<T> p, T weight_decay,
                                         bool maximize) {
  if (maximize) g = -g;
  if (weight_decay != T(0)) g = fma(Vec<T>::set1(weight_decay), p, g);
  return g;
}

// buf = momentum buf + (1 - dampening) g; p -= lr buf, or with Nesterov's momentum
// p -= lr (g + momentum buf).
template <class T>
void sgd_step(const SgdArgs<T>& args, T* param, T* const* slots, const T* grad,
              Index n) {
  using V = Vec<T>;
  T* const buf = slots[0];
  const V lr = V::set1(args.lr), momentum = V::set1(args.momentum);
  const V share = V::set1(args.grad_share);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i);
    V g = effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    if (buf) {
      const V b = args.first ? g : fma(momentum, io.load(buf + i), share * g);
      io.store(buf + i, b);
      g = args.nesterov ? fma(momentum, b, g) : b;
    }
    io.store(param + i, fnma(lr, g, p));
  };
  for_each_vector<T>(n, body);
}

// The root of a mean or sum of squares. Squares may underflow to 0 where the numerator
// over the root does not; the quotient is then about 1 and not huge. NaN is kept.
template <class T>
FASTMLP_INLINE Vec<T> root(Vec<T> v) {
  constexpr T kLeast = sizeof(T) == 4 ? T(0x1p-126) : T(0x1p-1022);
  return sqrt(max(Vec<T>::set1(kLeast), v));
}
template <class T>
FASTMLP_INLINE Vec<T> rooted(Vec<T> v, Vec<T> eps, bool eps_inside) {
  return eps_inside ? sqrt(v + eps) : root(v) + eps;
}

// sum += g^2; p -= lr g / (sqrt(sum) + eps).
template <class T>
void adagrad_step(const AdagradArgs<T>& args, T* param, T* const* slots, const T* grad,
                  Index n) {
  using V = Vec<T>;
  T* const sum = slots[0];
  const V lr = V::set1(args.lr), eps = V::set1(args.eps);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    const V s = fma(g, g, io.load(sum + i));
    io.store(sum + i, s);
    io.store(param + i, fnma(lr, g / rooted(s, eps, args.eps_inside), p));
  };
  for_each_vector<T>(n, body);
}

// v = alpha v + (1 - alpha) g^2, minus the square of the mean gradient if centered;
// u = g / (sqrt(v) + eps); p -= lr u, or with momentum buf = momentum buf + u,
// p -= lr buf.
template <class T>
void rmsprop_step(const RmspropArgs<T>& args, T* param, T* const* slots, const T* grad,
                  Index n) {
  using V = Vec<T>;
  T *const square_avg = slots[0], *const buf = slots[1], *const grad_avg = slots[2];
  const V lr = V::set1(args.lr), eps = V::set1(args.eps);
  const V alpha = V::set1(args.alpha), rest = V::set1(args.one_minus_alpha);
  const V momentum = V::set1(args.momentum), zero = V::set1(T(0));
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    V v = fma(alpha, io.load(square_avg + i), rest * g * g);
    io.store(square_avg + i, v);
    if (grad_avg) {
      const V m = fma(alpha, io.load(grad_avg + i), rest * g);
      io.store(grad_avg + i, m);
      v = fnma(m, m, v);
      v = select(v < zero, zero, v);  // rounding can make it negative
    }
    V step = g / rooted(v, eps, args.eps_inside);
    if (buf) {
      step = fma(momentum, io.load(buf + i), step);
      io.store(buf + i, step);
    }
    io.store(param + i, fnma(lr, step, p));
  };
  for_each_vector<T>(n, body);
}

// Kingma & Ba 2015, algorithm 1; amsgrad: Reddi et al. 2018; decoupled decay:
// Loshchilov & Hutter 2019.
template <class T>
void adam_step(const AdamArgs<T>& args, T* param, T* const* slots, const T* grad,
               Index n) {
  using V = Vec<T>;
  T *const exp_avg = slots[0], *const exp_avg_sq = slots[1];
  T* const max_exp_avg_sq = slots[2];
  const V step_size = V::set1(args.step_size), decay = V::set1(args.decay);
  const V beta1 = V::set1(args.beta1), rest1 = V::set1(args.one_minus_beta1);
  const V beta2 = V::set1(args.beta2), rest2 = V::set1(args.one_minus_beta2);
  const V eps = V::set1(args.eps), v_scale = V::set1(args.v_scale);
  const V root_scale = V::set1(args.root_scale);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    V p = io.load(param + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    const V m = fma(beta1, io.load(exp_avg + i), rest1 * g);
    V v = fma(beta2, io.load(exp_avg_sq + i), rest2 * g * g);
    io.store(exp_avg + i, m);
    io.store(exp_avg_sq + i, v);
    if (max_exp_avg_sq) {
      v = max(io.load(max_exp_avg_sq + i), v);
      io.store(max_exp_avg_sq + i, v);
    }
    const V denominator =
        args.eps_inside ? sqrt(fma(v, v_scale, eps)) : fma(root(v), root_scale, eps);
    io.store(param + i, fnma(step_size, m / denominator, p * decay));
  };
  for_each_vector<T>(n, body);
}

// Kingma & Ba 2015, algorithm 2, with torch's position of eps:
// m = beta1 m + (1 - beta1) g; u = max(beta2 u, |g| + eps); p -= step_size m / u.
template <class T>
void adamax_step(const AdamaxArgs<T>& args, T* param, T* const* slots, const T* grad,
                 Index n) {
  using V = Vec<T>;
  T *const exp_avg = slots[0], *const exp_inf = slots[1];
  const V step_size = V::set1(args.step_size), eps = V::set1(args.eps);
  const V beta1 = V::set1(args.beta1), rest1 = V::set1(args.one_minus_beta1);
  const V beta2 = V::set1(args.beta2);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    const V m = fma(beta1, io.load(exp_avg + i), rest1 * g);
    const V u = max(beta2 * io.load(exp_inf + i), abs(g) + eps);
    io.store(exp_avg + i, m);
    io.store(exp_inf + i, u);
    io.store(param + i, fnma(step_size, m / u, p));
  };
  for_each_vector<T>(n, body);
}

// Dozat 2016, with torch's schedule of the momentum: Adam's m, and the gradient again.
template <class T>
void nadam_step(const NadamArgs<T>& args, T* param, T* const* slots, const T* grad,
                Index n) {
  using V = Vec<T>;
  T *const exp_avg = slots[0], *const exp_avg_sq = slots[1];
  const V grad_size = V::set1(args.grad_size), step_size = V::set1(args.step_size);
  const V beta1 = V::set1(args.beta1), rest1 = V::set1(args.one_minus_beta1);
  const V beta2 = V::set1(args.beta2), rest2 = V::set1(args.one_minus_beta2);
  const V eps = V::set1(args.eps), root_scale = V::set1(args.root_scale);
  const V decay = V::set1(args.decay);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    const V m = fma(beta1, io.load(exp_avg + i), rest1 * g);
    const V v = fma(beta2, io.load(exp_avg_sq + i), rest2 * g * g);
    io.store(exp_avg + i, m);
    io.store(exp_avg_sq + i, v);
    const V denominator = fma(root(v), root_scale, eps);
    io.store(param + i,
             fma(p, decay, -(fma(grad_size, g, step_size * m) / denominator)));
  };
  for_each_vector<T>(n, body);
}

// Liu et al. 2020.
template <class T>
void radam_step(const RadamArgs<T>& args, T* param, T* const* slots, const T* grad,
                Index n) {
  adam_step(args, param, slots, grad, n);
}

// Zhuang et al. 2020: s = beta2 s + (1 - beta2) (g - m)^2 + eps in place of Adam's v.
template <class T>
void adabelief_step(const AdabeliefArgs<T>& args, T* param, T* const* slots,
                    const T* grad, Index n) {
  using V = Vec<T>;
  T *const exp_avg = slots[0], *const exp_avg_var = slots[1];
  const V step_size = V::set1(args.step_size), decay = V::set1(args.decay);
  const V beta1 = V::set1(args.beta1), rest1 = V::set1(args.one_minus_beta1);
  const V beta2 = V::set1(args.beta2), rest2 = V::set1(args.one_minus_beta2);
  const V eps = V::set1(args.eps), root_scale = V::set1(args.root_scale);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    const V m = fma(beta1, io.load(exp_avg + i), rest1 * g);
    const V surprise = g - m;
    const V s =
        fma(beta2, io.load(exp_avg_var + i), fma(rest2 * surprise, surprise, eps));
    io.store(exp_avg + i, m);
    io.store(exp_avg_var + i, s);
    const V denominator = fma(root(s), root_scale, eps);
    io.store(param + i, fnma(step_size, m / denominator, p * decay));
  };
  for_each_vector<T>(n, body);
}

// Zeiler 2012: v = rho v + (1 - rho) g^2; d = sqrt((u + eps) / (v + eps)) g;
// u = rho u + (1 - rho) d^2; p -= lr d.
template <class T>
void adadelta_step(const AdadeltaArgs<T>& args, T* param, T* const* slots,
                   const T* grad, Index n) {
  using V = Vec<T>;
  T *const square_avg = slots[0], *const acc_delta = slots[1];
  const V lr = V::set1(args.lr), eps = V::set1(args.eps);
  const V rho = V::set1(args.rho), rest = V::set1(args.one_minus_rho);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i), u = io.load(acc_delta + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    const V v = fma(rho, io.load(square_avg + i), rest * g * g);
    const V d = sqrt(u + eps) / sqrt(v + eps) * g;
    io.store(square_avg + i, v);
    io.store(acc_delta + i, fma(rho, u, rest * d * d));
    io.store(param + i, fnma(lr, d, p));
  };
  for_each_vector<T>(n, body);
}

// size * sign(x), with sign(0) = 0 and sign(NaN) = NaN.
template <class T>
FASTMLP_INLINE Vec<T> with_sign(Vec<T> size, Vec<T> x) {
  const Vec<T> zero = Vec<T>::set1(T(0));
  return select(x > zero, size, select(x < zero, -size, x));
}

// Riedmiller & Braun 1993, with torch's reaction to a change of sign (iRprop-, Igel &
// Huesken 2000): the size of the step shrinks, and the step itself is skipped.
template <class T>
void rprop_step(const RpropArgs<T>& args, T* param, T* const* slots, const T* grad,
                Index n) {
  using V = Vec<T>;
  T *const prev = slots[0], *const step_size = slots[1];
  const V down = V::set1(args.etaminus), up = V::set1(args.etaplus);
  const V least = V::set1(args.step_min), most = V::set1(args.step_max);
  const V zero = V::set1(T(0)), one = V::set1(T(1));
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i);
    V g = effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    // Not the product of the two gradients, which may underflow.
    const V agreement = with_sign(io.load(prev + i), g);
    const Mask<T> turned = agreement < zero;
    const V factor = select(agreement > zero, up, select(turned, down, one));
    const V size = max(least, min(most, io.load(step_size + i) * factor));
    g = select(turned, zero, g);
    io.store(step_size + i, size);
    io.store(prev + i, g);
    io.store(param + i, p - with_sign(size, g));
  };
  for_each_vector<T>(n, body);
}

// Polyak & Juditsky 1992, with torch's learning rate eta:
// p = (1 - lambd eta) p - eta g; ax += mu (p - ax).
template <class T>
void asgd_step(const AsgdArgs<T>& args, T* param, T* const* slots, const T* grad,
               Index n) {
  using V = Vec<T>;
  T* const ax = slots[0];
  const V eta = V::set1(args.eta), decay = V::set1(args.decay), mu = V::set1(args.mu);
  const bool all = args.mu == T(1);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    V p = io.load(param + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    p = fnma(eta, g, p * decay);
    const V a = io.load(ax + i);
    io.store(ax + i, all ? p : fma(mu, p - a, a));
    io.store(param + i, p);
  };
  for_each_vector<T>(n, body);
}

// Chen et al. 2023, algorithm 2: p = (1 - lr weight_decay) p - lr sign(beta1 m +
// (1 - beta1) g); m = beta2 m + (1 - beta2) g.
template <class T>
void lion_step(const LionArgs<T>& args, T* param, T* const* slots, const T* grad,
               Index n) {
  using V = Vec<T>;
  T* const exp_avg = slots[0];
  const V lr = V::set1(args.lr), decay = V::set1(args.decay);
  const V beta1 = V::set1(args.beta1), rest1 = V::set1(args.one_minus_beta1);
  const V beta2 = V::set1(args.beta2), rest2 = V::set1(args.one_minus_beta2);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i), m = io.load(exp_avg + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    io.store(exp_avg + i, fma(beta2, m, rest2 * g));
    io.store(param + i, fma(p, decay, -with_sign(lr, fma(beta1, m, rest1 * g))));
  };
  for_each_vector<T>(n, body);
}

// Defazio et al. 2024; optimizer_kinds.h has the formula.
template <class T>
void schedule_free_step(const ScheduleFreeArgs<T>& args, T* param, T* const* slots,
                        const T* grad, Index n) {
  using V = Vec<T>;
  T *const z = slots[0], *const exp_avg_sq = slots[1];
  const V z_step = V::set1(args.z_step), y_step = V::set1(args.y_step);
  const V to_z = V::set1(args.to_z), eps = V::set1(args.eps);
  const V beta2 = V::set1(args.beta2), rest2 = V::set1(args.one_minus_beta2);
  const V decay = V::set1(args.decay);
  const bool decays = args.decay != T(0);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V y = io.load(param + i);
    V u = effective_gradient(io.load(grad + i), y, args.weight_decay, args.maximize);
    if (exp_avg_sq) {
      const V v = fma(beta2, io.load(exp_avg_sq + i), rest2 * u * u);
      io.store(exp_avg_sq + i, v);
      u = u / (root(v) + eps);
    }
    if (decays) u = fma(decay, y, u);
    const V from = args.first ? y : io.load(z + i);
    io.store(z + i, fnma(z_step, u, from));
    io.store(param + i, fma(y_step, u, fma(to_z, from - y, y)));
  };
  for_each_vector<T>(n, body);
}

// Mishchenko & Defazio 2024, algorithm 4: Adam's step with gradients that are scaled by
// the estimate d, and s = beta3 s + s_share g for the next estimate.
template <class T>
void prodigy_step(const ProdigyArgs<T>& args, T* param, T* const* slots, const T* grad,
                  Index n) {
  using V = Vec<T>;
  T *const exp_avg = slots[0], *const exp_avg_sq = slots[1];
  T *const s = slots[2], *const p0 = slots[3];
  const V step_size = V::set1(args.step_size), decay = V::set1(args.decay);
  const V beta1 = V::set1(args.beta1), m_share = V::set1(args.m_share);
  const V beta2 = V::set1(args.beta2), v_share = V::set1(args.v_share);
  const V beta3 = V::set1(args.beta3), s_share = V::set1(args.s_share);
  const V eps = V::set1(args.eps);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    const V m = fma(beta1, io.load(exp_avg + i), m_share * g);
    const V v = fma(beta2, io.load(exp_avg_sq + i), v_share * g * g);
    io.store(exp_avg + i, m);
    io.store(exp_avg_sq + i, v);
    io.store(s + i, fma(beta3, io.load(s + i), s_share * g));
    if (args.first) io.store(p0 + i, p);
    io.store(param + i, fnma(step_size, m / (root(v) + eps), p * decay));
  };
  for_each_vector<T>(n, body);
}

template <class T>
void prodigy_sums(const ProdigySumsArgs<T>& args, T (&out)[2], const T* param,
                  const T* s, const T* p0, const T* grad, Index n) {
  using V = Vec<T>;
  const V beta3 = V::set1(args.beta3), s_share = V::set1(args.s_share);
  RowSum<T> products, magnitudes;
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V p = io.load(param + i);
    const V g =
        effective_gradient(io.load(grad + i), p, args.weight_decay, args.maximize);
    if (p0) products.add(i, zero_tail(io, g * (io.load(p0 + i) - p)));
    const V next = fma(beta3, io.load(s + i), s_share * g);
    magnitudes.add(i, zero_tail(io, abs(next)));
  };
  for_each_vector<T>(n, body);
  out[0] = products.total(n);
  out[1] = magnitudes.total(n);
}

template <class T>
T sum_of_squares(const T* x, Index n) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  constexpr Index kVectors = kSquareSumLanes / L;
  V part[kVectors];
  for (Index v = 0; v < kVectors; ++v) part[v] = V::set1(T(0));
  Index i = 0;
  for (; i + kSquareSumLanes <= n; i += kSquareSumLanes) {
#pragma GCC unroll 32
    for (Index v = 0; v < kVectors; ++v) {
      const V a = V::load(x + i + v * L);
      part[v] = fma(a, a, part[v]);
    }
  }
  T lane[kSquareSumLanes];
  for (Index v = 0; v < kVectors; ++v) part[v].store(lane + v * L);
  const auto rest = [&](auto io, Index j) FASTMLP_LAMBDA {
    const V a = io.load(x + i + j);
    io.store(lane + j, fma(a, a, io.load(lane + j)));
  };
  for_each_vector<T>(n - i, rest);
  for (Index d = kSquareSumLanes / 2; d > 0; d /= 2) {
    for (Index k = 0; k < d; ++k) lane[k] = lane[k] + lane[k + d];
  }
  return lane[0];
}

template <class T>
void condition_gradient(const ConditionArgs<T>& args, T* out, const T* grad,
                        const T* param, Index n) {
  using V = Vec<T>;
  const V scale = V::set1(args.scale), zero = V::set1(T(0));
  const V high = V::set1(args.limit), low = V::set1(-args.limit);
  const V up = V::set1(args.l1), down = V::set1(-args.l1);
  const bool penalised = args.l1 != T(0);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    V g = max(low, min(high, io.load(grad + i) * scale));
    if (penalised) {
      const V p = io.load(param + i);
      g = g + select(p > zero, up, select(p < zero, down, zero));
    }
    io.store(out + i, g);
  };
  for_each_vector<T>(n, body);
}

template <class T>
void interpolate(T* out, const T* x, T weight, Index n) {
  using V = Vec<T>;
  if (weight == T(0)) return;
  const V w = V::set1(weight);
  const bool all = weight == T(1);
  const auto body = [&](auto io, Index i) FASTMLP_LAMBDA {
    const V a = io.load(x + i);
    const V o = io.load(out + i);
    io.store(out + i, all ? a : fma(w, a - o, o));
  };
  for_each_vector<T>(n, body);
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
