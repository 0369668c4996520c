"""Errors in callbacks and metrics, and the state that they leave behind."""

from __future__ import annotations

import fastmlp as fm
import numpy as np
import pytest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3)).astype(np.float32)
Y = X[:, :1] * 2


LAYERS = (3, 8, fm.Dropout(0.2), fm.BatchNorm(), 1)


def model(layers=LAYERS, **options):
    return fm.MLP(layers, seed=0, **options)


def fit(mlp, callbacks=(), **options):
    given = {"loss": fm.MSE(), "optimizer": fm.SGD(0.1), "epochs": 2, "batch_size": 16}
    return mlp.fit(X, Y, callbacks=callbacks, **{**given, **options})


@pytest.mark.parametrize("monitor", ["val_r2", "vall_loss", "mae"])
@pytest.mark.parametrize("kind", ["stop", "save"])
def test_an_unlogged_monitor_is_refused_before_the_first_epoch(monitor, kind, tmp_path):
    mlp, path = model(), tmp_path / "a.safetensors"
    callback = fm.EarlyStopping(monitor, mode="min")
    if kind == "save":
        callback = fm.Checkpoint(path, monitor, save_best_only=True, mode="min")
    before = mlp.params.copy()
    with pytest.raises(
        ValueError, match=f"this fit does not log '{monitor}'.* loss, r2"
    ):
        fit(mlp, [callback, fm.Monitor()], metrics=["r2"])
    assert mlp.history is None
    np.testing.assert_array_equal(mlp.params, before)
    # A custom callback may log it.
    fit(mlp, [lambda mlp, history: history.log(monitor, 1.0), callback])


def test_callbacks_hear_of_an_error_at_the_end_of_another():
    told = []

    def boom(mlp, history):
        raise KeyError("end")

    def note(name):
        return fm.LambdaCallback(
            on_train_end=lambda *args: told.append((name, "end")),
            on_error=lambda *args: told.append((name, "error")),
        )

    mlp = model()
    bad = fm.LambdaCallback(on_train_end=boom)
    with pytest.raises(KeyError, match="end"):
        fit(mlp, [note("a"), bad, note("b"), fm.Monitor()])
    assert told == [("a", "end"), ("b", "error")]
    assert mlp.core.watch is False


@pytest.mark.parametrize("finder_first", [False, True])
def test_a_learning_rate_finder_with_early_stopping_changes_nothing(finder_first):
    mlp = model()
    fit(mlp)
    before = mlp.params.copy(), mlp.buffers.copy(), mlp.core.training_state
    callbacks = [fm.EarlyStopping(), fm.LearningRateFinder(steps=30)]
    fit(mlp, callbacks[::-1] if finder_first else callbacks, epochs=10)
    np.testing.assert_array_equal(mlp.params, before[0])
    np.testing.assert_array_equal(mlp.buffers, before[1])
    assert mlp.core.training_state == before[2]


def test_a_checkpoint_fits_one_architecture(tmp_path):
    path = tmp_path / "run.safetensors"
    opt = fm.SGD(0.1)
    fit(model(), [fm.Checkpoint(path)], optimizer=opt)
    # The same architecture in another notation, and with another dropout rate, fits.
    same = [3, fm.Dense(8, "relu"), fm.Dropout(0.5), fm.BatchNorm(), fm.Dense(1)]
    fm.Checkpoint.load(path, model(same, activation="tanh"), fm.SGD(0.1))
    for other in (
        model(activation="tanh"),
        model([3, 8, fm.LayerNorm(), 1]),
        model(dtype="float64"),
    ):
        before = other.params.copy()
        with pytest.raises(ValueError, match="does not match mlp"):
            fm.Checkpoint.load(path, other, fm.SGD(0.1))
        np.testing.assert_array_equal(other.params, before)


def test_arguments_that_checkpoints_do_not_fit(tmp_path):
    path = tmp_path / "run.safetensors"
    fit(model(), [fm.Checkpoint(path)])
    with pytest.raises(TypeError, match=r"mlp must be an fm\.MLP, got 'mlp'"):
        fm.Checkpoint.load(path, "mlp")
    with pytest.raises(TypeError, match=r"did you mean fm\.SGD\(\)"):
        fm.Checkpoint.load(path, model(), fm.SGD)
    with pytest.raises(TypeError, match="optimizer must be a fastmlp Optimizer"):
        fm.Checkpoint.load(path, model(), "sgd")
    with pytest.raises(TypeError, match="callbacks must be a sequence"):
        fm.Checkpoint.load(path, model(), None, fm.EarlyStopping())


def test_the_best_of_some_epochs(tmp_path):
    with pytest.raises(
        ValueError, match="monitor can be used only with save_best_only=True"
    ):
        fm.Checkpoint("a.safetensors", monitor="val_loss")
    saved = []
    save = fm.Checkpoint(tmp_path / "{epoch}.safetensors", save_best_only=True, every=2)
    fit(model(), [save, lambda mlp, history: saved.append(save.best)], epochs=5)
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"2.safetensors", "4.safetensors"}
    assert "2.safetensors" in names


def test_logs_that_were_cut_off(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss\n1,2.5\n2,0.")
    fit(model(), [fm.CSVLogger(path, append=True)], epochs=1)
    lines = path.read_text().splitlines()
    assert lines[:3] == ["epoch,loss", "1,2.5", "2,0."]
    assert lines[3].startswith("3,")
    assert len(lines) == 4
    path.write_text("epoch,loss\nx,1\n")
    with pytest.raises(
        ValueError, match=r"last line .* begin with the number of an epoch, got 'x,1'"
    ):
        fit(model(), [fm.CSVLogger(path, append=True)])


@pytest.mark.parametrize("name", ["r2", "mae", "mse", "rmse"])
def test_errors_of_values_have_no_meaning_for_labels(name):
    mlp = fm.MLP([3, 4], seed=0)
    labels = np.arange(64) % 4
    before = mlp.params.copy()
    options = {"loss": fm.CrossEntropy(), "optimizer": fm.Adam(), "epochs": 1}
    with pytest.raises(ValueError, match=f"'{name}' is not defined for class labels"):
        mlp.fit(X, labels, **options, batch_size=8, metrics=[name])
    np.testing.assert_array_equal(mlp.params, before)
    # They are defined for class probabilities.
    mlp.fit(X, np.eye(4)[labels], **options, batch_size=8, metrics=[name])


def test_metrics_cannot_change_the_predictions():
    def spoil(pred, target):
        pred[:] = 0

    with pytest.raises(ValueError, match="read-only"):
        fit(model(), metrics=[spoil])


@pytest.mark.parametrize("name", ["loss", "val_loss", "seconds", "epoch"])
def test_reserved_names(name):
    with pytest.raises(ValueError, match=f"the name '{name}' is already used"):
        fit(model(), [lambda mlp, history: history.log(name, 1.0)])
    with pytest.raises(ValueError, match=f"the name '{name}' is already used"):
        fit(model(), metrics={name: "r2"})


def test_the_numbers_of_a_plateau_schedule_are_fixed():
    schedule = fm.schedules.ReduceOnPlateau(0.1, patience=0)
    for name in ("lr", "factor", "patience"):
        with pytest.raises(AttributeError, match=f"{name} cannot be changed"):
            setattr(schedule, name, 0.5)
    schedule.observe(1.0)
    schedule.observe(2.0)
    assert schedule.current == schedule.lr * schedule.factor
