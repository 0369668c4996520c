"""Inference with fixed input and output buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _core, _validate

if TYPE_CHECKING:
    from .._validate import Array
    from .model import Model


def predictor(
    mlp: Model, rows: int | None, x: Array | None, out: Array | None
) -> _core.Predictor:
    """Return a predictor; see `fastmlp.MLP.predictor`."""
    if rows is not None:
        rows = _validate.count("rows", rows, 1)
    if x is not None and isinstance(x, np.ndarray) and x.ndim == 2:
        rows = len(x) if rows is None else rows
    batch = () if rows is None else (rows,)
    if x is None:
        x = np.zeros((*batch, mlp.n_in), mlp.dtype)
    if out is None:
        out = np.zeros((*batch, mlp.n_out), mlp.dtype)
    shape = (*batch, mlp.n_in)
    rows_in = _validate.exact("x", x, mlp.dtype, shape, writeable=False)
    place = _validate.exact("out", out, mlp.dtype, (*batch, mlp.n_out), writeable=True)
    _validate.apart("out", place, "x", rows_in)
    mlp._check_apart("x", rows_in)
    mlp._check_apart("out", place)
    n_in, dtype = mlp.n_in, mlp.dtype

    def convert(given: object) -> Array:
        array = _validate.inputs("x", given, n_in, dtype, vector=rows is None)
        if array.shape != shape:
            raise ValueError(
                f"x must have shape {shape}, the shape of this predictor's buffer, "
                f"got {_validate.describe(given)}"
            )
        return array.copy() if np.may_share_memory(array, place) else array

    return _core.Predictor(mlp.core, rows_in, place, convert, mlp._core_layers)
