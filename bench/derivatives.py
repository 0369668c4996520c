"""Time Jacobians against torch.func and JAX, after checking that all agree.

    python bench/derivatives.py               10-64-64-10, 10^4 points, 1 and 2 threads
    python bench/derivatives.py --activation relu
    python bench/derivatives.py --second      also Hessians of 10-64-64-1

Rivals are ``torch.func.vmap(jacrev(f))`` (eager) and JAX's jitted ``vmap(jacrev(f))``
and ``vmap(jacfwd(f))``, the better of which counts; JAX's arrays are on its device
already. For each number of threads all run in one process that is bound to so many
CPUs, one call each per round in turns; figures are medians over the rounds, the first
ones left out.
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
# float32 through three layers: far above rounding, far below a wrong formula.
AGREEMENT = 1e-4


def rivals(
    parameters: list[tuple[np.ndarray, np.ndarray]],
    x: np.ndarray,
    order: int,
    activation: str,
) -> dict[str, Callable[[], Any]]:
    """Name -> call, of whatever is installed."""
    calls: dict[str, Callable[[], Any]] = {}
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed")
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
        print("JAX is not installed")
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


def measure(order: int, rows: int, rounds: int, activation: str) -> None:
    """Print the times of one workload in this process."""
    import fastmlp as fm

    widths = [10, 64, 64, 10 if order == 1 else 1]
    mlp = fm.MLP(widths, activation=activation, seed=0)
    x = np.random.default_rng(0).standard_normal((rows, 10)).astype(np.float32)
    pairs = zip(mlp.weights, mlp.biases, strict=True)
    parameters = [(w.copy(), np.array(b)) for w, b in pairs]
    ours = mlp.jacobian if order == 1 else mlp.hessian
    calls = {"fastmlp": lambda: ours(x), **rivals(parameters, x, order, activation)}

    expected = ours(x)
    for name, call in calls.items():
        if not np.allclose(np.asarray(call()), expected, rtol=0, atol=AGREEMENT):
            raise SystemExit(f"{name} disagrees")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(WARM_UP + rounds):
        for name, call in calls.items():
            start = perf_counter()
            call()
            seconds[name].append(perf_counter() - start)
    medians = {n: statistics.median(s[WARM_UP:]) for n, s in seconds.items()}
    what = "Jacobians" if order == 1 else "Hessians"
    threads = fm.get_num_threads()
    name = "-".join(map(str, widths))
    print(f"{what} of {name}, {activation}, {rows} points, threads: {threads}")
    for name, median in medians.items():
        times = median / medians["fastmlp"]
        print(f"  {name:16s} {1e3 * median:9.2f} ms {times:7.2f} x")


def main() -> None:
    """Parse arguments, and start a process for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--activation", default="tanh", choices=["tanh", "relu"])
    parser.add_argument("--second", action="store_true")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        measure(options.child, options.rows, options.rounds, options.activation)
        return
    cpus = sorted(os.sched_getaffinity(0))
    for threads in options.threads:
        for order in (1, 2) if options.second else (1,):
            subprocess.run(
                [sys.executable, *sys.argv, "--child", str(order)],
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                preexec_fn=lambda n=threads: os.sched_setaffinity(0, cpus[:n]),
            )


if __name__ == "__main__":
    main()
