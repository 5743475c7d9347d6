"""The thread that keeps the store small while the shipper runs: changelog/ltx/compact.py at a low priority."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from changelog.errors import DamagedObject, DroverError
from changelog.ltx.compact import Compactor
from changelog.ltx.status import StatusFile
from changelog.ltx.store.names import Store

INTERVAL = 5.0  # s between looks
MEND_EVERY = 3600.0  # s between two whole databases that are asked for because of what is lost or damaged in the store
NICENESS = 10

logger = logging.getLogger(__name__)


class Upkeep:
    """Compaction, snapshots and retention of `store`, as long as `allowed` says so.

    It is the first to notice what is lost or damaged there. `mend` then brings a whole database, from which on all can be restored again.
    """

    def __init__(self, store: Store, folder: Path, allowed: Callable[[], bool], mend: Callable[[], object], status: StatusFile) -> None:
        self.compactor = Compactor(store, folder)
        self._allowed, self._mend, self._status = allowed, mend, status
        self._mended_at = -MEND_EVERY  # time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what it is at can be done again."""
        self._stopping.set()

    def _run(self) -> None:
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # Linux knows threads by it
        while not self._stopping.wait(INTERVAL):
            if self._allowed():
                self.step()

    def step(self) -> None:
        """Do what is due, whatever comes of it: the status tells."""
        failed = self._status.status.upkeep
        try:
            self.compactor.step()
            cause = ""
        except (DroverError, OSError) as exc:
            cause = str(exc) or type(exc).__name__
            if isinstance(exc, DamagedObject) and time.monotonic() - self._mended_at >= MEND_EVERY:
                logger.warning("the store has lost something, so a whole database follows cause=%s", cause)
                self._mended_at = time.monotonic()
                self._mend()
        except Exception as exc:  # whatever a store's client raises besides
            logger.exception("the upkeep of the store failed")
            cause = type(exc).__name__
        if cause != failed:
            if cause:
                logger.warning("the store is not tidied up, trying again cause=%s", cause)
            self._status.set(upkeep=cause)
