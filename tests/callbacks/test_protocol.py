"""The callbacks' protocol: order of calls, errors, the fit they belong to."""

import fastmlp as fm
import numpy as np
import pytest
from callback_cases import fit
from fastmlp.callbacks._base import Run, overridden
from helpers import toy_mlp

NAMES = [
    "on_train_begin",
    "on_epoch_begin",
    "on_batch_end",
    "on_epoch_end",
    "on_train_end",
    "on_error",
]


def recorder(calls, **results):
    def note(name):
        def call(mlp, history, *rest):
            calls.append((name, len(history), *rest[:1]))
            return results.get(name)

        return call

    return fm.LambdaCallback(**{name: note(name) for name in NAMES})


def test_the_order_of_calls():
    calls = []
    fit(toy_mlp(), epochs=2, callbacks=[recorder(calls)])
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


def test_errors_reach_all_callbacks_and_propagate():
    calls, error = [], ZeroDivisionError()

    def fail(mlp, history):
        raise error

    hooks = [recorder(calls), fail, recorder(calls, on_error=True)]
    with pytest.raises(ZeroDivisionError):
        fit(toy_mlp(), callbacks=hooks)
    assert calls[-2:] == [("on_error", 1, error)] * 2
    assert "on_train_end" not in [c[0] for c in calls]

    # A callback whose training has not begun is not called.
    calls.clear()
    hooks = [
        recorder(calls),
        fm.LambdaCallback(on_train_begin=fail, on_error=fail),
        recorder(calls),
    ]
    mlp = toy_mlp()
    with pytest.raises(ZeroDivisionError):
        fit(mlp, callbacks=hooks)
    assert calls == [("on_train_begin", 0), ("on_error", 0, error)]
    assert mlp.history is None
    assert len(fit(mlp)) == 3


def test_divergence_may_count_as_an_ordinary_end():
    for forgive in (True, False):
        calls, mlp, opt = [], toy_mlp(), fm.SGD(0.01)

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

    look, opt, mlp = Look(), fm.Adam(0.01), toy_mlp()
    history = fit(mlp, optimizer=opt, seed=7, callbacks=[look])
    run = seen[0]
    assert isinstance(run, Run)
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
            """Do nothing."""

    empty, one = Empty(), One()
    for name in NAMES:
        wanted = [one.on_epoch_end] if name == "on_epoch_end" else []
        assert overridden([empty, one], name) == wanted


def test_bad_lambdas():
    with pytest.raises(TypeError, match=r"^on_epoch_end must be a function"):
        fm.LambdaCallback(on_epoch_end=3)
