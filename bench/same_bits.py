"""Print a hash of the parameters after 200 training steps, per dtype, ISA and threads.

    python bench/same_bits.py

Within a dtype all of them must be one and the same; exits with 1 if they are not.
"""

from __future__ import annotations

import hashlib
import sys

import fastmlp as fm
import numpy as np

WIDTHS, ROWS, STEPS = [64, 130, 70, 10], 256, 200  # enough work to use threads
THREADS = (1, 2, 3, 7)


def trained_hash(dtype: str) -> str:
    """Train from fixed seeds and hash the parameters' bytes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, WIDTHS[0])).astype(dtype)
    y = rng.integers(0, WIDTHS[-1], ROWS)
    mlp = fm.MLP(WIDTHS, activation="tanh", dtype=dtype, seed=0)
    optimizer = fm.Adam(lr=1e-3)
    for _ in range(STEPS):
        mlp.train_step(x, y, fm.CrossEntropy(), optimizer)
    return hashlib.sha256(mlp.params.tobytes()).hexdigest()


def main() -> int:
    """Print the table; return the exit code."""
    different = False
    for dtype in ("float32", "float64"):
        hashes = set()
        for isa in fm.available_isas():
            for n in THREADS:
                with fm.use_isa(isa), fm.threads(n):
                    digest = trained_hash(dtype)
                hashes.add(digest)
                print(f"{dtype}  {isa:7}  {n} threads  {digest}", flush=True)
        different |= len(hashes) != 1
    print("DIFFERENT" if different else "the same everywhere")
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
