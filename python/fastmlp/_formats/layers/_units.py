"""Layers with learned factors or gates for units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ...layers import GLU, PReLU, Scale, as_layer
from ..activations import ACTIVATIONS
from ._base import LayerForm, columns_scaled

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._network.model import Model
    from ..._network.ops import Step
    from ..c.writer import Node, Writer
    from ..from_keras import Item, Reader
    from ..to_onnx import Graph
    from ..torch_modules import ModuleReader


class PReLUForm(LayerForm):
    """`PReLU`."""

    layer = PReLU
    torch = keras = "PReLU"

    @classmethod
    def to_torch(
        cls, layer: Any, width: int, nn: Any, empty: Callable[..., Any]
    ) -> Any:
        """Return a PyTorch module for an input of width ``width``."""
        return empty(nn.PReLU, 1 if layer.shared else width, layer.init)

    @staticmethod
    def from_torch(what: str, module: Any, reader: ModuleReader) -> None:
        """Convert a PyTorch module to a layer, and add it to the reader's builder."""
        arrays = reader.arrays(what, module, "weight")
        shared = module.num_parameters == 1
        if not shared:
            reader.builder.fit(what, module.num_parameters)
        reader.builder.add(PReLU(float(module.init), shared), arrays)

    @staticmethod
    def from_keras(layer: Any, reader: Reader) -> Item:
        """Convert a Keras layer; return fastmlp's layer with its array."""
        reader.check_built(layer)
        slope = reader.array(layer, "alpha")
        if slope.ndim != 1:
            reader.refuse(layer, f"must take rows, but its alpha is {slope.ndim}-D")
        shared = layer.shared_axes is not None
        return reader.item(PReLU(0.0, shared), (slope,))

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        slope = graph.array(f"{step.name}.weight", step.arrays(mlp)["weight"])
        below = graph.node("Mul", graph.node("Min", x, 0.0), slope)
        return graph.node("Add", graph.node("Max", x, 0.0), below)

    @staticmethod
    def c_memory(i: int, node: Node) -> dict[str, int | None]:
        """Return sizes of C variables that the Jacobian needs (None for scalars)."""
        return {f"factor{i}": node.n_out}

    @staticmethod
    def c_value(
        writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return lines that compute the value, or an expression for one element."""
        at = "0" if node.layer.shared else "i"
        factor = f"({x}[i] > 0.0 ? 1.0 : {writer.parameters(i, node)[0]}[{at}])"
        if not keeps:
            return [], f"{x}[i] * {factor}"
        return [
            f"  for (size_t i = 0; i < {node.n_out}; ++i) {{",
            f"    factor{i}[i] = {factor};",
            f"    {to}[i] = {x}[i] * factor{i}[i];",
            "  }",
        ], ""

    @staticmethod
    def c_tangent(writer: Writer, i: int, node: Node, to: str, x: str) -> list[str]:
        """Return lines that map input tangents ``x`` to output tangents ``to``."""
        return columns_scaled(writer, f"factor{i}", node, to, x)

    @staticmethod
    def c_cotangent(
        writer: Writer, i: int, node: Node, to: str, own: str, add: int
    ) -> list[str]:
        """Return lines that map output cotangents to input cotangents."""
        return columns_scaled(writer, f"factor{i}", node, to, own, add)


class GLUForm(LayerForm):
    """`GLU`; PyTorch has it for the sigmoid only."""

    layer = GLU
    torch = "GLU"
    # Derivatives are stored as [element][direction]. The rows of `f` are the factors
    # with which the core's kernels of the same names multiply the halves.
    c_functions: ClassVar = {
        "glu_tangent": """
static inline void @glu_tangent(T *to, const T *t, const T *f, size_t n) {
  size_t i, d;
  for (i = 0; i < n; ++i) {
    for (d = 0; d < @D; ++d) {
      const T second = t[(n + i) * @D + d] * f[n + i];
      to[i * @D + d] = fma(t[i * @D + d], f[i], second);
    }
  }
}
""",
        "glu_backward": """
static inline void @glu_backward(T *to, const T *c, const T *f, size_t n, int add) {
  size_t i, d;
  for (i = 0; i < 2 * n; ++i) {
    for (d = 0; d < @D; ++d) {
      const T own = c[i % n * @D + d];
      to[i * @D + d] = add ? fma(own, f[i], to[i * @D + d]) : own * f[i];
    }
  }
}
""",
    }

    @classmethod
    def to_torch(
        cls, layer: Any, width: int, nn: Any, empty: Callable[..., Any]
    ) -> Any:
        """Return a PyTorch module; `to_torch` has one for other activations."""
        return nn.GLU()

    @staticmethod
    def from_torch(what: str, module: Any, reader: ModuleReader) -> None:
        """Convert a PyTorch module to a layer, and add it to the reader's builder."""
        if module.dim not in (-1, 1):
            raise ValueError(
                f"{what} must halve rows, with dim=-1, got dim={module.dim}"
            )
        reader.builder.halve(what)
        reader.builder.add(GLU())

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        n, function = step.n_out, as_layer(step.layer.activation)
        first, second = graph.columns(x, 0, n), graph.columns(x, n, 2 * n)
        onnx = ACTIVATIONS[function.name].onnx
        return graph.node("Mul", first, onnx(graph, second, **function.constants))

    @staticmethod
    def c_memory(i: int, node: Node) -> dict[str, int | None]:
        """Return sizes of C variables that the Jacobian needs (None for scalars)."""
        return {f"factor{i}": node.n_in}

    @staticmethod
    def c_value(
        writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return lines that compute the value of node i from ``x``."""
        n, function = node.n_out, as_layer(node.layer.activation)
        form = ACTIVATIONS[function.name]
        lines = [
            f"    const T z = {x}[{n} + i];",
            f"    const T gate = {writer.activation('act', function, 'z')};",
        ]
        if keeps:
            if function.name == "identity":
                slope = "1.0"
            elif function.name == "relu":
                slope = "(z > 0.0 ? 1.0 : 0.0)"
            else:
                saved = "z" if form.of_input else "gate"
                slope = writer.activation("slope", function, saved)
            lines.append(f"    factor{i}[i] = gate;")
            lines.append(f"    factor{i}[{n} + i] = {slope} * {x}[i];")
        lines.append(f"    {to}[i] = gate * {x}[i];")
        return [f"  for (size_t i = 0; i < {n}; ++i) {{", *lines, "  }"], ""

    @staticmethod
    def c_tangent(writer: Writer, i: int, node: Node, to: str, x: str) -> list[str]:
        """Return lines that map input tangents ``x`` to output tangents ``to``."""
        call = writer.call("glu_tangent", to, x, f"factor{i}", str(node.n_out))
        return [f"  {call};"]

    @staticmethod
    def c_cotangent(
        writer: Writer, i: int, node: Node, to: str, own: str, add: int
    ) -> list[str]:
        """Return lines that map output cotangents to input cotangents."""
        arguments = to, own, f"factor{i}", str(node.n_out), str(add)
        return [f"  {writer.call('glu_backward', *arguments)};"]


class ScaleForm(LayerForm):
    """`Scale`; `to_torch` has its module."""

    layer = Scale

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        factors = graph.array(f"{step.name}.weight", step.arrays(mlp)["weight"])
        return graph.node("Mul", x, factors)

    @staticmethod
    def c_value(
        writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return an expression for one element of the value."""
        return [], f"{x}[i] * {writer.parameters(i, node)[0]}[i]"

    @staticmethod
    def c_tangent(writer: Writer, i: int, node: Node, to: str, x: str) -> list[str]:
        """Return lines that map input tangents ``x`` to output tangents ``to``."""
        return columns_scaled(writer, writer.parameters(i, node)[0], node, to, x)

    @staticmethod
    def c_cotangent(
        writer: Writer, i: int, node: Node, to: str, own: str, add: int
    ) -> list[str]:
        """Return lines that map output cotangents to input cotangents."""
        factors = writer.parameters(i, node)[0]
        return columns_scaled(writer, factors, node, to, own, add)
