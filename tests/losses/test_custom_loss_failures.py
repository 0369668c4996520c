"""Losses written in Python that fail: the model is left as before the step."""

from __future__ import annotations

import fastmlp as fm
import numpy as np
import pytest
from helpers import random_batch

ROWS = 24


def mse(pred, target):
    r = pred - target
    return (r * r).mean(), 2 * r / r.size


def model():
    layers = [3, 6, fm.BatchNorm(), fm.Dropout(0.3), 1]
    return fm.MLP(layers, dtype="float64", seed=0)


def data():
    return random_batch(ROWS, 3, 1, "float64", seed=1)


def state(mlp):
    tracked = mlp.core.training_state
    return mlp.params.tolist(), mlp.buffers.tolist(), tracked, mlp.sequence.done


def raising(pred, target):
    raise KeyError("mine")


FAILURES = {
    "raises": (raising, KeyError),
    "returns nothing": (lambda pred, target: None, TypeError),
    "wrong shape": (lambda pred, target: (1.0, np.zeros(3)), ValueError),
    "nan": (lambda pred, target: (np.nan, np.zeros_like(pred)), fm.DivergenceError),
    "nan gradient": (
        lambda pred, target: (1.0, np.full_like(pred, np.nan)),
        fm.DivergenceError,
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_changes_nothing(name):
    loss, error = FAILURES[name]
    mlp, opt, (x, y) = model(), fm.Adam(), data()
    mlp.fit(x, y, loss=mse, optimizer=opt, epochs=2, batch_size=8)
    before, steps = state(mlp), opt.step_count
    with pytest.raises(error):
        mlp.train_step(x, y, loss, opt)
    assert (state(mlp), opt.step_count) == (before, steps)
    with pytest.raises(error):
        mlp.fit(x, y, loss=loss, optimizer=opt, epochs=2, batch_size=8)
    assert (state(mlp), opt.step_count) == (before, steps)
    if error is not fm.DivergenceError:
        with pytest.raises(error):
            mlp.value_and_grad(x, y, loss, training=True)
        assert state(mlp) == before


def test_a_fit_resumes_as_if_there_had_been_no_failure():
    (x, y), failed = data(), []

    def sometimes(pred, target):
        if failed:
            return mse(pred, target)
        failed.append(True)
        raise RuntimeError("once")

    a, b = model(), model()
    opt_a, opt_b = fm.Adam(), fm.Adam()
    with pytest.raises(RuntimeError, match="once"):
        a.fit(x, y, loss=sometimes, optimizer=opt_a, epochs=1, batch_size=8)
    for mlp, opt in ((a, opt_a), (b, opt_b)):
        mlp.fit(x, y, loss=sometimes, optimizer=opt, epochs=2, batch_size=8)
        mlp.train_step(x, y, sometimes, opt)
    assert state(a) == state(b)


@pytest.mark.parametrize("batch_size", [1, ROWS - 1])
def test_single_rows_under_batch_norm_are_refused_before_the_first_step(batch_size):
    mlp, opt, (x, y) = model(), fm.Adam(), data()
    before = state(mlp)
    for loss in (fm.MSE(), mse):
        with pytest.raises(ValueError, match="at least two rows"):
            mlp.fit(x, y, loss=loss, optimizer=opt, epochs=1, batch_size=batch_size)
        assert (state(mlp), opt.step_count) == (before, 0)


def test_divergence_is_explained():
    mlp, (x, y) = model(), data()

    def nan(pred, target):
        return np.nan, np.zeros_like(pred)

    with pytest.raises(fm.DivergenceError, match=r"loss is nan; learning rate 0\.25"):
        mlp.train_step(x, y, nan, fm.SGD(0.25))
    with pytest.raises(fm.DivergenceError, match="cause: the loss function, given"):
        mlp.fit(x, y, loss=nan, optimizer=fm.SGD(0.25), epochs=1, batch_size=8)
    mlp.params[:] = 1e200
    with pytest.raises(fm.DivergenceError, match="cause: predictions that are not"):
        mlp.train_step(x, y, nan, fm.SGD(0.25))


@pytest.mark.parametrize("training", [1, None, "no"])
def test_training_is_true_or_false(training):
    mlp, (x, y) = model(), data()
    calls = [
        lambda: mlp.forward(x, training),
        lambda: mlp.vjp(x, y, training),
        lambda: mlp.value_and_grad(x, y, fm.MSE(), training=training),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="training must be True or False"):
            call()
