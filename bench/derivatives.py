"""Time Jacobians against torch.func and JAX, after checking that all agree.

    python bench/derivatives.py               10-64-64-10, 10^4 points, 1 and 2 threads
    python bench/derivatives.py --activation relu
    python bench/derivatives.py --second      also Hessians of 10-64-64-1

Rivals are ``torch.func.vmap(jacrev(f))`` (eager) and JAX's jitted ``vmap(jacrev(f))``
and ``vmap(jacfwd(f))``, of which the faster counts; JAX's arrays are already on its
device. Each rival is timed in its own process, bound to as many CPUs as there are
threads, because waiting thread pools would slow each other down; the rivals take turns.
Figures are medians over the rounds of medians over the calls.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

WARM_UP = 3
# Relative tolerance for float32 through three layers: far above rounding errors, far
# below the error of a wrong formula.
AGREEMENT = 1e-4
NAMES = ("torch jacrev", "jax jacrev", "jax jacfwd")
NAMES_SECOND = ("torch hessian", "jax hessian")


def rivals(
    parameters: list[tuple[np.ndarray, np.ndarray]],
    x: np.ndarray,
    order: int,
    activation: str,
) -> dict[str, Callable[[], Any]]:
    """Return a call by name for each installed rival."""
    calls: dict[str, Callable[[], Any]] = {}
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        func = torch.func
        layers = [(torch.tensor(w), torch.tensor(b)) for w, b in parameters]
        rows = torch.tensor(x)
        act = getattr(torch, activation)

        def torch_network(h: Any) -> Any:
            for w, b in layers[:-1]:
                h = act(h @ w + b)
            w, b = layers[-1]
            y = h @ w + b
            return y if order == 1 else y[0]

        ways = {"jacrev": func.jacrev} if order == 1 else {"hessian": func.hessian}
        for name, way in ways.items():
            batched = func.vmap(way(torch_network))
            calls[f"torch {name}"] = lambda batched=batched: batched(rows)
    try:
        import jax
    except ImportError:
        pass
    else:
        device = [(jax.numpy.asarray(w), jax.numpy.asarray(b)) for w, b in parameters]
        samples = jax.numpy.asarray(x)
        jax_act = getattr(jax.nn, activation)

        def jax_network(device: Any, h: Any) -> Any:
            for w, b in device[:-1]:
                h = jax_act(h @ w + b)
            w, b = device[-1]
            y = h @ w + b
            return y if order == 1 else y[0]

        ways = {"jacrev": jax.jacrev, "jacfwd": jax.jacfwd}
        if order == 2:
            ways = {"hessian": jax.hessian}
        for name, way in ways.items():
            batched = jax.jit(jax.vmap(way(jax_network, argnums=1), (None, 0)))
            calls[f"jax {name}"] = lambda batched=batched: batched(
                device, samples
            ).block_until_ready()
    return calls


def time_one(order: int, rows: int, calls: int, activation: str, name: str) -> None:
    """Print the median seconds of one rival in this process, if it is installed."""
    import fastmlp as fm

    mlp = fm.MLP(widths(order), activation=activation, seed=0)
    x = np.random.default_rng(0).standard_normal((rows, 10)).astype(np.float32)
    pairs = zip(mlp.weights, mlp.biases, strict=True)
    parameters = [(w.copy(), np.array(b)) for w, b in pairs]
    ours = mlp.jacobian if order == 1 else mlp.hessian
    found = {"fastmlp": lambda: ours(x)}
    if name != "fastmlp":
        found = rivals(parameters, x, order, activation)
    if name not in found:
        return
    call = found[name]
    if not np.allclose(np.asarray(call()), ours(x), rtol=0, atol=AGREEMENT):
        raise SystemExit(f"{name} disagrees")
    seconds = []
    for _ in range(WARM_UP + calls):
        start = perf_counter()
        call()
        seconds.append(perf_counter() - start)
    print(statistics.median(seconds[WARM_UP:]))


def widths(order: int) -> list[int]:
    """Return the network's widths: many outputs for Jacobians, one for Hessians."""
    return [10, 64, 64, 10 if order == 1 else 1]


def race(order: int, threads: int, options: argparse.Namespace) -> None:
    """Print a table of the rivals, timed in turns in separate processes."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    names = ["fastmlp", *(NAMES if order == 1 else NAMES_SECOND)]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            answer = subprocess.run(
                [sys.executable, *sys.argv, "--child", str(order), name],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                preexec_fn=lambda: os.sched_setaffinity(0, cpus),
            ).stdout
            seconds[name] += [float(word) for word in answer.split()]
    what = "Jacobians" if order == 1 else "Hessians"
    net = "-".join(map(str, widths(order)))
    rows, activation = options.rows, options.activation
    print(f"{what} of {net}, {activation}, {rows} points, threads: {threads}")
    medians = {n: statistics.median(s) for n, s in seconds.items() if s}
    for name, median in medians.items():
        times = median / medians["fastmlp"]
        print(f"  {name:16s} {1e3 * median:9.2f} ms {times:7.2f} x", flush=True)


def main() -> None:
    """Parse arguments and time the rivals for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--activation", default="tanh", choices=["tanh", "relu"])
    parser.add_argument("--second", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        order, name = options.child
        time_one(int(order), options.rows, options.calls, options.activation, name)
        return
    for threads in options.threads:
        for order in (1, 2) if options.second else (1,):
            race(order, threads, options)


if __name__ == "__main__":
    main()
