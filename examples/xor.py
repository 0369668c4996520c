"""
Exclusive or, by hand and learnt
================================

The exclusive or of two bits is 1 if exactly one of them is 1. No straight line
separates its two classes, so a network without a hidden layer cannot represent it. Two
hidden units with relu are enough: we first choose their weights by hand, then let a
network learn them, and count how often that succeeds.
"""

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np

x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
y = np.array([[0], [1], [1], [0]], np.float32)

# %%
# Without a hidden layer
# ----------------------
#
# The best straight fit, by squared error, answers one half to every question.

line = fm.MLP([2, 1], seed=0)
line.fit(x, y, loss=fm.MSE(), optimizer=fm.LBFGS(), epochs=100)
print(line(x).ravel().round(3))
assert np.allclose(line(x), 0.5, atol=1e-3)

# %%
# By hand
# -------
#
# With :math:`h_1 = \max(0, x_1 + x_2)` and :math:`h_2 = \max(0, x_1 + x_2 - 1)`, the
# output :math:`h_1 - 2 h_2` rises from 0 to 1 and falls back to 0. The arrays in
# ``weights`` (inputs, outputs) and ``biases`` are views of the model's parameters:
# writing into them changes the model.

hand = fm.MLP([2, 2, 1], activation="relu")
hand.weights[0][:] = [[1, 1], [1, 1]]
hand.biases[0][:] = [0, -1]
hand.weights[1][:] = [[1], [-2]]
hand.biases[1][:] = 0
print(hand(x).ravel())
assert hand(x).ravel().tolist() == [0, 1, 1, 0]

# %%
# Learnt
# ------
#
# A network of the same shape has nine parameters. Adam fits them to the four rows. From
# many initial weights it gets stuck, for example because a unit that is inactive for
# all four rows has no gradient. More hidden units make a good start more likely.


def learn(hidden, seed):
    """Return a network trained on the four rows, and its loss."""
    mlp = fm.MLP([2, hidden, 1], activation="relu", init="torch", seed=seed)
    history = mlp.fit(
        x, y, loss=fm.MSE(), optimizer=fm.Adam(lr=0.03), epochs=800, batch_size=4
    )
    return mlp, history.loss[-1]


widths, starts, enough = (2, 3, 4, 6, 8), 50, 1e-3
solved, learnt = {}, None
for width in widths:
    results = [learn(width, seed) for seed in range(starts)]
    solved[width] = sum(loss < enough for _, loss in results)
    print(f"{width} hidden units: {solved[width]} of {starts} starts succeed")
    if learnt is None:
        learnt = min(results, key=lambda result: result[1])[0]
print(learnt(x).ravel().round(2))
assert np.allclose(learnt(x), y, atol=0.1)
assert solved[8] > solved[2]

# %%
# The two networks with two hidden units agree on the four corners, but need not agree
# elsewhere.

figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
pictures = {"by hand": hand, "learnt": learnt}
for axes, (name, mlp) in zip(panels, pictures.items(), strict=False):
    fm.plot.level_sets(
        mlp, ((-0.3, 1.3), (-0.3, 1.3)), levels=np.linspace(-0.8, 2.0, 15), ax=axes
    )
    for value, marker, color in ((0, "o", "white"), (1, "s", "#D55E00")):
        corners = x[y[:, 0] == value]
        axes.plot(
            *corners.T,
            marker,
            color=color,
            markeredgecolor="black",
            markersize=10,
            label=f"xor = {value}",
        )
    axes.set_title(f"Two hidden units, {name}")
panels[0].legend(loc="lower left")
bars = panels[2].bar(
    [str(width) for width in widths],
    [100 * solved[width] / starts for width in widths],
    color="#0072B2",
)
panels[2].bar_label(bars, fmt="%.0f %%")
panels[2].set(
    xlabel="hidden units",
    ylabel="starts that succeed, %",
    title=f"Learning from {starts} random starts",
    ylim=(0, 108),
)
panels[2].spines[["top", "right"]].set_visible(False)
plt.show()
