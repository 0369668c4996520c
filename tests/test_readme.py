"""The README's Python runs as it stands, and what it lists is all there is."""

import re
from pathlib import Path

import fastmlp as fm

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_code_runs(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), {})  # the second goes on with the first's names
    assert float(capsys.readouterr().out.split()[0]) < 0.01


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
