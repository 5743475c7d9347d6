"""The file that the writer has open: the one that is at the path now, its capture in line with its schema, and whose checkpoints are ours.

Somebody may put another file there, change its schema, or run a shipper beside us, at any time. Used by the writer's thread alone.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress

import apsw

from changelog.connection import WAL_AUTOCHECKPOINT, connect, drop_journal, identity, journal_of, rows
from changelog.durable import rewrite_wal
from changelog.errors import DamagedFile, DroverError, Unavailable
from changelog.lease import checkpoint_lease
from changelog.storage import STORAGE
from pi import farm

BUSY = 1_000  # ms that one attempt waits for somebody else's lock
SHIPPER_LOOK = 1.0  # s between looks at whether a shipper runs
WAL_KEPT = 16 * 2**20  # bytes that the -wal file keeps after a checkpoint

logger = logging.getLogger(__name__)


class LiveFile:
    """The database at `path`, which `farm.open_farm` has opened before."""

    def __init__(self, path: str | os.PathLike[str], leaving: Callable[[], None]) -> None:
        """`leaving` is called before a connection is used no more."""
        self.path = path
        self.db: apsw.Connection | None = None  # None while no file can be opened
        self.identity: tuple[int, int] | None = None  # of the file that was opened last
        self.has_farm = False  # whether it has the farm's tables
        self.reconciled = 0  # how often its capture had to be brought in line
        self.checkpoints = True  # whether they are ours just now, and not the shipper's
        self._doubtful = False  # whether the disk failed since it last confirmed all of the -wal: see changelog/durable.py
        self._leaving = leaving
        self._left: apsw.Connection | None = None  # to the file that was replaced, until the new one is opened
        self._journal: dict[str, tuple[int, int] | None] = {}
        self._arriving: tuple[int, int] | None = None  # size and mtime of a new file, which may still be written
        self._schema_version = 0
        self._quiet_since: int | None = None  # the log's head when the schema was last seen as we know it
        self._lease = checkpoint_lease(path)
        self._asked_at = 0.0  # time.monotonic() of the last look at that

    def open(self) -> apsw.Connection:
        """The connection to the file at the path, newly made. Raises what opening it raises."""
        self.identity = identity(self.path)
        db = connect(self.path, checkpoints=True, foreign_keys=True)
        db.set_busy_timeout(BUSY)
        db.pragma("journal_size_limit", WAL_KEPT)
        self.db, self._quiet_since, self.checkpoints, self._asked_at = db, None, True, 0.0
        self._doubtful = True  # nobody knows what this process or an earlier one met
        self._reconcile(db)
        self._journal = journal_of(self.path)
        return db

    def present(self) -> apsw.Connection:
        """The connection to the file that is at the path now. Raises DamagedFile when there is none, Unavailable while it arrives."""
        current = identity(self.path)
        if self.db is not None and current != self.identity:
            logger.warning("the database was replaced, opening the new one path=%s", self.path)
            self._leave()
        if self.db is not None:
            return self.db
        if current is None:
            raise DamagedFile(f"{self.path} is missing: put it back, or restart to begin a new one")
        facts = os.stat(self.path)
        if (arriving := (facts.st_size, facts.st_mtime_ns)) != self._arriving:
            self._arriving = arriving  # not opened while somebody still copies it there
            raise Unavailable(f"{self.path} was replaced; it is opened as soon as it stops growing")
        if current != self.identity:  # the same file may have been put back: its -wal and -shm are in use
            drop_journal(self.path, self._journal)
            self._journal = {}  # once: the inodes are free now
        self._close_left()
        farm.open_farm(self.path)
        return self.open()

    def begin(self) -> apsw.Connection:
        """Begin a transaction on the present file, in which the capture is complete. Raises as `present`, and errors of the storage."""
        while True:
            db = self.present()
            db.execute("BEGIN IMMEDIATE")
            if db.pragma("schema_version") == self._schema_version:
                if self._doubtful:
                    self._write_anew(db)
                return db
            db.execute("ROLLBACK")
            self._reconcile(db)

    def committed(self, newest: int) -> None:
        """The transaction that was begun has ended with the log's row `newest`: until there the schema is as we know it."""
        self._quiet_since = newest

    def look(self) -> apsw.Connection:
        """See whether the file was replaced or its schema changed, and whether a shipper runs. Reads only, unless there is work."""
        db = self.present()
        self._see_schema(db)
        self._share_checkpoints(db)
        return db

    def reopen(self) -> None:
        """Begin anew with the file that is open; `present` tries again where that cannot be done now."""
        self.close()
        with suppress(*STORAGE, DroverError):
            if identity(self.path) == self.identity:
                self.open()

    def close(self) -> None:
        """Use no file any more."""
        self._leaving()
        if self.db is not None:
            self.db.close()
            self.db = self._arriving = None
        self._close_left()

    def _leave(self) -> None:
        """Use a file no more that is not at the path any more, complete for whoever moved it away.

        It stays open: a -wal or -shm of the new file that got the inode of a closed one would be taken for that, and removed.
        """
        assert self.db is not None
        with suppress(apsw.Error):
            self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._leaving()
        self._left, self.db, self._arriving = self.db, None, None

    def _close_left(self) -> None:
        if self._left is not None:
            self._left.close()
            self._left = None

    def _write_anew(self, db: apsw.Connection) -> None:
        """In a transaction: what the disk may have lost when it failed is written again, for ours builds on it. Raises OSError."""
        try:
            rewrite_wal(db)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        self._doubtful = False

    def _see_schema(self, db: apsw.Connection) -> None:
        """Reconcile when the schema moved; else remember up to which seq it had not."""
        seen = "SELECT schema_version, (SELECT max(seq) FROM changelog) FROM pragma_schema_version"  # in one snapshot
        [(version, newest)] = rows(db, seen)
        if version == self._schema_version:
            self._quiet_since = newest
        else:
            self._reconcile(db)

    def _reconcile(self, db: apsw.Connection) -> None:
        version = db.pragma("schema_version")
        while farm.make_primary(db, self._quiet_since):
            self.reconciled += 1
            version = db.pragma("schema_version")
        self._schema_version = version  # read before the look that found nothing to do, so later DDL is not taken for seen
        self.has_farm = farm.has_farm(db)

    def _share_checkpoints(self, db: apsw.Connection) -> None:
        """Leave the -wal to the shipper while one runs, and take it back when that has ended, however."""
        now = time.monotonic()
        if now - self._asked_at < SHIPPER_LOOK:
            return
        self._asked_at = now
        ours = not self._lease.is_held()
        if ours != self.checkpoints:
            self.checkpoints = ours
            db.wal_autocheckpoint(WAL_AUTOCHECKPOINT if ours else 0)
            logger.info("checkpoints are made by the %s", "writer" if ours else "shipper")
