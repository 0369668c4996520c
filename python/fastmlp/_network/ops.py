"""A model's layers as one flat list of steps, for those who look inside.

The names are those of ``torch.nn.Sequential``, in which an activation follows each
dense layer and takes a place of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from ..layers import Activation, Dense, Residual
from . import resolve
from .model import is_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._validate import Array
    from ..mlp import MLP

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
    depth : int
        How many residual blocks it is inside.
    n_in, n_out : int
        Widths.
    activation : str
        What follows the sum or, of an "activation", what it is; of a function its name
        with "()".
    weight, bias : slice or None
        Where in ``params`` W and b are; scale and shift of a norm.
    stats : int
        Where in ``buffers`` the running mean is, the variance follows; -1: nowhere.
    source, other : int
        The steps whose outputs it takes, `INPUT` for the network's input; ``other`` is
        the second addend of "add".
    output : int or None
        Which of the core's outputs is its own; None if it has none, because the
        activation after it is computed in the same place.
    """

    __slots__ = (
        "activation",
        "bias",
        "depth",
        "kind",
        "layer",
        "n_in",
        "n_out",
        "name",
        "other",
        "output",
        "source",
        "stats",
        "weight",
    )

    def __init__(
        self,
        kind: str,
        layer: Any,
        name: str,
        depth: int,
        widths: tuple[int, int],
        source: int,
    ) -> None:
        self.kind = kind
        self.layer = layer
        self.name = name
        self.depth = depth
        self.n_in, self.n_out = widths
        self.source = source
        self.activation = "identity"
        self.weight: slice | None = None
        self.bias: slice | None = None
        self.stats = -1
        self.other = INPUT
        self.output: int | None = None

    @property
    def n_params(self) -> int:
        """How many parameters it has."""
        slices = (s for s in (self.weight, self.bias) if s is not None)
        return sum(s.stop - s.start for s in slices)

    def matrix(self, params: Array) -> Array:
        """Return W (in, out) of a dense step, a view of a flat vector like params."""
        return params[self.weight].reshape(self.n_in, self.n_out)


def steps(mlp: MLP) -> list[Step]:
    """Return what a model computes, in order.

    Offsets and widths are the core's; which step takes which output follows from the
    places of the layers.

    Raises
    ------
    TypeError
        For what is no model.
    """
    layers = dict(resolve.by_place(checked(mlp).layers))
    names = dict(resolve.torch_places(mlp.layers))
    result: list[Step] = []
    at: dict[str, int] = {}

    def add(place: str, kind: str, widths: tuple[int, int], source: int) -> Step:
        depth = place.count(".body.") + place.endswith(".projection")
        step = Step(kind, layers.get(place), names[place], depth, widths, source)
        at[place] = len(result)
        result.append(step)
        return step

    def source(place: str) -> int:
        """Return the step whose output the layer of a place takes."""
        block, _, last = place.rpartition(".")
        if last == "projection" or (block and last == "0"):
            return source(block.removesuffix(".body"))
        return INPUT if last == "0" else at[_beside(place, -1)]

    plan = mlp.core.layers
    alone = {place for place, *_ in plan}
    for i, (place, kind, n_in, n_out, weight, bias, stats) in enumerate(plan):
        layer = layers.get(place)
        step = add(place, kind, (n_in, n_out), source(place))
        if isinstance(layer, Residual):
            step.kind = "add"
            step.other = at.get(f"{place}.projection", step.source)
            step.source = at[f"{place}.body.{len(layer.layers) - 1}"]
        elif isinstance(layer, Dense):
            step.activation = str(layer.activation)
        elif isinstance(layer, Activation):
            step.activation = _name(layer.function)
        if weight >= 0:
            size = n_in * n_out if kind == "dense" else n_out
            step.weight = slice(weight, weight + size)
        if bias >= 0:
            step.bias = slice(bias, bias + n_out)
        step.stats = stats

        # An activation that the core computes together with what is before it.
        after = "" if place.endswith(".projection") else _beside(place, 1)
        follower = layers.get(after)
        if isinstance(follower, Activation) and after not in alone:
            step = add(after, "activation", (n_out, n_out), at[place])
            step.activation = _name(follower.function)
        step.output = i
    return result


def _beside(place: str, by: int) -> str:
    """Return the place of a layer so many after another in the same sequence."""
    block, dot, last = place.rpartition(".")
    return f"{block}{dot}{int(last) + by}"


def checked(mlp: Any) -> MLP:
    """Return a model, or refuse what is none."""
    if not is_model(mlp):
        raise TypeError(f"mlp must be a fm.MLP, got {_validate.describe(mlp)}")
    model: MLP = mlp
    return model


def _name(function: object) -> str:
    """Return the name of an activation; that of a function is none of the core's."""
    if isinstance(function, str):
        return function
    return f"{getattr(function, '__name__', type(function).__name__)}()"


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
        stats = mlp.buffers[step.stats :].astype(np.float64)
        arrays = {
            "running_mean": stats[: step.n_out],
            "running_var": stats[step.n_out : 2 * step.n_out],
        }
        if step.weight is not None and step.bias is not None:
            arrays |= {"weight": params[step.weight], "bias": params[step.bias]}
        return resolve.affine(step.layer, arrays)
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
