"""Extra fields of transitions, which a replay buffer stores as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._validate import Array

# Names that samples and states use for other things.
RESERVED = frozenset(
    (
        "obs",
        "action",
        "actions",
        "reward",
        "rewards",
        "next_obs",
        "terminated",
        "truncated",
        "where",
        "extra",
        "indices",
        "discounts",
        "weights",
    )
)


class Extra:
    """Names, dtypes and shapes of the extra fields, and conversions to bytes.

    Parameters
    ----------
    given : mapping or None
        What `fastmlp.rl.ReplayBuffer` takes as ``extra``.

    Attributes
    ----------
    fields : dict of str to dtype
        Dtypes, with shapes as subarrays.
    bytes : int
        Number of bytes of the fields of one transition.
    """

    def __init__(self, given: object) -> None:
        if given is not None and not hasattr(given, "items"):
            raise TypeError(
                "extra must be a dict of shapes or dtypes by name, got "
                f"{_validate.describe(given)}"
            )
        items: Any = {} if given is None else given
        self.fields = {name: _dtype(name, kind) for name, kind in items.items()}
        self.bytes = sum(dtype.itemsize for dtype in self.fields.values())
        self._record = np.dtype(list(self.fields.items()))

    def packed(
        self, values: Mapping[str, Any] | None, rows: tuple[int, ...]
    ) -> Array | None:
        """Return the bytes (n, bytes) of values; ``rows`` is (n,), or () for one."""
        given: Any = {} if values is None else values
        if not hasattr(given, "keys") or set(given.keys()) != set(self.fields):
            got = ", ".join(map(str, given)) if hasattr(given, "keys") else None
            raise (TypeError if got is None else ValueError)(
                f"extra must have values for {', '.join(self.fields) or 'no fields'}, "
                f"got {_validate.describe(given) if got is None else got or 'none'}"
            )
        if not self.fields:
            return None
        record = np.zeros(rows[0] if rows else 1, self._record)
        for name, dtype in self.fields.items():
            where = f"extra[{name!r}]"
            array = _converted(where, given[name], dtype.base)
            if array.shape != (*rows, *dtype.shape):
                raise ValueError(
                    f"{where} must have shape {(*rows, *dtype.shape)}, got "
                    f"{_validate.describe(array)}"
                )
            record[name] = array if rows else array[np.newaxis]
        return record.view(np.uint8).reshape(len(record), self.bytes)

    def unpacked(self, raw: Array) -> dict[str, Array]:
        """Return contiguous arrays of the fields from their bytes (n, bytes)."""
        record = raw.view(self._record).reshape(len(raw))
        return {name: np.ascontiguousarray(record[name]) for name in self.fields}


def _dtype(name: object, kind: object) -> np.dtype[Any]:
    """Return the dtype of a field, which is given as a shape or a dtype."""
    if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
        raise ValueError(
            "extra must have names that are identifiers and are not used otherwise, "
            f"got {name!r}"
        )
    where = f"extra[{name!r}]"
    sizes = kind if isinstance(kind, tuple) else (kind,)
    is_shape = all(isinstance(size, (int, np.integer)) for size in sizes)
    if is_shape and not isinstance(kind, bool):
        shape = tuple(_validate.count(where, size, 1) for size in sizes)
        try:
            return np.dtype((np.float32, shape))
        except ValueError as error:  # too large
            raise ValueError(f"{where} must be a possible shape: {error}") from None
    wanted = (
        f"{where} must be a shape, or a dtype of booleans, integers or floats, got "
        f"{kind!r}"
    )
    if kind is None or isinstance(kind, bool):  # np.dtype(None) is float64
        raise TypeError(wanted)
    try:
        dtype = np.dtype(kind)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(wanted) from None
    if dtype.base.kind not in "biuf" or dtype.itemsize == 0:
        raise ValueError(wanted)
    return np.dtype((dtype.base.newbyteorder("="), dtype.shape))


def _converted(where: str, value: object, dtype: np.dtype[Any]) -> Array:
    """Return a value in a dtype that can represent it."""
    array = _validate.numeric(where, value)
    if dtype.kind == "f" and dtype.itemsize in (4, 8):
        return _validate.convert(where, array, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        result = array.astype(dtype)
    # Floats round, but all other values must stay as they are.
    lost = result != array if dtype.kind != "f" else np.isinf(result) != np.isinf(array)
    if np.any(lost):
        index = tuple(int(i) for i in np.argwhere(lost)[0])
        raise ValueError(f"{where} must hold values of {dtype}, got {array[index]!r}")
    return result
