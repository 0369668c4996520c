"""``coefs_`` and ``intercepts_`` of an estimator, which are views of its network."""

from __future__ import annotations

import inspect
from itertools import pairwise
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from ._parameters import Parameters

if TYPE_CHECKING:
    from .._validate import Array
    from ..mlp import MLP


class NetworkWeights(Parameters):
    """The attributes ``mlp_``, ``coefs_`` and ``intercepts_``, kept consistent.

    ``coefs_`` and ``intercepts_`` are lists of the views ``mlp_.weights`` and
    ``mlp_.biases``. If the user has put other arrays into these lists, `_connected`
    copies the arrays to the network.
    """

    mlp_: MLP
    coefs_: list[Array]
    intercepts_: list[Any]

    def _connect(self, mlp: MLP) -> None:
        """Use this network, and make the attributes views of its parameters."""
        self.mlp_ = mlp
        self.coefs_, self.intercepts_ = list(mlp.weights), list(mlp.biases)

    def _connected(self) -> MLP:
        """Return the network, updated if ``coefs_`` or ``intercepts_`` has changed."""
        mlp: MLP | None = self.__dict__.get("mlp_")
        coefs, intercepts = self.coefs_, self.intercepts_
        if mlp is not None:
            weights, biases = mlp.weights, mlp.biases
            if (
                len(coefs) == len(intercepts) == len(weights)
                and all(map(is_, coefs, weights))
                and all(map(is_, intercepts, biases))
            ):
                return mlp
        mlp = self._reconnected(mlp)
        self._connect(mlp)
        return mlp

    def _reconnected(self, mlp: MLP | None) -> MLP:
        """Copy the arrays of ``coefs_`` and ``intercepts_`` to the network; return it.

        A new network is created if there is none, or if the shapes have changed.
        """
        coefs = _arrays("coefs_", self.coefs_, 2)
        intercepts = _arrays("intercepts_", self.intercepts_, 1)
        widths = [w.shape[0] for w in coefs[:1]] + [w.shape[1] for w in coefs]
        shapes = [
            (a.shape[0], b.shape) for a, b in zip(coefs, intercepts, strict=False)
        ]
        wanted = [(a, (b,)) for a, b in pairwise(widths)]
        if len(coefs) != len(intercepts) or not coefs or shapes != wanted:
            raise ValueError(
                "coefs_ and intercepts_ must have the shapes of consecutive "
                f"layers, got coefs_ of shapes {[w.shape for w in coefs]} and "
                f"intercepts_ of shapes {[b.shape for b in intercepts]}"
            )
        if mlp is None:
            dtype = np.result_type(*coefs, *intercepts, np.float32)
            mlp = self._network(widths, dtype)
        elif [w.shape for w in mlp.weights] != [w.shape for w in coefs]:
            mlp = self._network(widths, mlp.dtype)
        copy_weights(mlp, coefs, intercepts)
        return mlp

    # Copies and pickles contain the network, not its views, which are recreated on
    # loading.

    def __getstate__(self) -> dict[str, Any]:
        views = {"coefs_", "intercepts_"}
        if not {"mlp_", *views} <= self.__dict__.keys():
            return dict(super().__getstate__())
        self._connected()
        state = super().__getstate__().items()
        return {name: value for name, value in state if name not in views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Pickles of earlier versions lack the parameters that have been added since.
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.default is not parameter.empty:
                self.__dict__.setdefault(name, parameter.default)
        if "mlp_" in self.__dict__ and "coefs_" not in self.__dict__:
            self._connect(self.mlp_)


def copy_weights(mlp: MLP, coefs: Any, intercepts: Any) -> None:
    """Copy arrays of scikit-learn's layout into the network."""
    for view, array in zip(mlp.weights, coefs, strict=True):
        view[...] = array
    for bias, array in zip(mlp.biases, intercepts, strict=True):
        assert bias is not None
        bias[...] = array


def _arrays(name: str, values: Any, ndim: int) -> list[Array]:
    arrays = [np.asarray(value) for value in values]
    for i, array in enumerate(arrays):
        if array.ndim != ndim or array.dtype.kind not in "fiub":
            raise ValueError(
                f"{name}[{i}] must be a numeric array of {ndim} dimensions, got "
                f"{_validate.describe(array)}"
            )
    return arrays
