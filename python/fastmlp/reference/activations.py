"""Elementary functions, and the activations with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    "identity", "relu", "relu6", "leaky_relu", "threshold", "elu", "celu", "selu",
    "gelu", "gelu_tanh", "silu", "hardswish", "mish", "softplus", "logsigmoid",
    "softsign", "sigmoid", "hardsigmoid", "tanh", "hardtanh", "tanhshrink",
    "softshrink", "hardshrink", "sin", "cos", "exp", "softmax",
)

# The constants that the formulas of some activations have, with their defaults.
CONSTANTS: dict[str, dict[str, float]] = {
    "leaky_relu": {"slope": 0.01},
    "threshold": {"threshold": 0.0, "value": 0.0},
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.0},
    "softplus": {"beta": 1.0},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "softshrink": {"lambd": 0.5},
    "hardshrink": {"lambd": 0.5},
}


def dense_forward(
    h: Array,
    x: Array,
    w: Array,
    bias: Array | None,
    activation: str,
    constants: Sequence[float] = (),
) -> None:
    """``h[B,O] = act(x[B,I] @ w[I,O] + bias[O])``."""
    gemm_nn(h, x, w, bias)
    activation_forward(h, h, activation, constants)

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

_GELU_TANH_CUBIC = 0.044715

# |z| beyond which gelu_tanh's inner tanh is exactly +-1 in float64; clipping there
# keeps z**3 from overflowing, and the derivative of gelu_tanh from becoming 0 * inf.
_GELU_TANH_SATURATED = 30.0


def _elu(z: Array, alpha: float) -> Array:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))


def _celu(z: Array, alpha: float) -> Array:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0) / alpha))


def _threshold(z: Array, threshold: float, value: float) -> Array:
    return np.where(z <= threshold, value, z)


def _clip(z: Array, min_val: float, max_val: float) -> Array:
    return np.clip(z, min_val, max_val)


def _hardsigmoid(z: Array) -> Array:
    return np.asarray(np.clip(z + 3, 0, 6) / 6)


def _selu(z: Array) -> Array:
    return _SELU_SCALE * np.where(z > 0, z, _SELU_ALPHA * np.expm1(np.minimum(z, 0)))


def _normal_cdf(z: Array) -> Array:
    # erfc keeps full relative accuracy in the left tail, where 1 + erf cancels.
    return np.asarray(0.5 * _erfc(-z / math.sqrt(2)))


def _gelu_tanh_gate(z: Array) -> Array:
    # (1 + tanh u) / 2 = sigmoid(2 u),  u = sqrt(2/pi) (z + 0.044715 z^3)
    z = np.clip(z, -_GELU_TANH_SATURATED, _GELU_TANH_SATURATED)
    return sigmoid(2 * math.sqrt(2 / math.pi) * (z + _GELU_TANH_CUBIC * z**3))


def _softplus(z: Array, beta: float = 1) -> Array:
    return np.asarray(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(beta * z))) / beta)


def _tanhshrink(z: Array) -> Array:
    # For small z, where z - tanh(z) loses digits, the series of tanh without its first
    # term: z^3 (1/3 - 2/15 z^2 + 17/315 z^4 - ...).
    q = z * z
    series = np.polynomial.polynomial.polyval(q, _TANH_SERIES)
    return np.where(np.abs(z) < 0.3, z * q * series, z - np.tanh(z))


# Coefficients of -(tanh z - z) / z^3 by powers of z^2, from the Bernoulli numbers
# (Abramowitz & Stegun 1964, 4.5.64).
_TANH_SERIES = (
    *(1 / 3, -2 / 15, 17 / 315, -62 / 2835, 1382 / 155925, -21844 / 6081075),
    *(929569 / 638512875, -6404582 / 10854718875, 443861162 / 1856156927625),
    *(-18888466084 / 194896477400625, 113927491862 / 2900518163668125),
)


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))

# Functions of z and the constants of the formula.
_FORWARD: dict[str, Callable[..., Array]] = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "relu6": lambda z: np.clip(z, 0, 6),
    "leaky_relu": lambda z, slope: np.where(z > 0, z, slope * z),
    "threshold": _threshold,
    "elu": _elu,
    "celu": _celu,
    "selu": _selu,
    "gelu": lambda z: z * _normal_cdf(z),
    "gelu_tanh": lambda z: z * _gelu_tanh_gate(z),
    "silu": lambda z: z * sigmoid(z),
    "hardswish": lambda z: np.maximum(z, -3) * _hardsigmoid(z),
    "mish": lambda z: z * np.tanh(_softplus(z)),
    "softplus": _softplus,
    "logsigmoid": lambda z: -_softplus(-z),
    "softsign": lambda z: z / (1 + np.abs(z)),
    "sigmoid": sigmoid,
    "hardsigmoid": _hardsigmoid,
    "tanh": np.tanh,
    "hardtanh": _clip,
    "tanhshrink": _tanhshrink,
    "softshrink": lambda z, lambd: z - np.clip(z, -lambd, lambd),
    "hardshrink": lambda z, lambd: np.where(np.abs(z) <= lambd, 0, z),
    "sin": np.sin,
    "cos": np.cos,
    "exp": np.exp,
    "softmax": _softmax,
}


def _within(h: Array, low: float, high: float) -> Array:
    """Return 0 where h is clipped to a limit, else 1."""
    return np.where((h <= low) | (h >= high), 0, 1).astype(h.dtype)


def _hardswish_derivative(z: Array) -> Array:
    return np.where(z <= -3, 0, np.where(z >= 3, 1, (2 * z + 3) / 6))


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
_DERIVATIVE: dict[str, Callable[..., Array]] = {
    "identity": np.ones_like,
    "relu": lambda h: (h > 0).astype(h.dtype),
    "relu6": lambda h: _within(h, 0, 6),
    "leaky_relu": lambda h, slope: np.where(h > 0, 1, slope).astype(h.dtype),
    "threshold": lambda z, threshold, value: np.where(z <= threshold, 0, 1),
    "elu": lambda h, alpha: np.where(h > 0, 1, h + alpha),
    "celu": lambda h, alpha: np.where(h > 0, 1, h / alpha + 1),
    "selu": lambda h: np.where(h > 0, _SELU_SCALE, h + _SELU_SCALE * _SELU_ALPHA),
    "gelu": _gelu_derivative,
    "gelu_tanh": _gelu_tanh_derivative,
    "silu": _silu_derivative,
    "hardswish": _hardswish_derivative,
    "mish": _mish_derivative,
    "softplus": lambda h, beta: -np.expm1(-beta * h),
    "logsigmoid": lambda h: -np.expm1(h),
    "softsign": lambda h: (1 - np.abs(h)) ** 2,
    "sigmoid": lambda h: h * (1 - h),
    "hardsigmoid": lambda h: _within(h, 0, 1) / 6,
    "tanh": lambda h: 1 - h * h,
    "hardtanh": _within,
    "tanhshrink": lambda z: np.tanh(z) ** 2,
    "softshrink": lambda h, lambd: np.where(h == 0, 0, 1),
    "hardshrink": lambda h, lambd: np.where(h == 0, 0, 1),
    "sin": np.cos,
    "cos": lambda z: -np.sin(z),
    "exp": lambda h: h,
}

_SAVES_INPUT = (
    *("threshold", "gelu", "gelu_tanh", "silu", "hardswish", "mish", "tanhshrink"),
    *("sin", "cos"),
)


def activation_saves(kind: str) -> Literal["input", "output"]:
    """Return "input" or "output", whichever :func:`activation_backward` needs."""
    if kind not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {kind!r}; known: {', '.join(ACTIVATIONS)}"
        )
    return "input" if kind in _SAVES_INPUT else "output"


def _constants(kind: str, constants: Sequence[float]) -> Sequence[float]:
    """Return the constants, or the defaults if there are none."""
    known = CONSTANTS.get(kind, {})
    if constants and len(constants) != len(known):
        raise ValueError(
            f"constants of {kind} must have length {len(known)}, got {len(constants)}"
        )
    return constants or list(known.values())


@quiet
def activation_forward(
    h: Array, z: Array, activation: str, constants: Sequence[float] = ()
) -> None:
    """``h = act(z)`` for a matrix z; softmax acts on each row. ``h`` may be ``z``."""
    function = named("activation", activation, _FORWARD)
    h[...] = function(z, *_constants(activation, constants))


@quiet
def activation_backward(
    dz: Array,
    dh: Array,
    saved: Array,
    activation: str,
    constants: Sequence[float] = (),
) -> None:
    """``dz = dh * act'``; ``saved`` is z or h (see :func:`activation_saves`).

    Softmax couples the elements of a row: ``dz = h * (dh - sum(dh * h))``.
    """
    if activation == "softmax":
        dz[...] = saved * (dh - (dh * saved).sum(axis=-1, keepdims=True))
    else:
        derivative = named("activation", activation, _DERIVATIVE)
        dz[...] = dh * derivative(saved, *_constants(activation, constants))


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

PIECEWISE_LINEAR = (
    *("identity", "relu", "relu6", "leaky_relu", "threshold", "hardsigmoid"),
    *("hardtanh", "softshrink", "hardshrink"),
)

# Second derivatives, as functions of the same saved values as in _DERIVATIVE.
_SECOND: dict[str, Callable[..., Array]] = {
    **dict.fromkeys(PIECEWISE_LINEAR, lambda saved, *constants: np.zeros_like(saved)),
    "elu": lambda h, alpha: np.where(h > 0, 0, h + alpha),
    "celu": lambda h, alpha: np.where(h > 0, 0, (h / alpha + 1) / alpha),
    "selu": lambda h: np.where(h > 0, 0, h + _SELU_SCALE * _SELU_ALPHA),
    "gelu": _gelu_second,
    "gelu_tanh": _gelu_tanh_second,
    "silu": _silu_second,
    "hardswish": lambda z: np.where(np.abs(z) >= 3, 0, 1 / 3),
    "mish": _mish_second,
    "softplus": lambda h, beta: -beta * np.exp(-beta * h) * np.expm1(-beta * h),
    "logsigmoid": lambda h: np.exp(h) * np.expm1(h),
    "softsign": lambda h: -2 * np.sign(h) * (1 - np.abs(h)) ** 3,
    "sigmoid": lambda h: h * (1 - h) * (1 - 2 * h),
    "tanh": lambda h: -2 * h * (1 - h * h),
    "tanhshrink": lambda z: 2 * np.tanh(z) * (1 - np.tanh(z) ** 2),
    "sin": lambda z: -np.sin(z),
    "cos": lambda z: -np.cos(z),
    "exp": lambda h: h,
}


@quiet
def activation_second(
    out: Array,
    c: Array,
    saved: Array,
    activation: str,
    constants: Sequence[float] = (),
) -> None:
    """``out = c * act''`` except for softmax; see activation_backward for ``saved``."""
    second = named("activation", activation, _SECOND)
    out[...] = c * second(saved, *_constants(activation, constants))


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
    "relu", "relu6", "leaky_relu", "threshold", "elu", "celu", "gelu", "gelu_tanh",
    "silu", "hardswish", "mish", "softplus", "logsigmoid",
)


def activate(
    z: Array, kind: str, constants: Sequence[float] = ()
) -> tuple[Array, Array]:
    """Return ``act(z)`` and the array, z or act(z), that its derivative needs."""
    h = np.empty_like(z)
    activation_forward(h, z, kind, constants)
    return h, (z if activation_saves(kind) == "input" else h)
