"""Initialisers with options."""

from __future__ import annotations

import math
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from .. import _core, _validate
from ._base import Elementwise, Initializer, Matrix

if TYPE_CHECKING:
    from .._validate import Array
    from ._base import Place, Rng

__all__ = [
    "Constant",
    "Identity",
    "Normal",
    "Orthogonal",
    "Siren",
    "Sparse",
    "TruncatedNormal",
    "Uniform",
    "VarianceScaling",
]

# Standard deviation of a standard normal distribution truncated to [-2, 2], with the
# digits that Keras and JAX divide by.
TRUNCATED_STD = 0.87962566103423978


def _positive(name: str, value: object) -> float:
    return _validate.real(name, value, 0.0, open_low=True)


class Normal(Elementwise):
    """Normal distribution N(mean, std²), not truncated.

    Parameters
    ----------
    std : float
        Standard deviation, > 0. The default is that of Keras' RandomNormal.
    mean : float
        Mean.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("std", "mean")
    std: float
    mean: float

    def __init__(self, std: float = 0.05, *, mean: float = 0.0) -> None:
        self._take(std=_positive("std", std), mean=_validate.real("mean", mean))

    def _array(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        return rng.normal(self.mean, self.std, shape)


class Uniform(Elementwise):
    """Uniform distribution U(low, high).

    Parameters
    ----------
    low, high : float
        Bounds; ``high`` is above ``low``. The defaults are those of Keras'
        RandomUniform.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("low", "high")
    low: float
    high: float

    def __init__(self, low: float = -0.05, high: float = 0.05) -> None:
        low = _validate.real("low", low)
        high = _validate.real("high", high, low, open_low=True)
        if math.isinf(high - low):
            raise ValueError(f"high - low must be finite, got {low!r} and {high!r}")
        self._take(low=low, high=high)

    def _array(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        return rng.uniform(self.low, self.high, shape)


class TruncatedNormal(Elementwise):
    """Normal distribution N(mean, std²) of which only a part is drawn.

    Values are mean + std z, where z has the standard normal distribution, given that
    low ≤ z ≤ high.

    Parameters
    ----------
    std : float
        Standard deviation before truncation, > 0. With the default limits, that of
        the values is 0.8796 times as large.
    low, high : float
        Limits in units of ``std``, from -1000 to 1000; ``high`` is above ``low``.
        PyTorch's limits are
        a = mean + std low and b = mean + std high; those of Keras are always -2 and 2.
    mean : float
        Mean before truncation.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("std", "low", "high", "mean")
    std: float
    low: float
    high: float
    mean: float

    def __init__(
        self,
        std: float = 0.05,
        low: float = -2.0,
        high: float = 2.0,
        *,
        mean: float = 0.0,
    ) -> None:
        low = _validate.real("low", low, -1000.0, 1000.0)
        self._take(
            std=_positive("std", std),
            low=low,
            high=_validate.real("high", high, low, 1000.0, open_low=True),
            mean=_validate.real("mean", mean),
        )

    def _array(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        z = _truncated(rng, math.prod(shape), self.low, self.high)
        return self.mean + self.std * z.reshape(shape)


def _truncated(rng: Rng, size: int, low: float, high: float) -> Array:
    """Draw from the standard normal distribution between two limits.

    This is von Neumann's rejection: a uniform number z of the interval is kept with the
    probability exp((m² - z²) / 2), where m is the number of the interval nearest to 0,
    and the others are drawn again. It needs no function of the C library, as NumPy's
    normal numbers do.
    """
    nearest = min(max(low, 0.0), high)
    # Beyond `far` the probability is 0 in float64.
    far = sqrt(nearest * nearest + 1500)
    low, high = max(low, -far), min(high, far)
    kept, found = np.empty(size), 0
    while found < size:
        z = rng.uniform(low, high, size - found)
        chance = np.empty(z.shape)
        exponent = (nearest - z) * (nearest + z) / 2
        _core.kernels.elementary(chance, exponent, "exp")
        z = z[rng.random(z.shape) < chance]
        kept[found : found + len(z)] = z
        found += len(z)
    return kept


class Constant(Elementwise):
    """The same value everywhere.

    Parameters
    ----------
    value : float
        Value.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("value",)
    value: float

    def __init__(self, value: float) -> None:
        self._take(value=_validate.real("value", value))

    def _array(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        return np.full(shape, self.value)


class VarianceScaling(Matrix):
    """A distribution with mean 0 and variance scale / n, where n is a width.

    The families of Glorot & Bengio (2010), He et al. (2015) and LeCun et al. (1998) are
    of this form: he is scale 2, lecun scale 1, and glorot scale 1 with "fan_avg".
    PyTorch's gain is √scale.

    Parameters
    ----------
    scale : float
        Variance times n, > 0.
    mode : {"fan_in", "fan_out", "fan_avg"}
        Width n: that of the input, that of the output, or the mean of both.
    distribution : {"normal", "uniform", "truncated_normal"}
        Distribution. "truncated_normal" is that of Keras and Flax: a normal
        distribution truncated at two of its standard deviations, which are those of the
        variance divided by 0.87962566103423978, so that the variance is scale / n after
        truncation.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("scale", "mode", "distribution")
    scale: float
    mode: str
    distribution: str

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "normal",
    ) -> None:
        kinds = ("normal", "uniform", "truncated_normal")
        self._take(
            scale=_positive("scale", scale),
            mode=_validate.choice("mode", mode, ("fan_in", "fan_out", "fan_avg")),
            distribution=_validate.choice("distribution", distribution, kinds),
        )

    def _array(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        n_in, n_out = shape
        fans = {"fan_in": n_in, "fan_out": n_out, "fan_avg": (n_in + n_out) / 2}
        variance = self.scale / fans[self.mode]
        if self.distribution == "uniform":
            bound = sqrt(3 * variance)
            return rng.uniform(-bound, bound, shape)
        if self.distribution == "normal":
            return rng.normal(0.0, sqrt(variance), shape)
        z = _truncated(rng, math.prod(shape), -2.0, 2.0)
        return sqrt(variance) / TRUNCATED_STD * z.reshape(shape)


class Identity(Matrix):
    """gain on the diagonal and 0 elsewhere; the matrix need not be square.

    Parameters
    ----------
    gain : float
        Value on the diagonal.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("gain",)
    gain: float

    def __init__(self, gain: float = 1.0) -> None:
        self._take(gain=_validate.real("gain", gain))

    def _array(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        n_in, n_out = shape
        return self.gain * np.eye(n_in, n_out)


class Sparse(Matrix):
    """A normal distribution for a part of each unit's inputs, 0 for the others.

    Martens (2010) gives each unit 15 inputs whose weights are not 0. In PyTorch,
    ``sparse_`` counts the zeros in columns of weights (out, in): it leaves out a part
    of each input's units, rather than of each unit's inputs.

    Parameters
    ----------
    sparsity : float
        Fraction, from 0 to 1, of the inputs of each unit whose weights are 0; their
        number is rounded up.
    std : float
        Standard deviation of the other weights, > 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("sparsity", "std")
    sparsity: float
    std: float

    def __init__(self, sparsity: float, std: float = 0.01) -> None:
        self._take(
            sparsity=_validate.real("sparsity", sparsity, 0.0, 1.0),
            std=_positive("std", std),
        )

    def _array(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        n_in, _ = shape
        weight = rng.normal(0.0, self.std, shape)
        # Each column is a random order of the inputs.
        order = rng.random(shape).argsort(axis=0, kind="stable")
        weight[order < math.ceil(self.sparsity * n_in)] = 0.0
        return weight


class Siren(Initializer):
    """The rule of SIREN for networks of sines (Sitzmann et al. 2020).

    For layers sin(w0 (x @ W + b)), the weights are U(±1 / in) in the first dense layer
    and U(±√(6 / in) / w0) in the others, and the biases are U(±1 / √in), as in the
    authors' program. Before the activation "sin", which has no factor w0, the weights
    and biases are multiplied by w0, so that the layer is the same function. Before
    other activations they are not: neither those of a last layer without an activation,
    nor those before an `fastmlp.Activation` that computes sin(w0 z).

    Parameters
    ----------
    w0 : float
        Frequency of the sines, > 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("w0",)
    _draws_biases = True
    w0: float

    def __init__(self, w0: float = 30.0) -> None:
        self._take(w0=_positive("w0", w0))

    def _factor(self, place: Place) -> float:
        return self.w0 if place.activation == "sin" else 1.0

    def _weight(self, rng: Rng, place: Place) -> Array:
        """Return the initial weights (in, out) of a layer, in float64."""
        bound = 1 / place.n_in if place.first else sqrt(6 / place.n_in) / self.w0
        bound *= self._factor(place)
        return rng.uniform(-bound, bound, (place.n_in, place.n_out))

    def _bias(self, rng: Rng, place: Place) -> Array:
        """Return the biases (out,) that go with the weights."""
        bound = self._factor(place) / sqrt(place.n_in)
        return rng.uniform(-bound, bound, place.n_out)


class Orthogonal(Matrix):
    """gain times a Haar-distributed matrix with orthonormal rows or columns.

    The rows are orthonormal if there are not more of them than columns, else the
    columns (Saxe et al. 2014).

    Parameters
    ----------
    gain : float
        Factor, > 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    _names = ("gain",)
    gain: float

    def __init__(self, gain: float = 1.0) -> None:
        self._take(gain=_positive("gain", gain))

    def _array(self, rng: Rng, shape: tuple[int, ...]) -> Array:
        n_in, n_out = shape
        return self.gain * _orthogonal(rng, n_in, n_out)


# Number of vectors in a panel: matrix products project the earlier vectors out of all
# vectors of a panel at once.
_PANEL = 32


def _orthogonal(rng: Rng, n_in: int, n_out: int) -> Array:
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
