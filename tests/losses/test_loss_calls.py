"""Losses called on arrays: values, dtypes, vectors, invalid arguments."""

import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference

ROWS, N_OUT = 6, 3
# Losses of a few rows in float64, against the same formulas in numpy.
LOSS_RTOL = 1e-13

LOSSES = (
    fm.MSE(),
    fm.MAE(),
    fm.Huber(0.5),
    fm.PseudoHuber(2.0),
    fm.CrossEntropy(),
    fm.BinaryCrossEntropy(),
)


def loss_data(loss, n_out=N_OUT, dtype="float64"):
    rng = np.random.default_rng(1)
    pred = rng.standard_normal((ROWS, n_out)).astype(dtype)
    if isinstance(loss, fm.CrossEntropy):
        return pred, rng.integers(n_out, size=ROWS)
    return pred, rng.random((ROWS, n_out)).astype(dtype)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_against_the_reference(loss, reduction):
    loss = type(loss)(**{**loss._arguments(), "reduction": reduction})
    wanted = getattr(reference, type(loss).__name__)(**loss._arguments())
    pred, target = loss_data(loss)
    weight = np.arange(ROWS, dtype="float64")
    for args in [(pred, target), (pred, target, weight)]:
        value, grad = loss.value_and_grad(*args)
        wanted_value, wanted_grad = wanted.value_and_grad(*args)
        assert value == loss(*args)
        np.testing.assert_allclose(value, wanted_value, rtol=LOSS_RTOL)
        np.testing.assert_allclose(grad, wanted_grad, rtol=LOSS_RTOL, atol=1e-15)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_loss_converts_to_the_dtype_of_pred(loss):
    pred, target = loss_data(loss)
    value, grad = loss.value_and_grad(pred, target)
    for p, y in [
        (pred.tolist(), target.tolist()),
        (np.asfortranarray(pred), target[::-1].copy()[::-1]),
        (pred.astype(">f8"), target),
    ]:
        other, other_grad = loss.value_and_grad(p, y)
        assert other == value == loss(p, y)
        np.testing.assert_array_equal(other_grad, grad)
    assert loss.value_and_grad(pred.astype("float32"), target)[1].dtype == np.float32
    assert loss.value_and_grad(pred.astype("float16"), target)[1].dtype == np.float64


def test_loss_of_vectors():
    p, y = np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 1.0])
    value, grad = fm.MSE().value_and_grad(p, y)
    assert value == 10 / 3
    np.testing.assert_allclose(grad, 2 * (p - y) / 3, rtol=LOSS_RTOL)
    assert fm.MSE()(p, y[:, np.newaxis]) == value
    assert fm.MSE(reduction="sum")(p, y) == 10.0


def test_bad_loss_arguments():
    p = np.zeros((ROWS, N_OUT))
    mse, entropy = fm.MSE(), fm.CrossEntropy()
    for loss, args, error, words in [
        (mse, (p, p[:-1]), ValueError, "^target must have shape"),
        (mse, (p, p[:, 0]), ValueError, "^target must have shape"),
        (mse, (p[:, 0], p), ValueError, "^target must have shape"),
        (mse, (p[:0], p[:0]), ValueError, "^pred must have shape"),
        (mse, (1.0, 1.0), ValueError, "^pred must have shape"),
        (mse, (p[np.newaxis], p[np.newaxis]), ValueError, "^pred must have shape"),
        (mse, ("a", p), TypeError, "^pred must hold real numbers"),
        (mse, (p, None), TypeError, "^target must hold real numbers"),
        (entropy, (p[:, 0], np.zeros(ROWS, int)), ValueError, "^pred must have shape"),
        (
            entropy,
            (p, np.full(ROWS, N_OUT)),
            ValueError,
            "^target: the label 3 in row 0",
        ),
        (entropy, (p, np.zeros(ROWS)), TypeError, r"target\.astype\(int\)"),
    ]:
        with pytest.raises(error, match=words):
            loss(*args)
        with pytest.raises(error, match=words):
            loss.value_and_grad(*args)


def test_bad_loss_parameters():
    for delta, error in [(0.0, ValueError), (-1, ValueError), (np.nan, ValueError)]:
        for cls in (fm.Huber, fm.PseudoHuber):
            with pytest.raises(error, match=r"^delta must be finite and > 0"):
                cls(delta)
    with pytest.raises(TypeError, match=r"^delta must be a number"):
        fm.Huber("1")
    with pytest.raises(ValueError, match=r"^reduction must be.*did you mean 'mean'"):
        fm.MSE(reduction="meen")
    with pytest.raises(TypeError, match="abstract"):
        fm.losses.Loss()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_losses_are_values(loss):
    again = eval(repr(loss), vars(fm))
    for other in (again, pickle.loads(pickle.dumps(loss))):
        assert other == loss
        assert hash(other) == hash(loss)
        assert repr(other) == repr(loss)
    assert loss != type(loss)(**{**loss._arguments(), "reduction": "sum"})
    assert [other for other in LOSSES if other == loss] == [loss]
    with pytest.raises(AttributeError, match="immutable"):
        loss.reduction = "sum"
    with pytest.raises(AttributeError, match="immutable"):
        del loss.core
