"""Scale: values, gradients and training against PyTorch and the reference."""

from __future__ import annotations

import pickle
from pathlib import Path

import fastmlp as fm
import layer_checks as checks
import numpy as np
import pytest
from helpers import SEED


def network(n_out: int = 3, dtype: str = "float64") -> fm.MLP:
    layers = [
        *(fm.Scale(), 7, fm.Scale(), fm.Activation("tanh")),
        *(fm.Residual([fm.Scale(), 6, fm.Scale()]), fm.Scale(), n_out),
    ]
    mlp = fm.MLP([5, *layers], activation="identity", dtype=dtype, seed=0)
    rng = np.random.default_rng(SEED)
    for view in mlp.named_parameters().values():
        if view.ndim == 1:
            view += rng.uniform(-0.5, 0.5, view.shape)
    return mlp


def test_factors_start_at_one() -> None:
    mlp = fm.MLP([3, fm.Scale(), 4, 2], seed=0)
    np.testing.assert_array_equal(mlp.state_dict()["0.weight"], np.ones(3, np.float32))
    assert mlp.n_params == 3 + 3 * 4 + 4 + 4 * 2 + 2
    plain = fm.MLP([3, 4, 2], seed=0)
    x = checks.rows(5, 3, np.float32)
    assert mlp(x).tobytes() == plain(x).tobytes()


@pytest.mark.parametrize("m", [1, 2, 33, 300])
def test_torch(m: int) -> None:
    checks.check_torch(network(), m)
    checks.check_torch(network(1), m, hessian=True)


def test_derivatives() -> None:
    checks.check_derivatives(network())
    checks.check_hessian(network(1))


def test_training_is_that_of_the_reference() -> None:
    checks.check_training(
        lambda lib: [4, lib.Scale(), 7, lib.Scale(), lib.Activation("relu"), 2]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_everywhere(dtype: str) -> None:
    checks.check_same_bits(lambda: network(3, dtype))


def test_folding_merges_it() -> None:
    mlp = network()
    folded = mlp.fold()
    x = checks.rows(9, 5)
    np.testing.assert_allclose(folded(x), mlp(x), rtol=checks.RTOL, atol=checks.RTOL)
    kinds = [type(layer).__name__ for layer in folded.layers]
    assert kinds == ["Dense", "Activation", "Residual", "Dense"]


def test_regions_are_counted() -> None:
    mlp = fm.MLP([2, fm.Scale(), 5, 1], activation="relu", seed=0)
    plain = fm.MLP([2, 5, 1], activation="relu", seed=0)
    ends = [-1.0, -1.0], [1.0, 1.0]
    ours, theirs = (fm.regions.count_regions(net, *ends) for net in (mlp, plain))
    assert ours.count == theirs.count


def test_files_and_pickles_keep_it(tmp_path: Path) -> None:
    mlp = network()
    mlp.save(tmp_path / "model.safetensors")
    x = checks.rows(3, 5)
    loaded = fm.load(tmp_path / "model.safetensors")
    for copy in (loaded, pickle.loads(pickle.dumps(mlp))):
        assert copy.layers == mlp.layers
        assert copy(x).tobytes() == mlp(x).tobytes()


def test_onnx(tmp_path: Path) -> None:
    checks.check_onnx(network(3, "float32"), tmp_path / "model.onnx")
