"""Requests that are sent twice and written once: what was answered to the last of them, in pi.db.

Whoever sends a write with an `Idempotency-Key` may send it again when no answer came. What is durable: before the write, that it is tried
and where the log ends; after it, what was answered. A repetition gets the first answer. When the Pi lost its power between the two, the log
tells: nothing by this caller since then means that it was not written, and it is written now; otherwise nobody can know which of the
changes it was, and the caller is told so, rather than writing twice.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import apsw

from changelog.connection import connect, one
from changelog.errors import Conflict, DroverError, Unavailable
from changelog.position import Position
from changelog.storage import UNWRITTEN

KEPT = 1_000  # requests, the newest
BUSY = 500  # ms that a request may wait for somebody who holds pi.db locked
WRITTEN = "and that one was written: look at what is there, and take a new key for what you want to write now"
PATIENCE = 20.0  # s that a repetition waits for the answer to the first

_SCHEMA = """CREATE TABLE IF NOT EXISTS requests(
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,    -- the name of the key and the Idempotency-Key
  digest BLOB NOT NULL,       -- of method, path, caller and body
  before TEXT NOT NULL,       -- the head of the log when it was first tried
  status INTEGER,             -- what was answered; NULL until then
  reply TEXT
)"""

logger = logging.getLogger(__name__)

Reply = tuple[int, dict[str, Any]]  # HTTP status and the JSON object


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    before: Position
    reply: Reply | None


class Repeats:
    """The requests that pi.db remembers, for many threads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._running: set[str] = set()
        self._ended = threading.Condition()

    def answer(self, request_id: str, digest: bytes, head: Callable[[], Position], write: Callable[[Position | None], Reply]) -> Reply:
        """The first answer to this request, or that of `write` when there was none.

        `write` is given the position since which an earlier try may have written: see `refuse_written`. `head` tells where the log ends.
        Raises Conflict when the id was used for something else, and what `write` raises; then the request may be sent again.
        """
        with self._alone(request_id), _open(self._path) as db:
            known = _find(db, request_id)
            if known is None:
                _begin(db, request_id, digest, head())
            elif known.reply is not None:
                if known.digest != digest:
                    raise Conflict(f"this Idempotency-Key was used for another request, {WRITTEN}", outcome="written")
                return known.reply
            elif known.digest != digest:
                db.execute("UPDATE requests SET digest=? WHERE id=?", (digest, request_id))
            try:
                reply = write(known.before if known else None)
            except Exception as exc:
                if _wrote_nothing(exc, again=known is not None):
                    _note(db, "DELETE FROM requests WHERE id=?", (request_id,))
                raise
            _note(db, "UPDATE requests SET status=?, reply=? WHERE id=?", (reply[0], json.dumps(reply[1]), request_id))
            return reply

    @contextmanager
    def _alone(self, request_id: str) -> Iterator[None]:
        """One at a time for each request: a double click waits for the answer to its first. Raises Unavailable."""
        with self._ended:
            if not self._ended.wait_for(lambda: request_id not in self._running, PATIENCE):
                raise Unavailable("the first try of this request has no answer yet: send it again in a few seconds")
            self._running.add(request_id)
        try:
            yield
        finally:
            with self._ended:
                self._running.discard(request_id)
                self._ended.notify_all()


def refuse_written(db: apsw.Connection, since: Position, actor: str) -> None:
    """In the transaction of the write: raises Conflict where an earlier try of it may be among what `actor` has written after `since`."""
    epoch, oldest = one(db, "SELECT value FROM changelog_meta WHERE name='epoch'"), one(db, "SELECT min(seq) FROM changelog")
    # Without an actor: rows of this very transaction, which are signed at its end.
    found = "SELECT 1 FROM changelog WHERE seq>? AND (actor=? OR actor IS NULL) LIMIT 1"
    if epoch != since.epoch or oldest > since.seq + 1 or one(db, found, (since.seq, actor)):
        raise Conflict(
            "the Pi was cut off while it wrote this, and cannot tell whether it did: look at what is there before you send it anew",
            outcome="unknown",
        )


def _wrote_nothing(exc: Exception, *, again: bool) -> bool:
    """Whether this error says that nothing was written, now or, where this was tried `again`, before."""
    if isinstance(exc, Unavailable):
        return exc.facts.get("written") is False and not again  # it did not come to look at the log
    return not (isinstance(exc, DroverError) and "outcome" in exc.facts)


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[apsw.Connection]:
    """pi.db for one request. Raises Unavailable while somebody holds it locked."""
    with closing(connect(path, patience=BUSY)) as db:
        try:
            db.execute(_SCHEMA)
            yield db
        except UNWRITTEN as exc:
            raise Unavailable(f"pi.db cannot be written just now: send it again ({exc})", written=False) from exc


def _find(db: apsw.Connection, request_id: str) -> _Known | None:
    row: Any = db.execute("SELECT digest, before, status, reply FROM requests WHERE id=?", (request_id,)).fetchone()
    if row is None:
        return None
    digest, before, status, reply = row
    return _Known(digest, Position.parse(before), None if reply is None else (status, json.loads(reply)))


def _begin(db: apsw.Connection, request_id: str, digest: bytes, head: Position) -> None:
    with db:
        db.execute("INSERT INTO requests(id, digest, before) VALUES(?,?,?)", (request_id, digest, str(head)))
        db.execute("DELETE FROM requests WHERE number<=?-?", (db.last_insert_rowid(), KEPT))


def _note(db: apsw.Connection, sql: str, bindings: tuple[object, ...]) -> None:
    """Write what came of a request; when that cannot be done, a repetition finds out from the log."""
    try:
        db.execute(sql, bindings)
    except UNWRITTEN as exc:
        logger.warning("what was answered could not be kept: %s", exc)
