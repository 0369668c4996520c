"""EarlyStopping in fit: when it stops, what it restores, invalid arguments."""

import math

import fastmlp as fm
import numpy as np
import pytest
from training_cases import data, fit, model


def script(values, name="score"):
    """A callback that logs given values and sets the parameters to the epoch."""

    def play(mlp, history):
        mlp.params[:] = len(history)
        history.log(name, values[len(history) - 1])

    return play


@pytest.mark.parametrize(
    ("values", "options", "epochs", "best"),
    [
        ([3, 2, 1, 1, 1, 1, 0], {"patience": 3}, 6, 3),
        ([3, 2, 1, 2, 0.5, 1, 1, 1], {"patience": 3}, 8, 5),
        ([1, 2, 3], {"patience": 1}, 2, 1),
        ([1, 0.95, 0.89, 0.88, 0.87], {"patience": 2, "min_delta": 0.1}, 5, 3),
        ([1, 2, 3, 3, 2, 9], {"patience": 2, "mode": "max"}, 5, 3),
        ([1, math.nan, math.nan, 0], {"patience": 2}, 3, 1),
        ([math.nan, math.nan, 0], {"patience": 2}, 2, None),
        ([math.nan, 1, 2, 2], {"patience": 2}, 4, 2),
    ],
)
def test_early_stopping(values, options, epochs, best):
    stop = fm.EarlyStopping("score", **options)
    mlp = model()
    history = fit(mlp, *data(), epochs=len(values), callbacks=[script(values), stop])
    assert len(history) == epochs
    assert stop.best_epoch == best
    assert stop.best == (None if best is None else values[best - 1])
    assert (mlp.params == (best or epochs)).all()
    # It can be used again, from the start.
    again = fit(model(), *data(), epochs=len(values), callbacks=[script(values), stop])
    assert len(again) == epochs


def test_early_stopping_may_leave_the_parameters():
    mlp = model()
    stop = fm.EarlyStopping("score", patience=1, restore_best=False)
    fit(mlp, *data(), callbacks=[script([1, 2, 3]), stop])
    assert (mlp.params == 2).all()


def test_early_stopping_monitors_what_there_is():
    x, y = data()
    stop = fm.EarlyStopping(patience=2)
    history = fit(model(), x, y, optimizer=fm.SGD(0.0), shuffle=False, callbacks=[stop])
    assert (len(history), stop.best) == (3, history.loss[0])
    history = fit(
        model(),
        x,
        y,
        optimizer=fm.SGD(0.0),
        validation_data=(x[:9], y[:9]),
        callbacks=[stop],
    )
    assert (len(history), stop.best) == (3, history.val_loss[0])
    assert repr(stop) == (
        "EarlyStopping(monitor=None, patience=2, min_delta=0.0, restore_best=True, "
        "mode='min')"
    )


def test_bad_early_stopping():
    mlp = model()
    before = mlp.params.copy()
    with pytest.raises(ValueError, match=r"needs fit\(validation_data="):
        fit(mlp, *data(), callbacks=[fm.EarlyStopping("val_loss")])
    np.testing.assert_array_equal(mlp.params, before)
    assert mlp.history is None
    with pytest.raises(ValueError, match="nothing logs 'acc' in this fit"):
        fit(mlp, *data(), callbacks=[fm.EarlyStopping("acc")])
    assert mlp.history is None
    hooks = [lambda mlp, history: None, fm.EarlyStopping("acc")]
    with pytest.raises(ValueError, match="no callback before it has logged 'acc'"):
        fit(mlp, *data(), callbacks=hooks)
    for options, error, words in [
        ({"monitor": 3}, TypeError, "^monitor"),
        ({"patience": 0}, ValueError, "^patience must be at least 1"),
        ({"patience": 2.0}, TypeError, "^patience"),
        ({"min_delta": -1}, ValueError, "^min_delta"),
        ({"restore_best": 1}, TypeError, "^restore_best"),
        ({"mode": "auto"}, ValueError, "^mode must be one of min, max"),
    ]:
        with pytest.raises(error, match=words):
            fm.EarlyStopping(**options)
