"""Every commit of a database file, whoever made it, as the pages that it changed: read from the -wal, and nothing of it is ever missed.

A read transaction of ours is always open, and the next one begins before the last one ends. SQLite overwrites the -wal only when all of it
stands in the database file and no reader needs it; our transaction keeps the checkpoints of everybody from going further than what it
sees, so that happens only when it sees all that was committed, and all of that was handed out. What comes then begins a new -wal, which
cannot be moved into the file, hence not be overwritten, before our transaction moves on. So no frame is lost while we run, whoever
checkpoints. The price: without checkpoints of our own (`Tail.checkpoint`) the -wal grows.

A process with a tailer opens the database by apsw only, and never opens and closes the file itself: see changelog/connection.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import apsw

from changelog.connection import Path_, connect, one
from changelog.durable import DurableWal
from changelog.errors import ConfigError
from changelog.ltx.wal import NO_SALTS, Mark, TornWal, WalFile

PATIENCE = 0.1  # s that our checkpoint waits for writers: one of them may be a checkpoint that waits for us
NAP = 0.0005  # s between its tries: SQLite's own, of up to 0.1 s, never meet the gap between two busy writers
LOCK_BYTE = 2**30  # the page that holds this byte is never written: SQLite locks it
LOOKS = 1_000  # tries to look at the -wal while nobody commits


@dataclass(frozen=True)
class Change:
    """Some pages of a database: those that changed up to `mark`, or all of them (`whole`).

    `size` is that of the database in pages; the place in the -wal is in bytes. `read` gives the pages in ascending order, never the lock
    page, and raises TornWal when the -wal did not last.
    """

    page_size: int
    size: int
    whole: bool
    mark: Mark
    wal_offset: int
    wal_size: int
    count: int
    read: Callable[[], Iterator[tuple[int, bytes]]]


class Tail:
    """The commits to the database at `path`. Used by one thread."""

    def __init__(self, path: Path_) -> None:
        """Open it. Raises DamagedFile, or ConfigError when it is not in WAL mode."""
        self._open: list[apsw.Connection] = []
        self._wal: WalFile | None = None
        self._durable = DurableWal()
        self._file: apsw.VFSFile | None = None
        try:
            self._held, self._spare, self._control, self._writer = (self._connect(path) for _ in range(4))
            if (mode := one(self._control, "PRAGMA journal_mode")) != "wal":
                raise ConfigError(f"{path} has journal_mode {mode}, and only a -wal can be shipped: PRAGMA journal_mode=WAL makes one")
            self._writer.set_busy_handler(_Patience())
            self.page_size: int = one(self._control, "PRAGMA page_size")
            _take(self._held)
            self._size: int = one(self._held, "PRAGMA page_count")
            file = os.path.realpath(path)  # what a link leads to: beside that stands the -wal
            self._wal = WalFile(file, self.page_size)
            # By SQLite, which knows that a close() of ours would drop its locks.
            self._file = apsw.VFSFile("", file, [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        except BaseException:
            self.close()
            raise
        self.lock_page = LOCK_BYTE // self.page_size + 1
        self._held_at: tuple[bytes, int, int] | None = None  # the -wal when our transaction was moved for the sake of others
        self.mark: Mark | None = None  # up to here everything was handed out; None: nothing yet

    def _connect(self, path: Path_) -> apsw.Connection:
        db = connect(path, leaves_wal=True)
        self._open.append(db)
        return db

    def pause(self) -> None:
        """Hold the -wal no more, for good; the files stay open, so that no other ones get their inodes."""
        for db in (self._held, self._spare):
            if db.in_transaction:
                db.execute("ROLLBACK")

    def close(self) -> None:
        """Let go. The -wal stays as it is, so that the next one can go on where this one ended."""
        for db in self._open:
            db.close()
        if self._file is not None:
            self._file.xClose()
        if self._wal is not None:
            self._wal.close()
        self._durable.close()

    def resume(self, mark: Mark, size: int) -> bool:
        """Go on after `mark`, where the database had `size` pages; False when it cannot be proved that nothing is missing after it."""
        salts, frames, _ = self._look()
        with suppress(TornWal):
            if mark.salts != NO_SALTS and salts == mark.salts and frames >= mark.frame and self._wal_file.mark(salts, mark.frame) == mark:
                self.mark, self._size = mark, size
                return True
        return False

    def resume_file(self, size: int) -> None:
        """Go on from the database file, which had `size` pages, all handed out, and was not written to since: all of the -wal is new."""
        self.mark, self._size = Mark(NO_SALTS, 0), size

    def change(self) -> Change | None:
        """What was committed since `mark`, up to the newest commit, and is on the disk; all there is when there is no mark. None: nothing.

        `advance` says that it was taken. Raises TornWal.
        """
        salts, frames, moved = self._look()
        if self.mark is None:
            self._durable.sync(self._control)
            return self._whole(salts, frames, moved)
        if not frames or (salts, frames) == (self.mark.salts, self.mark.frame):
            if (salts, frames, moved) != self._held_at:  # somebody checkpoints, and waits for us: RESTART and TRUNCATE stop all writers
                self._move_hold()
                self._held_at = salts, frames, moved
            return None
        after = self.mark.frame if salts == self.mark.salts else 0
        if frames < after:
            raise TornWal
        self._durable.sync(self._control)
        return self._changed(salts, after, frames)

    def whole(self, change: Change | None) -> Change:
        """All pages as they are after `change`, which `change()` has just told and nobody advanced over; with None, at the mark."""
        mark = change.mark if change else self.mark
        assert mark is not None
        salts, frames, moved = self._look()
        if salts != mark.salts or frames < mark.frame:
            moved = frames = 0  # a new -wal: of the one that ended with `mark` all is in the file, and nothing of the new one can be
        return self._image(mark, mark.frame if frames and moved < mark.frame else 0, change.size if change else self._size)

    def advance(self, change: Change) -> None:
        """`change` is safe elsewhere: go on after it."""
        self.mark, self._size = change.mark, change.size
        self._move_hold()

    def frames(self) -> int:
        """How many frames of the -wal are in use, unless all of them stand in the file: then the next writer begins it anew."""
        _, frames, moved = self._look()
        return frames if moved < frames else 0

    def checkpoint(self, hand_out: Callable[[Change], object]) -> bool:
        """Move the -wal into the file, so that the next writer begins it anew; what is new until then is handed out and advanced over.

        False when a reader, or a writer that does not end, keeps the -wal as it is for now. Raises what `hand_out` raises.
        """
        with suppress(apsw.BusyError):
            self._control.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)  # most of it, while others may write
        try:
            self._writer.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            return False
        try:
            if change := self.change():
                hand_out(change)
                self.advance(change)
            self._move_hold()
            total, moved = self._control.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._move_hold()  # onto a -wal that is wholly in the file: such a reader does not need it
        except apsw.BusyError:
            return False
        finally:
            self._writer.execute("ROLLBACK")
        return total == moved

    @property
    def _wal_file(self) -> WalFile:
        assert self._wal is not None
        return self._wal

    def _look(self) -> tuple[bytes, int, int]:
        """The salts of the -wal, how many of its frames are committed, and how many of those stand in the file."""
        before = self._wal_file.header()
        for _ in range(LOOKS):
            try:
                frames, moved = self._control.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            except apsw.BusyError:  # met in the middle of somebody's commit, for which SQLite does not wait here
                time.sleep(NAP)
                continue
            after = self._wal_file.header()
            if after == before:
                return after[16:24] or NO_SALTS, frames, moved
            before = after
        raise TornWal

    def _move_hold(self) -> None:
        _take(self._spare)
        self._held.execute("ROLLBACK")
        self._held, self._spare = self._spare, self._held

    def _changed(self, salts: bytes, after: int, upto: int) -> Change:
        frames, size = self._wal_file.pages(salts, after, upto)
        # Pages by which the database grew but which nobody wrote, free ones, stand in no frame: the receiver has to know them all the same.
        wanted = sorted({page for page in frames if page <= size} | set(range(self._size + 1, size + 1)) - {self.lock_page})
        wal = self._wal_file
        mark = wal.mark(salts, upto)
        read = lambda: self._read(wanted, frames, salts)  # noqa: E731
        return Change(self.page_size, size, False, mark, wal.offset(after), wal.offset(upto) - wal.offset(after), len(wanted), read)

    def _whole(self, salts: bytes, frames: int, moved: int) -> Change:
        """All pages as of the newest commit."""
        size = self._wal_file.pages(salts, frames - 1, frames)[1] if frames else self._size
        return self._image(self._wal_file.mark(salts, frames), frames if moved < frames else 0, size)

    def _image(self, mark: Mark, used: int, size: int) -> Change:
        """All pages: of the first `used` frames, the others from the file, which holds nothing newer: our transaction was there before."""
        frames = self._wal_file.pages(mark.salts, 0, used)[0] if used else {}
        wanted = range(1, size + 1)
        read = lambda: self._read(wanted, frames, mark.salts if used else None)  # noqa: E731
        count = size - (1 if self.lock_page <= size else 0)
        # An offset of 0 would stop Litestream for good, and a size needs frames.
        return Change(self.page_size, size, True, mark, self._wal_file.offset(0), mark.frame * self._wal_file.frame_size, count, read)

    def _read(self, wanted: range | list[int], frames: dict[int, int], salts: bytes | None) -> Iterator[tuple[int, bytes]]:
        for page in wanted:
            if page != self.lock_page:
                frame = frames.get(page)
                yield page, self._page_of_file(page) if frame is None else self._wal_file.page(frame)
        if salts is not None and self._wal_file.salts() != salts:
            raise TornWal

    def _page_of_file(self, page: int) -> bytes:
        assert self._file is not None
        return self._file.xRead(self.page_size, (page - 1) * self.page_size).ljust(self.page_size, b"\0")


def _take(db: apsw.Connection) -> None:
    """Begin a read transaction that sees the newest commit."""
    db.execute("BEGIN")
    try:
        one(db, "PRAGMA schema_version")
    except BaseException:
        db.execute("ROLLBACK")
        raise


class _Patience:
    """Waits for a lock in short naps."""

    def __init__(self) -> None:
        self._until = 0.0

    def __call__(self, earlier: int) -> bool:
        """Whether to try once more, after `earlier` times."""
        if not earlier:
            self._until = time.monotonic() + PATIENCE
        time.sleep(NAP)
        return time.monotonic() < self._until
