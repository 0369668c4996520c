"""Pictures, by matplotlib, which is loaded when one is drawn.

Every function draws into the ``ax`` (or, where there are several panels, the figure or
subfigure ``fig``) that it is given, or into a new one, and returns it; none shows or
saves it: ``ax.figure.savefig("name.png")`` does, or ``matplotlib.pyplot.show()``.

Colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart, and
matplotlib's viridis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .. import _validate
from .. import regions as _regions
from .._network import ops
from .._network.model import is_model
from ..callbacks._monitor import Histogram, Monitor
from ..losses import Loss
from ..metrics import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, SubFigure

    from .._network.ops import Step
    from .._validate import Array
    from ..mlp import MLP

__all__ = [
    "dead_units",
    "decision_regions",
    "fit_1d",
    "histograms",
    "learning_curves",
    "level_sets",
    "linear_regions",
    "loss_surface",
    "network",
    "update_ratios",
]

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK)
MARKERS = "osD^vPX*"
GREY = "#666666"

# A positive curve that spans more than this is drawn on a log scale.
LOG_RANGE = 20.0
MARGIN = 0.1
LEVELS = 12
# Where a legend hides nothing; only in figures of our own, which make room for it.
OUTSIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}


def learning_curves(
    history: History, *, log: bool | None = None, fig: Figure | SubFigure | None = None
) -> Figure | SubFigure:
    """Draw losses by epoch and, in a second panel, the metrics.

    Parameters
    ----------
    history : History
        What `fastmlp.MLP.fit` returned. With validation data, the epoch of the lowest
        validation loss is marked, otherwise that of the lowest training loss.
    log : bool, optional
        A log scale for losses; None takes one if they are positive and the greatest is
        more than 20 times the least.
    fig : Figure or SubFigure, optional
        Where to draw.

    Returns
    -------
    Figure or SubFigure
        ``fig``, or a new figure.

    Raises
    ------
    TypeError, ValueError
        For what is no history, or one without an epoch.
    ImportError
        If there is no matplotlib.
    """
    if not isinstance(history, History):
        raise TypeError(
            f"history must be a fm.History, got {_validate.describe(history)}"
        )
    if len(history) == 0:
        raise ValueError("history must have at least one epoch, got none")
    panels = 1 + bool(history.metrics)
    fig = _figure(fig, (6.4, 4.0 if panels == 1 else 6.0))
    grid = fig.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]

    # Losses.
    ax = grid[0]
    curves = [("training", history.loss, BLUE)]
    if history.val_loss:
        curves.append(("validation", history.val_loss, RED))
    for name, values, colour in curves:
        ax.plot(_epochs(values), values, color=colour, label=name, **_dots(values))
    name, values, colour = curves[-1]
    if np.isfinite(values).any():
        best = int(np.nanargmin(values))
        ax.plot(
            best + 1,
            values[best],
            marker="*",
            markersize=13,
            linestyle="none",
            color=colour,
            markeredgecolor="black",
            label=f"best, epoch {best + 1}: {values[best]:.3g}",
        )
    if log is not None:
        log = _validate.flag("log", log)
    else:
        log = _spans(np.concatenate([c[1] for c in curves]))
    if log:
        ax.set_yscale("log")
    ax.set(ylabel="loss", title="Learning curves")
    ax.legend()

    # Metrics.
    if history.metrics:
        for i, (name, values) in enumerate(history.metrics.items()):
            dots = _dots(values)
            colour = COLOURS[(i + 2) % len(COLOURS)]
            grid[1].plot(_epochs(values), values, color=colour, label=name, **dots)
        grid[1].set(ylabel="metric")
        grid[1].legend()
    grid[-1].set(xlabel="epoch")
    for panel in grid:
        _light(panel)
        _whole(panel.xaxis)
    return fig


def histograms(
    source: MLP | Monitor,
    what: str | Sequence[str] | None = None,
    *,
    epoch: int | None = None,
    bins: int = 40,
    fig: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw histograms of weights, activations and gradients, a column for each layer.

    Parameters
    ----------
    source : MLP or Monitor
        A model, for its weights as they are, or what a `fastmlp.Monitor` has recorded.
    what : {"weights", "activations", "gradients"} or sequence of them, optional
        What to draw, a row for each; None draws all there is.
    epoch : int, optional
        Which recorded epoch, counted from 1; None takes the last. For a `Monitor` only.
    bins : int
        Bins of a model's weights; a `Monitor` has its own.
    fig : Figure or SubFigure, optional
        Where to draw.

    Returns
    -------
    Figure or SubFigure
        ``fig``, or a new figure.

    Raises
    ------
    TypeError, ValueError
        For names that are none of these, and an epoch that was not recorded.
    ImportError
        If there is no matplotlib.
    """
    if isinstance(source, Monitor):
        title, tables = _recorded(source, epoch)
        labels = source.layers
    else:
        if not is_model(source):
            got = _validate.describe(source)
            raise TypeError(f"source must be a fm.MLP or fm.Monitor, got {got}")
        if epoch is not None:
            raise ValueError("epoch is for a fm.Monitor, a model has no epochs")
        steps = ops.steps(source)
        monitor = Monitor(bins=bins)
        labels = {step.name: ops.label(step) for step in steps}
        weights = {
            step.name: monitor._histogram(source.params[step.weight])
            for step in steps
            if step.weight is not None
        }
        title, tables = "", {"weights": weights}
    if what is None:
        what = list(tables)
    rows = [what] if isinstance(what, str) else list(what)
    rows = [_validate.choice("what", row, tuple(tables)) for row in rows]
    if not rows:
        raise ValueError("what must name something to draw, got nothing")
    columns = [n for n in labels if any(n in tables[row] for row in rows)]

    # A panel for each row and layer that has any.
    size = (max(6.4, 2.4 * len(columns)), 0.8 + 2.0 * len(rows))
    fig = _figure(fig, size)
    grid = fig.subplots(len(rows), len(columns), squeeze=False)
    for i, row in enumerate(rows):
        colour = (BLUE, GREEN, RED)[("weights", "activations", "gradients").index(row)]
        for name, ax in zip(columns, grid[i], strict=True):
            if i == 0:
                ax.set_title(f"{name}: {labels[name]}", fontsize="medium")
            histogram = tables[row].get(name)
            if histogram is None or histogram.counts.sum() == 0:
                ax.text(
                    0.5,
                    0.5,
                    f"no {row}",
                    ha="center",
                    color=GREY,
                    transform=ax.transAxes,
                )
                ax.set_axis_off()
                if i == 0:
                    ax.axison = True
                    ax.set(xticks=[], yticks=[])
                    ax.spines[:].set_visible(False)
                continue
            ax.stairs(
                histogram.counts, histogram.edges, fill=True, color=colour, label=row
            )
            ax.set(xlabel=row.removesuffix("s"))
            ax.locator_params(axis="x", nbins=4)
            _whole(ax.yaxis)
            ax.ticklabel_format(axis="x", scilimits=(-2, 3))
            _light(ax)
        grid[i, 0].set_ylabel("count")
    if title:
        fig.suptitle(title)
    return fig


