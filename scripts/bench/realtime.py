"""From a commit on the Pi to the replica, to the browser, and in bytes; and the user's document's own figures for syncs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from changelog.compression import compress
from changelog.connection import connect, one
from changelog.install import uninstall
from changelog.log import head
from changelog.primary import Primary
from scripts import peer_litestream
from scripts.bench.bootstrap import copies, has_indexes
from scripts.bench.figures import Figure, beside, single
from scripts.bench.ground import Ground
from scripts.large_farm import CuttingProxy, Farm, wait_for
from scripts.prove_realtime import Observer, measure, measure_peer, opened_writers

PATIENCE = 120.0  # s
INCREMENTAL = 100.0  # ms: the better end of what the document says of an incremental sync
CLAIMS = {100: 50.0, 1_000: 200.0, 10_000: 1_000.0, 100_000: 5_000.0}  # ms of a sync of so many records, by the document
ROW = "UPDATE cattle SET weight=? WHERE id=?"
APART = 0.03  # s between two of the commits whose bytes are counted: each is told by itself
RIVAL_INTERVAL = "10ms"


def realtime(ground: Ground) -> Iterator[Figure]:
    """Four writers on the Pi, one after another; beside them Litestream's follower at its quickest."""
    commits, program = ground.sizes.realtime, peer_litestream.find()
    theirs: list[float] = []
    if program is not None:
        with ground.room("litestream") as folder:
            theirs = _ms(measure_peer(program, folder, RIVAL_INTERVAL, "litestream", commits))
    with ground.farm(100) as farm:
        for name, opened in opened_writers(farm).items():
            with opened as writer:
                observer = Observer(farm.pi.database, farm.server.database)
                waits = _ms(measure(name, commits, writer, observer, lambda: not farm.difference()))
            if theirs:
                yield beside(f"realtime.{name}", "ms", waits, "litestream restore -f at 10 ms", theirs, claim=INCREMENTAL)
            else:
                yield single(f"realtime.{name}", "ms", waits, claim=INCREMENTAL)


def browser(ground: Ground) -> Iterator[Figure]:
    """To the changed cell in Chromium; nothing where there is none."""
    if shutil.which("chromium") is None:
        ground.say("browser: there is no chromium on this machine")
        return
    from scripts.prove_browser import cells  # playwright is slow to import

    with ground.room("browser") as folder:
        whole, told = cells(folder, ground.sizes.browser, rate=10.0)
    yield single("browser.commit to the changed cell", "ms", whole)
    yield single("browser.of it in the page", "ms", told)


def wire(ground: Ground) -> Iterator[Figure]:
    """What a commit of one row with all its old and new values takes: on the socket with TLS and all, beside Litestream's file."""
    commits = max(30, ground.sizes.browser)
    with ground.farm(100) as farm, CuttingProxy(int(str(farm.pi.settings["PI_PORT"]))) as proxy:
        farm.server.settings |= {"REMOTE_PI_PORT": proxy.port, "DB_SYNC_INTERVAL": 60}
        farm.start()
        wait_for(lambda: farm.status()["push"], PATIENCE, "the socket")
        time.sleep(2.5)  # the long poll of before ends
        frame = _frame(farm)
        yield single("wire.its frame", "B", [len(frame)])
        yield single("wire.its frame as gzip, as a pull has it", "B", [len(b"".join(compress("gzip", [frame])))])
        before = proxy.bytes("down")
        _change(farm.pi.database, commits)
        _arrived(farm, int(farm.pi.sql("SELECT max(seq) FROM changelog")))
        ours = [(proxy.bytes("down") - before) / commits]
    program = peer_litestream.find()
    if program is None:
        yield single("wire.one-row commit", "B", ours)
    else:
        with ground.room("litestream") as folder:
            yield beside("wire.one-row commit", "B", ours, "a file of Litestream", [_shipped_bytes(ground, program, folder, commits)])


def syncs(ground: Ground) -> Iterator[Figure]:
    """The document's figures: so many records changed in one transaction on the Pi, until the server's replica has them."""
    with ground.farm(max(ground.sizes.syncs)) as farm:
        farm.pi.start()
        farm.server.start()
        wait_for(lambda: copies(farm) == 1 and farm.status()["push"], PATIENCE, "the first copy and the socket")
        wait_for(lambda: has_indexes(farm.server.database), PATIENCE, "the indexes")
        for count in ground.sizes.syncs:
            times = []
            for n in range(3):
                with closing(connect(farm.pi.database)) as db:
                    newest = head(db) + count
                    db.execute("UPDATE cattle SET weight=? WHERE id<=?", (n + count / 7, count))
                times.append(_arrived(farm, newest) * 1000)
            yield single(f"sync.{count} records", "ms", times, claim=CLAIMS[count], series="sync, ms", axis="records", at=count)


def _frame(farm: Farm) -> bytes:
    """That of one change, made here; the replica has it when this returns."""
    with closing(Primary(farm.pi.database)) as primary:
        start = primary.head()
        _change(farm.pi.database, 1)
        _arrived(farm, start.seq + 1)
        return b"".join(primary.encoded_frame(start)[1])


def _change(path: Path, commits: int) -> None:
    with closing(connect(path)) as db:
        for n in range(commits):
            db.execute(ROW, (300 + n / 7, n % 100 + 1))
            time.sleep(APART)


def _arrived(farm: Farm, newest: int) -> float:
    """Wait until the replica is there; the seconds that took."""
    began = time.perf_counter()
    with closing(connect(farm.server.database, readonly=True)) as db:
        wait_for(lambda: one(db, "SELECT seq FROM changelog_position") == newest, PATIENCE, f"seq {newest}", every=0.001)
    return time.perf_counter() - began


def _shipped_bytes(ground: Ground, program: Path, folder: Path, commits: int) -> float:
    """Bytes of the median file that Litestream writes for the same commit on the same table without our log."""
    database = folder / "farm.db"
    shutil.copy(ground.herd(100).folder / "farm.db", database)
    with closing(connect(database)) as db:
        uninstall(db)
    with peer_litestream.following(program, database, folder / "peer", RIVAL_INTERVAL):
        time.sleep(1)
        known = set(_files(folder))
        _change(database, commits)
        time.sleep(1)
        sizes = sorted(path.stat().st_size for path in set(_files(folder)) - known)
    return sizes[len(sizes) // 2]


def _files(folder: Path) -> list[Path]:
    """Those of single transactions."""
    return [path for path in folder.rglob("*.ltx") if path.parent.name == "0"]


def _ms(seconds: list[float]) -> list[float]:
    return [each * 1000 for each in seconds]
