"""The layers of the reference: finite differences, PyTorch's modules, the mask recipe.

As in test_reference.py, formulas are tested in float64 and without the compiled core.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from fastmlp import reference as ref
from helpers import TOLERANCE, central_difference

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(
    not HAS_TORCH, reason="results are compared with PyTorch"
)

GRADIENT_RTOL = TOLERANCE["finite_difference"].of(np.float64)
# For results that can differ only by a few roundings of O(1) numbers.
ROUNDING = 64 * float(np.finfo(np.float64).eps)


def cube(z: np.ndarray) -> np.ndarray:
    """Function of a custom activation; at the top level, so that it can be pickled."""
    return z + 0.1 * z**3


def cube_slope(z: np.ndarray) -> np.ndarray:
    return 1 + 0.3 * z**2


# Each kind of layer alone, in the middle of a network, and combinations of them.
NETWORKS: dict[str, list[Any]] = {
    "named activation": [4, ref.Dense(5, "identity"), ref.Activation("gelu"), 3],
    "softmax activation": [4, ref.Dense(5, "identity"), ref.Activation("softmax"), 3],
    "custom activation": [4, 5, ref.Activation(cube, cube_slope), 3],
    "dropout": [4, 5, ref.Dropout(0.4), 3],
    "no dropout": [4, 5, ref.Dropout(0.0), 3],
    "alpha dropout": [4, 5, ref.AlphaDropout(0.4), 3],
    "layer norm": [4, 5, ref.LayerNorm(eps=1e-3), 3],
    "plain layer norm": [4, 5, ref.LayerNorm(affine=False), 3],
    "mish": [4, ref.Dense(6, "mish"), ref.LayerNorm(), ref.Activation("mish"), 3],
    "rms norm": [4, 5, ref.RMSNorm(eps=1e-3), 3, ref.RMSNorm(affine=False)],
    "batch norm": [4, 5, ref.BatchNorm(eps=1e-3, momentum=0.3), 3],
    "plain batch norm": [4, 5, ref.BatchNorm(affine=False), 3],
    "residual": [4, 5, ref.Residual([6, 5]), 3],
    "projection": [4, 5, ref.Residual([6, 4]), 3],
    "without dense layers": [4, ref.LayerNorm(), ref.Dropout(0.3), ref.BatchNorm()],
    "first and last": [4, ref.BatchNorm(), ref.Residual([5, ref.LayerNorm()])],
    "nested": [
        4,
        ref.Residual(
            [
                ref.LayerNorm(),
                ref.Residual([ref.Dense(6, "identity", bias=False), ref.BatchNorm()]),
                ref.Activation("silu"),
                ref.Dropout(0.2),
                ref.Dense(4, init="lecun_normal"),
            ]
        ),
        ref.BatchNorm(),
        ref.Residual([ref.Dropout(0.1), ref.Residual([3])]),
    ],
}


def random_layers(
    rng: np.random.Generator, width: int, depth: int = 0
) -> tuple[list[Any], int]:
    """One to four layers of any kinds, and the width of the last one."""
    layers: list[Any] = []
    for _ in range(int(rng.integers(1, 5))):
        kind = int(rng.integers(0, 7 if depth < 2 else 6))
        if kind <= 1:
            width = int(rng.integers(2, 7))
            name = str(rng.choice(["identity", "tanh", "silu", "softplus"]))
            layers.append(ref.Dense(width, name, bias=bool(rng.random() < 0.7)))
        elif kind == 2:
            named = ref.Activation(str(rng.choice(["sin", "gelu_tanh", "softsign"])))
            layers.append(
                named if rng.random() < 0.5 else ref.Activation(cube, cube_slope)
            )
        elif kind == 3:
            layers.append(ref.Dropout(float(rng.choice([0.0, 0.2, 0.5]))))
        elif kind == 4:
            layers.append(ref.LayerNorm(0.1, bool(rng.random() < 0.5)))
        elif kind == 5:
            layers.append(ref.BatchNorm(0.1, 0.2, bool(rng.random() < 0.5)))
        else:
            body, width = random_layers(rng, width, depth + 1)
            layers.append(ref.Residual(body))
    return layers, width


for number in range(12):
    draw = np.random.default_rng([7, number])
    NETWORKS[f"random {number}"] = [4, *random_layers(draw, 4)[0]]


def network(name: str, rng: np.random.Generator, dtype: str = "float64") -> ref.MLP:
    """A network of smooth layers with random parameters and statistics."""
    mlp = ref.MLP(NETWORKS[name], activation="tanh", dtype=dtype, seed=3)
    mlp.params[:] = 0.6 * rng.standard_normal(mlp.n_params)
    mlp.buffers[:] = rng.uniform(0.5, 2, mlp.buffers.size)
    return mlp


def assert_gradient(actual: np.ndarray, expected: np.ndarray) -> None:
    # Some gradients are 0, such as that of a bias before a batch norm, which removes
    # it.
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=GRADIENT_RTOL * scale)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name: str, training: bool, rng: np.random.Generator) -> None:
    mlp = network(name, rng)
    x, dy = rng.standard_normal((6, 4)), rng.standard_normal((6, mlp.n_out))
    first = mlp.copy()
    y, dx, grads = mlp.vjp(x, dy, training)

    def value() -> float:
        # Masks depend on the number of earlier calls, so each call uses a fresh copy.
        other = first.copy()
        other.params[:] = first.params
        return float((other.forward(x, training) * dy).sum())

    np.testing.assert_array_equal(y, first.copy().forward(x, training))
    assert_gradient(grads, central_difference(value, first.params))
    assert_gradient(dx, central_difference(value, x))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_ways_to_a_gradient_agree(name: str, rng: np.random.Generator) -> None:
    mlp = network(name, rng)
    x, y = rng.standard_normal((6, 4)), rng.standard_normal((6, mlp.n_out))
    loss = ref.MSE()
    by_value, by_forward, by_vjp = mlp.copy(), mlp.copy(), mlp.copy()
    _, grads = by_value.value_and_grad(x, y, loss, training=True)
    _, dy = loss.value_and_grad(by_forward.forward(x, True), y)
    dx, grads_back = by_forward.backward(dy)
    _, dx_vjp, grads_vjp = by_vjp.vjp(x, dy, training=True)
    for other in (grads_back, grads_vjp):
        np.testing.assert_array_equal(other, grads)
    np.testing.assert_array_equal(dx, dx_vjp)
    for model in (by_forward, by_vjp):
        np.testing.assert_array_equal(model.buffers, by_value.buffers)
    # Inference is the default, and changes no statistics.
    before = mlp.buffers.copy()
    np.testing.assert_array_equal(mlp.vjp(x, dy)[0], mlp(x))
    mlp.value_and_grad(x, y, loss)
    np.testing.assert_array_equal(mlp.buffers, before)


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_is_float64_rounded(name: str, rng: np.random.Generator) -> None:
    wide = network(name, rng)
    narrow = network(name, rng, "float32")
    narrow.params[:] = wide.params
    wide.params[:] = narrow.params
    narrow.buffers[:] = wide.buffers
    wide.buffers[:] = narrow.buffers
    x = rng.standard_normal((6, 4)).astype(np.float32)
    dy = rng.standard_normal((6, wide.n_out)).astype(np.float32)
    # Both use the same masks for a seed; small batches make norms ill-conditioned.
    tolerance = 8 * TOLERANCE["network"].of(np.float32)
    for training in (False, True):
        for a, b in zip(
            narrow.vjp(x, dy, training), wide.vjp(x, dy, training), strict=True
        ):
            assert a.dtype == np.float32
            np.testing.assert_allclose(
                a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max(initial=0.0))
            )


# ------------------------------------------------------------ names and positions


def test_parameters_and_names() -> None:
    mlp = ref.MLP(NETWORKS["nested"], activation="tanh", seed=0)
    names = {
        "0.body.0.weight": (4,),
        "0.body.0.bias": (4,),
        "0.body.1.body.0.weight": (4, 6),
        "0.body.1.body.1.weight": (6,),
        "0.body.1.body.1.bias": (6,),
        "0.body.1.projection.weight": (4, 6),
        "0.body.1.projection.bias": (6,),
        "0.body.4.weight": (6, 4),
        "0.body.4.bias": (4,),
        "1.weight": (4,),
        "1.bias": (4,),
        "2.body.1.body.0.weight": (4, 3),
        "2.body.1.body.0.bias": (3,),
        "2.body.1.projection.weight": (4, 3),
        "2.body.1.projection.bias": (3,),
        "2.projection.weight": (4, 3),
        "2.projection.bias": (3,),
    }
    named = mlp.named_parameters()
    assert {name: view.shape for name, view in named.items()} == names
    assert list(named) == list(names)
    mlp.params[:] = np.arange(mlp.n_params)
    flat = np.concatenate([view.ravel() for view in named.values()])
    np.testing.assert_array_equal(flat, mlp.params)
    shapes = [(4, 6), (4, 6), (6, 4), (4, 3), (4, 3), (4, 3)]
    assert [w.shape for w in mlp.weights] == shapes
    assert [b is None for b in mlp.biases] == [True] + 5 * [False]
    mlp.weights[2][:] = 7
    assert (named["0.body.4.weight"] == 7).all()

    # A dense layer with an activation takes two positions, every other layer one.
    state = mlp.state_dict()
    assert state["0.body.1.body.0.weight"].shape == (6, 4)
    assert mlp.buffers.size == 2 * 6 + 2 * 4
    mlp.buffers[:6] = 5
    assert (mlp.state_dict()["0.body.1.body.1.running_mean"] == 5).all()
    assert state.keys() - names.keys() == {
        f"{norm}.{name}"
        for norm in ("0.body.1.body.1", "1")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_the_last_dense_layer_takes_the_output_activation() -> None:
    kinds = {"activation": "tanh", "output_activation": "sigmoid"}
    mlp = ref.MLP([4, 5, ref.Residual([6, ref.Dropout()]), ref.Dropout()], **kinds)
    assert [layer.activation for layer in (mlp.layers[0], mlp.layers[1].layers[0])] == [
        "tanh",
        "sigmoid",
    ]
    named = ref.MLP([4, 5, ref.Residual([ref.Dense(6, "relu")])], **kinds)
    assert named.layers[0].activation == "tanh"
    assert named.layers[1].layers[0].activation == "relu"


def test_initial_weights_suit_the_activation_that_follows() -> None:
    """`auto` looks past norms and dropouts, but not past the end of a body."""
    width = 40

    def first(*layers: Any) -> np.ndarray:
        return ref.MLP(
            [width, *layers, ref.Dense(2, "identity", init="zeros")], seed=0
        ).weights[0]

    plain = ref.Dense(width, "identity")
    relu = ref.Activation("relu")
    named = first(ref.Dense(width, "relu"))
    linear = first(ref.Dense(width, "identity"))
    assert (named != linear).any()
    for layers, expected in [
        ([plain, relu], named),
        ([plain, ref.BatchNorm(), ref.Dropout(), relu], named),
        ([plain, ref.LayerNorm(), ref.Dense(width, "relu")], linear),
        ([plain, ref.Activation(cube, cube_slope)], linear),
        ([ref.Residual([plain, relu])], named),
        ([ref.Residual([plain, ref.BatchNorm()]), relu], linear),
        ([plain, ref.Residual([ref.LayerNorm()]), relu], linear),
    ]:
        np.testing.assert_array_equal(first(*layers), expected)
    # The projection is drawn last, as a layer without an activation.
    rng = np.random.default_rng(0)
    weights = ref.MLP([width, ref.Residual([ref.Dense(3, "relu")])], seed=0).weights
    expected = np.empty((width, 3), np.float32)
    for weight, kind in zip(weights, ("relu", "identity"), strict=True):
        ref.initialize(rng, expected, None, "auto", kind, kind)
        np.testing.assert_array_equal(weight, expected)


def test_norms_start_as_pure_norms(rng: np.random.Generator) -> None:
    mlp = ref.MLP([5, ref.LayerNorm(), ref.BatchNorm()], dtype="float64")
    np.testing.assert_array_equal(mlp.params, np.repeat([1.0, 0.0, 1.0, 0.0], 5))
    np.testing.assert_array_equal(mlp.buffers, np.repeat([0.0, 1.0], 5))
    y = ref.MLP([5, ref.LayerNorm(eps=0)], dtype="float64")(rng.normal(3, 2, (4, 5)))
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=ROUNDING)
    np.testing.assert_allclose((y * y).mean(axis=1), 1, rtol=ROUNDING)


def test_norms_by_hand() -> None:
    x = [[1.0, 2.0], [3.0, 6.0]]
    layer = ref.MLP([2, ref.LayerNorm(eps=0.75)], dtype="float64")
    # Means 1.5 and 4.5, variances 1/4 and 9/4: 1/sqrt is 1 and 1/sqrt(3).
    expected = [[-0.5, 0.5], [-1.5 / math.sqrt(3), 1.5 / math.sqrt(3)]]
    np.testing.assert_allclose(layer(x), expected, rtol=ROUNDING)
    batch = ref.MLP([2, ref.BatchNorm(eps=3.0, momentum=0.25)], dtype="float64")
    # Means 2 and 4, variances 1 and 4, unbiased 2 and 8.
    y = batch.forward(x, training=True)
    root = 2 / math.sqrt(7)
    np.testing.assert_allclose(y, [[-0.5, -root], [0.5, root]], rtol=ROUNDING)
    np.testing.assert_allclose(batch.buffers, [0.5, 1.0, 1.25, 2.75], rtol=ROUNDING)
    np.testing.assert_allclose(
        batch(x)[0], [0.5 / math.sqrt(4.25), 1 / math.sqrt(5.75)], rtol=ROUNDING
    )


def test_batch_norm_trains_on_two_rows_or_more() -> None:
    mlp = ref.MLP([3, ref.BatchNorm(), 2])
    optimizer, before = ref.SGD(0.1), (mlp.params.copy(), mlp.buffers.copy())
    with pytest.raises(ValueError, match="2 rows"):
        mlp.train_step(np.ones((1, 3)), np.ones((1, 2)), ref.MSE(), optimizer)
    with pytest.raises(ValueError, match="2 rows"):
        mlp.forward(np.ones(3), training=True)
    np.testing.assert_array_equal(mlp.params, before[0])
    np.testing.assert_array_equal(mlp.buffers, before[1])
    assert optimizer.step_count == 0


def test_a_diverging_step_leaves_statistics_alone() -> None:
    mlp = ref.MLP([3, ref.BatchNorm(), 2])
    before = mlp.state_dict()
    with pytest.raises(FloatingPointError):
        mlp.train_step(np.full((2, 3), np.nan), np.ones((2, 2)), ref.MSE(), ref.SGD(1))
    for name, array in mlp.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    "make",
    [
        lambda: ref.Dropout(1.0),
        lambda: ref.Dropout(-0.1),
        lambda: ref.Activation("glu"),
        lambda: ref.Activation(cube),
        lambda: ref.Residual([]),
        lambda: ref.MLP([ref.Dropout(), 2]),
    ],
)
def test_bad_layers(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"p must|activation|derivative|layers"):
        make()


# --------------------------------------------------------------------------- dropout


def kept_one_by_one(
    shape: tuple[int, int], p: float, seed: int, epoch: int, step: int, layer: int
) -> np.ndarray:
    """The mask of the documented recipe, element by element."""
    rows, n = shape
    words = ref.philox4x32(
        (layer, 0, epoch, 0x44524F50), (seed & 0xFFFFFFFF, seed >> 32)
    )
    key = int(words[0]), int(words[1])
    kept = np.empty(shape, bool)
    for row, col in np.ndindex(rows, n):
        block, i = divmod(row * n + col, 64)
        g = 16 * block + i % 16
        counter = (g & 0xFFFFFFFF, g >> 32, step & 0xFFFFFFFF, step >> 32)
        word = int(ref.philox4x32(counter, key)[i // 16])
        kept[row, col] = word < math.floor((1 - p) * 2**32)
    return kept


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (13, 10), (2, 64)])
def test_masks_by_the_recipe(shape: tuple[int, int]) -> None:
    what = 0.3, 2**40 + 5, 0xFFFFFFFF, 2**33 + 1, 2
    np.testing.assert_array_equal(
        ref.dropout_mask(shape, *what), kept_one_by_one(shape, *what)
    )


def test_masks_depend_on_every_part_of_the_key() -> None:
    shape = 20, 10
    base = 0.5, 1, 2, 3, 4
    first = ref.dropout_mask(shape, *base)
    for i in range(1, 5):
        other = list(base)
        other[i] += 1
        share = (ref.dropout_mask(shape, *other) == first).mean()
        assert 0.3 < share < 0.7  # expected 0.5, with a standard deviation of 0.035
    # Further rows do not change earlier ones; a higher rate drops a superset.
    longer = ref.dropout_mask((33, 10), *base)
    np.testing.assert_array_equal(longer[:20], first)
    assert not (ref.dropout_mask(shape, 0.7, *base[1:]) & ~first).any()
    assert ref.dropout_mask(shape, 0.0, *base[1:]).all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_keep_the_stated_share(p: float) -> None:
    n = 100_000
    kept = ref.dropout_mask((n // 100, 100), p, 7, 0, 0, 0)
    deviation = math.sqrt(p * (1 - p) / n)
    assert abs(kept.mean() - (1 - p)) < 5 * deviation
    # Neighbours along rows and columns are independent.
    centred = kept - (1 - p)
    for a, b in [(centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])]:
        assert abs((a * b).mean()) < 5 * p * (1 - p) / math.sqrt(n)


def dropouts() -> ref.MLP:
    """A network of only two dropouts, the second one in a residual block."""
    layers = [70, ref.Dropout(0.25), ref.Residual([ref.Dropout(0.5)])]
    return ref.MLP(layers, dtype="float64", seed=1)


def test_dropout_is_inverted_and_off_in_inference() -> None:
    mlp, x = dropouts(), np.ones((9, 70))
    np.testing.assert_array_equal(mlp(x), 2 * x)
    seed = mlp._order_seed
    for step in range(3):  # only passes in training mode are counted
        a = ref.dropout_mask(x.shape, 0.25, seed, 0xFFFFFFFE, step, 0) / 0.75
        b = ref.dropout_mask(x.shape, 0.5, seed, 0xFFFFFFFE, step, 1) * 2
        y, dx, _ = mlp.vjp(x, x, training=True)
        np.testing.assert_allclose(y, a + a * b, rtol=ROUNDING)
        np.testing.assert_allclose(dx, a + a * b, rtol=ROUNDING)
        mlp.vjp(x, x)


class Masks(ref.Loss):
    """A loss that records the outputs it is called with."""

    def __init__(self) -> None:
        super().__init__("mse")
        self.seen: list[np.ndarray] = []

    def value_and_grad(
        self, pred: np.ndarray, target: np.ndarray, sample_weight: Any = None
    ) -> tuple[float, np.ndarray]:
        self.seen.append(pred.copy())
        return 0.0, np.zeros_like(pred)


def test_steps_and_epochs_have_different_masks() -> None:
    mlp, x, loss = dropouts(), np.ones((10, 70)), Masks()
    optimizer = ref.SGD(0.0)
    for _ in range(2):
        mlp.train_step(x, x, loss, optimizer)
    where = [(10, mlp._order_seed, 0xFFFFFFFF, step) for step in range(2)]
    for key, first in [(None, 0), (5, 0), (None, 2)]:
        mlp.fit(x, x, loss=loss, optimizer=optimizer, epochs=2, batch_size=4, seed=key)
        seed = mlp._order_seed if key is None else key
        where += [
            (rows, seed, epoch, step)
            for epoch in range(first, first + 2)
            for step, rows in enumerate((4, 4, 2))
        ]
    assert len(loss.seen) == len(where)
    for seen, (rows, *draw) in zip(loss.seen, where, strict=True):
        a = ref.dropout_mask((rows, 70), 0.25, *draw, 0) / 0.75
        b = ref.dropout_mask((rows, 70), 0.5, *draw, 1) * 2
        np.testing.assert_allclose(seen, a + a * b, rtol=ROUNDING)


@pytest.mark.parametrize("way", ["copy", "pickle", "state"])
def test_training_resumes_exactly(way: str, rng: np.random.Generator) -> None:
    """Dropout, statistics and orders continue from the state that was stored."""
    x, y = rng.standard_normal((11, 4)), rng.standard_normal((11, 3))

    def train(mlp: ref.MLP, optimizer: ref.Optimizer, times: int) -> None:
        for _ in range(times):
            how = {"epochs": 1, "batch_size": 4}
            mlp.fit(x, y, loss=ref.MSE(), optimizer=optimizer, **how)
            mlp.train_step(x, y, ref.MSE(), optimizer)
            mlp.forward(x, training=True)

    whole, parts = (ref.MLP(NETWORKS["nested"], seed=0) for _ in range(2))
    steps, more = ref.Adam(0.01), ref.Adam(0.01)
    train(whole, steps, 4)
    train(parts, more, 2)
    if way == "copy":
        parts = parts.copy()
    elif way == "pickle":
        parts = pickle.loads(pickle.dumps(parts))
    else:
        parts.load_state_dict(parts.state_dict())
    train(parts, more, 2)
    assert whole.state_dict().keys() == parts.state_dict().keys()
    for name, array in whole.state_dict().items():
        np.testing.assert_array_equal(array, parts.state_dict()[name])
    assert whole.state_dict()["1.num_batches_tracked"] == 4 * 5


# ------------------------------------------------------------------------------ fold


def kinds_in(layers: Iterable[Any]) -> set[str]:
    """Names of the kinds of layers in a network, including nested ones."""
    found = set()
    for layer in layers:
        found.add(type(layer).__name__)
        found |= kinds_in(getattr(layer, "layers", ()))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_keeps_the_outputs(name: str, rng: np.random.Generator) -> None:
    mlp = network(name, rng)
    folded, x = mlp.fold(), rng.standard_normal((5, 4))
    assert "Dropout" not in kinds_in(folded.layers)
    expected = mlp(x)
    scale = max(1.0, np.abs(expected).max())
    bound = TOLERANCE["network"].of(np.float64) * scale
    np.testing.assert_allclose(folded(x), expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        ([ref.Dense(5, "identity", bias=False), ref.BatchNorm(), "act", 3], set()),
        ([ref.Dense(5, "relu"), ref.BatchNorm(), ref.Dropout(), 3], set()),
        ([ref.BatchNorm(), ref.BatchNorm(), 3], set()),
        ([ref.Dense(5, "identity"), ref.Dropout(), *2 * [ref.BatchNorm()]], set()),
        ([ref.Residual([ref.BatchNorm(), 4]), 3], set()),
        ([ref.Residual([ref.BatchNorm(), "act", 4]), 3], {"BatchNorm"}),
        ([5, ref.Residual([5]), ref.BatchNorm(), "act", 3], {"BatchNorm"}),
        ([ref.Residual([ref.Dropout()])], set()),
        ([ref.Dropout()], set()),
    ],
)
def test_batch_norm_folds_into_its_neighbour(
    layers: list[Any], left: set[str], rng: np.random.Generator
) -> None:
    def filled(item: Any) -> Any:
        if isinstance(item, ref.Residual):
            return ref.Residual([filled(inner) for inner in item.layers])
        return ref.Activation("tanh") if item == "act" else item

    mlp = ref.MLP([4, *map(filled, layers)], dtype="float64", seed=0)
    mlp.params[:] = rng.standard_normal(mlp.n_params)
    mlp.buffers[:] = rng.uniform(0.5, 2, mlp.buffers.size)
    folded, x = mlp.fold(), rng.standard_normal((3, 4))
    np.testing.assert_allclose(folded(x), mlp(x), rtol=1e3 * ROUNDING)
    assert kinds_in(folded.layers) & {"BatchNorm", "Dropout"} == left


# --------------------------------------------------------------------------- PyTorch


def torch_module(nodes: list[Any]) -> Any:
    """Build the same network from PyTorch's modules, with the reference's masks.

    The names of the state come from the containers, as in any user's model.
    """
    import torch

    class Custom(torch.nn.Module):
        def forward(self, z: Any) -> Any:
            return cube(z)

    class Masked(torch.nn.Module):
        """Dropout by the reference's mask; the caller sets `draw`.

        With ``alpha``, by the formula of torch's alpha dropout (``_dropout_impl`` in
        ATen).
        """

        def __init__(self, p: float, number: int, alpha: bool) -> None:
            super().__init__()
            self.p, self.number, self.alpha = p, number, alpha
            self.draw = (0, 0, 0)

        def forward(self, x: Any) -> Any:
            if not self.training:
                return x
            kept = ref.dropout_mask(tuple(x.shape), self.p, *self.draw, self.number)
            if not self.alpha:
                return x * torch.from_numpy(kept) / (1 - self.p)
            alpha, noise = 1.7580993408473766, torch.from_numpy(kept).double()
            a = 1 / math.sqrt((alpha * alpha * self.p + 1) * (1 - self.p))
            b = (noise - 1) * (alpha * a) + alpha * a * self.p
            return x * (noise * a) + b

    class Block(torch.nn.Module):
        def __init__(self, body: Any, projection: Any) -> None:
            super().__init__()
            self.body, self.projection = body, projection

        def forward(self, x: Any) -> Any:
            straight = x if self.projection is None else self.projection(x)
            return straight + self.body(x)

    activations = {
        "tanh": torch.nn.Tanh(),
        "silu": torch.nn.SiLU(),
        "mish": torch.nn.Mish(),
        "softplus": torch.nn.Softplus(),
        "gelu": torch.nn.GELU(),
        "gelu_tanh": torch.nn.GELU(approximate="tanh"),
        "softsign": torch.nn.Softsign(),
        "softmax": torch.nn.Softmax(dim=-1),
    }

    class Sine(torch.nn.Module):
        def forward(self, z: Any) -> Any:
            return torch.sin(z)

    activations["sin"] = Sine()
    modules: list[Any] = []
    for node in nodes:
        layer, n = node.layer, node.n_in
        if isinstance(layer, ref.Dense):
            modules.append(torch.nn.Linear(n, layer.n, bias=layer.bias))
            if layer.activation != "identity":
                modules.append(activations[layer.activation])
        elif isinstance(layer, ref.Activation):
            named = isinstance(layer.function, str)
            modules.append(activations[layer.function] if named else Custom())
        elif isinstance(layer, ref.Dropout):
            modules.append(Masked(layer.p, node.number, layer.alpha))
        elif isinstance(layer, ref.LayerNorm):
            modules.append(torch.nn.LayerNorm(n, layer.eps, layer.affine))
        elif isinstance(layer, ref.RMSNorm):
            modules.append(torch.nn.RMSNorm(n, layer.eps, layer.affine))
        elif isinstance(layer, ref.BatchNorm):
            norm = torch.nn.BatchNorm1d(n, layer.eps, layer.momentum, layer.affine)
            modules.append(norm)
        else:
            projection = None
            if node.projection is not None:
                projection = torch.nn.Linear(n, node.n_out)
            modules.append(Block(torch_module(node.body), projection))
    return torch.nn.Sequential(*modules)


def as_torch(mlp: ref.MLP) -> Any:
    """The same network in PyTorch, with the same state."""
    import torch

    module = torch_module(mlp._nodes).double()
    state = {k: torch.from_numpy(v) for k, v in mlp.state_dict().items()}
    module.load_state_dict(state)  # strict: names and shapes are PyTorch's
    return module


def set_draw(module: Any, draw: tuple[int, int, int]) -> None:
    for part in module.modules():
        if hasattr(part, "draw"):
            part.draw = draw


# Sums have another order, in several layers and in norms of small batches.
PARITY = 8 * TOLERANCE["network"].of(np.float64)


def assert_parity(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=PARITY * scale)


@needs_torch
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_torchs(
    name: str, training: bool, rng: np.random.Generator
) -> None:
    import torch

    mlp = network(name, rng)
    module = as_torch(mlp).train(training)
    x, dy = rng.standard_normal((7, 4)), rng.standard_normal((7, mlp.n_out))
    set_draw(module, (mlp._order_seed, 0xFFFFFFFE, 0))
    inputs = torch.from_numpy(x).requires_grad_()
    output = module(inputs)
    output.backward(torch.from_numpy(dy))
    y, dx, grads = mlp.vjp(x, dy, training)
    assert_parity(y, output.detach().numpy())
    assert_parity(dx, inputs.grad.numpy())
    theirs = dict(module.named_parameters())
    views = mlp._views(grads)
    assert views.keys() == theirs.keys()
    for key, view in views.items():
        assert_parity(view.T, theirs[key].grad.numpy())


@needs_torch
@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_torchs(name: str, rng: np.random.Generator) -> None:
    """Parameters and statistics after some steps, and after loading them back."""
    import torch

    mlp = network(name, rng)
    module = as_torch(mlp).train()
    parameters = list(module.parameters())
    ours = ref.SGD(0.05, momentum=0.5)
    theirs = torch.optim.SGD(parameters, 0.05, momentum=0.5) if parameters else None
    for step, rows in enumerate(itertools.islice(itertools.cycle((7, 2, 5)), 9)):
        x, y = rng.standard_normal((rows, 4)), rng.standard_normal((rows, mlp.n_out))
        set_draw(module, (mlp._order_seed, 0xFFFFFFFF, step))
        loss = torch.nn.functional.mse_loss(
            module(torch.from_numpy(x)), torch.from_numpy(y)
        )
        if theirs is not None:
            theirs.zero_grad()
            loss.backward()
            theirs.step()
        assert mlp.train_step(x, y, ref.MSE(), ours) == pytest.approx(loss.item())
    state = {k: v.numpy() for k, v in module.state_dict().items()}
    assert list(mlp.state_dict()) == list(state)
    for key, array in mlp.state_dict().items():
        assert array.dtype == state[key].dtype
        assert_parity(array, state[key])

    other = network(name, rng)
    other.load_state_dict(state)
    x = rng.standard_normal((3, 4))
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    assert_parity(other(x), expected)
