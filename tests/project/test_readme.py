"""The README's Python code runs unchanged, and its lists are complete."""

import re

import fastmlp as fm
import pytest
from helpers import ROOT, needs_source, python_blocks

pytestmark = needs_source
PATH = ROOT / "README.md"
README = PATH.read_text() if PATH.is_file() else ""
BLOCKS = python_blocks(PATH)


def run(*numbers):
    """Run some blocks in order; each uses the names that earlier ones define."""
    names = {}
    exec("\n".join(BLOCKS[i] for i in numbers), names)
    return names


def test_the_code_runs(capsys):
    assert len(BLOCKS) == 3
    run(0, 1)
    assert float(capsys.readouterr().out.split()[0]) < 0.01


def test_the_pictures_are_drawn(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the last block draws with matplotlib")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    names = run(0, 2)
    printed = capsys.readouterr().out.split()[-2:]
    epoch, loss = int(printed[0]), float(printed[1])
    claimed = re.search(r"epoch (\d+), with a\svalidation loss of (\d\.\d+)", README)
    assert epoch == int(claimed[1])
    assert loss == pytest.approx(float(claimed[2]), abs=0.005)
    assert len(names["history"]) == epoch + 50
    for name in ("curves.png", "regions.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_a_network_without_regularisation_overfits(tmp_path, monkeypatch):
    """The validation loss that the README's text compares with."""
    pytest.importorskip("matplotlib", reason="the last block draws with matplotlib")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    names = run(0, 2)
    x, label = names["x"], names["label"]
    history = fm.MLP([2, 100, 100, 1], seed=0).fit(
        x[:100],
        label[:100],
        loss=fm.BinaryCrossEntropy(),
        optimizer=fm.AdamW(lr=3e-3, weight_decay=0),
        epochs=500,
        batch_size=20,
        validation_data=(x[100:], label[100:]),
    )
    claimed = float(re.search(r"it has a validation loss of (\d\.\d+)", README)[1])
    assert history.loss[-1] < 0.05
    assert history.val_loss[-1] == pytest.approx(claimed, abs=0.005)


def test_sections_do_not_depend_on_those_before(tmp_path, capsys, monkeypatch):
    """Read from the top, the last section prints what it prints after the first."""
    pytest.importorskip("matplotlib", reason="the last block draws with matplotlib")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    run(0, 2)
    alone = capsys.readouterr().out.splitlines()
    run(0, 1, 2)
    assert capsys.readouterr().out.splitlines() == alone
    for block in BLOCKS:
        used = re.search(r"\brng\b", block)
        assert not used or "rng = np.random.default_rng(" in block


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_lists_are_complete():
    rows = dict(re.findall(r"^\| (\w[\w ]*) \| (.+) \|$", README, re.MULTILINE))
    assert set(rows["activations"].split(";")[0].split(", ")) == set(fm.ACTIVATIONS)
    for kind, base in (
        ("losses", fm.losses.Loss),
        ("optimisers", fm.optimizers.Optimizer),
    ):
        classes = {
            name
            for name in fm.__all__
            if isinstance(getattr(fm, name), type)
            and issubclass(getattr(fm, name), base)
        }
        assert set(re.findall(r"`([A-Z]\w+)`", rows[kind])) == classes
    assert rows["initialisers"].split(", ") == list(fm.initializers.INITIALIZERS)
