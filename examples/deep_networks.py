"""
Deep networks fold their input
==============================

A deep network composes functions. If a layer maps several parts of its input to the
same values, whatever follows is repeated on each part: the layer folds its input, as
one folds paper. The number of linear pieces can therefore grow exponentially with the
depth, while that of a shallow network only grows in proportion to its width.
"""

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # of Okabe & Ito (2008)
D = 3  # hidden units in each layer

# %%
# A zigzag
# --------
#
# Three relu units with joints at 0, 1/3 and 2/3 make a zigzag that maps each third of
# the interval from 0 to 1 onto the whole interval.

ZIGZAG = np.array([3.0, -6.0, 6.0])  # slope of the first piece, then changes of slope
JOINTS = np.arange(D) / D


def zigzags(depth):
    """Return a network that applies the zigzag `depth` times.

    The output layer of one zigzag and the first layer of the next one are both linear,
    so their product is one layer of the deep network.
    """
    mlp = fm.MLP([1, *depth * [D], 1], activation="relu", dtype="float64")
    mlp.params[:] = 0
    mlp.weights[0][:] = 1
    for weight in mlp.weights[1:-1]:
        weight[:] = ZIGZAG[:, np.newaxis]
    for bias in mlp.biases[:-1]:
        bias[:] = -JOINTS
    mlp.weights[-1][:] = ZIGZAG[:, np.newaxis]
    return mlp


once, twice = zigzags(1), zigzags(2)
x = np.linspace(0, 1, 1001)[:, np.newaxis]
assert np.allclose(twice(x), once(once(x)))

# %%
# A network of two hidden layers computes the zigzag of the zigzag, with nine pieces;
# with three layers there are 27.

figure, panels = plt.subplots(
    1, 3, figsize=(12, 3.6), sharey=True, layout="constrained"
)
for depth, axes in enumerate(panels, start=1):
    mlp = zigzags(depth)
    count = fm.regions.count_regions(mlp, 0, 1).count
    assert count == D**depth
    axes.plot(x, mlp(x), color=COLORS[depth - 1])
    layers = "1 hidden layer" if depth == 1 else f"{depth} hidden layers"
    axes.set(xlabel="x", title=f"{layers}: {count} pieces, {mlp.n_params} parameters")
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("output")

# %%
# Any function is repeated
# ------------------------
#
# The last layers may be any network. Behind two zigzags its function appears nine
# times, every second time mirrored.

shape = fm.MLP([1, 4, 1], activation="relu", dtype="float64")
shape.weights[0][:] = 1
shape.biases[0][:] = [0, -0.25, -0.5, -0.8]
shape.weights[1][:] = [[3], [-5], [3.5], [-4]]
shape.biases[1][:] = 0.1
composed = shape(twice(x))

figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
panels[0].plot(x, twice(x), color=COLORS[1])
panels[0].set(xlabel="x", ylabel="u", title="two zigzags fold x to u")
panels[1].plot(x, shape(x), color=COLORS[0])
panels[1].set(xlabel="u", ylabel="y", title="any network of u")
panels[2].plot(x, composed, color=COLORS[2])
panels[2].set(xlabel="x", ylabel="y", title="composed: nine copies")
for axes in panels:
    axes.spines[["top", "right"]].set_visible(False)

# %%
# How many pieces?
# ----------------
#
# K layers of D units make at most (D + 1)\ :sup:`K` pieces; five layers of ten units,
# 11\ :sup:`5` = 161,051. The zigzags have D\ :sup:`K`. Networks with random weights
# have far fewer: on average, fewer than a shallow network of as many units can have.

depths = np.arange(1, 7)
folded = [fm.regions.count_regions(zigzags(depth), 0, 1).count for depth in depths]


def random_pieces(depth, seed):
    """Return the number of pieces of a network with random weights and biases."""
    mlp = fm.MLP([1, *depth * [D], 1], init="he_normal", dtype="float64", seed=seed)
    draws = np.random.default_rng([seed, depth])
    for bias in mlp.biases:
        bias[:] = draws.normal(size=bias.shape)
    return fm.regions.count_regions(mlp, -20, 20).count


random = [np.mean([random_pieces(d, seed) for seed in range(50)]) for d in depths]
shallow = [(zigzags(depth).n_params - 1) // 3 + 1 for depth in depths]
print("layers  zigzags  bound  random  shallow, as many parameters")
for row in zip(depths, folded, (D + 1) ** depths, random, shallow, strict=True):
    print("{:6d} {:8d} {:6d} {:7.1f} {:8d}".format(*row))
    assert row[1] == D ** row[0] <= row[2]
    assert row[3] < D * row[0] + 1

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
axes.semilogy(depths, (D + 1.0) ** depths, "k--", label="bound, $(D + 1)^K$")
axes.semilogy(depths, folded, "o-", color=COLORS[0], label="zigzags, $D^K$")
axes.semilogy(
    depths,
    shallow,
    "s-",
    color=COLORS[1],
    label="most pieces of a shallow network\nwith as many parameters",
)
axes.semilogy(depths, random, "^-", color=COLORS[2], label="random weights, mean of 50")
axes.set(
    xlabel="hidden layers K of D = 3 units",
    ylabel="linear pieces",
    title="Pieces of networks with one input",
)
axes.grid(alpha=0.25)
axes.spines[["top", "right"]].set_visible(False)
axes.legend()
plt.show()
