"""The shipper, turn by turn over a folder: what waits, what is dropped, whose bucket it is, and where it goes on after a restart."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import apsw
import pytest
from ship_parts import bytes_of, make_bank, restored, txids

from changelog.connection import connect, remove_database
from changelog.errors import Conflict, DamagedObject, Fenced, Unavailable
from changelog.lease import checkpoint_lease
from changelog.ltx import arrival, fence, upload
from changelog.ltx.check import verify
from changelog.ltx.compact import SHIPPED_KEPT, compact, retain_shipped
from changelog.ltx.fence import NOTE
from changelog.ltx.ship import Shipper
from changelog.ltx.sign import Complete, last_sign
from changelog.ltx.staging import Staging
from changelog.ltx.status import read_status
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Name, Stored, Taken
from pi.shipping import for_health, metrics

BACKLOG = 200_000  # bytes


class MoodyStore(FolderStore):
    """A folder that is away when it is told to be, or takes a file and does not say so."""

    away = silent = False

    def list(self, level: int, after_txid: int = 0) -> list[Stored]:
        self._ask()
        return super().list(level, after_txid)

    def put(self, name: Name, file: BinaryIO, timestamp_ms: int, if_absent: bool = True) -> Taken | None:
        self._ask()
        taken = super().put(name, file, timestamp_ms, if_absent)
        if self.silent:
            raise Unavailable("the answer was lost")
        return taken

    def put_note(self, key: str, content: bytes, if_absent: bool = False) -> bool:
        self._ask()
        return super().put_note(key, content, if_absent)

    def _ask(self) -> None:
        if self.away:
            raise Unavailable("the folder is away")


class LaxStore(MoodyStore):
    """A place that does not refuse a second file of a name by itself."""

    conditional = False


class Trial:
    """A bank, a store and a shipper whose turns are made by hand."""

    def __init__(self, folder: Path, store: MoodyStore | None = None) -> None:
        self.folder, self.path = folder, folder / "bank.db"
        self.store = store or MoodyStore(folder / "bucket")
        self.now = 1_790_000_000.0
        if not self.path.exists():
            make_bank(self.path)
        self.db = connect(self.path)
        self.shipper = self.begin()

    def begin(self, **options: Any) -> Shipper:
        """A new shipper."""
        self.shipper = Shipper(self.path, self.store, **{"max_backlog": BACKLOG, "clock": lambda: self.now} | options)
        return self.shipper

    def commit(self, size: int = 100) -> None:
        """One transaction."""
        with self.db:
            self.db.execute("UPDATE accounts SET balance=balance+1 WHERE id=1; UPDATE accounts SET balance=balance-1 WHERE id=2")
            self.db.execute("INSERT INTO ballast VALUES(?)", (os.urandom(size),))

    def ship(self) -> None:
        """One turn, and all that can be put."""
        self.shipper.turn()
        self.put()

    def put(self) -> None:
        """All that can be put. Raises what the store raises."""
        while self.shipper.uploader.step():
            pass

    def fail(self) -> None:
        """One attempt to put something, as the thread makes it, which fails."""
        with pytest.raises(Unavailable) as raised:
            self.put()
        self.shipper.uploader.failed(raised.value.message)

    def crash(self) -> None:
        """The shipper ends without a word, as by a power cut."""
        self.shipper._let_go()
        self.shipper._running.release()

    def restart(self) -> None:
        """As a power cut, and a new one."""
        self.crash()
        self.begin()

    def check(self, txid: int | None = None) -> None:
        """What the store holds is the live database."""
        self.crash()
        self.db.close()
        assert restored(self.store, self.folder / "restored.db", txid) == bytes_of(self.path)
        assert verify(self.store).faults == []

    @property
    def state(self) -> str:
        told = read_status(self.path)
        assert told
        return told[0].state


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    trial = Trial(tmp_path)
    yield trial
    trial.crash()
    trial.db.close()


def names(trial: Trial) -> list[int]:
    return txids(trial.store)


def size_of(trial: Trial, txid: int) -> int:
    return next(file.size for file in trial.store.list(0) if file.name.max_txid == txid)


def test_each_turn_with_commits_is_one_transaction_and_the_last_is_the_live_file(trial: Trial) -> None:
    trial.ship()
    for commits in (1, 3, 1):
        for _ in range(commits):
            trial.commit()
        trial.ship()
        trial.ship()
    assert names(trial) == [1, 2, 3, 4]
    assert size_of(trial, 2) < size_of(trial, 1)
    trial.check()


def test_what_is_put_was_staged_and_only_the_newest_stays(trial: Trial) -> None:
    for _ in range(3):
        trial.commit()
        trial.ship()
    (left,) = trial.shipper._folder.glob("*.ltx")
    with trial.store.open(Name(0, 3, 3)) as there:
        assert there.read() == left.read_bytes()


def test_after_a_restart_it_goes_on_where_it_was(trial: Trial) -> None:
    trial.commit()
    trial.ship()
    trial.commit()
    trial.restart()
    trial.ship()
    assert names(trial) == [1, 2] and size_of(trial, 2) < size_of(trial, 1)
    trial.check()


def test_after_a_restart_in_a_new_wal_a_whole_database_follows(trial: Trial) -> None:
    trial.commit()
    trial.ship()
    trial.crash()
    trial.commit()
    trial.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    trial.commit()
    trial.begin()
    trial.ship()
    assert names(trial) == [1, 2] and size_of(trial, 2) > size_of(trial, 1) / 2
    trial.check()


def test_after_a_clean_end_without_a_wal_it_goes_on_where_it_was(trial: Trial) -> None:
    trial.commit()
    trial.ship()
    trial.db.close()
    trial.shipper.close()
    assert not trial.path.with_name("bank.db-wal").exists()
    trial.db = connect(trial.path)
    trial.commit()
    trial.begin()
    trial.ship()
    assert names(trial) == [1, 2] and size_of(trial, 2) < size_of(trial, 1)
    trial.check()


def test_after_a_clean_end_and_a_write_without_it_a_whole_database_follows(trial: Trial) -> None:
    trial.commit()
    trial.ship()
    trial.shipper.close()
    trial.commit()
    trial.db.close()  # the last to close: what it wrote goes into the file, and the -wal away
    trial.db = connect(trial.path)
    trial.begin()
    trial.ship()
    assert names(trial) == [1, 2] and size_of(trial, 2) > size_of(trial, 1) / 2
    trial.check()


def test_a_commit_between_our_last_look_and_the_end_is_not_lost(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    trial.commit()
    trial.ship()
    nap = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (trial.commit(), nap(seconds)))
    trial.shipper.close()
    monkeypatch.undo()
    trial.db.close()
    trial.db = connect(trial.path)
    trial.begin()
    trial.ship()
    trial.check()


def test_what_was_put_without_an_answer_is_put_again_and_found_to_be_the_same(trial: Trial) -> None:
    trial.ship()
    trial.commit()
    trial.shipper.turn()
    trial.store.silent = True
    trial.fail()
    trial.store.silent = False
    trial.put()
    trial.commit()
    trial.restart()
    trial.ship()
    assert names(trial) == [1, 2, 3]
    trial.check()


def test_while_the_store_is_away_files_wait_and_then_go_in_order(trial: Trial) -> None:
    trial.ship()
    trial.store.away = True
    for _ in range(5):
        trial.commit()
        trial.shipper.turn()
    trial.fail()
    trial.shipper.turn()
    trial.shipper._status.write()
    assert trial.state == "waiting"
    assert [staged.txid for staged in trial.shipper.staging.waiting] == [2, 3, 4, 5, 6]
    trial.restart()
    trial.store.away = False
    trial.ship()
    assert names(trial) == [1, 2, 3, 4, 5, 6]
    trial.check()


def test_a_backlog_that_grows_too_large_is_dropped_and_a_whole_database_follows(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    trial.ship()
    trial.store.away = True
    trial.commit()
    trial.shipper.turn()
    trial.fail()
    for _ in range(10):
        trial.commit(50_000)
        trial.shipper.turn()
    assert sum(staged.size for staged in trial.shipper.staging.waiting) < BACKLOG
    assert [staged.txid for staged in trial.shipper.staging.waiting] == [2]
    assert not checkpoint_lease(trial.path).is_held()
    for _ in range(10):
        trial.commit(50_000)
    trial.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # as the writer does, whose turn it is now
    trial.commit()
    trial.shipper.turn()
    trial.store.away = False
    trial.put()
    trial.ship()
    assert names(trial) == [1, 2, 3]
    assert caplog.text.count("SHIP_MAX_BACKLOG") == 1
    trial.check()


def test_a_first_database_larger_than_the_backlog_is_shipped_all_the_same(trial: Trial) -> None:
    trial.commit(3 * BACKLOG)
    trial.shipper.turn()
    trial.commit()
    trial.shipper.turn()
    trial.put()
    assert names(trial) == [1, 2]
    trial.check()


def test_a_store_that_was_away_from_the_start_is_waited_for(trial: Trial) -> None:
    trial.store.away = True
    trial.shipper.turn()
    trial.shipper._status.write()
    assert trial.state == "waiting" and not trial.shipper.staging.waiting
    trial.store.away = False
    trial.ship()
    assert names(trial) == [1]


def test_a_bucket_that_was_emptied_gets_a_snapshot_and_can_be_restored(trial: Trial) -> None:
    for _ in range(3):
        trial.commit()
        trial.ship()
    shutil.rmtree(trial.folder / "bucket")
    trial.store.away = True
    trial.commit()
    trial.shipper.turn()
    trial.fail()
    trial.store.away = False
    trial.put()
    trial.ship()
    trial.commit()
    trial.ship()
    assert [(file.name.level, file.name.max_txid) for level in (0, 9) for file in trial.store.list(level)] == [(0, 4), (0, 5), (9, 4)]
    trial.check()


@pytest.mark.parametrize("missing", [True, False])
def test_what_is_lost_in_the_middle_is_noticed_and_the_newest_state_can_be_restored_again(trial: Trial, missing: bool) -> None:
    for _ in range(5):
        trial.commit()
        trial.ship()
    lost = trial.folder / "bucket" / "ltx" / "0" / Name(0, 3, 3).file
    lost.write_bytes(lost.read_bytes()[:-9])
    if missing:
        lost.unlink()
    with pytest.raises(DamagedObject):
        restored(trial.store, trial.folder / "restored.db")
    trial.shipper._upkeep.step()
    trial.shipper._status.write()
    assert {sample.name: sample.value for metric in metrics(trial.path, 0) for sample in metric.samples}["drover_ship_upkeep_failing"] == 1
    trial.ship()
    trial.ship()
    assert [file.name for file in trial.store.list(9)] == [Name(9, 1, 5)]
    trial.shipper._upkeep.step()
    assert trial.shipper._status.status.upkeep == ""
    trial.commit()
    trial.ship()
    trial.crash()
    trial.db.close()
    assert restored(trial.store, trial.folder / "restored.db") == bytes_of(trial.path)


def test_a_new_bucket_of_somebody_elses_files_is_continued_behind_them(tmp_path: Path, trial: Trial) -> None:
    trial.commit()
    trial.ship()
    trial.crash()
    other = tmp_path / "other"
    other.mkdir()
    second = Trial(other, MoodyStore(trial.folder / "bucket"))
    second.ship()
    assert names(second) == [1, 2]
    with trial.store.open(Name(0, 1, 1)) as first, trial.store.open(Name(0, 2, 2)) as next_:
        assert first.read() != next_.read()
    second.check()


def test_two_shippers_to_one_place_are_found_out_and_one_stands_still_until_somebody_decides(tmp_path: Path, trial: Trial) -> None:
    trial.commit()
    trial.ship()
    other = tmp_path / "other"
    other.mkdir()
    second = Trial(other, MoodyStore(trial.folder / "bucket"))
    second.ship()
    trial.commit()
    trial.shipper.turn()
    with pytest.raises(Fenced, match="another content") as raised:
        trial.put()
    trial.shipper.fence.close(raised.value.message)
    trial.shipper.turn()
    trial.shipper._status.write()
    assert trial.state == "fenced" and not checkpoint_lease(trial.path).is_held()
    second.commit()
    second.ship()
    second.check()
    trial.restart()
    trial.ship()
    assert trial.shipper.fence.cause and "--take-over" in trial.shipper.fence.cause
    assert names(trial) == [1, 2, 3]
    trial.shipper.take_over()
    trial.ship()
    trial.ship()
    assert names(trial) == [1, 2, 3, 4]
    trial.check()


def rival_that_shipped(folder: Path, trial: Trial) -> Trial:
    """Another shipper of the same place, which has put three transactions there."""
    folder.mkdir()
    second = Trial(folder, MoodyStore(trial.folder / "bucket"))
    for _ in range(3):
        second.commit()
        second.ship()
    return second


def test_later_transactions_of_somebody_else_fence_at_the_next_look(tmp_path: Path, trial: Trial) -> None:
    trial.ship()
    second = rival_that_shipped(tmp_path / "other", trial)
    second.crash()
    trial.restart()
    trial.commit()
    trial.shipper.turn()
    with pytest.raises(Fenced, match="has transaction 4"):
        trial.put()


def test_a_name_that_compaction_made_free_again_is_not_taken_by_who_does_not_know_of_the_other(tmp_path: Path, trial: Trial) -> None:
    trial.ship()
    second = rival_that_shipped(tmp_path / "other", trial)
    compact(trial.store, 1)
    retain_shipped(trial.store, trial.now + SHIPPED_KEPT + 1)
    assert [file.name.max_txid for file in trial.store.list(0)] == [4]
    trial.shipper.uploader._checked_at -= SHIPPED_KEPT  # no other's file can have come and gone in less
    trial.commit()
    trial.shipper.turn()
    with pytest.raises(Fenced, match="has transaction 4"):
        trial.put()
    second.check()


def test_a_name_of_its_own_that_a_power_cut_has_emptied_makes_no_note_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "RENEW", 0.0)
    first = Trial(tmp_path, LaxStore(tmp_path / "bucket"))
    first.ship()
    other = tmp_path / "other"
    other.mkdir()
    second = Trial(other, LaxStore(tmp_path / "bucket"))
    second.crash()
    (second.shipper._folder / "owner").write_bytes(b"")
    second.begin()
    second.shipper.turn()
    assert not second.shipper.uploader.step()
    assert names(first) == [1]
    for trial in (first, second):
        trial.crash()
        trial.db.close()


def test_a_place_without_conditional_put_has_a_note_and_the_second_one_waits_to_see_whether_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "RENEW", 0.0)
    first = Trial(tmp_path, LaxStore(tmp_path / "bucket"))
    first.ship()
    assert json.loads((tmp_path / "bucket" / NOTE).read_bytes())["owner"]
    other = tmp_path / "other"
    other.mkdir()
    second = Trial(other, LaxStore(tmp_path / "bucket"))
    second.shipper.turn()
    assert not second.shipper.uploader.step()  # somebody's note: seen once
    first.commit()
    first.ship()
    with pytest.raises(Fenced):
        second.shipper.uploader.step()
    second.restart()
    assert not second.shipper.uploader.step()
    first.crash()  # and writes no more notes
    for trial in (first, second):
        trial.crash()
        trial.db.close()


def test_the_note_of_one_that_is_gone_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "RENEW", 0.0)
    first = Trial(tmp_path, LaxStore(tmp_path / "bucket"))
    first.ship()
    first.crash()
    shutil.rmtree(first.shipper._folder)
    first.begin()
    first.shipper.turn()
    assert not first.shipper.uploader.step()
    first.put()
    assert names(first) == [1, 2]
    first.check()


def test_a_second_shipper_on_the_same_database_is_refused(trial: Trial) -> None:
    with pytest.raises(Conflict, match="another shipper"):
        Shipper(trial.path, trial.store, BACKLOG)


def test_times_never_go_back_though_the_clock_does(trial: Trial) -> None:
    for seconds in (0, -3600, 5, -7200):
        trial.now += seconds
        trial.commit()
        trial.ship()
        trial.restart()
    times = [trial.store.timestamp(file.name) for file in trial.store.list(0)]
    assert times == sorted(set(times)) and len(times) == 4


def test_a_database_that_was_replaced_follows_whole_as_the_next_transaction(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "SETTLE", 0.05)
    monkeypatch.setattr(arrival, "NEW_OWNER", 0.1)
    trial.commit()
    trial.ship()
    trial.db.close()
    new = trial.folder / "new.db"
    make_bank(new)
    with closing(connect(new)) as db:
        db.execute("INSERT INTO ballast VALUES(zeroblob(20000))")
    new.replace(trial.path)
    trial.ship()
    assert names(trial) == [1]
    until = time.monotonic() + 10
    while names(trial) != [1, 2] and time.monotonic() < until:
        trial.ship()
        time.sleep(0.02)
    trial.db = connect(trial.path)
    trial.commit()
    trial.ship()
    assert names(trial) == [1, 2, 3] and size_of(trial, 3) < size_of(trial, 2)
    trial.check()


def test_a_database_with_other_pages_is_not_mixed_into_the_chain(trial: Trial) -> None:
    trial.ship()
    trial.crash()
    trial.db.close()
    remove_database(trial.path)
    make_bank(trial.path, 1024)
    trial.db = connect(trial.path)
    trial.begin()
    trial.shipper.turn()
    trial.shipper._status.write()
    told = read_status(trial.path)
    assert told and told[0].state == "stalled" and "another LITESTREAM_PATH" in told[0].cause
    assert names(trial) == [1]


def test_a_missing_database_is_said_and_waited_for(trial: Trial) -> None:
    trial.ship()
    trial.crash()
    trial.db.close()
    image = trial.path.read_bytes()
    remove_database(trial.path)
    trial.begin()
    trial.shipper.turn()
    trial.shipper._status.write()
    told = read_status(trial.path)
    assert told and told[0].state == "stalled" and "is missing" in told[0].cause
    trial.path.write_bytes(image)
    trial.db = connect(trial.path)
    trial.ship()
    trial.check()


def test_the_lease_on_checkpoints_is_ours_while_we_follow(trial: Trial) -> None:
    assert not checkpoint_lease(trial.path).is_held()
    trial.ship()
    assert checkpoint_lease(trial.path).is_held()
    trial.shipper.close()
    assert not checkpoint_lease(trial.path).is_held()


def test_the_wal_stays_short_under_a_steady_writer(trial: Trial) -> None:
    longest = 0
    for turn in range(1_500):
        trial.commit(3_000)
        if turn % 50 == 0:
            trial.ship()
        longest = max(longest, trial.path.with_name("bank.db-wal").stat().st_size)
    assert 3 * 2**20 < longest < 8 * 2**20
    trial.ship()
    trial.check()


def test_files_that_were_not_whole_when_the_power_went_are_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "bank.db-ship"
    folder.mkdir()
    (folder / "0000000000000007-0123456789abcdef.ltx.tmp").write_bytes(b"LTX1")
    (folder / "image").write_bytes(b"LTX1")
    staging = Staging(folder)
    assert staging.newest is None and list(folder.iterdir()) == []


def test_nothing_is_written_while_nothing_moves(trial: Trial) -> None:
    trial.ship()
    trial.shipper.turn()
    trial.shipper._status.write()
    before = {path: path.stat().st_mtime_ns for path in trial.shipper._folder.iterdir()}
    time.sleep(0.02)
    for _ in range(50):
        trial.ship()
    trial.shipper._status.write()
    assert {path: path.stat().st_mtime_ns for path in trial.shipper._folder.iterdir()} == before


def test_a_shipper_that_has_nothing_to_ship_says_so_in_the_store_and_only_then(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    uploader = trial.shipper.uploader
    trial.commit()
    trial.ship()
    uploader.sign()
    assert last_sign(trial.store) is None  # not known yet that nothing came after it
    trial.now += 100
    trial.shipper.turn()
    uploader.sign()
    assert last_sign(trial.store) is None  # a file has told it just now
    monkeypatch.setattr(upload, "EVERY", 0.0)
    uploader.sign()
    sign = last_sign(trial.store)
    assert sign == Complete(1, int(trial.now * 1000))
    trial.now += 100
    trial.commit()
    trial.shipper.turn()
    uploader.sign()
    trial.shipper.turn()
    uploader.sign()
    assert last_sign(trial.store) == sign  # something waits
    trial.put()
    trial.shipper.turn()
    uploader.sign()
    assert last_sign(trial.store) == Complete(2, int(trial.now * 1000) + 1)
    trial.shipper.turn()
    trial.store.away = True
    with pytest.raises(Unavailable):
        uploader.sign()
    trial.store.away = False
    trial.check()


def test_the_metrics_tell_where_it_stands(trial: Trial) -> None:
    trial.commit()
    trial.ship()
    trial.store.away = True
    trial.commit()
    trial.shipper.turn()
    trial.fail()
    trial.shipper.turn()
    trial.shipper._status.write()
    found = {sample.name: sample.value for metric in metrics(trial.path, trial.now + 60) for sample in metric.samples}
    size = trial.shipper.staging.newest.size
    assert found | {"drover_ship_bytes_total": 0.0} == {
        "drover_ship_running": 1.0,
        "drover_ship_last_object": 1.0,
        "drover_ship_last_object_age_seconds": 60.0,
        "drover_ship_objects_total": 1.0,
        "drover_ship_bytes_total": 0.0,
        "drover_ship_pending_objects": 1.0,
        "drover_ship_pending_bytes": float(size),
        "drover_ship_errors_total": 1.0,
        "drover_ship_fenced": 0.0,
        "drover_ship_upkeep_failing": 0.0,
    }
    trial.crash()
    found = {sample.name: sample.value for metric in metrics(trial.path, trial.now) for sample in metric.samples}
    assert found["drover_ship_running"] == 0.0
    assert for_health(trial.path)["state"] == "stopped"
    assert list(metrics(trial.folder / "none.db", trial.now)) == [] and for_health(trial.folder / "none.db") is None
