"""Time the estimators against those of scikit-learn.

    python bench/estimators.py

`MLPClassifier` with default parameters on the digits that come with scikit-learn, in
float64 and float32: ``fit``, with the accuracy on a held-out quarter of the data, and
``predict_proba`` of one row. Each library runs in its own process, bound to as many
CPUs as there are threads; they take turns. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import warnings
from time import perf_counter

MODULES = {"scikit-learn": "sklearn.neural_network", "fastmlp": "fastmlp.sklearn"}
DTYPES = ("float64", "float32")
CALLS = 300
SEEDS = range(3)  # per round: the number of iterations depends on the seed


def time_one(name: str, dtype: str, rounds: int) -> None:
    """Print one library's times of fit and predict, accuracy and iterations."""
    from importlib import import_module

    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    estimator = import_module(MODULES[name]).MLPClassifier
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype(dtype), y, random_state=0, stratify=y
    )
    row = x_test[:1].copy()
    warnings.simplefilter("ignore")  # 200 iterations are not enough
    for _ in range(rounds):
        fits, right, iterations = 0.0, 0.0, 0
        for seed in SEEDS:
            model = estimator(random_state=seed)
            start = perf_counter()
            model.fit(x_train, y_train)
            fits += perf_counter() - start
            right += model.score(x_test, y_test) / len(SEEDS)
            iterations += model.n_iter_
        times = []
        for _ in range(CALLS):
            start = perf_counter()
            model.predict_proba(row)
            times.append(perf_counter() - start)
        print(fits / len(SEEDS), statistics.median(times), right, iterations)


def race(threads: int, dtype: str, rounds: int) -> None:
    """Print a table of both libraries."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    found: dict[str, list[list[float]]] = {name: [] for name in MODULES}
    for _ in range(rounds):
        for name in MODULES:
            answer = subprocess.run(
                [sys.executable, sys.argv[0], "--child", name, dtype],
                check=True,
                capture_output=True,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": str(threads),
                    "OPENBLAS_NUM_THREADS": str(threads),
                },
            )
            found[name] += [
                [float(word) for word in line.split()]
                for line in answer.stdout.splitlines()
            ]
    print(f"\n{dtype}, {threads} thread{'s' * (threads > 1)}")
    print(f"{'':14}{'fit, ms':>10}{'one row, us':>14}{'accuracy':>11}{'epochs':>9}")
    medians = {}
    for name, rows in found.items():
        fit, row, right, epochs = map(statistics.median, zip(*rows, strict=True))
        medians[name] = fit, row
        print(
            f"{name:14}{1e3 * fit:10.1f}{1e6 * row:14.1f}{right:11.4f}"
            f"{epochs / len(SEEDS):9.1f}"
        )
    fit, row = (a / b for a, b in zip(*medians.values(), strict=True))
    print(f"{'ratio':14}{fit:10.2f}{row:14.2f}")


def main() -> None:
    """Print a table for each dtype and number of threads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        time_one(*options.child, rounds=1)
        return
    import machine

    machine.announce(machine.describe())
    for threads in options.threads:
        for dtype in DTYPES:
            race(threads, dtype, options.rounds)


if __name__ == "__main__":
    main()
