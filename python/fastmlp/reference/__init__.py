"""The readable specification of fastmlp, in pure numpy.

Every compiled kernel has a function of the same name here, with the same arguments,
defaults and side effects, and the small :class:`MLP` below has the interface of
``fastmlp.MLP`` but for what its docstring leaves out. The code favours the formula
over speed, works in the dtype of its arrays (float32 or float64) and imports nothing
but numpy and the standard library, so it can be read, copied and trusted on its own.

Conventions: arrays are row-major and rows are samples, ``x (B, I)``, ``w (I, O)``,
``b (O,)``, ``h = act(x @ w + b)``. Outputs come first in an argument list; ``dz``
stands for the derivative of a scalar loss with respect to ``z``. Kernels write into
their first arguments and return ``None``.

References
----------
.. [1] Kingma & Ba, "Adam", ICLR 2015. Loshchilov & Hutter, "Decoupled weight decay
   regularization", ICLR 2019. Reddi et al., "On the convergence of Adam", ICLR 2018.
.. [2] Duchi et al., "Adaptive subgradient methods", JMLR 2011 (Adagrad). Hinton,
   "Neural networks for machine learning", lecture 6e, 2012 (RMSprop). Sutskever et
   al., "On the importance of initialization and momentum", ICML 2013 (Nesterov).
.. [3] He et al., ICCV 2015; Glorot & Bengio, AISTATS 2010; LeCun et al., "Efficient
   BackProp", 1998 (initialisation). Klambauer et al., NeurIPS 2017 (SELU). Clevert et
   al., ICLR 2016 (ELU). Hendrycks & Gimpel, 2016 (GELU, SiLU).
.. [4] Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
.. [5] Srivastava et al., "Dropout", JMLR 2014. Ba et al., "Layer normalization", 2016.
   Ioffe & Szegedy, "Batch normalization", ICML 2015. He et al., "Deep residual
   learning for image recognition", CVPR 2016.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Rate: TypeAlias = float | Callable[[int], float]
_V = TypeVar("_V")

# fmt: off
ACTIVATIONS: tuple[str, ...] = (
    "identity", "relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu",
    "softplus", "softsign", "sigmoid", "tanh", "sin", "cos", "exp", "softmax",
)
LOSSES: tuple[str, ...] = (
    "mse", "mae", "huber", "pseudo_huber", "cross_entropy", "binary_cross_entropy",
    "poisson", "quantile", "gaussian_nll", "hinge",
)
OPTIMIZERS: tuple[str, ...] = ("sgd", "adagrad", "rmsprop", "adam")
# fmt: on


# As in the compiled kernels, infinities and NaN appear where IEEE 754 puts them,
# without a warning.
_quiet = np.errstate(all="ignore")


# ---------------------------------------------------------------- matrix products


@_quiet
def gemm_nn(
    c: Array, a: Array, b: Array, bias: Array | None = None, accumulate: bool = False
) -> None:
    """``c[m,n] = a[m,k] @ b[k,n] + bias[n]``, or ``c += a @ b``."""
    if accumulate and bias is not None:
        raise ValueError("bias must be None when accumulate is True")
    product = a @ b
    if bias is not None:
        product += bias
    c[...] = c + product if accumulate else product


def gemm_nt(c: Array, a: Array, b: Array, accumulate: bool = False) -> None:
    """``c[m,n] = a[m,k] @ b[n,k].T``, or ``c += a @ b.T``."""
    gemm_nn(c, a, b.T, accumulate=accumulate)


def gemm_tn(c: Array, a: Array, b: Array, accumulate: bool = False) -> None:
    """``c[m,n] = a[k,m].T @ b[k,n]``, or ``c += a.T @ b``."""
    gemm_nn(c, a.T, b, accumulate=accumulate)


def dense_forward(
    h: Array, x: Array, w: Array, bias: Array | None, activation: str
) -> None:
    """``h[B,O] = act(x[B,I] @ w[I,O] + bias[O])``."""
    gemm_nn(h, x, w, bias)
    activation_forward(h, h, activation)


@_quiet
def column_sum(out: Array, a: Array) -> None:
    """``out[n]`` = sum of the rows of ``a[m,n]``, added in order."""
    out[...] = 0
    for row in a:
        out += row


@_quiet
def dot(out: Array, a: Array, b: Array) -> None:
    """``out[0]`` = sum of ``a[i] b[i]``."""
    out[0] = (a * b).sum()


@_quiet
def axpy(y: Array, x: Array, alpha: float) -> None:
    """``y += alpha x``."""
    y += y.dtype.type(alpha) * x


# ----------------------------------------------------------- elementary functions


def _named(what: str, name: str, table: Mapping[str, _V]) -> _V:
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; one of {', '.join(table)}")
    return table[name]


_python_erf = np.frompyfunc(math.erf, 1, 1)
_python_erfc = np.frompyfunc(math.erfc, 1, 1)


def _erf(x: Array) -> Array:
    return np.asarray(_python_erf(x), dtype=x.dtype)


def _erfc(x: Array) -> Array:
    return np.asarray(_python_erfc(x), dtype=x.dtype)


def _sigmoid(x: Array) -> Array:
    # 1 / (1 + e^-x), written so that the exponential never overflows.
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, e) / (1 + e))


_ELEMENTARY: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "sin": np.sin,
    "cos": np.cos,
    "erf": _erf,
    "erfc": _erfc,
}


@_quiet
def elementary(out: Array, x: Array, function: str) -> None:
    """``out[i] = function(x[i])``: exp, expm1, log, log1p, tanh, sigmoid, sin, ..."""
    out[...] = _named("function", function, _ELEMENTARY)(x)


# -------------------------------------------------------------------- activations

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946
_LEAKY_SLOPE = 0.01
_GELU_TANH_CUBIC = 0.044715
# |z| beyond which gelu_tanh's inner tanh is exactly +-1 in float64; clipping there
# keeps z**3 from overflowing and its derivative from becoming 0 * inf.
_GELU_TANH_SATURATED = 30.0


def _elu(z: Array) -> Array:
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


def _selu(z: Array) -> Array:
    return _SELU_SCALE * np.where(z > 0, z, _SELU_ALPHA * np.expm1(np.minimum(z, 0)))


def _normal_cdf(z: Array) -> Array:
    # erfc keeps full relative accuracy in the left tail, where 1 + erf cancels.
    return np.asarray(0.5 * _erfc(-z / math.sqrt(2)))


def _gelu_tanh_gate(z: Array) -> Array:
    # (1 + tanh u) / 2 = sigmoid(2 u),  u = sqrt(2/pi) (z + 0.044715 z^3)
    z = np.clip(z, -_GELU_TANH_SATURATED, _GELU_TANH_SATURATED)
    return _sigmoid(2 * math.sqrt(2 / math.pi) * (z + _GELU_TANH_CUBIC * z**3))


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


_FORWARD: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, _LEAKY_SLOPE * z),
    "elu": _elu,
    "selu": _selu,
    "gelu": lambda z: z * _normal_cdf(z),
    "gelu_tanh": lambda z: z * _gelu_tanh_gate(z),
    "silu": lambda z: z * _sigmoid(z),
    "softplus": lambda z: np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))),
    "softsign": lambda z: z / (1 + np.abs(z)),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "exp": np.exp,
    "softmax": _softmax,
}


def _gelu_derivative(z: Array) -> Array:
    # (z Phi(z))' = Phi(z) + z phi(z)
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return _normal_cdf(z) + z * density


def _gelu_tanh_derivative(z: Array) -> Array:
    # (z s(2u))' = s + z s (1 - s) 2 u'; u is odd, so 1 - s(2u(z)) = s(2u(-z)), which
    # does not cancel.
    gate = _gelu_tanh_gate(z)
    z = np.clip(z, -_GELU_TANH_SATURATED, _GELU_TANH_SATURATED)
    inner = 2 * math.sqrt(2 / math.pi) * (1 + 3 * _GELU_TANH_CUBIC * z * z)
    return np.asarray(gate + z * gate * _gelu_tanh_gate(-z) * inner)


def _silu_derivative(z: Array) -> Array:
    # (z s(z))' = s + z s (1 - s)
    s = _sigmoid(z)
    return np.asarray(s + z * s * _sigmoid(-z))


# Derivatives as functions of what is saved: the output h where that suffices, else
# the pre-activation z (see activation_saves).
_DERIVATIVE: dict[str, Callable[[Array], Array]] = {
    "identity": np.ones_like,
    "relu": lambda h: (h > 0).astype(h.dtype),
    "leaky_relu": lambda h: np.where(h > 0, 1, _LEAKY_SLOPE).astype(h.dtype),
    "elu": lambda h: np.where(h > 0, 1, h + 1),
    "selu": lambda h: np.where(h > 0, _SELU_SCALE, h + _SELU_SCALE * _SELU_ALPHA),
    "gelu": _gelu_derivative,
    "gelu_tanh": _gelu_tanh_derivative,
    "silu": _silu_derivative,
    "softplus": lambda h: -np.expm1(-h),
    "softsign": lambda h: (1 - np.abs(h)) ** 2,
    "sigmoid": lambda h: h * (1 - h),
    "tanh": lambda h: 1 - h * h,
    "sin": np.cos,
    "cos": lambda z: -np.sin(z),
    "exp": lambda h: h,
}
_SAVES_INPUT = ("gelu", "gelu_tanh", "silu", "sin", "cos")


def activation_saves(kind: str) -> Literal["input", "output"]:
    """Whether :func:`activation_backward` needs the activation's input or output."""
    if kind not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {kind!r}; one of {', '.join(ACTIVATIONS)}"
        )
    return "input" if kind in _SAVES_INPUT else "output"


@_quiet
def activation_forward(h: Array, z: Array, activation: str) -> None:
    """``h = act(z)``, 2-D; softmax runs along each row. ``h`` may be ``z``."""
    h[...] = _named("activation", activation, _FORWARD)(z)


