"""Trimming the Pi's log, a short step at a time: the writer thread calls `step` between its jobs, and never for long.

Once an hour: when the file is larger than the log may be, count what the log takes; then let rows go that are old and acknowledged, or
too many. What an hour's look has found holds for the file that was looked at and for no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import apsw

from changelog.acks import Ack, Acks
from changelog.connection import Path_, connect
from changelog.errors import DroverError
from changelog.gaps import trimmed_upto
from changelog.log import head
from changelog.retention import PAUSE, Limits, Plan, Survey, about_log_bytes, cutoff, file_bytes, forget_anchors, plan, trim_run

FIRST = 60.0  # s after the start
EVERY = 3_600.0  # s between two looks
COUNTING = 0.02  # s that a step counts pages, when the file is large
LEAST_PAUSE = 0.05  # s between two steps
FAILED_PAUSE = 2.0  # s before what failed is tried again
BUSY_PAUSE = 1.0  # s between two steps while jobs are waiting: they go first, and trimming goes on all the same

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Figures:
    """What was seen last, for metrics. `log_bytes` is counted when the file is larger than the cap, and estimated when it is not."""

    log_bytes: int = 0
    file_bytes: int = 0
    oldest: int = 0
    head: int = 0
    trimmed: int = 0  # rows since the start
    looked_at: float = 0.0  # time.time(); 0: not yet


class Retention:
    """Trims the log of the database at `path`. Used by the writer's thread; `figures` may be read by any."""

    def __init__(self, path: Path_, acks: Acks, keep_days: int, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.figures = Figures()
        self._path, self._acks, self._keep_days, self._max_bytes, self._clock = path, acks, keep_days, max_bytes, clock
        self._next_look = clock() + FIRST
        self._next_step = 0.0
        self._look: _Look | None = None
        self._failure = ""  # why the last step failed, if it did

    def due_in(self) -> float:
        """Seconds until `step` has something to do."""
        return max(0.0, (self._next_look if self._look is None else self._next_step) - self._clock())

    def step(self, db: apsw.Connection, busy: bool) -> None:
        """Do one short piece of what is due, if anything is; `db` is the writer's connection, `busy` whether jobs wait for it.

        What cannot be done, such as while somebody holds the file locked, is tried again later.
        """
        now = self._clock()
        if self.due_in() or (busy and now < self._next_step + BUSY_PAUSE):
            return
        try:
            self._advance(db, now)
            self._next_step = self._clock() + max(LEAST_PAUSE, PAUSE * (self._clock() - now))
        except (apsw.Error, DroverError) as exc:
            self._fail(exc)

    def _advance(self, db: apsw.Connection, now: float) -> None:
        if self._look is not None and self._look.db is not db:
            self._end()  # the file was replaced
        if self._look is None:
            self._begin(db)
            self._next_look = now + EVERY
        elif self._look.survey is not None:
            self._count(self._look)
        else:
            self._trim(self._look)

    def close(self) -> None:
        """End what is going on, and let go of the file."""
        self._end()

    def _fail(self, error: apsw.Error | DroverError) -> None:
        """Try a run of trimming again soon, and a look that has not come so far a minute later."""
        self._next_step = self._clock() + FAILED_PAUSE
        if self._look is not None and self._look.survey is not None:
            self._end()
        if self._look is None:
            self._next_look = self._clock() + FIRST
        if str(error) != self._failure:
            self._failure = str(error)
            logger.warning("the changelog cannot be trimmed just now, trying again cause=%s", error)

    def _begin(self, db: apsw.Connection) -> None:
        """Begin a look: what is too old, and whether the log may be too large."""
        self._see(db)
        look = _Look(db, Limits(cutoff(self._keep_days)))
        if self.figures.file_bytes > self._max_bytes:
            look.reader = connect(self._path, readonly=True)
            try:
                look.reader.execute("BEGIN")
                look.survey = Survey(look.reader)
            except BaseException:
                look.close()
                raise
        else:
            self.figures.log_bytes = about_log_bytes(db)
        self._look = look

    def _see(self, db: apsw.Connection) -> None:
        figures = self.figures
        figures.oldest, figures.head = trimmed_upto(db) + 1, head(db)
        figures.file_bytes, figures.looked_at = file_bytes(db), time.time()

    def _count(self, look: _Look) -> None:
        """Count some pages of the log; when all are counted, what goes because of the log's size is known."""
        if look.survey is not None and look.survey.read(COUNTING):
            self.figures.log_bytes = look.survey.bytes
            look.limits = Limits(look.limits.cutoff, cap=look.survey.over(self._max_bytes))
            look.close()

    def _trim(self, look: _Look) -> None:
        """Let one run of rows go; when no more may, say what went."""
        acks = self._acks.all()
        gone = trim_run(look.db, look.limits, acks)
        if gone is not None:
            look.add(gone)
            self.figures.trimmed += gone.rows
            return
        forget_anchors(look.db, acks)
        self._end()
        self._failure = ""
        self._see(look.db)
        if look.rows:
            self.figures.log_bytes = about_log_bytes(look.db)
            self._report(look, plan(look.db, look.limits, acks).slowest)

    def _end(self) -> None:
        if self._look is not None:
            self._look.close()
            self._look = None

    def _report(self, look: _Look, slowest: int | None) -> None:
        text = "changelog trimmed rows=%d oldest=%d head=%d why=%s log_bytes=%d slowest_replica_at=%s"
        figures = self.figures
        facts = (look.rows, figures.oldest, figures.head, "+".join(sorted(look.why)), figures.log_bytes, slowest)
        if look.passed_over:
            names = ", ".join(f"{ack.replica_id[:64]!r} (key {ack.key_name}, seq {ack.seq})" for ack in look.passed_over.values())
            logger.warning(f"{text} passed_over=%s: what these replicas lack is gone, they will take a snapshot", *facts, names)
        else:
            logger.info(text, *facts)


class _Look:
    """One hour's look at one file: what may go, and what went."""

    def __init__(self, db: apsw.Connection, limits: Limits) -> None:
        self.db, self.limits = db, limits
        self.reader: apsw.Connection | None = None
        self.survey: Survey | None = None
        self.rows = 0
        self.why: set[str] = set()
        self.passed_over: dict[str, Ack] = {}

    def add(self, gone: Plan) -> None:
        """Note what a run has trimmed."""
        self.rows += gone.rows
        self.why.add(gone.why)
        self.passed_over |= {ack.replica_id: ack for ack in gone.passed_over}

    def close(self) -> None:
        """Let go of what counts the log's pages."""
        self.survey = None
        if self.reader is not None:
            self.reader.close()
            self.reader = None
