"""Schedules with several phases: rises, falls and constant parts."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

import numpy as np

from .. import _validate
from ._base import Schedule, ascending, elementary, half_cosine, power, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._base import Array, Steps

__all__ = ["CosineLog", "Cyclic", "OneCycle", "Piecewise", "WarmupStableDecay"]

# log(2), written out: no function of the C library is called.
_LOG_2 = 0.6931471805599453


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
            max_lr=rate("max_lr", max_lr),
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
        """Learning rate that the schedule scales: ``max_lr``."""
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
                rates[mine] = high + (low - high) * half_cosine(part)
            else:
                rates[mine] = low + (high - low) * part
            free, begin = free & ~mine, until
        return rates


class Cyclic(Schedule):
    """A rise from ``base_lr`` and a fall back to it, again and again (CyclicLR).

    In each cycle the learning rate is a straight line up to the peak and another one
    down (Smith 2017). The peak of cycle c, counted from 0, is max_lr in the mode
    "triangular", and base_lr + (max_lr - base_lr) / 2^c in the mode "triangular2". In
    the mode "exp_range", the height above base_lr is multiplied by gamma^t at step t.

    Parameters
    ----------
    base_lr : float
        Learning rate at the start of each cycle, ≥ 0.
    max_lr : float
        Learning rate at the first peak, ≥ base_lr.
    step_size_up : int
        Number of steps of a rise.
    step_size_down : int, optional
        Number of steps of a fall; None means ``step_size_up``.
    mode : {"triangular", "triangular2", "exp_range"}
        How the peaks change.
    gamma : float
        Factor per step in the mode "exp_range", from 0 to 1; other modes ignore it.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("base_lr", "max_lr", "step_size_up", "step_size_down", "mode", "gamma")
    base_lr: float
    max_lr: float
    step_size_up: int
    step_size_down: int | None
    mode: str
    gamma: float

    def __init__(
        self,
        base_lr: float,
        max_lr: float,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
    ) -> None:
        modes = ("triangular", "triangular2", "exp_range")
        if step_size_down is not None:
            step_size_down = _validate.count("step_size_down", step_size_down, 1)
        base_lr = rate("base_lr", base_lr)
        self._take(
            base_lr=base_lr,
            max_lr=_validate.real("max_lr", max_lr, base_lr),
            step_size_up=_validate.count("step_size_up", step_size_up, 1),
            step_size_down=step_size_down,
            mode=_validate.choice("mode", mode, modes),
            gamma=_validate.real("gamma", gamma, 0.0, 1.0),
        )

    @property
    def nominal(self) -> float:
        """Learning rate that the schedule scales: ``max_lr``."""
        return self.max_lr

    def _at(self, steps: Steps) -> Array:
        up, down = self.step_size_up, self.step_size_down or self.step_size_up
        at = steps % (up + down)
        height = np.where(at <= up, at / up, (up + down - at) / down)
        if self.mode == "triangular2":
            height = height * power(0.5, steps // (up + down))
        elif self.mode == "exp_range":
            height = height * power(self.gamma, steps)
        return self.base_lr + (self.max_lr - self.base_lr) * height


class CosineLog(Schedule):
    """Cosine cycles of growing length, from 0 to 0: coslog of RealMLP.

    With t steps done out of T, the learning rate is lr (1 - cos(2 π u)) / 2 with
    u = log₂(1 + (2^cycles - 1) t / T), and 0 after the last step. Each cycle is about
    twice as long as the one before (Holzmüller et al. 2024).

    Parameters
    ----------
    lr : float
        Learning rate at the peaks, ≥ 0.
    steps : int
        Number T of steps of all cycles.
    cycles : int
        Number of cycles, from 1 to 52.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "steps", "cycles")
    lr: float
    steps: int
    cycles: int

    def __init__(
        self,
        lr: float,
        steps: int,
        cycles: int = 4,
    ) -> None:
        self._take(
            lr=rate("lr", lr),
            steps=_validate.count("steps", steps, 1),
            cycles=_validate.count("cycles", cycles, 1, 52),
        )

    def _at(self, steps: Steps) -> Array:
        part = np.minimum(steps / self.steps, 1.0)
        phase = elementary("log1p", (2**self.cycles - 1) * part) / _LOG_2
        sine = elementary("sin", pi * (phase - np.floor(phase)))
        # sin² keeps digits where 1 - cos would cancel.
        return np.where(part < 1, self.lr * (sine * sine), 0.0)


class WarmupStableDecay(Schedule):
    """A linear rise from 0, a constant learning rate, then a fall (Hu et al. 2024).

    The learning rate rises from 0 to ``lr`` in ``warmup`` steps, stays there for
    ``stable`` steps, falls to ``min_lr`` in ``decay`` steps and then stays. With p the
    part of the decay that is done, the fall is min_lr + (lr - min_lr) f(p), where f is
    1 - p ("linear"), (1 + cos(π p)) / 2 ("cos") or 1 - √p ("sqrt", Hägele et al. 2024);
    "exponential" is lr (min_lr / lr)^p, the fall of Hu et al.

    Parameters
    ----------
    lr : float
        Learning rate of the constant part, ≥ 0.
    warmup, stable : int
        Number of steps of the rise and of the constant part, each ≥ 0.
    decay : int
        Number of steps of the fall.
    min_lr : float
        Last learning rate, ≥ 0 and ≤ lr; > 0 for "exponential".
    shape : {"linear", "cos", "sqrt", "exponential"}
        Shape of the fall.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lr", "warmup", "stable", "decay", "min_lr", "shape")
    lr: float
    warmup: int
    stable: int
    decay: int
    min_lr: float
    shape: str

    def __init__(
        self,
        lr: float,
        warmup: int,
        stable: int,
        decay: int,
        min_lr: float = 0.0,
        shape: str = "linear",
    ) -> None:
        lr = rate("lr", lr)
        shapes = ("linear", "cos", "sqrt", "exponential")
        shape = _validate.choice("shape", shape, shapes)
        positive = shape == "exponential"
        self._take(
            lr=lr,
            warmup=_validate.count("warmup", warmup, 0),
            stable=_validate.count("stable", stable, 0),
            decay=_validate.count("decay", decay, 1),
            min_lr=_validate.real("min_lr", min_lr, 0.0, lr, open_low=positive),
            shape=shape,
        )

    def _at(self, steps: Steps) -> Array:
        done = np.maximum(steps - self.warmup - float(self.stable), 0.0)
        part = np.minimum(done / self.decay, 1.0)
        if self.shape == "exponential":
            ratio = elementary("log", np.array([self.min_lr / self.lr]))
            fall = self.lr * elementary("exp", part * ratio)
        else:
            left = half_cosine(part) if self.shape == "cos" else 1 - part
            left = 1 - np.sqrt(part) if self.shape == "sqrt" else left
            fall = self.min_lr + (self.lr - self.min_lr) * left
        rates = np.where(part < 1, np.where(part > 0, fall, self.lr), self.min_lr)
        rise = self.lr * (steps / max(self.warmup, 1))
        return np.where(steps < self.warmup, rise, rates)


class Piecewise(Schedule):
    """Given learning rates at given steps, with steps, lines or cosines between them.

    The learning rate is lrs[0] at step 0 and lrs[i] at step milestones[i - 1], and
    stays there after the last milestone. Between them it is the last one reached
    ("constant", Keras' PiecewiseConstantDecay), a straight line or half a cosine
    (Optax' piecewise_interpolate_schedule).

    Parameters
    ----------
    lrs : sequence of float
        Learning rates, ≥ 0, one more than milestones.
    milestones : sequence of int
        Steps at which the learning rates after the first are reached, ≥ 1 and each
        larger than the one before.
    shape : {"constant", "linear", "cos"}
        Shape between two given learning rates.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("lrs", "milestones", "shape")
    lrs: Sequence[float]
    milestones: Sequence[int]
    shape: str

    def __init__(
        self,
        lrs: Sequence[float],
        milestones: Sequence[int],
        shape: str = "constant",
    ) -> None:
        lrs = _validate.reals("lrs", lrs, 0.0)
        milestones = ascending("milestones", milestones, 1)
        if len(set(milestones)) < len(milestones):
            raise ValueError(f"milestones must differ, got {milestones}")
        if len(lrs) != len(milestones) + 1:
            raise ValueError(
                f"lrs must have length {len(milestones) + 1}, one more than "
                f"milestones, got length {len(lrs)}"
            )
        shapes = ("constant", "linear", "cos")
        self._take(
            lrs=lrs,
            milestones=milestones,
            shape=_validate.choice("shape", shape, shapes),
        )

    @property
    def nominal(self) -> float:
        """Learning rate that the schedule scales: the largest one."""
        return max(self.lrs)

    def _at(self, steps: Steps) -> Array:
        begins, lrs = np.array([0, *self.milestones]), np.array(self.lrs)
        which = np.searchsorted(begins, steps, "right") - 1
        now: Array = lrs[which]
        after: Array = lrs[np.minimum(which + 1, len(lrs) - 1)]
        if self.shape == "constant":
            return now
        lengths = np.append(np.diff(begins), 1)
        part = np.minimum((steps - begins[which]) / lengths[which], 1.0)
        left = 1 - part if self.shape == "linear" else half_cosine(part)
        rates: Array = after + (now - after) * left
        return rates
