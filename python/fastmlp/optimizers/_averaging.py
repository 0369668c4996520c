"""Optimisers that average the parameters over the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..schedules import Schedule
from ._base import Optimizer
from ._hyperparameters import Betas, Count, Number, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    from .._validate import Array

    Rate = float | Schedule | Callable[[int], float]

__all__ = ["ASGD", "ScheduleFreeAdamW", "ScheduleFreeSGD"]


class ASGD(Optimizer, kind="asgd"):
    """Stochastic gradient descent with averaged parameters (Polyak & Juditsky 1992).

    θ ← (1 - lambd η) θ - η g with η = lr / (1 + lambd lr (t - 1))^alpha, and a ← a +
    (θ - a) / max(1, t - 1 - t0): until step t0 + 2 the average a is θ itself.
    `averaged` returns the model at a, unless ``ema`` is given.

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
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0.
    maximize : bool
        Whether to maximise instead of minimise.
    accumulate, clip_norm, clip_value, l1, decay, ema, groups
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
        weight_decay: Rate = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())

    def _averages(self) -> list[Array] | None:
        return [slots["ax"] for slots in self.core.state()["slots"]]


class _ScheduleFree(Optimizer):
    __slots__ = ()
    _common = frozenset(
        ("lr", "betas", "momentum", "warmup_steps", "r", "weight_lr_power")
    )

    warmup_steps = Count()
    r = Number(0.0)
    weight_lr_power = Number(0.0)

    def _averages(self) -> list[Array] | None:
        return [slots["z"] for slots in self.core.state()["slots"]]

    def _average(self, kept: Array, params: Array) -> Array:
        if self.ema is not None:
            return kept
        average: Array = params + (1 - 1 / float(self.core.get("beta1"))) * (
            kept - params
        )
        return average


class ScheduleFreeSGD(_ScheduleFree, kind="schedule_free"):
    """SGD without a schedule: it averages the iterates (Defazio et al. 2024).

    The gradient g is taken at y = (1 - β) z + β x. z ← z - η g and x ← (1 - c) x + c z,
    where η is lr after the warm-up, and c is the weight t^r η_max^w of the step over
    the sum of all weights so far; η_max is the largest η so far.

    The average x is the result: `averaged` returns the model at x, unless
    ``ema`` is given. The parameters of the trained model are y, at which `fit` also
    evaluates validation data; x = y + (1 - 1 / β) (z - y).

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    momentum : float
        Share β of x in y, above 0 and below 1; it cannot be changed later.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0; λ y is added to g.
    warmup_steps : int
        Number of steps, ≥ 0, in which the learning rate grows linearly to lr.
    r : float
        Exponent r, ≥ 0, of t in the weights of the average.
    weight_lr_power : float
        Exponent w, ≥ 0, of the largest learning rate so far in the weights.
    maximize : bool
        Whether to maximise instead of minimise.
    accumulate, clip_norm, clip_value, l1, decay, ema, groups
        Options of all optimisers; see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If hyperparameters have the wrong type, are out of range or exclude each other.
    """

    __slots__ = ()

    momentum = Number(0.0, 1.0, fixed=True, core="beta1")

    def __init__(
        self,
        lr: Rate = 1.0,
        momentum: float = 0.9,
        weight_decay: Rate = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
        super()._check_together(hyper)
        if not 0 < hyper["momentum"] < 1:
            raise ValueError(
                f"momentum must be > 0 and < 1, got {hyper['momentum']}: without it "
                "y does not determine the average"
            )


class ScheduleFreeAdamW(_ScheduleFree, kind="schedule_free", adaptive=True):
    """`AdamW` without a schedule: it averages the iterates (Defazio et al. 2024).

    The gradient g is taken at y = (1 - β₁) z + β₁ x. v ← β₂ v + (1 - β₂) g²,
    z ← z - η (g / (√v + ε) + λ y), where η is lr √(1 - β₂^t), smaller in the warm-up,
    and x ← (1 - c) x + c z, where c is the weight t^r η_max^w of the step over the sum
    of all weights so far; η_max is the largest η so far (algorithm 1 of the paper if η
    does not shrink; the authors' package has a bias correction in v instead of η).

    The average x is the result: `averaged` returns the model at x, unless
    ``ema`` is given. The parameters of the trained model are y, at which `fit` also
    evaluates validation data; x = y + (1 - 1 / β₁) (z - y).

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        Share β₁ of x in y, above 0 and below 1, and decay rate β₂ of v, at least 0 and
        below 1; they cannot be changed later.
    eps : float
        Term ε of the denominator, ≥ 0.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0, of y; decoupled, as in `AdamW`.
    warmup_steps : int
        Number of steps, ≥ 0, in which the learning rate grows linearly to lr.
    r : float
        Exponent r, ≥ 0, of t in the weights of the average.
    weight_lr_power : float
        Exponent w, ≥ 0, of the largest learning rate so far in the weights.
    maximize : bool
        Whether to maximise instead of minimise.
    accumulate, clip_norm, clip_value, l1, decay, ema, groups
        Options of all optimisers; see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If hyperparameters have the wrong type, are out of range or exclude each other.
    """

    __slots__ = ()

    betas = Betas(fixed=True)
    eps = Number(0.0)

    def __init__(
        self,
        lr: Rate = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Rate = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
        super()._check_together(hyper)
        if hyper["betas"][0] == 0:
            raise ValueError(
                "betas[0] must be > 0, got 0.0: without it y does not determine the "
                "average"
            )
