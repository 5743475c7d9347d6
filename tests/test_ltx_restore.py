"""Restoring from a folder: which files, what comes out, and that damage is refused by name."""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from ltx_parts import BETWEEN, START, differing, shipped

from changelog.connection import connect
from changelog.errors import BadRequest, Conflict, DamagedFile, DamagedObject, NotFound, Unavailable
from changelog.ltx.check import verify
from changelog.ltx.codec import encode
from changelog.ltx.compact import compact, snapshot
from changelog.ltx.header import Header
from changelog.ltx.plan import choose, plan
from changelog.ltx.restore import restore
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Name, Stored
from scripts.prove_ltx import Damage, outcome


def levels(*names: tuple[int, int, int]) -> dict[int, list[Stored]]:
    """Lists as a store gives them; a file's time is its last transaction."""
    files = [Stored(Name(*name), 100, name[2]) for name in names]
    return {level: sorted(file for file in files if file.name.level == level) for level in range(10)}


def chosen(*names: tuple[int, int, int], txid: int | None = None, before: int | None = None) -> list[tuple[int, int, int]]:
    found = [file.name for file in choose(levels(*names), txid, before)]
    return [(name.level, name.min_txid, name.max_txid) for name in found]


def test_the_plan_is_that_of_litestream() -> None:
    assert chosen((9, 1, 3)) == [(9, 1, 3)]
    assert chosen((0, 1, 1), (0, 2, 2)) == [(0, 1, 1), (0, 2, 2)]
    assert chosen((1, 1, 3)) == [(1, 1, 3)]
    assert chosen((9, 1, 3), (0, 4, 6)) == [(9, 1, 3), (0, 4, 6)]
    assert chosen((9, 1, 3), (0, 2, 4)) == [(9, 1, 3), (0, 2, 4)]
    assert chosen((9, 1, 3), (9, 1, 8), (0, 4, 4), (0, 9, 9)) == [(9, 1, 8), (0, 9, 9)]


def test_the_file_that_reaches_furthest_goes_on_then_the_one_that_begins_first_then_the_higher_level() -> None:
    below = [(0, txid, txid) for txid in range(4, 9)]
    assert chosen((9, 1, 3), *below, (1, 4, 6), (2, 4, 8)) == [(9, 1, 3), (2, 4, 8)]
    assert chosen((9, 1, 3), *below, (1, 4, 8), (2, 3, 8)) == [(9, 1, 3), (2, 3, 8)]
    assert chosen((9, 1, 3), *below, (1, 4, 8), (3, 4, 8)) == [(9, 1, 3), (3, 4, 8)]


def test_a_transaction_must_end_a_file() -> None:
    files = [(9, 1, 3), (1, 4, 6), (0, 6, 6), (0, 7, 7)]
    assert chosen(*files, txid=6) == [(9, 1, 3), (1, 4, 6)]
    assert chosen(*files, txid=3) == [(9, 1, 3)]
    with pytest.raises(NotFound, match="right after transaction 0000000000000005; the last one before it is 0000000000000003"):
        chosen(*files, txid=5)
    with pytest.raises(NotFound, match="right after transaction 0000000000000008"):
        chosen(*files, txid=8)
    with pytest.raises(NotFound, match="right after transaction 0000000000000002"):
        chosen(*files, txid=2)


def test_a_time_takes_what_is_strictly_before_it() -> None:
    files = [(9, 1, 3), (0, 4, 4), (0, 5, 5)]
    assert chosen(*files, before=5) == [(9, 1, 3), (0, 4, 4)]
    assert chosen(*files, before=6)[-1] == (0, 5, 5)
    with pytest.raises(NotFound, match="no state so early"):
        chosen(*files, before=3)


def test_a_hole_is_named_and_an_end_before_it_may_be_restored() -> None:
    files = [(9, 1, 3), (0, 5, 5), (0, 6, 6)]
    gap = r"0/0000000000000005-0000000000000005\.ltx does not go on from transaction 0000000000000003"
    for asked in ({}, {"txid": 6}, {"before": 7}):
        with pytest.raises(DamagedObject, match=gap):
            chosen(*files, **asked)
    assert chosen(*files, txid=3) == [(9, 1, 3)]
    with pytest.raises(NotFound, match="nothing of what was before is there"):
        chosen((0, 5, 5))


