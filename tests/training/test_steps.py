"""Steps of fit: callbacks for each step, custom losses, schedules."""

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core
from fit_cases import (
    BATCH,
    ROWS,
    SCHEDULES,
    STEPS_PER_EPOCH,
    SUM_RTOL,
    LogCosh,
    Steps,
    deep,
    same,
    slices,
)
from helpers import toy_data, toy_fit, toy_mlp

# Two fits of some tens of steps, whose gradients are rounded at other places.
PATH_RTOL = 1e-4


def test_steps_are_seen_and_change_nothing():
    x, y = toy_data()
    one, two, steps = toy_mlp(), toy_mlp(), Steps()
    wanted = toy_fit(one, x, y, seed=3)
    got = toy_fit(two, x, y, seed=3, callbacks=[steps])
    np.testing.assert_array_equal(one.params, two.params)
    assert got.loss == wanted.loss
    assert [s[:2] for s in steps.seen] == [
        (e, k) for e in range(3) for k in range(STEPS_PER_EPOCH)
    ]

    # Each step is called separately.
    three, opt, order = toy_mlp(), fm.Adam(0.01), np.arange(ROWS)
    for epoch, k, loss, params in steps.seen:
        if k == 0:
            _core.kernels.shuffle(order, 3, epoch)
        rows = order[k * BATCH : (k + 1) * BATCH]
        assert three.train_step(x[rows], y[rows], fm.MSE(), opt) == loss
        np.testing.assert_array_equal(three.params, params)

    # Batches give the same.
    steps, four = Steps(), toy_mlp()
    toy_fit(four, slices(), callbacks=[steps])
    assert [s[:2] for s in steps.seen] == [
        (e, k) for e in range(3) for k in range(STEPS_PER_EPOCH)
    ]


@pytest.mark.parametrize("batches", [False, True])
def test_a_step_may_end_the_training(batches):
    x, y = toy_data()
    mlp, opt, ended = toy_mlp(), fm.Adam(0.01), []
    steps = Steps(stop_at=6)
    last = fm.LambdaCallback(on_train_end=lambda m, h: ended.append(len(h)))
    given = (slices(),) if batches else (x, y)
    history = toy_fit(mlp, *given, optimizer=opt, callbacks=[steps, last])
    assert opt.step_count == 6
    assert len(history) == 1
    assert ended == [1]
    np.testing.assert_array_equal(mlp.params, steps.seen[-1][3])


def test_an_error_in_a_step_leaves_a_usable_model():
    def fail(mlp, history, step, loss):
        if step == 2:
            raise ZeroDivisionError

    mlp, opt = toy_mlp(), fm.Adam(0.01)
    with pytest.raises(ZeroDivisionError):
        toy_fit(
            mlp,
            *toy_data(),
            optimizer=opt,
            callbacks=[fm.LambdaCallback(on_batch_end=fail)],
        )
    assert opt.step_count == 3
    assert len(mlp.history) == 0
    assert len(toy_fit(mlp, *toy_data(), optimizer=opt)) == 3


def test_a_step_may_use_the_model_and_set_the_rate():
    x, y = toy_data()
    opt = fm.SGD(0.1)

    def look(mlp, history, step, loss):
        assert mlp(x).shape == y.shape
        mlp.evaluate(x, y, fm.MSE())
        opt.lr = 0.0

    one, two = toy_mlp(), toy_mlp()
    calls = [fm.LambdaCallback(on_batch_end=look)]
    toy_fit(one, x, y, optimizer=opt, callbacks=calls, shuffle=False)
    two.train_step(x[:BATCH], y[:BATCH], fm.MSE(), fm.SGD(0.1))
    np.testing.assert_array_equal(one.params, two.params)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_in_python_trains_as_one_of_the_core(weighted):
    x, y = toy_data()
    w = (np.arange(ROWS) % 4 + 1).astype("float32") if weighted else None
    one, two, three = toy_mlp(), toy_mlp(), toy_mlp()
    validation = (x[:9], y[:9])
    options = {"sample_weight": w, "validation_data": validation, "seed": 3}
    wanted = toy_fit(one, x, y, **options)
    got = toy_fit(two, x, y, loss=LogCosh(mse=True), **options)
    np.testing.assert_array_equal(one.params, two.params)
    np.testing.assert_allclose(got.loss, wanted.loss, rtol=SUM_RTOL)
    np.testing.assert_allclose(got.val_loss, wanted.val_loss, rtol=SUM_RTOL)
    toy_fit(one := toy_mlp(), slices(weighted))
    toy_fit(three, slices(weighted), loss=LogCosh(mse=True))
    np.testing.assert_array_equal(one.params, three.params)


