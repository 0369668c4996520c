"""Losses written in Python: values, training, checks of what they return."""

from __future__ import annotations

import pickle
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _validate, losses
from helpers import (
    TOLERANCE,
)
from loss_cases import OUTPUTS, assert_close, inputs, network, problem, same


def squares(pred: np.ndarray, y: Any, weight: Any = None) -> tuple[Any, np.ndarray]:
    """Mean squared error as a custom loss function."""
    r = pred - y
    w = np.ones(len(r)) if weight is None else weight
    w = (w / w.sum() / r.shape[1])[:, np.newaxis]
    return (w * r * r).sum(), 2 * w * r


def unweighted(pred: np.ndarray, y: Any) -> tuple[float, np.ndarray]:
    return squares(pred, y)


def test_a_function_is_a_loss(dtype: type) -> None:
    x, (_, y, weight) = inputs(9, dtype), problem("quantile", dtype, 9)
    weight = weight.astype(dtype)
    mlp = network(dtype)
    for w in (None, weight):
        for loss in (squares, fm.CustomLoss(squares), losses.as_loss(squares)):
            value, grads = mlp.value_and_grad(x, y, loss, w)
            wanted, wanted_grads = mlp.value_and_grad(x, y, fm.MSE(), w)
            assert type(value) is float
            assert grads.dtype == dtype
            assert_close(value, wanted, dtype)
            assert_close(grads, wanted_grads, dtype)
            assert_close(mlp.evaluate(x, y, loss, w), wanted, dtype)


def test_a_function_trains() -> None:
    x, (_, y, weight) = inputs(20, "float64"), problem("quantile", rows=20)
    nets = [network("float64") for _ in range(2)]
    tools = [(squares, fm.Adam(lr=0.01)), (fm.MSE(), fm.Adam(lr=0.01))]
    for _ in range(10):
        values = [
            mlp.train_step(x, y, loss, optimizer, weight)
            for mlp, (loss, optimizer) in zip(nets, tools, strict=True)
        ]
        assert_close(*values, np.float64)
    tolerance = TOLERANCE["network"].of(np.float64)
    np.testing.assert_allclose(
        nets[0].params, nets[1].params, rtol=tolerance, atol=tolerance
    )
    assert tools[0][1].step_count == 10


def test_a_function_trains_in_training_mode() -> None:
    """Batch statistics are used and running ones updated, as with the core's losses."""
    x, (_, y, _) = inputs(20, "float64"), problem("quantile", rows=20)
    found = []
    for loss in (squares, fm.MSE()):
        layers = [3, 6, fm.BatchNorm(), OUTPUTS]
        mlp = fm.MLP(layers, activation="tanh", dtype="float64", seed=0)
        optimizer = fm.SGD(lr=0.1)
        for _ in range(3):
            mlp.train_step(x, y, loss, optimizer)
        value, grads = mlp.value_and_grad(x, y, loss, training=True)
        found.append([mlp.params.copy(), mlp.buffers.copy(), value, grads])
    tolerance = TOLERANCE["network"].of(np.float64)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_a_function_gets_targets_as_they_are() -> None:
    class Anything:
        goal = 1.0

    seen = []

    def loss(pred: np.ndarray, target: Anything) -> tuple[Any, np.ndarray]:
        seen.append((pred.shape, pred.dtype, target))
        r = pred - target.goal
        return np.float32((r * r).sum()), 2 * r

    mlp, what = network("float32"), Anything()
    mlp.train_step(inputs(3, "float32"), what, loss, fm.SGD(lr=0.1))
    mlp.evaluate(inputs(3, "float64"), what, loss)
    assert seen == [((3, OUTPUTS), np.float32, what)] * 2
    assert fm.CustomLoss(loss)(np.zeros(4), what) == 4.0


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda p, _: 1.0, TypeError, r"must return \(value, gradient\), got 1.0"),
        (lambda p, _: (1.0, p, p), TypeError, r"must return \(value, gradient\)"),
        (lambda p, _: (p, p), ValueError, "value must be one number, got a float64"),
        (lambda p, _: ("1", p), TypeError, "value must hold real numbers"),
        (lambda p, _: (1.0, p[:-1]), ValueError, r"shape of pred, \(5, 4\), got"),
        (lambda p, _: (1.0, None), TypeError, "gradient must hold real numbers"),
    ],
)
def test_what_a_function_returns_is_checked(
    function: Any, error: Any, words: str
) -> None:
    mlp, x = network("float64"), inputs(5, "float64")
    before = mlp.params.copy()
    for call in (
        lambda: fm.CustomLoss(function)(np.zeros((5, 4)), None),
        lambda: mlp.value_and_grad(x, None, function),
        lambda: mlp.train_step(x, None, function, fm.SGD(lr=0.1)),
        lambda: mlp.evaluate(x, None, function),
    ):
        with pytest.raises(error, match=f"^the loss function.*{words}"):
            call()
    assert same(mlp.params, before)


