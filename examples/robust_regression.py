"""
Outliers: squared, absolute and pseudo-Huber errors
===================================================

A sixth of the measurements are far too high. They pull up the fit by squared error, for
which one residual of 4 weighs as much as 16 of 1. They hardly affect the fits by
absolute error and by pseudo-Huber error, which is quadratic near 0 and linear far out.
The picture shows the three fits over data and truth, and the losses as functions of the
residual.
"""

from __future__ import annotations

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np
from _command import finish, parser

SAMPLES = 240
OUTLIERS = 40
NOISE = 0.1
HIDDEN = 12
EPOCHS, QUICK_EPOCHS = 3000, 1500
LEARNING_RATE = 0.02
LOSSES = {
    "L2 (squared)": fm.MSE(),
    "L1 (absolute)": fm.MAE(),
    "pseudo-Huber": fm.PseudoHuber(delta=0.2),
}
# Colour-blind safe, of Okabe & Ito (2008).
STYLES = dict(
    zip(LOSSES, (("#D55E00", "--"), ("#009E73", "-."), ("#0072B2", "-")), strict=True)
)
# Largest ratio of a robust fit's error to that of the squared error.
WANTED_PART = 0.4


# %%
# Data
# ----
#
# A smooth curve with little noise; 40 of 240 measurements are 1.5 to 4 too high.


def truth(x: np.ndarray) -> np.ndarray:
    """Return the true curve."""
    return np.sin(2 * x) + x / 3


def measure(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x and y as columns, and a mask of the outliers."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, (SAMPLES, 1))
    y = truth(x) + NOISE * rng.standard_normal(x.shape)
    bad = rng.permutation(SAMPLES) < OUTLIERS
    y[bad] += rng.uniform(1.5, 4, (OUTLIERS, 1))
    return x, y, bad


# %%
# Fits
# ----
#
# The same network is trained with each loss. The absolute error has no curvature, so
# the learning rate must decrease to zero for it to settle.


def fit(x: np.ndarray, y: np.ndarray, loss: fm.losses.Loss, epochs: int) -> fm.MLP:
    """Fit a small network with a given loss."""
    network = fm.MLP([1, HIDDEN, 1], activation="tanh", init="torch", seed=0)
    rate = fm.schedules.Cosine(LEARNING_RATE, period=epochs)
    optimizer = fm.Adam(lr=rate)
    network.fit(x, y, loss=loss, optimizer=optimizer, epochs=epochs, batch_size=len(x))
    return network


def error(network: fm.MLP) -> float:
    """Return the root of the mean squared distance from the truth."""
    x = np.linspace(-3, 3, 1001)[:, np.newaxis]
    return float(np.sqrt(np.mean((network(x) - truth(x)) ** 2)))


# %%
# The picture
# -----------
#
# The right panel shows why: the slope of the squared error grows with the residual,
# while the slopes of the other two losses are bounded.


def plot(
    networks: dict[str, fm.MLP],
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> plt.Figure:
    """Draw the fits over data and truth, and the losses over the residual."""
    x, y, bad = data
    line = np.linspace(-3, 3, 601)[:, np.newaxis]
    residual = np.linspace(-2, 2, 401)[:, np.newaxis]
    figure = plt.figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))

    left.scatter(x[~bad], y[~bad], s=14, color="#666666", label="data")
    left.scatter(x[bad], y[bad], s=26, color="#666666", marker="x", label="outliers")
    left.plot(line, truth(line), color="black", linewidth=5, alpha=0.25, label="truth")
    for name, network in networks.items():
        color, dashes = STYLES[name]
        left.plot(line, network(line), dashes, color=color, linewidth=2, label=name)
        # One sample per residual gives the loss of each row.
        values = [LOSSES[name](r, 0 * r) for r in residual]
        right.plot(residual, values, dashes, color=color, linewidth=2, label=name)
    left.set(xlabel="x", ylabel="y", title="Fits to data with outliers")
    right.set(xlabel="residual", ylabel="loss of one sample", title="Losses")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(ncols=2)
    right.legend(loc="upper center")
    return figure


def check(errors: dict[str, float]) -> str:
    """Return the claims that do not hold."""
    squared, *robust = errors.items()
    for name, value in robust:
        if value > WANTED_PART * squared[1]:
            return f"{name} is off by {value:.3f}, {squared[0]} by {squared[1]:.3f}"
    return ""


# %%
# The run
# -------
#
# Distances are measured from the true curve, not from the data.


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    command = parser(
        __doc__,
        quick=f"{QUICK_EPOCHS} epochs",
        check="fail if outliers pull the robust fits",
    )
    command.add_argument("--seed", type=int, default=1, help="seed of the data")
    options = command.parse_args(arguments)
    epochs = QUICK_EPOCHS if options.quick else EPOCHS

    data = measure(options.seed)
    x, y, bad = data
    networks = {name: fit(x, y, loss, epochs) for name, loss in LOSSES.items()}
    errors = {name: error(network) for name, network in networks.items()}
    print(f"{len(x)} samples with noise of {NOISE}, {bad.sum()} of them outliers")
    for name, value in errors.items():
        print(f"{name:14}  RMS distance from the truth {value:.3f}")
    finish(plot(networks, data), options, check(errors))


if __name__ == "__main__":
    main()
