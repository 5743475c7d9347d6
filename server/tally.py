"""A figure that is dear to count, kept up by the changelog: a page pays for the changes since the last page.

The log does not tell of a repair or a fresh copy, so everything that may be a sign of one (epoch, schema, the newest verify) begins a new
count, and so does the time: whatever happened, the figure is right again after RECOUNT.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import apsw

from changelog.connection import one, rows
from server.paging import rows_of
from server.state import SyncState

RECOUNT = 30.0  # s after which everything is counted anew
MOST_CHANGES = 5_000  # log rows; after more, counting is no dearer

Figure = TypeVar("Figure")
Values = tuple[Any, ...]
Moved = tuple[Values | None, Values | None]  # the columns of one row before and after a change; None where there was no row
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Known(Generic[Figure]):
    """The figure at one place in the log."""

    sign: Values
    seq: int
    nonce: int | None
    at: float
    figure: Figure


class Tally(Generic[Figure]):
    """One figure over some columns of a table, for the snapshot of whoever asks."""

    def __init__(
        self,
        state: SyncState,
        table: str,
        columns: tuple[str, ...],
        count: Callable[[apsw.Connection], Figure],
        move: Callable[[Figure, list[Moved]], Figure | None] = lambda figure, changes: None,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        """`move` gives the figure after some changes, or None where it has to be counted. `clock` gives seconds that never go back."""
        self._state, self._table, self._columns = state, table, columns
        self._count, self._move, self._clock = count, move, clock
        self._lock = threading.Lock()
        self._known: _Known[Figure] | None = None

    def of(self, db: apsw.Connection) -> Figure:
        """The figure in this connection's snapshot."""
        epoch, seq, nonce = rows(db, "SELECT epoch, seq, nonce FROM changelog_position")[0]
        sign = (epoch, db.pragma("schema_version"), self._state.facts().last_verify_at)
        with self._lock:  # who waits for a count would make the same one
            known, now = self._known, self._clock()
            if known is None or known.sign != sign or known.at + RECOUNT < now:
                figure, at = self._count(db), now
            elif known.seq == seq and known.nonce == nonce:
                return known.figure
            else:
                moved = self._moved(db, known, seq)
                figure, at = (self._count(db), now) if moved is None else (moved, known.at)
            self._known = _Known(sign, seq, nonce, at, figure)
            return figure

    def _moved(self, db: apsw.Connection, known: _Known[Figure], seq: int) -> Figure | None:
        """The figure moved on (never back: an older snapshot is counted) to `seq`; None where the log does not say how."""
        if not known.seq < seq <= known.seq + MOST_CHANGES:
            return None
        if one(db, "SELECT nonce FROM changelog WHERE seq=?", (known.seq,)) != known.nonce:
            return None  # the log goes on from another write, or does not reach back so far
        changes = [each for each in self._changes(db, known.seq, seq) if each[0] != each[1]]
        return self._move(known.figure, changes) if changes else known.figure

    def _changes(self, db: apsw.Connection, after: int, seq: int) -> Iterator[Moved]:
        """The changes of the table between two places in the log, under one schema: another one has another sign."""
        slots = self._slots(db)
        since = "SELECT * FROM changelog WHERE seq>? AND seq<=? AND tbl=? AND op IN ('I','U','D')"
        for change in rows_of(db, since, (after, seq, self._table)):
            places = slots[change.gen]
            new = tuple(getattr(change, f"n{place}") for place in places)
            old = tuple(getattr(change, f"o{place}") for place in places)
            if change.op == "U":  # the log has an old value only where it changed
                old = tuple(before if change.chg[place] == "1" else after for place, before, after in zip(places, old, new, strict=True))
            yield (None if change.op == "I" else old), (None if change.op == "D" else new)

    def _slots(self, db: apsw.Connection) -> dict[int, tuple[int, ...]]:
        """Where the columns stand in the log rows of the table, by the generation of its columns."""
        found: dict[int, dict[str, int]] = {}
        for gen, col, pos in db.execute("SELECT gen, col, pos FROM changelog_cols WHERE tbl=?", (self._table,)):
            found.setdefault(int(str(gen)), {})[str(col)] = int(str(pos))
        wanted = set(self._columns)
        return {gen: tuple(places[name] for name in self._columns) for gen, places in found.items() if wanted <= set(places)}
