"""Ctrl-C stops every call that takes long, and the model is whole afterwards.

`bench/interrupts.py` measures how soon. Here a call only has to end well before it
would have been complete.
"""

import contextlib
import os
import signal
import threading
import time

import fastmlp as fm
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="os.kill sends no signals here"
)

WIDTH, DEPTH = 256, 6
LAYERS = [WIDTH] * DEPTH + [fm.BatchNorm(), fm.Dropout(0.1), 4]
PARTS = 8  # a call is this many times as long as the one that is timed


def network(layers=LAYERS):
    return fm.MLP(layers, activation="tanh", seed=0)


def numbers(rows, width=WIDTH):
    return np.random.default_rng(rows).standard_normal((rows, width), dtype=np.float32)


def labels(rows):
    return np.arange(rows) % 4


@contextlib.contextmanager
def interrupted_after(seconds):
    """Send SIGINT after that time, unless the block has ended."""
    sent = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    sent.start()
    try:
        yield
    finally:
        sent.cancel()
        sent.join()


def interrupt(seconds, call, *arguments):
    """Call a function, which must end with KeyboardInterrupt after that time."""

    def wait():
        with interrupted_after(seconds):
            call(*arguments)
            time.sleep(60)  # the call was so short that the signal comes after it

    with pytest.raises(KeyboardInterrupt):
        wait()


def test_calls_of_other_threads_do_not_take_the_signal():
    """A step is taken whole or not at all, whatever else looks for signals."""
    rows, done = 3000, threading.Event()
    x, y = numbers(rows), labels(rows)
    before, after = network().params.copy(), network()
    after.train_step(x, y, fm.CrossEntropy(), fm.Adam())
    states = {before.tobytes(), after.params.tobytes()}

    def train() -> None:
        small, opt = fm.MLP([4, 8, 1], seed=0), fm.Adam()
        data = np.ones((500, 4), np.float32), np.ones((500, 1), np.float32)
        while not done.is_set():
            small.fit(*data, loss=fm.MSE(), optimizer=opt, epochs=5, batch_size=4)

    other = threading.Thread(target=train)
    other.start()
    try:
        for _ in range(12):
            mlp = network()
            interrupt(0.02, mlp.train_step, x, y, fm.CrossEntropy(), fm.Adam())
            assert mlp.params.tobytes() in states
    finally:
        done.set()
        other.join()


def of_rows(name, *more):
    return lambda mlp, rows: getattr(mlp, name)(numbers(rows), *more)


def with_labels(name, *more):
    return lambda mlp, rows: getattr(mlp, name)(
        numbers(rows), labels(rows), fm.CrossEntropy(), *more
    )


def fit(mlp, rows, **options):
    options = {"optimizer": fm.Adam(), "epochs": 1, "batch_size": rows, **options}
    x, y, loss = numbers(rows), labels(rows), fm.CrossEntropy()
    mlp.fit(x, y, loss=loss, progress=False, **options)


# A call by name, with the number of rows that take some 50 ms on one core.
CALLS = {
    "train_step": (
        lambda mlp, rows: mlp.train_step(
            numbers(rows), labels(rows), fm.CrossEntropy(), fm.Adam()
        ),
        2000,
    ),
    "value_and_grad": (with_labels("value_and_grad"), 2000),
    "evaluate": (with_labels("evaluate"), 6000),
    "predict": (of_rows("predict"), 6000),
    "forward": (of_rows("forward"), 6000),
    "vjp": (lambda mlp, rows: mlp.vjp(numbers(rows), numbers(rows, 4)), 2000),
    "jvp": (lambda mlp, rows: mlp.jvp(numbers(rows), numbers(rows)), 3000),
    "hvp": (lambda mlp, rows: mlp.hvp(numbers(rows), numbers(rows), 1), 1000),
    "jacobian": (of_rows("jacobian"), 500),
    "hessian": (of_rows("hessian", 1), 10),
    "param_jacobian": (of_rows("param_jacobian"), 15),
    "per_sample_grads": (with_labels("per_sample_grads"), 60),
    "fit": (fit, 2000),
    "fit, LBFGS": (lambda mlp, rows: fit(mlp, rows, optimizer=fm.LBFGS()), 500),
    "fit, validation": (
        lambda mlp, rows: fit(
            mlp, 8, validation_data=(numbers(rows), labels(rows)), epochs=1
        ),
        6000,
    ),
}
# Batch norm has no derivatives of second order per row in training, and L-BFGS takes
# networks without it.
PLAIN = {"fit, LBFGS"}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_ends_early_and_the_model_is_whole(name):
    call, rows = CALLS[name]
    layers = [WIDTH] * DEPTH + [4] if name in PLAIN else LAYERS
    mlp, other = network(layers), network(layers)
    begin = time.monotonic()
    call(network(layers), rows)
    part = time.monotonic() - begin
    before = mlp.params.copy(), mlp.buffers.copy()

    begin = time.monotonic()
    interrupt(part, call, mlp, PARTS * rows)
    # The data are made within the call, so a large part of it may be over already.
    assert time.monotonic() - begin < (PARTS - 1) * part + 1.0
    if name != "fit, validation":  # which may have taken its step
        assert mlp.params.tobytes() == before[0].tobytes()
        assert mlp.buffers.tobytes() == before[1].tobytes()
    other.params[:], other.buffers[:] = mlp.params, mlp.buffers
    other.core.training_state = mlp.core.training_state
    x, y, loss = numbers(64), labels(64), fm.CrossEntropy()
    for one in (mlp, other):
        one.train_step(x, y, loss, fm.Adam())
    assert mlp.params.tobytes() == other.params.tobytes()
    assert mlp(x).tobytes() == other(x).tobytes()


