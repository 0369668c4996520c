"""The batches of an epoch: slices of arrays, or the items of an iterable."""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .types import Data


class ArrayBatches:
    """Batches cut from arrays, in the order in which the C++ core would take them."""

    def __init__(self, data: Data, batch_size: int, seed: int, shuffle: bool) -> None:
        self._data, self._batch_size = data, batch_size
        self._seed, self._shuffle = seed, shuffle

    def __call__(self, epoch: int, done: int) -> Iterator[Data]:
        """Return the batches of an epoch, without the first ``done`` batches."""
        x, y, weight = self._data
        order = np.arange(len(x))
        if self._shuffle:
            _core.kernels.shuffle(order, self._seed, epoch)
        for start in range(done * self._batch_size, len(x), self._batch_size):
            rows = order[start : start + self._batch_size]
            yield x[rows], y[rows], None if weight is None else weight[rows]


class StreamedBatches:
    """Batches from an iterable, or from a function that returns one for each epoch.

    Parameters
    ----------
    source : iterable or callable
        The argument ``x`` of fit.
    steps : int, optional
        Number of batches in an epoch. None means that an epoch takes all batches of the
        iterable.
    epochs : int
        Number of epochs.
    check : callable
        Function ``check(prefix, batch)`` that returns the checked batch and starts its
        error messages with ``prefix``.
    """

    def __init__(
        self,
        source: Any,
        steps: int | None,
        epochs: int,
        check: Callable[[str, object], Data],
    ) -> None:
        self._source, self._check, self.steps = source, check, steps
        self._used = 0
        self._iterator: Iterator[Any] | None = None
        self._takes_epoch = False
        if not hasattr(source, "__iter__") and callable(source):
            import inspect

            with contextlib.suppress(TypeError, ValueError):
                inspect.signature(source).bind(0)
                self._takes_epoch = True
        elif isinstance(source, (np.ndarray, str, bytes, dict)):
            raise TypeError(
                "y must hold real numbers, got None; y may be left out only if x is an "
                "iterable of batches (x, y) or a function that returns one, but x is "
                f"{_validate.describe(source)}"
            )
        else:
            try:
                iterator = iter(source)
            except TypeError:
                raise TypeError(
                    "x must be an array or, if y is left out, an iterable of batches "
                    "(x, y) or a function that returns one; "
                    f"got {_validate.describe(source)}"
                ) from None
            if iterator is source:
                self._iterator = iterator
        if self._iterator is not None and steps is None and epochs > 1:
            raise ValueError(
                f"x, {_validate.describe(source)}, can be iterated over only once, but "
                f"there are {epochs} epochs: give steps_per_epoch, or pass a function "
                "that returns a new iterable for each epoch"
            )

    def __call__(self, epoch: int, done: int) -> Iterator[Data]:
        """Return the checked batches of an epoch, without the first ``done`` batches.

        If the source is an iterator, these batches are not skipped, because the
        iterator is already where training stopped.
        """
        source = self._iterator
        if source is None:
            source = self._iterate(epoch)
            for _ in islice(source, done):
                pass
        steps = self.steps
        count = done
        for batch in islice(source, None if steps is None else steps - done):
            yield self._check(f"x, batch {count}: ", batch)
            count += 1
        self._used += count - done
        if count < (steps or 1):
            raise ValueError(self._exhausted(count))

    def _iterate(self, epoch: int) -> Iterator[Any]:
        made = self._source
        if not hasattr(made, "__iter__"):
            made = made(epoch) if self._takes_epoch else made()
        try:
            return iter(made)
        except TypeError:
            raise TypeError(
                f"x must return an iterable of batches, got {_validate.describe(made)}"
            ) from None

    def _exhausted(self, count: int) -> str:
        wanted = f" of {self.steps}" if self.steps else ""
        hint = ""
        if self._iterator is not None:
            hint = (
                f"; it had {self._used} batches in total. Pass a function that "
                "returns a new iterable for each epoch"
            )
        return f"x ended after {count}{wanted} batches of this epoch{hint}"
