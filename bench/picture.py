"""Pictures of the results of `peers.py` and `scaling.py`; needs matplotlib."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_INCHES, DPI = 9.0, 200
COLOURS_UP_TO = 32.0  # ratios; the colour scale is clipped there
DARK_FROM = 0.55  # position on the colour scale beyond which text is white

# Names in the table, names on pictures, and the package whose version is printed.
TITLES = {
    "torch": ("PyTorch", "torch"),
    "torch-compile": ("PyTorch, compiled", "torch"),
    "jax": ("JAX", "jax"),
    "sklearn": ("scikit-learn", "scikit-learn"),
}


def missing() -> str | None:
    """Return the message for a missing matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return "--picture needs matplotlib: pip install matplotlib"
    return None


def ratio_grid(
    points: Sequence[Mapping[str, Any]],
    rival: str,
    subject: str,
    widths: Sequence[int],
    batches: Sequence[int],
) -> np.ndarray:
    """Return a rival's times over the subject's, (batches, widths); NaN if missing."""
    grid = np.full((len(batches), len(widths)), math.nan)
    for point in points:
        theirs = point["rivals"].get(rival, {}).get("seconds")
        ours = point["rivals"][subject]["seconds"]
        if theirs and ours:
            place = batches.index(point["rows"]), widths.index(point["widths"][1])
            grid[place] = theirs / ours
    return grid


def ratio_text(ratio: float) -> str:
    """Return a ratio with as few digits as distinguish it from 1."""
    if math.isnan(ratio):
        return "-"
    if ratio >= 9.95:
        return f"{ratio:.0f}"
    return f"{ratio:.2f}" if 0.95 <= ratio < 1.05 else f"{ratio:.1f}"


def crossover(grid: np.ndarray) -> list[list[tuple[float, float]]]:
    """Return the cell edges, as (x, y) pairs, between ratios below 1 and the rest.

    Cells without a ratio do not have such edges.
    """
    edges = []
    known, ahead = ~np.isnan(grid), grid >= 1.0
    rows, columns = grid.shape
    for i in range(rows):
        for j in range(columns):
            right = (i, min(j + 1, columns - 1))
            above = (min(i + 1, rows - 1), j)
            if known[i, j] and known[right] and ahead[i, j] != ahead[right]:
                edges.append([(j + 0.5, i - 0.5), (j + 0.5, i + 0.5)])
            if known[i, j] and known[above] and ahead[i, j] != ahead[above]:
                edges.append([(j - 0.5, i + 0.5), (j + 0.5, i + 0.5)])
    return edges


def draw_panel(
    axes: Axes, grid: np.ndarray, widths: Sequence[int], batches: Sequence[int]
) -> None:
    """Draw the heat map of one rival."""
    from matplotlib.collections import LineCollection

    limit = math.log(COLOURS_UP_TO)
    axes.imshow(
        np.log(grid),
        cmap="RdBu",
        vmin=-limit,
        vmax=limit,
        origin="lower",
        aspect="auto",
    )
    for i, j in np.ndindex(grid.shape):
        dark = abs(np.log(grid[i, j])) > DARK_FROM * limit
        axes.text(
            j,
            i,
            ratio_text(float(grid[i, j])),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "#222222",
        )
    # Thin white lines between the cells, a strong one where the ratio crosses 1.
    axes.set_xticks(np.arange(1, len(widths)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(batches)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.add_collection(
        LineCollection(crossover(grid), colors="black", linewidths=2, capstyle="round")
    )
    axes.set_xticks(range(len(widths)), list(map(str, widths)))
    axes.set_yticks(range(len(batches)), list(map(str, batches)))
    axes.tick_params(which="both", length=0, labelsize=8)
    axes.spines[:].set_visible(False)


def speed_up_maps(content: Mapping[str, Any], subject: str, path: Path) -> None:
    """Draw one heat map per rival: its time over the subject's, width against batch.

    Parameters
    ----------
    content : mapping
        Content of the file of ``peers.py --json``, with a sweep.
    subject : str
        Library that the rivals are compared with.
    path : Path
        Output file; the suffix is the format.

    Raises
    ------
    ValueError
        If no rival was timed in a sweep.
    """
    from matplotlib.figure import Figure

    points = content["sweep"]
    widths = sorted({point["widths"][1] for point in points})
    batches = sorted({point["rows"] for point in points})
    grids = {
        rival: ratio_grid(points, rival, subject, widths, batches) for rival in TITLES
    }
    grids = {rival: grid for rival, grid in grids.items() if not np.isnan(grid).all()}
    if not grids:
        raise ValueError("no rival was timed in the sweep")
    rows, columns = (2, 2) if len(grids) == len(TITLES) else (1, len(grids))
    figure = Figure(
        figsize=(WIDTH_INCHES, 0.95 + rows * (0.75 + 0.29 * len(batches))),
        dpi=DPI,
        layout="constrained",
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (rival, grid) in zip(panels.flat, grids.items(), strict=True):
        draw_panel(axes, grid, widths, batches)
        axes.set_title(f"against {TITLES[rival][0]}", fontsize=10, loc="left")
    for axes in panels[-1]:
        axes.set_xlabel("width of the hidden layers", fontsize=9)
    for axes in panels[:, 0]:
        axes.set_ylabel("batch", fontsize=9)
    if any(crossover(grid) for grid in grids.values()):
        line = "line: where it is 1"
    else:
        ahead = [bool(np.nanmin(grid) >= 1.0) for grid in grids.values()]
        sides = {True: "above 1 everywhere", False: "below 1 everywhere"}
        line = sides[ahead[0]] if len(set(ahead)) == 1 else "1 is never crossed"
    figure.suptitle(
        f"Training step: time of the rival / time of {subject} ({line})\n"
        + captions(content, subject, grids),
        fontsize=9,
        x=0.01,
        ha="left",
    )
    figure.savefig(path)


def captions(content: Mapping[str, Any], subject: str, rivals: Iterable[str]) -> str:
    """Return a caption: workload, machine and versions."""
    point = content["sweep"][0]
    n_in, *_, n_out = point["widths"]
    threads = point["threads"]
    network = point["network"].partition(" ")[2].replace("relu", "ReLU")
    network = network.replace("mse", "MSE").replace("adam", "Adam")
    names = {subject: subject} | {
        TITLES[rival][1]: TITLES[rival][0] for rival in rivals
    }
    versions = [
        f"{name.partition(',')[0]} {content['versions'][key].partition('+')[0]}"
        for key, name in names.items()
    ]
    return (
        f"{n_in}-w-w-{n_out}, {network}, {point.get('dtype', 'float32')}; "
        f"{content['machine']['cpu']}, "
        f"{threads} thread{'s' if threads > 1 else ''}; {', '.join(versions)}"
    )


def time_against_width(
    widths: Sequence[int], lines: Mapping[str, Sequence[float]], title: str, path: Path
) -> None:
    """Draw seconds per step against the width, in microseconds, one line per name.

    Lines of one library, whose names start with the same word, share a colour; the
    second one is dashed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for name, seconds in lines.items():
        library = name.partition(",")[0]
        style = "--" if library in colours else "-"
        colour = colours.setdefault(library, f"C{len(colours)}")
        microseconds = [1e6 * second for second in seconds]
        axes.plot(widths, microseconds, style, color=colour, linewidth=1.5, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("width of the hidden layers", fontsize=9)
    axes.set_ylabel("µs per training step", fontsize=9)
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
