"""Worked examples from textbooks and lectures, with the public interface.

They cover counts of parameters and regions, forward passes, gradients, losses and steps
of optimisers. Each test runs on the compiled package and on the reference, which share
their interface; numbers are float64 unless a test says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from helpers import TOLERANCE

# A few roundings of float64 numbers, relative to the largest of them.
ROUNDING_TOL = 16 * float(np.finfo(np.float64).eps)
NETWORK_TOL = TOLERANCE["network"].of(np.float64)
DIFFERENCE_TOL = TOLERANCE["finite_difference"].of(np.float64)


@pytest.fixture(params=[fm, reference], ids=["fastmlp", "reference"])
def lib(request: pytest.FixtureRequest) -> ModuleType:
    """The module under test."""
    return request.param


def network(lib: ModuleType, layers: list[Any], *params: Any, **kwargs: Any) -> Any:
    """A float64 MLP with the given parameters W0, b0, W1, b1, ... (flattened)."""
    mlp = lib.MLP(layers, dtype="float64", **kwargs)
    if params:
        mlp.params[:] = np.concatenate([np.ravel(p) for p in params])
    return mlp


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


# -------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        ([784, 512], 401_920),  # layer by layer
        ([512, 512], 262_656),
        ([512, 10], 5_130),
        ([784, 512, 512, 10], 669_706),
        ([1, 3, 1], 10),
        ([1, 10, 10, 10, 10, 10, 1], 471),
        ([10, 50, 50, 50, 50, 50, 1], 10_801),
        ([40, 298, 10], 15_208),
        ([40, 100, 100, 10], 15_210),
        ([40, 75, 75, 75, 10], 15_235),
        ([40, 63, 63, 63, 63, 10], 15_319),
    ],
)
def test_parameter_counts(lib: ModuleType, layers: list[int], count: int) -> None:
    mlp = lib.MLP(layers)
    assert mlp.n_params == count
    assert mlp.params.size == count


def test_linear_in_features(lib: ModuleType, rng: np.random.Generator) -> None:
    # f(x) = theta . beta(x), beta_i(x) = sin(i pi x): one layer without a bias.
    x, theta = rng.uniform(-1, 1, 7), rng.standard_normal(4)
    features = np.sin(np.pi * np.outer(x, np.arange(1, 5)))
    mlp = network(lib, [4, 1], theta, bias=False)
    expected = np.array(
        [sum(t * f for t, f in zip(theta, row, strict=True)) for row in features]
    )
    np.testing.assert_allclose(mlp(features)[:, 0], expected, rtol=0, atol=ROUNDING_TOL)


def test_single_neuron(lib: ModuleType) -> None:
    # a_j = g(w . a + b): 0.5 * 2 - 1 * 3 + 0.25 = -1.75.
    x = np.array([[2.0, 3.0]])
    for kind, expected in [
        ("identity", -1.75),
        ("tanh", math.tanh(-1.75)),
        ("relu", 0),
    ]:
        neuron = network(lib, [2, 1], [0.5, -1], [0.25], output_activation=kind)
        assert neuron(x)[0, 0] == pytest.approx(expected, rel=ROUNDING_TOL)


def test_layers_compose(lib: ModuleType, rng: np.random.Generator) -> None:
    # h_t = g(W_t h_{t-1} + b_t), several inputs and outputs, any depth and widths.
    mlp = network(lib, [3, 4, 2, 5], activation="tanh", seed=0)
    mlp.params[:] = rng.standard_normal(mlp.n_params)
    x = rng.standard_normal((6, 3))
    h = np.tanh(x @ mlp.weights[0] + mlp.biases[0])
    h = np.tanh(h @ mlp.weights[1] + mlp.biases[1])
    expected = h @ mlp.weights[2] + mlp.biases[2]
    np.testing.assert_allclose(mlp(x), expected, rtol=0, atol=NETWORK_TOL)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_xor_by_hand(lib: ModuleType, dtype: str) -> None:
    # h1 = relu(x1 + x2), h2 = relu(x1 + x2 - 1), f = h1 - 2 h2, exactly.
    mlp = lib.MLP([2, 2, 1], activation="relu", dtype=dtype)
    mlp.weights[0][:] = 1
    mlp.biases[0][:] = [0, -1]
    mlp.weights[1][:] = [[1], [-2]]
    mlp.biases[1][:] = 0
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=dtype)
    assert mlp(x).tolist() == [[0], [1], [1], [0]]


def relu_joints(mlp: Any) -> np.ndarray:
    """Return the inputs where hidden units of a shallow net switch, in order."""
    return np.sort(-mlp.biases[0] / mlp.weights[0][0])


def test_shallow_relu_net_is_piecewise_linear(
    lib: ModuleType, rng: np.random.Generator
) -> None:
    # at most D joints, so at most D + 1 pieces, each with its own activation
    # pattern; between two joints the net is a straight line.
    units = 9
    mlp = network(lib, [1, units, 1])
    mlp.params[:] = rng.standard_normal(mlp.n_params)
    joints = relu_joints(mlp)
    ends = np.concatenate([[joints[0] - 1], joints, [joints[-1] + 1]])
    y = mlp(ends[:, None])[:, 0]
    middle = mlp(0.5 * (ends[:-1] + ends[1:])[:, None])[:, 0]
    scale = np.abs(y).max()
    np.testing.assert_allclose(
        middle, 0.5 * (y[:-1] + y[1:]), rtol=0, atol=NETWORK_TOL * scale
    )
    x = np.linspace(ends[0], ends[-1], 20_001)[:, None]
    patterns = x @ mlp.weights[0] + mlp.biases[0] > 0
    changes = (patterns[1:] != patterns[:-1]).any(axis=1)
    assert 1 <= changes.sum() <= units
    # The slope, from the net's input gradient, changes only where the pattern does.
    slope = mlp.vjp(x, np.ones_like(x))[1][:, 0]
    steps = np.abs(np.diff(slope)) > NETWORK_TOL * np.abs(slope).max()
    assert not (steps & ~changes).any()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_linear_regions_of_deep_relu_nets(lib: ModuleType, depth: int) -> None:
    """K layers of D units on one input make up to (D + 1)^K regions.

    Reached here with D = 3. The same formula gives 11^5 = 161,051 for D = 10, K = 5,
    where 161,501 is printed: a misprint.
    """
    # A zigzag with 3 joints, whose 4 pieces each map a part of [0, 1] onto all of it.
    # The third unit is active on the left, which gives the first piece its slope.
    slopes = np.array([25 / 3, -25 / 6, 25 / 4, -25 / 12])
    joints, sides = np.array([3, 9, 13]) / 25, np.array([1.0, 1.0, -1.0])
    out, shift = np.diff(slopes), slopes[0] * joints[2]
    params = [sides, -sides * joints]
    for _ in range(depth - 1):
        params += [np.outer(out, sides), sides * (shift - joints)]
    mlp = network(lib, [1, *[3] * depth, 1], *params, out, [shift])
    # Slopes alternate, so that regions are between changes of sign.
    x = np.linspace(-0.5, 1.5, 20_001)[:, None]
    y, slope, _ = mlp.vjp(x, np.ones_like(x))
    assert 1 + np.count_nonzero(np.diff(np.sign(slope[:, 0]))) == (3 + 1) ** depth
    assert y.max() == pytest.approx(1, abs=2e-4 * slopes[0] ** depth)


def test_folding_doubles_the_pieces(lib: ModuleType) -> None:
    # The tent 2 relu(x) - 4 relu(x - 1/2) folds [0, 1] in two; K tents make 2^K pieces
    # there, no more than the bound (D + 1)^K allows.
    depth, width = 5, 2
    mlp = network(lib, [1, *[width] * depth, 1], activation="relu")
    for i, w in enumerate(mlp.weights):
        w[:] = 1.0 if i == 0 else [[2], [-4]]
        mlp.biases[i][:] = [0, -0.5] if i < depth else 0
    x = np.linspace(0, 1, 2**10 + 1)[:, None]
    slope = mlp.vjp(x, np.ones_like(x))[1][:, 0]
    inside = slope[1::2]  # odd multiples of 2^-10 lie within pieces, not on joints
    pieces = 1 + np.count_nonzero(np.diff(inside))
    assert pieces == 2**depth <= (width + 1) ** depth
    assert set(np.abs(inside)) == {2.0**depth}


def test_random_deep_net_stays_below_the_bound(
    lib: ModuleType, rng: np.random.Generator
) -> None:
    depth, width = 3, 4
    mlp = network(lib, [1, *[width] * depth, 1])
    mlp.params[:] = rng.standard_normal(mlp.n_params)
    h, signs = np.linspace(-5, 5, 20_001)[:, None], []
    for w, b in zip(mlp.weights[:-1], mlp.biases[:-1], strict=True):
        z = h @ w + b
        signs.append(z > 0)
        h = np.maximum(z, 0)
    patterns = np.hstack(signs)
    regions = 1 + int((patterns[1:] != patterns[:-1]).any(axis=1).sum())
    assert width < regions <= (width + 1) ** depth


def test_shallow_nets_approximate_anything_on_an_interval(lib: ModuleType) -> None:
    # Universal approximation with explicit weights: D ReLUs interpolate sin(2 pi x) in
    # D equal pieces, with an error of at most (2 pi)^2 / (8 D^2), quartered per
    # doubling.
    x = np.linspace(0, 1, 1001)[:, None]
    errors = []
    for units in (8, 16, 32, 64):
        knots = np.arange(units + 1) / units
        slopes = np.diff(np.sin(2 * np.pi * knots)) * units
        mlp = network(
            lib,
            [1, units, 1],
            np.ones(units),
            -knots[:-1],
            np.diff(slopes, prepend=0),
            [0.0],
        )
        errors.append(np.abs(mlp(x) - np.sin(2 * np.pi * x)).max())
        assert errors[-1] <= (2 * np.pi / units) ** 2 / 8 + NETWORK_TOL
    assert all(big / small > 3.5 for big, small in pairwise(errors))


def test_policy_predicts_a_distribution_over_actions(
    lib: ModuleType, rng: np.random.Generator
) -> None:
    policy = network(lib, [4, 8, 3], output_activation="softmax", seed=0)
    p = policy(rng.standard_normal((5, 4)))
    assert (p > 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=ROUNDING_TOL)


def test_q_learning_is_a_squared_loss_with_a_fixed_target(
    lib: ModuleType, rng: np.random.Generator
) -> None:
    # theta += alpha dQ(x,u)/dtheta [r + gamma max_u' Q(x',u') - Q(x,u)].
    alpha, gamma, reward, action = 0.05, 0.9, 1.5, 2
    q = network(lib, [4, 8, 3], activation="tanh", seed=0)
    x, x_next = rng.standard_normal((2, 1, 4))
    target = reward + gamma * q(x_next).max()
    value, _, dq = q.vjp(x, np.eye(3)[[action]])
    expected = q.params + alpha * dq * (target - value[0, action])
    # The loss (target - Q)^2 has the gradient -2 (target - Q) dQ; the other actions'
    # targets are their own values, so that they do not contribute.
    targets = value.copy()
    targets[0, action] = target
    loss = q.train_step(x, targets, lib.MSE(reduction="sum"), lib.SGD(alpha / 2))
    assert loss == pytest.approx((target - value[0, action]) ** 2, rel=NETWORK_TOL)
    np.testing.assert_allclose(q.params, expected, rtol=0, atol=NETWORK_TOL)
    assert abs(target - q(x)[0, action]) < abs(target - value[0, action])


# --------------------------------------------------------------------- activations


def slope_of(lib: ModuleType, kind: str, z: list[float]) -> np.ndarray:
    """g'(z): the input gradient of one unit with weight 1 and bias 0."""
    unit = network(lib, [1, 1], [1.0], [0.0], output_activation=kind)
    return unit.vjp(column(*z), np.ones((len(z), 1)))[1][:, 0]


