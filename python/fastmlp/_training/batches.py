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


def _with_rows(batches: Iterator[Any]) -> Iterator[Any]:
    """Return the batches that are not known to have no rows."""
    for batch in batches:
        x = batch[0] if isinstance(batch, (tuple, list)) and batch else None
        shape = getattr(x, "shape", None)
        if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != 0:
            yield batch


class StreamedBatches:
    """Batches from an iterable, or from a function that returns one for each epoch.

    Parameters
    ----------
    source : iterable or callable
        The argument ``x`` of fit, or another one.
    steps : int, optional
        Number of batches in an epoch. None means that an epoch takes all batches of the
        iterable.
    epochs : int
        Number of epochs.
    check : callable
        Function ``check(prefix, batch)`` that returns the checked batch and starts its
        error messages with ``prefix``.
    name : str
        Name of the argument, for error messages.

    Notes
    -----
    Batches without rows are skipped, as if they were not there.
    """

    def __init__(
        self,
        source: Any,
        steps: int | None,
        epochs: int,
        check: Callable[[str, object], Data],
        name: str = "x",
    ) -> None:
        self._source, self._check, self.steps = source, check, steps
        self._name = name
        self._used = 0
        self._iterator: Iterator[Any] | None = None
        self._takes_epoch = False
        if not hasattr(source, "__iter__") and callable(source):
            import inspect

            with contextlib.suppress(TypeError, ValueError):
                inspect.signature(source).bind(0)
                self._takes_epoch = True
        elif isinstance(source, (np.ndarray, str, bytes, dict)):
            if name != "x":
                raise TypeError(f"{self._wanted()}, got {_validate.describe(source)}")
            raise TypeError(
                "y must hold real numbers, got None; y may be left out only if x is an "
                "iterable of batches (x, y) or a function that returns one, but x is "
                f"{_validate.describe(source)}"
            )
        else:
            iterator = _validate.iterator(self._wanted(), source)
            if iterator is source:
                self._iterator = iterator
        if self._iterator is not None and steps is None and epochs > 1:
            instead = "give steps_per_epoch" if name == "x" else "pass a list"
            raise ValueError(
                f"{name}, {_validate.describe(source)}, can be iterated over only "
                f"once, but there are {epochs} epochs: {instead}, or pass a function "
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
            for _ in islice(_with_rows(source), done):
                pass
        steps = self.steps
        count = done
        rest = None if steps is None else steps - done
        for batch in islice(_with_rows(source), rest):
            yield self._check(f"{self._name}, batch {count}: ", batch)
            count += 1
        self._used += count - done
        if count < (steps or 1):
            raise ValueError(self._exhausted(count))

    def first(self) -> Iterator[Data]:
        """Return checked batches before training: all of a list, or else the first.

        None are taken from an iterator or a function, which may have no second ones.
        """
        if isinstance(self._source, list):
            yield from self(0, 0)
        elif self._iterator is None and hasattr(self._source, "__iter__"):
            yield from islice(self(0, 0), 1)

    def _wanted(self) -> str:
        kinds = "an array or, if y is left out,"
        if self._name != "x":
            kinds = "(x, y) or (x, y, sample_weight), or"
        batches = "an iterable of batches (x, y) or a function that returns one"
        return f"{self._name} must be {kinds} {batches}"

    def _iterate(self, epoch: int) -> Iterator[Any]:
        made = self._source
        if not hasattr(made, "__iter__"):
            made = made(epoch) if self._takes_epoch else made()
        wanted = f"{self._name} must return an iterable of batches"
        return _validate.iterator(wanted, made)

    def _exhausted(self, count: int) -> str:
        wanted = f" of {self.steps}" if self.steps else ""
        hint = ""
        if self._iterator is not None:
            hint = (
                f"; it had {self._used} batches in total. Pass a function that "
                "returns a new iterable for each epoch"
            )
        return f"{self._name} ended after {count}{wanted} batches of this epoch{hint}"
