"""Time fastmlp against its rivals, after checking that all agree.

    python bench/peers.py                      everything, 1 and 2 threads: half an hour
    python bench/peers.py --quick              short bursts: under 5 minutes
    python bench/peers.py --picture sweep.png  also width x batch, and its picture
    python bench/peers.py --dtype float64      data and parameters in float64

A training row is one optimiser step (forward, loss, backward, update), an inference row
one call, both through the public Python API. Every rival runs in its own process, bound
to as many CPUs as it has threads, with the same parameters and data. A rival whose
first losses (or outputs) differ from a float64 judge's is not timed.

The rivals of a row are timed in turns, one short burst each per round, while the others
are stopped. A burst's figure is the median of its samples, and the row's figure the
median over the rounds. The FMA peak is measured in every round as well. Times can only
be compared within one run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import machine
import picture
from machine import FmaPeak
from rivals import RIVALS
from rivals.arena import (
    SUBJECT,
    RivalProcess,
    end_cleanly_when_terminated,
    race,
    start_all,
)
from rivals.tasks import WORKLOADS, Task, all_tasks, square_workload

SLOW_TO_START = ("torch-compile",)  # compiling takes seconds per row
FIRST_PEAK_SAMPLES = 5

# The sweep of the picture: networks 16-w-w-4.
SWEEP_RIVALS = ("torch", "jax", "sklearn")
SWEEP_N_IN, SWEEP_N_OUT = 16, 4
SWEEP_WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
SWEEP_BATCHES = (1, 8, 32, 128, 512)
SWEEP_SHARE = 0.3  # factor on a burst's length: the sweep has many points


# --- records, as in the JSON file ---------------------------------------------------


def speed_up(processes: Sequence[RivalProcess]) -> tuple[float, str]:
    """Return the best rival's time over fastmlp's, and its name; NaN if absent."""
    timed = {runner.name: runner.seconds for runner in processes if runner.timed}
    ours = timed.pop(SUBJECT, math.nan)
    if not timed:
        return math.nan, "-"
    best = min(timed, key=lambda name: timed[name])
    return timed[best] / ours, best


def record(
    task: Task, threads: int, processes: Sequence[RivalProcess]
) -> dict[str, Any]:
    """Return one row of a table, or one point of the sweep."""
    ratio, rival = speed_up(processes)
    ours = [runner for runner in processes if runner.name == SUBJECT]
    gflops = [task.flops / runner.seconds / 1e9 for runner in ours if runner.timed]
    return {
        "task": task.label,
        "network": task.workload.description,
        "widths": list(task.workload.widths),
        "mode": task.mode,
        "rows": task.rows,
        "threads": threads,
        "dtype": task.workload.dtype,
        "flops": task.flops,
        "gflops": gflops[0] if gflops else None,
        "speed_up": None if math.isnan(ratio) else ratio,
        "best_rival": rival,
        "rivals": {
            runner.name: {
                "verdict": runner.verdict or "timed",
                "seconds": runner.seconds if runner.timed else None,
                "rounds": runner.medians,
                "versions": runner.versions,
            }
            for runner in processes
        },
    }


def percent_of_peak(row: dict[str, Any], peak: float | None) -> float | None:
    """Return a row's share of the threads' FMA peak, if both are known."""
    if row["gflops"] is None or peak is None:
        return None
    return 100.0 * float(row["gflops"]) / (int(row["threads"]) * peak)


def peak_keys(dtype: str) -> tuple[str, str]:
    """Return the keys of a dtype's FMA peak, and of its samples."""
    suffix = "" if dtype == "float32" else f"_{dtype}"
    return f"fma_peak_gflops{suffix}", f"fma_peak_samples{suffix}"


def peak_fields(peaks: Mapping[str, FmaPeak]) -> dict[str, Any]:
    """Return the peaks for the JSON file."""
    fields: dict[str, Any] = {}
    for dtype, peak in peaks.items():
        key, samples_key = peak_keys(dtype)
        fields |= {key: peak.gflops, samples_key: peak.samples}
    return fields


def dtype_of(row: Mapping[str, Any]) -> str:
    """Return the dtype of a row; old files have float32 only."""
    return str(row.get("dtype", "float32"))


# --- tables -------------------------------------------------------------------------


def column_width(name: str) -> int:
    """Return the text of a rival's column."""
    return max(len(name), 8) + 2


def header(names: Sequence[str]) -> str:
    """Return the first line of a table."""
    columns = "".join(f"{name:>{column_width(name)}}" for name in names)
    return f"{'us per step':12}{columns}{'GFLOP/s':>9}{'% peak':>8}{'ratio':>8}  to"


