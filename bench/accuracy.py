"""Measure rounding errors of matrix products and optimisers; exit with 1 beyond bounds.

    python bench/accuracy.py              # 10,000 shapes, a million steps: half an hour
    python bench/accuracy.py --quick      # a few hundred shapes and steps: seconds
    python bench/accuracy.py --parts products --shapes 1000

``products``: C = A B, A Bᵀ and Aᵀ B of random shapes against exact arithmetic. The
error of an element must not exceed (K + 1) u Σ|a||b|, with u the rounding unit, which
holds for any order of summation (Higham, 2002, section 3.5); ``worst`` is the largest
share of that bound. Products of small integers must be exact, for all shapes around the
register tiles and for the random ones.

``optimizers``: each optimiser in float32 against itself in float64, on a noisy
quadratic function where both see the same noise and their own parameters.
``parameters`` is the largest difference of the two, relative to the largest parameter;
``state`` that of the moments, relative to the largest of each.

The errors of elementary functions and activations: ``tests/cpp/sweep_floats.cpp``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import fastmlp as fm
import numpy as np
from fastmlp import _core

# Products ----------------------------------------------------------------------------

LAYOUTS = {
    "nn": (_core.kernels.gemm_nn, lambda a: a, lambda b: b),
    "nt": (_core.kernels.gemm_nt, lambda a: a, lambda b: b.T),
    "tn": (_core.kernels.gemm_tn, lambda a: a.T, lambda b: b),
}
MOST_WORK = 2e6  # multiplications in a random product
TILES = (13, 33, 65)  # rows, columns and terms beyond two register tiles of any ISA


def product(layout: str, a: Any, b: Any) -> Any:
    """Return the kernel's A B, with A and B stored as the layout has them."""
    kernel, turn_a, turn_b = LAYOUTS[layout]
    c = np.full((len(a), b.shape[1]), np.nan, a.dtype)
    kernel(c, np.ascontiguousarray(turn_a(a)), np.ascontiguousarray(turn_b(b)))
    return c


def random_shape(rng: np.random.Generator) -> tuple[int, int, int]:
    """Return rows, columns and terms, each from 1 to 2000 with even logarithms."""
    while True:
        m, n, k = np.exp(rng.uniform(0, np.log(2000), 3)).astype(int)
        if m * n * k <= MOST_WORK:
            return int(m), int(n), int(k)


