"""Layer objects, for what a plain width cannot say, and the activations.

Layers are immutable descriptions; the model holds what is learnt. In training mode
(`fastmlp.MLP.fit` and ``train_step``, elsewhere if asked for by ``training=True``)
`Dropout` drops and `BatchNorm` takes the statistics of the batch.

``fastmlp.ACTIVATIONS`` holds the names of the activations h = act(z); all but softmax
work element by element. Names, formulas and constants are torch's, where it has them.

==============  ======================================================================
name            h
==============  ======================================================================
``identity``    z
``relu``        max(z, 0); derivative 0 at 0 (Nair & Hinton 2010)
``leaky_relu``  z for z > 0, else 0.01 z; derivative 0.01 at 0 (Maas et al. 2013)
``elu``         z for z > 0, else e^z - 1: alpha is 1 (Clevert et al. 2016)
``selu``        s z for z > 0, else s a (e^z - 1); s = 1.0507009873554805,
                a = 1.6732632423543772; derivative s a at 0 (Klambauer et al. 2017)
``gelu``        z Φ(z) = z (1 + erf(z / √2)) / 2 (Hendrycks & Gimpel 2016)
``gelu_tanh``   z (1 + tanh(√(2 / π) (z + 0.044715 z³))) / 2, an approximation of gelu
                from the same paper: torch's ``GELU(approximate="tanh")``
``silu``        z sigmoid(z), also called swish (Hendrycks & Gimpel 2016; Ramachandran
                et al. 2017)
``softplus``    log(1 + e^z) (Dugas et al. 2001), with no threshold beyond which it is z
``softsign``    z / (1 + abs(z)) (Bergstra et al. 2009)
``sigmoid``     1 / (1 + e^-z)
``tanh``        tanh(z)
``sin``         sin(z)
``cos``         cos(z)
``exp``         e^z
``softmax``     e^z_o / Σ_p e^z_p over the last axis, a row's outputs (Bridle 1990)
==============  ======================================================================

Exponentials are arranged so that none overflows on the way to a result that does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from . import _core, _validate
from .initializers import INITIALIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from ._validate import Array


class Layer:
    """What the layers share; make one of the classes below, not this one.

    Layers are immutable, compare by value, and can be hashed and pickled.
    """

    __slots__ = ()

    # The constructor's arguments: those always shown, then those with their defaults.
    _leading: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}

    def _put(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, n) for n in (*self._leading, *self._defaults))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        kind = type(self).__name__
        raise AttributeError(f"{kind} is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        kind = type(self).__name__
        raise AttributeError(f"{kind} is immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layer):
            return NotImplemented
        return type(self) is type(other) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash((type(self), self._fields()))

    def __repr__(self) -> str:
        parts = [repr(getattr(self, name)) for name in self._leading]
        for name, default in self._defaults.items():
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def __reduce__(self) -> tuple[type[Layer], tuple[Any, ...]]:
        return type(self), self._fields()


class Dense(Layer):
    """A dense layer ``h = activation(x @ W + b)``, W (in, n), b (n,).

    Parameters
    ----------
    n : int
        The width: how many outputs the layer has.
    activation : str, optional
        Its activation, see `fastmlp.layers`; None takes the model's ``activation``, or
        its ``output_activation`` for the last dense layer.
    bias : bool
        Whether there is a b. Stands whatever the model's ``bias`` says.
    init : str, optional
        How its parameters are drawn, see `fastmlp.initializers`; None takes the
        model's.

    Raises
    ------
    TypeError, ValueError
        For a width that is no positive int, and for unknown names.
    """

    __slots__ = ("activation", "bias", "init", "n")
    _leading = ("n",)
    _defaults: ClassVar[dict[str, Any]] = {
        "activation": None,
        "bias": True,
        "init": None,
    }

    n: int
    activation: str | None
    bias: bool
    init: str | None

    def __init__(
        self,
        n: int,
        activation: str | None = None,
        bias: bool = True,
        init: str | None = None,
    ) -> None:
        if isinstance(activation, int):
            raise TypeError(
                f"activation must be a name (str), got {_validate.describe(activation)}"
                "; fm.Dense(n) takes the number of outputs alone"
            )
        if activation is not None:
            activation = activation_name("activation", activation)
        if init is not None:
            init = _validate.choice("init", init, INITIALIZERS)
        self._put(
            n=_validate.count("Dense: n", n, 1),
            activation=activation,
            bias=_validate.flag("bias", bias),
            init=init,
        )


class Activation(Layer):
    """An activation by itself: ``h = f(x)``.

    Useful after a normalisation, and for functions of one's own:

    >>> swish = fm.Activation(lambda z: z / (1 + np.exp(-z)), dswish)

    Parameters
    ----------
    function : str or callable
        One of ``fastmlp.ACTIVATIONS``, or a function of an array z, element by element,
        that returns f(z).
    derivative : callable, optional
        For a function of one's own, that of z which returns f'(z).

    Raises
    ------
    TypeError, ValueError
        For unknown names, and for a function without derivative or the other way round.

    Notes
    -----
    Functions are called with 1-D arrays of the model's dtype, for blocks of rows, and
    return an array of the same shape; what they raise goes on to the caller of the
    model. They must not use that model. A model with functions of one's own works in
    one thread, and each block costs some microseconds of Python. Whether its results
    are the same bits everywhere is up to the functions. It can be pickled if they can.
    """

    __slots__ = ("derivative", "function")
    _leading = ("function",)
    _defaults: ClassVar[dict[str, Any]] = {"derivative": None}

    function: str | Callable[[Array], Array]
    derivative: Callable[[Array], Array] | None

    def __init__(
        self,
        function: str | Callable[[Array], Array],
        derivative: Callable[[Array], Array] | None = None,
    ) -> None:
        if callable(function):
            if not callable(derivative):
                raise TypeError(
                    "derivative must be a function, as function is one; got "
                    f"{_validate.describe(derivative)}"
                )
        else:
            function = _validate.choice("function", function, _core.ACTIVATIONS)
            if derivative is not None:
                raise TypeError(
                    "derivative is for functions of one's own; that of "
                    f"{function!r} is known"
                )
        self._put(function=function, derivative=derivative)


class Dropout(Layer):
    """Inverted dropout (Srivastava et al. 2014).

    In training each element becomes 0 with probability p, else x / (1 - p); in
    inference nothing happens. What is dropped is a function of (seed, epoch, step,
    layer, element), whatever the number of threads, so that training that is resumed
    goes on exactly.

    Parameters
    ----------
    p : float
        The probability of being dropped, 0 ≤ p < 1.

    Raises
    ------
    TypeError, ValueError
        For a p that is no such number.
    """

    __slots__ = ("p",)
    _leading = ("p",)

    p: float

    def __init__(self, p: float = 0.5) -> None:
        self._put(p=_validate.real("p", p, 0.0, 1.0, open_high=True))


def _norm_eps(layer: Layer, eps: object) -> float:
    """Return what is added to a variance; a width, as torch wants one here, is none."""
    if isinstance(eps, int) and eps > 1:
        raise ValueError(
            f"eps must be a small number, got {eps}; the width is that of the layer "
            f"before: fm.{type(layer).__name__}()"
        )
    return _validate.real("eps", eps, 0.0, open_low=True)


class LayerNorm(Layer):
    """Layer normalisation of each row (Ba et al. 2016).

    ``(x - mean) / sqrt(var + eps) * scale + shift``, with the row's mean and (biased)
    variance, scale (n,) and shift (n,); torch's ``LayerNorm``.

    Parameters
    ----------
    eps : float
        Added to the variance, > 0.
    affine : bool
        Whether there are scale (at first 1) and shift (at first 0).

    Raises
    ------
    TypeError, ValueError
        For an eps that is not positive.
    """

    __slots__ = ("affine", "eps")
    _defaults: ClassVar[dict[str, Any]] = {"eps": 1e-5, "affine": True}

    eps: float
    affine: bool

    def __init__(self, eps: float = 1e-5, affine: bool = True) -> None:
        self._put(
            eps=_norm_eps(self, eps),
            affine=_validate.flag("affine", affine),
        )


class BatchNorm(Layer):
    """Batch normalisation of each column (Ioffe & Szegedy 2015).

    ``(x - mean) / sqrt(var + eps) * scale + shift``, scale (n,) and shift (n,); torch's
    ``BatchNorm1d``.

    In training mean and (biased) variance are those of the batch, of at least two
    rows, and the running ones move: ``running = (1 - momentum) * running + momentum *
    batch``, with the unbiased variance. In inference the running ones are used. Where
    it stands beside a dense layer, `fastmlp.MLP.fold` makes it part of that.

    Parameters
    ----------
    eps : float
        Added to the variance, > 0.
    momentum : float
        How far running statistics move in a step, from 0 to 1.
    affine : bool
        Whether there are scale (at first 1) and shift (at first 0).

    Raises
    ------
    TypeError, ValueError
        For numbers out of range.
    """

    __slots__ = ("affine", "eps", "momentum")
    _defaults: ClassVar[dict[str, Any]] = {
        "eps": 1e-5,
        "momentum": 0.1,
        "affine": True,
    }

    eps: float
    momentum: float
    affine: bool

    def __init__(
        self, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        self._put(
            eps=_norm_eps(self, eps),
            momentum=_validate.real("momentum", momentum, 0.0, 1.0),
            affine=_validate.flag("affine", affine),
        )


class Residual(Layer):
    """A residual block (He et al. 2016): ``y = x + body(x)``.

    Where the body's output is not as wide as its input, ``y = x @ W + b + body(x)``
    with a learnt projection.

    Parameters
    ----------
    layers : sequence of int or Layer
        The body, at least one layer: widths or layers, as for `fastmlp.MLP` but without
        an input width. Residual blocks may be among them.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """

    __slots__ = ("layers",)
    _leading = ("layers",)

    layers: tuple[int | Layer, ...]

    def __init__(self, layers: Iterable[int | Layer]) -> None:
        self._put(layers=tuple(checked("Residual: layers", layers)))

    def __repr__(self) -> str:
        return f"Residual({list(self.layers)!r})"


def activation_name(name: str, value: object) -> str:
    """Return the name of one of the core's activations."""
    if callable(value) or isinstance(value, Activation):
        raise TypeError(
            f"{name} must be a name (str), got {_validate.describe(value)}; a function "
            "of one's own is a layer, after a dense one without activation: "
            "fm.Dense(n, 'identity'), fm.Activation(function, derivative)"
        )
    if isinstance(value, (list, tuple)):
        raise TypeError(
            f"{name} must be one name (str) for all hidden layers, got "
            f"{_validate.describe(value)}; fm.Dense(n, 'tanh') has its own"
        )
    return _validate.choice(name, value, _core.ACTIVATIONS)


def checked(name: str, layers: object, n_in: bool = False) -> list[int | Layer]:
    """Check widths and layers, with or without an input width before them."""
    first = "the input width, then widths or layers" if n_in else "widths or layers"
    wanted = f"{name} must be a sequence: {first}"
    if isinstance(layers, (str, bytes)):
        raise TypeError(f"{wanted}; got {_validate.describe(layers)}")
    try:
        items = list(layers)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"{wanted}; got {_validate.describe(layers)}") from None
    if len(items) < 1 + n_in:
        raise ValueError(f"{wanted}, of at least one layer; got {len(items)} entries")

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
