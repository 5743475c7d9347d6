"""How many animals there are by status and by pen, without counting a million of them for each page.

They are counted once, and from then on the changelog says what has changed: a page pays for the changes since the last one. The log does
not tell of a repair or a fresh copy, so everything that may be a sign of one (epoch, schema, the newest verify) begins a new count, and
so does the time: whatever happened, the figures are right again after RECOUNT.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import apsw

from changelog.connection import one, rows
from server.paging import rows_of
from server.state import SyncState

RECOUNT = 30.0  # s after which everything is counted anew
MOST_CHANGES = 5_000  # log rows; after more, counting is no dearer

Kind = tuple[Any, Any]  # pen_id, status
ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class Herd:
    """How many animals there are: by status, and the active ones by pen (None: those without)."""

    statuses: dict[Any, int]
    pens: dict[Any, int]

    @property
    def animals(self) -> int:
        """All of them."""
        return sum(self.statuses.values())


@dataclass(slots=True)
class _Count:
    """The count at one place in the log."""

    sign: tuple[Any, ...]
    seq: int
    nonce: int | None
    at: float
    kinds: Counter[Kind]
    herd: Herd


class Tallies:
    """The counts of one replica, for the snapshot of whoever asks."""

    def __init__(self, state: SyncState, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        self._state, self._clock = state, clock
        self._lock = threading.Lock()
        self._count: _Count | None = None

    def of(self, db: apsw.Connection) -> Herd:
        """The animals in this connection's snapshot."""
        position = rows(db, "SELECT epoch, seq, nonce FROM changelog_position")[0]
        sign = (position[0], db.pragma("schema_version"), self._state.facts().last_verify_at)
        with self._lock:  # who waits for a count would make the same one
            known = self._count
            if known is None or known.sign != sign or known.at + RECOUNT < self._clock():
                return self._counted(db, sign, *position[1:])
            if known.seq == position[1] and known.nonce == position[2]:
                return known.herd
            return self._moved(db, known, *position[1:]) or self._counted(db, sign, *position[1:])

    def _counted(self, db: apsw.Connection, sign: tuple[Any, ...], seq: int, nonce: int) -> Herd:
        found = rows_of(db, "SELECT pen_id, status, count(*) AS animals FROM cattle GROUP BY pen_id, status")
        kinds: Counter[Kind] = Counter()
        for row in found:
            kinds[row.pen_id, row.status] += row.animals
        self._count = _Count(sign, seq, nonce, self._clock(), kinds, _herd(kinds))
        return self._count.herd

    def _moved(self, db: apsw.Connection, known: _Count, seq: int, nonce: int) -> Herd | None:
        """The known count moved on (never back: an older snapshot is counted) to `seq`; None where the log does not say how."""
        if not known.seq < seq <= known.seq + MOST_CHANGES:
            return None
        if one(db, "SELECT nonce FROM changelog WHERE seq=?", (known.seq,)) != known.nonce:
            return None  # the log goes on from another write, or does not reach back so far
        kinds = known.kinds.copy()
        slots = _slots(db)
        since = "SELECT * FROM changelog WHERE seq>? AND seq<=? AND (tbl='cattle' OR op NOT IN ('I','U','D'))"
        changes = rows_of(db, since, (known.seq, seq))
        for change in changes:
            places = slots.get(change.gen)
            if change.tbl != "cattle" or change.op not in ("I", "U", "D") or places is None:
                return None  # another schema
            new = tuple(getattr(change, f"n{place}") for place in places)
            old = tuple(getattr(change, f"o{place}") for place in places)
            if change.op == "U":  # the log has an old value only where it changed
                old = tuple(before if change.chg[place] == "1" else after for place, before, after in zip(places, old, new, strict=True))
            if change.op != "I":
                kinds[old] -= 1
            if change.op != "D":
                kinds[new] += 1
        if min(kinds.values(), default=0) < 0:
            return None
        self._count = _Count(known.sign, seq, nonce, known.at, kinds, _herd(kinds))
        return self._count.herd


def _slots(db: apsw.Connection) -> dict[int, tuple[int, int]]:
    """Where pen_id and status stand in the log rows of cattle, by the generation of its columns."""
    found: dict[int, dict[str, int]] = {}
    for gen, col, pos in db.execute("SELECT gen, col, pos FROM changelog_cols WHERE tbl='cattle' AND col IN ('pen_id','status')"):
        found.setdefault(gen, {})[col] = pos
    return {gen: (places["pen_id"], places["status"]) for gen, places in found.items() if len(places) == 2}


def _herd(kinds: Counter[Kind]) -> Herd:
    statuses: Counter[Any] = Counter()
    pens: Counter[Any] = Counter()
    for (pen, status), animals in kinds.items():
        if animals:
            statuses[status] += animals
            if status == ACTIVE:
                pens[pen] += animals
    ordered = sorted(statuses.items(), key=lambda each: (each[0] != ACTIVE, str(each[0])))
    return Herd(dict(ordered), dict(pens))
