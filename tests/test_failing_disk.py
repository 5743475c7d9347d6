"""A disk that is full, or that fails for a moment: what it took is true, what is told is in words, and afterwards all goes on by itself.

What happens at each single step of the work is tried by scripts/prove_faults.py; here stands what it has found.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import apsw
import pytest
from changelog_parts import make_primary, make_replica, run_sql
from click.testing import CliRunner
from pi_parts import make_farm, running_writer, send
from test_ship import MoodyStore, Trial

from changelog import connection, promote, staging
from changelog import replay as replaying
from changelog.bootstrap import put_in_place
from changelog.connection import connect, one
from changelog.durable import DurableWal
from changelog.errors import DamagedFile, Unavailable
from changelog.ltx import ship as ltx_ship
from changelog.ltx import staging as ltx_staging
from changelog.ltx.fence import Fence
from changelog.ltx.staging import Staging as Shipped
from changelog.ltx.store import folder as ltx_folder
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Name
from changelog.node.settings import Settings
from changelog.position import Position
from changelog.primary import Primary
from changelog.promote import replacing
from changelog.replay import connect_replica, position_of, replay
from changelog.staging import Staging
from changelog.wire import decode_frame, encode_frame, split_frame
from pi import live_file
from pi.__main__ import main as pi
from server import replica_file
from server.__main__ import main as server
from server.replica import Replica
from server.replica_file import ReplicaFile
from server.state import SyncState
from server.store import Store
from server.sync import SyncService

SCHEMA = "CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT)"
NO_ROOM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))


class Failing:
    """In the place of a function: it raises the next of `errors`, and when there is none it does what it did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *errors: Exception) -> None:
        self._real, self._errors = getattr(owner, name), list(errors)
        self.calls: list[tuple[Any, ...]] = []
        monkeypatch.setattr(owner, name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls.append(arguments)
        if self._errors:
            raise self._errors.pop(0)
        return self._real(*arguments, **named)


# --- a sync that failed


def test_after_a_sync_that_failed_one_counts_only_when_all_was_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_primary(tmp_path / "p.db", SCHEMA)
    with closing(connect(path)) as db, closing(Primary(path)) as source:
        db.execute("INSERT INTO pens(pen) VALUES('A')")
        source.head()
        written = Path(f"{path}-wal").read_bytes()
        syncs = Failing(monkeypatch, os, "fdatasync", BROKEN, BROKEN)
        writes = Failing(monkeypatch, os, "pwrite")
        with pytest.raises(Unavailable, match="the disk cannot be used: Input/output error"):
            source.head()
        assert not writes.calls
        with pytest.raises(Unavailable):
            source.head()  # written anew, and the disk does not confirm that either
        source.head()
        assert len(syncs.calls) == 3
        assert [bytes(data) for _, data, _ in writes.calls] == [written, written]
        source.head()
        assert len(writes.calls) == 2, "the disk is sound again"
        assert Path(f"{path}-wal").read_bytes() == written and one(db, "PRAGMA integrity_check") == "ok"


def test_a_wal_is_not_written_anew_while_somebody_writes_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("changelog.durable.BUSY", 10)
    path = make_primary(tmp_path / "p.db", SCHEMA)
    with closing(connect(path)) as db, closing(Primary(path)) as source:
        with db:
            db.execute("INSERT INTO pens(pen) VALUES('A')")
            Failing(monkeypatch, os, "fdatasync", BROKEN)
            writes = Failing(monkeypatch, os, "pwrite")
            for _ in range(2):
                with pytest.raises(Unavailable):
                    source.head()
        assert not writes.calls
        assert source.head() == Position.of_head(db)


def test_a_new_wal_has_nothing_to_do_with_the_failure_of_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_primary(tmp_path / "p.db", SCHEMA)
    wal = DurableWal()
    with closing(connect(path)) as db:
        assert wal.sync(db) == b"", "there is none"
        db.execute("INSERT INTO pens(pen) VALUES('A')")
        Failing(monkeypatch, os, "fdatasync", BROKEN)
        with pytest.raises(Unavailable):
            wal.sync(db)
    assert not Path(f"{path}-wal").exists(), "all of it was moved into the file, and synced there"
    writes = Failing(monkeypatch, os, "pwrite")
    with closing(connect(path)) as db:
        db.execute("INSERT INTO pens(pen) VALUES('B')")
        wal.sync(db)
    assert not writes.calls
    wal.close()


def test_a_commit_that_the_disk_did_not_confirm_is_answered_when_all_before_it_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anew = Failing(monkeypatch, live_file, "rewrite_wal")
    with running_writer(make_farm(tmp_path)) as writer:
        send(writer, "hxb:B1:L1:U1")
        before = len(anew.calls)

        def fails(db: apsw.Connection, times: list[int] = []) -> str:  # noqa: B006
            times.append(1)
            if len(times) == 1:
                raise apsw.IOError("disk I/O error")
            return "written"

        assert writer.write(fails, "test").value == "written"
        assert len(anew.calls) == before + 1
        send(writer, "hxb:B1:L2:U2")
        assert len(anew.calls) == before + 1


def test_what_a_killed_process_left_in_a_replica_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = make_replica(make_primary(tmp_path / "p.db", SCHEMA), tmp_path / "r.db")
    anew = Failing(monkeypatch, replaying, "rewrite_wal")
    connect_replica(replica).close()
    assert not anew.calls, "there is no -wal"
    other = connect_replica(replica)
    other.execute("UPDATE changelog_position SET at='now'")
    connect_replica(replica).close()
    assert len(anew.calls) == 1
    other.close()


def test_a_wal_is_synced_where_it_is_and_known_by_its_header(tmp_path: Path) -> None:
    path, wal = make_primary(tmp_path / "p.db", SCHEMA), DurableWal()
    sync_wal = wal.sync
    db = connect(path)
    (tmp_path / "link.db").symlink_to(path)
    linked = connect(tmp_path / "link.db")
    db.execute("INSERT INTO pens(pen) VALUES('A')")
    header = sync_wal(linked)
    assert header == sync_wal(db) == Path(f"{path}-wal").read_bytes()[:32]
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert sync_wal(linked) == b""
    db.execute("INSERT INTO pens(pen) VALUES('B')")
    assert sync_wal(linked) not in (b"", header)
    linked.close()
    linked = connect(tmp_path / "link.db")
    Path(f"{path}-wal").unlink()
    assert sync_wal(linked) == b""  # nothing to do
    linked.close()
    db.close()
    wal.close()


# --- what is damage, and what is not


def test_a_file_that_cannot_be_opened_just_now_is_not_damaged(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "p.db", SCHEMA)
    Path(f"{path}-wal").mkdir()  # which nobody can open, as on a full disk
    with pytest.raises(Unavailable, match=r"p\.db cannot be used"):
        connect(path)
    Path(f"{path}-wal").rmdir()
    connect(path).close()
    path.write_bytes(b"no database" * 100)
    with pytest.raises(DamagedFile):
        connect(path)


def test_a_disk_that_fails_costs_the_server_neither_its_tokens_nor_its_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "server.db")
    token = store.add_token("phone")
    store.record_sync("pull", "ok", rows=1)
    for error in (apsw.FullError("database or disk is full"), apsw.IOError("disk I/O error")):
        Failing(monkeypatch, store, "_write_line", error)
        store.record_sync("bootstrap", "ok", rows=10)
        store.flush()  # fails, and says so in the log
        store.flush()
    assert store.totals()[:4] == (3, 3, 0, 21)
    assert store.is_token(token)
    assert not list(tmp_path.glob("*damaged*"))
    store.close()


