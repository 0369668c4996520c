"""Layers with their names and widths: the base class of all nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .arrays import Array


@dataclass
class Pass:
    """What a pass reads beside its input, and the statistics or gradients it leaves.

    Arrays go by name. ``draw`` is what masks depend on, (seed, epoch, step), or None
    in inference mode.
    """

    params: Mapping[str, Array]
    buffers: Mapping[str, Array]
    draw: tuple[int, int, int] | None = None
    running: dict[str, Array] = field(default_factory=dict)
    grads: dict[str, Array] = field(default_factory=dict)


@dataclass
class Node:
    """A layer with its name and widths. Forward returns what backward needs, too.

    Backward returns dx and writes its parameters' gradients into ``run.grads``.
    """

    layer: Any
    name: str
    n_in: int
    n_out: int

    @property
    def leaves(self) -> list[Node]:
        """The node, or those inside it, in the order of their parameters."""
        return [self]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its parameters by name, in their order."""
        return {}

    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        """Return the output, and what backward needs."""
        raise NotImplementedError

    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        """Return dx; write the gradients of parameters."""
        raise NotImplementedError


Tape: TypeAlias = list[Any]  # what each node of a sequence saved


def forward_nodes(nodes: list[Node], h: Array, run: Pass) -> tuple[Array, Tape]:
    """Run through a sequence; its output, and what each node saved."""
    tape = []
    for node in nodes:
        h, saved = node.forward(h, run)
        tape.append(saved)
    return h, tape


def backward_nodes(nodes: list[Node], dh: Array, tape: Tape, run: Pass) -> Array:
    """Go back through a sequence, last to first (the chain rule)."""
    for node, saved in zip(reversed(nodes), reversed(tape), strict=True):
        dh = node.backward(dh, saved, run)
    return dh
