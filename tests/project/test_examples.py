"""Every example runs, shows what it claims, and draws pictures that are not empty.

Some examples are commands with options; they run in a new process, and ``--check``
tests their claims. The others are plain scripts that assert their claims; they run in
this process.
"""

import argparse
import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, needs_source

pytestmark = needs_source
EXAMPLES = ROOT / "examples"
# Modules that several examples share have names that start with an underscore.
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("[!_]*.py"))
COMMANDS = [
    name for name in SCRIPTS if "def main(" in (EXAMPLES / f"{name}.py").read_text()
]
PLAIN = sorted(set(SCRIPTS) - set(COMMANDS))
# Options for a run of a few seconds.
QUICK = {"random_labels": ["--examples", "60", "--threads", "1"]}
TIMEOUT = 120  # seconds; examples promise a minute on an idle machine
# A picture has at least this many pixels a side, and this fraction that is drawn. One
# of several pictures in a plain script may be a row of small panels.
LEAST_SIDE, LEAST_ROW, LEAST_DRAWN = 400, 250, 0.02
LEAST_PROSE = 3  # cells with prose that a script has at least

image = pytest.importorskip("matplotlib.image", reason="examples draw with matplotlib")
pytest.importorskip("sklearn", reason="examples take data from scikit-learn")


def title(name: str) -> tuple[str, str]:
    """Return the title of a script and the line below it."""
    text = (EXAMPLES / f"{name}.py").read_text()
    first, second = (ast.get_docstring(ast.parse(text)) or "\n").split("\n")[:2]
    return first, second


def run(name: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without a window."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *options],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def check_picture(pixels: np.ndarray, least: int) -> None:
    """Check that a picture (height, width, RGB) shows something."""
    assert min(pixels.shape[:2]) >= least
    assert np.mean((pixels < 1).any(axis=-1)) > LEAST_DRAWN
    # Every half of the picture shows something, not just one corner.
    for half in (*np.array_split(pixels, 2), *np.array_split(pixels, 2, axis=1)):
        assert np.ptp(half) > 0.5


@pytest.mark.parametrize("name", COMMANDS)
def test_quick_run(name: str, tmp_path: Path) -> None:
    if name == "random_labels":
        pytest.importorskip("mnist1d", reason="the example takes data from mnist1d")
    picture = tmp_path / "picture.png"
    options = QUICK.get(name, ["--quick"])
    done = run(name, tmp_path, *options, "--check", "--output", str(picture))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert f"picture: {picture}" in done.stdout
    assert list(tmp_path.iterdir()) == [picture]
    check_picture(image.imread(picture)[..., :3], LEAST_SIDE)


@pytest.mark.parametrize("name", PLAIN)
def test_script(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    plt.close("all")
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.get_fignums()))
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        assert capsys.readouterr().out.strip()
        assert shown
        for number in shown:
            figure = plt.figure(number)
            figure.canvas.draw()
            pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255
            check_picture(pixels, LEAST_ROW)
    finally:
        plt.close("all")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, tmp_path: Path) -> None:
    if name == "random_labels":
        pytest.importorskip("mnist1d", reason="the example takes data from mnist1d")
    done = run(name, tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    for words in (title(name)[0], "--quick", "--check", "--output"):
        assert words in done.stdout


def test_a_claim_that_does_not_hold_is_an_error(tmp_path: Path) -> None:
    """Only with --check, and after the picture has been saved."""
    import matplotlib.pyplot as plt

    finish = runpy.run_path(str(EXAMPLES / "_command.py"))["finish"]
    figure = plt.figure()
    try:
        for check, problem in ((True, ""), (False, "2 > 1"), (True, "2 > 1")):
            picture = tmp_path / f"{check}{bool(problem)}.png"
            options = argparse.Namespace(output=picture, check=check)
            if check and problem:
                with pytest.raises(SystemExit, match="check failed: 2 > 1"):
                    finish(figure, options, problem)
            else:
                finish(figure, options, problem)
            assert picture.exists()
    finally:
        plt.close(figure)


def test_an_interrupted_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of random labels that is stopped and resumed gives the same numbers."""
    pytest.importorskip("mnist1d", reason="the example takes data from mnist1d")
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    monkeypatch.syspath_prepend(EXAMPLES)
    names = runpy.run_path(str(EXAMPLES / "random_labels.py"))
    # The generator of mnist1d takes seconds, and any inputs will do.
    x = np.random.default_rng(0).normal(size=(60, 40))
    names["main"].__globals__["make_dataset"] = lambda: {"x": x}
    results = {}
    for stops in ((150,), (50, 120, 150)):
        path = tmp_path / f"{len(stops)}.json"
        for epochs in stops:
            arguments = ["--examples", "60", "--epochs", str(epochs)]
            arguments += ["--json", str(path), "--output", str(tmp_path / "p.png")]
            names["main"](arguments)
            plt.close("all")
        results[len(stops)] = json.loads(path.read_text())["runs"]
    for depth in "1234":
        straight, resumed = results[1][depth], results[3][depth]
        assert straight["epochs"] == [0, 50, 100, 150]
        assert resumed["epochs"] == [0, 50, 100, 120, 150]
        assert straight["params"] == resumed["params"]
        for name in ("errors", "losses"):
            del resumed[name][3]
            assert straight[name] == resumed[name]
    with pytest.raises(SystemExit, match="has other settings"):
        names["main"](["--examples", "61", "--json", str(tmp_path / "1.json")])


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_a_page_of_the_gallery(name: str) -> None:
    """It has a title, cells with prose, and pictures that are shown."""
    text = (EXAMPLES / f"{name}.py").read_text()
    words, line = title(name)
    assert words
    assert line == "=" * len(words)
    assert len(re.findall(r"^# %%\n(?:# .+\n)", text, re.MULTILINE)) >= LEAST_PROSE
    assert "plt.show()" in text or "    finish(" in text
    # Matplotlib draws figures in a gallery if pyplot has made them.
    assert "matplotlib.figure" not in text


def test_every_example_is_described() -> None:
    text = (EXAMPLES / "README.rst").read_text()
    assert SCRIPTS
    assert set(re.findall(r"^``(\w+)\.py``$", text, re.MULTILINE)) == set(SCRIPTS)
