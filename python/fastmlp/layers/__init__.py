"""Layers, and the names and formulas of the activations.

Layers are immutable descriptions; the model holds the parameters. In training mode
(in `fastmlp.MLP.fit` and ``train_step``, and in other methods with ``training=True``)
`Dropout` drops elements and `BatchNorm` uses the statistics of the batch.

``fastmlp.ACTIVATIONS`` lists the names of the activations h = act(z). All except
softmax are elementwise. If PyTorch has the same activation, the name, the formula and
the constants are those of PyTorch. Constants that have a name in the table are
arguments of `Activation`, as in ``fm.Activation("elu", alpha=0.5)``; the table gives
their defaults.

===============  =====================================================================
name             h
===============  =====================================================================
``identity``     z
``relu``         max(z, 0); derivative 0 at 0 (Nair & Hinton 2010)
``relu6``        min(max(z, 0), 6); derivative 0 at 0 and 6 (Krizhevsky 2010)
``leaky_relu``   z for z > 0, else slope z; slope = 0.01, at least 0; derivative slope
                 at 0 (Maas et al. 2013)
``threshold``    z for z > threshold, else value; threshold = 0, value = 0; derivative 0
                 at the threshold
``elu``          z for z > 0, else alpha (e^z - 1); alpha = 1, at least 0 (Clevert et
                 al. 2016)
``celu``         z for z > 0, else alpha (e^(z / alpha) - 1); alpha = 1, positive
                 (Barron 2017)
``selu``         s z for z > 0, else s a (e^z - 1); s = 1.0507009873554805,
                 a = 1.6732632423543772; derivative s a at 0 (Klambauer et al. 2017)
``gelu``         z Φ(z) = z (1 + erf(z / √2)) / 2 (Hendrycks & Gimpel 2016)
``gelu_tanh``    z (1 + tanh(√(2 / π) (z + 0.044715 z³))) / 2, an approximation of gelu
                 from the same paper: torch's ``GELU(approximate="tanh")``
``silu``         z sigmoid(z), also called swish (Hendrycks & Gimpel 2016; Ramachandran
                 et al. 2017)
``hardswish``    z min(max(z + 3, 0), 6) / 6 (Howard et al. 2019)
``mish``         z tanh(log(1 + e^z)) (Misra 2019)
``softplus``     log(1 + e^(beta z)) / beta; beta = 1, positive (Dugas et al. 2001);
                 without PyTorch's linear threshold
``logsigmoid``   log(1 / (1 + e^-z))
``softsign``     z / (1 + abs(z)) (Bergstra et al. 2009)
``sigmoid``      1 / (1 + e^-z)
``hardsigmoid``  min(max(z + 3, 0), 6) / 6; derivative 0 at -3 and 3 (Howard et al.
                 2019)
``tanh``         tanh(z)
``hardtanh``     min(max(z, min_val), max_val); min_val = -1, max_val = 1; derivative 0
                 at the limits (Collobert 2004)
``tanhshrink``   z - tanh(z)
``softshrink``   z - lambd for z > lambd, z + lambd for z < -lambd, else 0; lambd = 0.5,
                 at least 0; derivative 0 at -lambd and lambd (Donoho 1995)
``hardshrink``   z for abs(z) > lambd, else 0; lambd = 0.5, at least 0; derivative 0 at
                 -lambd and lambd (Donoho & Johnstone 1994)
``sin``          sin(z)
``cos``          cos(z)
``exp``          e^z
``softmax``      e^z_o / Σ_p e^z_p over the last axis, a row's outputs (Bridle 1990)
===============  =====================================================================

Exponentials are arranged so that intermediate results do not overflow if the final one
does not.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _core, _validate, initializers
from ._base import Layer as Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._validate import Array
    from ..initializers import Init

__all__ = [
    "GLU",
    "Activation",
    "BatchNorm",
    "Dense",
    "Dropout",
    "LayerNorm",
    "PReLU",
    "RMSNorm",
    "Residual",
    "Scale",
]


class Dense(Layer):
    """A dense layer ``h = activation(x @ W + b)``, W (in, n), b (n,).

    Parameters
    ----------
    n : int
        Width: the number of outputs.
    activation : str or Activation, optional
        Name of the activation, one of ``fastmlp.ACTIVATIONS``, or an `Activation` with
        a name, such as ``fm.Activation("elu", alpha=0.5)``. None means the model's
        ``activation`` or, for the last dense layer, its ``output_activation``.
    bias : bool
        Whether the layer has a bias b; overrides the model's ``bias``.
    init : str, Initializer or callable, optional
        Initialiser of the weights; see `fastmlp.initializers`. None means the model's
        ``init``.
    bias_init : str, Initializer or callable, optional
        Initialiser of the biases. None means the model's ``bias_init`` or, if that is
        None, the biases that go with the initialiser of the weights: mostly 0.

    Raises
    ------
    TypeError, ValueError
        If the width is not a positive int, a name is unknown, or ``bias_init`` is given
        for a layer without a bias.
    """

    __slots__ = ("activation", "bias", "bias_init", "init", "n")
    kind = "dense"
    _leading = ("n",)
    _defaults: ClassVar[dict[str, Any]] = {
        "activation": None,
        "bias": True,
        "init": None,
        "bias_init": None,
    }

    n: int
    activation: str | Activation | None
    bias: bool
    init: Init | None
    bias_init: Init | None

    def __init__(
        self,
        n: int,
        activation: str | Activation | None = None,
        bias: bool = True,
        init: Init | None = None,
        bias_init: Init | None = None,
    ) -> None:
        if isinstance(activation, int):
            raise TypeError(
                "activation must be a name (str) or an fm.Activation, got "
                f"{_validate.describe(activation)}; fm.Dense(n) takes the number of "
                "outputs, but not the number of inputs"
            )
        if activation is not None:
            activation = checked_activation("activation", activation)
        if init is not None:
            init = initializers.checked("init", init)
        bias = _validate.flag("bias", bias)
        if bias_init is not None:
            bias_init = initializers.checked_bias("bias_init", bias_init)
            if not bias:
                raise ValueError("bias_init must be None if bias=False")
        self._put(
            n=_validate.count("Dense: n", n, 1),
            activation=activation,
            bias=bias,
            init=init,
            bias_init=bias_init,
        )

    def undrawn(self) -> Dense:
        """Return the layer for a model that is filled with given parameters."""
        return Dense(self.n, self.activation, self.bias, "zeros")

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        activation = activation_of(self).core_form()
        return {"width": self.n, **activation, "bias": self.bias}

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return self.n

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.n, n_in)}
        return {**shapes, "bias": (self.n,)} if self.bias else shapes


class _Functions:
    """The functions of a custom activation, to which the core refers weakly."""

    __slots__ = ("__weakref__", "derivative", "function")

    def __init__(self, function: object, derivative: object) -> None:
        self.function, self.derivative = function, derivative


class Activation(Layer):
    """An activation as a separate layer: ``h = f(x)``.

    This is useful after a normalisation, and for custom functions.

    Parameters
    ----------
    function : str or callable
        Name in ``fastmlp.ACTIVATIONS``, or a function that maps an array z to f(z)
        elementwise.
    derivative : callable, optional
        Function that maps z to f'(z); required for a custom function.
    **constants : float
        Constants of the named activation's formula, such as ``slope`` of leaky_relu;
        `fastmlp.layers` lists them with their defaults. Magnitudes are at most 3.4e38;
        those of positive constants are at least 1.2e-38.

    Attributes
    ----------
    constants : dict of str to float
        All constants of the named activation, also those with default values.
    changed : dict of str to float
        The constants that differ from their defaults.
    text : str
        The name, with the constants that differ, as in ``"leaky_relu(slope=0.3)"``.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, if a function is given without a derivative, if a name
        is given with a derivative, or if a constant is unknown or out of range.

    Notes
    -----
    The functions are called for blocks of rows, with 1-D arrays of the model's dtype,
    and must return an array of the same shape. Their exceptions propagate to the caller
    of the model. The functions must not use the model that calls them. A model with
    custom functions runs in one thread, and the calls into Python take a few
    microseconds for each block. Whether results have the same bits everywhere depends
    on the functions. The model can be pickled if its functions can.

    Examples
    --------
    >>> import fastmlp as fm
    >>> square = fm.Activation(lambda z: z * z, derivative=lambda z: 2 * z)
    >>> mlp = fm.MLP([3, fm.Dense(16, "identity"), square, 1])
    >>> leaky = fm.Activation("leaky_relu", slope=0.3)
    >>> mlp = fm.MLP([3, 16, 16, 1], activation=leaky)
    """

    __slots__ = ("_values", "derivative", "function")
    kind = "activation"
    _leading = ("function",)
    _defaults: ClassVar[dict[str, Any]] = {"derivative": None}

    function: str | Callable[[Array], Array]
    derivative: Callable[[Array], Array] | None
    _values: tuple[float, ...]  # the constants

    def __init__(
        self,
        function: str | Callable[[Array], Array],
        derivative: Callable[[Array], Array] | None = None,
        **constants: float,
    ) -> None:
        known: dict[str, tuple[float, float]] = {}
        if callable(function):
            if not callable(derivative):
                raise TypeError(
                    "derivative must be the derivative of the custom activation, "
                    "a function such as np.cos for np.sin, "
                    f"got {_validate.describe(derivative)}"
                )
        else:
            function = _validate.choice("function", function, _core.ACTIVATIONS)
            if derivative is not None:
                raise TypeError(
                    f"derivative must not be given for {function!r}, whose derivative "
                    f"fastmlp knows, got {_validate.describe(derivative)}"
                )
            known = _core.ACTIVATION_CONSTANTS.get(function, {})
        for name in constants:
            if name not in known:
                own = ", ".join(known) or "none"
                what = repr(function) if known or not callable(function) else "function"
                raise TypeError(
                    f"the constants of {what} are {own}, got the unknown {name!r}"
                )
        values = [default for default, _ in known.values()]
        for i, (name, (default, least)) in enumerate(known.items()):
            value = constants.get(name, default)
            values[i] = _validate.real(name, value, least, _core.MOST_CONSTANT)
        if function == "hardtanh" and not np.less(*np.array(values, np.float32)):
            raise ValueError(
                f"min_val must be less than max_val, got {values[0]} and {values[1]}"
            )
        self._put(function=function, derivative=derivative, _values=tuple(values))

    @property
    def constants(self) -> dict[str, float]:
        """All constants of the named activation by name."""
        known = _core.ACTIVATION_CONSTANTS.get(self.name, {})
        return dict(zip(known, self._values, strict=True))

    @property
    def changed(self) -> dict[str, float]:
        """The constants that differ from their defaults."""
        known = _core.ACTIVATION_CONSTANTS.get(self.name, {})
        return {k: v for k, v in self.constants.items() if v != known[k][0]}

    @property
    def is_custom(self) -> bool:
        """Whether the activation is a pair of Python functions."""
        return not isinstance(self.function, str)

    @property
    def name(self) -> str:
        """Name of the activation; a custom function's name is followed by "()"."""
        if isinstance(self.function, str):
            return self.function
        kind = type(self.function).__name__
        return f"{getattr(self.function, '__name__', kind)}()"

    @property
    def text(self) -> str:
        """The name, with the constants that differ from their defaults."""
        changed = ", ".join(f"{k}={v!r}" for k, v in self.changed.items())
        return f"{self.name}({changed})" if changed else self.name

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        if self.is_custom:
            return {"custom": _Functions(self.function, self.derivative)}
        return {"activation": (self.function, self._values)}

    def _fields(self) -> tuple[Any, ...]:
        return (*super()._fields(), *self._values)

    def __repr__(self) -> str:
        changed = [f"{k}={v!r}" for k, v in self.changed.items()]
        return ", ".join([super().__repr__()[:-1], *changed]) + ")"

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self.changed:
            return partial(Activation, self.function, None, **self.changed), ()
        return type(self), super()._fields()


