"""Optimisers that use only the signs of the gradients or of their means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..schedules import Schedule
from ._base import Optimizer
from ._hyperparameters import Betas, Numbers, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    Rate = float | Schedule | Callable[[int], float]

__all__ = ["Lion", "Rprop"]


class Rprop(Optimizer, kind="rprop"):
    """Resilient backpropagation, for batches of all data (Riedmiller & Braun 1993).

    Each parameter has its step size s: θ ← θ - s sign(g). First s is multiplied by η⁺
    if g has the sign of the previous gradient, and by η⁻ if it has the opposite sign,
    and clamped. After a change of sign g counts as 0, also in the next step, as in
    torch (iRprop⁻ of Igel & Hüsken 2000).

    Parameters
    ----------
    lr : float, Schedule or callable
        Initial step size s, ≥ 0; later learning rates have no effect.
    etas : (float, float)
        Factors η⁻, between 0 and 1, and η⁺, above 1.
    step_sizes : (float, float)
        Bounds of s, ≥ 0: the smallest and the largest step size.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0; torch's class does not have it.
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
    _common = frozenset(("lr",))  # the first step sizes

    etas = Numbers(
        {
            "etaminus": {"low": 0, "high": 1, "open_low": True, "open_high": True},
            "etaplus": {"low": 1, "open_low": True},
        }
    )
    step_sizes = Numbers({"step_min": {"low": 0}, "step_max": {"low": 0}})

    def __init__(
        self,
        lr: Rate = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
        weight_decay: Rate = 0.0,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
        super()._check_together(hyper)
        least, most = hyper["step_sizes"]
        if least > most:
            raise ValueError(
                "step_sizes must be the smallest and the largest step size, got "
                f"({least}, {most})"
            )


class Lion(Optimizer, kind="lion", decoupled=True):
    """Steps by the sign of an interpolated momentum (Chen et al. 2023, algorithm 2).

    θ ← (1 - lr λ) θ - lr sign(β₁ m + (1 - β₁) g), then m ← β₂ m + (1 - β₂) g. Each step
    changes each parameter by lr, so lr should be smaller than for `AdamW`, and λ larger
    by the same factor: the paper recommends 3 to 10.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        Weight β₁ of m in the step and decay rate β₂ of m, at least 0 and below 1.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0; decoupled, as in `AdamW`.
    maximize : bool
        Whether to maximise instead of minimise; the decay is the same.
    accumulate, clip_norm, clip_value, l1, decay, ema, groups
        Options of all optimisers; see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If hyperparameters have the wrong type, are out of range or exclude each other.
    """

    __slots__ = ()

    betas = Betas()

    def __init__(
        self,
        lr: Rate = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: Rate = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())