@_quiet
def activation_backward(dz: Array, dh: Array, saved: Array, activation: str) -> None:
    """``dz = dh * act'``, with ``saved`` as :func:`activation_saves` says.

    Softmax couples the elements of a row: ``dz = h * (dh - sum(dh * h))``.
    """
    if activation == "softmax":
        dz[...] = saved * (dh - (dh * saved).sum(axis=-1, keepdims=True))
    else:
        dz[...] = dh * _named("activation", activation, _DERIVATIVE)(saved)


def _gelu_second(z: Array) -> Array:
    # (Phi + z phi)' = phi (2 - z^2); beyond 40, phi is 0 and z^2 may overflow.
    z = np.clip(z, -40, 40)
    return (2 - z * z) * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _gelu_tanh_second(z: Array) -> Array:
    # (z s(2u))'' = 2 s' 2u' + z (s'' (2u')^2 + s' 2u''), s' = s (1 - s),
    # s'' = s' (1 - 2 s)
    z = np.clip(z, -_GELU_TANH_SATURATED, _GELU_TANH_SATURATED)
    gate, rest = _gelu_tanh_gate(z), _gelu_tanh_gate(-z)
    root = 2 * math.sqrt(2 / math.pi)
    first = root * (1 + 3 * _GELU_TANH_CUBIC * z * z)
    second = root * 6 * _GELU_TANH_CUBIC * z
    return np.asarray(
        gate * rest * (2 * first + z * ((rest - gate) * first * first + second))
    )


def _silu_second(z: Array) -> Array:
    # (s + z s')' = s' (2 + z (1 - 2 s))
    s, rest = _sigmoid(z), _sigmoid(-z)
    return np.asarray(s * rest * (2 + z * (rest - s)))


# Second derivatives, as functions of the same.
_SECOND: dict[str, Callable[[Array], Array]] = {
    "identity": np.zeros_like,
    "relu": np.zeros_like,
    "leaky_relu": np.zeros_like,
    "elu": lambda h: np.where(h > 0, 0, h + 1),
    "selu": lambda h: np.where(h > 0, 0, h + _SELU_SCALE * _SELU_ALPHA),
    "gelu": _gelu_second,
    "gelu_tanh": _gelu_tanh_second,
    "silu": _silu_second,
    "softplus": lambda h: -np.exp(-h) * np.expm1(-h),
    "softsign": lambda h: -2 * np.sign(h) * (1 - np.abs(h)) ** 3,
    "sigmoid": lambda h: h * (1 - h) * (1 - 2 * h),
    "tanh": lambda h: -2 * h * (1 - h * h),
    "sin": lambda z: -np.sin(z),
    "cos": lambda z: -np.cos(z),
    "exp": lambda h: h,
}


@_quiet
def activation_second(out: Array, c: Array, saved: Array, activation: str) -> None:
    """``out = c * act''``, ``saved`` as for `activation_backward`; not for softmax."""
    out[...] = c * _named("activation", activation, _SECOND)(saved)


# ------------------------------------------------------------------------- losses


def _elementwise_loss(
    p: Array, y: Array, loss: str, delta: float | Array
) -> tuple[Array, Array]:
    """``l(p, y)`` and ``dl/dp`` for each element.

    ``delta`` is the loss's parameter, one number or one for each column.
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
        # delta^2 (sqrt(1 + t^2) - 1) with t = r / delta, without the cancellation.
        t = r / delta
        root = np.hypot(1, t)
        return delta**2 * t * (t / (root + 1)), r / root
    if loss == "binary_cross_entropy":
        # -c y log s(p) - (1 - y) log(1 - s(p)) for logits p, c = delta (usually 1).
        log_one_plus = np.log1p(np.exp(-np.abs(p)))
        value = delta * y * (np.maximum(-p, 0) + log_one_plus)
        value += (1 - y) * (np.maximum(p, 0) + log_one_plus)
        return value, (1 - y) * _sigmoid(p) - delta * y * _sigmoid(-p)
    if loss == "poisson":
        # y log(rate) - rate but for what depends on y alone, rate = e^p.
        return np.exp(p) - y * p, np.exp(p) - y
    if loss == "quantile":
        # The pinball: q r below, (1 - q) r above, r the distance.
        value = np.where(r > 0, (1 - delta) * a, delta * a)
        return value, np.where(r > 0, 1 - delta, np.where(r < 0, -delta, 0 * r))
    if loss == "hinge":
        # At the kink the slope is that of the mistaken side: the perceptron's rule.
        short_of = delta - y * p
        return np.maximum(short_of, 0), np.where(short_of < 0, 0, -y)
    raise ValueError(f"unknown loss {loss!r}; one of {', '.join(LOSSES)}")


def _gaussian_nll(p: Array, y: Array, eps: float) -> tuple[Array, Array]:
    """``(log v + (m - y)^2 / v) / 2`` for ``p = (m, log v)``, and its gradient.

    ``v`` is at least eps. The gradient passes through that bound, so that a variance
    that fell below it can grow again.
    """
    mean, log_v = np.split(p, 2, axis=1)
    v = np.maximum(np.exp(log_v), eps)
    error = (mean - y) ** 2 / v
    by_log_v = 0.5 * (1 - error) * np.exp(log_v) / v
    value = 0.5 * (np.maximum(log_v, np.log(eps)) + error)
    return value, np.hstack([(mean - y) / v, by_log_v])


def _check_labels(labels: Array, classes: int) -> None:
    """Refuse what would count from the end, or not at all."""
    for row in np.flatnonzero((labels < 0) | (labels >= classes)):
        raise ValueError(
            f"y: the label {labels[row]} in row {row} is out of range for "
            f"{classes} classes"
        )


def _cross_entropy(
    p: Array, target: Array, smoothing: float, class_weight: Array | None
) -> tuple[Array, Array]:
    """``-c y log softmax(p)`` and its gradient; labels count as one-hot rows.

    Smoothing a makes ``(1 - a) y + a / O`` of y; c are the classes' weights.
    """
    if target.ndim == 1:
        _check_labels(target, p.shape[1])
        y = np.zeros_like(p)
        y[np.arange(len(target)), target] = 1
    else:
        y = target
    if smoothing != 0:
        y = (1 - smoothing) * y + smoothing / p.shape[1]
    if class_weight is not None:
        y = y * class_weight
    shifted = p - p.max(axis=-1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    # 0 log 0 = 0: a class with a logit of -inf and no target costs nothing.
    value = -y * np.where(y == 0, 0, log_softmax)
    return value, np.exp(log_softmax) * y.sum(axis=-1, keepdims=True) - y


@_quiet
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
) -> None:
    """Loss of each row (unscaled) and its gradient (scaled).

    ``row_loss[b] = sum_o l(pred[b,o], target[b,o])`` and ``dpred[b,:] =
    row_scale[b] * dl/dpred[b,:]``. ``pred`` is ``(B, O)``; ``target`` too, or int64
    labels ``(B,)`` for cross_entropy, or ``(B, O/2)`` for gaussian_nll. The loss of the
    batch is then ``sum(row_scale * row_loss)``. ``dpred`` may be None.

    ``delta`` is also the weight of y = 1 (binary_cross_entropy), q (quantile), the
    least variance (gaussian_nll) and the margin (hinge); ``per_output (O,)`` are
    several of the first two, or class weights (cross_entropy). With int64 ``actions
    (B,)`` only ``pred[b, actions[b]]`` counts, against ``target (B, 1)``.
    """
    if actions is not None:
        _check_labels(actions, pred.shape[1])
        rows = np.arange(len(pred))
        chosen = pred[rows, actions][:, None]
        slopes = None if dpred is None else np.empty_like(chosen)
        loss_rows(slopes, row_loss, chosen, target, row_scale, loss, delta)
        if dpred is not None and slopes is not None:
            dpred[...] = 0
            dpred[rows, actions] = slopes[:, 0]
        return
    if loss == "cross_entropy":
        value, slope = _cross_entropy(pred, target, smoothing, per_output)
    elif loss == "gaussian_nll":
        value, slope = _gaussian_nll(pred, target, delta)
    else:
        parameter = delta if per_output is None else per_output
        value, slope = _elementwise_loss(pred, target, loss, parameter)
    row_loss[...] = value.sum(axis=1)
    if dpred is not None:
        dpred[...] = row_scale[:, None] * slope


# ---------------------------------------------------------- steps of the optimisers


def _gradient(param: Array, grad: Array, weight_decay: float, maximize: bool) -> Array:
    # The penalty (weight_decay / 2) |param|^2 is minimised even if the rest is
    # maximised, as in torch. Without one the parameter stays out: 0 * inf is NaN.
    g = -grad if maximize else grad
    return g if weight_decay == 0 else g + weight_decay * param


def _denominator(square: Array, eps: float, eps_mode: str) -> Array:
    if eps_mode == "inside":
        return np.sqrt(square + eps)
    if eps_mode == "outside":
        return np.sqrt(square) + eps
    raise ValueError(f"unknown eps_mode {eps_mode!r}")


# fmt: off
@_quiet
def sgd_step(
    param: Array, buf: Array | None, grad: Array, lr: float, momentum: float,
    dampening: float, nesterov: bool, weight_decay: float, maximize: bool, step: int,
) -> None:
    """``v = momentum v + (1 - dampening) g``, ``param -= lr v``.

    With Nesterov's momentum [2] it is ``param -= lr (g + momentum v)``. ``step`` counts
    from 1, where v is g itself; ``buf`` holds v and is None when ``momentum`` is 0.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    if momentum != 0:
        if buf is None:
            raise ValueError("buf must be an array when momentum is not 0")
        buf[...] = g if step == 1 else momentum * buf + (1 - dampening) * g
        g = g + momentum * buf if nesterov else buf
    param -= lr * g


