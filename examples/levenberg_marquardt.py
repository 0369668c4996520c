"""
Levenberg-Marquardt on a small smooth problem
=============================================

A 1-20-1 network with tanh (61 parameters) is fitted as a surrogate of the function
sin(3x) exp(-x²), known without noise at 200 points. Levenberg-Marquardt, which solves a
linear system in each step, reaches errors far below those of Adam and L-BFGS, in less
time. All three start from the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np
from _command import finish, parser

HIDDEN, POINTS = 20, 200
LM, LBFGS, ADAM = "Levenberg-Marquardt", "L-BFGS", "Adam"
EPOCHS = {LM: 300, LBFGS: 3000, ADAM: 15000}
QUICK_EPOCHS = {LM: 300, LBFGS: 1000, ADAM: 3000}
LEARNING_RATE = 0.01
# Colour-blind safe, of Okabe & Ito (2008).
STYLES = {LM: ("#0072B2", "-"), LBFGS: ("#E69F00", "--"), ADAM: ("#D55E00", "-.")}
# Limits for --check: Levenberg-Marquardt's RMS error, and the ratio of its error to
# each of the other errors.
WANTED_ERROR, WANTED_PART = 1e-5, 0.1


# %%
# Training
# --------
#
# The solvers and Adam train through the same method, :obj:`fastmlp.MLP.fit`. An epoch
# of a solver is one iteration on all points; Adam's batch holds all points as well, so
# that an epoch is one step for all three.


@dataclass(frozen=True)
class Outcome:
    """A trained network, its losses per epoch, and its error between the points."""

    network: fm.MLP
    history: fm.History
    error: float

    @property
    def seconds(self) -> float:
        """Total time of all epochs."""
        return sum(self.history.seconds)


def target(x: np.ndarray) -> np.ndarray:
    """Return the function to approximate."""
    return np.sin(3 * x) * np.exp(-(x**2))


def train(name: str, epochs: int, seed: int) -> Outcome:
    """Train a network on all points at once; one epoch is one step."""
    x = np.linspace(-2, 2, POINTS)[:, np.newaxis]
    optimizers = {
        LM: fm.LevenbergMarquardt(),
        LBFGS: fm.LBFGS(),
        ADAM: fm.Adam(lr=fm.schedules.Cosine(LEARNING_RATE, period=epochs)),
    }
    network = fm.MLP([1, HIDDEN, 1], activation="tanh", dtype="float64", seed=seed)
    history = network.fit(
        x,
        target(x),
        loss=fm.MSE(),
        optimizer=optimizers[name],
        epochs=epochs,
        batch_size=POINTS,
        seed=seed,
    )
    between = np.linspace(-2, 2, 10 * POINTS)[:, np.newaxis]
    difference = network(between) - target(between)
    return Outcome(network, history, float(np.sqrt(np.mean(difference**2))))


# %%
# The picture
# -----------
#
# The upper panels show the fits and their errors between the points of the data; the
# lower ones show the errors by steps and by time.


def plot(outcomes: dict[str, Outcome]) -> plt.Figure:
    """Draw the fit, its error along x, and the errors over steps and over time."""
    x = np.linspace(-2, 2, 10 * POINTS)[:, np.newaxis]
    figure = plt.figure(figsize=(13, 8), layout="constrained")
    (fit, rest), (steps, times) = figure.subplots(2, 2)
    fit.plot(x, target(x), color="black", linewidth=5, alpha=0.25, label="function")
    for name, outcome in outcomes.items():
        color, line = STYLES[name]
        style = {"color": color, "linestyle": line, "label": name}
        fitted = outcome.network(x)
        fit.plot(x, fitted, **style)
        rest.semilogy(x, abs(fitted - target(x)), **style)
        errors = np.sqrt(outcome.history.loss)
        steps.loglog(np.arange(1, len(errors) + 1), errors, **style)
        times.loglog(np.cumsum(outcome.history.seconds), errors, **style)
    fit.set(xlabel="x", ylabel="y", title="The function and its surrogates")
    rest.set(xlabel="x", ylabel="absolute error", title="Error along x")
    steps.set(xlabel="epochs (steps)", ylabel="RMS error", title="Error by step")
    times.set(xlabel="seconds", ylabel="RMS error", title="Error by time")
    for axes in (fit, rest, steps, times):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    fit.legend(loc="upper left")
    for axes in (steps, times):
        axes.legend(loc="lower left")
    return figure


def check(outcomes: dict[str, Outcome]) -> str:
    """Return the claims that do not hold."""
    ours = outcomes[LM].error
    if ours > WANTED_ERROR:
        return f"the RMS error of {LM} is {ours:.2g}"
    for name in (LBFGS, ADAM):
        if ours > WANTED_PART * outcomes[name].error:
            return f"{LM} has {ours:.2g}, {name} {outcomes[name].error:.2g}"
    return ""


# %%
# The run
# -------
#
# The memory that Levenberg-Marquardt needs grows with the square of the number of
# parameters, and the time of a step with its cube: it is for small networks. With more
# parameters, try L-BFGS.


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    command = parser(
        __doc__, quick="fewer epochs", check=f"fail if {LM} is not the best by far"
    )
    command.add_argument(
        "--seed", type=int, default=0, help="seed of the initial weights"
    )
    options = command.parse_args(arguments)
    epochs = QUICK_EPOCHS if options.quick else EPOCHS

    outcomes = {name: train(name, epochs[name], options.seed) for name in epochs}
    for name, outcome in outcomes.items():
        print(
            f"{name:20} {len(outcome.history):6} epochs  {outcome.seconds:6.3f} s"
            f"  RMS error {outcome.error:.1e}"
        )
    finish(plot(outcomes), options, check(outcomes))


if __name__ == "__main__":
    main()
