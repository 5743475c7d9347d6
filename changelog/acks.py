"""How far each replica is: acknowledgements, kept in a companion of the primary's database, which is not replicated itself.

The newest one of each replica is in memory; it is written to the file at most once a minute, because a write per poll would wear out an
SD card. Other processes may forget replicas in the file: that counts as soon as `all` looks there again.
"""

from __future__ import annotations

import calendar
import contextlib
import logging
import os
import threading
import time
from dataclasses import dataclass

import apsw

from changelog.companion import Companion
from changelog.connection import Path_, connect, rows
from changelog.errors import NotFound
from changelog.position import Position
from changelog.storage import UNWRITTEN

WRITE_EVERY = 60.0  # s between two writes of one replica's acknowledgement
MAX_REPLICAS = 200  # when there are more, those not heard of for longest are forgotten: a client may make up ids

_SCHEMA = """CREATE TABLE IF NOT EXISTS acks(  -- how far each replica is: retention trims nothing after the slowest
  replica_id TEXT PRIMARY KEY,
  key_name TEXT NOT NULL,                      -- of the API key that it used
  epoch TEXT NOT NULL,
  seq INTEGER NOT NULL,
  at TEXT NOT NULL,                            -- when it was last heard of, UTC, to the minute
  nonce INTEGER                                -- of the row at seq
)"""
_COLUMNS = "replica_id, key_name, epoch, seq, at, nonce"

AT = "%Y-%m-%dT%H:%M:%S"  # how a time is written

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ack:
    """What one replica has: everything up to `seq` of `epoch`. `at` is when it said so, `nonce` None where an older version wrote it."""

    replica_id: str
    key_name: str
    epoch: str
    seq: int
    at: str
    nonce: int | None = None

    @property
    def age(self) -> float:
        """Seconds since then, by a clock that may have jumped."""
        return max(0.0, time.time() - calendar.timegm(time.strptime(self.at, AT)))


@dataclass(slots=True)
class _Known:
    """An acknowledgement in memory, when it was last written (time.monotonic()), and whether it ever was."""

    ack: Ack
    written: float = 0.0
    stored: bool = False


