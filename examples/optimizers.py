"""Draw the paths of optimisers down Rosenbrock's valley and on the Gabor model.

    python examples/optimizers.py

Optimisers need no network: `opt.step(theta, grad)` updates any array, and
`LBFGS().minimize(f, theta)` finds a minimum of any function that returns its value and
gradient. Rosenbrock's function has one minimum, at the end of a narrow curved valley.
The Gabor model (two parameters, fitted to 30 noisy points by least squares) has many
minima: from the wrong valley, full-batch descent never reaches the best one, while the
noise of mini-batches sometimes carries it over the ridge.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fastmlp as fm
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]
Paths = dict[str, np.ndarray]

# Colour-blind safe, of Okabe & Ito (2008).
STYLES = {
    "GD": ("#000000", "-"),
    "momentum": ("#D55E00", "--"),
    "Nesterov": ("#0072B2", "-."),
    "RMSprop": ("#009E73", "-"),
    "Adam": ("#CC79A7", "--"),
    "L-BFGS": ("#E69F00", "-"),
}
GROUPS = (("GD", "momentum", "Nesterov"), ("RMSprop", "Adam"), ("L-BFGS",))
ESCAPE_STYLES = (("#000000", "-"), ("#009E73", "-"))
RESOLUTION, QUICK_RESOLUTION = 161, 81
FLOOR = 1e-12  # lower limit of the log scale
GABOR_TRUTH = (0.0, 16.6)
WRONG_START = (3.0, 6.0)
GABOR_RATE, BATCH, EPOCHS, SEEDS = 1.5, 5, 60, 10
# Limits for --check: the share of the initial value that may remain, and the ratio of
# the value reached by mini-batches to the bottom of the wrong valley.
WANTED_LEFT, WANTED_ESCAPE = 0.5, 0.1


@dataclass(frozen=True)
class Problem:
    """A function of two parameters, its starting point, and the window to draw."""

    name: str
    function: Function
    start: tuple[float, float]
    minimum: tuple[float, float]
    window: tuple[tuple[float, float], tuple[float, float]]
    steps: int
    labels: tuple[str, str]


def rosenbrock(theta: np.ndarray) -> tuple[float, np.ndarray]:
    """Return (1 - x)² + 100 (y - x²)² and its gradient."""
    x, y = theta
    bend = y - x * x
    grad = np.array([-2 * (1 - x) - 400 * x * bend, 200 * bend])
    return (1 - x) ** 2 + 100 * bend**2, grad


def gabor(theta: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sin(u) exp(-u²/32), u = θ₀ + 0.06 θ₁ x, and its derivatives (2, N)."""
    u = theta[0] + 0.06 * theta[1] * x
    envelope = np.exp(-u * u / 32)
    slope = (np.cos(u) - np.sin(u) * u / 16) * envelope
    return np.sin(u) * envelope, slope * np.stack([np.ones_like(x), 0.06 * x])


def squared_error(x: np.ndarray, y: np.ndarray) -> Function:
    """Return the mean squared error of the Gabor model on some data."""

    def function(theta: np.ndarray) -> tuple[float, np.ndarray]:
        predicted, slopes = gabor(theta, x)
        residual = predicted - y
        return float(np.mean(residual**2)), 2 * slopes @ residual / len(x)

    return function


def measure() -> tuple[np.ndarray, np.ndarray]:
    """Return 30 noisy points of the Gabor model."""
    x = np.linspace(-15, 15, 30)
    noise = np.random.default_rng(0).standard_normal(len(x))
    return x, gabor(np.array(GABOR_TRUTH), x)[0] + 0.1 * noise


def descend(
    function: Function,
    start: tuple[float, float],
    optimizer: fm.optimizers.Optimizer,
    steps: int,
) -> np.ndarray:
    """Return the path of an optimiser: (steps + 1, 2)."""
    theta = np.array(start)
    path = [theta.copy()]
    for _ in range(steps):
        _, grad = function(theta)
        optimizer.step(theta, grad)  # in place
        path.append(theta.copy())
    return np.array(path)


def minimize(function: Function, start: tuple[float, float]) -> np.ndarray:
    """Return the points that L-BFGS evaluated, including line searches."""
    path = []

    def recorded(theta: np.ndarray) -> tuple[float, np.ndarray]:
        path.append(theta.copy())
        return function(theta)

    fm.LBFGS().minimize(recorded, np.array(start))
    return np.array(path)


