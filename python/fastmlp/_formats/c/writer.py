"""The ops, buffers and names from which the C functions of a network are written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._network import ops
from ..activations import ACTIVATIONS
from . import math

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..._network.model import Model
    from ...layers import Activation


# Kinds whose output j does not come from input j alone, even if the widths are equal.
_MOVING = ("dense", "columns", "embedding", "periodic", "piecewise_linear")


class Node(NamedTuple):
    """An op of the core. The op of a layer includes the activation that follows it.

    ``input`` and ``other`` are indices of nodes, or `ops.INPUT` for the network's
    input. ``other`` is the second addend of "add" or the second part of "concat",
    otherwise None.
    """

    kind: str
    layer: Any
    activation: str
    function: Activation
    n_in: int
    n_out: int
    weight: slice | None
    bias: slice | None
    stats: int
    input: int
    other: int | None

    @property
    def passes(self) -> bool:
        """Whether the node returns its input unchanged."""
        return ops.absent_at_inference(self.layer) or (
            self.kind == "activation" and self.activation == "identity"
        )

    @property
    def works_in_place(self) -> bool:
        """Whether the output may overwrite the input, and derivatives likewise."""
        return self.kind not in _MOVING and self.n_in == self.n_out

    @property
    def has_slope(self) -> bool:
        """Whether the Jacobian stores the activation's derivative."""
        return self.activation not in ("identity", "relu", "softmax")


def _nodes(mlp: Model) -> list[Node]:
    """Return the core's ops as nodes; refuse custom activations."""
    nodes: list[Node] = []
    steps = ops.steps(mlp)
    before = None  # a layer whose op also computes the activation after it
    for step in steps:
        if step.function.is_custom:
            raise ValueError(
                f"mlp: the activation {step.activation} of layer {step.name} is a "
                "custom function, which cannot be written as C code"
            )
        if step.output is None:
            before = step
            continue
        function = step.function
        step, before = before or step, None

        nodes.append(
            Node(
                step.kind,
                step.layer,
                function.text,
                function,
                step.n_in,
                step.n_out,
                step.weight,
                step.bias,
                step.stats,
                _node_of(steps, step.source),
                _node_of(steps, step.other) if len(step.sources) > 1 else None,
            )
        )
    return nodes


def _node_of(steps: list[ops.Step], i: int) -> int:
    """Return the index of the node that computes the value of step i."""
    return i if i == ops.INPUT else int(steps[i].output or 0)


class ScratchAllocator:
    """Buffers on the stack, shared by values that are not needed at the same time."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._sizes: list[int] = []
        self._free: list[int] = []

    def take(self, size: int) -> str:
        """Reserve the best-fitting free buffer, or a new one; return its name."""
        if self._free:
            fitting = [b for b in self._free if self._sizes[b] >= size]
            at = min(fitting or self._free, key=lambda b: abs(self._sizes[b] - size))
            self._free.remove(at)
            self._sizes[at] = max(self._sizes[at], size)
        else:
            at = len(self._sizes)
            self._sizes.append(size)
        return f"{self._prefix}{at}"

    def release(self, name: str) -> None:
        """Mark a buffer as free; ignore other names, such as x and y."""
        if re.fullmatch(rf"{self._prefix}\d+", name):
            self._free.append(int(name.removeprefix(self._prefix)))

    def declarations(self, factor: str = "") -> list[str]:
        """Return the lines that declare the buffers."""
        return [
            f"  T {self._prefix}{i}[{n}{factor}];" for i, n in enumerate(self._sizes)
        ]

    def elements(self) -> int:
        """Return the total number of elements of the buffers."""
        return sum(self._sizes)


class Function(NamedTuple):
    """The lines of a function's body, and the number of elements in its buffers."""

    lines: list[str]
    elements: int


class Writer:
    """The nodes of a model, and the functions that their C code calls.

    Attributes
    ----------
    used : set of str
        Names of the functions in `math` that the code calls.
    dense : dict of (int, int, bool) to str
        Names of the functions of dense layers. The key is the number of inputs, the
        number of outputs and whether there is a bias.
    uses : list of int
        For each node, the number of nodes that read its value.
    """

    def __init__(self, mlp: Model) -> None:
        self.mlp = mlp
        self.nodes = _nodes(mlp)
        self.dtype = mlp.dtype
        self.used: set[str] = set()
        self.dense: dict[tuple[int, int, bool], str] = {}
        self.uses = [0] * len(self.nodes)
        for node in self.nodes:
            for source in (node.input, node.other):
                if source is not None and source != ops.INPUT:
                    self.uses[source] += 1

    def source(self, i: int) -> int:
        """Return the node whose buffer holds the value of node i, or `ops.INPUT`.

        Nodes that return their input unchanged do not have buffers.
        """
        while i != ops.INPUT and self.nodes[i].passes:
            i = self.nodes[i].input
        return i

    def last_reads(self, kept: Collection[int]) -> dict[int, int]:
        """Return, for each node, the index of the last node that reads its value.

        For nodes in ``kept`` and for the output, whose values are needed after all
        nodes have been computed, the index is the number of nodes.
        """
        end = len(self.nodes)
        last: dict[int, int] = {}
        for i, node in enumerate(self.nodes):
            if node.passes:
                continue
            last[i] = i
            for source in self.sources(node):
                last[source] = i
        last.update(dict.fromkeys(kept, end))
        last[self.source(end - 1)] = end
        return last

    def sources(self, node: Node) -> list[int]:
        """Return the nodes whose buffers hold the node's inputs."""
        both = [node.input] if node.other is None else [node.input, node.other]
        return [self.source(i) for i in both]

    def side_by_side(self, node: Node, to: str, x: str, other: str) -> list[str]:
        """Return lines that write the derivatives of a "concat" to ``to``."""
        right = self.part_after(node, to)
        lines = self.accumulate(x, to, 0, node.n_in)
        return lines + self.accumulate(other, right, 0, node.n_out - node.n_in)

    def part_after(self, node: Node, of: str) -> str:
        """Return the place where the second part of a "concat" begins."""
        return f"({of} + {node.n_in} * @D)"

    def parameters(self, i: int, node: Node) -> tuple[str, str]:
        """Return the C names of weight and bias, or "0" if the node lacks them."""
        return (
            "0" if node.weight is None else f"@w{i}",
            "0" if node.bias is None else f"@b{i}",
        )

    def accumulate(self, own: str, to: str, add: int, n: int) -> list[str]:
        """Return lines that write ``own`` to ``to``, or add it there if ``add`` is 1.

        Both buffers hold the derivatives of n elements in all directions.
        """
        if to == own:
            return []
        if add:
            change = f"{to}[i] = {to}[i] + {own}[i];"
            return [f"  for (size_t i = 0; i < {n} * @D; ++i) {change}"]
        return [f"  memcpy({to}, {own}, {n} * @D * sizeof *{to});"]

    def call(self, function: str, *arguments: str) -> str:
        """Return C code that calls a function of `math`, and note that it is used."""
        self.used.add(function)
        return f"@{function}({', '.join(arguments)})"

    def activation(self, kind: str, function: Activation, argument: str) -> str:
        """Return C code of act(z), or with kind "slope" of act' from its argument."""
        form = ACTIVATIONS[function.name]
        text = form.c if kind == "act" else form.c_derivative
        constants = [
            self.literal(function.constants[constant])
            for constant in math.used_constants(function.name, text)
        ]
        return self.call(f"{kind}_{function.name}", argument, *constants)

    def literal(self, value: float) -> str:
        """Round a number to the model's dtype, and return its C literal."""
        return math.literals([float(self.dtype.type(value))], self.dtype)[0]
