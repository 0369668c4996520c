"""Matrix products, sums, and other kernels on plain matrices."""

from __future__ import annotations

import numpy as np

from .arrays import Array, quiet

__all__ = [
    "add",
    "add_scaled_groups",
    "axpy",
    "column_dot",
    "column_sum",
    "dot",
    "gemm_gather_k",
    "gemm_nn",
    "gemm_nt",
    "gemm_tn",
    "multiply",
    "outer_rows",
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
