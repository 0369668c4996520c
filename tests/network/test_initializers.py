"""Initialisers with options, of biases and by functions; LSUV."""

import copy
import math
import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import initializers
from fastmlp.initializers import (
    Constant,
    Function,
    Identity,
    Normal,
    Orthogonal,
    Siren,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    lsuv,
)

# Number of standard errors by which a sample moment of a fixed seed may be off.
SIGMAS = 5
SHAPE = (300, 200)

OBJECTS = [
    Normal(0.3, mean=0.1),
    Uniform(-1, 3),
    TruncatedNormal(0.3, -1, 3, mean=0.1),
    Constant(-2.5),
    VarianceScaling(0.3, "fan_out", "truncated_normal"),
    Identity(0.5),
    Sparse(0.9, 0.1),
    Siren(20),
    Orthogonal(0.01),
    Function("draw"),
]
DRAWN = [init for init in OBJECTS if callable(init)]


def drawn(init, shape=SHAPE, seed=0):
    return init(np.random.default_rng(seed), shape)


def phi(z):
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def big_phi(z):
    return math.erfc(-z / math.sqrt(2)) / 2


def truncated_moments(low, high):
    """Mean and standard deviation of the standard normal between two limits."""
    total = big_phi(high) - big_phi(low)
    mean = (phi(low) - phi(high)) / total
    second = 1 + (low * phi(low) - high * phi(high)) / total
    return mean, math.sqrt(second - mean**2)


def assert_moments(values, mean, std, fourth=3.0):
    """``fourth`` is at least the fourth standardised moment of the distribution."""
    error = std / math.sqrt(values.size)
    assert abs(values.mean() - mean) < SIGMAS * error
    relative = math.sqrt((fourth - 1) / 4 / values.size)
    assert abs(values.std() / std - 1) < SIGMAS * relative


# Distributions ------------------------------------------------------------------------


def test_normal_and_uniform():
    assert_moments(drawn(Normal(0.3, mean=0.1)), 0.1, 0.3)
    values = drawn(Uniform(-1, 3))
    assert_moments(values, 1, 4 / math.sqrt(12))
    assert -1 <= values.min() < -0.99
    assert 2.99 < values.max() <= 3


def test_the_constant_of_the_truncated_normal():
    wanted = truncated_moments(-2, 2)[1]
    # erfc and exp have a few units of rounding error.
    assert pytest.approx(wanted, rel=1e-14) == initializers._rules.TRUNCATED_STD


@pytest.mark.parametrize(
    ("low", "high"),
    [(-2, 2), (-1, 3), (0, 0.01), (0.5, 1), (-40, 40), (-1000, 1000), (-3, -2.5)],
)
def test_truncated_normal(low, high):
    values = drawn(TruncatedNormal(0.5, low, high, mean=2.0))
    mean, std = truncated_moments(low, high)
    assert_moments(values, 2 + 0.5 * mean, 0.5 * std)
    assert 2 + 0.5 * low <= values.min()
    assert values.max() <= 2 + 0.5 * high


