"""Retention: which rows of a log may go, and letting them go, in transactions so short that nobody waits for them.

Rows go from the oldest on. A row goes when every replica has acknowledged a later one *and* it is older than the days that are kept: both,
so that a clock that jumps trims nothing that a replica still needs. Whatever these two say, a log that is larger than its cap loses its
oldest rows until it is about as large as the cap; a replica that needed them is told so (410) and takes a snapshot.

The newest row always stays: the next seq is counted from it. What is known of a position outlives its row: the mark `trimmed` holds the
nonce of the last row that went, and an `anchor` that of each acknowledged row that went, so that a replica which comes back later is told
apart from one with another history (409). All of it is written in the transaction that deletes the rows: a kill leaves a valid log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import apsw

from changelog.acks import Ack
from changelog.connection import one, rows
from changelog.gaps import gaps_of, trimmed_upto
from changelog.log import head
from changelog.position import ancestors_of, epoch_of
from changelog.reader import known_nonce

RUN_ROWS = 1_000  # in one transaction
RUN_TIME = 0.05  # s after which a transaction deletes no further rows: they may be large, or the disk slow
BITE = 20  # rows between two looks at the clock
PAUSE = 4.0  # times as long as a transaction took is nothing done after it: a shell has no patience with locks
LEAST_PAUSE = 0.02  # s
SAMPLE = 300  # rows by which the log's size is estimated
POINT_BYTES = 2**16  # of the log between two points of a survey

_LOG_PARTS = "SELECT name FROM sqlite_schema WHERE type IN ('table','index') AND tbl_name='changelog' AND rootpage>0"


@dataclass(frozen=True, slots=True)
class Limits:
    """What may go: rows written before `cutoff` (as `at` has it) and below seq `below`, where these are given, once all replicas have
    them; and whatever replicas have, the rows up to seq `cap`."""

    cutoff: str | None = None
    below: int | None = None
    cap: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes: `rows` from seq `oldest` to `upto` (oldest - 1 when none do), and why ("age", "cap" or "").

    `slowest` is the seq of the slowest replica that counts, `passed_over` are those whose position is trimmed away.
    """

    oldest: int
    head: int
    upto: int
    rows: int
    why: str
    slowest: int | None
    passed_over: tuple[Ack, ...]