def dead_units(monitor: Monitor, *, ax: Axes | None = None) -> Axes:
    """Draw by epoch which part of each layer's units is dead or saturated.

    Parameters
    ----------
    monitor : Monitor
        What was recorded; `fastmlp.Monitor` says which units count as dead.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        ``ax``, or that of a new figure.

    Raises
    ------
    TypeError, ValueError
        For what is no monitor, or one without an epoch or a layer that could have dead
        units.
    ImportError
        If there is no matplotlib.
    """
    _check_monitor(monitor)
    if not monitor.dead:
        raise ValueError("monitor has seen no layer that can have dead units")
    place = OUTSIDE if ax is None else {}
    ax = _axes(ax, (7.6, 4.0))
    for i, (name, counts) in enumerate(monitor.dead.items()):
        share = [100 * n / monitor.units[name] if n >= 0 else np.nan for n in counts]
        ax.plot(
            monitor.epochs,
            share,
            label=f"{name}: {monitor.layers[name]} ({monitor.units[name]})",
            **_style(i, share),
        )
    ax.set(xlabel="epoch", ylabel="dead units, % of the layer", title="Dead units")
    top = ax.get_ylim()[1]
    ax.set_ylim(-0.03 * top, max(top, 1.0))
    ax.legend(title="layer (units)", **place)
    _light(ax)
    _whole(ax.xaxis)
    return ax


