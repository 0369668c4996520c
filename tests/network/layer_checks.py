"""Checks of a network with a kind of layer: derivatives, PyTorch, reference, bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from helpers import SEED

# Sums of a few products of numbers of size one in float64.
RTOL = 1e-12
# Central differences with this step, in float64.
STEP = 1e-6
DIFFERENCE_RTOL = 1e-7


def rows(m: int, n: int, dtype: Any = np.float64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([SEED, seed]).standard_normal((m, n)).astype(dtype)


def check_derivatives(mlp: fm.MLP) -> None:
    """Compare all derivatives but the Hessian with differences and one another."""
    n_in, n_out = mlp.n_in, mlp.n_out
    x = rows(4, n_in)
    j = mlp.jacobian(x)
    for i in range(n_in):
        e = STEP * np.eye(n_in)[i]
        slope = (mlp(x + e) - mlp(x - e)) / (2 * STEP)
        np.testing.assert_allclose(j[:, :, i], slope, atol=DIFFERENCE_RTOL)
    v = rows(4, n_in, seed=3)
    along = np.einsum("boi,bi->bo", j, v)
    np.testing.assert_allclose(mlp.jvp(x, v)[1], along, rtol=RTOL, atol=RTOL)
    by_params = mlp.param_jacobian(x)
    y = rows(4, n_out, seed=4)
    by_row = mlp.per_sample_grads(x, y, fm.MSE())
    for b in range(4):
        one = x[b : b + 1]
        for o in range(n_out):
            _, dx, grads = mlp.vjp(one, np.eye(n_out)[o : o + 1])
            np.testing.assert_allclose(by_params[b, o], grads, rtol=RTOL, atol=RTOL)
            np.testing.assert_allclose(j[b, o], dx[0], rtol=RTOL, atol=RTOL)
        _, grads = mlp.value_and_grad(one, y[b : b + 1], fm.MSE())
        np.testing.assert_allclose(by_row[b], grads, rtol=RTOL, atol=RTOL)


def check_hessian(mlp: fm.MLP) -> None:
    """Compare the Hessian of a network with one output with differences."""
    x = rows(4, mlp.n_in)
    h = mlp.hessian(x)
    for i in range(mlp.n_in):
        e = STEP * np.eye(mlp.n_in)[i]
        slope = (mlp.jacobian(x + e) - mlp.jacobian(x - e))[:, 0] / (2 * STEP)
        np.testing.assert_allclose(h[:, i], slope, atol=DIFFERENCE_RTOL)


def check_torch(mlp: fm.MLP, m: int, hessian: bool = False) -> None:
    """Compare with PyTorch: values, gradients, perhaps Hessians, and the way back."""
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    module = mlp.to_torch()
    x, y = rows(m, mlp.n_in), rows(m, mlp.n_out, seed=2)
    given = torch.from_numpy(x)
    np.testing.assert_allclose(
        mlp(x), module(given).detach().numpy(), rtol=RTOL, atol=RTOL
    )
    loss = torch.nn.functional.mse_loss(module(given), torch.from_numpy(y))
    loss.backward()
    value, grads = mlp.value_and_grad(x, y, fm.MSE())
    np.testing.assert_allclose(value, loss.item(), rtol=RTOL)
    linear = torch.nn.Linear
    dense = tuple(f"{n}." for n, m in module.named_modules() if isinstance(m, linear))
    wanted = np.concatenate(
        [
            (p.grad.T if p.ndim == 2 and name.startswith(dense) else p.grad)
            .numpy()
            .ravel()
            for name, p in module.named_parameters()
        ]
    )
    names = [name for name, _ in module.named_parameters()]
    assert names == list(mlp.named_parameters())
    np.testing.assert_allclose(grads, wanted, rtol=RTOL, atol=RTOL)
    if hessian:
        h = mlp.hessian(x)
        for i in range(min(m, 20)):
            exact = torch.autograd.functional.hessian(
                lambda r: module(r[None])[0, 0], given[i]
            )
            np.testing.assert_allclose(h[i], exact.numpy(), rtol=RTOL, atol=RTOL)
    back = fm.from_torch(module)
    assert [type(layer) for layer in back.layers] == [type(la) for la in mlp.layers]
    np.testing.assert_array_equal(back(x), mlp(x))


def check_training(make: Callable[[Any], list[Any]]) -> None:
    """Compare training with the reference; ``make`` gives a library's layers."""
    results = []
    for lib in (fm, reference):
        layers = make(lib)
        mlp = lib.MLP(layers, activation="identity", dtype="float64", seed=3)
        x, y = rows(50, mlp.n_in), rows(50, mlp.n_out, seed=2)
        history = mlp.fit(
            x, y, loss=lib.MSE(), optimizer=lib.Adam(0.01), epochs=5, batch_size=16
        )
        results.append([mlp.params, history.loss, mlp(x)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)  # 20 steps


def check_same_bits(make: Callable[[], fm.MLP]) -> None:
    """Train on all instruction sets with 1 and 2 threads; compare all bits."""
    found = set()
    for name in fm.available_isas():
        for threads in (1, 2):
            with fm.use_isa(name), fm.threads(threads):
                mlp = make()
                x = rows(70, mlp.n_in, mlp.dtype)
                y = rows(70, mlp.n_out, mlp.dtype, seed=2)
                mlp.fit(
                    x, y, loss=fm.MSE(), optimizer=fm.SGD(0.01), epochs=2, batch_size=32
                )
                found.add(mlp.params.tobytes() + mlp.jacobian(x).tobytes())
    assert len(found) == 1


def check_onnx(mlp: fm.MLP, path: Any) -> None:
    """Compare a float32 network with its ONNX model."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="it runs the exported file")
    pytest.importorskip("onnx", reason="it writes the exported file")
    mlp.to_onnx(path)
    x = rows(9, mlp.n_in, np.float32)
    (y,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})
    np.testing.assert_allclose(y, mlp(x), rtol=1e-5, atol=1e-6)  # float32, few layers
