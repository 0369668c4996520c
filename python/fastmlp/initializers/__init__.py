"""Initialisers of weights and biases: the arguments ``init`` and ``bias_init``.

>>> import fastmlp as fm
>>> policy = fm.MLP(
...     [4, 64, fm.Dense(2, init=fm.initializers.Orthogonal(gain=0.01))],
...     activation="tanh",
...     init=fm.initializers.Orthogonal(gain=2**0.5),
... )

All parameters are drawn in float64 from one `numpy.random.Generator`, in the order W0,
b0, W1, b1, … with W of shape (in, out), and rounded once to the dtype of the model. An
initialiser is one of these names, an object with options, or a function.

===========================  ===========================================================
name                         weights (in, out); biases are 0 unless stated otherwise
===========================  ===========================================================
``he_normal``                N(0, 2 / in), He et al. 2015
``he_uniform``               U(±√(6 / in))
``he_truncated_normal``      the variance of ``he_normal``, truncated
``glorot_normal``            N(0, 2 / (in + out)), Glorot & Bengio 2010
``glorot_uniform``           U(±√(6 / (in + out)))
``glorot_truncated_normal``  the variance of ``glorot_normal``, truncated
``lecun_normal``             N(0, 1 / in), LeCun et al. 1998
``lecun_uniform``            U(±√(3 / in))
``lecun_truncated_normal``   the variance of ``lecun_normal``, truncated
``orthogonal``               `Orthogonal`: orthonormal rows or columns, Saxe et al. 2014
``normal``                   `Normal`: N(0, 0.05²), as Keras' RandomNormal
``uniform``                  `Uniform`: U(±0.05), as Keras' RandomUniform
``truncated_normal``         `TruncatedNormal`: as Keras', within ±0.1
``zeros``                    0
``ones``                     1
``identity``                 `Identity`: 1 on the diagonal, 0 elsewhere
``siren``                    `Siren`, biases included, Sitzmann et al. 2020
``torch``                    U(±1 / √in), biases included, like ``torch.nn.Linear``
``sklearn``                  U(±√(f / (in + out))), biases included, like
                             scikit-learn's MLP; f is 2 if the hidden activation is
                             sigmoid, else 6
``auto``                     ``lecun_normal`` before selu, ``he_normal`` before the
                             other ReLU-like activations (from relu to softplus in the
                             table of `fastmlp.layers`), ``glorot_uniform`` before all
                             others
===========================  ===========================================================

Only distributions that are called truncated are: at two standard deviations, before
which these are divided by 0.8796…, so that the variance is as stated. Keras' he_normal
and Flax' lecun_normal are truncated.

``init="zeros"`` in the last layer makes a model whose outputs are 0 at first, and in
the last layer of a `fastmlp.Residual` a block that passes its input on (Zhang et al.
2019): ``fm.Residual([fm.Dense(64, "relu"), fm.Dense(64, "identity", init="zeros")])``.

A ``bias_init`` replaces the biases of ``init``. It may be a name in
``BIAS_INITIALIZERS`` ("torch", "sklearn" and "siren" then mean their biases), an object
that does not depend on the shape of a weight, such as `Constant`, or a function.

A function is called as ``function(rng, shape)`` and returns an array of that shape,
(in, out) for weights and (out,) for biases. The objects can be called in this way, too,
except `Siren`. The file of a model holds names and objects; of a function, which is not
needed any more, it holds the name (see `Function`). A pickle holds the function.

`lsuv` scales the weights of a model by means of data (Mishkin & Matas 2016).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _validate
from .._validate.hints import hinted
from . import _rules
from ._base import Initializer as Initializer
from ._base import Place
from ._lsuv import lsuv as lsuv
from ._names import BIAS_INITIALIZERS as BIAS_INITIALIZERS
from ._names import INITIALIZERS as INITIALIZERS
from ._names import Function as Function
from ._names import checked as checked
from ._names import checked_bias as checked_bias
from ._names import rule
from ._preceding import preceding as preceding
from ._rules import *

if TYPE_CHECKING:
    from .._validate import Array
    from ._names import Init as Init

__all__ = [
    "BIAS_INITIALIZERS",
    "INITIALIZERS",
    "Function",
    "Initializer",
    "draw",
    "lsuv",
    *_rules.__all__,
]


@hinted
@_validate.reproducible
def draw(
    init: Init,
    rng: np.random.Generator | np.random.RandomState,
    weight: Array,
    bias: Array | None,
    activation: str,
    hidden_activation: str,
    *,
    bias_init: Init | None = None,
    first: bool = False,
) -> None:
    """Fill ``weight (in, out)`` and ``bias (out,)`` in place.

    Parameters
    ----------
    init : str, Initializer or callable
        Initialiser of the weights.
    rng : numpy.random.Generator or RandomState
        Generator to draw from, first for the weight, then for the bias.
    weight, bias : ndarray (in, out), ndarray (out,) or None
        Arrays to fill, float32 or float64; ``bias`` is None for a layer without one.
    activation : str
        For "auto" and "siren": activation of this layer.
    hidden_activation : str
        For "sklearn": activation of this layer or, if it is the output layer, of the
        last hidden layer.
    bias_init : str, Initializer or callable, optional
        Initialiser of the biases; None means the biases that go with ``init``.
    first : bool
        For "siren": whether this is the first dense layer of a model.

    Raises
    ------
    TypeError, ValueError
        If an initialiser is unknown, or its values are not finite numbers in the dtype
        of the arrays and of the right shape.
    """
    n_in, n_out = weight.shape
    place = Place(n_in, n_out, activation, hidden_activation, first)
    own = rule(checked("init", init))
    _put("init", weight, own._weight(rng, place))
    if bias is None:
        return
    if bias_init is None:
        _put("init", bias, own._bias(rng, place))
    else:
        other = rule(checked_bias("bias_init", bias_init))
        _put("bias_init", bias, other._own_bias(rng, place))


def _put(name: str, array: Array, values: Array) -> None:
    with np.errstate(over="ignore"):
        array[:] = values
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must give finite numbers in {array.dtype}, got values from "
            f"{values.min():g} to {values.max():g}"
        )


# The classes of objects, which files name.
CLASSES: tuple[type[Initializer], ...] = (
    Function,
    *(globals()[name] for name in _rules.__all__),
)

# Pickles must name the public module, not the private ones.
for _object in (*CLASSES, Initializer, lsuv):
    _object.__module__ = __name__
