"""Acknowledgements: the newest of each replica, seldom written, forgotten on demand, and a file of an earlier version goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from changelog import acks as acks_module
from changelog.acks import Ack, Acks, read_acks
from changelog.connection import connect, rows
from changelog.errors import NotFound
from changelog.position import Position

EPOCH, OTHER = "a" * 32, "b" * 32


def at(seq: int, epoch: str = EPOCH) -> Position:
    return Position(epoch, seq, seq * 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pi.db"


@pytest.fixture
def acks(path: Path) -> Iterator[Acks]:
    with closing(Acks(path)) as made:
        yield made


def seqs(acks: Acks) -> dict[str, int]:
    return {ack.replica_id: ack.seq for ack in acks.all()}


def filed(path: Path) -> dict[str, int]:
    return {ack.replica_id: ack.seq for ack in read_acks(path)}


def test_the_newest_counts_at_once_and_is_written_at_most_once_a_minute(path: Path, acks: Acks, monkeypatch: pytest.MonkeyPatch) -> None:
    for seq in (5, 6, 7):
        acks.acknowledge("r1", "office", at(seq))
    assert seqs(acks) == {"r1": 7} and filed(path) == {"r1": 5}
    monkeypatch.setattr(acks_module, "WRITE_EVERY", 0.0)
    acks.acknowledge("r1", "office", at(8))
    assert filed(path) == {"r1": 8}
    [ack] = read_acks(path)
    assert (ack.key_name, ack.epoch, ack.nonce) == ("office", EPOCH, 80)


def test_what_was_in_memory_is_written_at_the_end_and_read_at_the_start(path: Path) -> None:
    with closing(Acks(path)) as acks:
        acks.acknowledge("r1", "office", at(5))
        acks.acknowledge("r1", "office", at(9))
    with closing(Acks(path)) as acks:
        assert seqs(acks) == {"r1": 9}


def test_a_replica_may_go_back_for_it_knows_best_what_it_has(acks: Acks) -> None:
    for seq in (9, 4):
        acks.acknowledge("r1", "office", at(seq))
    assert seqs(acks) == {"r1": 4}


@pytest.mark.parametrize(("known", "becomes"), [(at(3), 7), (at(7), 7), (at(9), 9), (at(9, OTHER), 7), (None, 7)])
def test_a_snapshot_counts_as_acknowledged_unless_the_replica_is_further(
    path: Path, acks: Acks, known: Position | None, becomes: int
) -> None:
    if known:
        acks.acknowledge("r1", "office", known)
    acks.handed_out("r1", "office", at(7))
    assert seqs(acks) == {"r1": becomes} == filed(path)


def test_a_replica_that_another_process_forgets_is_forgotten_until_it_asks_again(path: Path, acks: Acks) -> None:
    acks.acknowledge("r1", "office", at(5))
    acks.acknowledge("r2", "office", at(6))
    with closing(Acks(path)) as command:
        command.forget("r1")
        with pytest.raises(NotFound, match="r1"):
            command.forget("r1")
    assert seqs(acks) == {"r2": 6}
    acks.acknowledge("r1", "office", at(7))
    assert seqs(acks) == {"r1": 7, "r2": 6} and filed(path)["r1"] == 7


def test_forgetting_holds_though_the_process_that_serves_ends_afterwards(path: Path) -> None:
    with closing(Acks(path)) as serving, closing(Acks(path)) as command:
        serving.acknowledge("r1", "office", at(5))
        serving.acknowledge("r1", "office", at(6))
        assert command.forget_key("office") == 1
    assert filed(path) == {}


def test_all_replicas_of_a_key_are_forgotten_together(acks: Acks) -> None:
    for name, key in (("r1", "office"), ("r2", "lab"), ("r3", "office")):
        acks.acknowledge(name, key, at(5))
    assert acks.forget_key("office") == 2
    assert seqs(acks) == {"r2": 5}


def test_a_file_of_an_earlier_version_gets_the_column_and_keeps_its_rows(path: Path) -> None:
    with closing(connect(path, create=True)) as db:
        db.execute("CREATE TABLE acks(replica_id TEXT PRIMARY KEY, key_name TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER, at TEXT)")
        db.execute("INSERT INTO acks VALUES('old', 'office', ?, 5, '2026-01-01T00:00:00')", (EPOCH,))
    expected = [Ack("old", "office", EPOCH, 5, "2026-01-01T00:00:00", None)]
    assert read_acks(path) == expected, "also for a reader that may not change the file"
    with closing(Acks(path)) as acks, closing(Acks(path)) as again:
        assert acks.all() == again.all() == expected
        acks.acknowledge("old", "office", at(6))
    assert [ack.nonce for ack in read_acks(path)] == [60]


def test_a_locked_file_fails_no_request_and_loses_nothing(path: Path, acks: Acks, monkeypatch: pytest.MonkeyPatch) -> None:
    acks.acknowledge("r1", "office", at(5))
    monkeypatch.setattr(acks_module, "WRITE_EVERY", 0.0)
    with closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        acks.acknowledge("r1", "office", at(6))
        acks.acknowledge("new", "office", at(3))
        assert seqs(acks) == {"new": 3, "r1": 6}
        other.execute("ROLLBACK")
    acks.close()
    assert filed(path) == {"new": 3, "r1": 6}


def test_made_up_ids_are_bounded_and_push_out_the_longest_silent(path: Path, acks: Acks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acks_module, "MAX_REPLICAS", 5)
    for number in range(20):
        monkeypatch.setattr(acks_module, "_now", lambda number=number: f"2026-01-01T00:00:{number:02d}")
        acks.acknowledge(f"r{number}", "office", at(5))
        acks.acknowledge("the one that is heard", "office", at(5 + number))
    assert len(acks.all()) == 5 == len(filed(path))
    assert seqs(acks)["the one that is heard"] == 24


def test_reading_a_file_without_acknowledgements_finds_none_and_leaves_it_alone(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE other(a)")
    db.close()
    assert read_acks(path) == []
    with closing(connect(path, readonly=True)) as db:
        assert rows(db, "SELECT name FROM sqlite_schema") == [("other",)]
