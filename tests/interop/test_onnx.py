"""Networks as ONNX models: their outputs in onnxruntime, and the files' contents."""

from __future__ import annotations

import sys

import fastmlp as fm
import numpy as np
import onnx
import onnxruntime
import pytest
from fastmlp._formats import to_onnx

# Relative to the largest output; documented for float32. Sums in a different order and
# other elementary functions cause a few units in the last place, 6e-8, per layer.
OUTPUT_RTOL = {"float32": 1e-6, "float64": 1e-13}

# Relative to the largest |z| or output of single activations: exponentials multiply the
# rounding errors of their arguments, which here are up to 30.
ACTIVATION_RTOL = {"float32": 1e-6, "float64": 1e-14}


def run(path, x, output="y", name="x"):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run([output], {name: x})
    return y


def exported(mlp, tmp_path, **options):
    path = tmp_path / "model.onnx"
    assert mlp.to_onnx(path, **options) is None
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    return path


def check(mlp, tmp_path, rng, loc=0.0):
    """Compare outputs for one row and for several."""
    path = exported(mlp, tmp_path)
    bound = OUTPUT_RTOL[mlp.dtype.name]
    for rows in (1, 37):
        x = (rng.standard_normal((rows, mlp.n_in)) + loc).astype(mlp.dtype)
        y = run(path, x)
        expected = mlp(x)
        assert y.dtype == mlp.dtype
        assert y.shape == expected.shape
        assert abs(y - expected).max() <= bound * abs(expected).max()


def spread(mlp, rng):
    """Set all parameters and statistics to random values, with positive variances."""
    for name, view in mlp.named_parameters().items():
        if name.endswith("bias"):
            view[...] = rng.standard_normal(view.shape)
        elif view.ndim == 1:
            view[...] = rng.uniform(0.5, 2, view.shape)
    for name, view in mlp._views.statistics.items():
        low, high = (0.2, 3) if name.endswith("var") else (-2, 2)
        view[...] = rng.uniform(low, high, view.shape)
    return mlp


@pytest.mark.parametrize("activation", fm.ACTIVATIONS)
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_activations_alone(activation, name, tmp_path, rng):
    mlp = fm.MLP([8, fm.Activation(activation)], dtype=name)
    path = exported(mlp, tmp_path)
    # Near 0, where differences from 1 would cancel, on both sides of 0, and far away.
    for low, high in [(-1e-3, 1e-3), (-3, 0), (-5, -1), (-30, 30), (-1e4, 10)]:
        x = rng.uniform(low, high, (64, 8)).astype(name)
        y = mlp(x)
        # gelu is z times a factor below 1 whose error is a rounding error of 1.
        gelu = activation.startswith("gelu")
        scale = max(abs(y).max(), abs(x).max() if gelu else 0)
        assert abs(run(path, x) - y).max() <= ACTIVATION_RTOL[name] * scale, (low, high)


@pytest.mark.parametrize(
    ("kind", "constants"),
    [
        ("leaky_relu", {"slope": 0.3}),
        ("leaky_relu", {"slope": 3.0}),
        ("threshold", {"threshold": 0.5, "value": 2.0}),
        ("elu", {"alpha": 0.3}),
        ("celu", {"alpha": 0.3}),
        ("softplus", {"beta": 3.0}),
        ("hardtanh", {"min_val": -0.5, "max_val": 2.0}),
        ("softshrink", {"lambd": 0.2}),
        ("hardshrink", {"lambd": 0.2}),
    ],
)
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_constants_of_activations(kind, constants, name, tmp_path, rng):
    mlp = fm.MLP([8, fm.Activation(kind, **constants)], dtype=name)
    x = rng.uniform(-3, 3, (64, 8)).astype(name)
    y = mlp(x)
    error = abs(run(exported(mlp, tmp_path), x) - y).max()
    assert error <= ACTIVATION_RTOL[name] * abs(y).max()


@pytest.mark.parametrize("activation", ["sigmoid", "silu", "softplus"])
def test_tails_keep_their_digits(activation, tmp_path, rng):
    """Small probabilities of rare events have a small relative error."""
    mlp = fm.MLP([4, fm.Activation(activation)])
    x = rng.uniform(-20, -10, (50, 4)).astype(np.float32)
    y = run(exported(mlp, tmp_path), x)
    np.testing.assert_allclose(y, mlp(x), rtol=OUTPUT_RTOL["float32"])


