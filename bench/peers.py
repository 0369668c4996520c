"""Time fastmlp against its rivals, after checking that all compute the same.

    python bench/peers.py              every workload, 1 and 2 threads: half an hour
    python bench/peers.py --quick      1 thread, short bursts: a few minutes

A training row is one optimiser step (forward, loss, backward, update), an inference row
one call; both through the public Python API. Every rival runs in a process of its own,
bound to as many CPUs as it has threads, from the same parameters on the same data. A
rival whose first losses (or outputs) differ from a float64 judge's is not timed.

The rivals of a row are timed in turns, one short burst each per round, while the others
are stopped; a burst's figure is the median of its samples, the row's figure the median
over the rounds. Times of one run can be compared, times of different runs cannot.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rivals import RIVALS
from rivals.numpy_rival import Judge
from rivals.tasks import WORKLOADS, Task, all_tasks

HERE = Path(__file__).resolve().parent
SUBJECT = "fastmlp"
VERIFIED_STEPS = 5

# The judge's loss must change by this many tolerances over the verified steps, or
# agreeing with it would not show that the update is right.
MIN_CHANGE = 10.0

BUSY_LOAD = 0.25  # per CPU, before anything is timed


class DisagreementError(Exception):
    """A rival computes something else."""


# --- the machine --------------------------------------------------------------------


def available_cpus() -> list[int]:
    """CPUs this process may use; those of different cores first."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    cpus = sorted(os.sched_getaffinity(0))
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    firsts, rest, seen = [], [], set()
    for cpu in cpus:
        path = Path(siblings.format(cpu))
        core = path.read_text() if path.exists() else str(cpu)
        (rest if core in seen else firsts).append(cpu)
        seen.add(core)
    return firsts + rest


def cpu_model() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def ping_pong(cpus: list[int]) -> float | None:
    """Nanoseconds to hand a cache line from one CPU to another, if it can be told."""
    compiler = shutil.which("cc")
    if compiler is None or len(cpus) < 2 or sys.platform != "linux":
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/ping_pong"
        source = str(HERE / "ping_pong.c")
        try:
            command = [compiler, "-O2", "-pthread", source, "-o", program]
            subprocess.run(command, check=True, capture_output=True)
            command = [program, str(cpus[0]), str(cpus[1])]
            result = subprocess.run(command, check=True, capture_output=True)
        except subprocess.CalledProcessError:
            return None
        return float(result.stdout)


def thread_environment(threads: int) -> dict[str, str]:
    """Return the environment in which every library uses this many threads."""
    environment = dict(os.environ)
    for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB", "NUMEXPR"):
        environment[f"{name}_NUM_THREADS"] = str(threads)
    environment["JAX_PLATFORMS"] = "cpu"
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return environment


# --- rivals in their processes ------------------------------------------------------


class Contestant:
    """A rival in its process. Stopped unless it is asked something."""

    def __init__(self, name: str, task: Task, threads: int, cpus: list[int]) -> None:
        self.name = name
        self.task = task
        self.versions: dict[str, str] = {}
        self.loss_tolerance = self.output_tolerance = 0.0
        self.verdict = ""  # why it is not timed
        self.failed = False  # not timed, and that is an error
        self.medians: list[float] = []
        arguments = {
            "rival": name,
            "task": {
                "workload_name": task.workload_name,
                "mode": task.mode,
                "rows": task.rows,
            },
            "threads": threads,
            "cpus": cpus[:threads],
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rivals.worker", json.dumps(arguments)],
            cwd=HERE,
            env=thread_environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, to be stopped as a whole
        )

    @property
    def timed(self) -> bool:
        """Whether the rival takes part."""
        return not self.verdict

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children, if there still are any."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def receive(self) -> dict[str, Any]:
        """Return the next answer; afterwards the process is stopped."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = {"error": "the process died"}
        if line:
            answer = json.loads(line)
        if "error" in answer:
            print(f"{self.name}, {self.task.label}: {answer['error']}", file=sys.stderr)
            raise DisagreementError("error")
        self.signal(signal.SIGSTOP)
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        """Let the process go on, and ask it something."""
        assert self.process.stdin is not None
        self.signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise DisagreementError("error") from None
        return self.receive()

    def greet(self) -> None:
        """Wait until the rival is set up."""
        answer = self.receive()
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

    def close(self) -> None:
        """End the process and its children."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    @property
    def seconds(self) -> float:
        """Seconds per step: the median over the rounds."""
        return statistics.median(self.medians)


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
        raise AssertionError(f"{contestant.task.label} trains too slowly to verify")
    losses = contestant.ask(do="losses", steps=VERIFIED_STEPS)["losses"]
    for step, (loss, right) in enumerate(zip(losses, expected, strict=True)):
        if not abs(loss - right) <= tolerance * abs(right):
            raise DisagreementError(f"loss {loss:.7g} at step {step}, not {right:.7g}")


