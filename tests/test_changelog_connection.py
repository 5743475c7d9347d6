"""Connections: transactions that stop no other thread, and errors that say what is wrong with a file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from changelog_parts import shell_run, wait_until

from changelog import connection
from changelog.connection import connect, identity, one, rows
from changelog.errors import DamagedFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    db = connect(tmp_path / "p.db", create=True)
    db.execute("CREATE TABLE t(v UNIQUE)")
    db.close()
    return tmp_path / "p.db"


@pytest.fixture
def db(path: Path) -> Iterator[connection.apsw.Connection]:
    made = connect(path)
    yield made
    made.close()


def test_a_file_becomes_a_wal_file_once_its_writer_is_done(tmp_path: Path) -> None:
    """SQLite itself waits for nobody here."""
    shell_run(tmp_path / "p.db", "CREATE TABLE t(v)")
    with closing(apsw.Connection(str(tmp_path / "p.db"))) as writer:
        writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES(1)")
        with pytest.raises(apsw.BusyError):
            connect(tmp_path / "p.db", create=True, patience=50)
        done = threading.Timer(0.2, writer.execute, ("COMMIT",))
        done.start()
        with closing(connect(tmp_path / "p.db", create=True)) as db:
            assert (db.pragma("journal_mode"), one(db, "SELECT v FROM t")) == ("wal", 1)
        done.join()


def test_waiting_for_another_s_lock_stops_no_other_thread(path: Path, db: apsw.Connection) -> None:
    """Least of all the one that holds the lock."""
    other, entered = connect(path), threading.Event()

    def write() -> None:
        entered.set()
        with db:
            db.execute("INSERT INTO t VALUES(1)")

    other.execute("BEGIN IMMEDIATE")
    thread = threading.Thread(target=write)
    began = time.monotonic()
    thread.start()
    entered.wait()
    turns = 0
    while time.monotonic() - began < 0.3:
        turns += 1
        time.sleep(0.002)
    other.execute("COMMIT")
    thread.join()
    assert turns > 20
    assert time.monotonic() - began < 3
    assert rows(db, "SELECT v FROM t") == [(1,)]
    other.close()


def test_a_transaction_that_fails_takes_everything_back(db: apsw.Connection) -> None:
    with pytest.raises(ZeroDivisionError), db:
        db.execute("INSERT INTO t VALUES(1)")
        raise ZeroDivisionError
    assert not db.in_transaction and not rows(db, "SELECT v FROM t")
    with db as same:
        assert same is db and db.in_transaction
        db.execute("INSERT INTO t VALUES(2)")
    assert not db.in_transaction and rows(db, "SELECT v FROM t") == [(2,)]


def test_a_transaction_inside_another_is_a_savepoint(db: apsw.Connection) -> None:
    with db:
        db.execute("INSERT INTO t VALUES(1)")
        with pytest.raises(ZeroDivisionError), db:
            db.execute("INSERT INTO t VALUES(2)")
            with db:
                db.execute("INSERT INTO t VALUES(3)")
            raise ZeroDivisionError
        with db:
            db.execute("INSERT INTO t VALUES(4)")
        assert db.in_transaction
    assert rows(db, "SELECT v FROM t") == [(1,), (4,)]
    db.execute("BEGIN")
    with db:
        db.execute("INSERT INTO t VALUES(5)")
    assert db.in_transaction
    db.execute("ROLLBACK")
    assert rows(db, "SELECT v FROM t") == [(1,), (4,)]


def test_a_statement_that_ends_the_transaction_itself_is_the_error_that_is_seen(db: apsw.Connection) -> None:
    db.execute("INSERT INTO t VALUES(1)")
    with pytest.raises(apsw.ConstraintError), db:
        db.execute("INSERT INTO t VALUES(2)")
        db.execute("INSERT OR ROLLBACK INTO t VALUES(1)")
    assert not db.in_transaction and rows(db, "SELECT v FROM t") == [(1,)]


def test_a_commit_that_is_refused_is_rolled_back_and_raised(path: Path) -> None:
    db = connect(path, foreign_keys=True)
    db.execute("CREATE TABLE child(v REFERENCES t(v) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(apsw.ConstraintError), db:
        db.execute("INSERT INTO child VALUES(9)")
    assert not db.in_transaction and not rows(db, "SELECT * FROM child")
    db.close()


def test_a_writer_begins_with_the_lock_and_a_reader_without(path: Path, db: apsw.Connection) -> None:
    with db:
        assert "locked" in shell_run(path, "INSERT INTO t VALUES(1)").stderr
        reader = connect(path, readonly=True)
        with reader:
            assert rows(reader, "SELECT v FROM t") == []
            with pytest.raises(apsw.ReadOnlyError):
                reader.execute("INSERT INTO t VALUES(1)")
        reader.close()
    assert not shell_run(path, "INSERT INTO t VALUES(1)").stderr


def test_only_the_checkpointer_checkpoints(path: Path) -> None:
    keeper, writer = connect(path, checkpoints=True), connect(path)
    wal = Path(f"{path}-wal")
    for _ in range(3):
        with writer:
            writer.executemany("INSERT INTO t VALUES(?)", ((f"{time.monotonic_ns()} {'x' * 3000} {i}",) for i in range(500)))
    grown = wal.stat().st_size
    assert grown > 3 * 500 * 3000
    before = path.stat().st_size
    keeper.execute("INSERT INTO t VALUES('last')")
    assert path.stat().st_size > before
    keeper.close()
    writer.close()


@pytest.mark.parametrize("what", ["missing", "text", "folder", "cut", "header overwritten"])
def test_a_file_that_is_no_sound_database_is_named(tmp_path: Path, path: Path, what: str) -> None:
    wrong = tmp_path / "wrong.db"
    if what == "text":
        wrong.write_text("not a database " * 1000)
    elif what == "folder":
        wrong.mkdir()
    elif what == "cut":
        wrong.write_bytes(path.read_bytes()[:50])
    elif what == "header overwritten":
        wrong.write_bytes(b"\0" * 100 + path.read_bytes()[100:])
    for readonly in (False, True):
        with pytest.raises(DamagedFile, match=r"wrong\.db"):
            connect(wrong, readonly=readonly)
    assert what != "missing" or not wrong.exists()


def test_a_replaced_file_has_another_identity(tmp_path: Path, path: Path) -> None:
    before = identity(path)
    (tmp_path / "new").write_bytes(path.read_bytes())
    (tmp_path / "new").replace(path)
    assert identity(path) not in (None, before)
    path.unlink()
    assert identity(path) is None


def test_readers_go_on_while_a_writer_waits(path: Path, db: apsw.Connection) -> None:
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    waiting = threading.Thread(target=db.execute, args=("INSERT INTO t VALUES(1)",))
    waiting.start()
    reader = connect(path, readonly=True)
    assert one(reader, "SELECT count(*) FROM t") == 0
    other.execute("COMMIT")
    waiting.join()
    wait_until(lambda: one(reader, "SELECT count(*) FROM t") == 1)
    reader.close()
    other.close()


def test_a_reader_rolls_back_what_a_killed_writer_left_half_done(tmp_path: Path) -> None:
    path = tmp_path / "killed.db"
    killed = """import os, sys, apsw
db = apsw.Connection(sys.argv[1])
db.execute("CREATE TABLE t(v); INSERT INTO t VALUES('whole')")
db.execute("PRAGMA cache_size=1; BEGIN; UPDATE t SET v=hex(zeroblob(100000)); INSERT INTO t SELECT v FROM t")
os.kill(os.getpid(), 9)"""
    subprocess.run([sys.executable, "-c", killed, str(path)], check=False)
    assert path.with_name("killed.db-journal").stat().st_size > 0
    with closing(connection.connect(path, readonly=True)) as db:
        assert db.execute("SELECT v FROM t").fetchall() == [("whole",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
def test_a_database_that_this_user_may_not_open_names_its_owner(entered_by_all: Path) -> None:
    path = entered_by_all / "farm.db"
    connect(path, create=True).close()
    path.chmod(0o600)
    os.seteuid(65_534)
    try:
        for readonly in (True, False):
            with pytest.raises(
                DamagedFile, match=r"farm\.db cannot be opened: Permission denied: it belongs to root: run this as that user"
            ):
                connect(path, readonly=readonly)
    finally:
        os.seteuid(0)
