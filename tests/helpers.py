"""Sizes, tolerances, checks and data shared by tests."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core

# Sizes around the widths of vectors and register tiles, from 1 lane to several vectors
# with the neighbouring sizes, so that every tail is covered.
TAILS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 65)

SEED = 20240229

# Root of the project. The tests may also be run on their own against an installed
# package.
ROOT = Path(__file__).parents[1]
needs_source = pytest.mark.skipif(
    not (ROOT / "CMakeLists.txt").is_file(), reason="the source tree is missing"
)


def importing(test_file: str, **variables: str) -> dict[str, str]:
    """Return an environment in which a child process can import a test module."""
    folders = [str(Path(test_file).parent), str(Path(__file__).parent)]
    path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, **variables}


def python_blocks(path: Path) -> list[str]:
    """The Python code blocks of a Markdown file; none if it does not exist."""
    text = path.read_text() if path.is_file() else ""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Tolerance:
    """An error bound in units of eps = np.finfo(dtype).eps, and its justification."""

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


# The step of central differences in float64, where truncation and rounding balance.
FD_STEP = float(np.cbrt(np.finfo(np.float64).eps))


def central_difference(f: Callable[[], float], x: np.ndarray) -> np.ndarray:
    """Return df/dx of a function that reads ``x``; ``x`` is restored."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + FD_STEP
        above = f()
        x[i] = kept - FD_STEP
        below = f()
        x[i] = kept
        gradient[i] = (above - below) / (2 * FD_STEP)
    return gradient


# Work that should run in threads exceeds the core's threshold by this factor, so that a
# change of the threshold does not silently make a test single-threaded.
WORK_MARGIN = 3.0
# Most rows of a register tile, the smallest share of a thread.
TILE_ROWS = 16


def assert_threaded(flops: float, rows: int) -> None:
    """Check that this work is clearly enough for the current number of threads."""
    wanted = fm.get_num_threads() if fm.build_info()["openmp"] else 1
    parts = rows // TILE_ROWS
    assert parts >= wanted
    assert _core.threads_for_work(flops / WORK_MARGIN, parts) == wanted


def inference_flops(widths: list[int], rows: int) -> float:
    """Return the operations of `predict` and `evaluate` as the core counts them."""
    return 2.0 * rows * sum(a * b for a, b in pairwise(widths))


def training_flops(widths: list[int], rows: int) -> float:
    """Return the operations of a training step as the core counts them."""
    return 3 * inference_flops(widths, rows)


def thread_counts(isa: str) -> tuple[int, ...]:
    """Return numbers of threads to compare; fewer for a slow instruction set."""
    return (1, 3) if isa == "scalar" else (1, 2, 3, 7)


def toy_data(
    rows: int = 60, dtype: Any = "float32", n_out: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (rows, 3) and targets (rows, n_out) that a small network learns."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 3)).astype(dtype)
    y = np.tanh(x @ rng.standard_normal((3, n_out))).astype(dtype)
    return x, y


def toy_mlp(seed: int = 0, n_out: int = 2, **options: Any) -> fm.MLP:
    """Return the network 3-8-n_out with tanh, for `toy_data`."""
    return fm.MLP([3, 8, n_out], **{"activation": "tanh", "seed": seed, **options})


def toy_fit(mlp: fm.MLP, x: Any, y: Any = None, **options: Any) -> fm.History:
    """Call ``fit`` with defaults: MSE, Adam(0.01), 3 epochs, batches of 16 rows.

    Without ``y``, ``x`` is a source of batches, which have their own size.
    """
    defaults = {"loss": fm.MSE(), "optimizer": fm.Adam(0.01), "epochs": 3}
    if y is not None:
        defaults["batch_size"] = 16
    return mlp.fit(x, y, **{**defaults, **options})


def random_batch(
    rows: int, n_in: int, n_out: int, dtype: Any = "float32", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets that are independent normal numbers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, n_in)).astype(dtype)
    return x, rng.standard_normal((rows, n_out)).astype(dtype)