def test_slope_of_the_sigmoid(lib: ModuleType) -> None:
    # sigma' = sigma (1 - sigma), 0.19661193324148185 at 1.
    assert slope_of(lib, "sigmoid", [1])[0] == pytest.approx(
        0.19661193324148185, rel=ROUNDING_TOL
    )
    z = np.linspace(-3, 3, 7)
    s = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(
        slope_of(lib, "sigmoid", list(z)), s * (1 - s), rtol=ROUNDING_TOL
    )


def test_slope_of_tanh(lib: ModuleType) -> None:
    z = np.linspace(-2, 2, 5)
    expected = 1 - np.tanh(z) ** 2
    np.testing.assert_allclose(
        slope_of(lib, "tanh", list(z)), expected, rtol=ROUNDING_TOL
    )


def test_slope_of_relu(lib: ModuleType) -> None:
    z = [-2, -1e-300, 0, 1e-300, 2]
    assert slope_of(lib, "relu", z).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("kind", [k for k in reference.ACTIVATIONS if k != "softmax"])
def test_slopes_against_differences(lib: ModuleType, kind: str) -> None:
    # The check is (g(z + h) - g(z - h)) / 2h, also for other popular activations.
    z, h = np.array([-2.3, -0.7, 0.4, 1.9]), 6e-6
    unit = network(lib, [1, 1], [1.0], [0.0], output_activation=kind)
    numeric = (unit(z[:, None] + h) - unit(z[:, None] - h))[:, 0] / (2 * h)
    np.testing.assert_allclose(
        slope_of(lib, kind, list(z)),
        numeric,
        rtol=DIFFERENCE_TOL,
        atol=DIFFERENCE_TOL,
    )


