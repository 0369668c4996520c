// Conversion between the values of an enum and their public names.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "fastmlp/types.h"

namespace fastmlp::bindings {

// The enum value with this name. If there is none, throws std::invalid_argument with a
// message that lists the known names.
template <class Enum, size_t N>
Enum from_name(const char* const (&names)[N], const std::string& name,
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
const char* to_name(const char* const (&names)[N], Enum value) {
  return names[static_cast<size_t>(value)];
}

inline Activation activation_from(const std::string& name) {
  return from_name<Activation>(kActivationNames, name, "activation");
}

// The activation of this name with these constants, or without any with its defaults.
inline ActivationSpec activation_from(const std::string& name,
                                      const std::vector<double>& constants) {
  ActivationSpec activation = activation_from(name);
  const ActivationFacts& facts = facts_of(activation.kind);
  size_t count = 0;
  for (const ActivationConstant& each : facts.constants) count += each.name != nullptr;
  if (!constants.empty() && constants.size() != count) {
    throw std::invalid_argument("constants of " + name + " must have length " +
                                std::to_string(count) + ", got " +
                                std::to_string(constants.size()));
  }
  std::copy(constants.begin(), constants.end(), activation.constants);
  return activation;
}

}  // namespace fastmlp::bindings
