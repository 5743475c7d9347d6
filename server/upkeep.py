"""What the sync thread does between two steps when its time has come: comparing with the Pi, and trimming the replica's own log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from changelog.errors import DroverError
from changelog.retention import trim_old
from server.follower import Follower
from server.store import Store
from server.verifier import Nightly

TRIM_EVERY = 3600.0  # s
TRIM_ROWS = 20_000  # at a time, about: changes from the Pi have their turn in between

logger = logging.getLogger(__name__)


class Upkeep:
    """Knows what is due. For the thread that uses the follower."""

    def __init__(
        self,
        follower: Follower,
        store: Store,
        verify: Callable[[], object],
        *,
        verify_at: str,
        keep_days: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`verify` compares and mends, every night at `verify_at` (UTC). `keep_days`: of the replica's log, 0 for ever.

        `clock` (s) is for tests.
        """
        self._follower, self._verify, self._keep_days, self._clock = follower, verify, keep_days, clock
        self._nightly = Nightly(store, verify_at)
        self._trim_at = 0.0

    def step(self) -> None:
        """Do what is due, if there is a replica."""
        if self._follower.unfamiliar:
            logger.warning("The replica's file is not as this server left it: it is compared with the Pi")
            self._compare()
            self._follower.unfamiliar = False
        elif self._nightly.due() and self._follower.position() is not None:
            self._compare()
        if self._keep_days and self._clock() >= self._trim_at and self._follower.position() is not None:
            self._trim()

    def _compare(self) -> None:
        """Where it cannot be done it is tried again at the next due time; following goes on."""
        try:
            self._verify()
            self._nightly.done()
        except DroverError as exc:
            self._nightly.failed()
            logger.warning("The comparison with the Pi could not be made and is tried again later: %s", exc.message)

    def _trim(self) -> None:
        gone = trim_old(self._follower.file.db, self._keep_days, most=TRIM_ROWS)
        if gone:
            logger.info("The replica's own log was trimmed: %d changes older than %s days", gone, self._keep_days)
        if gone < TRIM_ROWS:
            self._trim_at = self._clock() + TRIM_EVERY
