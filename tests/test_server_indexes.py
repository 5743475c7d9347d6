"""The indexes for pages: the rows of a first copy can be read before they are there, and replay goes on between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from farm_processes import Farm, eventually
from lying_pi import Barn

from changelog.connection import connect, one, remove_database, rows
from server.indexes import LOCAL_INDEXES
from server.replica import Replica
from server.replica_file import ReplicaFile

ALL = len(LOCAL_INDEXES)
COUNT = "SELECT count(*) FROM sqlite_schema WHERE type='index' AND name GLOB 'changelog_local_*'"
GUARDS = "SELECT name FROM sqlite_schema WHERE type='trigger' AND name GLOB '_changelog_guard_*' ORDER BY 1"
ONE_A_TURN = 1e-9  # s


@pytest.fixture
def barn(tmp_path: Path) -> Iterator[Barn]:
    """Its office is following, and makes one index a turn."""
    made = Barn(tmp_path)
    made.office.sync.follower.file.index_time = ONE_A_TURN
    yield made
    made.close()


def made_in(path: Path) -> int:
    with closing(connect(path, readonly=True)) as db:
        return int(one(db, COUNT))


def without_copy(barn: Barn) -> None:
    """The office has no replica any more, and fetches one in its next turn."""
    barn.office.sync.follower.file.close()
    remove_database(barn.replica)


def test_a_first_copy_is_read_at_once_and_each_turn_makes_an_index_and_brings_what_is_new(barn: Barn) -> None:
    guards = rows(barn.office.sync.follower.file.db, GUARDS)
    without_copy(barn)
    barn.pi.write("UPDATE pens SET capacity=7 WHERE pen_number='P1'")
    counts = []
    while not counts or barn.office.sync.follower.file.lacks_indexes:
        assert barn.office.sync.step() and barn.serves()
        counts.append(made_in(barn.replica))
        head = barn.pi.primary.head()
        assert barn.office.replica.position() == (head.epoch, head.seq), "no index keeps the rows waiting"
        assert rows(barn.office.sync.follower.file.db, GUARDS) == guards
        barn.pi.write(f"UPDATE pens SET capacity={len(counts)} WHERE pen_number='P2'")
    assert counts == list(range(1, ALL + 1))
    assert one(barn.office.sync.follower.file.db, "PRAGMA integrity_check") == "ok"


def test_what_a_kill_left_out_is_made_after_the_next_start(barn: Barn) -> None:
    without_copy(barn)
    for _ in range(3):
        assert barn.office.sync.step()
    barn.office.sync.follower.file.close()  # what a process that is killed does not even do
    assert made_in(barn.replica) == 3
    again = ReplicaFile(Replica(barn.replica), lambda position: None)
    again.index_time = ONE_A_TURN
    assert again.doubt() is None and again.lacks_indexes and made_in(barn.replica) == 3
    for number in range(4, ALL + 1):
        again.index_for_pages()
        assert made_in(barn.replica) == number
    assert not again.lacks_indexes
    again.close()


def test_what_takes_the_place_of_rows_that_are_read_has_all_indexes_before(barn: Barn) -> None:
    barn.office.sync.request_resync("a test")
    assert barn.office.sync.step()
    assert made_in(barn.replica) == ALL


def test_where_nobody_waits_for_the_rows_all_are_made_before_the_copy_is_in_place(barn: Barn) -> None:
    """As a command does, which ends with the copy."""
    file = barn.office.sync.follower.file
    file.index_time = float("inf")
    without_copy(barn)
    barn.office.sync.follower.step()
    assert made_in(barn.replica) == ALL and not file.lacks_indexes


def test_a_schema_that_took_indexes_away_gets_them_back_turn_by_turn(barn: Barn) -> None:
    db = barn.office.sync.follower.file.db
    for name in ("changelog_local_cattle_by_weight", "changelog_local_cattle_of_pen"):
        db.execute(f"DROP INDEX {name}")
    barn.pi.write("UPDATE pens SET capacity=9 WHERE pen_number='P1'")
    assert barn.office.sync.step()  # one with the rows, one behind them
    assert made_in(barn.replica) == ALL and not barn.office.sync.follower.file.lacks_indexes


def test_a_server_that_runs_makes_them_without_waiting_for_anything_new(farm: Farm) -> None:
    farm.server.settings["DB_SYNC_INTERVAL"] = 3600
    farm.fill(300)
    farm.start()
    eventually(lambda: int(farm.server.sql(COUNT)) == ALL)
    assert farm.server.sql("PRAGMA integrity_check") == "ok"
    farm.assert_identical()