@pytest.mark.parametrize("wrong", [(0, 5, 4), (0, 0, 5), (0, 0, 0)])
def test_a_name_that_means_no_transactions_is_refused_for_the_newest_state(wrong: tuple[int, int, int]) -> None:
    files = [(9, 1, 3), (0, 4, 4), wrong]
    with pytest.raises(DamagedObject, match="means no transactions"):
        chosen(*files)
    assert chosen(*files, txid=4) == [(9, 1, 3), (0, 4, 4)]


def test_a_file_with_such_a_name_is_seen(tmp_path: Path) -> None:
    store, _ = shipped(tmp_path / "b", 3)
    level = tmp_path / "b" / "ltx" / "0"
    (level / Name(0, 3, 3).file).rename(level / Name(0, 0, 3).file)
    assert Name(0, 0, 3) in [file.name for file in store.list(0)]
    with pytest.raises(DamagedObject, match=Name(0, 0, 3).file):
        restore(store, tmp_path / "out.db")
    assert str(Name(0, 0, 3)) in dict(verify(store).faults)


def test_a_clock_that_stepped_back_makes_no_hole() -> None:
    found = levels((9, 1, 3), (0, 4, 4), (0, 5, 5))
    found[0] = [Stored(found[0][0].name, 100, 50), found[0][1]]
    assert [file.name.max_txid for file in choose(found, None, 20)] == [3]


def test_every_state_comes_back(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 30)
    for txid, image in enumerate(images, 1):
        target = tmp_path / "out.db"
        done = restore(store, target, txid, force=True)
        assert target.read_bytes() == image
        assert (done.txid, done.size, done.timestamp_ms, done.page_size) == (txid, len(image), START + txid * BETWEEN, 4096)
    assert restore(store, target, force=True, check=True).txid == 30
    assert target.read_bytes() == images[-1]