# -------------------------------------------------------------------------- losses


def test_losses_by_their_formulas(lib: ModuleType) -> None:
    f, y = np.array([1.0, 4.0, -2.0]), np.array([2.0, 4.0, 1.0])
    r = f - y  # -1, 0, -3
    assert lib.MAE()(f, y) == pytest.approx(4 / 3, rel=ROUNDING_TOL)
    assert lib.MSE()(f, y) == pytest.approx(10 / 3, rel=ROUNDING_TOL)
    expected = np.mean(4 * (np.sqrt(1 + (r / 2) ** 2) - 1))
    assert lib.PseudoHuber(2.0)(f, y) == pytest.approx(expected, rel=ROUNDING_TOL)


def test_negative_log_likelihoods(lib: ModuleType) -> None:
    # -log P of the sigmoid, P(y=+1|x) = 1 / (1 + e^-a), and of the softmax.
    a, y = np.array([0.3, -1.2, 2.0]), np.array([1.0, 0.0, 0.0])
    p = 1 / (1 + np.exp(-a))
    expected = -np.mean(np.log(np.where(y == 1, p, 1 - p)))
    assert lib.BinaryCrossEntropy()(a, y) == pytest.approx(expected, rel=ROUNDING_TOL)
    scores, labels = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]), np.array([1, 0])
    q = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = -np.mean(np.log(q[[0, 1], labels]))
    assert lib.CrossEntropy()(scores, labels) == pytest.approx(
        expected, rel=ROUNDING_TOL
    )


