"""A model file and a checkpoint, for the tests of files."""

import fastmlp as fm
from fastmlp import schedules
from helpers import random_batch

ROWS = 24


def data(n_in=3, n_out=2, dtype="float32"):
    return random_batch(ROWS, n_in, n_out, dtype, seed=5)


def trained(layers, dtype="float32", **options):
    mlp = fm.MLP(layers, seed=3, dtype=dtype, **options)
    x, y = data(mlp.n_in, mlp.n_out, dtype)
    mlp.fit(x, y, loss=fm.MSE(), optimizer=fm.Adam(), epochs=2, batch_size=8)
    mlp.forward(x, training=True)
    return mlp


def state(mlp):
    """The complete state of a model, except its history."""
    return (
        repr(mlp),
        mlp.params.tobytes(),
        mlp.buffers.tobytes(),
        mlp.core.training_state,
        mlp.sequence.seed,
        mlp.sequence.done,
        mlp.sequence.within,
    )


def plateau():
    return schedules.LinearWarmup(schedules.Cosine(0.01, 40, restarts=2), 3)


def parts_of_a_training(seed=2, rate=plateau):
    mlp = fm.MLP([3, 6, fm.BatchNorm(), fm.Dropout(0.2), 2], seed=seed)
    stop = fm.EarlyStopping(patience=9, restore_optimizer=True)
    return mlp, fm.Adam(rate(), ema=0.9), stop


def run(mlp, opt, stop, save, epochs, *others, **options):
    x, y = data()
    how = {"epochs": epochs, "batch_size": 5, "callbacks": [stop, save, *others]}
    rest = (x[:9], y[:9])
    return mlp.fit(
        x, y, loss=fm.MSE(), optimizer=opt, validation_data=rest, **how, **options
    )