class PReLU(Layer):
    """A leaky ReLU with learned slopes (He et al. 2015): x for x > 0, else slope * x.

    PyTorch's ``PReLU``, whose ``num_parameters`` is 1 here if ``shared``, else the
    width of the layer before. As in PyTorch, ``weight_decay`` shrinks the slopes unless
    the optimiser has ``decay="weights"``; the paper advises against decay.

    Parameters
    ----------
    init : float
        Initial slope.
    shared : bool
        Whether all units have one slope together; otherwise each has its own.

    Raises
    ------
    TypeError, ValueError
        If ``init`` is not a finite number, or ``shared`` is not a bool.
    """

    __slots__ = ("init", "shared")
    kind = "prelu"
    is_linear = False
    acts_as = "leaky_relu"
    flops = (2, 4)
    _defaults: ClassVar[dict[str, Any]] = {"init": 0.25, "shared": False}

    init: float
    shared: bool

    def __init__(self, init: float = 0.25, shared: bool = False) -> None:
        most = _core.MOST_CONSTANT
        self._put(
            init=_validate.real("init", init, -most, most),
            shared=_validate.flag("shared", shared),
        )

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"slope": self.init, "shared": self.shared}

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (1 if self.shared else n_in,)}


class GLU(Layer):
    """A gated linear unit: ``h = a * activation(b)`` for the halves a, b of a row.

    The first half of the units is multiplied by the activation of the second half, so
    the width halves; PyTorch's ``GLU``. It comes after a dense layer of twice the width
    that has no activation of its own, as in ``fm.Dense(64, "identity"), fm.GLU()``.

    Parameters
    ----------
    activation : str or Activation
        Activation of the second half, elementwise: ``"sigmoid"`` (Dauphin et al. 2017),
        or ``"silu"``, ``"gelu"``, ``"relu"`` or ``"identity"``, for SwiGLU, GEGLU,
        ReGLU and the bilinear layer of Shazeer (2020), or any other except softmax.

    Raises
    ------
    TypeError, ValueError
        If ``activation`` is not the name of an elementwise activation, or an
        `Activation` with such a name. `MLP` raises a ValueError that names the layer if
        the width before it is odd.

    Examples
    --------
    >>> import fastmlp as fm
    >>> swiglu = fm.GLU("silu")
    >>> mlp = fm.MLP([3, fm.Dense(32, "identity"), swiglu, 1])
    >>> mlp.n_params == (3 * 32 + 32) + (16 * 1 + 1)
    True
    """

    __slots__ = ("activation",)
    kind = "glu"
    is_linear = False
    flops = (2, 3)
    _defaults: ClassVar[dict[str, Any]] = {"activation": "sigmoid"}

    activation: str | Activation

    def __init__(self, activation: str | Activation = "sigmoid") -> None:
        activation = checked_activation("activation", activation)
        if activation == "softmax":
            raise ValueError("activation must be elementwise, got 'softmax'")
        self._put(activation=activation)

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return as_layer(self.activation).core_form()

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return n_in // 2


