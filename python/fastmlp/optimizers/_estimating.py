"""Optimisers that estimate the learning rate."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from ..schedules import Schedule
from ._base import Optimizer
from ._hyperparameters import Betas, Flag, Limit, Number, Optional, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    Rate = float | Schedule | Callable[[int], float]

__all__ = ["Prodigy"]


class Prodigy(Optimizer, kind="prodigy"):
    """`Adam` that estimates its step size (Mishchenko & Defazio 2024, algorithm 4).

    d estimates the distance of the first parameters θ₀ from a solution. With η = lr d:
    m ← β₁ m + (1 - β₁) d g, v ← β₂ v + (1 - β₂) d² g², θ ← θ - η m / (√v + d ε). Then
    r ← β₃ r + d η ⟨g, θ₀ - θ⟩ with the previous θ, s ← β₃ s + d η g, and d is the
    largest of d and d_coef r / ‖s‖₁. The next step is the first with the new d; in the
    authors' package, its ε is already multiplied by the new d.

    The sums are over all parameters of the optimiser. Its state has r, divided by d0,
    as ``"d_numerator"``.

    Parameters
    ----------
    lr : float, Schedule or callable
        Factor of the estimated step size, ≥ 0; usually 1, or a schedule that starts
        from it. See `fastmlp.optimizers`.
    betas : (float, float)
        Decay rates β₁ and β₂ of m and v, at least 0 and below 1.
    beta3 : float, optional
        Decay rate β₃ of r and s, above 0 and below 1. Default: √β₂.
    eps : float
        Term ε of the denominator, ≥ 0.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0.
    decouple : bool
        Whether θ is multiplied by 1 - η λ, as in `AdamW`, instead of adding λ θ to g.
    use_bias_correction : bool
        Whether η is also multiplied by √(1 - β₂^t) / (1 - β₁^t).
    safeguard_warmup : bool
        Whether η is replaced by d in s, for schedules that begin with small rates.
    d0 : float
        Initial estimate, > 0, which should be too small; it cannot be changed later.
    d_coef : float
        Factor of the estimates, ≥ 0.
    growth_rate : float
        Largest factor, ≥ 1, by which d grows in a step, except from d0; may be ``inf``.
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
    _common = frozenset(
        {
            *("lr", "betas", "beta3", "use_bias_correction", "safeguard_warmup"),
            *("d_coef", "growth_rate"),
        }
    )

    betas = Betas()
    beta3 = Optional(1.0)
    eps = Number(0.0)
    decouple = Flag(core="decoupled")
    use_bias_correction = Flag()
    safeguard_warmup = Flag()
    d0 = Number(0.0, fixed=True)
    d_coef = Number(0.0)
    growth_rate = Limit()

    def __init__(
        self,
        lr: Rate = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: Rate = 0.0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = inf,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
        super()._check_together(hyper)
        if hyper["d0"] == 0:
            raise ValueError("d0 must be finite and > 0, got 0.0")

    @property
    def d(self) -> float:
        """Estimate of the distance to a solution: the step size for ``lr=1``."""
        return self.core.shared["d"]
