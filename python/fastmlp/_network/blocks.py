"""Arrays in blocks, so that large arrays need no second copy in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._validate import Array

    Index = tuple[slice | int, ...]

# Size of a block in bytes: large enough for a disk, small enough to be of no account.
BLOCK = 1 << 22


class Stream:
    """An array that lies elsewhere, in a file or in the core, and is read in blocks.

    Attributes
    ----------
    dtype : numpy.dtype
        Type of the elements.
    shape : tuple of int
        Shape of the array.
    size : int
        Number of elements.
    """

    __slots__ = ("_read", "dtype", "shape", "size")

    def __init__(
        self,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        read: Callable[[int, Array], object],
    ) -> None:
        """Make the array; ``read(start, out)`` copies elements from ``start`` on.

        ``start`` counts the elements in row-major order; ``out`` is 1-D and contiguous.
        """
        self.dtype, self.shape, self._read = dtype, shape, read
        self.size = math.prod(shape)

    def copy_to(self, to: Array) -> None:
        """Copy all elements to an array of this shape, whatever its strides."""
        start = 0
        for index in indices(to):
            part = to[index]
            flat = np.empty(part.size, self.dtype)
            self._read(start, flat)
            to[index] = flat.reshape(part.shape)
            start += part.size

    def whole(self) -> Array:
        """Return the array in memory."""
        array = np.empty(self.shape, self.dtype)
        self.copy_to(array)
        return array

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> Array:
        return np.asarray(self.whole(), dtype)

    def parts(self) -> Iterator[Array]:
        """Yield all elements in row-major order as 1-D arrays of about `BLOCK` bytes.

        An array is valid until the next one is asked for.
        """
        block = np.empty(min(self.size, _elements(self.dtype)), self.dtype)
        for start in range(0, self.size, max(block.size, 1)):
            part = block[: self.size - start]
            self._read(start, part)
            yield part


def outline(array: Array | Stream) -> Array:
    """Return an array without memory of its own that has this dtype and shape."""
    return np.broadcast_to(np.empty((), array.dtype), array.shape)


def parts(array: Array | Stream) -> Iterator[Array]:
    """Yield all elements in row-major order as 1-D arrays of about `BLOCK` bytes.

    An array is valid until the next one is asked for. An array in memory that is
    contiguous is not copied.
    """
    if isinstance(array, Stream):
        yield from array.parts()
        return
    if array.flags.c_contiguous:
        array = array.reshape(-1)
    for index in indices(array):
        yield np.ascontiguousarray(array[index]).reshape(-1)


def indices(array: Array | Stream) -> Iterator[Index]:
    """Yield indices of parts of about `BLOCK` bytes that cover an array in order."""
    return _indices(array.shape, _elements(array.dtype))


def _elements(dtype: np.dtype[Any]) -> int:
    return max(1, BLOCK // max(dtype.itemsize, 1))


def _indices(shape: tuple[int, ...], limit: int) -> Iterator[Index]:
    if not shape:
        yield ()
        return
    inner = math.prod(shape[1:])
    if inner <= limit:
        step = max(1, limit // max(inner, 1))
        for start in range(0, shape[0], step):
            yield (slice(start, start + step),)
        return
    for i in range(shape[0]):
        for rest in _indices(shape[1:], limit):
            yield (i, *rest)
