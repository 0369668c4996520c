"""Plots of the function that a network computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from .. import _validate
from .. import regions as _regions
from .._network import ops
from .._validate.hints import hinted
from ._style import (
    BLUE,
    COLOURS,
    GREY,
    LEVELS,
    MARKERS,
    OUTSIDE,
    RED,
    SKY,
    around,
    axes,
    figure,
    in_legend,
    light,
    margin,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from .._validate import Array
    from ..mlp import MLP


@hinted
def fit_1d(
    mlp: MLP,
    x: npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    *,
    output: int = 0,
    points: int = 1001,
    fig: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw a function of one input together with the data it was fitted to.

    If the network is piecewise linear, the joints between its pieces are marked, and a
    second panel shows the activation pattern of each piece: the units that are active
    on it.

    Parameters
    ----------
    mlp : MLP
        Model with one input.
    x : (N,) or (N, 1)
        Inputs of the data, with at least two different values; the function is drawn
        over their range.
    y : (N,) or (N, n_out), optional
        Targets of the data.
    output : int
        Index of the output to draw.
    points : int
        Number of points of the curve, at least 2.
    fig : Figure or SubFigure, optional
        Figure to draw into.

    Returns
    -------
    Figure or SubFigure
        ``fig``, or a new figure.

    Raises
    ------
    TypeError, ValueError
        If the model has several inputs, or an argument has the wrong type or shape.
    """
    if ops.checked(mlp).n_in != 1:
        raise ValueError(f"mlp must have one input, got {mlp.n_in}")
    output = _output(output, mlp.n_out)
    points = _validate.count("points", points, 2)
    at = _validate.numeric("x", x).ravel().astype(np.float64)
    if at.size < 2 or not np.isfinite(at).all() or at.min() == at.max():
        raise ValueError(
            "x must be finite and have at least two different values, got "
            f"{_validate.describe(at)}"
        )
    if y is not None:
        targets = _validate.numeric("y", y)
        if targets.shape[:1] != (len(at),) or targets.ndim > 2:
            got = _validate.describe(targets)
            raise ValueError(f"y must have as many rows as x, {len(at)}, got {got}")
        targets = targets.reshape(len(at), -1)
        target = targets[:, output if targets.shape[1] > 1 else 0]
    low, high = float(at.min()), float(at.max())
    try:
        lines = _regions.count_regions(mlp, low, high)
    except ValueError:  # the network is not piecewise linear
        lines = None
    patterned = lines is not None and lines.patterns.shape[1] > 0
    line = np.linspace(low, high, points)
    curve = _values(mlp, line[:, np.newaxis], output)
    place = OUTSIDE if fig is None else {}
    fig = figure(fig, (7.2, 6.0 if patterned else 4.0))
    heights = [2, 1][: 1 + patterned]
    grid = fig.subplots(
        1 + patterned, 1, sharex=True, squeeze=False, height_ratios=heights
    )[:, 0]

    # The function.
    ax = grid[0]
    if y is not None:
        style = {"s": 14, "alpha": 0.5 if len(at) > 30 else 1.0, "linewidths": 0}
        ax.scatter(at, target, color=GREY, label="data", **style)
    ax.plot(line, curve, color=BLUE, label="fit")
    title = "Fit"
    if lines is not None:
        title = (
            f"Fit of {lines.count} linear {'pieces' if lines.count > 1 else 'piece'}"
        )
        if len(lines.joints):
            ax.plot(
                lines.points[:, 0],
                _values(mlp, lines.points, output),
                linestyle="none",
                marker="o",
                markersize=6,
                markerfacecolor="white",
                color=RED,
                label=f"joints ({len(lines.joints)})",
            )
    ax.set(ylabel="y", title=title)
    ax.legend(**place)
    light(ax)

    # Draw the patterns: a row for each unit, white where the unit is inactive.
    if lines is not None and patterned:
        edges = np.array([low, *lines.points[:, 0], high])
        rows = np.arange(lines.patterns.shape[1] + 1) + 0.5
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        grid[1].pcolormesh(
            edges,
            rows,
            lines.patterns.T.astype(float),
            cmap=ListedColormap(["white", SKY]),
            vmin=0,
            vmax=1,
        )
        if len(lines.joints) <= 60:
            grid[1].vlines(edges[1:-1], rows[0], rows[-1], color=GREY, linewidth=0.5)
        grid[1].set(
            ylabel="unit", title="Activation patterns", ylim=(rows[-1], rows[0])
        )
        whole(grid[1].yaxis)
        grid[1].legend(
            handles=[
                Patch(facecolor=SKY, edgecolor=GREY, label="active"),
                Patch(facecolor="white", edgecolor=GREY, label="inactive"),
            ],
            **place,
        )
    grid[-1].set(xlabel="x", xlim=(low, high))
    return fig


