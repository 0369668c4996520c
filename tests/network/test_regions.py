"""Linear regions: hand-made networks, bounds, and counting by brute force."""

from __future__ import annotations

import itertools

import fastmlp as fm
import numpy as np
import pytest
from fastmlp.regions import activation_patterns, count_regions, count_regions_2d

# Joints and slopes come from float64 sums of a few terms of magnitude about 1.
POINT_TOL = 1e-9
# Number of points of a fine grid on a line. Few pairs of joints are closer than its
# step; a count by sampling may miss these.
FINE = 200_001


def random_net(layers, seed, **options):
    """A float64 network with random biases; with zero biases all joints are at 0."""
    mlp = fm.MLP(layers, dtype="float64", seed=seed, **options)
    rng = np.random.default_rng(seed)
    for bias in mlp.biases:
        bias[:] = rng.uniform(-1, 1, bias.shape)
    return mlp


def patterns_by_hand(mlp, x):
    """Signs of all z, computed from the weights and biases."""
    signs, h = [], np.asarray(x, np.float64)
    for layer, w, b in zip(mlp.layers, mlp.weights, mlp.biases, strict=True):
        z = h @ w + b
        if layer.activation in ("relu", "leaky_relu"):
            signs.append(z > 0)
        h = {
            "relu": np.maximum(z, 0),
            "leaky_relu": np.where(z > 0, z, 0.01 * z),
            "identity": z,
        }[layer.activation]
    return np.hstack(signs)


def xor():
    mlp = fm.MLP([2, 2, 1], dtype="float64")
    mlp.weights[0][:], mlp.biases[0][:] = 1, [0, -1]
    mlp.weights[1][:, 0], mlp.biases[1][:] = [1, -2], 0
    return mlp


def test_xor_along_the_diagonal():
    found = count_regions(xor(), [-1, -1], [1, 1])
    assert found.count == 3
    # x1 + x2 = 0 and 1 are at half and three quarters of the way from -2 to 2.
    np.testing.assert_allclose(found.joints, [0.5, 0.75], atol=POINT_TOL)
    np.testing.assert_allclose(found.points, [[0, 0], [0.5, 0.5]], atol=POINT_TOL)
    assert found.patterns.tolist() == [[0, 0], [1, 0], [1, 1]]
    # f is s, then s - 2 (s - 1), and s changes by 4 along the line.
    np.testing.assert_allclose(found.slopes[:, 0], [0, 4, -4], atol=POINT_TOL)


def test_xor_across_the_diagonal_is_constant():
    # s = x1 + x2 is 0 everywhere up to rounding, which must not create joints.
    found = count_regions(xor(), [-1 / 3, 1 / 3], [0.1, -0.1])
    assert found.count == 1
    assert found.slopes.tolist() == [[0.0]]


@pytest.mark.parametrize("width", [1, 2, 5, 16])
def test_a_shallow_net_has_at_most_a_joint_for_each_unit(width):
    for seed in range(20):
        mlp = random_net([1, width, 1], seed)
        found = count_regions(mlp, -1e3, 1e3)
        joints = -mlp.biases[0] / mlp.weights[0][0]
        inside = np.sort(joints[abs(joints) < 1e3])
        assert len(found.joints) <= width
        np.testing.assert_allclose(found.points[:, 0], inside, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("width", "depth"), [(1, 4), (2, 3), (3, 2), (10, 5)])
def test_at_most_width_plus_one_to_the_depth_regions(width, depth):
    most = 0
    for seed in range(10):
        mlp = random_net([1, *[width] * depth, 1], seed)
        count = count_regions(mlp, -50, 50).count
        assert 1 <= count <= (width + 1) ** depth
        most = max(most, count)
    assert most > depth - (width == 1) * depth


def test_the_bound_is_reached_by_a_folding_net():
    # Each layer folds [0, 1] onto itself twice (a tent map): K layers give 2^K pieces.
    depth = 6
    mlp = fm.MLP([1, *[2] * depth, 1], dtype="float64")
    for i, (w, b) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
        w[:] = 1 if i == 0 else [[2], [-4]]
        b[:] = [0, -0.5] if i < depth else 0
    found = count_regions(mlp, 0, 1)
    assert found.count == 2**depth
    assert (abs(found.slopes) == 2.0**depth).all()
    np.testing.assert_allclose(found.joints * 2**depth, np.arange(1, 2**depth))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("seed", range(6))
