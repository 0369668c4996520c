"""
Pictures of a network and its function
======================================

:obj:`fastmlp.plot` draws what a network computes: the network itself, a function of one
input with the data, classes and level sets in the plane, and linear regions. Each
function draws into new axes, or into those that are passed to it, and returns them.
"""

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(0)

# %%
# The network
# -----------
#
# :obj:`fastmlp.plot.network` shows the units as circles and the weights as lines. Of a
# wide layer only the first and last units are drawn.

mlp = fm.MLP([3, 16, fm.Dropout(0.1), 5, 2], activation="tanh", seed=0)
fm.plot.network(mlp)

# %%
# A function of one input
# -----------------------
#
# :obj:`fastmlp.plot.fit_1d` draws the function over the range of the data. A network
# with relu is piecewise linear: the circles mark its joints, and the lower panel shows
# which units are active on each piece.

x = np.sort(rng.uniform(-3, 3, 80))[:, np.newaxis]
y = np.sin(x) + 0.1 * rng.standard_normal(x.shape)
curve = fm.MLP([1, 8, 1], activation="relu", init="torch", seed=0)
curve.fit(x, y, loss=fm.MSE(), optimizer=fm.Adam(lr=0.02), epochs=300, seed=0)
fm.plot.fit_1d(curve, x, y)

# %%
# Classes in the plane
# --------------------
#
# :obj:`fastmlp.plot.decision_regions` draws the class that a network with two inputs
# gives to each point, and the data. Here three arms of a spiral are learnt.

labels = np.arange(300) % 3
radius = rng.uniform(0.1, 1, 300)
angle = 2 * np.pi * labels / 3 + 4 * radius + 0.15 * rng.standard_normal(300)
points = radius[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
spiral = fm.MLP([2, 32, 32, 3], activation="relu", seed=0)
spiral.fit(
    points,
    labels,
    loss=fm.CrossEntropy(),
    optimizer=fm.Adam(lr=0.01),
    epochs=150,
    seed=0,
)
accuracy = np.mean(spiral(points).argmax(axis=1) == labels)
print(f"{accuracy:.1%} of the points are in the region of their class")
assert accuracy > 0.97
fm.plot.decision_regions(spiral, points, labels, names=("first", "second", "third"))

# %%
# Level sets
# ----------
#
# :obj:`fastmlp.plot.level_sets` draws the contour lines of one output.

fm.plot.level_sets(spiral, ((-1, 1), (-1, 1)), output=0)

# %%
# Linear regions
# --------------
#
# :obj:`fastmlp.plot.linear_regions` draws the polygons on which a network with relu is
# linear. Their number is exact.

axes = fm.plot.linear_regions(spiral, ((-1, 1), (-1, 1)))
assert len(axes.collections[0].get_paths()) == (
    fm.regions.count_regions_2d(spiral, ((-1, 1), (-1, 1))).count
)

# %%
# Several in one figure
# ---------------------
#
# With ``ax`` the pictures become parts of a larger one.

figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
fm.plot.decision_regions(spiral, points, labels, ax=panels[0])
fm.plot.linear_regions(spiral, ((-1.1, 1.1), (-1.1, 1.1)), ax=panels[1])
plt.show()
