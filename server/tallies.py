"""What pages count of a whole farm: animals by status and by pen, the order of the pens, payloads by the hour; each kept up by the log."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from changelog.connection import rows
from server.paging import rows_of
from server.state import SyncState
from server.tally import Clock, Moved, Tally

ACTIVE = "active"
COUNTED = 999  # payloads of one hour; more are not counted

Kind = tuple[Any, Any]  # pen_id, status
Span = tuple[str, str]  # UTC texts: an hour's begin, and the next one's
Places = list[tuple[float, int]]


@dataclass(frozen=True, slots=True)
class Herd:
    """How many animals there are: of each kind, by status, and the active ones by pen (None: those without)."""

    kinds: Counter[Kind]
    statuses: dict[Any, int]
    pens: dict[Any, int]

    @property
    def animals(self) -> int:
        """All of them."""
        return sum(self.statuses.values())


class Tallies:
    """The counts of one replica, for the snapshot of whoever asks."""

    def __init__(self, state: SyncState, clock: Clock = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        self._herd = Tally(state, "cattle", ("pen_id", "status"), _count_herd, _move_herd, clock=clock)
        self._capacities = Tally(state, "pens", ("id", "capacity"), _capacities, clock=clock)
        # Hours are counted when they are asked for; what the log tells is which of them to forget.
        self._hours = Tally(state, "lora_payload_buffer", ("received_at", "status"), lambda db: {}, _forget_hours, clock=clock)
        self._places: dict[bool, tuple[object, object, Places]] = {}

    def herd(self, db: apsw.Connection) -> Herd:
        """The animals."""
        return self._herd.of(db)

    def pens_by_occupancy(self, db: apsw.Connection, descending: bool = True) -> Places:
        """(place in the order, id) of every pen, in order: the fullest first, or the emptiest; where no capacity is known, last."""
        animals, capacities = self.herd(db).pens, self._capacities.of(db)
        made = self._places.get(descending)
        if made is None or made[0] is not animals or made[1] is not capacities:
            sign = -1 if descending else 1
            places = sorted((_occupancy(animals.get(pen, 0), capacity, sign), pen) for pen, capacity in capacities)
            made = self._places[descending] = animals, capacities, places
        return made[2]

    def payloads_of(self, db: apsw.Connection, spans: Sequence[Span]) -> list[Mapping[str, int]]:
        """How many payloads came in each of these hours, by status: COUNTED of an hour at most."""
        known = self._hours.of(db)
        for span in spans:
            if span not in known:
                known[span] = _count_hour(db, span)
        return [known[span] for span in spans]


def _count_herd(db: apsw.Connection) -> Herd:
    kinds: Counter[Kind] = Counter()
    for row in rows_of(db, "SELECT pen_id, status, count(*) AS animals FROM cattle GROUP BY pen_id, status"):
        kinds[row.pen_id, row.status] += row.animals
    return _herd(kinds)


def _move_herd(herd: Herd, changes: list[Moved]) -> Herd | None:
    kinds = herd.kinds.copy()
    for before, after in changes:
        if before is not None:
            kinds[before[0], before[1]] -= 1
        if after is not None:
            kinds[after[0], after[1]] += 1
    return None if min(kinds.values(), default=0) < 0 else _herd(kinds, herd.pens)


def _herd(kinds: Counter[Kind], known_pens: dict[Any, int] | None = None) -> Herd:
    """`known_pens` are kept where nothing changed in them, with the order of the pens that was made of them."""
    statuses: Counter[Any] = Counter()
    pens: Counter[Any] = Counter()
    for (pen, status), animals in kinds.items():
        if animals:
            statuses[status] += animals
            if status == ACTIVE:
                pens[pen] += animals
    ordered = sorted(statuses.items(), key=lambda each: (each[0] != ACTIVE, str(each[0])))
    return Herd(kinds, dict(ordered), known_pens if known_pens == pens and known_pens is not None else dict(pens))


def _capacities(db: apsw.Connection) -> list[tuple[Any, ...]]:
    return rows(db, "SELECT id, CASE WHEN typeof(capacity) IN ('integer','real') THEN capacity END FROM pens")


def _occupancy(animals: int, capacity: float | None, sign: int) -> float:
    return sign * animals / capacity if capacity and capacity > 0 else math.inf


def _count_hour(db: apsw.Connection, span: Span) -> Mapping[str, int]:
    some = "SELECT status FROM lora_payload_buffer WHERE received_at>=? AND received_at<? LIMIT ?"
    return {str(status): many for status, many in rows(db, f"SELECT status, count(*) FROM ({some}) GROUP BY status", (*span, COUNTED))}


def _forget_hours(hours: dict[Span, Mapping[str, int]], changes: list[Moved]) -> dict[Span, Mapping[str, int]]:
    times = {values[0] for change in changes for values in change if values is not None and isinstance(values[0], str)}
    # A page may be adding to them meanwhile: of a snapshot in which they hold, so it does no harm, but not under our feet.
    return {span: counts for span, counts in list(hours.items()) if not any(span[0] <= at < span[1] for at in times)}
