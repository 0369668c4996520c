"""Layers for inference only, without dropout and with merged batch normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import _validate
from ..layers import Activation, Block, Dense, Layer
from .resolve import top_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._validate import Array


class LayerArrays(NamedTuple):
    """A layer, its arrays by role, and the sequences inside it by name."""

    layer: Layer
    arrays: dict[str, Array]
    sequences: dict[str, tuple[LayerArrays, ...]] = {}  # noqa: RUF012 (never changed)


@_validate.reproducible
def fold(
    layers: Sequence[Layer], named: Mapping[str, Array]
) -> tuple[list[Layer], dict[str, Array]]:
    """Return layers for inference only, and their arrays.

    Layers that do nothing at inference and parametrisations are removed. A batch
    normalisation is merged into the preceding layer if that is dense and has no
    activation, or else into the following layer if that is dense. Otherwise it remains.

    Parameters
    ----------
    layers
        Resolved layers.
    named
        Parameters and running statistics by PyTorch's names, with weights as (in, out)
        and computed weights in the places of what stands for them.

    Returns
    -------
    layers, named
        Layers and arrays of the folded network, in the form of the arguments. The
        arrays are float64.
    """
    folded = _folded(_with_arrays(layers, named, ""))
    return [item.layer for item in folded], name_arrays(folded)


def name_arrays(items: Sequence[LayerArrays], prefix: str = "") -> dict[str, Array]:
    """Return the arrays of all layers by PyTorch's names."""
    result: dict[str, Array] = {}
    places = top_names([item.layer for item in items])
    for item, place in zip(items, places, strict=True):
        name = f"{prefix}{place}."
        result |= {f"{name}{role}": array for role, array in item.arrays.items()}
        for key, inner in item.sequences.items():
            result |= name_arrays(inner, f"{name}{key}.")
    return result


def _with_arrays(
    layers: Sequence[Layer], named: Mapping[str, Array], prefix: str
) -> list[LayerArrays]:
    items = []
    for layer, place in zip(layers, top_names(layers), strict=True):
        name = f"{prefix}{place}."
        roles = ("weight", "bias", *layer.statistics)
        arrays = {
            role: named[name + role].astype(np.float64)
            for role in (*roles, "projection.weight", "projection.bias")
            if name + role in named
        }
        inside = {
            key: tuple(_with_arrays(inner, named, f"{name}{key}."))
            for key, inner in layer.sequences.items()
        }
        if isinstance(layer, Dense) and layer.parametrization is not None:
            arrays["weight"] = named[name + layer.role("weight")].astype(np.float64)
            layer = layer.replaced(parametrization=None)
        items.append(LayerArrays(layer, arrays, inside))
    return items


def _folded(items: Sequence[LayerArrays]) -> list[LayerArrays]:
    kept = [i for i in items if not i.layer.is_identity_at_inference]
    if items and not kept:  # at least one layer must remain
        kept = [LayerArrays(Activation("identity"), {})]
    for i, item in enumerate(kept):
        if isinstance(item.layer, Block):
            inside = {key: tuple(_folded(p)) for key, p in item.sequences.items()}
            parts = [[one.layer for one in part] for part in inside.values()]
            kept[i] = LayerArrays(item.layer.of_parts(parts), item.arrays, inside)

    result: list[LayerArrays] = []
    pending: tuple[Array, Array] | None = None  # a column map for the next layer
    for i, item in enumerate(kept):
        layer, arrays = item.layer, item.arrays
        columns = layer.column_map(arrays)
        if columns is not None:
            scale, shift = columns
            before = result[-1] if result else None
            after = kept[i + 1].layer if i + 1 < len(kept) else None
            if before is not None and is_plain_dense(before.layer):
                dense = before.layer
                assert isinstance(dense, Dense)
                bias = before.arrays.get("bias", np.zeros(dense.n))
                weight = before.arrays["weight"] * scale
                merged = {"weight": weight, "bias": bias * scale + shift}
                result[-1] = LayerArrays(_with_bias(dense), merged)
                continue
            if isinstance(after, Dense):
                pending = columns
                continue
        if isinstance(layer, Dense) and pending is not None:
            scale, shift = pending
            weight = arrays["weight"]
            bias = arrays.get("bias", np.zeros(layer.n)) + shift @ weight
            arrays = {"weight": weight * scale[:, np.newaxis], "bias": bias}
            layer = _with_bias(layer)
            pending = None
        result.append(LayerArrays(layer, arrays, item.sequences))
    return result


def _with_bias(dense: Dense) -> Dense:
    return dense.replaced(bias=True)


def is_plain_dense(layer: Layer | None) -> bool:
    """Return whether the layer is a dense layer without activation."""
    return isinstance(layer, Dense) and layer.activation == "identity"
