"""A check of gradients by finite differences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._validate.hints import hinted

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from .._validate import Array

# Errors of very small elements are divided by this fraction of the largest element
# instead of by the element itself.
SMALL = 1e-3


@hinted
def check_grad(
    f: Callable[[Array], Any],
    x: npt.ArrayLike,
    grad: Callable[[Array], npt.ArrayLike] | npt.ArrayLike | None = None,
    *,
    step: float | None = None,
    elements: int | None = None,
    seed: int = 0,
) -> float:
    """Return the largest relative error of a gradient, by central differences.

    Parameters
    ----------
    f : callable
        Function of an array of x's shape that returns a number or, if ``grad`` is not
        given, a pair (number, gradient), like ``loss.value_and_grad``.
    x : array_like
        Point at which to check, of any shape. Integers become float64.
    grad : callable or array_like, optional
        Gradient to check, of x's shape, or a function of x that returns it.
    step : float, optional
        Relative step of the central differences: f is evaluated at xᵢ plus and minus
        step · max(1, abs(xᵢ)). None means the cube root of the dtype's eps (6e-6 in
        float64), which balances the truncation error (∝ step²) and the rounding error
        (∝ eps / step).
    elements : int, optional
        Number of elements of x to check, drawn at random; None checks all. Each element
        takes two calls of f.
    seed : int
        Seed for drawing the elements.

    Returns
    -------
    float
        The largest abs(gᵢ - dᵢ) / max(abs(gᵢ), abs(dᵢ), s) over the elements checked,
        with d the differences and s a thousandth of the largest abs(gᵢ) or abs(dᵢ); 0
        if all are zero. If the gradient is right, the error is about 1e-9 in float64
        and 1e-3 in float32; if the gradient is wrong, it is about 1. It is NaN if an
        element of the gradient or a difference is NaN.

    Raises
    ------
    TypeError, ValueError
        If f does not return a number (without ``grad``: a pair), the gradient does not
        have x's shape, or x is empty or not finite.

    Notes
    -----
    At a kink (relu at 0) differences do not approximate the derivative. Check models in
    float64: rounding in float32 hides errors of less than a percent.

    Examples
    --------
    >>> import numpy as np, fastmlp as fm
    >>> fm.check_grad(lambda x: (x**3).sum(), [1.0, 2.0], lambda x: 3 * x**2) < 1e-8
    True
    """
    if not callable(f):
        raise TypeError(f"f must be callable, got {_validate.describe(f)}")
    array = np.asarray(_validate.numeric("x", x))
    dtype = array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)
    point = np.array(array, dtype=dtype, order="C")
    if point.size == 0:
        raise ValueError(
            f"x must have at least one element, got {_validate.describe(point)}"
        )
    if not np.isfinite(point).all():
        bad = point[~np.isfinite(point)][0]
        raise ValueError(f"all elements of x must be finite, got {bad}")
    if step is None:
        step = float(np.finfo(dtype).eps) ** (1 / 3)
    else:
        step = _validate.real("step", step, 0, open_low=True)

    # The gradient to check.
    if grad is None:
        pair = f(point.copy())
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(
                "f must return a pair (value, gradient) if grad is not given, got "
                f"{_validate.describe(pair)}"
            )
        given = pair[1]
    else:
        given = grad(point.copy()) if callable(grad) else grad
    gradient = np.asarray(_validate.numeric("grad", given), dtype=np.float64)
    if gradient.shape != point.shape:
        raise ValueError(
            f"grad must have the shape of x, {point.shape}, got shape {gradient.shape}"
        )

    # Differences, element by element.
    chosen = np.arange(point.size)
    if elements is not None:
        count = _validate.count("elements", elements, 1)
        if count < point.size:
            rng = np.random.default_rng(seed)
            chosen = np.sort(rng.choice(point.size, count, replace=False))

    def value(index: int, number: np.floating[Any]) -> float:
        moved = point.copy()
        moved.reshape(-1)[index] = number
        result = f(moved)
        if grad is None and isinstance(result, tuple):
            result = result[0]
        number_only = np.asarray(result)
        if number_only.size != 1 or number_only.dtype.kind not in "fiub":
            raise TypeError(f"f must return a number, got {_validate.describe(result)}")
        return float(number_only.reshape(()))

    differences = np.empty(chosen.size)
    for i, index in enumerate(chosen.tolist()):
        at = point.reshape(-1)[index]
        half = dtype.type(step * max(1.0, abs(float(at))))
        above, below = at + half, at - half
        # The actual distance between the two points, which may differ from 2 * half
        # because of rounding.
        distance = float(above) - float(below)
        if distance == 0:
            raise ValueError(
                f"step must be large enough to change x, got {step!r} for "
                f"x[{index}] = {at}"
            )
        differences[i] = (value(index, above) - value(index, below)) / distance

    checked = gradient.reshape(-1)[chosen]
    size = np.maximum(abs(checked), abs(differences))
    if np.isnan(size).any():
        return math.nan
    largest = float(size.max())
    if largest == 0:
        return 0.0
    error = abs(checked - differences) / np.maximum(size, SMALL * largest)
    return float(error.max())
