// The public names of the closed lists of choices.
#pragma once

#include <array>
#include <stdexcept>
#include <string>

#include "fastmlp/types.h"

namespace fastmlp::bindings {

// In the order of the enums.
constexpr std::array<const char*, kActivationCount> kActivationNames = {
    "identity",  "relu", "leaky_relu", "elu",      "selu",    "gelu",
    "gelu_tanh", "silu", "softplus",   "softsign", "sigmoid", "tanh",
    "sin",       "cos",  "exp",        "softmax"};
constexpr std::array<const char*, kLossCount> kLossNames = {
    "mse",          "mae",           "huber",
    "pseudo_huber", "cross_entropy", "binary_cross_entropy",
    "poisson",      "quantile",      "gaussian_nll",
    "hinge"};
constexpr std::array<const char*, kOptimizerCount> kOptimizerNames = {
    "sgd", "adagrad", "rmsprop", "adam"};
constexpr std::array<const char*, 3> kEpsModeNames = {"outside", "inside", "hat"};
constexpr std::array<const char*, 2> kReductionNames = {"mean", "sum"};
constexpr std::array<const char*, kElementaryCount> kElementaryNames = {
    "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "sin", "cos", "erf", "erfc"};

// The enum value of a name. Throws std::invalid_argument listing the known names.
template <class Enum, size_t N>
Enum from_name(const std::array<const char*, N>& names, const std::string& name,
               const char* what) {
  std::string known;
  for (size_t i = 0; i < N; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
    known += std::string(i > 0 ? ", " : "") + names[i];
  }
  throw std::invalid_argument(std::string("unknown ") + what + " '" + name +
                              "'; known: " + known);
}

template <class Enum, size_t N>
const char* to_name(const std::array<const char*, N>& names, Enum value) {
  return names[static_cast<size_t>(value)];
}

inline Activation activation_from(const std::string& name) {
  return from_name<Activation>(kActivationNames, name, "activation");
}

}  // namespace fastmlp::bindings
