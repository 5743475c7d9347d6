"""What the disk does to us: the errors of SQLite and of the system that say nothing about what was asked, in words for anybody.

An error while a file is written does not mean that the file is damaged: only what cannot be read is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from changelog.errors import DamagedFile, DiskFull, Unavailable
from changelog.space import is_full

LOCKED = "another program holds the database locked"

# What is tried again is tried again after these, whoever's statement met them.
STORAGE = (
    apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.IOError,
    apsw.ReadOnlyError, apsw.CantOpenError, apsw.CorruptError, apsw.NotADBError,
)  # fmt: skip

# After these a connection is opened anew: where it could not open a file for writing it took it for reading, and never asks again.
UNUSABLE = (apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError)

# What is good to know, but not worth failing for, stays unwritten after these.
UNWRITTEN = (apsw.BusyError, apsw.FullError, *UNUSABLE)

_WORDS: tuple[tuple[type[Exception], str], ...] = (  # the first that fits
    (apsw.FullError, "the disk is full"),
    (apsw.BusyError, LOCKED),
    (apsw.LockedError, LOCKED),
    (apsw.ReadOnlyError, "the database is read-only"),
    (apsw.CorruptError, "the database is damaged"),
    (apsw.NotADBError, "the database is damaged"),
    (DamagedFile, "the database is missing or damaged"),
    (Unavailable, "the database was replaced and is being opened"),
    (apsw.CantOpenError, "the database is missing or cannot be opened"),
    (apsw.IOError, "the disk cannot be read or written"),
    (apsw.Error, "the database cannot be written"),
)

_READ_FAILED = {apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS, apsw.SQLITE_IOERR_DATA}


def in_words(exc: Exception) -> str:
    """An error of the storage in words for anybody: no path, no values."""
    if is_full(exc):
        return "the disk is full"
    if isinstance(exc, OSError):
        return f"the disk cannot be used: {exc.strerror or exc}"
    return next((words for kind, words in _WORDS if isinstance(exc, kind)), "the database cannot be written")


def is_damage(exc: BaseException) -> bool:
    """Whether a file that was read is damaged, in contrast to a disk that cannot be written."""
    return isinstance(exc, apsw.CorruptError | apsw.NotADBError) or getattr(exc, "extendedresult", None) in _READ_FAILED


def is_outage(exc: BaseException) -> bool:
    """Whether the disk, or somebody's lock, is to blame: this says nothing about what was read or asked."""
    return isinstance(exc, STORAGE) and not is_damage(exc)


def unusable(what: object, exc: Exception) -> Unavailable:
    """What is raised for an error of the storage that is no damage: it says that `what` cannot be used, and why."""
    kind = DiskFull if is_full(exc) else Unavailable
    return kind(f"{what} cannot be used: {in_words(exc)}")


def not_yours(path: Path) -> str:
    """What is said of a file that this user may not use: whose it is, as far as that can be seen, and what to do."""
    try:
        owner = path.owner()
    except (OSError, KeyError):
        owner = "somebody who is not known here"
    return f"Permission denied: it belongs to {owner}: run this as that user, or change its owner"


@contextmanager
def usable(what: object) -> Iterator[None]:
    """Errors of the storage in the block become Unavailable (DiskFull) as of `unusable`; but for damage."""
    try:
        yield
    except (*STORAGE, OSError) as exc:
        if is_damage(exc):
            raise
        raise unusable(what, exc) from exc