def test_untrained_classifier_of_ten_classes_has_loss_log_ten(lib: ModuleType) -> None:
    mlp = network(lib, [5, 4, 10], init="zeros")
    loss = mlp.evaluate(np.ones((3, 5)), np.array([0, 4, 9]), lib.CrossEntropy())
    assert loss == pytest.approx(math.log(10), rel=ROUNDING_TOL)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_residual_chain(lib: ModuleType, dtype: str) -> None:
    # l = (theta2 x + theta1 - y)^2 with x = 2,500 and residual -42,500:
    # dl/dtheta1 = -85,000, dl/dtheta2 = -2.125e8, both exact in either dtype; the loss
    # itself, 1.80625e9, has more bits than float32 holds.
    mlp = lib.MLP([1, 1], dtype=dtype)
    mlp.params[:] = [10, 0]
    x, y = np.full((1, 1), 2_500, dtype), np.full((1, 1), 67_500, dtype)
    assert mlp(x)[0, 0] - y[0, 0] == -42_500
    value, grads = mlp.value_and_grad(x, y, lib.MSE())
    assert grads.tolist() == [-2.125e8, -85_000]
    assert value == pytest.approx(1.80625e9, rel=float(np.finfo(dtype).eps))


def test_outliers_pull_the_losses_apart(lib: ModuleType) -> None:
    # The best constant: the mean for L2, the median for L1, in between for
    # pseudo-Huber, which an outlier hardly moves.
    y = np.array([1.0, 2.0, 3.0, 4.0, 100.0])

    def slope(loss: Any, constant: float) -> float:
        return float(loss.value_and_grad(np.full(5, constant), y)[1].sum())

    assert slope(lib.MSE(), 22.0) == pytest.approx(0, abs=100 * ROUNDING_TOL)
    assert slope(lib.MAE(), 3.0) == 0
    assert slope(lib.MAE(), 2.9) < 0 < slope(lib.MAE(), 3.1)
    assert slope(lib.PseudoHuber(1.0), 2.5) < 0 < slope(lib.PseudoHuber(1.0), 4.0)
    assert slope(lib.MSE(), 4.0) < 0


def line_fit(lib: ModuleType, loss: Any) -> np.ndarray:
    """Slope and intercept of a line fitted to y = 2x + 1 with one outlier."""
    x = np.linspace(-1, 1, 21)[:, None]
    y = 2 * x + 1
    y[-1] += 50
    mlp, optimizer = network(lib, [1, 1], init="zeros"), lib.Adam(0.05)
    for _ in range(600):
        mlp.train_step(x, y, loss, optimizer)
    return mlp.params.copy()


def test_robust_losses_ignore_an_outlier(lib: ModuleType) -> None:
    truth = np.array([2.0, 1.0])
    far = np.abs(line_fit(lib, lib.MSE()) - truth).max()
    robust = np.abs(line_fit(lib, lib.PseudoHuber(0.1)) - truth).max()
    absolute = np.abs(line_fit(lib, lib.MAE()) - truth).max()
    assert far > 2
    assert robust < 0.1
    assert absolute < 0.1


# ----------------------------------------------------------------- backpropagation


def test_chain_of_sin_exp_cos(lib: ModuleType) -> None:
    # f = b3 + w3 cos[b2 + w2 exp[b1 + w1 sin[b0 + w0 x]]], l = (f - y)^2.
    w, b = [0.7, -1.3, 0.4, 1.9], [0.2, 0.5, -0.6, 1.1]
    x, y = 0.8, -0.3
    hidden = [lib.Dense(1, activation=kind) for kind in ("sin", "exp", "cos")]
    params = np.column_stack([w, b]).ravel()
    mlp = network(lib, [1, *hidden, 1], params)
    assert mlp.n_params == 8
    # Forward, then backward, written out.
    f0 = b[0] + w[0] * x
    h1 = math.sin(f0)
    f1 = b[1] + w[1] * h1
    h2 = math.exp(f1)
    f2 = b[2] + w[2] * h2
    h3 = math.cos(f2)
    f3 = b[3] + w[3] * h3
    dl_df3 = 2 * (f3 - y)
    dl_df2 = dl_df3 * w[3] * -math.sin(f2)
    dl_df1 = dl_df2 * w[2] * math.exp(f1)
    dl_df0 = dl_df1 * w[1] * math.cos(f0)
    dl_df, h = [dl_df0, dl_df1, dl_df2, dl_df3], [x, h1, h2, h3]
    expected = np.array([(h[k] * dl_df[k], dl_df[k]) for k in range(4)]).ravel()
    value, grads = mlp.value_and_grad(column(x), column(y), lib.MSE())
    assert mlp(column(x))[0, 0] == pytest.approx(f3, rel=ROUNDING_TOL)
    assert value == pytest.approx((f3 - y) ** 2, rel=ROUNDING_TOL)
    np.testing.assert_allclose(grads, expected, rtol=NETWORK_TOL)
    # The gradient of a weight is that of its bias times the
    # weight's input; and the input's gradient continues the chain.
    np.testing.assert_allclose(grads[::2], grads[1::2] * h, rtol=NETWORK_TOL)
    dx = mlp.vjp(column(x), column(dl_df3))[1]
    assert dx[0, 0] == pytest.approx(dl_df0 * w[0], rel=NETWORK_TOL)


