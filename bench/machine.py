"""The machine: processor, caches, load, FMA peak, latency between cores."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastmlp import _core

HERE = Path(__file__).resolve().parent
BUSY_LOAD = 0.25  # per CPU, before anything is timed
DTYPES = ("float32", "float64")


def available_cpus() -> list[int]:
    """Return the CPUs of this process, those of different cores first."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    cpus = sorted(os.sched_getaffinity(0))
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    firsts: list[int] = []
    rest: list[int] = []
    seen = set()
    for cpu in cpus:
        path = Path(siblings.format(cpu))
        core = path.read_text() if path.exists() else str(cpu)
        (rest if core in seen else firsts).append(cpu)
        seen.add(core)
    return firsts + rest


def cpu_model() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add the option --threads."""
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 2")


def add_dtypes(parser: argparse.ArgumentParser) -> None:
    """Add the option --dtype."""
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        default=list(DTYPES[:1]),
        help="one or both; default: float32",
    )


def checked_threads(
    parser: argparse.ArgumentParser, threads: list[int] | None
) -> list[int]:
    """Return the numbers of threads of --threads, or the default ones.

    A number that the machine's CPUs do not allow ends the program.
    """
    cpus = len(available_cpus())
    if threads is None:
        return [1, 2][:cpus]
    if not 1 <= min(threads) <= max(threads) <= cpus:
        parser.error(f"--threads: there are {cpus} CPUs, got {threads}")
    return threads


def describe() -> dict[str, Any]:
    """Return the machine's description for the JSON file."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu_model(),
        "cpus": available_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": load,
        "caches": dict(_core.caches()),
        "isa": _core.isa(),
    }


def size_text(size: int) -> str:
    """Return a cache's size in KiB or MiB."""
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"


def core_text(description: dict[str, Any]) -> str:
    """Return the caches and the instruction set in use, as far as they are known.

    For example ``L1d 32 KiB, L2 512 KiB, L3 32 MiB (near), avx2``. The blocks of
    fastmlp's matrix products fit into the third level if it is near, and otherwise into
    the second.
    """
    caches = description.get("caches", {})
    parts = []
    for key, title in (("l1d", "L1d"), ("l2", "L2"), ("l3", "L3")):
        size = caches.get(key, (0,))[0]  # 0: there is no such cache
        if size:
            parts.append(f"{title} {size_text(size)}")
    if caches.get("l3_is_near"):
        parts[-1] += " (near)"
    if "isa" in description:
        parts.append(description["isa"])
    return ", ".join(parts)


def announce(description: dict[str, Any]) -> None:
    """Print the machine, and a warning if it is busy."""
    cpus, load = description["cpus"], description["load_average"]
    print(f"{description['cpu']}, {len(cpus)} CPUs, {description['system']}")
    if core_text(description):
        print(core_text(description))
    print(f"load average {load}")
    if (load or 0.0) > BUSY_LOAD * len(cpus):
        print(
            "WARNING: the machine is busy with something else, do not trust the times"
        )


class Probe:
    """A small C program that prints one number; compiled on the spot.

    Parameters
    ----------
    source : str
        File name in this folder.
    flags : str
        Compiler flags in addition to -O2.
    """

    def __init__(self, source: str, *flags: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.program: str | None = None
        compiler = shutil.which("cc")
        if compiler is None:
            return
        program = f"{self.folder.name}/probe"
        command = [compiler, "-O2", *flags, str(HERE / source), "-o", program]
        if subprocess.run(command, capture_output=True).returncode == 0:
            self.program = program

    def run(self, *arguments: int) -> float | None:
        """Return the printed number, or None if the program does not compile or run."""
        if self.program is None:
            return None
        command = [self.program, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True)
        return float(result.stdout) if result.returncode == 0 else None


def ping_pong(cpus: list[int]) -> float | None:
    """Return the nanoseconds to pass a cache line between two CPUs, if measurable."""
    if len(cpus) < 2 or sys.platform != "linux":
        return None
    return Probe("ping_pong.c", "-pthread").run(cpus[0], cpus[1])


class FmaPeak:
    """The FMA peak of one core, measured repeatedly during a run.

    Parameters
    ----------
    cpu : int
        CPU to measure.
    dtype : str
        "float32" or "float64".
    """

    def __init__(self, cpu: int, dtype: str = "float32") -> None:
        self.cpu = cpu
        self.samples: list[float] = []  # GFLOP/s
        real = {"float32": "float", "float64": "double"}[dtype]
        flags = ("-march=native", "-ffp-contract=fast", f"-DREAL={real}")
        self.probe = Probe("fma_peak.c", *flags)

    def measure(self) -> None:
        """Take a sample; the machine should be idle."""
        sample = self.probe.run(self.cpu)
        if sample is not None:
            self.samples.append(sample)

    @property
    def gflops(self) -> float | None:
        """Median of the samples so far, in GFLOP/s; None without a C compiler."""
        return statistics.median(self.samples) if self.samples else None
