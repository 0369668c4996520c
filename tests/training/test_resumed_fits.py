"""fit resumed from checkpoints and pickles, with schedules and solvers."""

import pickle

import fastmlp as fm
import numpy as np
import pytest
from fit_cases import SCHEDULES, LogCosh, Steps, deep, plateau, same, slices
from helpers import toy_data, toy_fit, toy_mlp


def everything(tmp_path, epochs, resume_from=None):
    """Train with everything that has a state, resumed from a checkpoint or not."""
    x, y = toy_data()
    mlp, opt = toy_mlp(), fm.Adam(0.05)
    stop = fm.EarlyStopping(patience=4, min_delta=0.005)
    log = fm.CSVLogger(tmp_path / "log.csv", append=True)
    save = fm.Checkpoint(tmp_path / "run-{epoch}.safetensors")
    hooks = [stop, log, save]
    done = None
    if resume_from is not None:
        path = tmp_path / f"run-{resume_from}.safetensors"
        done = fm.Checkpoint.load(path, mlp, opt, hooks)
        assert len(done) == resume_from
        assert mlp.history is done
    history = toy_fit(
        mlp,
        x,
        y,
        optimizer=opt,
        epochs=epochs - (resume_from or 0),
        validation_data=(x[:20], y[:20]),
        metrics=["r2"],
        callbacks=hooks,
        seed=None if resume_from else 11,
    )
    if done is not None:
        done.extend(history)
        history = done
    return mlp, opt, stop, history


