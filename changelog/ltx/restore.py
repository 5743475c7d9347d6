"""A database from the files of a bucket or folder: checked while it is read, written beside its place, and put there in one step."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from changelog.bootstrap import put_in_place
from changelog.connection import JOURNAL, connect, remove_journal, rows, sync_path, write_at
from changelog.errors import Conflict, DamagedFile, Forbidden, NotFound, Unavailable
from changelog.ltx.codec import Decoder
from changelog.ltx.fetch import decoded, fetched
from changelog.ltx.header import Header, damaged
from changelog.ltx.pages import shortest_frame
from changelog.ltx.plan import plan
from changelog.ltx.store.folder import link_new
from changelog.ltx.store.names import Store, Stored

BESIDE = ".restoring"  # behind the name of the target, while it is written
RUN_BYTES = 512 * 1024  # that are written at a time
FAULTS_NAMED = 10  # of those that SQLite finds
PLANS = 3  # compaction may take files away while they are read: then there are others, which hold the same

Progress = Callable[[int, int], object]  # bytes read, of how many


@dataclass(frozen=True)
class Restored:
    """What was restored."""

    txid: int  # the last transaction in it
    timestamp_ms: int  # when that was shipped
    size: int  # bytes
    page_size: int
    files: int  # that it was made of
    read: int  # bytes of those


def restore(
    store: Store,
    target: Path,
    txid: int | None = None,
    timestamp_ms: int | None = None,
    *,
    force: bool = False,
    check: bool = False,
    progress: Progress = lambda done, total: None,
) -> Restored:
    """Make `target` the database as of its newest state, right after `txid`, or before a time.

    Raises Conflict where `target` is there (unless `force`; nobody may have it open then), NotFound where the store has no such state,
    DamagedObject, naming it, for a file that is not what it should be, DamagedFile where, with `check`, SQLite finds the database
    damaged: then `target` is what it was.
    """
    if not force:
        _check_free(target)
    with _beside(target) as (path, fd):
        for left in reversed(range(PLANS)):
            files = plan(store, txid, timestamp_ms)
            os.ftruncate(fd, 0)
            try:
                header = lay(store, files, fd, target.parent, progress)
            except NotFound:
                if not left:
                    raise
            else:
                break
        os.fsync(fd)
        if check:
            _check(path)
        _put(path, target, force)
    read = sum(file.size for file in files)
    return Restored(header.max_txid, header.timestamp_ms, header.commit * header.page_size, header.page_size, len(files), read)


def lay(store: Store, files: Sequence[Stored], fd: int, folder: Path, progress: Progress = lambda done, total: None) -> Header:
    """Write the database that `files`, oldest first, make into an empty file; returns the newest one's header.

    From the newest to the oldest: each page is written once, from the file that has it last.
    """
    total, done = sum(file.size for file in files), 0
    image: _Image | None = None
    with fetched(store, files[::-1], folder) as each:
        for stored, future in each:
            with future.result() as file:
                decoder = decoded(file, stored, store.url)
                if image is None:
                    image = _Image(fd, decoder, total)
                image.take(decoder, lambda read, before=done: progress(before + read, total))  # type: ignore[misc]
            done += stored.size
            progress(done, total)
    assert image is not None  # no plan is empty
    image.finish()
    return image.header


class _Image:
    """The file that is written: which pages it has."""

    def __init__(self, fd: int, newest: Decoder, total: int) -> None:
        self.header = header = newest.header
        self._fd, self._name = fd, newest.name
        if header.pages > total // shortest_frame(header.page_size):
            raise damaged(newest.name, f"it speaks of {header.commit} pages, more than all files can hold")
        self._there = bytearray(header.commit + 1)
        self._missing, self._limit = header.pages, header.commit
        self._run: list[bytes] = []
        self._run_from = 0

    def take(self, decoder: Decoder, read: Callable[[int], object]) -> None:
        """Write what newer files have not."""
        page_size = decoder.header.page_size
        if page_size != self.header.page_size:
            raise damaged(decoder.name, f"its pages have {page_size} bytes, those of {self._name} {self.header.page_size}")
        there, limit, run, most = self._there, self._limit, self._run, RUN_BYTES // page_size
        for pgno, page in decoder:
            if pgno > limit or there[pgno]:  # a page behind the limit was cut off later, and is not what came there again
                continue
            there[pgno] = 1
            if pgno != self._run_from + len(run) or len(run) >= most:
                self._flush()
                self._run_from = pgno
                read(decoder.offset)
            run.append(page)
        self._flush()
        self._limit = min(limit, decoder.header.commit)

    def finish(self) -> None:
        """All files are read. Raises DamagedObject where a page is missing."""
        header = self.header
        if self._missing:
            pgno = next(n for n in range(1, header.commit + 1) if not self._there[n] and n != header.lock_page)
            raise damaged(self._name, f"no file has page {pgno}, which its database of {header.commit} pages needs")
        os.ftruncate(self._fd, header.commit * header.page_size)

    def _flush(self) -> None:
        if not self._run:
            return
        write_at(self._fd, b"".join(self._run), (self._run_from - 1) * self.header.page_size)
        self._missing -= len(self._run)
        self._run.clear()


def _check_free(target: Path) -> None:
    for path in (target, *(Path(f"{target}{suffix}") for suffix in JOURNAL)):
        if os.path.lexists(path):
            raise Conflict(f"{path} is there: take it away, choose another name, or say --force when no program has it open")


@contextmanager
def _beside(target: Path) -> Iterator[tuple[Path, int]]:
    """A file beside `target`, empty, that no other restore writes to. It is gone afterwards, unless it became the target."""
    path = target.with_name(target.name + BESIDE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o660)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = path.exists() and os.path.samestat(os.fstat(fd), path.stat())  # else it has become a target just now
            except BlockingIOError:
                ours = False
            if not ours:
                raise Conflict(f"another restore of {target} is under way")
            try:
                yield path, fd
            finally:
                if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                    path.unlink()
        finally:
            os.close(fd)
    except PermissionError as exc:
        raise Forbidden(f"{target} may not be written: {exc.strerror}") from exc
    except OSError as exc:
        raise Unavailable(f"{target} cannot be written: {exc.strerror}") from exc


def _check(path: Path) -> None:
    """Let SQLite look at a database that nobody else knows, and that must stay what it is to the byte."""
    try:
        db = connect(path, readonly=True)
        try:
            found = "; ".join(text for (text,) in rows(db, f"PRAGMA integrity_check({FAULTS_NAMED})"))
        finally:
            db.close()
    finally:
        remove_journal(path)
    if found != "ok":
        raise DamagedFile(f"every file is what it says, but SQLite finds their database damaged: {found}")


def _put(path: Path, target: Path, force: bool) -> None:
    if force:
        put_in_place(path, target)
        return
    if not link_new(path, target):
        raise Conflict(f"{target} has been made by somebody else meanwhile")
    sync_path(target.parent)
