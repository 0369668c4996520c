"""The same bits with products in bfloat16, and the bits of the reference."""

from __future__ import annotations

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from helpers import thread_counts
from test_same_bits import (
    BIG,
    MANY,
    SMALL,
    assert_rows_have_one_result,
    assert_trains_in_threads,
    trained_hash,
)

# A network whose products are divided into blocks in each dimension, and whose sums run
# over more rows than one chunk of a batch has.
DEEP = {"layers": [1100, 530, 1100, 5], "rows": 1400}


@pytest.mark.parametrize(
    ("net", "steps"),
    [(SMALL, 50), (BIG, 5), (MANY, 2)],
    ids=["small", "big", "many rows"],
)
def test_training(net: dict, steps: int) -> None:
    hashes = {}
    for isa in fm.available_isas():
        for n in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                if net is not SMALL:
                    assert_trains_in_threads(net)
                hashes[isa, n] = trained_hash(net, "bfloat16", steps=steps)
    assert len(set(hashes.values())) == 1, hashes


@pytest.mark.parametrize("isa", fm.available_isas())
def test_a_row_at_any_place_in_a_batch(isa: str) -> None:
    mlp = fm.MLP([21, 67, 40, 5], activation="silu", compute_dtype="bfloat16", seed=1)
    assert_rows_have_one_result(mlp, isa)


def dense(n_in: int, n_out: int) -> fm.MLP:
    mlp = fm.MLP([n_in, n_out], compute_dtype="bfloat16", seed=2)
    mlp.biases[0][:] = np.linspace(-1, 1, n_out)
    return mlp


@pytest.mark.parametrize("isa", fm.available_isas())
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 70])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (5, 33), (97, 40), (64, 2)])
def test_the_bits_of_the_reference(isa: str, rows: int, n_in: int, n_out: int) -> None:
    mlp = dense(n_in, n_out)
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, n_in)).astype(np.float32)
    dy = rng.standard_normal((rows, n_out)).astype(np.float32)
    product = reference.bfloat16_product
    weight, bias = mlp.weights[0], mlp.biases[0]
    wanted = product(x, weight, bias=bias)
    with fm.use_isa(isa):
        assert mlp(x).tobytes() == wanted.tobytes()
        y, dx, grads = mlp.vjp(x, dy)
    assert y.tobytes() == wanted.tobytes()
    assert dx.tobytes() == product(dy, weight.T).tobytes()
    assert grads[: weight.size].tobytes() == product(x.T, dy).tobytes()


def test_sums_over_rows_do_not_depend_on_chunks() -> None:
    """A batch of several chunks has the gradient of one chain of blocks."""
    rows = 5000
    mlp = dense(3, 2)
    x, dy = np.random.default_rng(3).standard_normal((2, rows, 3)).astype(np.float32)
    wanted = reference.bfloat16_product(x.T, dy[:, :2].copy())
    grads = mlp.vjp(x, dy[:, :2])[2]
    assert grads[:6].tobytes() == wanted.tobytes()


def test_large_products() -> None:
    layers, rows = DEEP["layers"], DEEP["rows"]
    rng = np.random.default_rng(4)
    x = rng.standard_normal((rows, layers[0])).astype(np.float32)
    dy = rng.standard_normal((rows, layers[-1])).astype(np.float32)
    mlp = fm.MLP(layers, compute_dtype="bfloat16", seed=0)
    hashes = set()
    for isa in fm.available_isas():
        for n in (1,) if isa == "scalar" else (1, 2):
            with fm.use_isa(isa), fm.threads(n):
                found = mlp.vjp(x, dy)
                assert mlp(x).tobytes() == found[0].tobytes()
                hashes.add(b"".join(array.tobytes() for array in found))
    assert len(hashes) == 1


def test_inference_by_columns() -> None:
    """Two threads divide the columns of a few rows."""
    mlp = fm.MLP(
        [200, 512, 515, 5],
        compute_dtype="bfloat16",
        output_activation="softmax",
        seed=0,
    )
    x = np.random.default_rng(5).standard_normal((15, 200)).astype(np.float32)
    with fm.threads(1):
        wanted = [mlp(x[:n]).tobytes() for n in range(1, 16)]
    with fm.threads(2):
        for _ in range(20):
            assert [mlp(x[:n]).tobytes() for n in range(1, 16)] == wanted


def test_rounding() -> None:
    one = np.float32(1)
    halfway = np.float32(1 + 2**-8)  # between 1 and 1 + 2^-7: the even one is 1
    above = np.nextafter(halfway, np.float32(2))
    given = [
        one,
        halfway,
        above,
        2.0**-55,
        np.nextafter(np.float32(2.0**-55), 0.0),
        3.4e38,
    ]
    wanted = [1, 1, 1 + 2**-7, 2.0**-55, 0, np.inf]
    given, wanted = np.array(given, np.float32), np.array(wanted, np.float32)
    assert reference.round_to_bfloat16(given).tobytes() == wanted.tobytes()
    assert reference.round_to_bfloat16(-given[:4]).tobytes() == (-wanted[:4]).tobytes()
    assert np.isnan(reference.round_to_bfloat16(np.array([np.nan], np.float32))).all()
