"""Linear regions of piecewise linear networks.

A network of dense layers (and residual blocks, and dropout and batch normalisation in
inference mode) with the activations ``relu``, ``leaky_relu`` and ``identity`` is a
piecewise linear function. A unit is active if its pre-activation z is > 0. The
activation pattern of an input says which units are active. The pattern is constant
within each linear piece, and the inputs that share a pattern form a convex polytope
(Montúfar et al. 2014; Hanin & Rolnick 2019). Other activations with straight pieces,
such as ``relu6``, are refused, because they jump or have more than one kink.

Everything is computed in float64 from the model's parameters. Neighbouring regions have
different patterns. They may still have the same slope, if the units that differ do not
affect the output.

With one input, a hidden layer of D relu units makes at most D joints (boundaries
between regions), and K such layers make at most (D + 1)^K regions.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _validate
from ._network import ops
from ._validate.hints import hinted, watch

if TYPE_CHECKING:
    import numpy.typing as npt

    from ._network.ops import Step
    from ._validate import Array
    from .mlp import MLP

__all__ = [
    "LineRegions",
    "WindowRegions",
    "activation_patterns",
    "count_regions",
    "count_regions_2d",
]

KINKED = ("relu", "leaky_relu")
SUPPORTED = ("identity", *KINKED)

# Joints that are closer than this, relative to the line's length, are merged, and a
# line that passes this close to a polygon's corner is taken to pass through it.
COINCIDENT = 1e-12
# A sum that is smaller than this, relative to the sum of its terms' magnitudes, is
# rounding error and set to 0.
ROUNDING = 64 * float(np.finfo(np.float64).eps)


class LineRegions(
    namedtuple("LineRegions", ("count", "joints", "points", "patterns", "slopes"))
):
    """The linear regions along a line, from `count_regions`.

    Attributes
    ----------
    count : int
        Number of regions.
    joints : ndarray (count - 1,)
        Boundaries of the regions, as values of t in start + t (end - start), ascending.
    points : ndarray (count - 1, n_in)
        Boundaries of the regions, as inputs.
    patterns : ndarray of bool (count, units)
        Activation pattern of each region, with the units in the order of
        `activation_patterns`.
    slopes : ndarray (count, n_out)
        Derivative of the outputs with respect to t in each region.
    """

    __slots__ = ()


class WindowRegions(namedtuple("WindowRegions", ("count", "polygons", "patterns"))):
    """The linear regions in a 2-D window, from `count_regions_2d`.

    Attributes
    ----------
    count : int
        Number of regions.
    polygons : list of ndarray (corners, 2), or None
        Corners of each region, in order along its boundary, in coordinates of the
        window; None if the regions were counted on a grid.
    patterns : ndarray of bool (count, units)
        Activation pattern of each region, with the units in the order of
        `activation_patterns`.
    """

    __slots__ = ()


@hinted
def activation_patterns(mlp: MLP, x: npt.ArrayLike) -> Array:
    """Return the activation patterns of inputs.

    Parameters
    ----------
    mlp : MLP
        Piecewise linear network; see `fastmlp.regions`.
    x : (B, n_in) or (n_in,)
        Samples as rows, or one sample.

    Returns
    -------
    ndarray of bool (B, units) or (units,)
        Whether each unit with relu or leaky_relu is active, layer by layer.

    Raises
    ------
    TypeError, ValueError
        If the network is not piecewise linear, or ``x`` has the wrong dtype or shape.
    """
    network = _checked(mlp)
    rows = _validate.inputs("x", x, mlp.n_in, np.dtype(np.float64), vector=True)
    found: list[Array] = []
    outputs: list[Array] = []
    for step in network:
        z, scale = _sum(step, mlp, np.atleast_2d(rows), outputs)
        if step.function.name in KINKED:
            z[abs(z) <= ROUNDING * scale] = 0
            found.append(z > 0)
        outputs.append(_act(step, z))
    patterns = _joined(found, len(outputs[-1]))
    return patterns if rows.ndim == 2 else patterns[0]


@hinted
def count_regions(mlp: MLP, start: npt.ArrayLike, end: npt.ArrayLike) -> LineRegions:
    """Count exactly the linear regions that a straight line crosses.

    The joints are found layer by layer: on a piece where the earlier layers are linear,
    each unit's z is linear as well, and there is a joint where z changes sign. The
    joints are exact to within float64 rounding; joints closer than 1e-12 of the line's
    length are merged.

    Parameters
    ----------
    mlp : MLP
        Piecewise linear network; see `fastmlp.regions`.
    start, end : (n_in,) or float if n_in is 1
        Ends of the line, two different points.

    Returns
    -------
    LineRegions
        The regions: ``count``, ``joints``, ``points``, ``patterns``, ``slopes``.

    Raises
    ------
    TypeError, ValueError
        If the network is not piecewise linear, or the ends have the wrong dtype or
        shape, are not finite, or are equal.

    Examples
    --------
    >>> import fastmlp as fm
    >>> mlp = fm.MLP([1, 2, 1], dtype="float64", seed=0)
    >>> mlp.weights[0][:], mlp.biases[0][:] = [1, 1], [0, -1]
    >>> lines = fm.regions.count_regions(mlp, -2, 2)
    >>> lines.count, lines.points.ravel().tolist()
    (3, [0.0, 1.0])
    """
    network = _checked(mlp)
    a, b = (_point(n, v, mlp.n_in) for n, v in (("start", start), ("end", end)))
    if (a == b).all():
        raise ValueError(f"start and end must be different points, got {a} twice")

    # `values` holds the outputs of each step at the ends and at the joints found so
    # far; between neighbouring points the outputs are linear.
    t = np.array([0.0, 1.0])
    values: dict[int, Array] = {ops.INPUT: np.stack([a, b])}
    found: list[Array] = []
    uses = ops.last_uses(network)
    for i, step in enumerate(network):
        z, scale = _sum(step, mlp, values[ops.INPUT], values)
        if step.function.name in KINKED:
            z[abs(z) <= ROUNDING * scale] = 0
            new, zeros = _crossings(t, z)
            if len(new):
                place = np.searchsorted(t, new)
                z = _refined(t, z, new, place)
                values = {k: _refined(t, v, new, place) for k, v in values.items()}
                parent = np.insert(np.arange(len(t)), place, place - 1)[:-1]
                found = [pattern[parent] for pattern in found]
                t = np.insert(t, place, new)
            for at, unit in zeros:
                z[np.searchsorted(t, at), unit] = 0
            found.append(z[:-1] + z[1:] > 0)
        values[i] = _act(step, z)
        for k in [k for k in values if k not in (ops.INPUT, i) and uses[k] <= i]:
            del values[k]

    joints = t[1:-1]
    y = values[len(network) - 1]
    return LineRegions(
        count=len(t) - 1,
        joints=joints,
        points=a + joints[:, np.newaxis] * (b - a),
        patterns=_joined(found, len(t) - 1),
        slopes=np.diff(y, axis=0) / np.diff(t)[:, np.newaxis],
    )


@hinted
def count_regions_2d(
    mlp: MLP, window: npt.ArrayLike, resolution: int | None = None
) -> WindowRegions:
    """Count the linear regions in a 2-D window of the inputs.

    Without ``resolution`` the count is exact to within float64 rounding: layer by
    layer, the window is cut into convex polygons along the lines on which a unit's z is
    0. With ``resolution``, the different patterns at the points of a grid are counted.
    This gives a lower bound (except when points lie exactly on a boundary) for networks
    that have too many regions for the exact method.

    Parameters
    ----------
    mlp : MLP
        Piecewise linear network; see `fastmlp.regions`.
    window : (2, 2) or (3, n_in)
        Window. For a network with two inputs, ((x_low, x_high), (y_low, y_high)); for
        any network, a corner and its two neighbours, which span a parallelogram with
        coordinates from 0 to 1 along its sides.
    resolution : int, optional
        Number of grid points along each side, at least 2.

    Returns
    -------
    WindowRegions
        The regions: ``count``, ``polygons``, ``patterns``.

    Raises
    ------
    TypeError, ValueError
        If the network is not piecewise linear, or the window has the wrong dtype or
        shape, is not finite, or has no area.
    """
    network = _checked(mlp)
    low, high, corner, sides = _window(window, mlp.n_in)
    if resolution is not None:
        resolution = _validate.count("resolution", resolution, 2)
        u, v = np.meshgrid(*2 * (np.linspace(0, 1, resolution),))
        grid = np.stack([u.ravel(), v.ravel()], axis=1)
        patterns = activation_patterns(mlp, corner + grid @ sides)
        different = np.unique(patterns, axis=0)
        return WindowRegions(len(different), None, different)

    # `values` holds the outputs of each step at the corners of the polygons; within a
    # polygon, the outputs are linear.
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    sizes = [4]
    values = {ops.INPUT: corner + square @ sides}
    places = square
    patterns = np.zeros((1, 0), bool)
    uses = ops.last_uses(network)
    for i, step in enumerate(network):
        z, scale = _sum(step, mlp, values[ops.INPUT], values)
        if step.function.name in KINKED:
            z[abs(z) <= ROUNDING * scale] = 0
            # All values at the polygons' corners are joined into one table, so that one
            # pass of cuts interpolates all of them.
            keys = list(values)
            table = np.hstack([z, places, *(values[k] for k in keys)])
            table, sizes, parents, active = _cut(table, sizes, z.shape[1])
            patterns = np.hstack([patterns[parents], active])
            ends = np.cumsum([z.shape[1], 2, *(values[k].shape[1] for k in keys)])
            z, places, *parts = np.split(table, ends[:-1], axis=1)
            values = dict(zip(keys, parts, strict=True))
        values[i] = _act(step, z)
        for k in [k for k in values if k not in (ops.INPUT, i) and uses[k] <= i]:
            del values[k]
    corners = np.split(low + places * (high - low), np.cumsum(sizes)[:-1])
    return WindowRegions(len(sizes), corners, patterns)


# Piecewise linear networks ----------------------------------------------------------


def _checked(mlp: MLP) -> list[Step]:
    """Return the network's steps; raise ValueError if it is not piecewise linear."""
    network = ops.steps(mlp)
    for step in network:
        linear = step.layer is None or step.layer.is_linear
        if not linear or step.function.name not in SUPPORTED:
            what = step.activation if linear else type(step.layer).__name__
            raise ValueError(
                "mlp must be piecewise linear, with only the activations "
                f"{', '.join(SUPPORTED)}, but layer {step.name} has {what}"
            )
    return network


