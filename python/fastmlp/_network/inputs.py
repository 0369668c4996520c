"""Samples as rows for a model: dense arrays, or sparse matrices of SciPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import _core, _validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._validate import Array
    from .model import Model

    Inputs: TypeAlias = Array | _core.SparseMatrix


def is_sparse(x: object) -> bool:
    """Return whether ``x`` is a sparse matrix or array of SciPy."""
    return hasattr(x, "tocsr")


def sparse_matrix(
    name: str, x: Any, convert: Callable[[Array], Array]
) -> _core.SparseMatrix:
    """Return a sparse matrix as the core takes it, with its numbers converted.

    Entries of the same row and column are added, as SciPy does. Raises ValueError if
    the arrays of the matrix contradict each other.
    """
    try:
        # SciPy itself would read or write beyond the arrays. The core checks columns.
        if getattr(x, "format", "") == "csr":
            _check_rows(x)
        elif hasattr(x, "check_format"):
            x.check_format(full_check=True)
        csr = x.tocsr()
    except (ValueError, IndexError) as error:
        raise ValueError(f"{name} is not a valid sparse matrix: {error}") from None
    if not csr.has_canonical_format:
        csr = csr.copy() if csr is x else csr
        csr.sum_duplicates()
    indptr = np.ascontiguousarray(csr.indptr, np.int64)
    stored = int(indptr[-1])  # the arrays may be longer
    data = convert(csr.data[:stored])
    indices = np.ascontiguousarray(csr.indices[:stored], np.int64)
    try:
        return _core.SparseMatrix(data, indices, indptr, csr.shape[1])
    except ValueError as error:
        raise ValueError(f"{name} is not a valid sparse matrix: {error}") from None


def _check_rows(csr: Any) -> None:
    """Check that the rows of a matrix in CSR lie within its arrays."""
    indptr, room = csr.indptr, min(len(csr.indices), len(csr.data))
    if len(indptr) != csr.shape[0] + 1:
        raise ValueError(f"indptr must have {csr.shape[0] + 1} elements")
    if indptr[0] != 0 or indptr[-1] > room or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(f"indptr must ascend from 0 to at most {room}")


def check_takes_sparse(mlp: Model, name: str, x: Any) -> None:
    """Raise TypeError if the model does not take a sparse matrix."""
    if not mlp.core.takes_sparse:
        raise TypeError(
            f"{name} may be sparse only if the first layer of the model is fm.Dense, "
            f"got {_validate.describe(x)}; write {name}.toarray()"
        )
    if mlp.compute_dtype == "bfloat16":
        raise TypeError(
            f"{name} must not be sparse if compute_dtype='bfloat16', got "
            f"{_validate.describe(x)}; write {name}.toarray()"
        )


def inputs(mlp: Model, name: str, x: Any, *, vector: bool = False) -> Inputs:
    """Return samples as rows, (B, n_in); with ``vector`` also one sample, (n_in,).

    Raises TypeError if ``x`` is sparse but the model does not take sparse inputs.
    """
    if not is_sparse(x):
        return _validate.inputs(name, x, mlp.n_in, mlp.dtype, vector=vector)
    check_takes_sparse(mlp, name, x)
    shape = tuple(x.shape)
    if len(shape) != 2 or shape[1] != mlp.n_in:
        raise ValueError(
            f"{name} must have shape (rows, {mlp.n_in}), got {_validate.describe(x)}"
        )
    if shape[0] == 0:
        raise ValueError(
            f"{name} must have at least one row, got {_validate.describe(x)}"
        )
    return sparse_matrix(name, x, lambda data: _validate.convert(name, data, mlp.dtype))


def dense(x: Inputs) -> Array:
    """Return samples as a dense array."""
    return x if isinstance(x, np.ndarray) else x.toarray()


def numbers(x: Inputs) -> Array:
    """Return the numbers that are stored."""
    return x if isinstance(x, np.ndarray) else x.data


def check_finite(name: str, x: Inputs) -> None:
    """Refuse samples with NaN or infinity."""
    if isinstance(x, np.ndarray):
        _validate.finite(name, x)
        return
    bad = ~np.isfinite(x.data)
    if bad.any():
        raise ValueError(
            f"{name} must be finite, got {x.data[bad][0]} among the stored numbers"
        )
