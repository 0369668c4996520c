"""Subnormal numbers count as 0 in the core, so that they cannot slow it down."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference

ACTIVATIONS = [name for name in reference.ACTIVATIONS if name not in ("sin", "cos")]


def tiny(dtype: Any) -> np.ndarray:
    """Numbers on both sides of the smallest normal one, of both signs."""
    info = np.finfo(dtype)
    sizes = [info.smallest_subnormal, info.smallest_normal / 2, info.smallest_normal]
    return np.array([*sizes, *(-s for s in sizes)], dtype)


def is_subnormal(x: np.ndarray) -> np.ndarray:
    return (x != 0) & (np.abs(x) < np.finfo(x.dtype).smallest_normal)


def without(x: np.ndarray) -> np.ndarray:
    """With 0 of the same sign in place of subnormal numbers."""
    return np.where(is_subnormal(x), np.copysign(0, x), x).astype(x.dtype)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2)


@pytest.mark.parametrize("rows", [1, 2, 5, 64])
@pytest.mark.parametrize("width", [1, 9, 40])
def test_inputs_and_parameters(
    rows: int, width: int, isa: str, dtype: Any, rng: np.random.Generator
) -> None:
    mlp = fm.MLP([20, width, 3], activation="tanh", dtype=dtype, seed=0)
    x = rng.choice(np.concatenate([tiny(dtype), [1.0, -2.0]]), (rows, 20)).astype(dtype)
    mlp.params[::3] = rng.choice(tiny(dtype), len(mlp.params[::3]))
    plain = mlp.copy()
    plain.params[:] = without(mlp.params)
    before = mlp.params.copy()
    np.testing.assert_array_equal(mlp(x), plain(without(x)))
    np.testing.assert_array_equal(mlp.params, before)  # inference changes nothing
    y = rng.standard_normal((rows, 3))
    loss, grads = mlp.value_and_grad(x, y, fm.MSE())
    wanted, wanted_grads = plain.value_and_grad(without(x), y, fm.MSE())
    assert loss == wanted
    assert grads.tobytes() == wanted_grads.tobytes()
    assert not is_subnormal(grads).any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_tails_of_activations(activation: str, isa: str, dtype: Any) -> None:
    """Far out, exact outputs and derivatives are subnormal."""
    largest = 110 if dtype == np.float32 else 760
    z = np.linspace(-largest, 40, 4001, dtype=dtype)[:, np.newaxis]
    if activation == "softmax":
        z = np.concatenate([z, 0 * z], axis=1)
    mlp = fm.MLP([z.shape[1], fm.Activation(activation)], dtype=dtype)
    y, jac = mlp(z), mlp.jacobian(z)
    assert not is_subnormal(y).any()
    assert not is_subnormal(jac).any()


@pytest.mark.parametrize(
    "optimizer", [fm.SGD(0.1, momentum=0.9), fm.Adam(), fm.RMSprop()]
)
def test_units_without_a_gradient(optimizer: Any, isa: str, dtype: Any) -> None:
    """The moments of a dead unit decay to 0 and not to subnormal numbers."""
    mlp = fm.MLP([2, 4, 1], dtype=dtype, seed=0)
    optimizer.reset()
    x, y = np.ones((3, 2), dtype), np.ones((3, 1), dtype)
    mlp.train_step(x, y, fm.MSE(), optimizer)
    mlp.biases[0][:] = -100  # no unit is active any more
    mlp.biases[1][:] = 1
    for _ in range(20_000):
        mlp.train_step(x, y, fm.MSE(), optimizer)
    for slots in optimizer.state_dict()["slots"]:
        for array in slots.values():
            assert not is_subnormal(array).any()


def test_callbacks_keep_them(dtype: Any) -> None:
    """The user's own functions run in the usual environment."""
    small = np.finfo(dtype).smallest_normal
    seen = []

    def halved() -> bool:
        return bool((np.full(1, small, dtype) / dtype(2) > 0).all())

    def function(z: np.ndarray) -> np.ndarray:
        seen.append(halved())
        return z

    def loss(pred: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        seen.append(halved())
        return 0.0, pred - target

    class Watch(fm.Callback):
        def on_batch_end(self, *_: Any) -> None:
            seen.append(halved())

    layers = [2, fm.Dense(3), fm.Activation(function, np.ones_like), 1]
    mlp = fm.MLP(layers, dtype=dtype, seed=0)
    x, y = np.ones((4, 2), dtype), np.ones((4, 1), dtype)
    for given in (loss, fm.MSE()):
        mlp.fit(
            x,
            y,
            loss=given,
            optimizer=fm.SGD(0.1),
            epochs=1,
            batch_size=2,
            callbacks=[Watch()],
        )
    assert halved()
    assert len(seen) > 8
    assert all(seen)
