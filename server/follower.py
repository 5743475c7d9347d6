"""Following the Pi, one step at a time and without a thread: pull, bootstrap, verify, and the one road out of doubt."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import apsw

from changelog.bootstrap import fit_out
from changelog.connection import remove_database
from changelog.errors import (
    BrokenFrame,
    DamagedFile,
    DiskFull,
    Divergence,
    DroverError,
    HistoryTrimmed,
    PositionMismatch,
    ProtocolMismatch,
    Stranger,
    Unavailable,
)
from changelog.position import Position
from changelog.replay import TableContents, checkpoint, position_of, replay
from changelog.space import require_room
from changelog.storage import is_damage
from changelog.wire import Header, Page, decode_frame
from server.catch_up import CatchUp
from server.counts import named, row_counts
from server.download import Progress
from server.measures import Measures, failure_cause
from server.pi_client import PiClient
from server.replica import Replica
from server.replica_file import Broken, ReplicaFile
from server.road import Cause, Doubt, Road
from server.state import SyncState
from server.store import Store
from server.verifier import RemotePrimary, Verdict, compare_with

MALFORMED = 3  # frames in a row that do not decode, after which a snapshot is taken
DISK = "the disk of this server is full"
A_COPY = f"{DISK}: a copy of the farm"
BELIEVED = 60.0  # s for which a copy that was too large is not asked for again, if there is no more room
LOOK_AGAIN = 1.0  # s between looks at the Pi's head, following by snapshots
Applied = Callable[[int, int], object]  # seq before, seq after; 0 before where it was not by replay, so that the log tells less than all
HISTORY_CHANGED: tuple[Cause, ...] = ("rewound", "new_epoch")

logger = logging.getLogger(__name__)


class Origin(Protocol):
    """Where a whole copy comes from."""

    name: str  # in the words of the log

    def snapshot(self, target: Path, accepted_epoch: str | None, progress: Progress) -> int:
        """Write one to `target`; returns its size in bytes. `accepted_epoch` must be part of its history."""


class Follower:
    """The writing side of the replica. Used by one thread of one process: see `server/sync.py`."""

    def __init__(
        self,
        replica: Replica,
        store: Store,
        state: SyncState,
        client: PiClient,
        stopping: threading.Event,
        *,
        measures: Measures,
        applied: Applied = lambda before, after: None,
    ) -> None:
        """`stopping`: when set, a step that takes long ends as soon as it can. `measures` is told what was done.

        `applied` is told the seq before and after, when other rows can be read from then on: after each replay and each bootstrap.
        """
        self._store, self._state, self._client, self._stopping, self._measures = store, state, client, stopping, measures
        self._applied = applied
        self.file = ReplicaFile(replica, self._opened)
        self.road = Road()
        self._catch_up = CatchUp(client, replica.path, self._fetched, stopping.is_set)
        self._malformed = 0  # frames in a row
        self._said = ""  # the reason of the bootstrap that is being tried
        self._needed, self._needed_until = 0, 0.0  # bytes that had no room the last time, and until when (monotonic) that is believed
        self._looked = False
        self.unfamiliar = False  # whether the file was changed, or another one put there, while no server ran

    def step(self, wait: int = 0) -> None:
        """One turn: look at the replica's file, then pull (waiting up to `wait` s for news), or bootstrap where there is doubt.

        Raises Stranger, and what the Pi or the network refuses with; then the rows stay as they are.
        """
        doubt = self.file.doubt()
        if doubt is None:
            doubt = self._snapshot_is_due() if self.road.repeated else self._pull(wait)
        if doubt is not None:
            self.take_road(doubt)

    def look(self) -> None:
        """Look at the replica's file, and bootstrap where there is doubt. Raises what `step` raises."""
        doubt = self.file.doubt()
        if doubt is not None:
            self.take_road(doubt)

    def apply(self, frame: bytes) -> bool:
        """Replay a frame that was pushed, if it leads on from exactly where the replica is.

        False, and nothing has happened, where it does not, where it cannot be read, and where following by change is not what is done now:
        a pull tells how to go on.
        """
        if self.road.repeated or self._catch_up.begun or self.file.glance() is not None:
            return False
        db = self.file.db
        try:
            header, pages = decode_frame([frame])
            before = position_of(db)
            if header.start != before:
                return False
            self.advance(db, before, (header, self._counted(pages)), lambda: len(frame))
        except (BrokenFrame, ProtocolMismatch, Divergence, *Broken) as exc:
            if isinstance(exc, apsw.Error) and not is_damage(exc):
                raise
            logger.warning("What the Pi pushed does not fit and is asked for: %s", exc)
            return False
        return True

    def pull(self, wait: int = 0, upto: int | None = None) -> int:
        """Replay what is new, up to seq `upto` or all; returns how many changes that were.

        Raises Divergence, BrokenFrame, and what the Pi or the network refuses with.
        """
        db = self.file.db
        before = position_of(db)
        had = self._client.received
        frame = self._catch_up.frame(before, wait=wait, upto=upto)
        return self.advance(db, before, frame, lambda: self._client.received - had)

    def advance(
        self, db: apsw.Connection, before: Position, frame: tuple[Header, Iterator[Page]], moved: Callable[[], int] = lambda: 0
    ) -> int:
        """Replay a frame, which took `moved()` bytes on the wire in the end, and tell everybody; returns how many changes it had."""
        started = time.monotonic()
        after = self._replayed(db, frame)
        count = after.seq - before.seq
        if count:
            self._measures.applied(count, time.monotonic() - started)
        if not self.file.lacks_indexes:  # else they are made in turns, after these rows were told of
            self.file.index_for_pages()
        self._state.position(after.epoch, after.seq)
        self._state.following(frame[0].upto)
        if count:
            self._applied(before.seq, after.seq)
        checkpoint(db)
        self._store.record_sync("pull", "ok", rows=count, bytes=moved(), seconds=time.monotonic() - started)
        logger.debug("Incremental sync: %d records updated", count)
        return count

    def bootstrap(self, doubt: Doubt, origin: Origin | None = None) -> None:
        """Replace the replica by a snapshot of the Pi, or of another `origin`, in one step.

        Raises Stranger, DiskFull before it has arrived where there is no room for it, and what the Pi or the network refuses with.
        """
        source: Origin = origin or self._client
        if time.monotonic() < self._needed_until:
            require_room(self.file.path.parent, self._needed, A_COPY)  # or the Pi would make a copy in vain at every attempt
        started, incoming = time.monotonic(), self.file.incoming
        remove_database(incoming)
        if (saying := f"{source.name}: {doubt.reason}") != self._said:  # said once, not at every attempt while the Pi is away
            self._said = saying
            logger.info("Starting full database sync from %s...", source.name)
            logger.info("Reason of the full sync: %s", doubt.reason)
        self._state.bootstrapping()
        accepted = self._accepted_epoch()
        try:
            size = source.snapshot(incoming, accepted, self._arrived)
            position = fit_out(incoming, accepted)
            counts = row_counts(incoming)
            logger.info("Syncing: %s", named(counts))
            rescued = self.file.install(incoming)
        except PositionMismatch as exc:
            self.refuse_stranger(exc)
            raise
        finally:
            remove_database(incoming)
        self._catch_up.discard()
        self._said, self._needed_until = "", 0.0
        self._store.accepted_epoch = position.epoch
        self._state.position(position.epoch, position.seq)
        self._state.following(position.seq)
        self._applied(0, position.seq)
        if rescued is not None:
            self._state.alarmed(f"The Pi has lost {rescued.changes} changes that were here. They are kept: see the page Replication.")
        rows, seconds = sum(counts.values()), time.monotonic() - started
        self.road.taken(doubt, seconds)
        self._measures.bootstrapped(doubt.cause)
        self._store.record_sync("bootstrap", "ok", rows=rows, bytes=size, seconds=seconds, reason=doubt.reason)
        logger.info("Full sync completed: %d records", rows)

    def take_road(self, doubt: Doubt, origin: Origin | None = None) -> None:
        """Bootstrap because of `doubt`. Raises Stranger where two Pis take turns, Unavailable when too many were made lately."""
        if origin is None and doubt.cause in HISTORY_CHANGED:
            self._client.look_again()
            if self._client.instances.rivals:
                raise Stranger(
                    f"Two Pis answer at {self._client.host}, and their histories differ: this server stays with the rows that it has."
                    " Take one of them off the network"
                )
        if doubt.cause != "missing":
            self._state.doubted(doubt.reason)
        if not self.road.is_clear:
            raise Unavailable(f"too many copies were fetched lately, so the next one waits: {doubt.reason}")
        self.bootstrap(doubt, origin)
        if again := self.road.repeated:
            logger.warning("The same came again and again, so the server follows by snapshots for a while: %s", again.reason)
            self._state.following(position_of(self.file.db).seq, by_snapshots=again.reason)

    def compare(self, repair: bool = False) -> Verdict:
        """Compare both sides at one position, to which the replica is brought, and mend rows. Raises CannotVerify where it cannot be."""
        return compare_with(RemotePrimary(self._client), self.file.checked(), lambda seq: self.pull(upto=seq), repair)

    def start_anew(self, cause: PositionMismatch | HistoryTrimmed | Divergence | DamagedFile) -> None:
        """A snapshot in the place of a replica that cannot go on, or cannot be compared, for this cause. Raises Stranger."""
        if isinstance(cause, DamagedFile):
            self.file.close()
            doubt = Doubt("damaged", cause.message)
        else:
            doubt = Doubt.of(cause, self._store.accepted_epoch or "")
            self.refuse_stranger(cause)
        self.bootstrap(doubt)

    def refill(self) -> None:
        """Fill the tables anew from the Pi's JSON export: what `bootstrap` does by file, without touching the file or its history."""
        export = self._client.facts("/full-export")
        seq, contents = export.get("seq"), export.get("data")
        if type(seq) is not int or not isinstance(contents, dict) or not all(isinstance(rows, list) for rows in contents.values()):
            raise BrokenFrame("what the Pi sent is no export")
        db = self.file.checked()
        after = self._replayed(db, self._catch_up.frame(position_of(db), upto=seq), contents)
        self._state.position(after.epoch, after.seq)
        self._applied(0, after.seq)
        logger.info("Full sync completed from the JSON export: %d records", sum(map(len, contents.values())))

    @property
    def reached(self) -> Position | None:
        """Where the open file is, or None where none is open: `position` without a look at the path."""
        try:
            return position_of(self.file.db)
        except DamagedFile:
            return None

    def position(self) -> Position | None:
        """Where the replica is, or None where there is none."""
        return None if self.file.doubt() else position_of(self.file.db)

    def close(self) -> None:
        """Close the replica's file; what is staged stays for the next start."""
        self._catch_up.close()
        self.file.finish()
        if self._looked:
            with suppress(DroverError):  # on a full disk; then it is as after a kill
                self._store.replica_file = self.file.fingerprint()

    def _pull(self, wait: int) -> Doubt | None:
        """Pull, or say why a snapshot is needed instead."""
        epoch = position_of(self.file.db).epoch
        try:
            self.pull(wait)
        except (PositionMismatch, HistoryTrimmed, Divergence) as exc:
            self.refuse_stranger(exc)
            self._measures.failed(failure_cause(exc))
            return Doubt.of(exc, epoch)
        except BrokenFrame as exc:
            if self._malformed < MALFORMED:
                raise
            return Doubt("divergence", f"what the Pi sends cannot be read: {exc.message}")
        except Broken as exc:  # damaged since `doubt` looked, some milliseconds ago
            if not is_damage(exc):
                raise
            self.file.close()
            return Doubt("damaged", f"{self.file.path} is damaged: {exc}")
        return None

    def _counted(self, pages: Iterator[Page]) -> Iterator[Page]:
        for page in pages:
            self._measures.received(len(page.rows))
            yield page

    def _replayed(self, db: apsw.Connection, frame: tuple[Header, Iterator[Page]], contents: TableContents | None = None) -> Position:
        """Replay a frame that was fetched as a whole; what does not decode, or fit, is never tried again."""
        self._malformed += 1
        try:
            after = replay(db, *frame, contents=contents)
        finally:
            self._catch_up.discard()
        self._malformed = 0
        return after

    def _snapshot_is_due(self) -> Doubt | None:
        """Following by snapshots: look at the Pi's head, and take the next one when it has moved and the last is some time ago."""
        again = self.road.repeated
        assert again is not None
        before = position_of(self.file.db)
        try:
            head = self._client.newest(before)
        except (PositionMismatch, HistoryTrimmed) as exc:
            self.refuse_stranger(exc)
            return Doubt.of(exc, before.epoch)
        self._state.following(head, by_snapshots=again.reason)
        if head > before.seq and self.road.is_due:
            return Doubt(again.cause, f"following by snapshots, since this came again and again: {again.reason}")
        self._stopping.wait(LOOK_AGAIN)
        return None

    def _opened(self, position: Position) -> None:
        if not self._looked:  # the first time; after a kill nothing is known, and nothing suspected
            self.unfamiliar = self._store.replica_file not in (None, self.file.fingerprint())
            self._store.replica_file = None
            self._looked = True
        self._state.position(position.epoch, position.seq)
        if self._store.accepted_epoch is None:  # server.db was lost, the replica was not
            self._store.accepted_epoch = position.epoch

    def _arrived(self, done: int, total: int | None) -> None:
        """So much of a copy is here. Raises DiskFull when the rest, and what putting it in place takes, has no room."""
        if total is not None:
            self._require_room(total - done + self.file.room_to_install(total), whole=total + self.file.room_to_install(total))
        self._state.bootstrapping(done, total)

    def _require_room(self, needed: int, whole: int | None = None) -> None:
        try:
            require_room(self.file.path.parent, needed, A_COPY)
        except DiskFull:
            self._needed, self._needed_until = whole or needed, time.monotonic() + BELIEVED
            raise

    def _fetched(self, header: Header, reached: Position, rows: int) -> None:
        self._measures.received(rows)
        self._state.fetching(header.upto, reached.seq)

    def _accepted_epoch(self) -> str | None:
        """The epoch whose history the Pi's must contain; it stands in server.db too, so that a lost replica.db disarms nothing."""
        if self._store.accepted_epoch is None and self.file.doubt() is None:
            return position_of(self.file.db).epoch
        return self._store.accepted_epoch

    def refuse_stranger(self, exc: PositionMismatch | HistoryTrimmed | Divergence) -> None:
        if isinstance(exc, PositionMismatch) and not exc.facts.get("descends") and exc.facts.get("epoch") != self._store.accepted_epoch:
            raise Stranger(
                f"the Pi at {self._client.host} has another history (epoch {exc.facts.get('epoch')}) than the one accepted here"
                f" ({self._accepted_epoch()}): its rows are refused, ours stay. If it is the right Pi, run: python -m server accept"
            ) from exc
