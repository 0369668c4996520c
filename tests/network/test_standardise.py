"""Standardise and adapt: values, statistics and training against other libraries."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmlp as fm
import layer_checks as checks
import numpy as np
import pytest
from fastmlp import reference
from fastmlp._network import adapt

# Means and variances of some hundred numbers of similar size, in float64.
STATISTICS_RTOL = 1e-12


def layers_of(lib: Any, n_out: int) -> list[Any]:
    return [
        *(5, lib.Standardise(), 7, lib.Standardise(), lib.Activation("tanh")),
        *(lib.Residual([lib.Standardise(), 6, 7]), lib.Standardise(), n_out),
        lib.Standardise(inverse=True),
    ]


def data(m: int, n: int, dtype: Any = np.float64, seed: int = 5) -> np.ndarray:
    """Return rows with columns of different means and deviations."""
    column = np.arange(1, n + 1)
    return (checks.rows(m, n, seed=seed) * column - 3 * column).astype(dtype)


def network(n_out: int = 3, dtype: str = "float64") -> fm.MLP:
    mlp = fm.MLP(layers_of(fm, n_out), activation="identity", dtype=dtype, seed=0)
    for bias in mlp.biases:
        bias += np.linspace(0.1, 0.5, bias.size)
    mlp.adapt(data(50, 5), data(50, n_out))
    return mlp


def mild_network(n_out: int = 3, dtype: str = "float64") -> fm.MLP:
    """Return one with outputs of about 1, for differences and large steps."""
    mlp = network(n_out, dtype)
    mlp.buffers[-2 * n_out :] /= 100
    return mlp


def test_it_starts_as_the_identity() -> None:
    mlp = fm.MLP([3, fm.Standardise(), 4, 2, fm.Standardise(inverse=True)], seed=0)
    plain = fm.MLP([3, 4, 2], seed=0)
    x = checks.rows(5, 3, np.float32)
    assert mlp(x).tobytes() == plain(x).tobytes()
    assert mlp.n_params == plain.n_params
    np.testing.assert_array_equal(mlp.buffers, [0, 0, 0, 1, 1, 1, 0, 0, 1, 1])
    assert [*mlp.state_dict()][:2] == ["0.mean", "0.var"]


@pytest.mark.parametrize("m", [1, 2, 33, 300])
def test_torch(m: int) -> None:
    checks.check_torch(network(), m)
    checks.check_torch(network(1), m, hessian=True)


def test_derivatives() -> None:
    checks.check_derivatives(mild_network())
    checks.check_hessian(mild_network(1))


def test_training_is_that_of_the_reference() -> None:
    def make(lib: Any) -> list[Any]:
        return [4, lib.Standardise(), 7, lib.Standardise(), lib.Activation("relu"), 2]

    checks.check_training(make)
    results = []
    for lib in (fm, reference):
        layers = layers_of(lib, 2)
        mlp = lib.MLP(layers, activation="identity", dtype="float64", seed=3)
        x, y = data(50, 5), data(50, 2)
        mlp.adapt(x, y)
        mlp.fit(x, y, loss=lib.MSE(), optimizer=lib.Adam(0.01), epochs=3, batch_size=16)
        results.append([mlp.buffers, mlp.params, mlp(x)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)  # 12 steps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_everywhere(dtype: str) -> None:
    checks.check_same_bits(lambda: mild_network(3, dtype))
    found = set()
    for name in fm.available_isas():
        with fm.use_isa(name):
            found.add(network(3, dtype).buffers.tobytes())
    assert len(found) == 1


def test_folding_merges_it() -> None:
    mlp = network()
    folded = mlp.fold()
    x = data(9, 5)
    np.testing.assert_allclose(folded(x), mlp(x), rtol=checks.RTOL, atol=checks.RTOL)
    kinds = [type(layer).__name__ for layer in folded.layers]
    assert kinds == ["Dense", "Activation", "Residual", "Dense"]
    twin = reference.MLP(layers_of(reference, 3), activation="identity", seed=0)
    twin.adapt(data(50, 5), data(50, 3))
    np.testing.assert_allclose(twin.fold()(x), twin(x), rtol=1e-4)  # float32


def test_products_in_bfloat16_do_not_round_it() -> None:
    layers = [3, fm.Standardise(), fm.Standardise(inverse=True)]
    mlp = fm.MLP(layers, compute_dtype="bfloat16", seed=0)
    x = data(40, 3, np.float32)
    mlp.adapt(x, x)
    np.testing.assert_allclose(mlp(x), x, rtol=1e-6)  # float32


def test_regions_are_counted() -> None:
    mlp = fm.MLP([2, fm.Standardise(), 5, 1], activation="relu", seed=0)
    mlp.adapt(checks.rows(100, 2))
    plain = mlp.fold()
    ends = [-1.0, -1.0], [1.0, 1.0]
    ours, theirs = (fm.regions.count_regions(net, *ends) for net in (mlp, plain))
    assert ours.count == theirs.count > 1


def test_files_and_copies_keep_it(tmp_path: Path) -> None:
    mlp = network()
    mlp.save(tmp_path / "model.safetensors")
    x = data(3, 5)
    loaded = fm.load(tmp_path / "model.safetensors")
    new = fm.MLP(layers_of(fm, 3), activation="identity", dtype="float64", seed=1)
    new.load_state_dict(mlp.state_dict())
    for copy in (loaded, pickle.loads(pickle.dumps(mlp)), mlp.copy(), new):
        assert copy.layers == mlp.layers
        assert copy(x).tobytes() == mlp(x).tobytes()


def test_checkpoints_keep_it(tmp_path: Path) -> None:
    mlp, path = network(), tmp_path / "run.safetensors"
    before = mlp.buffers.tobytes()
    rule = {"loss": fm.MSE(), "optimizer": fm.Adam(), "epochs": 2}
    mlp.fit(data(60, 5), data(60, 3), callbacks=[fm.Checkpoint(path)], **rule)
    assert mlp.buffers.tobytes() == before
    other = fm.MLP(layers_of(fm, 3), activation="identity", dtype="float64", seed=1)
    fm.Checkpoint.load(path, other, fm.Adam())
    assert other.buffers.tobytes() == before


def test_onnx(tmp_path: Path) -> None:
    checks.check_onnx(network(3, "float32"), tmp_path / "model.onnx")


def test_a_module_in_pytorch_repeats_passes_with_its_statistics() -> None:
    """A later pass overwrites what the first one kept, so backward repeats it."""
    torch = pytest.importorskip("torch", reason="a PyTorch module is differentiated")
    layers = [5, fm.Standardise(), fm.Dropout(0.5), 4, 3]
    mlp = fm.MLP(layers, dtype="float64", seed=0)
    mlp.adapt(data(50, 5))
    gradients = []
    for later in (False, True):
        module = mlp.copy().as_torch_module()
        x = torch.from_numpy(data(6, 5)).requires_grad_()
        y = module(x).square().sum()
        if later:
            module(x.detach() + 1)
        y.backward()
        gradients.append(x.grad.numpy().tobytes())
    assert gradients[0] == gradients[1]


def test_lsuv_uses_the_statistics() -> None:
    mlp = fm.MLP([5, fm.Standardise(), 6, 2], dtype="float64", seed=0)
    x = data(50, 5)
    mlp.adapt(x)
    fm.initializers.lsuv(mlp, x, tol=1e-6)
    mean, var = np.split(mlp.buffers, 2)
    z = (x - mean) / np.sqrt(var) @ mlp.weights[0] + mlp.biases[0]
    assert z.var() == pytest.approx(1, abs=1e-6)


# adapt --------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 31, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_statistics_are_those_of_scikit_learn(
    m: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocessing = pytest.importorskip(
        "sklearn.preprocessing", reason="StandardScaler is compared with"
    )
    x = data(m, 4, dtype)
    x[:, 1] = 0.1  # a constant whose mean is rounded
    x[:, 3] += 1e3
    wanted = preprocessing.StandardScaler().fit(x.astype(np.float64))
    mlp = fm.MLP([4, fm.Standardise(), 2], dtype=dtype, seed=0)
    for block in (adapt._BLOCK, 40):
        monkeypatch.setattr(adapt, "_BLOCK", block)
        mlp.adapt(x)
        mean, var = np.split(mlp.buffers, 2)
        rtol = STATISTICS_RTOL if dtype == "float64" else 1e-6
        np.testing.assert_allclose(mean, wanted.mean_, rtol=rtol)
        np.testing.assert_allclose(np.sqrt(var), wanted.scale_, rtol=rtol)
        assert var[1] == 1


def test_later_layers_learn_from_the_outputs_before_them() -> None:
    mlp = network()
    x, y = data(50, 5), data(50, 3)
    first = fm.MLP([5, *mlp.layers[:2]], dtype="float64", seed=0)
    first.load_state_dict({k: mlp.state_dict()[k] for k in first.state_dict()})
    found = mlp.state_dict()
    wanted = {
        "0": x,
        "2": first(x),
        "7": y,
    }
    assert {*wanted} < {name.split(".")[0] for name in found if name.endswith("var")}
    for name, values in wanted.items():
        np.testing.assert_allclose(
            found[f"{name}.mean"], values.mean(0), rtol=STATISTICS_RTOL
        )
        np.testing.assert_allclose(
            found[f"{name}.var"], values.var(0), rtol=STATISTICS_RTOL
        )


def test_layers_in_branches_learn_from_their_own_input() -> None:
    """The reference learns the statistics in one pass forward."""
    x, found = data(60, 6), []
    for lib in (fm, reference):
        inner = [lib.Dense(3, "tanh"), lib.Standardise()]
        branches = [[4, lib.Standardise()], [lib.Residual([*inner, 5])], [inner[1]], []]
        layers = [6, lib.Concat([lib.Dropout(0.5), lib.Standardise(), 5]), 6]
        mlp = lib.MLP(
            [*layers, lib.Parallel(branches), lib.Standardise(), 2],
            dtype="float64",
            seed=0,
        )
        mlp.adapt(x)
        found.append(mlp.buffers)
    assert found[0].size == 2 * (6 + 4 + 3 + 6 + 21)
    np.testing.assert_allclose(*found, rtol=STATISTICS_RTOL, atol=STATISTICS_RTOL)


def test_targets_may_be_a_vector_and_integers() -> None:
    mlp = fm.MLP([2, 1, fm.Standardise(inverse=True)], seed=0)
    y = np.array([1, 5, 3])
    mlp.adapt(checks.rows(3, 2), y)
    np.testing.assert_allclose(mlp.buffers, [y.mean(), y.var()], rtol=1e-6)  # float32


def test_sparse_inputs_reach_a_later_layer() -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="inputs may be sparse")
    x = np.where(checks.rows(60, 4) > 0, data(60, 4), 0)
    found = []
    for given in (x, sparse.csr_array(x)):
        mlp = fm.MLP([4, 3, fm.Standardise(), 2], dtype="float64", seed=0)
        mlp.adapt(given)
        found.append(mlp.buffers)
    np.testing.assert_allclose(found[0], found[1], rtol=STATISTICS_RTOL)
    with pytest.raises(TypeError, match="only if the first layer"):
        network().adapt(sparse.csr_array(np.eye(5)), np.eye(5)[:, :3])


def with_nan(rows: np.ndarray) -> np.ndarray:
    rows[1, 1] = np.nan
    return rows


TINY = np.linspace(0, 1e-25, 6).reshape(3, 2)
REFUSED: dict[str, tuple[Callable[[], Any], Any, type[Exception], str]] = {
    "nan": (lambda: with_nan(data(3, 2)), data(3, 1), ValueError, "x must be finite"),
    "infinite": (lambda: data(3, 2), [1, np.inf, 2], ValueError, "y must be finite"),
    "no targets": (lambda: data(3, 2), None, ValueError, "y must be given"),
    "rows": (lambda: data(3, 2), data(4, 1), ValueError, r"y must have shape \(3, 1\)"),
    "columns": (lambda: data(3, 3), data(3, 1), ValueError, "x must have shape"),
    "no rows": (lambda: np.empty((0, 2)), [], ValueError, "at least one row"),
    "words": (lambda: [["a", "b"]], [1], TypeError, "x must hold real numbers"),
    "small": (lambda: TINY, data(3, 1), ValueError, "within the range of float32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_data_leave_the_model_unchanged(case: str) -> None:
    make, y, kind, message = REFUSED[case]
    layers = [fm.Standardise(), 4, 1, fm.Standardise(inverse=True)]
    mlp = fm.MLP([2, *layers], seed=0)
    mlp.adapt(data(9, 2), data(9, 1))
    before = mlp.buffers.tobytes() + mlp.params.tobytes()
    with pytest.raises(kind, match=message):
        mlp.adapt(make(), y)
    assert mlp.buffers.tobytes() + mlp.params.tobytes() == before


def test_models_without_the_layer_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a model with an fm"):
        fm.MLP([2, 3, 1]).adapt(data(3, 2))
    with pytest.raises(ValueError, match="y must be left out"):
        fm.MLP([2, fm.Standardise(), 1]).adapt(data(3, 2), data(3, 1))


def test_the_inverse_must_be_last() -> None:
    inverse = fm.Standardise(inverse=True)
    for layers in ([2, inverse, 3], [2, fm.Residual([2]), inverse, 1]):
        with pytest.raises(ValueError, match="can only be the last layer"):
            fm.MLP(layers)
    with pytest.raises(ValueError, match="can only be the last layer"):
        fm.Residual([inverse])
    with pytest.raises(TypeError, match="inverse must be True or False"):
        fm.Standardise(inverse=1)  # type: ignore[arg-type]


def test_it_shows_its_option() -> None:
    assert repr(fm.Standardise()) == "Standardise()"
    assert repr(fm.Standardise(True)) == "Standardise(inverse=True)"
    assert "Standardise" in network().summary()
