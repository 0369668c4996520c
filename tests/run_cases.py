"""Networks and digests for the tests of whole runs."""

from __future__ import annotations

import hashlib
from typing import Any

import fastmlp as fm
import numpy as np

N_IN, N_OUT = 12, 6


# Numbers of rows: of the wide network that are enough for threads in a step and in
# inference, and of the narrow one that are not.
STEP, MANY, FEW = 280, 880, 39


def digest(*parts: Any) -> str:
    """Return a hash of the bits of arrays and numbers in nested containers."""
    sha = hashlib.sha256()

    def take(part: Any) -> None:
        if isinstance(part, dict):
            for key, item in part.items():
                sha.update(str(key).encode())
                take(item)
        elif isinstance(part, (list, tuple)):
            sha.update(b"(")
            for item in part:
                take(item)
            sha.update(b")")
        elif part is None or isinstance(part, str):
            sha.update(repr(part).encode())
        else:
            sha.update(np.asarray(part).tobytes())

    take(parts)
    return sha.hexdigest()


def mixed(wide: bool, dtype: Any, *, n_out: int = N_OUT, seed: int = 2) -> fm.MLP:
    """Return a model with all kinds of layers, and nested blocks with projections."""
    a, b, c = (96, 64, 70) if wide else (9, 5, 11)
    inner = fm.Residual([fm.Dropout(0.1), fm.Dense(b, "sin"), c])
    return fm.MLP(
        [
            N_IN,
            fm.LayerNorm(),
            a,
            fm.Residual([fm.LayerNorm(), fm.Dense(b, "gelu"), fm.Dropout(0.3), a]),
            fm.BatchNorm(),
            fm.Activation("softplus"),
            fm.Residual([fm.BatchNorm(momentum=0.3), inner]),
            fm.Dropout(fm.schedules.Cosine(0.2, 200)),
            n_out,
        ],
        activation="silu",
        dtype=dtype,
        seed=seed,
    )


def log_cosh(pred: Any, target: Any, weight: Any = None) -> tuple[float, Any]:
    r = (pred - target).astype("float64")
    return float(np.log(np.cosh(r)).mean()), np.tanh(r) / r.size


def part(y: Any, rows: slice) -> Any:
    return tuple(p[rows] for p in y) if isinstance(y, tuple) else y[rows]


CLIPPED = {"clip_norm": 0.5, "l1": 1e-4, "decay": "weights", "ema": 0.9}


DECAYED = {**CLIPPED, "weight_decay": 0.01}


CLASSES = (0.5, 1.0, 2.0, 0.1, 3.0, 1.0)
