"""Losses: the kernel `loss_rows`, and the loss objects that users pass to fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .activations import sigmoid
from .arrays import Array, quiet

__all__ = [
    "LOSSES",
    "MAE",
    "MSE",
    "ActionValue",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "GaussianNLL",
    "Hinge",
    "Huber",
    "Loss",
    "Poisson",
    "PseudoHuber",
    "Quantile",
    "loss_rows",
]

LOSSES: tuple[str, ...] = (
    "mse",
    "mae",
    "huber",
    "pseudo_huber",
    "cross_entropy",
    "binary_cross_entropy",
    "poisson",
    "quantile",
    "gaussian_nll",
    "hinge",
)


def _elementwise_loss(
    p: Array, y: Array, loss: str, delta: float | Array
) -> tuple[Array, Array]:
    """``l(p, y)`` and ``dl/dp`` for each element.

    ``delta`` is the loss's parameter: one number, or one for each column.
    """
    r = p - y
    a = np.abs(r)
    if loss == "mse":
        return r * r, 2 * r
    if loss == "mae":
        return a, np.sign(r)
    if loss == "huber":
        value = np.where(a <= delta, 0.5 * r * r, delta * (a - 0.5 * delta))
        return value, np.clip(r, -delta, delta)
    if loss == "pseudo_huber":
        # delta^2 (root - 1), in a form without cancellation.
        root = np.hypot(1, r / delta)
        value = r * (r / (root + 1))
        endless = np.isinf(r)
        slope = np.where(endless, np.copysign(delta, r), r / root)
        return np.where(endless, a, value), slope
    if loss == "binary_cross_entropy":
        # -c y log s(p) - (1 - y) log(1 - s(p)) for logits p, c = delta (usually 1).
        log_one_plus = np.log1p(np.exp(-np.abs(p)))
        value = _share(delta * y, np.maximum(-p, 0) + log_one_plus)
        value += _share(1 - y, np.maximum(p, 0) + log_one_plus)
        return value, (1 - y) * sigmoid(p) - delta * y * sigmoid(-p)
    if loss == "poisson":
        # -log likelihood for rate = e^p, without the term that depends on y alone.
        value = np.where(p == np.inf, p, np.exp(p) - _share(y, p))
        return value, np.exp(p) - y
    if loss == "quantile":
        # The pinball loss: q |r| for predictions below y, (1 - q) |r| above.
        value = np.where(r > 0, (1 - delta) * a, delta * a)
        return value, np.where(r > 0, 1 - delta, np.where(r < 0, -delta, 0 * r))
    if loss == "hinge":
        # At the kink the derivative is taken to be -y, its value where the loss is
        # positive. With a margin of 0, this gives the perceptron's rule.
        short_of = delta - y * p
        return np.maximum(short_of, 0), np.where(short_of < 0, 0, -y)
    raise ValueError(f"unknown loss {loss!r}; known: {', '.join(LOSSES)}")


def _share(y: Array, value: Array) -> Array:
    """``y value``, where 0 times infinity is 0."""
    return np.where(y == 0, 0, y * value)


def _gaussian_nll(p: Array, y: Array, eps: float) -> tuple[Array, Array]:
    """``(log v + (m - y)^2 / v) / 2`` for ``p = (m, log v)``, and its gradient.

    ``v`` is clipped to at least eps, but the gradient ignores the clipping, so that a
    variance below eps can grow again.
    """
    mean, log_v = np.split(p, 2, axis=1)
    v = np.maximum(np.exp(log_v), eps)
    r = np.where(np.isinf(v) & np.isinf(mean), 0, mean - y)
    error = r**2 / v
    share = np.where(np.isinf(v), 1, np.exp(log_v) / v)
    by_log_v = 0.5 * (1 - error) * share
    value = 0.5 * (np.maximum(log_v, np.log(eps)) + error)
    return value, np.hstack([r / v, by_log_v])


def check_labels(labels: Array, classes: int) -> None:
    """Raise an error for labels out of range; numpy would accept negative ones."""
    for row in np.flatnonzero((labels < 0) | (labels >= classes)):
        raise ValueError(
            f"y: the label {labels[row]} in row {row} is out of range for "
            f"{classes} classes"
        )


def _cross_entropy(
    p: Array,
    target: Array,
    smoothing: float,
    class_weight: Array | None,
    ignored: int | None,
) -> tuple[Array, Array]:
    """``-c y log softmax(p)`` and its gradient; labels are treated as one-hot rows.

    With label smoothing, y is replaced by ``(1 - a) y + a / O``, where ``a`` is
    ``smoothing`` and O the number of classes. ``c`` is the weight of each class. A row
    with the label ``ignored`` has no loss.
    """
    kept = np.ones(len(p), bool)
    if target.ndim == 1:
        kept = target != ignored
        check_labels(target[kept], p.shape[1])
        y = np.zeros_like(p)
        y[kept, target[kept]] = 1
    else:
        y = target
    if smoothing != 0:
        y = (1 - smoothing) * y + smoothing / p.shape[1]
    if class_weight is not None:
        y = y * class_weight
    shifted = np.where(p == np.inf, 0, p - p.max(axis=-1, keepdims=True))
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    # 0 log 0 = 0: a class with a logit of -inf and a target of 0 contributes nothing.
    value = -y * np.where(y == 0, 0, log_softmax)
    slope = np.exp(log_softmax) * y.sum(axis=-1, keepdims=True) - y
    value[~kept], slope[~kept] = 0, 0
    return value, slope


@quiet
def loss_rows(
    dpred: Array | None,
    row_loss: Array,
    pred: Array,
    target: Array,
    row_scale: Array,
    loss: str,
    delta: float = 1.0,
    smoothing: float = 0.0,
    per_output: Array | None = None,
    actions: Array | None = None,
    ignored: int | None = None,
) -> None:
    """Write the loss of each row, and its gradient multiplied by ``row_scale``.

    ``row_loss[b] = sum_o l(pred[b,o], target[b,o])`` and ``dpred[b,:] =
    row_scale[b] * dl/dpred[b,:]``. The loss of the batch is then
    ``sum(row_scale * row_loss)``. ``pred`` has shape ``(B, O)``. ``target`` has the
    same shape, or ``(B, O/2)`` for gaussian_nll; for cross_entropy it may also be int64
    labels ``(B,)``. ``dpred`` may be None.

    ``delta`` is the parameter of the loss: delta (huber, pseudo_huber), the weight of
    y = 1 (binary_cross_entropy), q (quantile), the minimum variance (gaussian_nll) or
    the margin (hinge). ``per_output (O,)`` replaces ``delta`` by one weight of y = 1,
    or one q, for each output; for cross_entropy it holds the class weights. If int64
    ``actions (B,)`` are given, only ``pred[b, actions[b]]`` is compared with
    ``target (B, 1)``. For cross_entropy, a row with the label ``ignored`` has no loss.
    """
    if actions is not None:
        check_labels(actions, pred.shape[1])
        rows = np.arange(len(pred))
        chosen = pred[rows, actions][:, None]
        slopes = None if dpred is None else np.empty_like(chosen)
        loss_rows(slopes, row_loss, chosen, target, row_scale, loss, delta)
        if dpred is not None and slopes is not None:
            dpred[...] = 0
            dpred[rows, actions] = slopes[:, 0]
        return
    if loss == "cross_entropy":
        value, slope = _cross_entropy(pred, target, smoothing, per_output, ignored)
    elif loss == "gaussian_nll":
        value, slope = _gaussian_nll(pred, target, delta)
    else:
        parameter = delta if per_output is None else per_output
        value, slope = _elementwise_loss(pred, target, loss, parameter)
    row_loss[...] = value.sum(axis=1)
    if dpred is not None:
        dpred[...] = row_scale[:, None] * slope


@dataclass
class Loss:
    """A loss over a batch: mean (or sum) of :func:`loss_rows` over rows and outputs.

    With sample weights w, the mean is ``sum(w * l) / sum(w)`` and the sum is
    ``sum(w * l)``; cross-entropy averages over rows only, and multiplies the
    weight of a row by the class weight of its label, and by 0 for the label
    ``ignored``. ``delta``, ``smoothing`` and
    ``per_output`` are those of :func:`loss_rows`. With ``action``, targets are pairs
    (actions, values).
    """

    kind: str
    delta: float = 1.0
    reduction: str = "mean"
    smoothing: float = 0.0
    per_output: tuple[float, ...] | None = None
    action: bool = False
    ignored: int | None = None

    def __call__(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss of predictions ``(B, O)`` or ``(B,)``."""
        return self.value_and_grad(pred, target, sample_weight)[0]

    def row_weights(self, weight: Array, target: Any) -> Array:
        """Return each row's weight in the mean: sample weight times class weight."""
        weight = np.array(weight, dtype=np.float64)
        if self.kind != "cross_entropy" or np.ndim(target) != 1:
            return weight
        kept = target != self.ignored
        if self.per_output:
            weight[kept] *= np.asarray(self.per_output)[target[kept]]
        weight[~kept] = 0
        return weight

    @quiet
    def value_and_grad(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss and its gradient with respect to ``pred``."""
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
        elif self.kind == "gaussian_nll":
            outputs //= 2
        one_for_all = self.kind == "quantile" and self.per_output is not None
        shape = (len(rows), outputs)
        if self.kind == "cross_entropy" and target.ndim == 1:
            target = target.astype(np.int64, casting="same_kind")  # refuses floats
            check_labels(target[target != self.ignored], outputs)
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
            total *= 1 if self.kind == "cross_entropy" else outputs
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
        parameters = (self.kind, delta, self.smoothing, each, actions, self.ignored)
        loss_rows(dpred, row_loss, rows, target, scale, *parameters)
        return float((scale * row_loss).sum()), dpred.reshape(pred.shape)


def MSE(*, reduction: str = "mean") -> Loss:
    """``(p - y)^2``."""
    return Loss("mse", reduction=reduction)


def MAE(*, reduction: str = "mean") -> Loss:
    """``|p - y|``."""
    return Loss("mae", reduction=reduction)


def Huber(delta: float = 1.0, *, reduction: str = "mean") -> Loss:
    """``r^2 / 2`` if ``|r| <= delta``, else ``delta (|r| - delta / 2)``."""
    return Loss("huber", delta, reduction)


def PseudoHuber(delta: float = 1.0, *, reduction: str = "mean") -> Loss:
    """``delta^2 (sqrt(1 + (r / delta)^2) - 1)``."""
    return Loss("pseudo_huber", delta, reduction)


def CrossEntropy(
    *,
    label_smoothing: float = 0.0,
    class_weight: Sequence[float] | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Loss:
    """``-log softmax(p)[y]`` for labels, ``-y @ log softmax(p)`` for probabilities."""
    each = None if class_weight is None else tuple(class_weight)
    return Loss(
        "cross_entropy", 1.0, reduction, label_smoothing, each, ignored=ignore_index
    )


def BinaryCrossEntropy(
    *, pos_weight: float | Sequence[float] | None = None, reduction: str = "mean"
) -> Loss:
    """``-c y log s(p) - (1 - y) log(1 - s(p))``, s the sigmoid, c = pos_weight."""
    return _with_parameter("binary_cross_entropy", pos_weight, reduction)


def _with_parameter(
    kind: str, parameter: float | Sequence[float] | None, reduction: str
) -> Loss:
    if isinstance(parameter, Iterable):
        return Loss(kind, reduction=reduction, per_output=tuple(parameter))
    return Loss(kind, 1.0 if parameter is None else parameter, reduction)


def Poisson(*, reduction: str = "mean") -> Loss:
    """``exp(p) - y p``, for counts y with rate exp(p)."""
    return Loss("poisson", reduction=reduction)


def Quantile(q: float | Sequence[float] = 0.5, *, reduction: str = "mean") -> Loss:
    """``max(q (y - p), (q - 1) (y - p))``, with one q, or one for each column."""
    return _with_parameter("quantile", q, reduction)


def GaussianNLL(eps: float = 1e-6, *, reduction: str = "mean") -> Loss:
    """``(s + (p - y)^2 / exp(s)) / 2`` for columns ``[p, s]``, all p before all s."""
    return Loss("gaussian_nll", eps, reduction)


def Hinge(margin: float = 1.0, *, reduction: str = "mean") -> Loss:
    """``max(0, margin - y p)``, y = -1 or 1."""
    return Loss("hinge", margin, reduction)


def ActionValue(loss: Loss) -> Loss:
    """``loss`` of ``p[b, a[b]]`` and ``v[b]``; targets are (actions a, values v)."""
    return replace(loss, action=True)
