"""Optimisers that average the parameters over the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schedules import Schedule
from ._base import Optimizer
from ._hyperparameters import Number, Options

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from .._validate import Array

    Rate = float | Schedule | Callable[[int], float]

__all__ = ["ASGD"]


class ASGD(Optimizer, kind="asgd"):
    """Stochastic gradient descent with averaged parameters (Polyak & Juditsky 1992).

    θ ← (1 - lambd η) θ - η g with η = lr / (1 + lambd lr (t - 1))^alpha, and a ← a +
    (θ - a) / max(1, t - 1 - t0): until step t0 + 2 the average a is θ itself.
    `Optimizer.averaged` returns the model at a, unless ``ema`` is given.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    lambd : float
        Decay, ≥ 0, of the learning rate and of all parameters, whatever ``decay`` is.
    alpha : float
        Exponent of the decay of the learning rate, from 0 to 1.
    t0 : float
        Number of steps, ≥ 0, before the average begins.
    weight_decay : float
        Weight decay λ, ≥ 0.
    maximize : bool
        Whether to maximise instead of minimise.
    clip_norm, clip_value, l1, decay, ema
        Options of all optimisers; see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If hyperparameters have the wrong type, are out of range or exclude each other.
    """

    __slots__ = ()

    lambd = Number(0.0)
    alpha = Number(0.0, 1.0)
    t0 = Number(0.0)

    def __init__(
        self,
        lr: Rate = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())

    def _averages(self) -> list[Array] | None:
        return [slots["ax"] for slots in self.core.state()["slots"]]