def _sum(step: Step, mlp: MLP, x: Array, outputs: Any) -> tuple[Array, Array]:
    """Return the step's z, and the sum of the magnitudes of the terms of each z."""
    h = x if step.source == ops.INPUT else outputs[step.source]
    if len(step.sources) > 1:
        other = x if step.other == ops.INPUT else outputs[step.other]
        if step.kind == "concat":
            z = np.concatenate([h, other], axis=-1)
            return z, abs(z)
        return h + other, abs(h) + abs(other)
    map_ = ops.affine(step, mlp)
    if map_ is None:
        return h.copy(), abs(h)
    a, c = map_
    if a.ndim == 1:
        return h * a + c, abs(h * a) + abs(c)
    return h @ a + c, abs(h) @ abs(a) + abs(c)


def _act(step: Step, z: Array) -> Array:
    if step.function.name == "identity":
        return z
    slope = step.function.constants.get("slope", 0.0)  # where z < 0
    return np.where(z > 0, z, slope * z)


def _joined(found: list[Array], rows: int) -> Array:
    return np.hstack(found) if found else np.zeros((rows, 0), bool)


def _point(name: str, value: object, n_in: int) -> Array:
    if n_in == 1 and np.ndim(value) == 0:  # type: ignore[arg-type]
        value = [value]
    array = _validate.convert(name, value, np.dtype(np.float64))
    if array.shape != (n_in,):
        raise ValueError(
            f"{name} must have shape ({n_in},), got {_validate.describe(array)}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array}")
    return array


