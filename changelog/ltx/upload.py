"""The thread that brings staged files to the store, in order, for as long as it takes."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from changelog.errors import DroverError, Fenced
from changelog.ltx.compact import SHIPPED_KEPT
from changelog.ltx.fence import Fence
from changelog.ltx.sign import EVERY, Complete, give_sign
from changelog.ltx.staging import Staged, Staging
from changelog.ltx.status import StatusFile
from changelog.ltx.store.names import SNAPSHOTS, Store

FIRST_PAUSE = 0.5  # s after the first failure; doubled after each one that follows, and half of it is chance
LONGEST_PAUSE = 30.0  # s
IDLE = 1.0  # s between looks when nothing waits
CHECK = 0.8 * SHIPPED_KEPT  # s between two comparisons of the store with what was put there: a name that was taken is not free before

logger = logging.getLogger(__name__)


class Backoff:
    """The pauses between attempts that fail: longer and longer, and never all clients' at the same time."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE

    def next(self) -> float:
        """Seconds until the next attempt."""
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """One has succeeded."""
        self._pause = FIRST_PAUSE


class Uploader:
    """Puts what stands in `staging` into `store`."""

    def __init__(self, staging: Staging, store: Store, fence: Fence, status: StatusFile, clock: Callable[[], float] = time.time) -> None:
        self.failure = ""  # why the store does not take anything just now
        self.hole = False  # the store lacks transactions before those that wait, or other ones: only a whole database leads on from there
        self.complete: Complete | None = None  # what the store may be told of: all was put until then
        self._signed_at = 0.0  # time.monotonic() of what was put last, a sign or a file
        self._staging, self._store, self._fence, self._status, self._clock = staging, store, fence, status, clock
        self._checked_at = -CHECK  # time.monotonic() of the last comparison; anew after each failure
        self._backoff = Backoff()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Go on for so long at most, as long as something can be put; what is left waits on the disk."""
        until = time.monotonic() + seconds
        while self._thread.is_alive() and self._staging.waiting and not self.failure and not self._fence.cause and time.monotonic() < until:
            time.sleep(0.02)
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(max(0.1, until - time.monotonic()))

    def ask_whole(self) -> None:
        """What is in the store leads nowhere: let a whole database follow."""
        self.hole = True

    def step(self, seconds: float = 0.0) -> bool:
        """Put one file, if there is one within so many seconds. False when there was nothing to do. Raises what the store raises."""
        staged = self._staging.next(seconds)
        if staged is None or self._fence.cause:
            return False
        if time.monotonic() - self._checked_at >= CHECK:
            self._check()
        if not self._fence.hold():
            self._stopping.wait(IDLE)
            return False
        with staged.path.open("rb") as file:
            taken = self._store.put(staged.name, file, staged.header.timestamp_ms)
        if taken and not taken.same and staged.name.level != SNAPSHOTS:
            raise Fenced(f"{staged.name} of {self._store.url} is there with another content: somebody else ships to it")
        self._done(staged)
        return True

    def sign(self) -> None:
        """Tell the store that nothing is new, if nothing else has told that we live for some time. Raises what the store raises."""
        complete = self.complete
        if complete is None or self._fence.cause or time.monotonic() - self._signed_at < EVERY:
            return
        give_sign(self._store, complete)
        self.complete = None  # said once; the next turn brings a newer one, as long as there are any
        self._answered()

    def _check(self) -> None:
        waiting, newest = self._staging.waiting, self._staging.newest
        assert newest is not None
        first = waiting[0].txid if waiting else newest.txid + 1
        if not self._fence.check(first, newest.txid):
            self.ask_whole()
            logger.warning("the store lacks what was put there before, so a whole database follows store=%s", self._store.url)
        self._checked_at = time.monotonic()

    def _done(self, staged: Staged) -> None:
        self._staging.done(staged)
        count, size = self._staging.backlog()
        status = self._status.status
        if staged.name.level == SNAPSHOTS:
            self.hole = False
            logger.info("snapshot shipped txid=%x bytes=%d", staged.txid, staged.size)
        else:
            self._status.set(txid=staged.txid, shipped_at=self._clock())
            logger.debug("object shipped txid=%x bytes=%d pages=%d", staged.txid, staged.size, staged.header.commit)
        facts = {"objects": status.objects + 1, "bytes": status.bytes + staged.size}
        self._status.set(**facts, pending_objects=count, pending_bytes=size)
        self._answered()

    def _answered(self) -> None:
        """The store has taken something."""
        if self.failure:
            logger.warning("the store answers again store=%s waiting=%d", self._store.url, len(self._staging.waiting))
        self.failure = ""
        self._signed_at = time.monotonic()
        self._backoff.reset()

    def turn(self, seconds: float) -> bool:
        """`step`, or else a sign, whatever comes of it; False also when it failed, after a pause."""
        try:
            if self.step(seconds):
                return True
            self.sign()
        except Fenced as exc:
            self._fence.close(exc.message)
            logger.error("fenced, nothing is shipped any more: %s", self._fence.cause)
        except (DroverError, OSError) as exc:
            self.failed(str(exc) or type(exc).__name__)
        except Exception as exc:  # whatever a store's client raises besides: it is tried for ever
            logger.exception("an upload failed")
            self.failed(type(exc).__name__)
        return False

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self.turn(IDLE) and self._fence.cause:
                self._stopping.wait(IDLE)

    def failed(self, cause: str) -> None:
        """Remember an attempt that failed, say why once, and pause."""
        if cause != self.failure:
            logger.warning("nothing can be shipped, trying again store=%s cause=%s", self._store.url, cause)
        self.failure, self._checked_at = cause, -CHECK
        self._status.set(errors=self._status.status.errors + 1)
        self._stopping.wait(self._backoff.next())
