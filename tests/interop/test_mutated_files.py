"""Files changed at random; ``.ci/fuzz`` takes a million, and others by coverage."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz_files import Reader, at_random, changed, seeds

FILES = 400


def test_changed_files_are_models_or_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a file at fault is kept there
    reader = at_random(tmp_path, FILES, seconds=1e9, seed=20)
    # The hash is right in most files, so that some are still valid.
    assert 0 < reader.loaded < FILES / 2


def test_the_limits_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = seeds(tmp_path)[0]
    assert changed(content, random.Random(1)) != content
    reader = Reader(tmp_path)
    monkeypatch.setattr("fuzz_files.MOST_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match=r"^the file took"):
        reader(content)
