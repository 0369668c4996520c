"""Packages with thread pools of their own: any order of imports, the same bits."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from helpers import importing

# Work for each package that starts its threads.
USES = {
    "sklearn": (
        "from sklearn.ensemble import HistGradientBoostingRegressor as R; "
        "R(max_iter=3).fit(x, x[:, 0])"
    ),
    "torch": "t = torch.from_numpy(x); assert (t @ t.T).shape[0] == len(x)",
    "xgboost": "xgboost.XGBRegressor(n_estimators=3, n_jobs=2).fit(x, x[:, 0])",
    "lightgbm": (
        "lightgbm.LGBMRegressor(n_estimators=3, n_jobs=2, verbose=-1).fit(x, x[:, 0])"
    ),
}
INSTALLED = [name for name in USES if importlib.util.find_spec(name)]

FIRST = """
import numpy as np
x = np.random.default_rng(0).standard_normal((400, 33)).astype("float32")
"""
# Steps large enough for several threads.
TRAIN = """
fastmlp.set_num_threads(2)
from test_same_bits import BIG, assert_trains_in_threads, trained_hash
assert_trains_in_threads(BIG)
hashes.append(trained_hash(BIG, "float32", steps=3))
"""


def hashes(order: tuple[str, ...]) -> set[str]:
    """Import and use packages in an order, each again after all imports."""
    uses = {**USES, "fastmlp": TRAIN}
    lines = [FIRST, "hashes = []"]
    for name in order:
        lines += [f"import {name}", uses[name]]
    lines += [uses[name] for name in order]
    lines.append("print(*hashes)")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=importing(__file__),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def alone() -> set[str]:
    return hashes(("fastmlp",))


@pytest.mark.parametrize("name", USES)
def test_before_and_after_another_package(name: str, alone: set[str]) -> None:
    if name not in INSTALLED:
        pytest.skip(f"{name} is not installed")
    assert hashes(("fastmlp", name)) == hashes((name, "fastmlp")) == alone


def test_among_all_packages(alone: set[str]) -> None:
    middle = len(INSTALLED) // 2
    order = (*INSTALLED[:middle], "fastmlp", *INSTALLED[middle:])
    assert hashes(order) == alone
    assert hashes(order[::-1]) == alone
