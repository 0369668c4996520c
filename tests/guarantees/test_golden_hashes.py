"""Results have the bits on record, on every machine, compiler and instruction set."""

from __future__ import annotations

import json

import fastmlp as fm
import pytest
from golden_cases import CASES, RECORD, hashed

WANTED = json.loads(RECORD.read_text())


def test_every_case_is_on_record() -> None:
    assert {dtype: set(hashes) for dtype, hashes in WANTED.items()} == {
        "float32": set(CASES),
        "float64": set(CASES),
    }


@pytest.mark.parametrize("name", CASES)
def test_results_have_the_bits_on_record(name: str) -> None:
    """On a difference, see golden_cases.py."""
    wanted = {dtype: hashes[name] for dtype, hashes in WANTED.items()}
    for isa in fm.available_isas():
        with fm.use_isa(isa):
            found = {dtype: hashed(name, dtype) for dtype in WANTED}
        assert found == wanted, isa
