"""The compiled network against the reference network."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from helpers import TOLERANCE


def pair(layers: list[Any], dtype: type, **kwargs: Any) -> tuple[Any, Any]:
    """The same network in the compiled package and in the reference."""
    nets = []
    for lib in (fm, reference):
        made = [
            lib.Dense(**layer) if isinstance(layer, dict) else layer for layer in layers
        ]
        nets.append(lib.MLP(made, dtype=np.dtype(dtype).name, seed=11, **kwargs))
    return nets[0], nets[1]


def assert_close(actual: np.ndarray, exact: np.ndarray, dtype: type) -> None:
    assert actual.dtype == dtype
    assert actual.shape == exact.shape
    limit = TOLERANCE["network"].of(dtype) * np.abs(exact).max()
    np.testing.assert_allclose(actual, exact, rtol=0, atol=limit)


@pytest.mark.parametrize("activation", ["relu", "selu", "tanh"])
@pytest.mark.parametrize(
    "init", ["auto", "he_normal", "lecun_normal", "glorot_uniform", "zeros"]
)
def test_initial_weights_are_those_of_the_reference(
    init: str, activation: str, dtype: type
) -> None:
    layers = [4, 5, {"n": 3, "bias": False}, 2]
    mlp, ref = pair(layers, dtype, activation=activation, init=init)
    np.testing.assert_array_equal(mlp.params, ref.params)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_network_against_the_reference(
    activation: str, isa: str, dtype: type, rng: np.random.Generator
) -> None:
    layers = [6, 33, {"n": 17, "activation": "tanh", "bias": False}, 3]
    kinds = {"activation": activation, "output_activation": activation}
    mlp, ref = pair(layers, dtype, **kinds)
    x, dy = (rng.standard_normal((21, n)).astype(dtype) for n in (6, 3))
    for actual, exact in zip(mlp.vjp(x, dy), ref.vjp(x, dy), strict=True):
        assert_close(actual, exact, dtype)
    assert_close(mlp(x), ref(x), dtype)
    assert_close(mlp(x[0]), ref(x[0]), dtype)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "name",
    [
        "MSE",
        "MAE",
        "Huber",
        "PseudoHuber",
        "CrossEntropy",
        "BinaryCrossEntropy",
        "labels",
    ],
)
def test_network_losses_against_the_reference(
    name: str,
    reduction: str,
    weighted: bool,
    isa: str,
    dtype: type,
    rng: np.random.Generator,
) -> None:
    mlp, ref = pair([6, 18, 3], dtype, activation="tanh")
    x = rng.standard_normal((21, 6)).astype(dtype)
    y = rng.uniform(0, 1, (21, 3)).astype(dtype)
    if name == "labels":
        name, y = "CrossEntropy", rng.integers(0, 3, 21)
    weight = rng.uniform(0, 2, 21).astype(dtype) if weighted else None
    losses = [getattr(lib, name)(reduction=reduction) for lib in (fm, reference)]
    value, grads = mlp.value_and_grad(x, y, losses[0], weight)
    exact_value, exact_grads = ref.value_and_grad(x, y, losses[1], weight)
    tolerance = TOLERANCE["network"].of(dtype)
    assert value == pytest.approx(exact_value, rel=tolerance)
    assert mlp.evaluate(x, y, losses[0], weight) == pytest.approx(value, rel=tolerance)
    assert_close(grads, exact_grads, dtype)
    pred = ref(x)
    value, dpred = losses[0].value_and_grad(pred, y, weight)
    exact_value, exact_dpred = losses[1].value_and_grad(pred, y, weight)
    assert value == pytest.approx(exact_value, rel=tolerance)
    assert losses[0](pred, y, weight) == pytest.approx(value, rel=tolerance)
    assert_close(dpred, exact_dpred, dtype)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
        ("Adagrad", {"lr": 0.05, "lr_decay": 0.01}),
        ("RMSprop", {"momentum": 0.5, "centered": True, "eps": 1e-3}),
        ("Adam", {"amsgrad": True, "eps_mode": "inside"}),
        ("AdamW", {"lr": 0.01, "eps": 1e-4, "eps_mode": "hat"}),
        ("Adamax", {"lr": 0.01, "eps": 1e-4, "weight_decay": 0.1}),
        ("NAdam", {"lr": 0.01, "eps": 1e-4, "weight_decay": 0.1}),
        ("Rprop", {"lr": 0.01}),
    ],
)
def test_training_against_the_reference(
    name: str, options: dict[str, Any], weighted: bool, rng: np.random.Generator
) -> None:
    # In float64, rounding errors do not become significant within 3 epochs.
    nets = pair([3, 17, 2], np.float64, activation="tanh")
    x, y = rng.standard_normal((50, 3)), rng.standard_normal((50, 2))
    weight = rng.uniform(0, 2, 50) if weighted else None
    histories = []
    for lib, net in zip((fm, reference), nets, strict=True):
        history = net.fit(
            x,
            y,
            loss=lib.MSE(),
            optimizer=getattr(lib, name)(**options),
            epochs=3,
            batch_size=16,
            sample_weight=weight,
            validation_data=(x, y),
            seed=5,
        )
        histories.append((history.loss, history.val_loss))
    assert_close(nets[0].params, nets[1].params, np.float64)
    tolerance = TOLERANCE["network"].of(np.float64)
    np.testing.assert_allclose(histories[0], histories[1], rtol=tolerance)
