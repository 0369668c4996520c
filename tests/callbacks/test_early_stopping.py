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


def stopped(values, **options):
    """The number of epochs, and the best epoch, with these values of a metric."""
    stop = fm.EarlyStopping("score", **{"mode": "min", **options})
    mlp = toy_mlp()
    history = fit(mlp, epochs=len(values), callbacks=[script(values), stop])
    if stop.best_epoch is not None and stop.stopped_epoch is not None:
        assert mlp.params[0] == stop.best_epoch
    return len(history), stop.best_epoch


@pytest.mark.parametrize(
    ("values", "start", "wanted"),
    [
        ([1, 2, 3, 4, 5, 6, 7], 0, (3, 1)),
        ([1, 2, 3, 4, 5, 6, 7], 2, (5, 3)),
        ([0, 9, 8, 7, 8, 9, 9], 1, (6, 4)),
        ([1, 2, 3, 4], 9, (4, None)),
    ],
)
def test_early_stopping_starts_from_an_epoch(values, start, wanted):
    assert stopped(values, patience=2, start_from_epoch=start) == wanted


@pytest.mark.parametrize(
    ("values", "baseline", "wanted"),
    [
        ([9, 8, 7, 6, 5], 5.5, (2, 2)),  # always better, but never good enough
        ([9, 5, 6, 7, 5], 5.5, (4, 2)),
        ([9, 5, 4, 3, 2], 5.5, (5, 5)),
        ([9, 5.5, 5.5, 2], 5.5, (2, 2)),  # it must be better than the baseline
    ],
)
def test_early_stopping_needs_to_reach_a_baseline(values, baseline, wanted):
    assert stopped(values, patience=2, baseline=baseline) == wanted
    negative = [-value for value in values]
    assert stopped(negative, patience=2, baseline=-baseline, mode="max") == wanted


def test_start_and_baseline_survive_a_checkpoint():
    values = [9, 9, 8, 7, 6, 7, 7, 7]
    options = {"patience": 2, "start_from_epoch": 2, "baseline": 6.5, "mode": "min"}
    whole = fm.EarlyStopping("score", **options)
    history = fit(toy_mlp(), epochs=8, callbacks=[script(values), whole])
    for cut in range(1, len(history)):
        first = fm.EarlyStopping("score", **options)
        fit(toy_mlp(), epochs=cut, callbacks=[script(values), first])
        second = fm.EarlyStopping("score", **options)
        second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
        rest = fit(toy_mlp(), epochs=8, callbacks=[script(values[cut:]), second])
        assert cut + len(rest) == len(history)
        assert (second.best, second.best_epoch) == (whole.best, whole.best_epoch)
    assert repr(whole).endswith("mode='min', start_from_epoch=2, baseline=6.5)")
    with pytest.raises(ValueError, match=r"^baseline must be finite"):
        fm.EarlyStopping(baseline=np.nan)
    with pytest.raises(TypeError, match=r"^start_from_epoch must be an int"):
        fm.EarlyStopping(start_from_epoch=0.5)


def test_mode_shows_the_direction_of_the_fit():
    x, y = toy_data(ROWS)
    stop = fm.EarlyStopping("val_acc")
    assert stop.mode is None
    options = {"validation_data": (x, y > 0), "callbacks": [stop]}
    toy_fit(toy_mlp(), x, y > 0, metrics={"acc": "accuracy"}, **options)
    assert stop.mode == "max"
    toy_fit(toy_mlp(), x, y > 0, metrics={"acc": "mae"}, **options)
    assert stop.mode == "min"
    stop.mode = "max"
    assert stop.mode == "max"
    with pytest.raises(ValueError, match=r"^mode must be one of min, max"):
        stop.mode = "up"


def test_a_run_that_has_ended_does_not_go_on(tmp_path):
    """A program that resumes from its checkpoint can be started again after its end."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 3)).astype(np.float32)
    y = np.sin(x[:, :1]) + 0.5 * rng.standard_normal((80, 1)).astype(np.float32)
    path = tmp_path / "run.safetensors"

    def program():
        mlp, opt = fm.MLP([3, 32, 1], seed=0), fm.Adam(lr=3e-2)
        stop, save = fm.EarlyStopping(patience=3), fm.Checkpoint(path)
        done = fm.History()
        if path.exists():
            done = fm.Checkpoint.load(path, mlp, opt, [stop, save])
        rest = mlp.fit(
            x[:60],
            y[:60],
            loss=fm.MSE(),
            optimizer=opt,
            epochs=200 - len(done),
            validation_data=(x[60:], y[60:]),
            callbacks=[stop, save],
            progress=False,
        )
        done.extend(rest)
        return mlp.params.tobytes(), done.val_loss, stop.best_epoch, stop.stopped_epoch

    first = program()
    assert len(first[1]) == first[3] < 200
    assert program() == first
    assert program() == first
