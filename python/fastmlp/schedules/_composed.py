"""Schedules made of other schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from ._base import Schedule, ascending, is_real, rate
from ._plateau import ReduceOnPlateau

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._base import Array, Steps

__all__ = ["Chained", "LinearWarmup", "Sequential"]


class LinearWarmup(Schedule):
    """A linear rise to a constant learning rate, or to the start of another schedule.

    At step t below ``steps`` the learning rate is r (s + (1 - s) t / steps), where s is
    ``start_factor`` and r is ``after``, or the learning rate of the schedule ``after``
    at its step 0. From step ``steps`` on it is r or, with a schedule, the schedule's
    learning rate at its step t - ``steps``. With a constant r this is torch's LinearLR;
    with a schedule it is torch's SequentialLR of LinearLR and that schedule.

    Parameters
    ----------
    after : float or Schedule
        Learning rate or schedule to warm up to; not a `ReduceOnPlateau`.
    steps : int
        Number of steps of the rise.
    start_factor : float
        Factor s, from 0 to 1. If it is 0, so is the learning rate of the first step.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("after", "steps", "start_factor")
    after: float | Schedule
    steps: int
    start_factor: float

    def __init__(
        self,
        after: float | Schedule,
        steps: int,
        start_factor: float = 0.0,
    ) -> None:
        self._take(
            after=_part("after", after),
            steps=_validate.count("steps", steps, 1),
            start_factor=_validate.real("start_factor", start_factor, 0.0, 1.0),
        )

    @property
    def nominal(self) -> float:
        """Learning rate that the schedule scales: that of ``after``."""
        return _nominal(self.after)

    def _at(self, steps: Steps) -> Array:
        rates = _rates(self.after, np.maximum(steps - self.steps, 0))
        rise = (1 - self.start_factor) * (steps / self.steps)
        # During the rise, `rates` holds the schedule's learning rate at its step 0.
        line = rates * (self.start_factor + rise)
        return np.where(steps < self.steps, line, rates)


class Sequential(Schedule):
    """One schedule after another, each counted from its first step (SequentialLR).

    The first schedule holds until the first milestone, the second one from there until
    the second milestone, and the last one from the last milestone on. At step t, a
    schedule that began at milestone m gives the learning rate of its step t - m.

    Parameters
    ----------
    schedules : sequence of Schedule or float
        Schedules other than `ReduceOnPlateau`, or constant learning rates.
    milestones : sequence of int
        Steps at which the schedules after the first begin, in ascending order: one less
        than schedules.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("schedules", "milestones")
    schedules: Sequence[Schedule | float]
    milestones: Sequence[int]

    def __init__(
        self,
        schedules: Sequence[Schedule | float],
        milestones: Sequence[int],
    ) -> None:
        parts = _parts("schedules", schedules)
        milestones = ascending("milestones", milestones)
        if len(milestones) != len(parts) - 1:
            raise ValueError(
                f"milestones must have length {len(parts) - 1}, one less than "
                f"schedules, got length {len(milestones)}"
            )
        self._take(schedules=parts, milestones=milestones)

    @property
    def nominal(self) -> float:
        """Learning rate that the schedule scales: the largest one of its parts."""
        return max(map(_nominal, self.schedules))

    def _at(self, steps: Steps) -> Array:
        begins = np.array([0, *self.milestones])
        which = np.searchsorted(begins[1:], steps, "right")
        rates = np.empty(steps.shape)
        for i, part in enumerate(self.schedules):
            mine = which == i
            rates[mine] = _rates(part, steps[mine] - begins[i])
        return rates


class Chained(Schedule):
    """A learning rate times the values of schedules of factors (ChainedScheduler).

    At step t the learning rate is lr · s₁(t) · s₂(t) · …. The schedules of factors are
    mostly made with 1 as their own learning rate:
    ``Chained(1e-3, [Linear(1.0, 100), Exponential(1.0, 0.999)])`` is torch's
    ChainedScheduler of LinearLR and ExponentialLR for an optimiser with lr=1e-3.

    Parameters
    ----------
    lr : float
        Learning rate that the factors multiply, ≥ 0.
    factors : sequence of Schedule or float
        Schedules of factors, other than `ReduceOnPlateau`, or constant factors.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "factors")
    lr: float
    factors: Sequence[Schedule | float]

    def __init__(
        self,
        lr: float,
        factors: Sequence[Schedule | float],
    ) -> None:
        self._take(lr=rate("lr", lr), factors=_parts("factors", factors))

    def _at(self, steps: Steps) -> Array:
        values = [_rates(part, steps) for part in self.factors]
        rates, zero = np.full(steps.shape, self.lr), self.lr == 0
        with np.errstate(over="ignore", invalid="ignore"):
            for value in values:
                rates, zero = rates * value, zero | (value == 0)
        return np.where(zero, 0.0, rates)  # not 0 times infinity


def _part(name: str, value: Any) -> Schedule | float:
    """Return a schedule without a state, or a number >= 0."""
    if isinstance(value, Schedule) and not isinstance(value, ReduceOnPlateau):
        return value
    if isinstance(value, (bool, Schedule)) or not is_real(value):
        raise TypeError(
            f"{name} must be a number or a schedule other than ReduceOnPlateau, "
            f"got {_validate.describe(value)}"
        )
    return rate(name, value)


def _parts(name: str, values: object) -> tuple[Schedule | float, ...]:
    """Return at least one schedule or number."""
    if not isinstance(values, (list, tuple)):
        got = _validate.describe(values)
        raise TypeError(f"{name} must be a sequence of schedules, got {got}")
    if not values:
        raise ValueError(f"{name} must not be empty")
    return tuple(_part(f"{name}[{i}]", value) for i, value in enumerate(values))


def _rates(part: Schedule | float, steps: Steps) -> Array:
    """Return the learning rates of a schedule, or a number for each step."""
    return part._at(steps) if isinstance(part, Schedule) else np.full(steps.shape, part)


def _nominal(part: Schedule | float) -> float:
    return part.nominal if isinstance(part, Schedule) else part
