"""Compiled kernels against the reference, and instruction sets against each other."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
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
from kernel_cases import CONSTANTS, Call, kernels, pre_activations, rounded, run
from optimiser_cases import optimiser_calls

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
    "sparse_product",
    "sparse_gradient",
    "softmax_second",
    "layer_norm_second",
    "column_moments",
    "batch_norm_forward",
    "batch_norm_backward",
    "batch_norm_sums",
    "column_dot",
    "add",
    "multiply",
    "prelu_forward",
    "prelu_gradient",
    "glu_tangent",
    "glu_backward",
    "glu_second",
    "dropout",
    "gaussian_noise",
    "sgd_step",
    "adagrad_step",
    "rmsprop_step",
    "adam_step",
    "adamax_step",
    "nadam_step",
    "radam_step",
    "adadelta_step",
    "rprop_step",
    "asgd_step",
    "lion_step",
    "adabelief_step",
    "schedule_free_step",
    "prodigy_step",
    "prodigy_sums",
    "dot",
    "axpy",
    "sum_of_squares",
    "condition_gradient",
    "interpolate",
    "elementary",
    "shuffle",
)


@cache
def expected(dtype: type, group: str, index: int) -> dict[str, np.ndarray]:
    """The reference's result in float64."""
    return run(reference, calls(dtype, group)[index], np.float64)


def sizes(count: int) -> list[tuple[int, ...]]:
    """Tuples in which each position takes each value of TAILS once, in mixed order."""
    n, strides = len(TAILS), (1, 5, 7)
    return [
        tuple(TAILS[(i * s + 3 * p) % n] for p, s in enumerate(strides[:count]))
        for i in range(n)
    ]


# Corner cases: a single element, rows, columns, outer products, long sums, a product
# larger than tiles and panels, some that are larger than a block of the right or of
# the left operand, and few rows with a right operand that is large or whose rows evict
# each other from the cache.
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
    (1, 1024, 17),
    (2, 1024, 5),
    (3, 1024, 8),
    (9, 1024, 20),
    (1, 133, 1030),
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


def sparse_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for i, (m, n) in enumerate([*sizes(2), (40, 200)]):
        k = 1 + 13 * i % 50
        stored = rng.random((m, k)) < rng.choice([0.0, 0.1, 0.5, 1.0], (m, 1))
        starts = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
        columns = np.nonzero(stored)[1]
        values = rounded(rng.standard_normal(len(columns)), dtype)
        csr: dict[str, Any] = {"values": values, "columns": columns, "starts": starts}
        b, bias, dz, dw = (
            rounded(rng.standard_normal(shape), dtype)
            for shape in ((k, n), n, (m, n), (k, n))
        )
        # The bounds are those of `product_calls`, with sums over fewer terms.
        for order in (None, rng.integers(0, m, m)):
            rows = {**csr, "order": order}
            a = np.zeros((m, k))
            a[np.nonzero(stored)] = values
            a = np.abs(a if order is None else a[order])
            for s in (None, bias):
                size = (k + 2) * (a @ abs(b) + (0 if s is None else abs(s)))
                yield Call(
                    "sparse_product",
                    {"c": np.zeros((m, n)), **rows, "b": b, "bias": s},
                    outputs=("c",),
                    bound={"c": lambda _, size=size: size},
                )
            size = (m + 2) * (a.T @ abs(dz) + abs(dw))
            yield Call(
                "sparse_gradient",
                {"dw": dw, **rows, "dz": dz},
                updated=("dw",),
                bound={"dw": lambda _, size=size: size},
            )


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


def elementwise_bound(scale: Any = 1.0) -> Callable[[np.ndarray], Any]:
    """A bound relative to the result or the scale of its terms, if that is larger."""
    return lambda result: ELEMENTWISE * (np.abs(result) + scale)


