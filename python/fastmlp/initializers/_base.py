"""The base classes of the initialisers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import _validate
from .._validate.values import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._validate import Array

    Rng = np.random.Generator | np.random.RandomState


class Place(NamedTuple):
    """What the initial parameters of a dense layer may depend on.

    Attributes
    ----------
    n_in, n_out : int
        Widths.
    activation : str
        Activation of the layer.
    hidden_activation : str
        Activation of the layer or, if it is the output layer, of the last hidden layer.
    first : bool
        Whether it is the first dense layer of the model.
    """

    n_in: int
    n_out: int
    activation: str
    hidden_activation: str
    first: bool


class Initializer(Value):
    """Base class of the initialisers with options; use one of its subclasses.

    Initialisers are immutable, compare by value, and can be hashed and pickled.
    """

    _module = "initializers"
    _noun = "initialiser"

    # Whether it can be a ``bias_init``.
    _draws_biases = False

    def _weight(self, rng: Rng, place: Place) -> Array:
        """Return the initial weights (in, out) of a layer, in float64."""
        raise TypeError("Initializer is abstract: use fm.initializers.Normal(std), …")

    def _bias(self, rng: Rng, place: Place) -> Array:
        """Return the biases (out,) that go with the weights; 0 unless overridden."""
        return np.zeros(place.n_out)

    def _own_bias(self, rng: Rng, place: Place) -> Array:
        """Return the biases (out,) of a layer that has this as its ``bias_init``."""
        return self._bias(rng, place)


class Matrix(Initializer):
    """Base class of the initialisers of which a weight needs only its shape."""

    @_validate.reproducible
    def __call__(self, rng: np.random.Generator, shape: Sequence[int]) -> Array:
        """Return an array of initial values.

        Parameters
        ----------
        rng : numpy.random.Generator
            Generator to draw from.
        shape : sequence of int
            Shape, (in, out) for a weight.

        Returns
        -------
        ndarray, float64
            The values.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, or the initialiser has no arrays of this
            shape.
        """
        if not isinstance(rng, np.random.Generator):
            got = _validate.describe(rng)
            raise TypeError(f"rng must be a numpy.random.Generator, got {got}")
        if not isinstance(shape, (list, tuple)):
            got = _validate.describe(shape)
            raise TypeError(f"shape must be a sequence of ints, got {got}")
        sizes = tuple(
            _validate.count(f"shape[{i}]", size, 1) for i, size in enumerate(shape)
        )
        if len(sizes) != 2 and not self._draws_biases:
            raise ValueError(f"shape must be (in, out), got {sizes}")
        return self._array(rng, sizes)

    def _array(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        raise NotImplementedError

    def _weight(self, rng: Rng, place: Place) -> Array:
        """Return the initial weights (in, out) of a layer, in float64."""
        return self._array(rng, (place.n_in, place.n_out))


class Elementwise(Matrix):
    """Base class of the initialisers whose values do not depend on the shape."""

    _draws_biases = True

    def _own_bias(self, rng: Rng, place: Place) -> Array:
        """Return the biases (out,) of a layer that has this as its ``bias_init``."""
        return self._array(rng, (place.n_out,))
