"""Whole runs, solvers and derivatives: the same bits on every ISA and thread count."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import schedules
from helpers import assert_threaded, thread_counts
from run_cases import (
    CLASSES,
    CLIPPED,
    DECAYED,
    FEW,
    MANY,
    N_IN,
    N_OUT,
    STEP,
    digest,
    log_cosh,
    mixed,
)


def counts(isa: str) -> tuple[int, ...]:
    """Return numbers of threads to compare: all of them for one instruction set."""
    return thread_counts(isa) if isa == fm.available_isas()[-1] else (1, 3)


def assert_wide_is_for_threads(rows: int, *, passes: int) -> None:
    """Check that it runs in threads; inference has one pass, a step three."""
    weights = mixed(True, "float32").weights
    assert_threaded(2.0 * passes * rows * sum(w.size for w in weights), rows)


def targets(what: str, rows: int, dtype: Any) -> Any:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((rows, N_OUT)).astype(dtype)
    labels = rng.integers(0, N_OUT, rows)
    return {
        "values": values,
        "halves": values[:, : N_OUT // 2].copy(),
        "counts": rng.poisson(2.0, (rows, N_OUT)).astype(dtype),
        "signs": np.sign(values),
        "fractions": rng.uniform(size=(rows, N_OUT)).astype(dtype),
        "labels": labels,
        "actions": (labels, values[:, 0].copy()),
    }[what]


PLATEAU = {"factor": 0.5, "patience": 0, "threshold": 10.0}


# Each loss with a schedule and an optimiser, so that all of these are covered.
RUNS: dict[str, tuple[Any, str, Any, Any]] = {
    "poisson": (
        fm.Poisson(),
        "counts",
        lambda: schedules.Step(0.01, 2),
        lambda lr: fm.Adam(lr, **DECAYED),
    ),
    "quantile": (
        fm.Quantile(0.3),
        "values",
        lambda: schedules.MultiStep(0.02, [1, 3]),
        lambda lr: fm.SGD(lr, momentum=0.9, nesterov=True, **DECAYED),
    ),
    "quantiles": (
        fm.Quantile([0.1, 0.2, 0.5, 0.6, 0.8, 0.9]),
        "values",
        lambda: schedules.Exponential(0.02, 0.9),
        lambda lr: fm.RMSprop(lr, momentum=0.5, centered=True, **DECAYED),
    ),
    "gaussian": (
        fm.GaussianNLL(),
        "halves",
        lambda: schedules.Cosine(0.01, 3, 1e-4, 2),
        lambda lr: fm.AdamW(lr, amsgrad=True, **CLIPPED),
    ),
    "hinge": (
        fm.Hinge(),
        "signs",
        lambda: schedules.LinearWarmup(0.02, 3),
        lambda lr: fm.Adagrad(lr, **DECAYED),
    ),
    "labels": (
        fm.CrossEntropy(label_smoothing=0.1, class_weight=CLASSES),
        "labels",
        lambda: schedules.OneCycle(0.02, 4),
        lambda lr: fm.Adam(lr, eps_mode="hat", **DECAYED),
    ),
    "shares": (
        fm.CrossEntropy(),
        "labels",
        lambda: schedules.Exponential(0.02, 0.9),
        lambda lr: fm.Adamax(lr, **DECAYED),
    ),
    "fractions": (
        fm.BinaryCrossEntropy(pos_weight=3.0),
        "fractions",
        lambda: schedules.InverseSqrt(0.02, 2),
        lambda lr: fm.Adam(lr, clip_value=0.01),
    ),
    "actions": (
        fm.ActionValue(fm.Huber(0.5)),
        "actions",
        lambda: schedules.ReduceOnPlateau(0.02, **PLATEAU),
        lambda lr: fm.SGD(lr, **DECAYED),
    ),
    "a loss in Python": (
        fm.CustomLoss(log_cosh),
        "values",
        lambda: lambda step: 0.01 / (1 + step),
        lambda lr: fm.Adam(lr, **DECAYED),
    ),
}


def whole_run(name: str, wide: bool, dtype: Any) -> dict[str, str]:
    """Return hashes of the results of a fit and of the trained model."""
    loss, what, rate, optimizer = RUNS[name]
    rows = 2 * STEP if wide else FEW
    x = np.random.default_rng(6).standard_normal((rows, N_IN)).astype(dtype)
    y = targets(what, rows, dtype)
    weight = None if what == "actions" else np.linspace(0.5, 2, rows).astype(dtype)
    mlp, opt, monitor = mixed(wide, dtype), optimizer(rate()), fm.Monitor(path=True)
    metrics: dict[str, Any] = {"sum": lambda pred, y: float(pred.sum(dtype="float64"))}
    if what == "values":
        metrics["mae"] = "mae"
    history = mlp.fit(
        x,
        y,
        loss=loss,
        optimizer=opt,
        epochs=1 if wide else 3,
        batch_size=-(-rows // 2),
        sample_weight=weight,
        validation_data=(x, y),
        metrics=metrics,
        callbacks=[monitor],
        progress=False,
    )
    record = {k: v for k, v in vars(monitor).items() if not k.startswith("_")}
    found = {**history.to_dict(), **record}
    del found["seconds"]
    return {
        "params": digest(mlp.params, mlp.buffers),
        "average": digest(opt.ema_params),
        "state": digest(opt.state_dict()["slots"]),
        "record": digest(found),
        "step": digest(mlp.train_step(x, y, loss, opt, weight), mlp.params),
        "evaluate": digest(mlp.evaluate(x, y, loss, weight)),
        "folded": digest(mlp.fold()(x), mlp(x)),
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_same_bits_for_any_isa_and_threads(name: str, dtype: type) -> None:
    """The runs are large enough for several threads."""
    wanted: dict[str, str] = {}
    for isa in fm.available_isas():
        for n in counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                assert_wide_is_for_threads(STEP, passes=3)
                found = whole_run(name, True, dtype)
            wanted = wanted or found
            assert found == wanted, (isa, n)


@pytest.mark.parametrize("name", RUNS)
def test_a_small_run_is_the_same_bits_for_any_isa(name: str, dtype: type) -> None:
    wanted: dict[str, str] = {}
    for isa in fm.available_isas():
        for n in (1, 3):
            with fm.use_isa(isa), fm.threads(n):
                found = whole_run(name, False, dtype)
            wanted = wanted or found
            assert found == wanted, (isa, n)


def solved(solver: Any, dtype: Any) -> str:
    """Return a hash after a few iterations."""
    if isinstance(solver, fm.LBFGS):
        mlp, rows, n_in = mixed(True, dtype), STEP, N_IN
        assert_wide_is_for_threads(rows, passes=3)
    else:
        rows, n_in = 2000, 8
        layers = [n_in, 10, fm.LayerNorm(), fm.Residual([4, 10, fm.RMSNorm()]), 2]
        mlp = fm.MLP(layers, activation="tanh", dtype=dtype, seed=1)
        # The work is the product of the Jacobian with itself.
        assert_threaded(2.0 * mlp.n_params**2 * rows, mlp.n_params)
    x = np.random.default_rng(6).standard_normal((rows, n_in)).astype(dtype)
    y = np.sin(x[:, : mlp.n_out] + x[:, -mlp.n_out :])
    history = mlp.fit(
        x,
        y,
        loss=fm.MSE(),
        optimizer=solver,
        epochs=2,
        sample_weight=np.linspace(0.5, 2, rows).astype(dtype),
        validation_data=(x, y),
        progress=False,
    )
    return digest(mlp.params, history.loss, history.val_loss)


@pytest.mark.parametrize("solver", [fm.LBFGS, fm.LevenbergMarquardt])
def test_solvers_are_the_same_bits_for_any_isa_and_threads(
    solver: Any, dtype: type
) -> None:
    hashes = {}
    for isa in fm.available_isas():
        for n in counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                hashes[isa, n] = solved(solver(), dtype)
    assert len(set(hashes.values())) == 1, hashes


def derivatives(mlp: fm.MLP, x: Any) -> dict[str, Any]:
    v, y = x[:, ::-1].copy(), np.ones((len(x), mlp.n_out), mlp.dtype)
    few = x[: -(-len(x) // 10)]  # for derivatives with more work per row
    some = x[: len(x) * 3 // 4]
    weight = np.linspace(0.5, 2, len(x)).astype(mlp.dtype)
    return {
        "jacobian": mlp.jacobian(x),
        "jvp": np.hstack(mlp.jvp(x, v)),
        "hvp": mlp.hvp(x, v),
        "hessian": mlp.hessian(few),
        "param_jacobian": mlp.param_jacobian(some),
        "per_sample_grads": mlp.per_sample_grads(
            some, y[: len(some)], fm.Huber(), weight[: len(some)]
        ),
    }


def test_derivatives_are_the_same_bits_for_any_isa_and_threads(dtype: type) -> None:
    """Including those that test_derivatives.py computes for few rows only."""
    block = fm.Residual([fm.Dropout(), 64])
    layers = [10, fm.LayerNorm(), 64, fm.BatchNorm(), block, 1]
    mlp, rows = fm.MLP(layers, activation="tanh", dtype=dtype, seed=4), 3200
    x = np.random.default_rng(1).standard_normal((rows, 10)).astype(dtype)
    mlp.forward(x, training=True)  # irregular running statistics
    work = 2.0 * rows * sum(w.size for w in mlp.weights)  # one pass over all rows
    wanted: dict[str, str] = {}
    for isa in fm.available_isas():
        for n in counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                assert_threaded(2 * work, rows)  # values and one direction
                assert_threaded(0.75 * 3 * work, rows)  # values and parameter gradients
                found = {k: digest(a) for k, a in derivatives(mlp, x).items()}
            wanted = wanted or found
            assert found == wanted, (isa, n)


def test_a_row_is_the_same_bits_however_batches_are_split(dtype: type) -> None:
    """For a network with all kinds of layers, in several threads."""
    mlp, rows = mixed(True, dtype), 3 * MANY
    x = np.random.default_rng(8).standard_normal((rows, N_IN)).astype(dtype)
    mlp.forward(x, training=True)
    alone = np.stack([mlp(row) for row in x])
    order = np.random.default_rng(0).permutation(rows)
    folded = mlp.fold()
    for n in (1, 2, 3, 7):
        with fm.threads(n):
            assert_wide_is_for_threads(MANY - 1, passes=1)
            assert mlp(x).tobytes() == alone.tobytes()
            assert mlp(x[order]).tobytes() == alone[order].tobytes()
            for cuts in ([MANY - 1], [MANY], [MANY + 1, 2 * MANY + 2], [1, rows - 1]):
                parts = [mlp(p) for p in np.split(x, cuts)]
                assert np.concatenate(parts).tobytes() == alone.tobytes()
                pieces = [folded(p) for p in np.split(x, cuts)]
                assert np.concatenate(pieces).tobytes() == folded(x).tobytes()