class Acks:
    """The acknowledgements in the table `acks` of the file at `path`, for many threads."""

    def __init__(self, path: Path_) -> None:
        self._file = Companion(path)
        _make_table(self._db)
        self._lock = threading.Lock()
        self._closed = False
        self._known = {ack.replica_id: _Known(ack, stored=True) for ack in _read(self._db)}

    @property
    def _db(self) -> apsw.Connection:
        return self._file.db

    def acknowledge(self, replica_id: str, key_name: str, position: Position) -> None:
        """The replica says that it holds everything up to `position`."""
        with self._lock:
            if not self._closed:
                self._take(replica_id, key_name, position)

    def handed_out(self, replica_id: str, key_name: str, position: Position) -> None:
        """The replica was given a snapshot at `position`: it needs nothing from before, unless it is known to be further already."""
        with self._lock:
            known = self._known.get(replica_id)
            further = known and known.ack.epoch == position.epoch and known.ack.seq >= position.seq
            if not self._closed and not further:
                self._take(replica_id, key_name, position, at_once=True)  # a rare event, and often a long way

    def all(self) -> list[Ack]:
        """The newest acknowledgement of each replica, by id. Raises what reading the file raises."""
        with self._lock:
            if not self._closed:
                self._read_again()
            return [known.ack for _, known in sorted(self._known.items())]

    def forget(self, replica_id: str) -> None:
        """Nothing is kept for this replica any more. Raises NotFound."""
        with self._lock:
            self._db.execute("DELETE FROM acks WHERE replica_id=?", (replica_id,))
            if not self._db.changes():
                raise NotFound(f"no replica {replica_id!r} is known here; `python -m pi replica list` shows them")
            self._known.pop(replica_id, None)

    def forget_key(self, key_name: str) -> int:
        """The same for all replicas that used this key; returns how many there were."""
        with self._lock:
            self._db.execute("DELETE FROM acks WHERE key_name=?", (key_name,))
            count = self._db.changes()
            self._known = {name: known for name, known in self._known.items() if known.ack.key_name != key_name}
        return count

    def close(self) -> None:
        """Write what is in memory only, and close the file."""
        with self._lock:
            if not self._closed:
                for known in self._known.values():
                    self._write(known)
                self._closed = True
                self._file.close()

    def _take(self, replica_id: str, key_name: str, position: Position, at_once: bool = False) -> None:
        ack = Ack(replica_id, key_name, position.epoch, position.seq, _now(), position.check)
        known = self._known.get(replica_id)
        if known is None:
            self._make_room()
            known = self._known[replica_id] = _Known(ack)
        known.ack = ack
        if at_once or not known.stored or time.monotonic() - known.written >= WRITE_EVERY:
            self._write(known, anew=True)

    def _write(self, known: _Known, anew: bool = False) -> None:
        """Bring one to the file; `anew` also where another process has deleted it there. A locked or full file fails no request."""
        ack = known.ack
        values = (ack.replica_id, ack.key_name, ack.epoch, ack.seq, ack.at, ack.nonce)
        row = f"({_COLUMNS})=(?,?,?,?,?,?)"
        try:
            with self._file.watched() as db:
                if anew or not known.stored:
                    db.execute(f"INSERT OR REPLACE INTO acks({_COLUMNS}) VALUES(?,?,?,?,?,?)", values)
                else:
                    db.execute(f"UPDATE acks SET {row} WHERE replica_id=? AND {row} IS NOT TRUE", (*values, ack.replica_id, *values))
            known.stored = True
        except UNWRITTEN as exc:
            logger.warning("an acknowledgement could not be written replica=%s cause=%s", ack.replica_id, exc)
        known.written = time.monotonic()

    def _read_again(self) -> None:
        """Forget what another process has deleted, and learn what it has written."""
        with self._file.watched() as db:
            filed = {ack.replica_id: ack for ack in _read(db)}
        self._known = {name: known for name, known in self._known.items() if name in filed or not known.stored}
        for name, ack in filed.items():
            self._known.setdefault(name, _Known(ack, stored=True))

    def _make_room(self) -> None:
        if len(self._known) >= MAX_REPLICAS:
            oldest = min(self._known.values(), key=lambda known: known.ack.at).ack.replica_id
            logger.warning("more than %d replicas: the one not heard of for longest is forgotten replica=%s", MAX_REPLICAS, oldest)
            del self._known[oldest]
            with contextlib.suppress(*UNWRITTEN), self._file.watched() as db:
                db.execute("DELETE FROM acks WHERE replica_id=?", (oldest,))


def read_acks(path: str | os.PathLike[str]) -> list[Ack]:
    """The acknowledgements in the file at `path`, which is not changed; none where it has no such table. Raises DamagedFile."""
    db = connect(path, readonly=True)
    try:
        return _read(db) if db.table_exists("main", "acks") else []
    finally:
        db.close()


def _make_table(db: apsw.Connection) -> None:
    if not _has_nonce(db):
        with db:
            db.execute(_SCHEMA)
            if not _has_nonce(db):  # a file of an earlier version
                db.execute("ALTER TABLE acks ADD COLUMN nonce INTEGER")


def _has_nonce(db: apsw.Connection) -> bool:
    return bool(rows(db, "SELECT 1 FROM pragma_table_info('acks') WHERE name='nonce'"))


def _read(db: apsw.Connection) -> list[Ack]:
    columns = _COLUMNS if _has_nonce(db) else _COLUMNS.replace("nonce", "NULL")
    return [Ack(*row) for row in rows(db, f"SELECT {columns} FROM acks ORDER BY replica_id")]


def _now() -> str:
    return time.strftime(AT, time.gmtime())
