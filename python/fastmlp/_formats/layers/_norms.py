"""Normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...layers import BatchNorm, GroupNorm, LayerNorm, RMSNorm, Standardise
from ._base import LayerForm, columns_scaled

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._network.model import Model
    from ..._network.ops import Step
    from ..._validate import Array
    from ..c.writer import Node, Writer
    from ..from_keras import Item, Reader
    from ..to_onnx import Graph
    from ..torch_modules import ModuleReader


class _RowNormForm(LayerForm):
    """A normalisation of rows or of groups of a row."""

    # Names of two C functions. The first computes the value. The second multiplies the
    # derivatives of a row, [element][direction], by the Jacobian of the normalisation.
    # The Jacobian is symmetric, so the same function serves tangents and cotangents.
    c_forward: ClassVar[str]
    c_slope: ClassVar[str]

    @staticmethod
    def groups(layer: Any) -> int:
        """Return the number of groups into which a row is divided."""
        return 1

    @classmethod
    def to_torch(
        cls, layer: Any, width: int, nn: Any, empty: Callable[..., Any]
    ) -> Any:
        """Return a PyTorch module for an input of width ``width``."""
        affine, kind = layer.affine, getattr(nn, str(cls.torch))
        return empty(kind, width, eps=layer.eps, elementwise_affine=affine)

    @classmethod
    def c_memory(cls, i: int, node: Node) -> dict[str, int | None]:
        """Return sizes of C variables that the Jacobian needs (None for scalars)."""
        groups = cls.groups(node.layer)
        return {f"factor{i}": None if groups == 1 else groups, f"hat{i}": node.n_out}

    @classmethod
    def c_value(
        cls, writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return lines that compute the value of node i from ``x``."""
        own = _Group(node, cls.groups(node.layer))
        scale, shift = map(own.part, writer.parameters(i, node))
        eps = writer.literal(node.layer.eps)
        hat, factor = "0", ""
        if keeps:
            hat, factor = own.part(f"hat{i}"), f"{own.element(f'factor{i}')} = "
        arguments = own.part(to), hat, own.part(x), scale, shift, eps, own.size
        call = writer.call(cls.c_forward, *arguments)
        return own.each(f"{factor}{call};"), ""

    @classmethod
    def c_tangent(
        cls, writer: Writer, i: int, node: Node, to: str, x: str
    ) -> list[str]:
        """Return lines that map input tangents ``x`` to output tangents ``to``."""
        lines = cls._c_slope(writer, i, node, to, x, "0", 0)
        scale = writer.parameters(i, node)[0]
        if scale != "0":
            call = writer.call("times_slope", to, scale, str(node.n_out))
            lines.append(f"  {call};")
        return lines

    @classmethod
    def c_cotangent(
        cls, writer: Writer, i: int, node: Node, to: str, own: str, add: int
    ) -> list[str]:
        """Return lines that map output cotangents to input cotangents."""
        scale = writer.parameters(i, node)[0]
        return cls._c_slope(writer, i, node, to, own, scale, add)

    @classmethod
    def _c_slope(
        cls,
        writer: Writer,
        i: int,
        node: Node,
        to: str,
        given: str,
        scale: str,
        add: int,
    ) -> list[str]:
        own = _Group(node, cls.groups(node.layer))
        arguments = (
            *(own.part(to, " * @D"), own.part(given, " * @D"), own.part(f"hat{i}")),
            *(own.element(f"factor{i}"), own.part(scale), own.size, str(add)),
        )
        return own.each(f"{writer.call(cls.c_slope, *arguments)};")


