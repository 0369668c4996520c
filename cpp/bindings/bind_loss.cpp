#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "fastmlp/loss.h"
#include "interrupts.h"
#include "names.h"
#include "number_text.h"
#include "targets.h"

namespace fastmlp::bindings {
namespace {

// The loss of pred. Returns NotImplemented unless pred is an array of T and the other
// arrays can be used with it without conversion.
template <class T>
py::object evaluate_as(const Loss& loss, py::handle pred, py::handle target,
                       py::handle sample_weight, bool with_grad) {
  const auto p = view<const T>(pred);
  if (!p || p->size() == 0) return not_implemented();
  const Index rows = p->shape[0], n_out = p->shape[1];
  const auto targets = targets_of<T>(target, sample_weight, loss, rows, n_out);
  if (!targets) return not_implemented();
  const auto evaluate = [&](T* grad) {
    return loss_value_and_grad<T>(loss, grad, p->data, *targets, rows, n_out);
  };
  constexpr double kForElement = 20;
  const double operations = kForElement * static_cast<double>(p->size());
  if (!with_grad) {
    return py::float_(interruptible(operations, [&] { return evaluate(nullptr); }));
  }
  return new_arrays<T>({p->ndim == 1 ? Shape(rows) : Shape(rows, n_out)}, evaluate,
                       operations);
}

py::object evaluate(const Loss& loss, py::object pred, py::object target,
                    py::object sample_weight, bool with_grad) {
  if (view<const double>(pred)) {
    return evaluate_as<double>(loss, pred, target, sample_weight, with_grad);
  }
  return evaluate_as<float>(loss, pred, target, sample_weight, with_grad);
}

}  // namespace

void bind_loss(py::module_& m) {
  using py::arg;
  const auto make = [](const std::string& kind, double delta,
                       const std::string& reduction, double smoothing,
                       std::vector<double> per_output, bool action, double scale,
                       std::optional<int64_t> ignored, double second,
                       std::vector<double> output_weight, bool masked) {
    if (!std::isfinite(scale) || scale <= 0)
      throw py::value_error("scale must be finite and positive, got " +
                            detail::in_full(scale));
    const CoreFpEnvironment environment;
    return std::make_unique<Loss>(
        Loss{from_name<LossKind>(kLossNames, kind, "loss"), delta,
             from_name<Reduction>(kReductionNames, reduction, "reduction"), smoothing,
             PerOutput(std::move(per_output)), action, scale, ignored, second,
             PerOutput(std::move(output_weight)), masked});
  };
  def_init(new_class<Loss>(m, "Loss"), make, arg("kind"), arg("delta") = 1.0,
           arg("reduction") = "mean", arg("smoothing") = 0.0,
           arg("per_output") = py::tuple(), arg("action") = false, arg("scale") = 1.0,
           arg("ignored") = py::none(), arg("second") = 0.0,
           arg("output_weight") = py::tuple(), arg("masked") = false)
      .def_property_readonly("kind",
                             [](const Loss& l) { return to_name(kLossNames, l.kind); })
      .def_readonly("delta", &Loss::delta)
      .def_readonly("smoothing", &Loss::smoothing)
      .def_property_readonly(
          "per_output",
          [](const Loss& l) { return py::tuple(py::cast(l.per_output.values())); })
      .def_readonly("action", &Loss::action)
      .def_readonly("scale", &Loss::scale)
      .def_readonly("ignored", &Loss::ignored)
      .def_readonly("second", &Loss::second)
      .def_property_readonly(
          "output_weight",
          [](const Loss& l) { return py::tuple(py::cast(l.output_weight.values())); })
      .def_readonly("masked", &Loss::masked)
      .def_property_readonly(
          "allowed",
          [](const Loss& l) { return to_name(kAllowedNames, allowed_targets(l)); })
      .def_property_readonly("of_rows", &is_of_rows)
      .def_property_readonly("takes_labels",
                             [](const Loss& l) { return takes_labels(l.kind); })
      .def_property_readonly("predictions_per_target", &predictions_per_target)
      .def(
          "class_count",
          [](const Loss& l, Index n_out) { return class_count(l.kind, n_out); },
          arg("n_out"))
      .def_property_readonly(
          "reduction",
          [](const Loss& l) { return to_name(kReductionNames, l.reduction); })
      .def(
          "value",
          [](const Loss& loss, py::object pred, py::object target, py::object weight) {
            return evaluate(loss, pred, target, weight, false);
          },
          arg("pred"), arg("target"), arg("sample_weight") = py::none())
      .def(
          "value_and_grad",
          [](const Loss& loss, py::object pred, py::object target, py::object weight) {
            return evaluate(loss, pred, target, weight, true);
          },
          arg("pred"), arg("target"), arg("sample_weight") = py::none());
}

}  // namespace fastmlp::bindings
