"""Following the Pi, one step at a time and without a thread: pull, bootstrap, verify, and the one road out of doubt."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import apsw

from changelog.bootstrap import copy_over, empty_wal, fit_out, put_in_place
from changelog.connection import connect, identity, one
from changelog.errors import DamagedFile, Divergence, HistoryTrimmed, PositionMismatch, Stranger
from changelog.node.settings import Settings
from changelog.position import Position
from changelog.reader import descends
from changelog.replay import checkpoint, connect_replica, position_of, replay
from changelog.schema import identifier, read_tables
from server.indexes import LOCAL_INDEXES
from server.pi_client import PiClient
from server.replica import Replica
from server.state import SyncState
from server.store import Store
from server.verifier import CannotVerify, Verdict, compare_with_pi, remember

FIRST_NAMED = ("batches", "cattle", "pens")  # in the log line of a full sync

logger = logging.getLogger(__name__)


class Follower:
    """The writing side of the replica. Used by one thread of one process: see `server/sync.py`."""

    def __init__(self, settings: Settings, replica: Replica, store: Store, state: SyncState, client: PiClient) -> None:
        self.path = settings.replica_db
        self._replica, self._store, self._state, self._client = replica, store, state, client
        self._db: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._indexed_schema = 0  # SQLite's schema_version when the pages' indexes were last made
        self._size = 0  # bytes of the file when it was last looked at; a replica's file never shrinks
        self._started_for = ""  # the reason of the bootstrap that is being tried

    def step(self, wait: int = 0) -> None:
        """One turn: look at the replica's file, then pull (waiting up to `wait` s for news), or bootstrap where there is doubt.

        Raises Stranger, and what the Pi or the network refuses with; then the rows stay as they are.
        """
        doubt = self._doubt()
        if doubt:
            self.bootstrap(doubt)
            return
        try:
            self.pull(wait)
        except (PositionMismatch, HistoryTrimmed, Divergence) as exc:
            self._refuse_stranger(exc)
            self.bootstrap(exc.message)
        except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as exc:  # damaged since `_doubt` looked, some milliseconds ago
            self.close()
            self.bootstrap(f"{self.path} is damaged: {exc}")

    def pull(self, wait: int = 0, upto: int | None = None) -> int:
        """Replay what is new, up to seq `upto` or all; returns how many changes that were.

        Raises Divergence, BrokenFrame, and what the Pi or the network refuses with.
        """
        db, started = self._opened(), time.monotonic()
        before = position_of(db)
        with self._client.frame(before, wait=wait, upto=upto) as (header, pages):
            after = replay(db, header, pages)
        if db.pragma("schema_version") != self._indexed_schema:
            self._index_for_pages(db)
        self._state.position(after.epoch, after.seq)
        self._state.following(header.upto)
        checkpoint(db)
        count = after.seq - before.seq
        self._store.record_sync("pull", "ok", rows=count, seconds=time.monotonic() - started)
        logger.debug("Incremental sync: %d records updated", count)
        return count

    def bootstrap(self, reason: str) -> None:
        """Replace the replica by a snapshot of the Pi, in one step. Raises Stranger, and what the Pi or the network refuses with."""
        started, incoming = time.monotonic(), self.path.with_name(f"{self.path.name}.incoming")
        if reason != self._started_for:  # said once, not at every attempt while the Pi is away
            self._started_for = reason
            logger.info("Starting full database sync from Pi...")
            logger.info("Reason of the full sync: %s", reason)
        self._state.bootstrapping()
        accepted = self._accepted_epoch()
        try:
            size = self._client.snapshot(incoming, accepted, self._state.bootstrapping)
            position = fit_out(incoming, accepted)
            counts = _row_counts(incoming)
            logger.info("Syncing: %s", _named(counts))
            self._install(incoming)
        except PositionMismatch as exc:
            self._refuse_stranger(exc)
            raise
        finally:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{incoming}{suffix}").unlink(missing_ok=True)
        self._started_for = ""
        self._store.accepted_epoch = position.epoch
        self._state.position(position.epoch, position.seq)
        self._state.following(position.seq)
        rows = sum(counts.values())
        self._store.record_sync("bootstrap", "ok", rows=rows, bytes=size, seconds=time.monotonic() - started, reason=reason)
        logger.info("Full sync completed: %d records", rows)

    def compare(self, repair: bool = False) -> Verdict:
        """Compare both sides at one position, to which the replica is brought, and mend rows. Raises CannotVerify where it cannot be."""
        return compare_with_pi(self._client, self._opened(), lambda seq: self.pull(upto=seq), repair)

    def start_anew(self, cause: PositionMismatch | HistoryTrimmed | Divergence | DamagedFile) -> None:
        """A snapshot in the place of a replica that cannot go on, or cannot be compared, for this cause. Raises Stranger."""
        if isinstance(cause, DamagedFile):
            self.close()
        else:
            self._refuse_stranger(cause)
        self.bootstrap(cause.message)

    def verify(self) -> Verdict:
        """Compare, without a repair, and remember the result. Raises Divergence where it cannot be done."""
        try:
            verdict = self.compare()
        except CannotVerify as exc:
            raise Divergence(exc.cause.message) if isinstance(exc.cause, DamagedFile) else exc.cause from exc
        remember(self._store, self._state, verdict)
        level = logging.INFO if verdict.identical else logging.ERROR
        logger.log(level, "Compared with the Pi after sync: %s", verdict.sentence())
        return verdict

    def refill(self) -> None:
        """Fill the tables anew from the Pi's JSON export: what `bootstrap` does by file, without touching the file or its history."""
        export = self._client.facts("/full-export")
        db = self._opened()
        with self._client.frame(position_of(db), upto=export["seq"]) as (header, pages):
            after = replay(db, header, pages, contents=export["data"])
        self._state.position(after.epoch, after.seq)
        logger.info("Full sync completed from the JSON export: %d records", sum(export["counts"].values()))

    def resync(self, json_export: bool, reason: str) -> dict[str, Any]:
        """Compare, fetch a new copy (the file, or the rows of the JSON export), compare again; returns what was found, ready for JSON."""
        before = self.position()
        diverged_before: tuple[str, ...] = ()
        if before is not None:
            try:
                diverged_before = self.verify().differing
            except (PositionMismatch, HistoryTrimmed, Divergence) as exc:
                self._refuse_stranger(exc)
                logger.warning("Database sync: the old copy cannot be compared: %s", exc.message)
        if json_export:
            self.refill()
        else:
            self.bootstrap(reason)
        verdict = self.verify()
        return {
            "before": str(before) if before else None,
            "after": str(verdict.position),
            "rows": verdict.rows,
            "diverged_before": list(diverged_before),
            "diverged_after": list(verdict.differing),
        }

    def position(self) -> Position | None:
        """Where the replica is, or None where there is none."""
        return None if self._doubt() else position_of(self._opened())

    def close(self) -> None:
        """Close the replica's file."""
        if self._db is not None:
            self._db.close()
        self._db = self._file = None

    def _opened(self) -> apsw.Connection:
        doubt = self._doubt()
        if doubt or self._db is None:
            raise DamagedFile(doubt)
        return self._db

    def _doubt(self) -> str | None:
        """Why the file at the path is not a replica that can be gone on with, or None. A new connection sees what an open one may not."""
        try:
            connect(self.path, readonly=True).close()
            if self._db is None or identity(self.path) != self._file:
                self.close()
                self._file, self._size = identity(self.path), 0
                self._db = connect_replica(self.path)
                self._adopt(self._db)
            position_of(self._db)
            size = self.path.stat().st_size
            if size < self._size:  # SQLite may not notice: what it reads may all be in the -wal
                raise DamagedFile(f"{self.path} was cut short, from {self._size} to {size} bytes")
            self._size = size
        except (DamagedFile, FileNotFoundError) as exc:
            self.close()
            return str(exc)
        return None

    def _adopt(self, db: apsw.Connection) -> None:
        position = position_of(db)
        self._state.position(position.epoch, position.seq)
        if self._store.accepted_epoch is None:  # server.db was lost, the replica was not
            self._store.accepted_epoch = position.epoch
        self._index_for_pages(db)

    def _index_for_pages(self, db: apsw.Connection) -> None:
        """Make the indexes that a snapshot does not bring and that schema changes take away."""
        for sql in LOCAL_INDEXES:
            try:
                db.execute(sql)
            except apsw.SQLError as exc:  # another database than a farm's, or a column less: the pages are slower, nothing else
                logger.debug("no index for the pages sql=%s cause=%s", sql, exc)
        self._indexed_schema = db.pragma("schema_version")

    def _accepted_epoch(self) -> str | None:
        """The epoch whose history the Pi's must contain; it stands in server.db too, so that a lost replica.db disarms nothing."""
        if self._store.accepted_epoch is None and self._db is not None:
            return position_of(self._db).epoch
        return self._store.accepted_epoch

    def _refuse_stranger(self, exc: PositionMismatch | HistoryTrimmed | Divergence) -> None:
        if isinstance(exc, PositionMismatch) and not exc.facts.get("descends") and exc.facts.get("epoch") != self._store.accepted_epoch:
            raise Stranger(
                f"the Pi at {self._client.host} has another history (epoch {exc.facts.get('epoch')}) than the one accepted here"
                f" ({self._accepted_epoch()}): its rows are refused, ours stay. If it is the right Pi, run: python -m server accept"
            ) from exc

    def _install(self, incoming: Path) -> None:
        """Into the live file where that can be done, else in its place; a history that does not go on is kept beside it."""
        sound = self._db is not None
        archived = sound and not _contains(incoming, position_of(self._opened()).epoch)
        if sound and not archived and copy_over(incoming, self._opened()):
            self._size = 0  # the one thing that may make it smaller
            self._adopt(self._opened())
            return
        self.close()
        with self._replica.paused():
            if sound:
                empty_wal(self.path)
            if archived or (not sound and self.path.exists()):
                kept = self.path.with_name(f"{self.path.name}.{f'archive-{_stamp()}' if archived else 'damaged'}")
                self.path.replace(kept)
                logger.warning("The replica's old file is kept as %s", kept)
            put_in_place(incoming, self.path)
        doubt = self._doubt()
        if doubt:
            raise DamagedFile(f"the snapshot was put in place and cannot be opened: {doubt}")


def _row_counts(path: Path) -> dict[str, int]:
    db = connect(path, readonly=True)
    try:
        return {t.name: one(db, f"SELECT count(*) FROM {identifier(t.name)}") for t in read_tables(db)}
    finally:
        db.close()


def _named(counts: dict[str, int]) -> str:
    first = [name for name in FIRST_NAMED if name in counts]
    return ", ".join(f"{counts[name]} {name}" for name in [*first, *(n for n in counts if n not in first)])


def _stamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _contains(incoming: Path, epoch: str) -> bool:
    db = connect(incoming, readonly=True)
    try:
        return descends(db, epoch)
    finally:
        db.close()
