"""The model as an object: architecture, parameters, copies, text."""

import copy
import pickle
import threading

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from fastmlp.initializers import INITIALIZERS

# For a float32 network of a few layers with a few terms each, compared with float64.
FLOAT32_RTOL = 1e-5
FLOAT64_RTOL = 1e-12
# Number of standard errors by which a sample moment of a fixed seed may be off.
SIGMAS = 5


def small(**options):
    return fm.MLP([4, 7, 5, 3], **{"seed": 0, "activation": "tanh", **options})


# Architecture -------------------------------------------------------------------------


def test_layers_are_resolved():
    mlp = fm.MLP(
        [4, 8, fm.Dense(6, "gelu", bias=False), fm.Dense(5, init="zeros"), np.int32(3)],
        activation="selu",
        output_activation="softmax",
        init="torch",
    )
    assert mlp.layers == (
        fm.Dense(8, "selu", True, "torch"),
        fm.Dense(6, "gelu", False, "torch"),
        fm.Dense(5, "selu", True, "zeros"),
        fm.Dense(3, "softmax", True, "torch"),
    )
    assert (mlp.n_in, mlp.n_out, mlp.dtype) == (4, 3, np.float32)
    assert mlp.n_params == 4 * 8 + 8 + 8 * 6 + 6 * 5 + 5 + 5 * 3 + 3 == mlp.params.size
    assert [b is None for b in mlp.biases] == [False, True, False, False]
    assert mlp.history is None


def test_the_last_layer_may_name_its_activation():
    mlp = fm.MLP([2, fm.Dense(3, "tanh")], output_activation="sigmoid")
    assert mlp.layers[0].activation == "tanh"


def test_bias_is_for_widths():
    mlp = fm.MLP([2, 3, fm.Dense(4), 5], bias=False)
    assert [layer.bias for layer in mlp.layers] == [False, True, False]
    assert mlp.n_params == 2 * 3 + 3 * 4 + 4 + 4 * 5


@pytest.mark.parametrize("activation", fm.ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_activations_hidden_and_last(activation, dtype):
    mlp = small(activation=activation, output_activation=activation, dtype=dtype)
    other = reference.MLP(
        [4, 7, 5, 3],
        activation=activation,
        output_activation=activation,
        dtype="float64",
    )
    other.params[:] = mlp.params
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(dtype)
    rtol = FLOAT32_RTOL if dtype == "float32" else FLOAT64_RTOL
    np.testing.assert_allclose(mlp(x), other(x), rtol=rtol, atol=rtol)
    for got, wanted in zip(mlp.vjp(x, x[:, :3]), other.vjp(x, x[:, :3]), strict=True):
        atol = rtol * max(1.0, abs(wanted).max())
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol)


BAD_ARCHITECTURES = {
    "a string": ("784", TypeError, "^layers must be a sequence.*'784'"),
    "an int": (784, TypeError, "^layers must be a sequence.*784"),
    "None": (None, TypeError, "^layers must be a sequence.*None"),
    "nothing": ([], ValueError, "^layers .*at least one layer; .* length 0"),
    "no layers": ([4], ValueError, "^layers .*at least one layer; .* length 1"),
    "zero width": ([4, 0], ValueError, r"^layers\[1\] must be at least 1, got 0"),
    "negative": ([-4, 2], ValueError, r"^layers\[0\] must be at least 1"),
    "bool": ([4, True], TypeError, r"^layers\[1\] must be an int.*True"),
    "numpy bool": ([4, np.True_], TypeError, r"^layers\[1\] must be an int"),
    "float": ([4, 2.0], TypeError, r"^layers\[1\] must be an int or a layer"),
    "name": ([4, "relu"], TypeError, r"^layers\[1\] must be .*'relu'"),
    "nested": ([4, [8, 8], 2], TypeError, r"^layers\[1\] must be .*list"),
    "class": ([4, fm.Dense], TypeError, r"^layers\[1\] must be .*class Dense"),
    "first": ([fm.Dense(4), 2], TypeError, r"^layers\[0\] must be an int, the input"),
    "huge": ([2**40, 2**40], ValueError, "more parameters than memory can hold"),
    "array": ([4, np.ones(3, int)], TypeError, r"^layers\[1\] must be an int"),
}


