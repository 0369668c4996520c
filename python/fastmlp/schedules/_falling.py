"""Schedules that change in one direction, with or without restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _validate
from ._base import Schedule, ascending, half_cosine, power, raised, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._base import Array, Steps

__all__ = [
    "Constant",
    "ConstantFactor",
    "Cosine",
    "Exponential",
    "FlatCosine",
    "InverseSqrt",
    "Linear",
    "MultiStep",
    "Polynomial",
    "Step",
]


class Constant(Schedule):
    """A constant learning rate.

    Parameters
    ----------
    lr : float
        Learning rate, ≥ 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr",)
    lr: float

    def __init__(
        self,
        lr: float,
    ) -> None:
        self._take(lr=rate("lr", lr))

    def _at(self, steps: Steps) -> Array:
        return np.full(steps.shape, self.lr)


class Step(Schedule):
    """lr · gamma^⌊t / step_size⌋: a factor gamma every ``step_size`` steps (StepLR).

    Parameters
    ----------
    lr : float
        First learning rate, ≥ 0.
    step_size : int
        Number of steps with the same learning rate.
    gamma : float
        Factor, ≥ 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "step_size", "gamma")
    lr: float
    step_size: int
    gamma: float

    def __init__(
        self,
        lr: float,
        step_size: int,
        gamma: float = 0.1,
    ) -> None:
        self._take(
            lr=rate("lr", lr),
            step_size=_validate.count("step_size", step_size, 1),
            gamma=rate("gamma", gamma),
        )

    def _at(self, steps: Steps) -> Array:
        return self.lr * power(self.gamma, steps // self.step_size)


class MultiStep(Schedule):
    """lr · gamma^(milestones reached): a factor gamma at given steps (MultiStepLR).

    Parameters
    ----------
    lr : float
        First learning rate, ≥ 0.
    milestones : sequence of int
        Steps at which the learning rate is multiplied by gamma, in ascending order. A
        milestone that is given twice counts twice.
    gamma : float
        Factor, ≥ 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "milestones", "gamma")
    lr: float
    milestones: Sequence[int]
    gamma: float

    def __init__(
        self,
        lr: float,
        milestones: Sequence[int],
        gamma: float = 0.1,
    ) -> None:
        self._take(
            lr=rate("lr", lr),
            milestones=ascending("milestones", milestones),
            gamma=rate("gamma", gamma),
        )

    def _at(self, steps: Steps) -> Array:
        reached = np.searchsorted(np.asarray(self.milestones, np.int64), steps, "right")
        return self.lr * power(self.gamma, reached.astype(np.int64))