def product(lib: ModuleType, u: float, v: float) -> tuple[float, float, float]:
    """``u v`` and its derivatives, by a net with the weight u at the input v."""
    mlp = network(lib, [1, 1], [u], bias=False)
    y, dx, grads = mlp.vjp(column(v), np.ones((1, 1)))
    return y[0, 0], grads[0], dx[0, 0]


def test_gradient_of_g(lib: ModuleType) -> None:
    # g(w) = w1^3 w2 + 3 w1 at (2, 3) has the gradient [39, 8].
    w1, w2 = 2.0, 3.0
    square, da, db = product(lib, w1, w1)
    dsquare = da + db  # the branches of w1 add
    cube, da, db = product(lib, square, w1)
    dcube = da * dsquare + db
    term, dterm, dw2 = product(lib, cube, w2)
    dw1 = dterm * dcube + 3
    assert term + 3 * w1 == 30
    assert [dw1, dw2] == [39, 8]
    # One step of an optimiser from (2, 3), down and up.
    for maximize, expected in [(False, [-37, -5]), (True, [41, 11])]:
        w = np.array([w1, w2])
        lib.SGD(1.0, maximize=maximize).step(w, np.array([dw1, dw2]))
        assert w.tolist() == expected

    def g(w1: float, w2: float) -> float:
        return w1**3 * w2 + 3 * w1

    h = 1e-5
    assert (g(2 + h, 3) - g(2 - h, 3)) / (2 * h) == pytest.approx(
        39, rel=DIFFERENCE_TOL
    )
    assert (g(2, 3 + h) - g(2, 3 - h)) / (2 * h) == pytest.approx(8, rel=DIFFERENCE_TOL)


def test_sum_passes_the_gradient(lib: ModuleType) -> None:
    mlp = network(lib, [2, 1], [1, 1], bias=False)
    y, dx, _ = mlp.vjp([[2.0, 5.0]], [[3.0]])
    assert (y.tolist(), dx.tolist()) == ([[7]], [[3, 3]])


def test_product_swaps(lib: ModuleType) -> None:
    assert product(lib, 2.0, 5.0) == (10, 5, 2)


def test_max_routes_to_the_larger_branch(lib: ModuleType) -> None:
    # max(a, b) = relu(a - b) + relu(b) - relu(-b).
    weights = [[1, 0, 0], [-1, 1, -1]]
    mlp = network(lib, [2, 3, 1], weights, [1, 1, -1], bias=False)
    y, dx, _ = mlp.vjp([[2.0, 5.0], [5.0, 2.0], [-3.0, -4.0]], np.ones((3, 1)))
    assert y.tolist() == [[5], [5], [-3]]
    assert dx.tolist() == [[0, 1], [1, 0], [1, 0]]


def test_a_split_that_merges_adds(lib: ModuleType) -> None:
    # x goes through 2x and 3x, which are added: dx = 2 + 3.
    mlp = network(lib, [1, 2, 1], [2, 3], [1, 1], bias=False, activation="identity")
    y, dx, _ = mlp.vjp([[4.0]], [[1.0]])
    assert (y.tolist(), dx.tolist()) == ([[20]], [[5]])


@pytest.mark.parametrize("kind", ["tanh", "gelu", "sigmoid"])
def test_gradients_of_parameters_and_inputs_against_differences(
    lib: ModuleType, kind: str, rng: np.random.Generator
) -> None:
    mlp = network(lib, [3, 4, 4, 2], activation=kind, seed=0)
    x, dy, h = rng.standard_normal((5, 3)), rng.standard_normal((5, 2)), 6e-6
    _, dx, grads = mlp.vjp(x, dy)
    for array, gradient in ((mlp.params, grads), (x, dx)):
        for i in np.ndindex(array.shape):
            kept = array[i]
            array[i] = kept + h
            above = (mlp(x) * dy).sum()
            array[i] = kept - h
            below = (mlp(x) * dy).sum()
            array[i] = kept
            numeric = (above - below) / (2 * h)
            assert gradient[i] == pytest.approx(
                numeric, rel=DIFFERENCE_TOL, abs=DIFFERENCE_TOL
            )


# ---------------------------------------------------------------------- optimisers

GRADIENTS = np.array([[3.0, -2.0, 5.0], [-1.0, 0.5, 2.0], [4.0, 1.0, -3.0]])
START = np.array([0.5, -1.0, 2.0])


def path_of(optimizer: Any, gradients: np.ndarray = GRADIENTS) -> np.ndarray:
    """The parameters after each step, for gradients that do not depend on them."""
    theta, path = START.copy(), []
    for g in gradients:
        optimizer.step(theta, g.copy())
        path.append(theta.copy())
    return np.array(path)


def assert_same_path(actual: np.ndarray, expected: list[np.ndarray]) -> None:
    np.testing.assert_allclose(actual, expected, rtol=ROUNDING_TOL, atol=ROUNDING_TOL)


def test_gradient_descent_and_ascent(lib: ModuleType) -> None:
    down = START - 0.1 * np.cumsum(GRADIENTS, axis=0)
    up = START + 0.1 * np.cumsum(GRADIENTS, axis=0)
    assert_same_path(path_of(lib.SGD(0.1)), list(down))
    assert_same_path(path_of(lib.SGD(0.1, maximize=True)), list(up))


