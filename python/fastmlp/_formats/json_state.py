"""Conversion of states to JSON and arrays and back, and checks of JSON values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._network.blocks import Stream, outline
from . import safetensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import TypeGuard

    from .._validate import Array
    from ..schedules import Schedule

# Name of the module that defines the schedules. A schedule is stored as its fields.
_SCHEDULES = "fastmlp.schedules"
# Numbers that JSON cannot represent, by the text that is stored instead of them.
_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Kinds (dtype.kind) of arrays that are stored as bytes if the file format lacks their
# dtype.
_AS_BYTES = "biufcmMSU"
# Number of floats from which on a list is stored as an array: the text of a file has a
# limit, and the history of a long training may not exceed it.
_SERIES = 1000


def packed(value: Any, arrays: dict[str, Array | Stream], where: str) -> Any:
    """Return a value as JSON, and add its arrays to ``arrays``.

    The names of the arrays begin with ``where``. A value that can be stored neither as
    JSON nor as an array is replaced by a mark, "kept": the caller must keep the value
    and pass it to `Unpacker`.
    """
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(
                f"{where}: the keys of a state must be str, got {list(value)}"
            )
        return {
            "dict": {
                key: packed(item, arrays, f"{where}.{key}")
                for key, item in value.items()
            }
        }
    if _is_series(value):
        return {"floats": _put_aside(np.array(value), arrays, where)["array"]}
    if isinstance(value, (list, tuple)):
        items = [packed(item, arrays, f"{where}.{i}") for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Stream) or (
        isinstance(value, np.ndarray) and not value.dtype.hasobject
    ):
        return _put_aside(value, arrays, where)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(float(value))}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if type(value).__module__ == _SCHEDULES:
        values = packed(dict(vars(value)), arrays, where)
        return {"schedule": {"kind": type(value).__name__, "fields": values}}
    return {"kept": repr(value)}


def _is_series(value: object) -> TypeGuard[list[float]]:
    """Return whether a value is a list of floats that is long enough for an array."""
    return (
        isinstance(value, list)
        and len(value) >= _SERIES
        and all(type(number) is float for number in value)
    )


def _put_aside(
    array: Array | Stream, arrays: dict[str, Array | Stream], where: str
) -> dict[str, Any]:
    name = "".join(c if c.isascii() and c.isprintable() else "_" for c in where)
    while name in arrays:
        name += "_"
    if array.dtype in safetensors.DTYPES.values():
        arrays[name] = array
        return {"array": name}
    if array.dtype.kind not in _AS_BYTES:
        raise TypeError(
            f"{where} must be an array of booleans, numbers, dates or strings, "
            f"got {_validate.describe(array)}"
        )
    assert isinstance(array, np.ndarray)  # streams have dtypes of the format
    arrays[name] = np.frombuffer(array.tobytes(), np.uint8)
    entry = {"array": name, "dtype": array.dtype.str, "shape": list(array.shape)}
    return {"bytes": entry}


class Unpacker:
    """The inverse of `packed`; refuses to use an array twice.

    ``used`` holds the names of the arrays used so far. ``in_memory`` says whether
    arrays are read at once; otherwise they are given as they are in the file.
    """

    def __init__(self, arrays: Mapping[str, Stream]) -> None:
        self._arrays = arrays
        self.used: set[str] = set()
        self.in_memory = True

    def __call__(self, value: Any, given: Any, where: str) -> Any:
        """Return the state; take values with the mark "kept" from ``given``."""
        if isinstance(value, list):
            return self._items(value, given, where)
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            raise ValueError(
                f"{where} must have exactly one key, naming how the value is stored, "
                f"got {list(value)}"
            )
        ((kind, inside),) = value.items()
        if kind == "kept" and isinstance(inside, str):
            return given
        if kind == "number" and isinstance(inside, str) and inside in _NUMBERS:
            return _NUMBERS[inside]
        if kind == "array":
            array = self._array(inside, where)
            return array.whole() if self.in_memory else array
        if kind == "floats":
            return self._floats(inside, where)
        if kind == "bytes":
            return self._from_bytes(inside, where)
        if kind == "tuple" and isinstance(inside, list):
            return tuple(self._items(inside, given, where))
        if kind == "dict" and isinstance(inside, dict):
            get = given.get if isinstance(given, dict) else lambda key: None
            return {k: self(v, get(k), f"{where}.{k}") for k, v in inside.items()}
        if kind == "schedule":
            return self._schedule(inside, given, where)
        raise ValueError(
            f"{where} is not a value that fastmlp writes: its kind is {kind!r}, "
            f"and its content is {_validate.describe(inside)}"
        )

    def _items(self, items: list[Any], given: Any, where: str) -> list[Any]:
        others = given if isinstance(given, (list, tuple)) else ()
        return [
            self(item, others[i] if i < len(others) else None, f"{where}.{i}")
            for i, item in enumerate(items)
        ]

    def _floats(self, name: object, where: str) -> list[float]:
        series = self._array(name, where)
        if series.dtype != np.float64 or len(series.shape) != 1:
            raise ValueError(
                f"{where} must be a 1-D array of float64, got "
                f"{_validate.describe(outline(series))}"
            )
        found: list[float] = series.whole().tolist()
        return found

    def _array(self, name: object, where: str) -> Stream:
        if not isinstance(name, str) or name not in self._arrays:
            raise ValueError(f"{where}: the array {name!r} is missing")
        if name in self.used:
            raise ValueError(f"{where}: the array {name!r} is used more than once")
        self.used.add(name)
        return self._arrays[name]

    def _from_bytes(self, entry: Any, where: str) -> Array:
        fields(where, entry, ("array", "dtype", "shape"))
        data = self._array(entry["array"], where).whole()
        try:
            dtype = np.dtype(entry["dtype"])
        except TypeError:
            dtype = np.dtype(np.void)
        if dtype.kind not in _AS_BYTES or dtype.str != entry["dtype"]:
            raise ValueError(
                f"{where}.dtype must be a boolean, numeric, date or string dtype such "
                f"as '<f8', got {entry['dtype']!r}"
            )
        size = dtype.itemsize
        for n in listed(f"{where}.shape", entry["shape"]):
            size *= _validate.count(f"{where}.shape", n, 0)
        if data.dtype != np.uint8 or data.size != size or data.ndim != 1:
            raise ValueError(
                f"{where}: an array of shape {entry['shape']} and dtype {dtype} "
                f"must be stored as {size} bytes, got {_validate.describe(data)}"
            )
        return np.frombuffer(data.tobytes(), dtype).reshape(entry["shape"]).copy()

    def _schedule(self, entry: Any, given: Any, where: str) -> Schedule | None:
        fields(where, entry, ("kind", "fields"))
        own = None if given is None else vars(given) if _is_schedule(given) else {}
        values = self(entry["fields"], own, where)
        if given is None:
            return None
        kind = entry["kind"]
        if not _is_schedule(given) or type(given).__name__ != kind:
            raise ValueError(
                f"{where} is a schedule of the class {kind}, but the optimizer has "
                f"{given!r}"
            )
        fields(where, values, tuple(vars(given)))
        # The constructor checks its arguments. The other fields are derived from the
        # arguments or record the progress of the schedule; they are checked here.
        names = given._names
        schedule = type(given)(**{name: values[name] for name in names})
        for name in vars(schedule).keys() - set(names):
            value, new = values[name], vars(schedule)[name]
            if type(value) is not type(new):
                raise ValueError(
                    f"{where}.{name} must be of type {type(new).__name__}, "
                    f"got {_validate.describe(value)}"
                )
            if name != "_best" and not 0 <= value < math.inf:
                raise ValueError(f"{where}.{name} must be finite and >= 0, got {value}")
            vars(schedule)[name] = value
        return schedule


def _is_schedule(value: object) -> TypeGuard[Schedule]:
    return type(value).__module__ == _SCHEDULES


# Checks of values ---------------------------------------------------------------------


def fields(where: str, value: object, names: Collection[str]) -> dict[str, Any]:
    """Return the value; raise ValueError unless it is a dict with these keys only."""
    if not isinstance(value, dict):
        raise ValueError(
            f"{where} must be a JSON object, got {_validate.describe(value)}"
        )
    missing = [name for name in names if name not in value]
    unknown = [str(name) for name in value if name not in names]
    if missing or unknown:
        wrong = [f"missing: {name}" for name in missing]
        wrong += [f"unexpected: {name}" for name in unknown]
        raise ValueError(
            f"{where} must have the fields {', '.join(names)}; {'; '.join(wrong)}"
        )
    return value


def listed(where: str, value: object) -> list[Any]:
    """Return the value; raise ValueError unless it is a list."""
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list, got {_validate.describe(value)}")
    return value


def text(where: str, value: object) -> str:
    """Return the value; raise ValueError unless it is a str."""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a str, got {_validate.describe(value)}")
    return value


def whole(where: str, value: object, bits: int, minimum: int = 0) -> int:
    """Return the value; raise an error unless it is an int in [minimum, 2**bits)."""
    number = _validate.count(where, value, minimum, None)
    if number >= 2**bits:
        got = _validate.shown(number)
        raise ValueError(f"{where} must be below 2**{bits}, got {got}")
    return number
