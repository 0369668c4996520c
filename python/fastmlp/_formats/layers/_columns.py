"""Layers for the columns of tables; `to_torch` has their modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...layers import Columns, Embedding
from ._base import LayerForm

if TYPE_CHECKING:
    from ..._network.model import Model
    from ..._network.ops import Step
    from ..c.writer import Node, Writer
    from ..to_onnx import Graph


class ColumnsForm(LayerForm):
    """`Columns`."""

    layer = Columns

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        indices = graph.integers(f"{step.name}.columns", step.layer.columns)
        return graph.node("Gather", x, indices, axis=1)

    @classmethod
    def c_value(
        cls, writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return lines that compute the value of node i from ``x``."""
        taken = enumerate(node.layer.columns)
        return [f"  {to}[{j}] = {x}[{c}];" for j, c in taken], ""

    @classmethod
    def c_tangent(
        cls, writer: Writer, i: int, node: Node, to: str, x: str
    ) -> list[str]:
        """Return lines that map input tangents ``x`` to output tangents ``to``."""
        return [
            f"  memcpy({to} + {j} * @D, {x} + {c} * @D, @D * sizeof *{to});"
            for j, c in enumerate(node.layer.columns)
        ]

    @classmethod
    def c_cotangent(
        cls, writer: Writer, i: int, node: Node, to: str, own: str, add: int
    ) -> list[str]:
        """Return lines that map output cotangents to input cotangents."""
        lines = [] if add else [f"  memset({to}, 0, {node.n_in} * @D * sizeof *{to});"]
        for j, c in enumerate(node.layer.columns):
            lines += writer.accumulate(
                f"({own} + {j} * @D)", f"({to} + {c} * @D)", 1, 1
            )
        return lines


class EmbeddingForm(LayerForm):
    """`Embedding`."""

    layer = Embedding
    c_functions: ClassVar = {
        # Other numbers than those of categories select the nearest category.
        "embed": """
static inline void @embed(T *h, T x, const T *table, size_t size, size_t n) {
  const T last = (T)(size - 1);
  const size_t at = !(x > 0.0) ? 0 : x < last ? (size_t)x : size - 1;
  memcpy(h, table + at * n, n * sizeof *h);
}
""",
    }

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        layer, name = step.layer, step.name
        numbers = graph.node("Cast", x, to=graph.onnx.TensorProto.INT64)
        begins = graph.integers(f"{name}.begins", table_begins(layer.sizes))
        weight = step.arrays(mlp)["weight"].reshape(-1, layer.n)
        tables = graph.array(f"{name}.weight", weight)
        vectors = graph.node("Gather", tables, graph.node("Add", numbers, begins))
        shape = graph.integers(f"{name}.shape", (-1, step.n_out))
        return graph.node("Reshape", vectors, shape)

    @classmethod
    def c_value(
        cls, writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return lines that compute the value of node i from ``x``."""
        n, tables = node.layer.n, writer.parameters(i, node)[0]
        lines = []
        begins = table_begins(node.layer.sizes)
        for c, (size, begin) in enumerate(zip(node.layer.sizes, begins, strict=True)):
            place = f"{to} + {c * n}", f"{x}[{c}]", f"{tables} + {begin * n}"
            lines.append(f"  {writer.call('embed', *place, str(size), str(n))};")
        return lines, ""

    @classmethod
    def c_tangent(
        cls, writer: Writer, i: int, node: Node, to: str, x: str
    ) -> list[str]:
        """Return lines that map input tangents ``x`` to output tangents ``to``."""
        return [f"  memset({to}, 0, {node.n_out} * @D * sizeof *{to});"]

    @classmethod
    def c_cotangent(
        cls, writer: Writer, i: int, node: Node, to: str, own: str, add: int
    ) -> list[str]:
        """Return lines that map output cotangents to input cotangents."""
        if add:
            return []
        return [f"  memset({to}, 0, {node.n_in} * @D * sizeof *{to});"]


def table_begins(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the row at which the table of each column of an `Embedding` begins."""
    return tuple(int(begin) for begin in np.cumsum([0, *sizes[:-1]]))
