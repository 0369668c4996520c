"""The parent's side of a race: rivals in their processes, verified, timed in turns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import RIVALS
from .numpy_rival import Judge
from .tasks import Task

FOLDER = Path(__file__).resolve().parents[1]
SUBJECT = "fastmlp"
VERIFIED_STEPS = 5

# The judge's loss must change by this many tolerances over the verified steps, or
# agreeing with it would not show that the update is right.
MIN_CHANGE = 10.0

# Dropout draws differently everywhere, and adds noise of a variance that goes with
# rate / (1 - rate): at a rate of 0.1 the first loss differs from that without it, by
# less than this share of it.
MAX_DROPOUT_CHANGE = 0.5

# Runs of `fit` start and shuffle differently, but learn the same data by the same rule:
# the loss of the last epoch may differ by this much, relatively.
FIT_TOLERANCE = 0.25


class DisagreementError(Exception):
    """A rival computes something else."""


def thread_environment(threads: int | None) -> dict[str, str]:
    """Return the environment in which every library uses this many threads."""
    environment = dict(os.environ)
    environment["JAX_PLATFORMS"] = "cpu"
    if threads is None:
        return environment
    for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB", "NUMEXPR"):
        environment[f"{name}_NUM_THREADS"] = str(threads)
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return environment


def end_cleanly_when_terminated() -> None:
    """On SIGTERM or SIGHUP leave by SystemExit: no stopped process is left behind."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has only the first
        if hasattr(signal, name):
            signal.signal(
                getattr(signal, name), lambda number, frame: sys.exit(128 + number)
            )


