"""Gradient checks and targets for the tests of the reference."""

from __future__ import annotations

import numpy as np
from fastmlp import reference as ref
from helpers import TOLERANCE

GRADIENT_RTOL = TOLERANCE["finite_difference"].of(np.float64)


# For results that can differ only by a few roundings of O(1) numbers.
ROUNDING = 16 * float(np.finfo(np.float64).eps)


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
        # Also rows that do not sum to 1, as the gradient must not assume that they do.
        return rng.uniform(0, 1, (rows, outputs))
    return rng.standard_normal((rows, outputs))