def test_truncated_normal_of_a_far_tail():
    """Far from 0, z - low is nearly exponential, with the rate low."""
    for low in (20.0, 999.0):
        z = drawn(TruncatedNormal(1.0, low, 1000.0), (20, 100))
        assert z.min() >= low
        assert low * (z.mean() - low) == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("distribution", ["normal", "uniform", "truncated_normal"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_variance_scaling_is_that_of_keras_and_jax(mode, distribution):
    """Keras: fan_in of a kernel (in, out) is in; limits are those of its formulas."""
    n_in, n_out = SHAPE
    fan = {"fan_in": n_in, "fan_out": n_out, "fan_avg": (n_in + n_out) / 2}[mode]
    std = math.sqrt(1.7 / fan)
    values = drawn(VarianceScaling(1.7, mode, distribution))
    assert_moments(values, 0, std)
    limit = {
        "normal": math.inf,
        "uniform": math.sqrt(3 * 1.7 / fan),
        "truncated_normal": 2 * std / 0.87962566103423978,
    }[distribution]
    assert 0.99 * min(limit, 4 * std) < abs(values).max() <= limit


@pytest.mark.parametrize("n_in", [1, 3, 64])
def test_named_families_are_variance_scaling(n_in):
    for family, scale, mode in [
        ("he", 2.0, "fan_in"),
        ("lecun", 1.0, "fan_in"),
        ("glorot", 1.0, "fan_avg"),
    ]:
        for kind in ("normal", "uniform", "truncated_normal"):
            named = fm.MLP([n_in, 7], init=f"{family}_{kind}", seed=1)
            scaled = fm.MLP([n_in, 7], init=VarianceScaling(scale, mode, kind), seed=1)
            assert named.params.tobytes() == scaled.params.tobytes()


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 1)])
def test_identity_and_constants(shape):
    np.testing.assert_array_equal(drawn(Identity(0.5), shape), 0.5 * np.eye(*shape))
    np.testing.assert_array_equal(drawn(Constant(-2.5), shape), np.full(shape, -2.5))
    mlp = fm.MLP(list(shape), init="identity")
    x = np.arange(shape[0], dtype="float32")[np.newaxis]
    np.testing.assert_array_equal(mlp(x)[0, : min(shape)], x[0, : min(shape)])
    assert (fm.MLP([3, 2], init="ones").weights[0] == 1).all()


@pytest.mark.parametrize(
    ("n_in", "sparsity", "zeros"), [(300, 0.95, 285), (7, 0.5, 4), (9, 0, 0), (9, 1, 9)]
)
def test_sparse(n_in, sparsity, zeros):
    weight = drawn(Sparse(sparsity, 0.1), (n_in, 200))
    assert ((weight == 0).sum(axis=0) == zeros).all()
    if 0 < zeros < n_in:  # any input may be left out
        share = (weight == 0).mean(axis=1)
        assert abs(share - zeros / n_in).max() < SIGMAS * 0.5 / math.sqrt(200)
        assert_moments(weight[weight != 0], 0, 0.1)


def test_orthogonal_with_gain():
    plain = fm.MLP([20, 9], init="orthogonal", dtype="float64", seed=0)
    scaled = fm.MLP([20, 9], init=Orthogonal(3.0), dtype="float64", seed=0)
    np.testing.assert_array_equal(scaled.params, 3.0 * plain.params)
    same = fm.MLP([20, 9], init=Orthogonal(), dtype="float64", seed=0)
    assert same.params.tobytes() == plain.params.tobytes()


def test_siren_is_that_of_the_authors():
    w0, widths = 25.0, [40, 300, 200, 90]
    folded = fm.MLP(widths, activation="sin", init=Siren(w0), dtype="float64", seed=2)

    def wave(z):
        return np.sin(w0 * z)

    def slope(z):
        return w0 * np.cos(w0 * z)

    # The same with the factor in the activation: sin(w0 (x @ W + b)).
    sine = fm.Activation(wave, slope)
    plain = fm.MLP(
        [40, fm.Dense(300, "identity"), sine, fm.Dense(200, "identity"), sine, 90],
        init=Siren(w0),
        dtype="float64",
        seed=2,
    )
    limits = [1 / 40, math.sqrt(6 / 300) / w0, math.sqrt(6 / 200) / w0]
    for i, (limit, n_in) in enumerate(zip(limits, widths, strict=False)):
        factor = 1.0 if i == 2 else w0
        for mlp, scale in ((plain, 1.0), (folded, factor)):
            for array, bound in (
                (mlp.weights[i], limit * scale),
                (mlp.biases[i], scale / math.sqrt(n_in)),
            ):
                assert 0.97 * bound < abs(array).max() <= bound
                assert_moments(array, 0, bound / math.sqrt(3))
    x = np.random.default_rng(0).uniform(-1, 1, (7, 40))
    # A product's rounding error is multiplied by w0 in each of two layers.
    np.testing.assert_allclose(folded(x), plain(x), rtol=1e-10, atol=1e-11)


