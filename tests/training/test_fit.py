"""MLP.fit: epochs, order, validation, callbacks, divergence, interruption."""

import _thread
import math
import pickle
import threading
import time

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core
from helpers import toy_data, toy_fit, toy_mlp

ROWS = 50

# Sums of a few float32 batch losses, taken in another order.
SUM_RTOL = 1e-6


@pytest.mark.parametrize("batch_size", [1, 7, 16, 25, ROWS, ROWS + 1, 10**12])
@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_epoch_is_its_steps(batch_size, seed, reduction):
    x, y = toy_data(ROWS)
    w = np.random.default_rng(1).random(ROWS).astype("float32")
    loss = fm.MSE(reduction=reduction)
    for weight in (None, w):
        mlp, other, opt = toy_mlp(), toy_mlp(), fm.Adam(0.01)
        options = {"shuffle": seed is not None, "seed": seed, "sample_weight": weight}
        history = toy_fit(mlp, x, y, loss=loss, batch_size=batch_size, **options)

        order = np.arange(ROWS)
        for epoch in range(3):
            if seed is not None:
                _core.kernels.shuffle(order, seed, epoch)
            total = share = 0.0
            for start in range(0, ROWS, batch_size):
                rows = order[start : start + batch_size]
                part = None if weight is None else weight[rows]
                value = other.train_step(x[rows], y[rows], loss, opt, part)
                size = len(rows) if part is None else part.sum(dtype=float)
                total += value * (size if reduction == "mean" else 1)
                share += size
            wanted = total / share if reduction == "mean" else total
            assert history.loss[epoch] == pytest.approx(wanted, rel=SUM_RTOL)
        np.testing.assert_array_equal(mlp.params, other.params)
        assert opt.step_count == 3 * math.ceil(ROWS / batch_size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_lowers_the_loss(dtype):
    x, y = toy_data(ROWS, dtype=dtype)
    mlp = toy_mlp(dtype=dtype)
    history = toy_fit(mlp, x, y, epochs=60)
    assert history.loss[-1] < 0.2 * history.loss[0]
    assert mlp.evaluate(x, y, fm.MSE()) < history.loss[-1]


def test_classification():
    x, y = toy_data(ROWS)
    labels = y.argmax(axis=1)
    mlp = toy_mlp()
    toy_fit(mlp, x, labels, loss=fm.CrossEntropy(), epochs=60)
    assert (mlp(x).argmax(axis=1) == labels).mean() > 0.9

    mlp = toy_mlp(n_out=1)
    toy_fit(mlp, x, labels, loss=fm.BinaryCrossEntropy(), epochs=60)
    assert ((mlp(x)[:, 0] > 0) == labels).mean() > 0.9


def test_weights_count_rows():
    x, y = toy_data(ROWS)
    w = np.arange(ROWS) % 3
    twice = np.repeat(np.arange(ROWS), w)
    one, two = toy_mlp(dtype="float64"), toy_mlp(dtype="float64")
    h1 = toy_fit(one, x, y, sample_weight=w, batch_size=1000)
    h2 = toy_fit(two, x[twice], y[twice], batch_size=1000)
    # These are the same sums in another order, in float64.
    np.testing.assert_allclose(h1.loss, h2.loss, rtol=1e-12)
    np.testing.assert_allclose(one.params, two.params, rtol=1e-8, atol=1e-12)


def test_a_batch_may_weigh_nothing():
    x, y = toy_data(ROWS)
    w = np.zeros(ROWS, "float32")
    w[:10] = 1
    mlp = toy_mlp()
    history = toy_fit(mlp, x, y, sample_weight=w, batch_size=10, shuffle=False)
    assert np.isfinite(mlp.params).all()
    assert np.isfinite(history.loss).all()


def trained(*, fits=(6,), seed=0, fit_seed=None, store=False):
    x, y = toy_data(ROWS)
    mlp, opt = toy_mlp(seed), fm.Adam(0.01)
    for epochs in fits:
        toy_fit(mlp, x, y, optimizer=opt, epochs=epochs, seed=fit_seed)
        if store:
            mlp, opt = pickle.loads(pickle.dumps((mlp, opt)))
    return mlp.params


def test_the_seed_of_the_model_is_enough():
    np.testing.assert_array_equal(trained(), trained())
    assert (trained(seed=1) != trained()).any()


@pytest.mark.parametrize("store", [False, True])
def test_fits_continue_where_the_last_one_ended(store):
    np.testing.assert_array_equal(trained(fits=(4, 2), store=store), trained())


def test_an_explicit_seed_restarts_the_orders():
    np.testing.assert_array_equal(trained(fit_seed=3), trained(fit_seed=np.uint8(3)))
    assert (trained(fit_seed=3) != trained(fit_seed=4)).any()
    assert (trained(fit_seed=3) != trained(fits=(4, 2), fit_seed=3)).any()
    # A generator gives a new seed for each fit.
    rng = np.random.default_rng(0)
    first = trained(fit_seed=np.random.default_rng(0))
    np.testing.assert_array_equal(trained(fit_seed=rng), first)
    assert (trained(fit_seed=rng) != first).any()
    assert (trained(fit_seed=2**64 - 1) != trained(fit_seed=2**32 - 1)).any()
    # Anything else that makes a generator gives the same seed as that generator.
    for seed in ((1, 2), np.random.SeedSequence(3)):
        drawn = int(np.random.default_rng(seed).integers(2**63))
        np.testing.assert_array_equal(
            trained(fit_seed=seed), trained(fit_seed=drawn), strict=True
        )
    bits = np.random.PCG64(4)
    assert (trained(fit_seed=bits) != trained(fit_seed=bits)).any()


def test_epochs_have_different_orders():
    x, y = toy_data(ROWS)
    mlp = toy_mlp()
    losses = toy_fit(mlp, x, y, optimizer=fm.SGD(0.0), batch_size=7, epochs=2).loss
    # With a learning rate of 0, batches differ between epochs but their sum does not.
    np.testing.assert_allclose(losses[0], losses[1], rtol=SUM_RTOL)
    assert (trained(fits=(1,), fit_seed=0) != trained(fits=(1,), fit_seed=1)).any()


def test_history():
    x, y = toy_data(ROWS)
    mlp = toy_mlp()
    history = toy_fit(mlp, x, y)
    assert history is mlp.history
    assert len(history) == len(history.loss) == len(history.seconds) == 3
    assert history.val_loss == []
    assert history.metrics == {}
    assert not history.has_validation
    assert all(isinstance(value, float) for value in history.loss)
    assert all(seconds > 0 for seconds in history.seconds)
    assert repr(history) == f"History(epochs=3, loss={history.loss[-1]:.6g})"
    again = pickle.loads(pickle.dumps(history))
    assert again.to_dict() == history.to_dict()
    again.to_dict()["loss"].clear()
    assert len(again) == 3
    assert toy_fit(mlp, x, y) is mlp.history is not history


def test_no_epochs():
    x, y = toy_data(ROWS)
    mlp = toy_mlp()
    before = mlp.params.copy()
    assert len(toy_fit(mlp, x, y, epochs=0)) == 0
    assert repr(mlp.history) == "History(epochs=0)"
    np.testing.assert_array_equal(mlp.params, before)


@pytest.mark.parametrize("weighted", [False, True])
def test_validation(weighted):
    x, y = toy_data(ROWS)
    xv, yv = x[:20].astype("float64"), y[:20].tolist()
    weight = (np.arange(20),) if weighted else ()
    mlp, wanted = toy_mlp(), []

    def check(mlp, history):
        wanted.append(mlp.evaluate(xv, yv, fm.MSE(), *weight))

    history = toy_fit(mlp, x, y, validation_data=[xv, yv, *weight], callbacks=[check])
    assert history.val_loss == wanted
    assert len(set(wanted)) == 3
    other = toy_mlp()
    toy_fit(other, x, y)
    np.testing.assert_array_equal(mlp.params, other.params)


class Recorder(fm.Callback):
    def __init__(self, stop_after=None):
        self.calls = []
        self.stop_after = stop_after

    def on_train_begin(self, mlp, history):
        self.calls.append(("begin", len(history)))

    def on_epoch_end(self, mlp, history):
        self.calls.append(("epoch", len(history)))
        return len(history) == self.stop_after

    def on_train_end(self, mlp, history):
        self.calls.append(("end", len(history)))


def test_callbacks_are_called_in_order():
    x, y = toy_data(ROWS)
    first, second = Recorder(), Recorder(stop_after=2)
    history = toy_fit(toy_mlp(), x, y, epochs=9, callbacks=(first, second))
    assert len(history) == 2
    assert first.calls == [("begin", 0), ("epoch", 1), ("epoch", 2), ("end", 2)]
    assert second.calls == first.calls


def test_functions_are_callbacks():
    x, y = toy_data(ROWS)
    seen = []
    for result, epochs in [(True, 1), (np.True_, 1), (None, 3), (False, 3), (1.5, 3)]:
        callbacks = [lambda m, h: seen.append(len(h)), lambda m, h, r=result: r]
        history = toy_fit(toy_mlp(), x, y, callbacks=callbacks)
        assert len(history) == epochs, result
    assert seen == [1, 1, 1, 2, 3, 1, 2, 3, 1, 2, 3]


def test_callbacks_may_log_metrics():
    x, y = toy_data(ROWS)

    def accuracy(mlp, history):
        history.log("accuracy", np.float32(len(history) / 4))

    history = toy_fit(toy_mlp(), x, y, callbacks=[accuracy])
    assert history.metrics == {"accuracy": [0.25, 0.5, 0.75]}
    assert history.to_dict()["metrics"] == history.metrics
    assert repr(history).endswith("accuracy=0.75)")


def test_an_error_in_a_callback_ends_the_training():
    x, y = toy_data(ROWS)
    mlp, recorder = toy_mlp(), Recorder()

    def fail(mlp, history):
        if len(history) == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        toy_fit(mlp, x, y, epochs=9, callbacks=[recorder, fail])
    assert len(mlp.history) == 2
    assert ("end", 2) not in recorder.calls
    other = toy_mlp()
    toy_fit(other, x, y, epochs=2)
    np.testing.assert_array_equal(mlp.params, other.params)


BAD_CALLBACKS = [
    (fm.EarlyStopping(), r"^callbacks must be a sequence.*callbacks=\["),
    (print, "^callbacks must be a sequence"),
    (3, "^callbacks must be a sequence.*3"),
    ([fm.EarlyStopping], r"^callbacks\[0\].*did you mean EarlyStopping\(\)\?"),
    ([print, "x"], r"^callbacks\[1\] must be an fm.Callback or a function"),
]


@pytest.mark.parametrize(("callbacks", "words"), BAD_CALLBACKS, ids=str)
def test_bad_callbacks(callbacks, words):
    with pytest.raises(TypeError, match=words):
        toy_fit(toy_mlp(), *toy_data(ROWS), callbacks=callbacks)


BAD_OPTIONS = [
    ({"epochs": -1}, ValueError, "^epochs must be at least 0"),
    ({"epochs": 2.0}, TypeError, "^epochs must be an int"),
    ({"epochs": True}, TypeError, "^epochs must be an int"),
    ({"batch_size": 0}, ValueError, "^batch_size must be at least 1"),
    ({"shuffle": 1}, TypeError, "^shuffle must be True or False"),
    ({"progress": 1}, TypeError, "^progress must be True or False"),
    ({"seed": -1}, ValueError, "^seed must be at least 0"),
    ({"seed": 2**64}, ValueError, r"^seed must be below 2\*\*64"),
    ({"seed": 0.5}, TypeError, "^seed must be a non-negative int"),
    ({"seed": True}, TypeError, "^seed must be an int"),
    ({"seed": [3, -1]}, ValueError, "^seed must be a non-negative int"),
    ({"validation_data": 3}, TypeError, r"^validation_data must be \(x, y\)"),
    ({"validation_data": (1, 2, 3, 4)}, TypeError, "^validation_data must be"),
    ({"validation_data": np.ones((2, 3))}, TypeError, "^validation_data must be"),
    ({"validation_data": ([[1, 2]], [[1, 2]])}, ValueError, "^validation_data: x must"),
    (
        {"validation_data": ([[1, 2, 3]], [[1, 2]], [-1])},
        ValueError,
        "^validation_data: sample_weight must",
    ),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD_OPTIONS, ids=str)
def test_bad_options(options, error, words):
    mlp, opt = toy_mlp(), fm.Adam()
    before = mlp.params.copy()
    with pytest.raises(error, match=words):
        toy_fit(mlp, *toy_data(ROWS), optimizer=opt, **options)
    np.testing.assert_array_equal(mlp.params, before)
    assert opt.step_count == 0
    assert mlp.history is None


def test_settings_of_fit_are_keyword_only():
    with pytest.raises(TypeError, match="only x, y by position"):
        toy_mlp().fit(*toy_data(ROWS), fm.MSE())


def test_the_batch_size_is_32_if_it_is_left_out():
    results = []
    for options in ({}, {"batch_size": None}, {"batch_size": 32}):
        mlp, optimizer = toy_mlp(), fm.Adam()
        mlp.fit(
            *toy_data(ROWS), loss=fm.MSE(), optimizer=optimizer, epochs=2, **options
        )
        results.append((mlp.params.tobytes(), optimizer.step_count))
    assert results[0] == results[1] == results[2]
    assert results[0][1] == 2 * -(-ROWS // 32)


def test_divergence_says_where_and_keeps_what_was_good():
    x, y = toy_data(ROWS)
    mlp, opt = toy_mlp(), fm.SGD(0.01)

    def explode(mlp, history):
        opt.lr = 1e30 if len(history) == 2 else 0.01

    with pytest.raises(
        fm.DivergenceError, match=r"^epoch [34] of 9: .*step \d"
    ) as error:
        toy_fit(mlp, x, y, optimizer=opt, epochs=9, callbacks=[explode])
    assert isinstance(error.value, FloatingPointError)
    assert len(mlp.history) in (2, 3)
    assert np.isfinite(mlp.params).all()
    # The model can be trained further with a sensible optimiser.
    history = toy_fit(mlp, x, y, epochs=2)
    assert np.isfinite(history.loss).all()


def test_a_diverging_first_step_changes_nothing():
    x, y = toy_data(ROWS)
    mlp, opt = toy_mlp(), fm.Adam()
    before = mlp.params.copy()
    huge = np.full_like(y, 3e38)
    with pytest.raises(fm.DivergenceError, match=r"^epoch 1 of 3: "):
        toy_fit(mlp, x, huge, optimizer=opt)
    np.testing.assert_array_equal(mlp.params, before)
    with pytest.raises(fm.DivergenceError):
        mlp.train_step(x, huge, fm.MSE(), opt)
    np.testing.assert_array_equal(mlp.params, before)
    assert len(mlp.history) == 0


def test_a_fit_does_not_restore_states_of_an_earlier_fit():
    x, y = toy_data(ROWS)
    mlp = toy_mlp()
    toy_fit(mlp, x, y)
    mlp.params[:] = 0.125
    with pytest.raises(fm.DivergenceError):
        toy_fit(mlp, x, np.full_like(y, 3e38))
    assert (mlp.params == 0.125).all()


def test_interrupt_keeps_model_and_history():
    rows = 200_000  # so that an epoch takes much longer than starting it
    x, y = toy_data(rows=rows)
    mlp, opt = toy_mlp(), fm.SGD(1e-3)
    started = threading.Event()

    def interrupt():
        started.wait()
        time.sleep(0.02)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        toy_fit(
            mlp,
            x,
            y,
            optimizer=opt,
            epochs=10**9,
            batch_size=1,
            callbacks=[lambda m, h: started.set()],
        )
    thread.join()
    # The history has the epochs before the interrupt. It came within an epoch (or, on a
    # busy machine, before the first step of one, or just before one was added to the
    # history).
    assert len(mlp.history) >= 1
    assert 0 <= opt.step_count - rows * len(mlp.history) <= rows
    assert np.isfinite(mlp.params).all()
    params = mlp.params.copy()
    mlp.train_step(x[:1], y[:1], fm.MSE(), opt)
    assert (mlp.params != params).any()


def test_histories_can_be_joined():
    x, y = toy_data(ROWS)
    options = {"validation_data": (x, y), "metrics": ["mae"]}
    one, two = (
        toy_fit(toy_mlp(), x, y, **options),
        toy_fit(toy_mlp(), x, y, epochs=2, **options),
    )
    joined = fm.History.from_dict(one.to_dict())
    assert joined.to_dict() == one.to_dict()
    assert joined.has_validation
    joined.extend(two)
    assert joined.loss == one.loss + two.loss
    assert joined.val_loss == one.val_loss + two.val_loss
    assert joined.metrics["val_mae"] == one.metrics["val_mae"] + two.metrics["val_mae"]
    assert len(joined) == len(joined.seconds) == 5
    assert len(one) == 3
