// The vocabulary every layer shares: sizes, views and the closed lists of choices.
// Plain data only: kernel translation units compiled with ISA flags include this file.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Both would break the promise of the same bits everywhere.
#if defined(__FAST_MATH__)
#error "fastmlp must not be compiled with -ffast-math or -Ofast"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "fastmlp needs a target that computes in the type of the operands (no x87)"
#endif

namespace fastmlp {

using Index = ptrdiff_t;

// Row-major rows x cols matrix of T that someone else owns; `ld` elements apart per
// row.
template <class T>
struct MatrixView {
  T* data;
  Index rows;
  Index cols;
  Index ld;

  T* row(Index i) const { return data + i * ld; }
};

// In order of preference: the last one that is available is the default.
enum class Isa : int { scalar, neon, avx2, avx512 };

enum class Activation : int {
  identity,
  relu,
  leaky_relu,
  elu,
  selu,
  gelu,
  gelu_tanh,
  silu,
  softplus,
  softsign,
  sigmoid,
  tanh,
  sin,
  cos,
  exp,
  softmax,
};
constexpr int kActivationCount = 16;

enum class LossKind : int {
  mse,
  mae,
  huber,
  pseudo_huber,
  cross_entropy,
  binary_cross_entropy,
  poisson,
  quantile,
  gaussian_nll,
  hinge,
};
constexpr int kLossCount = 10;

enum class Reduction : int { mean, sum };

enum class OptimizerKind : int { sgd, adagrad, rmsprop, adam };
constexpr int kOptimizerCount = 4;

// Where a denominator's eps goes: sqrt(v) + eps, sqrt(v + eps), or (Adam only) beside
// the square root of the second moment before its bias correction ("epsilon hat").
enum class EpsMode : int { outside, inside, hat };

// The elementary functions on their own, for tests and tables.
enum class Elementary : int {
  exp,
  expm1,
  log,
  log1p,
  tanh,
  sigmoid,
  sin,
  cos,
  erf,
  erfc
};
constexpr int kElementaryCount = 10;

}  // namespace fastmlp
