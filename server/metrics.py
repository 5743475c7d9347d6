"""`GET /metrics` of the server: what the sync service has counted, and where the replica stands at this moment."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import get_args

import apsw
from flask import Response

from changelog.node.metrics import UNREADABLE, LogFacts, LogFile, Metric, disk_free, gauge, gauges
from server.office import Office
from server.state import Facts, State


class OfficeMetrics:
    """`GET /metrics` of one server."""

    def __init__(self, office: Office) -> None:
        self._office, self._metrics = office, office.measures.metrics
        self._log = LogFile(office.settings.replica_db)
        for facts in (self._of_the_service, self._of_the_replica, self._of_the_disk):
            self._metrics.ask(facts)

    def response(self) -> Response:
        """The figures of this moment."""
        return self._metrics.response()

    def _of_the_service(self) -> Iterator[Metric]:
        facts, success = self._office.state.facts(), self._last_success()
        yield gauges(
            "drover_state",
            "1 for what the sync service is doing, 0 for what it is not.",
            "state",
            {state: state == facts.state for state in get_args(State)},
        )
        words = "1 if the rows shown may be old, because the Pi is silent, refused or not followed, else 0."
        yield gauge("drover_stale", words, facts.state in ("stale", "refused", "pages-only"))
        words = "1 while the rows come from the bucket, because the Pi cannot be reached or is not to be followed, else 0."
        yield gauge("drover_following_bucket", words, facts.source == "bucket")
        yield gauge("drover_push_connected", "1 while the Pi's socket is up, over which it pushes its changes, else 0.", facts.push)
        if facts.head is not None:
            yield gauge("drover_head_seq", "The newest change (seq) of the Pi that this server has heard of.", facts.head)
        if facts.lag_changes is not None:
            yield gauge("drover_lag_changes", "Changes that the Pi is known to have and the replica has not.", facts.lag_changes)
        words = "Seconds since the replica was last known to have all of the Pi's changes, 0 while it has; +Inf if it never had."
        yield gauge("drover_lag_seconds", words, _lag(facts, success))
        if success is not None:
            words = "UNIX time of the newest sync that succeeded, before a restart too."
            yield gauge("drover_last_success_timestamp_seconds", words, success)
        if facts.last_verify_at is not None:
            words = "UNIX time of the newest comparison of the replica with the Pi."
            yield gauge("drover_last_verify_timestamp_seconds", words, _unix_time(facts.last_verify_at))
            yield gauge("drover_verify_ok", "1 if that comparison found both sides identical, else 0.", bool(facts.last_verify_ok))

    def _of_the_replica(self) -> Iterator[Metric]:
        return self._log.metrics(_applied)

    def _of_the_disk(self) -> Iterator[Metric]:
        return disk_free(self._office.settings.data_dir)

    def _last_success(self) -> float | None:
        """UNIX time, or None where there was none or server.db does not tell."""
        try:
            text = self._office.store.totals().last_sync_time
        except UNREADABLE:
            return None
        return _unix_time(text) if text else None


def _applied(db: apsw.Connection, facts: LogFacts) -> Iterator[Metric]:
    for (seq,) in db.execute("SELECT seq FROM changelog_position"):
        yield gauge("drover_applied_seq", "The newest change (seq) that the replica holds.", seq)


def _unix_time(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def _lag(facts: Facts, success: float | None) -> float:
    """A server that was restarted while the Pi is away has not seen the head itself: then its last success counts."""
    if facts.lag_seconds is not None:
        return facts.lag_seconds
    return math.inf if success is None else max(0.0, time.time() - success)