# Biases -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", initializers.BIAS_INITIALIZERS)
def test_biases_by_name(name):
    mlp = fm.MLP([100, 900, 400], bias_init=name, dtype="float64", seed=0)
    weight_only = fm.MLP([100, 900, 400], dtype="float64", seed=0)
    assert mlp.weights[0].tobytes() == weight_only.weights[0].tobytes()
    limit = {
        "zeros": 0,
        "ones": 1,
        "uniform": 0.05,
        "truncated_normal": 0.1,
        "torch": 1 / math.sqrt(100),
        "siren": 1 / math.sqrt(100),
        "sklearn": math.sqrt(6 / 1000),
        "normal": math.inf,
    }[name]
    b = mlp.biases[0]
    assert 0.99 * min(limit, 0.15) <= abs(b).max() <= limit
    assert mlp.layers[0].bias_init == name


def test_layers_come_before_the_model():
    block = fm.Residual([fm.Dense(6, bias_init=Constant(4.0))])
    mlp = fm.MLP(
        [3, fm.Dense(4, bias_init="ones"), fm.Dense(5, bias=False), block, 2],
        init="torch",
        bias_init=Constant(-2.0),
        seed=0,
    )
    found = [None if b is None else set(b.tolist()) for b in mlp.biases]
    assert found == [{1.0}, None, {4.0}, {-2.0}, {-2.0}]  # the projection comes fourth
    assert all(0 < abs(w).max() <= 1 / math.sqrt(len(w)) for w in mlp.weights)
    assert "bias_init=initializers.Constant(value=-2.0)" in repr(mlp)
    assert "bias_init" not in repr(fm.MLP([3, 2]))
    again = eval(repr(mlp), vars(fm))
    assert again.layers == mlp.layers


# Functions ----------------------------------------------------------------------------


def counting(rng, shape):
    return np.arange(math.prod(shape)).reshape(shape)


def test_functions():
    calls = []

    def own(rng, shape):
        calls.append(shape)
        return rng.uniform(5, 6, shape)

    mlp = fm.MLP([4, fm.Dense(3, init=counting), 2], init=own, bias_init=own, seed=7)
    assert mlp.weights[0].tolist() == np.arange(12.0).reshape(4, 3).tolist()
    assert calls == [(3,), (3, 2), (2,)]
    rng = np.random.default_rng(7)
    for array in (mlp.biases[0], mlp.weights[1], mlp.biases[1]):
        wanted = rng.uniform(5, 6, array.shape).astype("float32")
        np.testing.assert_array_equal(array, wanted)
    # An object is such a function, too.
    by_object = fm.MLP([4, 3], init=Normal(0.2), seed=7)
    by_function = fm.MLP([4, 3], init=lambda rng, s: rng.normal(0, 0.2, s), seed=7)
    assert by_object.params.tobytes() == by_function.params.tobytes()
    # Copies and derived models call no function.
    del calls[:]
    for other in (mlp.copy(), copy.deepcopy(mlp), mlp.fold()):
        assert other.params.tobytes() == mlp.params.tobytes()
        assert other.layers[0].init is counting
    assert calls == []
    again = pickle.loads(pickle.dumps(fm.MLP([4, 2], init=counting, seed=0)))
    assert again.layers[0].init is counting


class Halved:
    def __call__(self, rng, shape):
        return rng.random(shape) / 2


class Renamed(Normal):
    pass


