"""C code of inference, which computes a network's output from its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._network import ops
from ..activations import ACTIVATIONS
from ..layers import BY_KIND
from .writer import Function, ScratchAllocator

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np

    from .writer import Node, Writer

# Largest number of outputs of a dense layer whose sums are kept in registers at once.
_COLUMNS = {"float32": 64, "float64": 32}


def predict(writer: Writer) -> Function:
    """Return the function that computes the network's output y from its input x."""
    scratch = ScratchAllocator("h")
    values = Values(writer, scratch, kept=(), slopes=False)
    return Function([*scratch.declarations(), *values.lines], scratch.elements())


class Values:
    """C code that computes y from x; values needed at different times share buffers.

    Parameters
    ----------
    writer
        The network.
    scratch
        Allocator of the buffers.
    kept
        Nodes whose buffers must not be reused, because their values are needed after
        all nodes have been computed.
    slopes
        Whether to also store the derivatives of activations (for node 3 in ``slope3``)
        and the values that the derivatives of normalisations need (in ``hat3`` and
        ``factor3``).

    Attributes
    ----------
    lines : list of str
        Lines of C code.
    at : dict of int to str
        For each node, the name of the buffer that holds its value.
    """

    def __init__(
        self,
        writer: Writer,
        scratch: ScratchAllocator,
        kept: Collection[int],
        slopes: bool,
    ) -> None:
        self._writer = writer
        nodes, end = writer.nodes, len(writer.nodes)
        last = writer.last_reads(kept)
        self.at = at = {ops.INPUT: "x"}
        # Maps each node whose value is overwritten in place to the overwriting node.
        follower: dict[int, int] = {}
        for i, node in enumerate(nodes):
            if node.passes or not node.works_in_place:
                continue
            for source in writer.sources(node):
                if source != ops.INPUT and last[source] == i:
                    follower[source] = i
                    break
        # The last node writes to y. If it overwrites another node's value in place,
        # that node writes to y too, and so on back along the chain.
        chain = writer.source(end - 1)
        while chain != ops.INPUT:
            at[chain] = "y"
            chain = next((a for a, b in follower.items() if b == chain), ops.INPUT)

        self.lines: list[str] = []
        in_place = {b: a for a, b in follower.items()}
        for i, node in enumerate(nodes):
            if node.passes:
                continue
            if i not in at:
                mine = in_place.get(i)
                at[i] = scratch.take(node.n_out) if mine is None else at[mine]
            self.lines += self._value(i, node, slopes)
            for source in set(writer.sources(node)):
                if last[source] == i and follower.get(source) != i:
                    scratch.release(at[source])
        output = writer.source(end - 1)
        if output == ops.INPUT:
            self.lines.append(f"  memcpy(y, x, {writer.mlp.n_out} * sizeof *y);")

    def _value(self, i: int, node: Node, slopes: bool) -> list[str]:
        writer = self._writer
        n, to = node.n_out, self.at[i]
        x, *others = (self.at[s] for s in writer.sources(node))
        scale, shift = writer.parameters(i, node)
        z = f"{to}[i]"
        lines: list[str] = []
        inside: list[str] = []  # the body of a loop over the elements
        if node.kind == "dense":
            key = node.n_in, n, node.bias is not None
            function = f"dense_{node.n_in}x{n}" + ("" if key[2] else "_plain")
            writer.dense[key] = function
            bias = f", {shift}" if key[2] else ""
            lines.append(f"  @{function}({to}, {x}, {scale}{bias});")
        elif node.kind == "add":
            inside.append(f"{z} = {x}[i] + {others[0]}[i];")
        elif node.kind == "concat":
            k = node.n_in
            lines.append(f"  memcpy({to}, {x}, {k} * sizeof *{to});")
            lines.append(f"  memcpy({to} + {k}, {others[0]}, {n - k} * sizeof *{to});")
        elif node.kind in BY_KIND:
            calls, element = BY_KIND[node.kind].c_value(writer, i, node, to, x, slopes)
            lines += calls
            if element:
                inside.append(f"{z} = {element};")
        else:
            z = f"{x}[i]"

        kind = node.function.name
        if kind not in ("identity", "softmax"):
            form = ACTIVATIONS[kind]
            call = writer.activation("act", node.function, z)
            inside.append(f"{to}[i] = {call};")
            if slopes and node.has_slope:
                argument = z if form.of_input else f"{to}[i]"
                call = writer.activation("slope", node.function, argument)
                line = f"slope{i}[i] = {call};"
                inside.insert(len(inside) - form.of_input, line)
        lines += _loop(n, inside)
        if kind == "softmax":
            writer.used.add("softmax")
            source = x if node.kind == "activation" else to
            lines.append(f"  @softmax({to}, {source}, {n});")
        return lines


def dense_function(
    name: str, k: int, n: int, biased: bool, dtype: np.dtype[np.floating]
) -> list[str]:
    """Return the lines of a C function that computes h = x W + b for fixed widths.

    Each output is summed by fused multiply-adds in the order of the inputs.
    """
    bias = ", const T *b" if biased else ""
    lines = [
        f"static inline void @{name}(",
        f"    T *@restrict h, const T *x, const T *w{bias}) {{",
        "  size_t j, p, q;",
    ]

    def block(columns: int, at: str) -> list[str]:
        start = f"b[{at} + q]" if biased else "0.0"
        each = f"for (q = 0; q < {columns}; ++q)"
        return [
            f"    T sum[{columns}];",
            f"    {each} sum[q] = {start};",
            f"    for (p = 0; p < {k}; ++p) {{",
            "      const T value = x[p];",
            f"      const T *row = w + p * {n} + {at};",
            f"      {each} sum[q] = fma(value, row[q], sum[q]);",
            "    }",
            f"    {each} h[{at} + q] = sum[q];",
        ]

    most = _COLUMNS[dtype.name]
    whole = n // most * most
    if whole:
        lines.append(f"  for (j = 0; j < {whole}; j += {most}) {{")
        lines += [*block(most, "j"), "  }"]
    if whole < n:
        lines += [f"  j = {whole};", "  {", *block(n - whole, "j"), "  }"]
    return [*lines, "}"]


def _loop(n: int, inside: list[str]) -> list[str]:
    if not inside:
        return []
    if len(inside) == 1:
        return [f"  for (size_t i = 0; i < {n}; ++i) {inside[0]}"]
    body = [f"    {line}" for line in inside]
    return [f"  for (size_t i = 0; i < {n}; ++i) {{", *body, "  }"]
