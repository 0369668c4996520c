"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import fastmlp as fm
import numpy as np
import pytest
from helpers import SEED, TAILS


def pytest_make_parametrize_id(config: object, val: object, argname: str) -> str | None:
    """Short ids for dtypes."""
    if isinstance(val, type) and issubclass(val, np.floating):
        return val.__name__
    return None


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type:
    """Both dtypes of the library."""
    return request.param


@pytest.fixture(params=fm.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this machine, active for the test."""
    with fm.use_isa(request.param):
        yield request.param


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(SEED)


@pytest.fixture(params=TAILS)
def tail(request: pytest.FixtureRequest) -> int:
    """One of the sizes that exercise every tail."""
    return request.param
