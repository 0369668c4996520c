"""The progress display of fit: in files, as lines, on a terminal, with tqdm."""

import os
import select
import sys
import types
from typing import ClassVar

import fastmlp as fm
import numpy as np
import pytest
from fastmlp._training import progress as progress_bar
from helpers import toy_data, toy_fit, toy_mlp

ROWS = 50
PATIENCE = 10.0  # seconds for text that is under way


class Stream:
    """A replacement for standard error that may be a terminal."""

    def __init__(self, tty):
        self.tty = tty
        self.text = ""

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.fixture
def no_tqdm(monkeypatch):
    """The package tqdm is not installed."""
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("progress", [None, False])
def test_no_progress_in_files(progress, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Stream(tty=False))
    toy_fit(toy_mlp(), *toy_data(ROWS), progress=progress)
    monkeypatch.setattr(sys, "stderr", None)
    toy_fit(toy_mlp(), *toy_data(ROWS), progress=True)
    assert stream.text == ""


def test_progress_as_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Stream(tty=False))
    x, y = toy_data(ROWS)
    history = toy_fit(toy_mlp(), x, y, validation_data=(x, y), progress=True)
    lines = stream.text.splitlines()
    assert len(lines) == 3
    for i, line in enumerate(lines):
        loss, val_loss = history.loss[i], history.val_loss[i]
        wanted = f"epoch {i + 1}/3  loss {loss:.4g}  val_loss {val_loss:.4g}  "
        assert line.startswith(wanted)
        assert line.endswith(" s")


@pytest.mark.usefixtures("no_tqdm")
def test_progress_on_a_terminal_without_tqdm(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Stream(tty=True))
    history = toy_fit(toy_mlp(), *toy_data(ROWS), epochs=40)
    shown = stream.text.split("\r")
    assert shown[0] == ""
    assert shown[1].startswith("epoch 1/40  loss ")
    assert shown[-1].startswith(f"epoch 40/40  loss {history.loss[-1]:.4g}  ")
    assert stream.text.endswith(" s\n")
    updates = sum(history.seconds) / progress_bar.SECONDS_BETWEEN_UPDATES
    assert len(shown) <= 3 + 2 * updates
    toy_fit(toy_mlp(), *toy_data(ROWS), progress=False)
    assert stream.text.endswith(" s\n")


class Bar:
    """A replacement for tqdm's bar that writes down its calls."""

    calls: ClassVar[list] = []

    def __init__(self, **options):
        self.calls.append(options)
        self.total, self.n, self.text = options["total"], 0, ""

    def set_postfix(self, numbers, refresh):
        assert not refresh
        self.numbers = numbers

    def set_description(self, text, refresh):
        assert not refresh
        self.text = text

    def update(self, n):
        self.n += n
        self.calls.append((self.n, self.numbers))

    def refresh(self):
        self.calls.append((self.text, self.n, self.total))

    def close(self):
        self.calls.append("closed")


@pytest.fixture
def bar(monkeypatch):
    """The calls of tqdm's bar."""
    monkeypatch.setattr(Bar, "calls", [])
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(tqdm=Bar))
    return Bar.calls


def test_progress_by_tqdm(bar, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Stream(tty=True))
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_UPDATES", 0.0)
    history = toy_fit(toy_mlp(), *toy_data(ROWS))
    first, *shown = bar
    assert (first["total"], first["unit"], first["file"]) == (3, "epoch", stream)
    numbers = [{"loss": f"{value:.4g}"} for value in history.loss]
    assert shown == [*enumerate(numbers, 1), "closed"]


def test_a_bar_is_updated_at_intervals(bar, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream(tty=True))
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_UPDATES", 1e9)
    history = toy_fit(toy_mlp(), *toy_data(ROWS), epochs=50)
    ends = [history.loss[0], history.loss[-1]]
    numbers = [{"loss": f"{value:.4g}"} for value in ends]
    assert bar[1:] == [(1, numbers[0]), (50, numbers[1]), "closed"]


def test_a_bar_is_closed_after_an_error(bar, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream(tty=True))
    with pytest.raises(ZeroDivisionError):
        toy_fit(toy_mlp(), *toy_data(ROWS), callbacks=[lambda m, h: 1 / 0])
    # The bar remains as it was when the error occurred.
    assert bar[-2][0] == 1
    assert bar[-1] == "closed"


class StopAtOnce(fm.Callback):
    def on_batch_end(self, mlp, history, step, loss):
        return len(history) == 2


@pytest.mark.parametrize("stop", [lambda m, h: len(h) == 2, StopAtOnce()])
def test_a_bar_of_a_fit_that_stops_early_is_full(stop, bar, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream(tty=True))
    toy_fit(toy_mlp(), *toy_data(ROWS), epochs=9, callbacks=[stop])
    assert bar[-2:] == [("ended early", 2, 2), "closed"]


def test_the_bar_of_tqdm_itself(monkeypatch):
    pytest.importorskip("tqdm", reason="its bar is tested")
    monkeypatch.setattr(sys, "stderr", stream := Stream(tty=True))
    x, y = toy_data(ROWS)
    history = toy_fit(toy_mlp(), x, y, epochs=30, validation_data=(x, y))
    last = stream.text.split("\r")[-1]
    assert "100%" in last
    assert "30/30" in last
    assert f"loss={history.loss[-1]:.4g}" in last
    assert f"val_loss={history.val_loss[-1]:.4g}" in last


@pytest.fixture
def notebook(monkeypatch):
    """Standard error in the kernel of a notebook, which is not a terminal."""
    shell = types.SimpleNamespace(kernel=object())
    module = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)
    return Stream(tty=False)


