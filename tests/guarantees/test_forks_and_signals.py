"""Threads, forks, signals and callbacks that interfere with each other.

Nothing may hang or crash, and the states of different fits must stay separate.
"""

import os
import signal
import threading
import time

import fastmlp as fm
import numpy as np
import pytest
from helpers import random_batch

LAYERS = [64, 128, 8]
OPTIONS = {"loss": fm.MSE(), "batch_size": 100, "progress": False}


def data(rows):
    return random_batch(rows, LAYERS[0], LAYERS[-1])


def model():
    return fm.MLP(LAYERS, activation="tanh", seed=0)


class Fitting:
    """A fit that runs in another thread until the block ends."""

    def __init__(self, mlp, opt):
        self.started, self.stop = threading.Event(), threading.Event()
        x, y = data(2000)

        def watch(mlp, history):
            self.started.set()
            return self.stop.is_set()

        options = {**OPTIONS, "epochs": 10**6, "callbacks": [watch]}
        self.thread = threading.Thread(
            target=mlp.fit, args=(x, y), kwargs={**options, "optimizer": opt}
        )

    def __enter__(self):
        self.thread.start()
        assert self.started.wait(30)

    def __exit__(self, *error):
        self.stop.set()
        self.thread.join()


MAKERS = {
    "sgd": lambda: fm.SGD(lr=1e-3),
    "momentum": lambda: fm.SGD(lr=1e-3, momentum=0.9),
    "adagrad": fm.Adagrad,
    "adam": fm.Adam,
    "amsgrad": lambda: fm.Adam(amsgrad=True),
    "adamax": fm.Adamax,
    "nadam": fm.NAdam,
    "prodigy": fm.Prodigy,
}


@pytest.mark.parametrize("second", MAKERS)
@pytest.mark.parametrize("first", MAKERS)
def test_one_fit_after_another_with_any_optimisers(first, second):
    """The second fit does not restore a state that the first one kept."""
    x, y = data(200)
    mlp = model()
    for name in (first, second):
        mlp.fit(x, y, optimizer=MAKERS[name](), epochs=2, **OPTIONS)
    assert np.isfinite(mlp.params).all()


def test_a_second_fit_of_one_model_is_refused():
    mlp = model()
    x, y = data(300)
    refused = pytest.raises(RuntimeError, match="another fit of this model")
    with Fitting(mlp, fm.Adam()), refused:
        mlp.fit(x, y, optimizer=fm.SGD(lr=1e-3), epochs=1, **OPTIONS)
    mlp.fit(x, y, optimizer=fm.SGD(lr=1e-3), epochs=1, **OPTIONS)


def test_a_fit_within_a_callback_is_refused():
    mlp, (x, y) = model(), data(300)

    def again(mlp, history):
        mlp.fit(x, y, optimizer=fm.SGD(lr=1e-3), epochs=1, **OPTIONS)

    with pytest.raises(RuntimeError, match="another fit of this model"):
        mlp.fit(x, y, optimizer=fm.Adam(), epochs=2, callbacks=[again], **OPTIONS)
    assert len(mlp.history) == 1


def test_an_optimiser_may_be_handled_while_it_works():
    mlp, opt = model(), fm.Adam()
    with Fitting(mlp, opt):
        for i in range(200):
            opt.lr = 1e-3 / (i + 1)
            assert opt.state_dict()["step"] >= 0
            opt.reset()
    assert np.isfinite(mlp.params).all()


def test_state_loaded_in_a_callback_is_used():
    mlp, opt, (x, y) = model(), fm.SGD(lr=0.0), data(300)
    state = fm.SGD(lr=0.1).state_dict()
    before = mlp.params.copy()
    options = {**OPTIONS, "callbacks": [lambda m, h: opt.load_state_dict(state)]}
    mlp.fit(x, y, optimizer=opt, epochs=2, **options)
    assert (mlp.params != before).any()
    assert opt.lr == 0.1


def test_backward_does_not_mix_parameters_of_two_times():
    mlp, (x, y) = model(), data(10)
    mlp.forward(x)
    mlp.train_step(x, y, fm.MSE(), fm.Adam())
    with pytest.raises(RuntimeError, match="forward"):
        mlp.backward(y)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_during_training_works():
    mlp, opt, (x, y) = model(), fm.Adam(), data(100)
    with Fitting(mlp, opt):
        for _ in range(5):
            time.sleep(0.01)
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)  # kills a child that hangs
                mlp(x)
                opt.reset()
                mlp.fit(x, y, optimizer=opt, epochs=1, **OPTIONS)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            assert status == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forks_during_a_long_evaluation_do_not_wait_for_it():
    """The evaluation polls for Ctrl-C without holding a lock that a fork waits for."""
    mlp, (x, y) = model(), data(200_000)

    def evaluate():
        for _ in range(3):
            mlp.evaluate(x, y, fm.MSE())

    worker = threading.Thread(target=evaluate)
    worker.start()
    while worker.is_alive():
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            mlp(x[:10])
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        time.sleep(0.005)
    worker.join()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers")
def test_a_signal_handler_may_train_during_an_evaluation():
    mlp, opt, (x, y) = model(), fm.Adam(), data(200_000)
    losses = []

    def handler(number, frame):
        losses.append(mlp.train_step(x[:10], y[:10], fm.MSE(), opt))

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        while not losses:
            mlp.evaluate(x, y, fm.MSE())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert np.isfinite(losses).all()


def test_a_refused_fit_does_not_end_the_other():
    mlp, (x, y) = model(), data(300)
    refused = pytest.raises(RuntimeError, match="another fit of this model")
    with Fitting(mlp, fm.Adam()):
        for _ in range(2):
            with refused:
                mlp.fit(x, y, optimizer=fm.SGD(lr=1e-3), epochs=1, **OPTIONS)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers")
def test_a_signal_handler_may_train():
    """Handlers run between two steps, where the model and optimiser are free."""
    mlp, opt, (x, y) = model(), fm.Adam(), data(2000)
    losses = []

    def handler(number, frame):
        losses.append(mlp.train_step(x[:10], y[:10], fm.MSE(), opt))

    def until_handled(mlp, history):
        return bool(losses)

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        options = {**OPTIONS, "epochs": 10**5, "callbacks": [until_handled]}
        mlp.fit(x, y, optimizer=opt, **options)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert np.isfinite(losses).all()
