"""The number of threads follows the CPU quota of a control group (cgroup)."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

PERIOD = 100_000  # microseconds

CODE = """
import os, pathlib, sys
pathlib.Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
import fastmlp as fm
print(fm.get_num_threads())
"""


def new_group() -> tuple[Path, bool]:
    """Return the folder of a new group and whether it is of version 2."""
    name = f"fastmlp-test-{uuid.uuid4().hex[:8]}"
    root = Path("/sys/fs/cgroup")
    for folder, limit in ((root, "cpu.max"), (root / "cpu", "cpu.cfs_quota_us")):
        group = folder / name
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            return group, limit == "cpu.max"
        group.rmdir()
    pytest.skip("this process may not make a control group with a quota")


@pytest.fixture
def group() -> Iterator[tuple[Path, bool]]:
    folder, unified = new_group()
    yield folder, unified
    for inner in (folder / "inner", folder):
        if inner.exists():
            inner.rmdir()


def limit(folder: Path, unified: bool, cpus: float) -> None:
    quota = int(cpus * PERIOD)
    if unified:
        (folder / "cpu.max").write_text(f"{quota} {PERIOD}")
    else:
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD))
        (folder / "cpu.cfs_quota_us").write_text(str(quota))


def threads_in(folder: Path) -> int:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_quota_limits_the_threads(group: tuple[Path, bool]) -> None:
    folder, unified = group
    cpus = len(os.sched_getaffinity(0))
    assert threads_in(folder) == cpus
    limit(folder, unified, 0.5)
    assert threads_in(folder) == 1
    limit(folder, unified, 1.5)
    assert threads_in(folder) == min(2, cpus)


def test_a_quota_of_a_group_above_limits_the_threads(group: tuple[Path, bool]) -> None:
    folder, unified = group
    inner = folder / "inner"
    inner.mkdir()
    limit(folder, unified, 1)
    assert threads_in(inner) == 1
