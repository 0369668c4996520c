"""Throughput of several threads: separate models, and predictions during training.

    python bench/serving.py
    python bench/serving.py --rounds 3 --seconds 0.5

``separate``: two threads that each train a model of their own, in steps per second,
over one such thread. Target: 1.8 times on two CPUs.

``shared``: one thread trains a model while four threads predict with it. ``trainer`` is
its share of the steps that it takes alone; target: a third. ``readers`` is the rows
that the four predict meanwhile, over those that they predict while nobody trains.

Every thread uses one CPU (`fastmlp.set_num_threads` is 1). The situations take turns; a
ratio is the median over the rounds of the ratio within a round. The exit code is 1 if a
target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable

import fastmlp as fm
import numpy as np

LAYERS, BATCH, ROWS, READERS = [64, 256, 256, 10], 128, 2000, 4
SEPARATE, SHARED = 1.8, 1 / 3


def trainer(mlp: fm.MLP, seed: int) -> Callable[[], object]:
    """Return a function that takes one step."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((BATCH, mlp.n_in)).astype(mlp.dtype)
    y = rng.integers(0, mlp.n_out, BATCH)
    loss, opt = fm.CrossEntropy(), fm.Adam(1e-4)
    return lambda: mlp.train_step(x, y, loss, opt)


def reader(mlp: fm.MLP) -> Callable[[], object]:
    """Return a function that predicts ROWS rows."""
    x = np.random.default_rng(9).standard_normal((ROWS, mlp.n_in)).astype(mlp.dtype)
    out = np.empty((ROWS, mlp.n_out), mlp.dtype)
    return lambda: mlp.predict(x, out=out)


def rates(calls: list[Callable[[], object]], seconds: float) -> list[float]:
    """Return the calls per second of each function, called in a thread of its own."""
    start, counts = threading.Barrier(len(calls)), [0.0] * len(calls)

    def run(i: int) -> None:
        calls[i]()
        start.wait()
        begin, done = time.perf_counter(), 0
        while time.perf_counter() < begin + seconds:
            calls[i]()
            done += 1
        counts[i] = done / (time.perf_counter() - begin)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a situation")
    options = parser.parse_args()
    fm.set_num_threads(1)
    one, two, served = (fm.MLP(LAYERS, seed=seed) for seed in range(3))
    steps = [trainer(one, 0), trainer(two, 1)]
    step, reads = trainer(served, 2), [reader(served) for _ in range(READERS)]
    found: dict[str, list[float]] = {"separate": [], "trainer": [], "readers": []}
    for _ in range(options.rounds):
        alone = rates(steps[:1], options.seconds)[0]
        both = sum(rates(steps, options.seconds))
        found["separate"].append(both / alone)
        trains = rates([step], options.seconds)[0]
        predicts = sum(rates(reads, options.seconds))
        mixed = rates([step, *reads], options.seconds)
        found["trainer"].append(mixed[0] / trains)
        found["readers"].append(sum(mixed[1:]) / predicts)
    ratio = {name: statistics.median(values) for name, values in found.items()}
    print(f"separate  2 threads, 2 models: {ratio['separate']:.2f} times one thread")
    share = f"{ratio['trainer']:.2f} of its steps"
    print(f"shared    trainer beside {READERS} readers: {share}")
    print(f"          readers: {ratio['readers']:.2f} of their rows")
    good = ratio["separate"] >= SEPARATE and ratio["trainer"] >= SHARED
    print("targets reached" if good else "TARGET MISSED")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