def test_a_checkpoint_resumes_exactly(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    mlp, opt, stop, history = everything(whole, 60)
    # Early stopping ended it in the middle of the training.
    total = len(history)
    assert stop.stopped_epoch == total
    assert 6 < total < 60
    assert stop.best_epoch == total - 4
    for cut in (1, total - 3, total - 1):
        part = tmp_path / str(cut)
        part.mkdir()
        everything(part, cut)
        got = everything(part, 60, resume_from=cut)
        np.testing.assert_array_equal(got[0].params, mlp.params)
        assert got[1].step_count == opt.step_count
        for a, b in zip(
            got[1].state_dict()["slots"], opt.state_dict()["slots"], strict=True
        ):
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
        assert got[2].best_epoch == stop.best_epoch
        assert got[2].stopped_epoch == stop.stopped_epoch
        assert got[3].loss == history.loss
        assert got[3].val_loss == history.val_loss
        assert got[3].metrics == history.metrics
        # The log has all epochs with their numbers.
        lines = (part / "log.csv").read_text().splitlines()
        plain = (whole / "log.csv").read_text().splitlines()
        strip = [line.rsplit(",", 1)[0] for line in lines]
        assert strip == [line.rsplit(",", 1)[0] for line in plain]
        # The checkpoints of the resumed run are those of the uninterrupted one.
        files = [p / f"run-{total}.safetensors" for p in (whole, part)]
        with pytest.warns(UserWarning, match=r"state of the optimizer, EarlyStopping,"):
            one, two = (fm.Checkpoint.load(path, toy_mlp()) for path in files)
        assert one.loss == two.loss


def test_pickles_resume_exactly():
    x, y = toy_data()
    whole = toy_mlp()
    stop = fm.EarlyStopping("loss", patience=3, min_delta=0.05, restore_best=False)
    history = toy_fit(whole, x, y, epochs=100, callbacks=[stop])
    total = len(history)
    assert 5 < total < 100

    mlp, opt = toy_mlp(), fm.Adam(0.01)
    first = fm.EarlyStopping("loss", patience=3, min_delta=0.05, restore_best=False)
    toy_fit(mlp, x, y, optimizer=opt, epochs=total - 2, callbacks=[first])
    mlp, opt, state = pickle.loads(pickle.dumps((mlp, opt, first.state_dict())))
    second = fm.EarlyStopping("loss", patience=3, min_delta=0.05, restore_best=False)
    second.load_state_dict(state)
    toy_fit(mlp, x, y, optimizer=opt, epochs=100, callbacks=[second])
    assert second.stopped_epoch == total
    np.testing.assert_array_equal(mlp.params, whole.params)


def test_steps_draw_what_epochs_draw():
    x, y = toy_data()
    one, two, three = deep(), deep(), deep()
    toy_fit(one, x, y, shuffle=False)
    toy_fit(two, x, y, shuffle=False, callbacks=[Steps()])
    toy_fit(three, slices())
    same(one, two)
    same(one, three)
    other = deep()
    toy_fit(other, x, y, shuffle=False, seed=1)
    assert (other.params != one.params).any()


@pytest.mark.parametrize("make", [fm.Adam, fm.Adamax, fm.NAdam, fm.ASGD, fm.Prodigy])
@pytest.mark.parametrize("custom", [False, True])
def test_checkpoints_of_deep_networks_resume_exactly(tmp_path, custom, make):
    x, y = toy_data()
    loss = LogCosh() if custom else fm.MSE()
    save = fm.Checkpoint(tmp_path / "{epoch}.safetensors")
    whole, opt = deep(), make(0.01)
    toy_fit(whole, x, y, loss=loss, optimizer=opt, epochs=5, seed=4, callbacks=[save])
    mlp, again = deep(seed=9), make(0.5)
    fm.Checkpoint.load(tmp_path / "2.safetensors", mlp, again)
    toy_fit(mlp, x, y, loss=loss, optimizer=again, epochs=3)
    same(mlp, whole)
    assert again.lr == opt.lr


def test_the_finder_and_early_stopping_restore_statistics():
    x, y = toy_data()
    mlp, opt = deep(), fm.Adam(0.01)
    toy_fit(mlp, x, y, optimizer=opt)
    other = mlp.copy()
    finder = fm.LearningRateFinder(steps=12)
    toy_fit(mlp, x, y, optimizer=opt, callbacks=[finder])
    same(mlp, other)

    states = []
    stop = fm.EarlyStopping("score", patience=2, mode="min")
    scores = [1.0, 0.0, 1.0, 1.0]

    def note(mlp, history):
        states.append(mlp.copy())
        history.log("score", scores[len(history) - 1])

    toy_fit(mlp, x, y, optimizer=opt, epochs=4, callbacks=[note, stop])
    same(mlp, states[1])


def test_solvers_call_callbacks_and_resume_exactly(tmp_path):
    x, y = toy_data()
    hooks = [Steps(), fm.Checkpoint(tmp_path / "{epoch}.safetensors")]
    options = {"batch_size": None, "metrics": ["r2"]}
    whole, opt = toy_mlp(), fm.LBFGS()
    history = toy_fit(whole, x, y, optimizer=opt, epochs=6, callbacks=hooks, **options)
    assert history.loss[-1] < history.loss[0]
    assert [s[:3] for s in hooks[0].seen] == [
        (e, 0, loss) for e, loss in enumerate(history.loss)
    ]
    assert len(history.metrics["r2"]) == 6
    mlp, again = toy_mlp(seed=1), fm.LBFGS()
    done = fm.Checkpoint.load(tmp_path / "4.safetensors", mlp, again)
    done.extend(toy_fit(mlp, x, y, optimizer=again, epochs=2, **options))
    assert done.loss == history.loss
    np.testing.assert_array_equal(mlp.params, whole.params)


def test_solvers_need_whole_arrays():
    x, y = toy_data()
    with pytest.raises(ValueError, match=r"^batch_size must be None or at least"):
        toy_fit(toy_mlp(), x, y, optimizer=fm.LBFGS(), batch_size=9)
    with pytest.raises(TypeError, match=r"^LBFGS works on all samples at once"):
        toy_fit(toy_mlp(), slices(), optimizer=fm.LBFGS())
    with pytest.raises(TypeError, match=r"with a learning rate, got LBFGS"):
        toy_fit(
            toy_mlp(),
            x,
            y,
            optimizer=fm.LBFGS(),
            batch_size=None,
            callbacks=[fm.LearningRateFinder()],
        )


@pytest.mark.parametrize("kind", SCHEDULES)
def test_checkpoints_hold_schedules(tmp_path, kind):
    x, y = toy_data()
    make = SCHEDULES[kind]
    save = fm.Checkpoint(tmp_path / "{epoch}.safetensors")
    whole, opt = deep(), fm.Adam(make(), ema=0.9)
    toy_fit(whole, x, y, optimizer=opt, epochs=9, seed=4, callbacks=[save])
    mlp, again = deep(), fm.Adam(make(), ema=0.9)
    fm.Checkpoint.load(tmp_path / "5.safetensors", mlp, again)
    toy_fit(mlp, x, y, optimizer=again, epochs=4)
    same(mlp, whole)
    assert again.lr == opt.lr
    np.testing.assert_array_equal(again.ema_params[0], opt.ema_params[0])
    if kind == "cosine":
        with pytest.raises(ValueError, match=r"class Cosine, but the optimizer"):
            fm.Checkpoint.load(tmp_path / "5.safetensors", mlp, fm.Adam(plateau()))


def test_the_finder_puts_a_schedule_back():
    mlp, opt = toy_mlp(), fm.SGD(fm.schedules.Cosine(0.1, 40))
    finder = fm.LearningRateFinder(steps=12)
    toy_fit(mlp, *toy_data(), optimizer=opt, callbacks=[finder])
    assert opt.schedule == fm.schedules.Cosine(0.1, 40)
    assert (opt.lr, len(finder.lrs)) == (0.1, 12)
