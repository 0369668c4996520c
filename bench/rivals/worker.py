"""The process that holds one rival: ``python -m rivals.worker`` (started by `arena`).

The arguments are JSON on the command line. Requests are read from standard input and
answered on standard output, one JSON object per line. Between requests the process
blocks, and the parent also stops it (SIGSTOP), so that no thread pool spins while
another rival is timed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from . import RIVALS
from .base import Rival
from .tasks import Task

WARM_SECONDS = 0.02  # thread pools wake, caches fill, clocks rise
SAMPLE_SECONDS = 0.002  # a sample is a run of steps of at least this length ...
MAX_SAMPLE_STEPS = 100  # ... but short, so that training stays near its start
MIN_SAMPLES = 3


def confine(cpus: list[int]) -> None:
    """Bind this process to the given CPUs, with its present and future threads."""
    if not hasattr(os, "sched_setaffinity"):
        return
    os.sched_setaffinity(0, cpus)
    for thread in Path("/proc/self/task").glob("*"):  # none except on Linux
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), cpus)


class Stopwatch:
    """Times a function in bursts of samples.

    Parameters
    ----------
    call : callable
        Function to time.
    wait : callable, optional
        Called with the last result of a sample; returns when it is available.
    """

    def __init__(
        self, call: Callable[[], Any], wait: Callable[[Any], None] | None = None
    ) -> None:
        self.call = call
        self.wait = wait
        self.steps = 0  # calls per sample; unknown at first

    def run(self, steps: int) -> float:
        """Return the seconds per call of a run of calls."""
        call = self.call
        start = time.perf_counter()
        for _ in range(steps):
            result = call()
        if self.wait is not None:
            self.wait(result)
        return (time.perf_counter() - start) / steps

    def sample(self, steps: int) -> float:
        """Return the seconds per call of one sample."""
        return self.run(steps)

    def limit(self, steps: int) -> int:
        """Return the calls per sample, at most the given number."""
        return steps

    def calibrate(self) -> None:
        """Choose the calls per sample."""
        seconds = min(self.sample(1) for _ in range(MIN_SAMPLES))
        self.steps = self.limit(1 + int(SAMPLE_SECONDS / max(seconds, 1e-9)))

    def burst(self, seconds: float) -> dict[str, float]:
        """Warm up, then take samples for some seconds; return their median."""
        if self.steps == 0:
            self.calibrate()
        start = time.perf_counter()
        while time.perf_counter() - start < WARM_SECONDS:
            self.sample(self.steps)
        samples: list[float] = []
        start = time.perf_counter()
        while len(samples) < MIN_SAMPLES or time.perf_counter() - start < seconds:
            samples.append(self.sample(self.steps))
        return {"median": statistics.median(samples), "best": min(samples)}


class RivalStopwatch(Stopwatch):
    """Times the calls of one rival.

    Every sample of training restarts from the initial parameters: all rivals do the
    same arithmetic, and none drifts into saturated units or subnormal moments. The
    reset and the step after it are not timed. A sample of fit is one call.
    """

    def __init__(self, rival: Rival) -> None:
        self.rival = rival
        self.mode = rival.task.mode
        calls = {"train": rival.train_step, "infer": rival.infer, "fit": rival.fit}
        super().__init__(calls[self.mode], rival.wait)

    def sample(self, steps: int) -> float:
        """Return the seconds per call of one sample."""
        if self.mode != "infer":
            self.rival.reset()
        if self.mode == "train":
            self.run(1)
        return self.run(steps)

    def limit(self, steps: int) -> int:
        """Return the calls per sample, at most the given number."""
        limits = {"train": MAX_SAMPLE_STEPS, "infer": steps, "fit": 1}
        return min(steps, limits[self.mode])  # inference does not drift


def first_losses(rival: Rival, steps: int) -> list[float]:
    """Return the losses of the first steps."""
    rival.reset()
    return [float(rival.train_step()) for _ in range(steps)]


def serve(make: Callable[[Task], Rival] | None, requests: TextIO, answer: Any) -> None:
    """Answer requests until the parent closes the pipe.

    Parameters
    ----------
    make : callable, optional
        Sets up the rival for a task; None if it is not installed.
    requests : text file
        One JSON object per line; the first one brings a task.
    answer : callable
        Called with each answer.
    """
    for line in requests:
        request = json.loads(line)
        if make is None:
            answer({"absent": True})
        elif request["do"] == "task":
            rival = make(Task.from_json(request["task"]))
            stopwatch = RivalStopwatch(rival)
            dtype = rival.task.workload.dtype
            answer(
                {
                    "versions": rival.versions(),
                    "loss_tolerance": rival.loss_tolerance[dtype],
                    "output_tolerance": rival.output_tolerance[dtype],
                }
            )
        elif request["do"] == "losses":
            answer({"losses": first_losses(rival, request["steps"])})
        elif request["do"] == "output":
            answer({"output": rival.output().tolist()})
        elif request["do"] == "fit":
            rival.reset()
            answer({"loss": rival.fit()})
        elif request["do"] == "burst":
            answer(stopwatch.burst(request["seconds"]))
        else:
            raise ValueError(f"unknown request {request}")


def main() -> None:
    """Import the rival, then serve."""
    arguments = json.loads(sys.argv[1])
    if arguments["cpus"] is not None:
        confine(arguments["cpus"])
    warnings.simplefilter("ignore")
    # Output of a library must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        make = None
        with contextlib.suppress(ModuleNotFoundError):
            rival_class = RIVALS[arguments["rival"]].load()
            make = functools.partial(rival_class, threads=arguments["threads"])
        serve(make, sys.stdin, answer)
    except Exception:
        answer({"error": traceback.format_exc()})


if __name__ == "__main__":
    main()
