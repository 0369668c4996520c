"""The losses that the core computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from ._base import Loss, positive
from ._custom import CustomLoss

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


def _one_or_several(
    name: str, value: object, low: float, high: float, **options: bool
) -> tuple[float, tuple[float, ...]]:
    """Return (number, ()) for a number, and (1, numbers) for a sequence."""
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return 1.0, _validate.reals(name, value, low, high, **options)
    return _validate.real(name, value, low, high, **options), ()


class MSE(Loss):
    """Squared error, L = r².

    Like ``torch.nn.MSELoss``, it has no factor ½ (scikit-learn's MLP has one).

    Parameters
    ----------
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If ``reduction`` is neither "mean" nor "sum".
    """

    __slots__ = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make("mse", reduction)


class MAE(Loss):
    """Absolute error, L = abs(r), with derivative 0 at 0 (``torch.nn.L1Loss``).

    Parameters
    ----------
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If ``reduction`` is neither "mean" nor "sum".
    """

    __slots__ = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make("mae", reduction)


class _WithDelta(Loss):
    __slots__ = ()

    @property
    def delta(self) -> float:
        """The value of abs(r) at which the loss changes from quadratic to linear."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"delta": self.delta, "reduction": self.reduction}


class Huber(_WithDelta):
    """L = ½ r² for abs(r) ≤ δ, δ (abs(r) - ½ δ) beyond; δ is ``delta`` > 0.

    Huber, "Robust estimation of a location parameter", 1964; ``torch.nn.HuberLoss``.

    Parameters
    ----------
    delta : float
        Value of abs(r) at which the loss changes from quadratic to linear, > 0.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        self._make("huber", reduction, positive("delta", delta))


class PseudoHuber(_WithDelta):
    """L = δ² (√(1 + (r / δ)²) - 1); δ is ``delta`` > 0.

    Charbonnier et al. 1997. Like `Huber`, the loss is close to ½ r² for small r and to
    δ abs(r) for large r, but it is smooth.

    Parameters
    ----------
    delta : float
        Value of abs(r) around which the loss changes from quadratic to linear, > 0.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        self._make("pseudo_huber", reduction, positive("delta", delta))


class CrossEntropy(Loss):
    """L_b = -Σ_o y_bo log softmax(p_b)_o, from logits p (B, O).

    This is ``torch.nn.CrossEntropyLoss``. The target is either an integer array (B,) of
    class labels 0 … O - 1, for which L_b = -log softmax(p_b)[y_b], or an array (B, O)
    of class probabilities. The softmax is part of the loss, so the model's output
    activation should be the identity. Probabilities must be from 0 to 1; only
    `fastmlp.MLP.fit` checks that they sum to 1.

    With label smoothing ε and class weights c, L_b is instead
    -Σ_o c_o ((1 - ε) y_bo + ε / O) log softmax(p_b)_o, where y_b is one-hot for labels.
    As in torch, the mean over rows is then Σ_b w_b L_b / Σ_b w_b c[y_b] for labels; for
    probabilities, it is Σ_b w_b L_b / Σ_b w_b.

    Parameters
    ----------
    label_smoothing : float
        Fraction ε of each label that is spread evenly over all classes, from 0 to 1
        (Szegedy et al., "Rethinking the Inception architecture", 2016).
    class_weight : sequence of O floats, optional
        Class weights c, finite and not negative. To give all classes the same
        influence, choose c_o = N / (O N_o), where N is the number of rows and N_o is
        the number of rows with class o.
    ignore_index : int, optional
        Label of rows that have no label: their loss is 0, and they do not count in the
        mean (nor in the metric accuracy). It may be a number that is not a class, such
        as -100.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or, when the loss is used, if the number of class
        weights is not O.
    """

    __slots__ = ()
    _contained = "softmax"

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weight: Sequence[float] | Array | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        smoothing = _validate.real("label_smoothing", label_smoothing, 0.0, 1.0)
        weights: tuple[float, ...] = ()
        if class_weight is not None:
            weights = _validate.reals("class_weight", class_weight, 0.0)
            if not any(weights):
                raise ValueError("class_weight must not be all zeros")
        ignored = ignore_index
        if ignored is not None:
            ignored = _validate.count("ignore_index", ignored, -_validate.MOST)
        self._make("cross_entropy", reduction, 1.0, smoothing, weights, ignored=ignored)

    @property
    def label_smoothing(self) -> float:
        """The fraction of each label that is spread evenly over all classes."""
        return self.core.smoothing

    @property
    def class_weight(self) -> tuple[float, ...] | None:
        """The weights of the classes, or None."""
        return self.core.per_output or None

    @property
    def ignore_index(self) -> int | None:
        """The label of rows that have no label, or None."""
        return self.core.ignored

    def _arguments(self) -> dict[str, Any]:
        return {
            "label_smoothing": self.label_smoothing,
            "class_weight": self.class_weight,
            "ignore_index": self.ignore_index,
            "reduction": self.reduction,
        }


class BinaryCrossEntropy(Loss):
    """L = max(p, 0) - p y + log(1 + exp(-abs(p))), for logits p and targets y.

    This is -y log s - (1 - y) log(1 - s) with s = sigmoid(p), computed without overflow
    like ``torch.nn.BCEWithLogitsLoss``. The sigmoid is part of the loss, so the model's
    output activation should be the identity. Targets must be from 0 to 1.

    Parameters
    ----------
    pos_weight : float or sequence of O floats, optional
        Weight c ≥ 0 in -c y log s - (1 - y) log(1 - s): one for all outputs or one
        for each. A common choice is the ratio of zeros to ones among the targets.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or, when the loss is used, if the number of weights
        is not O.
    """

    __slots__ = ()
    _contained = "sigmoid"

    def __init__(
        self,
        *,
        pos_weight: float | Sequence[float] | Array | None = None,
        reduction: str = "mean",
    ) -> None:
        given = 1.0 if pos_weight is None else pos_weight
        one, each = _one_or_several("pos_weight", given, 0.0, np.inf)
        self._make("binary_cross_entropy", reduction, one, 0.0, each)

    @property
    def pos_weight(self) -> float | tuple[float, ...] | None:
        """The weight of targets of 1 relative to targets of 0; None if it is 1."""
        one = None if self.core.delta == 1.0 else self.core.delta
        return self.core.per_output or one

    def _arguments(self) -> dict[str, Any]:
        return {"pos_weight": self.pos_weight, "reduction": self.reduction}


class Poisson(Loss):
    """L = exp(p) - y p, for counts y ≥ 0 and the logarithm p of their rate.

    This is the negative log likelihood of a Poisson distribution without its term
    log y!, which does not depend on the prediction: ``torch.nn.PoissonNLLLoss`` with
    its defaults. The model's output activation should be the identity; the predicted
    rate is ``np.exp(mlp(x))``.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If ``reduction`` is neither "mean" nor "sum".
    """

    __slots__ = ()
    _contained = "exp"

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make("poisson", reduction)


class Quantile(Loss):
    """L = max(q (y - p), (q - 1) (y - p)), minimal where p is the quantile q of y.

    This is the pinball loss (Koenker & Bassett, "Regression quantiles", 1978). A
    prediction that is too low costs q per unit, and one that is too high costs 1 - q;
    q = ½ gives half the absolute error. The derivative at p = y is taken to be 0.

    With several q, output o is trained for q_o. The target then has shape (B, O), or
    (B,) or (B, 1) if all outputs have the same target.

    Parameters
    ----------
    q : float or sequence of O floats
        Quantile between 0 and 1, both excluded: one for all outputs or one for each.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or, when the loss is used, if there are several
        quantiles but not one for each output.
    """

    __slots__ = ()

    def __init__(
        self, q: float | Sequence[float] | Array = 0.5, *, reduction: str = "mean"
    ) -> None:
        one, each = _one_or_several("q", q, 0.0, 1.0, open_low=True, open_high=True)
        self._make("quantile", reduction, one, 0.0, each)

    @property
    def q(self) -> float | tuple[float, ...]:
        """The quantile, or a tuple with one for each output."""
        return self.core.per_output or self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"q": self.q, "reduction": self.reduction}


