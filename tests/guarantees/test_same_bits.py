"""The guarantees for a whole model: same bits everywhere, and recovery from failures.

A hash of the parameters after training represents all bits. It must not depend on the
number of threads, the instruction set, the floating-point environment of the caller, or
the process.
"""

import gc
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from helpers import (
    assert_threaded,
    importing,
    inference_flops,
    thread_counts,
    training_flops,
)
from threadpoolctl import threadpool_limits

# SMALL always runs on one thread. A training step of BIG, whose sizes leave tails in
# every direction, is large enough for several threads, and so is inference for LONG.
# MANY splits its rows into several chunks, the last one shorter.
SMALL = {"layers": [5, 19, 33, 3], "rows": 37}
BIG = {"layers": [33, 260, 90, 10], "rows": 389}
LONG = {**BIG, "rows": 1201}
MANY = {"layers": [7, 80, 9], "rows": 9001}
# Work for one thread, and for the helper thread if that is spinning: a training step of
# BRIEF, inference for a few rows of WIDE.
BRIEF = {"layers": [40, 100, 101, 10], "rows": 61}
WIDE = {"layers": [200, 512, 515, 5], "rows": 15}


def assert_trains_in_threads(net, rows=None):
    rows = net["rows"] if rows is None else rows
    assert_threaded(training_flops(net["layers"], rows), rows)


def assert_infers_in_threads(net):
    assert_threaded(inference_flops(net["layers"], net["rows"]), net["rows"])


def problem(layers, rows, dtype, labels):
    rng = np.random.default_rng(7)
    x = rng.standard_normal((rows, layers[0])).astype(dtype)
    if labels:
        return x, rng.integers(0, layers[-1], rows), fm.CrossEntropy()
    return x, rng.standard_normal((rows, layers[-1])).astype(dtype), fm.Huber()


def digest(params):
    return hashlib.sha256(params.tobytes()).hexdigest()


def trained_hash(net, dtype, *, activation="tanh", labels=True, steps=20):
    """Train a network; "bfloat16" is a compute_dtype."""
    types = {"dtype": dtype}
    if dtype == "bfloat16":
        types = {"dtype": "float32", "compute_dtype": dtype}
    x, y, loss = problem(**net, dtype=types["dtype"], labels=labels)
    mlp = fm.MLP(net["layers"], activation=activation, **types, seed=0)
    opt = fm.Adam(lr=1e-3)
    for _ in range(steps):
        mlp.train_step(x, y, loss, opt)
    return digest(mlp.params)


@pytest.mark.parametrize(
    ("net", "steps"),
    [(SMALL, 200), (BIG, 10), (MANY, 4)],
    ids=["small", "big", "many rows"],
)
def test_training_is_the_same_bits_for_any_isa_and_threads(net, steps, dtype):
    hashes = {}
    for isa in fm.available_isas():
        for n in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                if net is not SMALL:
                    assert_trains_in_threads(net)
                hashes[isa, n] = trained_hash(net, dtype, steps=steps)
    assert len(set(hashes.values())) == 1, hashes


def test_close_brief_steps_are_the_same_bits_with_a_second_thread(dtype):
    hashes = set()
    for n in (1, 2):
        with fm.threads(n):
            hashes.add(trained_hash(BRIEF, dtype, steps=500))
    assert len(hashes) == 1


def brief_inference(dtype, activation="relu", output_activation="softmax"):
    """Return a function that compares rapid calls with the results of one thread."""
    mlp = fm.MLP(
        WIDE["layers"],
        activation=activation,
        output_activation=output_activation,
        dtype=dtype,
        seed=0,
    )
    x, y, _ = problem(**WIDE, dtype=dtype, labels=False)
    loss = fm.MSE()
    rows = range(1, len(x) + 1)
    with fm.threads(1):
        outputs = {n: mlp(x[:n]).tobytes() for n in rows}
        losses = {n: mlp.evaluate(x[:n], y[:n], loss) for n in rows}

    def check(repeats=30):
        for n in rows:
            for _ in range(repeats):
                assert mlp(x[:n]).tobytes() == outputs[n]
            assert mlp.evaluate(x[:n], y[:n], loss) == losses[n]

    return check


@pytest.mark.parametrize(
    ("activation", "output"), [("relu", "identity"), ("tanh", "softmax")]
)
def test_a_few_rows_are_the_same_bits_with_a_second_thread(activation, output, dtype):
    check = brief_inference(dtype, activation, output)
    with fm.threads(2):
        check()


