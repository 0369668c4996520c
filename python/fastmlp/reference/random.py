"""Counter-based random numbers: shuffles and dropout masks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .arrays import Array

__all__ = [
    "dropout",
    "dropout_mask",
    "gaussian_noise",
    "normal_numbers",
    "philox4x32",
    "shuffle",
]

_MASK32 = 0xFFFFFFFF

_MASK64 = 0xFFFFFFFFFFFFFFFF

_SHUFFLE_STREAM = 0x53485546  # "SHUF"
_INITIALIZE_STREAM = 0x494E4954

_DROPOUT_STREAM = 0x44524F50  # "DROP"

_SELU_LIMIT = -1.7580993408473766  # of selu at -infinity


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


def _bits(seed: int, stream: int, group: int, n: int) -> npt.NDArray[np.uint64]:
    """Return ``n`` words of 64 random bits, which depend on (seed, group, index)."""
    draws = np.arange(n, dtype=np.uint64)
    words = philox4x32(
        (draws & np.uint64(_MASK32), draws >> np.uint64(32), group & _MASK32, stream),
        (seed & _MASK32, (seed >> 32) & _MASK32),
    )
    return np.asarray(words[0] | (words[1] << np.uint64(32)))


def from_minus_one_to_one(n: int) -> npt.NDArray[np.float64]:
    """Return ``n`` random numbers, the same in each call."""
    bits = _bits(0, _INITIALIZE_STREAM, 0, n)
    return np.asarray(2 * ((bits >> np.uint64(11)) * 2.0**-53) - 1)


def shuffle(order: npt.NDArray[np.int64], seed: int, epoch: int) -> None:
    """Write to ``order`` the permutation of 0..N-1 that (seed, epoch) determines.

    This is the Fisher-Yates shuffle, from the last element down: element i is swapped
    with element j <= i, where j is the high 64 bits of ``r * (i + 1)`` and the random
    64-bit word r depends only on (seed, epoch, i).
    """
    n = len(order)
    random = _bits(seed, _SHUFFLE_STREAM, epoch, n).tolist()
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

    An element is kept if its word of ``_words`` is less than floor((1 - p) 2^32).
    """
    size = math.prod(shape)
    words = _words(size, seed, epoch, step, layer).ravel()
    kept = words < np.uint64(math.floor((1 - p) * 2**32))
    return np.asarray(kept[:size].reshape(shape))


def _words(
    size: int, seed: int, epoch: int, step: int, layer: int
) -> npt.NDArray[np.uint64]:
    """Return random 32-bit words (blocks, 4, 16) for at least ``size`` elements.

    The elements are divided row by row into blocks of 64. Block b uses the 16 counters
    (g, step) with g from 16 b to 16 b + 15, each of which gives four random words; the
    64-bit key is computed from (seed, epoch, layer). Element i of the block has word
    i // 16 of the counter with g = 16 b + i % 16.
    """
    key = philox4x32(
        (layer & _MASK32, layer >> 32, epoch & _MASK32, _DROPOUT_STREAM),
        (seed & _MASK32, (seed >> 32) & _MASK32),
    )
    blocks = -(-size // 64)
    g = np.arange(16 * blocks, dtype=np.uint64)
    words = philox4x32(
        (g & np.uint64(_MASK32), g >> np.uint64(32), step & _MASK32, step >> 32),
        (int(key[0]), int(key[1])),
    )
    # Transpose (word, block, counter in the block) to (block, word, counter), which is
    # the order of the elements.
    return np.stack(words).reshape(4, blocks, 16).transpose(1, 0, 2)


def normal_numbers(
    size: int,
    seed: int,
    epoch: int,
    step: int,
    layer: int,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """Return standard normal numbers for ``size`` elements (Box & Muller [15]).

    The words v and w of two elements, in the order of ``_words``, are used together.
    The numbers are ``r cos(t)`` and ``r sin(t)`` with ``r = sqrt(-2 log(u))``, where u
    is v // 2 on a scale from 0 to 1, and t is w as a signed number on a scale from -pi
    to pi. In both dtypes u and w are rounded to float32, so that the results agree.
    """
    words = _words(size, seed, epoch, step, layer).astype(np.uint32)
    v, w = words[:, 0::2], words[:, 1::2].astype(np.int32)
    halves = (v >> np.uint32(1)).astype(np.int32).astype(np.float32)
    u = (halves + np.float32(0.5)) * np.float32(2.0**-31)
    r = np.sqrt(-2 * np.log(u.astype(dtype)))
    scale = np.asarray(math.pi * 2.0**-31, dtype)
    t = w.astype(np.float32).astype(dtype) * scale
    pairs = np.stack([r * np.cos(t), r * np.sin(t)], axis=2)
    return np.asarray(pairs.ravel()[:size])


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
    alpha: bool = False,
) -> None:
    """``mask = kept / (1 - p)`` and ``h = x mask``, with kept from `dropout_mask`.

    With ``alpha`` (alpha dropout [3]), ``mask = a kept`` and ``h = a y + b`` for y = x
    if kept, else alpha'.

    ``first`` is the index of the first element of x in the input of the whole layer.
    """
    kept = dropout_mask((1, first + x.size), p, seed, epoch, step, layer)[0, first:]
    a, b, dropped = 1 / (1 - p), 0.0, 0.0
    if alpha:
        a = 1 / math.sqrt((1 - p) * (1 + p * _SELU_LIMIT**2))
        b = -a * _SELU_LIMIT * p
        dropped = a * _SELU_LIMIT + b
    mask[...] = np.where(kept, a, 0)
    h[...] = np.where(kept, a * x + b, dropped)


def gaussian_noise(
    h: Array,
    factors: Array | None,
    x: Array,
    deviation: float,
    seed: int,
    epoch: int,
    step: int,
    layer: int,
    first: int = 0,
) -> None:
    """``h = x + deviation z`` with z from `normal_numbers`.

    If factors are given, ``factors = 1 + deviation z`` and ``h = x factors``. ``first``
    is as for `dropout`.
    """
    draw = (seed, epoch, step, layer)
    z = normal_numbers(first + x.size, *draw, dtype=x.dtype)[first:]
    if factors is None:
        h[...] = x + deviation * z
        return
    factors[...] = 1 + deviation * z
    h[...] = x * factors