class Scale(Layer):
    """A learned factor for each unit: ``h = x * s``, with s (n,), initially 1.

    As the first layer it learns how much each input matters; so does RealMLP
    (Holzmüller et al. 2024, section 3.2). As with other factors, ``weight_decay``
    shrinks s towards 0 unless the optimiser has ``decay="weights"``. `MLP.fold` merges
    the layer into an adjacent dense layer.
    """

    __slots__ = ()
    kind = "scale"
    precedes_activation = True
    flops = (1, 2)

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (n_in,)}

    def column_map(self, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return (scale, shift): the layer is x * scale + shift."""
        scale = arrays["weight"]
        return scale, np.zeros_like(scale)


class Dropout(Layer):
    """Inverted dropout (Srivastava et al. 2014).

    In training, each element x becomes 0 with probability p, and x / (1 - p) otherwise.
    At inference the layer does nothing. The mask is a function of (seed, epoch, step,
    layer, element) and independent of the number of threads, so that resumed training
    continues exactly.

    Parameters
    ----------
    p : float
        Probability of dropping an element, 0 ≤ p < 1.

    Raises
    ------
    TypeError, ValueError
        If p is not a number in [0, 1).
    """

    __slots__ = ("p",)
    kind = "dropout"
    is_identity_at_inference = True
    precedes_activation = True
    flops = (0, 1)
    _leading = ("p",)

    p: float

    def __init__(self, p: float = 0.5) -> None:
        self._put(p=_validate.real("p", p, 0.0, 1.0, open_high=True))

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"rate": self.p}


class Normalization(Layer):
    """Base class of the normalisations; use one of its subclasses."""

    __slots__ = ()
    precedes_activation = True

    eps: float
    affine: bool

    def _checked_eps(self, eps: object) -> float:
        """Return a checked eps; refuse a width, which PyTorch's layers take first."""
        if isinstance(eps, int) and eps > 1:
            got = _validate.shown(eps)
            raise ValueError(
                f"eps must be a small number, got {got}; if {got} is meant as the "
                f"width, write fm.{type(self).__name__}(), which takes its width "
                "from the layer before it"
            )
        return _validate.real("eps", eps, 0.0, open_low=True)

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"eps": self.eps, "bias": self.affine}

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (n_in,), "bias": (n_in,)} if self.affine else {}


