#!/usr/bin/env python3
"""What the log costs, as ratios within one run: `scripts/bench.py [capture] [catchup] [audit] [--size N]`.

capture   one-row commits on the farm's cattle with and without the changelog, at synchronous FULL and NORMAL
catchup   N mixed changes replayed (decoding, log and position included) beside SQLite's own changeset_apply, which keeps no log
audit     one cell's history among N changes, on the primary (no index) and on a replica (its own index)
"""

from __future__ import annotations

import gc
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import apsw
import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from changelog import compression
from changelog.bootstrap import fit_out
from changelog.connection import connect, one
from changelog.install import install
from changelog.primary import Primary
from changelog.replay import connect_replica, position_of, replay
from changelog.wire import decode_frame
from server.indexes import LOCAL_INDEXES

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
CATTLE = "INSERT INTO cattle(batch_id, cattle_id, sex, weight, lf_tag, uhf_tag) VALUES(?, ?, 'cow', ?, ?, ?)"


def new_farm(path: Path, cattle: int) -> None:
    """A farm with so many animals, in batches of 100."""
    db = connect(path, create=True)
    db.execute((ROOT / "pi/schema.sql").read_text())
    with db:
        numbers = [(f"B{n:05d}", "2026-11-01") for n in range(cattle // 100 + 1)]
        db.executemany("INSERT INTO batches(batch_number, induction_date) VALUES(?, ?)", numbers)
        db.executemany(CATTLE, (animal(n) for n in range(cattle)))
    db.close()


def animal(n: int) -> tuple[object, ...]:
    """The values of the n-th animal."""
    return n // 100 + 1, f"B{n // 100:05d}-{n:06d}", 300 + random.random() * 200, f"LF{n:08d}", f"UHF{n:012d}"


def capture(folder: Path, size: int) -> None:
    """One-row commits, alternating between a file with and one without the changelog."""
    commits = max(200, size // 100)
    files = {name: folder / f"{name}.db" for name in ("plain", "logged")}
    for path in files.values():
        new_farm(path, 10_000)
    db = connect(files["logged"])
    install(db)
    db.close()
    for mode in ("FULL", "NORMAL"):
        found: dict[str, list[float]] = {"insert": [], "update": [], "delete": []}
        for number in range(ROUNDS):
            first = 1_000_000 * (number + 1) + 100_000_000 * (mode == "FULL")
            plain, logged = (_commit_times(path, mode, commits, first) for path in files.values())
            for kind, each in found.items():
                each.append(logged[kind] / plain[kind])
        ratios = "  ".join(f"{kind} {statistics.median(each):.2f}x ({min(each):.2f} to {max(each):.2f})" for kind, each in found.items())
        click.echo(f"capture at synchronous={mode}, {ROUNDS} x {commits} one-row commits: {ratios}")


def _commit_times(path: Path, mode: str, commits: int, first: int) -> dict[str, float]:
    db = connect(path, checkpoints=True)
    db.pragma("synchronous", mode)
    names = [f"X{first + n}" for n in range(commits)]
    times = {
        "insert": _timed(lambda: [db.execute(CATTLE, (1, name, 1.5, name, name)) for name in names]),
        "update": _timed(lambda: [db.execute("UPDATE cattle SET weight=2, notes='n' WHERE cattle_id=?", (name,)) for name in names]),
        "delete": _timed(lambda: [db.execute("DELETE FROM cattle WHERE cattle_id=?", (name,)) for name in names]),
    }
    db.close()
    return times


def catchup(folder: Path, size: int) -> None:
    """The same mixed changes by replay and by changeset_apply, on equal copies, in turn."""
    source, replica = folder / "primary.db", folder / "replica.db"
    new_farm(source, max(1_000, size * 6 // 10))
    db = connect(source)
    install(db)
    primary = Primary(source)
    primary.copy_to(replica)
    start = fit_out(replica, None)
    changes = _mixed_changes(db, size)
    db.close()
    header, chunks = primary.encoded_frame(start)
    frame = list(chunks)
    encodings = {name: list(compression.compress(name, frame)) for name in ("gzip", *(["zstd"] if compression.zstandard else []))}
    count = header.upto - header.after
    for name, pieces in encodings.items():
        click.echo(f"catchup wire: {sum(map(len, pieces)) / count:.1f} bytes a change as {name}")
    rates: dict[str, list[float]] = {"changeset_apply": [], "replay": []}
    for _ in range(ROUNDS):
        with _copy_of(replica) as target:
            rates["changeset_apply"].append(count / _timed(partial(_apply_changeset, target, changes)))
        with _copy_of(replica) as target:
            rates["replay"].append(count / _timed(partial(_replay, target, encodings["gzip"])))
            assert position_of(target).seq == header.upto
    ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["replay"], rates["changeset_apply"], strict=True))
    shown = ", ".join(f"{name} {statistics.median(each) / 1000:.0f}k/s" for name, each in rates.items())
    click.echo(f"catchup of {count} mixed changes: {shown}; replay with the log kept is {ratio:.2f}x changeset_apply")


@contextmanager
def _copy_of(replica: Path) -> Iterator[apsw.Connection]:
    copy = replica.with_suffix(".copy")
    shutil.copy(replica, copy)
    target = connect_replica(copy)
    _add_indexes(target)
    try:
        yield target
    finally:
        target.close()


def _replay(target: apsw.Connection, pieces: list[bytes]) -> None:
    replay(target, *decode_frame(compression.decompress("gzip", pieces)))


def _mixed_changes(db: apsw.Connection, size: int) -> bytes:
    session = apsw.Session(db, "main")
    for table in ("cattle", "weight_records"):
        session.attach(table)
    top = one(db, "SELECT max(id) FROM cattle")
    with db:
        for n in range(size):
            kind, some = random.random(), random.randint(1, top)
            if kind < 0.3:
                db.execute(CATTLE, animal(10_000_000 + n))
            elif kind < 0.61:
                db.execute("INSERT INTO weight_records(cattle_id, weight) VALUES(?, ?)", (some, random.random() * 500))
            elif kind < 0.9:
                db.execute("UPDATE cattle SET weight=?, updated_at='2026-11-02T00:00:00' WHERE id=?", (random.random() * 500, some))
            else:
                db.execute("DELETE FROM cattle WHERE id=?", (some,))
    return session.changeset()


def _add_indexes(db: apsw.Connection) -> None:
    for sql in LOCAL_INDEXES:
        db.execute(sql)


def _apply_changeset(db: apsw.Connection, changes: bytes) -> None:
    with db:
        apsw.Changeset.apply(changes, db)


def audit(folder: Path, size: int) -> None:
    """The query of README among many changes."""
    path, copy = folder / "audited.db", folder / "audited-replica.db"
    new_farm(path, 10_000)
    db = connect(path)
    install(db)
    with db:
        for n in range(size):
            db.execute("UPDATE cattle SET weight=? WHERE id=?", (n / 7, n % 10_000 + 1))
    Primary(path).copy_to(copy)
    fit_out(copy, None)
    replica = connect_replica(copy)
    _add_indexes(replica)
    query = "SELECT at, actor, old, new FROM changelog_audit WHERE tbl='cattle' AND key=7 AND col='weight'"
    for name, side in (("primary", db), ("replica", replica)):
        rows = len(side.execute(query).fetchall())
        times = [_timed(partial(_fetch, side, query)) for _ in range(ROUNDS)]
        click.echo(f"audit among {size} changes on the {name}: {statistics.median(times) * 1000:.1f} ms for {rows} rows")
        side.close()


def _fetch(db: apsw.Connection, query: str) -> None:
    db.execute(query).fetchall()


def _timed(work: Callable[[], object]) -> float:
    gc.collect()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


PARTS = {"capture": capture, "catchup": catchup, "audit": audit}


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--size", default=100_000, show_default=True, help="How many changes.")
def main(parts: tuple[str, ...], size: int) -> None:
    """The command line."""
    for part in parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](Path(folder), size)


if __name__ == "__main__":
    main()
