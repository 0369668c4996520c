"""A plot of the loss surface around a model, with the path of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._network import ops
from .._validate.hints import hinted
from ..callbacks._monitor import Monitor
from ..losses import Loss
from ._style import LEVELS, MARGIN, ORANGE, RED, _dots, around, axes, margin, spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes

    from .._validate import Array
    from ..mlp import MLP


@hinted
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

    The loss is evaluated at θ + a d₁ + b d₂, where θ are the model's parameters (Li et
    al. 2018, "Visualizing the loss landscape of neural nets"). A path of parameters is
    projected onto this plane by least squares.

    Parameters
    ----------
    mlp : MLP
        Model; it is copied, not changed.
    x, y, sample_weight
        Data on which the loss is evaluated, as for `fastmlp.MLP.evaluate`.
    loss : Loss
        Loss to draw.
    path : Monitor or (K, n_params), optional
        Path of the optimiser: successive parameters, or a ``fm.Monitor(path=True)``.
    directions : {"random", "pca"}, optional
        The directions d₁ and d₂. "random": two Gaussian directions, filter-normalised:
        for each unit, the elements for its incoming weights are scaled to the norm of
        these weights; the elements for biases and normalisation layers are 0. "pca":
        the first two principal components of the path, relative to θ. None is "pca" if
        there is a path, else "random".
    span : float
        Extent of the slice. For "random", a and b range from -span to span, or further
        if the path does. For "pca", they cover the path plus, on each side, a margin of
        span / 10 times the path's extent.
    resolution : int
        Number of grid points along each side, at least 2. The loss is evaluated
        resolution² times.
    seed : int
        Seed of the random directions.
    ax : Axes, optional
        Axes to draw into.

    Returns
    -------
    Axes
        ``ax``, or the axes of a new figure.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape, or if directions="pca" is used
        without a path.
    """
    span = _validate.real("span", span, 0.0, open_low=True)
    resolution = _validate.count("resolution", resolution, 2)
    centre = ops.checked(mlp).params.astype(np.float64)
    walk = _walk(path, centre)
    if directions is None:
        directions = "random" if walk is None else "pca"
    directions = _validate.choice("directions", directions, ("random", "pca"))

    # Compute the directions (as columns), their labels, and the path's coordinates.
    if directions == "pca":
        if walk is None:
            raise ValueError("directions='pca' needs the argument `path`")
        basis, names = _components(walk - centre)
    else:
        basis = np.stack([_filtered(mlp, seed, i) for i in range(2)], axis=1)
        names = ["first random direction", "second random direction"]
    steps: Array | None = None
    ends = [(-span, span)] * 2
    if walk is not None:
        steps = np.linalg.lstsq(basis, (walk - centre).T, rcond=None)[0].T
        if directions == "pca":
            ends = [margin(column, span * MARGIN) for column in steps.T]
        else:
            reach = np.vstack([steps, np.full(2, span), np.full(2, -span)])
            ends = [margin(column) for column in reach.T]

    # Evaluate the loss on the grid.
    grid = [np.linspace(low, high, resolution) for low, high in ends]
    copy = mlp.copy()
    height = np.empty((resolution, resolution))
    for i, b in enumerate(grid[1]):
        for j, a in enumerate(grid[0]):
            copy.params[:] = centre + basis @ np.array([a, b])
            height[i, j] = copy.evaluate(x, y, loss, sample_weight)
    height = np.ma.masked_invalid(height)
    if height.count() == 0:
        raise ValueError("mlp must have a finite loss in the slice, got none")

    # The plot.
    ax = axes(ax, (6.4, 5.0))
    positive = spans(height.compressed())
    levels: Any = LEVELS
    norm = None
    if positive:
        from matplotlib.colors import LogNorm

        levels = np.geomspace(height.min(), height.max(), LEVELS + 4)
        norm = LogNorm(height.min(), height.max())
    elif height.min() == height.max():
        levels = around(height.min())
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


def _walk(path: object, centre: Array) -> Array | None:
    """Return the path as an array (K, n_params), or None if there is no path."""
    if path is None:
        return None
    if isinstance(path, Monitor):
        if not path.path:
            raise ValueError(
                "path: the Monitor has not recorded a path; create it with "
                "fm.Monitor(path=True)"
            )
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
    """Return a random direction, filter-normalised as `loss_surface` describes."""
    rng = np.random.default_rng([_validate.count("seed", seed, 0, None), index])
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