class RowNormalization(Normalization):
    """Base class of `LayerNorm` and `RMSNorm`, which normalise each row separately."""

    __slots__ = ("affine", "eps")
    is_linear = False
    _defaults: ClassVar[dict[str, Any]] = {"eps": 1e-5, "affine": True}

    def __init__(self, eps: float = 1e-5, affine: bool = True) -> None:
        self._put(
            eps=self._checked_eps(eps),
            affine=_validate.flag("affine", affine),
        )


class LayerNorm(RowNormalization):
    """Layer normalisation of each row (Ba et al. 2016).

    ``(x - mean) / sqrt(var + eps) * scale + shift``, with the row's mean and (biased)
    variance, scale (n,) and shift (n,); PyTorch's ``LayerNorm``.

    Parameters
    ----------
    eps : float
        Positive number added to the variance.
    affine : bool
        Whether the layer has a scale (initially 1) and a shift (initially 0).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, or ``eps`` is not positive.
    """

    __slots__ = ()
    kind = "layer_norm"
    flops = (8, 8)


class RMSNorm(RowNormalization):
    """Normalisation of each row by its root mean square (Zhang & Sennrich 2019).

    ``x / sqrt(mean(x²) + eps) * scale``, with the mean over the row and scale (n,);
    PyTorch's ``RMSNorm``.

    Parameters
    ----------
    eps : float
        Positive number added to the mean square. In PyTorch, the default depends on the
        dtype.
    affine : bool
        Whether the layer has a scale (initially 1).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, or ``eps`` is not positive.
    """

    __slots__ = ()
    kind = "rms_norm"
    flops = (5, 6)

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (n_in,)} if self.affine else {}


