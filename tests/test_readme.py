"""The README's Python runs as it stands, and what it lists is all there is."""

import re

import fastmlp as fm
import pytest
from conftest import ROOT, needs_source

pytestmark = needs_source
PATH = ROOT / "README.md"
README = PATH.read_text() if PATH.is_file() else ""
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_code_runs(capsys):
    assert len(BLOCKS) == 3
    exec("\n".join(BLOCKS[:2]), {})  # each goes on with the names of those before
    assert float(capsys.readouterr().out.split()[0]) < 0.01


def test_the_pictures_are_drawn(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the third block draws with matplotlib")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    exec("\n".join((BLOCKS[0], BLOCKS[2])), {})
    epoch, loss = capsys.readouterr().out.split()[-2:]
    assert int(epoch) < 450  # it did end early
    assert float(loss) < 0.4  # knowing nothing is 0.69
    for name in ("curves.png", "regions.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_images_are_there():
    for name in re.findall(r"!\[[^]]*\]\((.+?)\)", README):
        assert (ROOT / name).is_file(), name


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
