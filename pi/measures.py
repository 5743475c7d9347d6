"""What the Pi tells Prometheus: how long commits take, counted as they happen, and where log, replicas and payloads stand at a scrape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from changelog.acks import Acks
from changelog.connection import rows
from changelog.node.metrics import COMMIT_BUCKETS, UNREADABLE, LogFacts, LogFile, Metric, Metrics, counted, disk_free, gauge, gauges
from changelog.retention import about_log_bytes
from pi import farm, herd, shipping
from pi.push import Push
from pi.retention import Retention

REPLICAS_SHOWN = 50  # those that were heard of last: each is three series
PAYLOADS_COUNTED = 10_000  # the newest, by status: no index on the SD card pays for a count of all
PAYLOADS_KEPT = 15.0  # s for which they are not counted again

_COUNTS = f"""SELECT status, count(*) FROM (SELECT status FROM lora_payload_buffer ORDER BY id DESC LIMIT {PAYLOADS_COUNTED})
  WHERE status<>'received' GROUP BY status UNION ALL
  SELECT 'received', count(*) FROM (SELECT 1 FROM lora_payload_buffer WHERE status='received' LIMIT {10 * PAYLOADS_COUNTED})"""


class Measures:
    """What the services of the Pi count, and `GET /metrics`."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        words = "Seconds that one transaction of the writer took, from its begin until it was on the disk."
        self._commits = self.metrics.histogram("drover_commit_duration_seconds", words, COMMIT_BUCKETS)
        self._lock = threading.Lock()
        self._payloads: dict[str, int] = {}
        self._counted_at = -PAYLOADS_KEPT

    def committed(self, seconds: float) -> None:
        """The writer has committed a transaction."""
        self._commits.observe(seconds)

    def ask(
        self,
        path: Path,
        *,
        queued: Callable[[], int],
        dropped: Callable[[], int],
        acks: Acks,
        retention: Retention,
    ) -> None:
        """Say where the figures of a scrape come from: the primary at `path`, and those who know the rest.

        `queued`: writes that wait; `dropped`: payloads lost to a full queue; `acks`: how far the replicas are.
        """
        log = LogFile(path, lambda db: retention.figures.log_bytes or about_log_bytes(db))

        def of_the_process() -> Iterator[Metric]:
            yield gauge("drover_writer_queue", "Writes that wait for the writer's next transaction.", queued())
            yield counted("drover_serial_dropped", "Payloads from the serial line that were lost because the queue was full.", dropped())

        def of_the_primary(db: apsw.Connection, facts: LogFacts) -> Iterator[Metric]:
            yield gauge("drover_head_seq", "The newest change (seq) of this primary.", facts.head)
            yield counted("drover_trimmed_changes", "Changes that retention has taken out of the changelog, ever.", facts.oldest - 1)
            yield from self._of_payloads(db)
            yield from _of_replicas(acks, facts.head)

        self.metrics.ask(of_the_process)
        self.metrics.ask(lambda: log.metrics(of_the_primary))
        self.metrics.ask(lambda: disk_free(path.parent))
        self.metrics.ask(lambda: shipping.metrics(path, time.time()))

    def ask_push(self, push: Push) -> None:
        """Say who pushes."""

        def of_the_sockets() -> Iterator[Metric]:
            yield gauge("drover_sockets", "Clients that are connected by a socket, and told what is committed.", len(push.sockets.links))
            yield counted("drover_pushed", "Times that a new head was pushed, each to all clients.", push.pushed)
            yield counted("drover_sockets_dropped", "Clients that were cut off because they read too slowly.", push.sockets.dropped)

        self.metrics.ask(of_the_sockets)

    def _of_payloads(self, db: apsw.Connection) -> Iterator[Metric]:
        if not farm.has_farm(db):
            return
        with self._lock:
            if time.monotonic() - self._counted_at >= PAYLOADS_KEPT:
                self._payloads = dict.fromkeys(herd.STATUSES, 0) | dict(rows(db, _COUNTS))
                self._counted_at = time.monotonic()
            counts = self._payloads
        words = f"Payloads by status: all that are received and wait for the worker, the others among the newest {PAYLOADS_COUNTED}."
        yield gauges("drover_payloads", words, "status", counts)


def _of_replicas(acks: Acks, head: int) -> Iterator[Metric]:
    """How far each replica is, when pi.db tells."""
    try:
        known = sorted(acks.all(), key=lambda ack: ack.at, reverse=True)[:REPLICAS_SHOWN]
    except UNREADABLE:
        return
    seqs = {ack.replica_id: ack.seq for ack in known}
    yield gauges("drover_applied_seq", "The newest change (seq) that a replica has acknowledged.", "replica", seqs)
    lags = {name: max(0, head - seq) for name, seq in seqs.items()}
    yield gauges("drover_lag_changes", "Changes of this primary that a replica has not acknowledged yet.", "replica", lags)
    ages = {ack.replica_id: ack.age for ack in known}
    yield gauges("drover_ack_age_seconds", "Seconds since a replica last acknowledged anything.", "replica", ages)
