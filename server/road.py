"""The one road out of doubt: whatever makes this replica uncertain leads to a snapshot. Why, how often, and what if it never ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from changelog.errors import DroverError, HistoryTrimmed, PositionMismatch

Cause = Literal["missing", "damaged", "new_epoch", "rewound", "trimmed", "divergence", "asked"]

AT_ONCE = 20  # snapshots that may follow each other without a pause
ONE_IN = 60.0  # s, from then on
REPEATS = 3  # snapshots for one of these causes...
REPEATING: tuple[Cause, ...] = ("divergence", "trimmed")
WITHIN = 600.0  # s ...within this time: replay is given up for a while
SPAN = 3600.0  # s that the replica then follows by snapshots
PAUSE = 30.0  # s between two of those at least
PAUSE_TIMES = 20  # and so many times as long as the last one took


@dataclass(frozen=True)
class Doubt:
    """Why the replica cannot go on by replay: a word to count by, and a sentence for people."""

    cause: Cause
    reason: str

    @classmethod
    def of(cls, error: DroverError, epoch: str) -> Doubt:
        """What the Pi answered, or replay met, in the words of a replica whose epoch is `epoch`."""
        if isinstance(error, PositionMismatch):
            return cls("rewound" if error.facts.get("epoch") == epoch else "new_epoch", error.message)
        return cls("trimmed" if isinstance(error, HistoryTrimmed) else "divergence", error.message)


class Road:
    """Remembers the snapshots that were taken. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` (s) is for tests."""
        self._clock = clock
        self._taken: deque[tuple[float, Cause]] = deque(maxlen=AT_ONCE)
        self._repeated: Doubt | None = None
        self._until = self._next = 0.0

    @property
    def is_clear(self) -> bool:
        """Whether a snapshot may be taken now."""
        spent = len(self._taken) == AT_ONCE and self._clock() - self._taken[0][0] < AT_ONCE * ONE_IN
        return not spent or self._clock() - self._taken[-1][0] >= ONE_IN

    @property
    def repeated(self) -> Doubt | None:
        """The doubt that came again and again, as long as the replica follows by snapshots because of it."""
        if self._repeated is not None and self._clock() >= self._until:
            self._repeated = None
            self._taken.clear()
        return self._repeated

    @property
    def is_due(self) -> bool:
        """Following by snapshots: whether it is time for the next one."""
        return self._clock() >= self._next and self.is_clear

    def taken(self, doubt: Doubt, seconds: float) -> None:
        """A snapshot was installed because of `doubt`, and took so long."""
        now = self._clock()
        self._taken.append((now, doubt.cause))
        self._next = now + max(PAUSE, PAUSE_TIMES * seconds)
        lately = [cause for at, cause in self._taken if now - at < WITHIN]
        if self._repeated is None and doubt.cause in REPEATING and lately.count(doubt.cause) >= REPEATS:
            self._repeated, self._until = doubt, now + SPAN
