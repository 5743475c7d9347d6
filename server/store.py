"""server.db: what belongs to this server alone and is never replicated. Settings, sync totals and history, API tokens, ended sessions."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import apsw

from changelog.connection import Path_, connect, identity, one, remove_journal
from changelog.errors import Conflict, DamagedFile, DiskFull, DroverError, NotFound
from changelog.storage import STORAGE, is_damage, is_outage, unusable, usable
from server.clock import utc_text
from server.paging import Page, page_of

FLUSH_INTERVAL = 10.0  # s between writes of counters: an idle poll must not cost a commit
HISTORY_SPAN = 600.0  # s for which equal outcomes are one line of the history
HISTORY_KEPT = 7 * 86_400.0  # s
HISTORY_PAGE = 30  # lines
TOKEN_PREFIX = "drv_"
ENDED_KEPT = 10_000  # sessions, the newest: counted and not timed, because a clock may step to a year in which all of them are old

SCHEMA = """
CREATE TABLE IF NOT EXISTS settings(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sync_totals(
  one INTEGER PRIMARY KEY CHECK (one = 1),
  total_syncs INTEGER NOT NULL DEFAULT 0,
  successful_syncs INTEGER NOT NULL DEFAULT 0,
  failed_syncs INTEGER NOT NULL DEFAULT 0,
  total_records_synced INTEGER NOT NULL DEFAULT 0,
  last_sync_time TEXT                             -- UTC, of the newest success
);
INSERT OR IGNORE INTO sync_totals(one) VALUES (1);
CREATE TABLE IF NOT EXISTS sync_history(
  id INTEGER PRIMARY KEY,
  started_at TEXT NOT NULL,                       -- UTC, of the first of these syncs
  ended_at TEXT NOT NULL,                         -- UTC, of the last
  kind TEXT NOT NULL,                             -- bootstrap, pull, verify or repair
  outcome TEXT NOT NULL,                          -- ok or failed
  reason TEXT,                                    -- why a bootstrap was made, why it failed, or what differed
  times INTEGER NOT NULL,                         -- how many syncs this line stands for
  records INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  seconds REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS tokens(name TEXT PRIMARY KEY, hash BLOB NOT NULL, created_at TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended_sessions(id INTEGER PRIMARY KEY, hash BLOB NOT NULL);
"""

logger = logging.getLogger(__name__)

Kind = Literal["bootstrap", "pull", "verify", "repair"]
Outcome = Literal["ok", "failed"]


class Totals(NamedTuple):
    """What the syncs of all starts add up to; `last_sync_time` is UTC text."""

    total_syncs: int
    successful_syncs: int
    failed_syncs: int
    total_records_synced: int
    last_sync_time: str | None


NOTHING = Totals(0, 0, 0, 0, None)


class LastVerify(NamedTuple):
    """The newest comparison with the Pi: when (UTC), whether nothing differed, and the result in words."""

    at: str
    ok: bool
    result: str


@dataclass(slots=True)
class HistoryLine:
    """Equal syncs in a row: `times` of them between two moments (UTC), their rows, bytes and seconds added up."""

    started_at: str
    ended_at: str
    kind: Kind
    outcome: Outcome
    reason: str | None
    times: int = 0
    records: int = 0
    bytes: int = 0
    seconds: float = 0.0


class Store:
    """The local database at `path`, made when missing and made anew (the old one set aside) when damaged."""

    def __init__(self, path: Path_, *, checkpoints: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """`checkpoints`: this process owns the file's checkpoints (the server does, commands do not). `clock` (s) is for tests."""
        self.path = Path(path)
        self._lock = threading.RLock()
        self._checkpoints, self._clock = checkpoints, clock
        self._connection: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._gained = NOTHING  # not yet in the file
        self._line: HistoryLine | None = None  # the newest line of the history, still growing
        self._line_began = self._flushed_at = clock()
        self._line_id: int | None = None  # its row, once it was flushed
        with self._db() as db:
            self._ended = {bytes(found) for (found,) in db.execute("SELECT hash FROM ended_sessions")}

    @property
    def replica_id(self) -> str:
        """By this name the Pi knows us: made at the first start, kept in the file."""
        with self._db() as db:
            db.execute("INSERT OR IGNORE INTO settings VALUES ('replica_id', ?)", (uuid.uuid4().hex,))
            return one(db, "SELECT value FROM settings WHERE name='replica_id'")

    @property
    def accepted_epoch(self) -> str | None:
        """The epoch of the Pi that we took as ours, or None before the first bootstrap: the guard against strangers."""
        with self._db() as db:
            return one(db, "SELECT value FROM settings WHERE name='accepted_epoch'")

    @accepted_epoch.setter
    def accepted_epoch(self, epoch: str) -> None:
        with self._db() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES ('accepted_epoch', ?)", (epoch,))

    @property
    def last_verify(self) -> LastVerify | None:
        """The newest comparison with the Pi."""
        at, ok, result = (self._setting(f"last_verify_{name}") for name in LastVerify._fields)
        return LastVerify(at, ok == "1", result) if at and result else None

    @last_verify.setter
    def last_verify(self, last: LastVerify) -> None:
        for name, value in zip(LastVerify._fields, (last.at, str(int(last.ok)), last.result), strict=True):
            self._set(f"last_verify_{name}", value)

    @property
    def nightly_verify(self) -> str | None:
        """When the newest nightly comparison was made (UTC text)."""
        return self._setting("nightly_verify")

    @nightly_verify.setter
    def nightly_verify(self, at: str) -> None:
        self._set("nightly_verify", at)

    @property
    def replica_file(self) -> str | None:
        """By what the replica's file, as this server left it, is known again; None while a server has it open, or after a kill."""
        return self._setting("replica_file") or None

    @replica_file.setter
    def replica_file(self, fingerprint: str | None) -> None:
        self._set("replica_file", fingerprint or "")

    def record_sync(
        self, kind: Kind, outcome: Outcome, *, rows: int = 0, bytes: int = 0, seconds: float = 0.0, reason: str | None = None
    ) -> None:
        """Count one sync. A pull that brought nothing only counts; everything else also goes into the history. Written within 10 s."""
        with self._lock:
            ok, now = outcome == "ok", utc_text()
            self._gained = _sum(self._gained, Totals(1, int(ok), int(not ok), rows, now if ok else None))
            if kind == "bootstrap" or not ok or rows:
                line = self._line_for(kind, outcome, reason, now)
                line.ended_at, line.times, line.records = now, line.times + 1, line.records + rows
                line.bytes, line.seconds = line.bytes + bytes, line.seconds + seconds
            if self._clock() - self._flushed_at >= FLUSH_INTERVAL:
                self.flush()

    def record_verify(
        self, kind: Kind, outcome: Outcome, *, rows: int = 0, bytes: int = 0, seconds: float = 0.0, reason: str | None = None
    ) -> None:
        """A line of the history about a comparison: it is no sync, and counts as none."""
        with self._lock:
            line = self._line_for(kind, outcome, reason, utc_text())
            line.times, line.records, line.bytes, line.seconds = 1, rows, bytes, seconds
            self.flush()

    def flush(self) -> None:
        """Write the counters and the newest history line. On a disk that cannot be written they wait in memory: no sync fails for that."""
        with self._lock:
            self._flushed_at = self._clock()
            try:
                with self._db() as db, db:
                    self._write_totals(db)
                    line_id = self._line_id if self._line is None else self._write_line(db, self._line)
                    db.execute("DELETE FROM sync_history WHERE ended_at < ?", (utc_text(HISTORY_KEPT),))
            except DiskFull as exc:  # which the sync service says
                logger.debug("counters are kept in memory cause=%s", exc)
            except DroverError as exc:
                logger.warning("the history of syncs waits to be written: %s", exc.message)
            else:
                self._gained, self._line_id = NOTHING, line_id

    def totals(self) -> Totals:
        """The totals of all starts, up to this moment."""
        with self._db() as db:
            columns = ", ".join(Totals._fields)
            stored = Totals._make(db.execute(f"SELECT {columns} FROM sync_totals").fetchall()[0])
        return _sum(stored, self._gained)

    def history(self, arguments: Mapping[str, str] | None = None, size: int = HISTORY_PAGE) -> Page:
        """A page of lines (HistoryLine and its `id`), the newest first; `arguments` as for `page_of`. Raises BadRequest."""
        self.flush()
        with self._db() as db:
            return page_of(db, "SELECT * FROM sync_history WHERE 1", (), arguments or {}, keys=("id",), size=size)

    def add_token(self, name: str) -> str:
        """Make an API token and return it: only its hash is kept. Raises Conflict when the name is taken."""
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        try:
            with self._db() as db:
                db.execute("INSERT INTO tokens VALUES (?, ?, ?)", (name, _hash(token), utc_text()))
        except apsw.ConstraintError as exc:
            raise Conflict(f"a token named {name!r} exists: revoke it first, or choose another name") from exc
        return token

    def revoke_token(self, name: str) -> None:
        """The token of this name is no longer valid. Raises NotFound."""
        with self._db() as db:
            if not db.execute("DELETE FROM tokens WHERE name=? RETURNING name", (name,)).fetchall():
                raise NotFound(f"there is no token named {name!r}: see `python -m server token list`")

    def tokens(self) -> list[tuple[str, str]]:
        """(name, created_at) of every token."""
        with self._db() as db:
            return [(str(name), str(made)) for name, made in db.execute("SELECT name, created_at FROM tokens ORDER BY name")]

    def is_token(self, token: str) -> bool:
        """Whether this is a valid token, compared in constant time."""
        given = _hash(token)
        with self._db() as db:
            hashes = [row[0] for row in db.execute("SELECT hash FROM tokens")]
        return any(hmac.compare_digest(given, known) for known in hashes)

    def end_session(self, name: str) -> None:
        """Whoever kept a copy of this session's cookie is not signed in by it any more, also after a restart if the disk lets us."""
        hashed = _hash(name)
        self._ended.add(hashed)
        try:
            with self._db() as db, db:
                db.execute("INSERT INTO ended_sessions(hash) VALUES (?)", (hashed,))
                db.execute("DELETE FROM ended_sessions WHERE id <= (SELECT max(id) FROM ended_sessions) - ?", (ENDED_KEPT,))
        except DroverError as exc:
            logger.warning("that a session has ended is known until the next start only: %s", exc.message)

    def has_ended(self, name: str) -> bool:
        """Whether somebody has signed out of this session."""
        return _hash(name) in self._ended

    def close(self) -> None:
        """Write what is counted and close the file."""
        with self._lock:
            self.flush()
            self._drop()

    def _setting(self, name: str) -> str | None:
        with self._db() as db:
            return one(db, "SELECT value FROM settings WHERE name=?", (name,))

    def _set(self, name: str, value: str) -> None:
        with self._db() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    @contextmanager
    def _db(self) -> Iterator[apsw.Connection]:
        """The connection, alone; a file that is missing or broken is made anew, and what the block wanted is an error only that once.

        Raises DiskFull where what the block wrote has no place.
        """
        with self._lock:
            if self._connection is None or identity(self.path) != self._file:
                self._open()
            assert self._connection is not None
            try:
                yield self._connection
            except STORAGE as exc:
                self._drop()
                if not is_damage(exc):
                    raise unusable(self.path, exc) from exc
                self._set_aside(exc)
                raise DamagedFile(f"{self.path} was damaged and is made anew: {exc}", path=str(self.path)) from exc

    def _open(self) -> None:
        if self._connection is not None and not self.path.exists():
            logger.warning("local database was removed and is made anew file=%s", self.path)
            remove_journal(self.path)
        self._drop()
        self._line_id = None
        with usable(self.path):
            try:
                self._connection = self._prepared()
            except (DamagedFile, *STORAGE) as exc:
                if is_outage(exc):
                    raise
                self._set_aside(exc)
                self._connection = self._prepared()
        self._file = identity(self.path)

    def _prepared(self) -> apsw.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # SQLite would make it 0640; the group is to use it
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o660))
        db = connect(self.path, create=True, checkpoints=self._checkpoints)
        try:
            db.execute(SCHEMA)
        except BaseException:
            db.close()
            raise
        return db

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _set_aside(self, cause: Exception) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{utc_text().replace(':', '')}")
        logger.error("local database is damaged and made anew file=%s kept_as=%s cause=%s", self.path, aside, cause)
        if self.path.exists():
            self.path.rename(aside)
        remove_journal(self.path)

    def _write_totals(self, db: apsw.Connection) -> None:
        db.execute(
            """UPDATE sync_totals SET total_syncs=total_syncs+?, successful_syncs=successful_syncs+?, failed_syncs=failed_syncs+?,
               total_records_synced=total_records_synced+?, last_sync_time=coalesce(?, last_sync_time)""",
            self._gained,
        )

    def _line_for(self, kind: Kind, outcome: Outcome, reason: str | None, now: str) -> HistoryLine:
        """The line that this sync belongs to: the newest one when it is of the same sort and young, else a new one."""
        line, age = self._line, self._clock() - self._line_began
        if line is not None:
            if (kind, outcome, reason) == (line.kind, line.outcome, line.reason) and kind == "pull" and age < HISTORY_SPAN:
                return line
            self.flush()
        self._line, self._line_id, self._line_began = HistoryLine(now, now, kind, outcome, reason), None, self._clock()
        return self._line

    def _write_line(self, db: apsw.Connection, line: HistoryLine) -> int:
        """The id of its row."""
        found: int = one(
            db,
            """INSERT OR REPLACE INTO sync_history(id, started_at, ended_at, kind, outcome, reason, times, records, bytes, seconds)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id""",
            (self._line_id, *astuple(line)),
        )
        return found


def _sum(a: Totals, b: Totals) -> Totals:
    """`a` and what came after it."""
    return Totals(
        a.total_syncs + b.total_syncs,
        a.successful_syncs + b.successful_syncs,
        a.failed_syncs + b.failed_syncs,
        a.total_records_synced + b.total_records_synced,
        b.last_sync_time or a.last_sync_time,
    )


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
