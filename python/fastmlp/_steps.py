"""A model's layers as one flat list of steps, for those who look inside.

The names are those of ``torch.nn.Sequential``, in which an activation follows each
dense layer and takes a place of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._validate import Array
    from .mlp import MLP

# The kinds of step, by the name of the layer's class.
KINDS = {
    "Dense": "dense",
    "Activation": "activation",
    "Dropout": "dropout",
    "LayerNorm": "layer_norm",
    "BatchNorm": "batch_norm",
}
INPUT = -1


class Step:
    """One thing that the network computes.

    Attributes
    ----------
    kind : str
        "dense", "activation", "dropout", "layer_norm", "batch_norm" or "add".
    layer : object
        The layer it comes from; None for a projection, the `Residual` for "add".
    name : str
        As in ``state_dict``: "0", "3.body.0", "3.projection".
    core : str
        As in the core, which counts layers: "0", "2.body.0", "2.projection".
    depth : int
        How many residual blocks it is inside.
    n_in, n_out : int
        Widths.
    activation : str
        What follows the sum or, of an "activation", what it is.
    weight, bias : slice or None
        Where in ``params`` W and b are; scale and shift of a norm.
    stats : int
        Where in ``buffers`` the running mean is, the variance follows; -1: nowhere.
    source, other : int
        The steps whose outputs it takes, `INPUT` for the network's input; ``other`` is
        the second addend of "add".
    """

    __slots__ = (
        "activation",
        "bias",
        "core",
        "depth",
        "kind",
        "layer",
        "n_in",
        "n_out",
        "name",
        "other",
        "source",
        "stats",
        "weight",
    )

    def __init__(
        self,
        kind: str,
        layer: Any,
        name: tuple[str, str],
        depth: int,
        widths: tuple[int, int],
        source: int,
    ) -> None:
        self.kind = kind
        self.layer = layer
        self.name, self.core = name
        self.depth = depth
        self.n_in, self.n_out = widths
        self.source = source
        self.activation = "identity"
        self.weight: slice | None = None
        self.bias: slice | None = None
        self.stats = -1
        self.other = INPUT

    @property
    def n_params(self) -> int:
        """How many parameters it has."""
        slices = (s for s in (self.weight, self.bias) if s is not None)
        return sum(s.stop - s.start for s in slices)

    def matrix(self, params: Array) -> Array:
        """Return W (in, out) of a dense step, a view of a flat vector like params."""
        return params[self.weight].reshape(self.n_in, self.n_out)


class _Walk:
    """Numbers the steps, and gives out parameters and buffers in their order."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.at = 0
        self.stats = 0

    def take(self, count: int) -> slice:
        self.at += count
        return slice(self.at - count, self.at)

    def add(self, step: Step) -> int:
        self.steps.append(step)
        return len(self.steps) - 1

    def dense(
        self,
        layer: Any,
        name: tuple[str, str],
        depth: int,
        widths: tuple[int, int],
        source: int,
        bias: bool,
    ) -> int:
        step = Step("dense", layer, name, depth, widths, source)
        step.weight = self.take(widths[0] * widths[1])
        step.bias = self.take(widths[1]) if bias else None
        return self.add(step)

    def sequence(
        self, layers: Any, prefix: tuple[str, str], depth: int, width: int, source: int
    ) -> tuple[int, int]:
        """Add layers one after another; return the last step and its width."""
        place = 0
        for count, layer in enumerate(layers):
            name = f"{prefix[0]}{place}", f"{prefix[1]}{count}"
            place += 1
            if type(layer).__name__ == "Residual":
                source, width = self.residual(layer, name, depth, width, source)
                continue
            kind = KINDS[type(layer).__name__]
            if kind == "dense":
                source = self.dense(
                    layer, name, depth, (width, layer.n), source, layer.bias
                )
                width = layer.n
                self.steps[source].activation = layer.activation
                place += layer.activation != "identity"
                continue
            step = Step(kind, layer, name, depth, (width, width), source)
            if kind == "activation":
                step.activation = _name(layer.function)
            if kind in ("layer_norm", "batch_norm") and layer.affine:
                step.weight = self.take(width)
                step.bias = self.take(width)
            if kind == "batch_norm":
                step.stats = self.stats
                self.stats += 2 * width
            source = self.add(step)
        return source, width

    def residual(
        self, layer: Any, name: tuple[str, str], depth: int, width: int, source: int
    ) -> tuple[int, int]:
        body = f"{name[0]}.body.", f"{name[1]}.body."
        end, wide = self.sequence(layer.layers, body, depth + 1, width, source)
        skip = source
        if wide != width:
            place = f"{name[0]}.projection", f"{name[1]}.projection"
            skip = self.dense(None, place, depth + 1, (width, wide), source, True)
        step = Step("add", layer, name, depth, (wide, wide), end)
        step.other = skip
        return self.add(step), wide


def steps(mlp: MLP) -> list[Step]:
    """Return what a model computes, in order."""
    walk = _Walk()
    walk.sequence(mlp.layers, ("", ""), 0, mlp.n_in, INPUT)
    return walk.steps


def _name(function: Any) -> str:
    """Return the name of an activation, which may be a function."""
    return str(getattr(function, "__name__", function))


def label(step: Step) -> str:
    """Say in a word or two what a step is, such as "dense relu"."""
    kind = "projection" if step.kind == "dense" and step.layer is None else step.kind
    kind = kind.replace("_", " ")
    if step.kind == "activation":
        return step.activation
    return kind if step.activation == "identity" else f"{kind} {step.activation}"


def affine(step: Step, mlp: MLP) -> tuple[Array, Array] | None:
    """Return (a, c), float64, of a step that in inference is x -> x @ a + c or x a + c.

    ``a`` is a matrix for a dense step (its activation not counted), and a vector for
    batch normalisation; None for other steps.
    """
    params = mlp.params.astype(np.float64)
    if step.kind == "dense":
        bias = np.zeros(step.n_out) if step.bias is None else params[step.bias]
        return step.matrix(params), bias
    if step.kind == "batch_norm":
        stats = np.asarray(mlp.buffers, np.float64)[step.stats :]
        mean, variance = stats[: step.n_out], stats[step.n_out : 2 * step.n_out]
        slope = 1 / np.sqrt(variance + step.layer.eps)
        if step.weight is not None:
            slope = slope * params[step.weight]
        shift = 0.0 if step.bias is None else params[step.bias]
        return slope, shift - mean * slope
    return None


def last_uses(network: list[Step]) -> list[int]:
    """Return for each step the last one that takes its output (itself if none)."""
    uses = list(range(len(network)))
    for i, step in enumerate(network):
        for j in (step.source, step.other) if step.kind == "add" else (step.source,):
            if j != INPUT:
                uses[j] = i
    return uses


def tree(network: list[Step]) -> Iterator[Step]:
    """Go through the steps as layers are written: a block before what is in it."""
    blocks = {s.name: s for s in network if s.kind == "add"}
    seen: set[str] = set()
    for step in network:
        parts = step.name.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name in blocks and name not in seen:
                seen.add(name)
                yield blocks[name]
        if step.kind != "add":
            yield step