@pytest.mark.parametrize("case", BAD_ARCHITECTURES)
def test_bad_layers(case):
    layers, error, words = BAD_ARCHITECTURES[case]
    with pytest.raises(error, match=words):
        fm.MLP(layers)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"activation": "rleu"}, ValueError, "^activation.*did you mean 'relu'"),
        ({"activation": "ReLU"}, ValueError, "^activation.*did you mean 'relu'"),
        ({"activation": "zzz"}, ValueError, "^activation.*identity, relu,.*'zzz'$"),
        ({"activation": None}, TypeError, "^activation must be a name.*None"),
        ({"output_activation": "logits"}, ValueError, "^output_activation"),
        ({"output_activation": np.tanh}, TypeError, "^output_activation"),
        ({"init": "he"}, ValueError, "^init must be one of auto"),
        ({"bias": 1}, TypeError, "^bias must be True or False"),
        ({"dtype": "float16"}, ValueError, "^dtype must be float32 or float64"),
        ({"dtype": ">f4"}, ValueError, "^dtype must be float32 or float64"),
        ({"dtype": None}, TypeError, "^dtype must be float32 or float64"),
        ({"dtype": "f99"}, TypeError, "^dtype must be float32 or float64"),
        ({"seed": -1}, ValueError, "^seed must be at least 0"),
        ({"seed": 1.0}, TypeError, "^seed must be a non-negative int"),
        ({"seed": True}, TypeError, "^seed must be an int"),
        ({"seed": np.True_}, TypeError, "^seed must be an int, got .*bool"),
        ({"seed": "1"}, TypeError, "^seed must be a non-negative int"),
        ({"seed": [1, -1]}, ValueError, "^seed must be a non-negative int"),
        ({"seed": [1, 0.5]}, TypeError, "^seed must be a non-negative int, a sequence"),
    ],
    ids=str,
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        fm.MLP([4, 2], **options)


def test_dense_is_a_value():
    dense = fm.Dense(3, "tanh", bias=False, init="zeros")
    assert eval(repr(dense), vars(fm)) == dense != fm.Dense(3)
    assert pickle.loads(pickle.dumps(dense)) == dense
    assert hash(copy.deepcopy(dense)) == hash(dense)
    with pytest.raises(AttributeError, match="immutable"):
        dense.n = 4
    for arguments, error in [
        ((0,), ValueError),
        (("3",), TypeError),
        ((3, "x"), ValueError),
    ]:
        with pytest.raises(error):
            fm.Dense(*arguments)


# Parameters ---------------------------------------------------------------------------


def test_params_weights_and_biases_are_the_same_memory():
    mlp = small()
    mlp.params[:] = np.arange(mlp.n_params)
    flat = []
    for w, b in zip(mlp.weights, mlp.biases, strict=True):
        flat += [w.ravel(), b]
        assert np.shares_memory(w, mlp.params)
        assert np.shares_memory(b, mlp.params)
    np.testing.assert_array_equal(np.concatenate(flat), mlp.params)
    assert [w.shape for w in mlp.weights] == [(4, 7), (7, 5), (5, 3)]

    # The model computes with the values written to them.
    mlp.params[:] = 0
    mlp.biases[-1][:] = (1, 2, 3)
    np.testing.assert_array_equal(mlp(np.ones((1, 4), "float32")), [[1, 2, 3]])


def test_params_cannot_be_replaced():
    mlp = small()
    before = mlp.params.copy()
    with pytest.raises(AttributeError, match=r"mlp\.params\[:\] = values"):
        mlp.params = np.zeros(mlp.n_params)
    for name in ("weights", "biases", "layers", "n_in", "n_out", "n_params", "dtype"):
        value = getattr(mlp, name)
        with pytest.raises(AttributeError, match=name):
            setattr(mlp, name, ())
        assert getattr(mlp, name) is value
    np.testing.assert_array_equal(mlp.params, before)


def test_params_outlive_their_model():
    params, weight = small().params, small().weights[0]
    wanted = small()
    np.testing.assert_array_equal(params, wanted.params)
    np.testing.assert_array_equal(weight, wanted.weights[0])


