"""A self-check of the compiled kernels on this machine.

For each instruction set and dtype, `run` compares the kernels with `fastmlp.reference`
in float64; products in bfloat16 must have the bits of the reference. It then trains a
small model, whose parameters must be the same to the last bit for all instruction sets
and numbers of threads. ``python -m fastmlp`` runs it.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..layers import Dense
from ..losses import CrossEntropy
from ..mlp import MLP
from ..optimizers import Adam
from . import available_isas, threads, use_isa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._validate import Array

# Values of compute_dtype.
DTYPES = ("float32", "float64", "bfloat16")
THREADS = (1, 2, 3)

# Errors are measured in units of the dtype's epsilon times the largest magnitude in
# the reference's result (at least 1). A sum of n rounded terms can be off by n units;
# a formula of a few elementary functions stays well below 16.
EPSILONS_PER_TERM = 1.0
EPSILONS = 16.0

# Odd sizes, so that the kernels' tails run; large enough for full vector tiles.
ROWS, N_IN, N_OUT = 37, 53, 41

# Scalar arguments of the optimisers' steps.
SCALARS: dict[str, Any] = {
    "lr": 0.1,
    "momentum": 0.9,
    "dampening": 0.1,
    "nesterov": False,
    "lr_decay": 0.01,
    "alpha": 0.9,
    "beta1": 0.9,
    "beta2": 0.99,
    "eps": 1e-8,
    "weight_decay": 0.01,
    "decoupled": True,
    "maximize": False,
    "momentum_decay": 0.004,
    "mu_product": 0.2,
    "rho": 0.9,
    "etaminus": 0.5,
    "etaplus": 1.2,
    "step_min": 1e-6,
    "step_max": 50.0,
    "lambd": 0.01,
    "t0": 1.0,
    "adaptive": True,
    "warmup_steps": 4,
    "r": 0.5,
    "weight_lr_power": 2.0,
    "lr_max": 0.05,
    "weight_sum": 0.01,
    "beta3": 0.9,
    "use_bias_correction": True,
    "safeguard_warmup": False,
    "d0": 0.01,
    "d": 0.1,
    "step": 3,
}

# The model to train. A step on a batch of the first size is three times as large as the
# smallest step that uses several threads. A step on a batch of the second size runs on
# the calling thread only.
WIDTHS = (N_IN, 128, 96, 65, N_OUT)
BATCH_SIZES = (403, 7)


def run(report: Callable[[str], object] = print) -> bool:
    """Check all instruction sets; report one line per instruction set and dtype.

    Parameters
    ----------
    report
        Function to call with each line of text.

    Returns
    -------
    bool
        Whether all checks passed.
    """
    hashes: dict[str, str] = {}
    good = True
    for name in available_isas():
        for dtype in DTYPES:
            with use_isa(name):
                check = _wrong_products if dtype == "bfloat16" else _wrong_kernels
                wrong = list(check(dtype))
                trained = {_trained_hash(dtype, n) for n in THREADS}
            # Compare with the hash of the first instruction set, the portable "scalar".
            if trained != {hashes.setdefault(dtype, min(trained))}:
                wrong.append(
                    "training: bits differ between numbers of threads, or from those "
                    "of the first instruction set"
                )
            good = good and not wrong
            digest = hashes[dtype][:16]
            verdict = f"ok  {digest}" if not wrong else "FAILED: " + "; ".join(wrong)
            report(f"{name:<11} {dtype:<8}  {verdict}")
    return good


def _wrong_kernels(dtype: str) -> Iterator[str]:
    """Yield a message for each wrong result of the current instruction set."""
    from .. import reference

    rng = np.random.default_rng(0)
    for name, outputs, inputs, terms in _calls(rng, np.dtype(dtype)):
        call = f"{name}{[i for i in inputs if isinstance(i, str)] or ''}"
        results = []
        for module in (_core.kernels, reference):
            function = getattr(module, name)
            # The reference computes in float64 from the same numbers.
            wide = module is reference
            arguments = [
                _fresh(value, wide) if isinstance(value, np.ndarray) else value
                for value in (*outputs, *inputs)
            ]
            function(*arguments)
            results.append(arguments[: len(outputs)])
        bound = (EPSILONS + EPSILONS_PER_TERM * terms) * float(np.finfo(dtype).eps)
        for got, wanted in zip(*results, strict=True):
            size = max(1.0, float(abs(wanted).max()))
            error = float(abs(got.astype(np.float64) - wanted).max()) / size
            if not error <= bound:  # a NaN is wrong as well
                yield f"{call} is off by {error:.1e}, more than {bound:.1e}"


def _wrong_products(compute_dtype: str) -> Iterator[str]:
    """Yield a message for each product that has not the bits of the reference."""
    from .. import reference

    rng = np.random.default_rng(0)
    mlp = MLP([N_IN, N_OUT], compute_dtype=compute_dtype, seed=1)
    weight, bias = mlp.weights[0], mlp.biases[0]
    product = reference.bfloat16_product
    for rows in (ROWS, 3):  # packed, and too few to be packed
        x = rng.standard_normal((rows, N_IN)).astype(np.float32)
        dy = rng.standard_normal((rows, N_OUT)).astype(np.float32)
        y, dx, grads = mlp.vjp(x, dy)
        pairs = {
            "output": (y, product(x, weight, bias=bias)),
            "gradient of the input": (dx, product(dy, weight.T)),
            "gradient of the weight": (grads[: weight.size], product(x.T, dy)),
        }
        for name, (got, wanted) in pairs.items():
            if got.tobytes() != wanted.tobytes():
                yield f"{compute_dtype} product: wrong bits in the {name}, {rows} rows"


def _fresh(array: Array, wide: bool) -> Array:
    """Return a copy; with ``wide``, arrays of floats are converted to float64."""
    dtype = np.float64 if wide and array.dtype.kind == "f" else array.dtype
    return array.astype(dtype)


def _calls(
    rng: np.random.Generator, dtype: np.dtype[Any]
) -> Iterator[tuple[str, list[Array], list[Any], int]]:
    """Yield calls to compare: kernel, outputs, other arguments, terms in each sum."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    # Products.
    x, w, dz, b = (
        normal(ROWS, N_IN),
        normal(N_IN, N_OUT),
        normal(ROWS, N_OUT),
        normal(N_OUT),
    )
    yield "gemm_nn", [normal(ROWS, N_OUT)], [x, w, b], N_IN
    yield "gemm_nt", [normal(ROWS, N_IN)], [dz, w], N_OUT
    yield "gemm_tn", [normal(N_IN, N_OUT)], [x, dz, True], ROWS
    yield "column_sum", [normal(N_OUT)], [dz], ROWS
    yield "dense_forward", [normal(ROWS, N_OUT)], [x, w, b, "tanh"], N_IN

    # Activations forward, and backward from the array that each of them saves.
    from .. import reference

    for kind in _core.ACTIVATIONS:
        z = normal(ROWS, N_OUT)
        yield "activation_forward", [np.zeros_like(z)], [z, kind], 0
        saved = z
        if _core.activation_saves(kind) == "output":
            saved = np.zeros_like(z)
            reference.activation_forward(saved, z, kind)
        yield "activation_backward", [np.zeros_like(z)], [dz, saved, kind], N_OUT

    # Losses and their gradients, with a scale for each row.
    scale = abs(normal(ROWS))
    labels = rng.integers(N_OUT, size=ROWS)
    shares = rng.dirichlet(np.ones(N_OUT), ROWS).astype(dtype)
    for kind in _core.LOSSES:
        facts = _core.Loss(kind)
        delta = 1.0 if kind == "mixture_density" else 0.5  # the number of components
        each = facts.predictions_per_target
        width = N_OUT // each
        numbers = normal(ROWS, width)
        values = {
            "labels": labels,
            "probabilities": shares,
            "positive": abs(numbers),
        }.get(facts.allowed, numbers)
        targets = [shares, labels] if kind == "cross_entropy" else [values]
        for y in targets:
            pred = np.ascontiguousarray(dz[:, : each * width])
            outputs = [np.zeros_like(pred), np.zeros(ROWS, dtype)]
            yield "loss_rows", outputs, [pred, y, scale, kind, delta], N_OUT

    # Optimisers, at their third step.
    p, g = normal(N_IN), normal(N_IN)
    for kind in _core.OPTIMIZERS:
        step = f"{kind}_step"
        names = list(inspect.signature(getattr(reference, step)).parameters)
        at = names.index("grad")
        # Later slots are smaller, because a mean square (the first) must be greater
        # than the square of a mean gradient (the last).
        slots = [rng.uniform(0.5, 1.0, N_IN).astype(dtype) / i for i in range(1, at)]
        modes = ["outside", "inside"] + ["hat"] * (kind == "adam")
        for mode in modes if "eps_mode" in names else [""]:
            scalars = [{**SCALARS, "eps_mode": mode}[name] for name in names[at + 1 :]]
            yield step, [p, *slots], [g, *scalars], 0
    yield "sum_of_squares", [np.zeros(1, dtype)], [g], 0
    sums = [p, p / 2, p / 3, g, 0.9, 0.1, 0.01, False]
    yield "prodigy_sums", [np.zeros(2, dtype)], sums, N_IN
    yield "condition_gradient", [np.zeros_like(g)], [g, p, 0.5, 0.4, 0.1], 0
    yield "interpolate", [p], [g, 0.1], 0


def _trained_hash(compute_dtype: str, n_threads: int) -> str:
    """Train a small model and return the SHA-256 of its parameters."""
    dtype = "float32" if compute_dtype == "bfloat16" else compute_dtype
    rng = np.random.default_rng(1)
    n_in, first, second, third, n_out = WIDTHS
    layers: list[int | Dense] = [
        n_in,
        first,
        Dense(second, "gelu"),
        Dense(third, "silu"),
        n_out,
    ]
    mlp = MLP(
        layers, activation="tanh", dtype=dtype, compute_dtype=compute_dtype, seed=2
    )
    with threads(n_threads):
        for batch_size in BATCH_SIZES:
            # One full batch, and a shorter last one.
            x = rng.standard_normal((batch_size * 5 // 4, n_in)).astype(dtype)
            y = rng.integers(n_out, size=len(x))
            mlp.fit(
                x,
                y,
                loss=CrossEntropy(),
                optimizer=Adam(lr=1e-2),
                epochs=2,
                batch_size=batch_size,
                progress=False,
            )
    return hashlib.sha256(mlp.params.tobytes()).hexdigest()
