"""Bad arguments raise TypeError, ValueError or MemoryError, never anything else.

The environment variable FASTMLP_RANDOM_CALLS sets the number of random calls; with
100,000 they take a few minutes.
"""

import os
import subprocess
import sys
from pathlib import Path

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import rl, schedules
from hostile import SCALARS, Draw, arrays

CALLS = int(os.environ.get("FASTMLP_RANDOM_CALLS", "3000"))
SEED = int(os.environ.get("FASTMLP_RANDOM_SEED", "0"))


@pytest.mark.skipif(sys.platform == "win32", reason="it limits memory by POSIX calls")
def test_random_calls(tmp_path):
    pytest.importorskip("sklearn", reason="its estimators are called, too")
    program = Path(__file__).with_name("random_calls.py")
    # A process of its own, whose memory is limited: a crash is a failure as well.
    result = subprocess.run(
        [sys.executable, program, str(SEED), str(CALLS), tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr[-2000:]


@pytest.mark.filterwarnings("ignore")
def test_the_calls_succeed_unless_an_argument_is_hostile(tmp_path, monkeypatch):
    """The calls must get past the first checks to reach others."""
    pytest.importorskip("sklearn", reason="its estimators are called, too")
    import random_calls

    monkeypatch.setattr(random_calls, "FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    for call in set(random_calls.CALLS) - {random_calls.files}:
        good = 0
        for i in range(20):
            draw = Draw(np.random.default_rng([1, i]), share=0.0)
            try:
                call(draw)
            except random_calls.ALLOWED:
                continue
            good += 1
        assert good >= 6, f"{call.__name__}: only {good} of 20 calls succeeded"


# Values that once gave another kind of error ------------------------------------------

NUMBERS = {
    "Adam(lr)": (lambda v: fm.Adam(lr=v), "lr"),
    "Adam(eps)": (lambda v: fm.Adam(eps=v), "eps"),
    "Adam(betas)": (lambda v: fm.Adam(betas=(v, 0.9)), r"betas\[0\]"),
    "Huber": (lambda v: fm.Huber(v), "delta"),
    "Quantile": (lambda v: fm.Quantile(v), "q"),
    "Constant": (lambda v: schedules.Constant(v), "lr"),
    "Dropout": (lambda v: fm.Dropout(v), "p"),
    "AlphaDropout": (lambda v: fm.AlphaDropout(v), "p"),
    "GaussianNoise": (lambda v: fm.GaussianNoise(v), "stddev"),
    "EarlyStopping": (lambda v: fm.EarlyStopping(min_delta=v), "min_delta"),
    "LBFGS": (lambda v: fm.LBFGS(c1=v), "c1"),
    "LinearSchedule": (lambda v: rl.LinearSchedule(v, 0.0, 1), "start"),
}
# Python does not even print the last two.
HUGE = {
    "10^400": 10**400,
    "-10^400": -(10**400),
    "10^5000": 10**5000,
    "-10^5000": -(10**5000),
}
COUNTS = {
    "MLP": lambda v: fm.MLP([v, 1]),
    "Dense": lambda v: fm.Dense(v),
    "set_num_threads": lambda v: fm.set_num_threads(v),
    "threads": lambda v: fm.threads(v).__enter__(),
    "batch_size": lambda v: fit(batch_size=v),
    "epochs": lambda v: fit(epochs=v),
    "ReplayBuffer": lambda v: rl.ReplayBuffer(v, 3),
    "Cosine": lambda v: schedules.Cosine(1.0, v),
    "values": lambda v: schedules.Constant(1.0).values(v, 1),
    "EarlyStopping": lambda v: fm.EarlyStopping(patience=v),
    "LBFGS": lambda v: fm.LBFGS(history=v),
    "step": lambda v: loaded(step=v),
}


def fit(**options):
    x = np.zeros((4, 2), "f")
    given = {"loss": fm.MSE(), "optimizer": fm.SGD(0.1), "epochs": 1, "batch_size": 2}
    fm.MLP([2, 1]).fit(x, x[:, :1], **(given | options))


def loaded(**changes):
    optimizer = fm.SGD(0.1)
    optimizer.load_state_dict({**optimizer.state_dict(), **changes})


@pytest.mark.parametrize(("make", "name"), NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize(
    "value", [*HUGE.values(), np.nan, np.inf], ids=[*HUGE, "nan", "inf"]
)
def test_numbers_that_no_float_holds(make, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be finite"):
        make(value)


@pytest.mark.parametrize("make", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize(
    "value", [2**63, 2**64, *HUGE.values()], ids=["2^63", "2^64", *HUGE]
)
def test_counts_that_the_core_cannot_hold(make, value):
    try:
        with pytest.raises(ValueError, match=r"must be at (most|least)"):
            make(value)
    finally:
        fm.set_num_threads(0)


@pytest.mark.parametrize("value", [2**31, 2**40, 2**63 - 1])
def test_a_number_of_threads_that_is_too_large(value):
    with pytest.raises(ValueError, match=r"^n must be at most 2147483647, got"):
        fm.set_num_threads(value)


def test_a_matrix_in_a_memoryview():
    """Python cannot iterate over it: NotImplementedError."""
    view = memoryview(np.zeros((4, 2), "f"))
    mlp = fm.MLP([2, 1], seed=0)
    np.testing.assert_array_equal(mlp(view), 0)
    calls = [
        lambda: fm.MLP(view),
        lambda: fm.Residual(view),
        lambda: fit(callbacks=view),
        lambda: fit(metrics=view),
        lambda: fit(validation_data=view),
        lambda: mlp.fit(view, loss=fm.MSE(), optimizer=fm.SGD(0.1), epochs=1),
        lambda: fm.from_torch({}, prefix=view, activation="relu"),
        lambda: fm.from_torch(mlp.state_dict(), activation=view),
        lambda: fm.load("model", activations=view),
        lambda: loaded(hyper=view),
        lambda: loaded(slots=view),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)):
            call()


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of np.matrix
def test_hostile_values_are_of_many_kinds():
    """The random calls try what they claim to try."""
    assert len({type(value) for value in SCALARS}) > 30
    made = arrays(np.random.default_rng(0), (6, 3))
    kinds = {array.dtype.kind for array in made if isinstance(array, np.ndarray)}
    assert kinds >= set("biufcSUOMmV")
    assert any(not a.flags.aligned for a in made if isinstance(a, np.ndarray))
