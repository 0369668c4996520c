"""Time matrix products against PyTorch's and NumPy's, after checking that all agree.

    python bench/products.py                 n = 256 ... 2048, 1 and 2 threads
    python bench/products.py --quick
    python bench/products.py --curve --layouts nn --threads 1
    python bench/products.py --shapes --dtype float32 float64

The products are C = A B (nn), A B^T (nt) and A^T B (tn), all row-major, written to a
given C: the kernels of fastmlp, ``torch.mm(out=)`` and ``numpy.matmul(out=)``. Without
--curve or --shapes they are square.

- --curve: n = 64 ... 2048 in steps of 32, or the given sizes. The column *dip* is the
  distance of fastmlp's GFLOP/s below the mean of the two neighbours; more than 15 % are
  marked with <.
- --shapes: the products of the layers of peers.py's training workloads: forward (nn),
  input gradient (nt), weight gradient (tn).

All libraries run in one process, which is bound to as many CPUs as there are threads.
In every round they take turns, in rotating order; before each burst the process sleeps
until idle threads no longer spin. A ratio is the median over the rounds of a rival's
time over fastmlp's in the same round. The FMA peak is measured in every round as well.
"""

from __future__ import annotations

import abc
import argparse
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import fastmlp as fm
import machine
import numpy as np
from fastmlp._core import kernels
from machine import FmaPeak
from peers import FIRST_PEAK_SAMPLES, heading, peak_fields, peaks_and_versions
from rivals.arena import SUBJECT
from rivals.tasks import WORKLOADS
from rivals.worker import Stopwatch, confine

SIZES = (256, 384, 512, 768, 1024, 1536, 2048)
QUICK_SIZES = (256, 512)
CURVE = tuple(range(64, 2049, 32))
QUICK_CURVE = tuple(range(64, 385, 32))
DIP = 0.15  # share below the mean of the neighbours from which a point is marked

# A process is idle when it uses less than this share of a CPU while it sleeps. Threads
# of OpenBLAS were seen to spin for a tenth of a second after a product.
IDLE_SHARE, IDLE_SECONDS, MAX_SLEEPS = 0.1, 0.005, 40


