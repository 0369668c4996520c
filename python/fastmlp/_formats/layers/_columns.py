"""Layers for the columns of tables; `to_torch` has their modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...layers import Activation, Columns, Embedding, Periodic, PiecewiseLinear
from ._base import LayerForm

if TYPE_CHECKING:
    from ..._network.model import Model
    from ..._network.ops import Step
    from ..._validate import Array
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


class PeriodicForm(LayerForm):
    """`Periodic`."""

    layer = Periodic
    # Derivatives are stored as [element][direction]. The arguments are those of a
    # column: its n frequencies w, and the slopes of its sines and cosines.
    c_functions: ClassVar = {
        "periodic_tangent": """
static inline void @periodic_tangent(T *to, const T *t, const T *w, const T *slope,
                                     T turn, size_t n) {
  size_t j, d;
  for (j = 0; j < n; ++j) {
    for (d = 0; d < @D; ++d) {
      const T angle = turn * w[j] * t[d];
      to[j * @D + d] = slope[j] * angle;
      to[(n + j) * @D + d] = slope[n + j] * angle;
    }
  }
}
""",
        "periodic_back": """
static inline void @periodic_back(T *to, const T *c, const T *w, const T *slope,
                                  T turn, size_t n, int add) {
  size_t j, d;
  for (d = 0; d < @D; ++d) {
    T sum = 0;
    for (j = 0; j < n; ++j) {
      const T first = c[j * @D + d] * slope[j];
      const T both = first + c[(n + j) * @D + d] * slope[n + j];
      sum = sum + turn * w[j] * both;
    }
    to[d] = add ? to[d] + sum : sum;
  }
}
""",
    }

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        n_in, n = step.n_in, step.layer.n
        turns = 2 * np.pi * step.arrays(mlp)["weight"].reshape(n_in, n)
        deep = graph.integers(f"{step.name}.deep", (-1, n_in, 1))
        angles = graph.node(
            "Mul",
            graph.node("Reshape", x, deep),
            graph.array(f"{step.name}.weight", turns),
        )
        both = graph.node("Sin", angles), graph.node("Cos", angles)
        flat = graph.integers(f"{step.name}.flat", (-1, step.n_out))
        return graph.node("Reshape", graph.node("Concat", *both, axis=2), flat)

    @staticmethod
    def c_memory(i: int, node: Node) -> dict[str, int | None]:
        """Return sizes of C variables that the Jacobian needs (None for scalars)."""
        return {f"factor{i}": node.n_out}

    @classmethod
    def c_value(
        cls, writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return lines that compute the value of node i from ``x``."""
        n, w = node.layer.n, writer.parameters(i, node)[0]
        turn = writer.literal(2 * np.pi)
        sine = writer.activation("act", Activation("sin"), "z")
        cosine = writer.activation("act", Activation("cos"), "z")
        lines = [
            f"  for (size_t i = 0; i < {node.n_in * n}; ++i) {{",
            f"    const size_t at = i / {n} * {2 * n} + i % {n};",
            f"    const T z = {turn} * {w}[i] * {x}[i / {n}];",
            f"    {to}[at] = {sine};",
            f"    {to}[at + {n}] = {cosine};",
        ]
        if keeps:
            lines += [
                f"    factor{i}[at] = {to}[at + {n}];",
                f"    factor{i}[at + {n}] = -{to}[at];",
            ]
        return [*lines, "  }"], ""

    @classmethod
    def c_tangent(
        cls, writer: Writer, i: int, node: Node, to: str, x: str
    ) -> list[str]:
        """Return lines that map input tangents ``x`` to output tangents ``to``."""
        n, columns = node.layer.n, f"{to} + i * {2 * node.layer.n} * @D"
        return cls._each_column(
            writer, i, node, "periodic_tangent", columns, f"{x} + i * @D", str(n)
        )

    @classmethod
    def c_cotangent(
        cls, writer: Writer, i: int, node: Node, to: str, own: str, add: int
    ) -> list[str]:
        """Return lines that map output cotangents to input cotangents."""
        n, columns = node.layer.n, f"{own} + i * {2 * node.layer.n} * @D"
        more = f"{n}, {add}"
        return cls._each_column(
            writer, i, node, "periodic_back", f"{to} + i * @D", columns, more
        )

    @staticmethod
    def _each_column(
        writer: Writer,
        i: int,
        node: Node,
        function: str,
        to: str,
        of: str,
        more: str,
    ) -> list[str]:
        n, w = node.layer.n, writer.parameters(i, node)[0]
        places = f"{w} + i * {n}", f"factor{i} + i * {2 * n}"
        turn = writer.literal(2 * np.pi)
        call = writer.call(function, to, of, *places, turn, more)
        return [f"  for (size_t i = 0; i < {node.n_in}; ++i) {call};"]


