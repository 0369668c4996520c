"""Weights that are computed: against PyTorch, the reference and differences."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmlp as fm
import layer_checks as checks
import numpy as np
import pytest
from helpers import SEED

# Twenty steps multiply the rounding errors of a gradient.
STEPS_RTOL = 1e-10
G, V = "parametrizations.weight.original0", "parametrizations.weight.original1"
S = "parametrizations.weight.original"
VECTORS = "parametrizations.weight.0._u", "parametrizations.weight.0._v"


KINDS = ("weight_norm", "spectral_norm")
of_kinds = pytest.mark.parametrize("kind", KINDS)


def wn(n: int, activation: Any = None, lib: Any = fm, **options: Any) -> Any:
    return lib.Dense(n, activation, parametrization="weight_norm", **options)


def sn(n: int, activation: Any = None, lib: Any = fm, **options: Any) -> Any:
    return lib.Dense(n, activation, parametrization="spectral_norm", **options)


def network(
    kind: str = "weight_norm",
    n_out: int = 3,
    dtype: str = "float64",
    **options: Any,
) -> fm.MLP:
    """A network whose magnitudes are not norms, and whose vectors are not exact."""
    dense = wn if kind == "weight_norm" else sn
    block = fm.Residual([dense(7, "silu"), fm.LayerNorm(), dense(9, bias=False)])
    layers = [5, dense(9, "tanh"), block, 8, dense(n_out)]
    mlp = fm.MLP(layers, activation="tanh", dtype=dtype, seed=0, **options)
    rng = np.random.default_rng(SEED)
    for name, view in mlp.named_parameters().items():
        if view.ndim == 1 or name.endswith((G, S)):
            view += rng.uniform(-0.5, 0.5, view.shape)
    return mlp


@pytest.mark.parametrize("m", [1, 2, 33, 300])
@pytest.mark.parametrize("n_out", [1, 3])
@of_kinds
def test_all_derivatives_of_torch(m: int, n_out: int, kind: str) -> None:
    checks.check_torch(network(kind, n_out), m, hessian=n_out == 1)


@of_kinds
def test_differences(kind: str) -> None:
    checks.check_hessian(network(kind, 1))
    checks.check_derivatives(network(kind))


OPTIMIZERS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "sgd": lambda p, t: (
        fm.SGD(0.05, momentum=0.9, weight_decay=0.01),
        t.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    ),
    "adam": lambda p, t: (fm.Adam(0.01), t.Adam(p, 0.01)),
    "adamw": lambda p, t: (
        fm.AdamW(0.01, weight_decay=0.1),
        t.AdamW(p, 0.01, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@of_kinds
def test_steps_are_those_of_torch(name: str, kind: str) -> None:
    torch = pytest.importorskip("torch", reason="steps are compared with PyTorch")
    mlp = network(kind)
    module = mlp.to_torch().train()
    ours, theirs = OPTIMIZERS[name](module.parameters(), torch.optim)
    for step in range(20):
        x, y = checks.rows(32, 5, seed=step), checks.rows(32, 3, seed=100 + step)
        loss = mlp.train_step(x, y, fm.MSE(), ours)
        theirs.zero_grad()
        output = module(torch.from_numpy(x))
        wanted = torch.nn.functional.mse_loss(output, torch.from_numpy(y))
        wanted.backward()
        theirs.step()
        np.testing.assert_allclose(loss, wanted.item(), rtol=STEPS_RTOL)
    state = module.state_dict()
    assert list(state) == list(mlp.state_dict())
    for key, array in mlp.state_dict().items():
        np.testing.assert_allclose(
            array, state[key].numpy(), rtol=STEPS_RTOL, atol=STEPS_RTOL
        )


def test_training_is_that_of_the_reference() -> None:
    checks.check_training(
        lambda lib: [
            *(
                4,
                wn(7, "tanh", lib),
                lib.BatchNorm(),
                lib.Residual([sn(6, "relu", lib)]),
            ),
            *(lib.LayerNorm(), sn(5, lib=lib, bias=False), wn(2, lib=lib)),
        ]
    )


def wide(dtype: str) -> fm.MLP:
    return fm.MLP([70, wn(130, "relu"), sn(65, "relu"), wn(3)], dtype=dtype, seed=0)


@pytest.mark.parametrize("make", [lambda dtype: network(dtype=dtype), wide])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_of_all_instruction_sets(
    make: Callable[[str], fm.MLP], dtype: str
) -> None:
    checks.check_same_bits(lambda: make(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_starts_as_a_plain_layer(dtype: str) -> None:
    mlp = fm.MLP([6, wn(40, "relu"), wn(33), wn(2)], dtype=dtype, seed=4)
    plain = fm.MLP([6, fm.Dense(40, "relu"), 33, 2], dtype=dtype, seed=4)
    x = checks.rows(21, 6, dtype)
    for ours, theirs in zip(mlp.weights, plain.weights, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert mlp(x).tobytes() == plain(x).tobytes()
    assert mlp.jacobian(x).tobytes() == plain.jacobian(x).tobytes()
    norms = np.linalg.norm(mlp.weights[0], axis=0)
    rtol = 1e-5 if dtype == "float32" else checks.RTOL  # a sum of six squares
    np.testing.assert_allclose(mlp.named_parameters()[f"0.{G}"][0], norms, rtol=rtol)


def test_changes_of_the_parameters_count_at_once() -> None:
    mlp = fm.MLP([4, wn(3)], dtype="float64", seed=0)
    x = checks.rows(5, 4)
    y = mlp(x)
    predict = mlp.predictor(5)
    mlp.weights[0][:] *= 7  # the directions remain
    np.testing.assert_allclose(mlp(x), y, rtol=checks.RTOL)
    mlp.named_parameters()[f"0.{G}"][:] *= 2
    for result in (mlp(x), predict(x), mlp.forward(x), mlp.jvp(x, x)[0]):
        np.testing.assert_allclose(result, 2 * y, rtol=checks.RTOL)


def test_layout() -> None:
    mlp = fm.MLP([4, wn(3), wn(2, bias=False)], seed=0)
    shapes = {name: view.shape for name, view in mlp.named_parameters().items()}
    assert shapes == {
        "0.bias": (3,),
        f"0.{G}": (1, 3),
        f"0.{V}": (4, 3),
        f"2.{G}": (1, 2),
        f"2.{V}": (3, 2),
    }
    assert list(shapes) == ["0.bias", f"0.{G}", f"0.{V}", f"2.{G}", f"2.{V}"]
    assert mlp.n_params == 3 + 3 + 12 + 2 + 6
    assert mlp.state_dict()[f"0.{G}"].shape == (3, 1)
    mlp.params[:] = np.arange(mlp.n_params)
    np.testing.assert_array_equal(mlp.biases[0], [0, 1, 2])
    np.testing.assert_array_equal(mlp.named_parameters()[f"0.{G}"], [[3, 4, 5]])
    assert mlp.weights[0][0, 0] == 6


def test_zeros_give_zeros() -> None:
    mlp = fm.MLP([4, wn(3, init="zeros")], dtype="float64", seed=0)
    x, y = checks.rows(5, 4), checks.rows(5, 3, seed=2)
    np.testing.assert_array_equal(mlp(x), np.zeros((5, 3)))
    _, grads = mlp.value_and_grad(x, y, fm.MSE())
    assert np.isfinite(grads).all()
    assert np.isfinite(mlp.param_jacobian(x)).all()


@pytest.mark.parametrize("frozen", [G, V, "bias", "*"])
def test_frozen_parameters(frozen: str) -> None:
    mlp = network()
    x, y = checks.rows(20, 5), checks.rows(20, 3, seed=2)
    _, free = mlp.value_and_grad(x, y, fm.MSE())
    rows = mlp.per_sample_grads(x, y, fm.MSE())
    mlp.freeze(f"0.{frozen}")
    held = [n for n in mlp.named_parameters() if n in mlp.frozen]
    assert len(held) == (3 if frozen == "*" else 1)
    mask = np.ones(mlp.n_params)
    before = mlp.params.copy()
    for name in held:
        mask[slice(*mlp._views.ranges[name])] = 0
    _, grads = mlp.value_and_grad(x, y, fm.MSE())
    np.testing.assert_array_equal(grads, free * mask)
    np.testing.assert_array_equal(mlp.per_sample_grads(x, y, fm.MSE()), rows * mask)
    mlp.fit(x, y, loss=fm.MSE(), optimizer=fm.Adam(0.1), epochs=2, batch_size=10)
    np.testing.assert_array_equal(mlp.params == before, mask == 0)
    assert "frozen" in str(mlp.summary())
    unfrozen = pickle.loads(pickle.dumps(mlp))
    assert unfrozen.frozen == mlp.frozen


@of_kinds
def test_l2_is_of_the_weights(kind: str) -> None:
    mlp = network(kind)
    x, y = checks.rows(20, 5), checks.rows(20, 3, seed=2)
    core = fm.MSE().core
    value, grads = mlp.core.value_and_grad(x, y, core, l2=0.5)
    plain, _ = mlp.value_and_grad(x, y, fm.MSE())
    squares = sum((w**2).sum() for w in mlp.fold().weights)
    np.testing.assert_allclose(value - plain, 0.25 * squares / 20, rtol=checks.RTOL)
    rng = np.random.default_rng(SEED)
    for i in rng.choice(mlp.n_params, 40, replace=False):
        ends = []
        for sign in (1, -1):
            mlp.params[i] += sign * checks.STEP
            ends.append(mlp.core.value_and_grad(x, y, core, l2=0.5)[0])
            mlp.params[i] -= sign * checks.STEP
        slope = (ends[0] - ends[1]) / (2 * checks.STEP)
        np.testing.assert_allclose(grads[i], slope, atol=checks.DIFFERENCE_RTOL)


@pytest.mark.parametrize("solver", [fm.LBFGS, fm.LevenbergMarquardt])
@pytest.mark.parametrize("last", [wn, sn])
def test_solvers(solver: Any, last: Any) -> None:
    layers = [2, wn(6, "tanh"), last(6, "tanh"), wn(1)]
    mlp = fm.MLP(layers, dtype="float64", seed=0)
    x = checks.rows(40, 2)
    y = np.sin(x[:, :1]) + x[:, 1:] ** 2 / 3
    before = mlp.evaluate(x, y, fm.MSE())
    mlp.fit(x, y, loss=fm.MSE(), optimizer=solver(), epochs=60)
    assert mlp.evaluate(x, y, fm.MSE()) < 0.2 * before
    assert all((mlp.params != 0).tolist())


@of_kinds
@pytest.mark.parametrize("training", [False, True])
def test_forward_and_backward(training: bool, kind: str) -> None:
    mlp, twin = network(kind), network(kind)
    x, dy = checks.rows(9, 5), checks.rows(9, 3, seed=2)
    y, dx, grads = twin.vjp(x, dy, training=training)
    np.testing.assert_array_equal(mlp.forward(x, training=training), y)
    for ours, theirs in zip(mlp.backward(dy), (dx, grads), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(mlp.buffers, twin.buffers)


@of_kinds
def test_module_that_shares_the_parameters(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="it is a module of PyTorch")
    mlp, twin = network(kind), network(kind)
    x, dy = checks.rows(9, 5), checks.rows(9, 3, seed=2)
    module = mlp.as_torch_module()  # in training mode
    first, second = (module(torch.from_numpy(a)) for a in (x, 2 * x))
    wanted = [twin.vjp(a, dy, training=True)[2] for a in (x, 2 * x)]
    np.testing.assert_array_equal(mlp.buffers, twin.buffers)
    for output, grads in ((second, wanted[1]), (first, wanted[0])):
        module.params.grad = None
        output.backward(torch.from_numpy(dy))
        np.testing.assert_array_equal(module.params.grad.numpy(), grads)


@of_kinds
@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_folding_keeps_the_bits(compute_dtype: str, kind: str) -> None:
    mlp = network(kind, dtype="float32", compute_dtype=compute_dtype)
    folded = mlp.fold()
    x = checks.rows(50, 5, np.float32)
    assert folded(x).tobytes() == mlp(x).tobytes()
    assert all(getattr(la, "parametrization", None) is None for la in folded.layers)
    assert folded.layers[0] == fm.Dense(9, "tanh", True, "auto")


def test_training_in_bfloat16() -> None:
    mlp = network(dtype="float32", compute_dtype="bfloat16")
    exact = network(dtype="float32")
    x, y = checks.rows(64, 5, np.float32), checks.rows(64, 3, np.float32, seed=2)
    results = [m.value_and_grad(x, y, fm.MSE())[1] for m in (mlp, exact)]
    # Products of operands with eight significant bits.
    np.testing.assert_allclose(*results, rtol=0.1, atol=0.02)


@of_kinds
def test_sparse_inputs(kind: str) -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="inputs are sparse matrices")
    x = checks.rows(30, 5) * (checks.rows(30, 5, seed=5) > 0)
    y = checks.rows(30, 3, seed=2)
    mlp = network(kind)
    ours = mlp.value_and_grad(sparse.csr_matrix(x), y, fm.MSE())
    theirs = mlp.value_and_grad(x, y, fm.MSE())
    np.testing.assert_allclose(ours[1], theirs[1], rtol=checks.RTOL, atol=checks.RTOL)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: fm.Muon(0.02),
        lambda: fm.Adam(0.01, clip_norm=0.1),
        lambda: fm.Adam(0.01, groups=[{"params": f"*.{G}", "lr": 0.1}]),
        lambda: fm.Adam(0.01, accumulate=2),
    ],
)
@of_kinds
def test_other_updates_are_those_by_the_gradient(optimizer: Any, kind: str) -> None:
    if kind == "spectral_norm":
        optimizer = fm.Adam  # no magnitudes, which the groups name
    x, y = checks.rows(32, 5), checks.rows(32, 3, seed=2)
    steps, updates = network(kind), network(kind)
    by_step, by_gradient = optimizer(), optimizer()
    for _ in range(4):
        steps.train_step(x, y, fm.MSE(), by_step)
        _, grads = updates.value_and_grad(x, y, fm.MSE(), training=True)
        by_gradient.step(updates, grads)
    np.testing.assert_array_equal(steps.params, updates.params)


def test_lsuv_scales_the_weights() -> None:
    mlp = fm.MLP([5, wn(30, "relu"), wn(20, "relu"), 3], seed=0)
    mlp.named_parameters()[f"0.{G}"][:] = 3
    fm.initializers.lsuv(mlp, checks.rows(200, 5, np.float32))
    x = checks.rows(200, 5, np.float32)
    h = fm.MLP([5, fm.Dense(30, "identity")], seed=0)
    h.weights[0][:], h.biases[0][:] = mlp.fold().weights[0], mlp.biases[0]
    np.testing.assert_allclose(h(x).var(), 1, atol=0.1)  # tol of lsuv


@of_kinds
def test_files_and_pickles_keep_it(tmp_path: Path, kind: str) -> None:
    mlp = network(kind)
    mlp.save(tmp_path / "model.safetensors")
    x = checks.rows(3, 5)
    loaded = fm.load(tmp_path / "model.safetensors")
    for copy in (loaded, pickle.loads(pickle.dumps(mlp)), mlp.copy()):
        assert copy.layers == mlp.layers
        assert copy.params.tobytes() == mlp.params.tobytes()
        assert copy.buffers.tobytes() == mlp.buffers.tobytes()
        assert copy(x).tobytes() == mlp(x).tobytes()
    fresh = network(kind)
    fresh.params[:] = fresh.buffers[:] = 1
    fresh.load_state_dict(mlp.state_dict())
    assert fresh.params.tobytes() == mlp.params.tobytes()
    assert fresh.buffers.tobytes() == mlp.buffers.tobytes()


@of_kinds
def test_onnx(tmp_path: Path, kind: str) -> None:
    checks.check_onnx(network(kind, dtype="float32"), tmp_path / "model.onnx")


def test_texts() -> None:
    mlp = fm.MLP([4, wn(3), 2], seed=0)
    assert repr(mlp.layers[0]).endswith("parametrization='weight_norm')")
    assert "Dense 4 -> 3, weight norm" in str(mlp.summary())
    assert "Dense 3 -> 2 " in str(mlp.summary())
    assert f"{mlp.n_params} parameters" in repr(mlp.diagram())


def test_modules_that_are_refused() -> None:
    torch = pytest.importorskip("torch", reason="modules of PyTorch are converted")
    nn, how = torch.nn, torch.nn.utils.parametrizations
    linear = how.weight_norm(nn.Linear(4, 3), dim=1)
    with pytest.raises(TypeError, match="parametrisations other than those of"):
        fm.from_torch(nn.Sequential(linear))
    linear = how.weight_norm(how.orthogonal(nn.Linear(4, 4)))
    with pytest.raises(TypeError, match="parametrisations other than"):
        fm.from_torch(linear)
    linear = how.spectral_norm(nn.Linear(4, 4), n_power_iterations=2)
    with pytest.raises(TypeError, match="parametrisations other than"):
        fm.from_torch(linear)
    linear = how.weight_norm(nn.Linear(4, 4), name="bias")
    with pytest.raises(TypeError, match="parametrisations other than"):
        fm.from_torch(linear)
    linear = how.weight_norm(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="shares its parameters"):
        fm.from_torch(nn.Sequential(linear, linear))


def test_frozen_parts_of_modules_remain_frozen() -> None:
    torch = pytest.importorskip("torch", reason="modules of PyTorch are converted")
    linear = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 3))
    linear.parametrizations.weight.original0.requires_grad_(False)
    mlp = fm.from_torch(torch.nn.Sequential(linear, torch.nn.Tanh()))
    assert mlp.frozen == (f"0.{G}",)
    assert mlp.layers[0].activation == "tanh"
    assert [p.requires_grad for p in mlp.to_torch().parameters()] == [True, False, True]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="parametrization must be"):
        fm.Dense(3, parametrization="weight")
    with pytest.raises(TypeError, match="parametrization must be"):
        fm.Dense(3, parametrization=True)  # type: ignore[arg-type]


def sigma(mlp: fm.MLP) -> float:
    """The formula of the norm by which the weight of layer 0 is divided."""
    u, v = (mlp.state_dict()[f"0.{name}"] for name in VECTORS)
    return float(v @ mlp.weights[0] @ u)


def test_spectral_norm_is_the_largest_singular_value() -> None:
    mlp = fm.MLP([8, sn(6)], dtype="float64", seed=0)
    x = checks.rows(3, 8)
    for _ in range(200):
        mlp.forward(x, training=True)
    largest = np.linalg.svd(mlp.weights[0], compute_uv=False)[0]
    np.testing.assert_allclose(sigma(mlp), largest, rtol=1e-9)  # of 200 iterations
    folded = mlp.fold().weights[0]
    np.testing.assert_allclose(folded, mlp.weights[0] / largest, rtol=1e-9)


def test_training_alone_takes_steps_of_the_power_method() -> None:
    mlp = network("spectral_norm")
    x, y = checks.rows(9, 5), checks.rows(9, 3, seed=2)
    before = mlp.state_dict()
    wanted = mlp.weights[0] / sigma(mlp)
    np.testing.assert_allclose(mlp.fold().weights[0], wanted, rtol=checks.RTOL)
    for call in (mlp.predict, mlp.forward, mlp.jacobian, mlp.param_jacobian):
        call(x)
    mlp.value_and_grad(x, y, fm.MSE())
    mlp.fit(x, y, loss=fm.MSE(), optimizer=fm.LBFGS(), epochs=1)
    u, v = (before[f"0.{name}"] for name in VECTORS)
    np.testing.assert_array_equal(mlp.state_dict()[f"0.{VECTORS[0]}"], u)
    weight = mlp.weights[0].copy()
    mlp.train_step(x, y, fm.MSE(), fm.SGD(0.1))
    u = weight.T @ v / np.linalg.norm(weight.T @ v)
    v = weight @ u / np.linalg.norm(weight @ u)
    for name, vector in zip(VECTORS, (u, v), strict=True):
        found = mlp.state_dict()[f"0.{name}"]
        np.testing.assert_allclose(found, vector, rtol=checks.RTOL, atol=checks.RTOL)


def test_steps_that_diverge_change_no_vectors() -> None:
    mlp = network("spectral_norm")
    before = mlp.buffers.copy()
    x = np.full((9, 5), np.inf)
    with pytest.raises(fm.DivergenceError):
        mlp.train_step(x, checks.rows(9, 3), fm.MSE(), fm.SGD(0.1))
    np.testing.assert_array_equal(mlp.buffers, before)


def test_spectral_norm_of_zeros() -> None:
    mlp = fm.MLP([4, sn(3, init="zeros")], dtype="float64", seed=0)
    x, y = checks.rows(5, 4), checks.rows(5, 3, seed=2)
    np.testing.assert_array_equal(mlp(x), np.zeros((5, 3)))
    mlp.weights[0][:] = checks.rows(4, 3, seed=4)
    mlp.fit(x, y, loss=fm.MSE(), optimizer=fm.SGD(0.1), epochs=30, batch_size=5)
    assert np.isfinite(mlp.params).all()
    norm = np.linalg.svd(mlp.fold().weights[0], compute_uv=False)[0]
    np.testing.assert_allclose(norm, 1, atol=0.01)  # of 30 steps


def test_lsuv_cannot_scale_spectral_norms() -> None:
    with pytest.raises(ValueError, match="must not have spectral normalisation"):
        fm.initializers.lsuv(network("spectral_norm"), checks.rows(9, 5))
