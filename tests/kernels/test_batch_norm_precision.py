"""Batch norm's sums in float32 are as accurate as float32 allows.

Sums are formed by blocks of rows, and the mean is corrected by a second pass. With one
running sum in float32, or with the mean of a single pass, the bounds below are
exceeded.
"""

import fastmlp as fm
import numpy as np
import pytest
from fastmlp._core import kernels

ROWS, COLUMNS = 3000, 24
EPS = float(np.finfo(np.float32).eps)
# The mean is rounded to float32, which shifts all rows equally, plus about two
# roundings.
VALUE = 2.0
# Sums of ROWS rows by blocks: rounding errors as after ROWS / 32 + 32 random steps.
SUM = 2.5


def relative(a, b):
    return np.linalg.norm(a.astype(float) - b) / np.linalg.norm(b)


def passes(offset):
    """Results of the same numbers in float32 and in float64."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((ROWS, COLUMNS)) + offset).astype(np.float32)
    dy = (rng.standard_normal((ROWS, COLUMNS)) + 1).astype(np.float32)
    affine = np.concatenate([rng.normal(1, 0.3, COLUMNS), rng.normal(0, 1, COLUMNS)])
    results = []
    for dtype in ("float32", "float64"):
        mlp = fm.MLP([COLUMNS, fm.BatchNorm()], dtype=dtype)
        mlp.params[:] = affine.astype(np.float32)
        y, dx, grads = mlp.vjp(x.astype(dtype), dy.astype(dtype), training=True)
        scale, shift = np.split(grads, 2)
        results.append({"y": y, "dx": dx, "scale": scale, "shift": shift})
    return results


@pytest.mark.parametrize("offset", [0, 3, 30])
def test_float32_is_as_good_as_its_roundings_allow(offset):
    single, double = passes(offset)
    size = 1 + offset  # magnitude of the numbers from which the mean is subtracted
    assert relative(single["y"], double["y"]) <= VALUE * EPS * size
    assert relative(single["dx"], double["dx"]) <= VALUE * EPS * size
    assert relative(single["shift"], double["shift"]) <= SUM * EPS
    # The mean of xhat cancels in the sum of dy xhat; sqrt(ROWS) times its rounding
    # error remains.
    bound = SUM * EPS * size * ROWS**0.5
    assert relative(single["scale"], double["scale"]) <= bound


def test_a_bias_before_batch_norm_has_almost_no_gradient():
    """The sum of dx down each column, which is 0 in exact arithmetic."""
    single, double = passes(0)
    left = np.linalg.norm(single["dx"].sum(axis=0, dtype=np.float64))
    bound = SUM * EPS * ROWS**0.5  # ROWS times the same rounding error of the mean
    assert left <= bound * np.linalg.norm(double["dx"])


def test_variance_is_never_negative():
    """For constant columns it is a difference of sums that are equal up to rounding."""
    rng = np.random.default_rng(2)
    x = np.tile(rng.standard_normal(500).astype(np.float32), (777, 1))
    mean, var = np.empty_like(x[0]), np.empty_like(x[0])
    kernels.column_moments(mean, var, x)
    assert np.abs(mean - x[0]).max() <= EPS * np.abs(x).max()
    assert var.min() >= 0
    assert var.max() <= (EPS * np.abs(x).max()) ** 2


def test_nonfinite_values_stay_nonfinite():
    x = np.zeros((70, 3), np.float32)
    x[40] = [np.nan, np.inf, 1]
    mean, var = np.empty_like(x[0]), np.empty_like(x[0])
    kernels.column_moments(mean, var, x)
    assert not np.isfinite(mean[:2]).any()
    assert np.isnan(var[:2]).all()
    assert np.isfinite([mean[2], var[2]]).all()
