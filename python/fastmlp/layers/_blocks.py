"""Layers that contain layers, and the checks of a sequence of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _validate
from ._base import Layer

if TYPE_CHECKING:
    from collections.abc import Iterable


class Residual(Layer):
    """A residual block (He et al. 2016): ``y = x + body(x)``.

    If the body's output width differs from its input width,
    ``y = x @ W + b + body(x)`` with a learnt projection.

    Parameters
    ----------
    layers : sequence of int or Layer
        Body of at least one layer: widths or layers, as for `fastmlp.MLP` but without
        an input width. Residual blocks may be nested.

    Raises
    ------
    TypeError, ValueError
        If ``layers`` is empty, or an item is neither a positive int nor a layer.
    """

    __slots__ = ("layers",)
    kind = "residual"
    flops = (1, 1)
    _leading = ("layers",)

    layers: tuple[int | Layer, ...]

    def __init__(self, layers: Iterable[int | Layer]) -> None:
        self._put(layers=tuple(checked("Residual: layers", layers)))

    def __repr__(self) -> str:
        return f"Residual({list(self.layers)!r})"

    @property
    def body(self) -> tuple[Layer, ...]:
        """Inner layers."""
        return tuple(item for item in self.layers if isinstance(item, Layer))

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"body": core_layers(self.body)}

    def undrawn(self) -> Residual:
        """Return the layer for a model that is filled with given parameters."""
        items = self.layers
        return Residual([i.undrawn() if isinstance(i, Layer) else i for i in items])

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        for layer in self.body:
            n_in = layer.n_out(n_in)
        return n_in

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the projection's arrays, if there is a projection."""
        n = self.n_out(n_in)
        if n == n_in:
            return {}
        return {"projection.weight": (n, n_in), "projection.bias": (n,)}


def core_layers(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Return resolved layers in the form that the core takes."""
    return [{"kind": layer.kind, **layer.core_form()} for layer in layers]


def checked(name: str, layers: object, n_in: bool = False) -> list[int | Layer]:
    """Return a checked list of widths and layers, after an input width if ``n_in``."""
    first = "the input width, then widths or layers" if n_in else "widths or layers"
    wanted = f"{name} must be a sequence: {first}"
    if isinstance(layers, (str, bytes)):
        raise TypeError(f"{wanted}, got {_validate.describe(layers)}")
    items = list(_validate.iterator(wanted, layers))
    if len(items) < 1 + n_in:
        raise ValueError(
            f"{wanted}, with at least one layer; got a sequence of length {len(items)}"
        )

    result: list[int | Layer] = []
    for i, item in enumerate(items):
        if isinstance(item, Layer) and (i > 0 or not n_in):
            result.append(item)
        elif hasattr(item, "__index__"):
            result.append(_validate.count(f"{name}[{i}]", item, 1))
        else:
            kinds = "an int or a layer such as fm.Dense"
            got = _validate.describe(item)
            if isinstance(item, type) and issubclass(item, Layer):
                got = f"the class {item.__name__}; did you mean fm.{item.__name__}(…)?"
            elif i == 0 and n_in:
                kinds = "an int, the input width"
            raise TypeError(f"{name}[{i}] must be {kinds}; got {got}")
    return result