def update_ratios(monitor: Monitor, *, ax: Axes | None = None) -> Axes:
    """Draw by epoch how large a step is beside the weights it changes, layer by layer.

    Drawn is log10 of the norm of the change over the norm of the weight; around -3 is
    a common rule of thumb for healthy training, and marked.

    Parameters
    ----------
    monitor : Monitor
        What was recorded.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        ``ax``, or that of a new figure.

    Raises
    ------
    TypeError, ValueError
        For what is no monitor, or one without an epoch.
    ImportError
        If there is no matplotlib.
    """
    _check_monitor(monitor)
    place = OUTSIDE if ax is None else {}
    ax = _axes(ax, (7.6, 4.0))
    for i, (name, ratios) in enumerate(monitor.update_ratios.items()):
        values = np.array(ratios)
        values[values <= 0] = np.nan
        logs = np.log10(values)
        label = f"{name}: {monitor.layers[name]}"
        ax.plot(monitor.epochs, logs, label=label, **_style(i, ratios))
    ax.axhline(-3, color=GREY, linestyle=":", label="rule of thumb")
    ax.set(
        xlabel="epoch",
        ylabel=r"$\log_{10}\,(|\Delta W|\,/\,|W|)$",
        title="Update-to-weight ratios",
    )
    ax.legend(title="layer", **place)
    _light(ax)
    _whole(ax.xaxis)
    return ax


