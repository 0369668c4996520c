"""Many threads at once, with separate and with shared objects.

With or without the GIL, every result is right or an error says what is busy. Nothing
crashes, and no result mixes two states.
"""

import sys
import sysconfig
import threading

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core
from helpers import random_batch

THREADS, ROUNDS = 8, 40
LAYERS = [6, 16, 3]
# The only errors that may be raised.
BUSY = (
    "this predictor is already in use",
    "the solver is in use by another thread",
    "another fit of this model is under way",
)


@pytest.fixture(autouse=True)
def switch_often():
    """If there is a GIL, switch threads 500 times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def together(work):
    """Run work(which) in many threads at once; return how often it was refused."""
    start, errors, refusals = threading.Barrier(THREADS), [], []

    def run(which):
        try:
            start.wait(30)
            for _ in range(ROUNDS):
                try:
                    work(which)
                except RuntimeError as error:
                    if not any(text in str(error) for text in BUSY):
                        raise
                    refusals.append(str(error))
        except BaseException as error:  # any error must be reported
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return len(refusals)


def model(seed=0):
    return fm.MLP(LAYERS, activation="tanh", seed=seed)


def data(seed=0, rows=20):
    return random_batch(rows, LAYERS[0], LAYERS[-1], seed=seed)


def trained(which):
    mlp, opt, (x, y) = model(which), fm.Adam(lr=1e-2), data(which)
    for _ in range(5):
        mlp.train_step(x, y, fm.MSE(), opt)
    options = {"loss": fm.MSE(), "optimizer": opt, "epochs": 2, "batch_size": 7}
    mlp.fit(x, y, progress=False, seed=which, **options)
    return mlp.params.copy()


def test_threads_train_separate_models_as_if_alone():
    alone = [trained(i) for i in range(THREADS)]

    def work(which):
        assert np.array_equal(trained(which), alone[which])

    assert together(work) == 0


def test_threads_share_a_model():
    mlp, loss = model(), fm.MSE()
    batches = [data(i) for i in range(THREADS)]
    outputs = [mlp(x) for x, _ in batches]
    values = [mlp.value_and_grad(x, y, loss) for x, y in batches]
    jacobians = [mlp.jacobian(x) for x, _ in batches]

    def work(which):
        x, y = batches[which]
        assert np.array_equal(mlp(x), outputs[which])
        value, grads = mlp.value_and_grad(x, y, loss)
        assert value == values[which][0]
        assert np.array_equal(grads, values[which][1])
        assert np.array_equal(mlp.jacobian(x), jacobians[which])
        assert mlp.evaluate(x, y, loss) > 0

    assert together(work) == 0


def test_steps_on_one_model_come_one_after_another():
    mlp, opt, (x, y) = model(), fm.Adam(), data()

    def work(which):
        assert np.isfinite(mlp.train_step(x, y, fm.MSE(), opt))
        assert np.isfinite(mlp(x)).all()
        opt.lr = 1e-3 * (which + 1)
        assert 1e-4 < opt.lr < 1e-1
        assert opt.state_dict()["step"] > 0

    assert together(work) == 0
    # No step is lost or counted twice.
    assert opt.step_count == THREADS * ROUNDS


def test_fits_of_one_model_are_refused_or_complete():
    mlp, (x, y) = model(), data()
    fits = []

    def work(which):
        options = {"loss": fm.MSE(), "batch_size": 5, "progress": False}
        mlp.fit(x, y, optimizer=fm.SGD(lr=1e-3), epochs=1, **options)
        fits.append(which)

    refused = together(work)
    assert fits
    assert len(fits) + refused == THREADS * ROUNDS
    assert np.isfinite(mlp.params).all()
    # The last fit has released the model.
    work(0)


def test_predictors():
    mlp = model()
    shared = mlp.predictor()
    rows = [data(i)[0][0] for i in range(THREADS)]
    wanted = [mlp(row) for row in rows]
    own = [mlp.predictor() for _ in rows]

    def work(which):
        assert np.array_equal(own[which](rows[which]), wanted[which])
        # All threads share its buffer, which may now hold another thread's result.
        got = shared(rows[which]).copy()
        assert all(g in {w[i] for w in wanted} for i, g in enumerate(got))

    together(work)
    assert np.array_equal(shared(rows[0]), wanted[0])


def test_threads_share_a_loss():
    loss, (pred, target) = fm.Huber(delta=0.5), (data(1)[1], data(2)[1])
    value, grad = loss.value_and_grad(pred, target)

    def work(which):
        assert loss(pred, target) == value
        got, d = loss.value_and_grad(pred, target)
        assert got == value
        assert np.array_equal(d, grad)

    assert together(work) == 0


def test_an_optimiser_without_a_model():
    opt = fm.Adam(lr=1e-3)
    arrays = [np.ones(50) for _ in range(THREADS)]
    grads = np.ones(50)

    def work(which):
        opt.step(arrays[which], grads)

    assert together(work) == 0
    assert opt.step_count == THREADS * ROUNDS
    for array in arrays:
        # Moments of equal gradients are equal: each step subtracts lr, up to rounding.
        assert np.allclose(array, 1 - 1e-3 * ROUNDS, rtol=0, atol=1e-6)


def test_a_solver_serves_one_thread_at_a_time():
    solver = fm.LBFGS()
    found = []

    def work(which):
        solver.reset()
        solution = solver.minimize(lambda t: (float(t @ t), 2 * t), np.full(4, 3.0))
        found.append(float(np.abs(solution.theta).max()))

    together(work)
    # The minimum is at 0, and the first line search finds it up to rounding.
    assert found
    assert max(found) < 1e-6


def test_a_replay_buffer_keeps_transitions_whole():
    replay = fm.rl.ReplayBuffer(64, 3, seed=0)

    def work(which):
        # Every part of a transition identifies the thread that added it.
        obs = np.full(3, which, dtype=np.float32)
        replay.add(obs, which, float(which), obs, False)
        batch = replay.sample(16)
        obs, actions, rewards, next_obs = batch[:4]
        assert (obs == actions[:, np.newaxis]).all()
        assert (next_obs == actions[:, np.newaxis]).all()
        assert (rewards == actions).all()
        assert len(replay) <= 64

    assert together(work) == 0
    assert len(replay) == 64


def test_activations_in_python():
    act = fm.Activation(np.tanh, lambda z: 1 - np.tanh(z) ** 2)
    mlp = fm.MLP([6, fm.Dense(8), act, 3], seed=0)
    x, y = data()
    loss = fm.MSE()
    output, (value, grads) = mlp(x), mlp.value_and_grad(x, y, loss)

    def work(which):
        assert np.array_equal(mlp(x), output)
        got, d = mlp.value_and_grad(x, y, loss)
        assert got == value
        assert np.array_equal(d, grads)

    assert together(work) == 0


def test_the_number_of_threads_may_change_at_any_time():
    mlp, (x, _) = model(), data()
    wanted = mlp(x)

    def work(which):
        # It applies to the whole process and does not change the bits.
        fm.set_num_threads(1 + which % 3)
        assert np.array_equal(mlp(x), wanted)
        assert fm.get_num_threads() >= 1

    try:
        together(work)
    finally:
        fm.set_num_threads(0)


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has the GIL"
)
def test_the_gil_stays_disabled():
    """Importing the core does not enable the GIL."""
    assert _core.__name__ in sys.modules
    assert not sys._is_gil_enabled()