class GaussianNLL(Loss):
    """L = ½ (s + (m - y)² / v), v = exp(s), for predictions p = (m, s).

    This is the negative log likelihood of a normal distribution without its constant
    ½ log 2π (Nix & Weigend, "Estimating the mean and variance of the target probability
    distribution", 1994). Predictions are (B, 2 O): O means m, then O log variances s;
    the target is (B, O), or (B,) for O = 1. The mean is over rows and the O targets.

    Where v = exp(s) is below ``eps``, the value is computed with ``eps`` in place of v
    and its logarithm in place of s. That value does not depend on s, so its derivative
    with respect to s would be 0, and the model could not leave this region. Therefore
    this derivative is computed as if clamping v had the derivative 1: ½ (1 - (m - y)² /
    eps) exp(s) / eps, with the model's own s. This agrees with
    ``torch.nn.GaussianNLLLoss`` for the variance exp(s).

    Parameters
    ----------
    eps : float
        Smallest variance, > 0.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(self, eps: float = 1e-6, *, reduction: str = "mean") -> None:
        self._make("gaussian_nll", reduction, positive("eps", eps))

    @property
    def eps(self) -> float:
        """The smallest variance."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"eps": self.eps, "reduction": self.reduction}


class Hinge(Loss):
    """L = max(0, margin - y p), for targets y of -1 or 1 and scores p.

    With a margin of 1 this is the loss of the support vector machine (Cortes & Vapnik,
    1995); a model without hidden layers is then a linear support vector machine. With a
    margin of 0 it is the loss of the perceptron (Rosenblatt, 1958), whose learning rule
    is a gradient step on one example. The predicted class is the sign of p. At the
    kink, where y p = margin, the derivative is -y, as for a misclassified example: a
    perceptron starts at p = 0 and could not learn otherwise.

    Parameters
    ----------
    margin : float
        Smallest value of y p at which the loss is 0, ≥ 0.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean") -> None:
        self._make("hinge", reduction, _validate.real("margin", margin, 0.0))

    @property
    def margin(self) -> float:
        """The smallest value of y p at which the loss is 0."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"margin": self.margin, "reduction": self.reduction}


