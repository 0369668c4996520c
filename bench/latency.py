"""Time single calls of inference: the median and the 99th percentile.

    python bench/latency.py                one row, three networks
    python bench/latency.py --rows 16      a fixed batch

The calls are those of a control loop, in one thread: ``mlp.predictor()`` and
``mlp(x, out=y)``; an ONNX Runtime session on the file of ``mlp.to_onnx``, plain and
with inputs and outputs bound; PyTorch on the module of ``mlp.to_torch``, eager in
inference mode, and traced and frozen; NumPy's ``@``; and the header of ``mlp.to_c``
called from C, compiled with ``cc -O3 -march=native``. All outputs are compared first.
Each rival is timed in its own process, bound to one CPU; they take turns. Figures are
medians over the rounds and include reading the clock (some 40 ns in Python, 20 in C).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

NETWORKS = {
    "rl-tiny": ([4, 64, 64, 2], "tanh"),
    "sac": ([17, 256, 256, 6], "relu"),
    "mnist": ([784, 512, 512, 10], "tanh"),
}
NAMES = (
    "predictor",
    "mlp(x, out)",
    "ONNX Runtime",
    "ONNX bound",
    "PyTorch",
    "PyTorch frozen",
    "NumPy",
    "C header",
)
# Relative tolerance for float32 through three layers: far above rounding errors, far
# below the error of a wrong formula.
AGREEMENT = 1e-4
WARM_UP = 200


def ours(mlp: Any, x: np.ndarray, name: str) -> Callable[[], Any]:
    """Return a call of fastmlp, or of NumPy with the same parameters."""
    if name == "predictor":
        return mlp.predictor(x=x)
    if name == "NumPy":
        act = np.tanh if mlp.layers[0].activation == "tanh" else relu
        pairs = list(zip(mlp.weights, mlp.biases, strict=True))

        def numpy_network() -> np.ndarray:
            h = x
            for w, b in pairs[:-1]:
                h = act(h @ w + b)
            w, b = pairs[-1]
            return h @ w + b

        return numpy_network
    out = np.empty((*x.shape[:-1], mlp.n_out), np.float32)
    return lambda: mlp(x, out=out)


def relu(z: np.ndarray) -> np.ndarray:
    """max(z, 0), element by element."""
    return np.maximum(z, 0)


def onnx_session(mlp: Any, x: np.ndarray, *, bound: bool) -> Callable[[], Any]:
    """Return a call of ONNX Runtime, which accepts 2-D inputs only."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        mlp.to_onnx(f"{folder}/mlp.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            f"{folder}/mlp.onnx", options, providers=["CPUExecutionProvider"]
        )
    rows = np.atleast_2d(x)
    x_name, y_name = session.get_inputs()[0].name, session.get_outputs()[0].name
    if not bound:
        return lambda: session.run([y_name], {x_name: rows})[0]
    y = np.empty((len(rows), mlp.n_out), np.float32)
    binding = session.io_binding()
    cpu = onnxruntime.OrtValue.ortvalue_from_numpy
    binding.bind_ortvalue_input(x_name, cpu(rows))
    binding.bind_output(y_name, "cpu", 0, np.float32, y.shape, y.ctypes.data)

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        return y

    return run


def torch_network(mlp: Any, x: np.ndarray, *, frozen: bool) -> Callable[[], Any]:
    """Return a call of PyTorch."""
    import torch

    torch.set_num_threads(1)
    network, rows = mlp.to_torch().eval(), torch.from_numpy(x)
    with torch.inference_mode():
        if frozen:
            network = torch.jit.freeze(torch.jit.trace(network, rows))

    def run() -> Any:
        with torch.inference_mode():
            return network(rows)

    return run


def time_c(mlp: Any, x: np.ndarray, calls: int) -> tuple[np.ndarray, list[float]]:
    """Compile and run bench/latency.c; return its outputs and figures."""
    source = Path(__file__).with_name("latency.c")
    with tempfile.TemporaryDirectory() as folder:
        mlp.to_c(f"{folder}/mlp.h")
        command = ["cc", "-O3", "-march=native", "-std=gnu99", "-I", folder]
        program = f"{folder}/latency"
        subprocess.run([*command, source, "-o", program, "-lm"], check=True)
        arguments = [str(calls), *(f"{v:.9g}" for v in x)]
        answer = subprocess.run(
            [program, *arguments], check=True, capture_output=True, text=True
        )
    numbers = [float(word) for word in answer.stdout.split()]
    return np.array(numbers[:-2]), numbers[-2:]


def time_one(network: str, rows: int | None, calls: int, name: str) -> None:
    """Print median and 99th percentile, in ns, of one rival in this process."""
    import fastmlp as fm

    widths, activation = NETWORKS[network]
    mlp = fm.MLP(widths, activation=activation, seed=0)
    shape = widths[0] if rows is None else (rows, widths[0])
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    if name == "C header":
        if rows is not None or not shutil.which("cc"):
            return
        output, figures = time_c(mlp, x, calls)
        if not np.allclose(output, mlp(x), rtol=0, atol=AGREEMENT):
            raise SystemExit("the C header disagrees")
        print(*figures)
        return
    try:
        if name.startswith("ONNX"):
            call = onnx_session(mlp, x, bound=name == "ONNX bound")
        elif name.startswith("PyTorch"):
            call = torch_network(mlp, x, frozen=name == "PyTorch frozen")
        else:
            call = ours(mlp, x, name)
    except ImportError:
        return
    if not np.allclose(np.asarray(call()), mlp(x), rtol=0, atol=AGREEMENT):
        raise SystemExit(f"{name} disagrees")
    took = []
    for _ in range(WARM_UP + calls):
        start = perf_counter_ns()
        call()
        took.append(perf_counter_ns() - start)
    print(*np.percentile(took[WARM_UP:], [50, 99]))


def race(network: str, options: argparse.Namespace) -> None:
    """Print a table of the rivals, timed in turns in separate processes."""
    cpu = sorted(os.sched_getaffinity(0))[:1]
    figures: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    for _ in range(options.rounds):
        for name in NAMES:
            answer = subprocess.run(
                [sys.executable, *sys.argv, "--child", network, name],
                check=True,
                capture_output=True,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cpu),
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            if answer.stdout.strip():
                figures[name].append([float(word) for word in answer.stdout.split()])

    widths, activation = NETWORKS[network]
    rows = "one row" if options.rows is None else f"{options.rows} rows"
    print(f"\n{network}: {'-'.join(map(str, widths))} {activation}, {rows}")
    print(f"{'':16}{'p50, us':>10}{'p99, us':>10}{'ratio of p50':>14}")
    first = None
    for name, found in figures.items():
        if not found:
            print(f"{name:16}{'-':>10}")
            continue
        p50, p99 = (
            statistics.median(column) / 1000 for column in zip(*found, strict=True)
        )
        first = first or p50
        print(f"{name:16}{p50:10.2f}{p99:10.2f}{p50 / first:14.2f}")


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--rows", type=int, help="rows of a batch (default: one row)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--calls", type=int, default=5000, help="calls of each rival in a round"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        network, name = options.child
        time_one(network, options.rows, options.calls, name)
        return
    import machine

    machine.announce(machine.describe())
    for network in options.networks:
        race(network, options)


if __name__ == "__main__":
    main()
