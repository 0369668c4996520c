"""Learning rate schedules, for the argument ``lr`` of every optimiser.

>>> import fastmlp as fm
>>> cosine = fm.schedules.Cosine(1e-3, period=10_000)
>>> opt = fm.Adam(lr=fm.schedules.LinearWarmup(cosine, 500))

Schedules count an optimiser's steps (batches, not epochs) from 0; `Schedule.values`
returns the learning rates of steps ``first``, ``first`` + 1, …. Schedules are immutable
and depend on the step only, so that training resumes exactly from a stored state, and
several optimisers can share a schedule. Only `ReduceOnPlateau` has a state, which is
part of the optimiser's state.

If ``torch.optim.lr_scheduler`` has the same schedule, the formula and the names of the
parameters are those of torch. Torch counts calls of ``scheduler.step()``, which
must be called once after each step of the optimiser. Powers are computed by
multiplication and cosines by the core, so that values are the same to the last bit
everywhere.
"""

from __future__ import annotations

import numbers
from math import inf, pi
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import _core, _validate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Steps = npt.NDArray[np.int64]


class Schedule:
    """Base class of the schedules; use one of its subclasses."""

    # Names of the constructor's arguments.
    _names: ClassVar[tuple[str, ...]] = ()

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
        rate: float = self.lr  # type: ignore[attr-defined]
        return rate

    def _at(self, steps: Steps) -> Array:
        raise TypeError("Schedule is abstract: use fm.schedules.Cosine(lr, period), …")

    def _take(self, **checked: Any) -> None:
        vars(self).update(checked)

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be changed: create a new schedule instead")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} cannot be changed: create a new schedule instead")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *self._given().values()))

    def __repr__(self) -> str:
        given = _validate.arguments(self._given())
        return f"schedules.{type(self).__name__}({given})"


def _measure(name: str, value: Any) -> float:
    """Return a number that may be infinite or NaN."""
    if isinstance(value, bool) or not _is_real(value):
        raise TypeError(f"{name} must be a number, got {_validate.describe(value)}")
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def _rate(name: str, value: object) -> float:
    return _validate.real(name, value, 0.0)


def _power(base: float, exponents: Steps) -> Array:
    """Return base^n for n >= 0, by multiplication only: the same bits everywhere."""
    result = np.ones(exponents.shape)
    square, left = base, exponents.copy()
    with np.errstate(over="ignore"):
        while left.any():
            result = np.where(left & 1, result * square, result)
            left >>= 1
            square *= square
    return result


