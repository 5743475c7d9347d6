"""How quickly a replica repeats what it missed, beside SQLite's own changesets, and what that takes on the wire."""

from __future__ import annotations

import gzip
import random
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import apsw

from changelog import compression
from changelog.bootstrap import fit_out
from changelog.connection import connect, one
from changelog.primary import Primary
from changelog.replay import connect_replica, position_of, replay
from changelog.wire import decode_frame
from scripts.bench.figures import Figure, beside, in_turns, single, took
from scripts.bench.ground import CATTLE, Ground, animal, index

PEER = "changeset_apply, no log"


def catchup(ground: Ground) -> Iterator[Figure]:
    """The same mixed changes by replay (decoding, log and position included) and by changeset_apply, on equal copies, in turn."""
    with ground.room("catchup") as folder:
        source, replica = folder / "farm.db", folder / "replica.db"
        shutil.copy(ground.herd(ground.sizes.herd).folder / "farm.db", source)
        with closing(connect(source)) as db, closing(Primary(source)) as primary:
            primary.copy_to(replica)
            start = fit_out(replica, None)
            changes = mixed_changes(db, ground.sizes.changes)
            header, chunks = primary.encoded_frame(start)
            frame = list(chunks)
        count = header.upto - header.after
        encodings = {name: list(compression.compress(name, frame)) for name in ("gzip", *(["zstd"] if compression.zstandard else []))}
        best = list(encodings)[-1]
        for name, pieces in encodings.items():
            packed = len(gzip.compress(changes, 1)) / count
            yield beside(f"wire.catch-up as {name}", "B a change", [sum(map(len, pieces)) / count], "changeset as gzip", [packed])
        with_log, without = [], []
        for _ in range(ground.sizes.rounds):
            with _copy_of(replica) as target:
                without.append(took(partial(_apply_changeset, target, changes), ground.clock))
            with _copy_of(replica) as target:
                with_log.append(took(partial(_replay, target, best, encodings[best]), ground.clock))
                assert position_of(target).seq == header.upto
        rates = [[count / seconds / 1000 for seconds in each] for each in (with_log, without)]
        yield in_turns("catchup.replay", "k changes/s", rates[0], PEER, rates[1])
        yield from growth(ground, replica, best)
        yield _point(count, with_log)


def growth(ground: Ground, replica: Path, encoding: str) -> Iterator[Figure]:
    """The same for fewer changes: a frame has its own cost, and each change in it as much whether few or many are missing."""
    for count in (ground.sizes.changes // 100, ground.sizes.changes // 10):
        with ground.room("growth") as folder:
            source = folder / "farm.db"
            shutil.copy(ground.herd(ground.sizes.herd).folder / "farm.db", source)
            with closing(connect(source)) as db, closing(Primary(source)) as primary:
                start = primary.head()
                mixed_changes(db, count)
                frame = list(compression.compress(encoding, primary.encoded_frame(start)[1]))
            times = []
            for _ in range(3):
                with _copy_of(replica) as target:
                    times.append(took(partial(_replay, target, encoding, frame), ground.clock))
            yield _point(count, times)


def _point(count: int, seconds: list[float]) -> Figure:
    each = [one / count * 1e6 for one in seconds]
    return single(f"catchup.of {count} changes", "µs a change", each, series="catch-up, µs a change", axis="changes", at=count)


def mixed_changes(db: apsw.Connection, size: int) -> bytes:
    """3 in 10 new animals, 3 new weights, 3 updates, 1 delete, in one transaction; the changeset of SQLite's session over it."""
    chance, session = random.Random(1), apsw.Session(db, "main")
    for table in ("cattle", "weight_records"):
        session.attach(table)
    top = one(db, "SELECT max(id) FROM cattle")
    with db:
        for n in range(size):
            kind, some = chance.random(), chance.randint(1, top)
            if kind < 0.3:
                db.execute(CATTLE, animal(10_000_000 + n))
            elif kind < 0.61:
                db.execute("INSERT INTO weight_records(cattle_id, weight) VALUES(?, ?)", (some, chance.random() * 500))
            elif kind < 0.9:
                db.execute("UPDATE cattle SET weight=?, updated_at='2026-11-02T00:00:00' WHERE id=?", (chance.random() * 500, some))
            else:
                db.execute("DELETE FROM cattle WHERE id=?", (some,))
    found = session.changeset()
    session.close()
    return found


@contextmanager
def _copy_of(replica: Path) -> Iterator[apsw.Connection]:
    copy = replica.with_suffix(".copy")
    shutil.copy(replica, copy)
    target = connect_replica(copy)
    index(target)
    try:
        yield target
    finally:
        target.close()


def _replay(target: apsw.Connection, encoding: str, pieces: list[bytes]) -> None:
    replay(target, *decode_frame(compression.decompress(encoding, pieces)))


def _apply_changeset(db: apsw.Connection, changes: bytes) -> None:
    with db:
        apsw.Changeset.apply(changes, db)
