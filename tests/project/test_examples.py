"""Every example runs, shows what it claims, and saves a picture that is not empty."""

import os
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
TIMEOUT = 120  # seconds; examples promise a minute on an idle machine
# A picture has at least this many pixels a side, and this fraction that is drawn.
LEAST_SIDE, LEAST_DRAWN = 400, 0.02

image = pytest.importorskip("matplotlib.image", reason="examples draw with matplotlib")
pytest.importorskip("sklearn", reason="examples take data from scikit-learn")


@pytest.mark.parametrize("name", SCRIPTS)
def test_quick_run(name: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    done = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / f"{name}.py"),
            "--quick",
            "--check",
            "--output",
            str(picture),
        ],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert f"picture: {picture}" in done.stdout
    assert list(tmp_path.iterdir()) == [picture]

    pixels = image.imread(picture)[..., :3]
    assert min(pixels.shape[:2]) >= LEAST_SIDE
    assert np.mean((pixels < 1).any(axis=-1)) > LEAST_DRAWN
    # Every half of the picture shows something, not just one corner.
    for half in (*np.array_split(pixels, 2), *np.array_split(pixels, 2, axis=1)):
        assert np.ptp(half) > 0.5


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for option in ("--quick", "--check", "--output"):
        assert option in done.stdout


def test_every_example_is_described() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert SCRIPTS
    for name in SCRIPTS:
        assert f"`{name}.py`" in text, name