class BatchNorm(Normalization):
    """Batch normalisation of each column (Ioffe & Szegedy 2015).

    ``(x - mean) / sqrt(var + eps) * scale + shift``, scale (n,) and shift (n,);
    PyTorch's ``BatchNorm1d``.

    In training, mean and (biased) variance are those of the batch, which needs at least
    two rows, and the running statistics are updated: ``running = (1 - momentum) *
    running + momentum * batch``, where the variance of the batch is the unbiased one.
    Inference uses the running statistics. `fastmlp.MLP.fold` merges the layer into an
    adjacent dense layer.

    Parameters
    ----------
    eps : float
        Positive number added to the variance.
    momentum : float
        Weight of the batch in the update of running statistics, from 0 to 1.
    affine : bool
        Whether the layer has a scale (initially 1) and a shift (initially 0).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ("affine", "eps", "momentum")
    kind = "batch_norm"
    flops = (2, 8)
    _defaults: ClassVar[dict[str, Any]] = {
        "eps": 1e-5,
        "momentum": 0.1,
        "affine": True,
    }

    momentum: float

    def __init__(
        self, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        self._put(
            eps=self._checked_eps(eps),
            momentum=_validate.real("momentum", momentum, 0.0, 1.0),
            affine=_validate.flag("affine", affine),
        )

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {**super().core_form(), "momentum": self.momentum}

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        statistics = {"running_mean": (n_in,), "running_var": (n_in,)}
        return {**super().arrays(n_in), **statistics, "num_batches_tracked": ()}

    def column_map(self, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return (scale, shift): at inference the layer is x * scale + shift."""
        scale = 1 / np.sqrt(arrays["running_var"] + self.eps)
        scale = scale * arrays.get("weight", 1.0)
        return scale, arrays.get("bias", 0.0) - arrays["running_mean"] * scale


