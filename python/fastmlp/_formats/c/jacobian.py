"""C code of the Jacobian, which computes a few rows or columns at a time.

A direction is a unit vector. Forward mode maps each direction of the input to a column
of the Jacobian; backward mode maps each direction of the output to a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import _core
from ..._network import ops
from ..layers import BY_KIND
from .inference import Values
from .writer import Function, ScratchAllocator

if TYPE_CHECKING:
    from .writer import Writer

# Largest number of directions that are computed together.
_DIRECTIONS = 16
# Activations whose outputs are kept, because their derivatives are computed from the
# outputs when needed. The derivatives of other activations are stored.
_MASKS = ("relu", "softmax")


class Jacobian:
    """The C function that computes the Jacobian.

    Attributes
    ----------
    directions : int
        Number of directions that are computed together.
    function : Function
        Body of the function.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.directions = min(self._all_directions(), _DIRECTIONS)
        self.function = self._write()

    def _is_forward(self) -> bool:
        """Whether forward mode takes fewer multiplications, by the core's rule."""
        forward = back = 0
        for node in self._writer.nodes:
            size = node.n_in * node.n_out if node.kind == "dense" else 0
            if node.input != ops.INPUT:
                forward += size
            if node is not self._writer.nodes[-1] or node.activation != "identity":
                back += size
        return self._writer.mlp.n_in * forward < self._writer.mlp.n_out * back

    def _all_directions(self) -> int:
        return self._writer.mlp.n_in if self._is_forward() else self._writer.mlp.n_out

    def _write(self) -> Function:
        writer, scratch = self._writer, ScratchAllocator("h")
        kept = {i for i, n in enumerate(writer.nodes) if n.activation in _MASKS}
        values = Values(writer, scratch, kept, slopes=True)
        self.at = values.at
        stored: list[str] = []  # declarations of arrays that the derivatives need
        elements = scratch.elements()
        for i, node in enumerate(writer.nodes):
            if node.has_slope:
                stored.append(f"  T slope{i}[{node.n_out}];")
                elements += node.n_out
            if node.kind in BY_KIND:
                memory = BY_KIND[node.kind].c_memory(i, node)
                names = [v if n is None else f"{v}[{n}]" for v, n in memory.items()]
                stored += [f"  T {', '.join(names)};"] if names else []
                elements += sum(n or 1 for n in memory.values())
        derivatives = ScratchAllocator("t")
        inner = (self._tangents if self._is_forward() else self._cotangents)(
            derivatives
        )
        elements += derivatives.elements() * self.directions
        return Function(
            [
                *scratch.declarations(),
                *stored,
                *derivatives.declarations(" * @D"),
                *values.lines,
                f"  for (size_t first = 0; first < {self._all_directions()}; "
                "first += @D) {",
                *(f"  {line}" for line in inner),
                "  }",
            ],
            elements,
        )

    def _listed(self, i: int) -> bool:
        """Whether products may skip the elements of node i that its relu set to 0."""
        return (
            i != ops.INPUT
            and self._all_directions() >= _core.GATHER_PAYS
            and self._writer.nodes[i].activation == "relu"
        )

    def _times_slope(self, i: int, t: str) -> list[str]:
        node = self._writer.nodes[i]
        if node.activation == "identity":
            return []
        if node.has_slope:
            self._writer.used.add("times_slope")
            return [f"  @times_slope({t}, slope{i}, {node.n_out});"]
        function = f"times_{node.activation}"
        self._writer.used.add(function)
        return [f"  @{function}({t}, {self.at[i]}, {node.n_out});"]

    def _tangents(self, scratch: ScratchAllocator) -> list[str]:
        """Return lines that compute columns of the Jacobian in forward mode."""
        writer = self._writer
        nodes, n_in, n_out = writer.nodes, writer.mlp.n_in, writer.mlp.n_out
        last = writer.last_reads(set())
        lines: list[str] = []
        t: dict[int, str] = {}
        unit = [s for i in nodes if i.kind != "dense" for s in (i.input, i.other)]
        if ops.INPUT in unit:
            writer.used.add("unit")
            t[ops.INPUT] = scratch.take(n_in)
            lines.append(f"  @unit({t[ops.INPUT]}, {n_in}, first);")
        for i, node in enumerate(nodes):
            if node.passes:
                continue
            n = node.n_out
            sources = writer.sources(node)
            x = t.get(sources[0], "")
            mine = [
                s for s in sources if node.works_in_place and last[s] == i and s in t
            ]
            to = t[i] = t[mine[0]] if mine else scratch.take(n)
            scale = writer.parameters(i, node)[0]
            if node.kind == "dense" and node.input == ops.INPUT:
                writer.used.add("seed")
                lines.append(f"  @seed({to}, {scale}, {n}, first, {n_in}, {n}, 1);")
            elif node.kind == "dense":
                writer.used.add("times_weights")
                listed = self._listed(node.input) and writer.uses[node.input] == 1
                relu = self.at[node.input] if listed else "0"
                lines.append(
                    f"  @times_weights({to}, {x}, {scale}, {relu}, {node.n_in}, {n}, "
                    f"{n}, 1, 0);"
                )
            elif node.kind == "add":
                size, other = f"{n} * @D", t[sources[1]]
                change = f"{to}[i] = {x}[i] + {other}[i];"
                lines.append(f"  for (size_t i = 0; i < {size}; ++i) {change}")
            elif node.kind == "concat":
                lines += writer.side_by_side(node, to, x, t[sources[1]])
            elif node.kind in BY_KIND:
                lines += BY_KIND[node.kind].c_tangent(writer, i, node, to, x)
            else:
                lines += writer.accumulate(x, to, 0, n)
            if not self._defers_slope(i):
                lines += self._times_slope(i, to)
            for source in set(sources):
                if last[source] == i and source in t and t[source] != to:
                    scratch.release(t[source])
        out = t[writer.source(len(nodes) - 1)]
        return [
            *lines,
            f"  for (size_t i = 0; i < {n_out}; ++i) {{",
            f"    for (size_t d = 0; d < @D && first + d < {n_in}; ++d) {{",
            f"      jac[i * {n_in} + first + d] = {out}[i * @D + d];",
            "    }",
            "  }",
        ]

    def _defers_slope(self, i: int) -> bool:
        """Whether the derivative of node i's relu is left to the next dense layer.

        That layer skips the elements that the relu set to 0.
        """
        return (
            self._listed(i)
            and self._writer.uses[i] == 1
            and any(n.kind == "dense" and n.input == i for n in self._writer.nodes)
        )

    def _cotangents(self, scratch: ScratchAllocator) -> list[str]:
        """Return lines that compute rows of the Jacobian in backward mode.

        If several nodes read a value, the last of them writes the value's cotangent and
        the others add to the cotangent.
        """
        writer = self._writer
        nodes, n_in, n_out = writer.nodes, writer.mlp.n_in, writer.mlp.n_out
        lines: list[str] = []
        c: dict[int, str] = {}
        top, sloped = len(nodes), len(nodes)

        def place(to: int) -> tuple[str, int]:
            """Return the node's cotangent buffer, and 1 if it already holds values."""
            if to in c:
                return c[to], 1
            c[to] = scratch.take(n_in if to == ops.INPUT else nodes[to].n_out)
            return c[to], 0

        final = nodes[-1]
        if final.kind == "dense" and final.activation == "identity":
            # The cotangents of the network's output are unit vectors, so the cotangents
            # of this layer's input are the layer's weights.
            top -= 1
            writer.used.add("seed")
            to, _ = place(final.input)
            weights = writer.parameters(top, final)[0]
            lines.append(
                f"  @seed({to}, {weights}, {final.n_in}, first, {n_out}, 1, {n_out});"
            )
            if final.input != ops.INPUT:
                sloped = final.input
                if not self._skips_zeros(sloped):
                    lines += self._times_slope(sloped, to)
        else:
            writer.used.add("unit")
            lines.append(f"  @unit({place(top - 1)[0]}, {n_out}, first);")
        for i in reversed(range(top)):
            node, own = nodes[i], c[i]
            n = node.n_out
            skips = self._skips_zeros(i)
            if i != sloped and not skips:
                lines += self._times_slope(i, own)
            if node.other is not None:
                joins = node.kind == "concat"
                part = writer.part_after(node, own) if joins else own
                size = n - node.n_in if joins else n
                lines += writer.accumulate(part, *place(node.other), size)
            if node.works_in_place and self._has_one_reader(node.input):
                c[node.input] = own
                to, add = own, 0
            else:
                to, add = place(node.input)
            weight = writer.parameters(i, node)[0]
            if node.kind == "dense":
                writer.used.add("times_weights")
                mask = self.at[i] if skips else "0"
                lines.append(
                    f"  @times_weights({to}, {own}, {weight}, {mask}, {n}, "
                    f"{node.n_in}, 1, {n}, {add});"
                )
            elif node.kind in BY_KIND:
                lines += BY_KIND[node.kind].c_cotangent(writer, i, node, to, own, add)
            else:
                lines += writer.accumulate(own, to, add, node.n_in)
            if to != own:
                scratch.release(own)
        return [
            *lines,
            f"  for (size_t d = 0; d < @D && first + d < {n_out}; ++d) {{",
            f"    for (size_t i = 0; i < {n_in}; ++i) {{",
            f"      jac[(first + d) * {n_in} + i] = {c[ops.INPUT]}[i * @D + d];",
            "    }",
            "  }",
        ]

    def _has_one_reader(self, to: int) -> bool:
        """Whether the value of node ``to`` is read by one node only."""
        return to != ops.INPUT and self._writer.uses[to] == 1

    def _skips_zeros(self, i: int) -> bool:
        """Whether the layer's backward product skips outputs that its relu set to 0."""
        return self._writer.nodes[i].kind == "dense" and self._listed(i)
