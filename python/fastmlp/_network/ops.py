"""A model's operations as one flat list of steps, for summaries, plots and exports.

Steps are named as in ``torch.nn.Sequential``, where the activation of a dense layer is
a separate module after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from ..layers import Activation, activation_of
from .model import is_model
from .resolve import Place, torch_names, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._core import OpInfo
    from .._validate import Array
    from ..layers import Layer
    from .model import Model

INPUT = -1


class Step:
    """A computation of the network: an op of the core, or an activation fused with one.

    Attributes
    ----------
    kind : str
        "add" for the end of a residual block, "concat" for two arrays side by side,
        otherwise the kind of the layer.
    layer : Layer or None
        The layer: the block for "add" and "concat"; None for a projection, and for a
        joint.
    name : str
        Name in ``state_dict``: "0", "3.body.0", "3.projection", "4.branches.1.0".
    depth : int
        Number of blocks around the step.
    n_in, n_out : int
        Widths.
    activation : str
        Name of the activation of a dense layer or of an activation step, "identity" for
        other steps; a custom function's name is followed by "()", and other names by
        constants that differ from their defaults, as in "leaky_relu(slope=0.3)".
    function : Activation
        The same activation.
    weight, bias, magnitude : slice or None
        Positions of W (or of what stands for it), b and magnitudes, or of scale and
        shift, in ``params``.
    stats : int
        Position of the mean in ``buffers``, where the variance follows it; -1 if the
        layer has no such statistics.
    sources : tuple of int
        Indices of the one or two steps whose outputs this step reads, `INPUT` for the
        network's input.
    source, other : int
        The first and the last of them: the addends of "add", the parts of "concat".
    output : int or None
        Index of the core's op that has the same output as this step; None if that op
        also computes the activation in the next step.
    """

    __slots__ = (
        "activation",
        "bias",
        "depth",
        "function",
        "kind",
        "layer",
        "magnitude",
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
        layer: Layer | None,
        name: str,
        widths: tuple[int, int],
        source: int,
    ) -> None:
        self.kind = kind
        # The type is Any, because callers know the class of the layer from `kind`.
        self.layer: Any = layer
        self.name = name
        self.depth = sum(not part.isdecimal() for part in name.split("."))
        self.n_in, self.n_out = widths
        self.source = source
        self.function = (
            Activation("identity") if layer is None else activation_of(layer)
        )
        self.activation = self.function.text
        self.weight: slice | None = None
        self.bias: slice | None = None
        self.magnitude: slice | None = None
        self.stats = -1
        self.other = INPUT
        self.output: int | None = None

    @classmethod
    def of_op(cls, op: OpInfo, layer: Layer | None, name: str, source: int) -> Step:
        """Return the step of an op, without `Activation` layers fused with the op."""
        kind = "add" if op.kind == "residual" else op.kind
        step = cls(kind, layer, name, (op.n_in, op.n_out), source)
        if op.weight is not None:
            step.weight = slice(op.weight, op.weight + op.weight_size)
        if op.bias is not None:
            step.bias = slice(op.bias, op.bias + op.n_out)
        if op.magnitude is not None:
            step.magnitude = slice(op.magnitude, op.magnitude + op.n_out)
        if op.statistics is not None and op.kind != "dense":
            step.stats = op.statistics
        return step

    @property
    def sources(self) -> tuple[int, ...]:
        """Indices of the one or two steps whose outputs this step reads."""
        both = self.kind in ("add", "concat")
        return (self.source, self.other) if both else (self.source,)

    @property
    def is_joint(self) -> bool:
        """Whether this "concat" is only a part of that of a `Parallel`."""
        return self.kind == "concat" and self.layer is None

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        slices = (self.weight, self.bias, self.magnitude)
        return sum(s.stop - s.start for s in slices if s is not None)

    def matrix(self, params: Array) -> Array:
        """Return a dense step's W (in, out), a view of a vector in `params` order."""
        return params[self.weight].reshape(self.n_in, self.n_out)

    def arrays(self, mlp: Model) -> dict[str, Array]:
        """Return the arrays of the computation by role in float64; W is (in, out)."""
        params = mlp._effective().astype(np.float64)
        found: dict[str, Array] = {}
        if self.weight is not None:
            dense = self.kind == "dense"
            found["weight"] = self.matrix(params) if dense else params[self.weight]
        if self.bias is not None:
            found["bias"] = params[self.bias]
        if self.stats >= 0:
            n = self.n_out
            both = mlp.buffers[self.stats : self.stats + 2 * n].astype(np.float64)
            found |= zip(self.layer.statistics, np.split(both, 2), strict=True)
        return found