def test_momentum(lib: ModuleType) -> None:
    # v = gamma v + alpha g; theta -= v.
    alpha, gamma = 0.1, 0.9
    theta, v, expected = START, 0.0, []
    for g in GRADIENTS:
        v = gamma * v + alpha * g
        theta = theta - v
        expected.append(theta)
    assert_same_path(path_of(lib.SGD(alpha, momentum=gamma)), expected)


def test_momentum_with_averaging(lib: ModuleType) -> None:
    # m = beta m + (1 - beta) g; theta -= alpha m. From m = 0 that is momentum with
    # the rate alpha (1 - beta); from m = the first gradient it is dampening = beta.
    alpha, beta = 0.1, 0.9
    variants = [
        (lib.SGD(alpha * (1 - beta), momentum=beta), np.zeros(3)),
        (lib.SGD(alpha, momentum=beta, dampening=beta), GRADIENTS[0]),
    ]
    for optimizer, m in variants:
        theta, expected = START, []
        for g in GRADIENTS:
            m = beta * m + (1 - beta) * g
            theta = theta - alpha * m
            expected.append(theta)
        assert_same_path(path_of(optimizer), expected)


def test_nesterov(lib: ModuleType) -> None:
    # v = gamma v - alpha grad(theta + gamma v); theta += v. The optimiser holds the
    # point ahead, theta + gamma v, where the gradient is taken.
    alpha, gamma = 0.05, 0.9
    curvature = np.array([1.0, 3.0, 0.5])

    def gradient(theta: np.ndarray) -> np.ndarray:
        return curvature * (theta - 1)

    theta, v = START, np.zeros(3)
    ahead, optimizer = START.copy(), lib.SGD(alpha, momentum=gamma, nesterov=True)
    for _ in range(10):
        v = gamma * v - alpha * gradient(theta + gamma * v)
        theta = theta + v
        optimizer.step(ahead, gradient(ahead))
        np.testing.assert_allclose(ahead, theta + gamma * v, rtol=4 * ROUNDING_TOL)


def test_adagrad(lib: ModuleType) -> None:
    # G += g^2; theta -= alpha g / sqrt(G).
    theta, total, expected = START, 0.0, []
    for g in GRADIENTS:
        total = total + g**2
        theta = theta - 0.1 * g / np.sqrt(total)
        expected.append(theta)
    assert_same_path(path_of(lib.Adagrad(0.1, eps=0.0)), expected)


def test_rmsprop(lib: ModuleType) -> None:
    # G = gamma G + (1 - gamma) g^2; theta -= alpha g / sqrt(G).
    theta, mean, expected = START, 0.0, []
    for g in GRADIENTS:
        mean = 0.9 * mean + (1 - 0.9) * g**2
        theta = theta - 0.1 * g / np.sqrt(mean)
        expected.append(theta)
    assert_same_path(path_of(lib.RMSprop(0.1, alpha=0.9, eps=0.0)), expected)


@pytest.mark.parametrize("eps", [1e-8, 0.5])
@pytest.mark.parametrize("mode", ["outside", "inside", "hat"])
def test_adam(lib: ModuleType, mode: str, eps: float) -> None:
    # Some texts write v_hat / (eps + sqrt(s_hat)), others v_hat / sqrt(s_hat + eps). A
    # large eps tells them apart.
    alpha, b1, b2 = 0.1, 0.9, 0.999
    theta, v, s, expected = START, 0.0, 0.0, []
    for t, g in enumerate(GRADIENTS, start=1):
        v = b1 * v + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        v_hat, s_hat = v / (1 - b1**t), s / (1 - b2**t)
        direction = {
            "outside": v_hat / (eps + np.sqrt(s_hat)),
            "inside": v_hat / np.sqrt(s_hat + eps),
            "hat": math.sqrt(1 - b2**t) / (1 - b1**t) * v / (np.sqrt(s) + eps),
        }[mode]
        theta = theta - alpha * direction
        expected.append(theta)
    assert_same_path(path_of(lib.Adam(alpha, eps=eps, eps_mode=mode)), expected)


def test_adamax(lib: ModuleType) -> None:
    # v as in Adam; u = max(b2 u, |g| + eps); theta -= alpha v_hat / u.
    b1, b2, eps = 0.9, 0.7, 0.1
    theta, v, u, expected = START, 0.0, 0.0, []
    for t, g in enumerate(GRADIENTS, start=1):
        v = b1 * v + (1 - b1) * g
        u = np.maximum(b2 * u, abs(g) + eps)
        theta = theta - 0.1 * v / (1 - b1**t) / u
        expected.append(theta)
    assert_same_path(path_of(lib.Adamax(0.1, (b1, b2), eps)), expected)


def test_adam_defaults(lib: ModuleType) -> None:
    # alpha 0.001, gamma_v 0.9, gamma_s 0.999, eps 1e-8, outside the root.
    explicit = lib.Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-8, eps_mode="outside")
    np.testing.assert_array_equal(path_of(lib.Adam()), path_of(explicit))


def test_normalised_gradients(lib: ModuleType) -> None:
    # without memory the step of [3, -2, 5] is [1, -1, 1] times the rate.
    theta = np.zeros(3)
    lib.Adam(1.0, betas=(0.0, 0.0), eps=0.0).step(theta, np.array([3.0, -2.0, 5.0]))
    assert (-theta).tolist() == [1, -1, 1]


