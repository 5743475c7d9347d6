"""Compaction and retention: what is merged gives the same database, and only what is nowhere needed goes."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from ltx_parts import BETWEEN, START, past, ship, shipped

from changelog.errors import Conflict, DamagedObject, NotFound
from changelog.ltx.check import verify
from changelog.ltx.codec import decode
from changelog.ltx.compact import MOST_INPUTS, Compactor, compact, retain_shipped, retain_snapshots, snapshot
from changelog.ltx.restore import restore
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Name

S = START / 1000  # s: the time of the file before the first


def names(store: FolderStore, level: int) -> list[tuple[int, int]]:
    return [(file.name.min_txid, file.name.max_txid) for file in store.list(level)]


def hide(store: FolderStore, txid: int) -> None:
    """Take away what was shipped after a transaction."""
    store.delete(file.name for file in store.list(0, txid))


def copy_up_to(store: FolderStore, folder: Path, txid: int) -> FolderStore:
    """A copy of what was shipped up to a transaction."""
    early = FolderStore(folder)
    for file in store.list(0):
        if file.name.max_txid <= txid:
            with store.open(file.name) as content:
                early.put(file.name, content, file.modified_ms)
    return early


def test_merged_files_give_the_same_database(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 25, seed=4)
    assert compact(store, 1) == [Name(1, 1, 25)]
    store.delete(file.name for file in store.list(0))
    restore(store, tmp_path / "out.db")
    assert (tmp_path / "out.db").read_bytes() == images[-1]
    with store.open(Name(1, 1, 25)) as file:
        header = decode(file).header
    assert (header.timestamp_ms, header.wal_offset, header.wal_salt1) == (START + 25 * BETWEEN, 0, 0)
    assert store.timestamp(Name(1, 1, 25)) == START + 25 * BETWEEN


def test_a_level_takes_only_what_it_has_not(tmp_path: Path) -> None:
    whole, images = shipped(tmp_path / "whole", 9)
    store = FolderStore(tmp_path / "b")
    for txid in range(1, 10):
        with whole.open(Name(0, txid, txid)) as file:
            store.put(Name(0, txid, txid), file, START + txid)
        if txid in (3, 4, 9):
            compact(store, 1)
            assert compact(store, 1) == []
    assert names(store, 1) == [(1, 3), (4, 4), (5, 9)]
    assert compact(store, 2) == [Name(2, 1, 9)]
    restore(store, tmp_path / "out.db")
    assert (tmp_path / "out.db").read_bytes() == images[-1]
    assert compact(FolderStore(tmp_path / "nothing"), 1) == []


def test_very_many_files_are_merged_a_hundred_at_a_time(tmp_path: Path) -> None:
    count = 2 * MOST_INPUTS + 5
    store, images = shipped(tmp_path / "b", count, page_size=512)
    assert snapshot(store, tmp_path) == Name(9, 1, count)
    assert compact(store, 1) == [Name(1, 1, 100), Name(1, 101, 200), Name(1, 201, 205)]
    store.delete(file.name for file in store.list(0))
    restore(store, tmp_path / "merged.db", count - 5)
    assert (tmp_path / "merged.db").read_bytes() == images[-6]
    restore(store, tmp_path / "out.db")
    assert (tmp_path / "out.db").read_bytes() == images[-1]
    assert verify(store).faults == []


def test_a_whole_database_is_made_of_the_files_that_are_there(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 12)
    assert snapshot(store) == Name(9, 1, 12)
    assert snapshot(store) is None
    assert snapshot(FolderStore(tmp_path / "nothing")) is None
    store.delete(file.name for file in store.list(0))
    restore(store, tmp_path / "out.db")
    assert (tmp_path / "out.db").read_bytes() == images[-1]


def test_damage_is_not_merged(tmp_path: Path) -> None:
    store, _ = shipped(tmp_path / "b", 5)
    path = tmp_path / "b" / "ltx" / "0" / Name(0, 3, 3).file
    data = bytearray(path.read_bytes())
    data[-20] ^= 4
    path.write_bytes(data)
    for merge in (lambda: compact(store, 1), lambda: snapshot(store)):
        with pytest.raises(DamagedObject, match=Name(0, 3, 3).file):
            merge()
    path.unlink()
    with pytest.raises(DamagedObject, match="does not go on from transaction 0000000000000002"):
        compact(store, 1)
    assert store.list(1) == store.list(9) == []


@pytest.mark.parametrize("missing", [True, False])
def test_what_is_lost_before_a_whole_database_stops_nothing(tmp_path: Path, missing: bool) -> None:
    store, images = shipped(tmp_path / "b", 9, seed=4)
    whole = snapshot(copy_up_to(store, tmp_path / "early", 6))
    path = tmp_path / "b" / "ltx" / "0" / Name(0, 3, 3).file
    if missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
        os.utime(path, (S, S))
    with pytest.raises(DamagedObject, match=Name(0, 3, 3).file if not missing else Name(0, 4, 4).file):
        compact(store, 1)
    assert whole is not None
    with FolderStore(tmp_path / "early").open(whole) as file:
        store.put(whole, file, START)
    assert compact(store, 1) == [Name(1, 7, 9)]
    assert compact(store, 1) == []
    retain_shipped(store, S + 10**6)
    assert names(store, 0) == [(9, 9)]
    restore(store, tmp_path / "out.db")
    assert (tmp_path / "out.db").read_bytes() == images[-1]


def test_two_programs_that_merge_differently_are_noticed(tmp_path: Path) -> None:
    store, _ = shipped(tmp_path / "b", 3)

    class Late(FolderStore):
        """Does not see yet what the other has made."""

        def list(self, level: int, after_txid: int = -1) -> list:
            """Nothing on level 1."""
            return [] if level == 1 else super().list(level, after_txid)

    compact(store, 1)
    assert compact(Late(tmp_path / "b"), 1) == [Name(1, 1, 3)]
    store.put(Name(1, 1, 3), io.BytesIO(b"other"), START, if_absent=False)
    with pytest.raises(Conflict, match="two programs"):
        compact(Late(tmp_path / "b"), 1)


def test_shipped_files_go_when_they_are_merged_and_old_and_never_the_newest(tmp_path: Path) -> None:
    store, _ = shipped(tmp_path / "b", 8)
    assert retain_shipped(store, S + 9999) == []
    hidden = {txid: (tmp_path / "b/ltx/0" / Name(0, txid, txid).file) for txid in (7, 8)}
    kept = {path: path.read_bytes() for path in hidden.values()}
    hide(store, 6)
    compact(store, 1)
    assert retain_shipped(store, S + 300) == []
    assert retain_shipped(store, S + 302.5) == [Name(0, 1, 1), Name(0, 2, 2)]
    assert retain_shipped(store, S + 9999) == [Name(0, txid, txid) for txid in (3, 4, 5)]
    for path, content in kept.items():
        path.write_bytes(content)
    assert names(store, 0) == [(6, 6), (7, 7), (8, 8)]


def test_old_whole_databases_go_with_what_led_to_them(tmp_path: Path) -> None:
    store, images = shipped(tmp_path / "b", 9)
    kept = {file.name: (tmp_path / "b/ltx/0" / file.name.file).read_bytes() for file in store.list(0)}
    for upto in (3, 6, 9):
        hide(store, 0)
        for name, content in kept.items():
            if name.max_txid <= upto:
                store.put(name, io.BytesIO(content), START + name.max_txid * BETWEEN)
        compact(store, 1)
        snapshot(store)
    assert names(store, 9) == [(1, 3), (1, 6), (1, 9)]
    assert retain_snapshots(store, S + 86_400) == []
    gone = retain_snapshots(store, S + 86_405)
    assert gone == [Name(9, 1, 3), Name(1, 1, 3)]
    restore(store, tmp_path / "out.db", 6)
    assert (tmp_path / "out.db").read_bytes() == images[5]
    assert retain_snapshots(store, S + 10 * 86_400) == [Name(9, 1, 6)]
    assert names(store, 9) == [(1, 9)] and names(store, 1)[-1] == (7, 9)


def test_days_of_steps_keep_every_promise(tmp_path: Path) -> None:
    """Files every 20 s, then every quarter of an hour, then four a day: at any time the store is sound, and in the end small."""
    pauses = [20] * 100 + [900] * 40 + [21_600] * 20
    images = past(len(pauses), page_size=512)
    store, now, made = FolderStore(tmp_path / "b"), S, []
    compactor = Compactor(store, tmp_path, clock=lambda: now)
    for txid, pause in enumerate(pauses, 1):
        now += pause
        ship(store, [images[txid - 1]], 512, before=images[txid - 2] if txid > 1 else b"", first=txid, at=int(now * 1000))
        made += compactor.step()
        if txid % 9 == 0 or txid == len(pauses):
            restore(store, tmp_path / "out.db", force=True)
            assert (tmp_path / "out.db").read_bytes() == images[txid - 1]
            assert verify(store).faults == []
            assert len(store.list(0)) < 20
    levels = [name.level for name in made]
    assert levels.count(9) >= 5 and levels.count(1) > levels.count(2) > levels.count(3) > 10
    assert sum(len(store.list(level)) for level in range(10)) < 50
    with pytest.raises(NotFound):
        restore(store, tmp_path / "early.db", 2)


def test_a_new_process_knows_from_the_store_what_is_due(tmp_path: Path) -> None:
    store, _ = shipped(tmp_path / "b", 9)
    now = S + 9 + 1
    assert Compactor(store, clock=lambda: now).step() == [Name(1, 1, 9), Name(2, 1, 9), Name(3, 1, 9), Name(9, 1, 9)]
    assert Compactor(store, clock=lambda: now).step() == []
