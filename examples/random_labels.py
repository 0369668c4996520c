"""
Four networks learn random labels
=================================

A network with enough parameters fits any labels, even random ones. Prince
(Understanding Deep Learning, 2023, figure 20.2) shows this for four networks of about
15,000 parameters with one to four hidden layers: trained on 4,000 examples of MNIST-1D
with random labels by full-batch gradient descent, all reach an error of zero, and the
deeper ones need fewer epochs.

By default this script uses 500 of the examples, which takes less than a minute on one
thread. ``--full`` takes all 4,000 on two threads and computes the whole figure.
With ``--json FILE`` the results are written while training goes on; the same command
resumes after an interruption.

The whole figure, of one seed, took an hour on two cores of an AMD EPYC (Zen 4) that did
some other work as well, with the code of commit 21b9886 (November 2026). Every network
reaches an error of zero, in the published order:

=============  ========  ===================  =======
hidden layers  width     epochs to zero       seconds
=============  ========  ===================  =======
1              298       586,500              1,855
2              100       217,000              693
3              75        159,500              597
4              63        127,500              431
=============  ========  ===================  =======

.. image:: /_static/random_labels.png
   :alt: Training error and loss of the four networks against the epoch
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np
from _command import finish, parser
from mnist1d.data import make_dataset

# %%
# Networks and settings
# ---------------------
#
# The widths make the numbers of parameters nearly equal. The weights are drawn by He's
# rule, and plain gradient descent has neither momentum nor weight decay.

HIDDEN = {1: [298], 2: [100] * 2, 3: [75] * 3, 4: [63] * 4}
PARAMETERS = {1: 15208, 2: 15210, 3: 15235, 4: 15319}
LEARNING_RATE = 0.0025
# Most epochs: more than these networks need.
MOST_EPOCHS = {1: 750_000, 2: 300_000, 3: 300_000, 4: 300_000}
EXAMPLES, ALL_EXAMPLES = 500, 4000
# Epochs between two points of a curve, and seconds between two writes of the file.
PAUSE, FULL_PAUSE, SECONDS = 50, 500, 20.0
# Colour-blind safe, of Okabe & Ito (2008).
COLORS = {1: "#000000", 2: "#0072B2", 3: "#D55E00", 4: "#009E73"}
MARKERS = {1: "o", 2: "s", 3: "^", 4: "D"}


# %%
# Data
# ----
#
# The package ``mnist1d`` generates the examples: ten one-dimensional shapes of 40
# numbers, shifted, scaled, sheared and with noise. Their own labels are not used.


def load(examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (examples, 40) and random labels."""
    state = np.random.get_state()  # noqa: NPY002 - the generator of mnist1d seeds it
    x = make_dataset()["x"][:examples].astype(np.float32)
    np.random.set_state(state)  # noqa: NPY002
    labels = np.random.default_rng([seed, 1]).integers(10, size=len(x))
    return x, labels


# %%
# Training
# --------
#
# A batch of all examples makes one step per epoch. Gradient descent has no state
# besides the parameters, so that these and the number of epochs are enough to resume a
# run with the same bits. The error is the share of wrong predictions.


def train(
    depth: int,
    run: dict,
    data: tuple[np.ndarray, np.ndarray],
    options: argparse.Namespace,
    store: Callable[[], None],
) -> None:
    """Train a network until it makes no errors; continue the run if it has begun."""
    x, labels = data
    mlp = fm.MLP([40, *HIDDEN[depth], 10], init="he_normal", seed=[options.seed, depth])
    assert mlp.n_params == PARAMETERS[depth]
    loss, optimizer = fm.CrossEntropy(), fm.SGD(lr=LEARNING_RATE)

    def record(epoch: int, seconds: float) -> None:
        wrong = float(np.mean(mlp(x).argmax(axis=1) != labels))
        for name, value in (
            ("epochs", epoch),
            ("errors", wrong),
            ("losses", mlp.evaluate(x, labels, loss)),
            ("seconds", seconds),
        ):
            run.setdefault(name, []).append(value)

    if "params" in run:
        mlp.params[:] = run["params"]
    else:
        record(0, 0.0)
    most = min(MOST_EPOCHS[depth], options.epochs or MOST_EPOCHS[depth])
    before, start = run["seconds"][-1], time.perf_counter()
    stored = start
    while run["errors"][-1] > 0 and run["epochs"][-1] < most:
        epochs = min(options.pause, most - run["epochs"][-1])
        mlp.fit(
            x,
            labels,
            loss=loss,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=len(x),
            shuffle=False,
            progress=False,
        )
        now = time.perf_counter()
        record(run["epochs"][-1] + epochs, before + now - start)
        if now - stored > SECONDS:
            run["params"] = mlp.params.tolist()
            store()
            stored = now
    run["params"] = mlp.params.tolist()
    store()


