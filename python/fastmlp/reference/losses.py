"""Losses: the objects that users pass to fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Array, quiet
from .loss_formulas import (
    OF_LABELS,
    OF_ROWS,
    check_labels,
    loss_rows,
    predictions_per_target,
)

__all__ = [
    "MAE",
    "MSE",
    "ActionValue",
    "BinaryCrossEntropy",
    "BinaryFocal",
    "CrossEntropy",
    "Expectile",
    "Focal",
    "Gamma",
    "GaussianNLL",
    "Hinge",
    "Huber",
    "KLDiv",
    "LogCosh",
    "Loss",
    "MixtureDensity",
    "MultiMargin",
    "Ordinal",
    "Poisson",
    "PseudoHuber",
    "Quantile",
    "SmoothL1",
    "SoftMargin",
    "StudentTNLL",
    "Tweedie",
]


def _marked(target: Any, mask: npt.ArrayLike, mark: float) -> Array:
    """Return targets with a mark where ``mask``, of rows or elements, is False."""
    target, there = np.asarray(target), np.asarray(mask, bool)
    if there.ndim < target.ndim:
        there = there[:, None]
    return np.where(there, target, mark)


@dataclass
class Loss:
    """A loss over a batch: mean (or sum) of :func:`loss_rows` over rows and outputs.

    With sample weights w, the mean is ``sum(w * l) / sum(w)`` and the sum is
    ``sum(w * l)``; losses of classes average over rows only. Cross-entropy multiplies
    the weight of a row by the class weight of its label. A row with the label
    ``ignored`` has the weight 0. The terms of a mean have the weights
    ``output_weight``, or 0 for targets of NaN if ``masked`` is set. The parameters are
    those of :func:`loss_rows`. With ``action``, targets are pairs (actions, values).
    """

    kind: str
    delta: float = 1.0
    reduction: str = "mean"
    smoothing: float = 0.0
    per_output: tuple[float, ...] | None = None
    action: bool = False
    ignored: int | None = None
    second: float = 0.0
    output_weight: tuple[float, ...] | None = None
    masked: bool = False

    def __call__(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss of predictions ``(B, O)`` or ``(B,)``."""
        return self.value_and_grad(pred, target, sample_weight, mask)[0]

    def without(self, target: Any, mask: npt.ArrayLike | None) -> tuple[Loss, Any]:
        """Return a loss and targets marked as missing where ``mask`` is False."""
        if mask is None:
            return self, target
        if self.action:
            return replace(self, masked=True), (
                target[0],
                _marked(target[1], mask, np.nan),
            )
        labels = self.kind in OF_LABELS or self.kind == "cross_entropy"
        if labels and np.ndim(target) == 1:
            label = -1 if self.ignored is None else self.ignored
            return replace(self, ignored=label), _marked(target, mask, label)
        return replace(self, masked=True), _marked(target, mask, np.nan)

    def check_labels_of(self, target: Array, outputs: int) -> None:
        """Raise an error if targets are labels, or actions, that are out of range."""
        if self.action:
            check_labels(target, outputs)
        elif self.kind in (*OF_LABELS, "cross_entropy") and target.ndim == 1:
            classes = outputs + (self.kind == "ordinal")
            check_labels(target[target != self.ignored], classes)

    def row_weights(self, weight: Array, target: Any) -> Array:
        """Return each row's weight in the mean.

        It is the sample weight times the weights of the row's class or targets.
        """
        weight = np.array(weight, dtype=np.float64)
        target = np.asarray(target[1] if isinstance(target, tuple) else target)
        if target.dtype == np.int64 and target.ndim == 1 and not self.action:
            kept = target != self.ignored
            if self.kind == "cross_entropy" and self.per_output:
                weight[kept] *= np.asarray(self.per_output)[target[kept]]
            weight[~kept] = 0
            return weight
        there = ~(np.isnan(target.reshape(len(weight), -1)) & self.masked)
        if self.kind in OF_ROWS:
            weight *= there.all(axis=1)
        else:
            weight *= (there * np.asarray(self.output_weight or 1.0)).sum(axis=1)
        return weight

    @quiet
    def value_and_grad(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss and its gradient with respect to ``pred``.

        ``mask`` is True where there is a target.
        """
        if mask is not None:
            loss, target = self.without(target, mask)
            return loss.value_and_grad(pred, target, sample_weight)
        actions = None
        if self.action:
            actions = np.asarray(target[0]).astype(np.int64, casting="same_kind")
            target = target[1]
        pred, target = np.asarray(pred), np.asarray(target)
        if pred.dtype not in (np.float32, np.float64):
            pred = pred.astype(np.float64)
        rows = pred.reshape(len(pred), -1)
        outputs = rows.shape[1]
        if self.action:
            outputs = 1
        else:
            outputs //= predictions_per_target(self.kind, self.delta)
        one_for_all = self.kind in ("quantile", "expectile") and self.per_output
        shape = (len(rows), outputs)
        labels = self.kind in OF_LABELS or self.kind == "cross_entropy"
        if labels and target.ndim == 1:
            target = target.astype(np.int64, casting="same_kind")  # refuses floats
            self.check_labels_of(target, outputs)
        elif target.shape == shape or (target.shape, outputs) == (shape[:1], 1):
            target = target.astype(pred.dtype).reshape(shape)
        elif one_for_all and target.shape in (shape[:1], (len(rows), 1)):
            target = target.astype(pred.dtype).reshape(-1, 1).repeat(outputs, axis=1)
        else:
            raise ValueError(
                f"target of shape {target.shape} does not fit predictions of shape "
                f"{rows.shape}"
            )
        weight = np.ones(len(rows)) if sample_weight is None else sample_weight
        scale = np.asarray(weight, dtype=np.float64)
        if scale.shape != (len(rows),):
            raise ValueError(
                f"sample_weight must have the shape ({len(rows)},), got {scale.shape}"
            )
        if self.reduction == "mean":
            total = self.row_weights(scale, target).sum()
            # A batch whose weights are all 0 has the loss 0.
            scale = scale / total if total != 0 else scale
        scale = scale.astype(pred.dtype)
        row_loss, dpred = np.empty_like(scale), np.empty_like(rows)
        each = None
        if self.per_output is not None:
            each = np.array(self.per_output, dtype=pred.dtype)
        delta = self.delta
        if delta > 0:  # losses divide by it
            delta = max(delta, float(np.finfo(pred.dtype).smallest_normal))
        weights = self.output_weight
        loss_rows(
            dpred,
            row_loss,
            rows,
            target,
            scale,
            self.kind,
            delta,
            self.smoothing,
            each,
            actions,
            self.ignored,
            self.second,
            None if weights is None else np.array(weights, dtype=pred.dtype),
            self.masked,
        )
        return float((scale * row_loss).sum()), dpred.reshape(pred.shape)


def _made(
    kind: str,
    parameter: float | Sequence[float] = 1.0,
    *,
    reduction: str,
    delta: float | None = None,
    second: float = 0.0,
    smoothing: float = 0.0,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    ignore_index: int | None = None,
) -> Loss:
    """Make a loss; ``parameter`` is delta, or one number per output besides it."""
    each = tuple(parameter) if isinstance(parameter, Iterable) else None
    if delta is None:
        delta = 1.0 if isinstance(parameter, Iterable) else parameter
    if mask not in (None, "nan"):
        raise ValueError(f"mask must be 'nan' or None, got {mask!r}")
    weights = None if output_weight is None else tuple(output_weight)
    return Loss(
        kind,
        delta,
        reduction,
        smoothing,
        each,
        ignored=ignore_index,
        second=second,
        output_weight=weights,
        masked=mask is not None,
    )


def MSE(
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``(p - y)^2``."""
    return _made("mse", reduction=reduction, output_weight=output_weight, mask=mask)


def MAE(
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``|p - y|``."""
    return _made("mae", reduction=reduction, output_weight=output_weight, mask=mask)


def Huber(
    delta: float = 1.0,
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``r^2 / 2`` if ``|r| <= delta``, else ``delta (|r| - delta / 2)``."""
    return _made(
        "huber", delta, reduction=reduction, output_weight=output_weight, mask=mask
    )


def PseudoHuber(
    delta: float = 1.0,
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``delta^2 (sqrt(1 + (r / delta)^2) - 1)``."""
    return _made(
        "pseudo_huber",
        delta,
        reduction=reduction,
        output_weight=output_weight,
        mask=mask,
    )


def SmoothL1(
    beta: float = 1.0,
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``r^2 / (2 beta)`` if ``|r| < beta``, else ``|r| - beta / 2``."""
    return _made(
        "smooth_l1", beta, reduction=reduction, output_weight=output_weight, mask=mask
    )


def LogCosh(
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``log cosh(p - y)``."""
    return _made(
        "log_cosh", reduction=reduction, output_weight=output_weight, mask=mask
    )


def CrossEntropy(
    *,
    label_smoothing: float = 0.0,
    class_weight: Sequence[float] | None = None,
    ignore_index: int | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``-log softmax(p)[y]`` for labels, ``-y @ log softmax(p)`` for probabilities."""
    return _made(
        "cross_entropy",
        1.0 if class_weight is None else class_weight,
        reduction=reduction,
        smoothing=label_smoothing,
        ignore_index=ignore_index,
        mask=mask,
    )


def KLDiv(
    *, log_target: bool = False, mask: str | None = None, reduction: str = "mean"
) -> Loss:
    """``y @ (log y - log softmax(p))``."""
    return _made("kl_div", reduction=reduction, second=float(log_target), mask=mask)


def Focal(
    gamma: float = 2.0,
    alpha: float | Sequence[float] | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Loss:
    """``-alpha (1 - s)^gamma log s`` for ``s = softmax(p)[y]``."""
    one = 0.0 if alpha is None or isinstance(alpha, Iterable) else alpha
    return _made(
        "focal",
        alpha if isinstance(alpha, Iterable) else 1.0,
        delta=gamma,
        second=one,
        reduction=reduction,
        ignore_index=ignore_index,
    )


def BinaryFocal(
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """Lin et al.'s loss for ``s = sigmoid(p)`` and y = 0 or 1, linear between these."""
    return _made(
        "binary_focal",
        gamma,
        second=-1.0 if alpha is None else alpha,
        reduction=reduction,
        output_weight=output_weight,
        mask=mask,
    )


def BinaryCrossEntropy(
    *,
    pos_weight: float | Sequence[float] | None = None,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``-c y log s(p) - (1 - y) log(1 - s(p))``, s the sigmoid, c = pos_weight."""
    return _made(
        "binary_cross_entropy",
        1.0 if pos_weight is None else pos_weight,
        reduction=reduction,
        output_weight=output_weight,
        mask=mask,
    )


def Poisson(
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``exp(p) - y p``, for counts y with rate exp(p)."""
    return _made("poisson", reduction=reduction, output_weight=output_weight, mask=mask)


def Gamma(
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``p + y exp(-p)``, for y > 0 with mean exp(p)."""
    return _made("gamma", reduction=reduction, output_weight=output_weight, mask=mask)


def Tweedie(
    power: float = 1.5,
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``exp((2 - power) p) / (2 - power) - y exp((1 - power) p) / (1 - power)``."""
    return _made(
        "tweedie", power, reduction=reduction, output_weight=output_weight, mask=mask
    )


def Quantile(
    q: float | Sequence[float] = 0.5,
    *,
    non_crossing: bool = False,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``max(q (y - p), (q - 1) (y - p))``, with one q, or one for each column."""
    return _made(
        "quantile",
        q,
        second=float(non_crossing),
        reduction=reduction,
        output_weight=output_weight,
        mask=mask,
    )


def Expectile(
    q: float | Sequence[float] = 0.5,
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``q r^2`` for r < 0, ``(1 - q) r^2`` for r > 0, with one q or one per column."""
    return _made(
        "expectile", q, reduction=reduction, output_weight=output_weight, mask=mask
    )


def GaussianNLL(
    eps: float = 1e-6,
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``(s + (p - y)^2 / exp(s)) / 2`` for columns ``[p, s]``, all p before all s."""
    return _made(
        "gaussian_nll", eps, reduction=reduction, output_weight=output_weight, mask=mask
    )


def StudentTNLL(
    df: float | Sequence[float] = 4.0,
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``s + (df + 1) / 2 log(1 + (p - y)^2 / (df exp(2 s)))``, columns ``[p, s]``."""
    return _made(
        "student_t_nll", df, reduction=reduction, output_weight=output_weight, mask=mask
    )


def MixtureDensity(
    n_components: int,
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``-log sum_k w_k N(y; m_k, exp(s_k))`` without ``log(2 pi) / 2``."""
    return _made(
        "mixture_density",
        n_components,
        reduction=reduction,
        output_weight=output_weight,
        mask=mask,
    )


def Hinge(
    margin: float = 1.0,
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``max(0, margin - y p)``, y = -1 or 1."""
    return _made(
        "hinge", margin, reduction=reduction, output_weight=output_weight, mask=mask
    )


def SoftMargin(
    *,
    output_weight: Sequence[float] | None = None,
    mask: str | None = None,
    reduction: str = "mean",
) -> Loss:
    """``log(1 + exp(-y p))``, y = -1 or 1."""
    return _made(
        "soft_margin", reduction=reduction, output_weight=output_weight, mask=mask
    )


def MultiMargin(
    p: int = 1,
    margin: float = 1.0,
    weight: Sequence[float] | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Loss:
    """``w[y] sum_j max(0, margin - p[y] + p[j])^p / O`` over the classes but y."""
    return _made(
        "multi_margin",
        1.0 if weight is None else weight,
        delta=margin,
        second=float(p),
        reduction=reduction,
        ignore_index=ignore_index,
    )


def Ordinal(
    weight: Sequence[float] | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Loss:
    """Binary cross-entropies of the logits p with ``y > column``, weighted."""
    return _made(
        "ordinal",
        1.0 if weight is None else weight,
        reduction=reduction,
        ignore_index=ignore_index,
    )


def ActionValue(loss: Loss) -> Loss:
    """``loss`` of ``p[b, a[b]]`` and ``v[b]``; targets are (actions a, values v)."""
    return replace(loss, action=True)
