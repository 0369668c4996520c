"""EarlyStopping and TimeLimit."""

import math
import pickle

import fastmlp as fm
import numpy as np
import pytest
from callback_cases import fit, script
from fastmlp import callbacks
from helpers import toy_data, toy_fit, toy_mlp

ROWS = 50


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
    stop = fm.EarlyStopping("score", **{"mode": "min", **options})
    mlp = toy_mlp()
    history = toy_fit(
        mlp, *toy_data(ROWS), epochs=len(values), callbacks=[script(values), stop]
    )
    assert len(history) == epochs
    assert stop.best_epoch == best
    assert stop.best == (None if best is None else values[best - 1])
    assert (mlp.params == (best or epochs)).all()
    # It can be used again, and then starts from an empty state.
    again = toy_fit(
        toy_mlp(), *toy_data(ROWS), epochs=len(values), callbacks=[script(values), stop]
    )
    assert len(again) == epochs


def test_early_stopping_may_leave_the_parameters():
    mlp = toy_mlp()
    stop = fm.EarlyStopping("score", 1, restore_best=False, mode="min")
    toy_fit(mlp, *toy_data(ROWS), callbacks=[script([1, 2, 3]), stop])
    assert (mlp.params == 2).all()


def test_early_stopping_prefers_the_validation_loss():
    x, y = toy_data(ROWS)
    stop = fm.EarlyStopping(patience=2)
    history = toy_fit(
        toy_mlp(), x, y, optimizer=fm.SGD(0.0), shuffle=False, callbacks=[stop]
    )
    assert (len(history), stop.best) == (3, history.loss[0])
    history = toy_fit(
        toy_mlp(),
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


def test_early_stopping_resumes_within_its_patience():
    values = [3, 1, 2, 2, 0.5, 1, 1, 1, 1]
    whole = fm.EarlyStopping("score", patience=3, mode="min")
    history = fit(toy_mlp(), epochs=9, callbacks=[script(values), whole])
    assert (len(history), whole.stopped_epoch, whole.best_epoch) == (8, 8, 5)
    for cut in range(1, 8):
        first = fm.EarlyStopping("score", patience=3, mode="min")
        fit(toy_mlp(), epochs=cut, callbacks=[script(values), first])
        state = pickle.loads(pickle.dumps(first.state_dict()))
        second = fm.EarlyStopping("score", patience=3, mode="min")
        second.load_state_dict(state)
        mlp = toy_mlp()
        rest = fit(mlp, epochs=9, callbacks=[script(values[cut:]), second])
        assert len(rest) == 8 - cut
        assert (second.stopped_epoch, second.best_epoch) == (8, 5)
        assert (second.best, (mlp.params == mlp.params[0]).all()) == (0.5, True)
        # The parameters of the best epoch, whichever of the two runs it was in.
        assert mlp.params[0] == (5 - cut if cut < 5 else 5)


def test_early_stopping_may_restore_the_optimiser():
    for restore in (False, True):
        opt = fm.Adam(0.01)
        stop = fm.EarlyStopping("score", 2, mode="min", restore_optimizer=restore)
        fit(toy_mlp(), optimizer=opt, epochs=9, callbacks=[script([1, 0, 1, 1]), stop])
        assert opt.step_count == (4 if restore else 8)
        assert ("restore_optimizer" in repr(stop)) is restore


def test_bad_early_stopping():
    mlp = toy_mlp()
    before = mlp.params.copy()
    with pytest.raises(ValueError, match=r"needs fit\(validation_data="):
        toy_fit(mlp, *toy_data(ROWS), callbacks=[fm.EarlyStopping("val_loss")])
    np.testing.assert_array_equal(mlp.params, before)
    assert mlp.history is None
    with pytest.raises(ValueError, match="this fit does not log 'acc'"):
        toy_fit(mlp, *toy_data(ROWS), callbacks=[fm.EarlyStopping("acc")])
    assert mlp.history is None
    hooks = [lambda mlp, history: None, fm.EarlyStopping("acc")]
    with pytest.raises(ValueError, match=r"'acc'.* needs mode='min' or mode='max'"):
        toy_fit(mlp, *toy_data(ROWS), callbacks=hooks)
    hooks[1] = fm.EarlyStopping("acc", mode="max")
    with pytest.raises(
        ValueError, match=r"'acc' is not a metric .* no earlier callback"
    ):
        toy_fit(mlp, *toy_data(ROWS), callbacks=hooks)
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


def test_time_limit():
    limit = callbacks.TimeLimit(1e-9)
    assert len(fit(toy_mlp(), epochs=10**6, callbacks=[limit])) == 1
    assert len(fit(toy_mlp(), callbacks=[callbacks.TimeLimit(3600)])) == 3
    assert repr(limit) == "TimeLimit(1e-09)"
    with pytest.raises(ValueError, match=r"^seconds must be"):
        callbacks.TimeLimit(0)
