"""Gradient checks and targets for the tests of the reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from fastmlp import reference as ref
from helpers import TOLERANCE

GRADIENT_RTOL = TOLERANCE["finite_difference"].of(np.float64)


# Where a few roundings of O(1) numbers are all that can differ.
ROUNDING = 16 * float(np.finfo(np.float64).eps)


FD_STEP = float(np.cbrt(np.finfo(np.float64).eps))


def central_difference(f: Callable[[], float], x: np.ndarray) -> np.ndarray:
    """df/dx for a function that reads ``x``, which is changed and put back."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + FD_STEP
        above = f()
        x[i] = kept - FD_STEP
        below = f()
        x[i] = kept
        gradient[i] = (above - below) / (2 * FD_STEP)
    return gradient


def assert_gradient(actual: np.ndarray, expected: np.ndarray) -> None:
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=GRADIENT_RTOL * scale)


ELEMENTWISE_LOSSES = {
    "mse": ref.MSE,
    "mae": ref.MAE,
    "huber": lambda reduction: ref.Huber(0.7, reduction=reduction),
    "pseudo_huber": lambda reduction: ref.PseudoHuber(0.7, reduction=reduction),
    "binary_cross_entropy": ref.BinaryCrossEntropy,
}


ALL_LOSSES = {
    **ELEMENTWISE_LOSSES,
    "cross_entropy_labels": ref.CrossEntropy,
    "cross_entropy_probabilities": ref.CrossEntropy,
}


def targets(name: str, rng: np.random.Generator, rows: int, outputs: int) -> np.ndarray:
    if name == "cross_entropy_labels":
        return rng.integers(0, outputs, rows)
    if name in ("cross_entropy_probabilities", "binary_cross_entropy"):
        # Rows that do not sum to 1 as well: the gradient must not assume it.
        return rng.uniform(0, 1, (rows, outputs))
    return rng.standard_normal((rows, outputs))
