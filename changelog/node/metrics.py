"""What a role tells Prometheus: a registry of our own, whose figures are read at the moment of the scrape.

A scrape is cheap (no figure needs a scan that grows with the database) and never fails because of a database: one that is locked, missing
or damaged is a figure too, `drover_database_ok 0`, and what would have been read from it is left out.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw
from flask import Response, request
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from changelog import VERSION
from changelog.connection import Path_, connect, one
from changelog.errors import DroverError, NotAPrimary
from changelog.log import head
from changelog.retention import about_log_bytes

disable_created_metrics()  # when a counter began to be is nobody's question, and doubles the page

PATIENCE = 100  # ms that a scrape waits for somebody's lock
BYTES_KEPT = 60.0  # s for which the size of the log is not worked out again
COMMIT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # s
APPLY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # s

Facts = Callable[[], Iterable[Metric]]
UNREADABLE = (apsw.Error, DroverError, OSError)

logger = logging.getLogger(__name__)


class Metrics:
    """The figures of one process: counters and histograms that are fed, and facts that are asked for at each scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # process_*: memory, CPU, open files, start time
        self.ask(build_info)

    def counter(self, name: str, words: str, labels: Iterable[str] = ()) -> Counter:
        """A counter that only rises, from 0 at the start of the process; its name is shown with `_total`."""
        return Counter(name, words, labels, registry=self.registry)

    def histogram(self, name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
        """How long something took, in seconds, counted in `buckets`."""
        return Histogram(name, words, buckets=buckets, registry=self.registry)

    def ask(self, facts: Facts) -> None:
        """Call `facts` at each scrape; it gives what `gauge`, `gauges` and `counted` make."""
        self.registry.register(_Asked(facts))

    def response(self) -> Response:
        """The answer to `GET /metrics`: text or OpenMetrics, as the scraper asks for it."""
        encode, media_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(self.registry), content_type=media_type)


class _Asked:
    """Facts as a collector; it describes nothing, so that registering it reads no file."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._facts()


def gauge(name: str, words: str, value: float) -> Metric:
    """One figure of this moment."""
    return GaugeMetricFamily(name, words, value=value)


def gauges(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    """One figure for each value of a label, of which there must be few."""
    family = GaugeMetricFamily(name, words, labels=[label])
    for each, value in values.items():
        family.add_metric([each], value)
    return family


def counted(name: str, words: str, value: float) -> Metric:
    """A figure that only rises and is counted elsewhere; its name is shown with `_total`."""
    return CounterMetricFamily(name, words, value=value)


def build_info() -> Iterator[Metric]:
    """Which Drover and which SQLite this process runs."""
    words = "Always 1; the labels tell the versions of Drover and SQLite."
    family = GaugeMetricFamily("drover_build_info", words, labels=["version", "sqlite"])
    family.add_metric([VERSION, apsw.sqlite_lib_version()], 1)
    yield family


def disk_free(folder: Path) -> Iterator[Metric]:
    """The space where the databases are."""
    words = "Bytes that are free on the disk of the databases."
    yield gauge("drover_disk_free_bytes", words, shutil.disk_usage(folder).free)


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What one look into a database tells of its log. `bytes` are approximate."""

    head: int
    oldest: int
    bytes: int


class LogFile:
    """A database with a log, looked at for a scrape on a connection of its own that waits for nobody's lock for long."""

    def __init__(self, path: Path_, log_bytes: Callable[[apsw.Connection], int] = about_log_bytes) -> None:
        """`log_bytes` says how large the log is; it is asked at most once in BYTES_KEPT seconds."""
        self._path, self._log_bytes = path, log_bytes
        self._lock = threading.Lock()
        self._size, self._sized_at = 0, -BYTES_KEPT

    def metrics(self, more: Callable[[apsw.Connection, LogFacts], Iterable[Metric]]) -> Iterator[Metric]:
        """`drover_database_ok`, what is known of the log, and what `more` reads in the same snapshot; after an error only the first."""
        try:
            with closing(connect(self._path, readonly=True, patience=PATIENCE)) as db, db:
                facts = self._facts(db)
                found = [*log_metrics(facts), *more(db, facts)]
        except UNREADABLE as exc:
            logger.debug("nothing read for the metrics file=%s cause=%s", self._path, exc)
            found = []
        yield gauge("drover_database_ok", "1 if the replicated database can be read, 0 if it is locked, missing or damaged.", bool(found))
        yield from found

    def _facts(self, db: apsw.Connection) -> LogFacts:
        oldest, newest = one(db, "SELECT min(seq) FROM changelog"), head(db)
        if oldest is None:
            raise NotAPrimary
        return LogFacts(newest, oldest, self._bytes(db))

    def _bytes(self, db: apsw.Connection) -> int:
        with self._lock:
            if time.monotonic() - self._sized_at >= BYTES_KEPT:
                self._size, self._sized_at = self._log_bytes(db), time.monotonic()
            return self._size


def log_metrics(facts: LogFacts) -> Iterator[Metric]:
    """What both roles tell of the log in their file."""
    yield gauge("drover_log_bytes", "Bytes that the changelog takes in this database, approximately.", facts.bytes)
    yield gauge("drover_log_oldest_seq", "The oldest change (seq) that the changelog here still holds.", facts.oldest)
