"""Values that no argument should crash on, and random choices among them."""

from __future__ import annotations

import decimal
import fractions
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Values of every type that a caller might pass by mistake. Sizes are either small or so
# large that no memory can hold them.
SCALARS: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**31,
    2**40,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    -(10**5000),
    0.5,
    -0.5,
    float("nan"),
    float("inf"),
    -float("inf"),
    1e308,
    1e-320,
    1j,
    "",
    "text",
    "0.5",
    "\0",
    "\ud800",
    "é" * 500,
    b"bytes",
    object(),
    (),
    [],
    {},
    {"a": 1},
    [1, 2],
    [0.5, "x"],
    [[1], [1, 2]],
    [None],
    {1, 2},
    range(3),
    slice(1),
    ...,
    NotImplemented,
    int,
    len,
    lambda *args: None,
    fractions.Fraction(10**400),
    fractions.Fraction(1, 3),
    decimal.Decimal("NaN"),
    decimal.Decimal("1e400"),
    np.float16(0.1),
    np.float32("nan"),
    np.longdouble(2) ** 5000,
    np.int64(-3),
    np.uint64(2**64 - 1),
    np.bool_(True),
    np.str_("relu"),
    np.datetime64("NaT"),
    np.timedelta64(3, "s"),
    np.complex64(1),
    np.array(1.0),
    np.array(None),
    np.array("x"),
    np.array(2**63, np.uint64),
    np.ma.masked,
    np.dtype("f4"),
    np.float32,
    memoryview(b"abc"),
    memoryview(np.zeros((2, 3))),
    bytearray(8),
    iter([1, 2]),
    (i for i in "ab"),
    Exception("text"),
]


def unaligned(shape: tuple[int, ...], dtype: type) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = np.frombuffer(bytearray(size + 1), np.uint8)[1:].view(dtype)
    return array.reshape(shape)


def arrays(rng: np.random.Generator, shape: tuple[int, ...]) -> list[Any]:
    """Return arrays of about this shape, of many dtypes, layouts and contents."""
    x = rng.standard_normal(shape)
    with np.errstate(all="ignore"):
        result: list[Any] = [x.astype(kind) for kind in "?bBhHiIlLqQefdgFDGmMO"]
        result += [
            x.astype("S8"),
            x.astype("U8"),
            x.astype(">f4"),
            np.asfortranarray(x),
            x[..., ::-1],
            np.repeat(x, 2, axis=-1)[..., ::2],
            np.broadcast_to(np.float32(1), shape),
            x * np.nan,
            x * 1e308,
            x * np.inf,
            x * 0 - 0.0,
            np.zeros((*shape, 1)),
            np.zeros((*shape[:-1], 0)),
            np.zeros((0, *shape[1:])),
            np.zeros(shape[:-1]),
            np.zeros((3, *shape)),
            np.zeros(()),
            unaligned(shape, np.float32),
            np.ma.masked_array(x, x > 0),
            np.ma.masked_array(x, False),
            np.zeros(shape, [("a", "f4"), ("b", "i4")]),
            np.matrix(np.ones((2, 3))),
            x.tolist(),
            x.astype(object).tolist(),
            [str(v) for v in x.ravel()],
            memoryview(np.ascontiguousarray(x)),
            (x, x),
        ]
    locked = x.astype("f")
    locked.flags.writeable = False
    result.append(locked)
    return result


class Draw:
    """Random arguments: usually one that fits, sometimes a hostile one."""

    def __init__(self, rng: np.random.Generator, share: float) -> None:
        self.rng, self.share = rng, share

    def hostile(self) -> bool:
        """Tell whether the next argument is to be hostile."""
        return bool(self.rng.random() < self.share)

    def one(self, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def __call__(self, *good: Any) -> Any:
        """Return one of the good values, or any other scalar."""
        return self.one(SCALARS) if self.hostile() else self.one(good)

    def array(self, *shape: int, low: float | None = None) -> Any:
        """Return an array of this shape, or something else.

        With ``low`` it holds numbers from ``low`` to 1.
        """
        if self.hostile():
            return self.one([*arrays(self.rng, shape), self.one(SCALARS)])
        if low is not None:
            return self.rng.uniform(low, 1, shape)
        dtype = self.one([np.float32, np.float64])
        return self.rng.standard_normal(shape).astype(dtype)

    def labels(self, rows: int, classes: int) -> Any:
        """Return labels of classes, or something else."""
        if self.hostile():
            return self.one([*arrays(self.rng, (rows,)), self.one(SCALARS)])
        return self.rng.integers(0, classes, rows)

    def options(self, **makers: Callable[[], Any]) -> dict[str, Any]:
        """Return some of these keyword arguments."""
        return {name: f() for name, f in makers.items() if self.rng.random() < 0.4}