class Residual(Layer):
    """A residual block (He et al. 2016): ``y = x + body(x)``.

    If the body's output width differs from its input width,
    ``y = x @ W + b + body(x)`` with a learnt projection.

    Parameters
    ----------
    layers : sequence of int or Layer
        Body of at least one layer: widths or layers, as for `fastmlp.MLP` but without
        an input width. Residual blocks may be nested.

    Raises
    ------
    TypeError, ValueError
        If ``layers`` is empty, or an item is neither a positive int nor a layer.
    """

    __slots__ = ("layers",)
    kind = "residual"
    flops = (1, 1)
    _leading = ("layers",)

    layers: tuple[int | Layer, ...]

    def __init__(self, layers: Iterable[int | Layer]) -> None:
        self._put(layers=tuple(checked("Residual: layers", layers)))

    def __repr__(self) -> str:
        return f"Residual({list(self.layers)!r})"

    @property
    def body(self) -> tuple[Layer, ...]:
        """Inner layers."""
        return tuple(item for item in self.layers if isinstance(item, Layer))

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"body": core_layers(self.body)}

    def undrawn(self) -> Residual:
        """Return the layer for a model that is filled with given parameters."""
        items = self.layers
        return Residual([i.undrawn() if isinstance(i, Layer) else i for i in items])

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        for layer in self.body:
            n_in = layer.n_out(n_in)
        return n_in

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the projection's arrays, if there is a projection."""
        n = self.n_out(n_in)
        if n == n_in:
            return {}
        return {"projection.weight": (n, n_in), "projection.bias": (n,)}


# The classes of layers, by the names that model files use.
LAYERS: dict[str, type[Layer]] = {name: globals()[name] for name in __all__}

# Roles of arrays that training updates without gradients.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def core_layers(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Return resolved layers in the form that the core takes."""
    return [{"kind": layer.kind, **layer.core_form()} for layer in layers]


def activation_of(layer: Layer) -> Activation:
    """Return the activation that a resolved layer applies last, perhaps identity."""
    if isinstance(layer, Activation):
        return layer
    own = layer.activation if isinstance(layer, Dense) else None
    return as_layer(own or "identity")


def as_layer(activation: str | Activation) -> Activation:
    """Return an activation, given by name or as a layer, as a layer."""
    return Activation(activation) if isinstance(activation, str) else activation


def checked_activation(name: str, value: object) -> str | Activation:
    """Return an activation after checking it: a name if its constants are defaults."""
    if isinstance(value, Activation) and not value.is_custom:
        return value if value.changed else value.name
    if callable(value) or isinstance(value, Activation):
        raise TypeError(
            f"{name} must be a name (str) or an fm.Activation with a name, got "
            f"{_validate.describe(value)}; to use a "
            "custom function, add it as a layer after a dense layer without "
            "activation: fm.Dense(n, 'identity'), fm.Activation(function, derivative)"
        )
    if isinstance(value, (list, tuple)):
        raise TypeError(
            f"{name} must be one name (str) for all hidden layers, got "
            f"{_validate.describe(value)}; to choose the activation of a single "
            "layer, write fm.Dense(n, 'tanh')"
        )
    return _validate.choice(name, value, _core.ACTIVATIONS)


def checked(name: str, layers: object, n_in: bool = False) -> list[int | Layer]:
    """Return a checked list of widths and layers, after an input width if ``n_in``."""
    first = "the input width, then widths or layers" if n_in else "widths or layers"
    wanted = f"{name} must be a sequence: {first}"
    if isinstance(layers, (str, bytes)):
        raise TypeError(f"{wanted}, got {_validate.describe(layers)}")
    items = list(_validate.iterator(wanted, layers))
    if len(items) < 1 + n_in:
        raise ValueError(
            f"{wanted}, with at least one layer; got a sequence of length {len(items)}"
        )

    result: list[int | Layer] = []
    for i, item in enumerate(items):
        if isinstance(item, Layer) and (i > 0 or not n_in):
            result.append(item)
        elif hasattr(item, "__index__"):
            result.append(_validate.count(f"{name}[{i}]", item, 1))
        else:
            kinds = "an int or a layer such as fm.Dense"
            got = _validate.describe(item)
            if isinstance(item, type) and issubclass(item, Layer):
                got = f"the class {item.__name__}; did you mean fm.{item.__name__}(…)?"
            elif i == 0 and n_in:
                kinds = "an int, the input width"
            raise TypeError(f"{name}[{i}] must be {kinds}; got {got}")
    return result