def test_two_threads_may_request_the_second_thread_at_once(dtype):
    check = brief_inference(dtype)
    train = BRIEF, dtype
    expected = trained_hash(*train, steps=100)

    def work(i):
        check(10)
        assert trained_hash(*train, steps=100) == expected

    with fm.threads(2):
        in_threads(2, work)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_between_brief_calls_works():
    """The helper thread does not exist in the child, whatever its state was."""
    check = brief_inference(np.float32)
    with fm.threads(2):
        for _ in range(3):
            check(5)
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)  # kills a child that hangs
                try:
                    check(5)
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0
        check(5)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no such signals")
def test_the_second_thread_gets_no_signals():
    """A signal that the program blocks in its threads must not end the process."""
    program = (
        "import os, signal; "
        "import fastmlp as fm, numpy as np, test_same_bits as t; "
        "fm.set_num_threads(2); t.brief_inference(np.float32)(5); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); "
        "os.kill(os.getpid(), signal.SIGTERM); t.brief_inference(np.float32)(5); "
        "print(signal.sigwait({signal.SIGTERM}) == signal.SIGTERM)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program],
        # The threads of OpenMP and of numpy would accept any signal.
        env=importing(__file__, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "True"


@pytest.mark.parametrize("activation", fm.ACTIVATIONS)
def test_every_activation_trains_to_the_same_bits(activation, dtype):
    hashes = set()
    for isa in fm.available_isas():
        with fm.use_isa(isa):
            hashes.add(trained_hash(SMALL, dtype, activation=activation, labels=False))
    assert len(hashes) == 1
    hashes = set()
    for n in (1, 3):
        with fm.threads(n):
            assert_trains_in_threads(BIG)
            hashes.add(trained_hash(BIG, dtype, activation=activation, steps=2))
    assert len(hashes) == 1


def everything_but_training(mlp, x, y, loss, dy, weights):
    """Return the results of inference and derivatives as bytes by name."""
    results = {"predict": (mlp(x),), "forward": (mlp.forward(x),)}
    results["backward"] = mlp.backward(dy)
    results["vjp"] = mlp.vjp(x, dy)
    results["evaluate"] = (mlp.evaluate(x, y, loss, weights),)
    results["value_and_grad"] = mlp.value_and_grad(x, y, loss, weights)
    return {
        name: b"".join(np.asarray(part).tobytes() for part in parts)
        for name, parts in results.items()
    }


@pytest.mark.parametrize(("dtype", "labels"), [(np.float32, True), (np.float64, False)])
def test_inference_and_gradients_are_the_same_bits_for_any_isa_and_threads(
    dtype, labels
):
    x, y, loss = problem(**LONG, dtype=dtype, labels=labels)
    weights = np.linspace(0.5, 1.5, len(x)).astype(dtype)
    mlp = fm.MLP(LONG["layers"], activation="silu", dtype=dtype, seed=4)
    dy = np.random.default_rng(8).standard_normal((len(x), mlp.n_out)).astype(dtype)
    with fm.use_isa("scalar"), fm.threads(1):
        wanted = everything_but_training(mlp, x, y, loss, dy, weights)
    for isa in fm.available_isas():
        for n in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                assert_infers_in_threads(LONG)
                assert_trains_in_threads(LONG)
                found = everything_but_training(mlp, x, y, loss, dy, weights)
            wrong = [name for name in wanted if found[name] != wanted[name]]
            assert not wrong, f"{isa}, {n} threads"


# A ReLU whose input is 0 up to rounding may be active in only one of two computations,
# which changes a gradient by a few thousandths of its norm. Omitting the last block, or
# adding it after the ReLU, changes it by more than a tenth.
GRADIENT_RTOL = 0.02


def test_layers_larger_than_a_block(dtype):
    """Sums continue from block to block, and ReLU is applied after the last one."""
    # Blocks hold 1024 inputs; from 2 MB on, weights are packed block by block.
    middle = 2**21 // (1024 * np.dtype(dtype).itemsize)
    layers = [1100, middle, 1100, 5]
    x, dy, _ = problem(layers, 400, dtype, labels=False)
    mlp = fm.MLP(layers, dtype=dtype, seed=0)
    mlp.biases[0][:] = mlp.biases[1][:] = 0.1
    exact = reference.MLP(layers, dtype="float64")
    exact.params[:] = mlp.params
    wanted = exact.vjp(x, dy)
    hashes = set()
    for isa in fm.available_isas():
        for n in (1,) if isa == "scalar" else (1, 2):
            with fm.use_isa(isa), fm.threads(n):
                found = mlp.vjp(x, dy)
                assert mlp(x).tobytes() == found[0].tobytes()
                hashes.add(b"".join(array.tobytes() for array in found))
    assert len(hashes) == 1
    for got, right in zip(found, wanted, strict=True):
        assert np.linalg.norm(got - right) < GRADIENT_RTOL * np.linalg.norm(right)


def test_an_optimiser_step_is_the_same_bits_for_any_isa_and_threads(dtype):
    size = 4_100_003  # the core counts 15 operations for each
    param, grad = np.random.default_rng(9).standard_normal((2, size)).astype(dtype)
    hashes = set()
    for isa in fm.available_isas():
        for n in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                assert_threaded(15.0 * size, size)
                stepped = param.copy()
                fm.Adam(amsgrad=True, weight_decay=0.1).step(stepped, grad)
                hashes.add(digest(stepped))
    assert len(hashes) == 1


def test_fit_is_the_same_bits_for_any_isa_and_threads(dtype):
    x, y, loss = problem(**BIG, dtype=dtype, labels=True)
    weights = np.linspace(0.5, 1.5, len(x)).astype(dtype)
    hashes = set()
    for isa in fm.available_isas():
        for n in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                assert_trains_in_threads(BIG, 380)
                mlp = fm.MLP(BIG["layers"], activation="gelu", dtype=dtype, seed=3)
                mlp.fit(
                    x,
                    y,
                    loss=loss,
                    optimizer=fm.RMSprop(momentum=0.5, centered=True),
                    epochs=3,
                    batch_size=380,
                    sample_weight=weights,
                    progress=False,
                )
                hashes.add(digest(mlp.params))
    assert len(hashes) == 1


def assert_rows_have_one_result(mlp, isa):
    """Rows alone, in batches of many sizes, and in another order."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((257, mlp.n_in)).astype(mlp.dtype)
    with fm.use_isa(isa):
        alone = np.stack([mlp(row) for row in x])
        for rows in (*range(1, 40), 64, 97, 128, 200, 257):
            first = int(rng.integers(0, len(x) - rows + 1))
            batch = mlp(x[first : first + rows])
            assert batch.tobytes() == alone[first : first + rows].tobytes()
        order = rng.permutation(len(x))
        assert mlp(x[order]).tobytes() == alone[order].tobytes()


@pytest.mark.parametrize("softmax", [False, True])
def test_a_row_is_the_same_bits_at_any_place_in_a_batch(softmax, isa, dtype):
    layers = [21, 67, 40, 5]
    mlp = fm.MLP(
        layers,
        activation="silu",
        output_activation="softmax" if softmax else "identity",
        dtype=dtype,
        seed=1,
    )
    assert_rows_have_one_result(mlp, isa)


def test_a_row_of_a_wide_network_is_the_same_bits_at_any_place_in_a_batch(isa, dtype):
    """Rows of 1024 weights evict each other from the cache, 1000 do not."""
    mlp = fm.MLP([5, 1024, 1000, 3], activation="relu", dtype=dtype, seed=1)
    x = np.random.default_rng(0).standard_normal((40, 5)).astype(dtype)
    with fm.use_isa(isa):
        for threads in (1, 2):
            with fm.threads(threads):
                alone = np.stack([mlp(row) for row in x])
                for rows in (1, 2, 3, 4, 7, 9, 16, 17, 33, 40):
                    assert mlp(x[-rows:]).tobytes() == alone[-rows:].tobytes()


def test_a_row_is_the_same_bits_at_any_place_in_a_batch_that_threads_share(isa, dtype):
    x, _, _ = problem(**LONG, dtype=dtype, labels=True)
    mlp = fm.MLP(LONG["layers"], activation="silu", dtype=dtype, seed=1)
    alone = np.stack([mlp(row) for row in x])
    order = np.random.default_rng(0).permutation(len(x))
    with fm.threads(3):
        assert_infers_in_threads(LONG)
        assert mlp(x).tobytes() == alone.tobytes()
        assert mlp(x[order]).tobytes() == alone[order].tobytes()
        # Rows are divided differently between the threads, with enough work for them.
        for first in (1, 5, 100):
            assert_infers_in_threads({**LONG, "rows": len(x) - first})
            assert mlp(x[first:]).tobytes() == alone[first:].tobytes()


def test_the_floating_point_environment_is_set_and_restored(rounding_upward, dtype):
    x, y, loss = problem(**LONG, dtype=dtype, labels=True)
    fresh = fm.MLP(LONG["layers"], dtype=dtype, seed=0)
    param, grad = np.random.default_rng(9).standard_normal((2, 4_100_003)).astype(dtype)

    dy = fresh(x)

    def results(n):
        """Return the results of all computations as bytes."""
        mlp, opt = fresh.copy(), fm.Adam()
        stepped = param.copy()
        with fm.threads(n):
            assert_trains_in_threads(LONG, 650)
            assert_infers_in_threads(LONG)
            assert_threaded(15.0 * stepped.size, stepped.size)
            values = [mlp.train_step(x, y, loss, opt) for _ in range(3)]
            values.append(mlp.evaluate(x, y, loss))
            values.append(loss(mlp(x), y))
            options = {"epochs": 1, "batch_size": 650, "seed": 1, "progress": False}
            values += mlp.fit(x, y, loss=loss, optimizer=opt, **options).loss
            opt.reset()
            opt.step(mlp.params, mlp.value_and_grad(x, y, loss)[1])
            fm.Adam().step(stepped, grad)
            hashes = [digest(a) for a in (mlp.params, stepped, mlp(x), *mlp.vjp(x, dy))]
        return hashes, values

    with rounding_upward:
        upward = [results(n) for n in (1, 2, 3)]
        assert rounding_upward.kept()
    assert upward == [results(1)] * 3


def test_replay_does_not_depend_on_the_rounding_mode(rounding_upward):
    transitions = np.random.default_rng(0).standard_normal((60, 5))

    def results():
        options = {"seed": 0, "n_steps": 3, "gamma": 0.9, "alpha": 0.7}
        buffer = fm.rl.PrioritizedReplayBuffer(50, 2, **options)
        for i, (a, b, c, d, reward) in enumerate(transitions):
            buffer.add(np.array([a, b]), i, reward, np.array([c, d]), i % 7 == 0)
        found = []
        for beta in (0.4, 1.0):
            batch = buffer.sample(64, beta)
            buffer.update_priorities(batch.indices, abs(batch.rewards))
            found += [a.tobytes() for a in (*batch, batch.weights, batch.discounts)]
        return found

    with rounding_upward:
        upward = results()
        assert rounding_upward.kept()
    assert upward == results()


def trained_elsewhere(dtype, network="BIG", **environment):
    """`trained_hash` in another process with these environment variables."""
    program = (
        "import sys, test_same_bits as t;"
        f"print(t.trained_hash(t.{network}, sys.argv[1], steps=20))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, dtype],
        env=importing(__file__, OMP_NUM_THREADS="2", **environment),
        capture_output=True,
        text=True,
        check=True,
    )
    return out.stdout.strip()


def test_another_process_trains_to_the_same_bits():
    expected = trained_hash(BIG, "float32", steps=20)
    with fm.threads(2):
        assert_trains_in_threads(BIG)
    for isa in fm.available_isas()[-2:]:
        assert trained_elsewhere("float32", FASTMLP_ISA=isa) == expected


# Caches of levels 1, 2 and 3, and whether level 3 is near. The first ones are so small
# that the products of BIG are divided into blocks in each dimension.
CACHES = (
    ("1K", "4K", "0", "0"),
    ("1K", "4K", "8K", "1"),
    ("16K", "256K", "0", "0"),
    ("32K", "1M", "32M", "1"),
    ("48K/12/2", "2M/16/2", "480M", "0"),
)


@pytest.mark.parametrize("caches", CACHES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_caches_do_not_change_the_bits(dtype, caches):
    names = ("FASTMLP_L1D", "FASTMLP_L2", "FASTMLP_L3", "FASTMLP_NEAR_L3")
    variables = dict(zip(names, caches, strict=True))
    assert trained_elsewhere(dtype, **variables) == trained_hash(BIG, dtype, steps=20)
    several_chunks = trained_elsewhere(dtype, "LONG", **variables)
    assert several_chunks == trained_hash(LONG, dtype, steps=20)


def test_a_copied_model_trains_alike():
    x, y, loss = problem(**BIG, dtype="float32", labels=True)
    mlp, opt = fm.MLP(BIG["layers"], seed=0), fm.Adam()
    for _ in range(3):
        mlp.train_step(x, y, loss, opt)
    twin, twin_opt = pickle.loads(pickle.dumps((mlp, opt)))
    for _ in range(3):
        mlp.train_step(x, y, loss, opt)
        twin.train_step(x, y, loss, twin_opt)
    assert digest(mlp.params) == digest(twin.params)


# Failures -----------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_works():
    """OpenMP's threads do not survive a fork: a child must not wait for them."""
    with fm.threads(2):
        assert_trains_in_threads(BIG)
        expected = trained_hash(BIG, "float32", steps=5)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if trained_hash(BIG, "float32", steps=5) == expected else 1)
        deadline = time.monotonic() + 60
        done, status = 0, 0
        while done == 0 and time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)
        if done == 0:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    assert done == pid, "the child hangs"
    assert status == 0
    assert fm.get_num_threads() >= 1


