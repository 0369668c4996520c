"""Time training steps with norms, dropout and residual blocks against PyTorch and JAX.

    python bench/layers.py                      widths 64 and 256, 1 and 2 threads
    python bench/layers.py --quick
    python bench/layers.py --compile            torch.compile as well; minutes
    python bench/layers.py --kinds layer_norm all --widths 64 --threads 1

One optimiser step on a batch of 128 rows, float32, ReLU, mean squared error, Adam, of
networks 16-w-w-w-4, or 16-w-w-w-w-w-4 where the last four hidden layers form two
residual blocks. Normalisation follows the activation of every hidden layer, and dropout
follows the normalisation.

The method is that of peers.py: a process for each rival, verified against a float64
judge before timing (with a dropout rate of 0; then dropout must show in the first
loss), interleaved bursts, medians. The exit code is 1 if a rival disagrees, or if a
step with layers besides dense ones misses its targets: to be at least twice as fast as
PyTorch and at least as fast as JAX.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
from machine import FmaPeak
from peers import column_width, heading, percent_of_peak, record
from rivals.arena import SUBJECT, end_cleanly_when_terminated, race, start_all
from rivals.tasks import Task, Workload

N_IN, N_OUT, BATCH = 16, 4, 128
HIDDEN, HIDDEN_RESIDUAL = 3, 5
RATE = 0.1
KINDS: dict[str, tuple[str, ...]] = {
    "dense": (),
    "layer_norm": ("layer_norm",),
    "batch_norm": ("batch_norm",),
    "dropout": ("dropout",),
    "residual": ("residual",),
    "all": ("residual", "layer_norm", "dropout"),
    "all_batch": ("residual", "batch_norm", "dropout"),
}
TARGETS = {"torch": 2.0, "torch-compile": 2.0, "jax": 1.0}


def block_task(kind: str, width: int) -> Task:
    """Return a training step with a learning rate that falls with the width.

    The loss then falls by some percent per step at any width: enough to verify it.
    """
    blocks = KINDS[kind]
    hidden = HIDDEN_RESIDUAL if "residual" in blocks else HIDDEN
    workload = Workload(
        name=f"{kind} {width}",
        widths=(N_IN, *hidden * (width,), N_OUT),
        activation="relu",
        loss="mse",
        optimizer="adam",
        lr=8e-3 / width,
        batch=BATCH,
        blocks=blocks,
        rate=RATE if "dropout" in blocks else 0.0,
    )
    return Task(workload, "train", BATCH)


def ratios(row: dict[str, Any]) -> dict[str, float]:
    """Return each timed rival's time over fastmlp's."""
    ours = row["rivals"][SUBJECT]["seconds"]
    return {
        name: result["seconds"] / ours
        for name, result in row["rivals"].items()
        if name != SUBJECT and ours is not None and result["seconds"] is not None
    }


def header(peers: Sequence[str]) -> str:
    """Return the first line of a table."""
    names = [SUBJECT, *peers, *(f"{name}/{SUBJECT}" for name in peers)]
    columns = [f"{name:>{column_width(name)}}" for name in names]
    columns.insert(1 + len(peers), f"{'GFLOP/s':>9}{'% peak':>8}")
    return f"{'us per step':16}{''.join(columns)}"


def line(peers: Sequence[str], row: dict[str, Any], peak: float | None) -> str:
    """Return one line of a table; a ratio that misses its target is marked with <."""
    cells = []
    for name in (SUBJECT, *peers):
        result = row["rivals"][name]
        text = "absent" if result["verdict"] == "absent" else "refused"
        if result["seconds"] is not None:
            text = f"{1e6 * result['seconds']:.1f}"
        cells.append(f"{text:>{column_width(name)}}")
    percent = percent_of_peak(row, peak)
    cells.append("-".rjust(9) if row["gflops"] is None else f"{row['gflops']:9.1f}")
    cells.append("-".rjust(8) if percent is None else f"{percent:8.1f}")
    found = ratios(row)
    for name in peers:
        text = "-"
        if name in found:
            mark = " <" if name in row["missed"] else ""
            text = f"{found[name]:.2f}x{mark}"
        cells.append(f"{text:>{column_width(f'{name}/{SUBJECT}')}}")
    return f"{row['task']:16}{''.join(cells)}"


def measure(options: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """Print the table for a number of threads row by row; return the rows."""
    cpus = machine.describe()["cpus"]
    peak = FmaPeak(cpus[0])
    tasks = [
        block_task(kind, width) for width in options.widths for kind in options.kinds
    ]
    names = [SUBJECT, *options.peers]
    hand_over = machine.ping_pong(cpus) if threads > 1 else None
    print(heading(threads, tasks[0].workload.dtype, hand_over, cpus))
    print(header(options.peers), flush=True)
    rows = []
    processes = start_all(names, tasks[0], threads, cpus)
    try:
        for task in tasks:
            race(processes, task, options.rounds, options.seconds, peak.measure)
            row = record(task, threads, processes)
            row["failed"] = [runner.name for runner in processes if runner.failed]
            row["missed"] = [
                name
                for name, ratio in ratios(row).items()
                if task.workload.blocks and ratio < TARGETS[name]
            ]
            row["percent_of_peak"] = percent_of_peak(row, peak.gflops)
            rows.append(row)
            print(line(options.peers, row, peak.gflops), flush=True)
            for name in row["failed"]:
                verdict = row["rivals"][name]["verdict"]
                print(f"  {name}, {row['task']}: refused, {verdict}")
    finally:
        for process in processes:
            process.close()
    return rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; --quick only changes the defaults."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="short bursts")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    add("--widths", nargs="+", type=int, default=[64, 256])
    add("--peers", nargs="*", choices=["torch", "jax"], default=["torch", "jax"])
    add("--compile", action="store_true", help="torch.compile as well")
    machine.add_threads(parser)
    add("--rounds", type=int, help="default: 5, quick: 3")
    add("--seconds", type=float, help="per burst; default: 0.06, quick: 0.03")
    add("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    if options.compile:
        options.peers.insert(
            1 if options.peers[:1] == ["torch"] else 0, "torch-compile"
        )
    options.threads = machine.checked_threads(parser, options.threads)
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (0.03 if options.quick else 0.06)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0 if all rivals agree and all targets are met."""
    options = parse(arguments)
    end_cleanly_when_terminated()
    machine.announce(machine.describe())
    print(f"{options.rounds} rounds of {options.seconds} s")
    rows = [row for threads in options.threads for row in measure(options, threads)]
    targets = [f"{TARGETS[name]:g}x {name}" for name in options.peers]
    missed = sum(len(row["missed"]) for row in rows)
    print(f"\ntargets: {', '.join(targets)}; missed (<): {missed}")
    if options.json:
        content = {"machine": machine.describe(), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if missed or any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