def test_counts_equal_those_of_a_fine_grid(activation, seed):
    mlp = random_net([3, 9, 7, 8, 2], seed, activation=activation)
    rng = np.random.default_rng(100 + seed)
    start, end = rng.uniform(-3, 3, (2, 3))
    found = count_regions(mlp, start, end)

    # Between joints there is one pattern, the one computed from weights and biases.
    edges = np.concatenate([[0], found.joints, [1]])
    middle = start + (edges[:-1] + edges[1:])[:, np.newaxis] / 2 * (end - start)
    assert (patterns_by_hand(mlp, middle) == found.patterns).all()
    assert (found.patterns[1:] != found.patterns[:-1]).any(axis=1).all()

    # Patterns change only at joints: each step of the grid with a change has a joint.
    t = np.linspace(0, 1, FINE)
    signs = patterns_by_hand(mlp, start + t[:, np.newaxis] * (end - start))
    changes = np.flatnonzero((signs[1:] != signs[:-1]).any(axis=1))
    held = np.searchsorted(found.joints, [t[changes], t[changes + 1]])
    assert (held[1] > held[0]).all()
    assert len(changes) <= len(found.joints) <= len(changes) + 2

    # Slopes agree with differences of the function.
    y = mlp.predict(start + edges[:, np.newaxis] * (end - start))
    slopes = np.diff(y, axis=0) / np.diff(edges)[:, np.newaxis]
    np.testing.assert_allclose(found.slopes, slopes, rtol=1e-5, atol=1e-5)


def test_float32_and_networks_without_kinks():
    mlp = fm.MLP([2, 5, 1], activation="identity", seed=0)
    found = count_regions(mlp, [0, 0], [1, 2])
    assert (found.count, found.patterns.shape) == (1, (1, 0))
    slope = (mlp.weights[0] @ mlp.weights[1])[:, 0] @ [1, 2]
    np.testing.assert_allclose(found.slopes[0, 0], slope, rtol=1e-6)


def lines_cut(weights, biases, low, high):
    """Cells of a square cut by lines in general position: 1 + lines + crossings."""
    lines = inside = 0
    corners = np.array(list(itertools.product((low, high), repeat=2)))
    for w, b in zip(weights.T, biases, strict=True):
        z = corners @ w + b
        lines += z.min() < 0 < z.max()
    for i, j in itertools.combinations(range(len(biases)), 2):
        point = np.linalg.solve(weights[:, [i, j]].T, -biases[[i, j]])
        inside += (low < point).all() and (point < high).all()
    return 1 + lines + inside


@pytest.mark.parametrize("seed", range(5))
def test_a_window_of_a_shallow_net_is_an_arrangement_of_lines(seed):
    mlp = random_net([2, 12, 1], seed)
    found = count_regions_2d(mlp, ((-2, 2), (-2, 2)))
    assert found.count == lines_cut(mlp.weights[0], mlp.biases[0], -2, 2)
    # At most 1 + n + n (n - 1) / 2 (Zaslavsky 1975).
    assert found.count <= 1 + 12 + 66


def area(polygon):
    x, y = polygon.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@pytest.mark.parametrize("seed", range(3))
def test_polygons_tile_the_window_and_have_one_pattern_each(seed):
    mlp = random_net([2, 8, 8, 6, 1], seed)
    found = count_regions_2d(mlp, ((-2, 1), (0, 3)))
    assert len(np.unique(found.patterns, axis=0)) == found.count == len(found.polygons)
    np.testing.assert_allclose(sum(map(area, found.polygons)), 9.0, rtol=POINT_TOL)
    centres = np.array([p.mean(axis=0) for p in found.polygons])
    assert (patterns_by_hand(mlp, centres) == found.patterns).all()
    # Every pattern found on a grid belongs to a polygon.
    grid = count_regions_2d(mlp, ((-2, 1), (0, 3)), resolution=300)
    assert grid.polygons is None
    assert 0.8 * found.count < grid.count <= found.count
    assert {*map(bytes, grid.patterns)} <= {*map(bytes, found.patterns)}


def test_three_lines_through_a_point_leave_no_slivers():
    mlp = fm.MLP([2, 3, 1], dtype="float64")
    angles = np.array([0.3, 1.1, 2.9])
    mlp.weights[0][:] = [np.cos(angles), np.sin(angles)]
    centre = np.array([1 / 3, 1 / 7])
    mlp.biases[0][:] = -centre @ mlp.weights[0]
    assert count_regions_2d(mlp, ((-1, 1), (-1, 1))).count == 6


