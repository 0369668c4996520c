"""Numbers that change from step to step."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from .. import _validate
from ._base import Schedule
from ._plateau import ReduceOnPlateau

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._validate import Array

    Source = Schedule | Callable[[int], float]

# Number of values that are computed at once.
_AHEAD = 256


class Timeline:
    """The values of a number by step, from a schedule or a function.

    Parameters
    ----------
    name : str
        Name of the number.
    source : Schedule or callable
        Schedule, or function of the step.
    positive : bool
        Whether its values must be > 0 instead of ≥ 0.
    below : float
        Number that its values must be below.
    """

    __slots__ = (
        *("_ahead", "_last", "below", "is_function"),
        *("name", "positive", "source"),
    )

    def __init__(
        self, name: str, source: Source, positive: bool = False, below: float = inf
    ) -> None:
        self.name, self.source = name, source
        self.positive, self.below = positive, below
        self.is_function = not isinstance(source, Schedule)
        # The values of several steps, preceded by the number of the first step, because
        # a schedule computes many values at once cheaply.
        self._ahead: tuple[int, list[float]] = (0, [])
        # The last value of a function, preceded by its step.
        self._last: tuple[int, float] = (-1, 0.0)

    def at(self, step: int, begun: bool = False) -> float:
        """Return the checked value in a step.

        A function is called once per step: not again if the step has ``begun``.
        """
        if self.is_function:
            return self._asked(step, begun)
        assert isinstance(self.source, Schedule)
        if isinstance(self.source, ReduceOnPlateau):
            return self.source.current
        first, values = self._ahead
        if not first <= step < first + len(values):
            ahead = self.source.values(step, _AHEAD)
            good = self._good(ahead)
            if not good[0]:
                raise ValueError(self._bad(float(ahead[0]), step))
            # A later value matters only if its step is taken.
            known = _AHEAD if good.all() else int(np.argmin(good))
            first, values = step, ahead[:known].tolist()
            self._ahead = first, values
        return float(values[step - first])

    def values(self, first: int, count: int, begun: bool = False) -> Array:
        """Return the checked values in ``count`` steps from ``first`` on."""
        if not isinstance(self.source, Schedule):
            steps = range(first, first + count)
            return np.array([self._asked(i, begun and i == first) for i in steps])
        values = self.source.values(first, count)
        bad = ~self._good(values)
        if bad.any():
            at = int(np.argmax(bad))
            raise ValueError(self._bad(float(values[at]), first + at))
        return values

    def _good(self, values: Array) -> Array:
        above = (values > 0) if self.positive else (values >= 0)
        return np.isfinite(values) & above & (values < self.below)

    def _asked(self, step: int, begun: bool) -> float:
        if begun and self._last[0] == step:
            return self._last[1]
        given = self.source(step)
        try:
            value = _validate.real(
                self.name,
                given,
                0.0,
                self.below,
                open_low=self.positive,
                open_high=True,
            )
        except TypeError:
            raise TypeError(
                f"{self.name} must return a number for each step, got "
                f"{_validate.describe(given)} for step {step}"
            ) from None
        except ValueError:
            raise ValueError(self._bad(given, step)) from None
        self._last = step, value
        return value

    def _bad(self, value: object, step: int) -> str:
        bound = "> 0" if self.positive else ">= 0"
        bound += f" and < {self.below:g}" if self.below < inf else ""
        return (
            f"{self.name} must be finite and {bound} at every step, got {value} for "
            f"step {step}"
        )
