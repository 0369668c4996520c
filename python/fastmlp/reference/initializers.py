"""Initial weights and biases of dense layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from .activations import RELU_LIKE
from .arrays import Array

__all__ = [
    "initialize",
    "truncated_normal",
]

# A name, or a function (rng, shape) -> array.
Init: TypeAlias = str | Callable[..., Array]

# Standard deviation of the standard normal distribution truncated to [-2, 2].
_TRUNCATED_STD = 0.87962566103423978


def initialize(
    rng: np.random.Generator,
    weight: Array,
    bias: Array | None,
    name: Init,
    activation: str,
    hidden_activation: str,
    bias_name: Init | None = None,
    first: bool = False,
) -> None:
    """Draw the initial ``weight (fan_in, fan_out)``, then ``bias``, of a layer [3].

    Weights are normal with variance v, uniform in +-sqrt(3 v) or truncated normal,
    which have the same variance, where v is ``2 / fan_in`` (he),
    ``2 / (fan_in + fan_out)`` (glorot) or ``1 / fan_in`` (lecun); biases are 0. "torch"
    draws weights and biases uniformly from +-``1 / sqrt(fan_in)``. "sklearn" draws both
    uniformly from +-``sqrt(f / (fan_in + fan_out))``, with f = 2 if the hidden
    activation is sigmoid, else 6. "siren" (Sitzmann et al., 2020) draws weights
    uniformly from +-``s / fan_in`` in the first layer and
    +-``s sqrt(6 / fan_in) / 30`` in the others, and biases from
    +-``s / sqrt(fan_in)``, with s = 30 before sin, else 1. "orthogonal" makes the rows
    orthonormal, or the columns if there are fewer columns than rows (Saxe et al.,
    2014). "normal", "uniform" and "truncated_normal" have the standard deviation
    (before truncation) or the limit 0.05. "auto" is he_normal before ReLU-like
    activations, lecun_normal before selu and glorot_uniform before all others. A
    function is called with ``rng`` and the shape.

    ``bias_name`` replaces the rule for the biases, and ``first`` marks the first layer.
    """
    fan_in, fan_out = weight.shape
    if name == "auto":
        name = "he_normal" if activation in RELU_LIKE else "glorot_uniform"
        name = "lecun_normal" if activation == "selu" else name
    s = 30 if activation == "sin" else 1
    weight_limit = s / fan_in if first else s * math.sqrt(6 / fan_in) / 30
    f = 2 if hidden_activation == "sigmoid" else 6
    # Limits of weights and of biases.
    limits = {
        "torch": (1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)),
        "sklearn": (math.sqrt(f / (fan_in + fan_out)),) * 2,
        "siren": (weight_limit, s / math.sqrt(fan_in)),
    }
    own = name if isinstance(name, str) and name in limits else "zeros"
    for array, how, kind in ((weight, name, 0), (bias, bias_name or own, 1)):
        if array is None:
            continue
        if isinstance(how, str) and how in limits:
            limit = limits[how][kind]
            array[...] = rng.uniform(-limit, limit, array.shape)
        elif callable(how):
            array[...] = how(rng, array.shape)
        else:
            array[...] = _by_shape(rng, how, array.shape)


def _by_shape(
    rng: np.random.Generator, name: str, shape: tuple[int, ...]
) -> Array | float:
    """Draw from a distribution that depends on the shape only."""
    fan_in, fan_out = shape[0], shape[-1]
    same: dict[str, float] = {"zeros": 0, "ones": 1}
    if name in same:
        return same[name]
    if name == "normal":
        return 0.05 * rng.standard_normal(shape)
    if name == "uniform":
        return rng.uniform(-0.05, 0.05, shape)
    if name == "truncated_normal":
        return 0.05 * truncated_normal(rng, shape)
    if name == "identity":
        return np.eye(fan_in, fan_out)
    if name == "orthogonal":
        # If A = QR is normally distributed and the diagonal of R is made positive, Q is
        # unique and uniformly distributed over the matrices with orthonormal columns.
        short, long = sorted(shape)
        q, r = np.linalg.qr(rng.standard_normal((short, long)).T)
        q = q * np.sign(np.diag(r))
        return np.asarray(q.T if fan_in <= fan_out else q)
    total = fan_in + fan_out
    variances = {"he": 2 / fan_in, "glorot": 2 / total, "lecun": 1 / fan_in}
    family, _, kind = name.partition("_")
    if family not in variances:
        raise ValueError(f"unknown init {name!r}")
    variance = variances[family]
    if kind == "uniform":
        limit = math.sqrt(3 * variance)
        return rng.uniform(-limit, limit, shape)
    if kind == "normal":
        return math.sqrt(variance) * rng.standard_normal(shape)
    return math.sqrt(variance) / _TRUNCATED_STD * truncated_normal(rng, shape)


def truncated_normal(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    low: float = -2.0,
    high: float = 2.0,
) -> Array:
    """Draw from the standard normal distribution, given that low <= z <= high <= 38.

    A number that is uniform between the limits is kept with the probability
    exp((m^2 - z^2) / 2), where m is the number between the limits nearest to 0. All
    others are drawn again.
    """
    m = min(max(low, 0.0), high)
    kept: list[float] = []
    size = math.prod(shape)
    while len(kept) < size:
        z = rng.uniform(low, high, size - len(kept))
        chance = np.exp((m - z) * (m + z) / 2)
        kept += z[rng.random(len(z)) < chance].tolist()
    return np.array(kept).reshape(shape)
