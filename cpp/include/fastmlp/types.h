// Basic types used everywhere: sizes, views and enumerations. This file must contain
// plain data only, because kernels include it and are compiled with the flags of one
// instruction set.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Results must have the same bits on all machines. -ffast-math would break this
// guarantee, and so would x87 arithmetic with its excess precision.
#if defined(__FAST_MATH__)
#error "fastmlp must not be compiled with -ffast-math or -Ofast"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "fastmlp needs a target that computes in the type of the operands (no x87)"
#endif

namespace fastmlp {

using Index = ptrdiff_t;

// A non-owning view of a row-major rows x cols matrix whose rows start `ld` elements
// apart.
template <class T>
struct MatrixView {
  T* data;
  Index rows;
  Index cols;
  Index ld;

  T* row(Index i) const { return data + i * ld; }
};

// In ascending order of preference: the last available one is the default.
enum class Isa : int { scalar, neon, avx2, avx512, avx512_bf16, amx };

// Each list below is written once. It generates an enum, the number of its values, and
// their public names in the order of the list.
#define FASTMLP_ENUMERATOR(name, ...) name,
#define FASTMLP_COUNT(name, ...) +1
#define FASTMLP_NAME(name, ...) #name,

// The value from which an activation's derivative is computed: its output h or its
// input z.
enum class DerivativeOf : int { output, input };
// The variance of initial weights before an activation: 2 / fan_in (He), 1 / fan_in
// (LeCun), or 2 / (fan_in + fan_out) (Glorot).
#define FASTMLP_WEIGHT_SCALES(X) X(he) X(lecun) X(glorot)
enum class WeightScale : int { FASTMLP_WEIGHT_SCALES(FASTMLP_ENUMERATOR) };

// The range of constants that are positive: normal numbers of type float.
constexpr double kLeastConstant = 0x1p-126, kMostConstant = 0x1.fffffep127;

// X(name, kernel, derivative of, weight scale, whether it is linear between its kinks
// and jumps, its constants); kernels are in kernels/activation-inl.h. A constant is a
// name, a default and the least value (see ActivationConstant).
// clang-format off
#define FASTMLP_ELEMENTWISE_ACTIVATIONS(X)                                             \
  X(identity,    Identity,    output, glorot, true,  )                                 \
  X(relu,        Relu,        output, he,     true,  )                                 \
  X(relu6,       Relu6,       output, he,     true,  )                                 \
  X(leaky_relu,  LeakyRelu,   output, he,     true,  {"slope", 0.01, 0.0})             \
  X(threshold,   Threshold,   input,  he,     true,                                    \
    {"threshold", 0.0, -kMostConstant}, {"value", 0.0, -kMostConstant})                \
  X(elu,         Elu,         output, he,     false, {"alpha", 1.0, 0.0})              \
  X(celu,        Celu,        output, he,     false, {"alpha", 1.0, kLeastConstant})   \
  X(selu,        Selu,        output, lecun,  false, )                                 \
  X(gelu,        Gelu,        input,  he,     false, )                                 \
  X(gelu_tanh,   GeluTanh,    input,  he,     false, )                                 \
  X(silu,        Silu,        input,  he,     false, )                                 \
  X(hardswish,   HardSwish,   input,  he,     false, )                                 \
  X(mish,        Mish,        input,  he,     false, )                                 \
  X(softplus,    Softplus,    output, he,     false, {"beta", 1.0, kLeastConstant})    \
  X(logsigmoid,  LogSigmoid,  output, he,     false, )                                 \
  X(softsign,    Softsign,    output, glorot, false, )                                 \
  X(sigmoid,     Sigmoid,     output, glorot, false, )                                 \
  X(hardsigmoid, HardSigmoid, output, glorot, true,  )                                 \
  X(tanh,        Tanh,        output, glorot, false, )                                 \
  X(hardtanh,    HardTanh,    output, glorot, true,                                    \
    {"min_val", -1.0, -kMostConstant}, {"max_val", 1.0, -kMostConstant})               \
  X(tanhshrink,  TanhShrink,  input,  glorot, false, )                                 \
  X(softshrink,  SoftShrink,  output, glorot, true,  {"lambd", 0.5, 0.0})              \
  X(hardshrink,  HardShrink,  output, glorot, true,  {"lambd", 0.5, 0.0})              \
  X(sin,         Sin,         input,  glorot, false, )                                 \
  X(cos,         Cos,         input,  glorot, false, )                                 \
  X(exp,         Exp,         output, glorot, false, )
#define FASTMLP_ACTIVATIONS(X)                                                         \
  FASTMLP_ELEMENTWISE_ACTIVATIONS(X)                                                   \
  X(softmax,     Softmax,     output, glorot, false, )
// What a loss compares with one target: one prediction, several of them, which describe
// a density, or (with one or several targets) the row as a whole.
enum class LossForm : int { element, density, row };
// The values that a loss allows as targets: any number, probabilities from 0 to 1, -1
// and 1, numbers that are not negative, positive numbers, or class labels alone.
#define FASTMLP_ALLOWED(X) \
  X(numbers) X(probabilities) X(signs) X(counts) X(positive) X(labels)
enum class Allowed : int { FASTMLP_ALLOWED(FASTMLP_ENUMERATOR) };
// X(name, form, allowed targets); kernels are in kernels/loss-inl.h.
#define FASTMLP_LOSSES(X)                          \
  X(mse,                  element, numbers)        \
  X(mae,                  element, numbers)        \
  X(huber,                element, numbers)        \
  X(pseudo_huber,         element, numbers)        \
  X(cross_entropy,        row,     probabilities)  \
  X(binary_cross_entropy, element, probabilities)  \
  X(poisson,              element, counts)         \
  X(quantile,             element, numbers)        \
  X(gaussian_nll,         density, numbers)        \
  X(hinge,                element, signs)          \
  X(smooth_l1,            element, numbers)        \
  X(log_cosh,             element, numbers)        \
  X(soft_margin,          element, signs)          \
  X(expectile,            element, numbers)        \
  X(binary_focal,         element, probabilities)  \
  X(gamma,                element, positive)       \
  X(tweedie,              element, counts)         \
  X(student_t_nll,        density, numbers)        \
  X(mixture_density,      density, numbers)        \
  X(kl_div,               row,     probabilities)  \
  X(focal,                row,     labels)         \
  X(multi_margin,         row,     labels)         \
  X(ordinal,              row,     labels)
#define FASTMLP_REDUCTIONS(X) X(mean) X(sum)
// The operands of the products in training and inference: as they are, or rounded to
// bfloat16 (see bfloat16_kernels.h).
#define FASTMLP_OPERANDS(X) X(full) X(bfloat16)
// Position of eps in an optimiser's denominator: sqrt(v) + eps, sqrt(v + eps), or (Adam
// only) added to the square root of the second moment before its bias correction
// ("epsilon hat").
#define FASTMLP_EPS_MODES(X) X(outside) X(inside) X(hat)
// Elementary functions that KernelTable::elementary applies to arrays.
#define FASTMLP_ELEMENTARY(X) \
  X(exp) X(expm1) X(log) X(log1p) X(tanh) X(sigmoid) X(sin) X(cos) X(erf) X(erfc)

enum class Activation : int { FASTMLP_ACTIVATIONS(FASTMLP_ENUMERATOR) };
enum class LossKind : int { FASTMLP_LOSSES(FASTMLP_ENUMERATOR) };
enum class Operands : int { FASTMLP_OPERANDS(FASTMLP_ENUMERATOR) };
enum class Reduction : int { FASTMLP_REDUCTIONS(FASTMLP_ENUMERATOR) };
enum class EpsMode : int { FASTMLP_EPS_MODES(FASTMLP_ENUMERATOR) };
enum class Elementary : int { FASTMLP_ELEMENTARY(FASTMLP_ENUMERATOR) };

constexpr int kActivationCount = FASTMLP_ACTIVATIONS(FASTMLP_COUNT);
constexpr int kLossCount = FASTMLP_LOSSES(FASTMLP_COUNT);
constexpr int kReductionCount = FASTMLP_REDUCTIONS(FASTMLP_COUNT);
constexpr int kEpsModeCount = FASTMLP_EPS_MODES(FASTMLP_COUNT);
constexpr int kElementaryCount = FASTMLP_ELEMENTARY(FASTMLP_COUNT);

inline constexpr const char* kActivationNames[] = {FASTMLP_ACTIVATIONS(FASTMLP_NAME)};
inline constexpr const char* kWeightScaleNames[] = {
  FASTMLP_WEIGHT_SCALES(FASTMLP_NAME)};
inline constexpr const char* kLossNames[] = {FASTMLP_LOSSES(FASTMLP_NAME)};
inline constexpr const char* kAllowedNames[] = {FASTMLP_ALLOWED(FASTMLP_NAME)};
inline constexpr const char* kOperandsNames[] = {FASTMLP_OPERANDS(FASTMLP_NAME)};
inline constexpr const char* kReductionNames[] = {FASTMLP_REDUCTIONS(FASTMLP_NAME)};
inline constexpr const char* kEpsModeNames[] = {FASTMLP_EPS_MODES(FASTMLP_NAME)};
inline constexpr const char* kElementaryNames[] = {FASTMLP_ELEMENTARY(FASTMLP_NAME)};
// clang-format on
#undef FASTMLP_ENUMERATOR
#undef FASTMLP_COUNT
#undef FASTMLP_NAME

// A number in the formula of an activation, such as the slope of leaky_relu: at least
// `least` and at most kMostConstant.
struct ActivationConstant {
  const char* name;  // null for an unused entry
  double value;      // by default
  double least;
};
constexpr int kActivationConstants = 2;  // of an activation at most

struct ActivationFacts {
  DerivativeOf derivative_of;
  WeightScale weight_scale;
  bool is_piecewise_linear;
  ActivationConstant constants[kActivationConstants];
};

inline constexpr ActivationFacts kActivationFacts[] = {
#define FASTMLP_FACTS(name, kernel, of, scale, linear, ...) \
  {DerivativeOf::of, WeightScale::scale, linear, {__VA_ARGS__}},
    FASTMLP_ACTIVATIONS(FASTMLP_FACTS)
#undef FASTMLP_FACTS
};

constexpr const ActivationFacts& facts_of(Activation kind) {
  return kActivationFacts[static_cast<int>(kind)];
}
constexpr bool activation_saves_input(Activation kind) {
  return facts_of(kind).derivative_of == DerivativeOf::input;
}

// An activation with the constants of its formula, in the order of
// ActivationFacts::constants; without constants of its own, it has the defaults.
struct ActivationSpec {
  Activation kind = Activation::identity;
  double constants[kActivationConstants] = {};

  constexpr ActivationSpec() = default;
  constexpr ActivationSpec(Activation its_kind) : kind(its_kind) {
    for (int i = 0; i < kActivationConstants; ++i) {
      constants[i] = facts_of(its_kind).constants[i].value;
    }
  }
  constexpr ActivationSpec(Activation its_kind, double first, double second = 0)
      : kind(its_kind), constants{first, second} {}
};
// Whether it is of this kind, with any constants.
constexpr bool operator==(const ActivationSpec& activation, Activation kind) {
  return activation.kind == kind;
}
constexpr bool operator!=(const ActivationSpec& activation, Activation kind) {
  return activation.kind != kind;
}

struct LossFacts {
  LossForm form;
  Allowed allowed;
};

inline constexpr LossFacts kLossFacts[] = {
#define FASTMLP_FACTS(name, form, allowed) {LossForm::form, Allowed::allowed},
    FASTMLP_LOSSES(FASTMLP_FACTS)
#undef FASTMLP_FACTS
};

constexpr const LossFacts& facts_of(LossKind kind) {
  return kLossFacts[static_cast<int>(kind)];
}

}  // namespace fastmlp