def test_a_window_in_more_dimensions_agrees_with_its_sides():
    mlp = random_net([5, 10, 10, 1], 3)
    corners = np.random.default_rng(1).uniform(-1, 1, (3, 5))
    found = count_regions_2d(mlp, corners)
    line = count_regions(mlp, corners[0], corners[1])
    bottom = [(p[:, 1] < POINT_TOL).sum() == 2 for p in found.polygons]
    assert sum(bottom) == line.count
    flat = random_net([2, 6, 1], 0)
    square = [[-1, -2], [1, -2], [-1, 2]]
    counts = {count_regions_2d(flat, w).count for w in (square, ((-1, 1), (-2, 2)))}
    assert len(counts) == 1


def test_patterns_of_rows_and_of_one():
    mlp = random_net([2, 4, fm.Dense(3, "identity"), 5, 1], 0)
    x = np.random.default_rng(0).standard_normal((6, 2))
    patterns = activation_patterns(mlp, x)
    assert patterns.dtype == bool
    assert (patterns == patterns_by_hand(mlp, x)).all()
    assert (activation_patterns(mlp, x[0]) == patterns[0]).all()
    assert patterns.shape == (6, 9)


def test_bad_arguments():
    mlp = random_net([2, 4, 1], 0)
    with pytest.raises(ValueError, match=r"piecewise linear.*layer 0 has tanh"):
        count_regions(fm.MLP([1, 3, 1], activation="tanh"), 0, 1)
    with pytest.raises(ValueError, match=r"start must have shape \(2,\)"):
        count_regions(mlp, 0, 1)
    with pytest.raises(ValueError, match="end must be finite"):
        count_regions(mlp, [0, 0], [1, np.inf])
    with pytest.raises(ValueError, match="different points"):
        count_regions(mlp, [0, 1], [0, 1])
    with pytest.raises(TypeError, match="start must hold real numbers"):
        count_regions(mlp, ["a", "b"], [0, 1])
    for window in ([[0, 1]], [[0, 0], [0, 1]], [[1, 0], [0, 1]], [[0, 0]] * 3):
        with pytest.raises(ValueError, match="window must"):
            count_regions_2d(mlp, window)
    with pytest.raises(ValueError, match="resolution must be at least 2"):
        count_regions_2d(mlp, [[0, 1], [0, 1]], resolution=1)


def test_residual_blocks_and_batch_norm():
    block = fm.Residual([8, fm.Residual([5, 8]), fm.Activation("leaky_relu")])
    layers = [2, 8, fm.BatchNorm(), fm.Dropout(0.5), block, fm.Residual([5]), 1]
    mlp = random_net(layers, 1)
    rng = np.random.default_rng(0)
    mlp.params[:] += 0.1 * rng.standard_normal(mlp.n_params)
    mlp.buffers[:] += 0.3
    start, end = np.array([-3.0, -2.0]), np.array([3.0, 3.0])
    found = count_regions(mlp, start, end)
    assert found.count > 10

    # The function is linear on each region, with the slopes found.
    edges = np.concatenate([[0], found.joints, [1]])
    middle, part = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 4
    low, mid, high = (
        mlp.predict(start + t[:, np.newaxis] * (end - start))
        for t in (middle - part, middle, middle + part)
    )
    np.testing.assert_allclose(low + high, 2 * mid, atol=POINT_TOL)
    slopes = (high - low) / (2 * part[:, np.newaxis])
    np.testing.assert_allclose(found.slopes, slopes, rtol=1e-6, atol=1e-6)

    # Each cell of a window has one pattern; the regions of a line lie in these cells.
    cells = count_regions_2d(mlp, ((-3, 3), (-2, 3)))
    assert len(np.unique(cells.patterns, axis=0)) == cells.count
    assert {*map(bytes, found.patterns)} <= {*map(bytes, cells.patterns)}


@pytest.mark.parametrize("norm", [fm.LayerNorm, fm.RMSNorm])
def test_normalisations_of_rows_are_not_piecewise_linear(norm):
    with pytest.raises(ValueError, match=f"layer 2 has {norm.__name__}"):
        count_regions(fm.MLP([1, 3, norm(), 1]), 0, 1)
