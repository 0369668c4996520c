"""Initialisers of weights and biases.

All parameters are drawn in float64 from one `numpy.random.Generator`, in the order W0,
b0, W1, b1, … with W of shape (in, out), and rounded once to the dtype of the model.

=====================  ============================================================
name                   weights (in, out); biases are 0 unless stated otherwise
=====================  ============================================================
``he_normal``          N(0, 2 / in), He et al. 2015
``he_uniform``         U(±√(6 / in))
``glorot_normal``      N(0, 2 / (in + out)), Glorot & Bengio 2010
``glorot_uniform``     U(±√(6 / (in + out)))
``lecun_normal``       N(0, 1 / in), LeCun et al. 1998
``lecun_uniform``      U(±√(3 / in))
``orthogonal``         orthonormal rows or columns, Haar-distributed, Saxe et al. 2014
``zeros``              0
``torch``              U(±1 / √in), biases included, like ``torch.nn.Linear``
``sklearn``            U(±√(f / (in + out))), biases included, like scikit-learn's MLP;
                       f is 2 if the hidden activation is sigmoid, else 6
``auto``               ``lecun_normal`` before selu, ``he_normal`` before the other
                       ReLU-like activations (from relu to softplus in the table of
                       `fastmlp.layers`), ``glorot_uniform`` before all others
=====================  ============================================================

The normal distributions are not truncated.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from . import _core, _validate

if TYPE_CHECKING:
    from ._validate import Array

INITIALIZERS = (
    "auto",
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
    "lecun_uniform",
    "orthogonal",
    "zeros",
    "torch",
    "sklearn",
)


@_validate.reproducible
def draw(
    name: str,
    rng: np.random.Generator | np.random.RandomState,
    weight: Array,
    bias: Array | None,
    activation: str,
    hidden_activation: str,
) -> None:
    """Fill ``weight (in, out)`` and ``bias (out,)`` in place.

    Parameters
    ----------
    name
        Name of the initialiser, one of `INITIALIZERS`.
    rng
        Generator to draw from, first for the weight, then for the bias.
    weight, bias
        Arrays to fill, float32 or float64; ``bias`` is None for a layer without one.
    activation
        For "auto": activation of this layer.
    hidden_activation
        For "sklearn": activation of this layer or, if it is the output layer, of the
        last hidden layer.
    """
    n_in, n_out = weight.shape
    if name == "auto":
        scale = _core.weight_scale(activation)
        name = "glorot_uniform" if scale == "glorot" else f"{scale}_normal"

    # These two initialisers also draw the biases, within the same bounds as the
    # weights.
    if name in ("torch", "sklearn"):
        factor = 2.0 if hidden_activation == "sigmoid" else 6.0
        bound = 1 / sqrt(n_in) if name == "torch" else sqrt(factor / (n_in + n_out))
        weight[:] = rng.uniform(-bound, bound, weight.shape)
        if bias is not None:
            bias[:] = rng.uniform(-bound, bound, bias.shape)
        return

    if bias is not None:
        bias[:] = 0
    if name == "zeros":
        weight[:] = 0
    elif name == "orthogonal":
        weight[:] = _orthogonal(rng, n_in, n_out)
    else:
        family, distribution = name.split("_")
        variance = {"he": 2 / n_in, "glorot": 2 / (n_in + n_out), "lecun": 1 / n_in}
        if distribution == "normal":
            weight[:] = rng.normal(0.0, sqrt(variance[family]), weight.shape)
        else:
            bound = sqrt(3 * variance[family])
            weight[:] = rng.uniform(-bound, bound, weight.shape)


# Number of vectors in a panel: matrix products project the earlier vectors out of all
# vectors of a panel at once.
_PANEL = 32


def _orthogonal(
    rng: np.random.Generator | np.random.RandomState, n_in: int, n_out: int
) -> Array:
    """Return a Haar-distributed matrix with orthonormal rows (columns if it is tall).

    This is Gram-Schmidt with each projection done twice ("twice is enough": Giraud et
    al. 2005). It uses the core's kernels because the bits of LAPACK's QR depend on the
    number of threads.
    """
    rows = rng.standard_normal((min(n_in, n_out), max(n_in, n_out)))
    for start in range(0, len(rows), _PANEL):
        panel = rows[start : start + _PANEL]
        _project_out(panel, rows[:start])
        for i in range(len(panel)):
            row = panel[i : i + 1]
            _project_out(row, panel[:i])
            square = np.empty((1, 1))
            _core.kernels.gemm_nt(square, row, row)
            row /= np.sqrt(square)
    return rows if n_in <= n_out else rows.T


def _project_out(rows: Array, basis: Array) -> None:
    """Subtract from each row its components along the basis vectors, twice."""
    if len(basis) == 0:
        return
    for _ in range(2):
        components = np.empty((len(rows), len(basis)))
        _core.kernels.gemm_nt(components, rows, basis)
        _core.kernels.gemm_nn(rows, -components, basis, accumulate=True)