class Contestant:
    """A rival in its process. Stopped unless it is asked something.

    Parameters
    ----------
    name : str
        A key of `RIVALS`.
    threads : int, optional
        Threads it uses, bound to as many CPUs; None leaves the number to the library.
    cpus : list of int, optional
        CPUs to choose from; None binds it to none.
    """

    def __init__(
        self, name: str, threads: int | None, cpus: list[int] | None = None
    ) -> None:
        self.name = name
        self.threads = threads
        self.cpus = cpus[:threads] if cpus is not None else None
        self.versions: dict[str, str] = {}
        self.loss_tolerance = self.output_tolerance = 0.0
        self.verdict = ""  # why it is not timed
        self.failed = False  # not timed, and that is an error
        self.medians: list[float] = []
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        """Start the process, which imports the library at once."""
        arguments = {"rival": self.name, "threads": self.threads, "cpus": self.cpus}
        return subprocess.Popen(
            [sys.executable, "-m", "rivals.worker", json.dumps(arguments)],
            cwd=FOLDER,
            env=thread_environment(self.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, to be stopped as a whole
        )

    @property
    def timed(self) -> bool:
        """Whether the rival takes part."""
        return not self.verdict

    @property
    def seconds(self) -> float:
        """Seconds per call: the median over the rounds."""
        return statistics.median(self.medians)

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children, if there still are any."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Let the process go on, ask it something, and stop it again.

        Raises
        ------
        DisagreementError
            If the rival fails; the process is ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it may have left an answer
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process died"}
        if "error" in answer:
            print(f"{self.name}: {answer['error']}", file=sys.stderr)
            self.close()
            raise DisagreementError("error")
        self.signal(signal.SIGSTOP)
        return answer

    def prepare(self, task: Task) -> None:
        """Set up a task, in a new process if the last task was the end of the old one.

        Raises
        ------
        DisagreementError
            If the rival fails.
        """
        if self.verdict == "absent":
            return
        self.verdict, self.failed, self.medians = "", False, []
        if self.process.poll() is not None:
            self.process = self.start()
        answer = self.ask(do="task", task=dataclasses.asdict(task))
        if "absent" in answer:
            self.verdict = "absent"
            self.failed = self.name == SUBJECT
            return
        self.versions = answer["versions"]
        self.loss_tolerance = answer["loss_tolerance"]
        self.output_tolerance = answer["output_tolerance"]

    def burst(self, seconds: float) -> None:
        """Time one burst."""
        self.medians.append(self.ask(do="burst", seconds=seconds)["median"])

    def refuse(self, reason: DisagreementError) -> None:
        """Take the rival out of the race."""
        self.verdict, self.failed = str(reason), True

    def close(self) -> None:
        """End the process and its children."""
        self.signal(signal.SIGKILL)
        self.process.wait()


# --- verification -------------------------------------------------------------------


def judge_losses(task: Task) -> list[float]:
    """Return the right losses of the first steps."""
    judge = Judge(task)
    return [judge.train_step() for _ in range(VERIFIED_STEPS)]


def verify_losses(contestant: Contestant, expected: list[float]) -> None:
    """Raise DisagreementError unless the rival's first losses are the judge's."""
    tolerance = contestant.loss_tolerance
    change = max(abs(loss - expected[0]) for loss in expected) / abs(expected[0])
    if change < MIN_CHANGE * tolerance:
        raise DisagreementError("the task trains too slowly to verify")
    losses = contestant.ask(do="losses", steps=VERIFIED_STEPS)["losses"]
    for step, (loss, right) in enumerate(zip(losses, expected, strict=True)):
        if not abs(loss - right) <= tolerance * abs(right):
            raise DisagreementError(f"loss {loss:.7g} at step {step}, not {right:.7g}")


def verify_dropout(contestant: Contestant, right: float) -> None:
    """Raise DisagreementError unless dropout changes the first loss, but not by much.

    What it is without dropout has been verified by then.
    """
    loss = contestant.ask(do="losses", steps=1)["losses"][0]
    change = abs(loss - right) / abs(right)
    if not contestant.loss_tolerance < change < MAX_DROPOUT_CHANGE:
        raise DisagreementError(f"loss {loss:.7g} with dropout, {right:.7g} without")


def verify_output(contestant: Contestant, task: Task, expected: np.ndarray) -> None:
    """Raise DisagreementError unless the rival's output is the judge's.

    Logits are compared up to a constant per row, which no probability depends on.
    """
    output = np.array(contestant.ask(do="output")["output"])
    if task.workload.loss == "cross_entropy":
        output = output - output.mean(axis=1, keepdims=True)
        expected = expected - expected.mean(axis=1, keepdims=True)
    error = np.abs(output - expected).max() / np.abs(expected).max()
    if not error <= contestant.output_tolerance:
        raise DisagreementError(f"outputs differ by {error:.1e} of the largest")


def verify_fit(contestant: Contestant, expected: list[float]) -> None:
    """Raise DisagreementError unless the rival learns as well as the first one did.

    The first rival's loss is appended to the empty list of expected ones.
    """
    loss = contestant.ask(do="fit")["loss"]
    expected.append(loss)
    if not abs(loss - expected[0]) <= FIT_TOLERANCE * abs(expected[0]):
        raise DisagreementError(f"loss {loss:.4g} after fit, not {expected[0]:.4g}")


def verify(contestants: Sequence[Contestant], task: Task) -> None:
    """Set the verdict of every rival that is absent, fails or disagrees.

    A task with dropout is verified with a rate of 0, then prepared as it is.
    """
    certain = task.without_dropout
    losses = judge_losses(certain) if task.mode == "train" else []
    output = Judge(task).output() if task.mode == "infer" else np.empty(0)
    for contestant in contestants:
        try:
            contestant.prepare(certain)
            if not contestant.timed:
                continue
            if task.mode == "train":
                verify_losses(contestant, losses)
                if task != certain:
                    contestant.prepare(task)
                    verify_dropout(contestant, losses[0])
            elif task.mode == "infer":
                verify_output(contestant, task, output)
            else:
                verify_fit(contestant, losses)
        except DisagreementError as disagreement:
            contestant.refuse(disagreement)


# --- races --------------------------------------------------------------------------


def start_all(
    names: Sequence[str], task: Task, threads: int, cpus: list[int]
) -> list[Contestant]:
    """Start the rivals that can do a task, all at once."""
    return [
        Contestant(name, threads, cpus) for name in names if RIVALS[name].accepts(task)
    ]


def time_in_turns(
    contestants: Sequence[Contestant],
    rounds: int,
    seconds: float,
    between: Callable[[], None] | None = None,
) -> None:
    """Time prepared rivals, a burst each per round, one after the other.

    Parameters
    ----------
    contestants : sequence of Contestant
        Those that are not `timed` are left out.
    rounds : int
        Bursts of each rival.
    seconds : float
        Length of a burst.
    between : callable, optional
        Called once per round, while all rivals are stopped.
    """
    runners = [contestant for contestant in contestants if contestant.timed]
    for turn in range(rounds):
        if between is not None:
            between()
        # Nobody always runs after the same neighbour has warmed or cooled the CPU.
        first = turn % max(len(runners), 1)
        for runner in runners[first:] + runners[:first]:
            if not runner.timed:
                continue
            try:
                runner.burst(seconds)
            except DisagreementError as disagreement:
                runner.refuse(disagreement)


def race(
    contestants: Sequence[Contestant],
    task: Task,
    rounds: int,
    seconds: float,
    between: Callable[[], None] | None = None,
) -> None:
    """Verify the rivals at one task, then time them in turns."""
    verify(contestants, task)
    time_in_turns(contestants, rounds, seconds, between)
