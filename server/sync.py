"""The sync service: the one thread that follows the Pi, for ever, whatever happens."""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from changelog.errors import Conflict, DiskFull, DroverError, Stranger, Unauthorized, Unreachable
from changelog.node.settings import Settings
from changelog.space import is_full
from changelog.storage import STORAGE, UNUSABLE, unusable
from server.bucket import Bucket, bucket_of
from server.credentials import Credentials
from server.follower import DISK, Applied, Follower
from server.measures import FailureCause, Measures, failure_cause
from server.offers import LONGEST_WAIT, Offer, Offers
from server.pi_client import PiClient
from server.replica import Replica
from server.resync import resync
from server.road import Doubt
from server.state import SyncState
from server.store import Store
from server.upkeep import Upkeep
from server.verifier import Verdict, record, verify

FIRST_BACKOFF = 0.5  # s after the first failure; it doubles up to DB_SYNC_INTERVAL
LOOK = 1.0  # s between two looks, after a failure, whether another key or certificate counts by now
STOP_TIMEOUT = 3.0  # s
INDEX_TIME = 0.05  # s of a turn after which no further index for the pages is begun
FULL = f"{DISK}: the rows stay as they are until there is room"

logger = logging.getLogger(__name__)


class SyncService:
    """Runs a Follower in a thread, one step after another, and other work for it in between."""

    def __init__(
        self,
        settings: Settings,
        replica: Replica,
        store: Store,
        state: SyncState,
        applied: Applied = lambda before, after: None,
        *,
        credentials: Credentials | None = None,
    ) -> None:
        """`applied`: see `Follower`; called on the sync thread, so it must return at once. `credentials`: see `PiClient`."""
        self._settings, self._store, self._state, self._applied = settings, store, state, applied
        self._stopping = threading.Event()
        self._credentials = credentials or Credentials(settings)
        self._client = PiClient(settings, store.replica_id, self._credentials)
        self.measures = Measures()
        self.follower = Follower(replica, store, state, self._client, self._stopping, measures=self.measures, applied=applied)
        self.bucket = bucket_of(settings, self.follower, store, state)
        self.lock = ReplicaLock(settings)
        self._upkeep = Upkeep(
            self.follower, store, lambda: self.verify(repair=True), verify_at=settings.verify_at, keep_days=settings.audit_keep_days
        )
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._offers = Offers(settings.db_sync_interval, self._wake)
        self._failures = 0
        self._said = ""
        self._knows = False  # where the Pi stands: from the first answer on, until the next failure
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def start(self) -> None:
        """Begin. Raises Conflict when another process follows with this replica."""
        self.lock.acquire()
        self.follower.file.index_time = INDEX_TIME
        logger.info("Database sync service initialized")
        self._thread.start()

    def stop(self) -> None:
        """Finish the step at hand and end."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT)
        self.lock.release()

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    def request_resync(self, reason: str) -> Future[None]:
        """Ask for a bootstrap; the future resolves when it is done."""
        return self.submit(lambda: self.follower.bootstrap(Doubt("asked", reason), self._present()))

    def replica_broke(self, reason: str) -> None:
        """A page met damage in the replica's file: replace it."""
        self.submit(lambda: self.follower.bootstrap(Doubt("damaged", reason), self._present()))

    def resync(self, json_export: bool, reason: str) -> dict[str, Any]:
        """A new copy of the Pi, with the proof that it is one: see `server/resync.py`. Only on the sync thread, or where there is none."""
        return resync(self.follower, self._store, self._state, json_export, reason)

    def bootstrap_from_bucket(self, force: bool) -> dict[str, Any]:
        """Install the newest state of the bucket: see `Bucket.bootstrap`. Likewise."""
        if self.bucket is None:
            raise Conflict("there is no bucket to take a copy from: set LITESTREAM_BUCKET, and FOLLOW to auto or bucket")
        return self.bucket.bootstrap(force)

    def verify(self, repair: bool) -> Verdict:
        """Compare with the Pi, and with `repair` mend what differs. Only on the sync thread, or where there is none: see `submit`.

        Raises Conflict where there is no replica, Stranger, and what the Pi or the network refuses with.
        """
        if self.follower.position() is None:
            raise Conflict("there is no replica yet that could be compared with the Pi: the server fetches one when it runs")
        self._state.verifying()
        try:
            verdict = verify(self._present() or self.follower, repair)
        except Exception as exc:
            self._state.verify_ended(str(exc))
            raise
        self._state.verify_ended()
        record(self._store, self._state, verdict)
        if verdict.mended and verdict.position is not None:
            self._applied(0, verdict.position.seq)  # rows changed, and no change tells so
        return verdict

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """Run `job` on the sync thread between two steps."""
        future: Future[Any] = Future()
        self._jobs.put((job, future))
        self._wake.set()
        return future

    def offer(self, offer: Offer) -> None:
        """The Pi says what is new. Called on the socket's thread; returns at once."""
        self._offers.put(offer)
        if not self._failures:  # while pulls fail, their back-off is not cut short by what may be the cause
            self._wake.set()

    def linked(self, up: bool) -> None:
        """The Pi's socket came up, or went down. Likewise."""
        self._state.linked(up)
        self._offers.link(up)

    def step(self) -> bool:
        """The waiting jobs and one turn; False when it failed, and the next one should wait a little."""
        try:
            self._run_jobs()
            self._follow()
            if self._lacks_indexes:
                self.follower.file.index_for_pages()
            self._client.keep_trust()
            self._upkeep.step()
        except Exception as exc:  # what nobody foresaw ends one turn, not the service
            if isinstance(exc, UNUSABLE):
                self.follower.file.close()
            if not isinstance(exc, (DroverError, *STORAGE, OSError)):
                logger.exception("Database sync met an unexpected error")
            self._failed(_in_our_words(exc), failure_cause(exc))
            self._offers.pull_soon()
            return False
        if self._said:
            logger.info("Database sync goes on with %s", self._client.host)
        self._failures, self._said = 0, ""
        return True

    def _follow(self) -> None:
        """Follow the Pi; where a bucket is set, that one while the Pi cannot be reached."""
        bucket = self.bucket
        if bucket is None:
            self._follow_pi()
        elif bucket.is_in_charge(self._offers.up):
            self._follow_bucket(bucket)
        else:
            try:
                self._follow_pi()
            except Unreachable as exc:
                if not bucket.begin(exc.message):
                    raise
                self.measures.failed(failure_cause(exc))
                self._follow_bucket(bucket)
            else:
                bucket.end()

    def _follow_bucket(self, bucket: Bucket) -> None:
        bucket.step()
        self._wake.wait(0 if self._lacks_indexes else bucket.pace)
        self._wake.clear()

    def _present(self) -> Bucket | None:
        """The bucket while that is followed."""
        return self.bucket if self.bucket is not None and self.bucket.is_in_charge(self._offers.up) else None

    def _follow_pi(self) -> None:
        """Apply what was pushed; pull where that does not fit, and now and then; without a socket let the Pi answer when there is news."""
        offers = self._offers.take()
        fit = all(self._use(offer) for offer in offers)  # up to the first that does not: a pull brings the rest
        if not self._offers.up:
            # The first answer is not to wait for news: until it has come, nobody here knows how old the rows are.
            longest = max(1, int(min(self._settings.db_sync_interval, LONGEST_WAIT)))
            self.follower.step(longest if self._knows and not self._lacks_indexes else 0)
            self._knows = True
        elif not fit or self._offers.pull_is_due:
            self._offers.pulling()
            self.follower.step()
        elif not offers and not self._lacks_indexes and not self._offers.wait():
            self.follower.look()

    @property
    def _lacks_indexes(self) -> bool:
        """Whether nothing is waited for, since there is work to be done."""
        return self.follower.file.lacks_indexes

    def _use(self, offer: Offer) -> bool:
        """Whether nothing is left to be asked for: the replica has come to where the Pi was then."""
        if offer.is_behind(self.follower.reached):
            return True
        if offer.frame is None:
            return False
        fits = self.follower.apply(offer.frame)
        (self.measures.pushed if fits else self.measures.ignored)()
        return fits

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self.step():
                self._pause()
        self.follower.close()
        self._client.close()

    def _run_jobs(self) -> None:
        while not self._jobs.empty():
            job, future = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except Exception as exc:
                future.set_exception(exc)
                if isinstance(exc, DroverError) or is_full(exc):
                    self._failed(_in_our_words(exc))

    def _pause(self) -> None:
        self._failures += 1
        longest = min(self._settings.db_sync_interval, FIRST_BACKOFF * 2 ** min(self._failures - 1, 10))
        until, before = time.monotonic() + longest * random.uniform(0.8, 1.2), self._credentials.present()
        while (left := until - time.monotonic()) > 0 and self._credentials.present() is before:
            if self._wake.wait(min(left, LOOK)):
                break
        self._wake.clear()

    def _failed(self, exc: DroverError, cause: FailureCause | None = None) -> None:
        """Say it once, not once an attempt; the page and the status show it as long as it lasts."""
        sort = cause or failure_cause(exc)
        self._knows = False
        self.measures.failed(sort)
        if isinstance(exc, Stranger) and self._client.instances.rivals:
            self._state.alarmed(exc.message)  # ours is there as well, in turns with the other
        elif isinstance(exc, Stranger | Unauthorized):
            self._state.refused(exc.message, sort)
        else:
            self._state.failed(exc.message, sort)
        self._store.record_sync("pull", "failed", reason=exc.message)
        if exc.message != self._said:
            self._said = exc.message
            level = logging.ERROR if isinstance(exc, Stranger) else logging.WARNING
            logger.log(level, "Database sync failed, trying again every %s s: %s", self._settings.db_sync_interval, exc.message)


def _in_our_words(exc: Exception) -> DroverError:
    """What ended a turn; a full disk is one thing, whichever file met it."""
    if is_full(exc) and not (isinstance(exc, DiskFull) and "needed" in exc.facts):
        return DiskFull(FULL)
    if isinstance(exc, (*STORAGE, OSError)):
        return unusable("the replica", exc)
    return exc if isinstance(exc, DroverError) else DroverError(f"{type(exc).__name__}: {exc}")


class ReplicaLock:
    """Only one process writes to a replica: the one that locks its folder. The lock ends with the process and leaves no file behind."""

    def __init__(self, settings: Settings) -> None:
        self._replica = settings.replica_db
        self._fd: int | None = None

    def acquire(self) -> None:
        """Raises Conflict when another process has it."""
        fd = os.open(self._replica.parent, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(fd)
            raise Conflict(f"another process writes to {self._replica}: stop it first") from exc
        self._fd = fd

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others have it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
