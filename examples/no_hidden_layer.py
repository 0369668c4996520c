"""
Perceptron, logistic and softmax regression
===========================================

Networks without a hidden layer are the classical linear classifiers. Which one it is
depends on the loss: the perceptron's, the logistic loss, or the cross-entropy of
several classes.
"""

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(0)


def blobs(centres, count, spread):
    """Return normally distributed points around each centre, and their classes."""
    labels = np.arange(count) % len(centres)
    return np.array(centres)[labels] + spread * rng.standard_normal((count, 2)), labels


# %%
# The perceptron
# --------------
#
# The perceptron takes one point at a time, with its class y = -1 or 1. If the point is
# on the wrong side, that is y f(x) ≤ 0, it adds y x to the weights and y to the bias.
# This is a step of gradient descent with learning rate 1 on the loss max(0, -y f(x)).
# The loss is not built in; a Python function that returns its value and gradient is
# enough. At 0, where every point starts, its gradient counts as -y.


def perceptron_loss(f, y):
    """Return the perceptron's loss and its gradient with respect to f."""
    wrong = y * f <= 0
    return np.mean(np.maximum(0, -y * f)), np.where(wrong, -y, 0) / len(f)


x, labels = blobs([(-1.5, -1), (1.5, 1)], 100, 0.6)
signs = 2.0 * labels - 1
perceptron = fm.MLP([2, 1], init="zeros", dtype="float64")
history = perceptron.fit(
    x,
    signs,
    loss=perceptron_loss,
    optimizer=fm.SGD(lr=1),
    epochs=10,
    batch_size=1,
    seed=0,
)
print("loss by epoch:", np.round(history.loss, 4))
mistakes = int(np.sum(perceptron(x)[:, 0] * signs <= 0))
print(f"{mistakes} points on the wrong side of the line")
assert mistakes == 0

# %%
# The classes are separable by a line, so the perceptron stops making mistakes after
# finitely many steps. Which of the separating lines it finds depends on the order of
# the points.
#
# Logistic regression
# -------------------
#
# Overlapping classes call for probabilities: P(y = 1 | x) is the sigmoid of the output.
# :obj:`fastmlp.BinaryCrossEntropy` is the negative log-likelihood, so that minimising
# it maximises the likelihood. The loss is convex; :obj:`fastmlp.LBFGS` finds its
# minimum, at which the gradient is zero.

x2, labels2 = blobs([(-1, -0.5), (1, 0.5)], 300, 1.0)
logistic = fm.MLP([2, 1], init="zeros", dtype="float64")
loss = fm.BinaryCrossEntropy()
logistic.fit(x2, labels2, loss=loss, optimizer=fm.LBFGS(), epochs=100)
value, gradient = logistic.value_and_grad(x2, labels2, loss)
print(f"logistic regression: loss {value:.4f}, gradient {np.abs(gradient).max():.1e}")
print(
    "weights", logistic.weights[0].ravel().round(3), "bias", logistic.biases[0].round(3)
)
assert np.abs(gradient).max() < 1e-4

# %%
# The true boundary is known: both classes have a standard deviation of 1, so P is one
# half at equal distance from the centres, and the true weights are the difference of
# the centres, (2, 1).

assert np.allclose(logistic.weights[0].ravel(), (2, 1), atol=0.5)

# %%
# Softmax regression
# ------------------
#
# Several classes have one output each, and the softmax of the outputs is the
# probability of the classes. Here the log-likelihood is *maximised* by batch gradient
# ascent: the loss is a negative log-likelihood, so ascent takes its negative gradient.
# Descent on the loss is the same.

x3, labels3 = blobs([(-1.5, -1), (1.5, -1), (0, 1.6)], 300, 0.8)
ascent = fm.MLP([2, 3], init="zeros", dtype="float64")
descent = ascent.copy()
up, down = fm.SGD(lr=0.5, maximize=True), fm.SGD(lr=0.5)
loss = fm.CrossEntropy()
for _ in range(200):
    _, gradient = ascent.value_and_grad(x3, labels3, loss)
    up.step(ascent.params, -gradient)
    descent.train_step(x3, labels3, loss, down)
assert np.array_equal(ascent.params, descent.params)
accuracy = np.mean(ascent(x3).argmax(axis=1) == labels3)
print(f"softmax regression: {accuracy:.1%} of the points right")
assert accuracy > 0.9

# %%
# The boundaries between any two classes are straight. Along the dashed lines, logistic
# regression gives probabilities of 10 and 90 %.

figure, panels = plt.subplots(1, 3, figsize=(13, 4.3), layout="constrained")
fm.plot.decision_regions(perceptron, x, labels, names=("-1", "1"), ax=panels[0])
panels[0].set_title("Perceptron: separates the classes")
fm.plot.decision_regions(logistic, x2, labels2, names=("0", "1"), ax=panels[1])
xs, ys = (
    np.linspace(*limits, 50) for limits in (panels[1].get_xlim(), panels[1].get_ylim())
)
grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
probability = 1 / (1 + np.exp(-logistic(grid).reshape(50, 50)))
lines = panels[1].contour(
    xs, ys, probability, (0.1, 0.9), colors="black", linestyles="--", linewidths=1
)
panels[1].clabel(lines, fmt=lambda level: f"{level:.0%}")
panels[1].set_title("Logistic regression: probabilities")
fm.plot.decision_regions(ascent, x3, labels3, names=("0", "1", "2"), ax=panels[2])
panels[2].set_title("Softmax regression: three classes")
plt.show()
