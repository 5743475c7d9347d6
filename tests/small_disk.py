"""A disk of its own for a folder, small enough to be filled by a test: a tmpfs, which only root may mount."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 2**20
PIECE = 4_096  # bytes: less than that is never free on a tmpfs


class Disk:
    """The disk that `folder` is on, and the ballast that takes its room."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free(self) -> int:
        """Bytes."""
        return shutil.disk_usage(self.folder).free

    def fill(self, leave: int = 0) -> None:
        """Leave only so many bytes free, of a page or more."""
        with self._ballast.open("ab") as file:
            if self.free > leave:
                os.posix_fallocate(file.fileno(), file.tell(), self.free - leave)
        assert self.free <= max(leave, PIECE)

    def clear(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Disk]:
    """What is in `folder` stands on a disk of `size` bytes inside the block, whose processes must have ended with it. Skips the test where
    nobody may mount one."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        refused = mounted.stderr.strip() if mounted.returncode else ""
    except FileNotFoundError:
        refused = "there is no program `mount`"
    if refused:
        pytest.skip(f"no disk of its own for a test can be mounted here: {refused}")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