@pytest.mark.parametrize("progress", [None, True])
def test_progress_in_a_notebook(notebook, bar, progress, monkeypatch):
    monkeypatch.setattr(sys, "stderr", notebook)
    toy_fit(toy_mlp(), *toy_data(ROWS), progress=progress)
    assert bar[0]["total"] == 3
    assert bar[-1] == "closed"
    assert notebook.text == ""


@pytest.mark.usefixtures("no_tqdm")
def test_progress_in_a_notebook_without_tqdm(notebook, monkeypatch):
    monkeypatch.setattr(sys, "stderr", notebook)
    toy_fit(toy_mlp(), *toy_data(ROWS), epochs=200)
    # One line, written again at intervals.
    assert notebook.text.count("\n") == 1
    assert notebook.text.startswith("\repoch 1/200  loss ")


def test_ipython_in_a_terminal_is_not_a_notebook(notebook, monkeypatch):
    shell = types.SimpleNamespace()
    module = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setattr(sys, "stderr", notebook)
    toy_fit(toy_mlp(), *toy_data(ROWS))
    assert notebook.text == ""


def test_progress_shows_metrics_and_time_left(capsys):
    x, y = toy_data(ROWS)
    history = toy_fit(
        toy_mlp(), x, y, validation_data=(x, y), metrics=["r2"], progress=True
    )
    line = capsys.readouterr().err.splitlines()[0]
    assert f"val_r2 {history.metrics['val_r2'][0]:.4g}  " in line
    assert " left  " in line


def test_lines_of_many_epochs_come_at_intervals(monkeypatch):
    times = iter(range(10**6))
    monkeypatch.setattr(progress_bar, "perf_counter", lambda: next(times) / 100)
    monkeypatch.setattr(sys, "stderr", stream := Stream(tty=False))
    bar = progress_bar.start(True, 100_000, history := fm.History())
    at = {}
    with bar:
        for i in range(100_000):
            history.loss.append(1.0)
            history.seconds.append(0.01)
            count = stream.text.count("\n")
            bar.update()
            if stream.text.count("\n") > count:
                at[i + 1] = next(times) / 100
    first = list(range(1, progress_bar.FIRST_LINES + 1))
    assert list(at)[: len(first)] == first
    waits = np.diff(list(at.values()))[len(first) :]
    assert waits.min() >= progress_bar.SHORTEST
    # The interval grows, up to its limit, and the last epoch is shown at the end.
    assert progress_bar.LONGEST / 3 < waits.max() < 1.1 * progress_bar.LONGEST
    assert len(at) < 150
    lines = stream.text.splitlines()
    assert len(lines) == len(at) + 1
    assert lines[-1].startswith("epoch 100000/100000  loss 1  0 s left  ")


@pytest.mark.usefixtures("no_tqdm")
def test_lines_do_not_exceed_the_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Stream(tty=True))
    monkeypatch.setattr(progress_bar, "size", lambda stream: (20, 5))
    x, y = toy_data(ROWS)
    toy_fit(toy_mlp(), x, y, validation_data=(x, y), metrics=["r2"])
    lines = stream.text.strip("\r\n").split("\r")
    assert {len(line) for line in lines} == {19}
    assert lines[-1].startswith("epoch 3/3  loss ")


@pytest.fixture
def terminal():
    """Both ends of a pseudo-terminal: a file to read, and a stream."""
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as reader, os.fdopen(theirs, "w") as stream:
        yield reader, stream


def test_the_size_of_a_terminal(terminal):
    termios = pytest.importorskip("termios", reason="Windows has no pseudo-terminals")
    _, stream = terminal
    assert progress_bar.size(stream) == progress_bar.NO_SIZE
    termios.tcsetwinsize(stream.fileno(), (25, 77))
    assert progress_bar.size(stream) == (77, 25)
    assert progress_bar.size(Stream(tty=True)) is None


@pytest.mark.parametrize("tqdm", [False, True])
def test_terminals_without_a_size(tqdm, terminal, monkeypatch, request):
    if tqdm:
        pytest.importorskip("tqdm", reason="its bar is tested")
    else:
        request.getfixturevalue("no_tqdm")
    reader, stream = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    history = toy_fit(toy_mlp(), *toy_data(ROWS))
    stream.flush()
    # A terminal hands its text on in parts.
    wanted, text = ("3/3", f"{history.loss[-1]:.4g}"), ""
    while not all(words in text for words in wanted):
        assert select.select([reader], [], [], PATIENCE)[0], text
        text += reader.read(10_000).decode()


class Broken(Stream):
    """Standard error whose other end is gone after a line."""

    def __init__(self, tty, error):
        super().__init__(tty)
        self.error = error
        self.tries = 0

    def write(self, text):
        self.tries += 1
        if self.tries > 1:
            raise self.error
        super().write(text)


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("closed file")])
@pytest.mark.usefixtures("no_tqdm")
def test_a_broken_display_does_not_end_the_training(tty, error, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Broken(tty, error))
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_UPDATES", 0.0)
    history = toy_fit(toy_mlp(), *toy_data(ROWS), progress=True)
    assert len(history) == 3
    assert stream.tries == 2


@pytest.mark.parametrize("progress", [None, True])
def test_streams_without_isatty(progress, monkeypatch):
    lines = []
    plain = types.SimpleNamespace(write=lines.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stderr", plain)
    toy_fit(toy_mlp(), *toy_data(ROWS), progress=progress)
    assert len(lines) == (3 if progress else 0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (61, "1:01")),
        *((3599.4, "59:59"), (3599.6, "1:00:00"), (3600, "1:00:00")),
    ],
)
def test_durations(seconds, text):
    assert progress_bar.duration(seconds) == text
