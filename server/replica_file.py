"""replica.db for the one who writes it: the connection, whether the file under it is still sound, and how a snapshot takes its place."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import apsw

from changelog.bootstrap import carry_over, copy_over, empty_wal, put_in_place
from changelog.connection import connect, drop_journal, identity, journal_of, remove_database, remove_journal, sync_path
from changelog.errors import DamagedFile
from changelog.guard import keep_guards
from changelog.position import Position
from changelog.reader import descends
from changelog.replay import checkpoint, connect_replica, position_of
from changelog.rescue.lost import Rescued, keep_lost
from changelog.storage import in_words, is_damage
from server.clock import utc_text
from server.indexes import add_indexes
from server.replica import Replica
from server.road import Doubt

LOOK_EVERY = 1.0  # s between two looks that open the file anew, while one commit follows another

logger = logging.getLogger(__name__)

Broken = (apsw.CorruptError, apsw.NotADBError, apsw.IOError)  # what a statement raises on a file that was damaged under it


class ReplicaFile:
    """The replica at the readers' path. For one thread of one process."""

    def __init__(self, readers: Replica, opened: Callable[[Position], object]) -> None:
        """`opened` is told the position whenever the file was opened or replaced."""
        self.path = readers.path
        self.incoming = self.path.with_name(f"{self.path.name}.incoming")  # where a snapshot stands until it is installed
        self._readers, self._opened = readers, opened
        self._db: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._journal: dict[str, tuple[int, int] | None] = {}
        self._size = 0  # bytes that the file has at least, as of the last look
        self._doubted_at = -LOOK_EVERY
        self._indexed_schema = 0  # SQLite's schema_version when the pages' indexes were last made
        self.index_time = math.inf  # s, about, that may be spent at once on those: less where somebody waits for the rows
        self.lacks_indexes = False  # more are to be made

    @property
    def db(self) -> apsw.Connection:
        """The writing connection, as `doubt` left it. Raises DamagedFile where it found no replica."""
        if self._db is None:
            raise DamagedFile(f"{self.path} is no replica")
        return self._db

    def checked(self) -> apsw.Connection:
        """The same after a look. Raises DamagedFile."""
        doubt = self.doubt()
        if doubt is not None:
            raise DamagedFile(doubt.reason)
        return self.db

    def glance(self) -> Doubt | None:
        """`doubt`, if the last look is some time ago; else only what costs next to nothing: whether the same file is there, and whole."""
        if self._db is None or time.monotonic() - self._doubted_at > LOOK_EVERY or identity(self.path) != self._file:
            return self.doubt()
        return None

    def doubt(self) -> Doubt | None:
        """Why the file at the path is not a replica that can be gone on with, or None. A new connection sees what an open one may not."""
        self._doubted_at = time.monotonic()
        try:
            if self._db is not None and identity(self.path) not in (None, self._file):
                drop_journal(self.path, self._journal)
                raise DamagedFile(f"{self.path} was replaced by another file")
            self._look_at_journal()
            connect(self.path, readonly=True).close()
            if self._db is None:
                self._open()
            position_of(self.db)
            self._look_at_size()
        except (DamagedFile, FileNotFoundError) as exc:
            self.close()
            return Doubt("damaged" if self.path.exists() else "missing", str(exc))
        return None

    def index_for_pages(self) -> None:
        """Make the guards that somebody took away, and the indexes that a new copy does not have yet, or a schema change took away.

        No index is begun after `index_time`: while it `lacks_indexes`, this is to be called again.
        """
        self._make_indexes(self.index_time)

    def _make_indexes(self, seconds: float) -> None:
        db = self._db
        if db is None or db.pragma("schema_version") == self._indexed_schema:
            return
        try:
            with db:
                keep_guards(db)
            self.lacks_indexes = not add_indexes(db, seconds)
        except (apsw.FullError, apsw.IOError) as exc:
            if is_damage(exc):
                raise
            self.lacks_indexes = False
            logger.warning("the indexes for the pages wait to be made: %s", in_words(exc))
            return
        checkpoint(db)
        if not self.lacks_indexes:
            self._indexed_schema = db.pragma("schema_version")

    def install(self, incoming: Path) -> Rescued | None:
        """Put a snapshot that is fitted out in the place of what is there: into the live file where that can be done, else by a new one.

        A history that does not go on in the snapshot's is kept beside it; of one that does, the changes that the Pi has lost since, which
        are returned, and what only our log still tells. Where others are read until then, the indexes for pages are made before; else the
        new rows can be read at once, and the indexes follow. Raises Unavailable while a page does not let go of the old file.
        """
        sound = self._db is not None
        archived = sound and not _contains(incoming, position_of(self.db).epoch)
        rescued = None if archived else self._save_history(incoming)
        if sound or self.index_time == math.inf:
            _index(incoming)
        if sound and not archived and copy_over(incoming, self.db):
            self._size = 0  # the one thing that may make it smaller
            self._adopt(self.db)
            return rescued
        self.close()
        with self._readers.paused():
            if sound:
                empty_wal(self.path)
            if archived or (not sound and self.path.exists()):
                kept = self.path.with_name(f"{self.path.name}.{f'archive-{utc_text()}Z' if archived else 'damaged'}")
                self.path.replace(kept)
                logger.warning("The replica's old file is kept as %s", kept)
            put_in_place(incoming, self.path)
        doubt = self.doubt()
        if doubt:
            raise DamagedFile(f"the snapshot was put in place and cannot be opened: {doubt.reason}")
        return rescued

    def room_to_install(self, size: int) -> int:
        """Bytes that `install` takes on the disk for a snapshot of so many, beside the snapshot itself."""
        if self._db is None:
            return 0  # by rename
        return size + max(0, size - self.path.stat().st_size)  # into the -wal, from there into the file

    def fingerprint(self) -> str | None:
        """By what the file is known again as long as nobody writes to it: its inode, size and time of change. None where there is none."""
        try:
            facts = self.path.stat()
        except OSError:
            return None
        return f"{facts.st_ino}/{facts.st_size}/{facts.st_mtime_ns}"

    def finish(self) -> None:
        """Close the connection and leave all in the one file, for whoever copies it."""
        if self._db is not None:
            with suppress(apsw.Error):  # somebody reads on: then the -wal stays
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._db is not None:
            self._db.close()
        self._db = self._file = None
        self.lacks_indexes = False

    def _save_history(self, incoming: Path) -> Rescued | None:
        """Keep what the primary has lost, and put what it has trimmed into the snapshot; of a damaged file, what can be read."""
        try:
            db = self._db or connect_replica(self.path)
        except DamagedFile:
            return None
        try:
            rescued = keep_lost(db, incoming, self.path)
            carry_over(db, incoming)
        except Broken as exc:
            if not is_damage(exc):  # the disk does not take what is to be kept: nothing may be replaced yet
                raise
            logger.warning("The older history cannot be read, it stays in the old file: %s", exc)
            return None
        finally:
            if db is not self._db:
                db.close()
        return rescued

    def _open(self) -> None:
        self._file, self._size = identity(self.path), 0
        self._db = connect_replica(self.path)
        try:
            remove_database(self.incoming)  # of a process that was killed
            self._journal = journal_of(self.path)
            self._adopt(self._db)
        except BaseException:
            self.close()
            raise

    def _adopt(self, db: apsw.Connection) -> None:
        self._readers.trusted = self._file
        self._indexed_schema = 0
        self._make_indexes(self.index_time if self.index_time == math.inf else 0)  # the guards in any case
        self._opened(position_of(db))

    def _look_at_journal(self) -> None:
        """Whoever removes the -wal or the -shm under us leaves us with one that nobody else sees, and SQLite may not notice."""
        known = self._journal if self._db is not None else {}
        for suffix, file in known.items():
            if file is not None and identity(f"{self.path}{suffix}") != file:
                raise DamagedFile(f"{self.path}{suffix} was removed")

    def _look_at_size(self) -> None:
        size = self.path.stat().st_size
        if size < self._size:  # SQLite may not notice: what it reads may all be in the -wal
            raise DamagedFile(f"{self.path} was cut short, from {self._size} to {size} bytes")
        # After a smaller snapshot the next checkpoint cuts the file itself, down to what the database has now.
        self._size = min(size, self.db.pragma("page_count") * self.db.pragma("page_size"))


def _index(incoming: Path) -> None:
    """Before anybody reads it, and without a journal: no page is slow meanwhile, and nothing is written twice."""
    with closing(connect(incoming, scratch=True)) as db:
        add_indexes(db)
        db.pragma("journal_mode", "wal")
    remove_journal(incoming)
    sync_path(incoming)


def _contains(incoming: Path, epoch: str) -> bool:
    db = connect(incoming, readonly=True)
    try:
        return descends(db, epoch)
    finally:
        db.close()