def test_what_the_pi_lost_is_kept_before_anything_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = make_replica(make_primary(tmp_path / "p.db", SCHEMA), tmp_path / "r.db")
    file = ReplicaFile(Replica(replica), lambda position: None)
    assert file.doubt() is None
    Failing(monkeypatch, replica_file, "keep_lost", apsw.IOError("disk I/O error"))
    over = Failing(monkeypatch, replica_file, "copy_over")
    incoming = make_replica(tmp_path / "p.db", tmp_path / "i.db")
    with pytest.raises(apsw.IOError):
        file.install(incoming)
    assert not over.calls
    file.install(incoming)
    file.close()


# --- services go on


@pytest.fixture
def service(tmp_path: Path) -> Any:
    """A sync service, without its thread; its Pi is nowhere."""
    settings = Settings(data_dir=tmp_path, remote_pi_host="127.0.0.1", remote_pi_port=1, use_ssl_for_pi=False)
    store, replica = Store(settings.server_db), Replica(settings.replica_db)
    made = SyncService(settings, replica, store, SyncState(settings.stale_after))
    yield made
    made.follower.close()
    store.close()


@pytest.mark.parametrize("error", [apsw.FullError("full"), apsw.IOError("disk I/O error"), NO_ROOM])
def test_the_sync_says_in_a_line_that_the_disk_fails_and_goes_on(
    service: SyncService, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Failing(monkeypatch, service.follower, "step", error, error)
    Failing(monkeypatch, service._store, "_write_line", error)  # nor can that be written down
    assert not service.step() and not service.step()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "the replica cannot be used: the disk" in caplog.text or "the disk of this server is full" in caplog.text
    assert not any(record.exc_info for record in told), caplog.text
    monkeypatch.setattr(service.follower, "step", lambda *_: None)
    assert service.step()


def test_a_connection_that_can_only_read_is_opened_anew(service: SyncService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closes = Failing(monkeypatch, service.follower.file, "close")
    Failing(monkeypatch, service.follower, "step", apsw.ReadOnlyError("attempt to write a readonly database"))
    assert not service.step() and closes.calls
    with running_writer(make_farm(tmp_path)) as writer:
        before, errors = writer.file.db, [apsw.ReadOnlyError("attempt to write a readonly database")]

        def fails(db: apsw.Connection) -> str:
            if errors:
                raise errors.pop()
            return "written"

        assert writer.write(fails, "test").value == "written"
        assert writer.file.db is not before


def test_a_frame_that_finds_no_room_is_fetched_anew_when_there_is_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "HELD_BYTES", 100)
    path = make_primary(tmp_path / "p.db", SCHEMA)
    with closing(Primary(path)) as source:
        start = source.head()
        run_sql(path, "INSERT INTO pens(pen) VALUES(hex(zeroblob(200)))")
        body = b"".join(source.encoded_frame(start)[1])
    staged = Staging(tmp_path / "staged")
    (tmp_path / "staged").symlink_to("/dev/full")
    with pytest.raises(Unavailable, match="No space left"):
        staged.receive(*split_frame([body]))
        staged.frame()
    assert staged.begins_at(start) is False
    staged.receive(*split_frame([body]))
    header, pages = staged.frame()
    assert header.start == start and sum(len(page.rows) for page in pages) == 1
    staged.close()


def test_commands_say_in_a_line_what_the_disk_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command, owner, name, words in (
        (pi, "pi.restore", "prepare_data_dir", ["restore"]),
        (server, "server.__main__", "prepare_data_dir", ["token", "list"]),
    ):
        for error in (NO_ROOM, apsw.FullError("database or disk is full")):
            with monkeypatch.context() as broken:
                broken.setattr(f"{owner}.{name}", Failing(broken, connection, "identity", error))
                done = CliRunner().invoke(command, words)
            assert done.exit_code == 1 and "the disk is full" in done.stderr and "Traceback" not in done.output


# --- the shipper


def test_a_shipper_whose_database_cannot_be_opened_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path)
    Failing(monkeypatch, ltx_ship, "Tail", Unavailable("not now"))
    trial.ship()
    assert trial.shipper.status.state == "stalled"
    trial.ship()
    assert trial.shipper.status.state == "shipping"
    trial.check()


