"""Computations whose bits are on record in ``golden_hashes.json``.

    python tests/guarantees/golden_cases.py

writes the record anew. Do this only after a change that is meant to change results.

The inputs come from integers alone, since the random numbers of NumPy and the functions
of the C library may differ between versions and platforms.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
from fastmlp import _core

RECORD = Path(__file__).with_name("golden_hashes.json")

ROWS, N_IN, N_OUT = 45, 7, 4

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: fm.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adagrad": lambda: fm.Adagrad(0.05, lr_decay=0.1),
    "rmsprop": lambda: fm.RMSprop(0.01, momentum=0.5, centered=True),
    "adam": lambda: fm.Adam(0.01, amsgrad=True),
    "adamw": lambda: fm.AdamW(0.01, clip_norm=0.5, l1=1e-4, ema=0.9),
    "adamax": lambda: fm.Adamax(0.01),
    "nadam": lambda: fm.NAdam(0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "radam": lambda: fm.RAdam(0.01, (0.8, 0.9)),
    "adadelta": lambda: fm.Adadelta(weight_decay=0.01),
    "rprop": lambda: fm.Rprop(0.001),
    "asgd": lambda: fm.ASGD(0.05, lambd=0.1, t0=3),
    "lion": lambda: fm.Lion(0.001, weight_decay=0.1),
    "adabelief": lambda: fm.AdaBelief(0.01, weight_decay=0.01),
    "schedule_free_sgd": lambda: fm.ScheduleFreeSGD(0.1, warmup_steps=3, r=0.5),
    "schedule_free_adamw": lambda: fm.ScheduleFreeAdamW(0.01, weight_decay=0.1),
    "muon": lambda: fm.Muon(0.02, momentum=0.5, adjust_lr_fn="match_rms_adamw"),
    "groups": lambda: fm.AdamW(
        0.01,
        clip_norm=0.5,
        groups=[
            {"params": "*.bias", "weight_decay": 0.0, "clip_norm": 0.1},
            {"params": "0.*", "lr_scale": 0.5},
        ],
    ),
    "prodigy": lambda: fm.Prodigy(weight_decay=0.1, d0=1e-3, l1=1e-4),
    "lbfgs": fm.LBFGS,
    "levenberg_marquardt": fm.LevenbergMarquardt,
}

LOSSES: dict[str, tuple[Callable[[], Any], str]] = {
    "mse": (fm.MSE, "values"),
    "mae": (fm.MAE, "values"),
    "huber": (lambda: fm.Huber(0.5), "values"),
    "pseudo_huber": (fm.PseudoHuber, "values"),
    "quantile": (lambda: fm.Quantile([0.1, 0.4, 0.5, 0.9]), "values"),
    "poisson": (fm.Poisson, "counts"),
    "hinge": (fm.Hinge, "signs"),
    "gaussian": (fm.GaussianNLL, "halves"),
    "binary": (lambda: fm.BinaryCrossEntropy(pos_weight=3.0), "bits"),
    "labels": (lambda: fm.CrossEntropy(label_smoothing=0.125), "labels"),
    "actions": (lambda: fm.ActionValue(fm.Huber()), "actions"),
    "smooth_l1": (lambda: fm.SmoothL1(0.25), "values"),
    "log_cosh": (fm.LogCosh, "values"),
    "soft_margin": (fm.SoftMargin, "signs"),
    "expectile": (lambda: fm.Expectile([0.1, 0.4, 0.5, 0.9]), "values"),
    "binary_focal": (fm.BinaryFocal, "bits"),
    "gamma": (fm.Gamma, "positive"),
    "tweedie": (fm.Tweedie, "counts"),
    "quantile_steps": (
        lambda: fm.Quantile([0.1, 0.4, 0.5, 0.9], non_crossing=True),
        "values",
    ),
    "student": (fm.StudentTNLL, "halves"),
    "divergence": (lambda: fm.KLDiv(log_target=True), "logarithms"),
    "focal": (fm.Focal, "labels"),
    "multi_margin": (lambda: fm.MultiMargin(2), "labels"),
    "ordinal": (fm.Ordinal, "labels"),
    "missing": (lambda: fm.MSE(mask="nan", output_weight=[1, 2, 3, 4]), "gaps"),
}

# NumPy draws normal numbers with functions of the C library.
INITIALIZERS = (
    *("he_uniform", "glorot_uniform", "lecun_uniform", "torch", "sklearn"),
    *("uniform", "siren", "identity", "truncated_normal"),
    *("he_truncated_normal", "glorot_truncated_normal", "lecun_truncated_normal"),
)

# Constants of activations besides the defaults.
CONSTANTS: dict[str, tuple[float, ...]] = {
    "leaky_relu": (0.25,),
    "threshold": (0.5, 2.0),
    "elu": (0.375,),
    "celu": (0.375,),
    "softplus": (3.0,),
    "hardtanh": (-0.5, 1.5),
    "softshrink": (0.75,),
    "hardshrink": (0.75,),
}

ELEMENTARY = (
    *("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "sin", "cos", "erf", "erfc"),
)


SCHEDULES = {
    "Polynomial": (0.1, 150, 2.3, 0.01),
    "Linear": (0.1, 150),
    "ConstantFactor": (0.1, 50),
    "Cyclic": (0.01, 0.1, 7, 11, "exp_range", 0.99),
    "FlatCosine": (0.1, 150, 0.3),
    "CosineLog": (0.1, 150),
    "WarmupStableDecay": (0.1, 20, 30, 100, 0.01, "exponential"),
    "Piecewise": ([0.1, 0.3, 0.2], [33, 100], "cos"),
    "Sequential": ([fm.schedules.Linear(0.1, 9), 0.2], [20]),
    "Chained": (0.1, [fm.schedules.Linear(1.0, 50), fm.schedules.Cosine(1.0, 99)]),
}


def words(size: int, seed: int) -> Any:
    """Return 64-bit numbers of SplitMix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = np.arange(1, size + 1, dtype=np.uint64) + np.uint64(seed << 32)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def numbers(shape: tuple[int, ...], dtype: Any, seed: int) -> Any:
    """Return multiples of 2**-20 from -2 to 2, which are exact in both dtypes."""
    size = int(np.prod(shape))
    integers = (words(size, seed) >> np.uint64(42)).astype(np.int64) - 2**21
    return (integers / 2**20).astype(dtype).reshape(shape)


