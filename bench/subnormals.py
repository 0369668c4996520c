"""Time of steps and predictions that meet subnormal numbers, relative to ordinary ones.

``python bench/subnormals.py`` trains for 100,000 steps first (about two minutes);
``--quick`` for 2,000. Each line is the median time with subnormal numbers, or after the
training, divided by that of fresh values in the same interleaved run.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from statistics import median

import fastmlp as fm
import numpy as np

# The largest ratio that counts as no slower.
LIMIT = 1.1


def ratio(ordinary: Callable[[], object], other: Callable[[], object]) -> float:
    """Return the time of ``other`` relative to ``ordinary``: the median of 60 pairs."""
    calls = 1
    while duration(ordinary, calls) < 2e-3:
        calls *= 2
    pairs = [(duration(other, calls), duration(ordinary, calls)) for _ in range(60)]
    return median(a / b for a, b in pairs)


def duration(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in itertools.repeat(None, calls):
        call()
    return time.perf_counter() - start


def aged(name: str, widths: list[int], rows: int, steps: int) -> tuple[str, float]:
    """Train on data with columns that are 0 and units that die, then time a step."""
    rng = np.random.default_rng(0)
    x = rng.random((rows, widths[0]), np.float32)
    x[:, : widths[0] // 4] = 0  # such as the border pixels of digits
    labels = rng.integers(0, widths[-1], rows)
    old, new = fm.MLP(widths, seed=0), fm.MLP(widths, seed=0)
    optimizers = fm.Adam(), fm.Adam()
    loss = fm.CrossEntropy()
    for mlp, optimizer, count in zip((old, new), optimizers, (steps, 5), strict=True):
        for _ in range(count):
            mlp.train_step(x, labels, loss, optimizer)
    return name, ratio(
        lambda: new.train_step(x, labels, loss, optimizers[1]),
        lambda: old.train_step(x, labels, loss, optimizers[0]),
    )


def decayed(epochs: int) -> tuple[str, float]:
    """Train a classifier whose L2 penalty drives weights towards 0."""
    from fastmlp.sklearn import MLPClassifier

    rng = np.random.default_rng(0)
    x = rng.random((500, 64)).astype(np.float32)
    x[:, :16] = 0
    y = (x[:, 20] > 0.5).astype(int)
    models = [
        MLPClassifier((100,), alpha=1.0, max_iter=n, tol=0, n_iter_no_change=10**6)
        for n in (epochs, 2)
    ]
    for model in models:
        model.set_params(random_state=0, dtype="float32").fit(x, y)
    old, new = (model.mlp_ for model in models)
    return "MLPClassifier, predict", ratio(lambda: new(x), lambda: old(x))


def of_rows(dtype: str, rows: int) -> list[tuple[str, float]]:
    """Time predictions with small weights and with small inputs."""
    rng, tiny = np.random.default_rng(0), float(np.finfo(dtype).smallest_normal) / 100
    new, old = (fm.MLP([64, 100, 10], seed=0, dtype=dtype) for _ in range(2))
    old.weights[0][:8] = tiny
    x = rng.standard_normal((rows, 64)).astype(dtype)
    small = x.copy()
    small[:, ::2] = tiny
    return [
        (f"{dtype}, weights, {rows} rows", ratio(lambda: new(x), lambda: old(x))),
        (f"{dtype}, inputs, {rows} rows", ratio(lambda: new(x), lambda: new(small))),
    ]


def of_tail(dtype: str, name: str) -> list[tuple[str, float]]:
    """Time an activation and its derivative where most results are subnormal."""
    far = -95 if dtype == "float32" else -720
    mlp = fm.MLP([256, fm.Activation(name)], dtype=dtype)
    x = np.random.default_rng(0).standard_normal((256, 256)).astype(dtype)
    tail = np.where(x > 2, x, far).astype(dtype)
    return [
        (f"{dtype}, {name}", ratio(lambda: mlp(x), lambda: mlp(tail))),
        (
            f"{dtype}, {name}, vjp",
            ratio(lambda: mlp.vjp(x, x), lambda: mlp.vjp(tail, x)),
        ),
    ]


TAILS = ("sigmoid", "silu", "softplus", "gelu", "elu", "tanh", "softmax")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    steps = 2_000 if parser.parse_args().quick else 100_000
    fm.set_num_threads(1)
    found = [
        aged("digits 64-256-256-10, Adam", [64, 256, 256, 10], 32, steps),
        aged("DQN 4-64-64-2, Adam", [4, 64, 64, 2], 64, steps),
        decayed(400 if steps > 2_000 else 20),
    ]
    for dtype in ("float32", "float64"):
        for rows in (1, 8, 256):
            found += of_rows(dtype, rows)
        for name in TAILS:
            found += of_tail(dtype, name)
    for name, value in found:
        print(f"{name:32} {value:.2f}", "" if value <= LIMIT else " slower")
    return int(any(value > LIMIT for _, value in found))


if __name__ == "__main__":
    sys.exit(main())
