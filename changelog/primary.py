"""The reading side of a primary: snapshots that are complete and durable, frames of the log, and waiting for the next commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from changelog.commits import CommitWatcher
from changelog.connection import Path_, connect, identity, one, sync_file, sync_path
from changelog.durable import DurableWal
from changelog.errors import Unavailable
from changelog.install import in_wal_mode, schema_moved
from changelog.log import head
from changelog.position import Position
from changelog.reader import READ_ROWS, check_position, frame_header, read_log
from changelog.reconcile import reconcile
from changelog.storage import usable
from changelog.values import Value
from changelog.wire import Header, encode_frame

IDLE_CONNECTIONS = 4
RECONCILE_TRIES = 3  # somebody may be in the middle of a migration of many statements
CLOSE_TIMEOUT = 1.0  # s

Rows = Iterator[tuple[Value, ...]]


class Primary:
    """Many readers of the primary at `path`.

    `reconcile` is called when the schema has moved, and must bring the capture in line; without it that is done here, on a connection of
    its own, for programs that have no writer thread. `opened` tells which file the writer has open: another one, that was just put at the
    path, is not touched before the writer has.
    """

    def __init__(
        self, path: Path_, reconcile: Callable[[], object] | None = None, opened: Callable[[], tuple[int, int] | None] | None = None
    ) -> None:
        self.path = Path(path)
        self._wal = DurableWal()
        self._opened = opened
        self._reconcile = reconcile or self._reconcile_here
        self._quiet_since: tuple[tuple[int, int] | None, int] | None = None  # file and head when the schema was last as we knew it
        self._synced = b""  # the header of the -wal when all that was not in it was last synced
        self._lock = threading.Condition()
        self._idle: list[tuple[tuple[int, int] | None, apsw.Connection]] = []
        self._lent = 0
        self._kept = IDLE_CONNECTIONS  # how many may be idle; none once closed
        self.commits = CommitWatcher(self.path, self._present)

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """A read transaction on a database whose capture is complete, and whose content is on the disk before the block begins.

        Raises NotAPrimary, DamagedFile, or Unavailable while the schema keeps changing.
        """
        for _ in range(RECONCILE_TRIES):
            file, db = self._take()
            try:
                db.execute("BEGIN")
                if not schema_moved(db) and in_wal_mode(db):
                    # After the snapshot is taken: what is served must survive a power cut, whoever wrote it, however carelessly.
                    self._sync(db)
                    self._quiet_since = file, head(db)
                    yield db
                    return
            finally:
                self._give_back(file, db)
            self._reconcile()
        raise Unavailable("the schema of the primary is being changed: try again")

    def head(self) -> Position:
        """The position of the newest change."""
        with self.snapshot() as db:
            return Position.of_head(db)

    def frame(
        self, after: Position, upto: int | None = None, limit: int | None = None, upto_check: int | None = None
    ) -> tuple[Header, Rows]:
        """The header and the rows that lead a replica from `after` to `upto`, or to the newest commit.

        With `limit` the rows may stop short of it: a page. `upto_check` is the nonce that `upto` had when it was told. The rows are read as
        they are taken, each run in a snapshot of its own.
        Raises PositionMismatch and HistoryTrimmed, also while the rows are read.
        """
        with self.snapshot() as db:
            header = frame_header(db, after, upto, upto_check)
            last = header.upto if limit is None else min(header.upto, after.seq + limit)
            first = read_log(db, after.seq, last)
        return header, self._rows(header.epoch, first, last)

    def encoded_frame(
        self, after: Position, upto: int | None = None, limit: int | None = None, upto_check: int | None = None
    ) -> tuple[Header, Iterator[bytes]]:
        """The same as bytes of the wire."""
        header, rows = self.frame(after, upto, limit, upto_check)
        return header, encode_frame(header, rows)

    def size(self) -> int:
        """Bytes of the whole database, as of this moment."""
        with self.snapshot() as db:
            pages: int = one(db, "PRAGMA page_count")
            return pages * int(one(db, "PRAGMA page_size"))

    def copy_to(self, target: Path) -> Position:
        """Write the whole database, as of one commit, to a new file; returns the position that it carries."""
        with self.snapshot() as db:
            position = Position.of_head(db)
            copy = connect(target, create=True, scratch=True)
            try:
                with copy.backup("main", db, "main") as backup:
                    backup.step(-1)
            finally:
                copy.close()
        return position

    def close(self) -> None:
        """Close the connections, those at work as soon as they are done."""
        self.commits.close()
        with self._lock:
            idle, self._idle, self._kept = self._idle, [], 0
            self._lock.wait_for(lambda: not self._lent, CLOSE_TIMEOUT)
        for _, db in idle:
            db.close()
        self._wal.close()

    def _sync(self, db: apsw.Connection) -> None:
        """Bring what this snapshot reads to the disk: the -wal, and what is not in it any more, once for each -wal that is begun.

        A checkpoint of a program that syncs nothing leaves its pages to chance, and a -wal that such a program made has no certain name.
        """
        header = self._wal.sync(db)
        if not header or header != self._synced:
            with usable(self.path):
                sync_file(db)
                sync_path(Path(db.filename_wal).parent)
            self._synced = header

    def _reconcile_here(self) -> None:
        file, seq = self._quiet_since or (None, 0)
        db = connect(self.path)
        try:
            reconcile(db, seq if file == identity(self.path) else None)
        finally:
            db.close()

    def _rows(self, epoch: str, first: list[tuple[Value, ...]], last: int) -> Rows:
        rows = first
        while rows:
            yield from rows
            seq, nonce = int(str(rows[-1][0])), int(str(rows[-1][2]))
            if seq >= last:
                return
            file, db = self._take()
            try:
                with db:
                    check_position(db, Position(epoch, seq, nonce))  # the file may have been replaced since the last run
                    rows = read_log(db, seq, last, READ_ROWS)
            finally:
                self._give_back(file, db)

    def _present(self) -> tuple[int, int] | None:
        """The file at the path, None where there is none. Raises Unavailable as long as the writer has not opened it."""
        file = identity(self.path)
        if self._opened is not None and file not in (None, self._opened()):
            raise Unavailable(f"{self.path} was replaced, and is being opened: try again")
        return file

    def _take(self) -> tuple[tuple[int, int] | None, apsw.Connection]:
        file = self._present()
        with self._lock:
            if not self._kept:
                raise Unavailable("this primary is being closed")
            self._lent += 1
            while self._idle:
                known, db = self._idle.pop()
                if known == file:
                    return known, db
                db.close()  # the file was replaced
        try:
            return file, connect(self.path, readonly=True)
        except BaseException:
            with self._lock:
                self._lent -= 1
                self._lock.notify_all()
            raise

    def _give_back(self, file: tuple[int, int] | None, db: apsw.Connection) -> None:
        if db.in_transaction:
            db.execute("ROLLBACK")
        with self._lock:
            if len(self._idle) < self._kept:
                self._idle.append((file, db))
            else:
                db.close()
            self._lent -= 1
            self._lock.notify_all()
