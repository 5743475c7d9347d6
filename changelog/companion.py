"""A small database beside a primary's, held open by one process for its life: opened anew when its connection is of no use any more."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from changelog.connection import Path_, connect
from changelog.errors import DroverError
from changelog.storage import STORAGE, UNUSABLE

BUSY = 500  # ms that a request may wait for somebody who holds the file locked
RETRY = 1.0  # s between two attempts to open it anew

logger = logging.getLogger(__name__)


class Companion:
    """The file at `path`, made where it is missing. Whoever uses it holds a lock of his own."""

    def __init__(self, path: Path_, *, checkpoints: bool = False) -> None:
        """`checkpoints` as of `connect`."""
        self.lives = 0  # connections before this one
        self._path, self._checkpoints = path, checkpoints
        self._db = connect(path, create=True, checkpoints=checkpoints)
        self._db.set_busy_timeout(BUSY)
        self._useless, self._tried_at = False, -RETRY

    @property
    def db(self) -> apsw.Connection:
        """The connection: another one than before where that met an error in a `watched` block that it does not recover from."""
        if self._useless and time.monotonic() - self._tried_at >= RETRY:
            self._tried_at = time.monotonic()
            self._reopen()
        return self._db

    @contextmanager
    def watched(self) -> Iterator[apsw.Connection]:
        """What the block meets decides about the next use."""
        try:
            yield self.db
        except UNUSABLE:
            self._useless = True
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _reopen(self) -> None:
        """Open it anew, unless it is gone or the disk does not let it be used: then what is open is better than nothing."""
        try:
            db = connect(self._path, checkpoints=self._checkpoints, patience=BUSY)
        except (*STORAGE, DroverError, OSError) as exc:
            logger.debug("not opened anew path=%s cause=%s", self._path, exc)
            return
        self._db.close()
        self._db, self._useless = db, False
        self.lives += 1
        logger.warning("opened anew, after a failure of the disk path=%s", self._path)
