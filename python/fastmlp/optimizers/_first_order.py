"""First-order optimisers, with the names, defaults and formulas of ``torch.optim``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..schedules import Schedule
from ._base import Optimizer
from ._hyperparameters import Betas, EpsMode, Flag, Number, Options, Scheduled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    Rate = float | Schedule | Callable[[int], float]

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Adamax", "RMSprop"]


class SGD(Optimizer, kind="sgd"):
    """Stochastic gradient descent, optionally with momentum.

    Without momentum θ ← θ - lr g. With momentum μ and dampening τ: b ← μ b + (1 - τ) g
    (b ← g in the first step), and θ ← θ - lr b, or θ ← θ - lr (g + μ b) for
    ``nesterov`` (Sutskever et al. 2013). As in torch, but not in Keras, b does not
    include lr.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    momentum : float, Schedule or callable
        Momentum μ, ≥ 0.
    dampening : float
        Dampening τ.
    nesterov : bool
        Whether to use Nesterov's momentum; needs momentum > 0 and no dampening.
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

    momentum = Scheduled(state=True)
    dampening = Number()
    nesterov = Flag()

    def __init__(
        self,
        lr: Rate,
        momentum: Rate = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: Rate = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
        super()._check_together(hyper)
        if hyper["nesterov"] and (hyper["momentum"] == 0 or hyper["dampening"] != 0):
            raise ValueError(
                "nesterov=True needs momentum > 0 and dampening=0, got "
                f"momentum={hyper['momentum']}, dampening={hyper['dampening']}"
            )


class Adagrad(Optimizer, kind="adagrad"):
    """Adaptive gradient (Duchi, Hazan & Singer 2011).

    s ← s + g², θ ← θ - lr / (1 + (t - 1) η) · g / (√s + ε).

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    lr_decay : float
        Decay η of the learning rate, ≥ 0.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0.
    initial_accumulator_value : float
        Value of s before the first step, ≥ 0; it cannot be changed later.
    eps : float
        Term ε of the denominator, ≥ 0.
    maximize : bool
        Whether to maximise instead of minimise.
    eps_mode : {"outside", "inside"}
        Position of ε; see `fastmlp.optimizers`.
    accumulate, clip_norm, clip_value, l1, decay, ema, groups
        Options of all optimisers; see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If hyperparameters have the wrong type, are out of range or exclude each other.
    """

    __slots__ = ()

    lr_decay = Number(0.0)
    initial_accumulator_value = Number(0.0, fixed=True)
    eps = Number(0.0)
    eps_mode = EpsMode("outside", "inside")

    def __init__(
        self,
        lr: Rate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: Rate = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())


class RMSprop(Optimizer, kind="rmsprop"):
    """Root mean square propagation (Tieleman & Hinton 2012; Graves 2013 if centred).

    v ← alpha v + (1 - alpha) g², u = g / (√v + ε); with ``centered`` v is replaced in u
    by v - a², where a ← alpha a + (1 - alpha) g. θ ← θ - lr u, or with momentum μ:
    b ← μ b + u, θ ← θ - lr b.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    alpha : float
        Decay rate of v, the weight of its previous value, from 0 to 1.
    eps : float
        Term ε of the denominator, ≥ 0.
    momentum : float, Schedule or callable
        Momentum μ, ≥ 0.
    centered : bool
        Whether to divide by the standard deviation instead of the root mean square.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0.
    maximize : bool
        Whether to maximise instead of minimise.
    eps_mode : {"outside", "inside"}
        Position of ε; see `fastmlp.optimizers`.
    accumulate, clip_norm, clip_value, l1, decay, ema, groups
        Options of all optimisers; see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If hyperparameters have the wrong type, are out of range or exclude each other.
    """

    __slots__ = ()

    alpha = Number(0.0, 1.0)
    eps = Number(0.0)
    momentum = Scheduled(state=True)
    centered = Flag()
    eps_mode = EpsMode("outside", "inside")

    def __init__(
        self,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: Rate = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        weight_decay: Rate = 0.0,
        eps_mode: str = "outside",
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())


class _Adam(Optimizer):
    __slots__ = ()

    betas = Betas()
    eps = Number(0.0)
    amsgrad = Flag()
    eps_mode = EpsMode("outside", "inside", "hat")


class Adam(_Adam, kind="adam"):
    """Adaptive moments (Kingma & Ba 2015; Reddi, Kale & Kumar 2018 for AMSGrad).

    m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g²; m̂ = m / (1 - β₁^t),
    v̂ = v / (1 - β₂^t); θ ← θ - lr m̂ / (√v̂ + ε). With ``amsgrad`` the largest v so far
    replaces v in v̂.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        Decay rates β₁ and β₂ of m and v, at least 0 and below 1.
    eps : float
        Term ε of the denominator, ≥ 0.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0, added to the gradient; `AdamW` decouples it.
    amsgrad : bool
        Whether to use AMSGrad, with the largest v so far in place of v.
    maximize : bool
        Whether to maximise instead of minimise.
    eps_mode : {"outside", "inside", "hat"}
        Position of ε: "outside", m̂ / (√v̂ + ε); "inside", m̂ / √(v̂ + ε); or "hat", a
        step of lr √(1 - β₂^t) / (1 - β₁^t) · m / (√v + ε), the form of Keras,
        TensorFlow and scikit-learn.
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
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())


class AdamW(_Adam, kind="adam", decoupled=True):
    """`Adam` with decoupled weight decay (Loshchilov & Hutter 2019).

    First θ ← θ (1 - lr λ), then Adam's step with a gradient that does not include
    weight decay.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        Decay rates β₁ and β₂ of m and v, at least 0 and below 1.
    eps : float
        Term ε of the denominator, ≥ 0.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0; not added to the gradient.
    amsgrad : bool
        Whether to use AMSGrad, with the largest v so far in place of v.
    maximize : bool
        Whether to maximise instead of minimise; the decay is the same.
    eps_mode : {"outside", "inside", "hat"}
        Position of ε, as in `Adam`.
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
        weight_decay: Rate = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())


class Adamax(Optimizer, kind="adamax"):
    """`Adam` with the infinity norm (Kingma & Ba 2015, section 7.1).

    m ← β₁ m + (1 - β₁) g, u ← max(β₂ u, abs(g) + ε), θ ← θ - lr / (1 - β₁^t) · m / u.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        Decay rates β₁ and β₂ of m and u, at least 0 and below 1.
    eps : float
        Term ε of the denominator, ≥ 0; added to abs(g), as in torch.
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

    betas = Betas()
    eps = Number(0.0)

    def __init__(
        self,
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Rate = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())
