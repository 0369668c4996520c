"""The callbacks: their protocol, and each of them."""

import csv
import math
import os
import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import callbacks
from fastmlp._training import progress
from safetensors.numpy import load_file

ROWS = 64
NAMES = [
    "on_train_begin",
    "on_epoch_begin",
    "on_batch_end",
    "on_epoch_end",
    "on_train_end",
    "on_error",
]


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 3)).astype("float32")
    return x, np.tanh(x @ rng.standard_normal((3, 2))).astype("float32")


def model(seed=0):
    return fm.MLP([3, 8, 2], activation="tanh", seed=seed)


def fit(mlp, **options):
    options = {"loss": fm.MSE(), "epochs": 3, "batch_size": 32, **options}
    return mlp.fit(*data(), **{"optimizer": fm.Adam(0.01), **options})


# The protocol -------------------------------------------------------------------------


def recorder(calls, **results):
    def note(name):
        def call(mlp, history, *rest):
            calls.append((name, len(history), *rest[:1]))
            return results.get(name)

        return call

    return fm.LambdaCallback(**{name: note(name) for name in NAMES})


def test_the_order_of_calls():
    calls = []
    fit(model(), epochs=2, callbacks=[recorder(calls)])
    assert calls == [
        ("on_train_begin", 0),
        ("on_epoch_begin", 0),
        ("on_batch_end", 0, 0),
        ("on_batch_end", 0, 1),
        ("on_epoch_end", 1),
        ("on_epoch_begin", 1),
        ("on_batch_end", 1, 0),
        ("on_batch_end", 1, 1),
        ("on_epoch_end", 2),
        ("on_train_end", 2),
    ]


def test_errors_are_told_to_all_and_go_on():
    calls, error = [], ZeroDivisionError()

    def fail(mlp, history):
        raise error

    hooks = [recorder(calls), fail, recorder(calls, on_error=True)]
    with pytest.raises(ZeroDivisionError):
        fit(model(), callbacks=hooks)
    assert calls[-2:] == [("on_error", 1, error)] * 2
    assert "on_train_end" not in [c[0] for c in calls]

    # One that has not begun is not told.
    calls.clear()
    hooks = [
        recorder(calls),
        fm.LambdaCallback(on_train_begin=fail, on_error=fail),
        recorder(calls),
    ]
    mlp = model()
    with pytest.raises(ZeroDivisionError):
        fit(mlp, callbacks=hooks)
    assert calls == [("on_train_begin", 0), ("on_error", 0, error)]
    assert mlp.history is None
    assert len(fit(mlp)) == 3


def test_divergence_may_be_taken_for_an_end():
    for forgive in (True, False):
        calls, mlp, opt = [], model(), fm.SGD(0.01)

        def explode(mlp, history, opt=opt):
            opt.lr = 1e30 if len(history) == 2 else 0.01

        hooks = [explode, recorder(calls, on_error=forgive)]
        if forgive:
            fit(mlp, optimizer=opt, epochs=9, callbacks=hooks)
            assert calls[-1][0] == "on_train_end"
        else:
            with pytest.raises(fm.DivergenceError):
                fit(mlp, optimizer=opt, epochs=9, callbacks=hooks)
        assert [c[0] for c in calls].count("on_error") == 1
        assert len(mlp.history) in (2, 3)
        assert np.isfinite(mlp.params).all()


def test_a_callback_knows_the_fit_it_is_in():
    seen = []

    class Look(fm.Callback):
        def on_epoch_end(self, mlp, history):
            seen.append(self.run)

    look, opt, mlp = Look(), fm.Adam(0.01), model()
    history = fit(mlp, optimizer=opt, seed=7, callbacks=[look])
    run = seen[0]
    assert isinstance(run, callbacks.Run)
    assert run.optimizer is opt
    assert run.loss == fm.MSE()
    assert run.history is history
    assert (run.epochs, run.steps_per_epoch) == (3, 2)
    assert (run.seed, run.first_epoch) == (7, 0)
    assert run.callbacks == [look]
    assert look.run is None
    fit(mlp, callbacks=[look])
    fit(mlp, callbacks=[look])
    assert seen[-1].first_epoch == 3


