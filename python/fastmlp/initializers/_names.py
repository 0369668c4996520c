"""Initialisers by name, and what the arguments ``init`` and ``bias_init`` may be."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .. import _core, _validate
from ._base import Initializer
from ._rules import (
    Constant,
    Identity,
    Normal,
    Orthogonal,
    Siren,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
)

if TYPE_CHECKING:
    from .._validate import Array
    from ._base import Place, Rng

# A name, an object with options, or a function (rng, shape) -> array.
Init: TypeAlias = "str | Initializer | Callable[..., Array]"


class _Auto(Initializer):
    """The choice by the activation."""

    def _weight(self, rng: Rng, place: Place) -> Array:
        scale = _core.weight_scale(place.activation)
        name = "glorot_uniform" if scale == "glorot" else f"{scale}_normal"
        return NAMED[name]._weight(rng, place)


class _Bounded(Initializer):
    """Weights and biases that are uniform within the same bounds."""

    _draws_biases = True

    def _bound(self, place: Place) -> float:
        raise NotImplementedError

    def _weight(self, rng: Rng, place: Place) -> Array:
        bound = self._bound(place)
        return rng.uniform(-bound, bound, (place.n_in, place.n_out))

    def _bias(self, rng: Rng, place: Place) -> Array:
        bound = self._bound(place)
        return rng.uniform(-bound, bound, place.n_out)


class _Torch(_Bounded):
    """The rule of ``torch.nn.Linear``."""

    def _bound(self, place: Place) -> float:
        return 1 / sqrt(place.n_in)


class _Sklearn(_Bounded):
    """The rule of scikit-learn's MLPs."""

    def _bound(self, place: Place) -> float:
        factor = 2.0 if place.hidden_activation == "sigmoid" else 6.0
        return sqrt(factor / (place.n_in + place.n_out))


NAMED: dict[str, Initializer] = {
    "auto": _Auto(),
    **{
        f"{family}_{kind}": VarianceScaling(*options, kind)
        for family, options in (
            ("he", (2.0, "fan_in")),
            ("glorot", (1.0, "fan_avg")),
            ("lecun", (1.0, "fan_in")),
        )
        for kind in ("normal", "uniform", "truncated_normal")
    },
    "orthogonal": Orthogonal(),
    "normal": Normal(),
    "uniform": Uniform(),
    "truncated_normal": TruncatedNormal(),
    "zeros": Constant(0.0),
    "ones": Constant(1.0),
    "identity": Identity(),
    "siren": Siren(),
    "torch": _Torch(),
    "sklearn": _Sklearn(),
}
INITIALIZERS = tuple(NAMED)
BIAS_INITIALIZERS = tuple(name for name, rule in NAMED.items() if rule._draws_biases)


class Function(Initializer):
    """A function of which only the name is known, because a file does not hold it.

    A model from a file has it in place of a function that was its initialiser. New
    parameters cannot be drawn from it.

    Parameters
    ----------
    name : str
        Name of the function.

    Raises
    ------
    TypeError
        If ``name`` is not a str.
    """

    _names = ("name",)
    _draws_biases = True
    name: str

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, got {_validate.describe(name)}")
        self._take(name=name)

    def _weight(self, rng: Rng, place: Place) -> Array:
        raise self._missing("init")

    def _own_bias(self, rng: Rng, place: Place) -> Array:
        raise self._missing("bias_init")

    def _missing(self, name: str) -> ValueError:
        return ValueError(
            f"{name} must be given again: a file held only the name of the function "
            f"{self.name}"
        )


class _Given(Initializer):
    """A function (rng, shape) -> array."""

    function: Callable[..., object]

    def __init__(self, function: Callable[..., object]) -> None:
        self._take(function=function)

    def _weight(self, rng: Rng, place: Place) -> Array:
        return self._checked("init", rng, (place.n_in, place.n_out))

    def _own_bias(self, rng: Rng, place: Place) -> Array:
        return self._checked("bias_init", rng, (place.n_out,))

    def _checked(self, name: str, rng: Rng, shape: tuple[int, ...]) -> Array:
        result = self.function(rng, shape)
        array = _validate.numeric(f"the array from {name}", result)
        if array.shape != shape:
            raise ValueError(
                f"{name} must return an array of shape {shape}, got "
                f"{_validate.describe(result)}"
            )
        return array.astype(np.float64)


def checked(name: str, value: object) -> Init:
    """Return an initialiser of weights as it was given, or raise an error."""
    if isinstance(value, str):
        return _validate.choice(name, value, INITIALIZERS)
    if isinstance(value, type) and issubclass(value, Initializer):
        raise TypeError(
            f"{name} must be an initialiser, got the class {value.__name__}; did you "
            f"mean fm.initializers.{value.__name__}(…)?"
        )
    if isinstance(value, Initializer) or callable(value):
        return value
    raise TypeError(
        f"{name} must be a name (str), an object of fm.initializers or a function "
        f"(rng, shape) -> array, got {_validate.describe(value)}"
    )


def checked_bias(name: str, value: object) -> Init:
    """Return an initialiser of biases as it was given, or raise an error."""
    if isinstance(value, str):
        return _validate.choice(name, value, BIAS_INITIALIZERS)
    if isinstance(value, Initializer) and not value._draws_biases:
        raise ValueError(
            f"{name} must not depend on the shape of a weight, got {value!r}"
        )
    return checked(name, value)


def rule(init: Init) -> Initializer:
    """Return the object that draws."""
    if isinstance(init, str):
        return NAMED[init]
    return init if isinstance(init, Initializer) else _Given(init)
