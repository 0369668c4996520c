"""The base class of the schedules, and the functions that they share."""

from __future__ import annotations

import math
import numbers
from math import inf, pi
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from .._validate.values import Value

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Steps = npt.NDArray[np.int64]


class Schedule(Value):
    """Base class of the schedules; use one of its subclasses."""

    _module = "schedules"
    _noun = "schedule"

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return float(self.values(step, 1)[0])

    @_validate.reproducible
    def values(self, first: int, count: int) -> Array:
        """Return the learning rates of ``count`` steps, starting with step ``first``.

        Parameters
        ----------
        first : int
            First step, counted from 0.
        count : int
            Number of steps, ≥ 0.

        Returns
        -------
        ndarray (count,), float64
            Learning rates, with the same bits as if the schedule were called for each
            step.

        Raises
        ------
        TypeError, ValueError
            If ``first`` or ``count`` is not an int ≥ 0.
        """
        first = _validate.count("first", first, 0)
        count = _validate.count("count", count, 0, _validate.MOST - first)
        rates = self._at(np.arange(first, first + count, dtype=np.int64))
        return np.ascontiguousarray(rates, np.float64)

    @property
    def nominal(self) -> float:
        """Learning rate that the schedule scales: its argument ``lr``.

        In a parameter group, a number ``lr`` stands for the schedule times ``lr`` /
        `nominal`.
        """
        # Subclasses without ``lr`` override this property.
        rate: float = self.lr  # type: ignore[attr-defined]
        return rate

    def _at(self, steps: Steps) -> Array:
        raise TypeError("Schedule is abstract: use fm.schedules.Cosine(lr, period), …")


# Arguments ----------------------------------------------------------------------------


def rate(name: str, value: object) -> float:
    """Return a number >= 0."""
    return _validate.real(name, value, 0.0)


def measure(name: str, value: Any) -> float:
    """Return a number that may be infinite or NaN."""
    if isinstance(value, bool) or not is_real(value):
        raise TypeError(f"{name} must be a number, got {_validate.describe(value)}")
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def is_real(value: object) -> bool:
    """Tell whether this is a number, or an array or tensor without axes."""
    return isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()


def ascending(name: str, values: object, minimum: int = 0) -> tuple[int, ...]:
    """Return steps >= ``minimum`` in ascending order; one may be there twice."""
    if not isinstance(values, (list, tuple, np.ndarray)):
        got = _validate.describe(values)
        raise TypeError(f"{name} must be a sequence of ints, got {got}")
    steps = tuple(
        _validate.count(f"{name}[{i}]", step, minimum) for i, step in enumerate(values)
    )
    if list(steps) != sorted(steps):
        raise ValueError(f"{name} must be in ascending order, got {steps}")
    return steps


# Formulas -----------------------------------------------------------------------------


def power(base: float | Array, exponents: Steps) -> Array:
    """Return base^n for n >= 0, by multiplication only: the same bits everywhere."""
    result = np.ones(exponents.shape)
    square, left = base, exponents.copy()
    with np.errstate(over="ignore", under="ignore"):
        while left.any():
            result = np.where(left & 1, result * square, result)
            left >>= 1
            square = square * square
    return result


def raised(base: Array, exponent: float) -> Array:
    """Return base^exponent for 0 <= base <= 1 and exponent > 0."""
    whole = math.floor(exponent)
    # Exponents are int64: 2^62 stands for all larger ones.
    result = power(base, np.full(base.shape, min(whole, 2**62)))
    if exponent > whole:
        with np.errstate(divide="ignore"):
            logarithm = elementary("log", base)
        result = result * elementary("exp", (exponent - whole) * logarithm)
    return result


def half_cosine(part: Array) -> Array:
    """Return (1 + cos(π part)) / 2: 1 if ``part`` is 0, and 0 if ``part`` is 1."""
    out = elementary("cos", pi / 2 * part)
    out *= out  # cos(φ / 2)² keeps digits where 1 + cos(φ) would cancel
    out[part >= 1.0] = 0.0
    return out


def elementary(function: str, x: Array) -> Array:
    """Return a function of the core, whose bits are the same everywhere."""
    out = np.empty(x.shape)
    _core.kernels.elementary(out, np.ascontiguousarray(x, np.float64), function)
    return out