class LayerNormForm(_RowNormForm):
    """`LayerNorm`."""

    layer = LayerNorm
    torch = "LayerNorm"
    keras = "LayerNormalization"
    c_forward = "layer_norm"
    c_slope = "norm_slope"
    c_functions: ClassVar = {
        # Returns 1 / deviation; if `hat` is not null, writes the normalised row to it.
        "layer_norm": """
static inline T @layer_norm(T *h, T *hat, const T *x, const T *scale, const T *shift,
                            T eps, size_t n) {
  T sums[16] = {0}, squares[16] = {0};
  T mean, factor;
  size_t i;
  for (i = 0; i < n; ++i) sums[i % 16] = sums[i % 16] + x[i];
  mean = @tree(sums) / (T)n;
  for (i = 0; i < n; ++i) {
    const T d = x[i] - mean;
    squares[i % 16] = squares[i % 16] + d * d;
  }
  factor = 1.0 / sqrt(@tree(squares) / (T)n + eps);
  for (i = 0; i < n; ++i) {
    const T normal = (x[i] - mean) * factor;
    if (hat) hat[i] = normal;
    h[i] = scale ? fma(normal, scale[i], shift[i]) : normal;
  }
  return factor;
}
""",
        "norm_slope": """
static inline void @norm_slope(T *to, const T *from, const T *hat, T factor,
                               const T *scale, size_t n, int add) {
  size_t i, d;
  for (d = 0; d < @D; ++d) {
    T sums[16] = {0}, dots[16] = {0};
    T mean, dot;
    for (i = 0; i < n; ++i) {
      const T g = scale ? from[i * @D + d] * scale[i] : from[i * @D + d];
      sums[i % 16] = sums[i % 16] + g;
      dots[i % 16] = dots[i % 16] + g * hat[i];
    }
    mean = @tree(sums) / (T)n;
    dot = @tree(dots) / (T)n;
    for (i = 0; i < n; ++i) {
      const T g = scale ? from[i * @D + d] * scale[i] : from[i * @D + d];
      const T centred = fma(-hat[i], dot, g - mean);
      to[i * @D + d] =
          add ? fma(factor, centred, to[i * @D + d]) : factor * centred;
    }
  }
}
""",
    }

    @staticmethod
    def from_torch(what: str, module: Any, reader: ModuleReader) -> None:
        """Convert a PyTorch module to a layer, and add it to the reader's builder."""
        shape = _row_shape(what, module)
        arrays = reader.arrays(what, module, "weight", "bias")
        _check_both_or_none(what, arrays)
        reader.builder.fit(what, shape)
        layer = LayerNorm(_torch_eps(what, module), affine=bool(arrays))
        reader.builder.norm(what, layer, arrays)

    @staticmethod
    def from_keras(layer: Any, reader: Reader) -> Item:
        """Convert a Keras layer; return fastmlp's layer with its arrays."""
        reader.check_axis(layer)
        if getattr(layer, "rms_scaling", False):
            reader.refuse(layer, "must subtract the mean, so rms_scaling must be False")
        both = _keras_scale_and_shift(layer, reader)
        return reader.item(LayerNorm(_keras_eps(layer, reader), bool(both)), both)

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        scale, shift = _scale_and_shift(mlp, step)
        weight = graph.array(f"{step.name}.weight", scale)
        bias = graph.array(f"{step.name}.bias", shift)
        eps = step.layer.eps
        if graph.dtype == np.float32:
            return graph.node("LayerNormalization", x, weight, bias, epsilon=eps)

        # The epsilon of ONNX's operator is always float32; elementary nodes can use a
        # float64.
        scaled = graph.node("Mul", _normalised(graph, x, step.n_out, eps), weight)
        return graph.node("Add", scaled, bias)


class RMSNormForm(_RowNormForm):
    """`RMSNorm`."""

    layer = RMSNorm
    torch = "RMSNorm"
    keras = "RMSNormalization"
    c_forward = "rms_norm"
    c_slope = "rms_slope"
    # The functions of `LayerNorm`, but with the mean replaced by 0 and without a shift.
    c_functions: ClassVar = {
        "rms_norm": """
static inline T @rms_norm(T *h, T *hat, const T *x, const T *scale, const T *shift,
                          T eps, size_t n) {
  T squares[16] = {0};
  T factor;
  size_t i;
  (void)shift;
  for (i = 0; i < n; ++i) squares[i % 16] = squares[i % 16] + x[i] * x[i];
  factor = 1.0 / sqrt(@tree(squares) / (T)n + eps);
  for (i = 0; i < n; ++i) {
    const T normal = x[i] * factor;
    if (hat) hat[i] = normal;
    h[i] = scale ? normal * scale[i] : normal;
  }
  return factor;
}
""",
        "rms_slope": """
static inline void @rms_slope(T *to, const T *from, const T *hat, T factor,
                              const T *scale, size_t n, int add) {
  size_t i, d;
  for (d = 0; d < @D; ++d) {
    T dots[16] = {0};
    T dot;
    for (i = 0; i < n; ++i) {
      const T g = scale ? from[i * @D + d] * scale[i] : from[i * @D + d];
      dots[i % 16] = dots[i % 16] + g * hat[i];
    }
    dot = @tree(dots) / (T)n;
    for (i = 0; i < n; ++i) {
      const T g = scale ? from[i * @D + d] * scale[i] : from[i * @D + d];
      const T rest = fma(-hat[i], dot, g);
      to[i * @D + d] = add ? fma(factor, rest, to[i * @D + d]) : factor * rest;
    }
  }
}
""",
    }

    @staticmethod
    def from_torch(what: str, module: Any, reader: ModuleReader) -> None:
        """Convert a PyTorch module to a layer, and add it to the reader's builder."""
        shape = _row_shape(what, module)
        arrays = reader.arrays(what, module, "weight")
        # PyTorch's default eps is the machine epsilon of the input's dtype.
        given = module.eps is not None
        eps = _torch_eps(what, module) if given else reader.machine_epsilon
        reader.builder.fit(what, shape)
        reader.builder.norm(what, RMSNorm(eps, affine=bool(arrays)), arrays)

    @staticmethod
    def from_keras(layer: Any, reader: Reader) -> Item:
        """Convert a Keras layer; return fastmlp's layer with its arrays."""
        reader.check_axis(layer)
        reader.check_built(layer)
        return reader.item(
            RMSNorm(_keras_eps(layer, reader)), (reader.array(layer, "scale"),)
        )

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        # ONNX has the operator RMSNormalization only from version 23 on.
        scale, _ = _scale_and_shift(mlp, step)
        square = graph.row_means(graph.node("Mul", x, x), step.n_out)
        root = graph.node("Sqrt", graph.node("Add", square, step.layer.eps))
        weight = graph.array(f"{step.name}.weight", scale)
        return graph.node("Mul", graph.node("Div", x, root), weight)