def line(names: Sequence[str], row: dict[str, Any], peak: float | None) -> str:
    """Return one line of a table."""
    cells = {}
    for name, result in row["rivals"].items():
        verdict = result["verdict"]
        cells[name] = verdict if verdict == "absent" else "refused"
        if result["seconds"] is not None:
            cells[name] = f"{1e6 * result['seconds']:.1f}"
    columns = "".join(f"{cells.get(name, '-'):>{column_width(name)}}" for name in names)
    gflops, percent = row["gflops"], percent_of_peak(row, peak)
    rate = "-" if gflops is None else f"{gflops:.1f}"
    share = "-" if percent is None else f"{percent:.1f}"
    ratio = "-" if row["speed_up"] is None else f"{row['speed_up']:.2f}x"
    return (
        f"{row['task']:12}{columns}{rate:>9}{share:>8}{ratio:>8}  {row['best_rival']}"
    )


def heading(threads: int, dtype: str, hand_over: float | None, cpus: list[int]) -> str:
    """Return the line above a table."""
    text = f"\n{threads} thread{'s' if threads > 1 else ''}, {dtype}"
    if threads > 1:
        text += f"; ping-pong between CPUs {cpus[0]} and {cpus[1]} (ns per hand-over): "
        text += str(hand_over or "unknown")
    return text


def peaks_and_versions(content: dict[str, Any]) -> str:
    """Return the lines with the FMA peaks and the versions."""
    text = ""
    for dtype in machine.DTYPES:
        key, samples_key = peak_keys(dtype)
        if key not in content:
            continue
        peak, samples = content[key], content[samples_key]
        text += f"\nFMA peak of one core, {dtype}: "
        if peak is None:
            text += "unknown, needs a C compiler"
        else:
            text += f"{peak:.1f} GFLOP/s (median of {len(samples)}, "
            text += f"{min(samples):.1f} to {max(samples):.1f})"
    versions = [f"{name} {version}" for name, version in content["versions"].items()]
    return f"{text}\n{', '.join(versions)}"


def footer(content: dict[str, Any]) -> str:
    """Return the notes below the tables."""
    return (
        f"{peaks_and_versions(content)}\n"
        "GFLOP/s and share of the peak (threads x one core's): fastmlp, matrix "
        "products only\nratio: time of the best rival over time of fastmlp"
    )


def print_again(content: dict[str, Any]) -> None:
    """Print the tables of a JSON file."""
    machine.announce(content["machine"])
    tables = [
        (key, dtype, threads)
        for key in ("rows", "sweep")
        for dtype, threads in kinds_of_rows(content[key])
    ]
    for key, dtype, threads in tables:
        kind = (dtype, threads)
        rows = [row for row in content[key] if kind == (dtype_of(row), row["threads"])]
        names = [name for name in RIVALS if any(name in row["rivals"] for row in rows)]
        hand_over = content["ping_pong_ns"].get(str(threads))
        print(heading(threads, dtype, hand_over, content["machine"]["cpus"]))
        print(header(names))
        for row in rows:
            print(line(names, row, content[peak_keys(dtype)[0]]))
    print(footer(content))


