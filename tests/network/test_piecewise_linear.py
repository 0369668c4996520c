"""PiecewiseLinear: bins from data, values, derivatives, training and exports."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import fastmlp as fm
import layer_checks as checks
import numpy as np
import pytest
from fastmlp import reference


def network(n_out: int = 3, dtype: str = "float64") -> fm.MLP:
    bins = fm.Parallel([[fm.Columns([0, 3]), fm.PiecewiseLinear(5)], []])
    layers = [bins, fm.Activation("tanh"), 7, fm.PiecewiseLinear(3), n_out]
    mlp = fm.MLP([4, *layers], activation="silu", dtype=dtype, seed=0)
    mlp.adapt(checks.rows(200, 4, dtype, seed=9))
    return mlp


def encoded(x: np.ndarray, limits: list[np.ndarray]) -> np.ndarray:
    """Return the encoding by the formula of the paper, for limits of each column."""
    columns = []
    for values, ends in zip(x.T, limits, strict=True):
        for t in range(len(ends) - 1):
            share = (values - ends[t]) / (ends[t + 1] - ends[t])
            if t > 0:
                share = np.where(values < ends[t], 0, share)
            if t + 2 < len(ends):
                share = np.where(values >= ends[t + 1], 1, share)
            columns.append(share)
    return np.stack(columns, axis=1)


def test_values_are_those_of_the_paper() -> None:
    x = checks.rows(500, 3)
    mlp = fm.MLP([3, fm.PiecewiseLinear(6)], dtype="float64")
    mlp.adapt(x)
    limits = [np.quantile(column, np.arange(7) / 6) for column in x.T]
    new = 2 * checks.rows(90, 3, seed=5)
    wanted = encoded(new, limits)
    np.testing.assert_allclose(mlp(new), wanted, rtol=checks.RTOL, atol=checks.RTOL)


def test_a_bin_holds_as_many_samples_as_another() -> None:
    x = checks.rows(1000, 1) ** 3
    mlp = fm.MLP([1, fm.PiecewiseLinear(8)], dtype="float64")
    mlp.adapt(x)
    h = mlp(x)
    inside = [((h[:, t] > 0) & (h[:, t] < 1)).sum() for t in range(1, 7)]
    np.testing.assert_allclose(inside, 125, atol=1)  # quantiles lie between samples


def test_few_values_give_few_bins() -> None:
    x = np.array([[0.0, 5.0, 1.0], [1.0, 5.0, 2.0], [1.0, 5.0, 4.0], [0.0, 5.0, 8.0]])
    mlp = fm.MLP([3, fm.PiecewiseLinear(4)], dtype="float64")
    mlp.adapt(x)
    state = mlp.state_dict()
    slope = state["0.slope"].reshape(3, 4)
    # Quantiles of the first column: 0, 0, 0.5, 1, 1; of the last: 1, 1.75, 3, 5, 8.
    np.testing.assert_array_equal(slope[0], [2, 0, 0, 2])
    np.testing.assert_array_equal(slope[1], 0)
    np.testing.assert_array_equal(slope[2], 1 / np.array([0.75, 1.25, 2, 3]))
    h = mlp(x)
    np.testing.assert_array_equal(h[:, [0, 3]], [[0, 0], [1, 1], [1, 1], [0, 0]])
    assert not h[:, [1, 2, 4, 5, 6, 7]].any()


def test_bins_before_adapt() -> None:
    for lib in (fm, reference):
        mlp = lib.MLP([2, lib.PiecewiseLinear(3)], dtype="float64")
        h = mlp(np.array([[0.25, 1.5], [-1.0, 4.0]]))
        wanted = [[0.25, 0, 0, 1, 0.5, 0], [-1, 0, 0, 1, 1, 2]]
        np.testing.assert_array_equal(h, wanted)


def test_adapt_is_that_of_the_reference() -> None:
    results = []
    for lib in (fm, reference):
        layers = [3, lib.PiecewiseLinear(7), 5, lib.Standardise(), 2]
        mlp = lib.MLP(layers, activation="tanh", dtype="float64", seed=1)
        x = checks.rows(300, 3)
        x[:, 1] = x[:, 1].round()
        mlp.adapt(x)
        results.append([mlp.buffers, mlp(x)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)  # sums


@pytest.mark.parametrize("m", [1, 2, 33, 300])
def test_torch(m: int) -> None:
    checks.check_torch(network(), m)
    checks.check_torch(network(1), m, hessian=True)


def test_derivatives() -> None:
    checks.check_derivatives(network())
    checks.check_hessian(network(1))


def test_training_is_that_of_the_reference() -> None:
    checks.check_training(
        lambda lib: [3, lib.PiecewiseLinear(4), 7, lib.PiecewiseLinear(2), 2]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_everywhere(dtype: str) -> None:
    checks.check_same_bits(lambda: network(3, dtype))


def test_training_leaves_the_bins_alone() -> None:
    mlp = network()
    before = mlp.buffers.copy()
    x, y = checks.rows(50, 4), checks.rows(50, 3, seed=2)
    mlp.fit(x, y, loss=fm.MSE(), optimizer=fm.Adam(0.01), epochs=3)
    np.testing.assert_array_equal(mlp.buffers, before)
    mlp.forward(x, training=True)
    np.testing.assert_array_equal(mlp.buffers, before)


def test_files_pickles_and_folding_keep_it(tmp_path: Path) -> None:
    mlp = network()
    mlp.save(tmp_path / "model.safetensors")
    x = checks.rows(3, 4)
    loaded = fm.load(tmp_path / "model.safetensors")
    for copy in (loaded, pickle.loads(pickle.dumps(mlp)), mlp.fold(), mlp.copy()):
        assert copy(x).tobytes() == mlp(x).tobytes()
    assert loaded.layers == mlp.layers


def test_onnx(tmp_path: Path) -> None:
    checks.check_onnx(network(3, "float32"), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[1.0], [np.nan]], "finite"),
        ([[0.0], [1e-44]], "too close to 0"),
    ],
)
def test_data_that_adapt_refuses(x: Any, words: str) -> None:
    mlp = fm.MLP([1, fm.PiecewiseLinear(2), 1], seed=0)
    before = mlp.buffers.copy()
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=words):
        mlp.adapt(np.array(x))
    np.testing.assert_array_equal(mlp.buffers, before)


def test_inputs_of_a_later_layer_that_overflow_are_refused() -> None:
    mlp = fm.MLP([1, fm.Dense(1, "identity"), fm.PiecewiseLinear(2), 1], seed=0)
    mlp.weights[0][:] = 1e38
    with pytest.raises(ValueError, match="later layer must be within the range of fl"):
        mlp.adapt([[0.0], [1e38]])


def test_errors() -> None:
    with pytest.raises(ValueError, match="n must be"):
        fm.PiecewiseLinear(0)