def test_weight_penalty(lib: ModuleType) -> None:
    # (lambda / 2) |theta|^2 adds lambda theta to the gradient.
    theta, expected = START, []
    for g in GRADIENTS:
        theta = theta - 0.1 * (g + 0.3 * theta)
        expected.append(theta)
    assert_same_path(path_of(lib.SGD(0.1, weight_decay=0.3)), expected)


def test_learning_rate_schedule(lib: ModuleType) -> None:
    theta, expected = START.copy(), START
    optimizer = lib.SGD(1.0)
    for t, g in enumerate(GRADIENTS, start=1):
        optimizer.lr = 1 / t
        optimizer.step(theta, g.copy())
        expected = expected - g / t
        np.testing.assert_allclose(
            theta, expected, rtol=ROUNDING_TOL, atol=ROUNDING_TOL
        )


def test_mini_batches_use_each_example_once_per_epoch(lib: ModuleType) -> None:
    # Example i is the unit vector e_i and its error is far below 0, where L1 has the
    # slope -1: each use of example i adds exactly 1 to weight i.
    examples = 10
    mlp = network(lib, [examples, 1], init="zeros", bias=False)
    loss, optimizer = lib.MAE(reduction="sum"), lib.SGD(1.0)
    x, y = np.eye(examples), np.full((examples, 1), 1e6)
    for epochs, uses in [(1, 1), (3, 4)]:
        mlp.fit(
            x, y, loss=loss, optimizer=optimizer, epochs=epochs, batch_size=3, seed=0
        )
        assert mlp.params.tolist() == [uses] * examples


# ------------------------------------------------------------------ whole problems


def test_linear_least_squares(lib: ModuleType, rng: np.random.Generator) -> None:
    # phi0 + phi1 x by gradient descent reaches the closed form, as a network and as a
    # plain vector.
    x = rng.uniform(-1, 1, 30)
    y = 0.7 - 1.8 * x + 0.1 * rng.standard_normal(30)
    features = np.column_stack([x, np.ones(30)])
    closed, *_ = np.linalg.lstsq(features, y, rcond=None)
    mlp, optimizer = network(lib, [1, 1], init="zeros"), lib.SGD(0.5)
    vector, vector_optimizer = np.zeros(2), lib.SGD(0.5)
    for _ in range(200):
        mlp.train_step(x[:, None], y, lib.MSE(), optimizer)
        gradient = 2 / 30 * features.T @ (features @ vector - y)
        vector_optimizer.step(vector, gradient)
    np.testing.assert_allclose(mlp.params, closed, rtol=NETWORK_TOL)
    np.testing.assert_allclose(vector, closed, rtol=NETWORK_TOL)


def rosenbrock(p: np.ndarray) -> tuple[float, np.ndarray]:
    """(1 - x)^2 + 100 (y - x^2)^2 and its gradient."""
    x, y = p
    value = (1 - x) ** 2 + 100 * (y - x * x) ** 2
    return value, np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


def descend(
    optimizer: Any,
    start: list[float],
    problem: Callable[[np.ndarray], tuple[float, np.ndarray]],
    steps: int,
) -> float:
    """The value that an optimiser reaches on a plain vector."""
    p = np.array(start, dtype=np.float64)
    for _ in range(steps):
        optimizer.step(p, problem(p)[1])
    return problem(p)[0]


def test_rosenbrock(lib: ModuleType) -> None:
    # from (-1, 1.5) plain descent crawls along the valley and momentum runs.
    start = [-1.0, 1.5]
    first = rosenbrock(np.array(start))[0]
    plain = descend(lib.SGD(5e-4), start, rosenbrock, 1000)
    momentum = descend(lib.SGD(5e-4, momentum=0.9), start, rosenbrock, 1000)
    assert plain < 0.2 * first
    assert momentum < 0.01 * plain


@pytest.mark.parametrize(
    ("name", "lr"),
    [
        ("Adam", 0.05),
        ("AdamW", 0.05),
        ("Adamax", 0.05),
        ("RMSprop", 0.01),
        ("Adagrad", 0.5),
    ],
)
def test_every_optimiser_descends_rosenbrock(
    lib: ModuleType, name: str, lr: float
) -> None:
    start = [-1.0, 1.5]
    value = descend(getattr(lib, name)(lr), start, rosenbrock, 500)
    assert value < 0.2 * rosenbrock(np.array(start))[0]


GABOR_TRUTH = np.array([0.0, 16.6])


def gabor(p: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sin(u) exp(-u^2 / 32), u = p0 + 0.06 p1 x, and its derivative by p, (2, N)."""
    u = p[0] + 0.06 * p[1] * x
    envelope = np.exp(-u * u / 32)
    slope = (np.cos(u) - np.sin(u) * u / 16) * envelope
    return np.sin(u) * envelope, slope * np.stack([np.ones_like(x), 0.06 * x])


def gabor_problem(
    x: np.ndarray, y: np.ndarray
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The squared error and its gradient."""

    def problem(p: np.ndarray) -> tuple[float, np.ndarray]:
        f, df = gabor(p, x)
        return float(((f - y) ** 2).sum()), 2 * df @ (f - y)

    return problem


def gabor_data() -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-15, 15, 30)
    noise = 0.1 * np.random.default_rng(0).standard_normal(30)
    return x, gabor(GABOR_TRUTH, x)[0] + noise


