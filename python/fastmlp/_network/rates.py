"""The rates of the layers that are random in training, if they have schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..layers import RandomLayer
from .resolve import walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._validate import Array
    from ..layers import Layer
    from ..schedules import Timeline


class Rates:
    """The rates of a model's random layers by step, in the order of the layers."""

    __slots__ = ("_sources",)

    def __init__(self, sources: Sequence[float | Timeline]) -> None:
        self._sources = tuple(sources)

    def at(self, step: int) -> list[float]:
        """Return the rates in a step, or raise ValueError if one is out of range."""
        return [s if isinstance(s, float) else s.at(step) for s in self._sources]

    def values(self, first: int, count: int, begun: bool = False) -> Array:
        """Return the rates (count, layers) in ``count`` steps from ``first`` on."""
        columns = [
            np.full(count, s) if isinstance(s, float) else s.values(first, count, begun)
            for s in self._sources
        ]
        return np.stack(columns, axis=1)


def of_layers(layers: Sequence[Layer]) -> Rates | None:
    """Return the rates of resolved layers, or None if no layer has a schedule."""
    sources: list[float | Timeline] = []
    for place in walk(layers):
        layer = place.layer
        if isinstance(layer, RandomLayer):
            timeline = layer.timeline(f" of layer {place.name}")
            sources.append(layer.first_rate if timeline is None else timeline)
    constant = all(isinstance(source, float) for source in sources)
    return None if constant else Rates(sources)