def mini_batches(
    x: np.ndarray, y: np.ndarray, start: tuple[float, float], epochs: int, seed: int
) -> np.ndarray:
    """Return the path of descent in batches of 5 points, shuffled in each epoch."""
    rng = np.random.default_rng(seed)
    optimizer = fm.SGD(lr=GABOR_RATE)
    theta = np.array(start)
    path = [theta.copy()]
    for _ in range(epochs):
        for rows in rng.permutation(len(x)).reshape(-1, BATCH):
            _, grad = squared_error(x[rows], y[rows])(theta)
            optimizer.step(theta, grad)
            path.append(theta.copy())
    return np.array(path)


def optimise(
    problem: Problem, momentum_rate: float, rms_rate: float, adam_rate: float
) -> Paths:
    """Return the path of each optimiser."""
    descents = {
        "GD": fm.SGD(lr=momentum_rate),
        "momentum": fm.SGD(lr=momentum_rate, momentum=0.9),
        "Nesterov": fm.SGD(lr=momentum_rate, momentum=0.9, nesterov=True),
        "RMSprop": fm.RMSprop(lr=rms_rate),
        "Adam": fm.Adam(lr=adam_rate),
    }
    paths = {
        name: descend(problem.function, problem.start, optimizer, problem.steps)
        for name, optimizer in descents.items()
    }
    paths["L-BFGS"] = minimize(problem.function, problem.start)
    return paths


def values(function: Function, path: np.ndarray) -> np.ndarray:
    """Return the function's values along a path."""
    return np.array([function(theta)[0] for theta in path])


def draw_contours(axes: Axes, problem: Problem, resolution: int) -> None:
    """Draw the function's level sets, darker where it is lower, and its minimum."""
    x, y = (np.linspace(low, high, resolution) for low, high in problem.window)
    height = np.array([[problem.function(np.array([a, b]))[0] for a in x] for b in y])
    levels = np.geomspace(height.min() + 1e-3, height.max(), 14)
    axes.contourf(
        x,
        y,
        np.log(height + 1e-9),
        np.log(levels),
        cmap="Blues_r",
        alpha=0.45,
        extend="min",
    )
    axes.plot(
        *problem.minimum,
        "*",
        color="#F0E442",
        markeredgecolor="black",
        markersize=15,
        zorder=5,
        label="minimum",
    )
    axes.set(
        xlim=problem.window[0],
        ylim=problem.window[1],
        xlabel=problem.labels[0],
        ylabel=problem.labels[1],
    )


def draw_path(axes: Axes, path: np.ndarray, label: str, color: str, line: str) -> None:
    """Draw a path with its start and end."""
    axes.plot(*path.T, line, color=color, linewidth=1.4, label=label)
    axes.plot(*path[0], "o", color="white", markeredgecolor="black", zorder=4)
    axes.plot(*path[-1], "s", color=color, markeredgecolor="white", zorder=4)


def draw_row(row: np.ndarray, problem: Problem, paths: Paths, resolution: int) -> None:
    """Draw three panels of paths, and one of values over evaluations."""
    for axes, group in zip(row, GROUPS, strict=False):
        draw_contours(axes, problem, resolution)
        for name in group:
            draw_path(axes, paths[name], name, *STYLES[name])
        axes.set_title(f"{problem.name}: {', '.join(group)}", fontsize="medium")
        axes.legend(fontsize="small")
    lowest = problem.function(np.array(problem.minimum))[0]
    for name, path in paths.items():
        color, line = STYLES[name]
        # Running minimum: a step may increase the value, and line searches do.
        height = np.minimum.accumulate(values(problem.function, path)) - lowest
        count = np.arange(1, len(path) + 1)
        row[3].loglog(count, np.maximum(height, FLOOR), line, color=color, label=name)
    row[3].set(xlabel="evaluations", ylabel="lowest value so far, less the minimum")
    row[3].set_title(f"{problem.name}: values", fontsize="medium")
    row[3].grid(alpha=0.25)
    row[3].legend(fontsize="small")