def test_gabor_only_the_right_valley_reaches_the_global_minimum(
    lib: ModuleType,
) -> None:
    problem = gabor_problem(*gabor_data())
    right = descend(lib.SGD(0.05), [0.5, 12.0], problem, 300)
    wrong = descend(lib.SGD(0.05), [6.0, 8.0], problem, 300)
    assert right <= problem(GABOR_TRUTH)[0]
    assert wrong < problem(np.array([6.0, 8.0]))[0]
    assert wrong > 10 * right


def test_mini_batch_noise_escapes_from_a_wrong_valley(lib: ModuleType) -> None:
    # The same expected step, in batches of 5 of 30: at least one of ten seeds finds the
    # right valley, full batches never do.
    x, y = gabor_data()
    start, problem = [3.0, 6.0], gabor_problem(x, y)
    stuck = descend(lib.SGD(0.05), start, problem, 300)
    reached = []
    for seed in range(10):
        rng, p, optimizer = np.random.default_rng(seed), np.array(start), lib.SGD(0.3)
        for _ in range(60):
            for rows in rng.permutation(30).reshape(6, 5):
                optimizer.step(p, gabor_problem(x[rows], y[rows])(p)[1])
        reached.append(problem(p)[0])
    assert min(reached) < 0.1 * stuck


def logistic_data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    features = rng.standard_normal((40, 3))
    noise = rng.logistic(size=40)
    return features, (features @ [1.0, -2.0, 0.5] + noise > 0).astype(float)


@pytest.mark.parametrize("batch", [40, 8, 1], ids=["batch", "mini-batch", "stochastic"])
def test_logistic_regression_by_gradient_ascent(
    lib: ModuleType, batch: int, rng: np.random.Generator
) -> None:
    # ascent on the log likelihood is descent on its negative, the loss of a network
    # without a hidden layer.
    f, y = logistic_data(rng)
    w, ascent = np.zeros(3), lib.SGD(0.02, maximize=True)
    mlp = network(lib, [3, 1], init="zeros", bias=False)
    descent, loss = lib.SGD(0.02), lib.BinaryCrossEntropy(reduction="sum")
    before = mlp.evaluate(f, y, loss)
    for _ in range(5):
        for rows in rng.permutation(40).reshape(-1, batch):
            p = 1 / (1 + np.exp(-f[rows] @ w))
            ascent.step(w, (y[rows] - p) @ f[rows])
            mlp.train_step(f[rows], y[rows], loss, descent)
    np.testing.assert_allclose(mlp.params, w, rtol=NETWORK_TOL, atol=NETWORK_TOL)
    assert mlp.evaluate(f, y, loss) < before
    # The classifier goes by the sign of the activation, which is P > 1/2.
    activation = mlp(f)[:, 0]
    assert ((activation > 0) == (1 / (1 + np.exp(-activation)) > 0.5)).all()
    assert np.mean((activation > 0) == y) > 0.7


def test_log_likelihood_rises_with_every_full_batch_step(
    lib: ModuleType, rng: np.random.Generator
) -> None:
    f, y = logistic_data(rng)
    mlp = network(lib, [3, 1], init="zeros")
    optimizer, loss = lib.SGD(0.5), lib.BinaryCrossEntropy()
    losses = [mlp.train_step(f, y, loss, optimizer) for _ in range(50)]
    assert losses[0] == pytest.approx(math.log(2), rel=ROUNDING_TOL)
    assert (np.diff(losses) < 0).all()


def test_multi_class_logistic_regression(
    lib: ModuleType, rng: np.random.Generator
) -> None:
    # The gradient of the log likelihood by the scores is one-hot(y) - softmax.
    f, labels = rng.standard_normal((20, 3)), rng.integers(0, 4, 20)
    mlp = network(lib, [3, 4], rng.standard_normal((3, 4)), np.zeros(4))
    scores = f @ mlp.weights[0]
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = f.T @ (np.eye(4)[labels] - p)
    grads = mlp.value_and_grad(f, labels, lib.CrossEntropy(reduction="sum"))[1]
    np.testing.assert_allclose(-grads[:12].reshape(3, 4), expected, atol=NETWORK_TOL)


def test_random_labels_are_learnt_by_heart(
    lib: ModuleType, rng: np.random.Generator
) -> None:
    # A well-known experiment in miniature: nets with He weights and full-batch gradient
    # descent, no momentum, no regularisation, reach 0 training error on noise.
    x, labels = rng.standard_normal((40, 8)), rng.integers(0, 4, 40)
    for layers in ([8, 60, 4], [8, 24, 24, 4]):
        mlp = network(lib, layers, init="he_normal", seed=0)
        optimizer = lib.SGD(0.5)
        for _ in range(400):
            mlp.train_step(x, labels, lib.CrossEntropy(), optimizer)
        assert (mlp(x).argmax(axis=1) == labels).all()