def test_files_hold_objects_and_the_names_of_functions(tmp_path):
    path = tmp_path / "model.safetensors"
    for init in (Halved(), Renamed(1.0)):  # objects of the user's classes
        fm.MLP([4, 2], init=init).save(path)
        assert fm.load(path).layers[0].init == Function(type(init).__name__)
    for init in OBJECTS[:-1]:
        own = init if init._draws_biases else None
        layers = [4, fm.Dense(3, init=init, bias_init=own), fm.BatchNorm(), 2]
        mlp = fm.MLP(layers, init=init, bias_init=own, seed=0)
        mlp.save(path)
        again = fm.load(path)
        assert (again.layers, repr(again)) == (mlp.layers, repr(mlp))
        assert again.fold().layers == mlp.fold().layers
    fm.MLP([4, fm.Dense(3, init=counting), 2], init=lambda r, s: r.random(s)).save(path)
    for _ in range(2):
        again = fm.load(path)
        assert again.layers[0].init == Function("counting")
        assert "<lambda>" in again.layers[1].init.name
        assert again.fold().params.size == again.params.size
        again.save(path)  # the name stays
    with pytest.raises(ValueError, match=r"^init must be given again: .* counting"):
        fm.MLP([4, again.layers[0]])


def test_files_without_options_are_as_before(tmp_path):
    path = tmp_path / "model.safetensors"
    fm.MLP([4, 3, fm.Dense(2, init="zeros")]).save(path)
    assert b"bias_init" not in path.read_bytes()


def test_checkpoints(tmp_path):
    def make():
        return fm.MLP([3, fm.Dense(4, init=counting), 1], init=Normal(0.1), seed=0)

    path = tmp_path / "run.safetensors"
    mlp, opt, x = make(), fm.Adam(), np.ones((8, 3))
    mlp.fit(
        x,
        x[:, :1],
        loss=fm.MSE(),
        optimizer=opt,
        epochs=2,
        batch_size=4,
        callbacks=[fm.Checkpoint(path)],
        progress=False,
    )
    other = make()
    fm.Checkpoint.load(path, other, fm.Adam())
    assert other.params.tobytes() == mlp.params.tobytes()


# Objects ------------------------------------------------------------------------------


@pytest.mark.parametrize("init", OBJECTS, ids=repr)
def test_objects_are_values(init):
    for other in (
        copy.deepcopy(init),
        pickle.loads(pickle.dumps(init)),
        eval(repr(init), vars(fm)),
    ):
        assert other == init
        assert hash(other) == hash(init)
    assert init != Normal(0.123)
    with pytest.raises(AttributeError, match="create a new initialiser"):
        init.anything = 1
    dense = fm.Dense(3, init=init)
    assert dense == fm.Dense(3, init=copy.deepcopy(init))
    assert dense != fm.Dense(3)
    assert len({dense, fm.Dense(3, init=init)}) == 1
    assert eval(repr(dense), vars(fm)) == dense


@pytest.mark.parametrize("init", DRAWN, ids=repr)
def test_same_bits_on_every_isa(init):
    wanted = drawn(init, (50, 70))
    assert wanted.dtype == np.float64
    for isa in fm.available_isas():
        with fm.use_isa(isa):
            assert drawn(init, (50, 70)).tobytes() == wanted.tobytes()
    if init._draws_biases:
        assert drawn(init, (7,)).shape == (7,)


def test_draws_in_both_dtypes_are_rounded_once():
    for init in (*DRAWN, Siren()):
        wide = fm.MLP([5, 7, 2], init=init, activation="sin", dtype="float64", seed=3)
        narrow = fm.MLP([5, 7, 2], init=init, activation="sin", seed=3)
        np.testing.assert_array_equal(narrow.params, wide.params.astype("float32"))


# Unit variance ------------------------------------------------------------------------


def random_rows(mlp, rows=256):
    return 3 * np.random.default_rng(0).standard_normal((rows, mlp.n_in)) + 1