def test_state_dict_has_torch_names_and_layout():
    mlp = fm.MLP([4, 7, fm.Dense(1, bias=False), 3], seed=0)
    state = mlp.state_dict()
    shapes = {name: array.shape for name, array in state.items()}
    assert list(shapes.items()) == [
        ("0.weight", (7, 4)),
        ("0.bias", (7,)),
        ("2.weight", (1, 7)),
        ("4.weight", (3, 1)),
        ("4.bias", (3,)),
    ]
    for name, array in state.items():
        assert array.flags.c_contiguous
        assert array.dtype == mlp.dtype
        # The transposes of (1, n) and (n, 1) are contiguous without being copies.
        assert not np.shares_memory(array, mlp.params), name
    np.testing.assert_array_equal(state["0.weight"], mlp.weights[0].T)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_load_state_dict(dtype):
    source, target = small(), small(seed=1, dtype=dtype)
    target.load_state_dict(source.state_dict())
    np.testing.assert_array_equal(target.params, source.params)
    # Lists, other float dtypes and views of the model's parameters are also accepted.
    lists = {name: array.tolist() for name, array in source.state_dict().items()}
    target.params[:] = 0
    target.load_state_dict(lists)
    np.testing.assert_array_equal(target.params, source.params)

    square = fm.MLP([3, 3, 3], seed=0)
    w0, w1 = (w.copy() for w in square.weights)
    own = {"0.weight": square.weights[1].T, "0.bias": square.biases[1]}
    own |= {"2.weight": square.weights[0].T, "2.bias": square.biases[0]}
    square.load_state_dict(own)
    np.testing.assert_array_equal(square.weights[0], w1)
    np.testing.assert_array_equal(square.weights[1], w0)


@pytest.mark.parametrize("count", [2**62 + 1, 2**63, 2**64 - 1, -1, 2**70, 1.0])
def test_load_state_dict_refuses_counts_out_of_range(count):
    mlp = fm.MLP([2, 3, fm.BatchNorm(), 1], seed=0)
    state = fm.MLP([2, 3, fm.BatchNorm(), 1], seed=1).state_dict()
    name = next(n for n in state if n.endswith("num_batches_tracked"))
    before = mlp.params.copy(), mlp.buffers.copy()
    with pytest.raises(ValueError, match=f"{name}: wanted a count"):
        mlp.load_state_dict({**state, name: count})
    assert (mlp.params == before[0]).all()
    assert (mlp.buffers == before[1]).all()
    mlp.load_state_dict({**state, name: 2**62})
    assert mlp.state_dict()[name] == 2**62


def test_load_state_dict_is_strict_and_atomic():
    mlp = small()
    good, before = small(seed=1).state_dict(), mlp.params.copy()
    less = {k: v for k, v in good.items() if k != "2.bias"}
    for state, error, words in [
        (less, ValueError, r"missing: 2\.bias"),
        ({**good, "6.weight": np.zeros(3)}, ValueError, r"unexpected: 6\.weight"),
        (
            {**less, "x": 0, "0.weight": np.zeros((4, 7))},
            ValueError,
            r"0\.weight: wanted shape \(7, 4\), got \(4, 7\); missing.*; unexpected: x",
        ),
        ({**good, "4.bias": ["a", "b", "c"]}, TypeError, r"state\['4\.bias'\]"),
        ({**good, "4.bias": np.full(3, 1e300)}, ValueError, "too large for float32"),
        (list(good), TypeError, "must be a dict"),
        (None, TypeError, "must be a dict"),
    ]:
        with pytest.raises(error, match=words):
            mlp.load_state_dict(state)
        np.testing.assert_array_equal(mlp.params, before)


# Initial parameters -------------------------------------------------------------------


