"""First-order optimisers, with the names, defaults and formulas of ``torch.optim``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _core
from ..schedules import Schedule
from ._base import Optimizer
from ._hyperparameters import Flag, Number, Options, _betas

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    Rate = float | Schedule | Callable[[int], float]

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    Without momentum θ ← θ - lr g. With momentum μ and dampening τ: b ← μ b + (1 - τ) g
    (b ← g in the first step), and θ ← θ - lr b, or θ ← θ - lr (g + μ b) for
    ``nesterov`` (Sutskever et al. 2013; lr stands outside b, as in torch and unlike in
    Keras).

    Parameters
    ----------
    lr : float, Schedule or callable
        The learning rate, ≥ 0; see `fastmlp.optimizers`.
    momentum : float
        μ, ≥ 0.
    dampening : float
        τ.
    nesterov : bool
        Needs momentum > 0 and no dampening.
    weight_decay : float
        λ, ≥ 0.
    maximize : bool
        Ascend instead.
    clip_norm, clip_value, l1, decay, ema
        As all optimisers, see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        For hyperparameters of a wrong kind, out of range, or that exclude each other.
    """

    __slots__ = ()
    _kind = "sgd"
    _names = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "maximize")

    momentum = Number(0.0)
    dampening = Number()
    nesterov = Flag()
    weight_decay = Number(0.0)

    def __init__(
        self,
        lr: Rate,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._make(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            nesterov=nesterov,
            weight_decay=weight_decay,
            maximize=maximize,
            **options,
        )

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
        super()._check_together(hyper)
        if hyper["nesterov"] and (hyper["momentum"] == 0 or hyper["dampening"] != 0):
            raise ValueError(
                "nesterov needs momentum > 0 and dampening 0, got "
                f"momentum={hyper['momentum']}, dampening={hyper['dampening']}"
            )


class _WithEps(Optimizer):
    __slots__ = ()

    eps = Number(0.0)
    weight_decay = Number(0.0)

    @property
    def eps_mode(self) -> str:
        """Where ε stands, see `fastmlp.optimizers`; fixed."""
        return str(self.core.get("eps_mode"))


class Adagrad(_WithEps):
    """Adaptive gradient (Duchi, Hazan & Singer 2011).

    s ← s + g², θ ← θ - lr / (1 + (t - 1) η) · g / (√s + ε).

    Parameters
    ----------
    lr : float, Schedule or callable
        The learning rate, ≥ 0; see `fastmlp.optimizers`.
    lr_decay : float
        η, ≥ 0.
    weight_decay : float
        λ, ≥ 0.
    initial_accumulator_value : float
        What s is before the first step, ≥ 0; fixed.
    eps : float
        ε, ≥ 0.
    maximize : bool
        Ascend instead.
    eps_mode : {"outside", "inside"}
        Where ε stands.
    clip_norm, clip_value, l1, decay, ema
        As all optimisers, see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        For hyperparameters of a wrong kind, out of range, or that exclude each other.
    """

    __slots__ = ()
    _kind = "adagrad"
    _names = (
        "lr",
        "lr_decay",
        "weight_decay",
        "initial_accumulator_value",
        "eps",
        "maximize",
        "eps_mode",
    )

    lr_decay = Number(0.0)
    initial_accumulator_value = Number(0.0, fixed=True)

    def __init__(
        self,
        lr: Rate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
        **options: Unpack[Options],
    ) -> None:
        self._make(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            maximize=maximize,
            eps_mode=eps_mode,
            **options,
        )


class RMSprop(_WithEps):
    """Root mean square propagation (Tieleman & Hinton 2012; Graves 2013 if centred).

    v ← alpha v + (1 - alpha) g², u = g / (√v + ε); with ``centered`` v is replaced in u
    by v - a², where a ← alpha a + (1 - alpha) g. θ ← θ - lr u, or with momentum μ:
    b ← μ b + u, θ ← θ - lr b.

    Parameters
    ----------
    lr : float, Schedule or callable
        The learning rate, ≥ 0; see `fastmlp.optimizers`.
    alpha : float
        The weight of the past in v, from 0 to 1.
    eps : float
        ε, ≥ 0.
    weight_decay : float
        λ, ≥ 0.
    momentum : float
        μ, ≥ 0.
    centered : bool
        Divide by the standard deviation instead of the root mean square.
    maximize : bool
        Ascend instead.
    eps_mode : {"outside", "inside"}
        Where ε stands.
    clip_norm, clip_value, l1, decay, ema
        As all optimisers, see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        For hyperparameters of a wrong kind, out of range, or that exclude each other.
    """

    __slots__ = ()
    _kind = "rmsprop"
    _names = (
        "lr",
        "alpha",
        "eps",
        "momentum",
        "centered",
        "weight_decay",
        "maximize",
        "eps_mode",
    )

    alpha = Number(0.0, 1.0)
    momentum = Number(0.0)
    centered = Flag()

    def __init__(
        self,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        weight_decay: float = 0.0,
        eps_mode: str = "outside",
        **options: Unpack[Options],
    ) -> None:
        self._make(
            lr=lr,
            alpha=alpha,
            eps=eps,
            momentum=momentum,
            centered=centered,
            weight_decay=weight_decay,
            maximize=maximize,
            eps_mode=eps_mode,
            **options,
        )


class _Adam(_WithEps):
    __slots__ = ()
    _kind = "adam"
    _names = (
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "amsgrad",
        "maximize",
        "eps_mode",
    )

    amsgrad = Flag()

    @property
    def betas(self) -> tuple[float, float]:
        """(β₁, β₂); may be set."""
        core = self.core
        return float(core.get("beta1")), float(core.get("beta2"))

    @betas.setter
    def betas(self, value: tuple[float, float]) -> None:
        beta1, beta2 = _betas(value)
        self.core.set("beta1", beta1)
        self.core.set("beta2", beta2)

    def _eps_modes(self) -> tuple[str, ...]:
        return ("outside", "inside", "hat")


class Adam(_Adam):
    """Adaptive moments (Kingma & Ba 2015; Reddi, Kale & Kumar 2018 for AMSGrad).

    m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g²; m̂ = m / (1 - β₁^t),
    v̂ = v / (1 - β₂^t); θ ← θ - lr m̂ / (√v̂ + ε). With ``amsgrad`` the greatest v so far
    takes the place of v in v̂.

    Parameters
    ----------
    lr : float, Schedule or callable
        The learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        β₁ and β₂, from 0 to below 1.
    eps : float
        ε, ≥ 0.
    weight_decay : float
        λ, ≥ 0, added to the gradient; see `AdamW` for the other kind.
    amsgrad : bool
        Never let the denominator shrink.
    maximize : bool
        Ascend instead.
    eps_mode : {"outside", "inside", "hat"}
        Where ε stands: "outside", m̂ / (√v̂ + ε); "inside", m̂ / √(v̂ + ε); or "hat", a
        step of lr √(1 - β₂^t) / (1 - β₁^t) · m / (√v + ε), the form of Keras,
        TensorFlow and scikit-learn.
    clip_norm, clip_value, l1, decay, ema
        As all optimisers, see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        For hyperparameters of a wrong kind, out of range, or that exclude each other.
    """

    __slots__ = ()

    def __init__(
        self,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
        **options: Unpack[Options],
    ) -> None:
        self._make(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            eps_mode=eps_mode,
            **options,
        )


class AdamW(_Adam):
    """`Adam` with decoupled weight decay (Loshchilov & Hutter 2019).

    θ ← θ (1 - lr λ) comes first, then Adam's step with a gradient free of λ.

    Parameters
    ----------
    lr : float, Schedule or callable
        The learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        β₁ and β₂, from 0 to below 1.
    eps : float
        ε, ≥ 0.
    weight_decay : float
        λ, ≥ 0; not added to the gradient, see above.
    amsgrad : bool
        Never let the denominator shrink.
    maximize : bool
        Ascend instead; the decay is the same.
    eps_mode : {"outside", "inside", "hat"}
        Where ε stands, as in `Adam`.
    clip_norm, clip_value, l1, decay, ema
        As all optimisers, see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        For hyperparameters of a wrong kind, out of range, or that exclude each other.
    """

    __slots__ = ()

    def __init__(
        self,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
        **options: Unpack[Options],
    ) -> None:
        self._make(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            eps_mode=eps_mode,
            **options,
        )

    def _make_core(self, hyper: dict[str, Any]) -> _core.Optimizer:
        return _core.Optimizer(self._kind, **hyper, decoupled=True)
