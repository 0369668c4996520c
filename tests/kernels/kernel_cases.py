"""Calls of every kernel, with bounds on their errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from fastmlp import _core

kernels = _core.kernels


# Number of guard elements on either side of an array, which a kernel must not change.
# It is odd, so that arrays are aligned only to their elements.
GUARD = 67


SENTINEL = 12345.0


@dataclass
class Call:
    """A call of a kernel; arrays are float64 or int64, with values that fit the dtype.

    `outputs` start as NaN and are only written, `updated` are read and written. `bound`
    is how far each may be from the reference, in units of eps, given the result.
    """

    kernel: str
    args: dict[str, Any]
    outputs: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    bound: dict[str, Callable[[np.ndarray], Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = {
            k: v.shape if isinstance(v, np.ndarray) else v for k, v in self.args.items()
        }
        return f"{self.kernel}({shown})"


def guarded(array: np.ndarray, dtype: type, guard: float) -> np.ndarray:
    """A C-contiguous copy inside a larger buffer, its base, filled with ``guard``."""
    kind = np.int64 if array.dtype == np.int64 else dtype
    fill = -(2**62) if kind == np.int64 else guard
    buffer = np.full(array.size + 2 * GUARD, fill, dtype=kind)
    buffer[GUARD : GUARD + array.size] = array.ravel()
    return buffer[GUARD : GUARD + array.size].reshape(array.shape)


def run(module: ModuleType, call: Call, dtype: type) -> dict[str, np.ndarray]:
    """Run the call; return what it writes and check that it writes nothing else."""
    args, before = dict(call.args), {}
    written = call.outputs + call.updated
    for name, value in call.args.items():
        if isinstance(value, np.ndarray):
            start = np.full_like(value, np.nan) if name in call.outputs else value
            guard = SENTINEL if name in written else np.nan
            args[name] = guarded(start, dtype, guard)
            before[name] = args[name].base.tobytes()
    assert getattr(module, call.kernel)(**args) is None
    for name, old in before.items():
        after = args[name].base
        if name in written:
            edges = np.concatenate([after[:GUARD], after[-GUARD:]])
            assert (edges == SENTINEL).all(), f"{call} wrote around {name}"
        else:
            assert after.tobytes() == old, f"{call} changed {name}"
    return {name: args[name].copy() for name in written}


def rounded(values: np.ndarray, dtype: type) -> np.ndarray:
    """Round to float64 values that ``dtype`` represents exactly."""
    return values.astype(dtype).astype(np.float64)


def pre_activations(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Values of all magnitudes, with zeros, at which some derivatives jump."""
    z = rng.standard_normal(shape) * rng.choice([0.01, 1, 4], shape)
    z[rng.uniform(size=shape) < 0.05] = 0
    return z


# Constants of activations besides the defaults.
CONSTANTS: list[tuple[str, tuple[float, ...]]] = [
    ("leaky_relu", (0.3,)),
    ("leaky_relu", (0.0,)),
    ("leaky_relu", (3.0,)),
    ("threshold", (0.25, 2.0)),
    ("threshold", (-0.5, -3.0)),
    ("elu", (0.3,)),
    ("elu", (2.0,)),
    ("celu", (0.3,)),
    ("celu", (2.0,)),
    ("softplus", (0.3,)),
    ("softplus", (5.0,)),
    ("hardtanh", (-0.5, 2.0)),
    ("hardtanh", (0.25, 0.75)),
    ("softshrink", (0.0,)),
    ("softshrink", (1.5,)),
    ("hardshrink", (0.0,)),
    ("hardshrink", (1.5,)),
]
