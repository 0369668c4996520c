"""Progress within an epoch, stored in a checkpoint for a later fit to continue from."""

from __future__ import annotations

from typing import Any

from .. import _core

_FIELDS = ("steps", "total", "divisor")


class EpochCursor:
    """Progress within the current epoch.

    Parameters
    ----------
    of : list
        Number of steps in an epoch, number of rows in an epoch, and number of rows in a
        batch; None for those that are unknown.
    epoch : int
        Number of the epoch that ``state`` belongs to.
    state : dict, optional
        Progress within that epoch, as returned by the method `state` of another cursor.

    Raises
    ------
    ValueError
        If ``state`` is from an epoch with other numbers of steps, rows or rows per
        batch.
    """

    def __init__(
        self, of: list[int | None], epoch: int, state: dict[str, Any] | None = None
    ) -> None:
        self._of = of
        self._epoch, self._progress = -1, _core.EpochProgress()
        if state is None:
            return
        if state["of"] != of:
            stored, here = [
                f"{steps} steps ({rows} rows, batch_size {size})"
                for steps, rows, size in (state["of"], of)
            ]
            raise ValueError(
                f"the checkpoint was written during an epoch of {stored}, but an "
                f"epoch of this fit has {here}: continue with the same data and "
                "batch_size, or pass a seed to fit to start over"
            )
        self._epoch = epoch
        for name in _FIELDS:
            setattr(self._progress, name, state[name])

    def enter(self, epoch: int) -> _core.EpochProgress:
        """Return the object that holds this epoch's progress; each step updates it."""
        if self._epoch != epoch:
            self._epoch, self._progress = epoch, _core.EpochProgress()
        return self._progress

    def state(self, epoch: int) -> dict[str, Any] | None:
        """Return the progress within this epoch; None if the epoch has not begun."""
        if self._epoch != epoch:
            return None
        numbers = {name: getattr(self._progress, name) for name in _FIELDS}
        return {**numbers, "of": self._of}
