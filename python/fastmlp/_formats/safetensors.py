"""Files of arrays and texts, in the safetensors format with a hash of the content.

In the format of the safetensors package, a file consists of the length of the header,
the header and the arrays. The header is JSON with the names, dtypes, shapes and
positions of the arrays and, under ``__metadata__``, the texts. One of the texts,
``sha256``, is a hash of the other texts and of the arrays, so that any changed byte is
detected.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .. import _validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._validate import Array

# Largest length of a header, as in the package, so that a small file cannot request a
# large amount of memory.
HEADER_LIMIT = 100_000_000

# The dtypes that fastmlp stores, by their names in the format.
DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}

_HASH = "sha256"
_METADATA = "__metadata__"


def package(what: str) -> Any:
    """Return the module safetensors.numpy.

    If the package is not installed, the ImportError names ``what``, the feature that
    needs it.
    """
    return _validate.extra("safetensors.numpy", what, "safetensors")


# Text ---------------------------------------------------------------------------------


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def parse(what: str, text: str) -> Any:
    """Return the value of a JSON text; duplicate names and NaN are refused."""
    import json

    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON: {error}") from None


def compact(value: object) -> str:
    """Return the JSON text of a value, ASCII only."""
    import json

    return json.dumps(value, allow_nan=False, separators=(",", ":"))


# Writing ------------------------------------------------------------------------------


def _digest(arrays: Mapping[str, Array], texts: Mapping[str, str]) -> str:
    import hashlib

    table = [[name, _CODES[a.dtype], a.shape] for name, a in sorted(arrays.items())]
    others = [[key, text] for key, text in sorted(texts.items()) if key != _HASH]
    total = hashlib.sha256(compact([others, table]).encode())
    for _, array in sorted(arrays.items()):
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        total.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def encode(arrays: Mapping[str, Array], texts: Mapping[str, str], what: str) -> bytes:
    """Return the content of a file, which depends only on the arrays and texts.

    Parameters
    ----------
    arrays
        Arrays of the dtypes in `DTYPES`.
    texts
        The metadata, in ASCII.
    what
        Caller to name in the error if the package is not installed.
    """
    tools = package(what)
    # The package ignores strides, so it needs contiguous arrays.
    dense = {name: np.array(array, order="C") for name, array in arrays.items()}
    texts = {**texts, _HASH: _digest(dense, texts)}
    data: bytes = tools.save(dense, metadata=texts)
    # The package writes the texts in an order that differs from process to process.
    # Sort them.
    length = 8 + int.from_bytes(data[:8], "little")
    header = parse("the header", data[8:length].decode())
    header[_METADATA] = dict(sorted(texts.items()))
    ordered = compact(header).encode()
    ordered += b" " * (-len(ordered) % 8)
    return len(ordered).to_bytes(8, "little") + ordered + data[length:]


# Reading ------------------------------------------------------------------------------


def decode(data: bytes, what: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the read-only arrays and the texts that the content of a file holds.

    Raises ValueError, with the reason, if the content is not valid.
    """
    tools = package(what)
    length = _header_length(data[:8], len(data))
    texts = _checked_header(data[8 : 8 + length], len(data) - 8 - length)
    arrays: dict[str, Array] = tools.load(data)
    for array in arrays.values():
        array.flags.writeable = False
    if _digest(arrays, texts) != texts[_HASH]:
        raise ValueError(
            f"the {_HASH} hash does not match: the content of the file has "
            "changed since it was written"
        )
    return arrays, texts


def read(path: str, what: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the read-only arrays and the texts that a file holds.

    Raises OSError if the file cannot be read, and otherwise the errors of `decode`.
    """
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise ValueError(f"{path} is not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # Check the length first, so that a file of another format is not read in full.
        _header_length(file.read(8), size)
        file.seek(0)
        return decode(file.read(), what)


def _header_length(start: bytes, size: int) -> int:
    if len(start) < 8:
        raise ValueError(f"the file must have at least 8 bytes, got {size}")
    length = int.from_bytes(start, "little")
    limit = min(size - 8, HEADER_LIMIT)
    if not 2 <= length <= limit:
        archive = start[:4] == b"PK\x03\x04"
        hint = (
            "; to read a file that torch.save wrote, use "
            "fm.from_torch(torch.load(path), …)" * archive
        )
        raise ValueError(
            f"the header's length must be from 2 to {limit} bytes, got {length}{hint}"
        )
    return length


def _checked_header(data: bytes, room: int) -> dict[str, str]:
    """Check every field of a header, and return the metadata."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the header is not UTF-8: {error}") from None
    header = parse("the header", text)
    if not isinstance(header, dict) or text[0] != "{" or text.rstrip(" ")[-1] != "}":
        raise ValueError("the header must be one JSON object, followed only by spaces")
    texts = header.pop(_METADATA, None)
    if not isinstance(texts, dict):
        # This may be a PyTorch state dict, which does not contain the architecture.
        hint = (
            "; to read a state dict without an architecture, use "
            "fm.from_torch(safetensors.numpy.load_file(path), activation=…)"
        ) * (texts is None)
        raise ValueError(
            f"{_METADATA} must be a JSON object, got {_validate.describe(texts)}{hint}"
        )
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ValueError(
                f"{_METADATA}[{key!r}] must be a str, got {_validate.describe(value)}"
            )
    if _HASH not in texts:
        raise ValueError(
            f"the file does not have the entry {_METADATA}[{_HASH!r}], which "
            "fastmlp writes"
        )

    # The arrays must cover the bytes from the first to the last without gaps.
    end = 0
    spans = {name: _span(name, entry) for name, entry in header.items()}
    for name, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
        if first != end:
            raise ValueError(
                f"{name}: data_offsets must begin at {end}, where the previous array "
                f"ends, got {first}"
            )
        end = last
    if end != room:
        fault = "is incomplete" if room < end else "has extra bytes at its end"
        raise ValueError(
            f"the header describes {end} bytes of arrays, but {room} bytes "
            f"follow the header: the file {fault}"
        )
    return texts


def _span(name: str, entry: object) -> tuple[int, int]:
    """Check an array's entry in the header; return where the array begins and ends."""
    fields = ("dtype", "shape", "data_offsets")
    if not isinstance(entry, dict) or set(entry) != set(fields):
        got = ", ".join(entry) if isinstance(entry, dict) else entry
        raise ValueError(
            f"{name} must have the fields {', '.join(fields)}, got {got!r}"
        )
    code, shape, offsets = (entry[field] for field in fields)
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(
            f"{name}: dtype must be one of {', '.join(DTYPES)}, got {code!r}"
        )
    for field, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(
            type(number) is int and number >= 0 for number in numbers
        ):
            raise ValueError(
                f"{name}: {field} must be a list of non-negative ints, got {numbers!r}"
            )
    if len(offsets) != 2:
        raise ValueError(f"{name}: data_offsets must be two ints, got {offsets}")
    size = DTYPES[code].itemsize
    for n in shape:  # Python's integers do not overflow
        size *= n
    if offsets[1] - offsets[0] != size:
        raise ValueError(
            f"{name}: shape {shape} of {code} needs {size} bytes, but "
            f"data_offsets {offsets} span {offsets[1] - offsets[0]} bytes"
        )
    return offsets[0], offsets[1]
