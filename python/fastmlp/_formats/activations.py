"""How each activation is expressed in PyTorch, Keras, ONNX and C, as a table.

PyTorch and Keras are not imported: the table refers to them by name only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


class Graph(Protocol):
    """The methods of an ONNX graph under construction that activations need."""

    dtype: np.dtype[Any]

    def node(self, operator: str, *inputs: str | float, **attributes: Any) -> str:
        """Add a node; return the name of its output."""


class ActivationForm(NamedTuple):
    """How one activation is expressed in PyTorch, Keras, ONNX and C.

    Attributes
    ----------
    torch : str or None
        Name of the class in ``torch.nn``; None if there is only a function in
        ``torch``, which has the activation's name.
    torch_options : dict
        Keyword arguments of the class in ``torch.nn``.
    keras, keras_op : str or None
        Names in ``keras.activations`` and in ``keras.ops``; None if no function there
        computes the activation by default.
    onnx : callable
        Function that takes a graph, the name of the input z and the constants, adds the
        nodes of the activation to the graph and returns the name of their output.
    c : str
        C99 expression or function body that computes h = act(z), with the constants
        under their names; see `c.math`. Empty for softmax, for which `c.math` has a
        function of whole rows.
    c_derivative : str
        C99 expression or function body that computes the derivative from z or h. Empty
        for identity, relu and softmax, which `c.jacobian` handles separately.
    of_input : bool
        Whether the derivative is a function of z instead of h.
    torch_names : dict
        Names in ``torch.nn`` of those constants that have other names there.
    """

    torch: str | None
    torch_options: dict[str, Any]
    keras: str | None
    keras_op: str | None
    onnx: Callable[..., str]
    c: str
    c_derivative: str
    of_input: bool = False
    torch_names: dict[str, str] = {}  # noqa: RUF012 (a default that nothing changes)


# ONNX ------------------------------------------------------------------------------
#
# ONNX has operators for most activations. However, ONNX Runtime does not implement all
# of them for float64; attributes, such as a slope, are always float32; and its Elu,
# Selu, Sigmoid and Softplus lose digits near 0 or at large |z|, where they add a tiny
# number to 1. Therefore most activations are built from elementary operators.


def _operator(name: str, **attributes: Any) -> Callable[[Graph, str], str]:
    return lambda g, z: g.node(name, z, **attributes)


def _leaky_relu(g: Graph, z: str, slope: float) -> str:
    # The larger one of z and slope z is z for z > 0 if the slope is at most 1.
    return g.node("Max" if slope <= 1 else "Min", z, g.node("Mul", z, slope))


def _where(g: Graph, condition: str, then: str | float, otherwise: str) -> str:
    return g.node("Where", condition, then, otherwise)


def _threshold(g: Graph, z: str, threshold: float, value: float) -> str:
    return _where(g, g.node("LessOrEqual", z, threshold), value, z)


def _clip(g: Graph, z: str, low: float, high: float) -> str:
    return g.node("Min", g.node("Max", z, low), high)


def _hardsigmoid(g: Graph, z: str) -> str:
    return g.node("Div", _clip(g, g.node("Add", z, 3.0), 0.0, 6.0), 6.0)


def _hardswish(g: Graph, z: str) -> str:
    return g.node("Mul", g.node("Max", z, -3.0), _hardsigmoid(g, z))


# Coefficients of (z - tanh z) / z³ by powers of z², which suffice for |z| < 0.3
# (Abramowitz & Stegun 1964, 4.5.64).
TANH_SERIES = (
    *(1 / 3, -2 / 15, 17 / 315, -62 / 2835, 1382 / 155925, -21844 / 6081075),
    *(929569 / 638512875, -6404582 / 10854718875, 443861162 / 1856156927625),
    *(-18888466084 / 194896477400625, 113927491862 / 2900518163668125),
)


def _tanhshrink(g: Graph, z: str) -> str:
    q = g.node("Mul", z, z)
    series: str | float = TANH_SERIES[-1]
    for coefficient in TANH_SERIES[-2::-1]:
        series = g.node("Add", g.node("Mul", series, q), coefficient)
    near = g.node("Mul", g.node("Mul", z, q), series)
    is_near = g.node("Less", g.node("Abs", z), 0.3)
    return _where(g, is_near, near, g.node("Sub", z, g.node("Tanh", z)))


def _softshrink(g: Graph, z: str, lambd: float) -> str:
    return g.node("Sub", z, _clip(g, z, -lambd, lambd))


def _hardshrink(g: Graph, z: str, lambd: float) -> str:
    return _where(g, g.node("LessOrEqual", g.node("Abs", z), lambd), 0.0, z)


def _expm1(g: Graph, z: str) -> str:
    # e^z - 1 = tanh(z / 2) (e^z + 1), which avoids cancellation.
    one_more = g.node("Add", g.node("Exp", z), 1.0)
    return g.node("Mul", g.node("Tanh", g.node("Mul", z, 0.5)), one_more)


def _scaled(g: Graph, z: str, factor: float) -> str:
    return z if factor == 1 else g.node("Mul", z, factor)


def _elu(g: Graph, z: str, alpha: float) -> str:
    below = _scaled(g, _expm1(g, g.node("Min", z, 0.0)), alpha)
    return g.node("Add", g.node("Max", z, 0.0), below)


def _celu(g: Graph, z: str, alpha: float) -> str:
    inner = g.node("Div", g.node("Min", z, 0.0), alpha)
    below = _scaled(g, _expm1(g, inner), alpha)
    return g.node("Add", g.node("Max", z, 0.0), below)


def _selu(g: Graph, z: str) -> str:
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    below = g.node("Mul", _expm1(g, g.node("Min", z, 0.0)), alpha)
    return g.node("Mul", g.node("Add", g.node("Max", z, 0.0), below), scale)


def _logistic(g: Graph, z: str, numerator: str | float) -> str:
    """Add nodes for numerator / (1 + e^-z), which is 0 if e^-z is infinite."""
    bottom = g.node("Add", g.node("Exp", g.node("Neg", z)), 1.0)
    return g.node("Div", numerator, bottom)


def _softplus(g: Graph, z: str, beta: float = 1.0) -> str:
    # The result is max(z, 0) + log(1 + e) / beta with e = exp(-|beta z|). Let u be the
    # rounded 1 + e. Then log(1 + e) is log(u) - ((u - 1) - e) / u, where the second
    # term corrects the rounding error of u (Kahan).
    e = g.node("Exp", g.node("Neg", g.node("Abs", _scaled(g, z, beta))))
    u = g.node("Add", e, 1.0)
    rounding = g.node("Div", g.node("Sub", g.node("Sub", u, 1.0), e), u)
    log = _scaled(g, g.node("Sub", g.node("Log", u), rounding), 1 / beta)
    return g.node("Add", g.node("Max", z, 0.0), log)


def _mish(g: Graph, z: str) -> str:
    return g.node("Mul", z, g.node("Tanh", _softplus(g, z)))


def _softsign(g: Graph, z: str) -> str:
    return g.node("Div", z, g.node("Add", g.node("Abs", z), 1.0))


def _gelu(g: Graph, z: str) -> str:
    if g.dtype == np.float64:  # ONNX Runtime does not have Erf for it
        return _gelu_float64(g, z)
    # ONNX Runtime's graph optimiser recognises this form as a GELU.
    erf = g.node("Erf", g.node("Div", z, math.sqrt(2)))
    return g.node("Mul", g.node("Mul", z, g.node("Add", erf, 1.0)), 0.5)


# Coefficients, lowest power first, of a polynomial in u = (a - 4) / (a + 4) that
# approximates (1 + a) e^(a² / 2) (1 - Φ(a)) for all a >= 0 with a relative error of at
# most 5e-15. The form is that of Shepherd & Laframboise, "Chebyshev approximation of
# (1 + 2x) exp(x²) erfc x", Math. Comp. 36 (1981); the coefficients were computed from
# the Chebyshev series to 50 digits.
_UPPER_TAIL = (
    0.47205320650984395,
    -0.09670347732656154,
    0.013999634724608825,
    0.0286003640562329,
    -0.03219783743544878,
    0.01793609742007571,
    -0.005002378475757048,
    -0.00028562248670064736,
    0.0006948961789017062,
    -9.443373115513152e-05,
    -8.784884943485594e-05,
    2.1262090085665345e-05,
    1.3614227944303727e-05,
    -3.458815366831003e-06,
    -2.5892658602758174e-06,
    4.427023229772857e-07,
    5.236781080471638e-07,
    -3.38239002529617e-08,
    -9.003385067481538e-08,
    1.1568212491132488e-10,
    8.941661885440675e-09,
)


def _gelu_float64(g: Graph, z: str) -> str:
    # z Φ(z) = max(z, 0) - a (1 - Φ(a)) with a = |z|.
    a = g.node("Abs", z)
    u = g.node("Div", g.node("Sub", a, 4.0), g.node("Add", a, 4.0))
    tail: str | float = _UPPER_TAIL[-1]
    for coefficient in _UPPER_TAIL[-2::-1]:
        tail = g.node("Add", g.node("Mul", tail, u), coefficient)
    bell = g.node("Exp", g.node("Mul", g.node("Mul", a, a), -0.5))
    tail = g.node("Div", g.node("Mul", tail, bell), g.node("Add", a, 1.0))
    return g.node("Sub", g.node("Max", z, 0.0), g.node("Mul", a, tail))


def _gelu_tanh(g: Graph, z: str) -> str:
    # z (1 + tanh(u)) / 2 = z / (1 + e^-2u), u = √(2 / π) z (1 + 0.044715 z²).
    factor = g.node("Add", g.node("Mul", g.node("Mul", z, z), 0.044715), 1.0)
    twice = g.node("Mul", g.node("Mul", z, factor), 2 * math.sqrt(2 / math.pi))
    return _logistic(g, twice, z)


# Rows ------------------------------------------------------------------------------

# PyTorch's softplus returns z if z exceeds a threshold. At 40, log(1 + e^z) rounds to z
# in float64, and e^z does not yet overflow in float32 or float64.
_SOFTPLUS_THRESHOLD = 40.0

_GELU_TANH = """\
  const T half = z * 0.5;
  return fma(half, @tanh(z * fma(z * z, $gelu_cubic, $gelu_root)), half);"""
_GELU_TANH_DERIVATIVE = """\
  const T below = 30.0 < z ? 30.0 : z;
  const T c = -30.0 > below ? -30.0 : below;
  const T q = c * c;
  const T u2 = c * fma(q, $gelu_cubic_2, $gelu_root_2);
  const T w = @sigmoid(-fabs(u2));
  const T rest = 1.0 - w;
  const T gate = c > 0.0 ? rest : w;
  const T du2 = fma(q, $gelu_cubic_6, $gelu_root_2);
  return fma(c * du2, w * rest, gate);"""

# The number z within limits.
_CLIP = """\
  return z <= {low} ? {low} : z >= {high} ? {high} : z;"""
_HARDSIGMOID = """\
  const T up = z + 3.0;
  return (up <= 0.0 ? 0.0 : up >= 6.0 ? 6.0 : up) / 6.0;"""
_TANHSHRINK = "\n".join(
    [
        "  const T q = z * z;",
        f"  T y = $tanh_series_{len(TANH_SERIES) - 1};",
        *(
            f"  y = fma(y, q, $tanh_series_{i});"
            for i in reversed(range(len(TANH_SERIES) - 1))
        ),
        "  return fabs(z) < 0.3 ? z * q * y : z - @tanh(z);",
    ]
)
_SOFTSHRINK = """\
  return z - (z <= -lambd ? -lambd : z >= lambd ? lambd : z);"""

_MISH = """\
  const T e = @exp_nonpositive(-fabs(z));
  const T q = e * e;
  const T p = fma(2.0, e, z > 0.0 ? 1.0 : q);
  return z * (p / (p + (z > 0.0 ? q + q : 2.0)));"""
_MISH_DERIVATIVE = """\
  const T below = 1000.0 < z ? 1000.0 : z;
  const T c = -1000.0 > below ? -1000.0 : below;
  const T e = @exp_nonpositive(-fabs(c));
  const T q = e * e;
  const T p = fma(2.0, e, c > 0.0 ? 1.0 : q);
  const T d = p + (c > 0.0 ? q + q : 2.0);
  const T k = c > 0.0 ? e : 1.0;
  return fma(c, 4.0 * (e * k) * (1.0 + e) / (d * d), p / d);"""

ACTIVATIONS: dict[str, ActivationForm] = {
    "identity": ActivationForm("Identity", {}, "linear", None, lambda g, z: z, "z", ""),
    "relu": ActivationForm(
        "ReLU", {}, "relu", "relu", _operator("Relu"), "z <= 0.0 ? 0.0 : z", ""
    ),
    "relu6": ActivationForm(
        "ReLU6",
        {},
        "relu6",
        "relu6",
        lambda g, z: _clip(g, z, 0.0, 6.0),
        _CLIP.format(low="0.0", high="6.0"),
        "h <= 0.0 || h >= 6.0 ? 0.0 : 1.0",
    ),
    "leaky_relu": ActivationForm(
        "LeakyReLU",
        {},
        None,
        None,
        _leaky_relu,
        "z > 0.0 ? z : z * slope",
        "h > 0.0 ? 1.0 : slope",
        torch_names={"slope": "negative_slope"},
    ),
    "threshold": ActivationForm(
        "Threshold",
        {},
        None,
        None,
        _threshold,
        "z <= threshold ? value : z",
        "z <= threshold ? 0.0 : 1.0",
        True,
    ),
    "elu": ActivationForm(
        "ELU",
        {},
        "elu",
        "elu",
        _elu,
        "z < 0.0 ? alpha * @expm1(0.0 < z ? 0.0 : z) : z",
        "h > 0.0 ? 1.0 : h + alpha",
    ),
    "celu": ActivationForm(
        "CELU",
        {},
        "celu",
        "celu",
        _celu,
        "z < 0.0 ? alpha * @expm1((0.0 < z ? 0.0 : z) / alpha) : z",
        "h > 0.0 ? 1.0 : h / alpha + 1.0",
    ),
    "selu": ActivationForm(
        "SELU",
        {},
        "selu",
        "selu",
        _selu,
        "z > 0.0 ? z * $selu_scale : @expm1(0.0 < z ? 0.0 : z) * $selu_low",
        "h > 0.0 ? $selu_scale : h + $selu_low",
    ),
    "gelu": ActivationForm(
        "GELU",
        {"approximate": "none"},
        "gelu",
        None,
        _gelu,
        "z * (0.5 * @erfc(z * $minus_half_root))",
        "fma(z, @exp(z * z * -0.5) * $density, 0.5 * @erfc(z * $minus_half_root))",
        True,
    ),
    # By default, keras.ops.gelu uses the tanh approximation, and keras.activations.gelu
    # does not.
    "gelu_tanh": ActivationForm(
        "GELU",
        {"approximate": "tanh"},
        None,
        "gelu",
        _gelu_tanh,
        _GELU_TANH,
        _GELU_TANH_DERIVATIVE,
        True,
    ),
    "silu": ActivationForm(
        "SiLU",
        {},
        "silu",
        "silu",
        lambda g, z: _logistic(g, z, z),
        "z * @sigmoid(z)",
        "@silu_slope(z, @sigmoid(z))",
        True,
    ),
    "hardswish": ActivationForm(
        "Hardswish",
        {},
        "hard_silu",
        "hard_silu",
        _hardswish,
        "(-3.0 > z ? -3.0 : z) * @act_hardsigmoid(z)",
        "z <= -3.0 ? 0.0 : z >= 3.0 ? 1.0 : (z + z + 3.0) / 6.0",
        True,
    ),
    "mish": ActivationForm(
        "Mish", {}, "mish", None, _mish, _MISH, _MISH_DERIVATIVE, True
    ),
    "softplus": ActivationForm(
        "Softplus",
        {"threshold": _SOFTPLUS_THRESHOLD},
        "softplus",
        "softplus",
        _softplus,
        "(0.0 > z ? 0.0 : z)"
        " + @log1p01(@exp_nonpositive(-fabs(beta * z))) * (1.0 / beta)",
        "-@expm1(-(beta * h))",
    ),
    "logsigmoid": ActivationForm(
        "LogSigmoid",
        {},
        "log_sigmoid",
        "log_sigmoid",
        lambda g, z: g.node("Neg", _softplus(g, g.node("Neg", z))),
        "(0.0 < z ? 0.0 : z) - @log1p01(@exp_nonpositive(-fabs(z)))",
        "-@expm1(h)",
    ),
    "softsign": ActivationForm(
        "Softsign",
        {},
        "softsign",
        "softsign",
        _softsign,
        "z / (1.0 + fabs(z))",
        "(1.0 - fabs(h)) * (1.0 - fabs(h))",
    ),
    "sigmoid": ActivationForm(
        "Sigmoid",
        {},
        "sigmoid",
        "sigmoid",
        lambda g, z: _logistic(g, z, 1.0),
        "@sigmoid(z)",
        "fma(-h, h, h)",
    ),
    "hardsigmoid": ActivationForm(
        "Hardsigmoid",
        {},
        "hard_sigmoid",
        "hard_sigmoid",
        _hardsigmoid,
        _HARDSIGMOID,
        "(h <= 0.0 || h >= 1.0 ? 0.0 : 1.0) / 6.0",
    ),
    "tanh": ActivationForm(
        "Tanh", {}, "tanh", "tanh", _operator("Tanh"), "@tanh(z)", "fma(-h, h, 1.0)"
    ),
    "hardtanh": ActivationForm(
        "Hardtanh",
        {},
        "hard_tanh",
        "hard_tanh",
        lambda g, z, min_val, max_val: _clip(g, z, min_val, max_val),
        _CLIP.format(low="min_val", high="max_val"),
        "h <= min_val || h >= max_val ? 0.0 : 1.0",
    ),
    "tanhshrink": ActivationForm(
        "Tanhshrink",
        {},
        "tanh_shrink",
        "tanh_shrink",
        _tanhshrink,
        _TANHSHRINK,
        "@tanh(z) * @tanh(z)",
        True,
    ),
    "softshrink": ActivationForm(
        "Softshrink",
        {},
        "soft_shrink",
        "soft_shrink",
        _softshrink,
        _SOFTSHRINK,
        "h == 0.0 ? 0.0 : 1.0",
    ),
    "hardshrink": ActivationForm(
        "Hardshrink",
        {},
        "hard_shrink",
        "hard_shrink",
        _hardshrink,
        "fabs(z) <= lambd ? 0.0 : z",
        "h == 0.0 ? 0.0 : 1.0",
    ),
    "sin": ActivationForm(
        None, {}, None, "sin", _operator("Sin"), "@sin(z)", "@cos(z)", True
    ),
    "cos": ActivationForm(
        None, {}, None, "cos", _operator("Cos"), "@cos(z)", "-@sin(z)", True
    ),
    "exp": ActivationForm(
        None, {}, "exponential", "exp", _operator("Exp"), "@exp(z)", "h"
    ),
    "softmax": ActivationForm(
        "Softmax",
        {"dim": -1},
        "softmax",
        "softmax",
        _operator("Softmax", axis=-1),
        "",
        "",
    ),
}
