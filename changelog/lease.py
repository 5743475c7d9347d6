"""Who moves the -wal of a database into its file: one process at a time. The shipper while it runs, else the writer.

The lease is a lock of the kernel on a file beside the database, so that it ends with the process that holds it, however that ends. That
both checkpoint for a moment, while it changes hands, does no harm (SQLite has a lock of its own for that); that both do so all the time
would make each wait for the other.
"""

from __future__ import annotations

import fcntl
import os
import time

from changelog.connection import Path_
from changelog.errors import Conflict, Unavailable

CHECKPOINTER = "-checkpointer"  # behind the name of the database
PATIENCE = 0.5  # s: who asks whether it is held holds it himself for a moment
NAP = 0.01  # s


class Lease:
    """A lock on the file at `path`, held by one process at most."""

    def __init__(self, path: Path_) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self) -> None:
        """Hold it from now on. Raises Conflict when another process does, Unavailable when its file cannot be made."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o660)
        except OSError as exc:
            raise Unavailable(f"{self._path} cannot be made: {exc.strerror}") from exc
        until = time.monotonic() + PATIENCE
        while not _lock(fd, fcntl.LOCK_EX):
            if time.monotonic() > until:
                os.close(fd)
                raise Conflict("another shipper runs on this database: end it first")
            time.sleep(NAP)
        self._fd = fd

    def release(self) -> None:
        """Hold it no more."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def is_held(self) -> bool:
        """Whether any process holds it just now."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
            fd = os.open(self._path, os.O_RDONLY)
        except OSError:
            return False
        try:
            return not _lock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def checkpoint_lease(path: Path_) -> Lease:
    """The lease on the checkpoints of the database at `path`."""
    return Lease(f"{os.path.realpath(path)}{CHECKPOINTER}")