def test_a_loss_in_python_learns():
    x, y = toy_data()
    mlp, steps = deep(), Steps()
    history = toy_fit(
        mlp, x, y, loss=LogCosh(), epochs=40, metrics=["r2"], callbacks=[steps]
    )
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert len(steps.seen) == 40 * STEPS_PER_EPOCH
    assert history.metrics["r2"][-1] > 0.5


def test_functions_are_losses():
    x, y = toy_data()

    def squares(pred, target):
        r = pred - target
        return np.mean(r * r, dtype="float64"), 2 * r / r.size

    one, two, three = toy_mlp(), toy_mlp(), toy_mlp()
    wanted = toy_fit(one, x, y, epochs=5, validation_data=(x, y))
    got = toy_fit(two, x, y, epochs=5, validation_data=(x, y), loss=squares)
    np.testing.assert_allclose(got.val_loss, wanted.val_loss, rtol=PATH_RTOL)
    toy_fit(three, x, y, epochs=5, loss=fm.CustomLoss(squares))
    np.testing.assert_array_equal(two.params, three.params)


def test_a_loss_in_python_that_diverges_goes_back():
    x, y = toy_data()

    class Bad(LogCosh):
        __slots__ = ("calls",)

        def value_and_grad(self, pred, target, sample_weight=None):
            value, grad = super().value_and_grad(pred, target)
            object.__setattr__(self, "calls", getattr(self, "calls", 0) + 1)
            if self.calls == 7:
                grad = grad * np.float32(np.nan)
            return (np.inf if self.calls == 17 else value), grad

    mlp, opt, loss, good = deep(), fm.Adam(0.01), Bad(), deep()
    with pytest.raises(fm.DivergenceError, match=r"^epoch 2 of 3: .*step 3: "):
        toy_fit(mlp, x, y, loss=loss, optimizer=opt)
    toy_fit(good, x, y, loss=LogCosh(), epochs=1)
    same(mlp, good)
    assert opt.step_count == STEPS_PER_EPOCH
    assert len(mlp.history) == 1
    with pytest.raises(fm.DivergenceError, match=r"^epoch 3 of 3: .*the loss is inf"):
        toy_fit(mlp, x, y, loss=loss, optimizer=opt)
    assert len(mlp.history) == 2
    with pytest.raises(ValueError, match=r"^y must have as many rows as x, 60"):
        toy_fit(mlp, x, y[:5], loss=loss)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_are_the_same_however_steps_come(kind):
    x, y = toy_data()
    results = []
    for given, options in [
        ((x, y), {"shuffle": False}),
        ((x, y), {"shuffle": False, "callbacks": [Steps()]}),
        ((slices(),), {}),
        ((x, y), {"shuffle": False, "loss": LogCosh(mse=True)}),
    ]:
        mlp, opt = toy_mlp(), fm.SGD(SCHEDULES[kind](), momentum=0.5)
        toy_fit(mlp, *given, optimizer=opt, epochs=8, validation_data=(x, y), **options)
        results.append((mlp.params.copy(), opt.lr, opt.step_count))
    for params, lr, steps in results[1:]:
        np.testing.assert_array_equal(params, results[0][0])
        assert (lr, steps) == results[0][1:]
