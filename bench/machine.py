"""What the figures of a run depend on: processor, load, FMA peak, distance of cores."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BUSY_LOAD = 0.25  # per CPU, before anything is timed


def available_cpus() -> list[int]:
    """CPUs this process may use; those of different cores first."""
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


def describe() -> dict[str, Any]:
    """Return the machine as the JSON file has it."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu_model(),
        "cpus": available_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": load,
    }


def announce(description: dict[str, Any]) -> None:
    """Print the machine, and a warning if it has other things to do."""
    cpus, load = description["cpus"], description["load_average"]
    print(f"{description['cpu']}, {len(cpus)} CPUs, {description['system']}")
    print(f"load average {load}")
    if (load or 0.0) > BUSY_LOAD * len(cpus):
        print(
            "WARNING: the machine is busy with something else, do not trust the times"
        )


class Probe:
    """A small C program that prints one number; compiled here and now.

    Parameters
    ----------
    source : str
        A file of this folder.
    flags : str
        For the compiler, besides -O2.
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
        """Return what the program prints; None if it cannot be compiled or run."""
        if self.program is None:
            return None
        command = [self.program, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True)
        return float(result.stdout) if result.returncode == 0 else None


def ping_pong(cpus: list[int]) -> float | None:
    """Nanoseconds to hand a cache line from one CPU to another, if it can be told."""
    if len(cpus) < 2 or sys.platform != "linux":
        return None
    return Probe("ping_pong.c", "-pthread").run(cpus[0], cpus[1])


class FmaPeak:
    """The float32 FMA peak of one core, measured again and again through a run.

    Parameters
    ----------
    cpu : int
        The CPU that is measured.
    """

    def __init__(self, cpu: int) -> None:
        self.cpu = cpu
        self.samples: list[float] = []  # GFLOP/s
        self.probe = Probe("fma_peak.c", "-march=native", "-ffp-contract=fast")

    def measure(self) -> None:
        """Take a sample; nothing else should run meanwhile."""
        sample = self.probe.run(self.cpu)
        if sample is not None:
            self.samples.append(sample)

    @property
    def gflops(self) -> float | None:
        """Median of the samples so far, in GFLOP/s; None without a C compiler."""
        return statistics.median(self.samples) if self.samples else None
