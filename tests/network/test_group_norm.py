"""GroupNorm: values, gradients and training against PyTorch and the reference."""

from __future__ import annotations

import pickle
from pathlib import Path

import fastmlp as fm
import layer_checks as checks
import numpy as np
import pytest
from helpers import SEED


def disturbed(mlp: fm.MLP) -> fm.MLP:
    rng = np.random.default_rng(SEED)
    for view in mlp.named_parameters().values():
        if view.ndim == 1:
            view += rng.uniform(-0.5, 0.5, view.shape)
    return mlp


def network(n_out: int = 3, dtype: str = "float64", affine: bool = True) -> fm.MLP:
    # With this eps, small groups of nearly equal values do not magnify rounding errors.
    def norm(groups: int, affine: bool = True) -> fm.GroupNorm:
        return fm.GroupNorm(groups, 0.1, affine)

    layers = [
        *(norm(2), 12, norm(4, affine), fm.Activation("tanh")),
        *(fm.Residual([norm(3), 10, norm(5)]), 18, norm(1, affine)),
        *(fm.Activation("silu"), n_out),
    ]
    mlp = fm.MLP([6, *layers], activation="identity", dtype=dtype, seed=0)
    return disturbed(mlp)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("m", [1, 2, 33, 300])
def test_torch(m: int, affine: bool) -> None:
    checks.check_torch(network(affine=affine), m)
    checks.check_torch(network(1, affine=affine), m, hessian=True)


@pytest.mark.parametrize("groups", [1, 2, 3, 7, 21, 42])
@pytest.mark.parametrize("m", [1, 9])
def test_formula(groups: int, m: int) -> None:
    mlp = disturbed(fm.MLP([42, fm.GroupNorm(groups, eps=0.1)], dtype="float64"))
    scale, shift = mlp.named_parameters().values()
    x = checks.rows(m, 42) + 3
    parts = x.reshape(m, groups, -1)
    deviation = parts - parts.mean(axis=-1, keepdims=True)
    variance = (deviation**2).mean(axis=-1, keepdims=True)
    normal = (deviation / np.sqrt(variance + 0.1)).reshape(m, 42)
    wanted = normal * scale + shift
    np.testing.assert_allclose(mlp(x), wanted, rtol=checks.RTOL, atol=checks.RTOL)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_group_is_a_layer_norm(dtype: str) -> None:
    both = [
        disturbed(fm.MLP([7, 9, norm, 1], dtype=dtype, seed=0))
        for norm in (fm.GroupNorm(1), fm.LayerNorm())
    ]
    x = checks.rows(5, 7, dtype)
    ours, theirs = ([mlp(x), mlp.jacobian(x), mlp.hessian(x)] for mlp in both)
    for a, b in zip(ours, theirs, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("affine", [True, False])
def test_derivatives(affine: bool) -> None:
    checks.check_derivatives(network(affine=affine))
    checks.check_hessian(network(1, affine=affine))


def test_training_is_that_of_the_reference() -> None:
    checks.check_training(
        lambda lib: [
            *(4, 12, lib.GroupNorm(3), lib.Activation("tanh")),
            *(lib.Residual([lib.GroupNorm(4, 0.1, False), 12, lib.GroupNorm(2)]), 2),
        ]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_everywhere(dtype: str) -> None:
    checks.check_same_bits(lambda: network(3, dtype))


def test_rows_do_not_depend_on_their_batch() -> None:
    mlp = network(dtype="float32")
    x = checks.rows(300, 6, np.float32)
    assert mlp(x)[:7].tobytes() == mlp(x[:7]).tobytes()
    assert mlp(x)[11].tobytes() == mlp(x[11]).tobytes()


def test_files_and_pickles_keep_it(tmp_path: Path) -> None:
    mlp = network()
    mlp.save(tmp_path / "model.safetensors")
    x = checks.rows(3, 6)
    loaded = fm.load(tmp_path / "model.safetensors")
    for copy in (loaded, pickle.loads(pickle.dumps(mlp)), mlp.fold()):
        assert copy.layers == mlp.layers
        assert copy(x).tobytes() == mlp(x).tobytes()


def test_summary_names_it() -> None:
    mlp = fm.MLP([6, fm.GroupNorm(3, affine=False), fm.GroupNorm(2), 1])
    assert repr(mlp.layers[0]) == "GroupNorm(3, affine=False)"
    assert mlp.n_params == 2 * 6 + 6 + 1
    assert "GroupNorm" in str(mlp.summary())


@pytest.mark.parametrize("affine", [True, False])
def test_onnx(affine: bool, tmp_path: Path) -> None:
    mlp = network(3, "float32", affine)
    checks.check_onnx(mlp, tmp_path / "model.onnx")


def test_modules_that_are_refused() -> None:
    torch = pytest.importorskip("torch", reason="modules of PyTorch are converted")
    nn = torch.nn
    with pytest.raises(
        ValueError, match=r"inputs of width 4, but .* outputs of width 6"
    ):
        fm.from_torch(nn.Sequential(nn.Linear(3, 6), nn.GroupNorm(2, 4)))
    with pytest.raises(ValueError, match="must have a finite eps > 0, got eps=0"):
        fm.from_torch(nn.GroupNorm(2, 4, eps=0))


def test_wrong_arguments() -> None:
    with pytest.raises(
        ValueError, match=r"layer 1 \(group_norm\) .* 4 groups, which .* its width, 6"
    ):
        fm.MLP([3, 6, fm.GroupNorm(4), 1])
    with pytest.raises(ValueError, match="groups must be at least 1, got 0"):
        fm.GroupNorm(0)
    with pytest.raises(TypeError, match="groups must be an int"):
        fm.GroupNorm(2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the width, write fm.GroupNorm\(8\)"):
        fm.GroupNorm(8, 64)
    with pytest.raises(TypeError, match="num_channels"):
        fm.GroupNorm(8, num_channels=64)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="layer 0 has GroupNorm"):
        fm.regions.count_regions(fm.MLP([2, fm.GroupNorm(2), 1]), -1, 1)
