"""Who answers at the Pi's address: one Pi, or two that take turns (an address given twice, a cloned card in a second machine).

Each process of a Pi names itself by a random word made at its start. A Pi that was restarted comes with a new word and never with the old
one again; so a word that comes back after another one has answered shows that both are alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable

REMEMBERED = 1_000  # words
RIVALS_FOR = 600.0  # s after the last sign of a second Pi


class Instances:
    """The words that have answered. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` (s) is for tests."""
        self._clock = clock
        self._seen: dict[str, None] = {}  # in the order in which they came
        self._now: str | None = None
        self._rivals_at: float | None = None

    def answered(self, instance: str | None) -> None:
        """An answer came from the process of this name; None from one that has none."""
        if instance is None or instance == self._now:
            return
        if instance in self._seen:
            self._rivals_at = self._clock()
        self._now = instance
        self._seen[instance] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]

    @property
    def rivals(self) -> bool:
        """Whether two of them have been alive at once, not long ago."""
        return self._rivals_at is not None and self._clock() - self._rivals_at < RIVALS_FOR