@dataclasses.dataclass(frozen=True)
class Product:
    """A product C = A B of an (m, k) by a (k, n) matrix; A or B may be transposed."""

    layout: str  # "nn", "nt" (B is stored transposed) or "tn" (A is)
    m: int
    n: int
    k: int
    name: str = ""

    @property
    def label(self) -> str:
        """For example ``nn 128x512x784``."""
        return f"{self.layout} {self.m}x{self.n}x{self.k}"

    @property
    def flops(self) -> int:
        """Operations, 2 per multiply-add."""
        return 2 * self.m * self.n * self.k

    def operands(self, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Return random matrices A and B as they are stored."""
        rng = np.random.default_rng([self.m, self.n, self.k])
        a = (self.k, self.m) if self.layout == "tn" else (self.m, self.k)
        b = (self.n, self.k) if self.layout == "nt" else (self.k, self.n)
        return rng.standard_normal(a).astype(dtype), rng.standard_normal(b).astype(
            dtype
        )


def squares(layouts: Sequence[str], sizes: Sequence[int]) -> list[Product]:
    """Return the square products of some sizes."""
    return [Product(layout, n, n, n) for layout in layouts for n in sizes]


def workload_products(layouts: Sequence[str]) -> list[Product]:
    """Return the different products of the workloads' training steps."""
    found: dict[str, Product] = {}
    for workload in WORKLOADS.values():
        rows = workload.batch
        for layer, (i, o) in enumerate(itertools.pairwise(workload.widths)):
            products = [Product("nn", rows, o, i, f"{workload.name}, forward")]
            if layer > 0:  # the inputs of the network need no gradient
                name = f"{workload.name}, input gradient"
                products.append(Product("nt", rows, i, o, name))
            name = f"{workload.name}, weight gradient"
            products.append(Product("tn", i, o, rows, name))
            for product in products:
                found.setdefault(product.label, product)
    chosen = [product for product in found.values() if product.layout in layouts]
    return sorted(chosen, key=lambda product: layouts.index(product.layout))


# --- the libraries ------------------------------------------------------------------

Call = Callable[[], object]


def transposed(layout: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Return views of A and B as the factors of the product."""
    return (a.T if layout == "tn" else a), (b.T if layout == "nt" else b)


class Library(abc.ABC):
    """A library whose products are timed."""

    packages: ClassVar[tuple[str, ...]]  # packages that must be installed
    versions: dict[str, str]  # versions and settings to print

    @abc.abstractmethod
    def set_threads(self, threads: int) -> None:
        """Set the number of threads."""

    @abc.abstractmethod
    def call(self, layout: str, c: np.ndarray, a: np.ndarray, b: np.ndarray) -> Call:
        """Return a function that computes C."""


class Fastmlp(Library):
    """The kernels of fastmlp."""

    packages = ("fastmlp",)

    def __init__(self) -> None:
        self.versions = {"fastmlp": fm.__version__, "isa": fm.isa()}

    def set_threads(self, threads: int) -> None:
        """Set the number of threads."""
        fm.set_num_threads(threads)

    def call(self, layout: str, c: np.ndarray, a: np.ndarray, b: np.ndarray) -> Call:
        """Return a function that computes C."""
        return functools.partial(getattr(kernels, f"gemm_{layout}"), c, a, b)


class Torch(Library):
    """``torch.mm`` on tensors that share the arrays' memory."""

    packages = ("torch",)

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.versions = {"torch": self.torch.__version__}

    def set_threads(self, threads: int) -> None:
        """Set the number of threads."""
        self.torch.set_num_threads(threads)

    def call(self, layout: str, c: np.ndarray, a: np.ndarray, b: np.ndarray) -> Call:
        """Return a function that computes C."""
        out, *stored = map(self.torch.from_numpy, (c, a, b))
        return functools.partial(self.torch.mm, *transposed(layout, *stored), out=out)


class Numpy(Library):
    """``numpy.matmul``, whose number of threads is set by threadpoolctl."""

    packages = ("numpy", "threadpoolctl")

    def __init__(self) -> None:
        self.control = importlib.import_module("threadpoolctl").ThreadpoolController()
        self.versions = {"numpy": np.__version__}

    def set_threads(self, threads: int) -> None:
        """Set the number of threads."""
        self.limit = self.control.limit(limits=threads, user_api="blas")

    def call(self, layout: str, c: np.ndarray, a: np.ndarray, b: np.ndarray) -> Call:
        """Return a function that computes C."""
        return functools.partial(np.matmul, *transposed(layout, a, b), out=c)


LIBRARIES: dict[str, type[Library]] = {SUBJECT: Fastmlp, "torch": Torch, "numpy": Numpy}


def missing(name: str) -> list[str]:
    """Return the packages that a library needs and that are not installed."""
    packages = LIBRARIES[name].packages
    return [package for package in packages if not importlib.util.find_spec(package)]


def disagreement(c: np.ndarray, right: np.ndarray, k: int) -> str:
    """Return how a result differs from the right one; an empty string if it agrees.

    The right one is computed by NumPy in float64.
    A sum of k products has a rounding error of at most k * eps / 2 times the sum of
    their magnitudes, and on random data of about sqrt(k) * eps times its own size. The
    tolerance is k * eps, relative to the largest entry: a wrong formula differs by
    about 1, and a product with factors rounded to bfloat16 by more than 1e-3.
    """
    error = float(np.abs(c - right).max() / np.abs(right).max())
    tolerance = k * float(np.finfo(c.dtype).eps)
    if error <= tolerance:
        return ""
    return f"differs by {error:.1e} of the largest entry, tolerance {tolerance:.1e}"


# --- timing -------------------------------------------------------------------------


def wait_until_idle() -> None:
    """Sleep until no thread of this process spins, but not for ever."""
    for _ in range(MAX_SLEEPS):
        used = time.process_time()
        time.sleep(IDLE_SECONDS)
        if time.process_time() - used < IDLE_SHARE * IDLE_SECONDS:
            return


class Run:
    """One run with the settings of the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.machine = machine.describe()
        self.cpus: list[int] = self.machine["cpus"]
        names = [SUBJECT, *options.peers]
        self.absent = {name: missing(name) for name in names if missing(name)}
        self.libraries = {
            name: LIBRARIES[name]() for name in names if name not in self.absent
        }
        self.peaks = {dtype: FmaPeak(self.cpus[0], dtype) for dtype in options.dtype}
        self.failed = False

    def race(self, product: Product, dtype: str, threads: int) -> dict[str, Any]:
        """Verify the libraries at one product, and time them in turns."""
        a, b = product.operands(dtype)
        factors = transposed(product.layout, a, b)
        right = np.matmul(*(factor.astype(np.float64) for factor in factors))
        stopwatches = {}
        verdicts = dict.fromkeys(self.absent, "absent")
        for name, library in self.libraries.items():
            c = np.full((product.m, product.n), np.nan, dtype)
            call = library.call(product.layout, c, a, b)
            call()
            verdicts[name] = disagreement(c, right, product.k)
            if not verdicts[name]:
                stopwatches[name] = Stopwatch(call)
        if verdicts[SUBJECT]:
            sys.exit(f"{SUBJECT}, {product.label}: {verdicts[SUBJECT]}")
        seconds: dict[str, list[float]] = {name: [] for name in stopwatches}
        order = list(stopwatches)
        for turn in range(self.options.rounds):
            wait_until_idle()
            self.peaks[dtype].measure()
            first = turn % len(order)
            for name in order[first:] + order[:first]:
                wait_until_idle()
                burst = stopwatches[name].burst(self.options.seconds)
                seconds[name].append(burst["median"])
        return record(product, dtype, threads, verdicts, seconds)

    def table(self, dtype: str, threads: int) -> list[dict[str, Any]]:
        """Print a table row by row; return the rows."""
        confine(self.cpus[:threads])
        for library in self.libraries.values():
            library.set_threads(threads)
        for _ in range(FIRST_PEAK_SAMPLES):
            wait_until_idle()
            self.peaks[dtype].measure()
        hand_over = machine.ping_pong(self.cpus) if threads > 1 else None
        print(heading(threads, dtype, hand_over, self.cpus))
        print(header(self.options.peers), flush=True)
        rows = []
        for product in self.options.products:
            row = self.race(product, dtype, threads)
            rows.append(row)
            print(line(self.options.peers, row, self.peaks[dtype].gflops), flush=True)
            for name, verdict in row["verdicts"].items():
                if verdict not in ("", "absent"):
                    self.failed = True
                    print(f"  {name}, {product.label}: refused, {verdict}")
        return rows

    def measure(self) -> dict[str, Any]:
        """Measure and print everything; return the content of the JSON file."""
        machine.announce(self.machine)
        print(f"{self.options.rounds} rounds of {self.options.seconds} s")
        for name, packages in self.absent.items():
            print(f"{name}: absent, not installed: {', '.join(packages)}")
        rows: list[dict[str, Any]] = []
        for dtype, threads in itertools.product(
            self.options.dtype, self.options.threads
        ):
            found = self.table(dtype, threads)
            if self.options.curve:
                print_dips(found)
            rows += found
        versions = {"python": self.machine["python"]}
        for library in self.libraries.values():
            versions |= library.versions
        for row in rows:
            row["percent_of_peak"] = percent(row, self.peaks[row["dtype"]].gflops)
        return {
            "machine": self.machine,
            "versions": versions,
            "rounds": self.options.rounds,
            "seconds_per_burst": self.options.seconds,
            **peak_fields(self.peaks),
            "rows": rows,
        }


# --- records and tables -------------------------------------------------------------


def record(
    product: Product,
    dtype: str,
    threads: int,
    verdicts: dict[str, str],
    seconds: dict[str, list[float]],
) -> dict[str, Any]:
    """Return a row of a table, as in the JSON file."""
    ours = seconds[SUBJECT]
    return {
        **dataclasses.asdict(product),
        "product": product.label,
        "dtype": dtype,
        "threads": threads,
        "verdicts": verdicts,
        "rounds": seconds,
        "gflops": {
            name: product.flops / statistics.median(times) / 1e9
            for name, times in seconds.items()
        },
        "ratios": {
            name: statistics.median(
                theirs / mine for theirs, mine in zip(times, ours, strict=True)
            )
            for name, times in seconds.items()
            if name != SUBJECT
        },
    }


def percent(row: dict[str, Any], peak: float | None) -> float | None:
    """Return fastmlp's share of the threads' FMA peak, if that is known."""
    if peak is None:
        return None
    return 100.0 * float(row["gflops"][SUBJECT]) / (int(row["threads"]) * peak)


def header(peers: Sequence[str]) -> str:
    """Return the first line of a table."""
    columns = "".join(f"{name:>10}{'ratio':>9}" for name in peers)
    return f"{'GFLOP/s':20}{SUBJECT:>10}{'% peak':>8}{columns}"


def line(peers: Sequence[str], row: dict[str, Any], peak: float | None) -> str:
    """Return one line of a table."""
    share = percent(row, peak)
    cells = f"{row['gflops'][SUBJECT]:10.1f}"
    cells += f"{'-':>8}" if share is None else f"{share:8.1f}"
    for name in peers:
        if name in row["ratios"]:
            cells += f"{row['gflops'][name]:10.1f}{row['ratios'][name]:8.2f}x"
        else:
            verdict = "absent" if row["verdicts"][name] == "absent" else "refused"
            cells += f"{verdict:>10}{'-':>9}"
    return f"{row['product']:20}{cells}  {row['name']}".rstrip()


def dips(gflops: Sequence[float]) -> list[float]:
    """Return the share by which each inner point is below its neighbours' mean."""
    return [
        1.0 - 2.0 * middle / (left + right)
        for left, middle, right in zip(gflops, gflops[1:], gflops[2:], strict=False)
    ]


def print_dips(rows: Sequence[dict[str, Any]]) -> None:
    """Print the dips of the curve of each layout, and add them to the rows."""
    print("\npercent below the mean of both neighbours")
    for layout, group in itertools.groupby(rows, key=lambda row: str(row["layout"])):
        inner = list(group)
        found = dips([row["gflops"][SUBJECT] for row in inner])
        for row, dip in zip(inner[1:-1], found, strict=True):
            row["dip"] = dip
            mark = " <" if dip > DIP else ""
            print(f"{layout} {row['n']:>5}{100.0 * dip:+8.1f}{mark}")
        marked = sum(dip > DIP for dip in found)
        print(f"{layout}: more than {100 * DIP:g} % below (<): {marked}")


# --- the command line ---------------------------------------------------------------


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; --quick only changes the defaults."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
    )
    layouts = ["nn", "nt", "tn"]
    peers = [name for name in LIBRARIES if name != SUBJECT]
    add = parser.add_argument
    add("--quick", action="store_true", help="few sizes, short bursts: under a minute")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--curve", action="store_true", help="many sizes, with the dips")
    kind.add_argument("--shapes", action="store_true", help="the workloads' products")
    add("--sizes", nargs="+", type=int, help="default: 256 ... 2048, quick: 256 512")
    add("--layouts", nargs="+", choices=layouts, default=layouts)
    add("--peers", nargs="*", choices=peers, default=peers)
    machine.add_threads(parser)
    machine.add_dtypes(parser)
    add("--rounds", type=int, help="default: 7, quick: 3")
    add("--seconds", type=float, help="per burst; default: 0.1, quick: 0.02")
    add("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    if options.sizes and options.shapes:
        parser.error("--sizes does not go with --shapes, which has its own")
    if options.sizes and min(options.sizes) < 1:
        parser.error(f"--sizes must be at least 1, got {options.sizes}")
    options.threads = machine.checked_threads(parser, options.threads)
    if options.shapes:
        options.products = workload_products(options.layouts)
    else:
        usual, quick = (CURVE, QUICK_CURVE) if options.curve else (SIZES, QUICK_SIZES)
        sizes = options.sizes or (quick if options.quick else usual)
        options.products = squares(options.layouts, sorted(sizes))
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (0.02 if options.quick else 0.1)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0 if all installed libraries agree."""
    options = parse(arguments)
    run = Run(options)
    content = run.measure()
    print(peaks_and_versions(content))
    print("products m x n x k; share of the peak (threads x one core's): fastmlp")
    print("ratio: time of the rival over time of fastmlp")
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
