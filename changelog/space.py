"""Room on a disk: a full one is told from a damaged one, and what comes from another machine may not fill it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import apsw

from changelog.errors import DiskFull

KEPT_FREE = 64 * 2**20  # bytes of a disk that what another machine sends does not take
SMALLEST_PART = 20  # or such a part of a small disk
LOOK_EVERY = 8 * 2**20  # bytes written between two looks
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(exc: BaseException) -> bool:
    """Whether this says that there was no space left for a file."""
    if isinstance(exc, apsw.IOError):  # the -shm has no place: of that SQLite does not say why
        return getattr(exc, "extendedresult", None) == apsw.SQLITE_IOERR_SHMSIZE
    return isinstance(exc, DiskFull | apsw.FullError) or (isinstance(exc, OSError) and exc.errno in FULL)


def require_room(folder: str | os.PathLike[str], needed: int, what: str) -> None:
    """Raises DiskFull, which says that `what` needs a place, where fewer than `needed` bytes are free for it."""
    if shutil.disk_usage(folder).free < needed:
        raise DiskFull(f"{what} needs {-(-needed // 2**20)} MiB, and less is free", needed=needed)


class Room:
    """Watches over what another machine has us write into one folder: a full disk would stop what is ours, too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unseen = LOOK_EVERY  # bytes since the last look: the first write looks

    def take(self, size: int) -> None:
        """Before so many bytes are written. Raises DiskFull where they would not leave KEPT_FREE."""
        self._unseen += size
        if self._unseen < LOOK_EVERY:
            return
        disk, self._unseen = shutil.disk_usage(self._folder), 0
        if size + min(KEPT_FREE, disk.total // SMALLEST_PART) > disk.free:
            raise DiskFull(f"the disk of {self._folder} has {disk.free} bytes left: too few for the {size} that come")