def _window(window: object, n_in: int) -> tuple[Array, Array, Array, Array]:
    """Return the bounds of the window's coordinates, its corner and its two sides."""
    array = _validate.convert("window", window, np.dtype(np.float64))
    wanted = "((x_low, x_high), (y_low, y_high)) for a network with two inputs, or "
    wanted += f"three corners of shape (3, {n_in})"
    if array.shape == (2, 2) and n_in == 2:
        low, high = array.T
        corner, sides = low, np.diag(high - low)
    elif array.shape == (3, n_in):
        low, high = np.zeros(2), np.ones(2)
        corner, sides = array[0], array[1:] - array[0]
    else:
        raise ValueError(f"window must be {wanted}; got {_validate.describe(array)}")
    if not np.isfinite(array).all():
        raise ValueError(f"window must be finite, got {array.tolist()}")
    if np.linalg.matrix_rank(sides) < 2 or not (low < high).all():
        raise ValueError(
            f"window must have an area greater than 0, got {array.tolist()}"
        )
    return low, high, corner, sides


# A line -----------------------------------------------------------------------------


def _crossings(t: Array, z: Array) -> tuple[Array, list[tuple[float, int]]]:
    """Return the new joints, and (t, unit) for all zeros of z, even at old joints."""
    piece, unit = np.nonzero(np.sign(z[:-1]) * np.sign(z[1:]) < 0)
    if not len(piece):
        return np.empty(0), []
    left, right = z[piece, unit], z[piece + 1, unit]
    at = t[piece] + (t[piece + 1] - t[piece]) * (left / (left - right))
    order = np.argsort(at, kind="stable")
    new: list[float] = []
    zeros: list[tuple[float, int]] = []
    for k in order:
        near = [t[piece[k]], t[piece[k] + 1], *new[-1:]]
        place = min(near, key=lambda v: abs(v - at[k]))
        if abs(place - at[k]) > COINCIDENT:
            place = float(at[k])
            new.append(place)
        zeros.append((place, int(unit[k])))
    return np.array(new), zeros


