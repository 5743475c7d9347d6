"""The shipper: every commit of a database goes to a bucket or folder in Litestream's format, within a fraction of a second.

What the tailer (changelog/ltx/tail.py) finds is staged on the disk, and from there it goes to the store (changelog/ltx/upload.py) as long as
that takes. A store that is away costs nothing but space, and of that not more than is allowed: then the tailer lets go, and a whole
database follows when the store is back. Whatever is in doubt ends the same way: the next transaction is a whole database.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import apsw

from changelog.commits import CommitWatcher
from changelog.connection import WAL_AUTOCHECKPOINT, Path_, connect, drop_journal, identity, journal_of, sync_path
from changelog.errors import Conflict, DamagedFile, DroverError, Unavailable
from changelog.lease import CheckpointLease
from changelog.ltx.codec import decode
from changelog.ltx.fence import Fence, survey
from changelog.ltx.staging import Staging
from changelog.ltx.status import StatusFile, folder_of
from changelog.ltx.store.names import Store
from changelog.ltx.tail import Change, Tail
from changelog.ltx.upkeep import Upkeep
from changelog.ltx.upload import Uploader
from changelog.ltx.wal import TornWal

SPACING = 0.25  # s between two files: a steady writer gives four a second, a lone commit goes at once
SPACING_AWAY = 5.0  # s, while the store takes nothing
IDLE = 0.25  # s between looks when nobody commits: somebody's checkpoint may wait for ours
RETRY = 1.0  # s after a failure on this side
CHECKPOINT_RETRY = 0.25  # s, when somebody kept the -wal as it was
SETTLE = 1.0  # s for which a new file at the path must not have grown
NEW_OWNER = 5.0  # s that the writer has to open a new file before us: it removes what belonged to the old one
DRAIN = 1.5  # s that the store is given at the end

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chain:
    """What the next file goes on from."""

    txid: int  # of the last one
    timestamp_ms: int
    page_size: int  # 0: any


class Shipper:
    """Ships the database at `path` to `store`."""

    def __init__(self, path: Path_, store: Store, max_backlog: int, clock: Callable[[], float] = time.time) -> None:
        """`max_backlog`: bytes that may wait for the store. Raises Unavailable when nothing can be kept beside the database."""
        self._path, self._store, self._max_backlog, self._clock = path, store, max_backlog, clock
        folder = folder_of(path)
        self.staging = Staging(folder)
        self.fence = Fence(store, folder)
        self._status = StatusFile(path)
        self._status.set(store=store.url)
        self.uploader = Uploader(self.staging, store, self.fence, self._status, clock)
        self._upkeep = Upkeep(store, folder, lambda: not self.uploader.failure and not self.fence.cause, self._status)
        self._lease = CheckpointLease(path)
        self._chain: Chain | None = None
        self._tail: Tail | None = None
        self._watcher: CommitWatcher | None = None
        self._file: tuple[int, int] | None = None  # the file that is or was open
        self._journal: dict[str, tuple[int, int] | None] = {}
        self._arriving: tuple[float, tuple[int, int, int]] | None = None  # since when a new file has been as it is
        self._left_at = 0.0  # time.monotonic() when a file that was replaced was left
        self._moves = -1
        self._staged_at = self._tried_at = -SPACING_AWAY  # time.monotonic() of the last file, and of the last checkpoint in vain
        self._full = False  # the backlog was dropped; nothing is staged before the store is back
        self._failure = ""

    @property
    def status(self) -> StatusFile:
        """What others are told."""
        return self._status

    def take_over(self) -> None:
        """Ship from here from now on, whoever shipped to this place before: after what is there a whole database follows."""
        self.staging.clear()
        self.fence.open()

    def run(self, stopping: threading.Event) -> None:
        """Ship until `stopping`. Raises ConfigError or Conflict when it cannot begin, ever."""
        self._lease.take()
        self._lease.release()
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
        except (DroverError, apsw.Error, OSError) as exc:
            self._failed(str(exc) or type(exc).__name__)
            pause = RETRY
        self._tell()
        return pause

    def step(self) -> float:
        """Stage what was committed, and checkpoint when it is time. Returns the pause until the next one; raises what prevents it."""
        if self.fence.cause:
            self._let_go()
            return RETRY
        if self._tail is not None and identity(self._path) != self._file:
            logger.warning("the database was replaced, a whole one follows path=%s", self._path)
            self._left_at = time.monotonic()
            self._let_go()
        if self._tail is None and not self._open():
            return RETRY / 4
        assert self._tail is not None
        change = self._tail.change()
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
            if self._tail is not None and not self.fence.cause and identity(self._path) == self._file:
                if change := self._tail.change():
                    self._hand_out(change)
                    self._tail.advance(change)
                self._tail.checkpoint(self._hand_out)
        except (DroverError, apsw.Error, OSError) as exc:
            logger.warning("the end was not shipped: the next start sees to it cause=%s", exc)
        self._let_go()
        self._upkeep.stop()
        self.uploader.stop(DRAIN)
        self._status.set(state="stopped", cause=self.fence.cause)
        self._status.write()

    def _open(self) -> bool:
        """Begin to follow the file at the path; False while it is too early. Raises what prevents it."""
        if self._full and self.staging.waiting:
            return False
        if not self._is_there():
            return False
        chain = self._chain_now()
        self._lease.take()
        file, tail = identity(self._path), Tail(self._path)
        try:
            if chain.page_size not in (0, tail.page_size):
                raise Conflict(
                    f"{self._path} has pages of {tail.page_size} bytes, what {self._store.url} holds has {chain.page_size}:"
                    " choose another LITESTREAM_PATH for it"
                )
            newest = self.staging.newest
            resumed = newest is not None and tail.resume(newest.mark, newest.header.commit)
            logger.info("following path=%s txid=%x %s", self._path, chain.txid, "" if resumed else "and shipping all of it first")
        except BaseException:
            tail.close()
            self._lease.release()
            raise
        self._tail, self._file, self._chain, self._full = tail, file, chain, False
        self._journal, self._arriving = journal_of(self._path), None
        self._watcher, self._moves = CommitWatcher(self._path, self._present), -1
        return True

    def _is_there(self) -> bool:
        """Whether there is a file to open. A new one not while somebody still copies it there, nor before the writer has opened it."""
        file = identity(self._path)
        if file is None:
            raise DamagedFile(f"{self._path} is missing: put it back")
        if self._file in (None, file):
            return True
        facts, now = os.stat(self._path), time.monotonic()
        seen = facts.st_ino, facts.st_size, facts.st_mtime_ns
        if self._arriving is None or self._arriving[1] != seen:
            self._arriving = now, seen
        opened = journal_of(self._path)["-shm"] not in (None, self._journal.get("-shm"))
        if now - self._arriving[0] < SETTLE or (not opened and now - self._left_at < NEW_OWNER):
            return False
        drop_journal(self._path, self._journal)
        return True

    def _chain_now(self) -> Chain:
        """What the next file goes on from. Raises what the store raises when only it knows."""
        newest = self.staging.newest
        if newest is not None:
            return Chain(newest.txid, newest.header.timestamp_ms, newest.header.page_size)
        if self._chain is not None:
            return self._chain
        remote = survey(self._store)
        if remote.newest is None:
            return Chain(remote.last, 0, 0)
        with self._store.open(remote.newest.name) as file:
            header = decode(file, str(remote.newest.name)).header
        return Chain(remote.last, header.timestamp_ms, header.page_size)

    def _present(self) -> tuple[int, int] | None:
        """For the watcher: the file that is followed, and no other."""
        if identity(self._path) != self._file:
            raise Unavailable
        return self._file

    def _let_go(self) -> None:
        """Follow no more. Whoever writes checkpoints then."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        if self._tail is not None:
            self._tail.close()
            self._tail = None
        self._lease.release()

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
        now = time.monotonic()
        if self._tail.frames() >= WAL_AUTOCHECKPOINT and now - self._tried_at >= CHECKPOINT_RETRY:
            self._tried_at = now
            self._tail.checkpoint(self._hand_out)

    def _limit(self) -> None:
        """When too much waits for the store, forget it, and let the -wal go its way."""
        if self.staging.backlog()[1] <= self._max_backlog:
            return
        dropped = self.staging.drop()
        newest = self.staging.newest
        assert newest is not None
        self._chain = Chain(newest.txid, newest.header.timestamp_ms, newest.header.page_size)
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
        if self._watcher is not None:
            self._moves = self._watcher.moved(self._moves, IDLE)

    def _tell(self) -> None:
        state, cause = "shipping", ""
        if self.fence.cause:
            state, cause = "fenced", self.fence.cause
        elif self._failure:
            state, cause = "stalled", self._failure
        elif self.uploader.failure:
            state, cause = "waiting", self.uploader.failure
        elif self._tail is None:
            state = "starting"
        count, size = self.staging.backlog()
        self._status.set(state=state, cause=cause, pending_objects=count, pending_bytes=size)
        self._status.write(time.monotonic())

    def _failed(self, cause: str) -> None:
        if cause != self._failure:
            logger.warning("shipping stands still, trying again path=%s cause=%s", self._path, cause)
        self._failure = cause

    def _recovered(self) -> None:
        if self._failure:
            logger.warning("shipping goes on path=%s", self._path)
        self._failure = ""
