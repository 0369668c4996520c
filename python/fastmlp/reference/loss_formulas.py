"""The formulas of the losses, and the kernel `loss_rows`."""

from __future__ import annotations

import numpy as np

from .activations import sigmoid
from .arrays import Array, quiet

__all__ = ["LOSSES", "loss_rows"]

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
    "smooth_l1",
    "log_cosh",
    "soft_margin",
    "expectile",
    "binary_focal",
    "gamma",
    "tweedie",
    "student_t_nll",
    "mixture_density",
    "kl_div",
    "focal",
    "multi_margin",
    "ordinal",
)

# Losses that compare rows as a whole, and those whose targets are class labels alone.
OF_ROWS = ("cross_entropy", "kl_div", "focal", "multi_margin", "ordinal")
OF_LABELS = ("focal", "multi_margin", "ordinal")


def predictions_per_target(loss: str, delta: float) -> int:
    """Return the number of columns of predictions that describe one target."""
    if loss == "mixture_density":
        return 3 * int(delta)
    return 2 if loss in ("gaussian_nll", "student_t_nll") else 1


def _elementwise_loss(
    p: Array, y: Array, loss: str, delta: float | Array, second: float
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
    if loss == "smooth_l1":
        near = a < delta
        beta = np.where(near, delta, 1)
        return np.where(near, 0.5 * r * (r / beta), a - 0.5 * delta), np.where(
            near, r / beta, np.sign(r)
        )
    if loss == "log_cosh":
        # log cosh r = log(1 + 2 sinh(r / 2)^2) is accurate where r is small.
        small = np.log1p(2 * np.sinh(np.minimum(a, 1) / 2) ** 2)
        large = a + np.log1p(np.exp(-2 * a)) - np.log(p.dtype.type(2))
        return np.where(a < 1, small, large), np.tanh(r)
    if loss == "soft_margin":
        return _softplus(-y * p), -y * sigmoid(-y * p)
    if loss == "expectile":
        weight = np.where(r > 0, 1 - delta, delta)
        return weight * r * r, 2 * weight * r
    if loss == "binary_focal":
        ones, by_ones = _focal_term(p, delta)
        zeros, by_zeros = _focal_term(-p, delta)
        u, v = (y, 1 - y) if second < 0 else (second * y, (1 - second) * (1 - y))
        value = _share(u, ones) + _share(v, zeros)
        return value, _share(u, by_ones) - _share(v, by_zeros)
    if loss == "gamma":
        ratio = y * np.exp(-p)
        return np.where(ratio == np.inf, ratio, p + ratio), 1 - ratio
    if loss == "tweedie":
        # e^((2 - power) p) / (2 - power) - y e^((1 - power) p) / (1 - power)
        mean, ratio = np.exp((2 - delta) * p), _share(y, np.exp((1 - delta) * p))
        return mean / (2 - delta) - ratio / (1 - delta), mean - ratio
    raise ValueError(f"unknown loss {loss!r}; known: {', '.join(LOSSES)}")


def _softplus(z: Array) -> Array:
    """``log(1 + e^z)`` without overflow."""
    result: Array = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
    return result


def _focal_term(z: Array, gamma: float | Array) -> tuple[Array, Array]:
    """Return ``-log(s) (1 - s)^gamma``, s = sigmoid(z), and its derivative."""
    low, high = _softplus(-z), _softplus(z)
    weight = np.exp(-_share(gamma, high))
    slope = sigmoid(-z) + gamma * _share(sigmoid(z), low)
    return _share(weight, low), -_share(weight, slope)


def _share(y: Array | float, value: Array) -> Array:
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


def _deviations(r: Array, log_scale: Array) -> Array:
    """``r / e^log_scale``: 0 for no error, and for any error on an infinite scale."""
    none = (r == 0) | ((np.exp(-log_scale) == 0) & ~np.isnan(r))
    return np.where(none, 0, r * np.exp(-log_scale))


def _student_t(p: Array, y: Array, df: float | Array) -> tuple[Array, Array]:
    """``s + (df + 1) / 2 log(1 + z^2 / df)`` for ``p = (m, s)``, and its gradient.

    ``z = (m - y) / e^s``. The logarithm is ``2 log |z / sqrt(df)| + log(1 + df / z^2)``
    where z is large, and the first term is a difference of logarithms.
    """
    m, s = np.split(p, 2, axis=1)
    r = m - y
    z = _deviations(r, s)
    q = np.abs(z) / np.sqrt(df)
    far = q > 1
    square = np.where(far, 1 / q, q) ** 2
    bend = 0.5 * np.log1p(square)
    log_q = np.log(np.abs(r)) - 0.5 * np.log(df)
    value = np.where(far, (df + 1) * (log_q + bend) - df * s, s + (df + 1) * bend)
    t = np.where(far, 1, square) / (1 + square)
    near = (df + 1) / df * z * np.where(z == 0, 0, np.exp(-s)) / (1 + square)
    by_m = np.where(far, (df + 1) * t / r, np.where(np.isnan(s), s, near))
    return value, np.hstack([by_m, 1 - (df + 1) * t])


def _log_shares(x: Array) -> tuple[Array, Array]:
    """``log sum e^x`` and ``x - log sum e^x`` along the last axis.

    The largest terms count equally, even if they are infinite.
    """
    top = x.max(axis=-1, keepdims=True)
    below = np.where(x == top, 0, x - top)
    log_total = np.log(np.exp(below).sum(axis=-1, keepdims=True))
    return (top + log_total)[..., 0], below - log_total


def _mixture(p: Array, y: Array, components: int) -> tuple[Array, Array]:
    """``-log sum_k w_k N(y; m_k, e^s_k)`` without ``log(2 pi) / 2``, and its gradient.

    Columns of p hold the logits of the weights w of all targets, then the means, then
    the logarithms of the standard deviations.
    """
    a, m, s = p.reshape(len(p), 3, y.shape[1], components).swapaxes(0, 1)
    z = _deviations(m - y[..., None], s)
    _, log_w = _log_shares(a)
    # An infinite deviation outweighs any logarithm of a scale.
    density = np.where(np.isinf(z), -np.inf, log_w - s - 0.5 * z * z)
    total, log_share = _log_shares(density)
    share = np.exp(log_share)
    by_m = _share(share, z * np.exp(-s))
    by_s = _share(share, 1 - z * z)
    grad = np.stack([np.exp(log_w) - share, by_m, by_s], axis=1)
    return -total, grad.reshape(p.shape)


def _quantile_steps(p: Array, y: Array, q: Array) -> tuple[Array, Array, Array]:
    """Values, slopes, and the factors of the slopes of quantiles given by steps."""
    levels = np.hstack([p[:, :1], _softplus(p[:, 1:])]).cumsum(axis=1)
    value, slope = _elementwise_loss(levels, y, "quantile", q, 0.0)
    rate = np.hstack([np.ones_like(p[:, :1]), sigmoid(p[:, 1:])])
    return value, slope, rate


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


def _kl_div(p: Array, y: Array, of_logarithms: bool) -> tuple[Array, Array]:
    """``sum y (log y - log softmax(p))`` and its gradient."""
    log_y, y = (y, np.exp(y)) if of_logarithms else (np.log(y), y)
    shifted = np.where(p == np.inf, 0, p - p.max(axis=-1, keepdims=True))
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    slope = np.exp(log_softmax) * y.sum(axis=-1, keepdims=True) - y
    return _share(y, log_y - log_softmax), slope


def _focal(
    p: Array, labels: Array, gamma: float, alpha: Array | float
) -> tuple[Array, Array]:
    """``-alpha (1 - s)^gamma log s``, s the softmax at the label, and its gradient."""
    rows = np.arange(len(p))
    shifted = np.where(p == np.inf, 0, p - p.max(axis=-1, keepdims=True))
    e = np.exp(shifted)
    others, rest = e.copy(), e.copy()
    others[rows, labels] = 0
    rest[rows, p.argmax(axis=-1)] = 0  # so that log s is accurate near s = 1
    other = others.sum(axis=-1)
    total = e[rows, labels] + other
    s = e[rows, labels] / total
    log_s = shifted[rows, labels] - np.log1p(rest.sum(axis=-1))
    weight = np.full(len(p), alpha) if np.ndim(alpha) == 0 else np.take(alpha, labels)
    power = weight * (other / total) ** gamma
    bend = gamma * _share(s, log_s)
    each = _share(power, 1 / total - np.where(bend == 0, 0, bend / other))
    slope = e * each[:, None]
    slope[rows, labels] = -_share(power, other / total - bend)
    return -_share(power, log_s)[:, None], slope


def _multi_margin(
    p: Array, labels: Array, margin: float, power: float, weight: Array | None
) -> tuple[Array, Array]:
    """Return ``w / O sum_j max(0, margin - p_l + p_j)^power`` and its gradient."""
    rows = np.arange(len(p))
    chosen = p[rows, labels][:, None]
    z = margin + np.where(p == chosen, 0, p - chosen)
    z = np.where(z < 0, 0, z)
    z[rows, labels] = 0
    w = np.ones(len(p)) if weight is None else np.take(weight, labels)
    w = (w / p.shape[1])[:, None]
    rate = 2 * z if power == 2 else np.where(np.isnan(z), z, z > 0)
    slope = _share(w, rate)
    slope[rows, labels] = -slope.sum(axis=1)
    return _share(w, z * z if power == 2 else z), slope


def _ordinal(p: Array, labels: Array, weight: Array | None) -> tuple[Array, Array]:
    """Return the binary cross-entropies of p with ``labels > column``."""
    y = (labels[:, None] > np.arange(p.shape[1])).astype(p.dtype)
    value, slope = _elementwise_loss(p, y, "binary_cross_entropy", 1.0, 0.0)
    w = np.ones(p.shape[1]) if weight is None else weight
    return _share(w, value), w * slope


def _loss_of_labels(
    p: Array,
    labels: Array,
    loss: str,
    delta: float,
    second: float,
    per_output: Array | None,
    ignored: int | None,
) -> tuple[Array, Array]:
    """Return losses of labels and their gradients; 0 for the label ``ignored``."""
    kept = labels != ignored
    check_labels(labels[kept], p.shape[1] + (loss == "ordinal"))
    labels = np.where(kept, labels, 0)
    if loss == "focal":
        alpha = (second or 1.0) if per_output is None else per_output
        value, slope = _focal(p, labels, delta, alpha)
    elif loss == "multi_margin":
        value, slope = _multi_margin(p, labels, delta, second, per_output)
    else:
        value, slope = _ordinal(p, labels, per_output)
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
    second: float = 0.0,
    output_weight: Array | None = None,
    masked: bool = False,
) -> None:
    """Write the loss of each row, and its gradient multiplied by ``row_scale``.

    ``row_loss[b] = sum_o l(pred[b,o], target[b,o])`` and ``dpred[b,:] =
    row_scale[b] * dl/dpred[b,:]``. The loss of the batch is then
    ``sum(row_scale * row_loss)``. ``pred`` has shape ``(B, O)``. ``target`` has the
    same shape, or ``(B, O/2)`` for gaussian_nll and student_t_nll, or ``(B, O/3k)`` for
    a mixture_density of k components; for losses of classes it may (cross_entropy) or
    must (focal, multi_margin, ordinal) be int64 labels ``(B,)``. ``dpred`` may be None.

    ``delta`` is the parameter of the loss: delta (huber, pseudo_huber), beta
    (smooth_l1), the weight of y = 1 (binary_cross_entropy), q (quantile, expectile),
    gamma (focal, binary_focal), the power (tweedie), the minimum variance
    (gaussian_nll), the degrees of freedom (student_t_nll), the number of components
    (mixture_density) or the margin (hinge, multi_margin). ``second`` is alpha
    (binary_focal, where a negative number means none, and focal), the power
    (multi_margin), or not 0 if targets are logarithms (kl_div) or if predictions are a
    first quantile and steps to the next ones (quantile).

    ``per_output (O,)`` replaces ``delta`` by one weight of y = 1, one q, or one number
    of degrees of freedom for each output; for cross_entropy and multi_margin it holds
    the class weights, for focal alpha of each class, for ordinal the weights of the
    outputs. If int64 ``actions (B,)`` are given, only ``pred[b, actions[b]]`` is
    compared with ``target (B, 1)``. A row with the label ``ignored`` has no loss.
    ``output_weight`` multiplies the terms of each target of a row. If ``masked`` is
    set, a target of NaN contributes nothing; a row of kl_div or cross_entropy with a
    NaN contributes nothing.
    """
    if actions is not None:
        check_labels(actions, pred.shape[1])
        rows = np.arange(len(pred))
        chosen = pred[rows, actions][:, None]
        slopes = None if dpred is None else np.empty_like(chosen)
        loss_rows(
            slopes,
            row_loss,
            chosen,
            target,
            row_scale,
            loss,
            delta,
            second=second,
            masked=masked,
        )
        if dpred is not None and slopes is not None:
            dpred[...] = 0
            dpred[rows, actions] = slopes[:, 0]
        return
    parameter = delta if per_output is None else per_output
    rate: Array | float = 1.0
    if loss in OF_LABELS:
        value, slope = _loss_of_labels(
            pred, target, loss, delta, second, per_output, ignored
        )
    elif loss == "cross_entropy":
        value, slope = _cross_entropy(pred, target, smoothing, per_output, ignored)
    elif loss == "kl_div":
        value, slope = _kl_div(pred, target, second != 0)
    elif loss == "gaussian_nll":
        value, slope = _gaussian_nll(pred, target, delta)
    elif loss == "student_t_nll":
        value, slope = _student_t(pred, target, parameter)
    elif loss == "mixture_density":
        value, slope = _mixture(pred, target, int(delta))
    elif loss == "quantile" and second != 0:
        value, slope, rate = _quantile_steps(pred, target, np.asarray(per_output))
    else:
        value, slope = _elementwise_loss(pred, target, loss, parameter, second)
    if target.ndim == 2 and (masked or output_weight is not None):
        weight = np.ones(target.shape[1]) if output_weight is None else output_weight
        missing = np.isnan(target) & masked
        if loss in OF_ROWS:
            missing |= missing.any(axis=1, keepdims=True)
        columns = _columns_of_targets(loss, pred.shape[1], target.shape[1], delta)
        value = np.where(missing, 0, weight * value)
        slope = np.where(missing[:, columns], 0, weight[columns] * slope)
    if loss == "quantile" and second != 0:  # a step moves all quantiles after it
        slope = slope[:, ::-1].cumsum(axis=1)[:, ::-1] * rate
    row_loss[...] = value.sum(axis=1)
    if dpred is not None:
        dpred[...] = row_scale[:, None] * slope


def _columns_of_targets(loss: str, outputs: int, targets: int, delta: float) -> Array:
    """Return which target each column of predictions belongs to."""
    each = np.arange(targets)
    if loss == "mixture_density":
        each = each.repeat(int(delta))
    return np.resize(each, outputs)
