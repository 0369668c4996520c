"""GLU: values, gradients and training against PyTorch and the reference."""

from __future__ import annotations

import pickle
from pathlib import Path

import fastmlp as fm
import numpy as np
import pytest
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

# In float64, PyTorch's hardsigmoid has a derivative of 1 / 6 rounded to float32.
UNLIKE_TORCH = ("softmax", "hardsigmoid")
ELEMENTWISE = [name for name in fm.ACTIVATIONS if name not in UNLIKE_TORCH]
CONSTANTS = [
    fm.Activation("elu", alpha=0.3),
    fm.Activation("softplus", beta=2.0),
    fm.Activation("hardtanh", min_val=-0.5, max_val=2.0),
]


def network(
    gate: str | fm.Activation = "sigmoid", n_out: int = 3, dtype: str = "float64"
) -> fm.MLP:
    layers = [
        *(6, fm.GLU(gate), 10, fm.GLU(gate), fm.Activation("tanh")),
        *(fm.Residual([20, fm.GLU(gate), fm.GLU("silu")]), n_out),
    ]
    return fm.MLP(layers, activation="identity", dtype=dtype, seed=0)


@pytest.mark.parametrize("gate", [*ELEMENTWISE, *CONSTANTS], ids=str)
def test_torch(gate: str | fm.Activation) -> None:
    check_torch(network(gate), 33)


@pytest.mark.parametrize("gate", ["sigmoid", "silu", "gelu", "tanh"])
@pytest.mark.parametrize("m", [1, 2, 300])
def test_hessians_are_those_of_torch(gate: str, m: int) -> None:
    check_torch(network(gate, 1), m, hessian=True)


@pytest.mark.parametrize("gate", ["sigmoid", "gelu", "hardsigmoid", *CONSTANTS[:1]])
def test_derivatives(gate: str | fm.Activation) -> None:
    check_derivatives(network(gate))
    check_hessian(network(gate, 1))


@pytest.mark.parametrize("m", [1, 3])
def test_formula(m: int) -> None:
    x = rows(m, 8)
    mlp = fm.MLP([8, fm.GLU("silu")], dtype="float64")
    wanted = x[:, :4] * x[:, 4:] / (1 + np.exp(-x[:, 4:]))
    np.testing.assert_allclose(mlp(x), wanted, rtol=RTOL)
    assert mlp.n_out == 4
    assert mlp.n_params == 0


def test_training_is_that_of_the_reference() -> None:
    check_training(
        lambda lib: [
            *(4, 8, lib.GLU(lib.Activation("elu", alpha=0.5)), lib.LayerNorm()),
            *(lib.Residual([14, lib.GLU(), lib.Dropout(0.2)]), 2),
        ]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_everywhere(dtype: str) -> None:
    check_same_bits(lambda: network("gelu", 3, dtype))


def test_files_and_pickles_keep_it(tmp_path: Path) -> None:
    mlp = network(CONSTANTS[0])
    mlp.save(tmp_path / "model.safetensors")
    x = rows(3, 6)
    loaded = fm.load(tmp_path / "model.safetensors")
    for copy in (loaded, pickle.loads(pickle.dumps(mlp))):
        assert copy.layers == mlp.layers
        assert copy(x).tobytes() == mlp(x).tobytes() == mlp.fold()(x).tobytes()


@pytest.mark.parametrize("gate", ["sigmoid", "silu", "gelu", *CONSTANTS[:1]])
def test_onnx(gate: str | fm.Activation, tmp_path: Path) -> None:
    check_onnx(network(gate, 3, "float32"), tmp_path / "model.onnx")


def test_modules_that_are_refused() -> None:
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    nn = torch.nn
    with pytest.raises(ValueError, match="must halve rows, with dim=-1, got dim=0"):
        fm.from_torch(nn.Sequential(nn.Linear(4, 4), nn.GLU(dim=0)))
    with pytest.raises(ValueError, match="needs an even width, got 3"):
        fm.from_torch(nn.Sequential(nn.Linear(4, 3), nn.GLU()))
    module = network("silu").to_torch()
    module[0].activation = nn.Dropout()
    with pytest.raises(TypeError, match="module of an activation, got Dropout"):
        fm.from_torch(module)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="activation must be elementwise"):
        fm.GLU("softmax")
    with pytest.raises(TypeError, match="activation must be a name"):
        fm.GLU(np.sin)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layer 1 \(glu\) .* must be even, got 5"):
        fm.MLP([3, 5, fm.GLU(), 1])
    with pytest.raises(ValueError, match="layer 0 has GLU"):
        fm.regions.count_regions(fm.MLP([2, fm.GLU(), 1]), -1, 1)
