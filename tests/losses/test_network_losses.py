"""Training with each loss: gradients, fit, threads, instruction sets, examples."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from fastmlp._core import kernels
from helpers import (
    SEED,
    TOLERANCE,
    assert_threaded,
    thread_counts,
    training_flops,
)
from loss_cases import (
    CASES,
    OUTPUTS,
    WEIGHTS,
    assert_close,
    each_case,
    in_reference,
    inputs,
    network,
    problem,
    same,
    targets,
)


def rows_of(y: Any, rows: Any) -> Any:
    return tuple(a[rows] for a in y) if isinstance(y, tuple) else y[rows]


@each_case
def test_network_gradient(name: str, isa: str) -> None:
    """value_and_grad and evaluate agree with the loss of the predictions."""
    loss = CASES[name][0]
    rows = 41
    _, y, weight = problem(name, np.float64, rows)
    mlp, x = network("float64"), inputs(rows, "float64")
    for w in (None, weight):
        value, grads = mlp.value_and_grad(x, y, loss, w)
        assert value == mlp.evaluate(x, y, loss, w)
        wanted, dy = loss.value_and_grad(mlp(x), y, w)
        assert_close(value, wanted, np.float64)
        assert_close(grads, mlp.vjp(x, dy)[2], np.float64)


@each_case
def test_fit_is_steps_on_shuffled_rows(name: str, dtype: type) -> None:
    loss, rows, batch = CASES[name][0], 53, 16
    _, y, weight = problem(name, dtype, rows)
    x = inputs(rows, dtype)
    for w in (None, weight):
        mlp, other = network(dtype), network(dtype)
        history = mlp.fit(
            x,
            y,
            loss=loss,
            optimizer=fm.Adam(lr=0.01),
            epochs=2,
            batch_size=batch,
            sample_weight=w,
            validation_data=(x, y) if w is None else (x, y, w),
            seed=5,
            progress=False,
        )
        optimizer = fm.Adam(lr=0.01)
        for epoch in range(2):
            order = np.arange(rows)
            kernels.shuffle(order, 5, epoch)
            values, shares = [], []
            for first in range(0, rows, batch):
                r = order[first : first + batch]
                args = (x[r], rows_of(y, r), loss, optimizer)
                step = other.train_step(*args, None if w is None else w[r])
                values.append(step)
                share = np.ones(len(r)) if w is None else w[r].astype(dtype)
                if getattr(loss, "class_weight", None) and CASES[name][1] == "labels":
                    share = share * np.take(WEIGHTS, y[r])
                shares.append(share.sum(dtype=np.float64))
            wanted = np.average(values, weights=shares)
            assert_close(history.loss[epoch], wanted, np.float64)
        assert same(mlp.params, other.params)
        assert history.val_loss[-1] == mlp.evaluate(x, y, loss, w)


@each_case
def test_fit_is_that_of_the_reference(name: str) -> None:
    loss, rows = CASES[name][0], 30
    _, y, _ = problem(name, np.float64, rows)
    x = inputs(rows, np.float64)
    histories = []
    for lib, what in ((fm, loss), (reference, in_reference(loss))):
        mlp = lib.MLP([3, 8, OUTPUTS], activation="tanh", dtype="float64", seed=3)
        history = mlp.fit(
            x,
            y,
            loss=what,
            optimizer=lib.SGD(lr=0.05),
            epochs=3,
            batch_size=7,
        )
        histories.append(history.loss)
    tolerance = TOLERANCE["network"].of(np.float64)
    np.testing.assert_allclose(*histories, rtol=tolerance, atol=tolerance)


@each_case
def test_threads_do_not_change_the_bits(name: str) -> None:
    loss, widths, rows = CASES[name][0], [3, 64, 64, OUTPUTS], 8000
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((rows, 3)).astype("float32")
    y = targets(CASES[name][1], rng, rows, np.float32)
    weight = rng.uniform(0, 2, rows).astype("float32")
    found = set()
    counts = thread_counts(fm.isa())
    for n in counts:
        with fm.threads(n):
            assert_threaded(training_flops(widths, rows // 2), rows // 2)
            mlp = fm.MLP(widths, activation="tanh", seed=0)
            history = mlp.fit(
                x,
                y,
                loss=loss,
                optimizer=fm.SGD(lr=0.01),
                epochs=2,
                batch_size=rows // 2,
                sample_weight=weight,
                seed=1,
                progress=False,
            )
            last = mlp.evaluate(x, y, loss, weight)
        found.add((mlp.params.tobytes(), tuple(history.loss), last))
    assert len(found) == 1


@each_case
def test_instruction_sets_do_not_change_the_bits(name: str) -> None:
    loss, rows = CASES[name][0], 45
    _, y, weight = problem(name, np.float32, rows)
    x = inputs(rows, "float32")
    found = set()
    for isa in fm.available_isas():
        with fm.use_isa(isa):
            mlp = network("float32")
            optimizer = fm.Adam(lr=0.01)
            values = [mlp.train_step(x, y, loss, optimizer, weight) for _ in range(4)]
            values.append(mlp.evaluate(x, y, loss))
        found.add((mlp.params.tobytes(), tuple(values)))
    assert len(found) == 1


def test_divergence_names_the_targets() -> None:
    mlp = network("float64")
    x = inputs(6, "float64")
    y = np.zeros((6, OUTPUTS // 2))
    y[4, 1] = np.nan
    with pytest.raises(fm.DivergenceError, match=r"y holds a value .* in row 4\b"):
        mlp.train_step(x, y, fm.GaussianNLL(), fm.SGD(lr=0.1))
    values = (np.zeros(6, int), y[:, 1])
    with pytest.raises(fm.DivergenceError, match=r"y holds a value .* in row 4\b"):
        mlp.train_step(x, values, fm.ActionValue(fm.MSE()), fm.SGD(lr=0.1))


def test_losses_estimate_rates_quantiles_and_variances() -> None:
    """Trained models predict the known rates, quantiles and variances of the data."""
    rng = np.random.default_rng(SEED)
    n = 4000
    x = np.zeros((n, 1))
    settings: dict[str, Any] = {
        "optimizer": fm.Adam(lr=0.02),
        "epochs": 60,
        "batch_size": 500,
        "progress": False,
    }

    def constants(loss: fm.losses.Loss, y: np.ndarray, outputs: int) -> np.ndarray:
        mlp = fm.MLP([1, outputs], dtype="float64", seed=0)
        mlp.fit(x, y, loss=loss, **{**settings, "optimizer": fm.Adam(lr=0.02)})
        return mlp(x[0])

    # To within a few times the noise of the last steps.
    counts = rng.poisson(3.0, (n, 1)).astype(float)
    rate = np.exp(constants(fm.Poisson(), counts, 1)[0])
    assert rate == pytest.approx(counts.mean(), rel=0.02)
    normal = 2 + 0.5 * rng.standard_normal(n)
    mean, log_variance = constants(fm.GaussianNLL(), normal, 2)
    assert mean == pytest.approx(normal.mean(), abs=0.03)
    assert np.exp(log_variance) == pytest.approx(normal.var(), rel=0.1)
    found = constants(fm.Quantile([0.1, 0.5, 0.9]), normal, 3)
    np.testing.assert_allclose(
        found, np.quantile(normal, [0.1, 0.5, 0.9]), rtol=0, atol=0.05
    )


def test_perceptron() -> None:
    """Rosenblatt's rule, w += y x after each mistake from w = 0, learns logical OR.

    Hinge(margin=0) with a learning rate of 1, one example at a time.
    """
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
    y = np.array([-1, 1, 1, 1], float)
    w, b = np.zeros(2), 0.0
    mlp = fm.MLP([2, fm.Dense(1, init="zeros")], dtype="float64", seed=0)
    optimizer = fm.SGD(lr=1.0)
    for _ in range(5):
        for xi, yi in zip(x, y, strict=True):
            if yi * (xi @ w + b) <= 0:
                w, b = w + yi * xi, b + yi
            mlp.train_step(xi[np.newaxis], [yi], fm.Hinge(margin=0.0), optimizer)
            np.testing.assert_array_equal(mlp.params, [*w, b])
    np.testing.assert_array_equal(np.sign(mlp(x))[:, 0], y)


def test_q_learning_update() -> None:
    """θ += lr ∂Q(x, u)/∂θ [r + g max Q(x', ·) - Q(x, u)] with a constant target.

    The gradient of the squared error has a factor 2, so the learning rate is lr / 2.
    """
    rng = np.random.default_rng(SEED)
    states, actions = 5, 3
    mlp = fm.MLP([states, 7, actions], activation="tanh", dtype="float64", seed=0)
    x, x_next = rng.standard_normal((2, 1, states))
    u, reward, gamma, alpha = 1, 0.5, 0.9, 0.1

    # By hand, with the gradient of the single value.
    target = reward + gamma * mlp(x_next).max()
    chosen = np.zeros((1, actions))
    chosen[0, u] = 1
    q, _, dq = mlp.vjp(x, chosen)
    wanted = mlp.params + alpha * dq * (target - q[0, u])

    loss = fm.ActionValue(fm.MSE())
    error = mlp.train_step(x, ([u], [target]), loss, fm.SGD(lr=alpha / 2))
    assert error == pytest.approx((target - q[0, u]) ** 2)
    rtol = TOLERANCE["update"].of(np.float64)
    np.testing.assert_allclose(mlp.params, wanted, rtol=rtol, atol=rtol)


def test_q_learning_of_a_corridor() -> None:
    """In a corridor with a reward at its right end, the values are the discounts."""
    places, gamma = 5, 0.5
    state = np.repeat(np.arange(places - 1), 2)
    action = np.tile([0, 1], places - 1)  # left, right
    following = np.clip(state + 2 * action - 1, 0, None)
    reward = (following == places - 1).astype(float)
    one_hot = np.eye(places)
    mlp = fm.MLP([places, fm.Dense(2, init="zeros")], dtype="float64", seed=0)
    optimizer, loss = fm.SGD(lr=1.0), fm.ActionValue(fm.MSE())
    for _ in range(400):
        ends = following == places - 1
        ahead = np.where(ends, 0, mlp(one_hot[following]).max(axis=1))
        y = (action, reward + gamma * ahead)
        mlp.train_step(one_hot[state], y, loss, optimizer)
    best = mlp(one_hot[:-1]).max(axis=1)
    np.testing.assert_allclose(best, gamma ** np.arange(3, -1, -1), atol=1e-4)
