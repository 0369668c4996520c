"""The reference's networks: gradients, state, initial parameters, training."""

from __future__ import annotations

import math

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference as ref
from helpers import TOLERANCE, central_difference
from reference_cases import ALL_LOSSES, ROUNDING, assert_gradient, targets


@pytest.mark.parametrize("kind", ref.ACTIVATIONS)
def test_network_gradients(kind: str, rng: np.random.Generator) -> None:
    layers = [3, 5, ref.Dense(4, activation=kind, bias=False), 2]
    mlp = ref.MLP(layers, activation=kind, output_activation=kind, dtype="float64")
    mlp.params[:] = 0.5 * rng.standard_normal(mlp.n_params)
    x, dy = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    y, dx, grads = mlp.vjp(x, dy)
    np.testing.assert_array_equal(y, mlp(x))

    def value() -> float:
        return float((mlp(x) * dy).sum())

    assert_gradient(grads, central_difference(value, mlp.params))
    assert_gradient(dx, central_difference(value, x))


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_network_loss_gradients(name: str, rng: np.random.Generator) -> None:
    mlp = ref.MLP([3, 4, 2], activation="tanh", dtype="float64", seed=1)
    x, y = rng.standard_normal((5, 3)), targets(name, rng, 5, 2)
    loss, weight = ALL_LOSSES[name](reduction="mean"), rng.uniform(0, 2, 5)
    value, grads = mlp.value_and_grad(x, y, loss, weight)
    assert value == mlp.evaluate(x, y, loss, weight)
    expected = central_difference(lambda: mlp.evaluate(x, y, loss, weight), mlp.params)
    assert_gradient(grads, expected)