class Exponential(Schedule):
    """lr · gamma^t (ExponentialLR).

    Parameters
    ----------
    lr : float
        First learning rate, ≥ 0.
    gamma : float
        Factor from step to step, ≥ 0. Above 1 the learning rate grows, as in a search
        for a good one.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "gamma")
    lr: float
    gamma: float

    def __init__(
        self,
        lr: float,
        gamma: float,
    ) -> None:
        self._take(lr=rate("lr", lr), gamma=rate("gamma", gamma))

    def _at(self, steps: Steps) -> Array:
        if self.lr == 0:
            return np.zeros(steps.shape)  # not 0 times infinity
        return self.lr * power(self.gamma, steps)


class Cosine(Schedule):
    """Half a cosine from ``lr`` to ``min_lr``, once or with warm restarts.

    The learning rate is min_lr + (lr - min_lr) (1 + cos(π t / T)) / 2 at step t of a
    period of T steps (Loshchilov & Hutter 2017). Without restarts the schedule is
    torch's CosineAnnealingLR, except that it stays at ``min_lr`` after the period,
    whereas torch's rises again. With restarts it is torch's
    CosineAnnealingWarmRestarts.

    Parameters
    ----------
    lr : float
        Learning rate at the start of each period, ≥ 0.
    period : int
        Number of steps of the first period (torch's T_max, T_0).
    min_lr : float
        Learning rate at the end of each period, ≥ 0 and ≤ lr (torch's eta_min).
    restarts : int, optional
        Length of each period relative to the one before (torch's T_mult), 1 for equal
        periods. None means that there is one period only.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "period", "min_lr", "restarts")
    lr: float
    period: int
    min_lr: float
    restarts: int | None

    def __init__(
        self,
        lr: float,
        period: int,
        min_lr: float = 0.0,
        restarts: int | None = None,
    ) -> None:
        lr = rate("lr", lr)
        if restarts is not None:
            restarts = _validate.count("restarts", restarts, 1)
        self._take(
            lr=lr,
            period=_validate.count("period", period, 1),
            min_lr=_validate.real("min_lr", min_lr, 0.0, lr),
            restarts=restarts,
        )

    def _at(self, steps: Steps) -> Array:
        if self.restarts is None:
            part = np.minimum(steps / self.period, 1.0)
        elif self.restarts == 1:
            part = steps % self.period / self.period
        else:
            # The first step of each period is computed as an integer: every restart is
            # exact.
            starts, lengths = [0], [self.period]
            last = int(steps.max(initial=0))
            while starts[-1] + lengths[-1] <= last:
                starts.append(starts[-1] + lengths[-1])
                lengths.append(lengths[-1] * self.restarts)
            which = np.searchsorted(starts, steps, "right") - 1
            part = (steps - np.take(starts, which)) / np.take(lengths, which)
        return self.min_lr + (self.lr - self.min_lr) * half_cosine(part)


class InverseSqrt(Schedule):
    """lr · min((t + 1) / warmup, √(warmup / (t + 1))) (Vaswani et al. 2017).

    The learning rate rises linearly to ``lr`` at step ``warmup`` - 1, then falls like
    1 / √(t + 1).

    Parameters
    ----------
    lr : float
        Learning rate at the peak, ≥ 0.
    warmup : int
        Number of steps of the rise, at least 1.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "warmup")
    lr: float
    warmup: int

    def __init__(
        self,
        lr: float,
        warmup: int = 1,
    ) -> None:
        warmup = _validate.count("warmup", warmup, 1)
        self._take(lr=rate("lr", lr), warmup=warmup)

    def _at(self, steps: Steps) -> Array:
        count = steps + 1.0
        rise = count / self.warmup
        return self.lr * np.minimum(rise, np.sqrt(self.warmup / count))


class Polynomial(Schedule):
    """min_lr + (lr - min_lr) (1 - t / steps)^power, then min_lr (PolynomialLR).

    With ``min_lr`` it is Keras' PolynomialDecay and Optax' polynomial_schedule.

    Parameters
    ----------
    lr : float
        First learning rate, ≥ 0.
    steps : int
        Number of steps of the fall (torch's total_iters).
    power : float
        Exponent > 0; 1 is a straight line.
    min_lr : float
        Last learning rate, ≥ 0 and ≤ lr.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "steps", "power", "min_lr")
    lr: float
    steps: int
    power: float
    min_lr: float

    def __init__(
        self,
        lr: float,
        steps: int,
        power: float = 1.0,
        min_lr: float = 0.0,
    ) -> None:
        lr = rate("lr", lr)
        self._take(
            lr=lr,
            steps=_validate.count("steps", steps, 1),
            power=_validate.real("power", power, 0.0, open_low=True),
            min_lr=_validate.real("min_lr", min_lr, 0.0, lr),
        )

    def _at(self, steps: Steps) -> Array:
        left = (self.steps - np.minimum(steps, self.steps)) / self.steps
        return self.min_lr + (self.lr - self.min_lr) * raised(left, self.power)


class Linear(Schedule):
    """lr times a factor that changes linearly, then stays (LinearLR).

    The factor is start_factor + (end_factor - start_factor) t / steps at step t up to
    ``steps``, and end_factor after it.

    Parameters
    ----------
    lr : float
        Learning rate that the factors multiply, ≥ 0.
    steps : int
        Number of steps of the change (torch's total_iters).
    start_factor, end_factor : float
        First and last factor, ≥ 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "steps", "start_factor", "end_factor")
    lr: float
    steps: int
    start_factor: float
    end_factor: float

    def __init__(
        self,
        lr: float,
        steps: int,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
    ) -> None:
        self._take(
            lr=rate("lr", lr),
            steps=_validate.count("steps", steps, 1),
            start_factor=rate("start_factor", start_factor),
            end_factor=rate("end_factor", end_factor),
        )

    def _at(self, steps: Steps) -> Array:
        part = np.minimum(steps, self.steps) / self.steps
        change = (self.end_factor - self.start_factor) * part
        return self.lr * (self.start_factor + change)


class ConstantFactor(Schedule):
    """lr times a factor in the first steps, then lr (ConstantLR).

    Parameters
    ----------
    lr : float
        Learning rate after the first steps, ≥ 0.
    steps : int
        Number of steps with the factor (torch's total_iters).
    factor : float
        Factor, ≥ 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "steps", "factor")
    lr: float
    steps: int
    factor: float

    def __init__(
        self,
        lr: float,
        steps: int,
        factor: float = 1 / 3,
    ) -> None:
        self._take(
            lr=rate("lr", lr),
            steps=_validate.count("steps", steps, 1),
            factor=rate("factor", factor),
        )

    def _at(self, steps: Steps) -> Array:
        return np.where(steps < self.steps, self.lr * self.factor, self.lr)


class FlatCosine(Schedule):
    """A constant learning rate, then half a cosine down to ``min_lr``.

    With t steps done out of T, the learning rate is lr up to t = flat T, and then
    min_lr + (lr - min_lr) (1 + cos(π (t - flat T) / (T - flat T))) / 2. The default is
    flat_cos of RealMLP (Holzmüller et al. 2024).

    Parameters
    ----------
    lr : float
        First learning rate, ≥ 0.
    steps : int
        Number T of steps until ``min_lr`` is reached.
    flat : float
        Fraction of the steps with the first learning rate, ≥ 0 and < 1.
    min_lr : float
        Last learning rate, ≥ 0 and ≤ lr.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "steps", "flat", "min_lr")
    lr: float
    steps: int
    flat: float
    min_lr: float

    def __init__(
        self,
        lr: float,
        steps: int,
        flat: float = 0.5,
        min_lr: float = 0.0,
    ) -> None:
        lr = rate("lr", lr)
        self._take(
            lr=lr,
            steps=_validate.count("steps", steps, 1),
            flat=_validate.real("flat", flat, 0.0, 1.0, open_high=True),
            min_lr=_validate.real("min_lr", min_lr, 0.0, lr),
        )

    def _at(self, steps: Steps) -> Array:
        begin = self.flat * self.steps
        part = np.clip((steps - begin) / (self.steps - begin), 0.0, 1.0)
        return self.min_lr + (self.lr - self.min_lr) * half_cosine(part)
