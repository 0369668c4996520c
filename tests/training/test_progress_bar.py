"""Progress of fit: in files, as lines, on a terminal, by tqdm."""

import sys
import types

import pytest
from fastmlp._training.progress import SECONDS_BETWEEN_UPDATES
from training_cases import data, fit, model


class Stream:
    """Standard error, as a terminal or not."""

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
    fit(model(), *data(), progress=progress)
    monkeypatch.setattr(sys, "stderr", None)
    fit(model(), *data(), progress=True)
    assert stream.text == ""


def test_progress_as_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Stream(tty=False))
    x, y = data()
    history = fit(model(), x, y, validation_data=(x, y), progress=True)
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
    history = fit(model(), *data(), epochs=40)
    shown = stream.text.split("\r")
    assert shown[0] == ""
    assert shown[1].startswith("epoch 1/40  loss ")
    assert shown[-1].startswith(f"epoch 40/40  loss {history.loss[-1]:.4g}  ")
    assert stream.text.endswith(" s\n")
    updates = sum(history.seconds) / SECONDS_BETWEEN_UPDATES
    assert len(shown) <= 3 + 2 * updates
    fit(model(), *data(), progress=False)
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
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    history = fit(model(), *data())
    numbers = [{"loss": f"{value:.4g}"} for value in history.loss]
    assert calls == [{"total": 3, "unit": "epoch", "file": stream}, *numbers, "closed"]

    # It is closed whatever happens.
    calls.clear()
    with pytest.raises(ZeroDivisionError):
        fit(model(), *data(), callbacks=[lambda m, h: 1 / 0])
    assert calls[-1] == "closed"
