"""The shipper: every commit of a database goes to a bucket or folder in Litestream's format, within a fraction of a second.

What the tailer (changelog/ltx/tail.py) finds is staged on the disk, and from there it goes to the store (changelog/ltx/upload.py), however
long that takes. A store that is away costs nothing but space, and of that not more than is allowed: then the tailer lets go, and a whole
database follows when the store is back. Whatever is in doubt ends the same way: the next transaction is a whole database.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress

import apsw

from changelog.connection import WAL_AUTOCHECKPOINT, Path_, connect, identity
from changelog.errors import Conflict, DroverError, Unavailable
from changelog.lease import checkpoint_lease
from changelog.ltx import rest
from changelog.ltx.arrival import Arrival
from changelog.ltx.chain import Chain, StoreAway, chain_in, chain_of
from changelog.ltx.fence import Fence
from changelog.ltx.sign import Complete
from changelog.ltx.staging import Staging, in_words
from changelog.ltx.status import Status, StatusFile, folder_of, running_lease
from changelog.ltx.store.names import Store
from changelog.ltx.tail import Change, Tail
from changelog.ltx.upkeep import Upkeep
from changelog.ltx.upload import Backoff, Uploader
from changelog.ltx.wake import Wake
from changelog.ltx.wal import TornWal
from changelog.storage import usable

SPACING = 0.25  # s between two files: a steady writer gives four a second, a lone commit goes at once
SPACING_AWAY = 5.0  # s, while the store takes nothing
IDLE = 0.25  # s between looks when nobody commits: somebody's checkpoint may wait for ours
RETRY = 1.0  # s after a failure on this side
CHECKPOINT_RETRY = 0.5  # s, when somebody kept the -wal as it was
DRAIN = 1.5  # s that the store is given at the end

logger = logging.getLogger(__name__)


class Shipper:
    """Ships the database at `path` to `store`."""

    def __init__(self, path: Path_, store: Store, max_backlog: int, clock: Callable[[], float] = time.time) -> None:
        """`max_backlog`: bytes that may wait for the store.

        Raises Conflict while another one runs on the database, Unavailable when nothing can be kept beside it.
        """
        self._lease, self._running = checkpoint_lease(path), running_lease(path)
        self._running.take()
        self._path, self._store, self._max_backlog, self._clock = path, store, max_backlog, clock
        self._folder = folder = folder_of(path)
        try:
            self.staging = Staging(folder)
            with usable(folder):
                self.fence = Fence(store, folder)
        except BaseException:
            self._running.release()
            raise
        self._status = StatusFile(path)
        self._status.set(store=store.url)
        self.uploader = Uploader(self.staging, store, self.fence, self._status, clock)
        self._upkeep = Upkeep(store, folder, self._is_through, self.uploader.ask_whole, self._status)
        self._chain: Chain | None = None
        self._tail: Tail | None = None
        self._left: Tail | None = None  # that of the file which was followed last
        self._wake: Wake | None = None
        self._arrival = Arrival(path)
        self._staged_at = self._tried_at = -SPACING_AWAY  # time.monotonic() of the last file, and of the last checkpoint in vain
        self._full = False  # the backlog was dropped; nothing is staged before the store is back
        self._failure, self._away = "", False  # why this side stands still, and whether that is the store's fault
        self._backoff = Backoff()  # for the first look at the store

    @property
    def status(self) -> Status:
        """Where it stands."""
        return self._status.status

    def take_over(self) -> None:
        """Ship from here from now on, whoever shipped to this place before: after what is there a whole database follows."""
        self.staging.clear()
        self.fence.open()

    def run(self, stopping: threading.Event) -> None:
        """Ship until `stopping`; a database that is missing is waited for. Raises ConfigError when this one cannot be shipped as it is."""
        if identity(self._path) is not None:
            Tail(self._path).close()
        self.uploader.start()
        self._upkeep.start()
        try:
            while not stopping.is_set():
                pause = self.turn()
                if not stopping.is_set():
                    self._wait(stopping, pause)
        finally:
            self.close()

    def turn(self) -> float:
        """One step, whatever comes of it, and the status; returns how many seconds to wait at least."""
        try:
            pause = self.step()
            self._recovered()
        except TornWal:
            logger.warning("the -wal did not last, so a whole database follows path=%s", self._path)
            self._let_go()
            pause = RETRY
        except StoreAway as exc:
            self._failed(exc.message, away=True)
            pause = self._backoff.next()
        except (DroverError, apsw.Error, OSError) as exc:
            self._failed(in_words(exc))
            if isinstance(exc, apsw.Error) and not isinstance(exc, apsw.BusyError):
                self._let_go()  # a connection that failed so is of no use any more
            pause = RETRY
        self._tell()
        return pause

    def step(self) -> float:
        """Stage what was committed, and checkpoint when it is time. Returns the pause until the next one; raises what prevents it."""
        if self.fence.cause:
            self._let_go()
            return RETRY
        if self._tail is not None and not self._arrival.is_same():
            logger.warning("the database was replaced, a whole one follows path=%s", self._path)
            self._let_go()
        if self._tail is None and not self._open():
            return RETRY / 4
        assert self._tail is not None and self._chain is not None
        now = self._now()
        change = self._tail.change()
        if change is None and not self.staging.waiting and not self.uploader.hole:
            self.uploader.complete = Complete(self._chain.txid, now)
        if change or (self.uploader.hole and not self.staging.has_image):
            self._hand_out(change)
        if change:
            self._tail.advance(change)
        self._checkpoint()
        self._limit()
        return self._spacing() if change else 0.0

    def close(self) -> None:
        """Ship what is there, within seconds, and let go. What cannot be put waits on the disk for the next start."""
        try:
            if self._tail is not None and not self.fence.cause and self._arrival.is_same():
                self._finish(self._tail)
        except (DroverError, apsw.Error, OSError) as exc:
            logger.warning("the end was not shipped, the next start sees to it cause=%s", in_words(exc))
        self._let_go()
        self._close_left()
        self._upkeep.stop()
        self.uploader.stop(DRAIN)
        self._status.set(state="stopped", cause=self.fence.cause)
        self._status.write()
        self._running.release()

    def _finish(self, tail: Tail) -> None:
        """Ship the rest, move it all into the file, and remember that."""
        if change := tail.change():
            self._hand_out(change)
            tail.advance(change)
        if tail.checkpoint(self._hand_out):
            time.sleep(rest.TICK)
            facts = rest.facts_of(self._path)
            if tail.change() is None and rest.is_old(facts):  # asked in this order: a later commit is a later write
                rest.remember(self._folder, self._chain_now().txid, facts)
        # So that no -wal stays behind, if this is the last to close. Open before the others end: else nobody knows that it is in the file.
        with closing(connect(self._path)):
            self._let_go()
            self._close_left()

    def _open(self) -> bool:
        """Begin to follow the file at the path; False while it is too early. Raises what prevents it."""
        if self._full and self.staging.waiting:
            return False
        if not self._arrival.may_open():
            return False
        chain = self._chain_now()
        self._close_left()
        tail = Tail(self._path)
        try:
            self._lease.take()
            if chain.page_size not in (0, tail.page_size):
                raise Conflict(
                    f"{self._path} has pages of {tail.page_size} bytes, what {self._store.url} holds has {chain.page_size}:"
                    " choose another LITESTREAM_PATH for it"
                )
            how = "goes on" if self._resume(tail) else "begins with a whole database"
            logger.info("shipping %s path=%s store=%s after=%x", how, self._path, self._store.url, chain.txid)
        except BaseException:
            tail.close()
            self._lease.release()
            raise
        self._tail, self._chain, self._full = tail, chain, False
        self._arrival.opened()
        self._wake = Wake(self._path, self._present)
        return True

    def _resume(self, tail: Tail) -> bool:
        """Whether it goes on after the newest file that was staged, which is sure only when nothing can be missing in between."""
        newest = self.staging.newest
        rested = newest is not None and rest.recall(self._folder, newest.txid, self._path)
        if newest is None or tail.resume(newest.mark, newest.header.commit):
            return newest is not None
        if rested:
            tail.resume_file(newest.header.commit)
        return rested

    def _chain_now(self) -> Chain:
        """What the next file goes on from. Raises StoreAway when only the store knows, and does not tell."""
        if self.staging.newest is not None:
            return chain_of(self.staging.newest)
        if self._chain is not None:
            return self._chain
        chain = chain_in(self._store)
        self._backoff.reset()
        return chain

    def _present(self) -> tuple[int, int] | None:
        """For the watcher: the file that is followed, and no other."""
        if not self._arrival.is_same():
            raise Unavailable
        return self._arrival.file

    def _let_go(self) -> None:
        """Follow no more. Whoever writes checkpoints then."""
        if self._wake is not None:
            self._wake.close()
            self._wake = None
        if self._tail is not None:
            self._left, self._tail = self._tail, None
            with suppress(apsw.Error):
                self._left.pause()
        self._lease.release()

    def _close_left(self) -> None:
        """Close the file that was left: it stayed open so that another one is known by its inode, and so are its -wal and -shm."""
        if self._left is not None:
            self._left.close()
            self._left = None

    def _hand_out(self, change: Change | None) -> None:
        """Stage a change, and a whole database when the store has a hole."""
        assert self._chain is not None and self._tail is not None
        if change is not None:
            txid, at = self._chain.txid + 1, self._now()
            staged = self.staging.stage(change, txid, at)
            self._chain = Chain(txid, at, change.page_size)
            if change.whole:
                logger.info("whole database staged txid=%x pages=%d bytes=%d", txid, change.count, staged.size)
            self._staged_at = time.monotonic()
        if self.uploader.hole and not self.staging.has_image:
            self.staging.stage_image(self._tail.whole(change), self._chain.txid, self._now())

    def _now(self) -> int:
        """A time in ms that is later than all before: a Pi has no clock of its own, and what it believes may step back."""
        assert self._chain is not None
        return max(int(self._clock() * 1000), self._chain.timestamp_ms + 1)

    def _checkpoint(self) -> None:
        assert self._tail is not None
        if self._tail.frames() < WAL_AUTOCHECKPOINT or time.monotonic() - self._tried_at < CHECKPOINT_RETRY:
            return
        if not self._tail.checkpoint(self._hand_out):
            self._tried_at = time.monotonic()

    def _limit(self) -> None:
        """When too much waits for the store, forget it, and let the -wal go its way."""
        if self.staging.behind_first() <= self._max_backlog:
            return
        try:
            dropped = self.staging.drop()
        finally:  # where not all could be dropped, what follows the rest is made anew just the same
            self._chain = self._chain_now()
            self._full = True
            self._let_go()
        logger.warning(
            "more than SHIP_MAX_BACKLOG waits for the store: %d files are dropped, and a whole database follows when it is back;"
            " states between are lost, data is not",
            dropped,
        )

    def _spacing(self) -> float:
        spacing = SPACING_AWAY if self.uploader.failure else SPACING
        return max(0.0, self._staged_at + spacing - time.monotonic())

    def _wait(self, stopping: threading.Event, pause: float) -> None:
        """Wait for the pause and then for a commit, or for some time."""
        if pause:
            stopping.wait(pause)
        if self._wake is not None:
            self._wake.wait(IDLE)

    def _is_through(self) -> bool:
        """Whether the store is ours and takes what it is given."""
        return not self.uploader.failure and not self.fence.cause

    def _tell(self) -> None:
        state, cause = "shipping", ""
        if self.fence.cause:
            state, cause = "fenced", self.fence.cause
        elif self._failure:
            state, cause = "waiting" if self._away else "stalled", self._failure
        elif self.uploader.failure:
            state, cause = "waiting", self.uploader.failure
        elif self._tail is None:
            state = "starting"
        count, size = self.staging.backlog()
        self._status.set(state=state, cause=cause, pending_objects=count, pending_bytes=size)
        self._status.write(time.monotonic())

    def _failed(self, cause: str, away: bool = False) -> None:
        if cause != self._failure:
            logger.warning("shipping stands still, trying again path=%s cause=%s", self._path, cause)
        self._failure, self._away = cause, away
        self._status.set(errors=self._status.status.errors + 1)

    def _recovered(self) -> None:
        if self._failure:
            logger.warning("shipping goes on path=%s", self._path)
        self._failure = ""
