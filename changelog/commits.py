"""Seeing every commit to a database file within milliseconds, whoever made it and in whatever process.

inotify tells that somebody writes to the -wal, but not that a commit can be seen: with synchronous=FULL it speaks before that, by as long
as the disk takes, and then never again. So a write only makes the watcher look, at once and again after each of RECHECKS; what nobody
announced is found by the FLOOR. To look is `PRAGMA data_version` on a connection of our own (2.6 us): it moves with every commit of others.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw
from watchdog.events import FileCreatedEvent, FileDeletedEvent, FileModifiedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from changelog.connection import Path_, connect, one
from changelog.errors import NotAPrimary
from changelog.install import schema_moved
from changelog.log import head

RECHECKS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # s after a write; the last ones for slow SD cards
FLOOR = 0.5  # s after which the watcher looks though nobody wrote
POLL = 0.02  # s between two looks where there is no inotify
LOOK_AGAIN = 1.0  # s after which who waits looks for himself: the watcher cannot read a file that is away
CLOSE_TIMEOUT = 1.0  # s
WRITES = [FileModifiedEvent, FileCreatedEvent, FileMovedEvent, FileDeletedEvent]

logger = logging.getLogger(__name__)

Identity = tuple[int, int] | None


class CommitWatcher:
    """Tells those who wait when anybody, in any process, has committed to the file. It looks only while somebody waits."""

    def __init__(self, path: Path_, present: Callable[[], Identity]) -> None:
        """`present` gives the identity of the file at `path`, or raises while it must not be opened."""
        self._path, self._present = path, present
        self._changed = threading.Condition()
        self._waiting = 0
        self._moves = 0  # how often the database was seen to move
        self._closed = False
        self._stirred = threading.Event()  # there is a reason to look
        self._thread: threading.Thread | None = None
        self._db: apsw.Connection | None = None  # this and the next two are the watching thread's
        self._file: Identity = None
        self._version: tuple[int, Identity] | None = None

    def wait(self, seq: int, seconds: float, stopping: threading.Event | None = None) -> None:
        """Return when the log's head is not at `seq` any more, its schema moved, or `seconds` have passed.

        Raises DamagedFile when the file is missing, and what `present` raises.
        """
        until = time.monotonic() + seconds
        with self._awaited():
            while time.monotonic() < until and not self._closed and not (stopping and stopping.is_set()):
                before = self._moves
                if self._moved_past(seq):
                    return
                self._next_move(before, min(LOOK_AGAIN, max(0.0, until - time.monotonic())))

    def moved(self, since: int, seconds: float) -> int:
        """How often the database was seen to move, told as soon as that is not `since`, or after `seconds`; -1 is never the answer.

        A move is a commit, several that came together, or another file: who wants to know more reads the head.
        """
        with self._awaited():
            return self._next_move(since, seconds)

    def hint(self) -> None:
        """Somebody in this process has just committed: look now."""
        self._stirred.set()

    def release(self) -> None:
        """Let those who wait look up, as if the file had moved: one of them is to stop."""
        with self._changed:
            self._moves += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let everybody go, and close the file."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._stirred.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)

    @contextmanager
    def _awaited(self) -> Iterator[None]:
        """Somebody waits while the block runs, so the watcher looks."""
        with self._changed:
            self._waiting += 1
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="commits", daemon=True)
                self._thread.start()
            if self._waiting == 1:
                self._stirred.set()  # nobody has looked for a while
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1

    def _next_move(self, since: int, seconds: float) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._moves != since or self._closed, seconds)
            return self._moves

    def _moved_past(self, seq: int) -> bool:
        self._present()
        db = connect(self._path, readonly=True)
        try:
            return head(db) != seq or schema_moved(db)
        except (apsw.SQLError, NotAPrimary):
            return True  # whoever reads next says what is wrong
        finally:
            db.close()

    def _run(self) -> None:
        folder = _Folder(self._path, self._stirred.set)
        folder.watch()
        try:
            while not self._closed:
                self._turn(folder)
        finally:
            folder.leave()
            if self._db is not None:
                self._db.close()

    def _turn(self, folder: _Folder) -> None:
        """Wait for a reason to look, and look as often as that asks for."""
        announced = self._stirred.wait((FLOOR if folder.watched else POLL) if self._waiting else None)
        began = time.monotonic()
        self._stirred.clear()
        if self._closed or not self._waiting:
            return
        moved = self._look()
        if not announced:
            if moved and folder.watched:
                folder.watch()  # a commit that nobody announced: the folder at the path may be another one now
            return
        for delay in RECHECKS if folder.watched else ():
            if self._stirred.wait(max(0.0, began + delay - time.monotonic())):
                return  # there was another write: from the beginning
            self._look()

    def _look(self) -> bool:
        """See whether the file has moved, and tell everybody."""
        try:
            seen = self._read_version()
        except Exception:  # the file is away or locked: those who wait look for themselves
            return False
        if seen == self._version:
            return False
        self._version = seen
        self.release()
        return True

    def _read_version(self) -> tuple[int, Identity]:
        file = self._present()
        if self._db is None or file != self._file:
            if self._db is not None:
                self._db.close()
                self._db = None
            self._db, self._file = connect(self._path, readonly=True), file
        # Not the data_version() of apsw, which does not move until something is read.
        return one(self._db, "PRAGMA data_version"), file


class _Folder(FileSystemEventHandler):
    """Calls `written` when anything was written to the database at `path`.

    The folder is watched and not the -wal, which goes when the last connection closes, and comes again as another file.
    """

    def __init__(self, path: Path_, written: Callable[[], None]) -> None:
        self._path = path
        self._written = written
        self._names: set[str] = set()
        self._observer: Observer | None = None  # type: ignore[valid-type]
        self._refused = False

    @property
    def watched(self) -> bool:
        """Whether writes are told."""
        return self._observer is not None

    def watch(self) -> None:
        """Begin, or begin again. Where it cannot be done, that is logged once."""
        self.leave()
        file = Path(os.path.realpath(self._path))  # beside what a link leads to stands its -wal
        self._names = {file.name, f"{file.name}-wal", f"{file.name}-journal"}
        try:
            observer = Observer()
            observer.schedule(self, str(file.parent), event_filter=WRITES)
            observer.start()
        except OSError as exc:
            if not self._refused:
                logger.warning("the folder cannot be watched, looking every %g s folder=%s cause=%s", POLL, file.parent, exc)
            self._refused = True
            return
        self._observer = observer

    def leave(self) -> None:
        """End."""
        observer, self._observer = self._observer, None
        if observer is not None:
            with suppress(RuntimeError):
                observer.stop()
                observer.join(CLOSE_TIMEOUT)

    def dispatch(self, event: FileSystemEvent) -> None:
        """Called by watchdog."""
        if not self._names.isdisjoint((os.path.basename(os.fsdecode(event.src_path)), os.path.basename(os.fsdecode(event.dest_path)))):
            self._written()
