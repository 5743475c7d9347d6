"""The one thread that writes to farm.db: it commits jobs in groups, works off payloads, and trims the log.

A job is a function of the connection; it may run again when its transaction could not be committed (a locked file, a full disk), so it does
nothing but write there. Its future resolves after the commit: what has been answered survives a power cut.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

import apsw

from changelog.errors import DroverError, Unavailable
from changelog.log import signed
from changelog.position import Position
from changelog.space import is_full
from changelog.storage import STORAGE, UNUSABLE, in_words
from pi import herd
from pi.jobs import Job, Queue, Task, Written, stopped
from pi.live_file import LiveFile
from pi.retention import Retention

WORK = 500  # payloads in one transaction of the worker: a shell has no patience with locks, so transactions stay short
WAIT = 15.0  # s that `write` waits for the commit
WAIT_FULL = 1.0  # s of it where the disk is full
RETRY = 0.25  # s between attempts while the file cannot be written
LOOK = 1.0  # s between looks, when idle, at whether the file was replaced or its schema changed
DRAIN = 2.5  # s that stop() goes on trying to write what is queued
HANGS = 15.0  # s after which a transaction that has not ended counts as an outage

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
        self.file = LiveFile(path, self._let_go)
        self._queue = Queue()
        self._committed = committed
        self._interval = processing_interval
        self._give_up_at: float | None = None  # time.monotonic() after which stop() waits no more
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._work_at = 0.0  # time.monotonic() of the worker's next look
        self._outage: Exception | None = None  # why nothing can be written
        self._began_at: float | None = None  # time.monotonic() of the begin of the transaction at work

    @property
    def has_farm(self) -> bool:
        """Whether the open file has the farm's tables."""
        return self.file.has_farm

    @property
    def queued(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

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

    def opened(self) -> tuple[int, int] | None:
        """The identity of the file that is open, None while none is."""
        return self.file.identity if self.file.db is not None else None

    def start(self) -> None:
        """Open the file and begin. Raises what opening it raises."""
        self.file.open()
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued, then close; what cannot be written in time is refused."""
        self._give_up_at = time.monotonic() + DRAIN
        self._queue.stop()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: Job[T], actor: str) -> Future[Written[T]]:
        """Queue a job; `actor` signs what it writes. Never waits. Raises Unavailable when the queue is full or the writer stops."""
        if not self._thread.is_alive():
            raise stopped()
        task = Task(job, actor)
        self._queue.put(task)
        return task.future

    def write(self, job: Job[T], actor: str) -> Written[T]:
        """Run a job and wait for its commit. Raises what the job raised, or Unavailable when the file cannot be written in time."""
        return self._wait(self.submit(job, actor))

    def reconcile(self) -> bool:
        """Between two commits, bring the capture in line with a changed schema. True when that began a new epoch."""
        before = self.file.reconciled
        self.write(lambda db: None, "writer")  # every transaction looks first
        return self.file.reconciled != before

    def process(self) -> int:
        """Work off all payloads in `received` now; returns how many there were."""
        total = 0
        while count := self.write(_work, "worker").value:
            total += count
        return total

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
        self.file.close()

    def step(self) -> bool:
        """Wait for work and do one group of it. False when stopping and nothing is left."""
        trimming = self.retention.due_in() if self.retention is not None else LOOK
        group = self._queue.take(min(LOOK, trimming, max(0.0, self._work_at - time.monotonic())))
        if group:
            self._settle(group)
        elif self._queue.stopping:
            return False
        try:
            self._look()
            if self.retention is not None and self.file.db is not None and not self._queue.stopping:
                self.retention.step(self.file.db, busy=bool(self._queue))
        except (*STORAGE, DroverError, OSError) as exc:
            self._report_outage(exc)
        return True

    def _settle(self, group: Sequence[Task]) -> None:
        """Commit a group and resolve its futures, however long the file cannot be written; stop() ends the waiting."""
        while True:
            try:
                position, seconds = self._commit(group)
                break
            except (*STORAGE, DroverError, OSError) as exc:
                self._report_outage(exc)
                if isinstance(exc, UNUSABLE):
                    self.file.reopen()
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
        self._queue.settled(len(group), seconds)
        for task in group:
            task.resolve(position)

    def _commit(self, group: Sequence[Task]) -> tuple[Position, float]:
        """One transaction with a savepoint for each job; returns the position of its end, and the seconds that it took."""
        self._began_at = began = time.monotonic()
        try:
            position = self._transaction(group)
        finally:
            self._began_at = None
        seconds = time.monotonic() - began
        self._committed(seconds)
        return position, seconds

    def _transaction(self, group: Sequence[Task]) -> Position:
        db = self.file.begin()
        try:
            for actor, tasks in groupby(group, attrgetter("actor")):
                with signed(db, actor):
                    for task in tasks:
                        task.run(db)
            position = Position.of_head(db)
            db.execute("COMMIT")
            self.file.committed(position.seq)
        except BaseException:
            if db.in_transaction:  # a full disk has rolled back by itself
                db.execute("ROLLBACK")
            raise
        return position

    def _look(self) -> None:
        """See whether the file was replaced, its schema changed, or payloads wait for the worker. Reads only, unless there is work."""
        db = self.file.look()
        self._report_recovery()
        if self.has_farm and time.monotonic() >= self._work_at:
            self._work_at = time.monotonic() + self._interval
            if herd.any_received(db):
                task = Task(_work, "worker")
                self._settle([task])
                if task.future.result().value == WORK:
                    self._work_at = 0.0  # there may be more; what is queued has its turn first

    def _let_go(self) -> None:
        """A connection is left: trimming may be at work on it."""
        if self.retention is not None:
            self.retention.close()

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
