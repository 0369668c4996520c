"""The losses that the core computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from ._base import Loss
from ._targets import (
    ActionTargets,
    BinaryTargets,
    ClassTargets,
    CountTargets,
    MeanTargets,
    SharedTargets,
    SignTargets,
    Targets,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._validate import Array

__all__ = [
    "MAE",
    "MSE",
    "ActionValue",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "GaussianNLL",
    "Hinge",
    "Huber",
    "Poisson",
    "PseudoHuber",
    "Quantile",
]


def _positive(name: str, value: object) -> float:
    return _validate.real(name, value, 0.0, open_low=True)


def _one_or_several(
    name: str, value: object, low: float, high: float, **options: bool
) -> tuple[float, tuple[float, ...]]:
    """Return one number and an empty tuple, or 1 and a tuple of numbers."""
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return 1.0, _validate.reals(name, value, low, high, **options)
    return _validate.real(name, value, low, high, **options), ()


class MSE(Loss):
    """Squared error, L = r².

    As ``torch.nn.MSELoss``: without the factor ½ of scikit-learn's MLP.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Reduction over rows, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If the reduction is unknown.
    """

    __slots__ = ()
    kind = "mse"

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make(reduction)


class MAE(Loss):
    """Absolute error, L = abs(r), with derivative 0 at 0 (``torch.nn.L1Loss``).

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Reduction over rows, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If the reduction is unknown.
    """

    __slots__ = ()
    kind = "mae"

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make(reduction)


class _WithDelta(Loss):
    __slots__ = ()

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        self._make(reduction, _positive("delta", delta))

    @property
    def delta(self) -> float:
        """The abs(r) at which the loss changes from quadratic to linear."""
        return self._native.delta

    def _arguments(self) -> dict[str, Any]:
        return {"delta": self.delta, "reduction": self.reduction}


class Huber(_WithDelta):
    """L = ½ r² for abs(r) ≤ δ, δ (abs(r) - ½ δ) beyond; δ is ``delta`` > 0.

    Huber, "Robust estimation of a location parameter", 1964; ``torch.nn.HuberLoss``.

    Parameters
    ----------
    delta : float
        The abs(r) at which the loss changes from quadratic to linear, > 0.
    reduction : {"mean", "sum"}
        Reduction over rows, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or is out of range.
    """

    __slots__ = ()
    kind = "huber"


class PseudoHuber(_WithDelta):
    """L = δ² (√(1 + (r / δ)²) - 1); δ is ``delta`` > 0.

    Charbonnier et al. 1997: ½ r² near 0 and δ abs(r) for large r like `Huber`, but
    smooth.

    Parameters
    ----------
    delta : float
        The abs(r) around which the loss changes from quadratic to linear, > 0.
    reduction : {"mean", "sum"}
        Reduction over rows, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or is out of range.
    """

    __slots__ = ()
    kind = "pseudo_huber"


class CrossEntropy(Loss):
    """L_b = -Σ_o y_bo log softmax(p_b)_o, from logits p (B, O).

    As ``torch.nn.CrossEntropyLoss``. The target is either an array of class labels
    0 … O - 1 of any integer dtype, (B,), for which L_b = -log softmax(p_b)[y_b], or an
    array of class probabilities, (B, O). The softmax is part of the loss: the model's
    output activation should be the identity. Only `fastmlp.MLP.fit` checks that
    probabilities lie from 0 to 1 and sum to 1.

    With label smoothing ε and class weights c, L_b is -Σ_o c_o ((1 - ε) y_bo + ε / O)
    log softmax(p_b)_o (labels as rows of 0 with one 1). The mean over rows is then, as
    in torch, Σ_b w_b L_b / Σ_b w_b c[y_b] for labels; for probabilities the divisor
    does not contain the class weights.

    Parameters
    ----------
    label_smoothing : float
        ε, from 0 to 1 (Szegedy et al., "Rethinking the Inception architecture", 2016).
    class_weight : sequence of O floats, optional
        c, finite and non-negative: for example N / (O N_o), if N_o of N rows are of
        class o.
    reduction : {"mean", "sum"}
        Reduction over rows, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range; on use, if there are not O class weights.
    """

    __slots__ = ()
    kind = "cross_entropy"
    targets = ClassTargets()

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weight: Sequence[float] | Array | None = None,
        reduction: str = "mean",
    ) -> None:
        smoothing = _validate.real("label_smoothing", label_smoothing, 0.0, 1.0)
        weights: tuple[float, ...] = ()
        if class_weight is not None:
            weights = _validate.reals("class_weight", class_weight, 0.0)
            if not any(weights):
                raise ValueError("class_weight must not be all zero")
        self._make(reduction, smoothing=smoothing, per_output=weights)

    @property
    def label_smoothing(self) -> float:
        """Part of a label that is distributed evenly over all classes."""
        return self._native.smoothing

    @property
    def class_weight(self) -> tuple[float, ...] | None:
        """Weights of the classes; None if all are 1."""
        return self._native.per_output or None

    def _arguments(self) -> dict[str, Any]:
        return {
            "label_smoothing": self.label_smoothing,
            "class_weight": self.class_weight,
            "reduction": self.reduction,
        }


class BinaryCrossEntropy(Loss):
    """L = max(p, 0) - p y + log(1 + exp(-abs(p))), from logits p, y from 0 to 1.

    This is -y log s - (1 - y) log(1 - s) with s = sigmoid(p), arranged so that nothing
    overflows, as ``torch.nn.BCEWithLogitsLoss``. The sigmoid is part of the loss: the
    model's output activation should be the identity. Only `fastmlp.MLP.fit` checks that
    targets lie from 0 to 1.

    Parameters
    ----------
    pos_weight : float or sequence of O floats, optional
        c ≥ 0 in -c y log s - (1 - y) log(1 - s), one for all outputs or one for each:
        for example the number of zeros for each one among the targets.
    reduction : {"mean", "sum"}
        Reduction over rows, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range; on use, if there are not O weights.
    """

    __slots__ = ()
    kind = "binary_cross_entropy"
    targets = BinaryTargets()

    def __init__(
        self,
        *,
        pos_weight: float | Sequence[float] | Array | None = None,
        reduction: str = "mean",
    ) -> None:
        given = 1.0 if pos_weight is None else pos_weight
        one, each = _one_or_several("pos_weight", given, 0.0, np.inf)
        self._make(reduction, one, per_output=each)

    @property
    def pos_weight(self) -> float | tuple[float, ...] | None:
        """Weight of the ones among the targets; None if it is that of the zeros."""
        core = self._native
        return core.per_output or (None if core.delta == 1.0 else core.delta)

    def _arguments(self) -> dict[str, Any]:
        return {"pos_weight": self.pos_weight, "reduction": self.reduction}


class Poisson(Loss):
    """L = exp(p) - y p, for counts y ≥ 0 and the logarithm p of their rate.

    The negative log likelihood of a Poisson distribution without log y!, which does not
    depend on the prediction: ``torch.nn.PoissonNLLLoss`` with its defaults. The model's
    output activation should be the identity; its rate is ``np.exp(mlp(x))``.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Reduction over rows, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If the reduction is unknown.
    """

    __slots__ = ()
    kind = "poisson"
    targets = CountTargets()

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make(reduction)


class Quantile(Loss):
    """L = max(q (y - p), (q - 1) (y - p)), smallest where p is the quantile q of y.

    The pinball loss (Koenker & Bassett, "Regression quantiles", 1978): a prediction too
    low costs q per unit, one too high 1 - q; q = ½ gives half the absolute error. The
    derivative at p = y is taken as 0.

    With several q, output o is trained for q_o. The target is then (B, O), or (B,) or
    (B, 1) for all outputs.

    Parameters
    ----------
    q : float or sequence of O floats
        Quantiles between 0 and 1, both excluded: one for all outputs or one for each.
    reduction : {"mean", "sum"}
        Reduction over rows, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range; on use, if there are not O quantiles.
    """

    __slots__ = ()
    kind = "quantile"

    def __init__(
        self, q: float | Sequence[float] | Array = 0.5, *, reduction: str = "mean"
    ) -> None:
        one, each = _one_or_several("q", q, 0.0, 1.0, open_low=True, open_high=True)
        self._make(reduction, one, per_output=each)

    @property
    def q(self) -> float | tuple[float, ...]:
        """The quantile, or one for each output."""
        return self._native.per_output or self._native.delta

    @property
    def targets(self) -> Targets:  # type: ignore[override]
        """What targets look like: with several quantiles one may serve all."""
        return SharedTargets() if self._native.per_output else Targets()

    def _arguments(self) -> dict[str, Any]:
        return {"q": self.q, "reduction": self.reduction}


class GaussianNLL(Loss):
    """L = ½ (s + (m - y)² / v), v = exp(s), for predictions p = (m, s).

    The negative log likelihood of a normal distribution without ½ log 2π (Nix &
    Weigend, "Estimating the mean and variance of the target probability distribution",
    1994). Predictions are (B, 2 O): O means m, then O logarithms s of variances; the
    target is (B, O), or (B,) for O = 1. The mean is over rows and the O targets.

    Where v would be below ``eps``, the value is that of v = ``eps``, s = log(eps). It
    does not depend on s there; but the derivative with respect to s is taken as if only
    v had been replaced, ½ (1 - (m - y)² / eps) exp(s) / eps, which leads out of this
    range again. This is ``torch.nn.GaussianNLLLoss`` of exp(s).

    Parameters
    ----------
    eps : float
        Smallest variance, > 0.
    reduction : {"mean", "sum"}
        Reduction over rows, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or is out of range.
    """

    __slots__ = ()
    kind = "gaussian_nll"
    targets = MeanTargets()

    def __init__(self, eps: float = 1e-6, *, reduction: str = "mean") -> None:
        self._make(reduction, _positive("eps", eps))

    @property
    def eps(self) -> float:
        """Smallest variance."""
        return self._native.delta

    def _arguments(self) -> dict[str, Any]:
        return {"eps": self.eps, "reduction": self.reduction}


class Hinge(Loss):
    """L = max(0, margin - y p), for targets y of -1 or 1 and scores p.

    A margin of 1 gives the loss of the support vector machine (Cortes & Vapnik, 1995),
    which is linear if the model has no hidden layer; a margin of 0 that of the
    perceptron (Rosenblatt, 1958), whose rule is its gradient step on one example. The
    class is the sign of p. At the kink, y p = margin, the derivative is -y, as for a
    mistake: so a perceptron learns from p = 0, where it starts.

    Parameters
    ----------
    margin : float
        Smallest y p for which the loss is 0, ≥ 0.
    reduction : {"mean", "sum"}
        Reduction over rows, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or is out of range.
    """

    __slots__ = ()
    kind = "hinge"
    targets = SignTargets()

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean") -> None:
        self._make(reduction, _validate.real("margin", margin, 0.0))

    @property
    def margin(self) -> float:
        """Smallest y p for which the loss is 0."""
        return self._native.delta

    def _arguments(self) -> dict[str, Any]:
        return {"margin": self.margin, "reduction": self.reduction}


class ActionValue(Loss):
    """L_b = loss(p[b, a_b], v_b): only the prediction for the action taken counts.

    For Q-learning (Watkins & Dayan, 1992): p (B, A) are the values of all A actions,
    and the target is a pair (actions, values), int (B,) and (B,). The values, such as
    the reward plus the discounted max_u Q(x', u), are treated as constants. The mean is
    over rows.

    Parameters
    ----------
    loss : Loss
        Loss of a prediction and a value: `MSE`, `Huber`, …, except `CrossEntropy`,
        `GaussianNLL` and losses with a number for each output. Its reduction is used.

    Raises
    ------
    TypeError, ValueError
        If the loss is not of this kind.

    Examples
    --------
    >>> import fastmlp as fm
    >>> loss = fm.ActionValue(fm.MSE())
    >>> loss([[1.0, 2.0], [3.0, 4.0]], ([0, 1], [1.5, 3.0]))
    0.625
    """

    __slots__ = ("_inner",)

    _inner: Loss

    def __init__(self, loss: Loss) -> None:
        right = isinstance(loss, Loss) and not isinstance(loss, ActionValue)
        if not right or loss.core is None:
            raise TypeError(
                "loss must be a fastmlp Loss of a prediction and a value such as "
                f"fm.MSE(), got {_validate.describe(loss)}"
            )
        core = loss.core
        if isinstance(loss, (CrossEntropy, GaussianNLL)) or core.per_output:
            raise ValueError(f"loss must be of one prediction and a value, got {loss}")
        object.__setattr__(self, "_inner", loss)
        native = _core.Loss(
            core.kind, core.delta, core.reduction, action=True, scale=core.scale
        )
        object.__setattr__(self, "core", native)

    @property
    def loss(self) -> Loss:
        """Loss of a prediction and a value."""
        return self._inner

    @property
    def targets(self) -> Targets:  # type: ignore[override]
        """What targets look like."""
        return ActionTargets(self._inner.targets)

    def _factor(self) -> float:
        return 1.0  # the factor is the inner loss's

    def _times(self, factor: float) -> ActionValue:
        return ActionValue(self._inner._times(factor))

    def _arguments(self) -> dict[str, Any]:
        return {"loss": self.loss}