@_quiet
def adagrad_step(
    param: Array, sum: Array, grad: Array, lr: float, lr_decay: float, eps: float,
    weight_decay: float, maximize: bool, eps_mode: str, step: int,
) -> None:
    """``G += g^2``, ``param -= lr / (1 + (step - 1) lr_decay) g / (sqrt(G) + eps)``.

    From [2]; ``sum`` holds G (torch's name). eps_mode "inside" is ``sqrt(G + eps)``.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    sum += g * g
    param -= lr / (1 + (step - 1) * lr_decay) * (g / _denominator(sum, eps, eps_mode))


@_quiet
def rmsprop_step(
    param: Array, square_avg: Array, momentum_buf: Array | None,
    grad_avg: Array | None, grad: Array, lr: float, alpha: float, eps: float,
    momentum: float, weight_decay: float, maximize: bool, eps_mode: str,
) -> None:
    """``v = alpha v + (1 - alpha) g^2``, ``param -= lr g / (sqrt(v) + eps)`` [2].

    With ``grad_avg`` (centred) the running mean's square is taken off ``v``, clamped at
    0 since rounding can leave it negative. ``momentum_buf`` is None without momentum.
    """
    if momentum != 0 and momentum_buf is None:
        raise ValueError("momentum_buf must be an array when momentum is not 0")
    g = _gradient(param, grad, weight_decay, maximize)
    square_avg[...] = alpha * square_avg + (1 - alpha) * g * g
    variance = square_avg
    if grad_avg is not None:
        grad_avg[...] = alpha * grad_avg + (1 - alpha) * g
        variance = np.maximum(square_avg - grad_avg * grad_avg, 0)
    direction = g / _denominator(variance, eps, eps_mode)
    if momentum != 0 and momentum_buf is not None:
        momentum_buf[...] = momentum * momentum_buf + direction
        direction = momentum_buf
    param -= lr * direction


@_quiet
def adam_step(
    param: Array, exp_avg: Array, exp_avg_sq: Array, max_exp_avg_sq: Array | None,
    grad: Array, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, decoupled: bool, maximize: bool, eps_mode: str, step: int,
) -> None:
    """Adam [1] and, with ``decoupled``, AdamW; ``step`` t counts from 1.

    ``m = beta1 m + (1 - beta1) g``, ``v = beta2 v + (1 - beta2) g^2``,
    ``m_hat = m / (1 - beta1^t)``, ``v_hat = v / (1 - beta2^t)``. The step is lr times,
    by ``eps_mode``, "outside": ``m_hat / (sqrt(v_hat) + eps)`` (algorithm 1), "inside":
    ``m_hat / sqrt(v_hat + eps)``, or "hat":
    ``sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)`` (end of section 2).
    ``max_exp_avg_sq`` (AMSGrad) replaces v by its running maximum.
    """
    if decoupled:
        param *= 1 - lr * weight_decay
        weight_decay = 0.0
    g = _gradient(param, grad, weight_decay, maximize)
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * g * g
    v = exp_avg_sq
    if max_exp_avg_sq is not None:
        np.maximum(max_exp_avg_sq, exp_avg_sq, out=max_exp_avg_sq)
        v = max_exp_avg_sq
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    if eps_mode == "hat":
        scale = lr * math.sqrt(correction2) / correction1
        param -= scale * (exp_avg / (np.sqrt(v) + eps))
    else:
        m_hat, v_hat = exp_avg / correction1, v / correction2
        param -= lr * (m_hat / _denominator(v_hat, eps, eps_mode))


@_quiet
def sum_of_squares(out: Array, x: Array) -> None:
    """``out[0]`` = the sum of ``x^2``."""
    out[0] = np.sum(x * x)


@_quiet
def condition_gradient(
    out: Array, grad: Array, param: Array, scale: float, limit: float, l1: float
) -> None:
    """Clip by norm (``scale``; Pascanu et al. 2013), by value, add L1's slope.

    Without an L1 penalty the parameter stays out, as NaN has no sign.
    """
    clipped = np.clip(grad * scale, -limit, limit)
    out[...] = clipped if l1 == 0 else clipped + l1 * np.sign(param)


@_quiet
def interpolate(out: Array, x: Array, weight: float) -> None:
    """``out += weight (x - out)``: moving averages and Polyak's updates."""
    if weight == 1:
        out[...] = x
    elif weight != 0:
        out += weight * (x - out)
# fmt: on


# ------------------------------------------------------------------ random numbers

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_SHUFFLE_STREAM = 0x53485546  # "SHUF"
_DROPOUT_STREAM = 0x44524F50  # "DROP"


def philox4x32(
    counter: tuple[Array | int, ...], key: tuple[int, int]
) -> tuple[npt.NDArray[np.uint64], ...]:
    """Philox4x32-10 [4]: four 32-bit words from a counter of four and a key of two.

    Counters may be arrays (broadcast together); words are held in uint64.
    """
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in counter)
    k0, k1 = key
    low, shift = np.uint64(_MASK32), np.uint64(32)
    for _ in range(10):
        product0 = np.uint64(0xD2511F53) * c0
        product1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> shift) ^ c1 ^ np.uint64(k0),
            product1 & low,
            (product0 >> shift) ^ c3 ^ np.uint64(k1),
            product0 & low,
        )
        k0 = (k0 + 0x9E3779B9) & _MASK32
        k1 = (k1 + 0xBB67AE85) & _MASK32
    return c0, c1, c2, c3


def shuffle(order: npt.NDArray[np.int64], seed: int, epoch: int) -> None:
    """``order`` := the permutation of 0..N-1 that belongs to (seed, epoch).

    Fisher-Yates from the top: element i is swapped with element j <= i, the high 64
    bits of ``r * (i + 1)``, where the random word r depends on (seed, epoch, i) alone.
    """
    n = len(order)
    draws = np.arange(n, dtype=np.uint64)
    words = philox4x32(
        (
            draws & np.uint64(_MASK32),
            draws >> np.uint64(32),
            epoch & _MASK32,
            _SHUFFLE_STREAM,
        ),
        (seed & _MASK32, (seed >> 32) & _MASK32),
    )
    random = (words[0] | (words[1] << np.uint64(32))).tolist()
    result = list(range(n))
    for i in range(n - 1, 0, -1):
        j = random[i] * (i + 1) >> 64  # Python integers: the full 128-bit product
        result[i], result[j] = result[j], result[i]
    order[...] = result


_shuffle = shuffle  # for MLP.fit, where the name is an argument