class ActionValue(Loss):
    """L_b = loss(p[b, a_b], v_b): only the prediction for the action taken counts.

    It is the loss of Q-learning (Watkins & Dayan, 1992). The predictions p (B, A) are
    the values of all A actions. The target is a pair (actions, values), int (B,) and
    (B,). A value is for instance the reward plus the discounted max_u Q(x', u); the
    gradient treats the values as constants. Means are over rows.

    Parameters
    ----------
    loss : Loss
        Loss of one prediction and one value, such as `MSE` or `Huber`, but not
        `CrossEntropy`, `GaussianNLL` or a loss with a sequence of numbers, one for each
        output, such as ``Quantile([0.1, 0.9])``. The reduction of ``loss`` also applies
        to the `ActionValue`.

    Raises
    ------
    TypeError, ValueError
        If ``loss`` is not such a loss.

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
        if not isinstance(loss, Loss) or isinstance(loss, (ActionValue, CustomLoss)):
            raise TypeError(
                "loss must be a fastmlp Loss that compares one prediction with one "
                f"value, such as fm.MSE(), got {_validate.describe(loss)}"
            )
        core = loss.core
        if core.kind in ("cross_entropy", "gaussian_nll") or core.per_output:
            raise ValueError(
                f"loss must compare one prediction with one value, got {loss}"
            )
        object.__setattr__(self, "_inner", loss)
        self._make(core.kind, core.reduction, core.delta, action=True, scale=core.scale)

    @property
    def loss(self) -> Loss:
        """The loss of a prediction and a value."""
        return self._inner

    def _factor(self) -> float:
        return 1.0  # the inner loss holds the factor

    def _times(self, factor: float) -> ActionValue:
        return ActionValue(self._inner._times(factor))

    def _arguments(self) -> dict[str, Any]:
        return {"loss": self.loss}
