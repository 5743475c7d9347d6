"""The one place that opens database files. Both roles and all commands go through `connect`, so that the rules below hold everywhere.

- apsw only. The standard library's sqlite3 in the same process drops the file locks that apsw holds (POSIX locks belong to the
  process and go with the first close()), and commits are lost. For the same reason nothing in a process may open() and close() a
  database file that it has open here: files are copied with SQLite's backup API.
- One checkpointer at a time: only a connection opened with `checkpoints=True` moves the -wal into the file, or the shipper while it runs
  (changelog/lease.py). SQLite up to 3.51.2 can corrupt a file when two connections do so at once (the WAL-reset bug), and Raspberry Pi
  OS has 3.40.
- synchronous=FULL: what was committed stays committed through a power cut.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import apsw

from changelog.errors import DamagedFile
from changelog.storage import is_damage, not_yours, unusable

BUSY_TIMEOUT = 5_000  # ms that a statement waits for another writer's lock
WAL_AUTOCHECKPOINT = 1_000  # pages, for the one connection that checkpoints
WAL_HEADER = 32  # bytes
JOURNAL = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a file, and finds by its name

Path_ = str | os.PathLike[str]


class Connection(apsw.Connection):
    """An apsw connection whose `with` (a transaction, or a savepoint within one) stops no other thread.

    apsw's own holds Python's lock while BEGIN waits for a writer and while COMMIT waits for the disk: all threads stand still, and when
    one of them is that writer, nothing moves until the busy timeout.
    """

    _savepoints = 0

    def __enter__(self) -> Self:
        """Begin."""
        if self.in_transaction:
            super().__enter__()
            self._savepoints += 1
        else:
            self.execute(f"BEGIN {self.transaction_mode}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Commit, or roll back when the block or the commit raised."""
        if self._savepoints:
            self._savepoints -= 1
            return super().__exit__(kind, error, trace)
        try:
            if kind is None:
                self.execute("COMMIT")
        finally:
            if self.in_transaction:  # some errors have rolled back already: a full disk, OR ROLLBACK
                self.execute("ROLLBACK")
        return False


def connect(
    path: Path_,
    *,
    readonly: bool = False,
    create: bool = False,
    scratch: bool = False,
    checkpoints: bool = False,
    foreign_keys: bool = False,
    immutable: bool = False,
    leaves_wal: bool = False,
    patience: int = BUSY_TIMEOUT,
) -> apsw.Connection:
    """Open `path` by our rules and return the apsw connection.

    `readonly` also sets query_only; `create` makes a missing file (in WAL mode); `scratch` is for a file that nobody else knows and that a
    crash may ruin: no journal, no syncs; `checkpoints` makes this connection the file's checkpointer; `foreign_keys` enforces them;
    `immutable` reads a file that nobody writes to meanwhile, without locks and without making a -wal or -shm beside it; `leaves_wal`: when
    this is the last connection to close, the -wal is neither moved into the file nor removed; `patience` is how many ms a statement waits
    for somebody's lock, the first one here included.
    Raises DamagedFile when the file is missing or is not a database, Unavailable (DiskFull) when the disk does not let it be used just now.
    """
    name, readonly = os.fspath(path), readonly or immutable
    flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
    if create:
        flags |= apsw.SQLITE_OPEN_CREATE
    if immutable:
        name, flags = f"file:{quote(os.path.abspath(name))}?immutable=1", flags | apsw.SQLITE_OPEN_URI
    try:
        db = Connection(name, flags=flags)
    except (apsw.CantOpenError, apsw.IOError) as exc:
        raise DamagedFile(f"{path} {_why_closed(Path(path))}", path=str(path)) from exc
    try:
        db.set_busy_timeout(patience)
        db.transaction_mode = "IMMEDIATE" if not readonly else "DEFERRED"
        db.wal_autocheckpoint(WAL_AUTOCHECKPOINT if checkpoints else 0)
        if leaves_wal:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.pragma("synchronous", "OFF" if scratch else "FULL")  # first: to leave WAL mode syncs the file
        if scratch:
            db.pragma("journal_mode", "off")
        elif create:
            _use_wal(db, patience)
        db.pragma("foreign_keys", foreign_keys)
        db.pragma("temp_store", "MEMORY")  # savepoints and triggers keep journals, which else are files on the SD card
        if readonly:
            db.pragma("query_only", True)
        db.pragma("schema_version")  # the first read: here a file that is no database shows itself
    except apsw.ReadOnlyError:  # a program was killed while it wrote: its journal must be rolled back first, by somebody who may
        db.close()
        if not readonly or not os.access(path, os.W_OK):
            raise
        connect(path).close()
        return connect(path, readonly=True, patience=patience)
    except (apsw.NotADBError, apsw.CorruptError, apsw.IOError, apsw.CantOpenError, apsw.FullError) as exc:
        db.close()
        if is_damage(exc):
            raise DamagedFile(f"{path} is not a database, or is damaged: {exc}", path=str(path)) from exc
        raise unusable(path, exc) from exc
    except BaseException:
        db.close()
        raise
    return db