def test_what_is_not_overridden_is_not_called():
    class Empty(fm.Callback):
        pass

    class One(fm.Callback):
        def on_epoch_end(self, mlp, history):
            """Does nothing."""

    empty, one = Empty(), One()
    for name in NAMES:
        wanted = [one.on_epoch_end] if name == "on_epoch_end" else []
        assert callbacks.overridden([empty, one], name) == wanted


def test_bad_lambdas():
    with pytest.raises(TypeError, match=r"^on_epoch_end must be a function"):
        fm.LambdaCallback(on_epoch_end=3)


# Early stopping -----------------------------------------------------------------------


def script(values):
    def play(mlp, history):
        mlp.params[:] = len(history)
        history.log("score", values[len(history) - 1])

    return play


def test_early_stopping_goes_on_in_mid_patience():
    values = [3, 1, 2, 2, 0.5, 1, 1, 1, 1]
    whole = fm.EarlyStopping("score", patience=3)
    history = fit(model(), epochs=9, callbacks=[script(values), whole])
    assert (len(history), whole.stopped_epoch, whole.best_epoch) == (8, 8, 5)
    for cut in range(1, 8):
        first = fm.EarlyStopping("score", patience=3)
        fit(model(), epochs=cut, callbacks=[script(values), first])
        state = pickle.loads(pickle.dumps(first.state_dict()))
        second = fm.EarlyStopping("score", patience=3)
        second.load_state_dict(state)
        mlp = model()
        rest = fit(mlp, epochs=9, callbacks=[script(values[cut:]), second])
        assert len(rest) == 8 - cut
        assert (second.stopped_epoch, second.best_epoch) == (8, 5)
        assert (second.best, (mlp.params == mlp.params[0]).all()) == (0.5, True)
        # The best epoch's parameters, from whichever of the two runs.
        assert mlp.params[0] == (5 - cut if cut < 5 else 5)


def test_early_stopping_may_restore_the_optimiser():
    for restore in (False, True):
        opt = fm.Adam(0.01)
        stop = fm.EarlyStopping("score", patience=2, restore_optimizer=restore)
        fit(model(), optimizer=opt, epochs=9, callbacks=[script([1, 0, 1, 1]), stop])
        assert opt.step_count == (4 if restore else 8)
        assert ("restore_optimizer" in repr(stop)) is restore


# Files --------------------------------------------------------------------------------


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    log = fm.CSVLogger(path)
    x, y = data()
    options = {"validation_data": (x, y), "metrics": ["r2"], "callbacks": [log]}
    history = fit(model(), **options)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "val_loss", "val_r2", "seconds"]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["loss"]) for row in rows] == history.loss
    assert [float(row["val_loss"]) for row in rows] == history.val_loss
    assert [float(row["val_r2"]) for row in rows] == history.metrics["val_r2"]
    assert [float(row["seconds"]) for row in rows] == history.seconds

    # Anew, and further.
    fit(model(), **options)
    assert len(path.read_text().splitlines()) == 4
    fit(model(), callbacks=[fm.CSVLogger(str(path), append=True)])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["val_r2"] == ""
    assert repr(log) == f"CSVLogger({str(path)!r}, append=False)"


def test_csv_logger_wants_its_own_files(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"^path: .* is no log"):
        fit(model(), callbacks=[fm.CSVLogger(path, append=True)])
    assert path.read_text() == "a,b\n1,2\n"
    with pytest.raises(TypeError, match=r"^path must be a str or path"):
        fm.CSVLogger(3)
    with pytest.raises(FileNotFoundError):
        fit(model(), callbacks=[fm.CSVLogger(tmp_path / "no" / "log.csv")])


def test_checkpoints_are_written_when_they_should(tmp_path):
    def found():
        return sorted(os.listdir(tmp_path))

    fit(
        model(), epochs=5, callbacks=[fm.Checkpoint(tmp_path / "a{epoch:02d}", every=2)]
    )
    assert found() == ["a02", "a04"]
    values = [3, 4, 2, math.nan, 1]
    save = fm.Checkpoint(tmp_path / "b{epoch}", "score", save_best_only=True)
    # Wherever it stands: it comes after those that log.
    fit(model(), epochs=5, callbacks=[save, script(values)])
    assert found() == ["a02", "a04", "b1", "b3", "b5"]
    assert (save.best, save.last_path) == (1, str(tmp_path / "b5"))
    mlp = model()
    history = fm.Checkpoint.load(tmp_path / "b3", mlp)
    assert (mlp.params == 3).all()
    assert history.metrics["score"] == [3, 4, 2]
    with pytest.raises(ValueError, match=r"needs fit\(validation_data="):
        fit(model(), callbacks=[fm.Checkpoint(tmp_path / "c", "val_loss", True)])