def test_weights_need_a_third_argument() -> None:
    mlp, x = network("float64"), inputs(5, "float64")
    y, weight = np.zeros((5, OUTPUTS)), np.ones(5)
    with pytest.raises(TypeError, match=r"^sample_weight needs a loss function with"):
        mlp.value_and_grad(x, y, unweighted, weight)
    with pytest.raises(ValueError, match=r"^sample_weight must not be all zero"):
        mlp.value_and_grad(x, y, squares, 0 * weight)
    with pytest.raises(ValueError, match=r"^sample_weight must have shape \(5,\)"):
        mlp.evaluate(x, y, squares, weight[1:])


def test_errors_of_a_function_are_the_callers() -> None:
    def fails(pred: np.ndarray, target: Any) -> Any:
        raise ZeroDivisionError("mine")

    mlp = network("float64")
    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        mlp.train_step(inputs(5, "float64"), None, fails, fm.SGD(lr=0.1))


@pytest.mark.parametrize("where", ["value", "gradient"])
def test_a_function_that_diverges_takes_no_step(where: str) -> None:
    def loss(pred: np.ndarray, target: Any) -> tuple[float, np.ndarray]:
        grad = np.ones_like(pred)
        grad[1, 1] = np.inf if where == "gradient" else 1.0
        return np.nan if where == "value" else 1.0, grad

    mlp, optimizer = network("float32"), fm.Adam()
    before = mlp.params.copy()
    value, _ = mlp.value_and_grad(inputs(5, "float32"), None, loss)
    assert np.isnan(value) == (where == "value")
    with pytest.raises(fm.DivergenceError, match="diverged at step 1"):
        mlp.train_step(inputs(5, "float32"), None, loss, optimizer)
    assert same(mlp.params, before)
    assert optimizer.step_count == 0


def test_custom_losses_are_values() -> None:
    loss = fm.CustomLoss(unweighted)
    assert loss == losses.as_loss(unweighted) == pickle.loads(pickle.dumps(loss))
    assert hash(loss) == hash(losses.as_loss(unweighted))
    assert loss != fm.CustomLoss(squares)
    assert loss != fm.CustomLoss(unweighted, reduction="sum")
    assert loss.reduction == "mean"
    assert loss.function is unweighted
    assert "unweighted" in repr(loss)
    assert losses.as_loss(loss) is loss
    with pytest.raises(AttributeError, match="immutable"):
        loss.reduction = "sum"


@pytest.mark.parametrize("other", ["mse", None, 3, fm.MSE, int], ids=repr)
def test_as_loss_refuses_the_rest(other: Any) -> None:
    with pytest.raises(TypeError, match=r"^loss must be a fastmlp Loss such as"):
        losses.as_loss(other)
    with pytest.raises(TypeError, match=r"^loss must be a fastmlp Loss such as"):
        network("float32").evaluate(inputs(5, "float32"), None, other)


def test_targets_that_fit_are_not_copied() -> None:
    actions, values = np.zeros(6, np.int64), np.zeros(6)
    core = fm.ActionValue(fm.MSE()).core
    found = _validate.targets("y", (actions, values), core, (6, 4), np.dtype(float))
    assert found[0] is actions
    assert found[1] is values