def dense_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    triples = PRODUCT_SIZES[: len(TAILS)]
    for i, activation in enumerate(_core.ACTIVATIONS):
        for m, n, k in [triples[i % len(TAILS)], triples[(i + 7) % len(TAILS)]]:
            x = rounded(rng.standard_normal((m, k)), dtype)
            w = rounded(rng.standard_normal((k, n)) / np.sqrt(k), dtype)
            for bias in (None, rounded(rng.standard_normal(n), dtype)):
                # The error of the product, at most (k + 2) eps times its magnitude, is
                # multiplied by the activation's derivative, which is at most 1.2 for
                # all activations but exp, and equal to the value for exp.
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


def activation_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    kinds = [*((name, ()) for name in _core.ACTIVATIONS), *CONSTANTS]
    for (activation, constants), (m, n) in product(kinds, sizes(2)):
        z = rounded(pre_activations(rng, (m, n)), dtype)
        # z is an intermediate term of gelu and others, and the results of exp and
        # softmax depend on the rounding of their arguments.
        scale = 1 + np.abs(z).max()
        yield Call(
            "activation_forward",
            {
                "h": np.zeros_like(z),
                "z": z,
                "activation": activation,
                "constants": constants,
            },
            outputs=("h",),
            bound={"h": elementwise_bound(scale)},
        )
        saved = np.empty_like(z)
        reference.activation_forward(saved, z, activation, constants)
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
                "constants": constants,
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
                "constants": constants,
            },
            outputs=("out",),
            bound={"out": elementwise_bound(slack)},
        )


def prelu_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for (m, n), shared in product(sizes(2), (False, True)):
        x = rounded(pre_activations(rng, (m, n)), dtype)
        dh = rounded(rng.standard_normal((m, n)), dtype)
        slope = rounded(rng.uniform(-1, 1, 1 if shared else n), dtype)
        bound = elementwise_bound(1 + np.abs(x).max())
        args = {"h": np.zeros_like(x), "factors": None, "x": x, "slope": slope}
        yield Call("prelu_forward", args, ("h",), bound={"h": bound})
        yield Call(
            "prelu_forward",
            {**args, "factors": np.zeros_like(x)},
            ("h", "factors"),
            bound={"h": bound, "factors": bound},
        )
        # The sums have m or m n terms.
        terms = m * n if shared else m
        bound = elementwise_bound(terms * (1 + np.abs(dh * x).max()))
        args = {"dslope": slope, "dh": dh, "x": x}
        yield Call("prelu_gradient", args, ("dslope",), bound={"dslope": bound})
        yield Call(
            "prelu_gradient",
            {**args, "accumulate": True},
            updated=("dslope",),
            bound={"dslope": bound},
        )


def glu_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for i, (m, n) in enumerate(sizes(2)):
        rows = m * (1 + i % 5)

        def normal(*shape: int) -> np.ndarray:
            return rounded(rng.standard_normal(shape), dtype)

        both, x, f = normal(rows, n), normal(rows, 2 * n), normal(m, 2 * n)
        # Up to four terms, products of up to three numbers.
        size = 4 * (1 + float(max(abs(v).max() for v in (both, x, f)))) ** 3
        args = {"out": np.zeros_like(both), "t": x, "factors": f}
        yield Call(
            "glu_tangent", args, ("out",), bound={"out": elementwise_bound(size)}
        )
        for accumulate in (False, True):
            written = {"updated": ("dx",)} if accumulate else {"outputs": ("dx",)}
            args = {"dx": x, "dh": both, "factors": f, "accumulate": accumulate}
            bound = {"dx": elementwise_bound(size)}
            yield Call("glu_backward", args, bound=bound, **written)
            for dot in (None, both):
                c, g = normal(m, n), normal(m, 2 * n)
                larger = size * (1 + max(abs(c).max(), abs(g).max())) ** 2
                written = {"updated": ("out",)} if accumulate else {"outputs": ("out",)}
                args = {"out": normal(rows, 2 * n), "dot": dot, "c": c, "t": x}
                args |= {"factors": f, "slopes": g, "accumulate": accumulate}
                bound = {"out": elementwise_bound(larger)}
                yield Call("glu_second", args, bound=bound, **written)