def in_threads(n, work):
    """Run work(i) in n Python threads; re-raise the first exception."""
    errors = []

    def guarded(i):
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


def test_one_model_may_infer_in_several_threads():
    mlp = fm.MLP(LONG["layers"], seed=0)
    x, y, loss = problem(**LONG, dtype="float32", labels=True)
    with fm.threads(1):
        expected, value = mlp(x), mlp.evaluate(x, y, loss)

    def infer(i):
        for rows, repeats in ((1, 20), (3, 20), (50, 20), (len(x), 10)):
            for _ in range(repeats):
                assert mlp(x[:rows]).tobytes() == expected[:rows].tobytes()
        assert mlp.evaluate(x, y, loss) == value

    with fm.threads(2):
        assert_infers_in_threads(LONG)
        in_threads(4, infer)


def test_training_one_model_in_several_threads_takes_turns():
    mlp, opt = fm.MLP(BIG["layers"], seed=0), fm.SGD(lr=1e-3)
    x, y, loss = problem(**BIG, dtype="float32", labels=True)

    def train(i):
        for _ in range(10):
            mlp.train_step(x, y, loss, opt)

    with fm.threads(2):
        assert_trains_in_threads(BIG)
        in_threads(4, train)
    assert opt.step_count == 40
    alone = fm.MLP(BIG["layers"], seed=0)
    alone_opt = fm.SGD(lr=1e-3)
    for _ in range(40):
        alone.train_step(x, y, loss, alone_opt)
    assert digest(mlp.params) == digest(alone.params)


