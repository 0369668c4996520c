"""
Seven optimisers in Rosenbrock's valley
=======================================

Rosenbrock's function has one minimum, at the end of a narrow curved valley. Gradient
descent crawls along the bottom; momentum gathers speed; Adagrad, RMSprop and Adam scale
the step of each coordinate; L-BFGS learns the curvature. Optimisers need no network:
``opt.step(theta, grad)`` updates any array, and ``LBFGS().minimize(f, theta)`` finds a
minimum of any function that returns its value and gradient.
"""

from __future__ import annotations

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np
from _command import finish, parser

# %%
# The function
# ------------
#
# The valley follows the parabola y = x².


def rosenbrock(theta: np.ndarray) -> tuple[float, np.ndarray]:
    """Return (1 - x)² + 100 (y - x²)² and its gradient."""
    x, y = theta
    bend = y - x * x
    gradient = np.array([-2 * (1 - x) - 400 * x * bend, 200 * bend])
    return (1 - x) ** 2 + 100 * bend**2, gradient


START, MINIMUM = (-1.2, 1.0), (1.0, 1.0)
WINDOW = ((-1.8, 1.8), (-0.8, 2.2))
STEPS, QUICK_STEPS = 2000, 500

# %%
# The optimisers
# --------------
#
# The first three share a learning rate. The largest curvature at the minimum is 1002,
# so gradient descent is unstable there with a learning rate above 2 / 1002. The
# learning rates of Adagrad, RMSprop and Adam were chosen by a coarse search.

OPTIMIZERS = {
    "gradient descent": fm.SGD(lr=1e-3),
    "momentum": fm.SGD(lr=1e-3, momentum=0.9),
    "Nesterov": fm.SGD(lr=1e-3, momentum=0.9, nesterov=True),
    "Adagrad": fm.Adagrad(lr=0.5),
    "RMSprop": fm.RMSprop(lr=0.005),
    "Adam": fm.Adam(lr=0.1),
}
# Colour-blind safe, of Okabe & Ito (2008).
STYLES = {
    "gradient descent": ("#000000", "-"),
    "momentum": ("#D55E00", "--"),
    "Nesterov": ("#0072B2", "-."),
    "Adagrad": ("#E69F00", "-"),
    "RMSprop": ("#009E73", "--"),
    "Adam": ("#CC79A7", "-."),
    "L-BFGS": ("#56B4E9", "-"),
}
GROUPS = (
    ("gradient descent", "momentum", "Nesterov"),
    ("Adagrad", "RMSprop", "Adam"),
)


def descend(optimizer: fm.optimizers.Optimizer, steps: int) -> np.ndarray:
    """Return the path of an optimiser: (steps + 1, 2)."""
    theta = np.array(START)
    path = [theta.copy()]
    for _ in range(steps):
        _, gradient = rosenbrock(theta)
        optimizer.step(theta, gradient)  # in place
        path.append(theta.copy())
    return np.array(path)


def minimize() -> np.ndarray:
    """Return the points that L-BFGS evaluated, including line searches."""
    path = []

    def recorded(theta: np.ndarray) -> tuple[float, np.ndarray]:
        path.append(theta.copy())
        return rosenbrock(theta)

    fm.LBFGS().minimize(recorded, np.array(START))
    return np.array(path)


# %%
# The picture
# -----------
#
# Two panels show the paths; the third shows the lowest value so far, because momentum
# and the line searches of L-BFGS also go uphill.


def plot(paths: dict[str, np.ndarray]) -> plt.Figure:
    """Draw the paths over the level sets, and the values over the evaluations."""
    figure, grid = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    x, y = (np.linspace(low, high, 121) for low, high in WINDOW)
    height = np.array([[rosenbrock((a, b))[0] for a in x] for b in y])
    levels = np.linspace(-6, np.log(height.max()), 14)
    for axes, group in zip(grid, GROUPS, strict=False):
        axes.contourf(
            x,
            y,
            np.log(height + 1e-9),
            levels,
            cmap="Blues_r",
            alpha=0.45,
            extend="min",
        )
        for name in (*group, "L-BFGS") if axes is grid[1] else group:
            color, line = STYLES[name]
            axes.plot(*paths[name].T, line, color=color, linewidth=1.6, label=name)
            axes.plot(*paths[name][-1], "s", color=color, markeredgecolor="white")
        axes.plot(*START, "o", color="white", markeredgecolor="black", label="start")
        star = {"color": "#F0E442", "markeredgecolor": "black", "markersize": 15}
        axes.plot(*MINIMUM, "*", label="minimum", **star)
        axes.set(xlim=WINDOW[0], ylim=WINDOW[1], xlabel="x", ylabel="y")
        axes.legend(loc="lower center", ncols=2, fontsize="small")
    grid[0].set_title("Descent with and without momentum")
    grid[1].set_title("Scaled steps, and L-BFGS")
    for name, path in paths.items():
        color, line = STYLES[name]
        values = [rosenbrock(theta)[0] for theta in path]
        lowest = np.maximum(np.minimum.accumulate(values), 1e-12)
        grid[2].loglog(
            np.arange(1, len(path) + 1), lowest, line, color=color, label=name
        )
    grid[2].set(xlabel="evaluations", ylabel="lowest value so far", title="Values")
    grid[2].grid(alpha=0.25)
    grid[2].legend(fontsize="small", loc="lower left")
    return figure


# %%
# The run
# -------
#
# The table counts evaluations of the function and its gradient. The module
# ``_command.py``, which the examples with options share, reads the command line.


def check(final: dict[str, float]) -> str:
    """Return the claims that do not hold."""
    worst = max(final, key=lambda name: final[name])
    if final[worst] > 0.5 * rosenbrock(np.array(START))[0]:
        return f"{worst} only comes down to {final[worst]:.3g}"
    if final["L-BFGS"] > 1e-9 or final["momentum"] >= final["gradient descent"]:
        return f"values in the end: {final}"
    return ""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parser(
        __doc__, quick=f"{QUICK_STEPS} steps", check="fail if an optimiser gets lost"
    ).parse_args(arguments)
    steps = QUICK_STEPS if options.quick else STEPS
    paths = {name: descend(optimizer, steps) for name, optimizer in OPTIMIZERS.items()}
    paths["L-BFGS"] = minimize()
    final = {name: rosenbrock(path[-1])[0] for name, path in paths.items()}
    for name, path in paths.items():
        print(f"{name:17} {len(path):5} evaluations  value {final[name]:10.3g}")
    finish(plot(paths), options, check(final))


if __name__ == "__main__":
    main()
