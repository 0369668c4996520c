// The kinds of optimisers: their names, their state, and the arguments of their
// kernels. Formulas are in kernels/optimizer-inl.h. Plain data only, see types.h.
#pragma once

#include "fastmlp/types.h"

namespace fastmlp {

// X(name, Name): the kernel <name>_step takes a <Name>Args. k<Name>Facts describes the
// optimiser, and the struct <Name> in optimizer.cpp computes the kernel's scalars.
// clang-format off
#define FASTMLP_OPTIMIZERS(X)    \
  X(sgd,           Sgd)          \
  X(adagrad,       Adagrad)      \
  X(rmsprop,       Rmsprop)      \
  X(adam,          Adam)         \
  X(adamax,        Adamax)       \
  X(nadam,         Nadam)        \
  X(radam,         Radam)        \
  X(adadelta,      Adadelta)     \
  X(rprop,         Rprop)        \
  X(asgd,          Asgd)         \
  X(lion,          Lion)         \
  X(adabelief,     Adabelief)    \
  X(schedule_free, ScheduleFree) \
  X(prodigy,       Prodigy)
// clang-format on

// Largest number of arrays of state that a kernel updates besides the parameters.
constexpr int kStateSlots = 4;
constexpr int kMostScalars = 16;
// Largest number of numbers of state that all parameters of an optimiser share.
constexpr int kMostShared = 3;

struct OptimizerFacts {
  struct Slot {
    const char* name;             // torch's name
    const char* argument = name;  // of the step function in Python
  };
  // Slots in the kernel's order. Unused entries come last and are null.
  Slot slots[kStateSlots];
  // Scalar arguments of the step function in Python, in order: hyperparameters, the
  // shared numbers before the step, and "step", which counts from 1.
  const char* scalars[kMostScalars];
  // Names of the numbers that all parameters share. The kind's struct has their initial
  // values (`start`) and their values after a step (`advance`).
  const char* shared[kMostShared] = {};
  // Whether `advance` needs sums over all parameters, which the step computes.
  bool sums = false;
  // The slot that begins as a copy of the parameters, or -1.
  int copies = -1;

