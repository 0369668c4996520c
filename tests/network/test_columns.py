"""Columns and Embedding: values, gradients, training, exports and errors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import fastmlp as fm
import layer_checks as checks
import numpy as np
import pytest
from fastmlp import reference
from helpers import SEED

SIZES = (5, 1, 40)
N_IN = 6  # columns 1, 3 and 4 hold categories


def layers(lib: Any = fm, n_out: int = 3) -> list[Any]:
    numeric = [lib.Columns([5, 0, 2, 0])]
    categories = [lib.Columns([3, 1, 4]), lib.Embedding(SIZES, 7)]
    one = [lib.Columns([4]), lib.Embedding(40, 1), lib.Activation("tanh")]
    return [N_IN, lib.Parallel([numeric, categories, one]), lib.Dense(9, "silu"), n_out]


def network(n_out: int = 3, dtype: str = "float64") -> fm.MLP:
    return fm.MLP(layers(n_out=n_out), dtype=dtype, seed=0)


def rows(m: int, dtype: Any = np.float64) -> np.ndarray:
    x = checks.rows(m, N_IN, dtype)
    rng = np.random.default_rng([SEED, m])
    for column, size in zip((3, 1, 4), SIZES, strict=True):
        x[:, column] = rng.integers(size, size=m)
    return x


def test_columns_are_taken() -> None:
    x = checks.rows(7, 4)
    mlp = fm.MLP([4, fm.Columns([2, 0, 2])], dtype="float64")
    np.testing.assert_array_equal(mlp(x), x[:, [2, 0, 2]])
    dy = checks.rows(7, 3, seed=2)
    _, dx, _ = mlp.vjp(x, dy)
    wanted = np.zeros((7, 4))
    wanted[:, 0], wanted[:, 2] = dy[:, 1], dy[:, 0] + dy[:, 2]
    np.testing.assert_array_equal(dx, wanted)


def test_a_permutation_may_not_work_in_place() -> None:
    order = [3, 0, 1, 2]
    mlp = fm.MLP([4, fm.Columns(order), fm.Columns(order), 2], dtype="float64", seed=0)
    plain = fm.MLP([4, 2], dtype="float64")
    plain.params[:] = mlp.params
    x = checks.rows(5, 4)
    inner = x[:, order][:, order]
    np.testing.assert_array_equal(mlp(x), plain(inner))
    back = np.argsort(order)
    wanted = plain.jacobian(inner)[:, :, back][:, :, back]
    np.testing.assert_array_equal(mlp.jacobian(x), wanted)


def test_an_embedding_looks_up_rows() -> None:
    mlp = fm.MLP([2, fm.Embedding([3, 4], 5)], dtype="float64", seed=0)
    table = mlp.named_parameters()["0.weight"]
    assert table.shape == (7, 5)
    x = np.array([[2.0, 0.0], [0.0, 3.0]])
    wanted = np.hstack([table[[2, 0]], table[[3, 6]]])
    np.testing.assert_array_equal(mlp(x), wanted)


def test_tables_are_drawn_from_the_standard_normal_distribution() -> None:
    mlp = fm.MLP([1, fm.Embedding(400, 100)], dtype="float64", seed=0)
    table = mlp.named_parameters()["0.weight"]
    # The standard deviations of both are 1 / sqrt(40000) and 1 / sqrt(80000).
    assert abs(table.mean()) < 0.025
    assert abs(table.std() - 1) < 0.02
    twin = reference.MLP([1, reference.Embedding(400, 100)], dtype="float64", seed=0)
    np.testing.assert_array_equal(mlp.params, twin.params)


@pytest.mark.parametrize("m", [1, 2, 33, 300])
def test_torch(m: int) -> None:
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    mlp = network()
    module = mlp.to_torch()
    x, y = rows(m), checks.rows(m, 3, seed=2)
    given = torch.from_numpy(x).requires_grad_()
    loss = torch.nn.functional.mse_loss(module(given), torch.from_numpy(y))
    loss.backward()
    value, grads = mlp.value_and_grad(x, y, fm.MSE())
    np.testing.assert_allclose(value, loss.item(), rtol=checks.RTOL)
    by_name = dict(module.named_parameters())
    start = 0
    for name, view in mlp.named_parameters().items():
        wanted = by_name[name].grad.numpy()
        wanted = wanted if wanted.shape == view.shape else wanted.T
        mine = grads[start : start + view.size].reshape(view.shape)
        np.testing.assert_allclose(mine, wanted, rtol=checks.RTOL, atol=checks.RTOL)
        start += view.size
    dy = 2 * (mlp(x) - y) / y.size
    _, dx, _ = mlp.vjp(x, dy)
    wanted = given.grad.numpy()
    np.testing.assert_allclose(dx, wanted, rtol=checks.RTOL, atol=checks.RTOL)
    back = fm.from_torch(module)
    np.testing.assert_array_equal(back(x), mlp(x))
    assert [type(a) for a in back.layers] == [type(b) for b in mlp.layers]


def test_an_embedding_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    theirs = torch.nn.Embedding(40, 7, dtype=torch.float64)
    mlp = fm.MLP([1, fm.Embedding(40, 7)], dtype="float64", seed=0)
    mlp.params[:] = theirs.weight.detach().numpy().ravel()
    numbers = np.random.default_rng(SEED).integers(40, size=50)
    dy = checks.rows(50, 7)
    y, _, grads = mlp.vjp(numbers[:, np.newaxis].astype(np.float64), dy)
    out = theirs(torch.from_numpy(numbers))
    out.backward(torch.from_numpy(dy))
    np.testing.assert_array_equal(y, out.detach().numpy())
    wanted = theirs.weight.grad.numpy().ravel()
    np.testing.assert_allclose(grads, wanted, rtol=checks.RTOL, atol=checks.RTOL)


def test_derivatives_of_each_row() -> None:
    mlp = network(1)
    x, y = rows(6), checks.rows(6, 1, seed=4)
    j, h = mlp.jacobian(x), mlp.hessian(x)
    assert not j[:, :, [1, 3, 4]].any()
    assert not h[:, [1, 3, 4]].any()
    by_params = mlp.param_jacobian(x)
    by_row = mlp.per_sample_grads(x, y, fm.MSE())
    for b in range(len(x)):
        one = x[b : b + 1]
        _, dx, grads = mlp.vjp(one, np.ones((1, 1)))
        rtol = checks.RTOL
        np.testing.assert_allclose(j[b, 0], dx[0], rtol=rtol, atol=rtol)
        np.testing.assert_allclose(by_params[b, 0], grads, rtol=rtol, atol=rtol)
        _, grads = mlp.value_and_grad(one, y[b : b + 1], fm.MSE())
        np.testing.assert_allclose(by_row[b], grads, rtol=rtol, atol=rtol)
    for i in (0, 2, 5):
        e = checks.STEP * np.eye(N_IN)[i]
        slope = (mlp.jacobian(x + e) - mlp.jacobian(x - e))[:, 0] / (2 * checks.STEP)
        np.testing.assert_allclose(h[:, i], slope, atol=checks.DIFFERENCE_RTOL)


def test_training_is_that_of_the_reference() -> None:
    results = []
    for lib in (fm, reference):
        mlp = lib.MLP(layers(lib), dtype="float64", seed=3)
        x, y = rows(50), checks.rows(50, 3, seed=2)
        history = mlp.fit(
            x, y, loss=lib.MSE(), optimizer=lib.Adam(0.01), epochs=5, batch_size=16
        )
        results.append([mlp.params, history.loss, mlp(x)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)  # 20 steps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_everywhere(dtype: str) -> None:
    found = set()
    for name in fm.available_isas():
        for threads in (1, 2):
            with fm.use_isa(name), fm.threads(threads):
                mlp = network(3, dtype)
                x, y = rows(700, mlp.dtype), checks.rows(700, 3, mlp.dtype, seed=2)
                mlp.fit(x, y, loss=fm.MSE(), optimizer=fm.SGD(0.01), epochs=2)
                found.add(mlp.params.tobytes() + mlp.jacobian(x[:40]).tobytes())
    assert len(found) == 1


def test_files_pickles_and_folding_keep_them(tmp_path: Path) -> None:
    mlp = network()
    mlp.save(tmp_path / "model.safetensors")
    x = rows(3)
    loaded = fm.load(tmp_path / "model.safetensors")
    for copy in (loaded, pickle.loads(pickle.dumps(mlp))):
        assert copy.layers == mlp.layers
        assert copy(x).tobytes() == mlp(x).tobytes()
    assert mlp.fold()(x).tobytes() == mlp(x).tobytes()


def test_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="it runs the exported file")
    pytest.importorskip("onnx", reason="it writes the exported file")
    mlp = network(3, "float32")
    mlp.to_onnx(tmp_path / "model.onnx")
    x = rows(9, np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (y,) = session.run(None, {"x": x})
    np.testing.assert_allclose(y, mlp(x), rtol=1e-5, atol=1e-6)  # float32, few layers


@pytest.mark.parametrize("value", [40.0, -1.0, 2.5, np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_numbers_than_those_of_categories_are_refused(
    value: float, dtype: str
) -> None:
    mlp = network(3, dtype)
    before = mlp.params.copy()
    x, y = rows(5, mlp.dtype), checks.rows(5, 3, mlp.dtype, seed=2)
    mlp.predict(x)
    x[3, 4] = value
    opt, loss = fm.SGD(0.1), fm.MSE()
    calls = [
        lambda: mlp.predict(x),
        lambda: mlp.forward(x),
        lambda: mlp.vjp(x, y),
        lambda: mlp.jacobian(x),
        lambda: mlp.evaluate(x, y, loss=loss),
        lambda: mlp.value_and_grad(x, y, loss),
        lambda: mlp.per_sample_grads(x, y, loss),
        lambda: mlp.train_step(x, y, loss, opt),
        lambda: mlp.fit(
            x, y, loss=loss, optimizer=opt, epochs=1, batch_size=2, shuffle=False
        ),
        lambda: mlp.fit(x, y, loss=loss, optimizer=fm.LBFGS(), epochs=1),
    ]
    for call in calls:
        # A solver finds numbers that are not finite first.
        with pytest.raises(ValueError, match=r"column 4( of x must .* to 39|$)"):
            call()
        np.testing.assert_array_equal(mlp.params, before)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fm.Columns([]), ValueError, "at least one int, got none"),
        (lambda: fm.Columns([-1]), ValueError, r"columns\[0\] must be"),
        (lambda: fm.Columns("ab"), TypeError, "columns must be a sequence"),
        (lambda: fm.Embedding(0, 3), ValueError, r"sizes\[0\] must be"),
        (lambda: fm.Embedding(3, 0), ValueError, "n must be"),
        (lambda: fm.MLP([3, fm.Columns([3])]), ValueError, "from 0 to 2, got 3"),
        (lambda: fm.MLP([3, fm.Embedding([2, 2], 4)]), ValueError, "3 columns"),
        (
            lambda: fm.MLP([3, fm.Dense(1), fm.Embedding(2, 4)]),
            ValueError,
            r"layer 1 \(embedding\) must take columns of the network's input",
        ),
    ],
)
def test_errors(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
