"""Periodic: values, gradients and training against PyTorch and the reference."""

from __future__ import annotations

import pickle
from pathlib import Path

import fastmlp as fm
import layer_checks as checks
import numpy as np
import pytest
from fastmlp import reference


def network(n_out: int = 3, dtype: str = "float64") -> fm.MLP:
    waves = fm.Parallel([[fm.Columns([0, 3]), fm.Periodic(5, 0.3)], []])
    layers = [waves, fm.Activation("tanh"), 7, fm.Periodic(3), 6, fm.Periodic(2), n_out]
    return fm.MLP([4, *layers], activation="silu", dtype=dtype, seed=0)


def test_values_are_sines_and_cosines() -> None:
    mlp = fm.MLP([3, fm.Periodic(4)], dtype="float64", seed=0)
    x = checks.rows(6, 3)
    z = 2 * np.pi * mlp.named_parameters()["0.weight"] * x[:, :, np.newaxis]
    wanted = np.concatenate([np.sin(z), np.cos(z)], axis=2).reshape(6, -1)
    np.testing.assert_allclose(mlp(x), wanted, rtol=checks.RTOL, atol=checks.RTOL)


def test_frequencies_are_normally_distributed() -> None:
    layer = fm.Periodic(400, sigma=2.5)
    mlp = fm.MLP([100, layer], dtype="float64", seed=0)
    w = mlp.named_parameters()["0.weight"]
    # The standard deviations of both are 2.5 / 200 and 2.5 / 283.
    assert abs(w.mean()) < 0.06
    assert abs(w.std() - 2.5) < 0.05
    twin = reference.MLP([100, reference.Periodic(400, 2.5)], dtype="float64", seed=0)
    np.testing.assert_array_equal(mlp.params, twin.params)


@pytest.mark.parametrize("m", [1, 2, 33, 300])
def test_torch(m: int) -> None:
    checks.check_torch(network(), m)
    checks.check_torch(network(1), m, hessian=True)


def test_derivatives() -> None:
    checks.check_derivatives(network())
    checks.check_hessian(network(1))


def test_training_is_that_of_the_reference() -> None:
    checks.check_training(
        lambda lib: [3, lib.Periodic(4), 7, lib.Activation("relu"), lib.Periodic(2), 2]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_everywhere(dtype: str) -> None:
    checks.check_same_bits(lambda: network(3, dtype))


def test_files_pickles_and_folding_keep_it(tmp_path: Path) -> None:
    mlp = network()
    mlp.save(tmp_path / "model.safetensors")
    x = checks.rows(3, 4)
    loaded = fm.load(tmp_path / "model.safetensors")
    for copy in (loaded, pickle.loads(pickle.dumps(mlp))):
        assert copy.layers == mlp.layers
        assert copy(x).tobytes() == mlp(x).tobytes()
    assert mlp.fold()(x).tobytes() == mlp(x).tobytes()


def test_onnx(tmp_path: Path) -> None:
    checks.check_onnx(network(3, "float32"), tmp_path / "model.onnx")


def test_errors() -> None:
    with pytest.raises(ValueError, match="n must be"):
        fm.Periodic(0)
    with pytest.raises(ValueError, match="sigma must be"):
        fm.Periodic(3, sigma=0.0)
