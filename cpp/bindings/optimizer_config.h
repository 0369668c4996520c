// Hyperparameters by name.
#pragma once

#include <string>

#include "fastmlp/optimizer.h"
#include "names.h"

namespace fastmlp::bindings {

// Throws std::invalid_argument for an unknown mode and for "hat" outside Adam.
inline EpsMode eps_mode_from(const std::string& name, OptimizerKind kind) {
  const EpsMode mode = from_name<EpsMode>(kEpsModeNames, name, "eps_mode");
  if (mode == EpsMode::hat && kind != OptimizerKind::adam) {
    throw std::invalid_argument("eps_mode 'hat' is defined for Adam only");
  }
  return mode;
}

}  // namespace fastmlp::bindings
