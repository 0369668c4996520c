"""Losses of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from ._base import ElementLoss, Loss, one_or_several, weights_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._validate import Array

__all__ = [
    "BinaryCrossEntropy",
    "BinaryFocal",
    "CrossEntropy",
    "Focal",
    "Hinge",
    "KLDiv",
    "MultiMargin",
    "Ordinal",
    "SoftMargin",
]


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
    mask : {"nan"}, optional
        Mark of missing targets: a row with NaN among its probabilities has no target;
        see `fastmlp.losses`.
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
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        smoothing = _validate.real("label_smoothing", label_smoothing, 0.0, 1.0)
        weights: tuple[float, ...] = ()
        if class_weight is not None:
            weights = weights_of("class_weight", class_weight)
        self._make(
            "cross_entropy",
            reduction,
            smoothing=smoothing,
            per_output=weights,
            ignored=ignore_index,
            mask=mask,
        )

    @property
    def label_smoothing(self) -> float:
        """The fraction of each label that is spread evenly over all classes."""
        return self.core.smoothing

    @property
    def class_weight(self) -> tuple[float, ...] | None:
        """The weights of the classes, or None."""
        return self.core.per_output or None

    def _arguments(self) -> dict[str, Any]:
        return {
            "label_smoothing": self.label_smoothing,
            "class_weight": self.class_weight,
            "ignore_index": self.ignore_index,
            **super()._arguments(),
        }


class BinaryCrossEntropy(ElementLoss):
    """L = max(p, 0) - p y + log(1 + exp(-abs(p))), for logits p and targets y.

    This is -y log s - (1 - y) log(1 - s) with s = sigmoid(p), computed without overflow
    like ``torch.nn.BCEWithLogitsLoss``. The sigmoid is part of the loss, so the model's
    output activation should be the identity. Targets must be from 0 to 1.

    Parameters
    ----------
    pos_weight : float or sequence of O floats, optional
        Weight c ≥ 0 in -c y log s - (1 - y) log(1 - s): one for all outputs or one
        for each. A common choice is the ratio of zeros to ones among the targets.
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
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
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        given = 1.0 if pos_weight is None else pos_weight
        one, each = one_or_several("pos_weight", given, 0.0, np.inf)
        self._make(
            "binary_cross_entropy",
            reduction,
            delta=one,
            per_output=each,
            output_weight=output_weight,
            mask=mask,
        )

    @property
    def pos_weight(self) -> float | tuple[float, ...] | None:
        """The weight of targets of 1 relative to targets of 0; None if it is 1."""
        one = None if self.core.delta == 1.0 else self.core.delta
        return self.core.per_output or one

    def _arguments(self) -> dict[str, Any]:
        return {"pos_weight": self.pos_weight, **super()._arguments()}


class Focal(Loss):
    """L_b = -a_y (1 - s_y)^g log s_y, where s = softmax(p_b), for labels y.

    This is the focal loss (Lin et al., "Focal loss for dense object detection", 2017)
    for several classes, where g is ``gamma`` and a is ``alpha``: a cross-entropy that
    counts less for rows that are already classified well. Predictions are logits
    (B, O), targets int class labels (B,), from 0 to O - 1. With g = 0 and without a it
    is `CrossEntropy`. The mean is over rows; a does not count in its divisor.

    Parameters
    ----------
    gamma : float
        Exponent g ≥ 0: the larger, the less well-classified rows count.
    alpha : float or sequence of O floats, optional
        Weight a, one for all classes, > 0, or one for each, not negative.
    ignore_index : int, optional
        Label of rows that have no label: their loss is 0, and they do not count in the
        mean.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or, when the loss is used, if a sequence does not
        have one number for each class.
    """

    __slots__ = ()
    _contained = "softmax"

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | Array | None = None,
        *,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        gamma = _validate.real("gamma", gamma, 0.0)
        one, each = 0.0, tuple[float, ...]()
        if alpha is not None:
            one, each = one_or_several("alpha", alpha, 0.0, np.inf)
            if not each and one == 0.0:
                raise ValueError("alpha must be > 0 if it is one number, got 0.0")
        self._make(
            "focal",
            reduction,
            delta=gamma,
            second=one,
            per_output=each,
            ignored=ignore_index,
        )

    @property
    def gamma(self) -> float:
        """The exponent g."""
        return self.core.delta

    @property
    def alpha(self) -> float | tuple[float, ...] | None:
        """The weight a, a tuple with one for each class, or None."""
        return self.core.per_output or self.core.second or None

    def _arguments(self) -> dict[str, Any]:
        return {"gamma": self.gamma, "alpha": self.alpha, **super()._arguments()}


