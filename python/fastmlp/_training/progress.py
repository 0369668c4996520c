"""The progress display of `fastmlp.MLP.fit` on standard error."""

from __future__ import annotations

import sys
import warnings
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from ..metrics import History

# Shortest time between two updates of the line without tqdm.
SECONDS_BETWEEN_UPDATES = 0.1


class Progress:
    """Base class of the displays; it shows nothing."""

    def update(self, history: History) -> None:
        """Show that another epoch has ended."""

    def close(self) -> None:
        """Finish the display."""


class _Lines(Progress):
    """A line for each epoch, for logs."""

    def __init__(self, stream: TextIO, epochs: int) -> None:
        self._stream = stream
        self._epochs = epochs
        self._start = perf_counter()

    def _text(self, history: History) -> str:
        numbers = _numbers(history).items()
        losses = "  ".join(f"{name} {value}" for name, value in numbers)
        epoch = f"epoch {len(history)}/{self._epochs}"
        left = self._time_left(len(history))
        return f"{epoch}  {losses}  {left}{history.seconds[-1]:.2f} s"

    def _time_left(self, done: int) -> str:
        """Return the time left at the mean speed so far."""
        seconds = (perf_counter() - self._start) / done * (self._epochs - done)
        return f"{duration(seconds)} left  "

    def update(self, history: History) -> None:
        self._stream.write(self._text(history) + "\n")
        self._stream.flush()


class _OneLine(_Lines):
    """One line that each update overwrites, if tqdm is not installed."""

    def __init__(self, stream: TextIO, epochs: int) -> None:
        super().__init__(stream, epochs)
        self._next = 0.0
        self._shown = self._latest = ""

    def update(self, history: History) -> None:
        self._latest = self._text(history)
        if perf_counter() >= self._next:
            self._show()
            self._next = perf_counter() + SECONDS_BETWEEN_UPDATES

    def _show(self) -> None:
        self._stream.write("\r" + self._latest.ljust(len(self._shown)))
        self._stream.flush()
        self._shown = self._latest

    def close(self) -> None:
        if self._latest != self._shown:
            self._show()
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()


class _Bar(Progress):
    """A tqdm progress bar."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def update(self, history: History) -> None:
        self._bar.set_postfix(_numbers(history), refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def duration(seconds: float) -> str:
    """Format a duration: in seconds below one minute, else as m:ss or h:mm:ss."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _numbers(history: History) -> dict[str, str]:
    """Return the latest losses and metrics by name, with four significant digits."""
    series = {"loss": history.loss, "val_loss": history.val_loss, **history.metrics}
    return {name: f"{values[-1]:.4g}" for name, values in series.items() if values}


def start(progress: bool | None, epochs: int) -> Progress:
    """Choose what to show for fit's argument ``progress``."""
    # A program without a console has no standard error at all.
    stream = sys.stderr
    if progress is False or stream is None or epochs == 0:
        return Progress()
    if not (stream.isatty() or in_notebook()):
        return _Lines(stream, epochs) if progress else Progress()
    try:
        with warnings.catch_warnings():
            # A notebook without ipywidgets has a bar of text; tqdm warns of that.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return _OneLine(stream, epochs)
    return _Bar(tqdm(total=epochs, unit="epoch", file=stream))


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook.

    Standard error is not a terminal there, but shows what is written at once.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
