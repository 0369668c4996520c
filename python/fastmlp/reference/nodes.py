"""The base class of all nodes, which are layers with their names and widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .arrays import Array


@dataclass
class Pass:
    """The arrays that a forward or backward pass reads and writes, by name.

    A pass reads ``params`` and ``buffers``. It writes new running statistics to
    ``running`` and gradients to ``grads``. ``draw`` is (seed, epoch, step), from which
    dropout masks are drawn, or None in inference mode; ``step`` is the step for
    schedules. If ``learns`` is set, `Standardise` layers first learn their statistics,
    in ``buffers``.
    """

    params: Mapping[str, Array]
    buffers: Mapping[str, Array]
    draw: tuple[int, int, int] | None = None
    step: int = 0
    running: dict[str, Array] = field(default_factory=dict)
    grads: dict[str, Array] = field(default_factory=dict)
    learns: bool = False


@dataclass
class Node:
    """A layer with its name and widths.

    `forward` also returns the values that `backward` needs. `backward` returns dx and
    writes the gradients of the layer's parameters into ``run.grads``.
    """

    layer: Any
    name: str
    n_in: int
    n_out: int

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the node's mean and variance in the buffers, if it has them."""
        return ()

    @property
    def leaves(self) -> list[Node]:
        """The node itself or, for a Residual, its inner nodes in parameter order."""
        return [self]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the node's parameters by name, in order."""
        return {}

    def statistics(self) -> dict[str, int]:
        """Return the sizes of the node's running statistics by name, in order."""
        return dict.fromkeys(self.running, self.n_out)

    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        """Return the output and the values that backward needs."""
        raise NotImplementedError

    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        """Return dx and write the gradients of the parameters."""
        raise NotImplementedError


Tape: TypeAlias = list[Any]  # the values that each node of a sequence saved


def forward_nodes(nodes: list[Node], h: Array, run: Pass) -> tuple[Array, Tape]:
    """Run nodes forward; return the output and the values that each node saved."""
    tape = []
    for node in nodes:
        h, saved = node.forward(h, run)
        tape.append(saved)
    return h, tape


def backward_nodes(nodes: list[Node], dh: Array, tape: Tape, run: Pass) -> Array:
    """Run nodes backward, from last to first (the chain rule); return dx."""
    for node, saved in zip(reversed(nodes), reversed(tape), strict=True):
        dh = node.backward(dh, saved, run)
    return dh
