"""Print hashes of training results, per compute_dtype, ISA and number of threads.

    python bench/same_bits.py

The first column hashes the parameters of a plain network after 200 steps; the second
hashes parameters, running statistics, moving average and losses of a network with all
kinds of layers after three epochs of fit, with dropout, a schedule, clipping, decay and
class weights; the third does so for layers with branches, encodings and computed
weights, and for one network after some steps of each of the less common optimisers,
with a different loss each. Within a compute_dtype each column must hold a single value;
otherwise the exit code is 1.
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


def branched_hash(dtype: str, compute_dtype: str) -> str:
    """Hash the results of a fit with encodings, branches and computed weights."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((MIXED_ROWS, 12)).astype(dtype)
    x[:, 3] = rng.integers(0, 9, MIXED_ROWS)
    y = rng.integers(0, WIDTHS[-1], MIXED_ROWS)
    rates = fm.schedules.Cosine(0.3, 10)
    branches = [
        [fm.Columns(range(3)), fm.PiecewiseLinear(7)],
        [fm.Columns([3]), fm.Embedding(9, 5)],
        [fm.Columns(range(4, 12)), fm.Standardise(), fm.Periodic(3)],
    ]
    spectral = fm.Dense(64, "tanh", parametrization="spectral_norm")
    mlp = fm.MLP(
        [
            *(12, fm.Parallel(branches), fm.Scale(), fm.AlphaDropout(rates)),
            *(fm.Dense(96, "identity", parametrization="weight_norm"), fm.GroupNorm(8)),
            *(fm.GLU("silu"), fm.Concat([spectral, fm.GaussianNoise(0.1)]), 40),
            *(fm.PReLU(), fm.GaussianDropout(0.2), WIDTHS[-1]),
        ],
        activation=fm.Activation("softplus", beta=2.0),
        dtype=dtype,
        compute_dtype=compute_dtype,
        init="he_uniform",
        seed=0,
    )
    # NumPy draws normal numbers with functions of the C library.
    for name, view in mlp.named_parameters().items():
        if name.startswith("0.branches"):
            view[:] = np.linspace(-1, 1, view.size).reshape(view.shape)
    mlp.adapt(x)
    mlp.freeze("0.branches.1.*")
    history = mlp.fit(
        x,
        y,
        loss=fm.Focal(),
        optimizer=fm.Muon(0.01, groups=[{"params": "*.bias", "weight_decay": 0.0}]),
        epochs=3,
        batch_size=MIXED_ROWS // 4 + 1,
        seed=3,
        progress=False,
    )
    parts = [mlp.params, mlp.buffers, np.array(history.loss), mlp(x), *steps(dtype)]
    return hashlib.sha256(b"".join(a.tobytes() for a in parts)).hexdigest()


def steps(dtype: str) -> list[np.ndarray]:
    """Return the parameters of networks after 20 steps of less common optimisers."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((ROWS, 20)).astype(dtype)
    y = np.abs(rng.standard_normal((ROWS, 6))).astype(dtype) + 1
    pairs = [
        (fm.NAdam(0.01), fm.SmoothL1(0.5)),
        (fm.RAdam(0.01, accumulate=2), fm.LogCosh()),
        (fm.Adadelta(), fm.Quantile([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])),
        (fm.Rprop(0.001), fm.StudentTNLL()),
        (fm.ASGD(0.01), fm.Expectile()),
        (fm.Lion(0.001), fm.MSE(mask="nan")),
        (fm.AdaBelief(0.01), fm.Gamma()),
        (fm.ScheduleFreeSGD(0.01), fm.Huber()),
        (fm.ScheduleFreeAdamW(0.01), fm.Tweedie()),
        (fm.Prodigy(d0=1e-3), fm.PseudoHuber()),
    ]
    found = []
    for optimizer, loss in pairs:
        halves = 12 if isinstance(loss, fm.StudentTNLL) else 6
        targets = y.copy()
        if isinstance(loss, fm.MSE):
            targets[::3] = np.nan
        if isinstance(loss, fm.Quantile):
            targets = y[:, :1]
        mlp = fm.MLP([20, 50, halves], activation="mish", dtype=dtype, seed=1)
        for _ in range(20):
            mlp.train_step(x, targets, loss, optimizer)
        found.append(mlp.params)
    return found


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
                        branched_hash(dtype, compute_dtype),
                    )
                hashes.add(digests)
                shown = "  ".join(digests)
                print(f"{compute_dtype:8}  {isa:11}  {n} threads  {shown}", flush=True)
        different |= len(hashes) != 1
    print("DIFFERENT" if different else "the same everywhere")
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