def test_a_file_that_was_put_and_cannot_be_removed_is_no_second_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path)
    trial.ship()
    real = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: _refuse(path) if path.suffix == ".ltx" else real(path, missing_ok))
    for _ in range(3):
        trial.commit()
        trial.ship()
    assert trial.shipper.status.state == "shipping"
    monkeypatch.setattr(Path, "unlink", real)
    trial.restart()
    trial.commit()
    trial.ship()
    assert trial.shipper.status.state == "shipping" and not trial.shipper.fence.cause
    trial.check()


def test_what_cannot_be_dropped_leaves_no_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path)
    trial.ship()
    trial.store.away = True
    for _ in range(2):
        trial.commit(BIG)
        trial.shipper.turn()
    real, left = Path.unlink, []
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: left.append(path) or _refuse(path) if not left else real(path))
    trial.commit(BIG)
    trial.shipper.turn()  # too much waits now, and the newest file cannot be removed
    monkeypatch.setattr(Path, "unlink", real)
    assert left and trial.shipper.status.state == "stalled"
    trial.store.away = False
    for _ in range(3):
        trial.shipper.turn()
        trial.put()
    assert trial.shipper.status.state == "shipping"
    trial.check()


BIG = 150_000  # bytes: two of them are more than may wait


def _refuse(path: Path) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def test_a_note_that_was_cut_short_is_in_nobody_elses(tmp_path: Path) -> None:
    class Lax(MoodyStore):
        conditional = False

    store = Lax(tmp_path / "bucket")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "owner").write_text("")  # a full disk, in a version that wrote it in place
    (tmp_path / "two").mkdir()
    one_side, other = Fence(store, tmp_path / "one", lambda: 0.0), Fence(store, tmp_path / "two", lambda: 0.0)
    assert other.hold()
    assert not one_side.hold(), "the note is somebody else's"


