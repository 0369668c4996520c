"""Data, a model and a call of fit."""

import fastmlp as fm
import numpy as np

ROWS = 50


def data(rows=ROWS, dtype="float32", n_out=2):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 3)).astype(dtype)
    y = np.tanh(x @ rng.standard_normal((3, n_out))).astype(dtype)
    return x, y


def model(seed=0, n_out=2, **options):
    return fm.MLP([3, 8, n_out], **{"activation": "tanh", "seed": seed, **options})


def fit(mlp, x, y, **options):
    options = {
        "loss": fm.MSE(),
        "optimizer": fm.Adam(0.01),
        "epochs": 3,
        "batch_size": 16,
        **options,
    }
    return mlp.fit(x, y, **options)
