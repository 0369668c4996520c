"""Pages of docs/ print what they say they print, to the last digit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, needs_source

pytestmark = needs_source


@pytest.mark.parametrize("page", ["numerics", "same_bits"])
def test_printed_outputs(
    page: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """same_bits.md has a hash that every machine must print."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / f"docs/{page}.md").read_text()
    pairs = re.findall(
        r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    assert len(pairs) == text.count("```python\n")
    names: dict[str, Any] = {}
    for code, printed in pairs:
        exec(code, names)
        assert capsys.readouterr().out == printed
