"""The mirror of a store: always the bytes that a restore gives, wherever an advance was cut off, and whatever became of the store."""

from __future__ import annotations

import io
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from changelog_parts import assert_alike, make_primary, make_replica, run_sql

from changelog.bootstrap import fit_out
from changelog.connection import connect, identity, one
from changelog.errors import DamagedObject, NotFound, PositionMismatch, Unavailable
from changelog.install import install
from changelog.ltx.codec import encode
from changelog.ltx.compact import compact
from changelog.ltx.header import Header
from changelog.ltx.mirror import Mirror
from changelog.ltx.restore import restore
from changelog.ltx.source import BucketSource
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import SNAPSHOTS, Name
from changelog.primary import Primary
from changelog.pull import pull
from changelog.replay import connect_replica, position_of

SCHEMA = "CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT UNIQUE, size)"


class Shipping:
    """A primary, and a store that is given every state of it as the pages that changed."""

    def __init__(self, folder: Path) -> None:
        self.path = make_primary(folder / "farm.db", SCHEMA)
        self.store = FolderStore(folder / "store")
        self._pages: dict[int, bytes] = {}
        self.txid = 0

    def run(self, *statements: str) -> None:
        """Commit, and ship."""
        run_sql(self.path, *statements)
        self.ship()

    def add(self, count: int = 1, size: int = 10) -> None:
        rows = f"WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{count}) SELECT hex(randomblob({size})) FROM n"
        self.run(f"INSERT INTO pens(size) {rows}")

    def ship(self, level: int = 0) -> Name:
        image, size = self._image()
        pages = {number + 1: image[number * size : (number + 1) * size] for number in range(len(image) // size)}
        changed = {number: page for number, page in pages.items() if self._pages.get(number) != page}
        self._pages, self.txid = pages, self.txid + 1
        return self._put(Name(level, self.txid, self.txid), changed, len(pages), size)

    def snapshot(self) -> Name:
        """The last state as a whole."""
        size = len(self._pages[1])
        return self._put(Name(SNAPSHOTS, 1, self.txid), self._pages, len(self._pages), size)

    def short(self) -> None:
        """A file that makes the database five pages longer, and has none of them."""
        self._put(Name(0, self.txid + 1, self.txid + 1), {1: self._pages[1]}, len(self._pages) + 5, len(self._pages[1]))

    def _image(self) -> tuple[bytes, int]:
        with closing(connect(self.path)) as db:
            return db.serialize("main"), db.pragma("page_size")

    def _put(self, name: Name, pages: dict[int, bytes], commit: int, page_size: int) -> Name:
        file = io.BytesIO()
        at = 1_700_000_000_000 + self.txid * 1000
        encode(file, Header(page_size, commit, name.min_txid, name.max_txid, at), sorted(pages.items()))
        assert self.store.put(name, file, at) is None
        return name


@pytest.fixture
def shipping(tmp_path: Path) -> Shipping:
    made = Shipping(tmp_path)
    made.ship()
    return made


@pytest.fixture
def mirror(shipping: Shipping, tmp_path: Path) -> Mirror:
    return Mirror(shipping.store, tmp_path / "bucket" / "mirror.db")


def assert_newest(mirror: Mirror, shipping: Shipping, tmp_path: Path) -> None:
    copy = tmp_path / "restored.db"
    restore(shipping.store, copy, force=True)
    assert mirror.path.read_bytes() == copy.read_bytes()
    assert mirror.holding is not None and mirror.holding.txid == shipping.txid and mirror.holding.whole


def test_it_follows_every_state_and_asks_for_no_more_than_is_new(shipping: Shipping, mirror: Mirror, tmp_path: Path) -> None:
    assert mirror.advance() and not mirror.advance()
    for step in range(12):
        shipping.add(random.Random(step).choice([1, 1, 40]), 300)
        if step == 6:
            shipping.run("DELETE FROM pens WHERE id%2", "VACUUM")
        if step % 3 == 2:
            assert mirror.advance()
            assert_newest(mirror, shipping, tmp_path)
    assert not mirror.advance()


class Killed(BaseException):
    """The process is gone: nothing of ours may catch it."""


class Countdown:
    """Of so many calls the last one does half of its work, or none, and there is no other."""

    def __init__(self, left: int) -> None:
        self.left = left

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                if real is os.pwrite and self.left % 2:
                    fd, page, at = arguments
                    real(fd, page[: len(page) // 2], at)
                raise Killed
            return real(*arguments)

        return call


def test_a_disk_that_takes_a_part_of_each_write_gets_the_rest_of_it_too(
    shipping: Shipping, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk does on which just so much place is left: no real one can be made to do it at each write."""
    mirror.advance()
    shipping.add(60, 200)
    pwrite = os.pwrite
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[: max(1, len(data) // 2)], at))
        assert mirror.advance()
    assert_newest(mirror, shipping, tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_a_kill_between_any_two_writes_is_mended_by_the_next_advance(
    shipping: Shipping, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    shipping.add(60, 200)
    shipping.snapshot()
    mirror.advance()
    for _ in range(3):
        shipping.add(20, 200)
        if chance.random() < 0.4:
            shipping.run("DELETE FROM pens WHERE id%3=0", "VACUUM")
    with monkeypatch.context() as cut:
        countdown = Countdown(chance.randrange(60))
        for name in ("pwrite", "ftruncate", "fsync", "replace"):
            cut.setattr(os, name, countdown.around(getattr(os, name)))
        with suppress(Killed):
            mirror.advance()
    if chance.random() < 0.5:
        shipping.add(5, 200)
    again = Mirror(shipping.store, mirror.path)
    again.advance()
    assert_newest(again, shipping, tmp_path)


def test_a_kill_before_files_that_are_gone_since_is_mended_by_a_restore(
    shipping: Shipping, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipping.add(100, 200)
    mirror.advance()
    shipping.run("UPDATE pens SET size=hex(randomblob(200))")  # pages that are there: the file's size tells nothing
    countdown = Countdown(8)
    with monkeypatch.context() as cut:
        cut.setattr(os, "pwrite", countdown.around(os.pwrite))
        with pytest.raises(Killed):
            mirror.advance()
    shipping.store.delete([Name(0, shipping.txid, shipping.txid)])  # a bucket that lost its newest file
    shipping.txid -= 1
    again = Mirror(shipping.store, mirror.path)
    assert again.advance()
    assert_newest(again, shipping, tmp_path)


def test_what_compaction_took_away_comes_from_the_merged_files(shipping: Shipping, mirror: Mirror, tmp_path: Path) -> None:
    shipping.add(300, 300)
    shipping.snapshot()
    mirror.advance()
    before = identity(mirror.path)
    for _ in range(5):
        shipping.add(3)
    assert compact(shipping.store, 1)
    shipping.add(2)
    shipping.store.delete([file.name for file in shipping.store.list(0)[:-1]])
    assert mirror.advance()
    assert_newest(mirror, shipping, tmp_path)
    assert identity(mirror.path) == before, "it was advanced and not restored"


def test_a_gap_leads_to_a_restore(shipping: Shipping, mirror: Mirror, tmp_path: Path) -> None:
    mirror.advance()
    for _ in range(3):
        shipping.add(3)
    shipping.snapshot()
    shipping.store.delete([file.name for file in shipping.store.list(0)[:-1]])
    assert mirror.advance()
    assert_newest(mirror, shipping, tmp_path)


@pytest.mark.parametrize("compacted", [False, True])
def test_another_database_at_the_same_place_is_never_laid_over_this_one(
    tmp_path: Path, shipping: Shipping, mirror: Mirror, compacted: bool
) -> None:
    for _ in range(3):
        shipping.add()
    mirror.advance()
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "b").mkdir()
    other = Shipping(tmp_path / "b")
    other.store = shipping.store
    for _ in range(6):
        other.ship()
        run_sql(other.path, "INSERT INTO pens(size) VALUES(randomblob(2000))")
    if compacted:
        other.snapshot()
        shipping.store.delete([Name(0, txid, txid) for txid in range(1, shipping.txid + 1)])
    mirror.advance()
    assert_newest(mirror, other, tmp_path)


def test_a_store_that_went_back_is_followed_back_and_the_replica_does_not(shipping: Shipping, mirror: Mirror, tmp_path: Path) -> None:
    shipping.add()
    shipping.add()
    source = BucketSource(mirror)
    source.refresh()
    replica = tmp_path / "replica.db"
    source.copy_to(replica)
    fit_out(replica, None)
    shipping.store.delete([Name(0, shipping.txid, shipping.txid)])
    shipping.txid -= 1
    assert source.refresh()
    assert_newest(mirror, shipping, tmp_path)
    with closing(connect_replica(replica)) as db:
        before = position_of(db)
        assert source.standing(db) == "behind" and source.head().seq < before.seq
        with pytest.raises(PositionMismatch):
            source.replay_onto(db, before)
        assert position_of(db) == before


def test_a_damaged_file_never_touches_the_mirror_and_a_snapshot_leads_past_it(shipping: Shipping, mirror: Mirror, tmp_path: Path) -> None:
    clock = [1000.0]
    mirror = Mirror(shipping.store, mirror.path, lambda: clock[0])
    shipping.add()
    mirror.advance()
    before = mirror.path.read_bytes()
    shipping.add(5, 100)
    path = tmp_path / "store" / "ltx" / "0" / Name(0, shipping.txid, shipping.txid).file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedObject):
        mirror.advance()
    assert mirror.path.read_bytes() == before
    shipping.snapshot()
    clock[0] += 61
    assert mirror.advance()
    assert_newest(mirror, shipping, tmp_path)


def test_a_file_without_the_pages_that_it_adds_is_refused(shipping: Shipping, mirror: Mirror) -> None:
    mirror.advance()
    before, held = mirror.path.read_bytes(), mirror.holding
    shipping.short()
    with pytest.raises(DamagedObject):
        mirror.advance()
    assert mirror.path.read_bytes() == before and mirror.holding is not None and held is not None
    assert mirror.holding.txid == held.txid


def test_an_empty_store_is_not_found_and_nothing_is_made(tmp_path: Path) -> None:
    mirror = Mirror(FolderStore(tmp_path / "nothing"), tmp_path / "m" / "mirror.db")
    with pytest.raises(NotFound):
        mirror.advance()
    assert not mirror.path.exists() and mirror.holding is None


def test_a_mirror_that_was_cut_or_whose_note_is_nonsense_is_restored(shipping: Shipping, mirror: Mirror, tmp_path: Path) -> None:
    mirror.advance()
    note = mirror.path.with_name("mirror.db.at")
    for harm in (lambda: os.truncate(mirror.path, 4096), lambda: note.write_text("{"), lambda: note.write_text("[1]"), note.unlink):
        harm()
        assert mirror.holding is None and mirror.advance()
        assert_newest(mirror, shipping, tmp_path)


def test_a_replica_follows_the_mirror_by_replay_through_schema_changes_and_a_new_epoch(
    shipping: Shipping, mirror: Mirror, tmp_path: Path
) -> None:
    source, replica = BucketSource(mirror), make_replica(shipping.path, tmp_path / "replica.db")
    source.refresh()
    with closing(connect_replica(replica)) as db:
        assert source.standing(db) == "same"
        shipping.add(2000)
        source.refresh()
        assert source.standing(db) == "ahead"
        assert source.replay_onto(db, position_of(db)) == source.head()
        run_sql(shipping.path, "ALTER TABLE pens ADD COLUMN shade")
        shipping.ship()
        source.refresh()
        with pytest.raises(Unavailable):  # the log does not know it yet
            source.standing(db)
        primary = Primary(shipping.path)
        primary.head()
        primary.close()
        shipping.ship()
        source.refresh()
        source.replay_onto(db, position_of(db))
        assert one(db, "SELECT count(shade) FROM pens") == 0
        with closing(connect(shipping.path)) as renewed:
            install(renewed)
        shipping.ship()
        source.refresh()
        assert source.standing(db) == "anew"
    pulled = pull(source, replica)
    assert pulled.after == source.head() and "new epoch" in pulled.reason
    assert_alike(shipping.path, replica)


def test_histories_that_parted_are_told_apart(tmp_path: Path, shipping: Shipping, mirror: Mirror) -> None:
    shipping.add()
    early = tmp_path / "early.db"
    shutil.copy(shipping.path, early)
    shipping.add()
    replica = make_replica(shipping.path, tmp_path / "replica.db")
    time.sleep(0.01)
    shutil.copy(early, shipping.path)
    shipping.add(3)
    source = BucketSource(mirror)
    source.refresh()
    with closing(connect_replica(replica)) as db:
        assert source.standing(db) == "rewound"
        db.execute("UPDATE changelog SET at='2999' WHERE seq=(SELECT max(seq) FROM changelog)")
        assert source.standing(db) == "forked"
    strangers = make_replica(make_primary(tmp_path / "other.db", SCHEMA), tmp_path / "strange.db")
    with closing(connect_replica(strangers)) as db:
        assert source.standing(db) == "stranger"
