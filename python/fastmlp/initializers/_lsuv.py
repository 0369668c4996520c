"""Weights scaled by means of data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from .._validate.hints import hinted
from ._preceding import preceding

if TYPE_CHECKING:
    import numpy.typing as npt

    from .._validate import Array


@hinted
@_validate.reproducible
def lsuv(
    mlp: Any, x: npt.ArrayLike, *, tol: float = 0.1, max_iter: int = 10
) -> list[float]:
    """Scale the weights of a model so that each dense layer has unit variance.

    This is layer-sequential unit-variance initialisation (Mishkin & Matas 2016). From
    the first dense layer to the last, the weights are divided by the standard deviation
    of all elements of x @ W + b, for the inputs x that the layer gets from the layers
    before it, until the variance differs from 1 by less than ``tol``. The paper starts
    from orthogonal weights: ``init="orthogonal"``. Biases stay as they are. In this
    computation random layers such as `fastmlp.Dropout` do nothing, and
    `fastmlp.BatchNorm` uses the statistics of ``x``.

    Parameters
    ----------
    mlp : MLP
        Model, whose weights are changed in place.
    x : (B, n_in)
        Samples as rows, such as one batch.
    tol : float
        Difference > 0 between the variance and 1 that is accepted.
    max_iter : int
        Largest number of divisions for each layer, ≥ 1.

    Returns
    -------
    list of float
        Variance of each dense layer after scaling, in the order of ``mlp.weights``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape, a layer has the same value in all
        elements, which no factor can change, or the model has spectral normalisation.
        The model is then unchanged.
    """
    if not hasattr(mlp, "weights") or not hasattr(mlp, "layers"):
        raise TypeError(f"mlp must be a fastmlp.MLP, got {_validate.describe(mlp)}")
    if any(op.parametrization == "spectral_norm" for op in mlp.core.ops):
        raise ValueError(
            "mlp must not have spectral normalisation, which cancels all factors"
        )
    rows = np.ascontiguousarray(_validate.inputs("x", x, mlp.n_in, mlp.dtype))
    _validate.finite("x", rows)
    tol = _validate.real("tol", tol, 0.0, open_low=True)
    max_iter = _validate.count("max_iter", max_iter, 1)

    new = mlp.copy()
    # What stands for a computed weight becomes equal to it, and remains so.
    new.params[:] = new._effective()
    new.core.start_parametrizations()
    variances = []
    for i, (before, width) in enumerate(_before_dense(mlp.layers, mlp.n_in)):
        weight, bias = new.weights[i], new.biases[i]
        h = np.ascontiguousarray(_output(new, before, rows)[:, -width:])
        z = np.empty((len(h), weight.shape[1]), mlp.dtype)
        for _ in range(max_iter):
            _core.kernels.gemm_nn(z, h, weight, bias)
            variance = _variance(z)
            if not 0 < variance < np.inf:
                raise ValueError(
                    f"x must give different values in layer {i} of mlp.weights, got a "
                    f"variance of {variance:g}"
                )
            if abs(variance - 1) < tol:
                break
            weight /= sqrt(variance)
        new.core.start_parametrizations()
        _core.kernels.gemm_nn(z, h, weight, bias)
        variances.append(_variance(z))
    mlp.params[:] = new.params
    return variances


def _before_dense(
    layers: Sequence[Any], n_in: int
) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Yield, for each dense layer, the layers before it and the width of its input."""
    for layer, before, width in preceding(layers, n_in):
        if layer.kind == "dense" or any("projection" in n for n in layer.arrays(width)):
            yield before, width


def _output(mlp: Any, layers: tuple[Any, ...], rows: Array) -> Array:
    """Return the output of the first layers of a model in training mode."""
    if not layers:
        return rows
    part = type(mlp)([mlp.n_in, *layers], init="zeros", dtype=mlp.dtype, seed=0)
    part.params[:] = mlp.params[: part.n_params]
    part.buffers[:] = mlp.buffers[: part.buffers.size]
    output: Array = part.forward(rows, training=True)
    return output


def _variance(z: Array) -> float:
    """Return the variance of all elements, with the same bits everywhere."""
    flat = z.ravel().astype(np.float64)
    total = np.empty(1)
    _core.kernels.dot(total, flat, np.ones(flat.size))
    flat -= total[0] / flat.size
    _core.kernels.sum_of_squares(total, flat)
    return float(total[0]) / flat.size