def plot(
    problems: list[Problem],
    all_paths: list[Paths],
    escape: Paths,
    resolution: int,
    output: Path,
) -> None:
    """Save a row of panels for each problem; the third shows the wrong valley."""
    figure = Figure(figsize=(19, 9), layout="constrained")
    grid = figure.subplots(len(problems), 4)
    for row, problem, paths in zip(grid, problems, all_paths, strict=True):
        draw_row(row, problem, paths, resolution)
    axes = grid[1, 2]
    for (name, path), style in zip(escape.items(), ESCAPE_STYLES, strict=True):
        draw_path(axes, path, f"wrong valley: {name}", *style)
    axes.set_title(
        "Gabor: L-BFGS, and descent from the wrong valley", fontsize="medium"
    )
    axes.legend(fontsize="small")
    figure.savefig(output, dpi=90)


def check(
    problems: list[Problem], all_paths: list[Paths], escaped: np.ndarray, stuck: float
) -> str:
    """Return the claims that do not hold."""
    for problem, paths in zip(problems, all_paths, strict=True):
        final = {k: problem.function(path[-1])[0] for k, path in paths.items()}
        lowest = problem.function(np.array(problem.minimum))[0]
        start = problem.function(np.array(problem.start))[0]
        for name, value in final.items():
            if value - lowest > WANTED_LEFT * (start - lowest):
                return f"{problem.name}: {name} comes down to {value:.3g} only"
        if final["L-BFGS"] - lowest > 1e-9 or final["momentum"] >= final["GD"]:
            return f"{problem.name}: {final}"
    if not escaped.min() < WANTED_ESCAPE * stuck:
        return f"mini-batches reach {escaped.min():.3f}, full batches {stuck:.3f}"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 if --check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("optimizers.png"))
    parser.add_argument("--quick", action="store_true", help="coarser contours")
    parser.add_argument(
        "--check", action="store_true", help="fail if an optimiser gets lost"
    )
    options = parser.parse_args(arguments)

    x, y = measure()
    fit_gabor = squared_error(x, y)
    best = fm.LBFGS().minimize(fit_gabor, np.array(GABOR_TRUTH)).theta
    valley = Problem(
        name="Rosenbrock",
        function=rosenbrock,
        start=(-1.2, 1.0),
        minimum=(1.0, 1.0),
        window=((-1.8, 1.8), (-0.8, 2.2)),
        steps=500,
        labels=("x", "y"),
    )
    waves = Problem(
        name="Gabor",
        function=fit_gabor,
        start=(2.0, 8.0),
        minimum=(float(best[0]), float(best[1])),
        window=((-6.0, 9.0), (2.0, 22.0)),
        steps=100,
        labels=("$\\theta_0$", "$\\theta_1$"),
    )
    problems = [valley, waves]
    all_paths = [
        optimise(valley, momentum_rate=1e-3, rms_rate=0.02, adam_rate=0.1),
        optimise(waves, momentum_rate=0.5, rms_rate=0.1, adam_rate=0.3),
    ]

    # From the wrong valley: equal steps on all points and on mini-batches.
    noisy = [mini_batches(x, y, WRONG_START, EPOCHS, seed) for seed in range(SEEDS)]
    escaped = np.array([fit_gabor(path[-1])[0] for path in noisy])
    steps = len(noisy[0]) - 1
    full = descend(fit_gabor, WRONG_START, fm.SGD(lr=GABOR_RATE), steps)
    stuck = fit_gabor(full[-1])[0]
    escape = {
        "full batch": full,
        f"batches of {BATCH}, best run": noisy[int(escaped.argmin())],
    }

    for problem, paths in zip(problems, all_paths, strict=True):
        lowest = problem.function(np.array(problem.minimum))[0]
        at = ", ".join(f"{value:.3f}" for value in problem.minimum)
        print(f"{problem.name}: minimum {lowest:.3g} at ({at})")
        for name, path in paths.items():
            reached = problem.function(path[-1])[0]
            print(f"  {name:9} {len(path):4} evaluations  value {reached:10.3g}")
    print(f"Gabor from the wrong valley, {steps} steps")
    print(f"  full batch {stuck:.3f}; batches of {BATCH}: {np.sort(escaped).round(3)}")
    resolution = QUICK_RESOLUTION if options.quick else RESOLUTION
    plot(problems, all_paths, escape, resolution, options.output)
    print(f"picture: {options.output}")
    problem_found = check(problems, all_paths, escaped, stuck) if options.check else ""
    if problem_found:
        print(f"check failed: {problem_found}", file=sys.stderr)
    return 1 if problem_found else 0


if __name__ == "__main__":
    sys.exit(main())
