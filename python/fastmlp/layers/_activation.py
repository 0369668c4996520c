"""Activations as layers, and their checks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _core, _validate
from ._base import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._validate import Array


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
