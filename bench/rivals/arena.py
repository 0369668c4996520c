"""The parent process of a comparison: verifies the rivals and times them in turns."""

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

# The judge's loss must change by this many tolerances over the verified steps;
# otherwise agreement would not show that the update is right.
MIN_CHANGE = 10.0

# Each library draws different dropout masks, whose noise has a variance proportional to
# rate / (1 - rate). At a rate of 0.1 the first loss must differ from the loss without
# dropout, but by less than this share.
MAX_DROPOUT_CHANGE = 0.5

# Largest relative difference between the last epochs' losses of two runs of `fit`,
# which start and shuffle differently but learn the same data by the same rule.
FIT_TOLERANCE = 0.25


class DisagreementError(Exception):
    """A rival's results are wrong."""


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
    """Exit by SystemExit on SIGTERM or SIGHUP, so that no stopped process remains."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has SIGTERM only
        if hasattr(signal, name):
            signal.signal(
                getattr(signal, name), lambda number, frame: sys.exit(128 + number)
            )


class RivalProcess:
    """A rival in its process, which is stopped unless it is handling a request.

    Parameters
    ----------
    name : str
        A key of `RIVALS`.
    threads : int, optional
        Threads it uses, bound to as many CPUs; None leaves the number to the library.
    cpus : list of int, optional
        CPUs to choose from; None does not bind the process.
    """

    def __init__(
        self, name: str, threads: int | None, cpus: list[int] | None = None
    ) -> None:
        self.name = name
        self.threads = threads
        self.cpus = cpus[:threads] if cpus is not None else None
        self.versions: dict[str, str] = {}
        self.loss_tolerance = self.output_tolerance = 0.0
        self.verdict = ""  # reason why it is not timed
        self.failed = False  # whether that is an error
        self.medians: list[float] = []
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        """Start the process, which imports the library immediately."""
        arguments = {"rival": self.name, "threads": self.threads, "cpus": self.cpus}
        return subprocess.Popen(
            [sys.executable, "-m", "rivals.worker", json.dumps(arguments)],
            cwd=FOLDER,
            env=thread_environment(self.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # its own group, to be stopped as a whole
        )

    @property
    def timed(self) -> bool:
        """Whether the rival is timed."""
        return not self.verdict

    @property
    def seconds(self) -> float:
        """Median seconds per call over the rounds."""
        return statistics.median(self.medians)

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children, if they still exist."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Resume the process, send it a request, and stop it again.

        Raises
        ------
        DisagreementError
            If the rival fails; the process is ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it may have written an answer
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
        """Set up a task, in a new process if the old one has ended.

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
        """Exclude the rival."""
        self.verdict, self.failed = str(reason), True

    def close(self) -> None:
        """End the process and its children."""
        self.signal(signal.SIGKILL)
        self.process.wait()


# --- verification -------------------------------------------------------------------


def judge_losses(task: Task) -> list[float]:
    """Return the judge's losses of the first steps."""
    judge = Judge(task)
    return [judge.train_step() for _ in range(VERIFIED_STEPS)]


def verify_losses(process: RivalProcess, expected: list[float]) -> None:
    """Raise DisagreementError unless the first losses match the judge's."""
    tolerance = process.loss_tolerance
    change = max(abs(loss - expected[0]) for loss in expected) / abs(expected[0])
    if change < MIN_CHANGE * tolerance:
        raise DisagreementError("the task trains too slowly to verify")
    losses = process.ask(do="losses", steps=VERIFIED_STEPS)["losses"]
    for step, (loss, right) in enumerate(zip(losses, expected, strict=True)):
        if not abs(loss - right) <= tolerance * abs(right):
            raise DisagreementError(f"loss {loss:.7g} at step {step}, not {right:.7g}")


def verify_dropout(process: RivalProcess, right: float) -> None:
    """Raise DisagreementError unless dropout changes the first loss, but not by much.

    The loss without dropout must have been verified before.
    """
    loss = process.ask(do="losses", steps=1)["losses"][0]
    change = abs(loss - right) / abs(right)
    if not process.loss_tolerance < change < MAX_DROPOUT_CHANGE:
        raise DisagreementError(f"loss {loss:.7g} with dropout, {right:.7g} without")


def verify_output(process: RivalProcess, task: Task, expected: np.ndarray) -> None:
    """Raise DisagreementError unless the rival's output matches the judge's.

    Logits are compared up to a constant per row, which does not affect probabilities.
    """
    output = np.array(process.ask(do="output")["output"])
    if task.workload.loss == "cross_entropy":
        output = output - output.mean(axis=1, keepdims=True)
        expected = expected - expected.mean(axis=1, keepdims=True)
    error = np.abs(output - expected).max() / np.abs(expected).max()
    if not error <= process.output_tolerance:
        raise DisagreementError(f"outputs differ by {error:.1e} of the largest")


def verify_fit(process: RivalProcess, expected: list[float]) -> None:
    """Raise DisagreementError unless the rival learns as well as the first one did.

    The first rival's loss is appended to the empty list of expected ones.
    """
    loss = process.ask(do="fit")["loss"]
    expected.append(loss)
    if not abs(loss - expected[0]) <= FIT_TOLERANCE * abs(expected[0]):
        raise DisagreementError(f"loss {loss:.4g} after fit, not {expected[0]:.4g}")


def verify(processes: Sequence[RivalProcess], task: Task) -> None:
    """Set the verdict of every rival that is absent, fails or disagrees.

    A task with dropout is verified with a rate of 0, then prepared with its own rate.
    """
    certain = task.without_dropout
    losses = judge_losses(certain) if task.mode == "train" else []
    output = Judge(task).output() if task.mode == "infer" else np.empty(0)
    for process in processes:
        try:
            process.prepare(certain)
            if not process.timed:
                continue
            if task.mode == "train":
                verify_losses(process, losses)
                if task != certain:
                    process.prepare(task)
                    verify_dropout(process, losses[0])
            elif task.mode == "infer":
                verify_output(process, task, output)
            else:
                verify_fit(process, losses)
        except DisagreementError as disagreement:
            process.refuse(disagreement)


# --- timing --------------------------------------------------------------------------


def start_all(
    names: Sequence[str], task: Task, threads: int, cpus: list[int]
) -> list[RivalProcess]:
    """Start the rivals that can do a task, all at once."""
    return [
        RivalProcess(name, threads, cpus)
        for name in names
        if RIVALS[name].accepts(task)
    ]


def time_in_turns(
    processes: Sequence[RivalProcess],
    rounds: int,
    seconds: float,
    between: Callable[[], None] | None = None,
) -> None:
    """Time prepared rivals, a burst each per round, one after the other.

    Parameters
    ----------
    processes : sequence of RivalProcess
        Rivals; those that are not `timed` are skipped.
    rounds : int
        Number of bursts per rival.
    seconds : float
        Length of a burst in seconds.
    between : callable, optional
        Called once per round, while all rivals are stopped.
    """
    runners = [process for process in processes if process.timed]
    for turn in range(rounds):
        if between is not None:
            between()
        # The order rotates, because a predecessor may warm or cool the CPU.
        first = turn % max(len(runners), 1)
        for runner in runners[first:] + runners[:first]:
            if not runner.timed:
                continue
            try:
                runner.burst(seconds)
            except DisagreementError as disagreement:
                runner.refuse(disagreement)


def race(
    processes: Sequence[RivalProcess],
    task: Task,
    rounds: int,
    seconds: float,
    between: Callable[[], None] | None = None,
) -> None:
    """Verify the rivals at one task, then time them in turns."""
    verify(processes, task)
    time_in_turns(processes, rounds, seconds, between)
