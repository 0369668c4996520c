"""Print hashes of training results, per compute_dtype, ISA and number of threads.

    python bench/same_bits.py

The first column hashes the parameters of a plain network after 200 steps; the second
hashes parameters, running statistics, moving average and losses of a network with all
kinds of layers after three epochs of fit, with dropout, a schedule, clipping, decay and
class weights. Within a compute_dtype each column must hold a single value; otherwise
the exit code is 1.
"""

from __future__ import annotations

import hashlib
import sys

import fastmlp as fm
import numpy as np

WIDTHS, ROWS, STEPS = [64, 130, 70, 10], 256, 200  # enough work to use threads
MIXED_ROWS = 640
THREADS = (1, 2, 3, 7)


def trained_hash(dtype: str, compute_dtype: str) -> str:
    """Train from fixed seeds and hash the parameters' bytes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, WIDTHS[0])).astype(dtype)
    y = rng.integers(0, WIDTHS[-1], ROWS)
    mlp = fm.MLP(
        WIDTHS, activation="tanh", dtype=dtype, compute_dtype=compute_dtype, seed=0
    )
    optimizer = fm.Adam(lr=1e-3)
    for _ in range(STEPS):
        mlp.train_step(x, y, fm.CrossEntropy(), optimizer)
    return hashlib.sha256(mlp.params.tobytes()).hexdigest()


def mixed_hash(dtype: str, compute_dtype: str) -> str:
    """Hash the results of a fit with all kinds of layers and options."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((MIXED_ROWS, WIDTHS[0])).astype(dtype)
    y = rng.integers(0, WIDTHS[-1], MIXED_ROWS)
    block = fm.Residual([fm.LayerNorm(), fm.Dense(90, "gelu"), fm.Dropout(0.3), 130])
    mlp = fm.MLP(
        [
            WIDTHS[0],
            fm.LayerNorm(),
            130,
            block,
            fm.BatchNorm(),
            fm.Activation("softplus"),
            fm.Residual([fm.Dropout(0.1), fm.Residual([33]), 70]),
            WIDTHS[-1],
        ],
        activation="silu",
        dtype=dtype,
        compute_dtype=compute_dtype,
        seed=0,
    )
    optimizer = fm.AdamW(
        fm.schedules.LinearWarmup(fm.schedules.Cosine(1e-2, 8), 3),
        clip_norm=0.5,
        l1=1e-5,
        decay="weights",
        ema=0.9,
    )
    history = mlp.fit(
        x,
        y,
        loss=fm.CrossEntropy(label_smoothing=0.1, class_weight=np.linspace(0.5, 2, 10)),
        optimizer=optimizer,
        epochs=3,
        batch_size=MIXED_ROWS // 4 + 1,
        validation_data=(x, y),
        progress=False,
    )
    losses = np.array([history.loss, history.val_loss])
    average = optimizer.averaged(mlp).params
    parts = (mlp.params, mlp.buffers, average, losses, mlp(x))
    return hashlib.sha256(b"".join(a.tobytes() for a in parts)).hexdigest()


def main() -> int:
    """Print the table; return the exit code."""
    different = False
    for compute_dtype in ("float32", "float64", "bfloat16"):
        dtype = "float64" if compute_dtype == "float64" else "float32"
        hashes = set()
        for isa in fm.available_isas():
            for n in THREADS:
                with fm.use_isa(isa), fm.threads(n):
                    digests = (
                        trained_hash(dtype, compute_dtype),
                        mixed_hash(dtype, compute_dtype),
                    )
                hashes.add(digests)
                shown = "  ".join(digests)
                print(f"{compute_dtype:8}  {isa:11}  {n} threads  {shown}", flush=True)
        different |= len(hashes) != 1
    print("DIFFERENT" if different else "the same everywhere")
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
