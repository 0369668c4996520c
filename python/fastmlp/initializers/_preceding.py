"""What comes before each layer of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def preceding(
    layers: Sequence[Any], n_in: int
) -> Iterator[tuple[Any, tuple[Any, ...], int]]:
    """Yield each layer, the layers that compute its input, and the input's width.

    Layers inside another one come before it. The input is the last columns of the
    output of the layers before, which draw no numbers. Their parameters and statistics
    are the first ones of the model: those of a branch come after those of earlier
    branches, and those of a residual block's body before those of its projection.
    """
    before: tuple[Any, ...] = ()
    for layer in layers:
        earlier: list[Any] = []
        for inner in layer.sequences.values():
            for one, path, width in preceding(inner, n_in):
                beside = (layer.of_parts([*earlier, path]),) if earlier else path
                yield one, (*before, *beside), width
            earlier.append([one.steady() for one in inner])
        yield layer, before, n_in
        before = (*before, layer.steady())
        n_in = layer.n_out(n_in)