def loss_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for (m, n), kind in product(sizes(2), (*_core.LOSSES, "labels")):
        pred = rounded(2 * rng.standard_normal((m, n)), dtype)
        target = rounded(rng.standard_normal((m, n)), dtype)
        target[0, 0] = pred[0, 0]  # where the derivative of |r| jumps
        facts = None if kind == "labels" else _core.Loss(kind)
        if facts and facts.predictions_per_target > 1:  # see losses/test_formulas.py
            continue
        if facts is None or facts.allowed == "labels":
            target = rng.integers(0, n, m)
        elif facts.allowed in ("probabilities", "positive"):
            target = rounded(rng.uniform(0.01, 1, (m, n)), dtype)
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
        if kind == "tweedie":
            args["delta"] = 1.5
        # n terms of the order of the squared data are added.
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
        # Sums over rows or columns of data of order 1, divided by their length. All
        # standard deviations are at least sqrt(0.1).
        size = 10 * (1 + float(np.abs(x).max())) ** 2 * (m + n)
        names = ("h", "xhat", "rstd", "dx", "mean", "var", "out", "sum_dh", "sum_dhx")
        bound = dict.fromkeys(names, elementwise_bound(size))
        wide = np.zeros((m, n))
        layer = {"x": x, "scale": scale, "shift": shift, "eps": 0.1}
        kept = {"h": wide, "xhat": wide, "rstd": np.zeros(m)}
        alone = {"h": wide, "xhat": None, "rstd": None}
        parts = min(d for d in range(1, n + 1) if n % d == 0 and (d > 1 or n == 1))
        for centred, p in ((True, 1), (False, 1), (True, parts), (False, n)):
            layer |= {"centred": centred, "parts": p}
            kept["rstd"] = np.zeros(m * p)
            args = {**kept, **layer}
            yield Call("layer_norm_forward", args, tuple(kept), bound=bound)
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
            rows = {**rows, "centred": False}
            yield Call("layer_norm_backward", rows, updated=("dx",), bound=bound)
            rows |= {"centred": True, "rstd": positive(m * parts), "parts": parts}
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
    """Operations with several directions for each row of values."""
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
            for centred in (True, False):
                args["centred"] = centred
                yield Call("layer_norm_second", args.copy(), ("out",), bound=bound)
                added = {**args, "accumulate": True}
                yield Call("layer_norm_second", added, updated=("out",), bound=bound)
            parts = max(d for d in range(1, n + 1) if n % d == 0 and (d < n or n == 1))
            each = rounded(rng.uniform(0.5, 2, m * parts), dtype)
            args |= {"centred": True, "rstd": each, "parts": parts}
            yield Call("layer_norm_second", args, ("out",), bound=bound)


def dropout_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    draws = [
        (0.5, 0, 0, 0, 0),
        (0.1, 2**63 + 5, 2**32 - 1, 2**40 + 3, 2),
        (0.0, 1, 2, 3, 4),
    ]
    # Blocks have 64 elements; the second call begins in the middle of one.
    for n, first, draw in product((1, 63, 64, 65, 200), (0, 37, 640), draws):
        x = rounded(rng.standard_normal(n), dtype)
        args = {"h": np.zeros(n), "mask": np.zeros(n), "x": x}
        names = ("p", "seed", "epoch", "step", "layer")
        args |= dict(zip(names, draw, strict=True)) | {"first": first}
        # A product and a quotient, of numbers below 8.
        bound = dict.fromkeys(("h", "mask"), elementwise_bound(8))
        for alpha in (False, True):
            yield Call("dropout", args | {"alpha": alpha}, ("h", "mask"), bound=bound)
        del args["mask"], args["p"]
        for factors, deviation in ((None, 0.5), (np.zeros(n), 0.5), (None, 0.0)):
            # The angle, at most pi, has an error of a few units, times a radius of at
            # most 6.7. h is at most 8 times a factor of at most 5.
            given = args | {"factors": factors, "deviation": deviation}
            outputs = ("h",) if factors is None else ("h", "factors")
            bound = dict.fromkeys(outputs, elementwise_bound(8 * 6.7 * 4))
            yield Call("gaussian_noise", given, outputs, bound=bound)


