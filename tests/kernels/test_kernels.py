"""Compiled kernels against the reference, instruction sets against scalar.

A `Call` names a kernel with its arguments. The same calls serve four questions: is the
result that of the reference in float64, is exactly the output written, are all inputs
left alone, and are the bits the same on every instruction set.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import product
from types import ModuleType
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core, reference
from helpers import SEED, TAILS, TOLERANCE, assert_threaded, thread_counts

kernels = _core.kernels

KERNELS = (
    "gemm_nn",
    "gemm_nt",
    "gemm_tn",
    "dense_forward",
    "column_sum",
    "activation_forward",
    "activation_backward",
    "activation_second",
    "loss_rows",
    "layer_norm_forward",
    "layer_norm_backward",
    "scale_groups",
    "add_scaled_groups",
    "outer_rows",
    "gemm_gather_k",
    "softmax_second",
    "layer_norm_second",
    "column_moments",
    "batch_norm_forward",
    "batch_norm_backward",
    "batch_norm_sums",
    "column_dot",
    "add",
    "multiply",
    "dropout",
    "sgd_step",
    "adagrad_step",
    "rmsprop_step",
    "adam_step",
    "dot",
    "axpy",
    "sum_of_squares",
    "condition_gradient",
    "interpolate",
    "elementary",
    "shuffle",
)
FUNCTIONS = (
    "exp",
    "expm1",
    "log",
    "log1p",
    "tanh",
    "sigmoid",
    "sin",
    "cos",
    "erf",
    "erfc",
)

# Elements on either side of an array that must stay as they are. An odd number, so that
# arrays are aligned to their elements only.
GUARD = 67
SENTINEL = 12345.0


@dataclass
class Call:
    """A call of a kernel; arrays are float64 or int64, with values that fit the dtype.

    `outputs` start as NaN and are only written, `updated` are read and written. `bound`
    is how far each may be from the reference, in units of eps, given the result.
    """

    kernel: str
    args: dict[str, Any]
    outputs: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    bound: dict[str, Callable[[np.ndarray], Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = {
            k: v.shape if isinstance(v, np.ndarray) else v for k, v in self.args.items()
        }
        return f"{self.kernel}({shown})"


def guarded(array: np.ndarray, dtype: type, guard: float) -> np.ndarray:
    """A C-contiguous copy inside a larger buffer, its base, filled with ``guard``."""
    kind = np.int64 if array.dtype == np.int64 else dtype
    fill = -(2**62) if kind == np.int64 else guard
    buffer = np.full(array.size + 2 * GUARD, fill, dtype=kind)
    buffer[GUARD : GUARD + array.size] = array.ravel()
    return buffer[GUARD : GUARD + array.size].reshape(array.shape)


def run(module: ModuleType, call: Call, dtype: type) -> dict[str, np.ndarray]:
    """What the call writes; checks that it writes nothing else."""
    args, before = dict(call.args), {}
    written = call.outputs + call.updated
    for name, value in call.args.items():
        if isinstance(value, np.ndarray):
            start = np.full_like(value, np.nan) if name in call.outputs else value
            guard = SENTINEL if name in written else np.nan
            args[name] = guarded(start, dtype, guard)
            before[name] = args[name].base.tobytes()
    assert getattr(module, call.kernel)(**args) is None
    for name, old in before.items():
        after = args[name].base
        if name in written:
            edges = np.concatenate([after[:GUARD], after[-GUARD:]])
            assert (edges == SENTINEL).all(), f"{call} wrote around {name}"
        else:
            assert after.tobytes() == old, f"{call} changed {name}"
    return {name: args[name].copy() for name in written}


@cache
def expected(dtype: type, group: str, index: int) -> dict[str, np.ndarray]:
    """The reference's answer in float64."""
    return run(reference, calls(dtype, group)[index], np.float64)


# --------------------------------------------------------------------------- calls


def rounded(values: np.ndarray, dtype: type) -> np.ndarray:
    """Float64 values that ``dtype`` holds exactly."""
    return values.astype(dtype).astype(np.float64)


def sizes(count: int) -> list[tuple[int, ...]]:
    """Tuples in which each position takes each of TAILS once, all mixed up."""
    n, strides = len(TAILS), (1, 5, 7)
    return [
        tuple(TAILS[(i * s + 3 * p) % n] for p, s in enumerate(strides[:count]))
        for i in range(n)
    ]


# Corners: a single element, rows, columns, outer products, long sums, one that is
# larger than the tiles and panels, and some larger than a block of the right operand,
# or of the left one.
PRODUCT_SIZES = [
    *sizes(3),
    (1, 1, 1),
    (1, 65, 33),
    (65, 1, 33),
    (33, 65, 1),
    (1, 1, 300),
    (3, 5, 600),
    (37, 131, 520),
    (5, 70, 1100),
    (9, 1100, 3),
    (110, 70, 2),
]


def product_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    shapes = {
        "gemm_nn": lambda m, n, k: ((m, k), (k, n)),
        "gemm_nt": lambda m, n, k: ((m, k), (n, k)),
        "gemm_tn": lambda m, n, k: ((k, m), (k, n)),
    }
    for (m, n, k), kernel, mode in product(
        PRODUCT_SIZES, shapes, ("plain", "accumulate", "bias")
    ):
        if mode == "bias" and kernel != "gemm_nn":
            continue
        a, b = (
            rounded(rng.standard_normal(shape), dtype)
            for shape in shapes[kernel](m, n, k)
        )
        c = rounded(rng.standard_normal((m, n)), dtype)
        args: dict[str, Any] = {"c": c, "a": a, "b": b}
        # |computed - exact| <= (k + 2) eps sum |a| |b| holds for any order of
        # summation, fused or not, of both sides (Higham, 2002, section 3.5).
        magnitude = np.zeros((m, n))
        reference.gemm_nn(
            magnitude,
            np.abs(a.T if kernel == "gemm_tn" else a),
            np.abs(b.T if kernel == "gemm_nt" else b),
        )
        if mode == "accumulate":
            args["accumulate"] = True
            magnitude += np.abs(c)
        if mode == "bias":
            args["bias"] = rounded(rng.standard_normal(n), dtype)
            magnitude += np.abs(args["bias"])
        bound = {"c": lambda _, size=(k + 2) * magnitude: size}
        where = {"updated" if mode == "accumulate" else "outputs": ("c",)}
        yield Call(kernel, args, bound=bound, **where)


def column_sum_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for m, n in [*sizes(2), (300, 5)]:
        a = rounded(rng.standard_normal((m, n)), dtype)
        size = m * np.abs(a).sum(axis=0)
        yield Call(
            "column_sum",
            {"out": np.zeros(n), "a": a},
            outputs=("out",),
            bound={"out": lambda _, size=size: size},
        )


