"""Sparse inputs: the bits of dense ones, without the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastmlp as fm
import numpy as np
import pytest

sparse = pytest.importorskip("scipy.sparse", reason="SciPy makes the matrices")

ROWS, COLUMNS = 37, 300


def matrix(
    rng: np.random.Generator, dtype: Any, rows: int = ROWS, density: float = 0.05
) -> Any:
    x = sparse.random(rows, COLUMNS, density, "csr", dtype=dtype, random_state=rng)
    x.data[:] = rng.standard_normal(len(x.data))
    x.sort_indices()
    return x


def model(dtype: Any, widths: tuple[Any, ...] = (23, 5), **options: Any) -> fm.MLP:
    return fm.MLP([COLUMNS, *widths], dtype=dtype, seed=3, **options)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.mark.parametrize("rows", [1, 2, 7, 37, 700])
@pytest.mark.parametrize("widths", [(1,), (8, 3), (23, 5), (130, 4)])
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs(
    rows: int,
    widths: tuple[int, ...],
    threads: int,
    isa: str,
    dtype: Any,
    rng: np.random.Generator,
) -> None:
    x, mlp = matrix(rng, dtype, rows), model(dtype, widths)
    mlp.params[:] = rng.standard_normal(mlp.n_params)
    with fm.threads(threads):
        np.testing.assert_array_equal(mlp(x), mlp(x.toarray()))
        out = np.empty((rows, mlp.n_out), dtype)
        assert mlp.predict(x, out=out) is out
        np.testing.assert_array_equal(out, mlp(x.toarray()))


@pytest.mark.parametrize("activation", ["relu", "tanh", "softmax", "gelu"])
@pytest.mark.parametrize("threads", [1, 2])
def test_steps(
    activation: str, threads: int, isa: str, dtype: Any, rng: np.random.Generator
) -> None:
    x = matrix(rng, dtype)
    dense, labels = x.toarray(), rng.integers(0, 5, ROWS)
    weight, loss = rng.random(ROWS), fm.CrossEntropy()
    one, two = (model(dtype, activation=activation) for _ in range(2))
    with fm.threads(threads):
        a = one.value_and_grad(x, labels, loss, weight)
        b = two.value_and_grad(dense, labels, loss, weight)
        assert a[0] == b[0]
        np.testing.assert_array_equal(a[1], b[1])
        assert one.evaluate(x, labels, loss) == two.evaluate(dense, labels, loss)
        optimizers = [fm.Adam(0.01, clip_norm=0.1) for _ in range(2)]
        for _ in range(3):
            a = one.train_step(x, labels, loss, optimizers[0], weight)
            assert a == two.train_step(dense, labels, loss, optimizers[1], weight)
    np.testing.assert_array_equal(one.params, two.params)


@pytest.mark.parametrize(
    "widths",
    [
        (23, 5),
        (fm.Dense(9), fm.BatchNorm(), fm.Activation("relu"), 5),
        (9, fm.Residual([9]), fm.Dropout(0.3), 5),
    ],
    ids=["plain", "batch norm", "residual"],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_fits(
    widths: tuple[Any, ...], shuffle: bool, dtype: Any, rng: np.random.Generator
) -> None:
    x = matrix(rng, dtype)
    y = rng.standard_normal((ROWS, 5))
    one, two = model(dtype, widths), model(dtype, widths)
    results = [
        mlp.fit(
            data,
            y,
            loss=fm.MSE(),
            optimizer=fm.Adam(),
            epochs=3,
            batch_size=10,
            shuffle=shuffle,
            validation_data=(data[:9], y[:9]),
            metrics=["mae"],
        )
        for mlp, data in ((one, x), (two, x.toarray()))
    ]
    assert results[0].loss == results[1].loss
    assert results[0].metrics == results[1].metrics
    np.testing.assert_array_equal(one.params, two.params)


def squared(pred: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    d = pred - target
    return float((d * d).mean()), 2 * d / d.size


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x, y: (
            m.fit(
                x, y, loss=squared, optimizer=fm.SGD(0.1), epochs=2, batch_size=8
            ).loss
        ),
        lambda m, x, y: m.fit(x, y, loss=fm.MSE(), optimizer=fm.LBFGS(), epochs=3).loss,
        lambda m, x, y: (
            m.fit(
                lambda: [(x[:20], y[:20]), (x[20:], y[20:])],
                loss=fm.MSE(),
                optimizer=fm.SGD(0.1),
                epochs=2,
            ).loss
        ),
        lambda m, x, y: m.train_step(x, y, squared, fm.SGD(0.1)),
        lambda m, x, y: m.evaluate(x, y, squared),
        lambda m, x, y: m.value_and_grad(x, y, squared)[0],
    ],
    ids=["custom", "lbfgs", "batches", "custom step", "custom loss", "custom gradient"],
)
def test_other_ways_to_train(
    run: Callable[..., Any], dtype: Any, rng: np.random.Generator
) -> None:
    x, y = matrix(rng, dtype), rng.standard_normal((ROWS, 5)).astype(dtype)
    one, two = model(dtype), model(dtype)
    assert run(one, x, y) == run(two, x.toarray(), y)
    np.testing.assert_array_equal(one.params, two.params)


@pytest.mark.parametrize("form", ["csc", "coo", "lil", "dok", "bsr"])
def test_other_formats(form: str, rng: np.random.Generator) -> None:
    x, mlp = matrix(rng, np.float64), model(np.float32)
    wanted = mlp(x.toarray())
    np.testing.assert_array_equal(mlp(x.asformat(form)), wanted)
    np.testing.assert_array_equal(mlp(sparse.csr_array(x)), wanted)


def test_unsorted_and_repeated_entries_are_summed_in_a_copy() -> None:
    x = sparse.csr_matrix(
        (np.float32([1, 2, 3, 4]), np.int32([7, 2, 7, 0]), [0, 3, 4]), (2, COLUMNS)
    )
    mlp, before = model(np.float32), x.indices.copy()
    np.testing.assert_array_equal(mlp(x), mlp(x.toarray()))
    np.testing.assert_array_equal(x.indices, before)


def test_unused_room_of_the_arrays_is_not_read() -> None:
    data = np.float32([1, 2, np.nan])
    x = sparse.csr_matrix((data[:2], np.int32([7, 0]), [0, 1, 2]), (2, COLUMNS))
    x.data, x.indices = data, np.int32([7, 0, 9])
    mlp = model(np.float32)
    assert np.isfinite(mlp(x)).all()
    mlp.fit(x, np.zeros((2, 5)), loss=fm.MSE(), optimizer=fm.SGD(0.1), epochs=1)


def test_large_batches_need_no_dense_copy() -> None:
    """The dense inputs alone would take 400 GB."""
    rows, columns = 100_000, 1_000_000
    x = sparse.csr_matrix(
        (np.ones(rows, np.float32), np.arange(rows), np.arange(rows + 1)),
        (rows, columns),
    )
    mlp = fm.MLP([columns, 2], seed=0)
    np.testing.assert_array_equal(mlp(x), mlp.weights[0][:rows] + mlp.biases[0])
    mlp.train_step(x, np.zeros((rows, 2)), fm.MSE(), fm.SGD(0.1))


def test_gradients_of_each_row(dtype: Any, rng: np.random.Generator) -> None:
    x, y, mlp = matrix(rng, dtype), rng.standard_normal((ROWS, 5)), model(dtype)
    np.testing.assert_array_equal(
        mlp.per_sample_grads(x, y, fm.MSE()),
        mlp.per_sample_grads(x.toarray(), y, fm.MSE()),
    )


def test_errors(rng: np.random.Generator) -> None:
    x, y = matrix(rng, np.float32), np.zeros((ROWS, 5), np.float32)
    mlp = model(np.float32)
    before = mlp.params.copy()
    fit = {"loss": fm.MSE(), "epochs": 1}
    with pytest.raises(ValueError, match=r"x must have shape \(rows, 300\), got a csr"):
        mlp(x[:, :7])
    with pytest.raises(ValueError, match="x must have at least one row"):
        mlp(x[:0])
    with pytest.raises(TypeError, match=r"LevenbergMarquardt.*write x.toarray\(\)"):
        mlp.fit(x, y, optimizer=fm.LevenbergMarquardt(), **fit)
    with pytest.raises(TypeError, match=r"write x.toarray\(\)"):
        mlp.jacobian(x)
    bad = x.copy()
    bad.data[3] = np.nan
    with pytest.raises(ValueError, match="x must be finite, got nan"):
        mlp.fit(bad, y, optimizer=fm.Adam(), batch_size=8, **fit)
    with pytest.raises(fm.DivergenceError, match="x holds a value that is not finite"):
        mlp.train_step(bad, y, fm.MSE(), fm.Adam())
    big = x.astype(np.float64)
    big.data[0] = 1e300
    with pytest.raises(ValueError, match="too large for float32"):
        mlp(big)
    other = model(np.float32, (fm.Dropout(0.1), 5))
    with pytest.raises(TypeError, match=r"first layer of the model is fm\.Dense"):
        other(x)
    for place in (-1, COLUMNS):
        broken = x.copy()
        broken.indices[0] = place
        with pytest.raises(ValueError, match="x is not a valid sparse matrix"):
            mlp(broken)
    for start in (-1, 99, 10**6):
        for form in ("csr", "csc"):
            broken = x.asformat(form, copy=True)
            broken.indptr[1] = start
            with pytest.raises(ValueError, match="x is not a valid sparse matrix"):
                mlp(broken)
    np.testing.assert_array_equal(mlp.params, before)