@hinted
def decision_regions(
    mlp: MLP,
    x: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    names: Sequence[str] | None = None,
    resolution: int = 200,
    ax: Axes | None = None,
) -> Axes:
    """Draw the classes that a classifier assigns to points in the plane, and the data.

    Parameters
    ----------
    mlp : MLP
        Model with two inputs. The class is the index of the largest output; for a model
        with one output, it is 1 where the output is positive (for a sigmoid, above one
        half), else 0.
    x : (N, 2)
        Data points.
    labels : (N,) or (N, 1) of int
        Classes of the points, counted from 0 (for a model with one output, -1 and 1
        mean classes 0 and 1).
    names : sequence of str, optional
        Names of the classes.
    resolution : int
        Number of grid points along each side, at least 2.
    ax : Axes, optional
        Axes to draw into.

    Returns
    -------
    Axes
        ``ax``, or the axes of a new figure.

    Raises
    ------
    TypeError, ValueError
        If the model does not have two inputs, a label is out of range, or an argument
        has the wrong type or shape.
    """
    if ops.checked(mlp).n_in != 2:
        raise ValueError(f"mlp must have two inputs, got {mlp.n_in}")
    resolution = _validate.count("resolution", resolution, 2)
    data = _validate.inputs("x", x, 2, np.dtype(np.float64))
    _validate.finite("x", data)
    classes = max(mlp.n_out, 2)
    known = _validate.numeric("labels", labels).ravel()
    if known.shape != (len(data),):
        raise ValueError(
            f"labels must have shape ({len(data)},), got shape {known.shape}"
        )
    if mlp.n_out == 1:
        known = np.where(known == -1, 0, known)
    bad = known[~np.isin(known, np.arange(classes))]
    if bad.size > 0:
        raise ValueError(
            f"labels must be classes from 0 to {classes - 1}, got {bad[0]}"
        )
    if names is None:
        names = [f"class {k}" for k in range(classes)]
    if len(names) != classes:
        raise ValueError(
            f"names must have one entry for each of the {classes} classes, "
            f"got {len(names)}"
        )

    # The plane.
    (x_low, x_high), (y_low, y_high) = (margin(column) for column in data.T)
    grid_x = np.linspace(x_low, x_high, resolution)
    grid_y = np.linspace(y_low, y_high, resolution)
    out = _values(mlp, _grid(grid_x, grid_y))
    if mlp.n_out == 1:
        last = ops.steps(mlp)[-1].activation
        won = (out[:, 0] > (0.5 if last == "sigmoid" else 0.0)).astype(int)
    else:
        won = out.argmax(axis=1)
    won = won.reshape(resolution, resolution)
    ax = axes(ax, (6.0, 5.0))
    from matplotlib.colors import ListedColormap

    colours = [COLOURS[k % len(COLOURS)] for k in range(classes)]
    ax.pcolormesh(
        grid_x,
        grid_y,
        won,
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=classes - 0.5,
        alpha=0.25,
        shading="nearest",
        linewidth=0,
        rasterized=True,
    )
    for k in range(classes):
        if (won == k).any() and (won != k).any():
            ax.contour(grid_x, grid_y, won == k, [0.5], colors="black", linewidths=0.8)

    # The data.
    for k in range(classes):
        points = data[known == k]
        ax.scatter(
            points[:, 0],
            points[:, 1],
            s=28,
            marker=MARKERS[k % len(MARKERS)],
            color=colours[k],
            edgecolors="white",
            linewidths=0.5,
            label=in_legend(str(names[k])),
        )
    ax.set(
        xlabel="$x_1$",
        ylabel="$x_2$",
        title="Decision regions",
        xlim=(x_low, x_high),
        ylim=(y_low, y_high),
    )
    ax.legend(loc="upper right", framealpha=0.9)
    return ax