def _refined(t: Array, values: Array, new: Array, place: Array) -> Array:
    """Return values at old and new joints by linear interpolation."""
    left, right = t[place - 1], t[place]
    part = ((new - left) / (right - left))[:, np.newaxis]
    between = values[place - 1] * (1 - part) + values[place] * part
    return np.insert(values, place, between, axis=0)


# A window ---------------------------------------------------------------------------


def _cut(
    table: Array, sizes: list[int], units: int
) -> tuple[Array, list[int], list[int], Array]:
    """Cut polygons where a unit's z is 0; the first ``units`` columns hold z.

    Returns the table and the sizes of the new polygons, the index of the old polygon
    that each new one was cut from, and which units are active in each new polygon.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    lows = np.minimum.reduceat(table[:, :units], starts, axis=0)
    highs = np.maximum.reduceat(table[:, :units], starts, axis=0)
    crossed = (lows < 0) & (highs > 0)
    parts: list[Array] = []
    parents: list[int] = []
    for i, (start, count) in enumerate(zip(starts, sizes, strict=True)):
        pieces = [table[start : start + count]]
        for unit in np.flatnonzero(crossed[i]):
            pieces = [half for piece in pieces for half in _halves(piece, unit)]
        parts += pieces
        parents += [i] * len(pieces)
    active = np.stack([part[:, :units].sum(axis=0) > 0 for part in parts])
    return np.vstack(parts), [len(p) for p in parts], parents, active


def _halves(polygon: Array, unit: Any) -> list[Array]:
    """Cut a convex polygon, or return it whole if the line misses its interior."""
    z = polygon[:, unit]
    # Otherwise rounding could leave a sliver where three lines meet in a point.
    z[abs(z) <= COINCIDENT * abs(z).max()] = 0
    if not (z.min() < 0 < z.max()):
        return [polygon]
    sides: tuple[list[Array], list[Array]] = ([], [])
    for k, row in enumerate(polygon):
        if row[unit] >= 0:
            sides[0].append(row)
        if row[unit] <= 0:
            sides[1].append(row)
        after = polygon[(k + 1) % len(polygon)]
        if row[unit] * after[unit] < 0:
            part = row[unit] / (row[unit] - after[unit])
            corner = row * (1 - part) + after * part
            corner[unit] = 0
            sides[0].append(corner)
            sides[1].append(corner)
    return [np.stack(side) for side in sides]


watch(__name__)
