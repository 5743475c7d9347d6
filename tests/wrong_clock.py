"""Processes whose clock is wrong, and jumps while they run: wrong_clock.c, which a C compiler makes usable here."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
DAY = 86_400  # s


class WrongClock:
    """The clock of the processes that are started by way of `prefix`. Skips the test where there is no C compiler."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("cc") is None:
            pytest.skip("no process can be given another clock here: there is no C compiler")
        library, file = folder / "wrong_clock.so", folder / "clock"
        subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._mapped = mmap.mmap(opened.fileno(), 8)
        self.prefix = ("env", f"LD_PRELOAD={library}", f"CLOCK_OFF_BY={file}")

    def is_off_by(self, days: int) -> None:
        """From now on it shows so many days more (or less) than it should."""
        self._mapped[:] = struct.pack("=q", days * DAY)
