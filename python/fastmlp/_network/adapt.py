"""The method of the model that learns statistics from data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from ..initializers import preceding
from ..layers import Layer, PiecewiseLinear, Standardise
from .inputs import check_finite, inputs
from .model import Model, empty

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

    from .._validate import Array

# Elements of a layer's input that are processed at a time. Results depend on it.
_BLOCK = 1 << 18


class Adaptation(Model):
    """Statistics that are learnt from data rather than by gradients."""

    def adapt(self, x: npt.ArrayLike, y: npt.ArrayLike | None = None) -> None:
        """Learn the statistics of `Standardise` and `PiecewiseLinear` layers from data.

        Each `Standardise` layer gets the mean and the biased variance of each column of
        its input, which is ``x`` if the layer is the first one. A layer that comes
        later gets those of the outputs, at inference, of the layers before it, which
        have learnt theirs. The inverse layer at the end gets those of the targets
        ``y``. Each `PiecewiseLinear` layer gets its bins from the quantiles of its
        input. Call it before `fit`; parameters stay as they are.

        Parameters
        ----------
        x : (B, n_in)
            Samples as rows, all finite.
        y : (B, n_out), or (B,) if n_out is 1, optional
            Targets, all finite. They must be given if the last layer is
            ``Standardise(inverse=True)``, and otherwise left out.

        Raises
        ------
        TypeError, ValueError
            If the model has none of these layers, an array has the wrong kind or
            shape or is not finite, or a variance is outside of the range of the model's
            dtype. A sparse ``x`` is refused unless the first layer is dense. The model
            is then unchanged.

        Notes
        -----
        Sums are in float64, by blocks of rows that are combined as in Chan, Golub &
        LeVeque (1983). A constant column gets the variance 1, so that it becomes 0, as
        in scikit-learn's ``StandardScaler`` and by its test: the variance is at most
        what rounding makes of a constant, ``B eps var + (B eps mean)²``. (Keras divides
        by a deviation of at least 1e-7 instead.) The limits of n bins are the n + 1
        evenly spaced quantiles of ``numpy.quantile``, of which equal ones count once.
        The whole input of a `PiecewiseLinear` layer is kept in memory for them.

        Examples
        --------
        >>> import numpy as np, fastmlp as fm
        >>> mlp = fm.MLP([2, fm.Standardise(), 16, 1], seed=0)
        >>> x = np.array([[1.0, 7.0], [5.0, 7.0]])
        >>> mlp.adapt(x)
        >>> mlp.state_dict()["0.mean"].tolist(), mlp.state_dict()["0.var"].tolist()
        ([3.0, 7.0], [4.0, 1.0])
        """
        rows = inputs(self, "x", x)
        check_finite("x", rows)
        last = self.layers[-1]
        has_inverse = isinstance(last, Standardise) and last.inverse
        forward = [
            (layer, before, width)
            for layer, before, width in preceding(self.layers, self.n_in)
            if isinstance(layer, PiecewiseLinear)
            or (isinstance(layer, Standardise) and not layer.inverse)
        ]
        if not forward and not has_inverse:
            raise ValueError(
                "adapt needs a model with an fm.Standardise or fm.PiecewiseLinear layer"
            )
        targets = self._targets(y, len(rows)) if has_inverse else None
        if y is not None and not has_inverse:
            raise ValueError(
                "y must be left out unless the last layer is "
                f"fm.Standardise(inverse=True), but it is {last!r}"
            )

        buffers = self.buffers.copy()
        for layer, before, width in forward:
            part = self._part(before, buffers)
            start = 0 if part is None else part.buffers.size
            name = "the input of a later layer" if before else "x"
            parts = _parts(rows, width, part)
            if isinstance(layer, PiecewiseLinear):
                found = _bins(name, parts, layer.n, self.dtype)
            else:
                found = _statistics(name, parts, self.dtype)
            buffers[start : start + found.size] = found
        if targets is not None:
            found = _statistics("y", _parts(targets, self.n_out), self.dtype)
            buffers[-found.size :] = found
        self.buffers[:] = buffers

    def _targets(self, y: object, rows: int) -> Array:
        if y is None:
            raise ValueError(
                "y must be given, because the last layer, "
                "fm.Standardise(inverse=True), has the statistics of the targets"
            )
        array = _validate.numeric("y", y)
        shapes = [(rows, self.n_out), *[(rows,)] * (self.n_out == 1)]
        if array.shape not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise ValueError(
                f"y must have shape {wanted}, got {_validate.describe(array)}"
            )
        _validate.finite("y", array)
        return array.reshape(rows, self.n_out)

    def _part(self, before: Sequence[Layer], buffers: Array) -> Model | None:
        """Return a model of the first layers; None if there are none."""
        if not before:
            return None
        part = empty([self.n_in, *before], self.dtype, compute_dtype=self.compute_dtype)
        part.params[:] = self.params[: part.n_params]
        part.buffers[:] = buffers[: part.buffers.size]
        return part


def _parts(rows: Any, width: int, part: Model | None = None) -> Iterator[Array]:
    """Yield a matrix, or the last columns of a model's outputs for it, in blocks."""
    n = width if part is None else part.n_out
    size = max(1, _BLOCK // n)
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        if part is not None:
            block = _validate.accepted(part.core.predict(block, None))
        yield block[:, n - width :]


@_validate.reproducible
def _statistics(name: str, parts: Iterable[Array], dtype: np.dtype[Any]) -> Array:
    """Return the means of all columns, then their variances, or 1 for constants."""
    count, mean, squares = 0, np.zeros(0), np.zeros(0)
    for part in parts:
        block = np.ascontiguousarray(part, np.float64)
        m, n = block.shape
        if count == 0:
            mean, squares = np.zeros(n), np.zeros(n)
        its_mean, its_var = np.empty(n), np.empty(n)
        _core.kernels.column_moments(its_mean, its_var, block)
        with np.errstate(all="ignore"):
            between = its_mean - mean
            squares += its_var * m + between * between * (count * m / (count + m))
            mean += between * (m / (count + m))
        count += m
    eps = np.finfo(np.float64).eps
    with np.errstate(all="ignore"):
        var = squares / count
        is_constant = var <= count * eps * var + (count * eps * mean) ** 2
    var[is_constant] = 1.0
    limits = np.finfo(dtype)
    usable = (var >= limits.tiny) & (var <= limits.max) & (abs(mean) <= limits.max)
    if not usable.all():
        j = int(np.argmin(usable))
        raise ValueError(
            f"{name} must have means and variances within the range of {dtype}, got a "
            f"mean of {mean[j]:g} and a variance of {var[j]:g} in column {j}"
        )
    return np.concatenate([mean, var]).astype(dtype)


@_validate.reproducible
def _bins(name: str, parts: Iterable[Array], n: int, dtype: np.dtype[Any]) -> Array:
    """Return the lower limits of n bins of each column, then their slopes.

    The bins are the first ones and the last one of a column with fewer than n; the
    others have the slope 0.
    """
    whole = np.concatenate([part.astype(np.float64) for part in parts])
    if not np.isfinite(whole).all():
        raise ValueError(f"{name} must be within the range of {dtype}")
    limits = np.quantile(whole, np.linspace(0, 1, n + 1), axis=0).astype(dtype)
    columns = limits.shape[1]
    lower, slope = np.zeros((columns, n), dtype), np.zeros((columns, n), dtype)
    for j in range(columns):
        ends = np.unique(limits[:, j])
        with np.errstate(all="ignore"):
            slopes = 1 / np.diff(ends)
        if not np.isfinite(slopes).all():
            raise ValueError(
                f"{name} must have different values that {dtype} can tell apart, but "
                f"those in column {j} are too close to 0"
            )
        lower[j] = ends[0]
        if slopes.size:
            first = slopes.size - 1
            lower[j, :first], slope[j, :first] = ends[:first], slopes[:first]
            lower[j, -1], slope[j, -1] = ends[first], slopes[first]
    return np.concatenate([lower.ravel(), slope.ravel()])
