"""The schedule that follows a measure of the training."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from .. import _validate
from ._base import Schedule, measure, rate

if TYPE_CHECKING:
    from ._base import Array, Steps

__all__ = ["ReduceOnPlateau"]


class ReduceOnPlateau(Schedule):
    """A learning rate that falls when a measure stops improving (ReduceLROnPlateau).

    The measure is the validation loss, or the training loss if there are no validation
    data; `MLP.fit` passes it to the schedule after each epoch. With `MLP.train_step`,
    call ``opt.schedule.observe(value)`` yourself. After more than ``patience``
    successive values without an improvement, the learning rate is multiplied by
    ``factor``; the next ``cooldown`` values then do not count as values without
    improvement.

    Unlike the other schedules, this one has a state. An optimiser's ``state_dict``
    holds a copy of the schedule, and ``load_state_dict`` replaces ``opt.schedule`` with
    a new object.

    Parameters
    ----------
    lr : float
        First learning rate, ≥ 0.
    mode : {"min", "max"}
        Whether lower or higher values are better.
    factor : float
        Factor of each reduction, at least 0 and below 1.
    patience : int
        Number of successive values without improvement that are tolerated; one more
        causes a reduction.
    threshold : float
        Amount by which a value must be better than the best one so far to count as an
        improvement, ≥ 0.
    threshold_mode : {"rel", "abs"}
        Whether ``threshold`` is relative to the best value or absolute.
    cooldown : int
        Number of values after a reduction that do not count towards ``patience``.
    min_lr : float
        Smallest learning rate, ≥ 0.
    eps : float
        Largest reduction, ≥ 0, that is skipped because it is too small.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = (
        "lr",
        "mode",
        "factor",
        "patience",
        "threshold",
        "threshold_mode",
        "cooldown",
        "min_lr",
        "eps",
    )

    lr: float
    mode: str
    factor: float
    patience: int
    threshold: float
    threshold_mode: str
    cooldown: int
    min_lr: float
    eps: float

    def __init__(
        self,
        lr: float,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        modes = ("rel", "abs")
        self._take(
            lr=rate("lr", lr),
            mode=_validate.choice("mode", mode, ("min", "max")),
            factor=_validate.real("factor", factor, 0.0, 1.0, open_high=True),
            patience=_validate.count("patience", patience, 0),
            threshold=rate("threshold", threshold),
            threshold_mode=_validate.choice("threshold_mode", threshold_mode, modes),
            cooldown=_validate.count("cooldown", cooldown, 0),
            min_lr=rate("min_lr", min_lr),
            eps=rate("eps", eps),
        )
        self.reset()

    def reset(self) -> None:
        """Forget all observed values, and start again from ``lr``."""
        self._now = self.lr
        self._best = inf if self.mode == "min" else -inf
        self._bad = self._resting = 0

    @property
    def current(self) -> float:
        """The current learning rate."""
        return self._now

    @_validate.reproducible
    def observe(self, value: float) -> None:
        """Take a new value of the measure into account; NaN is not an improvement.

        Raises
        ------
        TypeError
            If ``value`` is not a number.
        """
        value = measure("value", value)
        if self._improves(value):
            self._best, self._bad = value, 0
        else:
            self._bad += 1
        if self._resting > 0:
            self._resting -= 1
            self._bad = 0
        if self._bad > self.patience:
            lower = max(self._now * self.factor, self.min_lr)
            self._now = lower if self._now - lower > self.eps else self._now
            self._resting, self._bad = self.cooldown, 0

    def _improves(self, value: float) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        if self.threshold_mode == "abs":
            return sign * value > sign * self._best + self.threshold
        return sign * value > sign * self._best * (1 + sign * self.threshold)

    def __call__(self, step: int) -> float:
        """Return the current learning rate, whatever the step."""
        return self._now

    def _at(self, steps: Steps) -> Array:
        return np.full(steps.shape, self._now)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            super().__setattr__(name, value)
        vars(self)[name] = value  # a private attribute: the state may change

    __hash__ = None  # type: ignore[assignment]
