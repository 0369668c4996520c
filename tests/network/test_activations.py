"""Activations: values and derivatives against PyTorch, and constants of formulas."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from helpers import SEED

torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
nn = torch.nn

# Values, gradients and second derivatives are O(1), with an error of a few eps.
RTOL = 1e-12

# Activations and PyTorch's modules. Softplus' threshold, above which PyTorch returns z,
# is at 40, where both agree in float64. PyTorch rounds 1/alpha of CELU, and 1/6 in the
# derivative of Hardsigmoid, to float32 even in float64.
PAIRS: list[tuple[str, dict[str, float], Any]] = [
    ("relu", {}, nn.ReLU()),
    ("relu6", {}, nn.ReLU6()),
    ("leaky_relu", {}, nn.LeakyReLU()),
    ("leaky_relu", {"slope": 0.3}, nn.LeakyReLU(0.3)),
    ("leaky_relu", {"slope": 2.5}, nn.LeakyReLU(2.5)),
    ("threshold", {"threshold": 0.4, "value": 1.5}, nn.Threshold(0.4, 1.5)),
    ("threshold", {"threshold": -0.4, "value": -2.0}, nn.Threshold(-0.4, -2.0)),
    ("elu", {}, nn.ELU()),
    ("elu", {"alpha": 0.3}, nn.ELU(0.3)),
    ("celu", {}, nn.CELU()),
    ("celu", {"alpha": 0.25}, nn.CELU(0.25)),
    ("celu", {"alpha": 4.0}, nn.CELU(4.0)),
    ("selu", {}, nn.SELU()),
    ("silu", {}, nn.SiLU()),
    ("mish", {}, nn.Mish()),
    ("hardswish", {}, nn.Hardswish()),
    ("softplus", {}, nn.Softplus(threshold=40)),
    ("softplus", {"beta": 0.4}, nn.Softplus(beta=0.4, threshold=40)),
    ("softplus", {"beta": 7.0}, nn.Softplus(beta=7.0, threshold=40)),
    ("logsigmoid", {}, nn.LogSigmoid()),
    ("softsign", {}, nn.Softsign()),
    ("hardsigmoid", {}, lambda z: nn.ReLU6()(z + 3) / 6),
    ("hardtanh", {}, nn.Hardtanh()),
    ("hardtanh", {"min_val": -0.5, "max_val": 2.0}, nn.Hardtanh(-0.5, 2.0)),
    ("tanhshrink", {}, nn.Tanhshrink()),
    ("softshrink", {}, nn.Softshrink()),
    ("softshrink", {"lambd": 1.25}, nn.Softshrink(1.25)),
    ("hardshrink", {}, nn.Hardshrink()),
    ("hardshrink", {"lambd": 1.25}, nn.Hardshrink(1.25)),
]
IDS = [" ".join([name, *map(str, c.values())]) for name, c, _ in PAIRS]
WITH_CONSTANTS = [(name, c) for name, c, _ in PAIRS if c]
CONSTANT_IDS = [i for i, (_, c, _) in zip(IDS, PAIRS, strict=True) if c]


def points() -> np.ndarray:
    """Numbers on both sides of 0 and of the kinks, and the kinks themselves."""
    rng = np.random.default_rng(SEED)
    kinks = [0.0, 0.4, -0.4, 0.5, -0.5, 1.0, -1.0, 1.25, -1.25, 2.0, 3.0, -3.0, 6.0]
    return np.concatenate([kinks, rng.uniform(-4, 4, 500), rng.uniform(-9, 9, 500)])


def close(actual: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize(("name", "constants", "module"), PAIRS, ids=IDS)
def test_values_and_derivatives_are_those_of_torch(
    name: str, constants: dict[str, float], module: Any
) -> None:
    mlp = fm.MLP([1, fm.Activation(name, **constants)], dtype="float64")
    x = points()[:, np.newaxis]
    z = torch.from_numpy(x.copy()).requires_grad_()
    h = module(z)
    (first,) = torch.autograd.grad(h.sum(), z, create_graph=True)
    close(mlp(x), h.detach().numpy())
    _, dx, _ = mlp.vjp(x, np.ones_like(x))
    close(dx, first.detach().numpy())
    close(mlp.jacobian(x)[:, 0], first.detach().numpy())
    second = np.zeros_like(x)
    if first.requires_grad:
        found = torch.autograd.grad(first.sum(), z, allow_unused=True)[0]
        second = second if found is None else found.numpy()
    # The second derivative jumps at kinks, where either side is right.
    kinks = np.isin(x, points()[:13])
    np.testing.assert_allclose(
        np.where(kinks, 0, mlp.hessian(x)[:, 0]),
        np.where(kinks, 0, second),
        rtol=RTOL,
        atol=RTOL,
    )


# At infinity, where these would have to be special cases, they are NaN.
NOT_AT_INFINITY = ("silu", "mish", "softsign")


@pytest.mark.parametrize(
    ("name", "constants"),
    [(name, c) for name, c, _ in PAIRS if name not in NOT_AT_INFINITY],
    ids=[
        i for i, pair in zip(IDS, PAIRS, strict=True) if pair[0] not in NOT_AT_INFINITY
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values(name: str, constants: dict[str, float], dtype: str) -> None:
    mlp = fm.MLP([1, fm.Activation(name, **constants)], dtype=dtype)
    x = np.array([[np.nan], [np.inf], [-np.inf]], dtype)
    far = np.array([[np.nan], [1e30], [-1e30]], dtype)
    y, limit = mlp(x)[:, 0], mlp(far)[:, 0]
    assert np.isnan(y[0])
    large = abs(limit) > 1e20
    np.testing.assert_array_equal(y[1:][~large[1:]], limit[1:][~large[1:]])
    signs = np.sign(limit[large]) * np.inf
    np.testing.assert_array_equal(y[large], signs)


@pytest.mark.parametrize(("name", "constants"), WITH_CONSTANTS, ids=CONSTANT_IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_uses_the_constants(
    name: str, constants: dict[str, float], dtype: str
) -> None:
    """The compiled network and the reference agree with the constants in each place."""
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((33, 5)).astype(dtype)
    y = rng.standard_normal((33, 2)).astype(dtype)
    results = []
    for lib in (fm, reference):
        act = lib.Activation(name, **constants)
        layers = [5, 7, lib.Dense(9, act), lib.LayerNorm(), act, 2]
        mlp = lib.MLP(layers, activation=act, dtype=dtype, seed=3)
        results.append([mlp(x), *mlp.value_and_grad(x, y, lib.MSE())])
    tolerance = 500 * float(np.finfo(dtype).eps)  # sums of up to 33 products
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "constants"), WITH_CONSTANTS, ids=CONSTANT_IDS)
def test_constants_are_kept(
    name: str, constants: dict[str, float], tmp_path: Path
) -> None:
    act = fm.Activation(name, **constants)
    plain = fm.Activation(name)
    assert act.constants == constants
    assert act != plain
    assert act == fm.Activation(name, **constants)
    assert hash(act) == hash(fm.Activation(name, **constants))
    assert eval(repr(act), {"Activation": fm.Activation}) == act
    for copied in (pickle.loads(pickle.dumps(act)), copy.deepcopy(act)):
        assert copied == act
    mlp = fm.MLP([3, fm.Dense(4, act), 4, act, 2], activation=act, seed=0)
    assert fm.MLP([3, 4, 2], activation=act, seed=0).layers[0].activation == act
    x = np.linspace(-3, 3, 15, dtype=np.float32).reshape(5, 3)
    mlp.save(tmp_path / "model.safetensors")
    loaded = fm.load(tmp_path / "model.safetensors")
    for same in (loaded, pickle.loads(pickle.dumps(mlp)), mlp.copy(), mlp.fold()):
        assert [layer for layer in same.layers if isinstance(layer, fm.Activation)]
        assert same(x).tobytes() == mlp(x).tobytes()
    assert repr(loaded) == repr(mlp)
    assert act.text in mlp.summary()
    other = fm.MLP([3, fm.Dense(4, name), 4, plain, 2], activation=name, seed=0)
    assert other(x).tobytes() != mlp(x).tobytes()


def test_default_constants_leave_no_trace(tmp_path: Path) -> None:
    """Equal, and equal files, whether defaults are given or not."""
    act = fm.Activation("leaky_relu", slope=0.01)
    assert act == fm.Activation("leaky_relu")
    assert repr(act) == "Activation('leaky_relu')"
    assert pickle.dumps(act) == pickle.dumps(fm.Activation("leaky_relu"))
    assert fm.Dense(3, act) == fm.Dense(3, "leaky_relu")
    assert fm.Dense(3, act).activation == "leaky_relu"
    files = []
    for kind in (act, "leaky_relu"):
        mlp = fm.MLP([2, fm.Dense(3, kind), fm.Activation("elu"), 1], seed=0)
        mlp.save(tmp_path / "model.safetensors")
        files.append((tmp_path / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    size = int.from_bytes(files[0][:8], "little")
    text = json.loads(files[0][8 : 8 + size])["__metadata__"]["fastmlp"]
    assert json.loads(text)["layers"][1:3] == [
        {
            "kind": "Dense",
            "n": 3,
            "activation": "leaky_relu",
            "bias": True,
            "init": None,
        },
        {"kind": "Activation", "function": "elu"},
    ]


@pytest.mark.parametrize(
    ("kind", "constants", "message"),
    [
        ("leaky_relu", {"slope": -0.1}, "slope must be .*>= 0.*got -0.1"),
        ("leaky_relu", {"slope": np.nan}, "slope must be .*got nan"),
        ("leaky_relu", {"slope": 1e39}, "slope must be .*<= 3.4.*e\\+38, got 1e\\+39"),
        ("leaky_relu", {"slope": "0.1"}, "slope must be a number"),
        ("leaky_relu", {"alpha": 0.1}, "'leaky_relu' are slope, got the unknown 'alph"),
        ("tanh", {"alpha": 0.1}, "'tanh' are none, got the unknown 'alpha'"),
        ("celu", {"alpha": 0.0}, "alpha must be .*got 0.0"),
        ("softplus", {"beta": -1.0}, "beta must be .*got -1.0"),
        ("hardtanh", {"min_val": 2.0}, "min_val must be less than max_val, got 2.0"),
        ("softshrink", {"lambd": -1e-9}, "lambd must be .*got -1e-09"),
    ],
)
def test_wrong_constants(kind: str, constants: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fm.Activation(kind, **constants)


def test_custom_functions_are_refused_where_a_name_is_needed() -> None:
    custom = fm.Activation(np.sin, np.cos)
    with pytest.raises(TypeError, match="activation must be a name"):
        fm.Dense(3, custom)
    with pytest.raises(TypeError, match="function are none, got the unknown 'slope'"):
        fm.Activation(np.sin, np.cos, slope=0.1)


def test_regions_know_the_slope() -> None:
    steep = fm.Activation("leaky_relu", slope=0.5)
    mlp = fm.MLP([1, fm.Dense(1, steep), 1], dtype="float64", bias=False, seed=0)
    mlp.params[:] = 1
    mlp.biases[0][:] = 0
    found = fm.regions.count_regions(mlp, -1, 1)
    assert found.count == 2
    np.testing.assert_allclose(found.slopes[:, 0], [1, 2])
    with pytest.raises(ValueError, match="layer 0 has relu6"):
        fm.regions.count_regions(fm.MLP([1, fm.Dense(1, "relu6"), 1]), -1, 1)
