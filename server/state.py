"""What the sync service is doing, as facts that the pages, the status API and the log agree on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from server.clock import utc_text
from server.measures import FailureCause

State = Literal["starting", "bootstrapping", "following", "snapshots", "stale", "refused", "pages-only"]

SILENCE_MATTERS = ("starting", "bootstrapping", "following", "snapshots")  # in these no contact for `stale_after` means stale
Source = Literal["pi", "bucket"]
ALARM_FOR = 600.0  # s that an alarm is shown after it was last raised


@dataclass(frozen=True, slots=True)
class Facts:
    """One moment of the sync service. `epoch` and `seq` are the replica's, `head` the primary's newest known seq; ages are in seconds."""

    state: State = "starting"
    epoch: str | None = None
    seq: int | None = None
    head: int | None = None
    lag_seconds: float | None = None  # since the replica was last known to be at the head; 0 while it is there
    silent_seconds: float = 0.0  # since the primary last answered (or since the start, when it never did)
    last_contact: str | None = None  # UTC
    last_error: str | None = None
    cause: FailureCause | None = None  # of what sort the newest error was
    alarm: str | None = None  # what somebody should act on though the replica follows
    source: Source = "pi"  # where the rows come from just now
    bucket_at: str | None = None  # UTC: as of when the bucket is what the Pi has, by the Pi's clock
    bucket_why: str = ""  # why the bucket is followed and not the Pi; empty where it always is
    push: bool = False  # whether the Pi's socket is up, over which it says at once what is new
    fetched: int | None = None  # of a long catch-up: the newest seq that is here and not yet applied
    progress: tuple[int, int | None] | None = None  # bytes of a bootstrap that are here, and of how many
    last_verify: str | None = None  # the newest comparison with the Pi: its result in words, when it was (UTC), whether nothing differed
    last_verify_at: str | None = None
    last_verify_ok: bool | None = None
    verifying: str | None = None  # since when (UTC) a comparison is under way
    verify_error: str | None = None  # why the newest one came to no end

    @property
    def lag_changes(self) -> int | None:
        """How many changes the primary is known to have that are not here; None when either side is unknown."""
        return None if self.head is None or self.seq is None else max(0, self.head - self.seq)


class SyncState:
    """Thread-safe facts: the sync service writes them, everybody reads them with `facts()`."""

    def __init__(
        self,
        stale_after: float,
        state: State = "starting",
        *,
        clock: Callable[[], float] = time.monotonic,
        utc: Callable[[], str] = utc_text,
    ) -> None:
        """`stale_after`: seconds without contact after which the rows are called stale. `clock` (s) and `utc` are for tests."""
        self._lock = threading.Condition()  # notified when the position moves
        self._stale_after, self._clock, self._utc = stale_after, clock, utc
        self._facts = Facts(state=state)
        self._contact_at = clock()
        self._at_head_at: float | None = None
        self._alarm_at = 0.0

    def facts(self) -> Facts:
        """All facts of this moment, with the ages and with `stale` worked out."""
        with self._lock:
            facts, silent = self._facts, self._clock() - self._contact_at
            stale = facts.state in SILENCE_MATTERS and silent > self._stale_after
            lag = None if self._at_head_at is None else self._clock() - self._at_head_at
            if facts.state in ("following", "snapshots") and not stale and facts.lag_changes == 0:
                lag = 0.0
            alarm = facts.alarm if self._clock() - self._alarm_at < ALARM_FOR else None
            return replace(facts, state="stale" if stale else facts.state, silent_seconds=silent, lag_seconds=lag, alarm=alarm)

    def position(self, epoch: str, seq: int) -> None:
        """The replica stands here (at the start, and after each commit of replay)."""
        with self._lock:
            self._facts = replace(self._facts, epoch=epoch, seq=seq)
            self._note_head()
            self._lock.notify_all()

    def wait_for(self, epoch: str, seq: int, seconds: float) -> bool:
        """Whether the replica has this change of this epoch, or gets it within `seconds`."""

        def reached() -> bool:
            return self._facts.epoch == epoch and (self._facts.seq or 0) >= seq

        with self._lock:
            return self._lock.wait_for(reached, seconds)

    def bootstrapping(self, done: int = 0, total: int | None = None) -> None:
        """A bootstrap is under way: `done` of `total` bytes have arrived. It is a contact too."""
        with self._lock:
            self._touch()
            self._facts = replace(self._facts, state="bootstrapping", progress=(done, total))

    def following(self, head: int, by_snapshots: str | None = None) -> None:
        """The primary answered and its newest change is `head`: the error, if there was one, is over.

        `by_snapshots` is why the replica cannot follow change by change, if it cannot.
        """
        with self._lock:
            self._touch()
            state: State = "snapshots" if by_snapshots else "following"
            self._facts = replace(self._facts, state=state, head=head, last_error=by_snapshots, progress=None, fetched=None)
            self._note_head()

    def fetching(self, head: int, fetched: int) -> None:
        """A catch-up up to `head` is under way, of which everything up to seq `fetched` is here and nothing applied."""
        with self._lock:
            self._touch()
            self._facts = replace(self._facts, head=head, fetched=fetched)

    def from_bucket(self, as_of: str | None, why: str) -> None:
        """The rows are those of the bucket, as of this time (UTC), because of `why` the Pi is not followed."""
        with self._lock:
            self._facts = replace(self._facts, source="bucket", bucket_at=as_of, bucket_why=why)

    def from_pi(self) -> None:
        """The rows are those of the Pi itself."""
        with self._lock:
            self._facts = replace(self._facts, source="pi", bucket_at=None, bucket_why="")

    def linked(self, up: bool) -> None:
        """The Pi's socket came up, or went down."""
        with self._lock:
            self._facts = replace(self._facts, push=up)

    def doubted(self, reason: str) -> None:
        """The replica cannot go on from where it is: its rows are stale until a snapshot has replaced them."""
        with self._lock:
            self._facts = replace(self._facts, state="stale", last_error=self._facts.last_error or reason, fetched=None)

    def alarmed(self, alarm: str) -> None:
        """Something is wrong that only people can mend, and the replica goes on all the same."""
        with self._lock:
            self._alarm_at = self._clock()
            self._facts = replace(self._facts, last_error=alarm, alarm=alarm)

    def failed(self, error: str, cause: FailureCause = "other") -> None:
        """A try failed: `error` names the host and the cause. The state stays; silence will make it stale."""
        with self._lock:
            self._facts = replace(self._facts, last_error=error, cause=cause)

    def refused(self, error: str, cause: FailureCause = "refused") -> None:
        """The primary at the address is a stranger, or refuses us: nothing moves until somebody acts on `error`."""
        with self._lock:
            self._touch()
            self._facts = replace(self._facts, state="refused", last_error=error, cause=cause, progress=None)

    def verifying(self) -> None:
        """A comparison with the Pi begins."""
        with self._lock:
            self._facts = replace(self._facts, verifying=self._utc(), verify_error=None)

    def verify_ended(self, error: str | None = None) -> None:
        """It is over; `error` says why it came to no end."""
        with self._lock:
            self._facts = replace(self._facts, verifying=None, verify_error=error)

    def verified(self, result: str, at: str, ok: bool) -> None:
        """The newest comparison of both sides ended with `result`, a sentence with its time `at` (UTC); `ok` when nothing differed."""
        with self._lock:
            self._facts = replace(self._facts, last_verify=result, last_verify_at=at, last_verify_ok=ok)

    def _touch(self) -> None:
        self._contact_at = self._clock()
        self._facts = replace(self._facts, last_contact=self._utc())

    def _note_head(self) -> None:
        if self._facts.lag_changes == 0:
            self._at_head_at = self._contact_at