def kinds_of_rows(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return the pairs of a dtype and a number of threads that occur."""
    return sorted({(dtype_of(row), row["threads"]) for row in rows})


# --- the run ------------------------------------------------------------------------


class Run:
    """One run of the benchmark with its results so far.

    Parameters
    ----------
    options : argparse.Namespace
        Parsed command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.machine = machine.describe()
        self.cpus: list[int] = self.machine["cpus"]
        self.peaks = {dtype: FmaPeak(self.cpus[0], dtype) for dtype in options.dtype}
        self.versions: dict[str, str] = {"python": self.machine["python"]}
        self.hand_overs: dict[int, float | None] = {}
        self.failed = False

    def tasks(
        self, names: Sequence[str], dtype: str, threads: int
    ) -> Iterator[dict[str, Any]]:
        """Time every workload, each in new processes; yield the rows."""
        for task in all_tasks(self.options.workloads, self.options.modes, dtype):
            processes = start_all(names, task, threads, self.cpus)
            try:
                yield self.race(processes, task, threads, self.options.seconds)
            finally:
                for process in processes:
                    process.close()

    def sweep(
        self, names: Sequence[str], dtype: str, threads: int
    ) -> Iterator[dict[str, Any]]:
        """Time every width and batch in the same processes; yield the points."""
        workloads = [
            square_workload(SWEEP_N_IN, width, SWEEP_N_OUT, batch, dtype)
            for width in self.options.widths
            for batch in self.options.batches
        ]
        tasks = [Task(workload, "train", workload.batch) for workload in workloads]
        seconds = SWEEP_SHARE * self.options.seconds
        processes = start_all(names, tasks[0], threads, self.cpus)
        try:
            for task in tasks:
                yield self.race(processes, task, threads, seconds)
        finally:
            for process in processes:
                process.close()

    def race(
        self,
        processes: Sequence[RivalProcess],
        task: Task,
        threads: int,
        seconds: float,
    ) -> dict[str, Any]:
        """Time one task in bursts of the given seconds; return the row."""
        measure = self.peaks[task.workload.dtype].measure
        race(processes, task, self.options.rounds, seconds, measure)
        for process in processes:
            self.versions |= process.versions
            self.failed |= process.failed
        return record(task, threads, processes)

    def table(
        self,
        names: Sequence[str],
        dtype: str,
        threads: int,
        rows: Iterator[dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """Print rows as they arrive, and return them."""
        peak = self.peaks[dtype]
        for _ in range(FIRST_PEAK_SAMPLES):
            peak.measure()
        if threads > 1 and threads not in self.hand_overs:
            self.hand_overs[threads] = machine.ping_pong(self.cpus)
        print(heading(threads, dtype, self.hand_overs.get(threads), self.cpus))
        print(header(names), flush=True)
        kept = []
        for row in rows:
            kept.append(row)
            print(line(names, row, peak.gflops), flush=True)
            for name, result in row["rivals"].items():
                if result["verdict"] not in ("timed", "absent"):
                    print(f"  {name}, {row['task']}: refused, {result['verdict']}")
        return kept

    def measure(self) -> dict[str, Any]:
        """Measure and print everything; returns the content of the JSON file."""
        options = self.options
        machine.announce(self.machine)
        print(f"{options.rounds} rounds of {options.seconds} s")
        rows, sweep = [], []
        names = [SUBJECT, *options.peers]
        if not options.no_tables:
            for dtype, threads in itertools.product(options.dtype, options.threads):
                tasks = self.tasks(names, dtype, threads)
                rows += self.table(names, dtype, threads, tasks)
        if options.picture:
            names = [SUBJECT, *options.sweep_peers]
            dtype, threads = options.dtype[0], options.threads[0]
            points = self.sweep(names, dtype, threads)
            sweep = self.table(names, dtype, threads, points)
        for row in rows + sweep:
            peak = self.peaks[row["dtype"]]
            row["percent_of_peak"] = percent_of_peak(row, peak.gflops)
        return {
            "machine": self.machine,
            "versions": self.versions,
            "rounds": options.rounds,
            "seconds_per_burst": options.seconds,
            "ping_pong_ns": self.hand_overs,
            **peak_fields(self.peaks),
            "rows": rows,
            "sweep": sweep,
        }


# --- the command line ---------------------------------------------------------------


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; --quick only changes the defaults."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
    )
    peers = [
        name
        for name, entry in RIVALS.items()
        if name != SUBJECT and entry.operands == "float"
    ]
    add = parser.add_argument
    add("--quick", action="store_true", help="short bursts: under 5 minutes")
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    add("--modes", nargs="+", choices=["train", "infer"], default=["train", "infer"])
    add(
        "--peers",
        nargs="*",
        choices=peers,
        help="default: all, quick: all but torch-compile",
    )
    machine.add_threads(parser)
    machine.add_dtypes(parser)
    add("--rounds", type=int, help="default: 7, quick: 3")
    add("--seconds", type=float, help="per burst; default: 0.3, quick: 0.05")
    add("--json", type=Path, help="also write everything to this file")
    add("--no-tables", action="store_true", help="only what the picture needs")
    add(
        "--picture",
        type=Path,
        help="also sweep training steps of 16-w-w-4 networks over widths and batches, "
        "with the first of --threads and --dtype, and draw the speed-ups to this file",
    )
    add("--widths", nargs="+", type=int, default=SWEEP_WIDTHS, help="of the sweep")
    add("--batches", nargs="+", type=int, default=SWEEP_BATCHES, help="of the sweep")
    add(
        "--from",
        dest="source",
        type=Path,
        help="measure nothing: print, and draw, what --json has written",
    )
    options = parser.parse_args(arguments)
    if options.picture and picture.missing():
        parser.error(str(picture.missing()))
    if options.no_tables and not options.picture:
        parser.error("--no-tables leaves nothing to do without --picture")
    options.threads = machine.checked_threads(parser, options.threads)
    options.sweep_peers = list(SWEEP_RIVALS)
    if options.peers is not None:
        options.sweep_peers = [name for name in options.peers if name in picture.TITLES]
    else:
        slow = SLOW_TO_START if options.quick else ()
        options.peers = [name for name in peers if name not in slow]
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (0.05 if options.quick else 0.3)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0 if every installed rival agrees."""
    options = parse(arguments)
    end_cleanly_when_terminated()
    failed = False
    if options.source:
        content = json.loads(options.source.read_text())
        print_again(content)
    else:
        run = Run(options)
        content = run.measure()
        failed = run.failed
        print(footer(content))
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.picture:
        try:
            picture.speed_up_maps(content, SUBJECT, options.picture)
        except ValueError as error:
            print(f"no picture: {error}", file=sys.stderr)
            return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