def standard_deviation(name, n_in, n_out):
    """The formulas in the docstring of `fastmlp.initializers`."""
    return {
        "he_normal": np.sqrt(2 / n_in),
        "he_uniform": np.sqrt(6 / n_in) / np.sqrt(3),
        "glorot_normal": np.sqrt(2 / (n_in + n_out)),
        "glorot_uniform": np.sqrt(6 / (n_in + n_out)) / np.sqrt(3),
        "lecun_normal": np.sqrt(1 / n_in),
        "lecun_uniform": np.sqrt(3 / n_in) / np.sqrt(3),
        "normal": 0.05,
        "uniform": 0.05 / np.sqrt(3),
        "truncated_normal": 0.05 * 0.8796256610342398,
        "torch": np.sqrt(1 / n_in) / np.sqrt(3),
        "sklearn": np.sqrt(6 / (n_in + n_out)) / np.sqrt(3),
    }[name if "_" not in name else name.replace("_truncated", "")]


@pytest.mark.parametrize(
    "name",
    sorted(
        set(INITIALIZERS) - {"auto", "zeros", "ones", "identity", "orthogonal", "siren"}
    ),
)
def test_initial_weights_have_the_stated_moments(name):
    mlp = fm.MLP([150, 100], init=name, dtype="float64", seed=3)
    w, b = mlp.weights[0], mlp.biases[0]
    wanted = standard_deviation(name, 150, 100)
    assert abs(w.mean()) < SIGMAS * wanted / np.sqrt(w.size)
    assert abs(w.std() / wanted - 1) < SIGMAS / np.sqrt(2 * w.size)
    if "truncated" in name:  # at two standard deviations before truncation
        assert 1.99 < abs(w).max() / wanted * 0.8796256610342398 <= 2
    elif "normal" in name:
        assert abs(w).max() > 3 * wanted
    else:
        assert abs(w).max() <= np.sqrt(3) * wanted
    if name in ("torch", "sklearn"):
        assert abs(b.std() / wanted - 1) < SIGMAS / np.sqrt(2 * b.size)
        assert abs(b).max() <= np.sqrt(3) * wanted
    else:
        np.testing.assert_array_equal(b, 0)


def test_sklearn_bound_shrinks_for_sigmoid():
    for activation, factor in [("sigmoid", 2), ("relu", 6)]:
        mlp = fm.MLP([90, 80, 70], activation=activation, init="sklearn", seed=0)
        for w, fans in zip(mlp.weights, (170, 150), strict=True):
            bound = np.sqrt(factor / fans)
            assert 0.99 * bound < abs(w).max() <= np.float32(bound)


@pytest.mark.parametrize("activation", fm.ACTIVATIONS)
def test_auto_follows_the_activation(activation):
    bounded = (
        *("identity", "sigmoid", "tanh", "sin", "cos", "softsign", "softmax"),
        *("hardsigmoid", "hardtanh", "tanhshrink", "softshrink", "hardshrink"),
    )
    wanted = "glorot_uniform" if activation in (*bounded, "exp") else "he_normal"
    wanted = "lecun_normal" if activation == "selu" else wanted
    auto = fm.MLP([5, 6, 3], activation=activation, seed=4)
    named = fm.MLP([5, fm.Dense(6, activation, init=wanted), 3], seed=4)
    np.testing.assert_array_equal(auto.params, named.params)


@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (50, 120), (120, 50), (100, 100)])
def test_orthogonal(shape):
    n_in, n_out = shape
    w = fm.MLP([n_in, n_out], init="orthogonal", dtype="float64", seed=0).weights[0]
    gram = w @ w.T if n_in <= n_out else w.T @ w
    # Orthonormalised twice, so exact up to rounding of sums of at most 120 terms.
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-13)
    other = fm.MLP([n_in, n_out], init="orthogonal", dtype="float64", seed=1).weights[0]
    assert abs(w - other).max() > 0.01 or shape == (1, 1)


def test_zeros():
    np.testing.assert_array_equal(fm.MLP([3, 4, 2], init="zeros").params, 0)


def test_draws_are_numpys_in_order():
    rng = np.random.default_rng(7)
    mlp = fm.MLP([5, fm.Dense(4, init="torch"), 3], init="lecun_normal", seed=7)
    bound = 1 / np.sqrt(5)
    w0 = rng.uniform(-bound, bound, (5, 4))
    b0 = rng.uniform(-bound, bound, 4)
    w1 = rng.normal(0, np.sqrt(1 / 4), (4, 3))
    np.testing.assert_array_equal(mlp.weights[0], w0.astype("float32"))
    np.testing.assert_array_equal(mlp.biases[0], b0.astype("float32"))
    np.testing.assert_array_equal(mlp.weights[1], w1.astype("float32"))


