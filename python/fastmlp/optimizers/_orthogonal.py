"""Optimisers that orthogonalise the updates of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schedules import Schedule
from ._base import Optimizer
from ._hyperparameters import (
    Betas,
    Choice,
    Coefficients,
    Count,
    Flag,
    Number,
    Options,
    Scheduled,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    Rate = float | Schedule | Callable[[int], float]

__all__ = ["Muon"]


class Muon(Optimizer, kind="adam", decoupled=True):
    """Momentum that is orthogonalised, for weights; `AdamW` for the rest (Jordan 2024).

    For the weight W of a dense layer: m ← μ m + (1 - μ) g, and u = g + μ (m - g), or m
    without Nesterov's form. X = u / max(‖u‖, ε) becomes nearly orthogonal by repeating
    X ← a X + (b A + c A²) X with A = X Xᵀ, a Newton-Schulz iteration. Then
    W ← (1 - lr λ) W - lr r X with r = √max(1, out / in), or 0.2 √max(out, in) to match
    the size of AdamW's steps (Liu et al. 2025). Biases and the parameters of
    normalisations, which are not matrices, take the steps of `AdamW`, and so do weights
    in groups with ``"use_muon": False``: it is usual to exclude the last layer and, for
    other inputs than images, the first.

    Parameters
    ----------
    lr : float, Schedule or callable
        Learning rate, ≥ 0, of all parameters; groups can have another one. See
        `fastmlp.optimizers`.
    weight_decay : float, Schedule or callable
        Weight decay λ, ≥ 0; not added to the gradient.
    momentum : float, Schedule or callable
        Momentum μ of matrices, ≥ 0.
    nesterov : bool
        Whether to use Nesterov's form of momentum.
    ns_coefficients : (float, float, float)
        Coefficients a, b and c of the iteration.
    eps : float
        Term ε, ≥ 0: the smallest divisor of u.
    ns_steps : int
        Number of iterations, from 0 to 99.
    adjust_lr_fn : {"original", "match_rms_adamw"}, optional
        Which r is used; None means "original".
    use_muon : bool
        Whether weights are orthogonalised; for groups.
    betas : (float, float)
        Decay rates β₁ and β₂ of `AdamW`, at least 0 and below 1.
    adamw_eps : float
        Term ε of the denominator of `AdamW`, ≥ 0.
    maximize : bool
        Whether to maximise instead of minimise; the decay is the same.
    accumulate, clip_norm, clip_value, l1, decay, ema, groups
        Options of all optimisers; see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        If hyperparameters have the wrong type, are out of range or exclude each other.

    Notes
    -----
    The products are computed in the model's dtype, whereas ``torch.optim.Muon`` rounds
    their operands to bfloat16. A step of an m x n matrix, m ≤ n, costs about
    5 m² (3 n + m) operations more than a step of `AdamW`, whatever the batch size: for
    batches that are smaller than the layers are wide, this is most of the time.

    Examples
    --------
    >>> import fastmlp as fm
    >>> opt = fm.Muon(
    ...     0.02,
    ...     groups=[
    ...         {"params": ["0.*", "4.*"], "use_muon": False, "lr": 1e-3},
    ...         {"params": "*.bias", "lr": 1e-3},
    ...     ],
    ... )
    """

    __slots__ = ()
    _needs_model = True

    momentum = Scheduled()
    nesterov = Flag()
    ns_coefficients = Coefficients("ns_a", "ns_b", "ns_c")
    eps = Number(0.0, core="ns_eps")
    ns_steps = Count(99)
    adjust_lr_fn = Choice("original", "match_rms_adamw", core="match_rms_adamw")
    use_muon = Flag()
    betas = Betas()
    adamw_eps = Number(0.0, core="eps")

    def __init__(
        self,
        lr: Rate = 1e-3,
        weight_decay: Rate = 0.1,
        momentum: Rate = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        use_muon: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(locals())
