"""Benchmarks run: short runs, whose times do not matter."""

import json
import re
import subprocess
import sys
from pathlib import Path

import fastmlp as fm
import pytest
from helpers import ROOT, needs_source

pytestmark = [
    needs_source,
    pytest.mark.skipif(sys.platform == "win32", reason="processes are stopped"),
]
pytest.importorskip("threadpoolctl", reason="NumPy's threads are limited")

SHORT = ("--threads", "1", "--rounds", "1", "--seconds", "0.001", "--peers", "numpy")
DTYPES = ("float32", "float64")


def bench(script: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / script, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_peers_in_both_dtypes_and_from_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    out = bench(
        "peers.py",
        *("--workloads", "rl-tiny", "--dtype", *DTYPES, *SHORT, "--json", path),
    )
    content = json.loads(path.read_text())
    assert [row["dtype"] for row in content["rows"]] == ["float32"] * 3 + [
        "float64"
    ] * 3
    for row in content["rows"]:
        assert row["rivals"]["fastmlp"]["verdict"] == "timed"
        assert row["mode"] == "train" or row["speed_up"] > 0
    caches = content["machine"]["caches"]
    assert f"L1d {caches['l1d'][0] // 1024} KiB" in out
    again = bench("peers.py", "--from", path)
    for dtype in DTYPES:
        assert f"\n1 thread, {dtype}\n" in out
        assert f"\n1 thread, {dtype}\n" in again

    # Files from before there were dtypes and caches.
    for key in [key for key in content if key.endswith("_float64")]:
        del content[key]
    del content["machine"]["caches"], content["machine"]["isa"]
    content["rows"] = content["rows"][:3]
    for row in content["rows"]:
        del row["dtype"]
    path.write_text(json.dumps(content))
    old = bench("peers.py", "--from", path)
    assert "1 thread, float32\n" in old
    assert "float64" not in old
    assert "L1d" not in old


def test_products(tmp_path: Path) -> None:
    path = tmp_path / "products.json"
    out = bench(
        "products.py",
        *("--curve", "--sizes", "8", "16", "24", "--dtype", *DTYPES, *SHORT),
        *("--json", path),
    )
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 3 * 3 * 2
    for row in rows:
        assert set(row["verdicts"].values()) == {""}
        assert row["ratios"]["numpy"] > 0
        assert ("dip" in row) == (row["n"] == 16)
    assert out.count("more than 15 % below") == 3 * 2


def test_products_of_workloads() -> None:
    out = bench("products.py", "--shapes", *SHORT, "--layouts", "nt")
    assert "nt 128x512x10" in out  # the gradient of mnist's last hidden layer
    assert "nt 128x784x512" not in out  # that of its inputs is not computed


def test_sparse() -> None:
    pytest.importorskip("sklearn", reason="it is the rival")
    out = bench("sparse.py", "--log2-columns", "10", "--rounds", "1")
    assert re.search(r"^scikit-learn( +[\d.]+){3}$", out, re.M)
    assert re.search(r"^fastmlp( +[\d.]+){3}$", out, re.M)


def test_subnormals() -> None:
    """The exit code is that of times, which other processes lengthen."""
    pytest.importorskip("sklearn", reason="an estimator is timed")
    done = subprocess.run(
        [sys.executable, ROOT / "bench/subnormals.py", "--quick"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert len(re.findall(r"^.* \d+\.\d\d +(?:slower)?$", done.stdout, re.M)) == 43
    assert done.returncode == (1 if "slower" in done.stdout else 0)


def test_accuracy() -> None:
    out = bench("accuracy.py", "--quick")
    assert out.count(" 0 inexact\n") == 2 * len(fm.available_isas())
    assert out.count("  state ") == 15
    assert "\nwithin the bounds, " in out


def test_serving() -> None:
    """The exit code is that of targets, which so short a run may miss."""
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "bench/serving.py",
            "--rounds",
            "1",
            "--seconds",
            "0.05",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert re.search(r"^separate .* \d\.\d\d times one thread$", done.stdout, re.M)
    assert re.search(r"^shared .* \d\.\d\d of its steps$", done.stdout, re.M)
    assert done.returncode == (0 if "\ntargets reached\n" in done.stdout else 1)


def test_interrupts() -> None:
    """Times are not checked: other tests may run beside it."""
    done = subprocess.run(
        [sys.executable, ROOT / "bench/interrupts.py", "returns", "--signals", "2"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert re.search(r"^returns( +\d+ ms){3}", done.stdout, re.MULTILINE), done.stderr


def test_muon() -> None:
    """Which optimiser is ahead after two epochs does not matter."""
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "bench/muon.py", "--data", "digits"),
            *("--seeds", "1", "--epochs", "2"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert re.search(r"lower for [01] of 1 seeds", done.stdout), done.stderr