def test_parameter_views_outlive_the_model():
    weight = fm.MLP([3, 4, 2], seed=0).weights[0]
    gc.collect()
    assert weight.tobytes() == fm.MLP([3, 4, 2], seed=0).weights[0].tobytes()


def test_a_model_too_large_is_a_memory_error():
    with pytest.raises(MemoryError):
        fm.MLP([2**22, 2**24, 1])


def test_a_gradient_that_overflows_is_not_applied():
    """If the loss is finite but its gradient is not, the step must not be taken."""
    mlp, opt = fm.MLP([1, 1], init="zeros"), fm.SGD(lr=1.0)
    with pytest.raises(fm.DivergenceError, match="gradient of layer 0"):
        mlp.train_step([[3e38]], [[10.0]], fm.MSE(), opt)
    assert (mlp.params == 0).all()
    assert opt.step_count == 0


# Limits on threads --------------------------------------------------------------------


def threads_in_subprocess(**environment):
    """Return the number of threads that a new process would use."""
    out = subprocess.run(
        [sys.executable, "-c", "import fastmlp; print(fastmlp.get_num_threads())"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(out.stdout)


def test_the_openmp_environment_is_obeyed():
    assert threads_in_subprocess(OMP_NUM_THREADS="1") == 1


@pytest.mark.skipif(not fm.build_info()["openmp"], reason="a build without threads")
def test_threadpoolctl_is_obeyed_at_call_time():
    with threadpool_limits(1):
        assert fm.get_num_threads() == 1
    with fm.threads(3):
        assert fm.get_num_threads() == 3
        with threadpool_limits(1):
            assert fm.get_num_threads() == 1
        assert fm.get_num_threads() == 3


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity"
)
def test_cpu_affinity_is_obeyed():
    one = {min(os.sched_getaffinity(0))}
    out = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, fastmlp, time; before = fastmlp.get_num_threads(); "
            f"os.sched_setaffinity(0, {one}); time.sleep(0.2); "
            "print(before, fastmlp.get_num_threads())",
        ],
        env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, out.stdout.split())
    assert before >= after == 1
