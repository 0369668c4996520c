"""
Dropout, weight decay and early stopping
========================================

A network with more than 10,000 parameters is trained on 100 noisy points of two moons.
Without regularisation it memorises the noise: the training loss keeps falling while the
loss on other points rises. Each of three remedies is applied alone. The picture shows
decision regions and losses; the table shows accuracies on 5,000 test points, averaged
over several draws of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np
from _command import finish, parser

TRAINING, VALIDATION, TEST = 100, 100, 5000
NOISE = 0.35
HIDDEN = 100
DROPOUT = 0.5
WEIGHT_DECAY = 1.0
PATIENCE = 50
EPOCHS, QUICK_EPOCHS = 600, 300
DRAWS, QUICK_DRAWS = 8, 4
BATCH_SIZE = 20
LEARNING_RATE = 3e-3
METHODS = ("none", "dropout", "weight decay", "early stopping")
# Least gain in mean accuracy of each method over training without regularisation.
WANTED_GAIN = 0.005

Points = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """A trained network, its losses per epoch, and its accuracy on test points."""

    network: fm.MLP
    history: fm.History
    accuracy: float


# %%
# Data
# ----
#
# Half of the points lie around the upper half circle, half around the lower one, with
# enough noise that the classes overlap.


def moons(count: int, rng: np.random.Generator) -> Points:
    """Return noisy points on two interleaved half circles, and their labels."""
    label = np.arange(count) % 2
    angle = rng.uniform(0, np.pi, count)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    x = np.where(label[:, np.newaxis] == 0, upper, lower)
    x += NOISE * rng.standard_normal(x.shape)
    return x.astype(np.float32), label


# %%
# Training
# --------
#
# Dropout is a layer, weight decay belongs to the optimiser, and early stopping is a
# callback that restores the parameters of the epoch with the lowest validation loss.


def train(
    method: str, training: Points, validation: Points, epochs: int, seed: int
) -> tuple[fm.MLP, fm.History]:
    """Train one network with one method, or none."""
    dropout = [fm.Dropout(DROPOUT)] if method == "dropout" else []
    network = fm.MLP(
        [2, HIDDEN, *dropout, HIDDEN, *dropout, 1], activation="relu", seed=seed
    )
    # Biases are not decayed: they do not make a function steeper.
    decay = WEIGHT_DECAY if method == "weight decay" else 0.0
    optimizer = fm.AdamW(lr=LEARNING_RATE, weight_decay=decay, decay="weights")
    # At the end, the parameters of the best epoch are restored.
    stopping = [fm.EarlyStopping(patience=PATIENCE)]
    history = network.fit(
        *training,
        loss=fm.BinaryCrossEntropy(),
        optimizer=optimizer,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        validation_data=validation,
        callbacks=stopping if method == "early stopping" else [],
        seed=seed,
    )
    return network, history


def accuracy(network: fm.MLP, points: Points) -> float:
    """Return the accuracy; a positive logit means class 1."""
    x, label = points
    return float(np.mean((network(x)[:, 0] > 0) == label))


def run(seed: int, epochs: int) -> tuple[Points, dict[str, Outcome]]:
    """Draw data and train with every method."""
    rng = np.random.default_rng(seed)
    training, validation = moons(TRAINING, rng), moons(VALIDATION, rng)
    test = moons(TEST, rng)
    outcomes = {}
    for method in METHODS:
        network, history = train(method, training, validation, epochs, seed)
        outcomes[method] = Outcome(network, history, accuracy(network, test))
    return training, outcomes


# %%
# The picture
# -----------
#
# Above, the decision regions, the training points and the accuracy on new points;
# below, the losses by epoch.


def plot(training: Points, outcomes: dict[str, Outcome]) -> plt.Figure:
    """Draw decision regions above, losses below, a column for each method."""
    figure = plt.figure(figsize=(15, 7.5), layout="constrained")
    grid = figure.subplots(2, len(outcomes), sharey="row")
    for column, (method, outcome) in zip(grid.T, outcomes.items(), strict=True):
        regions, losses = column
        fm.plot.decision_regions(
            outcome.network, *training, names=("upper", "lower"), ax=regions
        )
        regions.set_title(f"{method}: {outcome.accuracy:.1%} correct")
        history = outcome.history
        epochs = np.arange(1, len(history) + 1)
        losses.semilogy(epochs, history.loss, color="#0072B2", label="training")
        losses.semilogy(
            epochs, history.val_loss, "--", color="#D55E00", label="validation"
        )
        if method == "early stopping":
            best = int(np.argmin(history.val_loss))
            losses.plot(
                best + 1,
                history.val_loss[best],
                "*",
                color="#F0E442",
                markeredgecolor="black",
                markersize=14,
                label=f"restored: epoch {best + 1}",
            )
        losses.set(xlabel="epoch", xlim=(0, len(outcomes["none"].history)))
        losses.grid(alpha=0.25)
        losses.legend(loc="lower left")
    grid[1, 0].set_ylabel("cross-entropy")
    for axes in grid[0, 1:]:
        axes.set_ylabel("")
        axes.get_legend().remove()
    return figure


def check(means: dict[str, float]) -> str:
    """Return the claims that do not hold."""
    for method in METHODS[1:]:
        if means[method] < means["none"] + WANTED_GAIN:
            return f"{method} has {means[method]:.2%}, none {means['none']:.2%}"
    return ""


# %%
# The run
# -------
#
# Accuracies on 5,000 new points. Single draws of 100 points differ much from each
# other, so the table has means over several draws.


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parser(
        __doc__,
        quick=f"{QUICK_EPOCHS} epochs on {QUICK_DRAWS} draws",
        check="fail if a method does not help",
    ).parse_args(arguments)
    epochs = QUICK_EPOCHS if options.quick else EPOCHS
    draws = QUICK_DRAWS if options.quick else DRAWS

    runs = [run(seed, epochs) for seed in range(draws)]
    means = {}
    print(f"{TRAINING} noisy points to train on, {draws} draws")
    for method in METHODS:
        values = [outcomes[method].accuracy for _, outcomes in runs]
        means[method] = float(np.mean(values))
        print(
            f"{method:15} held-out accuracy {means[method]:.2%} on average,"
            f" {min(values):.2%} to {max(values):.2%}"
        )
    finish(plot(*runs[0]), options, check(means))


if __name__ == "__main__":
    main()