def fit_1d(
    mlp: MLP,
    x: npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    *,
    output: int = 0,
    points: int = 1001,
    fig: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw a function of one input beside the data it was fitted to.

    Of a piecewise linear network the joints are marked, and a second panel shows which
    units are active on each of its pieces: their activation patterns.

    Parameters
    ----------
    mlp : MLP
        A model with one input.
    x : (N,) or (N, 1)
        The data, which say from where to where to draw: at least two different.
    y : (N,) or (N, n_out), optional
        Their targets.
    output : int
        Which output.
    points : int
        Points of the curve, at least 2.
    fig : Figure or SubFigure, optional
        Where to draw.

    Returns
    -------
    Figure or SubFigure
        ``fig``, or a new figure.

    Raises
    ------
    TypeError, ValueError
        For a model with several inputs, and for arrays of a wrong kind or shape.
    ImportError
        If there is no matplotlib.
    """
    if ops.checked(mlp).n_in != 1:
        raise ValueError(f"mlp must have one input, got {mlp.n_in}")
    output = _output(output, mlp.n_out)
    points = _validate.count("points", points, 2)
    at = _validate.numeric("x", x).ravel().astype(np.float64)
    if at.size < 2 or not np.isfinite(at).all() or at.min() == at.max():
        raise ValueError("x must hold at least two different points, all finite")
    if y is not None:
        targets = _validate.numeric("y", y)
        if targets.shape[:1] != (len(at),) or targets.ndim > 2:
            got = _validate.describe(targets)
            raise ValueError(f"y must have {len(at)} rows as x has, got {got}")
        targets = targets.reshape(len(at), -1)
        target = targets[:, output if targets.shape[1] > 1 else 0]
    low, high = float(at.min()), float(at.max())
    try:
        lines = _regions.count_regions(mlp, low, high)
    except ValueError:  # a smooth network has none
        lines = None
    patterned = lines is not None and lines.patterns.shape[1] > 0
    place = OUTSIDE if fig is None else {}
    fig = _figure(fig, (7.2, 6.0 if patterned else 4.0))
    heights = [2, 1][: 1 + patterned]
    grid = fig.subplots(
        1 + patterned, 1, sharex=True, squeeze=False, height_ratios=heights
    )[:, 0]

    # The function.
    ax = grid[0]
    if y is not None:
        style = {"s": 14, "alpha": 0.5 if len(at) > 30 else 1.0, "linewidths": 0}
        ax.scatter(at, target, color=GREY, label="data", **style)
    line = np.linspace(low, high, points)
    ax.plot(line, _values(mlp, line[:, np.newaxis])[:, output], color=BLUE, label="fit")
    title = "Fit"
    if lines is not None:
        title = (
            f"Fit of {lines.count} linear {'pieces' if lines.count > 1 else 'piece'}"
        )
        if len(lines.joints):
            heights_ = _values(mlp, lines.points)[:, output]
            ax.plot(
                lines.points[:, 0],
                heights_,
                linestyle="none",
                marker="o",
                markersize=6,
                markerfacecolor="white",
                color=RED,
                label=f"joints ({len(lines.joints)})",
            )
    ax.set(ylabel="y", title=title)
    ax.legend(**place)
    _light(ax)

    # The patterns: a row for each unit, white where it rests.
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
        grid[1].yaxis.get_major_locator().set_params(integer=True)
        grid[1].legend(
            handles=[
                Patch(facecolor=SKY, edgecolor=GREY, label="active"),
                Patch(facecolor="white", edgecolor=GREY, label="resting"),
            ],
            **place,
        )
    grid[-1].set(xlabel="x", xlim=(low, high))
    return fig


def decision_regions(
    mlp: MLP,
    x: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    names: Sequence[str] | None = None,
    resolution: int = 200,
    ax: Axes | None = None,
) -> Axes:
    """Draw which class a classifier of points in the plane gives to each, and the data.

    Parameters
    ----------
    mlp : MLP
        A model with two inputs. The class is that of the greatest output; with one
        output, 1 where it is positive (for a sigmoid, above one half) and 0 elsewhere.
    x : (N, 2)
        Points.
    labels : (N,) or (N, 1) of int
        Their classes, from 0 (-1 and 1 for one output are taken as 0 and 1).
    names : sequence of str, optional
        Of the classes.
    resolution : int
        Points of the grid along each side, at least 2.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        ``ax``, or that of a new figure.

    Raises
    ------
    TypeError, ValueError
        For another number of inputs, labels out of range, and wrong shapes or kinds.
    ImportError
        If there is no matplotlib.
    """
    if ops.checked(mlp).n_in != 2:
        raise ValueError(f"mlp must have two inputs, got {mlp.n_in}")
    resolution = _validate.count("resolution", resolution, 2)
    data = _validate.inputs("x", x, 2, np.dtype(np.float64))
    _validate.finite("x", data)
    classes = max(mlp.n_out, 2)
    known = _validate.numeric("labels", labels).ravel()
    if known.shape != (len(data),):
        raise ValueError(f"labels must have shape ({len(data)},), got {known.shape}")
    if mlp.n_out == 1:
        known = np.where(known == -1, 0, known)
    if not np.isin(known, np.arange(classes)).all():
        raise ValueError(f"labels must be classes from 0 to {classes - 1}")
    if names is None:
        names = [f"class {k}" for k in range(classes)]
    if len(names) != classes:
        raise ValueError(f"names must hold {classes} names, got {len(names)}")

    # The plane.
    ax = _axes(ax, (6.0, 5.0))
    (x_low, x_high), (y_low, y_high) = (_margin(column) for column in data.T)
    grid_x = np.linspace(x_low, x_high, resolution)
    grid_y = np.linspace(y_low, y_high, resolution)
    out = _values(mlp, _grid(grid_x, grid_y))
    if mlp.n_out == 1:
        last = ops.steps(mlp)[-1].activation
        won = (out[:, 0] > (0.5 if last == "sigmoid" else 0.0)).astype(int)
    else:
        won = out.argmax(axis=1)
    won = won.reshape(resolution, resolution)
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
            label=names[k],
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


def level_sets(
    mlp: MLP,
    window: npt.ArrayLike = ((-1, 1), (-1, 1)),
    *,
    output: int = 0,
    levels: int | Sequence[float] = LEVELS,
    resolution: int = 200,
    ax: Axes | None = None,
) -> Axes:
    """Draw lines of equal output of a function of two inputs.

    Parameters
    ----------
    mlp : MLP
        A model with two inputs.
    window : (2, 2)
        ((x_low, x_high), (y_low, y_high)).
    output : int
        Which output.
    levels : int or sequence of float
        About how many, or which ascending ones.
    resolution : int
        Points of the grid along each side, at least 2.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        ``ax``, or that of a new figure.

    Raises
    ------
    TypeError, ValueError
        For another number of inputs, and a window or output of a wrong kind.
    ImportError
        If there is no matplotlib.
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
    ax = _axes(ax, (6.2, 5.0))
    x, y = (np.linspace(a, b, resolution) for a, b in zip(low, high, strict=True))
    z = _values(mlp, _grid(x, y))[:, output].reshape(resolution, resolution)
    if np.ptp(z) == 0:
        levels = [z[0, 0] - 0.5, z[0, 0] + 0.5]
    filled = ax.contourf(x, y, z, levels, cmap="viridis")
    drawn = np.asarray(filled.levels)
    lines = ax.contour(x, y, z, drawn, colors="white", linewidths=0.7)
    ax.clabel(lines, drawn[::2], fontsize="small")
    name = "output" if mlp.n_out == 1 else f"output {output}"
    ax.figure.colorbar(filled, ax=ax, label=name)
    ax.set(xlabel="$x_1$", ylabel="$x_2$", title=f"Level sets, {name}")
    return ax


def linear_regions(
    mlp: MLP, window: npt.ArrayLike = ((-1, 1), (-1, 1)), *, ax: Axes | None = None
) -> Axes:
    """Draw the linear regions of a piecewise linear network in a window.

    Parameters
    ----------
    mlp : MLP
        A piecewise linear network, see `fastmlp.regions`.
    window : (2, 2) or (3, n_in)
        As of `fastmlp.regions.count_regions_2d`.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        ``ax``, or that of a new figure.

    Raises
    ------
    TypeError, ValueError
        As `fastmlp.regions.count_regions_2d`.
    ImportError
        If there is no matplotlib.
    """
    found = _regions.count_regions_2d(mlp, window)
    polygons = cast("list[Array]", found.polygons)
    ax = _axes(ax, (6.2, 5.0))
    from matplotlib.collections import PolyCollection

    # Where more units are active it is lighter.
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


def loss_surface(
    mlp: MLP,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    loss: Loss,
    *,
    path: Sequence[Array] | Array | Monitor | None = None,
    directions: str | None = None,
    sample_weight: npt.ArrayLike | None = None,
    span: float = 1.0,
    resolution: int = 31,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw a 2-D slice of the loss surface through the model's parameters.

    The loss is evaluated at θ + a d₁ + b d₂, θ being the parameters (Li et al. 2018,
    "Visualizing the loss landscape of neural nets"). A path of parameters is drawn as
    its projection onto that plane, nearest in the sense of least squares.

    Parameters
    ----------
    mlp : MLP
        The model; it is copied, not changed.
    x, y, sample_weight
        On which data, as of `fastmlp.MLP.evaluate`.
    loss : Loss
        Which loss.
    path : Monitor or (K, n_params), optional
        The optimiser's path: parameters in the order they were passed through, or a
        ``fm.Monitor(path=True)``.
    directions : {"random", "pca"}, optional
        "random": two Gaussian directions, filter-normalised: what each unit's incoming
        weights get is scaled to their norm, biases and norms get none. "pca": the first
        two principal components of the path, relative to θ. None is "pca" if there is
        a path, else "random".
    span : float
        How far to go: a and b from -span to span for "random" (wider if the path
        reaches further); for "pca" the path and this times a tenth of its extent.
    resolution : int
        Points of the grid along each side, at least 2: its square is how many times the
        loss is evaluated.
    seed : int
        Of the random directions.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        ``ax``, or that of a new figure.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong kind or shape, and "pca" without a path.
    ImportError
        If there is no matplotlib.
    """
    span = _validate.real("span", span, 0.0, open_low=True)
    resolution = _validate.count("resolution", resolution, 2)
    centre = ops.checked(mlp).params.astype(np.float64)
    walk = _walk(path, centre)
    if directions is None:
        directions = "random" if walk is None else "pca"
    directions = _validate.choice("directions", directions, ("random", "pca"))

    # Directions as columns, what to call them, and the path in their coordinates.
    if directions == "pca":
        if walk is None:
            raise ValueError("directions='pca' needs a path")
        basis, names = _components(walk - centre)
    else:
        basis = np.stack([_filtered(mlp, seed, i) for i in range(2)], axis=1)
        names = ["first random direction", "second random direction"]
    steps: Array | None = None
    ends = [(-span, span)] * 2
    if walk is not None:
        steps = np.linalg.lstsq(basis, (walk - centre).T, rcond=None)[0].T
        if directions == "pca":
            ends = [_margin(column, span * MARGIN) for column in steps.T]
        else:
            reach = np.vstack([steps, np.full(2, span), np.full(2, -span)])
            ends = [_margin(column) for column in reach.T]

    # The slice.
    grid = [np.linspace(low, high, resolution) for low, high in ends]
    copy = mlp.copy()
    height = np.empty((resolution, resolution))
    for i, b in enumerate(grid[1]):
        for j, a in enumerate(grid[0]):
            copy.params[:] = centre + basis @ np.array([a, b])
            height[i, j] = copy.evaluate(x, y, loss, sample_weight)
    height = np.ma.masked_invalid(height)

    # The picture.
    ax = _axes(ax, (6.4, 5.0))
    positive = _spans(height.compressed())
    levels: Any = LEVELS
    norm = None
    if positive:
        from matplotlib.colors import LogNorm

        levels = np.geomspace(height.min(), height.max(), LEVELS + 4)
        norm = LogNorm(height.min(), height.max())
    filled = ax.contourf(*grid, height, levels, cmap="viridis", norm=norm)
    ax.contour(*grid, height, filled.levels, colors="white", linewidths=0.5, alpha=0.7)
    bar = ax.figure.colorbar(filled, ax=ax, label="loss", format="%.4g")
    bar.ax.minorticks_off()
    drawn = np.asarray(filled.levels)
    bar.set_ticks(drawn[:: 1 + len(drawn) // 10].tolist())
    if steps is not None:
        ax.plot(*steps.T, color="white", linewidth=3.0)
        ax.plot(*steps.T, color=RED, linewidth=1.5, label="path", **_dots(steps, "."))
        ax.plot(*steps[0], "o", color="white", markeredgecolor="black", label="start")
    ax.plot(
        0,
        0,
        "*",
        color=ORANGE,
        markeredgecolor="black",
        markersize=14,
        label="the model",
    )
    ax.set(xlabel=names[0], ylabel=names[1], title="Slice of the loss surface")
    ax.legend(loc="best", framealpha=0.9)
    return ax


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def network(mlp: MLP, *, max_units: int = 10, ax: Axes | None = None) -> Axes:
    """Draw the network: units as circles, weights as lines.

    Orange lines are positive weights, blue ones negative; their width is the weight's
    size beside the greatest of its layer. Of large layers the first and last units are
    drawn. A residual block is an arc above, which says whether it has a projection;
    layers without weights are named where they are.

    Parameters
    ----------
    mlp : MLP
        The model.
    max_units : int
        The most units of a layer to draw, at least 2.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        ``ax``, or that of a new figure.

    Raises
    ------
    TypeError, ValueError
        For a number of units that is no int, or below 2.
    ImportError
        If there is no matplotlib.
    """
    max_units = _validate.count("max_units", max_units, 2)
    steps = ops.steps(mlp)
    columns, texts, arcs = _columns(mlp, steps)
    ax = _axes(ax, (max(6.4, 1.5 * len(columns)), 4.8))
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    # Units: which are drawn, and how high.
    shown: list[Array] = []
    heights: list[Array] = []
    for width, _ in columns:
        units = np.arange(width)
        places = units - (width - 1) / 2
        if width > max_units:
            half = max_units // 2
            units = np.concatenate([units[: max_units - half], units[-half:]])
            places = np.arange(max_units + 1) - max_units / 2
            places = np.delete(places, max_units - half)
        shown.append(units)
        heights.append(-places)
    tallest = max(h.max() for h in heights) + 1.0

    # Weights, thinner the smaller; the greatest on top.
    params = mlp.params.astype(np.float64)
    for k, (_, step) in enumerate(columns):
        if step is None:
            continue
        matrix = step.matrix(params)[np.ix_(shown[k - 1], shown[k])]
        i, j = np.unravel_index(np.argsort(abs(matrix), axis=None), matrix.shape)
        size = abs(matrix[i, j]) / (abs(matrix).max() or 1.0)
        ends = np.empty((len(i), 2, 2))
        ends[:, :, 0] = k - 1, k
        ends[:, 0, 1], ends[:, 1, 1] = heights[k - 1][i], heights[k][j]
        colours = np.where(matrix[i, j] > 0, ORANGE, BLUE)
        edges = LineCollection(
            list(ends), colors=list(colours), linewidths=0.1 + 2.2 * size, zorder=1
        )
        edges.set_alpha(0.8)
        ax.add_collection(edges)
    for k, (width, _) in enumerate(columns):
        ax.scatter(
            np.full(len(shown[k]), k),
            heights[k],
            s=150 if tallest < 9 else 60,
            facecolor="white",
            edgecolor="black",
            zorder=2,
        )
        if width > max_units:
            ax.text(k, -_gap(heights[k]), "⋮", ha="center", va="center", fontsize=14)
        text = "\n".join(texts[k])
        ax.text(k, -tallest, text, ha="center", va="top", fontsize="medium")

    # Residual blocks, inner ones lower.
    top = tallest
    for start, end, name in arcs:
        inner = [a for a in arcs if start <= a[0] and a[1] <= end]
        low, high = tallest - 0.3, tallest + 1.2 * len(inner) - 0.6
        t = np.linspace(0, np.pi, 50)
        across = (start + end) / 2 - (end - start) / 2 * np.cos(t)
        ax.plot(across, low + (high - low) * np.sqrt(np.sin(t)), color=GREEN)
        ax.text((start + end) / 2, high, name, ha="center", va="bottom")
        top = max(top, high + 1.0)
    lines = max(map(len, texts))
    depth = (tallest + top) * 0.075 * lines + 0.3
    ax.set(
        xlim=(-0.6, len(columns) - 0.4),
        ylim=(-tallest - depth, top),
        title=f"{_many(mlp.n_in, 'input')}, {_many(mlp.n_out, 'output')}, "
        f"{mlp.n_params:,} parameters",
    )
    ax.set_axis_off()
    handles = [
        Line2D([], [], color=ORANGE, label="positive weight"),
        Line2D([], [], color=BLUE, label="negative weight"),
    ]
    if arcs:
        handles.append(Line2D([], [], color=GREEN, label="residual"))
    ax.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=len(handles),
        frameon=False,
    )
    return ax


# Figures ----------------------------------------------------------------------------


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "fastmlp.plot needs matplotlib: pip install 'fastmlp[plot]'"
        ) from error
    return plt


def _axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    if ax is not None:
        return ax
    return cast("Axes", _pyplot().subplots(figsize=size, layout="constrained")[1])


def _figure(
    fig: Figure | SubFigure | None, size: tuple[float, float]
) -> Figure | SubFigure:
    if fig is not None:
        return fig
    return cast("Figure", _pyplot().figure(figsize=size, layout="constrained"))


def _light(ax: Axes) -> None:
    """Take away what does not speak."""
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def _whole(axis: Axis) -> None:
    """Have ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True))


