"""Waking the shipper when somebody has committed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from changelog.commits import CommitWatcher
from changelog.connection import Path_

LOOK = 2.0  # s after which the thread looks whether it is still wanted


class Wake:
    """Waits for commits to the database at `path`.

    The commit watcher looks only while somebody waits, and many times whenever somebody begins to: so one thread waits all the time.
    """

    def __init__(self, path: Path_, present: Callable[[], tuple[int, int] | None]) -> None:
        """`present`: see CommitWatcher."""
        self._commits = CommitWatcher(path, present)
        self._stirred = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="wake", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Return as soon as there is a commit that was not waited for yet, or after `seconds`."""
        self._stirred.wait(seconds)
        self._stirred.clear()

    def close(self) -> None:
        """End."""
        self._closed = True
        self._commits.close()
        self._thread.join(LOOK)

    def _run(self) -> None:
        seen = -1
        while not self._closed:
            before, seen = seen, self._commits.moved(seen, LOOK)
            if seen != before:
                self._stirred.set()
