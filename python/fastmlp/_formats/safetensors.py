"""Files of arrays and texts, in the safetensors format with a hash of the content.

In the format of the safetensors package, a file consists of the length of the header,
the header and the arrays. The header is JSON with the names, dtypes, shapes and
positions of the arrays and, under ``__metadata__``, the texts. One of the texts,
``sha256``, is a hash of the other texts and of the arrays, so that any changed byte is
detected.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from .. import _validate
from .._network.blocks import Stream, parts
from .atomic_write import open_file

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Callable, Iterator, Mapping, Sized

    from .._validate import Array

# Limits of a header, so that a file of a stranger cannot take much time or memory: its
# bytes, its objects and lists, its commas (which bound the number of values), and the
# arrays that it describes.
HEADER_LIMIT = 10_000_000
CONTAINER_LIMIT = 200_000
ITEM_LIMIT = 500_000
ARRAY_LIMIT = 20_000

# The dtypes that fastmlp stores, by their names in the format. As in the package, they
# are in the order of the arrays in a file: those with the largest elements come first.
DTYPES: dict[str, np.dtype[Any]] = {
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F16": np.dtype(np.float16),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_ORDER = {code: place for place, code in enumerate(DTYPES)}
_CODES = {dtype: code for code, dtype in DTYPES.items()}

# The first bytes of other formats, and what an error message adds.
_FORMATS = (
    (
        b"PK\x03\x04",
        " (a zip archive); to read a file that torch.save wrote, use "
        "fm.from_torch(torch.load(path), …)",
    ),
    (b"\x80", " (a pickle); to read it, use pickle.load or joblib.load"),
    (
        b"\x89HDF",
        " (HDF5); to read a Keras model, use "
        "fm.from_keras(keras.models.load_model(path))",
    ),
    (b"\x93NUMPY", " (NumPy's format); to read an array, use numpy.load"),
)

_HASH = "sha256"
_METADATA = "__metadata__"


# Text ---------------------------------------------------------------------------------


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name[:80]!r} occurs twice")
            seen.add(name)
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


def _digest(
    arrays: Mapping[str, Array | Stream], texts: Mapping[str, str]
) -> hashlib._Hash:
    """Return the hash of the texts and of the arrays' names, dtypes and shapes.

    The contents of the arrays follow, in the order of the names.
    """
    import hashlib

    table = [[name, _CODES[a.dtype], a.shape] for name, a in sorted(arrays.items())]
    others = [[key, text] for key, text in sorted(texts.items()) if key != _HASH]
    text = compact([others, table]).encode()
    with _hashing():
        return hashlib.sha256(text)


@contextlib.contextmanager
def _hashing() -> Iterator[None]:
    """Turn the error of OpenSSL for a lack of memory into a MemoryError."""
    try:
        yield
    except ValueError as error:
        raise MemoryError(str(error)) from None


def _hex(total: hashlib._Hash) -> str:
    with _hashing():
        return total.hexdigest()


def _bytes(part: Array) -> memoryview:
    """Return the memory of a 1-D array, as little-endian numbers."""
    little = part.astype(part.dtype.newbyteorder("<"), copy=False)
    return little.view(np.uint8).data


def write(
    file: BinaryIO, arrays: Mapping[str, Array | Stream], texts: Mapping[str, str]
) -> None:
    """Write arrays and texts; the content depends only on them.

    The arrays are written and hashed in blocks, so that a large model needs little
    memory.

    Parameters
    ----------
    file
        New file that can seek.
    arrays
        Arrays of the dtypes in `DTYPES`, and of any strides.
    texts
        The metadata, in ASCII.

    Raises
    ------
    ValueError
        If the header would exceed the limits of files.
    """
    order = sorted(arrays, key=lambda name: (_ORDER[_CODES[arrays[name].dtype]], name))
    # The hash is not known yet, but its length is.
    header: dict[str, Any] = {
        _METADATA: dict(sorted({**texts, _HASH: "0" * 64}.items()))
    }
    begins, end = {}, 0
    for name in order:
        array = arrays[name]
        begins[name], end = end, end + array.size * array.dtype.itemsize
        header[name] = {
            "dtype": _CODES[array.dtype],
            "shape": array.shape,
            "data_offsets": [begins[name], end],
        }
    text = _header_text(header)
    _check_limits(text)
    _check_arrays(header)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    total = _digest(arrays, texts)
    for name, array in sorted(arrays.items()):
        file.seek(8 + len(text) + begins[name])
        for part in parts(array):
            data = _bytes(part)
            total.update(data)
            file.write(data)
    header[_METADATA][_HASH] = _hex(total)
    file.seek(8)
    file.write(_header_text(header))


def _header_text(header: object) -> bytes:
    text = compact(header).encode()
    return text + b" " * (-len(text) % 8)


# Reading ------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[dict[str, Stream], dict[str, str]]]:
    """Open a file and check every byte; give its arrays and its texts.

    The arrays can be read while the file is open. They are read from the file and not
    mapped to memory, because a file that becomes shorter would then end the process.

    Raises OSError if the file cannot be read, and ValueError, with the reason, if the
    content is not valid.
    """
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise ValueError(f"{path} is not a regular file")
    with open_file(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # Check the length first, so that a file of another format is not read in full.
        length = _header_length(file.read(8), size)
        texts, entries = _checked_header(file.read(length), size - 8 - length)
        arrays = {
            name: Stream(DTYPES[code], shape, _reader(file, 8 + length + begin))
            for name, (code, shape, begin) in entries.items()
        }
        total = _digest(arrays, texts)
        for _, array in sorted(arrays.items()):
            for part in array.parts():
                total.update(_bytes(part))
        if _hex(total) != texts[_HASH]:
            raise ValueError(
                f"the {_HASH} hash does not match: the content of the file has "
                "changed since it was written"
            )
        yield arrays, texts


def _reader(file: BinaryIO, begin: int) -> Callable[[int, Array], None]:
    def read(start: int, out: Array) -> None:
        file.seek(begin + start * out.itemsize)
        if file.readinto(out.view(np.uint8).data) != out.nbytes:  # type: ignore[attr-defined]
            raise ValueError("the file has become shorter while it was being read")
        if sys.byteorder == "big":
            out.byteswap(inplace=True)

    return read


def _header_length(start: bytes, size: int) -> int:
    if len(start) < 8:
        raise ValueError(f"the file must have at least 8 bytes, got {size}")
    length = int.from_bytes(start, "little")
    limit = min(size - 8, HEADER_LIMIT)
    if not 2 <= length <= limit:
        what = ""
        if length > HEADER_LIMIT:
            formats = (text for magic, text in _FORMATS if start.startswith(magic))
            what = (
                f"it is not a fastmlp file, but begins with {start!r}"
                f"{next(formats, '')}; "
            )
        raise ValueError(
            f"{what}the header's length must be from 2 to {limit} bytes, got {length}"
        )
    return length


def _check_limits(header: bytes) -> None:
    """Refuse a header that would take much time and memory to read."""
    found = {
        "bytes": (len(header), HEADER_LIMIT),
        "objects and lists": (header.count(b"{") + header.count(b"["), CONTAINER_LIMIT),
        "commas": (header.count(b","), ITEM_LIMIT),
    }
    for what, (number, limit) in found.items():
        if number > limit:
            raise ValueError(
                f"the header must not have more than {limit} {what}, got {number}"
            )


def _check_arrays(header: Sized) -> None:
    if len(header) - 1 > ARRAY_LIMIT:  # one entry holds the metadata
        raise ValueError(
            f"the file must not have more than {ARRAY_LIMIT} arrays, got "
            f"{len(header) - 1}"
        )


def _checked_header(
    data: bytes, room: int
) -> tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...], int]]]:
    """Check every field of a header.

    Returns the metadata and, for each array, its dtype, its shape and where it begins.
    """
    _check_limits(data)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the header is not UTF-8: {error}") from None
    header = parse("the header", text)
    if not isinstance(header, dict) or text[0] != "{" or text.rstrip(" ")[-1] != "}":
        raise ValueError("the header must be one JSON object, followed only by spaces")
    _check_arrays(header)
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
    end, entries = 0, {}
    spans = {name: _span(name, entry) for name, entry in header.items()}
    for name, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
        entries[name] = header[name]["dtype"], tuple(header[name]["shape"]), first
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
    return texts, entries


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
