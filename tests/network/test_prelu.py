"""PReLU: values, gradients and training against PyTorch and the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core, reference
from helpers import SEED, TAILS, TOLERANCE

kernels = _core.kernels

# Sums of a few products of numbers of size one in float64.
RTOL = 1e-12
# Central differences with this step, in float64.
STEP = 1e-6
DIFFERENCE_RTOL = 1e-7


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


def rows(m: int, n: int, dtype: Any = np.float64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([SEED, seed]).standard_normal((m, n)).astype(dtype)


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
@pytest.mark.parametrize("rows_", [1, 2, 33, 300])
def test_gradients_are_those_of_torch(shared: bool, rows_: int) -> None:
    torch = pytest.importorskip("torch")
    mlp = network(shared)
    module = mlp.to_torch()
    x, y = rows(rows_, 5), rows(rows_, 3, seed=2)
    loss = torch.nn.functional.mse_loss(
        module(torch.from_numpy(x)), torch.from_numpy(y)
    )
    loss.backward()
    value, grads = mlp.value_and_grad(x, y, fm.MSE())
    np.testing.assert_allclose(value, loss.item(), rtol=RTOL)
    wanted = np.concatenate(
        [
            (p.grad.T if p.ndim == 2 else p.grad).numpy().ravel()
            for p in module.parameters()
        ]
    )
    names = [name for name, _ in module.named_parameters()]
    assert names == list(mlp.named_parameters())
    np.testing.assert_allclose(grads, wanted, rtol=RTOL, atol=RTOL)
    back = fm.from_torch(module)
    assert [type(layer) for layer in back.layers] == [type(la) for la in mlp.layers]
    np.testing.assert_array_equal(back(x), mlp(x))


@pytest.mark.parametrize("shared", [False, True])
def test_derivatives(shared: bool) -> None:
    mlp = network(shared)
    x = rows(4, 5)
    j = mlp.jacobian(x)
    for i in range(5):
        e = np.zeros(5)
        e[i] = STEP
        slope = (mlp(x + e) - mlp(x - e)) / (2 * STEP)
        np.testing.assert_allclose(j[:, :, i], slope, atol=DIFFERENCE_RTOL)
    v = rows(4, 5, seed=3)
    np.testing.assert_allclose(
        mlp.jvp(x, v)[1], np.einsum("boi,bi->bo", j, v), rtol=RTOL, atol=RTOL
    )
    by_params = mlp.param_jacobian(x)
    for b in range(4):
        for o in range(3):
            dy = np.zeros((1, 3))
            dy[0, o] = 1
            _, dx, grads = mlp.vjp(x[b : b + 1], dy)
            np.testing.assert_allclose(by_params[b, o], grads, rtol=RTOL, atol=RTOL)
            np.testing.assert_allclose(j[b, o], dx[0], rtol=RTOL, atol=RTOL)
    single = fm.MLP(
        [5, 4, fm.PReLU(0.3, shared), fm.Dense(3, "tanh"), 1],
        activation="identity",
        dtype="float64",
        seed=2,
    )
    h = single.hessian(x)
    for i in range(5):
        e = np.zeros(5)
        e[i] = STEP
        slope = (single.jacobian(x + e) - single.jacobian(x - e))[:, 0] / (2 * STEP)
        np.testing.assert_allclose(h[:, i], slope, atol=DIFFERENCE_RTOL)


@pytest.mark.parametrize("shared", [False, True])
def test_training_is_that_of_the_reference(shared: bool) -> None:
    x, y = rows(50, 4), rows(50, 2, seed=2)
    results = []
    for lib in (fm, reference):
        layers = [4, 7, lib.PReLU(shared=shared), lib.LayerNorm(), 2]
        mlp = lib.MLP(layers, activation="identity", dtype="float64", seed=3)
        history = mlp.fit(
            x, y, loss=lib.MSE(), optimizer=lib.Adam(0.01), epochs=5, batch_size=16
        )
        results.append([mlp.params, history.loss, mlp(x)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)  # 20 steps


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
    x, y = rows(70, 5, dtype), rows(70, 3, dtype, seed=2)
    found = set()
    for name in fm.available_isas():
        for threads in (1, 2):
            with fm.use_isa(name), fm.threads(threads):
                mlp = network(shared, dtype)
                mlp.fit(
                    x, y, loss=fm.MSE(), optimizer=fm.SGD(0.01), epochs=2, batch_size=32
                )
                found.add(mlp.params.tobytes() + mlp.jacobian(x).tobytes())
    assert len(found) == 1


def test_files_keep_it(tmp_path: Path) -> None:
    mlp = network(False)
    mlp.save(tmp_path / "model.safetensors")
    loaded = fm.load(tmp_path / "model.safetensors")
    assert loaded.layers == mlp.layers
    x = rows(3, 5)
    assert loaded(x).tobytes() == mlp(x).tobytes() == mlp.fold()(x).tobytes()


@pytest.mark.parametrize("shared", [False, True])
def test_onnx(shared: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    mlp = network(shared, "float32")
    path = tmp_path / "model.onnx"
    mlp.to_onnx(path)
    x = rows(9, 5, np.float32)
    (y,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})
    np.testing.assert_allclose(y, mlp(x), rtol=1e-5, atol=1e-6)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="init must be finite"):
        fm.PReLU(np.inf)
    with pytest.raises(TypeError, match="shared must be True or False"):
        fm.PReLU(0.25, 1)
    with pytest.raises(ValueError, match="layer 0 has PReLU"):
        fm.regions.count_regions(fm.MLP([1, fm.PReLU(), 1]), -1, 1)
