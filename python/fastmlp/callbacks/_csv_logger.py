"""A CSV log of the epochs of a training run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .. import _validate
from .._formats.atomic_write import file_name
from ..metrics import History
from ._base import Callback

if TYPE_CHECKING:
    from .._network.model import MLP


class CSVLogger(Callback):
    """Writes the history to a file of comma-separated values, a line for each epoch.

    The columns are epoch, loss, val_loss (if there are validation data), the metrics of
    the first epoch, and seconds. Numbers are written so that they read back exactly.
    Each line is in the file by the end of its epoch.

    Parameters
    ----------
    path : str or path-like
        File to write.
    append : bool
        Whether to continue an existing file, with its columns and its count of epochs;
        otherwise each fit overwrites it.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    # This callback is called after those that log metrics.
    _last = True

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = file_name(path)
        self.append = _validate.flag("append", append)
        self._columns: list[str] | None = None
        self._epoch = 0

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Create the file, or read its columns and its last epoch."""
        import csv

        self._columns, self._epoch = None, 0
        if self.append and os.path.exists(self.path):
            with open(self.path, newline="", encoding="utf-8") as file:
                text = file.read()
            # If the last line lacks only its newline, its epoch is treated as complete,
            # and the newline is written further down.
            whole = not text or text.endswith("\n")
            lines = list(csv.reader(text.splitlines()))
            if lines:
                self._columns = lines[0]
            if lines and lines[0][:1] != ["epoch"]:
                raise ValueError(
                    f"path: {self.path} is not a file that CSVLogger wrote: its first "
                    f"column must be named 'epoch', got {', '.join(lines[0])}"
                )
            if len(lines) > 1:
                try:
                    self._epoch = int(lines[-1][0])
                except (IndexError, ValueError):
                    raise ValueError(
                        f"path: the last line of {self.path} must begin with the "
                        f"number of an epoch, got {','.join(lines[-1])!r}"
                    ) from None
            if not whole:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write("\n")
            return
        with open(self.path, "w", encoding="utf-8"):
            pass

    def on_epoch_end(self, mlp: MLP, history: History) -> None:
        """Write a line."""
        import csv

        self._epoch += 1
        values: dict[str, float] = {"epoch": self._epoch, "loss": history.loss[-1]}
        if history.val_loss:
            values["val_loss"] = history.val_loss[-1]
        for name, series in history.metrics.items():
            if len(series) == len(history):
                values[name] = series[-1]
        values["seconds"] = history.seconds[-1]
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if self._columns is None:
                self._columns = list(values)
                writer.writerow(self._columns)
            writer.writerow(
                [repr(values[c]) if c in values else "" for c in self._columns]
            )

    def __repr__(self) -> str:
        return f"CSVLogger({self.path!r}, append={self.append!r})"