def steps(mlp: Model) -> list[Step]:
    """Return the steps of a model, in the order in which they are computed.

    Raises
    ------
    TypeError
        If ``mlp`` is not a model.
    """
    places = {place.name: place for place in walk(checked(mlp).layers)}
    names = torch_names(mlp.layers)
    fused = _fused(places, {op.name for op in mlp.core.ops})
    result: list[Step] = []
    ends = {INPUT: INPUT}  # for each op, the index of its last step
    for i, op in enumerate(mlp.core.ops):
        layer = places[op.name].layer if op.name in places else None
        step = Step.of_op(op, layer, names[op.name], ends[op.input])
        step.other = INPUT if op.other is None else ends[op.other]
        result.append(step)
        for place in fused.get(op.name, ()):
            widths, source = (op.n_out, op.n_out), len(result) - 1
            step = Step("activation", place.layer, place.torch, widths, source)
            result.append(step)
        step.output = i
        ends[i] = len(result) - 1
    return result


def _fused(places: dict[str, Place], ops: set[str]) -> dict[str, list[Place]]:
    """Map names of ops to the `Activation` layers that the core fuses with them."""
    owner = {name: name for name in ops}
    fused: dict[str, list[Place]] = {}
    for name, place in places.items():
        if name not in ops:
            owner[name] = owner[place.before]
            fused.setdefault(owner[name], []).append(place)
    return fused


def checked(mlp: Any, name: str = "mlp", wanted: str = "an fm.MLP") -> Model:
    """Return the argument of a name, or raise TypeError if it is not a model."""
    if not is_model(mlp):
        # Fitted estimators of `fastmlp.sklearn` have their model as an attribute.
        inside = getattr(mlp, "mlp_", None)
        hint = "; pass its attribute mlp_" if is_model(inside) else ""
        got = _validate.describe(mlp)
        raise TypeError(f"{name} must be {wanted}, got {got}{hint}")
    model: Model = mlp
    return model


def absent_at_inference(layer: Layer | None) -> bool:
    """Return whether a step's layer does nothing at inference."""
    return layer is not None and layer.is_identity_at_inference


def label(step: Step) -> str:
    """Describe a step in a word or two, such as "dense relu"."""
    kind = "projection" if step.kind == "dense" and step.layer is None else step.kind
    kind = kind.replace("_", " ")
    if step.kind == "activation":
        return step.activation
    return kind if step.activation == "identity" else f"{kind} {step.activation}"


def affine(step: Step, mlp: Model) -> tuple[Array, Array] | None:
    """Return (a, c) in float64 if the step is x @ a + c or x * a + c at inference.

    ``a`` is a matrix for a dense step, whose activation is not included, and a vector
    for a step that maps each column. The result is None for other steps.
    """
    arrays = step.arrays(mlp)
    if step.kind == "dense":
        return arrays["weight"], arrays.get("bias", np.zeros(step.n_out))
    return None if step.layer is None else step.layer.column_map(arrays)


def last_uses(network: list[Step]) -> list[int]:
    """For each step, return the index of the last step that reads its output.

    If no step reads the output, the index is that of the step itself.
    """
    uses = list(range(len(network)))
    for i, step in enumerate(network):
        for j in step.sources:
            if j != INPUT:
                uses[j] = i
    return uses


def tree(network: list[Step]) -> Iterator[Step]:
    """Yield the steps in the order of the layers: a block before what is inside.

    Joints are left out.
    """
    blocks = {s.name: s for s in network if _ends_block(s)}
    seen: set[str] = set()
    for step in network:
        parts = step.name.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name in blocks and name not in seen:
                seen.add(name)
                yield blocks[name]
        if step.name not in blocks and not step.is_joint:
            yield step


def inputs_of(network: list[Step], step: Step) -> tuple[int, ...]:
    """Return the indices of the steps that a step reads, past joints."""
    found: list[int] = []
    for i in step.sources:
        joint = i != INPUT and network[i].is_joint
        found += inputs_of(network, network[i]) if joint else [i]
    return tuple(found)


def _ends_block(step: Step) -> bool:
    return len(step.sources) > 1 and step.layer is not None