def verify_output(contestant: Contestant, expected: np.ndarray) -> None:
    """Raise DisagreementError unless the rival's output is the judge's.

    Logits are compared up to a constant per row, which no probability depends on.
    """
    output = np.array(contestant.ask(do="output")["output"])
    if contestant.task.workload.loss == "cross_entropy":
        output = output - output.mean(axis=1, keepdims=True)
        expected = expected - expected.mean(axis=1, keepdims=True)
    error = np.abs(output - expected).max() / np.abs(expected).max()
    if not error <= contestant.output_tolerance:
        raise DisagreementError(f"outputs differ by {error:.1e} of the largest")


# --- races --------------------------------------------------------------------------


def verify(contestants: list[Contestant], task: Task) -> None:
    """Set the verdict of every rival that is absent, fails or disagrees."""
    losses = judge_losses(task) if task.mode == "train" else []
    output = Judge(task).activations()[-1]
    for contestant in contestants:
        try:
            contestant.greet()
            if not contestant.timed:
                continue
            if task.mode == "train":
                verify_losses(contestant, losses)
            else:
                verify_output(contestant, output)
        except DisagreementError as disagreement:
            contestant.verdict = str(disagreement)
            contestant.failed = True


def race(
    names: list[str],
    task: Task,
    threads: int,
    cpus: list[int],
    rounds: int,
    seconds: float,
) -> list[Contestant]:
    """Verify the rivals of one row of the table, then time them in turns."""
    contestants = [
        Contestant(name, task, threads, cpus)
        for name in names
        if RIVALS[name].accepts(task)
    ]
    try:
        verify(contestants, task)
        runners = [contestant for contestant in contestants if contestant.timed]
        for turn in range(rounds):
            # Nobody always runs after the same neighbour has warmed or cooled the CPU.
            for runner in (
                runners[turn % len(runners) :] + runners[: turn % len(runners)]
            ):
                runner.burst(seconds)
    finally:
        for contestant in contestants:
            contestant.close()
    return contestants


# --- the report ---------------------------------------------------------------------


def speed_up(contestants: list[Contestant]) -> tuple[float, str]:
    """Best rival's time over fastmlp's, and the rival; NaN if there is none."""
    timed = {runner.name: runner.seconds for runner in contestants if runner.timed}
    ours = timed.pop(SUBJECT, math.nan)
    if not timed:
        return math.nan, "-"
    best = min(timed, key=lambda name: timed[name])
    return timed[best] / ours, best


def header(names: list[str]) -> str:
    """Return the first line of a table."""
    columns = "".join(f"{name:>14}" for name in names)
    return f"{'us per step':16}{columns}{'speed-up':>10}  {'over':14}{'GFLOP/s':>8}"


def row(names: list[str], task: Task, contestants: list[Contestant]) -> str:
    """One line of a table."""
    cells = {}
    rate = math.nan
    for contestant in contestants:
        cells[contestant.name] = "refused"
        if contestant.verdict == "absent":
            cells[contestant.name] = "absent"
        if contestant.timed:
            cells[contestant.name] = f"{1e6 * contestant.seconds:.1f}"
            if contestant.name == SUBJECT:
                rate = task.flops / contestant.seconds / 1e9
    columns = "".join(f"{cells.get(name, '-'):>14}" for name in names)
    ratio, rival = speed_up(contestants)
    factor = "-" if math.isnan(ratio) else f"{ratio:.2f}x"
    return f"{task.label:16}{columns}{factor:>10}  {rival:14}{rate:>8.1f}"


