"""
Universal approximation: the error against the width
====================================================

A network with one hidden layer approximates any continuous function arbitrarily well if
the layer is wide enough and its activation is not a polynomial (Cybenko 1989, Hornik
1991, Leshno et al. 1993). Here networks of widths 2 to 64 with three activations are
fitted to waves that become shorter and shorter. The error falls with the width, until
the optimiser is the limit. With relu the network is piecewise linear, with at most one
joint for each hidden unit: the picture marks the joints and shows the active units on
each piece.
"""

from __future__ import annotations

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np
from _command import finish, parser

ACTIVATIONS = ("relu", "tanh", "sin")
# Colour-blind safe, of Okabe & Ito (2008).
STYLES = {
    "relu": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "tanh": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    "sin": {"color": "#009E73", "linestyle": ":", "marker": "^"},
}
WIDTHS, QUICK_WIDTHS = (2, 4, 8, 16, 32, 64), (2, 4, 8, 16)
# Starts of wide networks; narrow ones, which get stuck more often, have STARTS_OF_ALL
# divided by the width if that is more.
STARTS, QUICK_STARTS = 5, 3
STARTS_OF_ALL = 80
# L-BFGS takes this many iterations, Levenberg-Marquardt a tenth of it.
ITERATIONS, QUICK_ITERATIONS = 2000, 500
LOW, HIGH, POINTS = -3.0, 3.0, 301
# Two widths whose joints are drawn, and the width at which all activations are drawn.
FEW, MANY, COMPARED = 4, 16, 4
# Limits for --check: the widest network's error, and the ratio of that error to the
# narrowest network's error.
WANTED_ERROR, WANTED_PART = 0.05, 0.1


# %%
# The function
# ------------
#
# A cosine whose waves become shorter and shorter from left to right.


def target(x: np.ndarray) -> np.ndarray:
    """Return waves that become shorter and shorter."""
    return np.cos((x + 3) ** 2 / 3)


def grid(points: int) -> np.ndarray:
    """Return points from LOW to HIGH, as a column."""
    return np.linspace(LOW, HIGH, points)[:, np.newaxis]


# %%
# Fits
# ----
#
# Both solvers use all points at once and do not need a learning rate. For smooth
# activations, :obj:`fastmlp.LevenbergMarquardt` reaches errors far below those of other
# methods; with relu, :obj:`fastmlp.LBFGS` finds better fits of this function. The
# result depends on the initial weights, so the best of several starts is taken.


def fit(width: int, activation: str, starts: int, iterations: int) -> fm.MLP:
    """Return the best of several networks fitted from different initial weights.

    PyTorch's initialisation also draws biases: with zero biases all joints would start
    at the same place.
    """
    x = grid(POINTS)
    networks = []
    for seed in range(max(starts, STARTS_OF_ALL // width)):
        network = fm.MLP(
            [1, width, 1],
            activation=activation,
            init="torch",
            dtype="float64",
            seed=seed,
        )
        if activation == "relu":
            solver, epochs = fm.LBFGS(), iterations
        else:
            solver, epochs = fm.LevenbergMarquardt(), iterations // 10
        network.fit(x, target(x), loss=fm.MSE(), optimizer=solver, epochs=epochs)
        networks.append(network)
    return min(networks, key=error)


def error(network: fm.MLP) -> float:
    """Return the root mean squared error on a grid finer than the training points."""
    x = grid(10 * POINTS)
    return float(np.sqrt(np.mean((network(x) - target(x)) ** 2)))


# %%
# Joints
# ------
#
# :obj:`fastmlp.regions.count_regions` finds the joints of a piecewise linear network
# exactly. A hidden layer of D relu units makes at most D of them.


def joints(network: fm.MLP) -> int:
    """Return the number of joints of a piecewise linear network."""
    return len(fm.regions.count_regions(network, LOW, HIGH).joints)


# %%
# The picture
# -----------
#
# Two fits with relu and their activation patterns; the fits of all activations with
# four units; and the error against the width.


def plot(networks: dict[str, dict[int, fm.MLP]]) -> plt.Figure:
    """Draw two relu fits with joints, fits of one width, and errors over width."""
    x = grid(1001)
    widths = list(networks["relu"])
    figure = plt.figure(figsize=(14, 6.5), layout="constrained")
    parts = figure.subfigures(1, 3, wspace=0.03)
    for part, width in zip(parts, (FEW, MANY), strict=False):
        fm.plot.fit_1d(networks["relu"][width], x[::10], target(x[::10]), fig=part)
        part.suptitle(f"relu, {width} hidden units")
        patterns = part.axes[1]
        patterns.get_legend().remove()
        patterns.set_title("Which units are active (blue) on each piece")

    upper, lower = parts[2].subplots(2, 1)
    upper.plot(x, target(x), color="black", linewidth=4, alpha=0.25, label="function")
    for name, style in STYLES.items():
        fitted = networks[name][COMPARED](x)
        upper.plot(x, fitted, label=name, **{**style, "marker": ""})
        errors = [error(network) for network in networks[name].values()]
        lower.loglog(widths, errors, label=name, **style)
    upper.set(xlabel="x", ylabel="y", title=f"{COMPARED} hidden units")
    lower.set(xlabel="hidden units", ylabel="RMS error", title="Error against width")
    lower.set_xticks(widths, [str(width) for width in widths], minor=False)
    lower.minorticks_off()
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend()
    return figure


def check(networks: dict[str, dict[int, fm.MLP]]) -> str:
    """Return the claims that do not hold."""
    for name, by_width in networks.items():
        errors = [error(network) for network in by_width.values()]
        if errors[-1] > min(WANTED_ERROR, WANTED_PART * errors[0]):
            return f"{name}: the error falls from {errors[0]:.4f} to {errors[-1]:.4f}"
    for width, network in networks["relu"].items():
        if joints(network) > width:
            return f"{width} relu units have {joints(network)} joints"
    return ""


# %%
# The run
# -------
#
# The errors are measured between the points of the data as well, on a finer grid.


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parser(
        __doc__, quick="fewer and smaller networks", check="fail if errors stay large"
    ).parse_args(arguments)
    widths = QUICK_WIDTHS if options.quick else WIDTHS
    starts = QUICK_STARTS if options.quick else STARTS
    iterations = QUICK_ITERATIONS if options.quick else ITERATIONS

    networks = {
        name: {width: fit(width, name, starts, iterations) for width in widths}
        for name in ACTIVATIONS
    }
    print("RMS error by hidden units, and joints of the relu networks")
    print("width " + "".join(f"{name:>10}" for name in ACTIVATIONS) + "    joints")
    for width in widths:
        errors = [error(networks[name][width]) for name in ACTIVATIONS]
        row = "".join(f"{value:10.1e}" for value in errors)
        print(f"{width:5d} {row}{joints(networks['relu'][width]):10d}")
    finish(plot(networks), options, check(networks))


if __name__ == "__main__":
    main()