class PiecewiseLinearForm(LayerForm):
    """`PiecewiseLinear`."""

    layer = PiecewiseLinear
    # Derivatives are stored as [element][direction]; `slope` holds those of a column.
    c_functions: ClassVar = {
        "bins_tangent": """
static inline void @bins_tangent(T *to, const T *t, const T *slope, size_t n) {
  size_t j, d;
  for (j = 0; j < n; ++j) {
    for (d = 0; d < @D; ++d) to[j * @D + d] = slope[j] * t[d];
  }
}
""",
        "bins_back": """
static inline void @bins_back(T *to, const T *c, const T *slope, size_t n, int add) {
  size_t j, d;
  for (d = 0; d < @D; ++d) {
    T sum = 0;
    for (j = 0; j < n; ++j) {
      const T own = c[j * @D + d] * slope[j];
      sum = sum + own;
    }
    to[d] = add ? to[d] + sum : sum;
  }
}
""",
    }

    @staticmethod
    def to_onnx(graph: Graph, mlp: Model, step: Step, x: str) -> str:
        """Add the layer's nodes, with input ``x``; return the name of the output."""
        n_in, n, name = step.n_in, step.layer.n, step.name
        arrays = step.arrays(mlp)
        lower, slope = (
            graph.array(f"{name}.{role}", arrays[role].reshape(n_in, n))
            for role in ("lower", "slope")
        )
        deep = graph.integers(f"{name}.deep", (-1, n_in, 1))
        from_lower = graph.node("Sub", graph.node("Reshape", x, deep), lower)
        least, most = np.zeros(n), np.ones(n)
        least[0], most[-1] = -np.inf, np.inf
        at = graph.node(
            "Max",
            graph.node("Mul", from_lower, slope),
            graph.array(f"{name}.least", least),
        )
        limited = graph.node("Min", at, graph.array(f"{name}.most", most))
        return graph.node(
            "Reshape", limited, graph.integers(f"{name}.flat", (-1, step.n_out))
        )

    @staticmethod
    def c_arrays(node: Node, arrays: dict[str, Array]) -> dict[str, Array]:
        """Return the arrays, besides parameters, that the C header needs, by name."""
        return {"lower": arrays["lower"], "slope": arrays["slope"]}

    @staticmethod
    def c_memory(i: int, node: Node) -> dict[str, int | None]:
        """Return sizes of C variables that the Jacobian needs (None for scalars)."""
        return {f"factor{i}": node.n_out}

    @classmethod
    def c_value(
        cls, writer: Writer, i: int, node: Node, to: str, x: str, keeps: bool
    ) -> tuple[list[str], str]:
        """Return lines that compute the value of node i from ``x``."""
        n = node.layer.n
        lines = [
            f"  for (size_t i = 0; i < {node.n_out}; ++i) {{",
            f"    const T at = ({x}[i / {n}] - @lower{i}[i]) * @slope{i}[i];",
            f"    const int below = i % {n} != 0 && at < 0.0;",
            f"    const int above = i % {n} != {n - 1} && at > 1.0;",
            f"    {to}[i] = below ? 0.0 : above ? 1.0 : at;",
        ]
        if keeps:
            lines.append(f"    factor{i}[i] = below || above ? 0.0 : @slope{i}[i];")
        return [*lines, "  }"], ""

    @classmethod
    def c_tangent(
        cls, writer: Writer, i: int, node: Node, to: str, x: str
    ) -> list[str]:
        """Return lines that map input tangents ``x`` to output tangents ``to``."""
        n = node.layer.n
        places = f"{to} + i * {n} * @D", f"{x} + i * @D", f"factor{i} + i * {n}"
        call = writer.call("bins_tangent", *places, str(n))
        return [f"  for (size_t i = 0; i < {node.n_in}; ++i) {call};"]

    @classmethod
    def c_cotangent(
        cls, writer: Writer, i: int, node: Node, to: str, own: str, add: int
    ) -> list[str]:
        """Return lines that map output cotangents to input cotangents."""
        n = node.layer.n
        places = f"{to} + i * @D", f"{own} + i * {n} * @D", f"factor{i} + i * {n}"
        call = writer.call("bins_back", *places, str(n), str(add))
        return [f"  for (size_t i = 0; i < {node.n_in}; ++i) {call};"]


def table_begins(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the row at which the table of each column of an `Embedding` begins."""
    return tuple(int(begin) for begin in np.cumsum([0, *sizes[:-1]]))
