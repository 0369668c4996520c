"""The progress display of fit: in files, as lines, on a terminal, with tqdm."""

import sys
import types

import pytest
from fastmlp._training import progress as progress_bar
from helpers import toy_data, toy_fit, toy_mlp

ROWS = 50


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


def test_progress_on_a_terminal_without_tqdm(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Stream(tty=True))
    monkeypatch.setitem(sys.modules, "tqdm", None)
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


def test_progress_by_tqdm(monkeypatch):
    calls = []

    class Bar:
        def __init__(self, **options):
            calls.append(options)

        def set_postfix(self, numbers, refresh):
            assert not refresh
            self.numbers = numbers

        def update(self):
            calls.append(self.numbers)

        def close(self):
            calls.append("closed")

    monkeypatch.setattr(sys, "stderr", stream := Stream(tty=True))
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(tqdm=Bar))
    history = toy_fit(toy_mlp(), *toy_data(ROWS))
    numbers = [{"loss": f"{value:.4g}"} for value in history.loss]
    assert calls == [{"total": 3, "unit": "epoch", "file": stream}, *numbers, "closed"]

    # The bar is closed even after an error.
    calls.clear()
    with pytest.raises(ZeroDivisionError):
        toy_fit(toy_mlp(), *toy_data(ROWS), callbacks=[lambda m, h: 1 / 0])
    assert calls[-1] == "closed"


@pytest.fixture
def notebook(monkeypatch):
    """Standard error in the kernel of a notebook, which is not a terminal."""
    shell = types.SimpleNamespace(kernel=object())
    module = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)
    return Stream(tty=False)


@pytest.mark.parametrize("progress", [None, True])
def test_progress_in_a_notebook(notebook, progress, monkeypatch):
    class Bar:
        def __init__(self, total, unit, file):
            file.write(f"bar of {total} {unit}s")

        def set_postfix(self, numbers, refresh):
            pass

        update = close = lambda self: None

    module = types.SimpleNamespace(tqdm=Bar)
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    monkeypatch.setattr(sys, "stderr", notebook)
    toy_fit(toy_mlp(), *toy_data(ROWS), progress=progress)
    assert notebook.text == "bar of 3 epochs"


def test_progress_in_a_notebook_without_tqdm(notebook, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (61, "1:01"), (3599.4, "59:59"), (3600, "1:00:00")],
)
def test_durations(seconds, text):
    assert progress_bar.duration(seconds) == text
