"""A full disk, whoever met it: how it is told from a damaged one, and in which words it is said."""

from __future__ import annotations

import errno
import os
import shutil

import apsw

from changelog.errors import DiskFull

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
