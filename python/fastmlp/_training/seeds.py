"""Random generators and keys from the argument ``seed``."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .. import _validate


def generator(seed: Any) -> np.random.Generator:
    """Return a generator for any seed that default_rng takes, except bools."""
    if _is_int(seed) or isinstance(seed, np.bool_):
        seed = _validate.count("seed", seed, 0, None)
    try:
        return np.random.default_rng(seed)
    except RuntimeError as error:  # Python's own error if there is no memory for a lock
        raise MemoryError(str(error)) from None
    except (TypeError, ValueError) as error:
        raise type(error)(
            "seed must be a non-negative int, a sequence of such ints, a numpy "
            "SeedSequence, BitGenerator or Generator, or None; got "
            f"{_validate.describe(seed)}: {error}"
        ) from None


def key(seed: object) -> int:
    """Return the 64 bits that determine the sample orders of all epochs."""
    if not _is_int(seed):
        return int(generator(seed).integers(2**63))
    number = _validate.count("seed", seed, 0, None)
    if number >= 2**64:
        got = _validate.shown(number)
        raise ValueError(f"seed must be below 2**64, got {got}")
    return number


def _is_int(value: object) -> bool:
    """Tell whether something is an int of any kind, including bools and 0-d arrays."""
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True