def test_a_file_whose_place_was_not_confirmed_is_put_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, name = FolderStore(tmp_path), Name(0, 1, 1)
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"content")
        store.put(Name(0, 2, 2), file, 1)
        Failing(monkeypatch, ltx_folder, "sync_path", BROKEN)
        with pytest.raises(Unavailable):
            store.put(name, file, 1)
        assert [stored.name for stored in store.list(0)] == [Name(0, 2, 2)]
        assert store.put(name, file, 1) is None


def test_what_a_killed_put_left_goes_with_the_next_files_that_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, level = FolderStore(tmp_path), tmp_path / "ltx" / "0"
    with (tmp_path / "file").open("w+b") as file:
        store.put(Name(0, 1, 1), file, 1)
        store.put(Name(0, 2, 2), file, 1)
    (level / "x.ltx.0.tmp").touch()
    store.delete([Name(0, 1, 1)])
    assert (level / "x.ltx.0.tmp").exists(), "somebody may still write it"
    monkeypatch.setattr("changelog.ltx.store.folder.ABANDONED", -1.0)
    store.delete([Name(0, 2, 2)])
    assert not list(level.iterdir())


def test_a_staged_file_stands_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path)
    trial.ship()
    trial.commit()
    Failing(monkeypatch, ltx_staging, "sync_path", BROKEN)
    trial.shipper.turn()
    assert len(list(trial.shipper.staging._folder.glob("*.ltx"))) == 1 and trial.shipper.status.state == "stalled"
    assert Shipped(trial.shipper.staging._folder).newest is not None
    trial.ship()
    trial.check()


def test_a_replica_that_cannot_be_written_stays_where_it_is(tmp_path: Path) -> None:
    primary = make_primary(tmp_path / "p.db", SCHEMA)
    replica = make_replica(primary, tmp_path / "r.db")
    run_sql(primary, "INSERT INTO pens(pen) VALUES(zeroblob(500000))")
    with closing(connect_replica(replica)) as db, closing(Primary(primary)) as source:
        before = position_of(db)
        db.pragma("max_page_count", db.pragma("page_count"))
        header, rows = source.frame(before)
        with pytest.raises(apsw.FullError):
            replay(db, *decode_frame(encode_frame(header, rows)))
        assert position_of(db) == before
        db.pragma("max_page_count", 2**30)
        header, rows = source.frame(before)
        assert replay(db, *decode_frame(encode_frame(header, rows))) == source.head()


def test_the_old_farm_is_where_it_was_when_the_new_one_cannot_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, before = make_primary(tmp_path / "farm.db", SCHEMA), tmp_path / "new.db"
    make_primary(before, SCHEMA)
    for broken in ((promote, "put_in_place"), (promote.os, "link")):
        epoch = Position.of_head(connect(target)).epoch
        with pytest.raises((OSError, Unavailable)) if broken[1] == "put_in_place" else nullcontext(), monkeypatch.context() as failing:
            Failing(failing, *broken, NO_ROOM)
            with replacing(target, "aside", force=True) as incoming:
                incoming.write_bytes(before.read_bytes())
        with closing(connect(target)) as db:
            assert one(db, "PRAGMA integrity_check") == "ok"
            assert (Position.of_head(db).epoch == epoch) == (broken[1] == "put_in_place")
        assert (tmp_path / "farm.db.aside").exists() == (broken[1] == "link")


def test_what_a_program_left_beside_a_file_is_never_played_into_the_one_that_takes_its_place(tmp_path: Path) -> None:
    target, incoming = tmp_path / "farm.db", make_primary(tmp_path / "new.db", SCHEMA)
    Path(f"{target}-journal").write_bytes(b"of the old one")
    put_in_place(incoming, target)
    assert not Path(f"{target}-journal").exists()
