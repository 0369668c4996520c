"""Counter-based random numbers: shuffles and dropout masks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .arrays import Array

__all__ = [
    "dropout",
    "dropout_mask",
    "philox4x32",
    "shuffle",
]

_MASK32 = 0xFFFFFFFF

_MASK64 = 0xFFFFFFFFFFFFFFFF

_SHUFFLE_STREAM = 0x53485546  # "SHUF"

_DROPOUT_STREAM = 0x44524F50  # "DROP"


def philox4x32(
    counter: tuple[Array | int, ...], key: tuple[int, int]
) -> tuple[npt.NDArray[np.uint64], ...]:
    """Philox4x32-10 [4]: compute four random 32-bit words from a counter and a key.

    The counter has four 32-bit words, the key has two. The words of the counter may be
    arrays, which are broadcast together. The results are stored as uint64.
    """
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in counter)
    k0, k1 = key
    low, shift = np.uint64(_MASK32), np.uint64(32)
    for _ in range(10):
        product0 = np.uint64(0xD2511F53) * c0
        product1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> shift) ^ c1 ^ np.uint64(k0),
            product1 & low,
            (product0 >> shift) ^ c3 ^ np.uint64(k1),
            product0 & low,
        )
        k0 = (k0 + 0x9E3779B9) & _MASK32
        k1 = (k1 + 0xBB67AE85) & _MASK32
    return c0, c1, c2, c3


def shuffle(order: npt.NDArray[np.int64], seed: int, epoch: int) -> None:
    """Write to ``order`` the permutation of 0..N-1 that (seed, epoch) determines.

    This is the Fisher-Yates shuffle, from the last element down: element i is swapped
    with element j <= i, where j is the high 64 bits of ``r * (i + 1)`` and the random
    64-bit word r depends only on (seed, epoch, i).
    """
    n = len(order)
    draws = np.arange(n, dtype=np.uint64)
    words = philox4x32(
        (
            draws & np.uint64(_MASK32),
            draws >> np.uint64(32),
            epoch & _MASK32,
            _SHUFFLE_STREAM,
        ),
        (seed & _MASK32, (seed >> 32) & _MASK32),
    )
    random = (words[0] | (words[1] << np.uint64(32))).tolist()
    result = list(range(n))
    for i in range(n - 1, 0, -1):
        j = random[i] * (i + 1) >> 64  # Python integers: the full 128-bit product
        result[i], result[j] = result[j], result[i]
    order[...] = result


_shuffle = shuffle  # for MLP.fit, which has an argument named shuffle


def dropout_mask(
    shape: tuple[int, int], p: float, seed: int, epoch: int, step: int, layer: int
) -> npt.NDArray[np.bool_]:
    """Return the mask of the elements that dropout keeps, with probability 1 - p each.

    The elements are divided row by row into blocks of 64. Block b uses the 16 counters
    (g, step) with g from 16 b to 16 b + 15, each of which gives four random words; the
    64-bit key is computed from (seed, epoch, layer). Element i of the block is kept if
    word i // 16 of the counter with g = 16 b + i % 16 is less than
    floor((1 - p) 2^32).
    """
    key = philox4x32(
        (layer & _MASK32, layer >> 32, epoch & _MASK32, _DROPOUT_STREAM),
        (seed & _MASK32, (seed >> 32) & _MASK32),
    )
    size = math.prod(shape)
    blocks = -(-size // 64)
    g = np.arange(16 * blocks, dtype=np.uint64)
    words = philox4x32(
        (g & np.uint64(_MASK32), g >> np.uint64(32), step & _MASK32, step >> 32),
        (int(key[0]), int(key[1])),
    )
    # Transpose (word, block, counter in the block) to (block, word, counter), which is
    # the order of the elements.
    by_element = np.stack(words).reshape(4, blocks, 16).transpose(1, 0, 2).ravel()
    kept = by_element < np.uint64(math.floor((1 - p) * 2**32))
    return np.asarray(kept[:size].reshape(shape))


def dropout(
    h: Array,
    mask: Array,
    x: Array,
    p: float,
    seed: int,
    epoch: int,
    step: int,
    layer: int,
    first: int = 0,
) -> None:
    """``mask = kept / (1 - p)`` and ``h = x mask``, with kept from `dropout_mask`.

    ``first`` is the index of the first element of x in the input of the whole layer.
    """
    kept = dropout_mask((1, first + x.size), p, seed, epoch, step, layer)[0, first:]
    mask[...] = np.where(kept, 1 / (1 - p), 0)
    h[...] = np.where(kept, x / (1 - p), 0)
