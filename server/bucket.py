"""Following what the Pi ships to a bucket, for as long as the Pi itself cannot be reached, or for ever (FOLLOW=bucket).

The rows go the same way as pulled ones: through the replay, and the one road out of doubt. The bucket is late by nature, so what it holds
is first compared with what is here: nothing that is older is ever applied.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from changelog.errors import (
    BrokenFrame,
    DamagedFile,
    Divergence,
    DroverError,
    HistoryTrimmed,
    NotAPrimary,
    NotFound,
    PositionMismatch,
    Stranger,
)
from changelog.ltx.mirror import RENEW_EVERY, Mirror
from changelog.ltx.sign import EVERY, Complete, last_sign
from changelog.ltx.source import BucketSource, Standing
from changelog.ltx.store.names import Store as Place
from changelog.ltx.store.names import as_text
from changelog.ltx.store.place import store_at
from changelog.node.settings import Settings
from changelog.position import Position
from changelog.replay import position_of
from changelog.verify.local import Answers
from server.download import Progress
from server.follower import Follower
from server.road import Doubt
from server.state import SyncState
from server.store import Store
from server.verifier import Verdict, compare_with

POLL = 1.0  # s between two looks at the bucket, when something came lately
POLL_IDLE = 3.0  # s, else: each look is a request that somebody may have to pay for
LATELY = 60.0  # s
PATIENCE = 10.0  # s, or three times DB_SYNC_INTERVAL, that a Pi may be away before the mirror is fetched: it may only have been restarted
ASK_PI = 60.0  # s between two attempts at a Pi whose socket is down: each may cost a connect timeout

logger = logging.getLogger(__name__)


class LateBucket(DroverError):
    """The bucket holds nothing newer than what is here."""


class Bucket:
    """The bucket as the source of this replica. For the thread that uses the follower."""

    name = "the bucket"

    def __init__(self, settings: Settings, follower: Follower, store: Store, state: SyncState, clock: Callable[[], float] = time.monotonic):
        """`clock` (s) is for tests."""
        self._follower, self._store, self._state, self._clock = follower, store, state, clock
        self._always = settings.follow == "bucket"
        self._place = place = _place(settings)
        self.url = place.url
        self._source = BucketSource(Mirror(place, settings.mirror_db))
        self._sign: Complete | None = None  # of life, by the shipper
        self._sign_at = -EVERY  # when it was last looked for
        self._why = ""  # the Pi is not followed
        self._began = False
        self._patience = min(PATIENCE, 3 * settings.db_sync_interval)
        self._missed_at: float | None = None  # when the Pi was first not to be reached
        self._ask_pi_at = self._moved_at = 0.0
        self._doubted_at = -RENEW_EVERY  # when the mirror was last restored anew because nothing could be done with what it holds

    def is_in_charge(self, linked: bool) -> bool:
        """Whether to look here now, and not ask the Pi. `linked`: its socket is up, so it can be reached."""
        return self._always or (self._began and not linked and self._clock() < self._ask_pi_at)

    def begin(self, why: str) -> bool:
        """The Pi cannot be reached, because of `why`. Whether to look here: not at once, where there are rows to be shown meanwhile."""
        now = self._clock()
        self._missed_at = now if self._missed_at is None else self._missed_at
        if self._follower.reached is not None and now - self._missed_at < self._patience:
            return False
        self._ask_pi_at = now + ASK_PI
        if not self._began:
            logger.warning("The Pi cannot be reached, so the bucket %s is followed until it can: %s", self.url, why)
        self._began, self._why = True, why
        return True

    def end(self) -> None:
        """The Pi was followed."""
        if self._began:
            logger.info("The Pi can be reached again, the bucket is not followed any more")
        self._began, self._missed_at = False, None
        self._state.from_pi()

    @property
    def pace(self) -> float:
        """Seconds until the next look."""
        return POLL if self._clock() - self._moved_at < LATELY else POLL_IDLE

    def step(self) -> None:
        """Fetch what is new in the bucket and replay it, or bootstrap where there is doubt.

        Raises Stranger, LateBucket, and what the bucket cannot be used with; then the rows stay as they are.
        """
        try:
            if self._source.refresh():
                self._moved_at = self._clock()
            doubt = self._follower.file.doubt() or self._follow()
            if doubt is not None:
                self._follower.take_road(doubt, self)
        except NotFound as exc:
            raise LateBucket(self._because(f"there is nothing in the bucket yet: {exc.message}")) from exc
        except (DamagedFile, NotAPrimary):
            if self._clock() - self._doubted_at >= RENEW_EVERY:  # what was shipped may be like that, and is not fetched whole each time
                self._doubted_at = self._clock()
                self._source.forget()
            raise
        self._look_for_sign()
        self._state.from_bucket(self._as_of(), self._why)

    def snapshot(self, target: Path, accepted_epoch: str | None, progress: Progress) -> int:
        """The newest state as a file; see `Follower.bootstrap`."""
        self._source.refresh()
        size = self._source.copy_to(target)
        progress(size, size)
        return size

    def bootstrap(self, force: bool) -> dict[str, Any]:
        """Install the newest state of the bucket; returns what that was, ready for JSON.

        Raises Stranger, and LateBucket where the replica holds the same or more already, unless `force`.
        """
        self._source.refresh()
        before = self._follower.position()
        if before is not None:
            standing = self._standing()
            if standing in ("behind", "forked") and not force:
                raise LateBucket(
                    f"the bucket is at {self._source.head()}, which is older than what is here ({before}): nothing was installed."
                    " To go back all the same (what is lost is kept in a file), add --force"
                )
        self._follower.bootstrap(Doubt("asked", f"asked for from the bucket {self.url}"), self)
        after = self._follower.position()
        return {"source": self.url, "before": str(before) if before else None, "after": str(after), "as_of": self._as_of()}

    def compare(self, repair: bool = False) -> Verdict:
        """Compare with the mirror, at the position that it holds. Raises CannotVerify."""
        if self._source.refresh():
            self._moved_at = self._clock()
        return compare_with(Answers(self._source), self._follower.file.checked(), self._pull, repair)

    def start_anew(self, cause: PositionMismatch | HistoryTrimmed | Divergence | DamagedFile) -> None:
        """A snapshot in the place of a replica that cannot be compared, for this cause."""
        if isinstance(cause, DamagedFile):
            self._follower.file.close()
            doubt = Doubt("damaged", cause.message)
        else:
            doubt = Doubt.of(cause, self._store.accepted_epoch or "")
        self._source.forget()
        self._follower.bootstrap(doubt, self)

    def _pull(self, seq: int) -> None:
        head = self._source.head()
        if head.seq != seq:
            raise Divergence(f"the bucket has gone on to seq {head.seq} since seq {seq}")
        doubt = self._follow()
        if doubt is not None:
            raise Divergence(doubt.reason)

    def _follow(self) -> Doubt | None:
        """Replay what the mirror has and the replica has not, or say why a snapshot is needed instead."""
        db = self._follower.file.db
        before, standing = position_of(db), self._standing()
        head = self._source.head()
        if standing in ("behind", "forked"):
            raise LateBucket(self._because(f"the bucket is at seq {head.seq}, not as far as what is here: nothing of it is applied"))
        if standing in ("anew", "rewound"):
            return Doubt("rewound" if standing == "rewound" else "new_epoch", f"the bucket goes on from another point: {head}")
        if again := self._follower.road.repeated:
            self._state.following(head.seq, by_snapshots=again.reason)
            due = head.seq > before.seq and self._follower.road.is_due
            return Doubt(again.cause, f"following by snapshots, since this came again and again: {again.reason}") if due else None
        if standing == "same":
            self._state.following(head.seq)
            return None
        return self._replay(before)

    def _replay(self, before: Position) -> Doubt | None:
        try:
            with self._source.frame(before) as frame:
                self._follower.advance(self._follower.file.db, before, frame)
        except (PositionMismatch, HistoryTrimmed, Divergence, BrokenFrame) as exc:
            if not isinstance(exc, HistoryTrimmed):
                self._source.forget()  # the surprise may be the mirror's
            return Doubt("divergence", exc.message) if isinstance(exc, BrokenFrame) else Doubt.of(exc, before.epoch)
        return None

    def _standing(self) -> Standing:
        """How the bucket relates to the replica. Raises Stranger, unless that one was accepted."""
        standing = self._source.standing(self._follower.file.db)
        if standing != "stranger":
            return standing
        if self._store.accepted_epoch in self._source.epochs():
            return "anew"
        raise Stranger(
            f"the bucket {self.url} holds another history ({self._source.head()}) than the one accepted here"
            f" ({self._store.accepted_epoch}): its rows are refused, ours stay. If it is the right one, run:"
            " python -m server accept --from-bucket"
        )

    def _because(self, message: str) -> str:
        return f"{self._why}; {message}" if self._why else message

    def _look_for_sign(self) -> None:
        if self._clock() - self._sign_at >= EVERY:
            self._sign_at = self._clock()
            with suppress(DroverError):  # keys may be for the files alone
                self._sign = last_sign(self._place)

    def _as_of(self) -> str | None:
        """As of when the mirror is what the Pi has, UTC by the Pi's clock: when its newest file was shipped, or a later sign of life."""
        holding, sign = self._source.holding, self._sign
        if holding is None:
            return None
        at_ms = max(holding.timestamp_ms, sign.at_ms) if sign and sign.txid == holding.txid else holding.timestamp_ms
        return as_text(at_ms // 1000 * 1000).removesuffix("Z")


def newest_in_bucket(settings: Settings) -> tuple[str, Position]:
    """The bucket's address and the position of the newest state in it, of which nothing is kept. Raises what `Mirror.advance` raises."""
    place = _place(settings)
    with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix="bucket-") as folder:
        source = BucketSource(Mirror(place, Path(folder) / settings.mirror_db.name))
        source.refresh()
        return place.url, source.head()


def _place(settings: Settings) -> Place:
    return store_at(settings.litestream_bucket, settings.litestream_path, settings.litestream_endpoint, settings.litestream_region)


def bucket_of(settings: Settings, follower: Follower, store: Store, state: SyncState) -> Bucket | None:
    """The bucket that this server may follow, if the settings name one."""
    if settings.follow == "pi" or not settings.litestream_bucket:
        return None
    return Bucket(settings, follower, store, state)