def _why_closed(path: Path) -> str:
    try:
        if not path.exists():
            return "is missing"
    except PermissionError:
        return "cannot be opened: this user may not enter its folder"
    if os.access(path, os.R_OK, effective_ids=True):
        return "cannot be opened"
    return f"cannot be opened: {not_yours(path)}"


def _use_wal(db: apsw.Connection, patience: int) -> None:
    """Make it a file in WAL mode. SQLite reads before it writes here, and so waits for no writer: several who open a file at once meet."""
    until = time.monotonic() + patience / 1000
    while True:
        try:
            db.pragma("journal_mode", "wal")
            return
        except apsw.BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def identity(path: Path_) -> tuple[int, int] | None:
    """(device, inode) of the file at `path`, or None: when it changes, the file was replaced and open connections hold the old one."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def journal_of(path: Path_) -> dict[str, tuple[int, int] | None]:
    """The identities of what stands beside a database that this process has open: see `drop_journal`."""
    return {suffix: identity(f"{os.fspath(path)}{suffix}") for suffix in JOURNAL}


def drop_journal(path: Path_, known: dict[str, tuple[int, int] | None]) -> None:
    """After the file at `path` was replaced and before the new one is opened: remove what was `known` to belong to the old one.

    SQLite finds them by name, and would play the changes of the old file into the new one. Never when the old file itself is back: who
    has it open here goes on with the -shm that is removed, other processes make a new one, and they do not see each other's locks.
    """
    for suffix, file in known.items():
        if file is not None and identity(f"{os.fspath(path)}{suffix}") == file:
            os.unlink(f"{os.fspath(path)}{suffix}")


def remove_journal(path: Path_) -> None:
    """Remove what belonged to a file that is gone, or that nobody has open: it would be played into the next one of that name."""
    for suffix in JOURNAL:
        Path(f"{os.fspath(path)}{suffix}").unlink(missing_ok=True)


def remove_database(path: Path_) -> None:
    """Remove a file that nobody has open, or what a killed process left of one, with all that belongs to it."""
    Path(path).unlink(missing_ok=True)
    remove_journal(path)


def sync_file(db: apsw.Connection) -> None:
    """Bring the database file of an open connection to the disk: what a checkpoint moved into it, whoever made that.

    By SQLite, which knows that a close() of ours would drop its locks. A checkpoint of ours does not do it: it skips what another one has
    moved. Raises IOError of apsw.
    """
    file = apsw.VFSFile("", os.path.realpath(db.filename), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        file.xSync(apsw.SQLITE_SYNC_NORMAL)
    finally:
        file.xClose()


def sync_path(path: Path_) -> None:
    """Bring a file or a folder to the disk. Not for a database that this process has open: see above."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_at(fd: int, data: bytes | memoryview, at: int) -> None:
    """All of `data`, from the byte `at` on. A disk that fills up takes a part of a write and calls that a success. Raises OSError."""
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, at)
        left, at = left[written:], at + written


def write_whole(path: Path, content: bytes, mode: int | None = None) -> None:
    """Make a small file that is whole or not there, also after a power cut, and is on the disk when this returns. It stays its owner's.

    `mode` None: as the umask has it. Raises OSError; then the old file is there.
    """
    path = path.resolve()  # behind a link, which stays
    new = path.with_name(f"{path.name}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666 if mode is None else mode), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)  # a file that was left there had another one
            if os.geteuid() == 0:  # root writes what the role's user must read
                owner = (path if path.exists() else path.parent).stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def one(db: apsw.Connection, sql: str, bindings: Any = ()) -> Any:
    """The first column of the first row, or None when there is no row."""
    row = db.execute(sql, bindings).fetchone()
    return None if row is None else row[0]


def rows(db: apsw.Connection, sql: str, bindings: Any = ()) -> list[tuple[Any, ...]]:
    """All rows. For the few; what may be large is iterated over."""
    return db.execute(sql, bindings).fetchall()