  constexpr int slot_count() const {
    int n = 0;
    while (n < kStateSlots && slots[n].name) ++n;
    return n;
  }
  constexpr int scalar_count() const {
    int n = 0;
    while (n < kMostScalars && scalars[n]) ++n;
    return n;
  }
  constexpr int shared_count() const {
    int n = 0;
    while (n < kMostShared && shared[n]) ++n;
    return n;
  }
};

template <class T>
struct SgdArgs {
  T lr, momentum, grad_share, weight_decay;  // grad_share = 1 - dampening, 1 at step 1
  bool nesterov, maximize, first;            // first: the momentum buffer is not read
};
inline constexpr OptimizerFacts kSgdFacts = {
    {{"momentum_buffer", "buf"}},  // null without momentum
    {"lr", "momentum", "dampening", "nesterov", "weight_decay", "maximize", "step"}};

template <class T>
struct AdagradArgs {
  T lr, eps, weight_decay;
  bool maximize, eps_inside;
};
inline constexpr OptimizerFacts kAdagradFacts = {
    {{"sum"}},
    {"lr", "lr_decay", "eps", "weight_decay", "maximize", "eps_mode", "step"}};

template <class T>
struct RmspropArgs {
  T lr, alpha, one_minus_alpha, eps, momentum, weight_decay;
  bool maximize, eps_inside;
};
inline constexpr OptimizerFacts kRmspropFacts = {
    {{"square_avg"},
     {"momentum_buffer", "momentum_buf"},  // null without momentum
     {"grad_avg"}},                        // null unless centered
    {"lr", "alpha", "eps", "momentum", "weight_decay", "maximize", "eps_mode"}};

// step_size, v_scale and root_scale include the bias corrections and depend on
// eps_mode:
//   denominator = eps_inside ? sqrt(v * v_scale + eps) : sqrt(v) * root_scale + eps
//   param -= step_size * m / denominator, after param *= decay (1 unless decoupled)
template <class T>
struct AdamArgs {
  T step_size, beta1, one_minus_beta1, beta2, one_minus_beta2;
  T eps, v_scale, root_scale, weight_decay, decay;
  bool maximize, eps_inside;
};
inline constexpr OptimizerFacts kAdamFacts = {
    {{"exp_avg"}, {"exp_avg_sq"}, {"max_exp_avg_sq"}},  // the last null unless amsgrad
    {"lr", "beta1", "beta2", "eps", "weight_decay", "decoupled", "maximize", "eps_mode",
     "step"}};

// step_size includes the bias correction.
template <class T>
struct AdamaxArgs {
  T step_size, beta1, one_minus_beta1, beta2, eps, weight_decay;
  bool maximize;
};
inline constexpr OptimizerFacts kAdamaxFacts = {
    {{"exp_avg"}, {"exp_inf"}},
    {"lr", "beta1", "beta2", "eps", "weight_decay", "maximize", "step"}};

// grad_size and step_size include lr, the momentum schedule and its bias corrections:
//   param -= (grad_size * g + step_size * m) / (sqrt(v) * root_scale + eps)
// after param *= decay (1 unless decoupled).
template <class T>
struct NadamArgs {
  T grad_size, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2;
  T eps, root_scale, weight_decay, decay;
  bool maximize;
};
inline constexpr OptimizerFacts kNadamFacts = {
    {{"exp_avg"}, {"exp_avg_sq"}},
    {"lr", "beta1", "beta2", "eps", "weight_decay", "momentum_decay", "decoupled",
     "maximize", "mu_product", "step"},
    {"mu_product"}};

// Adam's step, whose size includes the rectification; while the variance of v is
// unknown, root_scale is 0 and eps is 1.
template <class T>
using RadamArgs = AdamArgs<T>;
inline constexpr OptimizerFacts kRadamFacts = {
    {{"exp_avg"}, {"exp_avg_sq"}},
    {"lr", "beta1", "beta2", "eps", "weight_decay", "decoupled", "maximize", "step"}};

template <class T>
struct AdadeltaArgs {
  T lr, rho, one_minus_rho, eps, weight_decay;
  bool maximize;
};
inline constexpr OptimizerFacts kAdadeltaFacts = {
    {{"square_avg"}, {"acc_delta"}}, {"lr", "rho", "eps", "weight_decay", "maximize"}};

template <class T>
struct RpropArgs {
  T etaminus, etaplus, step_min, step_max, weight_decay;
  bool maximize;
};
inline constexpr OptimizerFacts kRpropFacts = {
    {{"prev"}, {"step_size"}},
    {"etaminus", "etaplus", "step_min", "step_max", "weight_decay", "maximize"}};

// decay = 1 - lambd eta, where eta is the learning rate of the step.
template <class T>
struct AsgdArgs {
  T eta, decay, mu, weight_decay;
  bool maximize;
};
inline constexpr OptimizerFacts kAsgdFacts = {
    {{"ax"}},
    {"lr", "lambd", "alpha", "t0", "weight_decay", "maximize", "step"},
    {},
    false,
    0};

template <class T>
struct LionArgs {
  T lr, beta1, one_minus_beta1, beta2, one_minus_beta2, weight_decay, decay;
  bool maximize;
};
inline constexpr OptimizerFacts kLionFacts = {
    {{"exp_avg"}}, {"lr", "beta1", "beta2", "weight_decay", "decoupled", "maximize"}};

// step_size and root_scale include the bias corrections:
//   param -= step_size * m / (sqrt(s) * root_scale + eps)
// after param *= decay (1 unless decoupled).
template <class T>
struct AdabeliefArgs {
  T step_size, beta1, one_minus_beta1, beta2, one_minus_beta2;
  T eps, root_scale, weight_decay, decay;
  bool maximize;
};
inline constexpr OptimizerFacts kAdabeliefFacts = {
    {{"exp_avg"}, {"exp_avg_var"}},
    {"lr", "beta1", "beta2", "eps", "weight_decay", "decoupled", "maximize", "step"}};

// The parameters are y. to_z is the weight of z in the average x, and
//   y += to_z (z - y) + y_step u, then z -= z_step u,
// where u is g, or g / (sqrt(v) + eps) if adaptive, plus decay * y.
template <class T>
struct ScheduleFreeArgs {
  T z_step, y_step, to_z, beta2, one_minus_beta2, eps, weight_decay, decay;
  bool maximize, first;  // first: z is y
};
inline constexpr OptimizerFacts kScheduleFreeFacts = {
    {{"z"}, {"exp_avg_sq"}},  // the last null unless adaptive
    {"lr", "beta1", "beta2", "eps", "weight_decay", "adaptive", "maximize",
     "warmup_steps", "r", "weight_lr_power", "lr_max", "weight_sum", "step"},
    {"lr_max", "weight_sum"},
    false,
    0};

// The shares of g in m, v and s, step_size and eps include the estimate d.
template <class T>
struct ProdigyArgs {
  T step_size, beta1, m_share, beta2, v_share, beta3, s_share;
  T eps, weight_decay, decay;
  bool maximize, first;  // first: p0 is the parameters
};
// Arguments of prodigy_sums, see kernel_table.h.
template <class T>
struct ProdigySumsArgs {
  T beta3, s_share, weight_decay;
  bool maximize;
};
inline constexpr OptimizerFacts kProdigyFacts = {
    {{"exp_avg"}, {"exp_avg_sq"}, {"s"}, {"p0"}},
    {"lr", "beta1", "beta2", "beta3", "eps", "weight_decay", "decoupled", "maximize",
     "use_bias_correction", "safeguard_warmup", "d0", "d", "step"},
    {"d", "d_max", "d_numerator"},
    true,
    3};

#define FASTMLP_ENUMERATOR(name, ...) name,
#define FASTMLP_NAME(name, ...) #name,
#define FASTMLP_FACTS(name, Name) k##Name##Facts,
enum class OptimizerKind : int { FASTMLP_OPTIMIZERS(FASTMLP_ENUMERATOR) };
inline constexpr const char* kOptimizerNames[] = {FASTMLP_OPTIMIZERS(FASTMLP_NAME)};
inline constexpr OptimizerFacts kOptimizerFacts[] = {FASTMLP_OPTIMIZERS(FASTMLP_FACTS)};
#undef FASTMLP_ENUMERATOR
#undef FASTMLP_NAME
#undef FASTMLP_FACTS

constexpr const OptimizerFacts& facts_of(OptimizerKind kind) {
  return kOptimizerFacts[static_cast<int>(kind)];
}

}  // namespace fastmlp
