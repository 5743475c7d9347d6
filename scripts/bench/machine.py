"""On what it was measured: without that a figure says nothing."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import apsw

from changelog.compression import ACCEPTED
from scripts import peer_litestream

SYNCS = 100


def machine(folder: Path) -> dict[str, str]:
    """CPU, memory, system and versions, and how long the disk under `folder` takes to make 4 KiB durable."""
    program = peer_litestream.find()
    return {
        "CPU": f"{os.cpu_count()} x {_cpu()}",
        "memory": f"{_memory() / 2**20:.0f} GiB",
        "system": f"Linux {platform.release()} ({platform.machine()}), {_file_system(folder)}",
        "sync of 4 KiB": _sync(folder),
        "Python": platform.python_version(),
        "SQLite": f"{apsw.sqlite_lib_version()} (APSW {apsw.apsw_version()}); wire: {ACCEPTED}",
        "Litestream": _version(program) if program else "not installed",
        "load": f"{os.getloadavg()[0]:.1f} at the start",
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> float:
    """KiB."""
    return float(Path("/proc/meminfo").read_text().partition("MemTotal:")[2].split()[0])


def _file_system(folder: Path) -> str:
    """Of the disk that the folder is on."""
    shown = subprocess.run(["df", "--output=fstype", folder], capture_output=True, text=True, check=False).stdout.split()
    return shown[-1] if shown else "?"


def _sync(folder: Path) -> str:
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            os.write(file.fileno(), bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return f"{statistics.median(times):.2f} ms, the longest of {SYNCS} {max(times):.1f} ms"


def _version(program: Path) -> str:
    return subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout.strip()
