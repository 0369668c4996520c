"""The progress display of `fastmlp.MLP.fit` on standard error.

An epoch may take a few microseconds, so a display only reads the clock at the end of
most epochs, and updates at intervals.
"""

from __future__ import annotations

import os
import sys
import warnings
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO

from .._display.times import clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from ..metrics import History

# Shortest time between two updates in a terminal or notebook.
SECONDS_BETWEEN_UPDATES = 0.1

# In files, each of the first epochs has a line. Later, the shortest time between two
# lines is a part of the time since the start, within limits in seconds. An hour has
# some 120 lines, and ten hours have some 700.
FIRST_LINES = 10
PART, SHORTEST, LONGEST = 0.05, 1.0, 60.0

NEVER = float("inf")
NO_SIZE = (0, 0)


class Progress:
    """A display, which is a context for the epochs; this one shows nothing.

    A display that fails is given up: the end of a terminal, or of a program at the
    other end of a pipe, does not end the training.
    """

    # Time of the next update, as perf_counter measures it.
    _next = NEVER
    _given_up = False

    def update(self) -> None:
        """Note that another epoch has ended; show it if enough time has passed."""
        if perf_counter() >= self._next:
            self._attempt(self._show)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the last epochs, and finish the display."""
        self._attempt(self._finish, kind is None)

    def _attempt(self, call: Callable[..., None], *args: bool) -> None:
        if self._given_up:
            return
        try:
            call(*args)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._given_up, self._next = True, NEVER

    def _show(self) -> None:
        """Show the epochs, and set the time of the next update."""

    def _finish(self, complete: bool) -> None:
        """Finish the display; ``complete`` is False after an error."""


class _Lines(Progress):
    """Lines for files and logs."""

    def __init__(self, stream: TextIO, epochs: int, history: History) -> None:
        self._stream, self._epochs, self._history = stream, epochs, history
        self._start = perf_counter()
        self._next = self._start
        self._shown = 0

    def _text(self) -> str:
        history = self._history
        numbers = _numbers(history).items()
        losses = "  ".join(f"{name} {value}" for name, value in numbers)
        epoch = f"epoch {len(history)}/{self._epochs}"
        left = self._time_left(len(history))
        return f"{epoch}  {losses}  {left}{history.seconds[-1]:.2f} s"

    def _time_left(self, done: int) -> str:
        """Return the time left at the mean speed so far."""
        seconds = (perf_counter() - self._start) / done * (self._epochs - done)
        return f"{duration(seconds)} left  "

    def _show(self) -> None:
        self._write(self._text() + "\n")
        self._shown = len(self._history)
        if self._shown >= FIRST_LINES:
            now = perf_counter()
            wait = PART * (now - self._start)
            self._next = now + min(max(wait, SHORTEST), LONGEST)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _finish(self, complete: bool) -> None:
        if len(self._history) > self._shown:
            self._show()


class _OneLine(_Lines):
    """One line that each update overwrites, if tqdm is not installed."""

    _length = 0

    def _show(self) -> None:
        text = self._text()
        # A longer line would be continued in the next one, and could not be
        # overwritten.
        width, _ = size(self._stream) or NO_SIZE
        if width and len(text) >= width:
            text = text[: width - 1]
        self._write("\r" + text.ljust(self._length))
        self._length = len(text)
        self._shown = len(self._history)
        self._next = perf_counter() + SECONDS_BETWEEN_UPDATES

    def _finish(self, complete: bool) -> None:
        super()._finish(complete)
        if self._shown:
            self._write("\n")


class _Bar(Progress):
    """A tqdm progress bar."""

    _next = 0.0

    def __init__(self, bar: Any, history: History) -> None:
        self._bar, self._history = bar, history
        self._shown = 0

    def _show(self) -> None:
        self._bar.set_postfix(_numbers(self._history), refresh=False)
        done = len(self._history)
        self._bar.update(done - self._shown)
        self._shown = done
        self._next = perf_counter() + SECONDS_BETWEEN_UPDATES

    def _finish(self, complete: bool) -> None:
        if len(self._history) > self._shown:
            self._show()
        if complete and self._shown < self._bar.total:
            # Notebooks show a bar that is not full in red, as if there were an error.
            self._bar.set_description("ended early", refresh=False)
            self._bar.total = self._shown
            self._bar.refresh()
        self._bar.close()


def duration(seconds: float) -> str:
    """Format a duration: in seconds below one minute, else as m:ss or h:mm:ss."""
    return f"{seconds:.0f} s" if round(seconds) < 60 else clock(seconds)


def size(stream: TextIO) -> tuple[int, int] | None:
    """Return width and height of a terminal; None for other streams.

    They are 0 in a pseudo-terminal without a size, such as that of a container.
    """
    try:
        return os.get_terminal_size(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None


def _numbers(history: History) -> dict[str, str]:
    """Return the latest losses and metrics by name, with four significant digits."""
    series = {"loss": history.loss, "val_loss": history.val_loss, **history.metrics}
    return {name: f"{values[-1]:.4g}" for name, values in series.items() if values}


def start(progress: bool | None, epochs: int, history: History) -> Progress:
    """Choose what to show for fit's argument ``progress``."""
    # A program without a console has no standard error at all.
    stream = sys.stderr
    if progress is False or stream is None or epochs == 0:
        return Progress()
    if not (_is_terminal(stream) or in_notebook()):
        return _Lines(stream, epochs, history) if progress else Progress()
    try:
        with warnings.catch_warnings():
            # A notebook without ipywidgets has a bar of text; tqdm warns of that.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return _OneLine(stream, epochs, history)
    # Our own clock decides when the bar is updated; tqdm then always draws it.
    how = {"miniters": 1, "mininterval": 0}
    if 0 in (size(stream) or ()):  # tqdm would show nothing
        how |= {"ncols": 79, "nrows": 24}
    else:
        how |= {"dynamic_ncols": True}
    return _Bar(tqdm(total=epochs, unit="epoch", file=stream, **how), history)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # an object in its place; it is closed
        return False


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook.

    Standard error is not a terminal there, but shows what is written at once.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
