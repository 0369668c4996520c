"""Matrix products, sums, and other kernels on plain matrices."""

from __future__ import annotations

import numpy as np

from .arrays import Array, quiet

__all__ = [
    "add",
    "add_scaled_groups",
    "axpy",
    "bfloat16_product",
    "column_dot",
    "column_sum",
    "dot",
    "gemm_gather_k",
    "gemm_nn",
    "gemm_nt",
    "gemm_tn",
    "multiply",
    "outer_rows",
    "round_to_bfloat16",
    "scale_groups",
    "sparse_gradient",
    "sparse_product",
    "sum_of_squares",
]


@quiet
def gemm_nn(
    c: Array, a: Array, b: Array, bias: Array | None = None, accumulate: bool = False
) -> None:
    """``c[m,n] = a[m,k] @ b[k,n] + bias[n]``, or ``c += a @ b``."""
    if accumulate and bias is not None:
        raise ValueError("bias must be None when accumulate is True")
    product = a @ b
    if bias is not None:
        product += bias
    c[...] = c + product if accumulate else product


def round_to_bfloat16(x: Array) -> Array:
    """Return ``x`` (float32) rounded to bfloat16, as float32.

    Ties are rounded to even. Numbers below 2^-55 in magnitude become 0, so that no sum
    of products is ever subnormal; NaN and infinities stay.
    """
    bits = np.asarray(x, np.float32).view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    quiet_nan = (bits | 0x00400000) & np.uint32(0xFFFF0000)
    rounded = np.where(np.isnan(x), quiet_nan, nearest).view(np.float32)
    return np.where(np.abs(x) < 2.0**-55, np.float32(0), rounded)


def _add_once(x: Array, y: Array) -> Array:
    """Return ``x + y``, doubles, rounded once to float32.

    The rounding error of the sum in double is computed exactly (Knuth's two-sum). If
    there is one, the last bit of the sum is set ("rounding to odd"), so that the sum
    lies on the right side of every tie of float32, which has 29 bits fewer.
    """
    total = x + y
    rest = total - x
    error = (x - (total - rest)) + (y - rest)
    even = total.view(np.int64) & 1 == 0
    inexact = (error != 0) & np.isfinite(total) & even
    towards = np.where(error > 0, np.inf, -np.inf)
    return np.where(inexact, np.nextafter(total, towards), total).astype(np.float32)