def around_updates(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for n in (*TAILS, 1024, 1500):
        x, y = (rounded(rng.standard_normal(n), dtype) for _ in range(2))
        # The sum has n terms of the same sign, added in any order.
        yield Call(
            "sum_of_squares",
            {"out": np.zeros(1), "x": x},
            outputs=("out",),
            bound={"out": lambda total, n=n: (n + 2) * total},
        )
        s, p0 = (rounded(rng.standard_normal(n), dtype) for _ in range(2))
        for start, decay, maximize in [(None, 0.0, False), (p0, 0.1, True)]:
            # Of n + 3 roundings, relative to the terms, which are not of one sign.
            terms = (np.abs(x) + decay * np.abs(y)) @ (np.abs(p0) + np.abs(y))
            yield Call(
                "prodigy_sums",
                {
                    "out": np.zeros(2),
                    "param": y,
                    "s": s,
                    "p0": start,
                    "grad": x,
                    "beta3": 0.5,
                    "s_share": 0.25,
                    "weight_decay": decay,
                    "maximize": maximize,
                },
                outputs=("out",),
                bound={"out": lambda sums, n=n, terms=terms: (n + 3) * (terms + sums)},
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
    "sparse": sparse_calls,
    "column_sum": column_sum_calls,
    "vectors": vector_calls,
    "dense": dense_calls,
    "activations": activation_calls,
    "losses": loss_calls,
    "norms": norm_calls,
    "groups": group_calls,
    "prelu": prelu_calls,
    "glu": glu_calls,
    "dropout": dropout_calls,
    "optimisers": optimiser_calls,
    "around updates": around_updates,
}


@cache
def calls(dtype: type, group: str) -> list[Call]:
    return list(GROUPS[group](dtype, np.random.default_rng(SEED)))


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
            # A NaN, for example of an element never written, fails the comparison.
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
    assert tuple(_core.OPTIMIZERS) == reference.OPTIMIZERS
    for kind in reference.ACTIVATIONS:
        assert _core.activation_saves(kind) == reference.activation_saves(kind)


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "reference"])
def test_unknown_names_are_refused(module: ModuleType) -> None:
    one, row = np.ones((1, 1)), np.ones(1)
    refused: list[tuple[str, Callable[[], None]]] = [
        ("glu", lambda: module.activation_forward(one.copy(), one, "glu")),
        ("glu", lambda: module.activation_backward(one.copy(), one, one, "glu")),
        ("glu", lambda: module.dense_forward(one.copy(), one, one, None, "glu")),
        ("ctc", lambda: module.loss_rows(None, row.copy(), one, one, row, "ctc")),
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
    """The number of ``dtype`` nearest to an exact value; ties are rounded to even."""
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
    # There are no products, so numpy rounds in the same way and the bits must agree.
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
    assert_same_in_threads(isa, dtype, a, b)


def test_threads_that_pack_in_bands_do_not_change_the_bits(
    isa: str, dtype: type, rng: np.random.Generator
) -> None:
    """With few rows each, threads pack a long right operand together, in bands."""
    m, n, k = 131, 61, 9001
    a = rng.standard_normal((m, k)).astype(dtype)
    b = rng.standard_normal((k, n)).astype(dtype)
    assert_same_in_threads(isa, dtype, a, b)


def assert_same_in_threads(isa: str, dtype: type, a: np.ndarray, b: np.ndarray) -> None:
    (m, k), n = a.shape, b.shape[1]
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
