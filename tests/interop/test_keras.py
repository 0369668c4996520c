"""Networks from Keras models: the same outputs, or an error that says why not."""

from __future__ import annotations

import os
import subprocess
import sys

import fastmlp as fm
import numpy as np
import pytest

# Relative to the largest output: Keras sums in a different order and uses numpy's
# elementary functions. On NumPy, Keras computes even float64 layers in float32.
OUTPUT_RTOL = 1e-6


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """Keras on NumPy, without reading or writing the user's settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "numpy")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        # Keras' NumPy backend imports JAX, which is not among its requirements.
        pytest.importorskip("jax", reason="Keras on NumPy needs JAX")
        yield pytest.importorskip("keras", reason="Keras models are converted")


@pytest.fixture
def layers(keras):
    return keras.layers


def spread(model, rng):
    """Set all variables to random values, with positive variances."""
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.path.rpartition("/")[2]
        # Small values, as exponentials of exponentials amplify rounding errors.
        values = 0.2 * rng.standard_normal(shape)
        if name in ("gamma", "moving_variance"):
            values = rng.uniform(0.5, 2, shape)
        variable.assign(values)
    return model


def check(model, rng, n_in, mlp=None, least=0.0):
    """Compare the outputs, relative to the largest one or to ``least``."""
    mlp = fm.from_keras(model) if mlp is None else mlp
    assert mlp.n_in == n_in
    x = rng.standard_normal((11, n_in)).astype(mlp.dtype)
    expected = np.asarray(model(x, training=False))
    y = mlp(x)
    assert y.shape == expected.shape
    assert abs(y - expected).max() <= OUTPUT_RTOL * max(abs(expected).max(), least)
    return mlp


NAMES = {
    "celu": "celu",
    "elu": "elu",
    "exponential": "exp",
    "gelu": "gelu",
    "hard_shrink": "hardshrink",
    "hard_sigmoid": "hardsigmoid",
    "hard_silu": "hardswish",
    "hard_tanh": "hardtanh",
    "leaky_relu": fm.Activation("leaky_relu", slope=0.2),
    "linear": "identity",
    "log_sigmoid": "logsigmoid",
    "mish": "mish",
    "relu": "relu",
    "relu6": "relu6",
    "selu": "selu",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "soft_shrink": "softshrink",
    "softmax": "softmax",
    "softplus": "softplus",
    "softsign": "softsign",
    "tanh": "tanh",
    "tanh_shrink": "tanhshrink",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype_name", ["float32", "float64"])
def test_dense_layers_with_every_activation(name, dtype_name, keras, layers, rng):
    model = keras.Sequential(
        [
            keras.Input((5,), dtype=dtype_name),
            layers.Dense(8, activation=name, dtype=dtype_name),
            layers.Dense(3, activation=name, dtype=dtype_name),
        ]
    )
    # Keras subtracts numbers of about 1 for small results of tanh_shrink.
    least = 1.0 if name == "tanh_shrink" else 0.0
    mlp = check(spread(model, rng), rng, 5, least=least)
    assert mlp.dtype == dtype_name
    assert [layer.activation for layer in mlp.layers] == [NAMES[name]] * 2
    # Keras' kernels have the layout (in, out), as here.
    np.testing.assert_array_equal(mlp.weights[0], np.asarray(model.weights[0]))


OPERATIONS = "cos elu gelu relu selu sigmoid silu sin softmax softplus softsign tanh"


@pytest.mark.parametrize("name", OPERATIONS.split())
def test_operations_as_activations(name, keras, layers, rng):
    """All operations keep their names, except gelu, which is the tanh approximation."""
    dense = layers.Dense(8, activation=getattr(keras.ops, name))
    dense.build((None, 5))
    mlp = check(spread(dense, rng), rng, 5)
    assert mlp.layers[0].activation == ("gelu_tanh" if name == "gelu" else name)


SEQUENCES = {
    "no hidden layer": lambda L: [L.Dense(3)],
    "no bias": lambda L: [L.Dense(6, use_bias=False), L.Dense(2, use_bias=False)],
    "activation layers": lambda L: [
        *(L.Dense(6), L.Activation("tanh")),
        *(L.Dense(6), L.ReLU(), L.Dense(6), L.ELU(), L.Dense(6)),
        *(L.LeakyReLU(negative_slope=0.01), L.Dense(6), L.ReLU(negative_slope=0.1)),
        *(L.Dense(6), L.LeakyReLU(), L.Dense(6), L.ELU(alpha=0.5), L.Dense(6)),
        *(L.ReLU(max_value=6), L.Dense(6), L.ReLU(max_value=0.3), L.Dense(6)),
        *(L.ReLU(threshold=0.3),),
        *(L.Dense(3), L.Softmax()),
    ],
    "layers as activations": lambda L: [
        L.Dense(6, activation=L.LeakyReLU(negative_slope=0.01)),
        L.Dense(3, activation=L.Softmax()),
    ],
    "dropout": lambda L: [L.Dropout(0.25), L.Dense(6), L.Dropout(0.5), L.Dense(3)],
    "alpha dropout": lambda L: [L.AlphaDropout(0.25), L.Dense(3)],
    "noise": lambda L: [L.GaussianNoise(0.25), L.Dense(3), L.GaussianDropout(0.1)],
    "layer norm": lambda L: [
        *(L.LayerNormalization(), L.Dense(6)),
        *(L.LayerNormalization(epsilon=0.1, center=False), L.Dense(6)),
        *(L.LayerNormalization(scale=False), L.Dense(6)),
        *(L.LayerNormalization(scale=False, center=False), L.Dense(3)),
    ],
    "rms norm": lambda L: [
        *(L.RMSNormalization(), L.Dense(6)),
        *(L.RMSNormalization(epsilon=0.1), L.Dense(3)),
    ],
    "group norm": lambda L: [
        *(L.Dense(6), L.GroupNormalization(3)),
        *(L.Dense(6), L.GroupNormalization(2, epsilon=0.1, center=False)),
        *(L.Dense(6), L.GroupNormalization(1, axis=1, scale=False)),
        *(L.Dense(6), L.GroupNormalization(2, scale=False, center=False), L.Dense(3)),
    ],
    "batch norm": lambda L: [
        *(L.BatchNormalization(), L.Dense(6)),
        *(L.BatchNormalization(epsilon=0.1, center=False), L.Dense(6)),
        *(L.BatchNormalization(scale=False, momentum=0.9), L.Dense(6)),
        *(L.BatchNormalization(scale=False, center=False), L.Dense(3)),
    ],
    "nothing": lambda L: [L.Identity()],
    "flatten": lambda L: [L.Flatten(), L.Dense(3), L.Flatten()],
}


@pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize("functional", [False, True], ids=["sequential", "functional"])
def test_sequences(make, functional, keras, layers, rng):
    chain = make(layers)
    if functional:
        value = first = keras.Input((5,))
        for layer in chain:
            value = layer(value)
        model = keras.Model(first, value)
    else:
        model = keras.Sequential([keras.Input((5,)), *chain])
    check(spread(model, rng), rng, 5)


def adapted(layer, rng, n):
    layer.adapt((rng.standard_normal((40, n)) * 3 + 5).astype(np.float32))
    return layer


def test_normalization(keras, layers, rng):
    """Learnt and given statistics, at both ends, in the middle, and of constants."""
    width = {"input_shape": (None, 5)}
    first = adapted(layers.Normalization(), rng, 5)
    given = layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 4, 0.5, 2])
    middle = adapted(layers.Normalization(invert=True), rng, 6)
    last = adapted(layers.Normalization(invert=True), rng, 3)
    chain = [
        *(first, layers.Dense(4), given, layers.Activation("tanh")),
        *(layers.Dense(6), middle, layers.Dense(3), last),
    ]
    model = keras.Sequential([keras.Input((5,)), *chain])
    mlp = check(model, rng, 5)
    kinds = [i for i, layer in enumerate(mlp.layers) if type(layer) is fm.Standardise]
    assert kinds == [0, 2, 5, 7]
    assert mlp.layers[-1] == fm.Standardise(inverse=True)
    np.testing.assert_array_equal(mlp.buffers[:5], np.asarray(first.mean)[0])

    alone = layers.Normalization()
    alone.build(**width)
    alone.adapt(np.ones((4, 5), np.float32))  # a deviation of Keras' epsilon
    assert fm.from_keras(alone)(np.full((1, 5), 1.5))[0, 0] == pytest.approx(5e6)


def test_normalization_in_residual_blocks(keras, layers, rng):
    first = keras.Input((5,))
    body = adapted(layers.Normalization(), rng, 5)(first)
    body = adapted(layers.Normalization(invert=True), rng, 5)(layers.Dense(5)(body))
    mlp = check(keras.Model(first, layers.Dense(2)(first + body)), rng, 5)
    assert mlp.layers[0].layers[::2] == (fm.Standardise(), fm.Standardise())


@pytest.mark.parametrize("offset", [0.0, -1.0, [0.5, 1.0, 2.0, 3.0, 4.0]])
@pytest.mark.parametrize("scale", [1 / 255, 3.0])
def test_rescaling(scale, offset, keras, layers, rng):
    first, last = layers.Rescaling(scale, offset), layers.Rescaling(scale, 2.0)
    chain = [first, layers.Dense(6, "tanh"), layers.Dense(3), last]
    mlp = check(keras.Sequential([keras.Input((5,)), *chain]), rng, 5)
    assert mlp.layers[0] == fm.Standardise()
    assert mlp.layers[-1] == fm.Standardise(inverse=True)


def test_numbers_of_layers(keras, layers):
    chain = [
        layers.Dense(4),
        layers.Dropout(0.25),
        layers.AlphaDropout(0.125),
        layers.GaussianNoise(0.5),
        layers.GaussianDropout(0.25),
        layers.LayerNormalization(scale=False, center=False),
        layers.BatchNormalization(momentum=0.95, center=False),
    ]
    model = keras.Sequential([keras.Input((3,)), *chain])
    assert fm.from_keras(model).layers == (
        fm.Dense(4, "identity", True, "auto"),
        fm.Dropout(0.25),
        fm.AlphaDropout(0.125),
        fm.GaussianNoise(0.5),
        fm.GaussianDropout(0.25),
        fm.LayerNorm(eps=1e-3, affine=False),
        fm.BatchNorm(eps=1e-3, momentum=0.05),
    )


@pytest.mark.parametrize(
    ("kind", "width"), [("Dense", 4), ("LayerNormalization", 3)], ids=str
)
def test_layers_alone(kind, width, layers, rng):
    layer = layers.Dense(4, "relu") if kind == "Dense" else getattr(layers, kind)()
    layer.build((None, 3))
    assert check(spread(layer, rng), rng, 3).n_out == width


def test_models_built_by_data(keras, layers, rng):
    model = keras.Sequential([layers.BatchNormalization(), layers.Dense(4)])
    model(np.zeros((2, 3), np.float32))
    check(spread(model, rng), rng, 3)


def test_models_within_models(keras, layers, rng):
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4, "tanh")])
    first = keras.Input((4,))
    graph = keras.Model(first, layers.Dense(2)(first))
    outer = keras.Sequential([keras.Input((5,)), layers.Dense(6), inner, graph])
    assert len(check(spread(outer, rng), rng, 5).layers) == 3
    first = keras.Input((5,))
    model = keras.Model(first, graph(inner(layers.Dense(6)(first))))
    check(spread(model, rng), rng, 5)


def test_a_first_flatten(keras, layers, rng):
    model = keras.Sequential([keras.Input((4, 3)), layers.Flatten(), layers.Dense(2)])
    spread(model, rng)
    x = rng.standard_normal((7, 4, 3)).astype(np.float32)
    expected = np.asarray(model(x))
    y = fm.from_keras(model)(x.reshape(7, 12))
    assert abs(y - expected).max() <= OUTPUT_RTOL * abs(expected).max()


def test_residual_blocks(keras, layers, rng):
    """Blocks that are plain, written with +, nested, first, and with projections."""
    first = keras.Input((6,))
    h = layers.Add()([first, layers.Dense(6, "tanh")(first)])
    h = layers.BatchNormalization()(layers.Dense(8)(h))
    body = layers.Dense(8)(layers.ReLU()(layers.LayerNormalization()(h)))
    h = body + h
    inner = layers.Dense(4, "relu")(h)
    inner = inner + layers.Dense(4, "tanh")(inner)
    outer = layers.BatchNormalization()(layers.Dense(8)(inner))
    h = layers.ReLU()(layers.Add()([h, outer]))
    body = layers.Dense(5)(layers.Dense(7, "tanh")(h))
    h = layers.Add()([layers.Dense(5, use_bias=False)(h), body])
    h = layers.Add()([layers.Dense(3, "tanh")(h), layers.Dense(3)(h)])
    model = spread(keras.Model(first, layers.Dense(2)(h)), rng)
    mlp = check(model, rng, 6)
    blocks = [layer for layer in mlp.layers if isinstance(layer, fm.Residual)]
    assert [len(block.layers) for block in blocks] == [1, 3, 4, 2, 1]


def test_layers_side_by_side(keras, layers, rng):
    """Concatenated: with the input first and last, branches, nested, with a norm."""
    first = keras.Input((6,))
    h = layers.Concatenate()([first, layers.Dense(3, "tanh")(first)])
    h = layers.Dense(5, "relu")(h)
    left = layers.Dense(4)(layers.Dense(2, "tanh")(h))
    right = layers.BatchNormalization()(layers.Dense(3)(h))
    right = layers.Concatenate()([right, h])
    h = layers.Concatenate()([left, h, right])
    heads = [layers.Dense(2)(h), layers.Dense(1, "sigmoid")(h)]
    model = spread(keras.Model(first, layers.Concatenate()(heads)), rng)
    mlp = check(model, rng, 6)
    kinds = [type(layer).__name__ for layer in mlp.layers]
    assert kinds == ["Concat", "Dense", "Parallel", "Parallel"]


def test_many_residual_blocks_take_no_time(keras, layers, rng):
    """Each value is visited once, not once for every path to it."""
    value = first = keras.Input((4,))
    for _ in range(40):
        value = value + layers.Dense(4, "tanh")(value)
    mlp = check(spread(keras.Model(first, value), rng), rng, 4)
    assert len(mlp.layers) == 40


def test_it_is_a_copy_to_train_further(keras, layers, rng):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(1)])
    before = [np.asarray(variable).copy() for variable in model.weights]
    mlp = fm.from_keras(model)
    x = rng.standard_normal((20, 3))
    mlp.fit(x, x[:, 0], loss=fm.MSE(), optimizer=fm.Adam(), epochs=2, batch_size=5)
    assert abs(mlp.weights[0] - before[0]).max() > 0
    for variable, array in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), array)


def sequential(*chain, width=(5,)):
    return lambda K: K.Sequential([K.Input(width), *(f(K.layers) for f in chain)])


def graph(make, width=5):
    def build(K):
        first = K.Input((width,))
        return K.Model(first, make(K, first))

    return build


def with_layer_class(K):
    class Mine(K.layers.Dense):
        pass

    return K.Sequential([K.Input((5,)), Mine(3)])


def with_model_class(K):
    class Net(K.Model):
        pass

    return Net()


def with_lora(K):
    model = K.Sequential([K.Input((5,)), K.layers.Dense(4)])
    model.layers[0].enable_lora(2)
    return model


def with_two_inputs(K):
    first, second = K.Input((5,)), K.Input((5,))
    return K.Model([first, second], K.layers.Add()([first, second]))


def with_two_outputs(K):
    first = K.Input((5,))
    return K.Model(first, [K.layers.Dense(2)(first), first])


REFUSED = {
    "slope of relu": (
        sequential(lambda L: L.ReLU(negative_slope=0.1, max_value=2.0)),
        "must have at most one of .*, got 0.1, 2.0 and 0",
    ),
    "alpha": (sequential(lambda L: L.ELU(alpha=-0.5)), "alpha must be .*, got -0.5"),
    "activation": (
        sequential(lambda L: L.Dense(3, activation="squareplus")),
        "has the activation squareplus, which fastmlp does not have",
    ),
    "custom function": (
        sequential(lambda L: L.Activation(lambda z: z)),
        "has the activation <lambda>, which fastmlp does not have",
    ),
    "layer as activation": (
        sequential(lambda L: L.Dense(3, activation=L.PReLU())),
        "has the activation PReLU, which fastmlp does not have",
    ),
    "axis": (
        sequential(lambda L: L.Softmax(axis=0)),
        "must work along the last axis of rows, got axis 0",
    ),
    "noise shape": (
        sequential(lambda L: L.Dropout(0.5, noise_shape=(None, 1))),
        r"must not have a noise_shape, got \(None, 1\)",
    ),
    "negative scale": (
        sequential(lambda L: L.Rescaling(-2.0)),
        "must have a positive scale, got -2.0",
    ),
    "axes": (
        sequential(lambda L: L.Normalization(axis=None, mean=0.0, variance=1.0)),
        r"must work along the last axis of rows, got axis \(\)",
    ),
    "variance": (
        sequential(lambda L: L.Normalization(mean=0.0, variance=np.inf)),
        "must have finite means and variances",
    ),
    "rate": (sequential(lambda L: L.Dropout(1.0)), "must have a rate below 1, got 1.0"),
    "noise shape of alpha": (
        sequential(lambda L: L.AlphaDropout(0.5, noise_shape=(None, 1))),
        "noise_shape",
    ),
    "rms": (
        sequential(lambda L: L.LayerNormalization(rms_scaling=True)),
        "must subtract the mean, so rms_scaling must be False",
    ),
    "epsilon": (
        sequential(lambda L: L.BatchNormalization(epsilon=0.0)),
        "must have a positive epsilon, got 0.0",
    ),
    "other layer": (
        sequential(lambda L: L.UnitNormalization()),
        "UnitNormalization 'unit_normalization.*' has no counterpart in fastmlp",
    ),
    "custom layer": (with_layer_class, "Mine 'mine' has a custom class"),
    "custom model": (with_model_class, "Net 'net' has a custom class"),
    "lora": (with_lora, "has LoRA weights"),
    "no weights": (
        lambda K: K.Sequential([K.layers.Dense(3)]),
        "Sequential 'sequential.*' has no weights yet",
    ),
    "no weights alone": (lambda K: K.layers.Dense(3), "has no weights yet"),
    "no norm": (lambda K: K.layers.BatchNormalization(), "has no weights yet"),
    "no width": (lambda K: K.layers.ReLU(), "must have a known input width"),
    "half": (
        sequential(lambda L: L.Dense(3, dtype="float16")),
        "must be float32 or float64, got float16",
    ),
    "mixed": (
        sequential(lambda L: L.Dense(3, dtype="mixed_float16")),
        "in which it computes, float16, got float32",
    ),
    "both": (
        sequential(lambda L: L.Dense(3), lambda L: L.Dense(3, dtype="float64")),
        "all layers must have the same dtype, float32 or float64, got float32, float64",
    ),
    "sequences": (
        sequential(lambda L: L.Dense(3), width=(7, 5)),
        r"begin with a Flatten layer, but each of its inputs has shape \(7, 5\)",
    ),
    "channels": (
        sequential(lambda L: L.Flatten(data_format="channels_first"), width=(7, 5)),
        "must have the data_format channels_last, got channels_first",
    ),
    "two inputs": (with_two_inputs, "one input and one output, got 2 and 1"),
    "two outputs": (with_two_outputs, "one input and one output, got 1 and 2"),
    "useless projection": (
        graph(lambda K, x: K.layers.Dense(5)(x) + K.layers.Dense(5)(x)),
        "Add 'add.*' must add the output of layers to their input or",
    ),
    "projection with activation": (
        graph(lambda K, x: K.layers.Dense(3, "relu")(x) + K.layers.Dense(3, "tanh")(x)),
        "to the output of one Dense without activation",
    ),
    "added to itself": (graph(lambda K, x: x + x), "must add the output of layers"),
    "broadcast": (
        graph(lambda K, x: x + K.layers.Dense(1)(x)),
        "must add the output of layers to their input",
    ),
    "constant": (graph(lambda K, x: x + 1.0), "Add 'add.*' has no counterpart"),
    "three": (
        graph(lambda K, x: K.layers.Add()([x, x, K.layers.Dense(5)(x)])),
        "Add 'add.*' must have one input, got 3",
    ),
    "always in training mode": (
        graph(lambda K, x: K.layers.Dropout(0.5)(K.layers.Dense(3)(x), training=True)),
        "Dropout 'dropout.*' is called with training=True",
    ),
    "operation with a layer's name": (
        graph(lambda K, x: K.ops.softmax(K.layers.Dense(3)(x), axis=0)),
        "Softmax 'softmax.*' has no counterpart in fastmlp",
    ),
    "product": (
        graph(lambda K, x: K.layers.Multiply()([x, K.layers.Dense(5)(x)])),
        "Multiply 'multiply.*' must have one input, got 2",
    ),
}


@pytest.mark.filterwarnings("ignore:You passed .rms_scaling:UserWarning")
@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(make, words, keras):
    with pytest.raises(ValueError, match=f"^model.*{words}"):
        fm.from_keras(make(keras))


def test_other_objects_are_refused(keras):
    for value in (3, None, fm.MLP([1, 1]), keras.layers.Dense, "model.keras"):
        with pytest.raises(TypeError, match=r"^model must be a keras.Seq.* got"):
            fm.from_keras(value)


def test_it_does_not_import_keras():
    code = "import sys, fastmlp as fm; fm.from_keras; assert 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def test_frozen_layers_stay_frozen(keras, layers, rng):
    parts = [layers.Dense(4), layers.LayerNormalization(), layers.Dense(2)]
    model = spread(keras.Sequential([keras.Input((3,)), *parts]), rng)
    model.layers[0].trainable = model.layers[1].trainable = False
    mlp = fm.from_keras(model)
    assert mlp.frozen == ("0.weight", "0.bias", "1.weight", "1.bias")
    check(model, rng, 3, mlp)
    model.layers[0].trainable = model.layers[1].trainable = True
    assert fm.from_keras(model).frozen == ()