def test_an_interrupted_step_leaves_no_trace_in_the_optimiser():
    mlp, twin = network(), network()
    opts = fm.Adam(clip_norm=0.1, ema=0.9), fm.Adam(clip_norm=0.1, ema=0.9)
    x, y, loss = numbers(64), labels(64), fm.CrossEntropy()
    for one, opt in zip((mlp, twin), opts, strict=True):
        one.train_step(x, y, loss, opt)
    for rows in (20_000, 30_000):
        interrupt(0.1, mlp.train_step, numbers(rows), labels(rows), loss, opts[0])
        if opts[0].state_dict()["step"] > opts[1].state_dict()["step"]:
            # A fast machine had finished the step.
            twin.train_step(numbers(rows), labels(rows), loss, opts[1])
    for one, opt in zip((mlp, twin), opts, strict=True):
        one.train_step(x, y, loss, opt)
    assert mlp.params.tobytes() == twin.params.tobytes()
    states = [opt.state_dict() for opt in opts]
    assert states[0]["step"] == states[1]["step"]
    for name, array in states[0]["slots"][0].items():
        assert array.tobytes() == states[1]["slots"][0][name].tobytes()


@contextlib.contextmanager
def handling(handler):
    old = signal.signal(signal.SIGINT, handler)
    try:
        yield
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, old)


def test_a_handler_that_raises_nothing_lets_calls_finish():
    """The handler may use the model; afterwards the work is done again."""
    mlp, twin = network(), network()
    heard = []

    def handler(number, frame):
        heard.append(mlp(numbers(3)))

    x, y, loss = numbers(20_000), labels(20_000), fm.CrossEntropy()
    expected = twin(x), twin.evaluate(x, y, loss), twin.value_and_grad(x, y, loss)[1]
    with handling(handler):
        for call, wanted in zip(
            (
                lambda: mlp(x),
                lambda: mlp.evaluate(x, y, loss),
                lambda: mlp.value_and_grad(x, y, loss)[1],
            ),
            expected,
            strict=True,
        ):
            with interrupted_after(0.02):
                found = call()
            assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes()
    assert heard

    opts, losses = (fm.Adam(), fm.Adam()), []
    options = {"loss": loss, "epochs": 2, "batch_size": 8000, "progress": False}
    for one, opt in zip((mlp, twin), opts, strict=True):
        scope = interrupted_after(0.1) if one is mlp else contextlib.nullcontext()
        with handling(handler), scope:
            losses.append(one.fit(x, y, optimizer=opt, seed=0, **options).loss)
    assert losses[0] == losses[1]
    assert mlp.params.tobytes() == twin.params.tobytes()


def test_calls_in_other_threads_are_not_interrupted():
    mlp, x = network(), numbers(20_000)
    expected, found, ended = network()(x), [], threading.Event()

    def predict():
        found.append(mlp(x))
        ended.set()

    interrupt(0.02, threading.Thread(target=predict).start)
    assert ended.wait(60)
    assert found[0].tobytes() == expected.tobytes()


def test_large_arrays_are_converted_and_checked_in_parts():
    """The result does not show the parts, and errors name the right element."""
    mlp = fm.MLP([3, 1], seed=0)
    x = np.random.default_rng(0).standard_normal((3_000_000, 3))
    assert mlp(x).tobytes() == mlp(x.astype(np.float32)).tobytes()
    assert mlp(np.asfortranarray(x)).tobytes() == mlp(x).tobytes()
    x[2_900_000, 2] = 1e300
    with pytest.raises(ValueError, match=r"x\[2900000, 2\] = 1e\+300 is too large"):
        mlp(x)
    x[2_900_000, 2] = 0.0
    x = x.astype(np.float16)
    x[2_900_001, 1] = np.nan
    y = np.zeros(len(x), np.float32)
    with pytest.raises(ValueError, match="nan in row 2900001, column 1"):
        mlp.fit(x, y, loss=fm.MSE(), optimizer=fm.Adam(), epochs=1, batch_size=999)
