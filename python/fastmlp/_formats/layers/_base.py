"""The base class of the forms of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ...layers import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._network.model import Model
    from ..._network.ops import Step
    from ..._validate import Array
    from ..c.writer import Node, Writer
    from ..from_keras import Item, Reader
    from ..to_onnx import Graph
    from ..torch_modules import ModuleReader


class LayerForm:
    """How a kind of layer is expressed in other formats; by default, as an identity."""

    layer: ClassVar[type[Layer]]
    # Names of the classes in torch.nn and in keras.layers, if there are any.
    torch: ClassVar[str | None] = None
    keras: ClassVar[str | None] = None
    # Functions of the C header besides those of `c.math`, by name.
    c_functions: ClassVar[dict[str, str]] = {}

    @classmethod
    def to_torch(
        cls, layer: Any, width: int, nn: Any, empty: Callable[..., Any]
    ) -> Any:
        """Return a PyTorch module; ``empty`` leaves its parameters uninitialised."""
        return nn.Identity()

    @staticmethod
    def from_torch(what: str, module: Any, reader: ModuleReader) -> None:
        """Convert a PyTorch module to a layer, and add it to the reader's builder."""

    @staticmethod
    def from_keras(layer: Any, reader: Reader) -> Item:
        """Convert a Keras layer; return fastmlp's layer with its arrays."""
        return reader.item(None)

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        return x

    @staticmethod
    def c_arrays(node: Node, arrays: dict[str, Array]) -> dict[str, Array]:
        """Return the arrays, besides parameters, that the C header needs, by name."""
        return {}

    @staticmethod
    def c_memory(i: int, node: Node) -> dict[str, int | None]:
        """Return sizes of C variables that the Jacobian needs (None for scalars)."""
        return {}

    @classmethod
    def c_value(
        cls, writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return C code that computes the value of node i from ``x``.

        The result is (lines, expression), one of which is empty. Lines write all
        elements to ``to``; an expression is assigned to each ``to[i]`` by the caller.
        ``keeps`` says whether the lines must also set the variables of `c_memory`.
        """
        return [], f"{x}[i]"

    @classmethod
    def c_tangent(
        cls, writer: Writer, i: int, node: Node, to: str, x: str
    ) -> list[str]:
        """Return lines that map input tangents ``x`` to output tangents ``to``."""
        return writer.accumulate(x, to, 0, node.n_out)

    @classmethod
    def c_cotangent(
        cls, writer: Writer, i: int, node: Node, to: str, own: str, add: int
    ) -> list[str]:
        """Return lines that map output cotangents ``own`` to input cotangents ``to``.

        If ``add`` is 1, the results are added to ``to``.
        """
        return writer.accumulate(own, to, add, node.n_out)


def columns_scaled(
    writer: Writer, factors: str, node: Node, to: str, own: str, add: int = 0
) -> list[str]:
    """Return lines that write derivatives times factors, or add them if ``add``."""
    n = node.n_out
    if not add:
        call = writer.call("times_slope", to, factors, str(n))
        return [*writer.accumulate(own, to, 0, n), f"  {call};"]
    return [
        f"  for (size_t i = 0; i < {n} * @D; ++i) {{",
        f"    {to}[i] = fma({own}[i], {factors}[i / @D], {to}[i]);",
        "  }",
    ]