def test_seeds():
    a, b = small(seed=5), small(seed=np.random.default_rng(5))
    np.testing.assert_array_equal(a.params, b.params)
    np.testing.assert_array_equal(a.params, small(seed=np.int64(5)).params)
    assert (small(seed=6).params != a.params).any()
    assert (small(seed=None).params != small(seed=None).params).any()
    # float64 draws are rounded, so models of both dtypes are equal.
    wide = small(seed=5, dtype="float64")
    np.testing.assert_array_equal(wide.params.astype("float32"), a.params)
    # A generator continues its sequence from model to model.
    rng = np.random.default_rng(5)
    assert (small(seed=rng).params != small(seed=rng).params).any()


@pytest.mark.parametrize(
    "seed",
    [
        lambda: 2**70,
        lambda: np.uint8(3),
        lambda: np.array(3),
        lambda: (1, 2, 3),
        lambda: np.array([1, 2, 3]),
        lambda: np.random.SeedSequence(5, spawn_key=(1,)),
        lambda: np.random.MT19937(5),
        lambda: np.random.Generator(np.random.PCG64DXSM(5)),
    ],
)
def test_seeds_are_those_of_default_rng(seed):
    given = seed()
    start = int(given) if isinstance(given, np.ndarray) and given.ndim == 0 else given
    wanted = np.random.default_rng(start).normal(0, 1, (4, 3))
    mlp = fm.MLP([4, 3], init="lecun_normal", dtype="float64", seed=seed())
    np.testing.assert_array_equal(mlp.weights[0], wanted * 0.5)


# Calls --------------------------------------------------------------------------------


def test_one_sample_gives_one_result():
    mlp, x = small(), np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    y = mlp(x)
    assert y.shape == (5, 3)
    for i in range(5):
        np.testing.assert_array_equal(mlp(x[i]), y[i])
        np.testing.assert_array_equal(mlp.forward(x[i]), y[i])
        dx, grads = mlp.backward(y[i])
        wanted = mlp.vjp(x[i : i + 1], y[i : i + 1])
        assert dx.shape == (4,)
        np.testing.assert_array_equal(dx, wanted[1][0])
        np.testing.assert_array_equal(grads, wanted[2])
        out, dx, grads = mlp.vjp(x[i], y[i])
        assert (out.shape, dx.shape, grads.shape) == ((3,), (4,), (mlp.n_params,))
        np.testing.assert_array_equal(out, y[i])
        np.testing.assert_array_equal(dx, wanted[1][0])


def test_predict_is_call():
    mlp, x = small(), np.ones((2, 4), "float32")
    np.testing.assert_array_equal(mlp.predict(x), mlp(x))


def test_forward_and_backward_are_vjp():
    mlp = small()
    x, dy = np.random.default_rng(0).standard_normal((2, 6, 4)).astype("float32")
    dy = np.ascontiguousarray(dy[:, :3])
    y, dx, grads = mlp.vjp(x, dy)
    np.testing.assert_array_equal(mlp.forward(x), y)
    for _ in range(2):  # gradients are overwritten, not accumulated
        got_dx, got_grads = mlp.backward(dy)
        np.testing.assert_array_equal(got_dx, dx)
        np.testing.assert_array_equal(got_grads, grads)
    # forward keeps a copy of x, so later changes of x have no effect.
    mlp.forward(x)
    x[:] = 0
    np.testing.assert_array_equal(mlp.backward(dy)[1], grads)


def test_value_and_grad_is_the_slope():
    mlp, loss = small(dtype="float64"), fm.MSE()
    x, y = np.random.default_rng(0).standard_normal((2, 6, 4))
    value, grads = mlp.value_and_grad(x, y[:, :3], loss)
    assert value == mlp.evaluate(x, y[:, :3], loss)
    direction = np.random.default_rng(1).standard_normal(mlp.n_params)
    step, centre = 1e-6, mlp.params.copy()
    values = []
    for sign in (1, -1):
        mlp.params[:] = centre + sign * step * direction
        values.append(mlp.evaluate(x, y[:, :3], loss))
    slope = (values[0] - values[1]) / (2 * step)
    # Truncation of order step**2, rounding of order 1e-16 / step.
    np.testing.assert_allclose(slope, grads @ direction, rtol=1e-7)


