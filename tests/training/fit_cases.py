"""Batches, callbacks, losses and schedules for the tests of training."""

import fastmlp as fm
import numpy as np
from helpers import toy_data

ROWS = 60


BATCH = 16


STEPS_PER_EPOCH = 4  # of an epoch: 16, 16, 16 and 12 rows


# Sums of a few float32 batch losses, taken in another order.
SUM_RTOL = 1e-6


def slices(weighted=False):
    x, y = toy_data()
    w = (np.arange(ROWS) % 4 + 1).astype("float32")
    parts = [x, y, w] if weighted else [x, y]
    return [tuple(a[i : i + BATCH] for a in parts) for i in range(0, ROWS, BATCH)]


class Steps(fm.Callback):
    def __init__(self, stop_at=None):
        self.seen, self.stop_at = [], stop_at

    def on_batch_end(self, mlp, history, step, loss):
        self.seen.append((len(history), step, loss, mlp.params.copy()))
        return len(self.seen) == self.stop_at


def deep(seed=0):
    layers = [
        3,
        8,
        fm.BatchNorm(),
        fm.Dropout(0.3),
        fm.Residual([8]),
        fm.LayerNorm(),
        2,
    ]
    return fm.MLP(layers, activation="tanh", seed=seed)


class LogCosh(fm.losses.Loss):
    """Return a custom loss: log cosh, or MSE computed in Python."""

    __slots__ = ("mse",)
    reduction = "mean"

    def __init__(self, mse=False):
        object.__setattr__(self, "core", None)
        object.__setattr__(self, "mse", mse)

    def __call__(self, pred, target, sample_weight=None):
        return self.value_and_grad(pred, target, sample_weight)[0]

    def value_and_grad(self, pred, target, sample_weight=None):
        if self.mse:
            return fm.MSE().value_and_grad(pred, target, sample_weight)
        r = (pred - target).astype("float64")
        return float(np.log(np.cosh(r)).mean()), (np.tanh(r) / r.size).astype("float32")


def same(a, b):
    np.testing.assert_array_equal(a.params, b.params)
    np.testing.assert_array_equal(a.buffers, b.buffers)
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, value in a.state_dict().items():
        np.testing.assert_array_equal(value, b.state_dict()[name])


def plateau():
    return fm.schedules.ReduceOnPlateau(0.05, patience=0, threshold=0.02, factor=0.5)


SCHEDULES = {
    "cosine": lambda: fm.schedules.Cosine(0.05, 10),
    "warmup": lambda: fm.schedules.LinearWarmup(fm.schedules.Step(0.05, 6, 0.5), 5),
    "pieces": lambda: fm.schedules.Piecewise([0.0, 0.05, 0.01], [7, 30], "cos"),
    "parts": lambda: fm.schedules.Sequential(
        [
            0.02,
            fm.schedules.Chained(0.05, [fm.schedules.Polynomial(1.0, 9), 0.5]),
            fm.schedules.CosineLog(0.05, 20, 2),
        ],
        [5, 11],
    ),
    "plateau": plateau,
    "function": lambda: lambda step: 0.05 / (step + 1),
}


def torch_rates(make, count, lr):
    """Return the learning rates of torch's scheduler in its first steps."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)
