"""How far the replica was behind the Pi in the last hour: samples that are kept in memory, for the plot on the page of replication."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from server.state import SyncState

EVERY = 5.0  # s between two samples
KEPT = 3600.0  # s


class LagHistory:
    """The samples of one process. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` (UNIX time) is for tests."""
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int | None, float | None]] = deque(maxlen=int(KEPT / EVERY))
        self._next = 0.0  # s, on a clock that never goes back

    def look(self, state: SyncState, now: float | None = None) -> None:
        """Take a sample, if it is time. `now` (s, monotonic) is for tests. What is not known while the Pi is silent is None."""
        now = time.monotonic() if now is None else now
        if now < self._next:
            return
        self._next = now + EVERY
        facts = state.facts()
        known = facts.state != "stale"
        lag = None if facts.lag_seconds is None else round(facts.lag_seconds, 3)
        with self._lock:
            self._samples.append((round(self._clock(), 3), facts.lag_changes if known else None, lag))

    def series(self) -> dict[str, Any]:
        """The samples as columns: `at` (UNIX times), `changes` and `seconds`, the seconds between two (`every`) and in all (`kept`)."""
        with self._lock:
            samples = list(self._samples)
        at, changes, seconds = (list(column) for column in zip(*samples, strict=True)) if samples else ([], [], [])
        return {"every": EVERY, "kept": KEPT, "at": at, "changes": changes, "seconds": seconds}