def vector_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for n in (*TAILS, 1000, 1024):
        a, b = (rounded(rng.standard_normal(n), dtype) for _ in range(2))
        size = n * (abs(a) * abs(b)).sum()
        yield Call(
            "dot",
            {"out": np.zeros(1), "a": a, "b": b},
            outputs=("out",),
            bound={"out": lambda _, size=size: size},
        )
        alpha = float(rounded(np.array([-0.37]), dtype)[0])
        yield Call(
            "axpy",
            {"y": a, "x": b, "alpha": alpha},
            updated=("y",),
            bound={"y": lambda _, a=a, b=b: 2 * (abs(a) + abs(b))},
        )


ELEMENTWISE = TOLERANCE["elementwise"].ulps
UPDATE = TOLERANCE["update"].ulps


def elementwise_bound(scale: Any = 1.0) -> Callable[[np.ndarray], Any]:
    """Relative to the result or the scale of its terms, whichever is larger."""
    return lambda result: ELEMENTWISE * (np.abs(result) + scale)


def dense_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    triples = PRODUCT_SIZES[: len(TAILS)]
    for i, activation in enumerate(_core.ACTIVATIONS):
        for m, n, k in [triples[i % len(TAILS)], triples[(i + 7) % len(TAILS)]]:
            x = rounded(rng.standard_normal((m, k)), dtype)
            w = rounded(rng.standard_normal((k, n)) / np.sqrt(k), dtype)
            for bias in (None, rounded(rng.standard_normal(n), dtype)):
                # The error of the product, at most (k + 2) eps times its magnitude,
                # goes through the activation, none of which is steeper than 1.2, or
                # than its value where that is exp.
                magnitude = np.abs(x) @ np.abs(w)
                magnitude += 0 if bias is None else np.abs(bias)
                slack = 2 * (k + 2) * magnitude.max() + ELEMENTWISE
                yield Call(
                    "dense_forward",
                    {
                        "h": np.zeros((m, n)),
                        "x": x,
                        "w": w,
                        "bias": bias,
                        "activation": activation,
                    },
                    outputs=("h",),
                    bound={"h": lambda h, slack=slack: slack * (1 + np.abs(h))},
                )


