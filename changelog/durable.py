"""Whether what stands in a -wal is on the disk: after a sync that succeeded it is, unless one before it had failed.

The kernel tells of a page that could not be written once, and takes it for written from then on: the next sync succeeds and proves nothing.
It tells each open file by itself, and a file that is opened later may not hear of it. So the -wal is kept open, and once a sync has failed,
whoever wrote what it was to bring to the disk, all of the -wal is written anew, as it is, before a sync counts again.
"""

from __future__ import annotations

import os
import threading
from contextlib import closing

import apsw

from changelog.connection import WAL_HEADER, connect, identity, write_at
from changelog.storage import usable

PIECE = 1 << 20  # bytes that are written anew at a time
BUSY = 1_000  # ms that it waits for somebody else's transaction: meanwhile nothing may be written to the -wal


class DurableWal:
    """The -wal of a database that somebody has open here, by the same name each time that this is asked. For many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._file: tuple[int, int] | None = None
        self._doubtful = False

    def sync(self, db: apsw.Connection) -> bytes:
        """Bring it to the disk, whoever wrote it and with whatever `synchronous`: what is served must survive a power cut.

        Returns its header, which is another one whenever a -wal was begun anew, or b"" where nothing is in it. Raises Unavailable where the
        disk does not confirm it.
        """
        with self._lock, usable(db.filename_wal):
            self._open(db.filename_wal)
            if self._fd is None:
                return b""
            header = os.pread(self._fd, WAL_HEADER, 0)  # before: who begins it anew meanwhile is seen the next time
            if not self._doubtful:
                self._doubtful = True  # until it is confirmed
                os.fdatasync(self._fd)
            else:
                with closing(connect(db.filename, patience=BUSY)) as writer, writer:
                    rewrite_wal(writer)
            self._doubtful = False
            return header

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._leave()

    def _open(self, wal: str) -> None:
        """The file that has the name now: it is another one after the last connection closed, and after a new database came."""
        file = identity(wal)
        if file == self._file:
            return
        self._leave()
        if file is not None:
            try:
                self._fd = os.open(wal, os.O_RDONLY)
            except FileNotFoundError:
                return
            facts = os.fstat(self._fd)
            self._file = facts.st_dev, facts.st_ino

    def _leave(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd = self._file = None
        self._doubtful = False


def rewrite_wal(db: apsw.Connection) -> None:
    """In a write transaction of `db`, so that nobody else writes there: write its -wal anew, as it is, and sync it. Raises OSError."""
    fd = os.open(db.filename_wal, os.O_RDWR)
    try:
        for at in range(0, os.fstat(fd).st_size, PIECE):
            write_at(fd, os.pread(fd, PIECE, at), at)
        os.fdatasync(fd)
    finally:
        os.close(fd)