def patterns(dtype: Any) -> Any:
    """Return numbers of every sign, exponent and kind, NaN and infinity included."""
    size, shift = 10_000, 64 - 8 * np.dtype(dtype).itemsize
    random = (words(size, 1) >> np.uint64(shift)).astype(f"u{np.dtype(dtype).itemsize}")
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0]
    return np.concatenate(
        [
            random.view(dtype),
            np.array(special, dtype),
            numbers((size,), dtype, 2),
            numbers((size,), dtype, 3) * 8,
        ]
    )


def targets(what: str, dtype: Any) -> Any:
    values = numbers((ROWS, N_OUT), dtype, 5)
    labels = (words(ROWS, 6) % np.uint64(N_OUT)).astype(np.int64)
    return {
        "values": values,
        "halves": values[:, : N_OUT // 2].copy(),
        "counts": np.floor(np.abs(2 * values)),
        "signs": np.where(values > 0, 1, -1).astype(dtype),
        "bits": (values > 0).astype(dtype),
        "positive": np.abs(values) + 1,
        "logarithms": np.full((ROWS, N_OUT), -1.3862943611198906, dtype),  # log(1 / 4)
        "gaps": np.where(values > 1, np.nan, values),
        "labels": labels,
        "actions": (labels, values[:, 0].copy()),
    }[what]


def model(layers: list[Any], activation: str, dtype: Any) -> fm.MLP:
    """Return a model whose initial parameters come from integers."""
    mlp = fm.MLP(layers, activation=activation, dtype=dtype, init="zeros", seed=8)
    mlp.params[:] += numbers(mlp.params.shape, dtype, 10) / 4
    return mlp


def fitted(dtype: Any, loss: Any, what: str, optimizer: Any, *layers: Any) -> Any:
    """Train on ROWS rows; return the model with its losses, and its inputs."""
    x, y = numbers((ROWS, N_IN), dtype, 4), targets(what, dtype)
    mlp = model([N_IN, *(layers or (19,)), N_OUT], "tanh", dtype)
    kind = {} if isinstance(optimizer, fm.solvers.Solver) else {"batch_size": 16}
    history = mlp.fit(
        x,
        y,
        loss=loss,
        optimizer=optimizer,
        epochs=5,
        validation_data=(x, y),
        seed=9,
        **kind,
    )
    return mlp, [history.loss, history.val_loss], x


def trained(*how: Any) -> list[Any]:
    mlp, losses, x = fitted(*how)
    return [mlp.params, mlp.buffers, np.array(losses), mlp(x)]


def in_bfloat16(_: Any) -> list[Any]:
    """Train and infer with products in bfloat16, which the dtype float32 has alone."""
    x, y = numbers((300, N_IN), np.float32, 13), numbers((300, N_OUT), np.float32, 14)
    layers = [N_IN, 40, fm.LayerNorm(), fm.Residual([33, 40]), fm.BatchNorm(), N_OUT]
    mlp = model(layers, "silu", np.float32).copy(compute_dtype="bfloat16")
    history = mlp.fit(
        x, y, loss=fm.MSE(), optimizer=fm.Adam(0.01), epochs=3, batch_size=160, seed=9
    )
    few = mlp(x[:3])
    return [
        mlp.params,
        mlp.buffers,
        np.array(history.loss),
        mlp(x),
        few,
        *mlp.vjp(x, y),
    ]


def called(kernel: Callable[..., None], x: Any, *args: Any) -> Any:
    out = np.zeros_like(x)
    kernel(out, *args)
    return out


def activation(name: str, dtype: Any, *constants: float) -> list[Any]:
    x, kernels = patterns(dtype).reshape(-1, 1), _core.kernels
    if name == "softmax":
        x = numbers((500, 13), dtype, 11) * 8
    ones = np.ones_like(x)
    h = called(kernels.activation_forward, x, x, name, constants)
    saved = h if _core.activation_saves(name) == "h" else x
    return [h, called(kernels.activation_backward, x, ones, saved, name, constants)]


def every_layer(dtype: Any) -> list[Any]:
    inner = fm.Residual([fm.Dropout(0.125), fm.Dense(5, "sin"), 11])
    layers = (
        fm.LayerNorm(),
        fm.Dense(9, "silu"),
        fm.Residual([fm.RMSNorm(), fm.Dense(33, "gelu"), fm.Dropout(0.25), 9]),
        fm.BatchNorm(),
        fm.Activation("softplus"),
        fm.Residual([fm.BatchNorm(momentum=0.25), inner]),
        fm.Dropout(0.5),
    )
    loss = fm.CrossEntropy(class_weight=[1.0, 0.5, 2.0, 0.25])
    mlp, losses, x = fitted(dtype, loss, "labels", fm.Adam(0.01), *layers)
    return [mlp.params, mlp.buffers, np.array(losses), mlp(x), mlp.fold()(x)]


def alpha_dropout(dtype: Any) -> list[Any]:
    layers = [fm.AlphaDropout(0.125), fm.Dense(9, "selu"), fm.AlphaDropout()]
    mlp, losses, x = fitted(dtype, fm.MSE(), "values", fm.SGD(0.01), *layers)
    return [mlp.params, np.array(losses), mlp(x), mlp.forward(x, training=True)]


def gaussian(dtype: Any) -> list[Any]:
    layers = [fm.GaussianNoise(0.25), 9, fm.GaussianDropout(0.125)]
    mlp, losses, x = fitted(dtype, fm.MSE(), "values", fm.SGD(0.01), *layers)
    return [mlp.params, np.array(losses), mlp(x), mlp.forward(x, training=True)]


def scheduled_dropout(dtype: Any) -> list[Any]:
    p = fm.schedules.LinearWarmup(fm.schedules.FlatCosine(0.5, 15), 4)
    layers = [fm.Dropout(0.125), 9, fm.Residual([fm.Dropout(p), 9])]
    mlp, losses, x = fitted(dtype, fm.MSE(), "values", fm.SGD(0.01), *layers)
    return [mlp.params, np.array(losses), mlp(x)]


def learned_slopes(dtype: Any) -> list[Any]:
    layers = [9, fm.PReLU(0.125), fm.Residual([9, fm.PReLU(shared=True), 9])]
    mlp, losses, x = fitted(dtype, fm.MSE(), "values", fm.SGD(0.01), *layers)
    return [mlp.params, np.array(losses), mlp(x), mlp.jacobian(x)]


def gated(dtype: Any) -> list[Any]:
    silu, elu = fm.GLU("silu"), fm.GLU(fm.Activation("elu", alpha=0.5))
    layers = [18, fm.GLU(), fm.Residual([10, silu, fm.Dense(18, "identity"), elu])]
    mlp, losses, x = fitted(dtype, fm.MSE(), "values", fm.SGD(0.01), *layers)
    return [mlp.params, np.array(losses), mlp(x), mlp.jacobian(x)]


def scaled(dtype: Any) -> list[Any]:
    layers = [fm.Scale(), 9, fm.Residual([fm.Scale(), 5, fm.Scale(), 9])]
    mlp, losses, x = fitted(dtype, fm.MSE(), "values", fm.SGD(0.01), *layers)
    return [mlp.params, np.array(losses), mlp(x), mlp.jacobian(x)]


def grouped(dtype: Any) -> list[Any]:
    block = fm.Residual([fm.GroupNorm(4), fm.Dense(40, "tanh")])
    layers = [40, fm.GroupNorm(5), block, 9, fm.GroupNorm(3, affine=False)]
    mlp, losses, x = fitted(dtype, fm.MSE(), "values", fm.SGD(0.01), *layers)
    return [mlp.params, np.array(losses), mlp(x), mlp.jacobian(x)]


def side_by_side(dtype: Any) -> list[Any]:
    heads = fm.Parallel([[7, fm.Dense(1)], [], [fm.Dense(2, "tanh")]])
    layers = [fm.Concat([9, 6]), 8, heads, 5]
    mlp, losses, x = fitted(dtype, fm.MSE(), "values", fm.SGD(0.01), *layers)
    return [mlp.params, np.array(losses), mlp(x), mlp.jacobian(x)]


def embedded(dtype: Any) -> list[Any]:
    numeric = [fm.Columns(range(2, N_IN)), fm.Dense(8, "relu")]
    categories = [fm.Columns([1, 0]), fm.Embedding([4, 6], 5)]
    layers = [N_IN, fm.Parallel([numeric, categories]), N_OUT]
    mlp = model(layers, "tanh", dtype)
    # NumPy has drawn the tables with functions of the C library.
    table = mlp.named_parameters()["0.branches.1.1.weight"]
    table[:] = numbers(table.shape, dtype, 12)
    x, y = numbers((ROWS, N_IN), dtype, 4), targets("values", dtype)
    x[:, 1], x[:, 0] = np.arange(len(x)) % 4, np.arange(len(x)) % 6
    opt = fm.SGD(0.01)
    losses = [mlp.train_step(x, y, fm.MSE(), opt) for _ in range(3)]
    return [mlp.params, np.array(losses), mlp(x), mlp.jacobian(x)]


def periodic(dtype: Any) -> list[Any]:
    layers = [N_IN, fm.Periodic(3), 7, fm.Periodic(2), N_OUT]
    mlp = model(layers, "tanh", dtype)
    for name in ("0.weight", "3.weight"):  # drawn by NumPy with the C library
        table = mlp.named_parameters()[name]
        table[:] = numbers(table.shape, dtype, 12)
    x, y = numbers((ROWS, N_IN), dtype, 4), targets("values", dtype)
    opt = fm.SGD(0.001)
    losses = [mlp.train_step(x, y, fm.MSE(), opt) for _ in range(3)]
    return [mlp.params, np.array(losses), mlp(x), mlp.jacobian(x)]


def in_bins(dtype: Any) -> list[Any]:
    layers = [N_IN, fm.PiecewiseLinear(4), 7, N_OUT]
    mlp = model(layers, "tanh", dtype)
    x, y = numbers((ROWS, N_IN), dtype, 4), targets("values", dtype)
    mlp.adapt(x)
    opt = fm.SGD(0.01)
    losses = [mlp.train_step(x, y, fm.MSE(), opt) for _ in range(3)]
    return [mlp.params, mlp.buffers, np.array(losses), mlp(x), mlp.jacobian(x)]


def standardised(dtype: Any) -> list[Any]:
    block = fm.Residual([fm.Standardise(), 5, 9])
    layers = [fm.Standardise(), 9, block, N_OUT, fm.Standardise(inverse=True)]
    mlp = model([N_IN, *layers], "tanh", dtype)
    x, y = numbers((ROWS, N_IN), dtype, 12) * 3, targets("values", dtype) * 5
    mlp.adapt(x, y)
    steps = {"optimizer": fm.SGD(0.001), "epochs": 2, "batch_size": 16}
    history = mlp.fit(x, y, loss=fm.MSE(), **steps)
    losses = np.array(history.loss)
    return [mlp.params, mlp.buffers, losses, mlp(x), mlp.jacobian(x)]


def parametrized(kind: str, dtype: Any) -> list[Any]:
    def dense(n: int, activation: str) -> fm.Dense:
        return fm.Dense(n, activation, parametrization=kind)

    layers = [dense(40, "relu"), fm.Residual([dense(9, "tanh"), dense(40, "relu")])]
    mlp, losses, x = fitted(dtype, fm.MSE(), "values", fm.Adam(0.01), *layers)
    rows = mlp.param_jacobian(x[:3])
    found = [mlp.params, np.array(losses), mlp(x), mlp.jacobian(x), rows]
    return [*found, mlp.buffers]


def derivatives(dtype: Any) -> list[Any]:
    layers = [N_IN, fm.LayerNorm(), 10, fm.BatchNorm(), fm.Residual([6, 10]), N_OUT]
    mlp = model(layers, "softplus", dtype)
    x, dy = numbers((ROWS, N_IN), dtype, 12), targets("values", dtype)
    single = model([N_IN, 9, 1], "gelu", dtype)
    return [
        *mlp.vjp(x, dy),
        *mlp.jvp(x, x[:, ::-1].copy()),
        mlp.jacobian(x),
        mlp.param_jacobian(x),
        mlp.per_sample_grads(x, dy, fm.Huber()),
        single.hessian(x),
        single.hvp(x, x[:, ::-1].copy()),
    ]


def of_elementary(name: str) -> Callable[[Any], list[Any]]:
    return lambda dtype: [
        called(_core.kernels.elementary, x := patterns(dtype), x, name)
    ]


def of_activation(name: str) -> Callable[[Any], list[Any]]:
    return lambda dtype: activation(name, dtype)


def of_constants(name: str, *constants: float) -> Callable[[Any], list[Any]]:
    return lambda dtype: activation(name, dtype, *constants)


def of_loss(name: str) -> Callable[[Any], list[Any]]:
    make, what = LOSSES[name]
    return lambda dtype: trained(dtype, make(), what, fm.SGD(0.01))


def mixture(dtype: Any) -> list[Any]:
    mlp = model([N_IN, 9, 12], "tanh", dtype)
    x, y = numbers((ROWS, N_IN), dtype, 15), targets("halves", dtype)
    value, grads = mlp.value_and_grad(x, y, fm.MixtureDensity(2))
    return [np.array(value), grads]


def survival(dtype: Any) -> list[Any]:
    pred, time = numbers((ROWS, 1), dtype, 16), np.arange(ROWS) // 2
    value, grad = fm.CoxPH().value_and_grad(pred, (time, np.arange(ROWS) % 3 > 0))
    return [np.array(value), grad]


def of_optimizer(name: str) -> Callable[[Any], list[Any]]:
    return lambda dtype: trained(dtype, fm.MSE(), "values", OPTIMIZERS[name]())


def of_initializer(name: str) -> Callable[[Any], list[Any]]:
    return lambda dtype: [
        fm.MLP([N_IN, 50, 20, N_OUT], init=name, dtype=dtype, seed=5).params
    ]


def of_schedule(name: str) -> Callable[[Any], list[Any]]:
    make = getattr(fm.schedules, name)
    return lambda dtype: [make(*SCHEDULES[name]).values(0, 200).astype(dtype)]


CASES: dict[str, Callable[[Any], list[Any]]] = {
    **{f"elementary {name}": of_elementary(name) for name in ELEMENTARY},
    **{f"activation {name}": of_activation(name) for name in fm.ACTIVATIONS},
    **{
        f"activation {name} {' '.join(map(str, constants))}": of_constants(
            name, *constants
        )
        for name, constants in CONSTANTS.items()
    },
    **{f"initial weights {name}": of_initializer(name) for name in INITIALIZERS},
    **{f"loss {name}": of_loss(name) for name in LOSSES},
    **{f"optimizer {name}": of_optimizer(name) for name in OPTIMIZERS},
    **{f"schedule {name}": of_schedule(name) for name in SCHEDULES},
    "every layer": every_layer,
    "derivatives": derivatives,
    "loss mixture": mixture,
    "loss survival": survival,
    "alpha dropout": alpha_dropout,
    "gaussian": gaussian,
    "scheduled dropout": scheduled_dropout,
    "learned slopes": learned_slopes,
    "gated": gated,
    "scaled": scaled,
    "side by side": side_by_side,
    "embedded": embedded,
    "periodic": periodic,
    "standardised": standardised,
    "in bins": in_bins,
    "grouped": grouped,
    "weight normalised": lambda dtype: parametrized("weight_norm", dtype),
    "spectrally normalised": lambda dtype: parametrized("spectral_norm", dtype),
    "bfloat16": in_bfloat16,
}


def hashed(name: str, dtype: Any) -> str:
    """Return the hash of a case's results, with all NaN alike."""
    import hashlib

    sha = hashlib.sha256()
    for part in CASES[name](np.dtype(dtype)):
        array = np.where(np.isnan(part), np.array(np.nan, part.dtype), part)
        little = array.astype(array.dtype.newbyteorder("<"))
        sha.update(np.ascontiguousarray(little).tobytes())
    return sha.hexdigest()[:32]


def all_hashes() -> dict[str, dict[str, str]]:
    return {
        dtype: {name: hashed(name, dtype) for name in CASES}
        for dtype in ("float32", "float64")
    }


if __name__ == "__main__":
    RECORD.write_text(json.dumps(all_hashes(), indent=1) + "\n")
    print(f"wrote {RECORD}")
