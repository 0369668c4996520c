r"""
Out of a wrong valley by noise
==============================

The Gabor model has two parameters, and its squared error has many local minima. From a
start in a wrong valley, gradient descent on all points ends at the bottom of that
valley. Descent on random mini-batches follows a noisy gradient, which sometimes carries
it over the ridge into the valley with the best fit.
"""

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np

START, RATE, BATCH, EPOCHS, RUNS = np.array([3.0, 6.0]), 1.5, 5, 60, 40

# %%
# Model and data
# --------------
#
# The model is :math:`f(x) = \sin(u) \exp(-u^2 / 32)` with :math:`u = \theta_0 + 0.06\,
# \theta_1 x`. The data are 30 noisy points of it.


def gabor(theta, x):
    """Return the model's values (N,) and their derivatives (2, N)."""
    u = theta[0] + 0.06 * theta[1] * x
    envelope = np.exp(-u * u / 32)
    slope = (np.cos(u) - np.sin(u) * u / 16) * envelope
    return np.sin(u) * envelope, slope * np.stack([np.ones_like(x), 0.06 * x])


def squared_error(theta, x, y):
    """Return the mean squared error of the model and its gradient."""
    predicted, slopes = gabor(theta, x)
    residual = predicted - y
    return np.mean(residual**2), 2 * slopes @ residual / len(x)


x = np.linspace(-15, 15, 30)
y = gabor(np.array([0.0, 16.6]), x)[0]
y += 0.1 * np.random.default_rng(0).standard_normal(len(x))

# %%
# Descent
# -------
#
# Optimisers of fastmlp change any array in place; a network is not needed. Both kinds
# of descent take equally many steps of the same learning rate.


def descend(batch, seed=0):
    """Return the path (steps + 1, 2) of descent on shuffled batches."""
    rng = np.random.default_rng(seed)
    optimizer = fm.SGD(lr=RATE)
    theta = START.copy()
    path = [theta.copy()]
    for _ in range(EPOCHS * (len(x) // BATCH) * batch // len(x)):
        for rows in rng.permutation(len(x)).reshape(-1, batch):
            _, gradient = squared_error(theta, x[rows], y[rows])
            optimizer.step(theta, gradient)
            path.append(theta.copy())
    return np.array(path)


full = descend(len(x))
noisy = [descend(BATCH, seed) for seed in range(RUNS)]
assert len(full) == len(noisy[0])

best = fm.LBFGS().minimize(lambda t: squared_error(t, x, y), np.array([0.0, 16.6]))
stuck = squared_error(full[-1], x, y)[0]
reached = np.array([squared_error(path[-1], x, y)[0] for path in noisy])
escaped = reached < 2 * best.value
print(f"best fit            {best.value:.4f} at {best.theta.round(2)}")
print(f"full-batch descent  {stuck:.4f} at {full[-1].round(2)}")
print(f"mini-batch descent  {escaped.sum()} of {RUNS} runs reach the best valley")
assert stuck > 5 * best.value
assert 0 < escaped.sum() < RUNS

# %%
# The picture shows the error of all parameters, the path of full batches, and the first
# paths of mini-batches that escape and that do not.

PATHS = {
    "full batch": (full, "#000000", "-"),
    "mini-batches, escape": (noisy[int(escaped.argmax())], "#D55E00", "-"),
    "mini-batches, no escape": (noisy[int(escaped.argmin())], "#0072B2", "-"),
}
figure, (left, right) = plt.subplots(
    1, 2, figsize=(13, 5), width_ratios=(1.3, 1), layout="constrained"
)
a, b = np.linspace(-7, 9, 161), np.linspace(1, 22, 161)
height = np.array([[squared_error((p, q), x, y)[0] for p in a] for q in b])
filled = left.contourf(a, b, height, 20, cmap="Greys_r", alpha=0.6)
figure.colorbar(filled, ax=left, label="mean squared error")
line = np.linspace(-15, 15, 301)
right.plot(x, y, "o", color="#666666", label="data")
for name, (path, color, dashes) in PATHS.items():
    left.plot(*path.T, dashes, color=color, linewidth=1.2, label=name)
    left.plot(*path[-1], "s", color=color, markeredgecolor="white", markersize=9)
    right.plot(line, gabor(path[-1], line)[0], color=color, label=name)
left.plot(
    *START, "o", color="white", markeredgecolor="black", markersize=9, label="start"
)
left.plot(
    *best.theta,
    "*",
    color="#F0E442",
    markeredgecolor="black",
    markersize=16,
    label="best",
)
left.set(
    xlabel=r"$\theta_0$",
    ylabel=r"$\theta_1$",
    title="Paths from a wrong valley",
    xlim=(a[0], a[-1]),
    ylim=(b[0], b[-1]),
)
left.legend(loc="lower left", fontsize="small")
right.set(xlabel="x", ylabel="y", title="The fits they end with", ylim=(-1.1, 1.9))
right.spines[["top", "right"]].set_visible(False)
right.legend(loc="upper left", fontsize="small")
plt.show()
