"""The one thread that writes to farm.db: it commits in groups, works off payloads, trims the log, and checkpoints while no shipper runs.

A job is a function of the connection; it may run again when its transaction could not be committed (a locked file, a full disk), so it does
nothing but write there. Its future resolves after the commit: what has been answered survives a power cut.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Generic, TypeVar

import apsw

from changelog.connection import WAL_AUTOCHECKPOINT, connect, drop_journal, identity, journal_of, rows
from changelog.durable import rewrite_wal
from changelog.errors import DamagedFile, DroverError, Unavailable
from changelog.lease import checkpoint_lease
from changelog.log import signed
from changelog.position import Position
from changelog.space import is_full
from changelog.storage import STORAGE, UNUSABLE, in_words
from pi import farm, herd
from pi.retention import Retention

QUEUE = 10_000  # jobs that may wait
GROUP = 256  # jobs in one transaction: a shell has no patience with locks, so transactions stay short
WORK = 500  # payloads in one transaction of the worker, likewise
WAIT = 15.0  # s that `write` waits for the commit
WAIT_FULL = 1.0  # s of it where the disk is full
BUSY = 1_000  # ms that one attempt waits for somebody else's lock
GATHER, GATHER_TURNS = 0.01, 4  # s that a group waits, and transactions like the last one, for as many jobs as there were then
RETRY = 0.25  # s between attempts while the file cannot be written
LOOK = 1.0  # s between looks, when idle, at whether the file was replaced or its schema changed
DRAIN = 2.5  # s that stop() goes on trying to write what is queued
HANGS = 15.0  # s after which a transaction that has not ended counts as an outage
WAL_KEPT = 16 * 2**20  # bytes that the -wal file keeps after a checkpoint

logger = logging.getLogger(__name__)

T = TypeVar("T")
Job = Callable[[apsw.Connection], T]


@dataclass(frozen=True, slots=True)
class Written(Generic[T]):
    """What a job returned, and a position at which a replica has it."""

    value: T
    position: Position


class _Task:
    """A queued job, its signature and its future."""

    def __init__(self, job: Job[Any], actor: str) -> None:
        self.job, self.actor = job, actor
        self.future: Future[Any] = Future()
        self._wanted: bool | None = None
        self.value: Any = None
        self.error: Exception | None = None

    def run(self, db: apsw.Connection) -> None:
        """Run the job in a savepoint of the open transaction. Only errors of the storage are raised."""
        if not self._is_wanted():
            return
        self.error = None
        db.execute("SAVEPOINT job")
        try:
            self.value = self.job(db)
        except STORAGE:
            raise
        except Exception as exc:
            self.error = exc
            db.execute("ROLLBACK TO job")
        db.execute("RELEASE job")

    def resolve(self, position: Position) -> None:
        """Tell who waits, after the commit."""
        if self.error is not None:
            self.future.set_exception(self.error)
        elif self._is_wanted():
            self.future.set_result(Written(self.value, position))

    def give_up(self, error: Exception) -> None:
        """Tell who waits that nothing was written."""
        if self._is_wanted():
            self.future.set_exception(error)

    def _is_wanted(self) -> bool:
        """Whether somebody still waits for the result; from the first time that this is asked, nobody can cancel any more."""
        if self._wanted is None:
            self._wanted = self.future.set_running_or_notify_cancel()
        return self._wanted


class Writer:
    """The service that writes to the database at `path`, which `farm.open_farm` has opened before."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        processing_interval: float = 5.0,
        retention: Retention | None = None,
        committed: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        """`processing_interval` (s): how often the worker looks for payloads that stand in `received`. `retention` trims the log.

        `committed` is told how many seconds each transaction took, from its begin until it was on the disk.
        """
        self.path = path
        self.retention = retention
        self._committed = committed
        self.has_farm = False  # whether the open file has the farm's tables
        self._interval = processing_interval
        self._tasks: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._together = 1  # jobs that were answered or waiting when the last transaction ended: as many may come again
        self._lasted = 0.0  # s that it took
        self._stopping = False
        self._give_up_at: float | None = None  # time.monotonic() after which stop() waits no more
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._db: apsw.Connection | None = None
        self._left: apsw.Connection | None = None  # to the file that was replaced, until the new one is opened
        self._identity: tuple[int, int] | None = None
        self._journal: dict[str, tuple[int, int] | None] = {}
        self._arriving: tuple[int, int] | None = None  # size and mtime of a new file, which may still be written
        self._schema_version = 0
        self._quiet_since: int | None = None  # the log's head when the schema was last seen as we know it
        self._reconciled = 0  # how often
        self._work_at = 0.0  # time.monotonic() of the worker's next look
        self._lease = checkpoint_lease(path)
        self._checkpoints = True  # whether they are ours just now, and not the shipper's
        self._asked_at = 0.0  # time.monotonic() of the last look at that
        self._doubtful = False  # whether the disk failed since it last confirmed all of the -wal: see changelog/durable.py
        self._outage: Exception | None = None  # why nothing can be written
        self._began_at: float | None = None  # time.monotonic() of the begin of the transaction at work

    def opened(self) -> tuple[int, int] | None:
        """The identity of the file that is open, None while none is."""
        return self._identity if self._db is not None else None

    def start(self) -> None:
        """Open the file and begin. Raises what opening it raises."""
        self._open()
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued, then close; what cannot be written in time is refused."""
        with self._changed:
            self._stopping, self._give_up_at = True, time.monotonic() + DRAIN
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: Job[T], actor: str) -> Future[Written[T]]:
        """Queue a job; `actor` signs what it writes. Never waits. Raises Unavailable when the queue is full or the writer stops."""
        return self._put(_Task(job, actor)).future

    def write(self, job: Job[T], actor: str) -> Written[T]:
        """Run a job and wait for its commit. Raises what the job raised, or Unavailable when the file cannot be written in time."""
        return self._wait(self.submit(job, actor))

    @property
    def queued(self) -> int:
        """How many jobs wait."""
        return len(self._tasks)

    @property
    def outage(self) -> str | None:
        """Why nothing can be written just now, in words for anybody (no path, no values), or None."""
        began, outage = self._began_at, self._outage
        if not self._thread.is_alive():
            return "the writer is not running"
        if outage is not None:
            return in_words(outage)
        if began is not None and time.monotonic() - began > HANGS:
            return f"the disk has not confirmed a write for {HANGS:g} s"
        return None

    def reconcile(self) -> bool:
        """Between two commits, bring the capture in line with a changed schema. True when that began a new epoch."""
        before = self._reconciled
        self.write(lambda db: None, "writer")  # every transaction looks first
        return self._reconciled != before

    def process(self) -> int:
        """Work off all payloads in `received` now; returns how many there were."""
        total = 0
        while count := self.write(_work, "worker").value:
            total += count
        return total

    def _put(self, task: _Task) -> _Task:
        with self._changed:
            if self._stopping or not self._thread.is_alive():
                raise Unavailable("the Pi's writer has stopped; send it again when the Pi is up", written=False)
            if len(self._tasks) >= QUEUE:
                raise Unavailable("too many writes are waiting for the disk; send it again later", written=False)
            self._tasks.append(task)
            if len(self._tasks) in (1, self._together):  # else the writer is at work, or gathers
                self._changed.notify()
        return task

    def _wait(self, future: Future[Any]) -> Any:
        for seconds in (WAIT_FULL, WAIT - WAIT_FULL):
            try:
                return future.result(seconds)
            except NotInTime:
                if self._outage is not None and is_full(self._outage):
                    break  # that will not be over soon, and whoever waits keeps a thread from those who only read
        why = f" ({self.outage})" if self.outage else ""
        if future.cancel():
            raise Unavailable(f"the database is locked or its disk is full{why}: nothing was stored, send it again", written=False)
        unsure = f"the disk has not confirmed the write in time{why}: it may still be stored, so look before you repeat it"
        raise Unavailable(unsure)

    def _run(self) -> None:
        while True:
            try:
                if not self.step():
                    break
            except Exception:  # the thread on which everything depends outlives what nobody foresaw
                logger.exception("the writer failed, and goes on")
                time.sleep(RETRY)
        self._close()

    def step(self) -> bool:
        """Wait for work and do one group of it. False when stopping and nothing is left."""
        group = self._take()
        if group:
            self._settle(group)
        elif self._stopping:
            return False
        try:
            self._look()
            if self.retention is not None and self._db is not None and not self._stopping:
                self.retention.step(self._db, busy=bool(self._tasks))
        except (*STORAGE, DroverError, OSError) as exc:
            self._report_outage(exc)
        return True

    def _take(self) -> list[_Task]:
        """All that is queued, up to one group; waits at most until the next look is due.

        Whoever was answered by the last transaction may come again at once. Without waiting for them, those who send together would fall
        into two halves, of which each waits for the other's commit, and the disk would be asked twice as often.
        """
        with self._changed:
            if not self._tasks and not self._stopping:
                trimming = self.retention.due_in() if self.retention is not None else LOOK
                self._changed.wait(min(LOOK, trimming, max(0.0, self._work_at - time.monotonic())))
            if self._tasks:
                self._changed.wait_for(
                    lambda: len(self._tasks) >= self._together or self._stopping, min(GATHER, GATHER_TURNS * self._lasted)
                )
            return [self._tasks.popleft() for _ in range(min(len(self._tasks), GROUP))]

    def _settle(self, group: list[_Task]) -> None:
        """Commit a group and resolve its futures, however long the file cannot be written; stop() ends the waiting."""
        while True:
            try:
                position = self._commit(group)
                break
            except (*STORAGE, DroverError, OSError) as exc:
                self._report_outage(exc)
                if isinstance(exc, UNUSABLE):
                    self._reopen()
                if self._give_up_at is not None and time.monotonic() > self._give_up_at:
                    for task in group:
                        task.give_up(Unavailable(f"the Pi stops, and its database could not be written: {exc}", written=False))
                    return
                time.sleep(RETRY)
            except Exception as exc:  # such as a trigger of somebody's with RAISE(ROLLBACK): one job shall not fail the others
                if len(group) > 1:
                    for task in group:
                        self._settle([task])
                    return
                group[0].give_up(exc)
                logger.exception("a job failed, and its transaction with it")
                return
        self._report_recovery()
        self._together = min(len(group) + len(self._tasks), GROUP)
        for task in group:
            task.resolve(position)

    def _commit(self, group: list[_Task]) -> Position:
        """One transaction with a savepoint for each job; returns the position of its end."""
        self._began_at = began = time.monotonic()
        try:
            position = self._transaction(group)
        finally:
            self._began_at = None
        self._lasted = time.monotonic() - began
        self._committed(self._lasted)
        return position

    def _transaction(self, group: list[_Task]) -> Position:
        db = self._begin()
        try:
            for actor, tasks in groupby(group, attrgetter("actor")):
                with signed(db, actor):
                    for task in tasks:
                        task.run(db)
            position = Position.of_head(db)
            db.execute("COMMIT")
            self._quiet_since = position.seq
        except BaseException:
            if db.in_transaction:  # a full disk has rolled back by itself
                db.execute("ROLLBACK")
            raise
        return position

    def _begin(self) -> apsw.Connection:
        """Begin a transaction on the present file, in which the capture is complete."""
        while True:
            db = self._present()
            db.execute("BEGIN IMMEDIATE")
            if db.pragma("schema_version") == self._schema_version:
                if self._doubtful:
                    self._write_anew(db)
                return db
            db.execute("ROLLBACK")
            self._reconcile(db)

    def _write_anew(self, db: apsw.Connection) -> None:
        """In a transaction: what the disk may have lost when it failed is written again, for ours builds on it. Raises OSError."""
        try:
            rewrite_wal(db)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        self._doubtful = False

    def _look(self) -> None:
        """See whether the file was replaced, its schema changed, or payloads wait for the worker. Reads only, unless there is work."""
        db = self._present()
        self._see_schema(db)
        self._report_recovery()
        self._share_checkpoints(db)
        if self.has_farm and time.monotonic() >= self._work_at:
            self._work_at = time.monotonic() + self._interval
            if herd.any_received(db):
                task = _Task(_work, "worker")
                self._settle([task])
                if task.future.result().value == WORK:
                    self._work_at = 0.0  # there may be more; what is queued has its turn first

    def _share_checkpoints(self, db: apsw.Connection) -> None:
        """Leave the -wal to the shipper while one runs, and take it back when that has ended, however."""
        now = time.monotonic()
        if now - self._asked_at < LOOK:
            return
        self._asked_at = now
        ours = not self._lease.is_held()
        if ours != self._checkpoints:
            self._checkpoints = ours
            db.wal_autocheckpoint(WAL_AUTOCHECKPOINT if ours else 0)
            logger.info("checkpoints are made by the %s", "writer" if ours else "shipper")

    def _see_schema(self, db: apsw.Connection) -> None:
        """Reconcile when the schema moved; else remember up to which seq it had not."""
        seen = "SELECT schema_version, (SELECT max(seq) FROM changelog) FROM pragma_schema_version"  # in one snapshot
        [(version, newest)] = rows(db, seen)
        if version == self._schema_version:
            self._quiet_since = newest
        else:
            self._reconcile(db)

    def _reconcile(self, db: apsw.Connection) -> None:
        version = db.pragma("schema_version")
        while farm.make_primary(db, self._quiet_since):
            self._reconciled += 1
            version = db.pragma("schema_version")
        self._schema_version = version  # read before the look that found nothing to do, so later DDL is not taken for seen
        self.has_farm = farm.has_farm(db)

    def _present(self) -> apsw.Connection:
        """The connection to the file that is at the path now. Raises DamagedFile when there is none, Unavailable while it arrives."""
        current = identity(self.path)
        if self._db is not None and current != self._identity:
            logger.warning("the database was replaced, opening the new one path=%s", self.path)
            self._leave()
        if self._db is not None:
            return self._db
        if current is None:
            raise DamagedFile(f"{self.path} is missing: put it back, or restart to begin a new one")
        facts = os.stat(self.path)
        if (arriving := (facts.st_size, facts.st_mtime_ns)) != self._arriving:
            self._arriving = arriving  # not opened while somebody still copies it there
            raise Unavailable(f"{self.path} was replaced; it is opened as soon as it stops growing")
        if current != self._identity:  # the same file may have been put back: its -wal and -shm are in use
            drop_journal(self.path, self._journal)
            self._journal = {}  # once: the inodes are free now
        self._close_left()
        farm.open_farm(self.path)
        return self._open()

    def _open(self) -> apsw.Connection:
        self._identity = identity(self.path)
        db = connect(self.path, checkpoints=True, foreign_keys=True)
        db.set_busy_timeout(BUSY)
        db.pragma("journal_size_limit", WAL_KEPT)
        self._db, self._quiet_since, self._checkpoints, self._asked_at = db, None, True, 0.0
        self._doubtful = True  # nobody knows what this process or an earlier one met
        self._reconcile(db)
        self._journal = journal_of(self.path)
        return db

    def _reopen(self) -> None:
        """Begin anew with the file that is open; `_present` tries again where that cannot be done now."""
        self._close()
        with suppress(*STORAGE, DroverError):
            if identity(self.path) == self._identity:
                self._open()

    def _leave(self) -> None:
        """Use a file no more that is not at the path any more, complete for whoever moved it away.

        It stays open: a -wal or -shm of the new file that got the inode of a closed one would be taken for that, and removed.
        """
        assert self._db is not None
        with suppress(apsw.Error):
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        if self.retention is not None:
            self.retention.close()
        self._left, self._db, self._arriving = self._db, None, None

    def _close_left(self) -> None:
        if self._left is not None:
            self._left.close()
            self._left = None

    def _close(self) -> None:
        if self.retention is not None:
            self.retention.close()
        if self._db is not None:
            self._db.close()
            self._db = self._arriving = None
        self._close_left()

    def _report_outage(self, error: Exception) -> None:
        if str(error) != str(self._outage):
            self._outage = error
            logger.warning("the database cannot be written, trying again path=%s cause=%s", self.path, error)

    def _report_recovery(self) -> None:
        if self._outage is not None:
            self._outage = None
            logger.warning("the database can be written again path=%s", self.path)


def _work(db: apsw.Connection) -> int:
    return herd.process_received(db, WORK, herd.utc_now())