def record(task: Task, threads: int, contestants: list[Contestant]) -> dict[str, Any]:
    """One row for the JSON file."""
    ratio, rival = speed_up(contestants)
    return {
        "task": task.label,
        "network": task.workload.description,
        "mode": task.mode,
        "rows": task.rows,
        "threads": threads,
        "flops": task.flops,
        "speed_up": None if math.isnan(ratio) else ratio,
        "best_rival": rival,
        "rivals": {
            runner.name: {
                "verdict": runner.verdict or "timed",
                "seconds": runner.seconds if runner.timed else None,
                "rounds": runner.medians,
                "versions": runner.versions,
            }
            for runner in contestants
        },
    }


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu_model(),
        "cpus": available_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": load,
    }


def refusals(task: Task, contestants: Iterable[Contestant]) -> Iterator[str]:
    """Why rivals of a row were not timed, unless they are just absent."""
    for contestant in contestants:
        if contestant.verdict not in ("", "absent"):
            yield f"{contestant.name}, {task.label}: refused, {contestant.verdict}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; --quick only changes what is not given."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="in under 5 minutes")
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS)
    )
    parser.add_argument(
        "--modes", nargs="+", choices=["train", "infer"], default=["train", "infer"]
    )
    default_peers = [name for name in RIVALS if name not in (SUBJECT, "torch-compile")]
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=[name for name in RIVALS if name != SUBJECT],
        default=default_peers,
        help="torch-compile, which compiles for a while, must be asked for",
    )
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 2, quick: 1")
    parser.add_argument("--rounds", type=int, help="default: 7, quick: 3")
    parser.add_argument("--seconds", type=float, help="per burst; 0.3, quick: 0.05")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    cpus = len(available_cpus())
    if options.threads is None:
        options.threads = [1] if options.quick or cpus == 1 else [1, 2]
    if not 1 <= min(options.threads) <= max(options.threads) <= cpus:
        parser.error(f"--threads: there are {cpus} CPUs, got {options.threads}")
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (0.05 if options.quick else 0.3)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if every rival that is installed agrees."""
    options = parse(arguments)
    # Ended from outside, the stopped processes must not be left behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    names = [SUBJECT, *(name for name in options.peers)]
    description = machine()
    cpus = description["cpus"]
    print(f"{description['cpu']}, {len(cpus)} CPUs, {description['system']}")
    print(f"load average {description['load_average']}, {options.rounds} rounds")
    if (description["load_average"] or 0.0) > BUSY_LOAD * len(cpus):
        print(
            "WARNING: the machine is busy with something else, do not trust the times"
        )
    records, failed = [], False
    versions: dict[str, str] = {"python": description["python"]}
    hand_overs: dict[int, float | None] = {}
    for threads in options.threads:
        print(f"\n{threads} thread{'s' if threads > 1 else ''}", end="")
        if threads > 1:
            hand_overs[threads] = ping_pong(cpus)
            print(f"; ping-pong between CPUs {cpus[0]} and {cpus[1]}", end="")
            print(f" (ns per hand-over): {hand_overs[threads] or 'unknown'}", end="")
        print(f"\n{header(names)}", flush=True)
        for task in all_tasks(options.workloads, options.modes):
            contestants = race(
                names, task, threads, cpus, options.rounds, options.seconds
            )
            print(row(names, task, contestants), flush=True)
            print(
                "".join(f"  {line}\n" for line in refusals(task, contestants)), end=""
            )
            records.append(record(task, threads, contestants))
            for contestant in contestants:
                versions |= contestant.versions
                failed |= contestant.failed
    print("\n" + ", ".join(f"{name} {version}" for name, version in versions.items()))
    print("speed-up: time of the best rival over time of fastmlp; GFLOP/s of fastmlp")
    if options.json:
        content = {
            "machine": description,
            "versions": versions,
            "ping_pong_ns": hand_overs,
            "rows": records,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