def test_parameters_are_one_vector_of_views() -> None:
    mlp = ref.MLP([2, 3, ref.Dense(1, bias=False)], dtype="float64", seed=0)
    assert mlp.n_params == 2 * 3 + 3 + 3 == mlp.params.size
    mlp.params[:] = np.arange(12)
    np.testing.assert_array_equal(mlp.weights[0], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(mlp.biases[0], [6, 7, 8])
    np.testing.assert_array_equal(mlp.weights[1], [[9], [10], [11]])
    assert mlp.biases[1] is None
    mlp.weights[1][:] = 0
    assert mlp.params[9:].tolist() == [0, 0, 0]


def test_one_dimensional_input_and_out(rng: np.random.Generator) -> None:
    mlp = ref.MLP([3, 4, 2], dtype="float64", seed=0)
    x, dy = rng.standard_normal(3), rng.standard_normal(2)
    out = np.empty(2)
    assert mlp(x, out=out) is out
    np.testing.assert_array_equal(out, mlp(x[None])[0])
    y, dx, grads = mlp.vjp(x, dy)
    assert (y.shape, dx.shape, grads.shape) == ((2,), (3,), (mlp.n_params,))
    np.testing.assert_array_equal(dx, mlp.vjp(x[None], dy[None])[1][0])


def test_predict_and_training_leave_the_tape_alone(rng: np.random.Generator) -> None:
    mlp = ref.MLP([3, 4, 2], activation="tanh", dtype="float64", seed=0)
    x, dy = rng.standard_normal((2, 3)), rng.standard_normal((2, 2))
    expected = mlp.vjp(x, dy)
    y = mlp.forward(x)
    x[:], y[:] = 0, 0  # the caller may change both arrays
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    mlp.predict(x)
    mlp.vjp(x, y)
    mlp.value_and_grad(x, y, ref.MSE())
    mlp.train_step(x, y, ref.MSE(), ref.SGD(0.0))
    for actual, wanted in zip(mlp.backward(dy), expected[1:], strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_backward_needs_a_forward_of_its_shape() -> None:
    mlp = ref.MLP([3, 2])
    with pytest.raises(RuntimeError, match="forward"):
        mlp.backward(np.ones((1, 2)))
    mlp.forward(np.ones((4, 3)))
    with pytest.raises(ValueError, match="shape"):
        mlp.backward(np.ones((1, 2)))


@pytest.mark.parametrize("reason", ["loss", "gradient"])
def test_a_diverging_step_is_refused(reason: str) -> None:
    mlp, optimizer = ref.MLP([1, 1], dtype="float64", init="zeros"), ref.SGD(0.1)
    before = mlp.params.copy()
    # |0 - 1| = 1 is finite, but its derivative by the weight is -inf.
    x, y = ([[1.0]], [[np.nan]]) if reason == "loss" else ([[1.5e308]] * 4, [[1.0]] * 4)
    loss = ref.MAE(reduction="sum")
    with pytest.raises(FloatingPointError, match="step 1"):
        mlp.train_step(x, y, loss, optimizer)
    with pytest.raises(FloatingPointError, match="step 1"):
        mlp.fit(x, y, loss=loss, optimizer=optimizer, epochs=1, batch_size=4)
    np.testing.assert_array_equal(mlp.params, before)
    assert optimizer.step_count == 0


def test_state_dict_is_torchs_and_loads_all_or_nothing() -> None:
    layers = [2, 3, ref.Dense(1, bias=False)]
    a, b = (ref.MLP(layers, dtype="float64", seed=seed) for seed in (0, 1))
    state = a.state_dict()
    assert list(state) == ["0.weight", "0.bias", "2.weight"]
    np.testing.assert_array_equal(state["0.weight"], a.weights[0].T)
    assert state["0.weight"].flags.c_contiguous
    before = b.params.copy()
    for wrong in (
        {k: v for k, v in state.items() if k != "0.bias"},
        {**state, "2.bias": np.zeros(1)},
        {**state, "2.weight": state["2.weight"].T},
    ):
        with pytest.raises(ValueError, match="shapes"):
            b.load_state_dict(wrong)
    np.testing.assert_array_equal(b.params, before)
    b.load_state_dict(state)
    np.testing.assert_array_equal(b.params, a.params)
    state["0.weight"][:] = 9
    assert not (a.params == 9).any()


def test_a_copy_is_independent_and_trains_alike(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((9, 2)), rng.standard_normal(9)
    how = {"loss": ref.MSE(), "epochs": 1, "batch_size": 2}
    a = ref.MLP([2, 3, 1], seed=0)
    a.fit(x, y, optimizer=ref.SGD(0.1), **how)
    b, before = a.copy(), a.params.copy()
    b.fit(x, y, optimizer=ref.SGD(0.1), **how)
    np.testing.assert_array_equal(a.params, before)
    a.fit(x, y, optimizer=ref.SGD(0.1), **how)
    np.testing.assert_array_equal(a.params, b.params)
    b.weights[0][:] = 5
    assert (b.params[:6] == 5).all()


@pytest.mark.parametrize("hidden", ["relu", "selu", "tanh", "sigmoid"])
@pytest.mark.parametrize("init", fm.initializers.INITIALIZERS)
def test_initial_parameters_are_those_of_the_package(init: str, hidden: str) -> None:
    for widths in ([5], [5, 7, 4, 4]):
        kwargs = {"activation": hidden, "init": init, "dtype": "float64", "seed": 3}
        ours, theirs = ref.MLP([*widths, 2], **kwargs), fm.MLP([*widths, 2], **kwargs)
        # Only "orthogonal" is computed differently.
        tolerance = TOLERANCE["network"].of(np.float64) * (init == "orthogonal")
        np.testing.assert_allclose(
            ours.params, theirs.params, rtol=tolerance, atol=tolerance
        )


def test_init_rules() -> None:
    fan_in, fan_out = 400, 500

    def draw(name: str, kind: str = "tanh") -> tuple[np.ndarray, np.ndarray]:
        weight, bias = np.empty((fan_in, fan_out)), np.full(fan_out, np.nan)
        rng = np.random.default_rng(0)
        ref.initialize(rng, weight, bias, name, kind, kind)
        return weight, bias

    # The sample deviation of 200,000 draws is within 1 % (six standard errors).
    total = fan_in + fan_out
    for family, variance in {
        "he": 2 / fan_in,
        "glorot": 2 / total,
        "lecun": 1 / fan_in,
    }.items():
        for distribution in ("normal", "uniform"):
            weight, bias = draw(f"{family}_{distribution}")
            assert weight.std() == pytest.approx(math.sqrt(variance), rel=0.01)
            assert not bias.any()
            bounded = np.abs(weight).max() <= math.sqrt(3 * variance)
            assert bounded == (distribution == "uniform")
    for name, kind, limit in [
        ("torch", "tanh", 1 / math.sqrt(fan_in)),
        ("sklearn", "tanh", math.sqrt(6 / total)),
        ("sklearn", "sigmoid", math.sqrt(2 / total)),
    ]:
        for array in draw(name, kind):
            assert 0.98 * limit < np.abs(array).max() <= limit
    rows = draw("orthogonal")[0]
    np.testing.assert_allclose(rows @ rows.T, np.eye(fan_in), atol=fan_in * ROUNDING)
    assert not draw("zeros")[0].any()
    for activation, name in [
        ("relu", "he_normal"),
        ("selu", "lecun_normal"),
        ("tanh", "glorot_uniform"),
    ]:
        np.testing.assert_array_equal(draw("auto", activation)[0], draw(name)[0])
    with pytest.raises(ValueError, match="magic"):
        draw("magic")


@pytest.mark.parametrize("layers", [[], [3], [ref.Dense(3), 2]])
def test_layers_start_with_the_input_width(layers: list[int | ref.Dense]) -> None:
    with pytest.raises(ValueError, match="layers"):
        ref.MLP(layers)


def test_dtypes_are_two() -> None:
    with pytest.raises(ValueError, match="dtype"):
        ref.MLP([2, 1], dtype="int64")


def test_seeds_fix_the_weights() -> None:
    a, b, c = (ref.MLP([2, 3, 1], seed=seed).params for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_fit_is_train_steps_in_shuffled_order(rng: np.random.Generator) -> None:
    x, y, w = (
        rng.standard_normal((10, 2)),
        rng.standard_normal(10),
        rng.uniform(1, 2, 10),
    )
    a, b = (ref.MLP([2, 3, 1], dtype="float64", seed=0) for _ in range(2))
    history = a.fit(
        x,
        y,
        loss=ref.MSE(),
        optimizer=ref.Adam(),
        epochs=2,
        batch_size=4,
        sample_weight=w,
        validation_data=(x, y),
        seed=5,
    )
    optimizer, order, epoch_losses = ref.Adam(), np.empty(10, np.int64), []
    for epoch in range(2):
        ref.shuffle(order, 5, epoch)
        batches = order[:4], order[4:8], order[8:]
        losses = [b.train_step(x[r], y[r], ref.MSE(), optimizer, w[r]) for r in batches]
        shares = [w[r].sum() for r in batches]
        epoch_losses.append(np.dot(losses, shares) / np.sum(shares))
    np.testing.assert_array_equal(a.params, b.params)
    np.testing.assert_allclose(history.loss, epoch_losses, rtol=ROUNDING)
    assert history.val_loss[-1] == a.evaluate(x, y, ref.MSE())


@pytest.mark.parametrize("weights", [None, [1, 0, 2, 0, 1, 3, 0, 1, 1, 2]])
def test_fits_are_those_of_the_package(
    weights: list[int] | None, rng: np.random.Generator
) -> None:
    # Orders of the model, of a seed, of a generator, and of the model again; weights
    # are a list, with batches whose weights are all 0.
    x, y = rng.standard_normal((10, 2)), rng.integers(0, 3, 10)
    runs = []
    for lib in (ref, fm):
        mlp = lib.MLP([2, 4, 3], dtype="float64", seed=np.random.default_rng(4))
        optimizer, losses = lib.Adam(0.05), []
        for seed in (None, 3, np.random.default_rng(1), None):
            history = mlp.fit(
                x,
                y,
                loss=lib.CrossEntropy(),
                optimizer=optimizer,
                epochs=2,
                batch_size=1 if weights else 3,
                sample_weight=weights,
                validation_data=(x, y, np.arange(10)),
                seed=seed,
            )
            assert mlp.history is history
            losses += history.loss + history.val_loss
        runs.append((losses, mlp.params))
    tolerance = TOLERANCE["network"].of(np.float64)
    for ours, theirs in zip(*runs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_two_fits_are_one_long_fit(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((10, 2)), rng.standard_normal(10)
    params = []
    for parts in ([3], [2, 1], [1, 1, 1]):
        mlp, optimizer = ref.MLP([2, 3, 1], seed=0), ref.SGD(0.1)
        how = {"loss": ref.MSE(), "optimizer": optimizer, "batch_size": 3}
        for epochs in parts:
            mlp.fit(x, y, epochs=epochs, **how)
        params.append(mlp.params)
    np.testing.assert_array_equal(params[0], params[1])
    np.testing.assert_array_equal(params[0], params[2])