@hinted
def level_sets(
    mlp: MLP,
    window: npt.ArrayLike = ((-1, 1), (-1, 1)),
    *,
    output: int = 0,
    levels: int | Sequence[float] = LEVELS,
    resolution: int = 200,
    ax: Axes | None = None,
) -> Axes:
    """Draw contour lines of a function of two inputs.

    Parameters
    ----------
    mlp : MLP
        Model with two inputs.
    window : (2, 2)
        Range of the inputs, ((x_low, x_high), (y_low, y_high)).
    output : int
        Index of the output to draw.
    levels : int or sequence of float
        Approximate number of levels, or the levels themselves.
    resolution : int
        Number of grid points along each side, at least 2.
    ax : Axes, optional
        Axes to draw into.

    Returns
    -------
    Axes
        ``ax``, or the axes of a new figure.

    Raises
    ------
    TypeError, ValueError
        If the model does not have two inputs, or an argument has the wrong type or
        shape or is out of range.
    """
    if isinstance(levels, (int, np.integer)):
        levels = _validate.count("levels", levels, 1)
    else:
        levels = sorted(_validate.reals("levels", levels, -np.inf))
    if ops.checked(mlp).n_in != 2:
        raise ValueError(f"mlp must have two inputs, got {mlp.n_in}")
    output = _output(output, mlp.n_out)
    resolution = _validate.count("resolution", resolution, 2)
    low, high = _regions._window(window, 2)[:2]
    x, y = (np.linspace(a, b, resolution) for a, b in zip(low, high, strict=True))
    z = _values(mlp, _grid(x, y), output).reshape(resolution, resolution)
    finite = z[np.isfinite(z)]
    if np.ptp(finite) == 0:
        levels = around(finite[0])
    ax = axes(ax, (6.2, 5.0))
    filled = ax.contourf(x, y, z, levels, cmap="viridis")
    drawn = np.asarray(filled.levels)
    lines = ax.contour(x, y, z, drawn, colors="white", linewidths=0.7)
    ax.clabel(lines, drawn[::2], fontsize="small")
    name = "output" if mlp.n_out == 1 else f"output {output}"
    ax.figure.colorbar(filled, ax=ax, label=name)
    ax.set(xlabel="$x_1$", ylabel="$x_2$", title=f"Level sets, {name}")
    return ax


@hinted
def linear_regions(
    mlp: MLP, window: npt.ArrayLike = ((-1, 1), (-1, 1)), *, ax: Axes | None = None
) -> Axes:
    """Draw the linear regions of a piecewise linear network in a window.

    Parameters
    ----------
    mlp : MLP
        Piecewise linear network; see `fastmlp.regions`.
    window : (2, 2) or (3, n_in)
        Window in the plane, given as for `fastmlp.regions.count_regions_2d`.
    ax : Axes, optional
        Axes to draw into.

    Returns
    -------
    Axes
        ``ax``, or the axes of a new figure.

    Raises
    ------
    TypeError, ValueError
        If `fastmlp.regions.count_regions_2d` does not accept ``mlp`` or ``window``.
    """
    found = _regions.count_regions_2d(mlp, window)
    polygons = cast("list[Array]", found.polygons)
    ax = axes(ax, (6.2, 5.0))
    from matplotlib.collections import PolyCollection

    # Regions with more active units are drawn in lighter colours.
    active = found.patterns.sum(axis=1)
    cells = PolyCollection(polygons, edgecolors="white", linewidths=0.5, cmap="viridis")
    cells.set_array(active)
    ax.add_collection(cells)
    corners = np.concatenate(polygons)
    (x_low, y_low), (x_high, y_high) = corners.min(axis=0), corners.max(axis=0)
    plane = np.shape(window) == (2, 2)
    ax.set(
        xlim=(x_low, x_high),
        ylim=(y_low, y_high),
        xlabel="$x_1$" if plane else "along the first side",
        ylabel="$x_2$" if plane else "along the second side",
        title=f"{found.count:,} linear regions",
    )
    ax.figure.colorbar(cells, ax=ax, label=f"active units of {found.patterns.shape[1]}")
    return ax


def _output(output: object, n_out: int) -> int:
    index = _validate.count("output", output, 0)
    if index >= n_out:
        raise ValueError(f"output must be below {n_out}, got {index}")
    return index


def _values(mlp: MLP, x: Array, output: int | slice = slice(None)) -> Array:
    """Return outputs in float64, of which some must be finite."""
    with np.errstate(over="ignore"):
        values = mlp.predict(x.astype(mlp.dtype))[:, output].astype(np.float64)
    if not np.isfinite(values).any():
        raise ValueError(
            "mlp must have finite outputs where they are drawn, got none; its "
            "parameters or the inputs may be too large or not finite"
        )
    return values


def _grid(x: Array, y: Array) -> Array:
    a, b = np.meshgrid(x, y)
    return np.stack([a.ravel(), b.ravel()], axis=1)