def cutoff(keep_days: float, now: float | None = None) -> str:
    """The time that many days before `now` (s since 1970, the present if None), as `at` is written."""
    since = time.time() if now is None else now
    try:
        at = datetime.fromtimestamp(0, UTC) + timedelta(seconds=since, days=-keep_days)
    except OverflowError:  # a clock that is far off
        at = datetime.max if since > 0 else datetime.min
    return f"{at.year:04d}-" + at.strftime("%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def counted(db: apsw.Connection, acks: Sequence[Ack]) -> dict[Ack, int]:
    """The seq of this log up to which each replica has it; without those whose history is not this one, which hold nothing back."""
    newest = head(db)
    ends: Mapping[str, int] = {**ancestors_of(db), epoch_of(db): newest}
    return {ack: min(ack.seq, ends[ack.epoch], newest) for ack in acks if ack.epoch in ends}


def plan(db: apsw.Connection, limits: Limits, acks: Sequence[Ack] | None, look: int | None = None) -> Plan:
    """What goes now, within the caller's snapshot. `acks` None: replicas are not asked; an empty list: none has acknowledged anything.

    With `look` no further than at that many of the oldest rows.
    """
    oldest, newest = trimmed_upto(db) + 1, head(db)
    reached = counted(db, acks or ())
    slowest = min(reached.values(), default=None)
    stop = newest  # the first seq that stays
    if look is not None:
        stop = min(stop, one(db, "SELECT seq FROM changelog ORDER BY seq LIMIT 1 OFFSET ?", (look,)) or newest)
    aged = _last_aged(db, limits, stop if acks is None else min(stop, slowest or 0))
    upto = max(oldest - 1, aged, min(limits.cap, stop - 1))
    why = "" if upto < oldest else "age" if upto == aged else "cap"
    passed = tuple(ack for ack, seq in reached.items() if oldest - 1 <= seq < upto)
    missing = sum(min(gap.last, upto) - gap.first + 1 for gap in gaps_of(db) if oldest < gap.first <= upto)
    return Plan(oldest, newest, upto, upto - oldest + 1 - missing, why, slowest, passed)


def trim_run(db: apsw.Connection, limits: Limits, acks: Sequence[Ack] | None) -> Plan | None:
    """One short transaction: let the oldest rows go that may go, RUN_ROWS at most. Returns what went, or None when nothing may."""
    if plan(db, limits, acks, RUN_ROWS).rows <= 0:  # looked at without the write lock
        return None
    with db:
        found = plan(db, limits, acks, RUN_ROWS)
        if found.rows <= 0:
            return None
        nonces = _nonces(db, found, acks or ())
        count, last, nonce = _delete(db, found.upto)
        _forget(db, acks)
        marks = [("anchor", nonces[seq], seq) for seq in nonces if seq < last] + [("trimmed", nonce, last)]
        db.executemany("INSERT INTO changelog_meta(name,value,seq) VALUES(?,?,?)", marks)
        passed = tuple(ack for ack, seq in counted(db, found.passed_over).items() if seq < last)
    return replace(found, upto=last, rows=count, passed_over=passed)


def trim(db: apsw.Connection, limits: Limits, acks: Sequence[Ack] | None) -> Iterator[Plan]:
    """Runs, with pauses in which others can write, until nothing more may go; gives each as it is done."""
    while True:
        started = time.monotonic()
        gone = trim_run(db, limits, acks)
        if gone is None:
            return
        yield gone
        time.sleep(max(LEAST_PAUSE, PAUSE * (time.monotonic() - started)))


def trim_old(db: apsw.Connection, keep_days: float, most: int | None = None, now: float | None = None) -> int:
    """Trim a replica's own log: rows older than `keep_days` go (0: none do). Returns how many went.

    `db` is the connection that owns the replica: nobody else writes to it, so there are no pauses. With `most` it stops when about so
    many have gone; the next call goes on.
    """
    count = 0
    limits = Limits(cutoff(keep_days, now)) if keep_days else Limits()
    while (most is None or count < most) and (gone := trim_run(db, limits, None)):
        count += gone.rows
    return count


def forget_anchors(db: apsw.Connection, acks: Sequence[Ack]) -> None:
    """Anchors of replicas that have moved on go. Writes only where there are some."""
    known = f"name='anchor' AND seq NOT IN ({','.join('?' * len(acks))})"
    seqs = [ack.seq for ack in acks]
    if one(db, f"SELECT 1 FROM changelog_meta WHERE {known}", seqs):
        db.execute(f"DELETE FROM changelog_meta WHERE {known}", seqs)


def log_bytes(db: apsw.Connection) -> int:
    """How many bytes of the file the log takes, its indexes included. Reads all of it: a second for each gigabyte, more on an SD card."""
    return sum(_bytes_of(db, name) for (name,) in rows(db, _LOG_PARTS))


def about_log_bytes(db: apsw.Connection) -> int:
    """The same estimated by the newest rows, and quick: within a third or so, where rows are of a size. Never more than the file has."""
    columns = [name for (name,) in rows(db, "SELECT name FROM pragma_table_info('changelog')")]
    # One sum a column: a chain of 2000 additions would pass SQLite's depth limit. And octet_length does not read a large value to know it.
    sums = ",".join(f"coalesce(sum(octet_length({name})),0)" for name in columns)
    [(sampled, *sizes)] = rows(db, f"SELECT count(*),{sums} FROM (SELECT * FROM changelog ORDER BY seq DESC LIMIT {SAMPLE})")
    mean = len(columns) + sum(sizes) / max(sampled, 1)  # a byte of type for each value
    return min(file_bytes(db), round(mean * (head(db) - trimmed_upto(db))))


def file_bytes(db: apsw.Connection) -> int:
    """How many bytes of the file are in use: no log is larger. Quick."""
    return (db.pragma("page_count") - db.pragma("freelist_count")) * db.pragma("page_size")


class Survey:
    """How many bytes the oldest rows take, counted page by page, a little at a time. `db` is in a read transaction until it is done."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._oldest, self._head = trimmed_upto(db) + 1, head(db)
        # In this order dbstat does not sort: it walks the tree, so the pages come as their rows do, overflow pages behind them.
        self._pages = db.execute("SELECT pagetype, ncell, pgsize FROM dbstat WHERE name='changelog' ORDER BY name, path")
        self._points: list[tuple[int, int]] = []  # (rows, bytes) before some pages
        self._rows = self._table = 0
        self.bytes = 0  # that the log takes, once it is done

    def read(self, seconds: float | None = None) -> bool:
        """Count on, for so many seconds or to the end. True when all is counted."""
        until = None if seconds is None else time.monotonic() + seconds
        for kind, cells, size in self._pages:
            due = kind == "leaf" and (not self._points or self._table >= self._points[-1][1] + POINT_BYTES)
            if due:
                self._points.append((self._rows, self._table))
            self._rows += cells if kind == "leaf" else 0
            self._table += size
            if due and until is not None and time.monotonic() > until:
                return False
        self.bytes = self._table + sum(_bytes_of(self._db, name) for (name,) in rows(self._db, _LOG_PARTS) if name != "changelog")
        return True

    def over(self, cap: int) -> int:
        """The last seq of the oldest rows that must go so that the log is about `cap` bytes; one before the oldest when none must."""
        if self.bytes <= cap:
            return self._oldest - 1
        excess = (self.bytes - cap) * self._table / self.bytes
        count = next((found for found, size in self._points if size >= excess), self._rows)
        if self._rows == self._head - self._oldest + 1:
            return self._oldest + count - 1
        return one(self._db, "SELECT seq FROM changelog ORDER BY seq LIMIT 1 OFFSET ?", (max(count - 1, 0),)) or self._head


def _bytes_of(db: apsw.Connection, name: str) -> int:
    return one(db, "SELECT pgsize FROM dbstat WHERE name=? AND aggregate=TRUE", (name,)) or 0


def _last_aged(db: apsw.Connection, limits: Limits, stop: int) -> int:
    """The last seq before `stop` up to which every row may go by its age; 0 when age lets nothing go."""
    if limits.cutoff is None and limits.below is None:
        return 0
    if limits.below is not None:
        stop = min(stop, limits.below)
    if limits.cutoff is not None:
        # `at` is the primary's clock, which may jump, and anybody's text: the first row that is not older ends it, whatever comes behind.
        young = "SELECT seq FROM changelog WHERE seq<? AND (at<?) IS NOT 1 ORDER BY seq LIMIT 1"
        stop = one(db, young, (stop, limits.cutoff)) or stop
    return stop - 1


def _nonces(db: apsw.Connection, found: Plan, acks: Sequence[Ack]) -> dict[int, int]:
    """The nonces that must stay known when the rows are gone, by seq: of every position that was good until now and that a replica has."""
    epoch = epoch_of(db)
    seqs = {ack.seq for ack in acks if ack.epoch == epoch and found.oldest - 1 <= ack.seq < found.upto}
    return {seq: nonce for seq in sorted(seqs) if (nonce := known_nonce(db, seq)) is not None}


def _delete(db: apsw.Connection, upto: int) -> tuple[int, int, int]:
    """Delete the oldest rows in bites, for RUN_TIME: how many went, and the last of them, seq and nonce."""
    until, count, last = time.monotonic() + RUN_TIME, 0, (0, 0)
    bite = "SELECT seq, nonce FROM changelog WHERE seq<=? ORDER BY seq LIMIT ?"
    while not count or time.monotonic() < until:
        found = rows(db, bite, (upto, BITE))
        if not found:
            break
        last = found[-1]
        db.execute("DELETE FROM changelog WHERE seq<=?", (last[0],))
        count += len(found)
    return count, *last


def _forget(db: apsw.Connection, acks: Sequence[Ack] | None) -> None:
    """The former mark, gaps that lie before the log now, and anchors of replicas that have moved on."""
    db.execute("DELETE FROM changelog_meta WHERE name='trimmed'")
    db.execute("DELETE FROM changelog_meta WHERE name='gap' AND seq<(SELECT min(seq) FROM changelog)")
    if acks is not None:
        forget_anchors(db, acks)
