"""Layers with the model's defaults filled in, and their places in the model."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from ..layers import (
    STATISTICS,
    Activation,
    Block,
    Dense,
    Layer,
    activation_of,
    width_after,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..initializers import Init


class Defaults(NamedTuple):
    """Defaults for layers that leave a field unset."""

    activation: str | Activation
    output_activation: str | Activation
    bias: bool
    init: Init
    bias_init: Init | None


def of_arguments(given: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Return the layers that the arguments of `fastmlp.MLP` describe."""
    defaults = Defaults._make(given.get(name) for name in Defaults._fields)
    return resolve(given["layers"][1:], defaults)


def resolve(items: Sequence[int | Layer], defaults: Defaults) -> tuple[Layer, ...]:
    """Return the layers with every field set, inside residual blocks as well."""
    layers, _ = _resolve(items, defaults, None)
    return layers


def _resolve(
    items: Sequence[int | Layer], defaults: Defaults, last: str | Activation | None
) -> tuple[tuple[Layer, ...], str | Activation]:
    """Return resolved layers, and the default activation of a dense layer before them.

    Items are resolved from last to first, because only the last dense layer of a model
    has the output activation as its default. ``last`` is the default activation of the
    last dense layer among the items; None means the output activation. The returned
    activation is the default of the last dense layer before the items.
    """
    kind = defaults.output_activation if last is None else last
    resolved: list[Layer] = []
    for item in reversed(items):
        if isinstance(item, Block):
            # A branch with a dense layer makes the layers before the block hidden.
            inside = [_resolve(part, defaults, kind) for part in item.parts.values()]
            resolved.append(item.of_parts([layers for layers, _ in inside]))
            kind = next((k for _, k in inside if k != kind), kind)
        elif isinstance(item, Layer) and not isinstance(item, Dense):
            resolved.append(item)
        else:
            dense = item if isinstance(item, Dense) else Dense(item, bias=defaults.bias)
            activation = dense.activation or kind
            init = defaults.init if dense.init is None else dense.init
            bias_init = dense.bias_init
            if bias_init is None and dense.bias:
                bias_init = defaults.bias_init
            resolved.append(
                dense.replaced(activation=activation, init=init, bias_init=bias_init)
            )
            kind = defaults.activation
    return tuple(reversed(resolved)), kind


class Place(NamedTuple):
    """A layer and its place in a model.

    Attributes
    ----------
    name : str
        Name in the core: "2", "3.body.0", "4.branches.1.0".
    torch : str
        Name in ``torch.nn.Sequential``, in which the activation of a dense layer is a
        separate module.
    layer : Layer
        The layer.
    n_in : int
        Input width of the layer.
    before : str
        The core's name for the preceding layer in the same sequence; "" for the
        first layer.
    """

    name: str
    torch: str
    layer: Layer
    n_in: int
    before: str


def walk(
    layers: Sequence[Layer], n_in: int = 0, name: str = "", torch: str = ""
) -> Iterator[Place]:
    """Yield the places of all layers; a block comes before the layers inside."""
    at, before = 0, ""
    for i, layer in enumerate(layers):
        place = Place(f"{name}{i}", f"{torch}{at}", layer, n_in, before)
        before = place.name
        yield place
        for key, inner in layer.sequences.items():
            inside = f"{place.name}.{key}.", f"{place.torch}.{key}."
            yield from walk(inner, n_in, *inside)
        active = isinstance(layer, Dense) and layer.activation != "identity"
        at += 2 if active else 1
        n_in = layer.n_out(n_in)


def top_names(layers: Sequence[Layer]) -> list[str]:
    """Return the names of the outermost layers in ``torch.nn.Sequential``."""
    return [place.torch for place in walk(layers) if "." not in place.name]


def torch_names(layers: Sequence[Layer]) -> dict[str, str]:
    """Map the layers' names in the core to their names in ``torch.nn.Sequential``.

    The names of a projection, and of the joints between branches, are included even for
    blocks that do not have them.
    """
    names: dict[str, str] = {}
    for place in walk(layers):
        names[place.name] = place.torch
        inside = len(place.layer.sequences)
        for part in ("projection", *(f"joined{i}" for i in range(1, inside))):
            names[f"{place.name}.{part}"] = f"{place.torch}.{part}"
    return names


def count_parameters(n_in: int, layers: Sequence[Layer]) -> tuple[int, int]:
    """Return the number of parameters (it may exceed 64 bits) and the output width."""
    size = sum(
        prod(shape)
        for place in walk(layers, n_in)
        for role, shape in place.layer.arrays(place.n_in).items()
        if role not in STATISTICS
    )
    return size, width_after(layers, n_in)


def torch_shapes(
    n_in: int, layers: Sequence[Layer], prefix: str = ""
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a ``state_dict``, without making the arrays."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, place in zip(layers, top_names(layers), strict=True):
        name = f"{prefix}{place}."
        for key, inner in layer.sequences.items():
            shapes |= torch_shapes(n_in, inner, f"{name}{key}.")
        own = layer.arrays(n_in)
        shapes |= {f"{name}{role}": shape for role, shape in own.items()}
        n_in = layer.n_out(n_in)
    return shapes


class Draw(NamedTuple):
    """Arguments of `fastmlp.initializers.draw` for a dense layer."""

    activation: str
    init: Init
    bias_init: Init | None


def first_draws(
    layers: Sequence[Layer], init: Init, bias_init: Init | None, prefix: str = ""
) -> Iterator[tuple[str, Draw]]:
    """Yield the name of each dense layer and how its parameters are drawn.

    For a dense layer with the activation "identity", the activation is the name of a
    following `Activation` layer if only layers that precede activations, such as
    normalisations and dropouts, come between the two layers. The arguments ``init`` and
    ``bias_init`` are those of the projections of residual blocks.
    """
    for i, layer in enumerate(layers):
        name = f"{prefix}{i}"
        for key, inner in layer.sequences.items():
            yield from first_draws(inner, init, bias_init, f"{name}.{key}.")
        if layer.sequences:
            yield f"{name}.projection", Draw("identity", init, bias_init)
        if not isinstance(layer, Dense):
            continue
        kind = activation_of(layer).name
        for after in layers[i + 1 :] if kind == "identity" else ():
            if isinstance(after, Activation) and not after.is_custom:
                kind = after.name
            kind = after.acts_as or kind
            if not after.precedes_activation:
                break
        assert layer.init is not None
        yield name, Draw(kind, layer.init, layer.bias_init)
