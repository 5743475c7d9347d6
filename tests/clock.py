"""Time as a test wants it."""

from __future__ import annotations


class Clock:
    """Seconds that a test moves: in the place of time.monotonic and the like."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
