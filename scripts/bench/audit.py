"""One cell's history among many changes, by the query of README, on both machines; and what a change takes of the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import apsw

from changelog.bootstrap import fit_out
from changelog.connection import connect, one
from changelog.primary import Primary
from changelog.replay import connect_replica
from changelog.retention import Limits, file_bytes, log_bytes, trim_run
from scripts.bench.figures import Figure, beside, in_turns, single, took
from scripts.bench.ground import CATTLE, Ground, animal, index

ANIMALS = 10_000
QUERY = "SELECT at, actor, old, new FROM changelog_audit WHERE tbl='cattle' AND key=7 AND col='weight'"
SCAN = "SELECT count(*) FROM changelog WHERE tbl='cattle' AND key=7"  # what no index helps with on the Pi


def audit(ground: Ground) -> Iterator[Figure]:
    """The same query on the Pi, which has no index for it, and on the server, which has."""
    with ground.room("audit") as folder:
        path, copy = folder / "farm.db", folder / "replica.db"
        shutil.copy(ground.herd(ANIMALS).folder / "farm.db", path)
        with closing(connect(path)) as db:
            db.pragma("synchronous", "OFF")
            with db:
                for n in range(ground.sizes.log // ANIMALS):
                    db.execute("UPDATE cattle SET weight=200+(id*7+?)%4000/10.0", (n,))
            with closing(Primary(path)) as primary:
                primary.copy_to(copy)
            fit_out(copy, None)
            with closing(connect_replica(copy)) as replica:
                index(replica)
                scans, here, there = [], [], []
                for _ in range(2 * ground.sizes.rounds + 1):
                    for times, side, sql in ((scans, db, SCAN), (here, db, QUERY), (there, replica, QUERY)):
                        times.append(took(partial(_fetch, side, sql), ground.clock) * 1000)
        yield in_turns("audit.on the Pi", "ms", here[1:], "a scan of its log", scans[1:])
        yield in_turns("audit.on the server", "ms", there[1:], "a scan of its log", scans[1:])


def log_size(ground: Ground) -> Iterator[Figure]:
    """What a change takes on the Pi's card in its log, by its kind, and what trimming gives back for the next ones."""
    count = max(1_000, ground.sizes.changes // 10)
    with ground.room("log") as folder:
        path = folder / "farm.db"
        shutil.copy(ground.herd(ground.sizes.herd).folder / "farm.db", path)
        with closing(connect(path)) as db:
            empty = log_bytes(db)
            for kind, sql in (
                ("insert", ""),
                ("update", "UPDATE cattle SET weight=weight+1 WHERE id IN (SELECT id FROM cattle ORDER BY id DESC LIMIT ?)"),
                ("delete", "DELETE FROM cattle WHERE id IN (SELECT id FROM cattle ORDER BY id DESC LIMIT ?)"),
            ):
                before, used = log_bytes(db), file_bytes(db)
                with db:
                    if sql:
                        db.execute(sql, (count,))
                    else:
                        db.executemany(CATTLE, (animal(5_000_000 + n) for n in range(count)))
                grown = [(log_bytes(db) - before) / count]
                if kind == "insert":
                    yield beside(f"log.{kind}", "B a change", grown, "the row and its keys", [(file_bytes(db) - used) / count - grown[0]])
                else:
                    yield single(f"log.{kind}", "B a change", grown)
            yield from _trimmed(db, empty)


def _trimmed(db: apsw.Connection, empty: int) -> Iterator[Figure]:
    used, log = file_bytes(db), log_bytes(db)
    newest = one(db, "SELECT max(seq) FROM changelog")
    times, gone = [], 0
    while True:
        found: list[int] = []
        seconds = took(lambda found=found: found.append(_run(db, newest)))  # type: ignore[misc]
        if not found[0]:
            break
        gone += found[0]
        times.append(seconds * 1000)
    yield single("log.given back by trimming", "% of it", [100 * (used - file_bytes(db)) / (log - empty)])
    yield single("log.one transaction of trimming", "ms", times)
    yield single("log.trimmed", "k changes/s", [gone / sum(times)])


def _run(db: apsw.Connection, below: int) -> int:
    gone = trim_run(db, Limits(below=below), None)
    return gone.rows if gone else 0


def _fetch(db: apsw.Connection, sql: str) -> None:
    db.execute(sql).fetchall()
