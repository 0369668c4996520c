"""
Linear regions of two inputs
============================

With two inputs, a relu unit is active on one side of a line. The lines of a shallow
network cut the plane into convex polygons, on each of which the function is a plane.
The units of later layers cut these polygons again, along lines that bend at their
edges.
"""

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np

WINDOW = ((-2, 2), (-2, 2))

# %%
# Three units, seven regions
# --------------------------
#
# Three lines in general position make seven regions. The eighth activation pattern, all
# units inactive, does not occur here: the triangle in the middle has all three active.
# In general, D lines make at most 1 + D + D (D - 1) / 2 regions.

mlp = fm.MLP([2, 3, 1], activation="relu", dtype="float64")
angles = np.deg2rad([90, 210, 330])
mlp.weights[0][:] = [np.cos(angles), np.sin(angles)]
mlp.biases[0][:] = 0.6
mlp.weights[1][:] = [[1.0], [-0.7], [0.9]]
mlp.biases[1][:] = 0

found = fm.regions.count_regions_2d(mlp, WINDOW)
print(found.count, "regions, with active units")
for pattern in found.patterns:
    print("  ", np.flatnonzero(pattern) + 1)
assert found.count == 1 + 3 + 3 == len(np.unique(found.patterns, axis=0))

figure, panels = plt.subplots(1, 2, figsize=(11.5, 4.6), layout="constrained")
fm.plot.linear_regions(mlp, WINDOW, ax=panels[0])
for polygon, pattern in zip(found.polygons, found.patterns, strict=True):
    name = "".join("+" if active else "−" for active in pattern)  # noqa: RUF001
    panels[0].text(
        *polygon.mean(axis=0),
        name,
        ha="center",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
    )
panels[0].set_title("Seven regions; + marks active units")
fm.plot.level_sets(mlp, WINDOW, ax=panels[1])
panels[1].set_title("The function: level sets bend at the lines")

# %%
# Width and depth
# ---------------
#
# Three networks with random weights have 24 hidden units each. Depth alone does not
# make more regions: that takes weights that use it, like those of :ref:`networks that
# fold <sphx_glr_gallery_deep_networks.py>`.

figure, panels = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained")
for axes, hidden in zip(panels, ([24], [12, 12], [8, 8, 8]), strict=True):
    random = fm.MLP([2, *hidden, 1], init="he_normal", dtype="float64", seed=3)
    rng = np.random.default_rng([3, 1])
    for bias in random.biases:
        bias[:] = rng.normal(scale=0.7, size=bias.shape)
    fm.plot.linear_regions(random, WINDOW, ax=axes)
    count = fm.regions.count_regions_2d(random, WINDOW).count
    axes.set_title(f"hidden layers {hidden}: {count} regions")
    print(hidden, random.n_params, "parameters,", count, "regions")
    if len(hidden) == 1:
        assert count <= 1 + 24 + 24 * 23 // 2

# %%
# Before and after training
# -------------------------
#
# A network learns to tell two rings apart. Training moves the lines to where the
# function has to bend.

rng = np.random.default_rng(0)
labels = np.arange(400) % 2
radius = 0.6 + 0.8 * labels + 0.12 * rng.standard_normal(400)
angle = rng.uniform(0, 2 * np.pi, 400)
points = radius[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)], axis=1)

rings = fm.MLP([2, 12, 12, 1], activation="relu", init="torch", seed=0)
counts = []
figure, panels = plt.subplots(1, 3, figsize=(13.5, 4), layout="constrained")
for axes, when in zip(panels, ("before", "after"), strict=False):
    if when == "after":
        rings.fit(
            points,
            labels,
            loss=fm.BinaryCrossEntropy(),
            optimizer=fm.Adam(lr=0.01),
            epochs=100,
            seed=0,
        )
    fm.plot.linear_regions(rings, WINDOW, ax=axes)
    counts.append(fm.regions.count_regions_2d(rings, WINDOW).count)
    axes.set_title(f"{when} training: {counts[-1]} regions")
fm.plot.decision_regions(rings, points, labels, names=("inner", "outer"), ax=panels[2])
accuracy = np.mean((rings(points)[:, 0] > 0) == labels)
print(f"{counts[0]} regions before, {counts[1]} after; accuracy {accuracy:.1%}")
assert accuracy > 0.99
plt.show()