class BinaryFocal(ElementLoss):
    """L = -a y (1 - s)^g log s - (1 - a) (1 - y) s^g log(1 - s), with s = sigmoid(p).

    This is the focal loss (Lin et al., "Focal loss for dense object detection", 2017)
    for logits p and targets y of 0 or 1, where g is ``gamma`` and a is ``alpha``, with
    the defaults of ``torchvision.ops.sigmoid_focal_loss``. For targets between 0 and 1
    it is the mean of the losses for 0 and 1. With g = 0 and without a it is
    `BinaryCrossEntropy`.

    Parameters
    ----------
    gamma : float
        Exponent g ≥ 0: the larger, the less well-classified targets count.
    alpha : float, optional
        Weight a of ones, from 0 to 1; zeros have the weight 1 - a. With None, both
        factors are 1.
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()
    _contained = "sigmoid"

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        gamma = _validate.real("gamma", gamma, 0.0)
        balance = -1.0 if alpha is None else _validate.real("alpha", alpha, 0.0, 1.0)
        self._make(
            "binary_focal",
            reduction,
            delta=gamma,
            second=balance,
            output_weight=output_weight,
            mask=mask,
        )

    @property
    def gamma(self) -> float:
        """The exponent g."""
        return self.core.delta

    @property
    def alpha(self) -> float | None:
        """The weight of ones, or None if ones and zeros count equally."""
        return None if self.core.second < 0.0 else self.core.second

    def _arguments(self) -> dict[str, Any]:
        return {"gamma": self.gamma, "alpha": self.alpha, **super()._arguments()}


class KLDiv(Loss):
    """L_b = Σ_o y_bo (log y_bo - log softmax(p_b)_o), from logits p (B, O).

    This is the divergence of the softmax from the target probabilities y (Kullback &
    Leibler, "On information and sufficiency", 1951). Its gradient is that of
    `CrossEntropy`; its value is 0 where the two agree. As in `CrossEntropy`, the
    softmax is part of the loss. ``torch.nn.KLDivLoss`` takes logarithms of
    probabilities instead of logits: the values are the same for these, since a softmax
    leaves them as they are. The mean is over rows, as in torch's "batchmean".

    Parameters
    ----------
    log_target : bool
        Whether the targets are logarithms of probabilities.
    mask : {"nan"}, optional
        Mark of missing targets: a row with NaN in its target has none; see
        `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()
    _contained = "softmax"

    def __init__(
        self,
        *,
        log_target: bool = False,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        of_logarithms = _validate.flag("log_target", log_target)
        self._make("kl_div", reduction, second=float(of_logarithms), mask=mask)

    @property
    def log_target(self) -> bool:
        """Whether the targets are logarithms of probabilities."""
        return self.core.second != 0.0

    def _arguments(self) -> dict[str, Any]:
        return {"log_target": self.log_target, **super()._arguments()}


class Hinge(ElementLoss):
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
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(
        self,
        margin: float = 1.0,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        margin = _validate.real("margin", margin, 0.0)
        self._make(
            "hinge", reduction, delta=margin, output_weight=output_weight, mask=mask
        )

    @property
    def margin(self) -> float:
        """The smallest value of y p at which the loss is 0."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"margin": self.margin, **super()._arguments()}


class SoftMargin(ElementLoss):
    """L = log(1 + exp(-y p)), for targets y of -1 or 1 and scores p.

    This is ``torch.nn.SoftMarginLoss``: the binary cross-entropy for classes that are
    called -1 and 1. It is computed without overflow.

    Parameters
    ----------
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()
    _contained = "sigmoid"

    def __init__(
        self,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        self._make("soft_margin", reduction, output_weight=output_weight, mask=mask)


class MultiMargin(Loss):
    """L_b = c_y / O Σ_o max(0, margin - p_by + p_bo)^p over the classes o other than y.

    This is ``torch.nn.MultiMarginLoss``, the hinge loss for several classes (Crammer &
    Singer, "On the algorithmic implementation of multiclass kernel-based vector
    machines", 2001, take the largest term instead of the sum). Predictions are scores
    (B, O), targets int class labels (B,), from 0 to O - 1. The derivative at the kink
    is 0. The mean is over rows; the weights c do not count in its divisor.

    Parameters
    ----------
    p : {1, 2}
        Exponent of the terms.
    margin : float
        Smallest lead of the label's score at which a term is 0.
    weight : sequence of O floats, optional
        Class weights c, finite, not negative, not all zero.
    ignore_index : int, optional
        Label of rows that have no label: their loss is 0, and they do not count in the
        mean.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or, when the loss is used, if a sequence does not
        have one number for each class.
    """

    __slots__ = ()

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Sequence[float] | Array | None = None,
        *,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        self._make(
            "multi_margin",
            reduction,
            delta=_validate.real("margin", margin, -np.inf),
            second=float(_validate.count("p", p, 1, 2)),
            per_output=() if weight is None else weights_of("weight", weight),
            ignored=ignore_index,
        )

    @property
    def p(self) -> int:
        """The exponent of the terms."""
        return int(self.core.second)

    @property
    def margin(self) -> float:
        """The smallest lead of the label's score at which a term is 0."""
        return self.core.delta

    @property
    def weight(self) -> tuple[float, ...] | None:
        """The weights of the classes, or None."""
        return self.core.per_output or None

    def _arguments(self) -> dict[str, Any]:
        return {
            "p": self.p,
            "margin": self.margin,
            "weight": self.weight,
            **super()._arguments(),
        }


class Ordinal(Loss):
    """L_b = Σ_o c_o BCE(p_bo, [y_b > o]): classes that have an order, by O thresholds.

    Output o is the logit of the probability that the label is greater than o, so that
    the O outputs stand for O + 1 classes. BCE is the `BinaryCrossEntropy` of a logit
    and 0 or 1. This is the loss of CORAL (Cao, Mirjalili & Raschka, "Rank consistent
    ordinal regression for neural networks with application to age estimation", 2020).
    Targets are int class labels (B,), from 0 to O. The predicted class is the number
    of outputs that are positive: ``(mlp(x) > 0).sum(axis=1)``. CORAL's outputs differ
    in their biases alone, which makes their order consistent; the loss itself can be
    used with any outputs. The mean is over rows.

    Parameters
    ----------
    weight : sequence of O floats, optional
        Weights c of the thresholds, finite, not negative, not all zero.
    ignore_index : int, optional
        Label of rows that have no label: their loss is 0, and they do not count in the
        mean.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or, when the loss is used, if a sequence does not
        have one number for each threshold.
    """

    __slots__ = ()
    _contained = "sigmoid"

    def __init__(
        self,
        weight: Sequence[float] | Array | None = None,
        *,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        self._make(
            "ordinal",
            reduction,
            per_output=() if weight is None else weights_of("weight", weight),
            ignored=ignore_index,
        )

    @property
    def weight(self) -> tuple[float, ...] | None:
        """The weights of the thresholds, or None."""
        return self.core.per_output or None

    def _arguments(self) -> dict[str, Any]:
        return {"weight": self.weight, **super()._arguments()}