@quiet
def bfloat16_product(
    a: Array,
    b: Array,
    c: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """Return ``c + a[m,k] @ b[k,n] + bias[n]``, with the bits of ``"bfloat16"``.

    ``a`` and ``b`` are rounded by :func:`round_to_bfloat16`. For each block of 32 steps
    of k, one chain of fused multiply-adds in float32 runs over the even steps, another
    over the odd ones, both from 0 and in ascending order; the sum of the two is added
    to the result, which begins with ``c`` or 0. The bias is added last.

    A product of two numbers in bfloat16 is exact in double, so that a fused
    multiply-add is one addition, rounded once to float32.
    """
    a = round_to_bfloat16(a).astype(np.float64)
    b = round_to_bfloat16(b).astype(np.float64)
    (m, k), n = a.shape, b.shape[1]
    total = np.zeros((m, n), np.float32) if c is None else c.astype(np.float32)
    for first in range(0, k, 32):
        chains = np.zeros((2, m, n), np.float32)
        for p in range(first, min(first + 32, k)):
            chain = chains[p % 2]
            chain[...] = _add_once(a[:, p, None] * b[p], chain.astype(np.float64))
        total = total + (chains[0] + chains[1])
    return total if bias is None else total + bias


def gemm_nt(c: Array, a: Array, b: Array, accumulate: bool = False) -> None:
    """``c[m,n] = a[m,k] @ b[n,k].T``, or ``c += a @ b.T``."""
    gemm_nn(c, a, b.T, accumulate=accumulate)


def gemm_tn(c: Array, a: Array, b: Array, accumulate: bool = False) -> None:
    """``c[m,n] = a[k,m].T @ b[k,n]``, or ``c += a.T @ b``."""
    gemm_nn(c, a.T, b, accumulate=accumulate)


def _dense(
    values: Array, columns: Array, starts: Array, width: int, order: Array | None
) -> Array:
    """Return a matrix in CSR as an array, with its rows in this order."""
    matrix = np.zeros((len(starts) - 1, width), values.dtype)
    rows = np.repeat(np.arange(len(matrix)), np.diff(starts))
    matrix[rows, columns] = values
    return matrix if order is None else matrix[order]


def sparse_product(
    c: Array,
    values: Array,
    columns: Array,
    starts: Array,
    b: Array,
    bias: Array | None = None,
    order: Array | None = None,
) -> None:
    """``c[m,n] = a[m,k] @ b[k,n] + bias[n]`` with ``a`` in CSR."""
    gemm_nn(c, _dense(values, columns, starts, len(b), order), b, bias)


def sparse_gradient(
    dw: Array,
    values: Array,
    columns: Array,
    starts: Array,
    dz: Array,
    order: Array | None = None,
) -> None:
    """``dw[k,n] += a[m,k].T @ dz[m,n]`` with ``a`` in CSR."""
    gemm_tn(dw, _dense(values, columns, starts, len(dw), order), dz, accumulate=True)


@quiet
def column_sum(out: Array, a: Array) -> None:
    """``out[n]`` = the sum of the rows of ``a[m,n]``, added in order."""
    out[...] = 0
    for row in a:
        out += row


@quiet
def dot(out: Array, a: Array, b: Array) -> None:
    """``out[0]`` = the sum of ``a[i] b[i]``."""
    out[0] = (a * b).sum()


@quiet
def axpy(y: Array, x: Array, alpha: float) -> None:
    """``y += alpha x``."""
    y += y.dtype.type(alpha) * x


@quiet
def sum_of_squares(out: Array, x: Array) -> None:
    """``out[0]`` = the sum of ``x^2``."""
    out[0] = np.sum(x * x)


def groups(rows: Array, m: int) -> Array:
    """Reshape ``(m * group, n)`` to ``(m, group, n)``."""
    return rows.reshape(m, -1, rows.shape[1])


def _spread(a: Array, out: Array, m: int) -> Array:
    """Reshape ``a`` to ``(m, group, n)``, or to ``(1, group, n)`` if a is shared.

    All groups share ``a`` if it has as many rows as one group of ``out``.
    """
    return a[np.newaxis] if len(a) * m == len(out) and m > 1 else groups(a, m)


def scale_groups(out: Array, a: Array, scale: Array, masks: bool = False) -> None:
    """Multiply each row of ``a``, element by element, by its group's row of ``scale``.

    With ``masks``, elements of ``scale`` count as 1 if they are > 0, else as 0.
    """
    m = len(scale)
    factor = (scale > 0).astype(scale.dtype) if masks else scale
    out[...] = (_spread(a, out, m) * factor[:, np.newaxis]).reshape(out.shape)


def add_scaled_groups(out: Array, a: Array, scale: Array) -> None:
    """Like :func:`scale_groups`, but add the products to ``out``."""
    m = len(scale)
    out += (_spread(a, out, m) * scale[:, np.newaxis]).reshape(out.shape)


def outer_rows(out: Array, x: Array, d: Array) -> None:
    """Write the outer product of each row of ``d`` and its group's row of ``x``.

    Each product is a matrix indexed [x, d], flattened to a row of ``out``.
    """
    products = x[:, np.newaxis, :, np.newaxis] * groups(d, len(x))[:, :, np.newaxis]
    out[...] = products.reshape(out.shape)


def gemm_gather_k(
    c: Array, a: Array, b: Array, gate: Array, accumulate: bool = False
) -> None:
    """``c = a @ b``, with ``a`` set to 0 where its group's row of ``gate`` is <= 0."""
    kept = np.where(gate[:, np.newaxis] > 0, groups(a, len(gate)), 0)
    product = kept.reshape(a.shape) @ b
    c[...] = c + product if accumulate else product


def column_dot(out: Array, a: Array, b: Array, accumulate: bool = False) -> None:
    """``out[n] = sum over m of a[m,n] b[m,n]``, or ``out[n] +=`` this sum."""
    dots = (a * b).sum(axis=0)
    out[...] = out + dots if accumulate else dots


def add(out: Array, a: Array, b: Array) -> None:
    """``out = a + b``."""
    out[...] = a + b


def multiply(out: Array, a: Array, b: Array) -> None:
    """``out = a b``, element by element."""
    out[...] = a * b
