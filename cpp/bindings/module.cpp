// The extension module, which registers the definitions of the bind_* files.
#include <pybind11/pybind11.h>

namespace fastmlp::bindings {
void bind_runtime(pybind11::module_& m);
void bind_kernels(pybind11::module_ m);
void bind_loss(pybind11::module_& m);
void bind_optimizer(pybind11::module_& m);
void bind_replay(pybind11::module_& m);
void bind_solvers(pybind11::module_& m);
void bind_sparse(pybind11::module_& m);
void bind_mlp(pybind11::module_& m);
void bind_predictor(pybind11::module_& m);
}  // namespace fastmlp::bindings

// No binding relies on the GIL: models and optimisers have locks, other objects have
// busy flags or critical sections.
PYBIND11_MODULE(_core_of_main, m, pybind11::mod_gil_not_used()) {
  using namespace fastmlp::bindings;
  bind_runtime(m);
  bind_kernels(m.def_submodule("kernels"));
  bind_loss(m);
  bind_optimizer(m);
  bind_replay(m);
  bind_solvers(m);
  bind_sparse(m);
  bind_mlp(m);
  bind_predictor(m);
}

// Python looks up this function. In a sub-interpreter of Python 3.11, pybind11 would
// wait for ever for the GIL of the main interpreter.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(
        PyExc_ImportError,
        "fastmlp can be used only in the main interpreter of a process, not "
        "in a sub-interpreter");
    return nullptr;
  }
  return PyInit__core_of_main();
}
