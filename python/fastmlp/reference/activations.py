"""Elementary functions, and the activations with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from .arrays import Array, named, quiet
from .products import gemm_nn, groups

__all__ = [
    "ACTIVATIONS",
    "activation_backward",
    "activation_forward",
    "activation_saves",
    "activation_second",
    "dense_forward",
    "elementary",
    "softmax_second",
]

# fmt: off
ACTIVATIONS: tuple[str, ...] = (
    "identity", "relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu",
    "mish", "softplus", "softsign", "sigmoid", "tanh", "sin", "cos", "exp", "softmax",
)


def dense_forward(
    h: Array, x: Array, w: Array, bias: Array | None, activation: str
) -> None:
    """``h[B,O] = act(x[B,I] @ w[I,O] + bias[O])``."""
    gemm_nn(h, x, w, bias)
    activation_forward(h, h, activation)

_python_erf = np.frompyfunc(math.erf, 1, 1)

_python_erfc = np.frompyfunc(math.erfc, 1, 1)


def _erf(x: Array) -> Array:
    return np.asarray(_python_erf(x), dtype=x.dtype)


def _erfc(x: Array) -> Array:
    return np.asarray(_python_erfc(x), dtype=x.dtype)


def sigmoid(x: Array) -> Array:
    # 1 / (1 + e^-x), written so that the exponential never overflows.
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, e) / (1 + e))

_ELEMENTARY: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "sin": np.sin,
    "cos": np.cos,
    "erf": _erf,
    "erfc": _erfc,
}


@quiet
def elementary(out: Array, x: Array, function: str) -> None:
    """``out[i] = function(x[i])``: exp, expm1, log, log1p, tanh, sigmoid, sin, ..."""
    out[...] = named("function", function, _ELEMENTARY)(x)

_SELU_ALPHA = 1.6732632423543772848170429916717

_SELU_SCALE = 1.0507009873554804934193349852946

_LEAKY_SLOPE = 0.01

_GELU_TANH_CUBIC = 0.044715

# |z| beyond which gelu_tanh's inner tanh is exactly +-1 in float64; clipping there
# keeps z**3 from overflowing, and the derivative of gelu_tanh from becoming 0 * inf.
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
    return sigmoid(2 * math.sqrt(2 / math.pi) * (z + _GELU_TANH_CUBIC * z**3))


def _softplus(z: Array) -> Array:
    return np.asarray(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))))


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
    "silu": lambda z: z * sigmoid(z),
    "mish": lambda z: z * np.tanh(_softplus(z)),
    "softplus": _softplus,
    "softsign": lambda z: z / (1 + np.abs(z)),
    "sigmoid": sigmoid,
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
    # With the sigmoid s and u as in _gelu_tanh_gate: (z s(2u))' = s + z s (1 - s) 2 u'.
    # As u is odd, 1 - s(2u(z)) = s(2u(-z)), which avoids cancellation.
    gate = _gelu_tanh_gate(z)
    z = np.clip(z, -_GELU_TANH_SATURATED, _GELU_TANH_SATURATED)
    inner = 2 * math.sqrt(2 / math.pi) * (1 + 3 * _GELU_TANH_CUBIC * z * z)
    return np.asarray(gate + z * gate * _gelu_tanh_gate(-z) * inner)


def _silu_derivative(z: Array) -> Array:
    # (z s(z))' = s + z s (1 - s)
    s = sigmoid(z)
    return np.asarray(s + z * s * sigmoid(-z))


def _mish_gate(z: Array) -> tuple[Array, Array, Array]:
    """Return z, w = tanh(softplus(z)) and w'; z is clipped so that z w' is not NaN."""
    # softplus'(z) = sigmoid(z). With u = e^-softplus(z) = sigmoid(-z),
    # tanh'(softplus(z)) = (2 u / (1 + u^2))^2.
    z = np.clip(z, -1000, 1000)
    u = sigmoid(-z)
    return z, np.tanh(_softplus(z)), (2 * u / (1 + u * u)) ** 2 * sigmoid(z)


def _mish_derivative(z: Array) -> Array:
    z, w, slope = _mish_gate(z)
    return np.asarray(w + z * slope)

# Derivatives as functions of the saved array, which is the output h where that
# suffices, else the pre-activation z (see activation_saves).
_DERIVATIVE: dict[str, Callable[[Array], Array]] = {
    "identity": np.ones_like,
    "relu": lambda h: (h > 0).astype(h.dtype),
    "leaky_relu": lambda h: np.where(h > 0, 1, _LEAKY_SLOPE).astype(h.dtype),
    "elu": lambda h: np.where(h > 0, 1, h + 1),
    "selu": lambda h: np.where(h > 0, _SELU_SCALE, h + _SELU_SCALE * _SELU_ALPHA),
    "gelu": _gelu_derivative,
    "gelu_tanh": _gelu_tanh_derivative,
    "silu": _silu_derivative,
    "mish": _mish_derivative,
    "softplus": lambda h: -np.expm1(-h),
    "softsign": lambda h: (1 - np.abs(h)) ** 2,
    "sigmoid": lambda h: h * (1 - h),
    "tanh": lambda h: 1 - h * h,
    "sin": np.cos,
    "cos": lambda z: -np.sin(z),
    "exp": lambda h: h,
}

_SAVES_INPUT = ("gelu", "gelu_tanh", "silu", "mish", "sin", "cos")


def activation_saves(kind: str) -> Literal["input", "output"]:
    """Return "input" or "output", whichever :func:`activation_backward` needs."""
    if kind not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {kind!r}; known: {', '.join(ACTIVATIONS)}"
        )
    return "input" if kind in _SAVES_INPUT else "output"


@quiet
def activation_forward(h: Array, z: Array, activation: str) -> None:
    """``h = act(z)`` for a matrix z; softmax acts on each row. ``h`` may be ``z``."""
    h[...] = named("activation", activation, _FORWARD)(z)


@quiet
def activation_backward(dz: Array, dh: Array, saved: Array, activation: str) -> None:
    """``dz = dh * act'``; ``saved`` is z or h (see :func:`activation_saves`).

    Softmax couples the elements of a row: ``dz = h * (dh - sum(dh * h))``.
    """
    if activation == "softmax":
        dz[...] = saved * (dh - (dh * saved).sum(axis=-1, keepdims=True))
    else:
        dz[...] = dh * named("activation", activation, _DERIVATIVE)(saved)


def _gelu_second(z: Array) -> Array:
    # (Phi + z phi)' = phi (2 - z^2). For |z| > 40, phi is 0 and z^2 may overflow.
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
    s, rest = sigmoid(z), sigmoid(-z)
    return np.asarray(s * rest * (2 + z * (rest - s)))


def _mish_second(z: Array) -> Array:
    # (w + z w')' = 2 w' + z w'', w'' = w' (1 - s - 2 w s)
    z, w, slope = _mish_gate(z)
    return np.asarray(slope * (2 + z * (sigmoid(-z) - 2 * w * sigmoid(z))))

# Second derivatives, as functions of the same saved values as in _DERIVATIVE.
_SECOND: dict[str, Callable[[Array], Array]] = {
    "identity": np.zeros_like,
    "relu": np.zeros_like,
    "leaky_relu": np.zeros_like,
    "elu": lambda h: np.where(h > 0, 0, h + 1),
    "selu": lambda h: np.where(h > 0, 0, h + _SELU_SCALE * _SELU_ALPHA),
    "gelu": _gelu_second,
    "gelu_tanh": _gelu_tanh_second,
    "silu": _silu_second,
    "mish": _mish_second,
    "softplus": lambda h: -np.exp(-h) * np.expm1(-h),
    "softsign": lambda h: -2 * np.sign(h) * (1 - np.abs(h)) ** 3,
    "sigmoid": lambda h: h * (1 - h) * (1 - 2 * h),
    "tanh": lambda h: -2 * h * (1 - h * h),
    "sin": lambda z: -np.sin(z),
    "cos": lambda z: -np.cos(z),
    "exp": lambda h: h,
}


@quiet
def activation_second(out: Array, c: Array, saved: Array, activation: str) -> None:
    """``out = c * act''`` except for softmax; see activation_backward for ``saved``."""
    out[...] = c * named("activation", activation, _SECOND)(saved)


def softmax_second(out: Array, dot: Array | None, c: Array, t: Array, h: Array) -> None:
    """Write the derivative of ``h (c - sum(c h))`` along a direction.

    Along the direction, the derivative of ``h`` is ``t``, and the derivative of ``c``
    is ``dot`` (0 if None).
    """
    m = len(c)
    c, h, t = c[:, np.newaxis], h[:, np.newaxis], groups(t, m)
    slope = np.zeros_like(t) if dot is None else groups(dot, m)
    mean = (c * h).sum(axis=-1, keepdims=True)
    mean_dot = (slope * h + c * t).sum(axis=-1, keepdims=True)
    out[...] = (t * (c - mean) + h * (slope - mean_dot)).reshape(out.shape)

RELU_LIKE = (
    "relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "mish", "softplus",
)


def activate(z: Array, kind: str) -> tuple[Array, Array]:
    """Return ``act(z)`` and the array, z or act(z), that its derivative needs."""
    h = np.empty_like(z)
    activation_forward(h, z, kind)
    return h, (z if activation_saves(kind) == "input" else h)
