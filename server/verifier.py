"""Verify: the replica compared with the Pi over the sync API, mended where it differs, and what is told about it.

The comparison itself is `changelog/verify/check.py`. Where it finds that rows cannot mend the replica (a broken file, another schema, more
than a repair is for), a snapshot does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import apsw

from changelog.errors import DamagedFile, Divergence, HistoryTrimmed, PositionMismatch
from changelog.position import Position
from changelog.verify.answers import Answer
from changelog.verify.check import Verification
from changelog.verify.local import Answers
from changelog.verify.naming import counted, sentence
from changelog.verify.report import Report
from server.clock import utc_text
from server.pi_client import PiClient
from server.state import SyncState
from server.store import LastVerify, Store

SNAPSHOTS = 2  # taken for one verify: after the first the two sides are equal, unless the Pi's history begins anew once more
NAMED_IN_LOG = 50  # differences, a line each
NAMED_IN_HISTORY = 5
TRY_AGAIN = timedelta(minutes=10)  # after a nightly comparison that could not be made

logger = logging.getLogger(__name__)


@dataclass
class Verdict:
    """One comparison. `reason` says why rows could not mend the replica, and a snapshot was taken or is needed; "" where they could."""

    report: Report
    moved: int = 0  # bytes of questions and answers, on the wire
    seconds: float = 0.0
    reason: str = ""
    snapshot: bool = False  # taken because of `reason`
    repair: bool = False  # whether it was to mend what it finds
    at: str = field(default_factory=utc_text)

    @property
    def position(self) -> Position | None:
        """Where both sides were compared, if they were."""
        return self.report.position

    @property
    def rows(self) -> int:
        """Of all tables."""
        return self.report.rows

    @property
    def differing(self) -> tuple[str, ...]:
        """The tables that differed, by name."""
        return tuple(sorted(self.report.differing))

    @property
    def identical(self) -> bool:
        """Whether nothing differed."""
        return self.report.identical and not self.reason

    @property
    def mended(self) -> bool:
        """Whether what differed does not any more."""
        return not self.identical and self.repair and (self.snapshot or not self.reason)

    def sentence(self) -> str:
        """The result in words, with its time."""
        where = f" at seq {self.position.seq}" if self.position else ""
        return f"{self._result()}{where}, {self.at}Z"

    def facts(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        more = {"identical": self.identical, "mended": self.mended, "snapshot": self.snapshot, "reason": self.reason or None}
        return {**self.report.facts(), **more, "moved": self.moved, "seconds": round(self.seconds, 3), "at": self.at}

    def _result(self) -> str:
        if self.identical:
            return "identical"
        tables = ", ".join(f"{name} ({count})" for name, count in sorted(self.report.differing.items()))
        found = f"differed in {tables}" if tables else f"could not be compared: {self.reason}"
        if self.snapshot:
            return f"{found}; a snapshot was taken"
        return f"{found}; {counted(self.report.repaired)} repaired" if self.mended else f"{found}; not repaired"


class RemotePrimary:
    """The Pi as the other side of a comparison. `moved` counts the bytes of questions and answers, as they were on the wire."""

    def __init__(self, client: PiClient) -> None:
        self._client = client
        self.moved = 0

    def digests(self, ranges: int, log_from: int) -> Answer:
        """Every table, in ranges."""
        return self._ask("GET", "/digest", {"ranges": ranges, "log_from": log_from})

    def parts(self, asked: dict[str, Any]) -> Answer:
        """The parts of some ranges."""
        return self._ask("POST", "/digest", asked)

    def rows(self, asked: dict[str, Any]) -> Answer:
        """The rows of some ranges."""
        return self._ask("POST", "/compare", asked)

    def _ask(self, method: str, path: str, asked: dict[str, Any]) -> Answer:
        answer, moved = self._client.ask(method, path, asked)
        self.moved += moved
        return answer


class CannotVerify(Exception):
    """A comparison that came to no end: `verdict` is what it found until `cause`."""

    def __init__(self, verdict: Verdict, cause: PositionMismatch | HistoryTrimmed | Divergence | DamagedFile) -> None:
        self.verdict, self.cause = verdict, cause
        super().__init__(cause.message)


class Replicating(Protocol):
    """The one who writes the replica: `server/follower.py`."""

    def compare(self, repair: bool = False) -> Verdict:
        """Compare both sides at one position. Raises CannotVerify."""

    def start_anew(self, cause: PositionMismatch | HistoryTrimmed | Divergence | DamagedFile) -> None:
        """A snapshot in the place of a replica that cannot be compared, for this cause."""


def compare_with(primary: RemotePrimary | Answers, db: apsw.Connection, pull_to: Callable[[int], object], repair: bool) -> Verdict:
    """Compare the replica behind `db`, its writing connection, which `pull_to` brings to a seq; with `repair` mend it row by row.

    Raises CannotVerify where that cannot be done, and what the Pi or the network refuses with.
    """
    started = time.monotonic()
    verification = Verification(db, primary, pull_to, repair)
    verdict = Verdict(verification.report, repair=repair)
    try:
        verification.run()
    except (PositionMismatch, HistoryTrimmed, Divergence, DamagedFile) as exc:
        raise CannotVerify(verdict, exc) from exc
    finally:
        verdict.moved, verdict.seconds = primary.moved, time.monotonic() - started
    return verdict


def verify(follower: Replicating, repair: bool) -> Verdict:
    """One comparison by the sync thread, with the one road out of doubt: where rows cannot mend the replica, a snapshot, with `repair`.

    A snapshot is taken in any case where the Pi's history began anew. Raises Stranger, and what the Pi or the network refuses with.
    """
    first: Verdict | None = None
    for _ in range(SNAPSHOTS + 1):
        try:
            verdict = follower.compare(repair)
            return _joined(first, verdict) if first else verdict
        except CannotVerify as exc:
            doubt = isinstance(exc.cause, Divergence | DamagedFile)
            if doubt:
                first = first or exc.verdict
                first.reason = first.reason or exc.cause.message
                if not repair:
                    return first
                first.snapshot = True
            follower.start_anew(exc.cause)
    raise Divergence("the replica cannot be compared: after each snapshot there is a reason for another one")


def _joined(first: Verdict, last: Verdict) -> Verdict:
    """What was found at first, and where the comparison after the snapshot was made."""
    report, later = first.report, last.report
    report.position, report.tables, report.rows, report.log_rows = later.position, later.tables, later.rows, later.log_rows
    for difference in later.differences:
        report.note(difference)
    first.moved, first.seconds, first.at = first.moved + last.moved, first.seconds + last.seconds, last.at
    return first


def record(store: Store, state: SyncState, verdict: Verdict) -> None:
    """Into the log, the history, the status and the page."""
    remember(store, state, verdict)
    named = [sentence(d) for d in verdict.report.differences]
    for line in named[:NAMED_IN_LOG]:
        logger.error("Differs from the Pi: %s", line)
    if len(named) > NAMED_IN_LOG:
        logger.error("Differs from the Pi: and %d rows more", verdict.report.differing.total() - NAMED_IN_LOG)
    level = logging.INFO if verdict.identical else logging.ERROR
    logger.log(level, "Compared with the Pi: %s, %d rows, %d bytes moved", verdict.sentence(), verdict.rows, verdict.moved)
    store.record_verify(
        "repair" if verdict.mended else "verify",
        "ok" if verdict.identical or verdict.mended else "failed",
        rows=verdict.report.repaired,
        bytes=verdict.moved,
        seconds=verdict.seconds,
        reason=verdict.reason or "; ".join(named[:NAMED_IN_HISTORY]) or None,
    )


def remember(store: Store, state: SyncState, verdict: Verdict) -> None:
    """The newest result, for the status and the page, over restarts."""
    store.last_verify = LastVerify(verdict.at, verdict.identical, verdict.sentence())
    state.verified(verdict.sentence(), verdict.at, verdict.identical)


def recall(store: Store, state: SyncState) -> None:
    """At the start: what the newest comparison found."""
    last = store.last_verify
    if last:
        state.verified(last.result, last.at, last.ok)


def is_due(now: datetime, verify_at: str, last: datetime, tried: datetime | None) -> bool:
    """Whether a nightly comparison is to be made: the newest VERIFY_AT (HH:MM, UTC) that has passed is later than the `last` one made.

    `tried` is when one was tried in vain: it is tried again after a while. A `last` in the future (a clock was wrong) counts as now.
    """
    if tried is not None and timedelta(0) <= now - tried < TRY_AGAIN:
        return False
    hour, minute = map(int, verify_at.split(":"))
    due = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return min(last, now) < (due if due <= now else due - timedelta(days=1))


def next_due(now: datetime, verify_at: str) -> datetime:
    """When the next nightly comparison is to be made, if none is overdue."""
    hour, minute = map(int, verify_at.split(":"))
    due = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return due if due > now else due + timedelta(days=1)


class Nightly:
    """When the nightly comparison is due; the newest one stands in server.db, so that one which was missed is made up."""

    def __init__(self, store: Store, verify_at: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`clock` is for tests."""
        self._store, self._verify_at, self._clock = store, verify_at, clock
        self._tried: datetime | None = None
        self._last = self._stored() or self.done()  # the first start ever: the first comparison is that of the next night

    def due(self) -> bool:
        """Whether it is time. A comparison of the future (a clock was wrong) counts as made just now, for good: else none is, for years."""
        now = self._clock()
        self._last = min(self._last, now)
        return is_due(now, self._verify_at, self._last, self._tried)

    def done(self) -> datetime:
        """It was made, now."""
        self._last, self._tried = self._clock(), None
        self._store.nightly_verify = self._last.strftime("%Y-%m-%dT%H:%M:%S")
        return self._last

    def failed(self) -> None:
        """It could not be made."""
        self._tried = self._clock()

    def _stored(self) -> datetime | None:
        text = self._store.nightly_verify
        try:
            return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None
        except ValueError:
            return None
