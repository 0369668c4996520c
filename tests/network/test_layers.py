"""Compiled layers other than dense ones: against the reference, and the same bits.

tests/kernels/test_reference_layers.py checks the reference.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from helpers import FD_STEP, TAILS, TOLERANCE, Tolerance, assert_threaded, thread_counts

N_IN = 5
ROWS = (1, 2, 7, 33)

# Norms divide by standard deviations, which here are at least a third (eps is 0.1).
# Networks are up to a dozen layers deep, counting the layers of residual blocks.
LAYERS_TOLERANCE = Tolerance(
    4 * TOLERANCE["network"].ulps,
    "as of a network; norms multiply errors by up to three each",
)
TRAJECTORY_TOLERANCE = Tolerance(
    4 * LAYERS_TOLERANCE.ulps, "errors add up over a dozen steps of a smooth loss"
)


def custom(z: np.ndarray) -> np.ndarray:
    """A custom activation; at the top level, so that it can be pickled."""
    return z / np.sqrt(1 + z * z)


def custom_slope(z: np.ndarray) -> np.ndarray:
    return 1 / np.sqrt(1 + z * z) ** 3


# Layers are written as (class name, arguments), so that both libraries can build them;
# the layers of a Residual as a list.
Item = int | tuple[Any, ...]


def dense(n: int, activation: str | None = None, bias: bool = True) -> Item:
    return "Dense", n, activation, bias


def build(lib: ModuleType, items: list[Item]) -> list[Any]:
    layers = []
    for item in items:
        if isinstance(item, int):
            layers.append(item)
        else:
            kind, *arguments = item
            if kind == "Residual":
                arguments = [build(lib, arguments[0])]
            layers.append(getattr(lib, kind)(*arguments))
    return layers


NAMED = ("Activation", "gelu")
CUSTOM = ("Activation", custom, custom_slope)
DROPOUT = ("Dropout", 0.3)
ALPHA = ("AlphaDropout", 0.3)
NOISE = ("GaussianNoise", 0.3)
FACTORS = ("GaussianDropout", 0.3)
LAYER_NORM = ("LayerNorm", 0.1)
RMS_NORM = ("RMSNorm", 0.1)
BATCH_NORM = ("BatchNorm", 0.1, 0.3)
NETWORKS: dict[str, list[Item]] = {
    "named activation": [dense(9, "identity"), NAMED, 3],
    "softmax activation": [dense(9, "identity"), ("Activation", "softmax"), 3],
    "custom activation": [9, CUSTOM, 3],
    "custom activation last": [9, CUSTOM],
    "dropout": [17, DROPOUT, 3],
    "no dropout": [17, ("Dropout", 0.0), 3],
    "dropouts": [DROPOUT, 17, DROPOUT, DROPOUT, 3, DROPOUT],
    "alpha dropouts": [ALPHA, 17, ALPHA, ("Residual", [DROPOUT, ALPHA]), 3, ALPHA],
    "gaussian noise": [NOISE, 17, NOISE, ("Residual", [DROPOUT, NOISE]), 3, NOISE],
    "gaussian dropouts": [FACTORS, 17, FACTORS, ("Residual", [FACTORS, ALPHA]), 3],
    "layer norm": [17, LAYER_NORM, 3],
    "plain layer norm": [17, ("LayerNorm", 0.1, False), 3],
    "layer norm first": [LAYER_NORM, 4],
    "rms norm": [17, RMS_NORM, 3],
    "plain rms norm": [17, ("RMSNorm", 0.1, False), 3],
    "rms norm first and last": [RMS_NORM, 4, RMS_NORM],
    "rms norms in blocks": [
        9,
        ("Residual", [RMS_NORM, NAMED, 9]),
        ("Residual", [RMS_NORM]),
    ],
    "layer norm last": [4, LAYER_NORM],
    "batch norm": [17, BATCH_NORM, 3],
    "plain batch norm": [17, ("BatchNorm", 0.1, 0.3, False), 3],
    "batch norm first": [BATCH_NORM, 4],
    "batch norm last": [4, BATCH_NORM],
    "norm, activation": [dense(17, "identity", False), BATCH_NORM, NAMED, 3],
    "residual": [17, ("Residual", [9, 17]), 3],
    "residual first and last": [("Residual", [9, N_IN])],
    "projection": [17, ("Residual", [9, 4]), 3],
    "projection last": [("Residual", [9, 3])],
    "two blocks": [9, ("Residual", [9]), ("Residual", [LAYER_NORM, 9])],
    "block of a dropout": [9, ("Residual", [DROPOUT]), 3],
    "residual of all kinds": [
        17,
        ("Residual", [LAYER_NORM, dense(9, "silu"), DROPOUT, BATCH_NORM, CUSTOM, 17]),
        LAYER_NORM,
        3,
    ],
    "nested": [
        ("Residual", [9, ("Residual", [LAYER_NORM, 9, ("Residual", [4])]), DROPOUT]),
        BATCH_NORM,
        ("Residual", [("Residual", [("Residual", [3])])]),
    ],
    "no dense layer": [LAYER_NORM, DROPOUT, BATCH_NORM, NAMED],
}


def random_items(
    rng: np.random.Generator, width: int, depth: int = 0
) -> tuple[list[Item], int]:
    """One to five layers of any kinds, and the width of the last one."""
    items: list[Item] = []
    for _ in range(int(rng.integers(1, 6))):
        kind = int(rng.integers(0, 8 if depth < 3 else 6))
        if kind <= 1:
            width = int(rng.choice(TAILS))
            names = ["identity", "tanh", "silu", "softplus", "gelu_tanh", "sin"]
            items.append(dense(width, str(rng.choice(names)), bool(rng.random() < 0.7)))
        elif kind == 2:
            named = "Activation", str(rng.choice(["sin", "elu", "softsign", "sigmoid"]))
            items.append(named if rng.random() < 0.6 else CUSTOM)
        elif kind == 3:
            items.append(("Dropout", float(rng.choice([0.0, 0.2, 0.5]))))
        elif kind == 4:
            of_rows = str(rng.choice(["LayerNorm", "RMSNorm"]))
            items.append((of_rows, 0.1, bool(rng.random() < 0.6)))
        elif kind == 5:
            items.append(("BatchNorm", 0.1, 0.2, bool(rng.random() < 0.6)))
        else:
            body, width = random_items(rng, width, depth + 1)
            items.append(("Residual", body))
    return items, width


for number in range(20):
    draw = np.random.default_rng([11, number])
    NETWORKS[f"random {number}"] = random_items(draw, N_IN)[0]


def kinds(items: list[Item]) -> Iterator[str]:
    """Names of the kinds of layers, including nested ones."""
    for item in items:
        yield "Dense" if isinstance(item, int) else item[0]
        if not isinstance(item, int) and item[0] == "Residual":
            yield from kinds(item[1])


def has(name: str, kind: str) -> bool:
    return kind in kinds(NETWORKS[name])


def network(lib: ModuleType, name: str, dtype: Any = np.float64, seed: int = 3) -> Any:
    """A network with random parameters and statistics."""
    mlp = lib.MLP(
        [N_IN, *build(lib, NETWORKS[name])], activation="tanh", dtype=dtype, seed=seed
    )
    rng = np.random.default_rng([5, seed])
    for name_, view in mlp.named_parameters().items():
        spread = len(view) ** -0.5 if view.ndim == 2 else 0.3
        middle = 1.0 if view.ndim == 1 and name_.endswith("weight") else 0.0
        view[...] = (middle + spread * rng.standard_normal(view.shape)).astype(
            np.float32
        )
    mlp.buffers[:] = rng.uniform(0.5, 2, mlp.buffers.size).astype(np.float32)
    return mlp


def batch(rows: int, n_out: int, dtype: Any = np.float64) -> tuple[np.ndarray, ...]:
    """Inputs and derivatives (or targets) that float32 represents exactly."""
    rng = np.random.default_rng([rows, n_out])
    arrays = rng.standard_normal((rows, N_IN)), rng.standard_normal((rows, n_out))
    return tuple(array.astype(np.float32).astype(dtype) for array in arrays)


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    assert np.shape(actual) == np.shape(expected)
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


# ------------------------------------------------------------- against the reference


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_the_references(
    name: str, training: bool, dtype: type
) -> None:
    for rows in ROWS:
        if training and rows < 5 and has(name, "BatchNorm"):
            continue  # one row raises an error; few rows are ill-conditioned
        ours, theirs = network(fm, name, dtype), network(reference, name)
        np.testing.assert_array_equal(ours.params, theirs.params)
        x, dy = batch(rows, theirs.n_out)
        assert ours.n_out == theirs.n_out
        inputs = x.astype(dtype), dy.astype(dtype)
        found = ours.vjp(*inputs, training)
        wanted = theirs.vjp(x, dy, training)
        tolerance = LAYERS_TOLERANCE.of(dtype)
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == dtype
            assert_close(a, b, tolerance)
        assert_close(ours.buffers, theirs.buffers, tolerance)
        assert_close(ours(inputs[0]), theirs(x), tolerance)

        # Forward and backward repeat bitwise if the number of earlier calls is the
        # same.
        again = network(fm, name, dtype)
        np.testing.assert_array_equal(again.forward(inputs[0], training), found[0])
        for a, b in zip(again.backward(inputs[1]), found[1:], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(again.buffers, ours.buffers)


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_gradients_are_the_references(name: str) -> None:
    x, y = batch(33, network(reference, name).n_out)
    weight = np.linspace(0.5, 2, 33)
    for training in (False, True):
        results = []
        for lib in (fm, reference):
            mlp = network(lib, name)
            value, grads = mlp.value_and_grad(
                x, y, lib.Huber(), weight, training=training
            )
            results.append((value, grads, mlp.buffers))
        for a, b in zip(*results, strict=True):
            assert_close(a, b, LAYERS_TOLERANCE.of(np.float64))


@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_the_references(name: str) -> None:
    """Fit with the model's and with a seed's orders, and single steps, with masks."""
    x, y = batch(31, network(reference, name).n_out)
    results = []
    for lib in (fm, reference):
        mlp = network(lib, name)
        optimizer, losses = lib.SGD(0.02, momentum=0.5), []
        for seed in (None, 7):
            history = mlp.fit(
                x,
                y,
                loss=lib.MSE(),
                optimizer=optimizer,
                epochs=2,
                batch_size=13,
                seed=seed,
                validation_data=(x, y),
            )
            losses += history.loss + history.val_loss
            losses.append(mlp.train_step(x, y, lib.MSE(), optimizer))
        results.append({**mlp.state_dict(), "losses": losses, "params": mlp.params})
    ours, theirs = results
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert_close(value, theirs[key], TRAJECTORY_TOLERANCE.of(np.float64))


@pytest.mark.parametrize("init", ["auto", "torch", "sklearn"])
@pytest.mark.parametrize("name", NETWORKS)
def test_initial_parameters_and_names_are_the_references(name: str, init: str) -> None:
    options = {"activation": "selu", "init": init, "dtype": "float64", "seed": 9}
    ours, theirs = (
        lib.MLP([N_IN, *build(lib, NETWORKS[name])], **options)
        for lib in (fm, reference)
    )
    np.testing.assert_array_equal(ours.params, theirs.params)
    np.testing.assert_array_equal(ours.buffers, theirs.buffers)
    assert (ours.n_in, ours.n_out, ours.n_params) == (
        N_IN,
        theirs.n_out,
        theirs.n_params,
    )
    found, wanted = ours.state_dict(), theirs.state_dict()
    assert found.keys() == wanted.keys()
    for key, array in found.items():
        assert array.flags.c_contiguous
        assert (array.dtype, array.shape) == (wanted[key].dtype, wanted[key].shape)
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    assert [b is None for b in ours.biases] == [b is None for b in theirs.biases]
    views, expected = ours.named_parameters(), theirs.named_parameters()
    assert list(views) == list(expected)
    ours.params[:] = theirs.params[:] = np.arange(ours.n_params)
    for key, view in views.items():
        assert np.shares_memory(view, ours.params)
        np.testing.assert_array_equal(view, expected[key])


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_is_the_references(name: str, dtype: type) -> None:
    ours, theirs = network(fm, name, dtype).fold(), network(reference, name).fold()
    x, _ = batch(7, ours.n_out)
    assert_close(
        ours(x.astype(dtype)), network(reference, name)(x), LAYERS_TOLERANCE.of(dtype)
    )
    assert ours.state_dict().keys() == theirs.state_dict().keys()


# --------------------------------------------------------------- finite differences


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [name for name in NETWORKS if "random" not in name])
def test_gradients_are_slopes(name: str, training: bool) -> None:
    mlp = network(fm, name)
    x, dy = batch(6, mlp.n_out)
    _, dx, grads = mlp.copy().vjp(x, dy, training)
    assert grads.shape == (mlp.n_params,)

    def value() -> float:
        # Use a copy each time, as masks depend on the number of earlier calls.
        return float((mlp.copy().forward(x, training) * dy).sum())

    rng = np.random.default_rng(1)
    for array, gradient in ((mlp.params, grads), (x, dx)):
        for _ in range(3 if array.size else 0):
            direction = rng.standard_normal(array.shape)
            kept = array.copy()
            array += FD_STEP * direction
            above = value()
            array[...] = kept - FD_STEP * direction
            below = value()
            array[...] = kept
            slope = (above - below) / (2 * FD_STEP)
            bound = TOLERANCE["finite_difference"].of(np.float64)
            bound *= 1 + np.abs(gradient * direction).sum()
            assert abs((gradient * direction).sum() - slope) <= bound


# ----------------------------------------------------------------------------- bits

# Enough work for several threads. Custom functions would run on a single one.
BIG: list[Item] = [
    200,
    ("Residual", [LAYER_NORM, dense(150, "gelu"), DROPOUT, 200]),
    BATCH_NORM,
    NAMED,
    ("Residual", [BATCH_NORM, ("Residual", [33]), ("Dropout", 0.5), 41]),
    LAYER_NORM,
    ("Activation", "softmax"),
    10,
]
BIG_ROWS = 403


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def everything(make: Callable[[], Any], rows: int, dtype: type) -> str:
    """All results of a model in either mode and after training."""
    mlp = make()
    x, y = batch(rows, mlp.n_out, dtype)
    weight = np.linspace(0.5, 2, rows).astype(dtype)
    found = [mlp(x)]
    for training in (False, True):
        found += mlp.vjp(x, y, training)
        found.append(mlp.forward(x, training))
        found += mlp.backward(y)
        _, grads = mlp.value_and_grad(x, y, fm.MSE(), weight, training=training)
        found.append(grads)
    optimizer = fm.Adam(0.01)
    for _ in range(2):
        mlp.train_step(x, y, fm.MSE(), optimizer)
    mlp.fit(
        x,
        y,
        loss=fm.MSE(),
        optimizer=optimizer,
        epochs=2,
        batch_size=-(-rows // 2),
        sample_weight=weight,
        progress=False,
    )
    return digest(*found, mlp.params, mlp.buffers, mlp.fold()(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks_are_the_same_bits_for_any_isa(name: str, dtype: type) -> None:
    hashes = {}
    for isa in fm.available_isas():
        with fm.use_isa(isa):
            hashes[isa] = everything(lambda: network(fm, name, dtype), 34, dtype)
    assert len(set(hashes.values())) == 1, hashes


def test_a_big_network_is_the_same_bits_for_any_isa_and_threads(dtype: type) -> None:
    def make() -> Any:
        return fm.MLP([N_IN, *build(fm, BIG)], activation="tanh", dtype=dtype, seed=2)

    hashes = {}
    flops = 2.0 * BIG_ROWS * sum(weight.size for weight in make().weights)
    for isa in fm.available_isas():
        for n in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                assert_threaded(flops, BIG_ROWS // 2)
                hashes[isa, n] = everything(make, BIG_ROWS, dtype)
    assert len(set(hashes.values())) == 1, hashes


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_is_the_same_bits_at_any_place(name: str, isa: str, dtype: type) -> None:
    mlp = network(fm, name, dtype)
    x, _ = batch(37, mlp.n_out, dtype)
    whole = mlp(x)
    for start, stop in ((0, 1), (1, 2), (3, 8), (16, 33), (36, 37)):
        np.testing.assert_array_equal(mlp(x[start:stop]), whole[start:stop])
    np.testing.assert_array_equal(mlp(x[5]), whole[5])
    np.testing.assert_array_equal(mlp.forward(x), whole)


# ------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("n", TAILS)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_masks_are_the_references(n: int, p: float, isa: str, dtype: type) -> None:
    layers = [n, ("Dropout", p), ("Residual", [("Dropout", 0.5)])]
    mlp = fm.MLP(build(fm, layers), dtype=dtype, seed=n)
    # A model without weights draws its seed first.
    seed = int(np.random.default_rng(n).integers(2**63))
    x = np.ones((19, n), dtype)
    for step in range(2):
        masks = [
            reference.dropout_mask(x.shape, rate, seed, 0xFFFFFFFE, step, layer)
            for layer, rate in enumerate((p, 0.5))
        ]
        expected = masks[0] * (1 + 2 * masks[1].astype(dtype)) * dtype(1 / (1 - p))
        y = mlp.forward(x, training=True)
        np.testing.assert_array_equal(y != 0, masks[0])
        assert_close(y, expected, TOLERANCE["elementwise"].of(dtype))
        dx, _ = mlp.backward(x)
        np.testing.assert_array_equal(dx, y)
    np.testing.assert_array_equal(mlp(x), 2 * x)


def test_masks_of_large_batches_are_the_references() -> None:
    """The counters continue across the boundaries between threads."""
    mlp, x = fm.MLP([100, fm.Dropout(0.3)], seed=1), np.ones((20_011, 100), np.float32)
    seed = int(np.random.default_rng(1).integers(2**63))
    mask = reference.dropout_mask(x.shape, 0.3, seed, 0xFFFFFFFE, 0, 0)
    for n in (1, 3):
        with fm.threads(n):
            y = mlp.copy().forward(x, training=True)
        np.testing.assert_array_equal(y != 0, mask)


# ------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("way", ["copy", "pickle", "state"])
def test_training_resumes_exactly(way: str, dtype: type) -> None:
    whole, parts = (network(fm, "nested", dtype) for _ in range(2))
    x, y = batch(34, whole.n_out, dtype)

    def train(mlp: Any, optimizer: Any, times: int) -> None:
        for _ in range(times):
            how = {"epochs": 1, "batch_size": 13, "progress": False}
            mlp.fit(x, y, loss=fm.MSE(), optimizer=optimizer, **how)
            mlp.train_step(x, y, fm.MSE(), optimizer)
            mlp.forward(x, training=True)

    steps, before = fm.Adam(0.01), fm.Adam(0.01)
    train(whole, steps, 4)
    train(parts, before, 2)
    after = before
    if way != "state":
        parts = parts.copy() if way == "copy" else pickle.loads(pickle.dumps(parts))
        after = fm.Adam(0.01)
        after.load_state_dict(before.state_dict())
    else:
        parts.load_state_dict(parts.state_dict())
    train(parts, after, 2)
    state = whole.state_dict()
    assert state.keys() == parts.state_dict().keys()
    for key, array in parts.state_dict().items():
        np.testing.assert_array_equal(array, state[key])


def test_state_goes_from_one_model_to_another() -> None:
    a, b = (network(fm, "nested", seed=seed) for seed in (1, 2))
    x, _ = batch(7, a.n_out)
    assert (a(x) != b(x)).any()
    b.load_state_dict(a.state_dict())
    np.testing.assert_array_equal(a(x), b(x))
    np.testing.assert_array_equal(a.buffers, b.buffers)


def test_a_diverging_step_changes_nothing() -> None:
    mlp = network(fm, "nested")
    x, y = batch(7, mlp.n_out)
    before = digest(*mlp.state_dict().values())
    x[3, 2] = np.nan
    with pytest.raises(fm.DivergenceError):
        mlp.train_step(x, y, fm.MSE(), fm.SGD(0.1))
    assert digest(*mlp.state_dict().values()) == before


def test_batch_norm_trains_on_two_rows_or_more() -> None:
    mlp = network(fm, "batch norm")
    x, y = batch(5, mlp.n_out)
    before = digest(*mlp.state_dict().values())
    optimizer = fm.SGD(0.1)
    one = x[:1], y[:1]
    for call in (
        lambda: mlp.forward(one[0], training=True),
        lambda: mlp.vjp(*one, training=True),
        lambda: mlp.value_and_grad(*one, fm.MSE(), training=True),
        lambda: mlp.train_step(*one, fm.MSE(), optimizer),
    ):
        with pytest.raises(ValueError, match="row"):
            call()
    assert digest(*mlp.state_dict().values()) == before
    assert mlp(one[0]).shape == (1, mlp.n_out)


def test_buffers_are_a_view_to_write_into() -> None:
    mlp = network(fm, "batch norm first")
    x, _ = batch(4, mlp.n_out)
    first = mlp(x)
    mlp.buffers[:N_IN] += 1
    assert (mlp(x) != first).any()
    assert fm.MLP([2, 3]).buffers.shape == (0,)
    with pytest.raises(AttributeError, match="buffers"):
        mlp.buffers = np.zeros(2 * N_IN)


def test_a_body_of_dropouts_folds_to_an_identity():
    mlp = fm.MLP([3, fm.Residual([fm.Dropout(), fm.Dropout()])], seed=0)
    folded = mlp.fold()
    assert folded.layers == (fm.Residual([fm.Activation("identity")]),)
    x = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(folded(x), 2 * x)
    np.testing.assert_array_equal(folded.forward(x, training=True), 2 * x)


@pytest.mark.parametrize("value", [np.tanh, fm.Activation(np.tanh, np.cos)])
def test_custom_functions_as_names_are_explained(value):
    hint = r"activation must be a name .*fm\.Activation\(function, derivative\)"
    for make in (
        lambda: fm.Dense(3, value),
        lambda: fm.MLP([3, 4, 1], activation=value),
        lambda: fm.MLP([3, 4, 1], output_activation=value),
    ):
        with pytest.raises(TypeError, match=hint):
            make()


@pytest.mark.parametrize(
    "layer",
    [fm.LayerNorm, fm.BatchNorm, fm.RMSNorm, functools.partial(fm.GroupNorm, 3)],
)
@pytest.mark.parametrize("eps", [1e-50, 1e-320])
def test_tiny_eps_of_equal_values(layer, eps, dtype):
    """A variance of 0 gives no NaN, even if eps is 0 in the model's dtype."""
    mlp = fm.MLP([3, layer(eps=eps)], dtype=dtype)
    x = np.zeros((4, 3), dtype)
    for training in (False, True):
        assert np.isfinite(mlp.forward(x, training=training)).all()
        dx, grads = mlp.backward(np.ones((4, 3), dtype))
        assert np.isfinite(dx).all()
        assert np.isfinite(grads).all()
