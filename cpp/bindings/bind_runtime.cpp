#include <pybind11/pybind11.h>

#include <string>

#include "arrays.h"
#include "fastmlp/caches.h"
#include "fastmlp/fp_environment.h"
#include "fastmlp/isa.h"
#include "fastmlp/optimizer_kinds.h"
#include "fastmlp/threads.h"
#include "names.h"

namespace fastmlp::bindings {
namespace {

template <size_t N>
py::tuple as_tuple(const char* const (&names)[N]) {
  py::tuple result(N);
  for (size_t i = 0; i < N; ++i) result[i] = py::str(names[i]);
  return result;
}

py::tuple isa_names() {
  const auto isas = available_isas();
  py::tuple result(isas.size());
  for (size_t i = 0; i < isas.size(); ++i) result[i] = py::str(isa_name(isas[i]));
  return result;
}

py::dict cache_sizes() {
  py::dict result;
  const auto add = [&](const char* name, const Cache& cache) {
    result[name] = py::make_tuple(cache.bytes, cache.ways, cache.cpus);
  };
  add("l1d", caches().l1d);
  add("l2", caches().l2);
  add("l3", caches().l3);
  result["l3_is_near"] = caches().l3_is_near;
  return result;
}

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

py::dict build_info() {
  py::dict info;
  info["version"] = FASTMLP_VERSION;
  info["compiler"] = compiler();
  info["build_type"] = FASTMLP_BUILD_TYPE;
  info["flags"] = FASTMLP_BUILD_FLAGS;
  info["openmp"] = built_with_openmp();
  info["isas"] = isa_names();
  return info;
}

}  // namespace

void bind_runtime(py::module_& m) {
  // Invalid environment variables raise an error at import.
  active_isa();
  caches();
  m.attr("__version__") = FASTMLP_VERSION;
  m.attr("ACTIVATIONS") = as_tuple(kActivationNames);
  // For each activation with constants, their names, defaults and least values.
  py::dict constants;
  for (int i = 0; i < kActivationCount; ++i) {
    py::dict own;
    for (const ActivationConstant& each : kActivationFacts[i].constants) {
      if (each.name) own[each.name] = py::make_tuple(each.value, each.least);
    }
    if (!own.empty()) constants[kActivationNames[i]] = own;
  }
  m.attr("ACTIVATION_CONSTANTS") = constants;
  m.attr("MOST_CONSTANT") = kMostConstant;
  m.attr("LOSSES") = as_tuple(kLossNames);
  m.attr("OPTIMIZERS") = as_tuple(kOptimizerNames);
  m.def(
      "activation_saves",
      [](const std::string& activation) {
        return activation_saves_input(activation_from(activation)) ? "input" : "output";
      },
      py::arg("activation"));
  m.def(
      "weight_scale",
      [](const std::string& activation) {
        const WeightScale scale = facts_of(activation_from(activation)).weight_scale;
        return kWeightScaleNames[static_cast<int>(scale)];
      },
      py::arg("activation"));
  m.def(
      "in_default_fp_environment",
      [](const py::object& f, const py::args& args, const py::kwargs& kwargs) {
        const CallbackFpEnvironment environment;
        return f(*args, **kwargs);
      },
      py::arg("f"));
  m.def("isa", [] { return isa_name(active_isa()); });
  m.def("available_isas", &isa_names);
  m.def("set_isa", &set_active_isa, py::arg("name"));
  m.def("get_num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("threads_for_work", &threads_for_work, py::arg("flops"), py::arg("parts"));
  m.def("build_info", &build_info);
  m.def("caches", &cache_sizes);
}

}  // namespace fastmlp::bindings