def test_a_time_brings_back_the_last_state_before_it(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 9)
    for txid, late in ((3, 1), (3, BETWEEN), (8, BETWEEN // 2)):
        restore(store, tmp_path / "out.db", timestamp_ms=START + txid * BETWEEN + late, force=True)
        assert (tmp_path / "out.db").read_bytes() == images[txid - 1]
    for outside in (START + BETWEEN - 1, START + 9 * BETWEEN + 1):
        with pytest.raises(NotFound, match=r"reaches from 2026-.* to 2026-"):
            restore(store, tmp_path / "other.db", timestamp_ms=outside)
    with pytest.raises(BadRequest, match="not both"):
        plan(store, 3, START)


def test_a_file_that_is_there_is_not_touched_without_force(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 3)
    target = tmp_path / "out.db"
    for there in (target, Path(f"{target}-wal"), Path(f"{target}-shm")):
        there.write_bytes(b"mine")
        with pytest.raises(Conflict, match=f"{there.name} is there"):
            restore(store, target)
        assert there.read_bytes() == b"mine"
        there.unlink()
    restore(store, target)
    assert target.read_bytes() == images[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "out.db"]


def test_a_forced_restore_is_not_spoilt_by_the_journal_of_the_old_file(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 3)
    target = tmp_path / "out.db"
    other = connect(target, create=True)
    other.execute("CREATE TABLE other(x); INSERT INTO other VALUES(1)")
    kept = {suffix: Path(f"{target}{suffix}").read_bytes() for suffix in ("-wal", "-shm")}
    other.close()
    for suffix, content in kept.items():  # as a killed program leaves them
        Path(f"{target}{suffix}").write_bytes(content)
    restore(store, target, force=True)
    assert target.read_bytes() == images[-1]
    db = connect(target)
    assert db.execute("SELECT name FROM sqlite_schema WHERE name='other'").fetchone() is None
    db.close()


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    store, _ = shipped(tmp_path / "b", 3)
    target = tmp_path / "out.db"

    def somebody(done: int, total: int) -> None:
        target.write_bytes(b"theirs")

    with pytest.raises(Conflict, match="made by somebody else"):
        restore(store, target, progress=somebody)
    assert target.read_bytes() == b"theirs"
    assert not list(tmp_path.glob("*.restoring"))


def test_two_restores_of_one_file_do_not_meet(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 3)
    target, refused = tmp_path / "out.db", []

    def second(done: int, total: int) -> None:
        with pytest.raises(Conflict, match="another restore"):
            restore(store, target)
        refused.append(done)

    restore(store, target, progress=second)
    assert refused and target.read_bytes() == images[-1]


def test_what_a_killed_restore_left_does_not_stop_the_next_one(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 3)
    (tmp_path / "out.db.restoring").write_bytes(b"half" * 100_000)
    restore(store, tmp_path / "out.db")
    assert (tmp_path / "out.db").read_bytes() == images[-1]


def test_progress_reaches_the_end_and_never_goes_back(tmp_path: Path) -> None:
    store, _ = shipped(tmp_path / "b", 12, seed=3)
    seen: list[tuple[int, int]] = []
    restore(store, tmp_path / "out.db", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]


def test_an_empty_place_has_no_backup(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="holds no backup"):
        restore(FolderStore(tmp_path / "nothing"), tmp_path / "out.db")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    store, _ = shipped(tmp_path / "b", 3)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((Conflict, Unavailable)):
        restore(store, tmp_path / "file" / "out.db")


def put(store: FolderStore, txid: int, commit: int, pages: list[tuple[int, bytes]], page_size: int = 512) -> Name:
    """A file of one transaction."""
    name, file = Name(0, txid, txid), io.BytesIO()
    encode(file, Header(page_size, commit, txid, txid, START + txid), pages)
    store.put(name, file, START + txid)
    return name


def page(letter: str) -> bytes:
    return letter.encode() * 512


def test_what_was_cut_off_does_not_come_back(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "b")
    put(store, 1, 4, [(n, page("a")) for n in (1, 2, 3, 4)])
    put(store, 2, 2, [(1, page("b"))])
    put(store, 3, 4, [(3, page("c")), (4, page("c"))])
    restore(store, tmp_path / "whole.db")
    assert (tmp_path / "whole.db").read_bytes() == b"".join(map(page, "bacc"))
    compact(store, 1)
    assert restore(store, tmp_path / "merged.db").files == 1
    assert (tmp_path / "merged.db").read_bytes() == b"".join(map(page, "bacc"))
    put(store, 4, 6, [(6, page("d"))])
    with pytest.raises(DamagedObject, match=r"0000000000000004\.ltx.* is damaged: no file has page 5"):
        restore(store, tmp_path / "hole.db")
    assert not (tmp_path / "hole.db").exists()
    assert [(name, "new in it are missing" in fault) for name, fault in verify(store).faults] == [(str(Name(0, 4, 4)), True)]


def test_a_page_that_grew_back_must_be_in_the_file_by_which_it_did(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "b")
    put(store, 1, 4, [(n, page("a")) for n in (1, 2, 3, 4)])
    put(store, 2, 2, [(1, page("b"))])
    put(store, 3, 4, [(4, page("c"))])
    with pytest.raises(DamagedObject, match="no file has page 3"):
        restore(store, tmp_path / "out.db")
    with pytest.raises(DamagedObject, match="snapshot without page 3"):
        snapshot(store)


def test_other_page_sizes_in_one_chain_are_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "b")
    put(store, 1, 1, [(1, page("a"))])
    put(store, 2, 1, [(1, bytes(1024))], 1024)
    with pytest.raises(DamagedObject, match="its pages have 512 bytes"):
        restore(store, tmp_path / "out.db")
    assert any("different page sizes" in fault for _, fault in verify(store).faults)


def test_a_file_that_speaks_of_more_pages_than_there_can_be_takes_neither_memory_nor_disk(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "b")
    put(store, 1, 1, [(1, page("a"))])
    put(store, 2, 2**32 - 1, [(1, page("b")), (2**32 - 1, page("b"))])
    with pytest.raises(DamagedObject, match="more than all files can hold"):
        restore(store, tmp_path / "out.db")


def test_a_database_that_sqlite_finds_damaged_does_not_become_the_target(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 5)
    damaged = bytearray(images[-1])
    damaged[4096:8192] = random.Random(0).randbytes(4096)
    file = io.BytesIO()
    encode(file, Header(4096, len(damaged) // 4096, 6, 6, START + 6 * BETWEEN), differing(bytes(damaged), images[-1], 4096))
    store.put(Name(0, 6, 6), file, START + 6 * BETWEEN)
    with pytest.raises(DamagedFile, match="SQLite finds their database damaged"):
        restore(store, tmp_path / "out.db", check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    found = verify(store, tmp_path, scratch=True)
    assert [name for name, _ in found.faults] == ["restore"] and not found.restored
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_files_that_compaction_takes_away_meanwhile_are_found_elsewhere(tmp_path: Path) -> None:
    class Racing(FolderStore):
        """Compacts while its reader has a plan and no files yet."""

        asked = 0

        def open(self, name: Name, spool: int = 0, folder: Path | None = None) -> BinaryIO:
            """A file, or NotFound once."""
            self.asked += 1
            if self.asked == 1:
                plain = FolderStore(tmp_path / "b")
                compact(plain, 1)
                plain.delete(file.name for file in plain.list(0)[:-1])
            return super().open(name, spool, folder)

    _, images = shipped(tmp_path / "b", 8)
    assert restore(Racing(tmp_path / "b"), tmp_path / "out.db").files == 1
    assert (tmp_path / "out.db").read_bytes() == images[-1]


def test_verify_finds_a_sound_folder_sound(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 9)
    compact(store, 1)
    snapshot(store)
    found = verify(store, tmp_path, scratch=True)
    assert (found.faults, found.notes, found.restored) == ([], [], True)
    assert (found.files, found.txid, found.timestamp_ms) == (11, 9, START + 9 * BETWEEN)
    assert len(images) == 9


WRONG: dict[str, Callable[[Path], object]] = {
    "a gap between it and": lambda folder: (folder / Name(0, 4, 4).file).unlink(),
    "transactions twice": lambda folder: shutil.copy2(folder / Name(0, 5, 5).file, folder / Name(0, 4, 5).file),
    "which its name does not say": lambda folder: (folder / Name(0, 9, 9).file).rename(folder / Name(0, 9, 10).file),
    "its checksum is not that of its content": lambda folder: flip(folder / Name(0, 6, 6).file),
    "breaks off": lambda folder: os.truncate(folder / Name(0, 2, 2).file, 150),
}


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:35] + bytes([data[35] ^ 1]) + data[36:])


@pytest.mark.parametrize("fault", WRONG)
def test_verify_names_what_is_wrong(tmp_path: Path, fault: str) -> None:
    store, _ = shipped(tmp_path / "b", 9)
    WRONG[fault](tmp_path / "b" / "ltx" / "0")
    assert any(fault in text for _, text in verify(store).faults)


def test_verify_notes_a_time_that_is_not_the_one_in_the_file(tmp_path: Path) -> None:
    store, _ = shipped(tmp_path / "b", 3)
    os.utime(tmp_path / "b" / "ltx" / "0" / Name(0, 2, 2).file, (1_700_000_000, 1_700_000_000))
    found = verify(store)
    assert found.faults == [] and [name for name, _ in found.notes] == [str(Name(0, 2, 2))]


def test_five_hundred_kinds_of_damage_are_refused_by_name_and_never_give_a_wrong_database(tmp_path: Path) -> None:
    found = outcome(Damage(tmp_path, seed=1), 500)
    assert found.refused + found.harmless == 500 and found.wrong == []
    assert found.harmless <= 5  # other LZ4 bytes for the same page: the checksum is one of the pages