def dropout_mask(
    shape: tuple[int, int], p: float, seed: int, epoch: int, step: int, layer: int
) -> npt.NDArray[np.bool_]:
    """Which elements a dropout layer keeps, each with the probability 1 - p.

    The 64 bits of (seed, epoch, layer) are the key. Elements are taken row by row in
    blocks of 64; block b reads the four words of the counters (g, step), g from 16 b
    to 16 b + 15: element i of it the word i // 16 of g = 16 b + i % 16. It is kept if
    that word is less than (1 - p) 2^32.
    """
    key = philox4x32(
        (layer & _MASK32, layer >> 32, epoch & _MASK32, _DROPOUT_STREAM),
        (seed & _MASK32, (seed >> 32) & _MASK32),
    )
    size = math.prod(shape)
    blocks = -(-size // 64)
    g = np.arange(16 * blocks, dtype=np.uint64)
    words = philox4x32(
        (g & np.uint64(_MASK32), g >> np.uint64(32), step & _MASK32, step >> 32),
        (int(key[0]), int(key[1])),
    )
    # Axes: word, block, counter in the block; elements go by block, word, counter.
    by_element = np.stack(words).reshape(4, blocks, 16).transpose(1, 0, 2).ravel()
    kept = by_element < np.uint64(math.floor((1 - p) * 2**32))
    return np.asarray(kept[:size].reshape(shape))


# ---------------------------------------------------------------- normalisation [5]


@_quiet
def normalize(x: Array, axis: int, eps: float) -> tuple[Array, Array, Array, Array]:
    """``((x - mean) rstd, mean, variance, rstd)``, ``rstd = 1 / sqrt(variance + eps)``.

    Mean and variance, that of the sum of squares over n, are those along ``axis``: 1
    for layer norm, where each row stands alone, 0 for batch norm.
    """
    mean = x.mean(axis=axis, keepdims=True)
    centred = x - mean
    variance = (centred * centred).mean(axis=axis, keepdims=True)
    rstd = 1 / np.sqrt(variance + eps)
    return centred * rstd, mean, variance, rstd


@_quiet
def normalize_backward(dn: Array, normal: Array, rstd: Array, axis: int) -> Array:
    """``dx = rstd (dn - mean(dn) - n mean(dn n))`` for ``n`` of :func:`normalize`.

    Mean and rstd depend on x, too: moving all x alike, or scaling them, leaves n as it
    is, so what dn has of either direction is taken off.
    """
    mean = dn.mean(axis=axis, keepdims=True)
    along = (dn * normal).mean(axis=axis, keepdims=True)
    return np.asarray(rstd * (dn - mean - normal * along))


def _scaled(normal: Array, scale: Array | None, shift: Array | None) -> Array:
    if scale is None or shift is None:
        return normal
    return np.asarray(normal * scale + shift)


def layer_norm_forward(
    h: Array,
    xhat: Array | None,
    rstd: Array | None,
    x: Array,
    scale: Array | None,
    shift: Array | None,
    eps: float,
) -> None:
    """``xhat``, ``rstd`` (by row) of :func:`normalize`; ``h = xhat scale + shift``."""
    normal, _, _, deviation = normalize(x, 1, eps)
    if xhat is not None:
        xhat[...] = normal
    if rstd is not None:
        rstd[...] = deviation[:, 0]
    h[...] = _scaled(normal, scale, shift)


def layer_norm_backward(
    dx: Array,
    dh: Array,
    xhat: Array,
    rstd: Array,
    scale: Array | None,
    accumulate: bool = False,
) -> None:
    """``dx`` of :func:`layer_norm_forward`, added to what it holds if asked for."""
    dn = dh if scale is None else dh * scale
    back = normalize_backward(dn, xhat, rstd[:, np.newaxis], 1)
    dx[...] = dx + back if accumulate else back


# Several directions for each row of values: a group of rows beside one row.


def _groups(rows: Array, m: int) -> Array:
    """``(m, group, n)`` of ``(m * group, n)``."""
    return rows.reshape(m, -1, rows.shape[1])


def _spread(a: Array, out: Array, m: int) -> Array:
    """Return ``a`` by group, or the same rows for all groups."""
    return a[np.newaxis] if len(a) * m == len(out) and m > 1 else _groups(a, m)


def scale_groups(out: Array, a: Array, scale: Array, masks: bool = False) -> None:
    """Rows of ``a`` times their group's row of ``scale``, or 0 where that is <= 0."""
    m = len(scale)
    factor = (scale > 0).astype(scale.dtype) if masks else scale
    out[...] = (_spread(a, out, m) * factor[:, np.newaxis]).reshape(out.shape)


def add_scaled_groups(out: Array, a: Array, scale: Array) -> None:
    """Add to ``out`` rows of ``a`` times their group's row of ``scale``."""
    m = len(scale)
    out += (_spread(a, out, m) * scale[:, np.newaxis]).reshape(out.shape)


def outer_rows(out: Array, x: Array, d: Array) -> None:
    """Outer products of a group's row of ``x`` with each of its rows of ``d``, flat."""
    products = x[:, np.newaxis, :, np.newaxis] * _groups(d, len(x))[:, :, np.newaxis]
    out[...] = products.reshape(out.shape)


def gemm_gather_k(
    c: Array, a: Array, b: Array, gate: Array, accumulate: bool = False
) -> None:
    """``c = a @ b``, ``a`` being 0 unless its group's row of ``gate`` is > 0."""
    kept = np.where(gate[:, np.newaxis] > 0, _groups(a, len(gate)), 0)
    product = kept.reshape(a.shape) @ b
    c[...] = c + product if accumulate else product


def softmax_second(out: Array, dot: Array | None, c: Array, t: Array, h: Array) -> None:
    """How ``h (c - sum(c h))`` moves as h does by ``t`` and c by ``dot`` (None: 0)."""
    m = len(c)
    c, h, t = c[:, np.newaxis], h[:, np.newaxis], _groups(t, m)
    slope = np.zeros_like(t) if dot is None else _groups(dot, m)
    mean = (c * h).sum(axis=-1, keepdims=True)
    mean_dot = (slope * h + c * t).sum(axis=-1, keepdims=True)
    out[...] = (t * (c - mean) + h * (slope - mean_dot)).reshape(out.shape)


def layer_norm_second(
    out: Array,
    dot: Array | None,
    c: Array,
    t: Array,
    xhat: Array,
    rstd: Array,
    scale: Array | None,
    accumulate: bool = False,
) -> None:
    """How :func:`layer_norm_backward` of ``c`` moves as x does by ``t``, c by ``dot``.

    The product rule on ``rstd * (u - mean(u) - xhat mean(u xhat))``, ``u = c scale``,
    with ``xhat' = rstd (t - mean(t) - xhat mean(t xhat))`` and
    ``rstd' = -rstd^2 mean(t xhat)``.
    """
    m = len(c)
    factor = 1 if scale is None else scale
    u, hat, r = (c * factor)[:, np.newaxis], xhat[:, np.newaxis], rstd[:, None, None]
    along = _groups(t, m)
    du = np.zeros_like(along) if dot is None else _groups(dot, m) * factor

    def mean(a: Array) -> Array:
        return np.asarray(a.mean(axis=-1, keepdims=True))

    turn = r * (along - mean(along) - hat * mean(along * hat))
    dr = -r * r * mean(along * hat)
    inside = u - mean(u) - hat * mean(u * hat)
    moved = du - mean(du) - turn * mean(u * hat) - hat * mean(du * hat + u * turn)
    result = (dr * inside + r * moved).reshape(out.shape)
    out[...] = out + result if accumulate else result


def column_moments(mean: Array, var: Array, x: Array) -> None:
    """Mean and variance (that of sums over m) of the columns of ``x (m, n)``."""
    mean[...] = x.mean(axis=0)
    var[...] = ((x - mean) ** 2).mean(axis=0)


def batch_norm_forward(
    h: Array,
    xhat: Array | None,
    x: Array,
    mean: Array,
    rstd: Array,
    scale: Array | None,
    shift: Array | None,
) -> None:
    """``xhat = (x - mean) rstd`` by column; ``h = xhat scale + shift``."""
    normal = (x - mean) * rstd
    if xhat is not None:
        xhat[...] = normal
    h[...] = _scaled(normal, scale, shift)


def batch_norm_backward(
    dx: Array,
    dh: Array,
    xhat: Array,
    rstd: Array,
    scale: Array | None,
    mean_dh: Array,
    mean_dhx: Array,
    accumulate: bool = False,
) -> None:
    """``dx = scale rstd (dh - mean_dh - xhat mean_dhx)``, or added to what it holds.

    The means are those over the batch of dh and of ``dh xhat``; with zeros it is the
    way back through fixed statistics.
    """
    factor = rstd if scale is None else rstd * scale
    back = factor * (dh - mean_dh - xhat * mean_dhx)
    dx[...] = dx + back if accumulate else back


def batch_norm_sums(sum_dh: Array, sum_dhx: Array, dh: Array, xhat: Array) -> None:
    """Write the sums over the batch of dh and of ``dh xhat``."""
    sum_dh[...] = dh.sum(axis=0)
    sum_dhx[...] = (dh * xhat).sum(axis=0)


def column_dot(out: Array, a: Array, b: Array, accumulate: bool = False) -> None:
    """``out[n] = sum over m of a[m, n] b[m, n]``, or added to what it holds."""
    dots = (a * b).sum(axis=0)
    out[...] = out + dots if accumulate else dots


def add(out: Array, a: Array, b: Array) -> None:
    """``out = a + b``."""
    out[...] = a + b


def multiply(out: Array, a: Array, b: Array) -> None:
    """``out = a b``, element by element."""
    out[...] = a * b


def dropout(
    h: Array,
    mask: Array,
    x: Array,
    p: float,
    seed: int,
    epoch: int,
    step: int,
    layer: int,
    first: int = 0,
) -> None:
    """``mask = kept / (1 - p)``, ``h = x mask``, for elements from ``first`` on.

    What is kept: :func:`dropout_mask`.
    """
    kept = dropout_mask((1, first + x.size), p, seed, epoch, step, layer)[0, first:]
    mask[...] = np.where(kept, 1 / (1 - p), 0)
    h[...] = np.where(kept, x / (1 - p), 0)


# ------------------------------------------------------------------ loss functions


@dataclass
class Loss:
    """A loss over a batch: mean (or sum) of :func:`loss_rows` over rows and outputs.

    With weights the mean is ``sum(w * l) / sum(w)`` and the sum is ``sum(w * l)``;
    cross-entropy averages over rows only, and counts the class weights of labels as
    weights of their rows. ``delta``, ``smoothing`` and ``per_output`` are those of
    :func:`loss_rows`. With ``action`` targets are pairs (actions, values).
    """

    kind: str
    delta: float = 1.0
    reduction: str = "mean"
    smoothing: float = 0.0
    per_output: tuple[float, ...] | None = None
    action: bool = False

    def __call__(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss of predictions ``(B, O)`` or ``(B,)``."""
        return self.value_and_grad(pred, target, sample_weight)[0]

    def row_weights(self, weight: Array, target: Any) -> Array:
        """Return the weights of rows in a mean: of samples, times those of labels."""
        weight = np.array(weight, dtype=np.float64)
        if self.kind != "cross_entropy" or np.ndim(target) != 1 or not self.per_output:
            return weight
        weight *= np.asarray(self.per_output)[target]
        return weight

    @_quiet
    def value_and_grad(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss and its derivative by ``pred``, in the shape of ``pred``."""
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
            target = target.astype(np.int64, casting="same_kind")  # no floats
            _check_labels(target, outputs)
        elif target.shape == shape or (target.shape, outputs) == (shape[:1], 1):
            target = target.astype(pred.dtype).reshape(shape)
        elif one_for_all and target.shape in (shape[:1], (len(rows), 1)):
            target = target.astype(pred.dtype).reshape(-1, 1).repeat(outputs, axis=1)
        else:
            raise ValueError(f"target of shape {target.shape} for {rows.shape}")
        weight = np.ones(len(rows)) if sample_weight is None else sample_weight
        scale = np.asarray(weight, dtype=np.float64)
        if scale.shape != (len(rows),):
            raise ValueError(f"sample_weight of shape {scale.shape} for {rows.shape}")
        if self.reduction == "mean":
            total = self.row_weights(scale, target).sum()
            total *= 1 if self.kind == "cross_entropy" else outputs
            # Rows that all weigh nothing, as a batch's may, cost nothing.
            scale = scale / total if total != 0 else scale
        scale = scale.astype(pred.dtype)
        row_loss, dpred = np.empty_like(scale), np.empty_like(rows)
        each = None
        if self.per_output is not None:
            each = np.array(self.per_output, dtype=pred.dtype)
        parameters = (self.kind, self.delta, self.smoothing, each, actions)
        loss_rows(dpred, row_loss, rows, target, scale, *parameters)
        return float((scale * row_loss).sum()), dpred.reshape(pred.shape)


def MSE(*, reduction: str = "mean") -> Loss:
    """``(p - y)^2``."""
    return Loss("mse", reduction=reduction)


def MAE(*, reduction: str = "mean") -> Loss:
    """``|p - y|``."""
    return Loss("mae", reduction=reduction)


def Huber(delta: float = 1.0, *, reduction: str = "mean") -> Loss:
    """``r^2 / 2`` up to delta, ``delta (|r| - delta / 2)`` beyond."""
    return Loss("huber", delta, reduction)


def PseudoHuber(delta: float = 1.0, *, reduction: str = "mean") -> Loss:
    """``delta^2 (sqrt(1 + (r / delta)^2) - 1)``."""
    return Loss("pseudo_huber", delta, reduction)


def CrossEntropy(
    *,
    label_smoothing: float = 0.0,
    class_weight: Sequence[float] | None = None,
    reduction: str = "mean",
) -> Loss:
    """``-log softmax(p)[y]`` for labels, ``-y . log softmax(p)`` for probabilities."""
    each = None if class_weight is None else tuple(class_weight)
    return Loss("cross_entropy", 1.0, reduction, label_smoothing, each)


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
    """``exp(p) - y p``: counts y of rate exp(p)."""
    return Loss("poisson", reduction=reduction)


def Quantile(q: float | Sequence[float] = 0.5, *, reduction: str = "mean") -> Loss:
    """``max(q (y - p), (q - 1) (y - p))``; with several q one for each column."""
    return _with_parameter("quantile", q, reduction)


def GaussianNLL(eps: float = 1e-6, *, reduction: str = "mean") -> Loss:
    """``(s + (p - y)^2 / exp(s)) / 2`` for predictions (p, s) side by side."""
    return Loss("gaussian_nll", eps, reduction)


def Hinge(margin: float = 1.0, *, reduction: str = "mean") -> Loss:
    """``max(0, margin - y p)``, y = -1 or 1."""
    return Loss("hinge", margin, reduction)


def ActionValue(loss: Loss) -> Loss:
    """``loss`` of ``p[b, a[b]]`` against a value, for targets (actions, values)."""
    return replace(loss, action=True)


# ---------------------------------------------------------------------- optimisers


@dataclass
class Optimizer:
    """Steps any float arrays downhill, in place; one step count for all of them.

    The optimisers below have torch's names, defaults and formulas. ``lr`` may be a
    function of the step, which counts from 0. Before a step gradients are clipped, by
    the norm of all of them or one by one, then ``l1`` times the sign of the parameter
    is added, then weight decay; ``decay="weights"`` leaves both out for arrays of fewer
    than two dimensions. After it the average moves, the slot ``"ema"``.
    """

    lr: Rate
    _: KW_ONLY
    clip_norm: float | None = None
    clip_value: float | None = None
    l1: float = 0.0
    decay: str = "all"
    ema: float | None = None
    maximize: bool = False

    def __post_init__(self) -> None:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("clip_norm and clip_value exclude each other")
        if self.decay not in ("all", "weights"):
            raise ValueError(f"decay must be 'all' or 'weights', got {self.decay!r}")
        self.reset()

    def reset(self) -> None:
        """Forget all steps."""
        self.step_count = 0
        self.slots: list[dict[str, Array]] = []

    def step(
        self, params: Array | Sequence[Array], grads: Array | Sequence[Array]
    ) -> None:
        """Update one array, or several, with gradients of the same shapes.

        Raises ValueError, before anything is changed, if they are not as many and of
        the same shapes as each other and as in the first step.
        """
        params = [params] if isinstance(params, np.ndarray) else params
        grads = [grads] if isinstance(grads, np.ndarray) else grads
        self._step(params, grads, [[(..., p.ndim > 1)] for p in params])

    def _step(
        self,
        params: Sequence[Array],
        grads: Sequence[Array],
        parts: Sequence[Sequence[tuple[Any, bool]]],
    ) -> None:
        """Take a step; ``parts`` of each array, and whether these are weights."""
        first = self._slots() | ({} if self.ema is None else {"ema": 0.0})
        state = self.slots or [
            {name: np.full_like(p, fill) for name, fill in first.items()}
            for p in params
        ]
        shapes = [p.shape for p in params]
        if [g.shape for g in grads] != shapes or len(state) != len(shapes):
            raise ValueError("params and grads must be as many, of the same shapes")
        for shape, slots in zip(shapes, state, strict=True):
            if any(slot.shape != shape for slot in slots.values()):
                raise ValueError("params must have the shapes of the first step")
        scale = 1.0
        if self.clip_norm is not None:
            squares = [np.sum(np.square(g, dtype=np.float64)) for g in grads]
            scale = min(1.0, self.clip_norm / (math.sqrt(sum(squares)) + 1e-6))
        self._rate = float(self.lr(self.step_count) if callable(self.lr) else self.lr)
        self.slots = state
        self.step_count += 1
        for p, g, slots, pieces in zip(params, grads, state, parts, strict=True):
            for part, is_weight in pieces:
                self._spared = self.decay == "weights" and not is_weight
                views = {name: slot[part] for name, slot in slots.items()}
                self._piece(p[part], g[part], views, scale)

    def _piece(
        self, param: Array, grad: Array, slots: dict[str, Array], scale: float
    ) -> None:
        g = np.empty_like(param)
        limit = math.inf if self.clip_value is None else self.clip_value
        # The penalty is minimised even if the rest is maximised.
        l1 = self._penalty(self.l1) * (-1 if self.maximize else 1)
        condition_gradient(g, grad, param, scale, limit, l1)
        self._update(param, g, slots)
        if self.ema is not None:
            weight = 1.0 if self.step_count == 1 else 1 - self.ema
            interpolate(slots["ema"], param, weight)

    def _penalty(self, size: float) -> float:
        return 0.0 if self._spared else size

    @property
    def ema_params(self) -> list[Array] | None:
        """Copies of the moving averages, flat; None without ``ema``."""
        if self.ema is None:
            return None
        return [slots["ema"].flatten() for slots in self.slots]

    def averaged(self, mlp: MLP) -> MLP:
        """Return a copy of a model with the moving averages of its parameters."""
        averages = self.ema_params
        if not averages:
            raise ValueError("averaged needs ema, and at least one step")
        copied = mlp.copy()
        copied.params[:] = averages[0]
        return copied

    def _slots(self) -> dict[str, float]:
        """Name and first value of each array of state."""
        raise NotImplementedError

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        raise NotImplementedError


# fmt: off
@dataclass
class SGD(Optimizer):
    """:func:`sgd_step`."""

    lr: Rate
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def _slots(self) -> dict[str, float]:
        return {"momentum_buffer": 0.0} if self.momentum else {}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        sgd_step(
            param, slots.get("momentum_buffer"), grad, self._rate, self.momentum,
            self.dampening, self.nesterov, self._penalty(self.weight_decay),
            self.maximize, self.step_count,
        )


@dataclass
class Adagrad(Optimizer):
    """:func:`adagrad_step`."""

    lr: Rate = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    _: KW_ONLY
    eps_mode: str = "outside"

    def _slots(self) -> dict[str, float]:
        return {"sum": self.initial_accumulator_value}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        adagrad_step(
            param, slots["sum"], grad, self._rate, self.lr_decay, self.eps,
            self._penalty(self.weight_decay), self.maximize, self.eps_mode,
            self.step_count,
        )


@dataclass
class RMSprop(Optimizer):
    """:func:`rmsprop_step`."""

    lr: Rate = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    _: KW_ONLY
    weight_decay: float = 0.0
    eps_mode: str = "outside"

    def _slots(self) -> dict[str, float]:
        names = ["square_avg"] + ["momentum_buffer"] * (self.momentum != 0)
        return dict.fromkeys(names + ["grad_avg"] * self.centered, 0.0)

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        rmsprop_step(
            param, slots["square_avg"], slots.get("momentum_buffer"),
            slots.get("grad_avg"), grad, self._rate, self.alpha, self.eps,
            self.momentum, self._penalty(self.weight_decay), self.maximize,
            self.eps_mode,
        )


@dataclass
class Adam(Optimizer):
    """:func:`adam_step`."""

    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    _: KW_ONLY
    eps_mode: str = "outside"
    decoupled: ClassVar[bool] = False

    def _slots(self) -> dict[str, float]:
        names = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * self.amsgrad
        return dict.fromkeys(names, 0.0)

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        adam_step(
            param, slots["exp_avg"], slots["exp_avg_sq"], slots.get("max_exp_avg_sq"),
            grad, self._rate, *self.betas, self.eps,
            self._penalty(self.weight_decay), self.decoupled, self.maximize,
            self.eps_mode, self.step_count,
        )
# fmt: on


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay."""

    weight_decay: float = 1e-2
    decoupled: ClassVar[bool] = True


# ----------------------------------------------------------- multilayer perceptron

_RELU_LIKE = ("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "softplus")


def initialize(
    rng: np.random.Generator,
    weight: Array,
    bias: Array | None,
    name: str,
    activation: str,
    hidden_activation: str,
) -> None:
    """Draw the first ``weight (fan_in, fan_out)`` and then ``bias`` of a layer [3].

    Normal with the variance v, or uniform in +-sqrt(3 v), which has it too, where v is
    ``2 / fan_in`` (he), ``2 / (fan_in + fan_out)`` (glorot) or ``1 / fan_in`` (lecun);
    biases are 0. "torch" and "sklearn" draw weight and bias from +-``1 / sqrt(fan_in)``
    and +-``sqrt(f / (fan_in + fan_out))``, f = 2 if the hidden activation is sigmoid,
    else 6. "orthogonal" is orthonormal rows, or columns if they are fewer (Saxe et al.,
    2014). "auto" is he_normal before ReLU-like activations, lecun_normal before selu,
    glorot_uniform before the others.
    """
    fan_in, fan_out = weight.shape
    if name == "auto":
        name = "he_normal" if activation in _RELU_LIKE else "glorot_uniform"
        name = "lecun_normal" if activation == "selu" else name
    he, glorot, lecun = 2 / fan_in, 2 / (fan_in + fan_out), 1 / fan_in
    variances = {"he_normal": he, "glorot_normal": glorot, "lecun_normal": lecun}
    f = 2 if hidden_activation == "sigmoid" else 6
    limits = {
        "he_uniform": math.sqrt(3 * he),
        "glorot_uniform": math.sqrt(3 * glorot),
        "lecun_uniform": math.sqrt(3 * lecun),
        "torch": 1 / math.sqrt(fan_in),
        "sklearn": math.sqrt(f / (fan_in + fan_out)),
    }
    if bias is not None:
        bias[...] = 0
    if name in variances:
        weight[...] = math.sqrt(variances[name]) * rng.standard_normal(weight.shape)
    elif name in limits:
        limit = limits[name]
        weight[...] = rng.uniform(-limit, limit, weight.shape)
        if bias is not None and name in ("torch", "sklearn"):
            bias[...] = rng.uniform(-limit, limit, bias.shape)
    elif name == "orthogonal":
        # Q of A = QR is unique, and uniform over all of them, if R's diagonal is > 0.
        short, long = sorted(weight.shape)
        q, r = np.linalg.qr(rng.standard_normal((short, long)).T)
        q = q * np.sign(np.diag(r))
        weight[...] = q.T if fan_in <= fan_out else q
    elif name == "zeros":
        weight[...] = 0
    else:
        raise ValueError(f"unknown init {name!r}")


# ------------------------------------------------------------------- layers, as given


@dataclass(frozen=True)
class Dense:
    """``h = act(x @ W + b)``, ``n`` units; None takes the network's default."""

    n: int
    activation: str | None = None
    bias: bool = True
    init: str | None = None


@dataclass(frozen=True)
class Activation:
    """``h = act(z)``: a name, or a function of arrays and its derivative by z."""

    function: str | Callable[[Array], Array]
    derivative: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.function, str):
            activation_saves(self.function)  # raises for an unknown name
        elif self.derivative is None:
            raise ValueError("derivative must be given with a function")


@dataclass(frozen=True)
class Dropout:
    """``h = x / (1 - p)`` with probability 1 - p, else 0; ``h = x`` in inference."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ValueError(f"p must be in [0, 1), got {self.p}")


@dataclass(frozen=True)
class LayerNorm:
    """``h = scale (x - mean) / sqrt(variance + eps) + shift``, of each row."""

    eps: float = 1e-5
    affine: bool = True


@dataclass(frozen=True)
class BatchNorm:
    """The same of each column: of the batch in training, of running statistics else.

    Those start from 0 and 1, and are ``(1 - momentum) running + momentum batch`` after
    each batch, with the batch's variance over its rows less one.
    """

    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True


@dataclass(frozen=True)
class Residual:
    """``h = x + f(x)``, f the given layers; ``x @ P + c + f(x)`` for another width."""

    layers: Sequence[Layer | int]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers of a Residual must be at least one")
        object.__setattr__(self, "layers", tuple(self.layers))


Layer: TypeAlias = Dense | Activation | Dropout | LayerNorm | BatchNorm | Residual


# ------------------------------------------------------- layers, in their places


@dataclass
class _Pass:
    """What a pass reads beside its input, and the statistics or gradients it leaves.

    Arrays go by name. ``draw`` is what masks depend on, (seed, epoch, step), or None
    in inference mode.
    """

    params: Mapping[str, Array]
    buffers: Mapping[str, Array]
    draw: tuple[int, int, int] | None = None
    running: dict[str, Array] = field(default_factory=dict)
    grads: dict[str, Array] = field(default_factory=dict)


@dataclass
class _Node:
    """A layer with its name and widths. Forward returns what backward needs, too.

    Backward returns dx and writes its parameters' gradients into ``run.grads``.
    """

    layer: Any
    name: str
    n_in: int
    n_out: int

    @property
    def leaves(self) -> list[_Node]:
        """The node, or those inside it, in the order of their parameters."""
        return [self]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its parameters by name, in their order."""
        return {}

    def forward(self, x: Array, run: _Pass) -> tuple[Array, Any]:
        raise NotImplementedError

    def backward(self, dh: Array, saved: Any, run: _Pass) -> Array:
        raise NotImplementedError


_Tape: TypeAlias = list[Any]  # what each node of a sequence saved


def _forward(nodes: list[_Node], h: Array, run: _Pass) -> tuple[Array, _Tape]:
    """Run through a sequence; its output, and what each node saved."""
    tape = []
    for node in nodes:
        h, saved = node.forward(h, run)
        tape.append(saved)
    return h, tape


def _backward(nodes: list[_Node], dh: Array, tape: _Tape, run: _Pass) -> Array:
    """Go back through a sequence, last to first (the chain rule)."""
    for node, saved in zip(reversed(nodes), reversed(tape), strict=True):
        dh = node.backward(dh, saved, run)
    return dh


class _DenseNode(_Node):
    """``dz = dh act'``, ``dW = x.T @ dz``, ``db = sum(dz)``, ``dx = dz @ W.T``."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        bias = {f"{self.name}.bias": (self.n_out,)} if self.layer.bias else {}
        return {f"{self.name}.weight": (self.n_in, self.n_out), **bias}

    def forward(self, x: Array, run: _Pass) -> tuple[Array, Any]:
        w, b = run.params[f"{self.name}.weight"], run.params.get(f"{self.name}.bias")
        z = np.empty((len(x), self.n_out), dtype=x.dtype)
        gemm_nn(z, x, w, b)
        h, saved = _activate(z, self.layer.activation)
        return h, (x, saved)

    def backward(self, dh: Array, saved: Any, run: _Pass) -> Array:
        x, kept = saved
        dz = np.empty_like(dh)
        dx: Array = np.empty_like(x)
        activation_backward(dz, dh, kept, self.layer.activation)
        gemm_tn(run.grads[f"{self.name}.weight"], x, dz)
        if self.layer.bias:
            column_sum(run.grads[f"{self.name}.bias"], dz)
        gemm_nt(dx, dz, run.params[f"{self.name}.weight"])
        return dx


def _activate(z: Array, kind: str) -> tuple[Array, Array]:
    """``act(z)``, and what its derivative is a function of."""
    h = np.empty_like(z)
    activation_forward(h, z, kind)
    return h, (z if activation_saves(kind) == "input" else h)


class _ActivationNode(_Node):
    """``dz = dh * act'``."""

    @_quiet
    def forward(self, x: Array, run: _Pass) -> tuple[Array, Any]:
        if isinstance(self.layer.function, str):
            return _activate(x, self.layer.function)
        h: Array = np.asarray(self.layer.function(x), dtype=x.dtype)
        return h, x

    @_quiet
    def backward(self, dh: Array, saved: Any, run: _Pass) -> Array:
        if isinstance(self.layer.function, str):
            dz = np.empty_like(dh)
            activation_backward(dz, dh, saved, self.layer.function)
            return dz
        return np.asarray(dh * self.layer.derivative(saved), dtype=dh.dtype)


@dataclass
class _DropoutNode(_Node):
    """``dx = dh / (1 - p)`` where x was kept, else 0; ``number`` among the dropouts."""

    number: int

    @_quiet
    def forward(self, x: Array, run: _Pass) -> tuple[Array, Any]:
        if run.draw is None:
            return x, None
        kept = dropout_mask((len(x), self.n_in), self.layer.p, *run.draw, self.number)
        return self._drop(x, kept), kept

    @_quiet
    def backward(self, dh: Array, saved: Any, run: _Pass) -> Array:
        return dh if saved is None else self._drop(dh, saved)

    def _drop(self, x: Array, kept: Array) -> Array:
        return np.where(kept, x * (1 / (1 - self.layer.p)), 0).astype(x.dtype)


class _NormNode(_Node):
    """``dscale = sum(dh n)``, ``dshift = sum(dh)`` over rows, ``dn = dh scale``.

    Where n is normalised by numbers that do not depend on x, ``dx = rstd dn``, else as
    :func:`normalize_backward` says.
    """

    def shapes(self) -> dict[str, tuple[int, ...]]:
        names = ("weight", "bias") if self.layer.affine else ()
        return {f"{self.name}.{name}": (self.n_in,) for name in names}

    @_quiet
    def forward(self, x: Array, run: _Pass) -> tuple[Array, Any]:
        normal, rstd, axis = self._normalize(x, run)
        saved = normal, rstd, axis
        if not self.layer.affine:
            return normal, saved
        scale, shift = (run.params[name] for name in self.shapes())
        return normal * scale + shift, saved

    def _normalize(self, x: Array, run: _Pass) -> tuple[Array, Array, int | None]:
        """n, rstd, and the axis along which they depend on x, if they do."""
        raise NotImplementedError

    @_quiet
    def backward(self, dh: Array, saved: Any, run: _Pass) -> Array:
        normal, rstd, axis = saved
        dn = dh
        if self.layer.affine:
            scale, shift = self.shapes()
            column_sum(run.grads[scale], dh * normal)
            column_sum(run.grads[shift], dh)
            dn = dh * run.params[scale]
        if axis is None:
            return np.asarray(rstd * dn)
        return normalize_backward(dn, normal, rstd, axis)


class _LayerNormNode(_NormNode):
    def _normalize(self, x: Array, run: _Pass) -> tuple[Array, Array, int | None]:
        normal, _, _, rstd = normalize(x, 1, self.layer.eps)
        return normal, rstd, 1


class _BatchNormNode(_NormNode):
    @property
    def running(self) -> tuple[str, str]:
        """Names of the running mean and variance."""
        return f"{self.name}.running_mean", f"{self.name}.running_var"

    def _normalize(self, x: Array, run: _Pass) -> tuple[Array, Array, int | None]:
        mean, variance = (run.buffers[name] for name in self.running)
        if run.draw is None:
            rstd = 1 / np.sqrt(variance + self.layer.eps)
            return (x - mean) * rstd, rstd, None
        if len(x) < 2:
            raise ValueError("x must have 2 rows or more: BatchNorm is in training")
        normal, *batch, rstd = normalize(x, 0, self.layer.eps)
        batch[1] = batch[1] * (len(x) / (len(x) - 1))
        m = self.layer.momentum
        for name, new in zip(self.running, batch, strict=True):
            run.running[name] = (1 - m) * run.buffers[name] + m * new[0]
        return normal, rstd, 0


@dataclass
class _ResidualNode(_Node):
    """``dx = dh + df``; with a projection it is dh that goes back through that, too."""

    body: list[_Node]
    projection: _Node | None

    @property
    def leaves(self) -> list[_Node]:
        last = [] if self.projection is None else [self.projection]
        return [leaf for node in self.body + last for leaf in node.leaves]

    @_quiet
    def forward(self, x: Array, run: _Pass) -> tuple[Array, Any]:
        h, tape = _forward(self.body, x, run)
        if self.projection is None:
            return x + h, (tape, None)
        straight, saved = self.projection.forward(x, run)
        return straight + h, (tape, saved)

    @_quiet
    def backward(self, dh: Array, saved: Any, run: _Pass) -> Array:
        tape, straight = saved
        dx = _backward(self.body, dh, tape, run)
        if self.projection is None:
            return dh + dx
        return self.projection.backward(dh, straight, run) + dx


def _place(
    layers: Iterable[Layer | int],
    n_in: int,
    init: str,
    dropouts: Iterator[int],
    prefix: str = "",
) -> list[_Node]:
    """Name layers by torch's count, in which a Dense's activation has a place, too."""
    nodes: list[_Node] = []
    at = 0
    for layer in layers:
        name = f"{prefix}{at}"
        at += 1
        if isinstance(layer, Dense):
            nodes.append(_DenseNode(layer, name, n_in, layer.n))
            at += layer.activation != "identity"
        elif isinstance(layer, Activation):
            nodes.append(_ActivationNode(layer, name, n_in, n_in))
        elif isinstance(layer, Dropout):
            nodes.append(_DropoutNode(layer, name, n_in, n_in, next(dropouts)))
        elif isinstance(layer, LayerNorm):
            nodes.append(_LayerNormNode(layer, name, n_in, n_in))
        elif isinstance(layer, BatchNorm):
            nodes.append(_BatchNormNode(layer, name, n_in, n_in))
        elif isinstance(layer, Residual):
            body = _place(layer.layers, n_in, init, dropouts, f"{name}.body.")
            n_out, projection = body[-1].n_out, None
            if n_out != n_in:
                dense = Dense(n_out, "identity", init=init)
                projection = _DenseNode(dense, f"{name}.projection", n_in, n_out)
            nodes.append(_ResidualNode(layer, name, n_in, n_out, body, projection))
        else:
            raise TypeError(f"layers must be ints or layers, got {layer!r}")
        n_in = nodes[-1].n_out
    return nodes


def _kinds(nodes: list[_Node]) -> Iterator[str]:
    """For each dense layer in order the activation that its first weights are for.

    Its own, or, if that is the identity, that of an Activation after it in the same
    sequence, with nothing but norms and dropouts between.
    """
    for i, node in enumerate(nodes):
        if isinstance(node, _ResidualNode):
            yield from _kinds(node.body)
            if node.projection is not None:
                yield "identity"
        elif isinstance(node, _DenseNode):
            rest = nodes[i + 1 :] if node.layer.activation == "identity" else []
            between = (_NormNode, _DropoutNode)
            follower = next((n for n in rest if not isinstance(n, between)), node)
            function = getattr(follower.layer, "function", node.layer.activation)
            yield function if isinstance(function, str) else "identity"


@dataclass
class _Folded:
    """A layer for inference with its parameters and running statistics, in order."""

    layer: Any
    params: list[Array]
    running: list[Array]


def _affine(norm: _Folded) -> tuple[Array, Array]:
    """Return s and t of ``h = s x + t``, which batch norm is in inference."""
    mean, variance = norm.running
    scale, shift = norm.params or (np.ones_like(mean), np.zeros_like(mean))
    s = scale / np.sqrt(variance + norm.layer.eps)
    return s, shift - s * mean


def _fold(nodes: list[_Node], run: _Pass) -> list[_Folded]:
    """Leave out dropout, and batch norm where a dense layer can take it in.

    One before it without an activation, ``(x @ W + b) s + t``, or else one after it,
    ``(x s + t) @ W + b``. Numbers are float64.
    """
    items: list[_Folded] = []
    for node in nodes:
        if isinstance(node, _DropoutNode):
            continue
        if isinstance(node, _ResidualNode):
            body = _fold(node.body, run) or [_Folded(Activation("identity"), [], [])]
            layer = Residual([item.layer for item in body])
            if node.projection is not None:
                body += _fold([node.projection], run)
            params = [array for item in body for array in item.params]
            running = [array for item in body for array in item.running]
            items.append(_Folded(layer, params, running))
            continue
        own = [run.params[name].astype(np.float64) for name in node.shapes()]
        item = _Folded(node.layer, own, [])
        if isinstance(node, _BatchNormNode):
            item.running = [run.buffers[n].astype(np.float64) for n in node.running]
            before = items[-1].layer if items else None
            if isinstance(before, Dense) and before.activation == "identity":
                s, t = _affine(item)
                w, b = [*items[-1].params, np.zeros(node.n_in)][:2]
                items[-1] = _Folded(replace(before, bias=True), [w * s, b * s + t], [])
                continue
        items.append(item)

    for i in reversed(range(len(items) - 1)):
        after = items[i + 1]
        if isinstance(items[i].layer, BatchNorm) and isinstance(after.layer, Dense):
            s, t = _affine(items[i])
            w, b = [*after.params, np.zeros(after.layer.n)][:2]
            params = [s[:, None] * w, t @ w + b]
            items[i : i + 2] = [_Folded(replace(after.layer, bias=True), params, [])]
    return items


@dataclass
class History:
    """Losses of the epochs of :meth:`MLP.fit`."""

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)


