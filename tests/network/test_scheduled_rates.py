"""Schedules of the rates of layers that are random in training."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmlp as fm
import layer_checks as checks
import numpy as np
import pytest
from fastmlp import _core, reference, schedules

ROWS, BATCH, STEPS = 31, 13, 3  # of an epoch
CURVE = schedules.LinearWarmup(schedules.Cosine(0.6, 11), 3, start_factor=0.25)

KINDS = ("Dropout", "AlphaDropout", "GaussianNoise", "GaussianDropout")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def network(kind: str, lib: Any = fm, rate: Any = CURVE, dtype: str = "float64") -> Any:
    make = getattr(lib, kind)
    block = lib.Residual([make(rate), lib.Dense(9, "tanh")])
    layers = [make(0.25), lib.Dense(9, "tanh"), block, make(rate), 2]
    return lib.MLP([5, *layers], dtype=dtype, seed=1)


def data(dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    return checks.rows(ROWS, 5, dtype), checks.rows(ROWS, 2, dtype, seed=2)


def square(pred: Any, target: Any) -> tuple[float, Any]:
    """The mean squared error as a loss in Python."""
    r = pred - target
    return float((r * r).mean()), 2 * r / r.size


def fitted(mlp: Any, lib: Any = fm, loss: Any = None, **options: Any) -> np.ndarray:
    optimizer = lib.SGD(0.05, momentum=0.5, **options)
    x, y = data(mlp.dtype)
    loss = lib.MSE() if loss is None else loss
    how = {"loss": loss, "optimizer": optimizer, "batch_size": BATCH}
    mlp.fit(x, y, epochs=4, **how)
    return mlp.params.copy()


def test_fit_is_that_of_the_reference(kind: str) -> None:
    ours, theirs = (fitted(network(kind, lib), lib) for lib in (fm, reference))
    # A few steps of a small network in float64.
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)
    constant = fitted(network(kind, rate=CURVE(0)))
    assert np.abs(ours - constant).max() > 1e-4


def test_single_steps_and_passes_are_those_of_the_reference(kind: str) -> None:
    results = []
    for lib in (fm, reference):
        mlp, (x, y) = network(kind, lib), data()
        optimizer, found = lib.SGD(0.05), []
        for _ in range(5):
            found.append(mlp.train_step(x, y, lib.MSE(), optimizer))
            found.append(mlp.value_and_grad(x, y, lib.MSE(), training=True)[1])
            found.append(mlp.vjp(x, y, training=True)[1])
            found.append(mlp.forward(x, training=True))
            found += mlp.backward(y)
        results.append(found)
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_steps_count_as_for_the_learning_rate() -> None:
    """Steps of the optimiser count in train_step; else passes in training mode."""
    mlp = fm.MLP([4, fm.GaussianNoise(CURVE)], dtype="float64", seed=0)
    x = np.zeros((6, 4))
    seed = mlp.core.training_state[0]
    for k in range(6):
        z = reference.normal_numbers(24, seed, _core.PASS_DRAWS, k, 0).reshape(6, 4)
        y = mlp.forward(x, training=True)
        np.testing.assert_allclose(y, CURVE(k) * z, rtol=1e-13)
        np.testing.assert_array_equal(mlp(x), x)
    optimizer = fm.SGD(0.1)
    for k in range(6):
        z = reference.normal_numbers(24, seed, _core.STEP_DRAWS, k, 0)
        loss = mlp.train_step(x, x, fm.MSE(), optimizer)
        np.testing.assert_allclose(loss, (CURVE(k) ** 2 * z**2).mean(), rtol=1e-13)


def test_a_constant_schedule_is_a_number(kind: str) -> None:
    plain = fitted(network(kind, rate=0.375))
    constant = fitted(network(kind, rate=schedules.Constant(0.375)))
    np.testing.assert_array_equal(plain, constant)


def batches(mlp: Any) -> Callable[[], Any]:
    x, y = data(mlp.dtype)
    return lambda: ((x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, ROWS, BATCH))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_ways_to_train_have_the_same_rates(kind: str, accumulate: int) -> None:
    found = []
    for way in ("arrays", "batches", "python"):
        mlp = network(kind)
        optimizer = fm.SGD(0.05, accumulate=accumulate)
        how: dict[str, Any] = {"loss": fm.MSE(), "optimizer": optimizer, "epochs": 3}
        if way == "python":
            how["loss"] = fm.CustomLoss(square)
        if way == "batches":
            mlp.fit(batches(mlp), **how)
        else:
            mlp.fit(*data(), batch_size=BATCH, shuffle=False, **how)
        found.append(mlp.params.copy())
    np.testing.assert_array_equal(found[0], found[1])
    # The loss in Python rounds differently.
    np.testing.assert_allclose(found[0], found[2], rtol=1e-11, atol=1e-11)


def test_same_bits_everywhere(kind: str) -> None:
    def make() -> fm.MLP:
        mlp: fm.MLP = network(kind, dtype="float32")
        return mlp

    checks.check_same_bits(make)


def continued(pair: Any) -> bytes:
    mlp, optimizer = pair
    x, y = data()
    mlp.fit(x, y, loss=fm.MSE(), optimizer=optimizer, epochs=2, batch_size=BATCH)
    mlp.train_step(x, y, fm.MSE(), optimizer)
    result: bytes = mlp.params.tobytes() + mlp.forward(x, training=True).tobytes()
    return result


@pytest.mark.parametrize("way", ["file", "pickle", "deepcopy", "copy", "checkpoint"])
def test_training_resumes_to_the_same_bits(kind: str, way: str, tmp_path: Path) -> None:
    x, y = data()
    mlp, optimizer = network(kind), fm.Adam(0.01)
    path = tmp_path / "stored"
    callbacks = [fm.Checkpoint(path)] if way == "checkpoint" else []
    how = {"loss": fm.MSE(), "optimizer": optimizer, "batch_size": BATCH}
    mlp.fit(x, y, epochs=2, callbacks=callbacks, **how)
    if way == "pickle":
        pair = pickle.loads(pickle.dumps((mlp, optimizer)))
    elif way == "deepcopy":
        pair = copy.deepcopy((mlp, optimizer))
    elif way == "checkpoint":
        pair = network(kind), fm.Adam(0.01)
        fm.Checkpoint.load(path, *pair)
    else:
        again = fm.Adam(0.01)
        again.load_state_dict(optimizer.state_dict())
        mlp.save(path)
        pair = (mlp.copy() if way == "copy" else fm.load(path)), again
    assert pair[0].layers == mlp.layers
    assert repr(pair[0]) == repr(mlp)
    assert continued(pair) == continued((mlp, optimizer))


EACH = [
    schedules.Constant(0.25),
    schedules.Cosine(0.5, 10, min_lr=0.125, restarts=2),
    schedules.OneCycle(0.5, 20),
    schedules.Piecewise([0.1, 0.3, 0.2], [3, 10], "cos"),
    schedules.Sequential([schedules.Linear(0.1, 9), 0.2], [20]),
    schedules.Chained(0.1, [schedules.LinearWarmup(schedules.Exponential(1, 0.9), 3)]),
]


@pytest.mark.parametrize("schedule", EACH, ids=lambda s: type(s).__name__)
def test_files_keep_schedules(schedule: Any, tmp_path: Path) -> None:
    mlp = fm.MLP([3, fm.Dropout(schedule), 2], seed=0)
    mlp.save(tmp_path / "model.safetensors")
    (layer, _) = fm.load(tmp_path / "model.safetensors").layers
    assert layer == fm.Dropout(schedule)
    assert hash(layer) == hash(fm.Dropout(schedule))
    assert layer != fm.Dropout(schedules.Constant(0.5))
    assert type(layer.p) is type(schedule)
    values = layer.p.values(0, 30)
    np.testing.assert_array_equal(values, schedule.values(0, 30))


class Mine(schedules.Schedule):
    pass


@pytest.mark.parametrize(
    ("rate", "error", "words"),
    [
        (schedules.Constant(1.0), ValueError, "p must be finite and >= 0 and < 1 .*0"),
        (schedules.ReduceOnPlateau(0.1), TypeError, "p must be .* ReduceOnPlateau"),
        (Mine(), TypeError, "p must be a number or a schedule of fm.schedules"),
        (schedules.Cosine, TypeError, "p must be a number"),
        (lambda step: 0.1, TypeError, "p must be a number"),
        ("0.1", TypeError, "p must be a number"),
    ],
)
def test_what_is_refused(rate: Any, error: Any, words: str) -> None:
    for kind in (fm.Dropout, fm.AlphaDropout, fm.GaussianDropout):
        with pytest.raises(error, match=words):
            kind(rate)
    assert fm.GaussianNoise(schedules.Constant(2.0)).first_rate == 2.0


@pytest.mark.parametrize("way", ["arrays", "python", "step", "pass"])
def test_a_later_value_out_of_range_changes_nothing(way: str) -> None:
    rising = schedules.Linear(1.5, 10, start_factor=0.0, end_factor=1.0)  # 0.15 k
    mlp = fm.MLP([5, 4, fm.Dropout(rising), 2], dtype="float64", seed=0)
    x, y = data()
    optimizer = fm.SGD(0.1)

    def train() -> None:
        if way == "step":
            mlp.train_step(x, y, fm.MSE(), optimizer)
        elif way == "pass":
            mlp.forward(x, training=True)
        else:
            loss = fm.CustomLoss(square) if way == "python" else fm.MSE()
            mlp.fit(x, y, loss=loss, optimizer=optimizer, epochs=1, batch_size=4)

    for _ in range(7 if way in ("step", "pass") else 0):
        train()
    before = mlp.params.copy()
    words = r"p of layer 1 must be finite and >= 0 and < 1 at every step, got 1\.0.* 7"
    with pytest.raises(ValueError, match=words):
        train()
    # In the core an epoch's values are checked before its first step.
    taken = {"arrays": 0, "python": 7, "step": 7, "pass": 0}
    assert optimizer.step_count == taken[way]
    if way != "python":
        np.testing.assert_array_equal(mlp.params, before)


def test_a_module_repeats_passes_with_their_rates(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="it uses PyTorch's modules")
    mlp, x = network(kind), data()[0]
    direct = network(kind)
    module = mlp.as_torch_module()
    given = [torch.from_numpy(x).requires_grad_() for _ in range(3)]
    outputs = [module(each) for each in given]
    sum(output.sum() for output in outputs).backward()
    for each, output in zip(given, outputs, strict=True):
        y, dx, _ = direct.vjp(x, np.ones((ROWS, 2)), training=True)
        np.testing.assert_array_equal(output.detach().numpy(), y)
        np.testing.assert_array_equal(each.grad.numpy(), dx)


def test_copies_in_torch_have_the_first_rate() -> None:
    pytest.importorskip("torch", reason="it uses PyTorch's modules")
    for kind in KINDS:
        module = fm.MLP([3, getattr(fm, kind)(CURVE)], seed=0).to_torch()[0]
        rate = module.stddev if kind == "GaussianNoise" else module.p
        assert rate == CURVE(0)


def test_schedules_are_shown(kind: str) -> None:
    mlp = network(kind)
    text = f"{kind}(schedules.LinearWarmup("
    assert text in repr(mlp)
    assert text in str(mlp.summary())