def random_matrix(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> Any:
    """Return normal numbers; for every second call, of many magnitudes."""
    values = rng.standard_normal(shape)
    if rng.random() < 0.5:
        values *= np.exp2(rng.uniform(-12, 12, shape))
    return values.astype(dtype)


def share_of_bound(a: Any, b: Any, c: Any) -> float:
    """Return the largest error of a product as a share of its bound."""
    exact = np.float64 if c.dtype == np.float32 else np.longdouble
    a, b = a.astype(exact), b.astype(exact)
    unit = np.finfo(c.dtype).eps / 2
    bound = (a.shape[1] + 1) * unit * (abs(a) @ abs(b))
    error = abs(c - a @ b)
    return float(np.max(error / np.where(bound > 0, bound, np.finfo(c.dtype).tiny)))


def integers(rng: np.random.Generator, m: int, n: int, k: int, dtype: str) -> bool:
    """Return whether products of integers with partial sums below 2²⁴ are exact."""
    most = int(np.sqrt(2**24 / max(k, 1))) - 1
    a, b = rng.integers(-most, most + 1, (m, k)), rng.integers(-most, most + 1, (k, n))
    exact = a @ b
    return all(
        np.array_equal(product(layout, a.astype(dtype), b.astype(dtype)), exact)
        for layout in LAYOUTS
    )


def measure_products(shapes: int, tiles: tuple[int, int, int]) -> bool:
    """Print the largest errors; return whether all are within the bound."""
    good = True
    print(f"products: {shapes:,} random shapes, sizes up to {tiles} with integers")
    for dtype in ("float32", "float64"):
        for isa in fm.available_isas():
            rng = np.random.default_rng(0)
            worst, where, inexact = 0.0, "", 0
            with fm.use_isa(isa):
                for _ in range(shapes):
                    m, n, k = random_shape(rng)
                    # Without BLAS for long doubles, NumPy is slow.
                    if dtype == "float64" and m * n * k > MOST_WORK / 20:
                        m, n = max(1, m // 8), max(1, n // 8)
                    layout = list(LAYOUTS)[rng.integers(3)]
                    a = random_matrix(rng, (m, k), dtype)
                    b = random_matrix(rng, (k, n), dtype)
                    share = share_of_bound(a, b, product(layout, a, b))
                    if share > worst:
                        worst, where = share, f"{layout} {m} x {n} x {k}"
                    inexact += not integers(rng, m, n, k, dtype)
                for m in range(1, tiles[0] + 1):
                    for n in range(1, tiles[1] + 1):
                        for k in range(tiles[2] + 1):
                            inexact += not integers(rng, m, n, k, dtype)
            good &= worst <= 1 and inexact == 0
            print(f"  {dtype}  {isa:7}  worst {worst:.3f} at {where}", end="")
            print(f"  {inexact} inexact", flush=True)
    return good


# Optimisers --------------------------------------------------------------------------

# Without Rprop and Lion, whose steps are signs, which a rounding can turn, so that the
# difference says little about precision; and without ASGD and ScheduleFreeAdamW, whose
# averages move in the end by less than the precision of float32.
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD": lambda: fm.SGD(1e-2),
    "SGD, momentum": lambda: fm.SGD(1e-2, momentum=0.9, nesterov=True),
    "Adagrad": lambda: fm.Adagrad(0.5),
    "RMSprop": lambda: fm.RMSprop(1e-3),
    "RMSprop, all": lambda: fm.RMSprop(1e-3, momentum=0.5, centered=True),
    "Adam": lambda: fm.Adam(1e-3),
    "Adam, amsgrad": lambda: fm.Adam(1e-3, amsgrad=True),
    "AdamW": lambda: fm.AdamW(1e-3, weight_decay=0.1),
    "Adamax": lambda: fm.Adamax(1e-3),
    "NAdam": lambda: fm.NAdam(1e-3),
    "RAdam": lambda: fm.RAdam(1e-3),
    "Adadelta": lambda: fm.Adadelta(),
    "AdaBelief": lambda: fm.AdaBelief(1e-3),
    "ScheduleFreeSGD": lambda: fm.ScheduleFreeSGD(1e-2),
    "Prodigy": lambda: fm.Prodigy(),
}
SIZE = 67  # several vectors and a tail
BLOCK = 1000  # steps whose noise is drawn at once
# The most by which float32 may differ from float64. The worst is the sum of Adagrad: in
# the end it is so large that the smallest squares do not change it.
PARAMETERS, STATE = 1e-4, 1e-3


def measure_optimizer(make: Callable[[], Any], steps: int) -> dict[int, Any]:
    """Return the differences of parameters and state after 10, 100, ... steps."""
    rng = np.random.default_rng(1)
    curvature, centre = np.geomspace(0.01, 10, SIZE), rng.standard_normal(SIZE)
    kinds = ("float32", "float64")
    params = [np.zeros(SIZE, kind) for kind in kinds]
    opts = [make() for _ in kinds]
    # The gradient is computed in float64 and rounded once.
    found = {}
    for step in range(1, steps + 1):
        if step % BLOCK == 1:
            noise = rng.standard_normal((BLOCK, SIZE))
        for param, opt in zip(params, opts, strict=True):
            grad = curvature * (param - centre) + noise[(step - 1) % BLOCK]
            opt.step(param, grad.astype(param.dtype))
        if step == steps or step in {10**i for i in range(1, 8)}:
            slots = [opt.state_dict()["slots"][0] for opt in opts]
            state = [difference(slots[0][name], slots[1][name]) for name in slots[1]]
            found[step] = difference(*params), max(state, default=0.0)
    return found


def difference(single: Any, double: Any) -> float:
    """Return the largest difference, relative to the largest element."""
    single, double = (np.asarray(a, np.float64).ravel() for a in (single, double))
    return float(abs(single - double).max() / max(abs(double).max(), 1e-300))


def measure_optimizers(steps: int) -> bool:
    """Print the differences; return whether all are within the bounds."""
    good = True
    print(f"optimizers: {steps:,} steps")
    for name, make in OPTIMIZERS.items():
        found = measure_optimizer(make, steps)
        worst = [max(pair[i] for pair in found.values()) for i in (0, 1)]
        within = worst[0] <= PARAMETERS and worst[1] <= STATE
        good &= within
        print(f"  {name:14}  parameters {worst[0]:.1e}  state {worst[1]:.1e}", end="")
        print("" if within else "  FAILED", flush=True)
    return good


def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shapes", type=int, help="random products (10,000)")
    parser.add_argument("--steps", type=int, help="steps of an optimiser (1,000,000)")
    parts = ("products", "optimizers")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    options = parser.parse_args()
    start, good = time.monotonic(), True
    if "products" in options.parts:
        shapes = options.shapes or (100 if options.quick else 10_000)
        good &= measure_products(shapes, (3, 9, 5) if options.quick else TILES)
    if "optimizers" in options.parts:
        good &= measure_optimizers(options.steps or (300 if options.quick else 10**6))
    verdict = "within" if good else "BEYOND"
    print(f"{verdict} the bounds, {time.monotonic() - start:.0f} s")
    return not good


if __name__ == "__main__":
    sys.exit(main())
