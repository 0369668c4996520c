// Hyperparameters by name.
#pragma once

#include <functional>
#include <string>
#include <type_traits>

#include "arrays.h"
#include "fastmlp/optimizer.h"
#include "names.h"

namespace fastmlp::bindings {

// Converts a hyperparameter from Python. Throws std::invalid_argument for an unknown
// eps_mode and for "hat" outside Adam.
template <class Value>
Value hyperparameter_from(py::handle value, OptimizerKind kind) {
  if constexpr (std::is_same_v<Value, EpsMode>) {
    const auto mode =
        from_name<EpsMode>(kEpsModeNames, py::cast<std::string>(value), "eps_mode");
    if (mode == EpsMode::hat && kind != OptimizerKind::adam) {
      throw std::invalid_argument("eps_mode 'hat' can be used only with Adam");
    }
    return mode;
  } else {
    return py::cast<Value>(value);
  }
}

// Calls f with the pointer to the member of OptimizerConfig that has this name.
template <class F>
auto with_hyperparameter(const std::string& name, F&& f) {
  for (const Hyperparameter& known : kHyperparameters) {
    if (name == known.name) return std::visit(f, known.field);
  }
  throw py::type_error("unknown hyperparameter '" + name + "'");
}

// The member of OptimizerConfig for a hyperparameter that is a number.
inline double OptimizerConfig::* number_named(const std::string& name) {
  using Number = double OptimizerConfig::*;
  return with_hyperparameter(name, [&](auto field) -> Number {
    if constexpr (std::is_same_v<decltype(field), Number>) {
      return field;
    } else {
      throw py::type_error(name + " is not a number");
    }
  });
}

// Returns a function that sets the hyperparameter to the value. The value is converted
// before the function is returned, because the conversion may run Python code.
inline std::function<void(OptimizerConfig&)> assignment(OptimizerKind kind,
                                                        const std::string& name,
                                                        py::handle value) {
  using Assignment = std::function<void(OptimizerConfig&)>;
  return with_hyperparameter(name, [&](auto field) -> Assignment {
    using Value = std::decay_t<decltype(std::declval<OptimizerConfig&>().*field)>;
    return [field, v = hyperparameter_from<Value>(value, kind)](OptimizerConfig& c) {
      c.*field = v;
    };
  });
}

inline py::object lookup(const OptimizerConfig& config, const std::string& name) {
  return with_hyperparameter(name, [&](auto field) -> py::object {
    const auto value = config.*field;
    if constexpr (std::is_same_v<decltype(value), const EpsMode>) {
      return py::str(to_name(kEpsModeNames, value));
    } else {
      return py::cast(value);
    }
  });
}

}  // namespace fastmlp::bindings