def test_extremes(tmp_path):
    """Values for which intermediate exponentials overflow."""
    x = np.array([[-1e30, -200.0, -0.0, 0.0, 200.0, 1e30]], np.float32)
    for activation in ("sigmoid", "silu", "softplus", "elu", "gelu", "gelu_tanh"):
        mlp = fm.MLP([6, fm.Activation(activation)])
        path = tmp_path / f"{activation}.onnx"
        mlp.to_onnx(path)
        np.testing.assert_allclose(run(path, x), mlp(x), rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("activation", fm.ACTIVATIONS)
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_networks_with_every_activation(activation, name, tmp_path, rng):
    mlp = fm.MLP(
        [7, 24, 16, 5], activation=activation, output_activation=activation, dtype=name
    )
    # Keeps exponentials of exponentials, and cubes of cubes, in bounds.
    for weight in mlp.weights:
        weight *= 4 if activation == "tanhshrink" else 0.5
    check(mlp, tmp_path, rng)


NETWORKS = {
    "no hidden layer": [5, 3],
    "no bias": [5, fm.Dense(8, bias=False), fm.Dense(3, bias=False)],
    "one wide": [1, 64, 1],
    "nothing": [4, fm.Dropout(0.5)],
    "identity": [4, fm.Activation("identity")],
    "dropout": [5, 16, fm.Dropout(0.5), 16, fm.Dropout(0.1), 2],
    "alpha dropout": [5, 16, fm.AlphaDropout(0.5), 16, fm.AlphaDropout(0.1), 2],
    "noise": [5, fm.GaussianNoise(0.5), 16, fm.GaussianDropout(0.1), 2],
    "layer norm": [5, fm.LayerNorm(), 16, fm.LayerNorm(eps=0.1), 2, fm.LayerNorm()],
    "group norm": [
        6,
        fm.GroupNorm(3),
        16,
        fm.GroupNorm(4, eps=0.1),
        3,
        fm.GroupNorm(1),
    ],
    "plain group norm": [5, 16, fm.GroupNorm(4, affine=False), 2],
    "plain layer norm": [5, 16, fm.LayerNorm(affine=False), 2],
    "rms norm": [
        5,
        fm.RMSNorm(),
        16,
        fm.RMSNorm(eps=0.1, affine=False),
        2,
        fm.RMSNorm(),
    ],
    "batch norm after": [
        5,
        fm.Dense(16, "identity"),
        fm.BatchNorm(),
        fm.Activation("tanh"),
        fm.Dense(3, bias=False),
        fm.BatchNorm(eps=0.1),
    ],
    "batch norm before": [5, fm.BatchNorm(), 16, fm.BatchNorm(), fm.BatchNorm(), 2],
    "plain batch norm": [5, fm.BatchNorm(affine=False), 8, 2],
    "residual": [6, fm.Residual([6]), fm.Activation("relu"), 2],
    "projection": [5, fm.Residual([16, 8]), 2],
    "nested": [5, 8, fm.Residual([8, fm.Residual([4, 12]), 8, fm.Dropout(0.2)]), 2],
    # The sum before the normalisation is used twice, so it is not merged into it.
    "pre-activation": [
        5,
        fm.Dense(8, "identity"),
        fm.Residual([fm.BatchNorm(), fm.Activation("relu"), fm.Dense(8, "identity")]),
        fm.BatchNorm(),
        fm.Residual([fm.LayerNorm(), 8]),
        2,
    ],
}


@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_layers(layers, name, tmp_path, rng):
    check(spread(fm.MLP(layers, dtype=name, seed=1), rng), tmp_path, rng)


def test_batch_norm_far_from_zero(tmp_path, rng):
    """Raw features such as years, whose mean must be subtracted first."""
    mlp = spread(fm.MLP([8, fm.BatchNorm(), 4], seed=0), rng)
    mlp.buffers[:8] = 2000
    check(mlp, tmp_path, rng, loc=2000)


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_the_graph(tmp_path):
    layers = [
        3,
        fm.Dense(4, "identity"),
        fm.BatchNorm(),
        fm.Activation("relu"),
        fm.Dropout(),
        2,
    ]
    mlp = fm.MLP(layers, output_activation="softmax", seed=0)
    path = exported(mlp, tmp_path)
    assert operators(path) == ["Gemm", "Relu", "Gemm", "Softmax"]
    model = onnx.load(path)
    arrays = {a.name: onnx.numpy_helper.to_array(a) for a in model.graph.initializer}
    shapes = {"0.weight": (4, 3), "0.bias": (4,), "4.weight": (2, 4), "4.bias": (2,)}
    assert {name: a.shape for name, a in arrays.items()} == shapes
    np.testing.assert_array_equal(arrays["4.weight"], mlp.state_dict()["4.weight"])
    assert all(a.dtype == np.float32 for a in arrays.values())


def test_metadata_of_the_file(tmp_path):
    mlp = fm.MLP([3, 2], seed=0)
    model = onnx.load(exported(mlp, tmp_path))
    assert (model.producer_name, model.producer_version) == ("fastmlp", fm.__version__)
    assert {p.key: p.value for p in model.metadata_props} == {"model": repr(mlp)}
    assert [o.version for o in model.opset_import] == [17]
    (x,), (y,) = model.graph.input, model.graph.output
    for value, name, width in ((x, "x", 3), (y, "y", 2)):
        rows, columns = value.type.tensor_type.shape.dim
        assert (value.name, rows.dim_param, columns.dim_value) == (name, "N", width)


@pytest.mark.parametrize("opset", [17, 18, 20, 21])
def test_versions_of_operators(opset, tmp_path, rng):
    layers = [4, fm.LayerNorm(), fm.Dense(8, "gelu"), fm.Dense(3, "leaky_relu")]
    mlp = fm.MLP(layers, seed=0)
    path = exported(mlp, tmp_path, opset=opset)
    assert [o.version for o in onnx.load(path).opset_import] == [opset]
    x = rng.standard_normal((9, 4)).astype(np.float32)
    assert (
        abs(run(path, x) - mlp(x)).max() <= OUTPUT_RTOL["float32"] * abs(mlp(x)).max()
    )


def test_names_of_input_and_output(tmp_path, rng):
    mlp = fm.MLP([3, 4, 2], seed=0)
    path = exported(mlp, tmp_path, input_name="features", output_name="scores")
    x = rng.standard_normal((5, 3)).astype(np.float32)
    y = run(path, x, "scores", "features")
    assert abs(y - mlp(x)).max() <= OUTPUT_RTOL["float32"] * abs(mlp(x)).max()


def test_exports_are_repeatable_and_leave_the_model_unchanged(tmp_path):
    mlp = fm.MLP([3, 4, fm.BatchNorm(), 2], seed=0)
    before = mlp.params.copy(), mlp.buffers.copy()
    first = exported(mlp, tmp_path).read_bytes()
    assert exported(mlp, tmp_path).read_bytes() == first
    np.testing.assert_array_equal(mlp.params, before[0])
    np.testing.assert_array_equal(mlp.buffers, before[1])


BAD = {
    "old": ({"opset": 16}, ValueError, "opset must be at least 17, got 16"),
    "new": ({"opset": 10**6}, ValueError, "opset must be at most .* got 1000000"),
    "text": ({"opset": "17"}, TypeError, "opset must be an int"),
    "no name": ({"input_name": ""}, ValueError, "input_name must be a non-empty str"),
    "number": (
        {"output_name": 3},
        TypeError,
        "output_name must be a non-empty str, got 3",
    ),
    "same": ({"output_name": "x"}, ValueError, "must differ, but both are 'x'"),
    "taken": ({"input_name": "0.weight"}, ValueError, "input_name must not be a name"),
    "node": ({"output_name": "0.Gemm"}, ValueError, "output_name must not be"),
}


@pytest.mark.parametrize(("options", "error", "words"), BAD.values(), ids=BAD)
def test_bad_arguments(options, error, words, tmp_path):
    with pytest.raises(error, match=words):
        fm.MLP([3, 4, 2]).to_onnx(tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_bad_paths(tmp_path):
    mlp = fm.MLP([3, 2])
    with pytest.raises(TypeError, match=r"path must be a str or os\.PathLike, got 3"):
        mlp.to_onnx(3)
    with pytest.raises(FileNotFoundError):
        mlp.to_onnx(tmp_path / "nowhere" / "model.onnx")


def test_custom_functions_are_refused(tmp_path):
    def cube(z):
        return z**3

    own = fm.Activation(cube, lambda z: 3 * z**2)
    mlp = fm.MLP([3, fm.Dense(4, "identity"), own, 2])
    with pytest.raises(ValueError, match=r"layer 1 has the custom activation cube\(\)"):
        mlp.to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [100, 400], ids=["parameters", "file"])
def test_too_large_models_are_refused(limit, tmp_path, monkeypatch):
    mlp = fm.MLP([5, 10, 3])
    assert 100 < mlp.params.nbytes < 400
    monkeypatch.setattr(to_onnx, "MOST_BYTES", limit)
    with pytest.raises(ValueError, match=rf"file holds at most {limit}; mlp.save"):
        mlp.to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_onnx_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"mlp.to_onnx needs .*fastmlp\[onnx\]"):
        fm.MLP([3, 2]).to_onnx(tmp_path / "model.onnx")


def test_a_file_is_replaced_atomically(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"what was there before")
    with pytest.raises(ValueError, match="opset"):
        fm.MLP([3, 2]).to_onnx(path, opset=1)
    assert path.read_bytes() == b"what was there before"
    fm.MLP([3, 2]).to_onnx(path)
    onnx.checker.check_model(onnx.load(path))
