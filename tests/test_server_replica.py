"""Pages read the replica while replay writes it, and while its file is replaced, removed or damaged."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import apsw
import pytest
from office_farm import add_batches, make_replica

import server.replica
from changelog.connection import connect, one
from changelog.errors import Unavailable
from server.replica import BROKEN, NEVER_FETCHED, Replica

BATCHES = "SELECT count(*) FROM batches"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replica.db"


@pytest.fixture
def replica(path: Path):
    make_replica(path).close()
    replica = Replica(path)
    yield replica
    replica.close()


def batches(replica: Replica) -> int:
    with replica.read() as db:
        return one(db, BATCHES)


def test_a_page_sees_one_snapshot_while_replay_commits(replica: Replica, path: Path) -> None:
    writer = connect(path)
    with replica.read() as db:
        before = one(db, BATCHES)
        with writer:
            add_batches(writer, 2, 1)
        assert one(db, BATCHES) == before
    assert batches(replica) == before + 2
    writer.close()


def test_pages_cannot_write(replica: Replica) -> None:
    with replica.read() as db, pytest.raises(apsw.ReadOnlyError):
        db.execute("DELETE FROM batches")


def test_before_the_first_bootstrap_the_page_says_so_and_then_comes_by_itself(path: Path) -> None:
    replica = Replica(path)
    with pytest.raises(Unavailable, match=NEVER_FETCHED), replica.read():
        pass
    half = connect(path, create=True)
    half.execute("CREATE TABLE changelog_position(epoch TEXT, seq INTEGER, nonce INTEGER, at TEXT)")
    with pytest.raises(Unavailable, match=NEVER_FETCHED), replica.read():
        pass
    half.close()
    path.unlink()
    make_replica(path).close()
    assert batches(replica) == 3
    replica.close()


def test_a_replaced_file_is_read_from_the_next_page_on(replica: Replica, path: Path, tmp_path: Path) -> None:
    assert batches(replica) == 3
    make_replica(tmp_path / "new.db", batches=5).close()
    with replica.read() as db:
        os.replace(tmp_path / "new.db", path)
        assert one(db, BATCHES) == 3
    assert batches(replica) == 5


@pytest.mark.parametrize("with_wal", [False, True])
def test_a_removed_file_leaves_the_old_rows_on_the_pages(replica: Replica, path: Path, with_wal: bool) -> None:
    batches(replica)
    path.unlink()
    if with_wal:
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    assert [batches(replica) for _ in range(3)] == [3, 3, 3]


def test_something_else_in_its_place_leaves_the_old_rows_on_the_pages(replica: Replica, path: Path, tmp_path: Path) -> None:
    batches(replica)
    (tmp_path / "other").write_text("this is no database\n" * 100)
    os.replace(tmp_path / "other", path)
    assert batches(replica) == 3


def test_many_pages_at_once_share_the_old_connections_while_the_file_is_gone(replica: Replica, path: Path) -> None:
    batches(replica)
    path.unlink()
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(batches(replica))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3] * 12


@pytest.mark.parametrize("damage", ["emptied", "header", "text"])
def test_damage_in_place_is_an_error_and_never_an_empty_page(path: Path, damage: str) -> None:
    make_replica(path, batches=50, animals=50).close()
    replica = Replica(path)
    assert batches(replica) == 50
    with path.open("r+b") as file:
        if damage == "emptied":
            file.truncate(0)
        elif damage == "header":
            file.write(bytes(100))
        else:
            file.truncate(0)
            file.write(b"no database\n" * 500)
    # What stands in a connection's cache may still be right; what is read must be all of it, or an error.
    try:
        assert batches(replica) == 50
    except Unavailable as exc:
        assert exc.message == BROKEN
    os.replace(make_other(path), path)
    assert batches(replica) == 4
    replica.close()


def make_other(path: Path) -> Path:
    other = path.with_name("other.db")
    make_replica(other, batches=4).close()
    return other


def test_an_error_in_the_middle_of_a_page_becomes_unavailable(replica: Replica) -> None:
    with pytest.raises(Unavailable, match="damaged"), replica.read():
        raise apsw.CorruptError("database disk image is malformed")
    assert batches(replica) == 3


def test_damage_that_a_page_meets_is_told_once(replica: Replica) -> None:
    told: list[str] = []
    replica.when_broken = told.append
    for _ in range(3):
        with pytest.raises(Unavailable), replica.read():
            raise apsw.CorruptError("database disk image is malformed")
    assert told == ["a page could not be read: database disk image is malformed"]


def test_connections_are_bounded_and_the_next_page_waits_its_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_replica(path).close()
    replica = Replica(path, connections=1)
    monkeypatch.setattr(server.replica, "WAIT_FOR_CONNECTION", 0.05)
    with replica.read(), pytest.raises(Unavailable, match="busy"), replica.read():
        pass
    assert batches(replica) == 3
    replica.close()


def test_a_statement_that_was_not_read_to_its_end_does_not_keep_the_snapshot(replica: Replica, path: Path) -> None:
    with replica.read() as db:
        unfinished = db.execute("SELECT id FROM cattle")
        next(unfinished)
    writer = connect(path)
    with writer:
        add_batches(writer, 1, 1)
    assert batches(replica) == 4
    writer.close()


def test_release_closes_what_is_idle_and_what_becomes_idle(replica: Replica, path: Path) -> None:
    with replica.read():
        replica.release()
    assert open_files(path) == 0
    assert batches(replica) == 3


def test_while_paused_nothing_of_ours_is_open_and_pages_wait(replica: Replica, path: Path, tmp_path: Path) -> None:
    found: list[int] = []
    batches(replica)
    with replica.paused():
        assert open_files(path) == 0
        page = threading.Thread(target=lambda: found.append(batches(replica)))
        page.start()
        os.replace(make_other(path), path)
        assert not found
    page.join()
    assert found == [4]


def test_a_page_that_does_not_end_refuses_the_pause(replica: Replica) -> None:
    with replica.read(), pytest.raises(Unavailable, match="let go"), replica.paused(wait=0.05):
        pass
    assert batches(replica) == 3


def open_files(path: Path) -> int:
    """How many file descriptors of this process are on the file."""
    links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return links.count(str(path.resolve()))
