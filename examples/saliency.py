"""
Which pixels count for a digit
==============================

A classifier is trained on the handwritten digits that ship with scikit-learn. For each
held-out image the Jacobian of the outputs tells by how much each pixel changes the
score of each digit. The picture shows, for each digit, one image, its gradient, and the
mean gradient of the class. Gradient times ink estimates a pixel's contribution: if the
estimate is good, erasing the few pixels with the largest contributions must do more
harm than erasing the darkest ones, or as many random inked ones.
"""

from __future__ import annotations

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np
from _command import finish, parser
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CLASSES, SIDE = 10, 8
HIDDEN = 64
EPOCHS, QUICK_EPOCHS = 60, 20
ERASED = tuple(range(0, 13, 2))
# Limits for --check: the number of erased pixels, and by how much more the accuracy
# must fall than with the other two choices of pixels.
CHECKED, WANTED_HARM = 6, 0.2


# %%
# A classifier
# ------------
#
# The images have 8 x 8 pixels. Dropout of the inputs makes the network use more than a
# few pixels, and weight decay keeps its function smooth; both make the gradients easier
# to read.


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return images as rows (ink from 0 to 1) and labels: training, held-out."""
    images, labels = load_digits(return_X_y=True)
    x, x_held_out, y, y_held_out = train_test_split(
        (images / 16).astype(np.float32),
        labels,
        test_size=0.25,
        stratify=labels,
        random_state=0,
    )
    return x, y, x_held_out, y_held_out


def train(x: np.ndarray, y: np.ndarray, epochs: int) -> fm.MLP:
    """Train the classifier."""
    network = fm.MLP([64, fm.Dropout(0.2), HIDDEN, CLASSES], activation="tanh", seed=0)
    network.fit(
        x,
        y,
        loss=fm.CrossEntropy(),
        optimizer=fm.AdamW(lr=3e-3, weight_decay=0.1),
        epochs=epochs,
        batch_size=32,
        seed=0,
    )
    return network


# %%
# Gradients with respect to inputs
# --------------------------------
#
# :obj:`fastmlp.MLP.jacobian` returns the derivatives of all outputs with respect to all
# inputs, for each row of a batch.


def gradients(network: fm.MLP, x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the gradient of the margin of the image's own digit.

    The margin is the digit's score minus the mean score of all ten; shape (B, 64).
    """
    jacobian = network.jacobian(x)  # (B, 10, 64)
    own = jacobian[np.arange(len(x)), label]
    return own - jacobian.mean(axis=1)


# %%
# A test of the gradients
# -----------------------
#
# A picture of gradients may please the eye and mean nothing. If it means something,
# erasing the pixels that it marks must do more harm than erasing others.


def erase(x: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
    """Return copies with the first `count` pixels in each row of `order` erased."""
    erased = x.copy()
    np.put_along_axis(erased, order[:, :count], 0, axis=1)
    return erased


def accuracies(
    network: fm.MLP, x: np.ndarray, y: np.ndarray, slopes: np.ndarray
) -> dict[str, list[float]]:
    """Return accuracies over the number of erased pixels, chosen in three ways."""
    chance = np.random.default_rng(0).uniform(size=x.shape)
    inked = np.where(x > 0, chance, -1.0)
    orders = {
        "by gradient times ink": np.argsort(-slopes * x, axis=1),
        "by ink": np.argsort(-x, axis=1, kind="stable"),
        "at random, inked": np.argsort(-inked, axis=1),
    }
    return {
        name: [
            float(np.mean(network(erase(x, order, count)).argmax(axis=1) == y))
            for count in ERASED
        ]
        for name, order in orders.items()
    }


# %%
# The picture
# -----------
#
# Above, one image of each digit, its gradient, and the mean gradient of the class;
# below, the test.


def plot(
    x: np.ndarray,
    y: np.ndarray,
    slopes: np.ndarray,
    by_count: dict[str, list[float]],
) -> plt.Figure:
    """Draw images and gradients by class, and accuracies over erased pixels."""
    figure = plt.figure(figsize=(13, 8), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    grid = upper.subplots(3, CLASSES)
    means = np.array([slopes[y == digit].mean(axis=0) for digit in range(CLASSES)])
    first = np.array([np.flatnonzero(y == digit)[0] for digit in range(CLASSES)])
    rows = (("image", x[first]), ("its gradient", slopes[first]), ("class mean", means))
    for panels, (name, pictures) in zip(grid, rows, strict=True):
        # One symmetric scale per row: white is a pixel without influence.
        top = abs(pictures).max()
        for digit, (axes, values) in enumerate(zip(panels, pictures, strict=True)):
            signed = name != "image"
            drawn = axes.imshow(
                values.reshape(SIDE, SIDE),
                cmap="PuOr" if signed else "gray_r",
                vmin=-top if signed else 0,
                vmax=top,
            )
            axes.set(xticks=[], yticks=[])
            if name == "image":
                axes.set_title(f"{digit}")
        panels[0].set_ylabel(name)
        bar = upper.colorbar(drawn, ax=panels.tolist(), pad=0.01)
        bar.set_label("gradient" if signed else "ink")
    upper.suptitle("Where ink speaks for the digit (purple) and against it (orange)")

    axes = lower.subplots()
    styles = (("#0072B2", "o-"), ("#E69F00", "^-."), ("#666666", "s--"))
    for (name, values), (color, line) in zip(by_count.items(), styles, strict=True):
        axes.plot(ERASED, np.multiply(100, values), line, color=color, label=name)
    axes.set(
        xlabel="pixels erased in each image",
        ylabel="held-out accuracy, %",
        title="What the pixels are worth",
        ylim=(0, 102),
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="pixels chosen")
    return figure


def check(by_count: dict[str, list[float]]) -> str:
    """Return the claims that do not hold."""
    by_gradient, *others = (v[ERASED.index(CHECKED)] for v in by_count.values())
    if by_gradient > min(others) - WANTED_HARM:
        return (
            f"without {CHECKED} pixels chosen by gradients accuracy is "
            f"{by_gradient:.1%}, with others {min(others):.1%}"
        )
    return ""


# %%
# The run
# -------
#
# With the six pixels of the largest contributions erased, most of the images are no
# longer recognised.


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parser(
        __doc__,
        quick=f"{QUICK_EPOCHS} epochs",
        check="fail if the pixels that gradients mark do not matter most",
    ).parse_args(arguments)

    x, y, x_held_out, y_held_out = load()
    network = train(x, y, QUICK_EPOCHS if options.quick else EPOCHS)
    slopes = gradients(network, x_held_out, y_held_out)
    by_count = accuracies(network, x_held_out, y_held_out, slopes)
    print("held-out accuracy by the number of pixels erased")
    print(f"{'':22}" + "".join(f"{count:8d}" for count in ERASED))
    for name, values in by_count.items():
        print(f"{name:22}" + "".join(f"{value:8.1%}" for value in values))
    figure = plot(x_held_out, y_held_out, slopes, by_count)
    finish(figure, options, check(by_count))


if __name__ == "__main__":
    main()
