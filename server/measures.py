"""What the sync service did, counted as it happens: for `server/metrics.py`."""

from __future__ import annotations

from typing import Literal, get_args

import apsw

from changelog import errors
from changelog.node.metrics import APPLY_BUCKETS, Metrics
from server.road import Cause

FailureCause = Literal[
    "unreachable", "refused", "stranger", "divergence", "broken_frame", "damaged", "protocol", "busy", "position", "disk", "other"
]

_FAILURES: tuple[tuple[type[Exception], FailureCause], ...] = (  # the first that fits
    (errors.Unreachable, "unreachable"),
    (errors.Unauthorized, "refused"),
    (errors.Forbidden, "refused"),
    (errors.Stranger, "stranger"),
    (errors.Divergence, "divergence"),
    (errors.BrokenFrame, "broken_frame"),
    (errors.DamagedFile, "damaged"),
    (errors.ProtocolMismatch, "protocol"),
    (errors.TooMany, "busy"),
    (errors.DiskFull, "disk"),
    (errors.Unavailable, "busy"),
    (errors.PositionMismatch, "position"),
    (errors.HistoryTrimmed, "position"),
    (apsw.FullError, "disk"),
    (apsw.IOError, "disk"),
    (apsw.ReadOnlyError, "disk"),
    (OSError, "disk"),
    (apsw.CorruptError, "damaged"),
    (apsw.NotADBError, "damaged"),
    (apsw.BusyError, "busy"),
)


class Measures:
    """What the sync service counts. It can be fed where nobody asks for it, as in a command."""

    def __init__(self) -> None:
        self.metrics = metrics = Metrics()
        self._changes = metrics.counter("drover_changes_applied", "Changes of the Pi that were replayed into the replica.")
        words = "Changes that arrived from the Pi, those included that were thrown away or came twice."
        self._received = metrics.counter("drover_changes_received", words)
        self._seconds = metrics.histogram(
            "drover_apply_duration_seconds", "Seconds from the Pi's reply to the commit of the changes in it.", APPLY_BUCKETS
        )
        self._failures = metrics.counter("drover_apply_errors", "Turns of the sync service that failed, by cause.", ["reason"])
        self._pushed = metrics.counter("drover_pushed_applied", "Frames that the Pi pushed over its socket and that were replayed.")
        words = "Events of the Pi's socket that were malformed, or whose frame was not what the replica needed next."
        self._ignored = metrics.counter("drover_pushed_ignored", words)
        words = "Whole copies of the Pi's database that were fetched and installed, by cause."
        self._bootstraps = metrics.counter("drover_bootstraps", words, ["reason"])
        for cause in get_args(FailureCause):
            self._failures.labels(cause)  # so that a rate over the first one is seen
        for cause in get_args(Cause):
            self._bootstraps.labels(cause)

    def pushed(self) -> None:
        """A frame that was pushed was replayed."""
        self._pushed.inc()

    def ignored(self) -> None:
        """An event of the Pi's socket was malformed, or its frame did not fit."""
        self._ignored.inc()

    def applied(self, changes: int, seconds: float) -> None:
        """So many changes (more than none) were replayed and committed, in `seconds`."""
        self._changes.inc(changes)
        self._seconds.observe(seconds)

    def received(self, changes: int) -> None:
        """So many changes arrived, whatever becomes of them."""
        self._received.inc(changes)

    def bootstrapped(self, cause: Cause) -> None:
        """A copy was installed."""
        self._bootstraps.labels(cause).inc()

    def failed(self, reason: str) -> None:
        """A turn failed; `reason` is a FailureCause, and what is none counts as `other`."""
        self._failures.labels(reason if reason in get_args(FailureCause) else "other").inc()


def failure_cause(exc: BaseException) -> FailureCause:
    """The class of what ended a turn."""
    return next((cause for kind, cause in _FAILURES if isinstance(exc, kind)), "other")