def test_train_step_returns_the_loss_before_it():
    mlp, opt = small(), fm.SGD(0.1)
    x, y = np.ones((2, 4), "float32"), np.ones((2, 3), "float32")
    value, grads = mlp.value_and_grad(x, y, fm.MSE())
    wanted = mlp.params - np.float32(0.1) * grads
    assert mlp.train_step(x, y, fm.MSE(), opt) == value
    # A product and a difference, with one or two roundings.
    np.testing.assert_allclose(mlp.params, wanted, rtol=0, atol=1e-7)
    assert mlp.evaluate(x, y, fm.MSE()) < value


def test_threads_may_share_a_model():
    mlp = fm.MLP([16, 32, 8], seed=0)
    x = np.random.default_rng(0).standard_normal((64, 16)).astype("float32")
    wanted, wrong = mlp(x), []

    def work():
        for _ in range(50):
            if not np.array_equal(mlp(x), wanted):
                wrong.append(True)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


# Copies -------------------------------------------------------------------------------


def through_joblib_memmap(mlp):
    """A model as joblib passes it to its workers, with arrays in read-only memory."""
    buffers = []
    data = pickle.dumps(mlp, protocol=5, buffer_callback=buffers.append)
    frozen = [np.frombuffer(bytes(b.raw()), np.uint8) for b in buffers]
    assert not any(b.flags.writeable for b in frozen)
    return pickle.loads(data, buffers=frozen)


COPIES = {
    "copy()": lambda mlp: mlp.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda mlp: pickle.loads(pickle.dumps(mlp)),
    "pickle 2": lambda mlp: pickle.loads(pickle.dumps(mlp, protocol=2)),
    "read-only memory": through_joblib_memmap,
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_are_equal_and_independent(way):
    mlp = fm.MLP(
        [4, 6, fm.Dense(5, "gelu", bias=False), 3], output_activation="softmax", seed=0
    )
    x, y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
    options = {"loss": fm.MSE(), "epochs": 2, "batch_size": 3}
    mlp.fit(x, y, optimizer=fm.SGD(0.1), **options)
    other = COPIES[way](mlp)
    assert (repr(other), other.layers) == (repr(mlp), mlp.layers)
    assert other.history.to_dict() == mlp.history.to_dict()
    np.testing.assert_array_equal(other.params, mlp.params)
    assert not np.shares_memory(other.params, mlp.params)
    assert other.params.flags.writeable

    # Both continue in the same way, including the order of samples.
    for each in (mlp, other):
        each.fit(x, y, optimizer=fm.SGD(0.1), **options)
    np.testing.assert_array_equal(other.params, mlp.params)
    mlp.params[:] = 0
    assert other.params.any()
    with pytest.raises(RuntimeError, match="forward"):
        COPIES[way](mlp).backward(y)


def test_subclasses_are_copied_whole():
    other = pickle.loads(pickle.dumps(Named([2, 3], "me")))
    assert type(other) is Named
    assert other.name == "me"
    assert repr(other) == "Named([2, 3])"


class Named(fm.MLP):
    def __init__(self, layers, name):
        super().__init__(layers, seed=0)
        self.name = name


# Text ---------------------------------------------------------------------------------


def test_repr_makes_the_same_architecture():
    for mlp in [
        fm.MLP([4, 2]),
        small(output_activation="sigmoid", init="torch", bias=False, dtype="float64"),
        fm.MLP([4, fm.Dense(3, "elu", bias=False, init="zeros"), fm.Dense(2)]),
    ]:
        other = eval(repr(mlp), vars(fm))
        assert other.layers == mlp.layers
        assert other.dtype == mlp.dtype
    assert repr(fm.MLP([np.int64(4), 2])) == "MLP([4, 2])"
    assert repr(small()) == "MLP([4, 7, 5, 3], activation='tanh')"