def variances_of_layers(mlp, x):
    """Variances before the activations of a plain chain, by numpy."""
    h, found = x, []
    for layer, w, b in zip(mlp.layers, mlp.weights, mlp.biases, strict=True):
        z = h @ w + b
        found.append(z.var())
        h = np.tanh(z) if layer.activation == "tanh" else np.maximum(z, 0)
    return found


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lsuv_makes_unit_variances(activation, dtype):
    mlp = fm.MLP(
        [5, 30, 40, 3],
        activation=activation,
        output_activation=activation,
        init="orthogonal",
        dtype=dtype,
        seed=0,
    )
    x, before = random_rows(mlp), mlp.copy()
    found = lsuv(mlp, x, tol=1e-3)
    np.testing.assert_allclose(found, 1, atol=1e-3)
    rtol = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(variances_of_layers(mlp, x), found, rtol=rtol)
    for new, old in zip(mlp.weights, before.weights, strict=True):
        ratio = new / old
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=rtol)
    bits = []
    for isa in fm.available_isas():
        with fm.use_isa(isa):
            other = before.copy()
            lsuv(other, x, tol=1e-3)
            bits.append(other.params.tobytes())
    assert set(bits) == {mlp.params.tobytes()}


def test_lsuv_of_all_kinds_of_layers():
    def never(rng, shape):
        if called:
            raise AssertionError("the parameters are given")
        return rng.normal(0, 3, shape)

    called = []
    block = fm.Residual(
        [fm.LayerNorm(), fm.Dense(9, "relu"), fm.Residual([4, fm.Dropout(0.9)]), 9]
    )
    layers = [6, fm.Dense(8, "identity", init=never), fm.BatchNorm(), fm.Dropout(0.5)]
    mlp = fm.MLP(
        [*layers, fm.Activation("tanh"), block, fm.Dense(2, "softmax")],
        init=Normal(0.3),
        bias_init=Normal(0.2),
        dtype="float64",
        seed=1,
    )
    called.append(True)
    before, running = mlp.copy(), mlp.buffers.copy()
    found = lsuv(mlp, random_rows(mlp), max_iter=30, tol=1e-6)
    assert len(found) == len(mlp.weights) == 7
    np.testing.assert_allclose(found, 1, atol=1e-6)
    for new, old in zip(mlp.biases, before.biases, strict=True):
        np.testing.assert_array_equal(new, old)
    np.testing.assert_array_equal(mlp.buffers, running)
    once = lsuv(before, random_rows(mlp), max_iter=1)
    assert any(abs(variance - 1) > 0.1 for variance in once)


def test_lsuv_gives_projections_the_input_of_the_block():
    block = fm.Residual([fm.Dense(5, "relu"), fm.BatchNorm(), fm.Dense(3, "identity")])
    mlp = fm.MLP([4, 6, block, 2], init="torch", dtype="float64", seed=0)
    x = random_rows(mlp)
    found = lsuv(mlp, x, tol=1e-4)
    (w0, w1, w2, p, w3), (b0, b1, b2, c, b3) = mlp.weights, mlp.biases
    h = np.maximum(x @ w0 + b0, 0)
    inside = np.maximum(h @ w1 + b1, 0)
    normal = (inside - inside.mean(0)) / np.sqrt(inside.var(0) + 1e-5)
    body, across = normal @ w2 + b2, h @ p + c
    values = [x @ w0 + b0, h @ w1 + b1, body, across, (body + across) @ w3 + b3]
    np.testing.assert_allclose([v.var() for v in values], found, rtol=1e-12)
    np.testing.assert_allclose(found, 1, atol=1e-4)


def test_lsuv_leaves_the_model_as_it_is_after_an_error():
    mlp = fm.MLP([3, 4, fm.Dense(5, init="zeros"), 2], seed=0)
    before = mlp.params.copy()
    for call, error, words in [
        (lambda: lsuv(mlp, np.eye(3)), ValueError, "^x must give .* layer 1 .* of 0$"),
        (lambda: lsuv(mlp, np.zeros((4, 3))), ValueError, "^x must give .* layer 0"),
        (lambda: lsuv(mlp, np.zeros((4, 2))), ValueError, "^x must have shape"),
        (lambda: lsuv(mlp, np.full((4, 3), np.nan)), ValueError, "^x must be finite"),
        (lambda: lsuv(mlp, np.eye(3), tol=0), ValueError, "^tol must be"),
        (lambda: lsuv(mlp, np.eye(3), max_iter=0), ValueError, "^max_iter must be"),
        (lambda: lsuv(3, np.eye(3)), TypeError, r"^mlp must be a fastmlp.MLP, got 3"),
    ]:
        with pytest.raises(error, match=words):
            call()
        np.testing.assert_array_equal(mlp.params, before)


