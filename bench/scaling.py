"""How times grow with width and over whole runs, and what an empty call costs.

    python bench/scaling.py                          all three topics: a few minutes
    python bench/scaling.py cliff --picture cliff.png
    python bench/scaling.py fit overhead --quick

cliff     Training step of 10-w-w-10 (ReLU, mean squared error, Adam, 128 rows) for many
          widths w, with the default number of threads and with one. More threads must
          not be slower at any width: the exit code is 1 if the default is more than 5 %
          slower than one thread in two measurements.
fit       Whole runs of `fit`: time per epoch over that of the bare training steps, and
          against scikit-learn's `fit` and a PyTorch loop.
overhead  Cost of a call that computes almost nothing, in nanoseconds, compared with an
          empty Python method.

Rivals run in separate processes, one at a time, in interleaved bursts, as in
`peers.py`; figures are medians over rounds of medians.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import sys
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fastmlp as fm
import machine
import numpy as np
import picture
from rivals.arena import (
    SUBJECT,
    RivalProcess,
    end_cleanly_when_terminated,
    race,
    time_in_turns,
    verify,
)
from rivals.tasks import FIT_EPOCHS, WORKLOADS, Task, Workload, square_workload

# --- cliff --------------------------------------------------------------------------

CLIFF_N_IN = CLIFF_N_OUT = 10
CLIFF_ROWS = 128
# PyTorch was seen to start using threads between 45 and 46 (pytorch#144633).
CLIFF_WIDTHS = tuple(sorted({*range(8, 257, 8), 45, 46}))
QUICK_WIDTHS = (8, 16, 32, 45, 46, 48, 64, 96, 128, 192, 256)
ALLOWED_SLOWDOWN = 1.05  # time of the default number of threads over one thread's
CONFIRMING_ROUNDS = 3  # factor on the rounds for widths that seem slower


def cliff_task(width: int) -> Task:
    """Return the training step at one width."""
    workload = square_workload(CLIFF_N_IN, width, CLIFF_N_OUT, CLIFF_ROWS)
    return Task(workload, "train", CLIFF_ROWS)


def steepest(widths: Sequence[int], seconds: Sequence[float]) -> tuple[float, int, int]:
    """Return the largest growth of time over growth of work for consecutive widths.

    The growth of time t(b) / t(a) is divided by the growth of the operations of the
    matrix products. At 1, time grows in proportion to work; below 1, the fixed cost of
    a step is shared by more work; a cliff gives a value far above 1.

    Returns
    -------
    tuple
        The ratio, and the widths a and b.
    """
    pairs = itertools.pairwise(zip(widths, seconds, strict=True))
    return max(
        (late / early / (cliff_task(b).flops / cliff_task(a).flops), a, b)
        for (a, early), (b, late) in pairs
    )


def cliff_processes(names: Sequence[str]) -> dict[str, RivalProcess]:
    """Start unbound rivals with their default number of threads and with one.

    Only the number of threads differs between the two.
    """
    return {
        f"{name}, {title}": RivalProcess(name, threads)
        for name in names
        for title, threads in (("default", None), ("1 thread", 1))
    }


def cliff(options: argparse.Namespace) -> bool:
    """Print the table; return whether there is no cliff."""
    widths = QUICK_WIDTHS if options.quick else CLIFF_WIDTHS
    names = [SUBJECT, "torch"] if options.picture else [SUBJECT]
    print(f"\n10-w-w-10, {CLIFF_ROWS} rows; us per training step; ", end="")
    print(f"default: {fm.get_num_threads()} threads")
    processes = cliff_processes(names)
    ours, single = list(processes)[:2]
    lines: dict[str, list[float]] = {title: [] for title in processes}
    fine = True
    titles = "".join(f"{title:>19}" for title in processes)
    print(f"{'width':>6}{titles}{'ratio':>8}")
    try:
        for width in widths:
            seconds = race_at(width, processes, options.rounds, options.seconds)
            for title, second in seconds.items():
                lines[title].append(second)
            note = ""
            if seconds[ours] > ALLOWED_SLOWDOWN * seconds[single]:
                pair = {title: processes[title] for title in (ours, single)}
                rounds = CONFIRMING_ROUNDS * options.rounds
                again = race_at(width, pair, rounds, options.seconds)
                slower = again[ours] > ALLOWED_SLOWDOWN * again[single]
                fine &= not slower
                note = "  measured again" + (", SLOWER" if slower else "")
                for title, second in again.items():
                    lines[title][-1] = seconds[title] = second
            cells = "".join(f"{1e6 * second:>19.1f}" for second in seconds.values())
            ratio = seconds[ours] / seconds[single]
            print(f"{width:>6}{cells}{ratio:>8.2f}{note}", flush=True)
    finally:
        for process in processes.values():
            process.close()
    for title, seconds_of in lines.items():
        ratio, a, b = steepest(widths, seconds_of)
        print(f"{title}: growth of time / growth of work: at most {ratio:.2f}", end="")
        print(f" (from width {a} to {b})")
    ratios = [t / one for t, one in zip(lines[ours], lines[single], strict=True)]
    worst = max(range(len(widths)), key=lambda i: ratios[i])
    print(f"default over 1 thread: at most {ratios[worst]:.2f}", end="")
    print(f" (width {widths[worst]}), {'fine' if fine else 'TOO SLOW'}")
    if options.picture:
        title = f"10-w-w-10 ReLU, MSE, Adam, {CLIFF_ROWS} rows; {machine.cpu_model()}; "
        title += f"default: {fm.get_num_threads()} threads"
        picture.time_against_width(widths, lines, title, options.picture)
    return fine


def race_at(
    width: int, processes: dict[str, RivalProcess], rounds: int, seconds: float
) -> dict[str, float]:
    """Return seconds per step of verified rivals at one width.

    Raises
    ------
    SystemExit
        If one of them is absent or wrong.
    """
    race(list(processes.values()), cliff_task(width), rounds, seconds)
    for title, process in processes.items():
        if not process.timed:
            sys.exit(f"{title}, width {width}: {process.verdict}")
    return {title: process.seconds for title, process in processes.items()}


# --- fit ----------------------------------------------------------------------------

# Rows of data; multiples of the batch, so that all steps of an epoch are alike.
FIT_TASKS = (
    (WORKLOADS["rl-tiny"], 6400),
    (WORKLOADS["sk-default"], 10000),
    (Workload("narrow", (10, 32, 32, 1), "relu", "mse", "adam", 1e-3, 32), 2048),
)
FIT_RIVALS = ("sklearn", "torch")


def fit(options: argparse.Namespace) -> bool:
    """Print the table; return whether every installed rival learns."""
    threads, cpus = options.threads, machine.available_cpus()
    count = threads or f"default ({fm.get_num_threads()})"
    print(f"\n{FIT_EPOCHS} epochs of fit, ms per epoch; threads: {count}")
    names = "".join(f"{name:>10}{'ratio':>8}" for name in FIT_RIVALS)
    print(f"{'':32}{'rows':>6}{'batch':>6}{'fastmlp':>9}{'over steps':>12}{names}")
    fine = True
    for workload, rows in FIT_TASKS:
        bare = RivalProcess(SUBJECT, threads, cpus)
        whole = [RivalProcess(name, threads, cpus) for name in (SUBJECT, *FIT_RIVALS)]
        try:
            verify([bare], Task(workload, "train", workload.batch))
            verify(whole, Task(workload, "fit", rows))
            time_in_turns([bare, *whole], options.rounds, options.seconds)
        finally:
            for process in (bare, *whole):
                process.close()
        for process in (bare, *whole):
            if process.failed:
                print(f"{process.name}: {process.verdict}", file=sys.stderr)
                fine = False
        if not (bare.timed and whole[0].timed):
            continue
        epoch = whole[0].seconds / FIT_EPOCHS
        steps = rows // workload.batch * bare.seconds
        cells = ""
        for rival in whole[1:]:
            if rival.timed:
                theirs = rival.seconds / FIT_EPOCHS
                cells += f"{1e3 * theirs:>10.2f}{theirs / epoch:>7.1f}x"
            else:
                verdict = "absent" if rival.verdict == "absent" else "refused"
                cells += f"{verdict:>10}{'-':>8}"
        print(
            f"{workload.description:32}{rows:>6}{workload.batch:>6}"
            f"{1e3 * epoch:>9.2f}{epoch / steps:>11.2f}x{cells}",
            flush=True,
        )
    print("over steps: time of an epoch of fit / (its steps x train_step on one batch)")
    return fine


# --- overhead -----------------------------------------------------------------------

CALLS = 1000  # per sample
OVERHEAD_SAMPLES = 20  # per round


class Empty:
    """Has a method that takes arguments and does nothing."""

    def method(self, x: Any, y: Any, loss: Any, optimizer: Any) -> None:
        """Do nothing."""


def overhead_calls() -> dict[str, Callable[[], timeit.Timer]]:
    """Return a factory of timers for each line of the table.

    Every sample starts from a new network, so that training does not drift. The target
    is out of reach, so that training does not converge.
    """
    x, y = np.ones((1, 1), np.float32), np.full((1, 1), 1e3, np.float32)

    def timer(statement: str) -> timeit.Timer:
        mlp = fm.MLP([1, 1, 1], activation="tanh", seed=0)
        names = {
            "mlp": mlp,
            "loss": fm.MSE(),
            "opt": fm.Adam(),
            "x": x,
            "y": y,
            "out": np.empty((1, 1), np.float32),
            "p": np.zeros(1, np.float32),
            "g": np.ones(1, np.float32),
            "empty": Empty(),
        }
        return timeit.Timer(statement, globals=names)

    statements = (
        "empty.method(x, y, loss, opt)",
        "mlp.train_step(x, y, loss, opt)",
        "mlp(x, out=out)",
        "opt.step(p, g)",
    )
    return {statement: functools.partial(timer, statement) for statement in statements}


def overhead(options: argparse.Namespace) -> bool:
    """Print the table; return True."""
    print("\nnetwork 1-1-1, 1 row; 1 parameter; nanoseconds per call")
    calls = overhead_calls()
    medians: dict[str, list[float]] = {statement: [] for statement in calls}
    for _ in range(options.rounds):
        for statement, make in calls.items():
            samples = []
            for _ in range(OVERHEAD_SAMPLES):
                timer = make()
                timer.timeit(1)  # the first call allocates the state
                samples.append(timer.timeit(CALLS) / CALLS)
            medians[statement].append(statistics.median(samples))
    empty = statistics.median(next(iter(medians.values())))
    for statement, values in medians.items():
        seconds = statistics.median(values)
        print(f"{statement:34}{1e9 * seconds:>8.0f}", end="")
        print("" if seconds == empty else f"{seconds / empty:>8.1f} empty methods")
    return True


# --- the command line ---------------------------------------------------------------

TOPICS = {"cliff": cliff, "fit": fit, "overhead": overhead}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; --quick only changes the defaults."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        epilog=f"topics: {', '.join(TOPICS)}; default: all",
    )
    add = parser.add_argument
    add("topics", nargs="*", metavar="topic", help="what to measure")
    add("--quick", action="store_true", help="fewer widths, short bursts: a minute")
    add("--rounds", type=int, help="default: 7, quick: 3")
    add("--seconds", type=float, help="per burst; default: 0.1, quick: 0.03")
    add("--threads", type=int, help="of fit; default: what each library chooses")
    add("--picture", type=Path, help="plot cliff, with PyTorch, to this file")
    options = parser.parse_args(arguments)
    unknown = set(options.topics) - set(TOPICS)
    if unknown:
        parser.error(f"no such topic: {', '.join(sorted(unknown))}")
    if options.picture and picture.missing():
        parser.error(str(picture.missing()))
    options.topics = options.topics or list(TOPICS)
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (0.03 if options.quick else 0.1)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0 if all topics succeed."""
    options = parse(arguments)
    end_cleanly_when_terminated()
    machine.announce(machine.describe())
    results = [TOPICS[topic](options) for topic in options.topics]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
