"""Optimisers that adapt the step size to the gradients: Adam's family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schedules import Schedule
from ._base import Optimizer
from ._hyperparameters import Betas, Flag, Number, Options

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    Rate = float | Schedule | Callable[[int], float]

__all__ = ["AdaBelief", "Adadelta", "NAdam", "RAdam"]


class Adadelta(Optimizer, kind="adadelta"):
    """Steps in the units of the parameters (Zeiler 2012).

    v ← rho v + (1 - rho) g², d = √(u + ε) / √(v + ε) · g,
    u ← rho u + (1 - rho) d², θ ← θ - lr d.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    rho : float
        Decay rate of u and v, the weight of their previous values, from 0 to 1.
    eps : float
        Term ε of both roots, ≥ 0; without it, u stays near 0.
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

    rho = Number(0.0, 1.0)
    eps = Number(0.0)

    def __init__(
        self,
        lr: Rate = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: Rate = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())


class _Decoupling(Optimizer):
    __slots__ = ()

    betas = Betas()
    eps = Number(0.0)
    decoupled_weight_decay = Flag(core="decoupled")


class NAdam(_Decoupling, kind="nadam"):
    """`Adam` with Nesterov's momentum (Dozat 2016).

    With Adam's m, v and v̂, μ_t = β₁ (1 - 0.96^(t ψ) / 2) and M_t = μ₁ ⋯ μ_t:
    θ ← θ - lr ((1 - μ_t) / (1 - M_t) · g + μ_{t+1} / (1 - M_{t+1}) · m) / (√v̂ + ε).
    M_t is in the state as ``"mu_product"``.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        Decay rates β₁ and β₂ of m and v, at least 0 and below 1.
    eps : float
        Term ε of the denominator, ≥ 0.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0.
    momentum_decay : float
        Rate ψ, ≥ 0, at which the momentum μ_t grows from about β₁ / 2 to β₁.
    decoupled_weight_decay : bool
        Whether θ is multiplied by 1 - lr λ, as in `AdamW`, instead of adding λ θ to g.
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
    _common = frozenset(("betas", "momentum_decay"))

    momentum_decay = Number(0.0)

    def __init__(
        self,
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Rate = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())


class RAdam(_Decoupling, kind="radam"):
    """`Adam` with a rectified step size (Liu et al. 2020).

    With Adam's m, m̂ and v, R = 2 / (1 - β₂) - 1 and
    r = R - 2 t β₂^t / (1 - β₂^t): θ ← θ - lr m̂ while r ≤ 5, and after that
    θ ← θ - lr c m̂ √(1 - β₂^t) / (√v + ε), where
    c² = (r - 4) (r - 2) R / ((R - 4) (R - 2) r). The bound 5 is torch's; the paper
    has 4.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        Decay rates β₁ and β₂ of m and v, at least 0 and below 1.
    eps : float
        Term ε of the denominator, ≥ 0.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0.
    decoupled_weight_decay : bool
        Whether θ is multiplied by 1 - lr λ, as in `AdamW`, instead of adding λ θ to g.
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

    def __init__(
        self,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Rate = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())


class AdaBelief(_Decoupling, kind="adabelief"):
    """`Adam` with the variance about the mean gradient (Zhuang et al. 2020).

    m ← β₁ m + (1 - β₁) g, s ← β₂ s + (1 - β₂) (g - m)² + ε; m̂ = m / (1 - β₁^t),
    ŝ = s / (1 - β₂^t); θ ← θ - lr m̂ / (√ŝ + ε).

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        Decay rates β₁ and β₂ of m and s, at least 0 and below 1.
    eps : float
        Term ε, ≥ 0, of s and of the denominator. The default is that of the authors'
        package and of optax; the paper's experiments use 1e-8 to 1e-16.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0.
    decoupled_weight_decay : bool
        Whether θ is multiplied by 1 - lr λ, as in `AdamW`, instead of adding λ θ to g.
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

    def __init__(
        self,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: Rate = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())
