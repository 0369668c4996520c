"""PReLU: values, gradients and training against PyTorch and the reference."""

from __future__ import annotations

from pathlib import Path

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core, reference
from helpers import SEED, TAILS, TOLERANCE
from layer_checks import (
    RTOL,
    check_derivatives,
    check_hessian,
    check_onnx,
    check_same_bits,
    check_torch,
    check_training,
    rows,
)

kernels = _core.kernels


def network(shared: bool, dtype: str = "float64", seed: int = 0) -> fm.MLP:
    layers = [
        *(5, fm.PReLU(0.1, shared), 9, fm.PReLU(shared=shared)),
        *(fm.Activation("tanh"), fm.Residual([6, fm.PReLU(-0.4, shared)]), 3),
    ]
    mlp = fm.MLP(layers, activation="identity", dtype=dtype, seed=seed)
    rng = np.random.default_rng(SEED)
    for name, view in mlp.named_parameters().items():
        if view.ndim == 1 and name.endswith("weight"):
            view += rng.uniform(-0.1, 0.1, view.shape)
    return mlp


@pytest.mark.parametrize("shared", [False, True])
def test_initial_slopes_and_places(shared: bool) -> None:
    mlp = fm.MLP([3, 4, fm.PReLU(0.1, shared), 2], activation="identity", seed=0)
    slopes = mlp.state_dict()["1.weight"]
    np.testing.assert_array_equal(slopes, np.full(1 if shared else 4, 0.1, np.float32))
    assert mlp.n_params == 3 * 4 + 4 + len(slopes) + 4 * 2 + 2
    assert repr(fm.PReLU(0.1, True)) == "PReLU(init=0.1, shared=True)"
    # Weights before it are drawn as before a leaky ReLU.
    other = fm.MLP(
        [3, 4, fm.Activation("leaky_relu"), 2], activation="identity", seed=0
    )
    np.testing.assert_array_equal(mlp.weights[0], other.weights[0])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n", TAILS)
def test_kernels_and_reference(
    shared: bool, n: int, isa: str, dtype: type, rng: np.random.Generator
) -> None:
    x, dh = rng.standard_normal((2, 7, n)).astype(dtype)
    x[0, 0] = 0
    slope = rng.uniform(-1, 1, 1 if shared else n).astype(dtype)
    results = []
    for module in (kernels, reference):
        h, factors = np.empty_like(x), np.empty_like(x)
        module.prelu_forward(h, factors, x, slope)
        alone = x.copy()
        module.prelu_forward(alone, None, alone, slope)
        np.testing.assert_array_equal(alone, h)
        grad, more = np.empty_like(slope), np.ones_like(slope)
        module.prelu_gradient(grad, dh, x)
        module.prelu_gradient(more, dh, x, True)
        results.append((h, factors, grad, more))
    tolerance = TOLERANCE["elementwise"].of(dtype) * np.sqrt(7 * n)
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("m", [1, 2, 33, 300])
def test_gradients_are_those_of_torch(shared: bool, m: int) -> None:
    check_torch(network(shared), m)


@pytest.mark.parametrize("shared", [False, True])
def test_derivatives(shared: bool) -> None:
    check_derivatives(network(shared))
    layers = [5, 4, fm.PReLU(0.3, shared), fm.Dense(3, "tanh"), 1]
    check_hessian(fm.MLP(layers, activation="identity", dtype="float64", seed=2))


@pytest.mark.parametrize("shared", [False, True])
def test_training_is_that_of_the_reference(shared: bool) -> None:
    check_training(lambda lib: [4, 7, lib.PReLU(shared=shared), lib.LayerNorm(), 2])


@pytest.mark.parametrize("decay", ["all", "weights"])
def test_weight_decay_leaves_slopes_alone_if_asked(decay: str) -> None:
    mlp = fm.MLP([2, fm.PReLU(), 1], dtype="float64", seed=0)
    x, y = np.ones((4, 2)), np.zeros((4, 1))  # no input below 0: no gradient of slopes
    opt = fm.SGD(0.1, weight_decay=0.5, decay=decay)
    mlp.train_step(x, y, fm.MSE(), opt)
    kept = mlp.state_dict()["0.weight"]
    expected = 0.25 if decay == "weights" else 0.25 * (1 - 0.1 * 0.5)
    np.testing.assert_allclose(kept, expected, rtol=RTOL)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_everywhere(shared: bool, dtype: str) -> None:
    check_same_bits(lambda: network(shared, dtype))


def test_files_keep_it(tmp_path: Path) -> None:
    mlp = network(False)
    mlp.save(tmp_path / "model.safetensors")
    loaded = fm.load(tmp_path / "model.safetensors")
    assert loaded.layers == mlp.layers
    x = rows(3, 5)
    assert loaded(x).tobytes() == mlp(x).tobytes() == mlp.fold()(x).tobytes()


@pytest.mark.parametrize("shared", [False, True])
def test_onnx(shared: bool, tmp_path: Path) -> None:
    check_onnx(network(shared, "float32"), tmp_path / "model.onnx")


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="init must be finite"):
        fm.PReLU(np.inf)
    with pytest.raises(TypeError, match="shared must be True or False"):
        fm.PReLU(0.25, 1)
    with pytest.raises(ValueError, match="layer 0 has PReLU"):
        fm.regions.count_regions(fm.MLP([1, fm.PReLU(), 1]), -1, 1)
