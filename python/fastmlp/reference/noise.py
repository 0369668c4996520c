"""Layers that are random in training, and the node that computes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from .arrays import Array, Rate, quiet
from .nodes import Node, Pass
from .random import dropout, gaussian_noise

__all__ = ["AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise"]

Draw: TypeAlias = tuple[int, int, int]


class Noise:
    """Base class of the layers that are random in training."""

    def rate(self, step: int) -> float:
        """Return the layer's only number in a step."""
        (value,) = vars(self).values()
        return float(value(step) if callable(value) else value)

    def apply(
        self, h: Array, x: Array, rate: float, draw: Draw, number: int
    ) -> Array | None:
        """Write the output to ``h``; return the derivative, or None if it is 1.

        ``draw`` is (seed, epoch, step); ``number`` is that of the layer.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Dropout(Noise):
    """In training, ``x / (1 - p)`` with probability 1 - p, else 0; in inference, x.

    p may be a function of the step.
    """

    p: Rate = 0.5
    alpha: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not callable(self.p) and not 0 <= self.p < 1:
            raise ValueError(f"p must be in [0, 1), got {self.p}")

    def apply(self, h: Array, x: Array, rate: float, draw: Draw, number: int) -> Array:
        """Write the output to ``h``; return the mask."""
        mask = np.empty_like(x)
        dropout(h, mask, x, rate, *draw, number, alpha=self.alpha)
        return mask


@dataclass(frozen=True)
class AlphaDropout(Dropout):
    """In training, ``a x + b`` with probability 1 - p, else ``a alpha' + b``."""

    alpha = True


@dataclass(frozen=True)
class GaussianNoise(Noise):
    """In training, ``x + stddev n`` with standard normal n; in inference, x."""

    stddev: Rate

    def apply(self, h: Array, x: Array, rate: float, draw: Draw, number: int) -> None:
        """Write the output to ``h``."""
        gaussian_noise(h, None, x, rate, *draw, number)


@dataclass(frozen=True)
class GaussianDropout(Dropout):
    """In training, x times normal numbers with mean 1 and variance p / (1 - p)."""

    def apply(self, h: Array, x: Array, rate: float, draw: Draw, number: int) -> Array:
        """Write the output to ``h``; return the factors."""
        factors = np.empty_like(x)
        deviation = math.sqrt(rate / (1 - rate))
        gaussian_noise(h, factors, x, deviation, *draw, number)
        return factors


@dataclass
class NoiseNode(Node):
    """``dx = dh h'``, with the random derivative h' of each element.

    ``number`` is the index of this layer among the network's random layers.
    """

    number: int

    @quiet
    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        if run.draw is None:
            return x, None
        h = np.empty(x.size, dtype=x.dtype)
        rate = self.layer.rate(run.step)
        derivative = self.layer.apply(h, x.ravel(), rate, run.draw, self.number)
        return h.reshape(x.shape), derivative

    @quiet
    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        return dh if saved is None else np.asarray(dh * saved.reshape(dh.shape))
