"""
A shallow network, joint by joint
=================================

A network with one input, one hidden layer of relu units and one output is a piecewise
linear function. Each hidden unit contributes at most one joint: the input at which it
switches on or off. This script takes a network of three units apart, then fits networks
of two, four and eight units to a curve.
"""

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np

# Colour-blind safe, of Okabe & Ito (2008).
COLORS = ("#0072B2", "#D55E00", "#009E73")

# %%
# Three units
# -----------
#
# A 1-3-1 network has ten parameters: three slopes and three offsets of the hidden
# units, three weights of their outputs, and the offset of the output.

mlp = fm.MLP([1, 3, 1], activation="relu", dtype="float64")
mlp.weights[0][:] = [[1.0, 1.5, -1.0]]
mlp.biases[0][:] = [-0.4, -1.8, 1.6]
mlp.weights[1][:] = [[-1.8], [2.6], [0.9]]
mlp.biases[1][:] = 0.3
assert mlp.n_params == 10

# %%
# A unit computes a line, relu clips it at zero, and the output layer scales it. The sum
# of the three clipped lines and the offset is the network's output. The joints are
# where the lines cross zero.

x = np.linspace(0, 2, 401)[:, np.newaxis]
lines = x @ mlp.weights[0] + mlp.biases[0]
clipped = np.maximum(lines, 0)
scaled = clipped * mlp.weights[1].T
assert np.allclose(scaled.sum(axis=1, keepdims=True) + mlp.biases[1], mlp(x))

found = fm.regions.count_regions(mlp, 0, 2)
joints = found.points.ravel()
print("joints at", joints.round(3))
assert np.allclose(joints, np.sort(-mlp.biases[0] / mlp.weights[0][0]))

# %%
# On the piece between two joints, each unit is either active or not. This activation
# pattern determines the slope of the piece: the sum, over the active units, of the
# products of their two weights.

for pattern, slope in zip(found.patterns, found.slopes, strict=True):
    active = ", ".join(str(unit + 1) for unit in np.flatnonzero(pattern)) or "none"
    # `slopes` are per unit of the line's parameter, which runs from 0 to 1.
    expected = (mlp.weights[0][0] * mlp.weights[1][:, 0])[pattern].sum()
    print(f"active units: {active:8} slope {slope[0] / 2:5.2f}")
    assert np.isclose(slope[0] / 2, expected)

figure, grid = plt.subplots(2, 3, figsize=(12, 6.5), sharex=True, layout="constrained")
steps = {"1. lines": lines, "2. clipped by relu": clipped, "3. scaled": scaled}
for axes, (title, values) in zip(grid[0], steps.items(), strict=True):
    for unit, color in enumerate(COLORS):
        axes.plot(x, values[:, unit], color=color, label=f"unit {unit + 1}")
    axes.set_title(title)
total, patterns, slopes = grid[1]
total.plot(x, mlp(x), color="black", label="network")
total.plot(joints, mlp(found.points), "o", color="#CC79A7", label="joints")
total.set_title("4. summed, plus the offset")
edges = np.array([0, *joints, 2])
for unit, color in enumerate(COLORS):
    for piece in np.flatnonzero(found.patterns[:, unit]):
        patterns.barh(
            unit + 1, np.diff(edges)[piece], left=edges[piece], color=color, height=0.6
        )
patterns.set(title="activation pattern: active units", ylabel="unit", yticks=(1, 2, 3))
patterns.set_ylim(3.6, 0.4)
slopes.step(
    edges, [*found.slopes[:, 0] / 2, found.slopes[-1, 0] / 2], "k", where="post"
)
slopes.set_title("slope of each piece")
for axes in grid.flat:
    for joint in joints:
        axes.axvline(joint, color="#888888", linestyle=":", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
for axes in grid[1]:
    axes.set_xlabel("x")
grid[0, 0].legend()
total.legend()

# %%
# One joint for each unit
# -----------------------
#
# The more units a network has, the more joints it can place along a smooth curve, and
# the better it fits. :obj:`fastmlp.plot.fit_1d` draws the fit, the joints and the
# patterns. The result depends on the initial weights; of twenty starts we keep the
# best.

x = np.linspace(-2, 2, 101)[:, np.newaxis]
y = np.sin(2 * x) + 0.3 * x**2


def fit(width, seed):
    """Return a fitted network and its final loss."""
    net = fm.MLP([1, width, 1], init="torch", dtype="float64", seed=seed)
    solver = fm.LevenbergMarquardt()
    return net, net.fit(x, y, loss=fm.MSE(), optimizer=solver, epochs=100).loss[-1]


widths, errors = (2, 4, 8), []
figure = plt.figure(figsize=(12, 5.5), layout="constrained")
for part, width in zip(figure.subfigures(1, len(widths)), widths, strict=True):
    best, loss = min((fit(width, seed) for seed in range(20)), key=lambda r: r[1])
    count = len(fm.regions.count_regions(best, -2, 2).joints)
    errors.append(loss**0.5)
    print(f"{width} units: {count} joints, RMS error {errors[-1]:.4f}")
    assert count <= width
    fm.plot.fit_1d(best, x, y, fig=part)
    part.suptitle(f"{width} hidden units")
    for axes in part.axes[1:]:
        axes.get_legend().remove()
assert errors[0] > 2 * errors[1] > 4 * errors[2]
plt.show()
