"""The machine: processor, load, FMA peak, latency between cores."""

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


def describe() -> dict[str, Any]:
    """Return the machine's description for the JSON file."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu_model(),
        "cpus": available_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": load,
    }


def announce(description: dict[str, Any]) -> None:
    """Print the machine, and a warning if it is busy."""
    cpus, load = description["cpus"], description["load_average"]
    print(f"{description['cpu']}, {len(cpus)} CPUs, {description['system']}")
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
    """The float32 FMA peak of one core, measured repeatedly during a run.

    Parameters
    ----------
    cpu : int
        CPU to measure.
    """

    def __init__(self, cpu: int) -> None:
        self.cpu = cpu
        self.samples: list[float] = []  # GFLOP/s
        self.probe = Probe("fma_peak.c", "-march=native", "-ffp-contract=fast")

    def measure(self) -> None:
        """Take a sample; the machine should be idle."""
        sample = self.probe.run(self.cpu)
        if sample is not None:
            self.samples.append(sample)

    @property
    def gflops(self) -> float | None:
        """Median of the samples so far, in GFLOP/s; None without a C compiler."""
        return statistics.median(self.samples) if self.samples else None
