"""Sizes, tolerances and checks that tests share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core

# Sizes around the widths of vectors and register tiles: 1 lane to several vectors,
# each with its neighbours, so that every tail is taken.
TAILS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 65)

SEED = 20240229

# The project these tests are part of. They may also lie alone, beside no more than an
# installed package.
ROOT = Path(__file__).parents[1]
needs_source = pytest.mark.skipif(
    not (ROOT / "CMakeLists.txt").is_file(), reason="the source tree is not here"
)


def importing(test_file: str, **variables: str) -> dict[str, str]:
    """The environment of a child process that imports a test module and this one."""
    folders = [str(Path(test_file).parent), str(Path(__file__).parent)]
    path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, **variables}


@dataclass(frozen=True)
class Tolerance:
    """An error bound in units of eps = np.finfo(dtype).eps, and why it holds."""

    ulps: float
    reason: str

    def of(self, dtype: np.dtype | type | str) -> float:
        """The bound as a plain number for ``dtype``."""
        return self.ulps * float(np.finfo(dtype).eps)


TOLERANCE = {
    "elementary": Tolerance(
        4,
        "exp, log, tanh and the like are polynomials of near machine precision after "
        "one exact or two-word range reduction",
    ),
    "elementwise": Tolerance(
        16,
        "an activation or loss is one or two elementary functions and a handful of "
        "roundings, relative to its largest intermediate term",
    ),
    "update": Tolerance(
        16,
        "an optimiser step is about ten roundings per element, relative to the "
        "largest element of the array",
    ),
    "network": Tolerance(
        512,
        "a few layers of sums over at most some hundred terms, whose errors grow with "
        "depth and width",
    ),
    "finite_difference": Tolerance(
        1e-6 / float(np.finfo(np.float64).eps),
        "central differences with the step cbrt(eps) are good to eps**(2/3) = 4e-11 "
        "times the third derivative; 1e-6 leaves room for steep functions",
    ),
}


# Work that is to run in threads is this far above what the core takes them for, so that
# a change of that threshold does not quietly turn a test of threads into one without.
MARGIN = 3.0
# No register tile, the least that a thread gets, has more rows.
TILE_ROWS = 16


def assert_threaded(flops: float, rows: int) -> None:
    """Check that the number of threads now set would share this work, by far."""
    wanted = fm.get_num_threads() if fm.build_info()["openmp"] else 1
    parts = rows // TILE_ROWS
    assert parts >= wanted
    assert _core.threads_for_work(flops / MARGIN, parts) == wanted


def inference_flops(widths: list[int], rows: int) -> float:
    """Operations of `predict` and `evaluate` as the core counts them."""
    return 2.0 * rows * sum(a * b for a, b in pairwise(widths))


def training_flops(widths: list[int], rows: int) -> float:
    """The same of a pass forward, back, or both."""
    return 3 * inference_flops(widths, rows)


def thread_counts(isa: str) -> tuple[int, ...]:
    """Numbers of threads to compare; few where the instruction set is slow."""
    return (1, 3) if isa == "scalar" else (1, 2, 3, 7)
