"""server.db: counters that survive, a short history, tokens, and a file that mends itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from clock import Clock

from changelog.connection import connect, one
from changelog.errors import Conflict, NotFound
from server import store as store_module
from server.clock import utc_text
from server.store import HISTORY_KEPT, HISTORY_SPAN, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.db"


def test_the_totals_survive_a_restart_and_count_on(path: Path) -> None:
    for _ in range(2):
        store = Store(path)
        store.record_sync("bootstrap", "ok", rows=100, bytes=5000, seconds=0.5, reason="no replica yet")
        store.record_sync("pull", "ok", rows=3)
        store.record_sync("pull", "failed", reason="pi:5001: connection refused")
        store.close()
    totals = Store(path).totals()
    assert totals[:4] == (6, 4, 2, 206)
    assert totals.last_sync_time is not None


def test_totals_are_right_before_they_are_written(path: Path) -> None:
    store = Store(path)
    store.record_sync("pull", "ok", rows=7)
    assert store.totals()[:4] == (1, 1, 0, 7)


def test_idle_polls_cost_no_commit_each_and_no_line(path: Path) -> None:
    clock = Clock(0.0)
    store = Store(path, clock=clock)
    store.flush()
    size = Path(f"{path}-wal").stat().st_size
    for _ in range(500):
        store.record_sync("pull", "ok")
    assert Path(f"{path}-wal").stat().st_size == size
    clock.now = 11
    store.record_sync("pull", "ok")
    assert Path(f"{path}-wal").stat().st_size > size
    assert store.totals().total_syncs == 501
    assert store.history().rows == []


def test_equal_syncs_are_one_line_and_another_outcome_begins_a_new_one(path: Path) -> None:
    clock = Clock(0.0)
    store = Store(path, clock=clock)
    store.record_sync("pull", "ok", rows=1, bytes=10, seconds=0.1)
    store.record_sync("pull", "ok", rows=2, bytes=20, seconds=0.1)
    for _ in range(5):
        store.record_sync("pull", "failed", reason="pi:5001: connection refused")
    store.record_sync("bootstrap", "ok", rows=9, reason="asked for")
    store.record_sync("bootstrap", "ok", rows=9, reason="asked for")
    lines = [(line.kind, line.outcome, line.times, line.records, line.bytes) for line in store.history().rows]
    assert lines == [("bootstrap", "ok", 1, 9, 0), ("bootstrap", "ok", 1, 9, 0), ("pull", "failed", 5, 0, 0), ("pull", "ok", 2, 3, 30)]


def test_a_long_run_of_equal_syncs_is_told_in_pieces(path: Path) -> None:
    clock = Clock(0.0)
    store = Store(path, clock=clock)
    store.record_sync("pull", "ok", rows=1)
    clock.now = HISTORY_SPAN + 1
    store.record_sync("pull", "ok", rows=1)
    assert [line.times for line in store.history().rows] == [1, 1]


def test_old_history_is_pruned(path: Path) -> None:
    store = Store(path)
    store.record_sync("pull", "ok", rows=1)
    store.close()
    other = connect(path)
    other.execute("UPDATE sync_history SET ended_at=?", (utc_text(HISTORY_KEPT + 60),))
    other.close()
    store = Store(path)
    store.record_sync("bootstrap", "ok", rows=1)
    assert [line.kind for line in store.history().rows] == ["bootstrap"]


def test_the_replica_keeps_its_name_and_the_epoch_it_accepted(path: Path) -> None:
    store = Store(path)
    name = store.replica_id
    assert store.accepted_epoch is None
    store.accepted_epoch = "e" * 32
    store.close()
    again = Store(path)
    assert (again.replica_id, again.accepted_epoch, len(name)) == (name, "e" * 32, 32)


def test_what_a_command_accepts_is_seen_by_the_running_server(path: Path) -> None:
    running, command = Store(path, checkpoints=True), Store(path)
    command.accepted_epoch = "f" * 32
    command.close()
    assert running.accepted_epoch == "f" * 32


def test_a_token_is_kept_as_a_hash_and_can_be_revoked(path: Path) -> None:
    store = Store(path)
    token = store.add_token("monitoring")
    assert store.is_token(token)
    assert not store.is_token(token[:-1])
    assert not store.is_token("é")
    assert [name for name, _ in store.tokens()] == ["monitoring"]
    with pytest.raises(Conflict, match="monitoring"):
        store.add_token("monitoring")
    store.revoke_token("monitoring")
    assert not store.is_token(token)
    with pytest.raises(NotFound):
        store.revoke_token("monitoring")
    store.close()
    assert token.encode() not in path.read_bytes()


def test_a_damaged_file_is_set_aside_and_made_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text("no database " * 1000)
    store = Store(path)
    assert store.totals().total_syncs == 0
    assert len(list(path.parent.glob("server.db.damaged-*"))) == 1
    assert "damaged" in caplog.text


def test_a_file_that_is_removed_while_we_run_is_made_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(path)
    store.record_sync("pull", "ok", rows=4)
    path.unlink()
    store.flush()
    assert store.totals().total_records_synced == 4
    assert "removed" in caplog.text
    store.close()
    db = connect(path)
    assert one(db, "SELECT total_records_synced FROM sync_totals") == 4
    db.close()


def test_of_the_sessions_that_have_ended_the_newest_are_known_after_a_restart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "ENDED_KEPT", 3)
    store = Store(path)
    for number in range(5):
        store.end_session(f"session {number}")
    assert all(store.has_ended(f"session {number}") for number in range(5))
    assert not store.has_ended("another")
    store.close()
    again = Store(path)
    assert [again.has_ended(f"session {number}") for number in range(5)] == [False, False, True, True, True]
    assert b"session 4" not in path.read_bytes()
