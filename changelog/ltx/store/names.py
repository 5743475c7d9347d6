"""What all stores have in common: the names of files, the interface, and times as text.

A bucket has no list of its own: the names say which transactions a file holds, and at which level of compaction. Everything else that
lies there is passed over, so that notes of ours can stand beside the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Protocol

from changelog.errors import BadRequest

SNAPSHOTS = 9  # the level of whole databases
ALL = -1  # a transaction before every other, also before 0, which no true name has
LEVELS = range(SNAPSHOTS + 1)  # 0 is what was shipped; those between hold several files of the one below

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ltx")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, order=True)
class Name:
    """One file: its level, and its first and last transaction."""

    level: int
    min_txid: int
    max_txid: int

    @property
    def file(self) -> str:
        """The last part of its key or path."""
        return f"{self.min_txid:016x}-{self.max_txid:016x}.ltx"

    def __str__(self) -> str:
        return f"{self.level}/{self.file}"

    @classmethod
    def parse(cls, level: int, file: str) -> Name | None:
        """The twin of `file`; None for what is no file of ours."""
        found = _NAME.fullmatch(file)
        return cls(level, int(found[1], 16), int(found[2], 16)) if found else None


@dataclass(frozen=True, order=True)
class Stored:
    """A file that a store has."""

    name: Name
    size: int  # bytes
    modified_ms: int  # since 1970. In a folder this is the file's timestamp, in a bucket when it was put there: see `timestamp`


@dataclass(frozen=True)
class Taken:
    """Nothing was put: another file of that name was there before."""

    name: Name
    same: bool  # it has the very same bytes: somebody was quicker, or this was done before


class Store(Protocol):
    """A place for the files of one database. All methods raise Unavailable, Forbidden or NotFound where the place does not answer."""

    @property
    def url(self) -> str:
        """The place, without a secret."""

    @property
    def conditional(self) -> bool:
        """Whether the place itself refuses a second file of a name. Where it does not, `put` looks first, and two writers need a fence."""

    def list(self, level: int, after_txid: int = ALL) -> list[Stored]:
        """The files of a level that begin after this transaction, in order."""

    def open(self, name: Name, spool: int = 0, folder: Path | None = None) -> BinaryIO:
        """A whole file, to be read from its start and closed. Raises NotFound.

        Where it must be fetched first, up to `spool` bytes are held in memory, and a longer one lies in `folder`, unnamed.
        """

    def put(self, name: Name, file: BinaryIO, timestamp_ms: int, if_absent: bool = True) -> Taken | None:
        """Store all of `file`, whole or not at all, durably; None says that it is done. `file` can seek."""

    def delete(self, names: Iterable[Name]) -> None:
        """Remove files; one that is not there is no error."""

    def tidy(self) -> int:
        """Take away what writers that were killed long ago have left there unseen; returns how much that was."""

    def timestamp(self, name: Name) -> int:
        """The time that the writer gave a file, ms since 1970. Raises NotFound."""

    def note(self, key: str) -> bytes | None:
        """A small object beside the files, which other programs pass over."""

    def put_note(self, key: str, content: bytes, if_absent: bool = False) -> bool:
        """Write a note; False where `if_absent` and there is one."""

    def delete_note(self, key: str) -> None:
        """Remove a note, if it is there."""


def as_text(timestamp_ms: int) -> str:
    """A time as RFC 3339 in UTC, with as many decimals as it needs, as Go writes it."""
    whole, rest = divmod(timestamp_ms, 1000)
    at = _EPOCH + timedelta(seconds=whole)
    return f"{at:%Y-%m-%dT%H:%M:%S}" + (f".{rest:03}".rstrip("0") if rest else "") + "Z"


def from_text(text: str) -> int:
    """A time of RFC 3339, without a zone in UTC, in ms since 1970, cut there. Raises BadRequest for what is none."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadRequest(f"{text!r} is not a time such as 2026-11-23T06:00:00Z") from None
    return from_moment(at if at.tzinfo else at.replace(tzinfo=UTC))


def from_moment(at: datetime) -> int:
    """ms since 1970."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def same_content(one: BinaryIO, other: BinaryIO) -> bool:
    """Whether two files have the same bytes, from where they are read."""
    while True:
        a, b = one.read(65536), other.read(65536)
        if a != b:
            return False
        if not a:
            return True
