"""Inputs and comparisons for the tests with PyTorch."""

import fastmlp as fm
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="models are converted from PyTorch")


nn = torch.nn


# Outputs and gradients of a few small layers, relative to the largest element: both
# sides have about as many roundings, in different orders.
OUTPUT_RTOL = {"float32": 2e-5, "float64": 1e-13}


ROWS, N_IN = 7, 5


BOTH = ("float32", "float64")


def close(got, wanted, dtype):
    got, wanted = np.asarray(got), np.asarray(wanted)
    scale = max(1.0, float(abs(wanted).max()))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=OUTPUT_RTOL[dtype] * scale)


def inputs(rng, dtype="float32", rows=ROWS, width=N_IN):
    return torch.from_numpy(rng.normal(size=(rows, width)).astype(dtype))


def big(dtype="float32", **options):
    """A model with every kind of layer."""
    body = [6, fm.BatchNorm(momentum=0.3), fm.Residual([fm.LayerNorm(), 6]), 4]
    layers = [
        N_IN,
        8,
        fm.Dropout(0.25),
        fm.AlphaDropout(0.25),
        fm.GaussianNoise(0.25),
        fm.GaussianDropout(0.25),
        fm.LayerNorm(1e-3),
        fm.Activation("silu"),
        fm.RMSNorm(1e-3),
    ]
    layers += [fm.Residual(body), fm.BatchNorm(affine=False), fm.Dense(6, bias=False)]
    layers += [fm.Residual([6, fm.Dropout(0.1)]), 3]
    mlp = fm.MLP(layers, activation="tanh", dtype=dtype, seed=1, **options)
    random = np.random.default_rng(2)
    mlp.params[:] += random.uniform(0, 0.5, mlp.n_params)
    mlp.buffers[:] += random.uniform(0, 0.5, mlp.buffers.size)
    return mlp


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        one, other = np.asarray(a[name]), np.asarray(b[name])
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes(), name