def pre_activations(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Of all sizes, and with the zeros at which derivatives jump."""
    z = rng.standard_normal(shape) * rng.choice([0.01, 1, 4], shape)
    z[rng.uniform(size=shape) < 0.05] = 0
    return z


def activation_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for activation, (m, n) in product(_core.ACTIVATIONS, sizes(2)):
        z = rounded(pre_activations(rng, (m, n)), dtype)
        # z itself is an intermediate term of gelu and others, and for exp and softmax
        # the rounding of the argument counts.
        scale = 1 + np.abs(z).max()
        yield Call(
            "activation_forward",
            {"h": np.zeros_like(z), "z": z, "activation": activation},
            outputs=("h",),
            bound={"h": elementwise_bound(scale)},
        )
        saved = np.empty_like(z)
        reference.activation_forward(saved, z, activation)
        saved = rounded(saved, dtype)
        if reference.activation_saves(activation) == "input":
            saved = z
        dh = rounded(rng.standard_normal((m, n)), dtype)
        slack = np.abs(dh).max() * (scale if saved is z else 1)
        yield Call(
            "activation_backward",
            {
                "dz": np.zeros_like(z),
                "dh": dh,
                "saved": saved,
                "activation": activation,
            },
            outputs=("dz",),
            bound={"dz": elementwise_bound(slack)},
        )
        if activation == "softmax":
            continue
        yield Call(
            "activation_second",
            {
                "out": np.zeros_like(z),
                "c": dh,
                "saved": saved,
                "activation": activation,
            },
            outputs=("out",),
            bound={"out": elementwise_bound(slack)},
        )


def loss_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for (m, n), kind in product(sizes(2), (*_core.LOSSES, "labels")):
        pred = rounded(2 * rng.standard_normal((m, n)), dtype)
        target = rounded(rng.standard_normal((m, n)), dtype)
        target[0, 0] = pred[0, 0]  # where the slope of |r| jumps
        if "cross_entropy" in kind:
            target = rounded(rng.uniform(size=(m, n)), dtype)
        if kind == "gaussian_nll":  # of half the columns, see test_more_losses.py
            continue
        if kind == "labels":
            target = rng.integers(0, n, m)
        scale = rounded(rng.uniform(0, 2, m), dtype)
        args = {
            "dpred": np.zeros((m, n)),
            "row_loss": np.zeros(m),
            "pred": pred,
            "target": target,
            "row_scale": scale,
            "loss": "cross_entropy" if kind == "labels" else kind,
        }
        if "huber" in kind:
            args["delta"] = 0.75
        # Terms are of the order of the squares of the data, and n of them are added.
        size = 1 + np.abs(pred).max() ** 2
        bound = {
            "row_loss": elementwise_bound(n * size),
            "dpred": elementwise_bound(2 * size),
        }
        yield Call("loss_rows", args, ("dpred", "row_loss"), bound=bound)
        value_only = {**args, "dpred": None}
        yield Call("loss_rows", value_only, ("row_loss",), bound=bound)


def norm_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for i, (m, n) in enumerate(sizes(2)):

        def normal(*shape: int) -> np.ndarray:
            return rounded(rng.standard_normal(shape), dtype)

        def positive(*shape: int) -> np.ndarray:
            return rounded(rng.uniform(0.5, 2, shape), dtype)

        x, dh, xhat = normal(m, n), normal(m, n), normal(m, n)
        affine = i % 2 == 0
        scale = positive(n) if affine else None
        shift = normal(n) if affine else None
        # Sums over rows or columns of data of order 1, divided by their length; no
        # deviation is below sqrt(0.1).
        size = 10 * (1 + float(np.abs(x).max())) ** 2 * (m + n)
        names = ("h", "xhat", "rstd", "dx", "mean", "var", "out", "sum_dh", "sum_dhx")
        bound = dict.fromkeys(names, elementwise_bound(size))
        wide = np.zeros((m, n))
        layer = {"x": x, "scale": scale, "shift": shift, "eps": 0.1}
        kept = {"h": wide, "xhat": wide, "rstd": np.zeros(m)}
        yield Call("layer_norm_forward", {**kept, **layer}, tuple(kept), bound=bound)
        alone = {"h": wide, "xhat": None, "rstd": None}
        yield Call("layer_norm_forward", {**alone, **layer}, ("h",), bound=bound)
        batch = {"x": x, "mean": normal(n), "rstd": positive(n)}
        batch |= {"scale": scale, "shift": shift}
        for args in ({"h": wide, "xhat": wide}, {"h": wide, "xhat": None}):
            written = tuple(k for k, v in args.items() if v is not None)
            yield Call("batch_norm_forward", {**args, **batch}, written, bound=bound)
        moments = {"mean": np.zeros(n), "var": np.zeros(n)}
        yield Call("column_moments", {**moments, "x": x}, tuple(moments), bound=bound)
        sums = {"sum_dh": np.zeros(n), "sum_dhx": np.zeros(n)}
        batch = {**sums, "dh": dh, "xhat": xhat}
        yield Call("batch_norm_sums", batch, tuple(sums), bound=bound)
        for accumulate in (False, True):
            back = {"dx": normal(m, n), "dh": dh, "xhat": xhat}
            last = {"scale": scale, "accumulate": accumulate}
            rows = {**back, "rstd": positive(m), **last}
            yield Call("layer_norm_backward", rows, updated=("dx",), bound=bound)
            means = {"mean_dh": normal(n), "mean_dhx": normal(n)}
            columns = {**back, "rstd": positive(n), **last, **means}
            yield Call("batch_norm_backward", columns, updated=("dx",), bound=bound)
            dot = {"out": normal(n), "a": x, "b": dh, "accumulate": accumulate}
            yield Call("column_dot", dot, updated=("out",), bound=bound)
        flat = {"out": np.zeros(m * n), "a": x.ravel(), "b": dh.ravel()}
        yield Call("add", flat, ("out",), bound=bound)
        yield Call("multiply", flat, ("out",), bound=bound)


def group_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    """Several directions for each row of values."""
    for i, (m, n) in enumerate(sizes(2)):
        group, k = 1 + i % 13, 1 + 5 * i % 37

        def normal(*shape: int) -> np.ndarray:
            return rounded(rng.standard_normal(shape), dtype)

        a, scale, out = normal(m * group, n), normal(m, n), normal(m * group, n)
        # Sums over rows of data of order 1 and products of up to five of them.
        size = 10 * (1 + float(max(abs(v).max() for v in (a, scale, out)))) ** 5
        bound = dict.fromkeys(("out", "c"), elementwise_bound(size * (n + k)))
        for rows in (a, a[:group]):
            for masks in (False, True):
                args = {"out": out, "a": rows, "scale": scale, "masks": masks}
                yield Call("scale_groups", args, ("out",), bound=bound)
            added = {"out": out, "a": rows, "scale": scale}
            yield Call("add_scaled_groups", added, updated=("out",), bound=bound)
        flat = {"out": np.zeros((m * group, k * n)), "x": normal(m, k), "d": a}
        yield Call("outer_rows", flat, ("out",), bound=bound)
        gate, b = normal(m, k), normal(k, n)
        for accumulate in (False, True):
            args = {"c": out, "a": normal(m * group, k), "b": b, "gate": gate}
            args["accumulate"] = accumulate
            written = {"updated": ("c",)} if accumulate else {"outputs": ("c",)}
            yield Call("gemm_gather_k", args, bound=bound, **written)
        h = rounded(rng.dirichlet(np.ones(n), m), dtype)
        xhat, rstd = normal(m, n), rounded(rng.uniform(0.5, 2, m), dtype)
        for dot in (None, normal(m * group, n)):
            args = {"out": out, "dot": dot, "c": scale, "t": a}
            yield Call("softmax_second", {**args, "h": h}, ("out",), bound=bound)
            args |= {"xhat": xhat, "rstd": rstd}
            args["scale"] = normal(n) if i % 2 == 0 else None
            yield Call("layer_norm_second", args, ("out",), bound=bound)
            added = {**args, "accumulate": True}
            yield Call("layer_norm_second", added, updated=("out",), bound=bound)


def dropout_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    draws = [
        (0.5, 0, 0, 0, 0),
        (0.1, 2**63 + 5, 2**32 - 1, 2**40 + 3, 2),
        (0.0, 1, 2, 3, 4),
    ]
    # Blocks are of 64 elements; the second one begins in the middle of one.
    for n, first, draw in product((1, 63, 64, 65, 200), (0, 37, 640), draws):
        x = rounded(rng.standard_normal(n), dtype)
        args = {"h": np.zeros(n), "mask": np.zeros(n), "x": x}
        names = ("p", "seed", "epoch", "step", "layer")
        args |= dict(zip(names, draw, strict=True)) | {"first": first}
        # A product and a quotient, of numbers below 8.
        bound = dict.fromkeys(("h", "mask"), elementwise_bound(8))
        yield Call("dropout", args, ("h", "mask"), bound=bound)


def update_bound(result: np.ndarray) -> float:
    return UPDATE * float(np.abs(result).max())


SGD = [
    # momentum, dampening, nesterov, weight_decay, maximize, step
    (0.0, 0.0, False, 0.0, False, 1),
    (0.0, 0.0, False, 0.1, True, 3),
    (0.9, 0.0, False, 0.0, False, 1),
    (0.9, 0.0, False, 0.01, False, 2),
    (0.9, 0.5, False, 0.0, True, 1),
    (0.9, 0.5, False, 0.0, True, 5),
    (0.9, 0.0, True, 0.01, False, 1),
    (0.9, 0.0, True, 0.01, True, 7),
]
ADAGRAD = [
    # lr_decay, eps, weight_decay, maximize, eps_mode, step
    (0.0, 1e-10, 0.0, False, "outside", 1),
    (0.1, 0.5, 0.01, True, "outside", 4),
    (0.1, 0.5, 0.0, False, "inside", 2),
]
RMSPROP = [
    # momentum, centered, alpha, eps, weight_decay, maximize, eps_mode
    (0.0, False, 0.99, 1e-8, 0.0, False, "outside"),
    (0.9, False, 0.9, 0.5, 0.01, True, "inside"),
    (0.0, True, 0.9, 1e-8, 0.0, True, "outside"),
    (0.9, True, 0.99, 0.5, 0.01, False, "inside"),
]
ADAM = [
    # amsgrad, beta1, beta2, eps, weight_decay, decoupled, maximize, eps_mode, step
    (False, 0.9, 0.999, 1e-8, 0.0, False, False, "outside", 1),
    (False, 0.9, 0.999, 1e-8, 0.0, False, False, "outside", 1000),
    (True, 0.9, 0.99, 0.5, 0.01, False, True, "outside", 3),
    (False, 0.9, 0.999, 0.5, 0.0, False, False, "inside", 2),
    (True, 0.8, 0.999, 0.5, 0.01, True, False, "inside", 3),
    (False, 0.9, 0.999, 0.5, 0.01, True, True, "hat", 2),
    (True, 0.9, 0.999, 0.5, 0.01, False, False, "hat", 5),
]


def optimiser_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for n in TAILS:

        def normal(n: int = n) -> np.ndarray:
            return rounded(rng.standard_normal(n), dtype)

        def positive(n: int = n) -> np.ndarray:
            return rounded(rng.uniform(1, 2, n), dtype)

        def update(kernel: str, slots: dict[str, Any], **hyper: Any) -> Call:
            state = {"param": normal(), **slots}
            names = tuple(k for k, v in state.items() if v is not None)
            return Call(
                kernel,
                {**state, "grad": normal(), "lr": 0.1, **hyper},
                updated=names,
                bound=dict.fromkeys(names, update_bound),
            )

        names = inspect.signature(reference.sgd_step).parameters
        for values in SGD:
            hyper = dict(zip(list(names)[4:], values, strict=True))
            buf = normal() if hyper["momentum"] else None
            yield update("sgd_step", {"buf": buf}, **hyper)
        names = inspect.signature(reference.adagrad_step).parameters
        for values in ADAGRAD:
            hyper = dict(zip(list(names)[4:], values, strict=True))
            yield update("adagrad_step", {"sum": positive()}, **hyper)
        for momentum, centered, alpha, eps, decay, maximize, mode in RMSPROP:
            slots = {
                "square_avg": positive(),  # at least 1, the square of grad_avg 1/4
                "momentum_buf": normal() if momentum else None,
                "grad_avg": rounded(rng.uniform(-0.5, 0.5, n), dtype)
                if centered
                else None,
            }
            yield update(
                "rmsprop_step",
                slots,
                alpha=alpha,
                eps=eps,
                momentum=momentum,
                weight_decay=decay,
                maximize=maximize,
                eps_mode=mode,
            )
        names = inspect.signature(reference.adam_step).parameters
        for amsgrad, *values in ADAM:
            slots = {
                "exp_avg": normal(),
                "exp_avg_sq": positive(),
                "max_exp_avg_sq": positive() if amsgrad else None,
            }
            hyper = dict(zip(list(names)[6:], values, strict=True))
            yield update("adam_step", slots, **hyper)


def around_updates(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for n in (*TAILS, 1024, 1500):
        x, y = (rounded(rng.standard_normal(n), dtype) for _ in range(2))
        # n terms of one sign, in any order.
        yield Call(
            "sum_of_squares",
            {"out": np.zeros(1), "x": x},
            outputs=("out",),
            bound={"out": lambda total, n=n: (n + 2) * total},
        )
        y[rng.uniform(size=n) < 0.1] = 0  # where the sign is 0
        for scale, limit, l1 in [(0.5, np.inf, 0.0), (1, 0.75, 0.25), (0.1, 1, -0.5)]:
            yield Call(
                "condition_gradient",
                {
                    "out": np.zeros(n),
                    "grad": x,
                    "param": y,
                    "scale": scale,
                    "limit": limit,
                    "l1": l1,
                },
                outputs=("out",),
                bound={"out": elementwise_bound()},
            )
        for weight in (0.0, 0.125, 0.9, 1.0):
            yield Call(
                "interpolate",
                {"out": y, "x": x, "weight": weight},
                updated=("out",),
                bound={"out": elementwise_bound(np.abs(x - y).max())},
            )


GROUPS: dict[str, Callable[[type, np.random.Generator], Iterator[Call]]] = {
    "products": product_calls,
    "column_sum": column_sum_calls,
    "vectors": vector_calls,
    "dense": dense_calls,
    "activations": activation_calls,
    "losses": loss_calls,
    "norms": norm_calls,
    "groups": group_calls,
    "dropout": dropout_calls,
    "optimisers": optimiser_calls,
    "around updates": around_updates,
}


@cache
def calls(dtype: type, group: str) -> list[Call]:
    return list(GROUPS[group](dtype, np.random.default_rng(SEED)))


# ------------------------------------------------------------------ all of the calls


@pytest.mark.parametrize("group", GROUPS)
def test_against_the_reference(group: str, isa: str, dtype: type) -> None:
    eps = float(np.finfo(dtype).eps)
    for i, call in enumerate(calls(dtype, group)):
        for name, actual in run(kernels, call, dtype).items():
            assert actual.dtype == dtype
            exact = expected(dtype, group, i)[name]
            error = np.abs(actual.astype(np.float64) - exact)
            limit = eps * np.broadcast_to(call.bound[name](exact), error.shape)
            worst = np.unravel_index(np.argmax(error - limit), error.shape)
            # A NaN, of what was never written for one, fails the comparison.
            assert (error <= limit).all(), (
                f"{call}: {name}{worst} is {actual[worst]!r}, not {exact[worst]!r}"
            )


def bits(module: ModuleType, call: Call, dtype: type) -> dict[str, bytes]:
    return {name: out.tobytes() for name, out in run(module, call, dtype).items()}


@pytest.mark.parametrize("group", GROUPS)
def test_same_bits_on_every_isa(group: str, dtype: type) -> None:
    names = fm.available_isas()
    assert names[0] == "scalar"
    with fm.use_isa("scalar"):
        scalar = [bits(kernels, call, dtype) for call in calls(dtype, group)]
    for name in names[1:]:
        with fm.use_isa(name):
            for call, wanted in zip(calls(dtype, group), scalar, strict=True):
                assert bits(kernels, call, dtype) == wanted, f"{name}: {call}"


def test_every_kernel_is_called() -> None:
    called = {call.kernel for group in GROUPS for call in calls(np.float32, group)}
    assert called | {"elementary", "shuffle"} == set(KERNELS)
    public = {name for name in dir(kernels) if not name.startswith("_")}
    assert set(KERNELS) == public


# ---------------------------------------------------------------------- signatures


def shape_of(function: ast.FunctionDef) -> list[tuple[str, Any]]:
    """Argument names and defaults; `...` stands for no default."""
    arguments = function.args
    assert arguments.vararg is None
    assert arguments.kwarg is None
    assert not arguments.kwonlyargs
    names = [a.arg for a in arguments.posonlyargs + arguments.args]
    defaults = [ast.literal_eval(d) for d in arguments.defaults]
    return list(
        zip(names, [...] * (len(names) - len(defaults)) + defaults, strict=True)
    )


def reference_shape(name: str) -> list[tuple[str, Any]]:
    parameters = inspect.signature(getattr(reference, name)).parameters.values()
    return [(p.name, ... if p.default is p.empty else p.default) for p in parameters]


@pytest.mark.parametrize("name", KERNELS)
def test_signature_of_the_kernel_is_that_of_the_reference(name: str) -> None:
    first_line = getattr(kernels, name).__doc__.strip().splitlines()[0]
    (function,) = ast.parse(f"def {first_line}: ...").body
    assert isinstance(function, ast.FunctionDef)
    assert function.name == name
    assert shape_of(function) == reference_shape(name)


def test_lists_of_names_are_those_of_the_reference() -> None:
    assert tuple(_core.ACTIVATIONS) == reference.ACTIVATIONS
    assert tuple(_core.LOSSES) == reference.LOSSES
    for kind in reference.ACTIVATIONS:
        assert _core.activation_saves(kind) == reference.activation_saves(kind)


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "reference"])
def test_unknown_names_are_refused(module: ModuleType) -> None:
    one, row = np.ones((1, 1)), np.ones(1)
    refused: list[tuple[str, Callable[[], None]]] = [
        ("mish", lambda: module.activation_forward(one.copy(), one, "mish")),
        ("mish", lambda: module.activation_backward(one.copy(), one, one, "mish")),
        ("mish", lambda: module.dense_forward(one.copy(), one, one, None, "mish")),
        ("focal", lambda: module.loss_rows(None, row.copy(), one, one, row, "focal")),
        ("gamma", lambda: module.elementary(row.copy(), row, "gamma")),
        (
            "hat",
            lambda: module.adagrad_step(
                row.copy(), row.copy(), row, 0.1, 0.0, 0.1, 0.0, False, "hat", 1
            ),
        ),
    ]
    for name, call in refused:
        with pytest.raises(ValueError, match=name):
            call()


# ---------------------------------------------------------------- matrix products


def test_products_of_small_integers_are_exact(isa: str, dtype: type) -> None:
    rng = np.random.default_rng(SEED)
    for m, n, k in PRODUCT_SIZES:
        a, b = rng.integers(-8, 9, (m, k)), rng.integers(-8, 9, (k, n))
        c, bias = rng.integers(-8, 9, (m, n)), rng.integers(-8, 9, n)
        nn = Call("gemm_nn", {"c": c * 1.0, "a": a * 1.0, "b": b * 1.0}, ("c",))
        nn_bias = Call("gemm_nn", {**nn.args, "bias": bias * 1.0}, ("c",))
        nt = Call("gemm_nt", {**nn.args, "b": b.T * 1.0}, ("c",))
        tn = Call("gemm_tn", {**nn.args, "a": a.T * 1.0}, ("c",))
        for call, exact in [
            (nn, a @ b),
            (nn_bias, a @ b + bias),
            (nt, a @ b),
            (tn, a @ b),
        ]:
            np.testing.assert_array_equal(run(kernels, call, dtype)["c"], exact)
        for call in (nn, nt, tn):
            more = Call(call.kernel, {**call.args, "accumulate": True}, updated=("c",))
            np.testing.assert_array_equal(run(kernels, more, dtype)["c"], c + a @ b)


def nearest(value: Fraction, dtype: type) -> Any:
    """The number of ``dtype`` next to an exact value, the even one of two as near."""
    guess = dtype(float(value))
    near = [
        np.nextafter(guess, dtype(-np.inf)),
        guess,
        np.nextafter(guess, dtype(np.inf)),
    ]
    unsigned = np.uint32 if dtype is np.float32 else np.uint64
    return min(
        near,
        key=lambda v: (abs(Fraction(float(v)) - value), int(v.view(unsigned)) & 1),
    )


def fused_chain(start: Any, a: np.ndarray, b: np.ndarray) -> Any:
    """start + a[0] b[0] + a[1] b[1] + ..., rounded once per term."""
    total = start
    for x, y in zip(a, b, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(total))
        total = nearest(exact, type(total))
    return total


def test_each_element_is_one_chain_of_fused_multiply_adds(
    isa: str, dtype: type, rng: np.random.Generator
) -> None:
    m, n, k = 5, 19, 23
    a = rng.standard_normal((m, k)).astype(dtype)
    b = rng.standard_normal((k, n)).astype(dtype)
    c, bias = np.ones((m, n), dtype), rng.standard_normal(n).astype(dtype)
    for start in (None, bias):
        out = np.empty((m, n), dtype)
        kernels.gemm_nn(out, a, b, start)
        chains = [
            [
                fused_chain(dtype(0) if start is None else start[j], a[i], b[:, j])
                for j in range(n)
            ]
            for i in range(m)
        ]
        np.testing.assert_array_equal(out, chains)
    chains = [[fused_chain(c[i, j], a[i], b[:, j]) for j in range(n)] for i in range(m)]
    for gemm, operands in [
        (kernels.gemm_nn, (a, b)),
        (kernels.gemm_nt, (a, b.T.copy())),
        (kernels.gemm_tn, (a.T.copy(), b)),
    ]:
        out = c.copy()
        gemm(out, *operands, accumulate=True)
        np.testing.assert_array_equal(out, chains)


def test_bias_and_accumulate_exclude_each_other() -> None:
    one, row = np.ones((1, 1)), np.ones(1)
    with pytest.raises(ValueError, match="bias"):
        kernels.gemm_nn(one.copy(), one, one, row, True)


def test_column_sum_adds_rows_in_order(isa: str, dtype: type) -> None:
    # No product, so numpy has the same roundings and the bits must agree.
    for call in calls(dtype, "column_sum"):
        assert bits(kernels, call, dtype) == bits(reference, call, dtype), str(call)


def test_dense_forward_is_product_then_activation(isa: str, dtype: type) -> None:
    for call in calls(dtype, "dense"):
        args = {
            k: v.astype(dtype) if isinstance(v, np.ndarray) else v
            for k, v in call.args.items()
        }
        z, h = np.empty_like(args["h"]), np.empty_like(args["h"])
        kernels.gemm_nn(z, args["x"], args["w"], args["bias"])
        kernels.activation_forward(h, z, args["activation"])
        kernels.dense_forward(**args)
        assert args["h"].tobytes() == h.tobytes(), str(call)


def test_threads_do_not_change_the_bits(
    isa: str, dtype: type, rng: np.random.Generator
) -> None:
    m, n, k = 509, 263, 251
    a = rng.standard_normal((m, k)).astype(dtype)
    b = rng.standard_normal((k, n)).astype(dtype)
    results = []
    for count in thread_counts(isa):
        with fm.threads(count):
            assert_threaded(2 * m * n * k, m)
            outs = np.empty((3, m, n), dtype)
            kernels.dense_forward(outs[0], a, b, None, "tanh")
            kernels.gemm_nt(outs[1], a, b.T.copy())
            kernels.gemm_tn(outs[2], a.T.copy(), b)
            results.append(outs.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("activation", ["identity", "tanh", "softmax"])
def test_a_row_does_not_depend_on_its_neighbours(
    activation: str, isa: str, dtype: type, rng: np.random.Generator
) -> None:
    rows, n, k = 37, 33, 21
    x = rng.standard_normal((rows, k)).astype(dtype)
    w = rng.standard_normal((k, n)).astype(dtype)
    bias = rng.standard_normal(n).astype(dtype)
    whole = np.empty((rows, n), dtype)
    kernels.dense_forward(whole, x, w, bias, activation)
    transposed = np.empty((rows, n), dtype)
    kernels.gemm_nt(transposed, x, w.T.copy())
    for start, stop in [(0, 1), (5, 6), (36, 37), (1, 9), (3, 20), (11, 37)]:
        part = np.empty((stop - start, n), dtype)
        kernels.dense_forward(part, x[start:stop].copy(), w, bias, activation)
        assert part.tobytes() == whole[start:stop].tobytes()
        kernels.gemm_nt(part, x[start:stop].copy(), w.T.copy())
        assert part.tobytes() == transposed[start:stop].tobytes()


# ------------------------------------------------------- elementary and activations


def spread(low: float, high: float, tiny: float, dtype: type) -> np.ndarray:
    """Evenly from low to high, and of every size down to ``tiny`` next to 0."""
    even = np.linspace(low, high, 2001)
    small = np.geomspace(tiny, 1, 500)
    values = np.concatenate([even, -small, small, [0.0]])
    values = values[(values >= low) & (values <= high)]
    return rounded(values, dtype)


# Where the results are normal numbers: low, high for float32 and float64.
DOMAINS = {
    "exp": ((-87, 88.5), (-708, 709.5)),
    "expm1": ((-100, 88.5), (-800, 709.5)),
    "log": ((1e-37, 1e38), (1e-307, 1e308)),
    "log1p": ((-1 + 1e-6, 1e38), (-1 + 1e-15, 1e308)),
    "tanh": ((-12, 12), (-25, 25)),
    "sigmoid": ((-87, 100), (-708, 800)),
    "sin": ((-1000, 1000), (-1000, 1000)),
    "cos": ((-1000, 1000), (-1000, 1000)),
    "erf": ((-6, 6), (-7, 7)),
    "erfc": ((-6, 9), (-7, 26)),
}


def elementary_inputs(function: str, dtype: type) -> np.ndarray:
    low, high = DOMAINS[function][dtype is np.float64]
    tiny = 1e-30 if dtype is np.float32 else 1e-300
    if function in ("log", "log1p"):
        large = np.geomspace(1e-3, high * 0.99, 1000)
        near_one = spread(low if low < 0 else 0.25, 4, tiny, dtype)
        small = np.geomspace(max(low, tiny), 1, 500)
        return rounded(np.concatenate([small, near_one, large]), dtype)
    even = spread(low, high, tiny, dtype)
    if function in ("sin", "cos"):
        # All the digits of a large argument count in its remainder by pi / 2.
        large = np.geomspace(1e3, 1 / tiny, 500)
        return rounded(np.concatenate([even, large, -large]), dtype)
    return even


@pytest.mark.parametrize("function", FUNCTIONS)
def test_elementary_functions(function: str, isa: str, dtype: type) -> None:
    x = elementary_inputs(function, dtype)
    call = Call(
        "elementary", {"out": np.zeros_like(x), "x": x, "function": function}, ("out",)
    )
    actual = run(kernels, call, dtype)["out"].astype(np.float64)
    exact = run(reference, call, np.float64)["out"]
    limit = TOLERANCE["elementary"].of(dtype) * np.abs(exact)
    error = np.abs(actual - exact)
    worst = int(np.argmax(error - limit))
    assert (error <= limit).all(), f"{x[worst]!r}: {actual[worst]} != {exact[worst]}"
    if function in ("tanh", "sin", "cos", "erf", "sigmoid"):
        assert np.abs(actual).max() <= 1


@pytest.mark.parametrize("function", FUNCTIONS)
def test_elementary_tails(function: str, isa: str, dtype: type) -> None:
    # Each element's result is the one it has alone, wherever it stands.
    x = rounded(np.linspace(0.125, 2, max(TAILS)), dtype)
    alone = np.empty(len(x), dtype)
    for i in range(len(x)):
        kernels.elementary(alone[i : i + 1], x[i : i + 1].astype(dtype), function)
    for n in TAILS:
        args = {"out": np.zeros(n), "x": x[-n:], "function": function}
        call = Call("elementary", args, ("out",))
        np.testing.assert_array_equal(run(kernels, call, dtype)["out"], alone[-n:])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_elementary_special_values(function: str, isa: str, dtype: type) -> None:
    info = np.finfo(dtype)
    x = [np.nan, np.inf, -np.inf, 0.0, -0.0, float(info.max), -float(info.max), -1.0]
    if function in ("sin", "cos"):
        x = [np.nan, np.inf, -np.inf, 0.0, -0.0]
    values = np.array(x)
    call = Call(
        "elementary",
        {"out": np.zeros_like(values), "x": values, "function": function},
        ("out",),
    )
    actual = run(kernels, call, dtype)["out"]
    exact = run(reference, call, dtype)["out"]
    np.testing.assert_allclose(actual, exact, rtol=TOLERANCE["elementary"].of(dtype))
    zeros = exact == 0
    np.testing.assert_array_equal(np.signbit(actual[zeros]), np.signbit(exact[zeros]))


def every_kind_of_number(dtype: type) -> np.ndarray:
    info = np.finfo(dtype)
    sizes_ = np.geomspace(float(info.smallest_subnormal), float(info.max) / 2, 400)
    special = [0.0, np.inf, np.nan, 1.0, 0.5, float(info.tiny), float(info.max)]
    values = np.concatenate([sizes_, special, np.linspace(0, 100, 1001)])
    return np.concatenate([values, -values]).astype(dtype)


def canonical(values: np.ndarray) -> bytes:
    """The bits, but for the sign and payload of NaN, which are outside the promise."""
    return np.where(np.isnan(values), values.dtype.type(np.nan), values).tobytes()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_elementary_bits_of_every_kind_of_number(function: str, dtype: type) -> None:
    x, results = every_kind_of_number(dtype), {}
    for name in fm.available_isas():
        with fm.use_isa(name):
            out = np.empty_like(x)
            kernels.elementary(out, x, function)
            results[name] = canonical(out)
    assert set(results.values()) == {results["scalar"]}


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_activation_bits_of_every_kind_of_number(activation: str, dtype: type) -> None:
    z, results = every_kind_of_number(dtype)[:, None], {}
    for name in fm.available_isas():
        with fm.use_isa(name):
            h, dz = np.empty_like(z), np.empty_like(z)
            kernels.activation_forward(h, z, activation)
            saved = z if reference.activation_saves(activation) == "input" else h
            kernels.activation_backward(dz, np.ones_like(z), saved, activation)
            results[name] = canonical(h) + canonical(dz)
    assert set(results.values()) == {results["scalar"]}


BOUNDED_INPUT = ("sin", "cos", "exp", "softmax")


@pytest.mark.parametrize(
    "activation", [k for k in reference.ACTIVATIONS if k not in BOUNDED_INPUT]
)
def test_activations_far_out(activation: str, isa: str, dtype: type) -> None:
    largest = float(np.finfo(dtype).max)
    z = np.array([[-largest / 4, -1e30, -200, 200, 1e30, largest / 4]], dtype=dtype)
    z = z.astype(np.float64)
    forward = Call(
        "activation_forward",
        {"h": np.zeros_like(z), "z": z, "activation": activation},
        ("h",),
    )
    h = run(kernels, forward, dtype)["h"].astype(np.float64)
    exact = run(reference, forward, np.float64)["h"]
    tolerance = TOLERANCE["elementwise"].of(dtype)
    np.testing.assert_allclose(h, exact, rtol=tolerance, atol=tolerance)
    saved = z if reference.activation_saves(activation) == "input" else h
    backward = Call(
        "activation_backward",
        {
            "dz": np.zeros_like(z),
            "dh": np.ones_like(z),
            "saved": saved,
            "activation": activation,
        },
        ("dz",),
    )
    dz = run(kernels, backward, dtype)["dz"]
    exact = run(reference, backward, np.float64)["dz"]
    np.testing.assert_allclose(dz, exact, rtol=tolerance, atol=tolerance)
    second = Call(
        "activation_second",
        {
            "out": np.zeros_like(z),
            "c": np.ones_like(z),
            "saved": saved,
            "activation": activation,
        },
        ("out",),
    )
    out = run(kernels, second, dtype)["out"]
    exact = run(reference, second, np.float64)["out"]
    np.testing.assert_allclose(out, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_nan_stays_nan_and_where_it_is(activation: str, isa: str, dtype: type) -> None:
    z = np.linspace(-2, 2, 3 * 21).reshape(3, 21).astype(dtype)
    z[1, 17] = np.nan
    h = np.zeros_like(z)
    kernels.activation_forward(h, z, activation)
    hit = np.isnan(z)
    if activation == "softmax":
        hit = np.isnan(z).any(axis=1, keepdims=True) & np.ones_like(hit)
    np.testing.assert_array_equal(np.isnan(h), hit)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_infinities(activation: str, isa: str, dtype: type) -> None:
    z = np.array([[-np.inf], [np.inf]], dtype=dtype)
    actual, exact = np.empty_like(z), np.empty_like(z)
    kernels.activation_forward(actual, z, activation)
    reference.activation_forward(exact, z, activation)
    defined = ~np.isnan(exact)  # the rest is inf * 0 or a direction on a circle
    np.testing.assert_array_equal(actual[defined], exact[defined])


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_activations_in_place(
    activation: str, isa: str, dtype: type, rng: np.random.Generator
) -> None:
    z, dh = rng.standard_normal((2, 5, 19)).astype(dtype)
    h, dz = np.empty_like(z), np.empty_like(z)
    kernels.activation_forward(h, z, activation)
    saved = z if reference.activation_saves(activation) == "input" else h
    kernels.activation_backward(dz, dh, saved, activation)
    in_place = z.copy()
    kernels.activation_forward(in_place, in_place, activation)
    assert in_place.tobytes() == h.tobytes()
    in_place = dh.copy()
    kernels.activation_backward(in_place, in_place, saved, activation)
    assert in_place.tobytes() == dz.tobytes()


# -------------------------------------------------------------------------- losses


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits(isa: str, dtype: type) -> None:
    pred = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, 88.0, -88.0]])
    for kind, target in [
        ("cross_entropy", np.array([1, 2, 0])),
        ("cross_entropy", np.eye(3)),
        ("binary_cross_entropy", np.eye(3)),
    ]:
        call = Call(
            "loss_rows",
            {
                "dpred": np.zeros((3, 3)),
                "row_loss": np.zeros(3),
                "pred": pred,
                "target": target,
                "row_scale": np.ones(3),
                "loss": kind,
            },
            ("dpred", "row_loss"),
        )
        actual = run(kernels, call, dtype)
        exact = run(reference, call, np.float64)
        tolerance = TOLERANCE["elementwise"].of(dtype)
        for name in exact:
            np.testing.assert_allclose(
                actual[name], exact[name], rtol=tolerance, atol=tolerance
            )


def test_masked_logits(isa: str, dtype: type) -> None:
    # A logit of -inf takes a class out: it has probability 0 and no gradient.
    pred = np.array([[0.0, -np.inf, 0.0]], dtype=dtype)
    dpred, row_loss = np.empty_like(pred), np.empty(1, dtype)
    kernels.loss_rows(
        dpred, row_loss, pred, np.array([2]), np.ones(1, dtype), "cross_entropy"
    )
    tolerance = TOLERANCE["elementwise"].of(dtype)
    np.testing.assert_allclose(row_loss, [np.log(2)], rtol=tolerance)
    np.testing.assert_allclose(dpred, [[0.5, 0, -0.5]], rtol=tolerance)


def test_small_residuals_keep_their_digits(isa: str, dtype: type) -> None:
    # delta^2 (sqrt(1 + t^2) - 1) would cancel to 0 here; the loss is r^2 / 2.
    r = 1e-6 if dtype is np.float32 else 1e-12
    pred, row_loss = np.array([[r]], dtype), np.empty(1, dtype)
    one, zero = np.ones(1, dtype), np.zeros((1, 1), dtype)
    kernels.loss_rows(None, row_loss, pred, zero, one, "pseudo_huber")
    exact = 0.5 * float(pred[0, 0]) ** 2
    assert row_loss[0] == pytest.approx(exact, rel=TOLERANCE["elementwise"].of(dtype))


# Rows of at most so many elements go through the kernels several at a time: as many as
# a vector has lanes, and where they are shorter still a multiple of that, which
# MANY_ROWS are above.
NARROW = 16
MOST_LANES = 16
MANY_ROWS = 300


def narrow_row_calls(
    n: int, dtype: type, rng: np.random.Generator, rows: int
) -> Iterator[
    tuple[str, Callable[..., tuple[np.ndarray, ...]], tuple[np.ndarray, ...]]
]:
    """What works by rows: a name, a function of row arrays, and arguments for it."""
    values = rng.standard_normal((3, rows, n)) * rng.choice([0.01, 1, 30], (3, rows, n))
    values[rng.uniform(size=values.shape) < 0.1] = -0.0
    pred, target, dh = values.astype(dtype)
    target[0] = -0.0  # whose cross-entropy is a sum of -0 alone
    scale = rng.uniform(0, 2, rows).astype(dtype)

    def loss(kind: str, mode: str) -> Callable[..., tuple[np.ndarray, ...]]:
        def call(
            pred: np.ndarray, target: np.ndarray, scale: np.ndarray
        ) -> tuple[np.ndarray, ...]:
            pred, row_loss = pred.copy(), np.empty_like(scale)
            dpred = {"new": np.empty_like(pred), "in place": pred, "none": None}[mode]
            kernels.loss_rows(dpred, row_loss, pred, target, scale, kind, delta=0.75)
            return (row_loss,) if dpred is None else (row_loss, dpred)

        return call

    def forward(z: np.ndarray) -> tuple[np.ndarray]:
        h = np.empty_like(z)
        kernels.activation_forward(h, z, "softmax")
        return (h,)

    def backward(dh: np.ndarray, saved: np.ndarray) -> tuple[np.ndarray]:
        dz = np.empty_like(dh)
        kernels.activation_backward(dz, dh, saved, "softmax")
        return (dz,)

    for mode in ("new", "in place", "none"):
        for kind in sorted({*_core.LOSSES} - {"gaussian_nll"}):
            yield f"{kind}, {mode}", loss(kind, mode), (pred, target, scale)
        labels = rng.integers(0, n, rows)
        yield f"labels, {mode}", loss("cross_entropy", mode), (pred, labels, scale)
    yield "softmax forward", forward, (pred,)
    yield "softmax backward", backward, (dh, target)


@pytest.mark.parametrize("n", range(1, NARROW + 2))
def test_a_row_is_the_same_bits_beside_any_others(
    n: int, isa: str, dtype: type
) -> None:
    # Narrow rows are taken several at a time; a row alone is not.
    rng = np.random.default_rng([SEED, n])
    for name, function, arrays in narrow_row_calls(n, dtype, rng, MANY_ROWS):
        alone = [
            np.concatenate(parts)
            for parts in zip(
                *(function(*(a[i : i + 1] for a in arrays)) for i in range(MANY_ROWS)),
                strict=True,
            )
        ]
        for m in (*range(1, 2 * MOST_LANES + 2), MANY_ROWS):
            first = int(rng.integers(0, MANY_ROWS - m + 1))
            together = function(*(a[first : first + m] for a in arrays))
            for wanted, found in zip(alone, together, strict=True):
                assert found.tobytes() == wanted[first : first + m].tobytes(), (name, m)


# ---------------------------------------------------------------------- optimisers


def test_variance_that_rounds_below_zero_is_zero(isa: str, dtype: type) -> None:
    # A constant gradient has none, but alpha g^2 + (1 - alpha) g^2 may round below g^2.
    rng = np.random.default_rng(SEED)
    g = rng.uniform(0.5, 2, 1000).astype(dtype)
    param, mean = np.zeros_like(g), g.copy()
    square = np.nextafter(g * g, dtype(0))
    kernels.rmsprop_step(
        param, square, None, mean, g, 1.0, 0.9, 1.0, 0.0, 0.0, False, "outside"
    )
    # Denominators are 1 = eps, give or take the root of a rounding error.
    slack = 2 * float(np.sqrt(8 * np.finfo(dtype).eps))
    np.testing.assert_allclose(param, -g, rtol=slack)


def test_without_weight_decay_the_parameter_stays_out_of_its_gradient(
    isa: str, dtype: type
) -> None:
    param, grad = np.full(5, np.inf, dtype), np.ones(5, dtype)
    kernels.sgd_step(param, None, grad, 0.1, 0.0, 0.0, False, 0.0, False, 1)
    assert (param == np.inf).all()


# ------------------------------------------------------------------------ shuffles


@pytest.mark.parametrize("n", [0, *TAILS, 1000])
def test_shuffle(n: int) -> None:
    seeds = [(0, 0), (7, 3), (2**32, 1), (2**64 - 1, 2**32 - 1), (123456789012, 5)]
    for seed, epoch in seeds:
        orders = []
        for module in (kernels, reference):
            order = np.full(n + 2, -7)
            assert module.shuffle(order[1:-1], seed, epoch) is None
            assert order[0] == order[-1] == -7
            orders.append(order[1:-1])
        np.testing.assert_array_equal(*orders, err_msg=f"{seed=} {epoch=}")
        np.testing.assert_array_equal(np.sort(orders[0]), np.arange(n))


# -------------------------------------------------- the network and its reference


def pair(layers: list[Any], dtype: type, **kwargs: Any) -> tuple[Any, Any]:
    """The same network, compiled and in the reference."""
    nets = []
    for lib in (fm, reference):
        made = [
            lib.Dense(**layer) if isinstance(layer, dict) else layer for layer in layers
        ]
        nets.append(lib.MLP(made, dtype=np.dtype(dtype).name, seed=11, **kwargs))
    return nets[0], nets[1]


def assert_close(actual: np.ndarray, exact: np.ndarray, dtype: type) -> None:
    assert actual.dtype == dtype
    assert actual.shape == exact.shape
    limit = TOLERANCE["network"].of(dtype) * np.abs(exact).max()
    np.testing.assert_allclose(actual, exact, rtol=0, atol=limit)


@pytest.mark.parametrize("activation", ["relu", "selu", "tanh"])
@pytest.mark.parametrize(
    "init", ["auto", "he_normal", "lecun_normal", "glorot_uniform", "zeros"]
)
def test_first_weights_are_those_of_the_reference(
    init: str, activation: str, dtype: type
) -> None:
    layers = [4, 5, {"n": 3, "bias": False}, 2]
    mlp, ref = pair(layers, dtype, activation=activation, init=init)
    np.testing.assert_array_equal(mlp.params, ref.params)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_network_against_the_reference(
    activation: str, isa: str, dtype: type, rng: np.random.Generator
) -> None:
    layers = [6, 33, {"n": 17, "activation": "tanh", "bias": False}, 3]
    kinds = {"activation": activation, "output_activation": activation}
    mlp, ref = pair(layers, dtype, **kinds)
    x, dy = (rng.standard_normal((21, n)).astype(dtype) for n in (6, 3))
    for actual, exact in zip(mlp.vjp(x, dy), ref.vjp(x, dy), strict=True):
        assert_close(actual, exact, dtype)
    assert_close(mlp(x), ref(x), dtype)
    assert_close(mlp(x[0]), ref(x[0]), dtype)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "name",
    [
        "MSE",
        "MAE",
        "Huber",
        "PseudoHuber",
        "CrossEntropy",
        "BinaryCrossEntropy",
        "labels",
    ],
)
def test_network_losses_against_the_reference(
    name: str,
    reduction: str,
    weighted: bool,
    isa: str,
    dtype: type,
    rng: np.random.Generator,
) -> None:
    mlp, ref = pair([6, 18, 3], dtype, activation="tanh")
    x = rng.standard_normal((21, 6)).astype(dtype)
    y = rng.uniform(0, 1, (21, 3)).astype(dtype)
    if name == "labels":
        name, y = "CrossEntropy", rng.integers(0, 3, 21)
    weight = rng.uniform(0, 2, 21).astype(dtype) if weighted else None
    losses = [getattr(lib, name)(reduction=reduction) for lib in (fm, reference)]
    value, grads = mlp.value_and_grad(x, y, losses[0], weight)
    exact_value, exact_grads = ref.value_and_grad(x, y, losses[1], weight)
    tolerance = TOLERANCE["network"].of(dtype)
    assert value == pytest.approx(exact_value, rel=tolerance)
    assert mlp.evaluate(x, y, losses[0], weight) == pytest.approx(value, rel=tolerance)
    assert_close(grads, exact_grads, dtype)
    pred = ref(x)
    value, dpred = losses[0].value_and_grad(pred, y, weight)
    exact_value, exact_dpred = losses[1].value_and_grad(pred, y, weight)
    assert value == pytest.approx(exact_value, rel=tolerance)
    assert losses[0](pred, y, weight) == pytest.approx(value, rel=tolerance)
    assert_close(dpred, exact_dpred, dtype)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
        ("Adagrad", {"lr": 0.05, "lr_decay": 0.01}),
        ("RMSprop", {"momentum": 0.5, "centered": True, "eps": 1e-3}),
        ("Adam", {"amsgrad": True, "eps_mode": "inside"}),
        ("AdamW", {"lr": 0.01, "eps": 1e-4, "eps_mode": "hat"}),
    ],
)
def test_training_against_the_reference(
    name: str, options: dict[str, Any], weighted: bool, rng: np.random.Generator
) -> None:
    # Float64, where rounding does not grow into something visible within 3 epochs.
    nets = pair([3, 17, 2], np.float64, activation="tanh")
    x, y = rng.standard_normal((50, 3)), rng.standard_normal((50, 2))
    weight = rng.uniform(0, 2, 50) if weighted else None
    histories = []
    for lib, net in zip((fm, reference), nets, strict=True):
        history = net.fit(
            x,
            y,
            loss=lib.MSE(),
            optimizer=getattr(lib, name)(**options),
            epochs=3,
            batch_size=16,
            sample_weight=weight,
            validation_data=(x, y),
            seed=5,
        )
        histories.append((history.loss, history.val_loss))
    assert_close(nets[0].params, nets[1].params, np.float64)
    tolerance = TOLERANCE["network"].of(np.float64)
    np.testing.assert_allclose(histories[0], histories[1], rtol=tolerance)