def _half_cosine(part: Array) -> Array:
    """Return (1 + cos(π part)) / 2: 1 if ``part`` is 0, and 0 if ``part`` is 1."""
    out = np.empty(part.shape)
    _core.kernels.elementary(out, np.ascontiguousarray(pi / 2 * part), "cos")
    out *= out  # cos(φ / 2)² keeps digits where 1 + cos(φ) would cancel
    out[part >= 1.0] = 0.0
    return out


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
        self._take(lr=_rate("lr", lr))

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
            lr=_rate("lr", lr),
            step_size=_validate.count("step_size", step_size, 1),
            gamma=_rate("gamma", gamma),
        )

    def _at(self, steps: Steps) -> Array:
        return self.lr * _power(self.gamma, steps // self.step_size)


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
        if not isinstance(milestones, (list, tuple, np.ndarray)):
            got = _validate.describe(milestones)
            raise TypeError(f"milestones must be a sequence of ints, got {got}")
        milestones = tuple(
            _validate.count(f"milestones[{i}]", step, 0)
            for i, step in enumerate(milestones)
        )
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones must be in ascending order, got {milestones}")
        self._take(
            lr=_rate("lr", lr),
            milestones=milestones,
            gamma=_rate("gamma", gamma),
        )

    def _at(self, steps: Steps) -> Array:
        reached = np.searchsorted(np.asarray(self.milestones, np.int64), steps, "right")
        return self.lr * _power(self.gamma, reached.astype(np.int64))


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
        self._take(lr=_rate("lr", lr), gamma=_rate("gamma", gamma))

    def _at(self, steps: Steps) -> Array:
        if self.lr == 0:
            return np.zeros(steps.shape)  # not 0 times infinity
        return self.lr * _power(self.gamma, steps)


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
        lr = _rate("lr", lr)
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
        return self.min_lr + (self.lr - self.min_lr) * _half_cosine(part)


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
        if isinstance(after, ReduceOnPlateau) or not isinstance(after, Schedule):
            if isinstance(after, (bool, ReduceOnPlateau)) or not _is_real(after):
                raise TypeError(
                    "after must be a number or a schedule other than ReduceOnPlateau, "
                    f"got {_validate.describe(after)}"
                )
            after = _rate("after", after)
        self._take(
            after=after,
            steps=_validate.count("steps", steps, 1),
            start_factor=_validate.real("start_factor", start_factor, 0.0, 1.0),
        )

    @property
    def nominal(self) -> float:
        """Learning rate after the rise: ``after``, or the schedule's nominal rate."""
        return self.after.nominal if isinstance(self.after, Schedule) else self.after

    def _at(self, steps: Steps) -> Array:
        after = self.after if isinstance(self.after, Schedule) else Constant(self.after)
        rates = after._at(np.maximum(steps - self.steps, 0))
        rise = (1 - self.start_factor) * (steps / self.steps)
        # During the rise, `rates` holds the schedule's learning rate at its step 0.
        line = rates * (self.start_factor + rise)
        return np.where(steps < self.steps, line, rates)


def _is_real(value: object) -> bool:
    """Tell whether this is a number, or an array or tensor without axes."""
    return isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()


class OneCycle(Schedule):
    """A rise to ``max_lr``, then a fall to nearly 0 (Smith & Topin 2018; OneCycleLR).

    The learning rate rises from max_lr / div_factor to max_lr. It then falls to
    max_lr / div_factor / final_div_factor and stays there. The peak is at step
    pct_start · total_steps - 1, and the end at total_steps - 1.

    Parameters
    ----------
    max_lr : float
        Learning rate at the peak, ≥ 0.
    total_steps : int
        Number of steps of the cycle.
    pct_start : float
        Fraction of the steps in which the learning rate rises, from 0 to 1.
    anneal_strategy : {"cos", "linear"}
        Shape of the rise and of the fall.
    div_factor : float
        Ratio of max_lr to the first learning rate, > 0.
    final_div_factor : float
        Ratio of the first learning rate to the last, > 0.
    three_phase : bool
        Whether to fall back to the first learning rate, in as many steps as the
        rise took, and then to the last learning rate in the remaining steps.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = (
        "max_lr",
        "total_steps",
        "pct_start",
        "anneal_strategy",
        "div_factor",
        "final_div_factor",
        "three_phase",
    )
    max_lr: float
    total_steps: int
    pct_start: float
    anneal_strategy: str
    div_factor: float
    final_div_factor: float
    three_phase: bool

    def __init__(
        self,
        max_lr: float,
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        shapes = ("cos", "linear")
        factors = {
            name: _validate.real(name, value, 0.0, open_low=True)
            for name, value in (
                ("div_factor", div_factor),
                ("final_div_factor", final_div_factor),
            )
        }
        self._take(
            max_lr=_rate("max_lr", max_lr),
            total_steps=_validate.count("total_steps", total_steps, 1),
            pct_start=_validate.real("pct_start", pct_start, 0.0, 1.0),
            anneal_strategy=_validate.choice(
                "anneal_strategy", anneal_strategy, shapes
            ),
            three_phase=_validate.flag("three_phase", three_phase),
            **factors,
        )

    @property
    def nominal(self) -> float:
        """Learning rate at the top: ``max_lr``."""
        return self.max_lr

    def _at(self, steps: Steps) -> Array:
        first = self.max_lr / self.div_factor
        last = first / self.final_div_factor
        turn, end = self.pct_start * self.total_steps - 1.0, self.total_steps - 1.0
        # For each phase: its last step, and its first and last learning rate.
        ways = [(turn, first, self.max_lr), (end, self.max_lr, last)]
        if self.three_phase:
            back = 2 * self.pct_start * self.total_steps - 2.0
            ways[1:] = [(back, self.max_lr, first), (end, first, last)]

        at = np.minimum(steps, end)
        rates, begin, free = np.empty(at.shape), 0.0, np.ones(at.shape, bool)
        for i, (until, low, high) in enumerate(ways):
            mine = free & ((at <= until) | (i == len(ways) - 1))
            length = until - begin
            part = (at[mine] - begin) / length if length else np.ones(mine.sum())
            if self.anneal_strategy == "cos":
                rates[mine] = high + (low - high) * _half_cosine(part)
            else:
                rates[mine] = low + (high - low) * part
            free, begin = free & ~mine, until
        return rates


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
        self._take(lr=_rate("lr", lr), warmup=warmup)

    def _at(self, steps: Steps) -> Array:
        count = steps + 1.0
        rise = count / self.warmup
        return self.lr * np.minimum(rise, np.sqrt(self.warmup / count))


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
            lr=_rate("lr", lr),
            mode=_validate.choice("mode", mode, ("min", "max")),
            factor=_validate.real("factor", factor, 0.0, 1.0, open_high=True),
            patience=_validate.count("patience", patience, 0),
            threshold=_rate("threshold", threshold),
            threshold_mode=_validate.choice("threshold_mode", threshold_mode, modes),
            cooldown=_validate.count("cooldown", cooldown, 0),
            min_lr=_rate("min_lr", min_lr),
            eps=_rate("eps", eps),
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
        value = _measure("value", value)
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