# Bad input ----------------------------------------------------------------------------


BAD = [
    (lambda: Normal(0.0), ValueError, "^std must be finite and > 0"),
    (lambda: Normal(1.0, mean="x"), TypeError, "^mean must be a number"),
    (lambda: Normal(0.0, 0.02), TypeError, "takes only std by position"),
    (lambda: Uniform(1.0, 1.0), ValueError, "^high must be finite and > 1"),
    (lambda: Uniform(-1e308, 1e308), ValueError, "^high - low must be finite"),
    (lambda: TruncatedNormal(1.0, 2, 1), ValueError, "^high must be"),
    (lambda: TruncatedNormal(1.0, -2000, 1), ValueError, "^low must be"),
    (lambda: Constant(np.nan), ValueError, "^value must be finite"),
    (lambda: VarianceScaling(-1), ValueError, "^scale must be"),
    (lambda: VarianceScaling(1, "in"), ValueError, "^mode must be one of fan_in"),
    (lambda: VarianceScaling(1, distribution="x"), ValueError, "^distribution must be"),
    (lambda: Sparse(1.5), ValueError, "^sparsity must be"),
    (lambda: Siren(0), ValueError, "^w0 must be"),
    (lambda: Orthogonal(0.0), ValueError, "^gain must be"),
    (lambda: Function(3), TypeError, "^name must be a str"),
    (lambda: drawn(Orthogonal(), (3,)), ValueError, r"^shape must be \(in, out\)"),
    (lambda: drawn(Normal(), 3), TypeError, "^shape must be a sequence"),
    (lambda: drawn(Normal(), (0, 3)), ValueError, r"^shape\[0\] must be at least 1"),
    (lambda: Normal()(3, (3, 4)), TypeError, "^rng must be a numpy.random.Generator"),
    (lambda: fm.Dense(3, init=3), TypeError, "^init must be a name .* got 3"),
    (lambda: fm.Dense(3, init=Orthogonal), TypeError, r"did you mean .*Orthogonal\("),
    (lambda: fm.Dense(3, init="eye"), ValueError, "did you mean 'identity'"),
    (lambda: fm.Dense(3, bias_init="auto"), ValueError, "^bias_init must be one of"),
    (
        lambda: fm.Dense(3, bias_init=Orthogonal()),
        ValueError,
        "^bias_init must not depend on the shape .* got initializers.Orthogonal",
    ),
    (lambda: fm.Dense(3, bias=False, bias_init="ones"), ValueError, "^bias_init must"),
    (lambda: fm.MLP([3, 2], bias_init=3), TypeError, "^bias_init must be a name"),
    (
        lambda: fm.MLP([3, 2], init=lambda rng, shape: np.zeros(3)),
        ValueError,
        r"^init must return an array of shape \(3, 2\), got .* \(3,\)",
    ),
    (
        lambda: fm.MLP([3, 2], bias_init=lambda rng, shape: None),
        TypeError,
        "^the array from bias_init must",
    ),
    (
        lambda: fm.MLP([3, 2], init=lambda rng, shape: np.full(shape, np.inf)),
        ValueError,
        "^init must give finite numbers in float32",
    ),
    (
        lambda: fm.MLP([3, 2], bias_init=Constant(1e300)),
        ValueError,
        "^bias_init must give finite numbers in float32",
    ),
    (
        lambda: fm.MLP([3, 2], init=initializers.Initializer()),
        TypeError,
        "Initializer is abstract",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