class GroupNormForm(_RowNormForm):
    """`GroupNorm`."""

    layer = GroupNorm
    torch = "GroupNorm"
    keras = "GroupNormalization"
    c_forward = LayerNormForm.c_forward
    c_slope = LayerNormForm.c_slope

    @staticmethod
    def groups(layer: Any) -> int:
        """Return the number of groups into which a row is divided."""
        return int(layer.groups)

    @classmethod
    def to_torch(
        cls, layer: Any, width: int, nn: Any, empty: Callable[..., Any]
    ) -> Any:
        """Return a PyTorch module for an input of width ``width``."""
        return empty(nn.GroupNorm, layer.groups, width, layer.eps, layer.affine)

    @staticmethod
    def from_torch(what: str, module: Any, reader: ModuleReader) -> None:
        """Convert a PyTorch module to a layer, and add it to the reader's builder."""
        arrays = reader.arrays(what, module, "weight", "bias")
        _check_both_or_none(what, arrays)
        reader.builder.fit(what, module.num_channels)
        eps = _torch_eps(what, module)
        layer = GroupNorm(module.num_groups, eps, affine=bool(arrays))
        reader.builder.norm(what, layer, arrays)

    @staticmethod
    def from_keras(layer: Any, reader: Reader) -> Item:
        """Convert a Keras layer; return fastmlp's layer with its arrays."""
        reader.check_axis(layer)
        both = _keras_scale_and_shift(layer, reader)
        eps = _keras_eps(layer, reader)
        return reader.item(GroupNorm(layer.groups, eps, bool(both)), both)

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        # GroupNormalization of ONNX takes a scale for each group before version 21.
        n, groups = step.n_out, step.layer.groups
        scale, shift = _scale_and_shift(mlp, step)
        x = graph.reshaped(x, groups, n // groups)
        x = _normalised(graph, x, n // groups, step.layer.eps)
        x = graph.reshaped(x, n)
        scaled = graph.node("Mul", x, graph.array(f"{step.name}.weight", scale))
        return graph.node("Add", scaled, graph.array(f"{step.name}.bias", shift))


class _ColumnForm(LayerForm):
    """A layer that is linear in each column."""

    # Name of the array that holds the slope of each column.
    c_factors: ClassVar[str]

    @classmethod
    def c_tangent(
        cls, writer: Writer, i: int, node: Node, to: str, x: str
    ) -> list[str]:
        """Return lines that map input tangents ``x`` to output tangents ``to``."""
        return columns_scaled(writer, f"@{cls.c_factors}{i}", node, to, x)

    @classmethod
    def c_cotangent(
        cls, writer: Writer, i: int, node: Node, to: str, own: str, add: int
    ) -> list[str]:
        """Return lines that map output cotangents to input cotangents."""
        return columns_scaled(writer, f"@{cls.c_factors}{i}", node, to, own, add)


class BatchNormForm(_ColumnForm):
    """`BatchNorm`; at inference it scales and shifts columns."""

    layer = BatchNorm
    torch = "BatchNorm1d"
    keras = "BatchNormalization"
    c_factors = "slope"

    @staticmethod
    def to_torch(layer: Any, width: int, nn: Any, empty: Callable[..., Any]) -> Any:
        """Return a PyTorch module for an input of width ``width``."""
        numbers = (layer.eps, layer.momentum, layer.affine)
        return empty(nn.BatchNorm1d, width, *numbers)

    @staticmethod
    def from_torch(what: str, module: Any, reader: ModuleReader) -> None:
        """Convert a PyTorch module to a layer, and add it to the reader's builder."""
        if module.running_mean is None or module.running_var is None:
            raise ValueError(
                f"{what} does not have running statistics, which fastmlp needs at "
                "inference: use track_running_stats=True"
            )
        if module.momentum is None:
            raise ValueError(
                f"{what} must have a number as its momentum, got momentum=None, "
                "which averages over all batches"
            )
        momentum = float(module.momentum)
        if not 0 <= momentum <= 1:
            raise ValueError(
                f"{what} must have a momentum from 0 to 1, got momentum={momentum}"
            )
        roles = ("weight", "bias", "running_mean", "running_var")
        arrays = reader.arrays(what, module, *roles)
        _check_both_or_none(what, arrays)
        reader.builder.fit(what, module.num_features)
        layer = BatchNorm(_torch_eps(what, module), momentum, "weight" in arrays)
        reader.builder.norm(what, layer, arrays)
        if module.num_batches_tracked is not None:
            tracked = int(module.num_batches_tracked)
            reader.builder.tracked = max(reader.builder.tracked, tracked)

    @staticmethod
    def from_keras(layer: Any, reader: Reader) -> Item:
        """Convert a Keras layer; return fastmlp's layer with its arrays."""
        reader.check_axis(layer)
        if getattr(layer, "renorm", False):
            reader.refuse(layer, "must have renorm=False")
        both = _keras_scale_and_shift(layer, reader)
        # Rounding removes the error in the last digits of, for example, 1 - 0.99.
        momentum = round(1 - layer.momentum, 12)
        names = ("moving_mean", "moving_variance")
        statistics = tuple(reader.array(layer, name) for name in names)
        norm = BatchNorm(_keras_eps(layer, reader), momentum, bool(both))
        return reader.item(norm, both, statistics)

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        # ONNX's operator BatchNormalization is not used. Runtimes compute it as
        # x * a + c, which loses digits if the mean is far from zero, and its epsilon is
        # a float32 even in float64 models.
        arrays = step.arrays(mlp)
        scale, shift = _scale_and_shift(mlp, step)
        factor = scale / np.sqrt(arrays["running_var"] + step.layer.eps)
        mean = graph.array(f"{step.name}.running_mean", arrays["running_mean"])
        x = graph.node("Sub", x, mean)
        x = graph.node("Mul", x, graph.array(f"{step.name}.factor", factor))
        return graph.node("Add", x, graph.array(f"{step.name}.bias", shift))

    @staticmethod
    def c_arrays(node: Node, arrays: dict[str, Array]) -> dict[str, Array]:
        """Return the arrays, besides parameters, that the C header needs, by name."""
        variance = arrays["running_var"]
        with np.errstate(all="ignore"):
            rstd = 1 / np.sqrt(variance + variance.dtype.type(node.layer.eps))
            factor = rstd * arrays["weight"] if "weight" in arrays else rstd
        return {"mean": arrays["running_mean"], "rstd": rstd, "slope": factor}

    @staticmethod
    def c_value(
        writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return an expression for one element of the value."""
        scale, shift = writer.parameters(i, node)
        normal = f"({x}[i] - @mean{i}[i]) * @rstd{i}[i]"
        if scale != "0":
            normal = f"fma({normal}, {scale}[i], {shift}[i])"
        return [], normal


class StandardiseForm(_ColumnForm):
    """`Standardise`; `to_torch` has its module."""

    layer = Standardise
    keras = "Normalization"
    c_factors = "factor"

    @staticmethod
    def from_keras(layer: Any, reader: Reader) -> Item:
        """Convert a Keras layer; return fastmlp's layer with its arrays."""
        reader.check_axis(layer)
        reader.check_built(layer)
        mean, var = (np.ravel(reader.array(layer, n)) for n in ("mean", "variance"))
        # Keras' layer does not divide by less than its epsilon.
        std = np.maximum(np.sqrt(var), var.dtype.type(reader.epsilon()))
        statistics = standardise_statistics(mean, std)
        if statistics is None:
            reader.refuse(layer, "must have finite means and variances")
        return reader.item(Standardise(bool(layer.invert)), (), statistics)

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        arrays = step.arrays(mlp)
        mean = graph.array(f"{step.name}.mean", arrays["mean"])
        std = np.sqrt(arrays["var"])
        if step.layer.inverse:
            scaled = graph.node("Mul", x, graph.array(f"{step.name}.std", std))
            return graph.node("Add", scaled, mean)
        factor = graph.array(f"{step.name}.factor", 1 / std)
        return graph.node("Mul", graph.node("Sub", x, mean), factor)

    @staticmethod
    def c_arrays(node: Node, arrays: dict[str, Array]) -> dict[str, Array]:
        """Return the arrays, besides parameters, that the C header needs, by name."""
        with np.errstate(all="ignore"):
            std = np.sqrt(arrays["var"])
            factor = std if node.layer.inverse else 1 / std
        return {"mean": arrays["mean"], "factor": factor}

    @staticmethod
    def c_value(
        writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return an expression for one element of the value."""
        if node.layer.inverse:
            return [], f"fma({x}[i], @factor{i}[i], @mean{i}[i])"
        return [], f"({x}[i] - @mean{i}[i]) * @factor{i}[i]"


def standardise_statistics(mean: Array, std: Array) -> tuple[Array, Array] | None:
    """Return the mean and variance of a `Standardise` layer, in their own dtype.

    The result is None if a mean is not finite, or if a deviation is not positive and
    finite or is not the square root of a variance in this dtype.
    """
    with np.errstate(all="ignore"):
        var = std * std
        exact = (np.sqrt(var) == std) & (var >= np.finfo(var.dtype).tiny)
    if not (np.isfinite(mean) & np.isfinite(var) & exact & (std > 0)).all():
        return None
    return mean, var


class _Group:
    """C code for the group ``g`` of a row; without a loop if there is one group."""

    def __init__(self, node: Node, count: int) -> None:
        self._count = count
        self._size = node.n_out // count
        self.size = str(self._size)

    def part(self, array: str, unit: str = "") -> str:
        """Return the address of the group's elements in an array, or "0" for "0".

        ``unit`` is a factor for arrays with several numbers per element.
        """
        whole = self._count == 1 or array == "0"
        return array if whole else f"{array} + g * {self._size}{unit}"

    def element(self, array: str) -> str:
        """Return the group's element of an array with one element for each group."""
        return array if self._count == 1 else f"{array}[g]"

    def each(self, line: str) -> list[str]:
        """Return the lines that run ``line`` for each group."""
        if self._count == 1:
            return [f"  {line}"]
        head = f"  for (size_t g = 0; g < {self._count}; ++g) {{"
        return [head, f"    {line}", "  }"]


def _normalised(graph: Graph, x: str, n: int, eps: float) -> str:
    """Add nodes that normalise along the last axis, of length n; return the name."""
    x = graph.node("Sub", x, graph.row_means(x, n))
    variance = graph.row_means(graph.node("Mul", x, x), n)
    deviation = graph.node("Sqrt", graph.node("Add", variance, eps))
    return graph.node("Div", x, deviation)


def _scale_and_shift(mlp: Model, step: Step) -> tuple[Array, Array]:
    """Return a normalisation's scale (or ones) and shift (or zeros), in float64."""
    arrays = step.arrays(mlp)
    n = step.n_out
    return arrays.get("weight", np.ones(n)), arrays.get("bias", np.zeros(n))


def _row_shape(what: str, module: Any) -> int:
    """Return the width of a PyTorch normalisation of rows."""
    shape = tuple(module.normalized_shape)
    if len(shape) != 1:
        raise ValueError(
            f"{what} must normalise over one axis, got normalized_shape={shape}"
        )
    return int(shape[0])


def _check_both_or_none(what: str, arrays: dict[str, Array]) -> None:
    if ("weight" in arrays) != ("bias" in arrays):
        raise ValueError(
            f"{what} has a weight without a bias; fastmlp needs both or neither: use "
            "bias=True, with a bias of zeros"
        )


def _torch_eps(what: str, module: Any) -> float:
    eps = float(module.eps)
    if not 0 < eps < np.inf:
        raise ValueError(f"{what} must have a finite eps > 0, got eps={eps}")
    return eps


def _keras_eps(layer: Any, reader: Reader) -> float:
    if not layer.epsilon > 0:
        reader.refuse(layer, f"must have a positive epsilon, got {layer.epsilon}")
    return float(layer.epsilon)


def _keras_scale_and_shift(layer: Any, reader: Reader) -> tuple[Array, ...]:
    """Return scale and shift if the Keras layer has at least one of them, else ()."""
    reader.check_built(layer)
    scale = reader.array(layer, "gamma") if layer.scale else None
    shift = reader.array(layer, "beta") if layer.center else None
    if scale is None and shift is None:
        return ()
    if scale is None:
        scale = np.ones_like(shift)
    if shift is None:
        shift = np.zeros_like(scale)
    return scale, shift
