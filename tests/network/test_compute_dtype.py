"""The argument compute_dtype: where it is kept, what it changes and what it refuses."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import fastmlp as fm
import numpy as np
import pytest

ROWS, LAYERS = 60, [6, 40, 3]


def model(**options: object) -> fm.MLP:
    return fm.MLP(LAYERS, compute_dtype="bfloat16", seed=0, **options)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, LAYERS[0])).astype(np.float32)
    return x, rng.standard_normal((ROWS, LAYERS[-1])).astype(np.float32)


def test_the_default_is_the_dtype() -> None:
    assert fm.MLP(LAYERS).compute_dtype == "float32"
    assert fm.MLP(LAYERS, dtype="float64").compute_dtype == "float64"
    plain = fm.MLP(LAYERS, compute_dtype="float32", seed=0)
    assert plain.compute_dtype == "float32"
    assert "compute_dtype" not in repr(plain)
    for given in (np.float64, np.dtype("float64"), "float64"):
        double = fm.MLP(LAYERS, dtype="float64", compute_dtype=given)
        assert double.compute_dtype == "float64"


def test_only_operands_are_rounded() -> None:
    mlp, (x, y) = model(), data()
    plain = mlp.copy(compute_dtype="float32")
    assert mlp.params.tobytes() == plain.params.tobytes()
    assert mlp.dtype == mlp(x).dtype == mlp.params.dtype == np.float32
    rounded, full = mlp(x), plain(x)
    assert (rounded != full).any()
    # Two layers, each with errors of 2**-8 relative to the sizes of its operands.
    np.testing.assert_allclose(rounded, full, atol=0.02 * np.abs(full).max())
    grads = [net.value_and_grad(x, y, fm.MSE())[1] for net in (mlp, plain)]
    assert (grads[0] != grads[1]).any()
    assert mlp.forward(x).tobytes() == rounded.tobytes()
    assert mlp.vjp(x, y)[0].tobytes() == rounded.tobytes()
    assert mlp.evaluate(x, y, fm.MSE()) == mlp.value_and_grad(x, y, fm.MSE())[0]


def test_derivatives_of_rows_and_solvers_have_full_operands() -> None:
    mlp, (x, y) = model(activation="tanh"), data()
    plain = mlp.copy(compute_dtype="float32")
    results = [
        (
            net.jacobian(x),
            net.param_jacobian(x),
            *net.jvp(x, x),
            net.per_sample_grads(x, y, fm.MSE()),
        )
        for net in (mlp, plain)
    ]
    for ours, wanted in zip(*results, strict=True):
        assert ours.tobytes() == wanted.tobytes()
    for solver in (fm.LBFGS, fm.LevenbergMarquardt):
        nets = [mlp.copy(), plain.copy()]
        for net in nets:
            net.fit(x, y, optimizer=solver(), loss=fm.MSE(), epochs=2, progress=False)
        assert nets[0].params.tobytes() == nets[1].params.tobytes()


def test_it_is_part_of_copies_pickles_files_and_text(tmp_path: Path) -> None:
    mlp, (x, _) = model(), data()
    path = tmp_path / "model.safetensors"
    mlp.save(path)
    for twin in (
        mlp.copy(),
        copy.deepcopy(mlp),
        pickle.loads(pickle.dumps(mlp)),
        fm.load(path),
        eval(repr(mlp), {"MLP": fm.MLP}),
    ):
        assert twin.compute_dtype == "bfloat16"
        twin.params[:] = mlp.params
        assert twin(x).tobytes() == mlp(x).tobytes()
    assert mlp.fold().compute_dtype == "bfloat16"
    assert "float32 with products in bfloat16" in mlp.summary()


def test_a_copy_changes_it() -> None:
    mlp, (x, _) = fm.MLP(LAYERS, seed=0), data()
    rounded = mlp.copy(compute_dtype="bfloat16")
    assert rounded.compute_dtype == "bfloat16"
    assert mlp.compute_dtype == "float32"
    assert rounded.copy().compute_dtype == "bfloat16"
    back = rounded.copy(compute_dtype="float32")
    assert back(x).tobytes() == mlp(x).tobytes()
    assert repr(back) == repr(mlp)


def test_checkpoints_resume_with_it(tmp_path: Path) -> None:
    x, y = data()
    path = tmp_path / "run.ckpt"

    def fit(mlp: fm.MLP, optimizer: fm.Adam, epochs: int, *callbacks: object) -> None:
        mlp.fit(
            x,
            y,
            optimizer=optimizer,
            loss=fm.MSE(),
            epochs=epochs,
            callbacks=callbacks,
            progress=False,
        )

    through, first, resumed = model(), model(), model()
    fit(through, fm.Adam(0.01), 4)
    fit(first, fm.Adam(0.01), 2, fm.Checkpoint(path, every=1))
    assert fm.load(path).compute_dtype == "bfloat16"
    optimizer = fm.Adam(0.01)
    fm.Checkpoint.load(path, resumed, optimizer)
    fit(resumed, optimizer, 2)
    assert resumed.params.tobytes() == through.params.tobytes()

    # In another arithmetic, the fit would not continue exactly.
    plain = fm.MLP(LAYERS, seed=0)
    before = plain.params.copy()
    with pytest.raises(
        ValueError, match=r"compute_dtype='bfloat16'.*does not match mlp"
    ):
        fm.Checkpoint.load(path, plain, fm.Adam(0.01))
    assert plain.params.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"compute_dtype": "float16"}, ValueError, "compute_dtype must be one of"),
        ({"compute_dtype": 16}, TypeError, "compute_dtype must be a name"),
        ({"compute_dtype": "float64"}, ValueError, "must be 'float32', the dtype of"),
        (
            {"compute_dtype": "bfloat16", "dtype": "float64"},
            ValueError,
            "needs dtype='float32', got dtype='float64'",
        ),
    ],
)
def test_what_does_not_suit_is_refused(
    options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fm.MLP(LAYERS, **options)
    if "dtype" not in options:
        mlp = fm.MLP(LAYERS)
        with pytest.raises(error, match=message):
            mlp.copy(compute_dtype=options["compute_dtype"])


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16"])
def test_bfloat16_as_a_dtype_is_refused_with_a_hint(dtype: str) -> None:
    with pytest.raises((TypeError, ValueError), match="see the argument compute_dtype"):
        fm.MLP(LAYERS, dtype=dtype)


def test_sparse_inputs_are_refused() -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="it makes the inputs")
    mlp, (x, y) = model(), data()
    rows = sparse.csr_matrix(x)
    for call in (mlp, lambda r: mlp.train_step(r, y, fm.MSE(), fm.SGD(0.1))):
        with pytest.raises(
            TypeError, match="x must not be sparse if compute_dtype='bfloat16'"
        ):
            call(rows)


def test_a_warm_start_that_changes_it_keeps_normalisations() -> None:
    pytest.importorskip("sklearn", reason="the estimators need it")
    x, y = data()
    estimator = fm.sklearn.MLPRegressor(
        hidden_layer_sizes=(20,), normalization="batch", random_state=0
    )
    for _ in range(5):
        estimator.partial_fit(3 * x + 1, y)
    before = estimator.mlp_
    scale = before.named_parameters()["1.weight"]
    assert (scale != 1).any()
    # A step too small to change a parameter.
    estimator.set_params(compute_dtype="bfloat16", learning_rate_init=1e-30)
    estimator.partial_fit(3 * x + 1, y)
    after = estimator.mlp_
    assert after.compute_dtype == "bfloat16"
    assert before.compute_dtype == "float32"
    assert after.params.tobytes() == before.params.tobytes()
    # One update of the running statistics, with momentum 0.1.
    np.testing.assert_allclose(after.buffers, before.buffers, rtol=0.1, atol=0.1)
    assert (after.buffers != before.buffers).any()


def test_estimators_pickled_before_it_existed_have_the_default() -> None:
    pytest.importorskip("sklearn", reason="the estimators need it")
    x, y = data()
    old = fm.sklearn.MLPRegressor(max_iter=1).partial_fit(x, y)
    wanted = old.predict(x)
    del old.compute_dtype
    again = pickle.loads(pickle.dumps(old))
    assert again.get_params()["compute_dtype"] is None
    assert again.predict(x).tobytes() == wanted.tobytes()
    again.partial_fit(x, y)


def test_estimators_refuse_sparse_inputs() -> None:
    pytest.importorskip("sklearn", reason="the estimators need it")
    sparse = pytest.importorskip("scipy.sparse", reason="it makes the inputs")
    x, y = data()
    estimator = fm.sklearn.MLPRegressor(compute_dtype="bfloat16", max_iter=1)
    calls = [lambda: estimator.fit(rows, y), lambda: estimator.partial_fit(rows, y)]
    fitted = fm.sklearn.MLPRegressor(compute_dtype="bfloat16").partial_fit(x, y)
    calls += [lambda: fitted.predict(rows), lambda: fitted.partial_fit(rows, y)]
    before = fitted.mlp_.params.copy()
    rows = sparse.csr_matrix(x)
    for call in calls:
        with pytest.raises(
            TypeError, match="X must not be sparse if compute_dtype='bfloat16'"
        ):
            call()
    assert not hasattr(estimator, "coefs_")
    assert fitted.mlp_.params.tobytes() == before.tobytes()
    assert not estimator.__sklearn_tags__().input_tags.sparse


def test_a_file_with_an_unknown_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    mlp = model()
    mlp._given["compute_dtype"] = "bfloat17"  # a later arithmetic, say
    mlp.save(path)
    with pytest.raises(ValueError, match="compute_dtype must be one of"):
        fm.load(path)


# The normwise error of a gradient, relative to that in float64: each layer rounds the
# operands of its products with relative errors of 2**-9 at most, two in each product,
# and the errors of layers add up like the square root of their number. This holds for
# smooth activations. An input of relu that is nearly 0 may change its sign, which
# changes the gradient by more: by up to three times this bound in such networks.
def bound(depth: int) -> float:
    return 2.0**-8 * np.sqrt(depth)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_gradients_are_near_those_of_float64(depth: int, activation: str) -> None:
    layers = [12, *[48] * depth, 4]
    rng = np.random.default_rng(depth)
    x, y = rng.standard_normal((200, 12)), rng.standard_normal((200, 4))
    exact = fm.MLP(layers, activation=activation, dtype="float64", seed=depth)
    mlp = fm.MLP(layers, activation=activation, compute_dtype="bfloat16", seed=depth)
    mlp.params[:] = exact.params
    wanted = exact.value_and_grad(x, y, fm.MSE())[1]
    found = mlp.value_and_grad(x, y, fm.MSE())[1]
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert 1e-5 < error < bound(depth)


def test_the_estimators_have_it() -> None:
    pytest.importorskip("sklearn", reason="the estimators need it")
    x, y = data()
    for X in (x, x.astype(np.float64)):
        estimator = fm.sklearn.MLPRegressor(
            hidden_layer_sizes=(20,),
            compute_dtype="bfloat16",
            max_iter=3,
            random_state=0,
        )
        with pytest.warns(Warning, match="converge"):
            estimator.fit(X, y)
        assert estimator.mlp_.compute_dtype == "bfloat16"
        assert estimator.mlp_.dtype == np.float32
        assert fm.from_sklearn(estimator).compute_dtype == "bfloat16"
    with pytest.raises(ValueError, match="needs dtype='float32'"):
        estimator.set_params(dtype="float64").fit(x, y)


def test_onnx_rounds_the_operands(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="it runs the file")
    pytest.importorskip("onnx", reason="it writes the file")
    mlp, (x, _) = model(), data()
    path = tmp_path / "model.onnx"
    mlp.to_onnx(path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x})[0]
    # Both round the same operands; a value that the order of a sum moves across a tie
    # of the rounding differs by 2**-8 in a single operand of the second layer.
    np.testing.assert_allclose(found, mlp(x), atol=2e-3 * np.abs(found).max())
    plain = mlp.copy(compute_dtype="float32")(x)
    assert np.abs(found - mlp(x)).max() < np.abs(found - plain).max()


def test_the_c_header_says_that_it_does_not_round(tmp_path: Path) -> None:
    path = tmp_path / "mlp.h"
    model().to_c(path)
    assert "does not" in path.read_text().split("Include it")[0]
    fm.MLP(LAYERS, seed=0).to_c(path)
    assert "bfloat16" not in path.read_text()
