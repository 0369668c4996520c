"""A training that goes on in another process, instruction set and number of threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import schedules
from helpers import assert_threaded, importing
from run_cases import DECAYED, N_IN, N_OUT, STEP, digest, mixed

EPOCHS, BATCHES = 4, 2
ISAS = fm.available_isas()
# Steps after which each process is interrupted, within an epoch; the last one is not.
STOPS = (3, 4)
PROCESSES = ((ISAS[-1], 2), (ISAS[0], 1), (ISAS[-1], 3))


class Interrupt(fm.Callback):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_batch_end(self, mlp: Any, history: Any, step: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def task(solver: bool) -> tuple[fm.MLP, Any, dict[str, Any]]:
    rng = np.random.default_rng(4)
    rows = BATCHES * STEP
    x = rng.standard_normal((rows, N_IN)).astype("float32")
    y = rng.standard_normal((rows, N_OUT)).astype("float32")
    mlp = mixed(True, "float32")
    rate = schedules.LinearWarmup(schedules.Cosine(0.02, 9), 3)
    opt = fm.LBFGS() if solver else fm.Adam(rate, amsgrad=True, **DECAYED)
    data = {"x": x, "y": y, "validation_data": (x[:99], y[:99])}
    return mlp, opt, data if solver else {**data, "batch_size": STEP}


def train(path: str, solver: bool, stop: int | None) -> str:
    """Resume from the file if there is one; return a hash of everything in the end."""
    mlp, opt, data = task(solver)
    save = fm.Checkpoint(path, on_interrupt=True)
    done = fm.Checkpoint.load(path, mlp, opt, [save]) if Path(path).exists() else None
    epochs = EPOCHS - len(done or ())
    if solver and stop is not None:
        epochs = 1
    hooks = [save] if solver or stop is None else [save, Interrupt(stop)]
    try:
        rest = mlp.fit(
            loss=fm.MSE(), optimizer=opt, epochs=epochs, callbacks=hooks, **data
        )
    except KeyboardInterrupt:
        return "interrupted"
    if done is None:
        done = rest
    else:
        done.extend(rest)
    state = opt.state_dict()
    slots = None if solver else state["slots"]
    return digest(mlp.params, mlp.buffers, done.loss, done.val_loss, slots)


def in_a_process(path: str, solver: bool, stop: int | None, isa: str, n: int) -> str:
    """Train as above in a new process."""
    code = (
        "import fastmlp as fm, test_resume_elsewhere as t; "
        f"fm.set_num_threads({n}); t.check_threads(); assert fm.isa() == {isa!r}; "
        f"print(t.train({path!r}, {solver}, {stop}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=importing(__file__, FASTMLP_ISA=isa),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def check_threads() -> None:
    """Check that a step is enough work for all threads."""
    weights = mixed(True, "float32").weights
    assert_threaded(6.0 * STEP * sum(w.size for w in weights), STEP)


@pytest.mark.parametrize("solver", [False, True], ids=["Adam", "LBFGS"])
def test_a_run_continues_elsewhere_with_the_same_bits(
    solver: bool, tmp_path: Path
) -> None:
    whole = train(str(tmp_path / "whole.safetensors"), solver, None)
    path = str(tmp_path / "parts.safetensors")
    for stop, (isa, n) in zip((*STOPS, None), PROCESSES, strict=True):
        part = in_a_process(path, solver, stop, isa, n)
    assert part == whole