def test_a_checkpoint_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    fit(model(), epochs=1, callbacks=[fm.Checkpoint(path)])
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    mlp = model()
    with pytest.raises(OSError, match="disk full"):
        fit(mlp, epochs=2, callbacks=[fm.Checkpoint(path)])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.safetensors"]
    assert len(mlp.history) == 1


def test_a_checkpoint_has_no_pickles(tmp_path):
    path = tmp_path / "run.safetensors"
    opt, hooks = fm.Adam(0.01), [fm.EarlyStopping(), fm.Checkpoint(path)]
    mlp = model()
    fit(mlp, optimizer=opt, callbacks=hooks)
    arrays = load_file(path)
    # Adam's two, two of the best epoch and the model's.
    assert len(arrays) == 2 + 2 + len(mlp.state_dict())
    for name, array in mlp.state_dict().items():
        np.testing.assert_array_equal(arrays[name], array)
    assert {a.dtype.kind for a in arrays.values()} == {"f"}


def test_bad_checkpoints(tmp_path):
    path = tmp_path / "run.safetensors"
    stop = fm.EarlyStopping(patience=9)
    fit(model(), callbacks=[stop, fm.Checkpoint(path)])

    # What does not fit changes nothing.
    mlp, opt = model(seed=1), fm.Adam(0.5)
    before = mlp.params.copy()
    load = fm.Checkpoint.load
    for call, words in [
        (lambda: load(path, fm.MLP([3, 9, 2])), r"^path: .* does not fit the model"),
        (lambda: load(path, fm.MLP([3, 8, 2], dtype="float64")), "does not fit"),
        (lambda: load(path, mlp, fm.SGD(0.1)), "kind 'sgd'"),
        (
            lambda: load(path, mlp, opt, [fm.EarlyStopping()]),
            "EarlyStopping, Checkpoint",
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    np.testing.assert_array_equal(mlp.params, before)
    assert (opt.lr, opt.step_count, mlp.history) == (0.5, 0, None)

    (tmp_path / "x").write_text("nothing")
    np.savez(tmp_path / "y.npz", a=np.ones(3))
    for name in ("x", "y.npz"):
        with pytest.raises(ValueError, match=r"^path: .* is no checkpoint"):
            load(tmp_path / name, mlp)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "z", mlp)
    with pytest.raises(ValueError, match=r"^path may hold \{epoch\}"):
        fm.Checkpoint("{loss}.safetensors")
    with pytest.raises(ValueError, match=r"^every must be at least 1"):
        fm.Checkpoint("a", every=0)
    assert repr(fm.Checkpoint("a")) == (
        "Checkpoint(path='a', monitor=None, save_best_only=False, every=1, mode='min')"
    )


def test_a_checkpoint_of_the_best_goes_on_being_the_best(tmp_path):
    path = tmp_path / "best.safetensors"
    save = fm.Checkpoint(path, "score", save_best_only=True)
    fit(model(), callbacks=[script([3, 1, 2]), save])
    again = fm.Checkpoint(path, "score", save_best_only=True)
    mlp = model()
    done = fm.Checkpoint.load(path, mlp, callbacks=[again])
    assert len(done) == 2
    fit(mlp, epochs=2, callbacks=[script([2, 3]), again])
    assert again.last_path is None
    again.load_state_dict(again.state_dict())
    fit(mlp, epochs=2, callbacks=[script([2, 0.5]), again])
    assert again.best == 0.5


# The rest -----------------------------------------------------------------------------


def test_time_limit():
    limit = callbacks.TimeLimit(1e-9)
    assert len(fit(model(), epochs=10**6, callbacks=[limit])) == 1
    assert len(fit(model(), callbacks=[callbacks.TimeLimit(3600)])) == 3
    assert repr(limit) == "TimeLimit(1e-09)"
    with pytest.raises(ValueError, match=r"^seconds must be"):
        callbacks.TimeLimit(0)


def test_learning_rate_finder():
    mlp, opt = model(), fm.SGD(0.123, momentum=0.5)
    fit(mlp, optimizer=opt)
    other, params = mlp.copy(), mlp.params.copy()
    other_opt = pickle.loads(pickle.dumps(opt))
    finder = fm.LearningRateFinder(start=1e-5, end=1e4, steps=80)
    fit(mlp, optimizer=opt, epochs=100, batch_size=ROWS, callbacks=[finder])

    # It has trained nothing: all goes on as if it had not been.
    np.testing.assert_array_equal(mlp.params, params)
    assert (opt.lr, opt.step_count) == (0.123, other_opt.step_count)
    fit(mlp, optimizer=opt)
    fit(other, optimizer=other_opt)
    np.testing.assert_array_equal(mlp.params, other.params)

    # Rates grow by the same factor; the loss falls, then explodes; between is good.
    n = len(finder.lrs)
    assert 10 < n < 80
    assert n == len(finder.losses) == len(finder.raw_losses)
    np.testing.assert_allclose(finder.lrs[1:] / finder.lrs[:-1], 1e9 ** (1 / 79))
    assert finder.lrs[0] == 1e-5
    assert finder.losses[0] == finder.raw_losses[0]
    assert finder.losses[-1] > 4 * finder.losses.min()
    assert finder.losses.min() < finder.losses[0]
    assert 1e-5 < finder.suggestion < finder.lrs[finder.losses.argmin()] * 1.01
    opt.lr = finder.suggestion
    history = fit(model(), optimizer=fm.SGD(finder.suggestion), epochs=20)
    assert history.loss[-1] < 0.8 * history.loss[0]


def test_the_finder_survives_divergence_and_errors():
    mlp, opt = model(), fm.SGD(0.1)
    params = mlp.params.copy()
    finder = fm.LearningRateFinder(1e-3, 1e38, steps=20, stop_factor=math.inf)
    fit(mlp, optimizer=opt, epochs=10, callbacks=[finder])
    np.testing.assert_array_equal(mlp.params, params)
    assert 0 < len(finder.lrs) < 20
    assert (opt.lr, opt.step_count) == (0.1, 0)

    def fail(mlp, history):
        raise KeyboardInterrupt

    finder = fm.LearningRateFinder(steps=20)
    with pytest.raises(KeyboardInterrupt):
        fit(mlp, optimizer=opt, epochs=10, callbacks=[finder, fail])
    np.testing.assert_array_equal(mlp.params, params)
    assert (opt.lr, opt.step_count) == (0.1, 0)


def test_bad_finders():
    mlp, opt = model(), fm.SGD(0.1)
    with pytest.raises(ValueError, match=r"needs as many steps.*epochs=50"):
        fit(mlp, optimizer=opt, callbacks=[fm.LearningRateFinder(steps=100)])
    assert opt.lr == 0.1
    for options, words in [
        ({"start": 0}, "^start must be"),
        ({"start": 1, "end": 1}, "^end must be"),
        ({"steps": 1}, "^steps must be"),
        ({"smoothing": 1.0}, "^smoothing must be"),
        ({"stop_factor": 1.0}, "^stop_factor must be"),
    ]:
        with pytest.raises(ValueError, match=words):
            fm.LearningRateFinder(**options)


# Histories and progress ---------------------------------------------------------------


def test_histories_can_be_joined():
    x, y = data()
    options = {"validation_data": (x, y), "metrics": ["mae"]}
    one, two = fit(model(), **options), fit(model(), epochs=2, **options)
    joined = fm.History.from_dict(one.to_dict())
    assert joined.to_dict() == one.to_dict()
    assert joined.has_validation
    joined.extend(two)
    assert joined.loss == one.loss + two.loss
    assert joined.val_loss == one.val_loss + two.val_loss
    assert joined.metrics["val_mae"] == one.metrics["val_mae"] + two.metrics["val_mae"]
    assert len(joined) == len(joined.seconds) == 5
    assert len(one) == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (61, "1:01"), (3599.4, "59:59"), (3600, "1:00:00")],
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


def test_progress_shows_metrics_and_time_left(capsys):
    x, y = data()
    history = fit(model(), validation_data=(x, y), metrics=["r2"], progress=True)
    line = capsys.readouterr().err.splitlines()[0]
    assert f"val_r2 {history.metrics['val_r2'][0]:.4g}  " in line
    assert " left  " in line