def mean_square(pred: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    error = pred - target
    return float((error**2).mean()), 2 * error / error.size


@pytest.mark.parametrize(
    "convert",
    [
        lambda y: y[:, 0],
        lambda y: y,
        lambda y: y[:, 0].astype("float64"),
        lambda y: np.round(y[:, 0]).astype("int32"),
        lambda y: y[:, 0] > 0,
    ],
    ids=["(B,)", "(B, 1)", "float64", "int", "bool"],
)
def test_targets_have_the_shape_and_dtype_of_predictions(
    convert: Any, dtype: type
) -> None:
    """Predictions (B, 1) minus targets (B,) would be a matrix."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 2)).astype(dtype)
    y = convert(x.sum(axis=1, keepdims=True))
    seen = []

    def noted(pred: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        kept = pred.dtype if y.dtype.kind == "f" else y.dtype
        seen.append((target.shape == pred.shape, target.dtype == kept))
        return mean_square(pred, target.astype(dtype))

    def mae(pred: np.ndarray, target: np.ndarray) -> float:
        assert pred.shape == target.shape
        return float(np.abs(pred - target).mean())

    models, losses = [], (noted, fm.MSE())
    for loss in losses:
        mlp = fm.MLP([2, 5, 1], dtype=dtype, seed=0)
        opt = fm.Adam(1e-2)
        options = {"epochs": 3, "batch_size": 16, "progress": False, "metrics": [mae]}
        mlp.fit(x, y, loss=loss, optimizer=opt, validation_data=(x, y), **options)
        mlp.train_step(x, y, loss, opt)
        mlp.value_and_grad(x, y, loss)
        mlp.evaluate(x, y, loss)
        models.append(mlp)
    assert set(seen) == {(True, True)}
    tolerance = 1e4 * float(np.finfo(dtype).eps)  # sums in another order, fifteen steps
    np.testing.assert_allclose(models[0].params, models[1].params, rtol=tolerance)
    assert models[0].history.metrics["val_mae"] == pytest.approx(
        models[1].history.metrics["val_mae"], rel=tolerance
    )


@pytest.mark.parametrize("n_out", [1, 3])
def test_class_labels_come_as_they_are(n_out: int) -> None:
    labels = np.arange(5) % 3 if n_out == 3 else np.arange(5).reshape(5, 1, 1)
    seen = []

    def noted(pred: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        seen.append(target)
        return 0.0, np.zeros_like(pred)

    fm.CustomLoss(noted).value_and_grad(np.zeros((5, n_out), "float32"), labels)
    assert seen[0] is labels


# Forms of targets ---------------------------------------------------------------------


def test_targets_of_any_form_are_arrays_for_the_function() -> None:
    torch = pytest.importorskip("torch", reason="its tensors are targets")
    pandas = pytest.importorskip("pandas", reason="its series are targets")
    x = np.random.default_rng(0).standard_normal((6, 2))
    y = np.linspace(-1, 1, 6)
    seen: list[Any] = []

    def loss(pred: np.ndarray, target: Any) -> tuple[Any, np.ndarray]:
        seen.append((type(target), target.dtype, target.shape))
        return unweighted(pred, target)

    for form in (
        y,
        y.tolist(),
        torch.as_tensor(y),
        torch.as_tensor(y)[:, None],
        pandas.Series(y),
        memoryview(y),
        y.astype(object),
        np.ma.array(y),
    ):
        mlp = fm.MLP([2, 1], seed=0, dtype="float32")
        wanted = mlp.value_and_grad(x, y, fm.MSE())[0]
        values = [
            mlp.value_and_grad(x, form, loss)[0],
            mlp.value_and_grad(x, form, loss, training=True)[0],
            mlp.evaluate(x, form, loss),
            mlp.train_step(x, form, loss, fm.SGD(lr=0.0)),
        ]
        np.testing.assert_allclose(values, wanted, rtol=1e-5)
        assert set(seen) == {(np.ndarray, np.dtype("float32"), (6, 1))}


@pytest.mark.parametrize("target", [("a", 1), {"a": 1}, "words", ["a", "b"]])
def test_tuples_dicts_and_strings_come_as_they_are(target: Any) -> None:
    def loss(pred: np.ndarray, given: Any) -> tuple[float, np.ndarray]:
        assert given is target
        return 0.0, pred * 0

    assert fm.MLP([2, 1]).evaluate(np.ones((2, 2)), target, loss) == 0


def test_targets_of_objects_and_masked_targets() -> None:
    x, y = np.ones((4, 2)), np.arange(4.0)
    masked = np.ma.array(y, mask=[True, False, False, False])
    mlp = fm.MLP([2, 1], seed=0)
    options: Any = {"loss": unweighted, "optimizer": fm.SGD(lr=0.0), "epochs": 1}
    found = [mlp.fit(x, t, **options).loss for t in (y, y.astype(object))]
    assert found[0] == found[1]
    for call in (
        lambda: mlp.fit(x, masked, **options),
        lambda: mlp.train_step(x, masked, unweighted, fm.SGD(lr=0.0)),
        lambda: mlp.evaluate(x, masked, unweighted),
        lambda: mlp.value_and_grad(x, masked, unweighted),
    ):
        with pytest.raises(TypeError, match=r"^y must not have masked entries"):
            call()
