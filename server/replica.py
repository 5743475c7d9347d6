"""Read-only access to the replica for pages: one snapshot a page, a few connections, and a file that may be replaced at any moment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from changelog.connection import Path_, connect, identity, one
from changelog.errors import DamagedFile, Unavailable

CONNECTIONS = 8  # at most so many pages read at once, the others wait
WAIT_FOR_CONNECTION = 10.0  # s
WAIT_FOR_FILE = 5.0  # s that a page waits for the copy that replaces a broken one
LOOK_AGAIN = 0.05  # s
TOLD_AGAIN = 30.0  # s between two calls of `when_broken`

NEVER_FETCHED = "The first copy of the farm has not arrived yet: this will be here as soon as it has."
BROKEN = "The replica's file was damaged or replaced under this page. It is fetched anew from the Pi; try again in a few seconds."
OTHER_SCHEMA = "The replica lacks something that this page needs: the Pi and this server may run different versions of Drover."

logger = logging.getLogger(__name__)


class FileGone(Unavailable):
    """There was a readable replica, and just now there is none: a new one is on its way."""


FileBroke = (apsw.CorruptError, apsw.NotADBError, apsw.IOError, apsw.CantOpenError, DamagedFile)


@dataclass(slots=True)
class _Reader:
    """The file that is held open, the number of `release` calls when it was opened, and the connection."""

    file: tuple[int, int]
    life: int
    db: apsw.Connection


class Replica:
    """The replica at `path`, for readers. While the path holds nothing usable, the connections to the last good file go on serving."""

    def __init__(self, path: Path_, connections: int = CONNECTIONS) -> None:
        self.path = Path(path)
        self._room = threading.Condition()
        self._limit = connections
        self._idle: list[_Reader] = []
        self._busy = 0  # pages that read, or are about to
        self._lent = 0  # connections that are not idle
        self._life = 0  # counts the calls of release(): readers of an older life are closed, not reused
        self._paused = False
        self.when_broken: Callable[[str], object] | None = None  # told, with the cause, when a page meets damage
        self._told_at = -TOLD_AGAIN
        self._file: tuple[int, int] | None = None  # the newest file that was good
        self.trusted: tuple[int, int] | None = None  # the one file that may be opened, where somebody writes the replica and knows it

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """One consistent snapshot on a read-only connection, ended with the block.

        Raises Unavailable when there never was a good file, when all connections stay busy, and when the file breaks inside the block or
        lacks what it asks for.
        """
        reader, sound = self._awaited(), False
        try:
            yield reader.db
            sound = True
        except FileBroke as exc:
            logger.error("replica cannot be read file=%s cause=%s", self.path, exc)
            self._tell(str(exc))
            raise FileGone(BROKEN) from exc
        except apsw.SQLError as exc:
            sound = True
            logger.exception("replica has another schema than a page needs file=%s", self.path)
            raise Unavailable(f"{OTHER_SCHEMA} ({exc})") from exc
        except BaseException:
            sound = True  # an error of the page, not of the file
            raise
        finally:
            self._give_back(reader, sound and _end_snapshot(reader.db))

    def position(self) -> tuple[str | None, int | None]:
        """The epoch and seq of the replica's rows, or Nones where none can be read."""
        try:
            with self.read() as db:
                return one(db, "SELECT epoch FROM changelog_position"), one(db, "SELECT seq FROM changelog_position")
        except Unavailable:
            return None, None

    def release(self) -> None:
        """Close all idle connections, and the busy ones when their pages are done: for whoever installs another file."""
        with self._room:
            self._life += 1
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.db.close()

    @contextmanager
    def paused(self, wait: float = WAIT_FOR_CONNECTION) -> Iterator[None]:
        """No connection of ours is open inside the block, pages wait: a file can be renamed into place and its -wal removed.

        Raises Unavailable when a page does not end within `wait` seconds.
        """
        with self._room:
            self._paused = True
        try:
            with self._room:
                if not self._room.wait_for(lambda: self._busy == 0, wait):
                    raise Unavailable("A page does not let go of the old replica: the new one is installed a little later.")
            self.release()  # not earlier: a page that is about to read may have nothing else than an idle connection
            yield
        finally:
            with self._room:
                self._paused = False
                self._room.notify_all()

    def close(self) -> None:
        """Close every connection; the pages that still read close theirs at their end."""
        self.release()

    def _tell(self, cause: str) -> None:
        """Damage inside the file is seen by whoever reads that page of it: this is how the sync service learns of it."""
        now = time.monotonic()
        with self._room:
            due = now - self._told_at >= TOLD_AGAIN
            self._told_at = now if due else self._told_at
        if due and self.when_broken is not None:
            self.when_broken(f"a page could not be read: {cause}")

    def _awaited(self) -> _Reader:
        """A reader, also when the file broke and the copy that replaces it comes within a few seconds."""
        until = time.monotonic() + WAIT_FOR_FILE
        while True:
            try:
                return self._take()
            except FileGone:
                if time.monotonic() > until:
                    raise
                time.sleep(LOOK_AGAIN)

    def _take(self) -> _Reader:
        """A reader with its snapshot begun, of the newest good file."""
        with self._room:
            if not self._room.wait_for(lambda: self._busy < self._limit and not self._paused, WAIT_FOR_CONNECTION):
                raise Unavailable("All readers of the replica are busy: try again in a few seconds.")
            self._busy += 1
        try:
            return self._newest() or self._last_good()
        except BaseException:
            self._leave()
            raise

    def _newest(self) -> _Reader | None:
        """A reader of the file that is at the path now, or None when that file is of no use."""
        file = identity(self.path)
        if file is None or self.trusted not in (None, file):
            return None
        reader = self._pop(file)
        if reader is not None and self._began(reader):
            return reader
        try:
            reader = _Reader(file, self._life, connect(self.path, readonly=True))
        except (*FileBroke, Unavailable, apsw.BusyError) as exc:
            logger.debug("replica not opened file=%s cause=%s", self.path, exc)
            return None
        with self._room:
            self._lent += 1
        if identity(self.path) != file:
            self._discard(reader)
        elif self._began(reader):
            self._adopt(file)
            return reader
        return None

    def _last_good(self) -> _Reader:
        """A reader of the last good file: the one at the path is missing, damaged, or no replica yet."""
        while self._file is not None:
            with self._room:
                # The file has no name any more, so no connection can be added: wait for one of those that there are.
                self._room.wait_for(lambda: self._idle or self._lent == 0, WAIT_FOR_CONNECTION)
                reader = self._pop(self._file)
            if reader is None:
                raise FileGone(BROKEN)
            if self._began(reader):
                return reader
        raise Unavailable(NEVER_FETCHED)

    def _pop(self, file: tuple[int, int]) -> _Reader | None:
        """An idle reader of this file, which counts as lent from here on."""
        with self._room:
            if not self._idle or self._idle[-1].file != file:
                return None  # all idle ones are of one file: `_adopt` sees to it
            self._lent += 1
            return self._idle.pop()

    def _began(self, reader: _Reader) -> bool:
        """Begin the snapshot; False, with the connection closed, where the file proves to be no bootstrapped replica."""
        try:
            reader.db.execute("BEGIN")
            # The first read takes the snapshot. It also tells an emptied file, which SQLite reads as an empty database, from a replica.
            if reader.db.execute("SELECT seq FROM changelog_position").fetchall():
                return True
        except (*FileBroke, apsw.SQLError, apsw.BusyError) as exc:
            logger.debug("replica not readable file=%s cause=%s", self.path, exc)
        self._discard(reader)
        return False

    def _adopt(self, file: tuple[int, int]) -> None:
        """`file` is the good one from here on: connections to an older one are closed."""
        with self._room:
            if file == self._file:
                return
            self._file = file
            old, self._idle = self._idle, []
        for reader in old:
            reader.db.close()

    def _give_back(self, reader: _Reader, sound: bool) -> None:
        with self._room:
            keep = sound and reader.life == self._life and reader.file == self._file
            if keep:
                self._idle.append(reader)
                self._lent -= 1
        if not keep:
            self._discard(reader)
        self._leave()

    def _discard(self, reader: _Reader) -> None:
        reader.db.close()
        with self._room:
            self._lent -= 1
            self._room.notify_all()

    def _leave(self) -> None:
        with self._room:
            self._busy -= 1
            self._room.notify_all()


def _end_snapshot(db: apsw.Connection) -> bool:
    """End the read transaction; False when it stays open (a statement was not read to its end), then the connection is closed instead."""
    try:
        if db.in_transaction:
            db.execute("ROLLBACK")
        return db.txn_state("main") == apsw.SQLITE_TXN_NONE
    except apsw.Error:
        return False