# %%
# Results
# -------
#
# The file has the settings, so that it is not continued with others, and for each depth
# the curve and the current parameters. It is replaced as a whole.


def begin(options: argparse.Namespace) -> dict:
    """Return the results so far, from the file if there is one."""
    settings = {
        "examples": options.examples,
        "seed": options.seed,
        "pause": options.pause,
        "lr": LEARNING_RATE,
    }
    if options.json and options.json.exists():
        results = json.loads(options.json.read_text())
        if results["settings"] != settings:
            raise SystemExit(
                f"{options.json} has other settings: {results['settings']}"
            )
        return results
    return {"settings": settings, "runs": {str(depth): {} for depth in HIDDEN}}


def write(results: dict, path: Path | None) -> None:
    """Replace the file of the results."""
    if path:
        new = path.with_suffix(".new")
        new.write_text(json.dumps(results))
        os.replace(new, path)


def first_perfect(run: dict) -> int | None:
    """Return the epoch of the first recorded error of zero, if there is one."""
    return run["epochs"][-1] if run["errors"][-1] == 0 else None


def plot(results: dict) -> plt.Figure:
    """Draw the error and the loss of each network against the epoch."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for depth, hidden in HIDDEN.items():
        run = results["runs"][str(depth)]
        label = f"{depth} hidden layer{'s' * (depth > 1)} of {hidden[0]}"
        style = {"color": COLORS[depth], "label": label}
        errors = 100 * np.array(run["errors"])
        panels[0].plot(run["epochs"], errors, **style)
        panels[1].semilogy(run["epochs"], run["losses"], **style)
        panels[0].plot(
            run["epochs"][-1], errors[-1], MARKERS[depth], color=COLORS[depth]
        )
    count = results["settings"]["examples"]
    panels[0].set(ylabel="training error, %", title=f"{count} examples, random labels")
    panels[1].set(ylabel="cross-entropy", title="Loss")
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend()
    return figure


def check(results: dict) -> str:
    """Return the claims that do not hold."""
    perfect = [first_perfect(run) for run in results["runs"].values()]
    few = results["settings"]["examples"] < EXAMPLES
    if all(perfect) and (few or perfect == sorted(perfect, reverse=True)):
        return ""
    return f"epochs to an error of zero: {perfect}"


# %%
# The run
# -------
#
# The published order of the depths also holds for 500 examples: with each further
# hidden layer, the network reaches zero in fewer epochs. With fewer than 100 examples
# every network has far more parameters than it needs, and the order is lost.


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    command = parser(
        __doc__,
        quick=f"{EXAMPLES} examples, the default",
        check="fail if a network still makes errors, or if the order of depths differs",
    )
    command.add_argument("--json", type=Path, help="file of results, to resume from")
    command.add_argument("--seed", type=int, default=0, help="seed of weights, labels")
    command.add_argument("--epochs", type=int, help="most epochs of each network")
    command.add_argument("--threads", type=int, help="default: 1, or 2 with --full")
    size = command.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help=f"{ALL_EXAMPLES} examples")
    size.add_argument("--examples", type=int, help="another number of examples")
    options = command.parse_args(arguments)
    if options.quick and (options.full or options.examples):
        command.error("--quick excludes --full and --examples")
    options.examples = options.examples or (ALL_EXAMPLES if options.full else EXAMPLES)
    options.pause = FULL_PAUSE if options.full else PAUSE

    results = begin(options)
    data = load(options.examples, options.seed)
    print("hidden layers  parameters  epochs to 0 %  error      loss   seconds")
    with fm.threads(options.threads or (2 if options.full else 1)):
        for depth in HIDDEN:
            run = results["runs"][str(depth)]
            train(depth, run, data, options, lambda: write(results, options.json))
            print(
                f"{depth:13d} {PARAMETERS[depth]:11,d}"
                f" {first_perfect(run) or 'not yet':>14}"
                f" {run['errors'][-1]:6.1%} {run['losses'][-1]:9.4f}"
                f" {run['seconds'][-1]:9.1f}",
                flush=True,
            )
    finish(plot(results), options, check(results))


if __name__ == "__main__":
    main()