def _dots(values: Any, marker: str = "o") -> dict[str, Any]:
    """Mark the points of short curves."""
    return {"marker": marker, "markersize": 4} if len(values) <= 30 else {}


def _style(i: int, values: Any) -> dict[str, Any]:
    dashes = ("-", "--", ":", "-.")[i // len(COLOURS) % 4]
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": dashes, **_dots(values)}


def _epochs(values: Any) -> Array:
    return np.arange(1, len(values) + 1)


def _spans(values: Any) -> bool:
    """Tell whether positive values span so much that only a log scale shows them."""
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    return bool(array.size and 0 < LOG_RANGE * array.min() < array.max())


def _margin(values: Array, part: float = MARGIN) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    wide = part * (high - low) or 1.0
    return low - wide, high + wide


# Data -------------------------------------------------------------------------------


def _check_monitor(monitor: object) -> None:
    if not isinstance(monitor, Monitor):
        raise TypeError(
            f"monitor must be a fm.Monitor, got {_validate.describe(monitor)}"
        )
    if not monitor.epochs:
        raise ValueError("monitor has recorded nothing; fit(callbacks=[monitor]) does")


def _recorded(
    monitor: Monitor, epoch: int | None
) -> tuple[str, dict[str, dict[str, Histogram]]]:
    """Return a title, and histograms by kind and layer of one epoch."""
    _check_monitor(monitor)
    if epoch is None:
        epoch = monitor.epochs[-1]
    if epoch not in monitor.epochs:
        raise ValueError(
            f"epoch {epoch} was not recorded; these were: {monitor.epochs}"
        )
    i = monitor.epochs.index(epoch)
    kinds = {
        "weights": monitor.weights,
        "activations": monitor.activations,
        "gradients": monitor.gradients,
    }
    return f"Epoch {epoch}", {
        kind: {name: entries[i] for name, entries in table.items()}
        for kind, table in kinds.items()
    }


def _output(output: object, n_out: int) -> int:
    index = _validate.count("output", output, 0)
    if index >= n_out:
        raise ValueError(f"output must be below {n_out}, got {index}")
    return index


def _values(mlp: MLP, x: Array) -> Array:
    return mlp.predict(x.astype(mlp.dtype)).astype(np.float64)


def _grid(x: Array, y: Array) -> Array:
    a, b = np.meshgrid(x, y)
    return np.stack([a.ravel(), b.ravel()], axis=1)


def _walk(path: object, centre: Array) -> Array | None:
    """Return the path as an array (K, n_params)."""
    if path is None:
        return None
    if isinstance(path, Monitor):
        if not path.path:
            raise ValueError("path: this Monitor kept none; make fm.Monitor(path=True)")
        path = path.path
    walk = _validate.convert("path", path, np.dtype(np.float64))
    if walk.ndim != 2 or walk.shape[1] != len(centre) or len(walk) < 2:
        raise ValueError(
            f"path must have shape (at least 2, {len(centre)}), "
            f"got {_validate.describe(walk)}"
        )
    return walk


def _components(walk: Array) -> tuple[Array, list[str]]:
    """Return the first two principal directions as columns, and their labels."""
    _, sizes, rows = np.linalg.svd(walk, full_matrices=False)
    share = sizes**2 / ((sizes**2).sum() or 1.0)
    basis = np.zeros((walk.shape[1], 2))
    names = []
    for i in range(2):
        if i < len(sizes) and sizes[i] > 0:
            basis[:, i] = rows[i]
        part = 100 * share[i] if i < len(sizes) else 0.0
        names.append(f"PCA direction {i + 1} ({part:.1f} % of the path)")
    return basis, names


def _filtered(mlp: MLP, seed: int, index: int) -> Array:
    """Return a random direction, each unit's part as long as its weights."""
    rng = np.random.default_rng([_validate.count("seed", seed, 0), index])
    params = mlp.params.astype(np.float64)
    direction = np.zeros(len(params))
    for step in ops.steps(mlp):
        if step.kind != "dense":
            continue
        weight = step.matrix(params)
        draw = rng.standard_normal(weight.shape)
        draw *= np.linalg.norm(weight, axis=0) / np.linalg.norm(draw, axis=0)
        step.matrix(direction)[:] = draw
    return direction


def _columns(
    mlp: MLP, steps: list[Step]
) -> tuple[list[tuple[int, Step | None]], list[list[str]], list[tuple[int, int, str]]]:
    """Return columns of units with the step before them, their texts, and the arcs."""
    columns: list[tuple[int, Step | None]] = [(mlp.n_in, None)]
    texts = [["input", f"{mlp.n_in}"]]
    arcs: list[tuple[int, int, str]] = []
    places = {ops.INPUT: 0}
    for i, step in enumerate(steps):
        if step.kind == "dense" and step.layer is None:  # a projection
            places[i] = places[step.source]
            continue
        if step.kind == "add":
            projected = step.other >= 0 and steps[step.other].layer is None
            name = "+ projection" if projected else "+"
            places[i] = places[step.source]
            arcs.append((places[step.other], places[i], name))
            continue
        if step.kind == "dense":
            columns.append((step.n_out, step))
            texts.append([step.activation, f"{step.n_out}"])
        else:
            texts[-1].append(ops.label(step))
        places[i] = len(columns) - 1
    return columns, texts, arcs


def _gap(heights: Array) -> float:
    """Return where the units that are not drawn would be, downwards."""
    k = int(np.argmax(-np.diff(heights)))
    return -float(heights[k] + heights[k + 1]) / 2