# The epochs of the masks of steps and passes that are not of a fit.
_STEP_EPOCH = 0xFFFFFFFF
_PASS_EPOCH = 0xFFFFFFFE


class MLP:
    """Multilayer perceptron ``h_0 = x, h_t = act_t(h_{t-1} @ W_t + b_t)``.

    Attributes, arguments and methods are those of ``fastmlp.MLP``; for one seed so are
    the first parameters, the orders and the masks of :meth:`fit`. Left out are
    derivatives other than :meth:`vjp` and :meth:`value_and_grad`, ``summary`` and
    ``repr``, in fit the ``callbacks``, ``metrics`` and ``progress``, batches in place
    of arrays and functions in place of losses, the ``seconds`` of its history,
    ``state_dict`` and ``load_state_dict`` of optimisers and their belonging to one
    model, and second-order solvers. Fewer arguments are checked. A training that
    diverges stops before the first step whose loss or gradient is not finite, and goes
    back no further; the parameters after the last step are not looked at.
    """

    def __init__(
        self,
        layers: Iterable[int | Layer],
        *,
        activation: str = "relu",
        output_activation: str = "identity",
        init: str = "auto",
        bias: bool = True,
        dtype: npt.DTypeLike = "float32",
        seed: int | np.random.Generator | None = None,
    ) -> None:
        n_in, *rest = list(layers) or [0]
        if isinstance(n_in, Layer) or not rest:
            raise ValueError("layers must be the input width, then at least one layer")
        self.n_in, self.dtype = int(n_in), np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")

        # From the last dense layer, which may be in a Residual, back to the first.
        defaults = itertools.chain([output_activation], itertools.repeat(activation))

        def resolve(item: Layer | int) -> Layer:
            if isinstance(item, Residual):
                return Residual(resolve_all(item.layers))
            if isinstance(item, Layer) and not isinstance(item, Dense):
                return item
            layer = item if isinstance(item, Dense) else Dense(int(item), bias=bias)
            default = next(defaults)
            kind = layer.activation or default
            activation_saves(kind)  # raises for an unknown name
            return replace(layer, activation=kind, init=layer.init or init)

        def resolve_all(items: Sequence[Layer | int]) -> list[Layer]:
            return [resolve(item) for item in reversed(items)][::-1]

        self.layers = tuple(resolve_all(rest))
        self._nodes = _place(self.layers, self.n_in, init, itertools.count())
        self._leaves = [leaf for node in self._nodes for leaf in node.leaves]
        self.n_out = self._nodes[-1].n_out
        self.n_params = sum(math.prod(s) for s in self._shapes().values())
        self._params = np.zeros(self.n_params, dtype=self.dtype)
        norms = [leaf for leaf in self._leaves if isinstance(leaf, _BatchNormNode)]
        self._buffers = np.zeros(2 * sum(n.n_in for n in norms), dtype=self.dtype)
        self._batches = np.zeros(len(norms), dtype=np.int64)
        self._connect()
        for norm in norms:
            self._running[norm.running[1]][:] = 1

        # Parameters, then the seed of all orders and masks to come.
        rng = np.random.default_rng(seed)
        denses = [leaf for leaf in self._leaves if isinstance(leaf, _DenseNode)]
        kinds = list(_kinds(self._nodes))
        for i, dense in enumerate(denses):
            hidden = kinds[min(i, max(0, len(denses) - 2))]
            w, b = self.weights[i], self.biases[i]
            initialize(rng, w, b, str(dense.layer.init), kinds[i], hidden)
        for leaf in self._leaves:
            if isinstance(leaf, _NormNode) and leaf.layer.affine:
                self._named[f"{leaf.name}.weight"][:] = 1
        self._order_seed = int(rng.integers(2**63))
        self._epochs_done = 0
        self._passes = 0  # in training mode, steps apart
        self.history: History | None = None

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters by name, in their order."""
        return {k: v for leaf in self._leaves for k, v in leaf.shapes().items()}

    def _connect(self) -> None:
        """Make all views of what the model's three arrays hold."""
        self._named = self._views(self._params)
        denses = [leaf for leaf in self._leaves if isinstance(leaf, _DenseNode)]
        self.weights = tuple(self._named[f"{d.name}.weight"] for d in denses)
        self.biases = tuple(self._named.get(f"{d.name}.bias") for d in denses)
        self._running: dict[str, Array] = {}
        start = 0
        for leaf in self._leaves:
            for name in leaf.running if isinstance(leaf, _BatchNormNode) else ():
                self._running[name] = self._buffers[start : start + leaf.n_in]
                start += leaf.n_in
        # The shape of the last forward's result, and what its backward needs.
        self._kept: tuple[tuple[int, ...], _Tape] | None = None

    def _views(self, flat: Array) -> dict[str, Array]:
        """All parameters, or gradients, by name, as views of a flat vector."""
        views, start = {}, 0
        for name, shape in self._shapes().items():
            stop = start + math.prod(shape)
            views[name] = flat[start:stop].reshape(shape)
            start = stop
        return views

    @property
    def params(self) -> Array:
        """All parameters, 1-D, in the order W0, b0, W1, b1, ...: to write into.

        Norms have scale and shift in their place, a Residual its layers' parameters,
        then its projection's.
        """
        return self._params

    @property
    def buffers(self) -> Array:
        """Running means and variances, 1-D, layer by layer: to write into."""
        return self._buffers

    def named_parameters(self) -> dict[str, Array]:
        """Return views of `params` by torch's names, weights (in, out)."""
        return dict(self._named)

    def _torch_views(self) -> dict[str, Array]:
        views, norms = {}, 0
        for leaf in self._leaves:
            for name in leaf.shapes():
                views[name] = self._named[name].T
            if isinstance(leaf, _BatchNormNode):
                views |= {name: self._running[name] for name in leaf.running}
                count = self._batches[norms : norms + 1].reshape(())
                views[f"{leaf.name}.num_batches_tracked"] = count
                norms += 1
        return views

    def state_dict(self) -> dict[str, Array]:
        """Return copies by torch's names, in its layout: ``"0.weight"`` (out, in)."""
        return {name: np.array(v, order="C") for name, v in self._torch_views().items()}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Take over such copies; ValueError, nothing changed, if they do not fit."""
        views = self._torch_views()
        arrays = {name: np.array(v) for name, v in state.items()}
        wanted = {name: view.shape for name, view in views.items()}
        given = {name: array.shape for name, array in arrays.items()}
        if given != wanted:
            raise ValueError(f"state must have the shapes {wanted}, got {given}")
        for name, view in views.items():
            view[...] = arrays[name]

    def fold(self) -> MLP:
        """Return a model for inference, without dropout and, where it can, batch norm.

        Batch norm goes into a dense layer next to it, see ``_fold``. Outputs are the
        same but for rounding.
        """
        run = _Pass(self._named, self._running)
        items = _fold(self._nodes, run) or [_Folded(Activation("identity"), [], [])]
        model = MLP([self.n_in, *(item.layer for item in items)], dtype=self.dtype)
        params = [array.ravel() for item in items for array in item.params]
        running = [array for item in items for array in item.running]
        model.params[:] = np.concatenate([np.zeros(0), *params])
        model.buffers[:] = np.concatenate([np.zeros(0), *running])
        return model

    def copy(self) -> MLP:
        """Return an independent copy, ready to go on alike."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        views = ("weights", "biases", "_named", "_running", "_kept")
        return {name: v for name, v in self.__dict__.items() if name not in views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    def _forward(
        self, x: Array, draw: tuple[int, int, int] | None = None
    ) -> tuple[Array, _Tape, _Pass]:
        """Return the output, what backward needs, and the pass with its statistics."""
        run = _Pass(self._named, self._running, draw)
        h, tape = _forward(self._nodes, np.atleast_2d(x), run)
        return (h[0] if x.ndim == 1 else h), tape, run

    def _forward_in(self, training: bool, x: Array) -> tuple[Array, _Tape]:
        """Return the same in either mode; in training take over the statistics."""
        draw = (self._order_seed, _PASS_EPOCH, self._passes) if training else None
        y, tape, run = self._forward(x, draw)
        self._passes += training
        self._take_statistics(run)
        return y, tape

    def _take_statistics(self, run: _Pass) -> None:
        for name, value in run.running.items():
            self._running[name][:] = value
        self._batches += run.draw is not None

    def _backward(
        self, dy: npt.ArrayLike, shape: tuple[int, ...], tape: _Tape
    ) -> tuple[Array, Array]:
        """``(dx, grads)`` by the chain rule, layer by layer from the last."""
        dy = np.asarray(dy, dtype=self.dtype)
        if dy.shape != shape:
            raise ValueError(f"dy must have the outputs' shape {shape}, got {dy.shape}")
        grads = np.empty_like(self.params)
        rows = np.atleast_2d(dy)
        run = _Pass(self._named, self._running, grads=self._views(grads))
        dx = _backward(self._nodes, rows, tape, run)
        return (dx[0] if dy.ndim == 1 else dx), grads

    def forward(self, x: npt.ArrayLike, training: bool = False) -> Array:
        """Return the output for ``x (B, I)`` or ``(I,)``; keep what backward needs.

        In training mode dropout is on and batch norm takes the statistics of the batch,
        and the model takes over its running statistics.
        """
        y, tape = self._forward_in(training, np.array(x, dtype=self.dtype))
        self._kept = y.shape, tape
        return y.copy()  # the tape may hold y itself

    def backward(self, dy: npt.ArrayLike) -> tuple[Array, Array]:
        """``(dx, grads)`` of a function with derivative ``dy`` at the last output."""
        if self._kept is None:
            raise RuntimeError("backward needs a forward before it")
        dx, grads = self._backward(dy, *self._kept)
        return dx.copy(), grads  # layers that change nothing return dy itself

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        """Return the output for ``x (B, I)`` or ``(I,)``, in ``out`` if given."""
        y = self._forward(np.array(x, dtype=self.dtype))[0]
        if out is None:
            return y
        out[...] = y
        return out

    __call__ = predict

    def vjp(
        self, x: npt.ArrayLike, dy: npt.ArrayLike, training: bool = False
    ) -> tuple[Array, Array, Array]:
        """``(y, dx, grads)``: forward and backward in one."""
        y, tape = self._forward_in(training, np.array(x, dtype=self.dtype))
        return y, *self._backward(np.array(dy, dtype=self.dtype), y.shape, tape)

    def value_and_grad(
        self,
        x: npt.ArrayLike,
        y: Any,
        loss: Loss,
        sample_weight: npt.ArrayLike | None = None,
        *,
        training: bool = False,
    ) -> tuple[float, Array]:
        """Return the loss and its gradient with respect to ``params``."""
        pred, tape = self._forward_in(training, np.asarray(x, dtype=self.dtype))
        value, dy = loss.value_and_grad(pred, y, sample_weight)
        return value, self._backward(dy, pred.shape, tape)[1]

    def train_step(
        self,
        x: npt.ArrayLike,
        y: Any,
        loss: Loss,
        optimizer: Optimizer,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """One step of the optimiser, in training mode; returns the loss before it.

        Raises FloatingPointError, and changes nothing, if the loss or its gradient is
        not finite.
        """
        draw = (self._order_seed, _STEP_EPOCH, optimizer.step_count)
        return self._step(x, y, loss, optimizer, sample_weight, draw)

    def _step(
        self,
        x: npt.ArrayLike,
        y: Any,
        loss: Loss,
        optimizer: Optimizer,
        sample_weight: npt.ArrayLike | None,
        draw: tuple[int, int, int],
    ) -> float:
        pred, tape, run = self._forward(np.asarray(x, dtype=self.dtype), draw)
        value, dy = loss.value_and_grad(pred, y, sample_weight)
        grads = self._backward(dy, pred.shape, tape)[1]
        if not (math.isfinite(value) and np.isfinite(grads).all()):
            raise FloatingPointError(
                f"training diverged at step {optimizer.step_count + 1}: the loss "
                f"({value}) or its gradient is not finite"
            )
        optimizer._step([self.params], [grads], [self._parts()])
        self._take_statistics(run)
        return value

    def _parts(self) -> list[tuple[slice, bool]]:
        """Ranges of the parameters, and whether they are weights."""
        parts, at = [], 0
        for view in self.named_parameters().values():
            parts.append((slice(at, at + view.size), view.ndim == 2))
            at += view.size
        return parts

    def polyak_(self, other: MLP, tau: float) -> Self:
        """``params += tau (other.params - params)``, in place; buffers as well."""
        if other.n_params != self.n_params or not 0 <= tau <= 1:
            raise ValueError("other must have the same parameters, and 0 <= tau <= 1")
        interpolate(self.params, other.params, tau)
        interpolate(self.buffers, other.buffers, tau)
        return self

    def evaluate(
        self,
        x: npt.ArrayLike,
        y: Any,
        loss: Loss,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss, without a step."""
        return loss(self.predict(x), y, sample_weight)

    def fit(
        self,
        x: npt.ArrayLike,
        y: Any = None,
        *,
        loss: Loss,
        optimizer: Optimizer,
        epochs: int,
        batch_size: int | None = None,
        shuffle: bool = True,
        sample_weight: npt.ArrayLike | None = None,
        validation_data: tuple[npt.ArrayLike, ...] | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> History:
        """Train on mini-batches without replacement, the last one possibly short.

        An epoch's loss is the mean of its batches' weighted by rows (by weight if there
        are sample weights), or their sum for ``reduction="sum"``. The orders and masks
        are those of ``seed`` from its first epoch on; without one they go on with the
        model's.
        """
        if y is None or batch_size is None:
            raise TypeError("y and batch_size are needed: there are arrays only")
        x = np.asarray(x)
        targets = [np.asarray(a) for a in (y if loss.action else [y])]
        if loss.action or (loss.kind == "cross_entropy" and targets[0].ndim == 1):
            # Of all batches, before the first step.
            _check_labels(targets[0], self.n_out)
        weights = None if sample_weight is None else np.asarray(sample_weight)
        key, first = self._order_seed, self._epochs_done
        if isinstance(seed, np.random.Generator):
            key, first = int(seed.integers(2**63)), 0
        elif seed is not None:
            key, first = int(seed), 0

        self.history = history = History()
        order = np.arange(len(x))
        for epoch in range(first, first + epochs):
            if shuffle:
                _shuffle(order, key, epoch)
            values, shares = [], []
            for step, start in enumerate(range(0, len(x), batch_size)):
                rows = order[start : start + batch_size]
                weight = None if weights is None else weights[rows]
                draw = (key, epoch, step)
                parts = [target[rows] for target in targets]
                batch = tuple(parts) if loss.action else parts[0]
                values.append(self._step(x[rows], batch, loss, optimizer, weight, draw))
                each = np.ones(len(rows)) if weight is None else weight
                shares.append(loss.row_weights(each, batch).sum())
            if seed is None:
                self._epochs_done += 1
            total = np.average(values, weights=shares)
            total = total if loss.reduction == "mean" else np.sum(values)
            history.loss.append(float(total))
            if validation_data is not None:
                x_val, y_val, *w_val = validation_data
                history.val_loss.append(self.evaluate(x_val, y_val, loss, *w_val))
        return history
