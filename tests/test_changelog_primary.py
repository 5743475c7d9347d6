"""The primary's side: who stands where, what is served and when, whatever is done to the file meanwhile."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from changelog_parts import (
    REPOSITORY,
    assert_alike,
    contents,
    follow,
    make_database,
    make_primary,
    make_replica,
    run_sql,
    shell,
    wait_until,
)

from changelog.bootstrap import fit_out
from changelog.connection import connect, one
from changelog.errors import (
    BadRequest,
    BrokenFrame,
    DamagedFile,
    Divergence,
    DroverError,
    HistoryTrimmed,
    NotAPrimary,
    PositionMismatch,
    Stranger,
    Unavailable,
)
from changelog.install import install, schema_moved
from changelog.log import head
from changelog.position import Position
from changelog.primary import Primary
from changelog.reader import check_position, descends
from changelog.reconcile import reconcile
from changelog.replay import connect_replica, position_of, replay
from changelog.wire import decode_frame, encode_frame

SCHEMA = "CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT, size);"
EPOCH = "0123456789abcdef" * 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_primary(tmp_path / "p.db", SCHEMA)


@pytest.fixture
def source(path: Path) -> Iterator[Primary]:
    made = Primary(path)
    yield made
    made.close()


def head_of(path: Path) -> Position:
    db = connect(path)
    try:
        return Position.of_head(db)
    finally:
        db.close()


def copy_file(path: Path, target: Path) -> None:
    """As an operator does it: the writers stopped, the -wal in the file."""
    shell(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, target)


# --- positions


def test_a_position_is_printed_as_it_is_read() -> None:
    position = Position(EPOCH, 2**63 - 1, 2**53 - 1)
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        f"{EPOCH}/1",
        f"{EPOCH}/1/2/3",
        f"{EPOCH}/-1/2",
        f"{EPOCH}/1/2\n",
        f"{EPOCH.upper()}/1/2",
        f"{EPOCH}/1e3/2",
        f"{EPOCH[1:]}/1/2",
        "x" * 10**6,
    ],
)
def test_what_is_no_position_is_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequest):
        Position.parse(text)


def test_a_number_too_large_for_a_position_is_answered_not_raised(path: Path) -> None:
    db = connect(path)
    epoch = Position.of_head(db).epoch
    for text in (f"{epoch}/{'9' * 19}/1", f"{epoch}/1/{'9' * 19}", f"{EPOCH}/0/0", f"{epoch}/0/0"):
        with pytest.raises(DroverError):
            check_position(db, Position.parse(text))
    db.close()


def test_a_position_off_the_history_is_409_and_names_epoch_head_and_oldest(path: Path) -> None:
    db = connect(path)
    db.execute("INSERT INTO pens(pen) VALUES('A'),('B')")
    now = Position.of_head(db)
    check_position(db, now)
    wrong = {
        "another epoch": Position(EPOCH, now.seq, now.check),
        "past the head": Position(now.epoch, now.seq + 1, now.check),
        "another write": Position(now.epoch, now.seq, now.check ^ 1),
        "the write of another seq": Position(now.epoch, now.seq - 1, now.check),
    }
    for what, position in wrong.items():
        with pytest.raises(PositionMismatch) as refused:
            check_position(db, position)
        assert refused.value.status == 409 and refused.value.action == "resync", what
        assert refused.value.facts == {"epoch": now.epoch, "oldest": 1, "head": now.seq, "descends": position.epoch == now.epoch}
    db.close()


def test_a_position_before_the_oldest_row_is_410_and_the_last_trimmed_one_is_still_good(path: Path) -> None:
    db = connect(path)
    db.execute("INSERT INTO pens(pen) VALUES('A'),('B'),('C'),('D')")
    nonces = dict(db.execute("SELECT seq, nonce FROM changelog"))
    epoch = Position.of_head(db).epoch
    with db:
        db.execute("INSERT INTO changelog_meta(name,value,seq) VALUES('trimmed',?,3)", (nonces[3],))
        db.execute("DELETE FROM changelog WHERE seq<=3")
    with pytest.raises(HistoryTrimmed) as refused:
        check_position(db, Position(epoch, 2, nonces[2]))
    assert refused.value.status == 410 and refused.value.facts["oldest"] == 4
    check_position(db, Position(epoch, 3, nonces[3]))
    with pytest.raises(PositionMismatch):
        check_position(db, Position(epoch, 3, nonces[2]))
    db.close()


def test_a_log_that_somebody_emptied_is_said_to_be_no_log(path: Path) -> None:
    at = head_of(path)
    run_sql(path, "DELETE FROM changelog")
    source = Primary(path)
    for ask in (source.head, lambda: source.frame(at)):
        with pytest.raises(NotAPrimary):
            ask()
    source.close()


def test_upto_outside_of_position_and_head_is_refused(path: Path, source: Primary) -> None:
    at = source.head()
    run_sql(path, "INSERT INTO pens(pen) VALUES('A'),('B')")
    for upto in (at.seq - 1, at.seq + 3, 2**62, -1):
        with pytest.raises(PositionMismatch):
            source.frame(at, upto)
    header, rows = source.frame(at, at.seq + 1)
    assert (header.upto, [r[0] for r in rows]) == (at.seq + 1, [at.seq + 1])


def test_descends_tells_our_own_line_from_a_stranger_s(tmp_path: Path, path: Path) -> None:
    first = head_of(path)
    db = connect(path)
    install(db)
    install(db)
    assert descends(db, first.epoch) and descends(db, Position.of_head(db).epoch)
    assert not descends(db, EPOCH) and not descends(db, "")
    db.close()
    other = connect(make_primary(tmp_path / "other.db", SCHEMA))
    assert not descends(other, first.epoch)
    other.close()


REWRITES = {
    "other writes": "INSERT INTO pens(pen) VALUES('X'); INSERT INTO pens(pen) VALUES('Y'); INSERT INTO pens(pen) VALUES('Z');",
    "the same writes": "INSERT INTO pens(pen) VALUES('A'); INSERT INTO pens(pen) VALUES('B'); INSERT INTO pens(pen) VALUES('C');",
    "fewer writes": "INSERT INTO pens(pen) VALUES('A');",
    "no writes": "SELECT 1;",
}


@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize("how", ["copied back", "restored in place"])
def test_a_primary_that_went_back_in_time_is_always_detected(tmp_path: Path, path: Path, rewrite: str, how: str) -> None:
    backup = tmp_path / "backup.db"
    copy_file(path, backup)
    shell(path, "INSERT INTO pens(pen) VALUES('A'); INSERT INTO pens(pen) VALUES('B'); INSERT INTO pens(pen) VALUES('C');")
    replica = make_replica(path, tmp_path / "r.db")
    source = Primary(path)
    at = source.head()
    if how == "copied back":
        path.unlink()
        shutil.copy(backup, path)
    else:
        shell(path, f".restore '{backup}'\n")
    shell(path, REWRITES[rewrite])
    for asked in (source, Primary(path)):
        with pytest.raises(PositionMismatch) as refused:
            asked.frame(at)
        assert refused.value.facts["descends"]
        asked.close()
    # and the one road out of doubt leads on: same epoch, so no stranger
    again = make_replica(path, tmp_path / "again.db")
    assert_alike(path, again)
    with pytest.raises(PositionMismatch):
        follow(path, replica)


def test_a_file_replaced_in_the_middle_of_a_long_frame_never_mixes_two_histories(tmp_path: Path, path: Path) -> None:
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<1500) INSERT INTO pens(pen) SELECT '{}'||i FROM n;"
    backup, replica = tmp_path / "backup.db", make_replica(path, tmp_path / "r.db")
    copy_file(path, backup)
    shell(path, many.format("first "))
    source, db = Primary(path), connect_replica(replica)
    header, rows = source.frame(position_of(db))

    def with_a_restore() -> Iterator[tuple[object, ...]]:
        for count, row in enumerate(rows):
            if count == 5:
                path.unlink()
                shutil.copy(backup, path)
                shell(path, many.format("second "))
            yield row

    before = contents(replica)
    with pytest.raises(DroverError):
        replay(db, *decode_frame(encode_frame(header, with_a_restore())))  # type: ignore[arg-type]
    db.close()
    source.close()
    assert contents(replica) == before


# --- DDL, seen before anything is served


DDL = {
    "add column": "ALTER TABLE pens ADD COLUMN more",
    "add column with a default": "ALTER TABLE pens ADD COLUMN more NOT NULL DEFAULT 'm'",
    "add a computed column": "ALTER TABLE pens ADD COLUMN more AS (size*2)",
    "rename column": "ALTER TABLE pens RENAME COLUMN pen TO name",
    "rename table": "ALTER TABLE pens RENAME TO barns",
    "rename it and make another of its name": "ALTER TABLE pens RENAME TO barns; CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT, size)",
    "create table": "CREATE TABLE more(a PRIMARY KEY, b)",
    "create table as": "CREATE TABLE more AS SELECT * FROM pens",
    "create a table without rowid": "CREATE TABLE more(a PRIMARY KEY, b) WITHOUT ROWID; INSERT INTO more VALUES(1,2)",
    "drop table": "DROP TABLE tags",
    "drop it and make it again": "DROP TABLE tags; CREATE TABLE tags(tag TEXT, pen); INSERT INTO tags VALUES('t9',9)",
    "create index": "CREATE INDEX i ON pens(size)",
    "create unique index": "CREATE UNIQUE INDEX i ON pens(pen) WHERE size>0",
    "drop index": "DROP INDEX tags_pen",
    "create view": "CREATE VIEW v AS SELECT * FROM pens",
    "drop view": "DROP VIEW all_tags",
    "create trigger": "CREATE TRIGGER app AFTER INSERT ON pens BEGIN UPDATE pens SET size=size+1 WHERE id=NEW.id; END",
    "drop trigger": "DROP TRIGGER theirs",
    "vacuum": "VACUUM",
    "analyze": "ANALYZE",
    "reindex": "REINDEX",
    "our triggers dropped": "DROP TRIGGER <ai>; DROP TRIGGER <ad>",
    "our triggers dropped and made again": "<take>; INSERT INTO pens(id,pen,size) VALUES(70,'unseen',1);"
    "UPDATE pens SET size=99 WHERE id=2; <give>",
    "twelve steps of a rebuild": "PRAGMA legacy_alter_table=ON; BEGIN; CREATE TABLE fresh(id INTEGER PRIMARY KEY, size, pen TEXT); "
    "INSERT INTO fresh SELECT id, size, pen FROM pens;"
    "DROP TABLE pens; ALTER TABLE fresh RENAME TO pens; COMMIT; PRAGMA legacy_alter_table=OFF",
    "ddl that was rolled back": "BEGIN; CREATE TABLE no(a); ROLLBACK",
    "create and fill a table": "CREATE TABLE more(a); INSERT INTO more SELECT pen FROM pens",
    "trigger dropped by name and a table too": "DROP TABLE tags; ALTER TABLE pens ADD COLUMN x; CREATE INDEX xi ON pens(x)",
}
RICH = (
    SCHEMA
    + "CREATE TABLE tags(tag TEXT, pen); CREATE INDEX tags_pen ON tags(pen); CREATE VIEW all_tags AS SELECT tag FROM tags;"
    + "CREATE TRIGGER theirs AFTER DELETE ON tags BEGIN UPDATE pens SET size=0 WHERE id=OLD.pen; END;"
    + "INSERT INTO pens VALUES(1,'A',1),(2,'B',2),(3,'C',3); INSERT INTO tags VALUES('t1',1),('t2',2),('t3',3);"
    + "DELETE FROM tags WHERE tag='t1';"
)
AROUND = (
    "UPDATE pens SET size=size+10 WHERE id=1; INSERT INTO pens(size) VALUES(44); DELETE FROM pens WHERE id=3;"
    "REPLACE INTO pens(id,size) VALUES(2,55); UPDATE tags SET pen=8 WHERE tag='t2'; DELETE FROM tags WHERE tag='t3';"
)


def catch_up(path: Path, replica: Path) -> Path:
    """As the sync service does it: by a frame, or by a snapshot of a history that descends from ours."""
    try:
        follow(path, replica)
    except (PositionMismatch, Divergence, BrokenFrame):
        db = connect(replica)
        epoch = one(db, "SELECT epoch FROM changelog_position")
        db.close()
        source, fresh = Primary(path), replica.with_name(f"again-{time.monotonic_ns()}.db")
        source.copy_to(fresh)
        source.close()
        fit_out(fresh, epoch)  # refuses a stranger
        return fresh
    return replica


def with_our_triggers(path: Path, sql: str) -> str:
    """The marks in `sql` replaced by the statements that take our triggers of pens away and put them back, letter by letter."""
    db = connect(path)
    ours = db.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type='trigger' AND tbl_name='pens' AND name LIKE '\\_changelog%' ESCAPE '\\'"
    ).fetchall()
    db.close()
    quoted = {name: '"' + name.replace('"', '""') + '"' for name, _ in ours}
    for kind in ("ai", "ad"):
        sql = sql.replace(f"<{kind}>", next(q for n, q in quoted.items() if n.startswith(f"_changelog_{kind}_")))
    take, give = ";".join(f"DROP TRIGGER {q}" for q in quoted.values()), ";".join(text for _, text in ours)
    return sql.replace("<take>", take).replace("<give>", give)


@pytest.mark.parametrize("ddl", DDL)
def test_rows_written_before_during_and_after_ddl_are_on_the_replica(tmp_path: Path, ddl: str) -> None:
    path = make_primary(tmp_path / "p.db", RICH)
    replica = make_replica(path, tmp_path / "r.db")
    shell(path, AROUND)
    around = [line for line in AROUND.split(";") if "tags" not in line] if "tags" in DDL[ddl] else AROUND.split(";")
    text = ";".join(around)
    after = text.replace("pens", "barns") if ddl == "rename table" else text
    try:
        shell(path, with_our_triggers(path, DDL[ddl]) + ";" + after)
        shell(path, after)
        replica = catch_up(path, replica)
        assert_rows_alike(path, replica)
        shell(path, after)
        replica = catch_up(path, replica)
        assert_rows_alike(path, replica)
    finally:
        db = connect(path)
        assert not schema_moved(db)  # nothing is left to be noticed
        db.close()


def assert_rows_alike(path: Path, replica: Path) -> None:
    assert contents(replica) == contents(path)


def test_ddl_between_two_looks_is_noticed_even_while_a_snapshot_is_open(path: Path, source: Primary) -> None:
    before = source.head()
    with source.snapshot() as db:
        shell(path, "ALTER TABLE pens ADD COLUMN more; INSERT INTO pens(pen, more) VALUES('A','m')")
        assert head(db) == before.seq  # an open snapshot stays what it was
        assert not schema_moved(db)
    with source.snapshot() as db:
        assert not schema_moved(db)
        rows = db.execute("SELECT pen, more FROM pens").fetchall()
    assert rows == [("A", "m")]
    shell(path, "UPDATE pens SET more='n'")
    # The first is what the new column held when it was seen.
    assert shell(path, "SELECT new FROM changelog_audit WHERE op='U' AND col='more'") == "m\nn\n"


def test_reconcile_does_nothing_where_nothing_moved(path: Path) -> None:
    db = connect(path)
    before = Position.of_head(db)
    assert not reconcile(db)
    db.execute("CREATE TEMP TABLE scratch(a)")
    db.execute("INSERT INTO pens(pen) VALUES('A')")
    assert not reconcile(db)
    assert Position.of_head(db) == Position(before.epoch, before.seq + 1, one(db, "SELECT max(nonce) FROM changelog WHERE seq=2"))
    db.close()


def test_two_that_reconcile_at_once_do_it_once(path: Path) -> None:
    shell(path, "ALTER TABLE pens ADD COLUMN more")
    sources = [Primary(path) for _ in range(4)]
    found: list[Position] = []
    threads = [threading.Thread(target=lambda s=s: found.append(s.head())) for s in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 4
    for source in sources:
        source.close()


def test_a_schema_that_never_rests_is_unavailable_not_wrong(path: Path) -> None:
    source = Primary(path, reconcile=lambda: shell(path, "CREATE INDEX IF NOT EXISTS i ON pens(pen); DROP INDEX i"))
    shell(path, "CREATE TABLE more(a)")
    with pytest.raises(Unavailable):
        source.head()
    source.close()


# --- snapshots of a file that lives


def test_a_snapshot_sees_the_commit_of_another_process_and_not_what_is_open_there(path: Path, source: Primary) -> None:
    before = source.head()
    other = subprocess.Popen(["sqlite3", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin and other.stdout
    other.stdin.write("BEGIN IMMEDIATE; INSERT INTO pens(pen) VALUES('A'); SELECT 'written';\n")
    other.stdin.flush()
    assert other.stdout.readline() == "written\n"
    assert source.head() == before
    other.stdin.write("COMMIT; SELECT 'done';\n")
    other.stdin.flush()
    assert other.stdout.readline() == "done\n"
    assert source.head().seq == before.seq + 1
    other.communicate(".quit\n", timeout=10)


def test_a_slow_reader_of_a_frame_or_a_copy_holds_no_snapshot(path: Path, source: Primary) -> None:
    at = source.head()
    shell(path, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3500) INSERT INTO pens(pen) SELECT 'p'||i FROM n")
    _, chunks = source.encoded_frame(at)
    read = next(chunks)
    assert shell(path, "PRAGMA wal_checkpoint(TRUNCATE)") == "0|0|0\n"  # not busy
    shell(path, "UPDATE pens SET size=1 WHERE id<10")
    read += next(chunks)
    assert shell(path, "PRAGMA wal_checkpoint(TRUNCATE)") == "0|0|0\n"
    header, pages = decode_frame([read + b"".join(chunks)])
    assert sum(len(page.rows) for page in pages) == header.upto - header.after == 3500


def test_a_frame_whose_rows_are_trimmed_under_it_breaks_off_and_is_refused(tmp_path: Path, path: Path, source: Primary) -> None:
    replica = make_replica(path, tmp_path / "r.db")
    shell(path, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3500) INSERT INTO pens(pen) SELECT 'p'||i FROM n")
    db = connect_replica(replica)
    header, rows = source.frame(position_of(db))
    first = next(rows)
    run_sql(path, "DELETE FROM changelog WHERE seq<3000")
    with pytest.raises(HistoryTrimmed):
        list(rows)
    assert first[0] == header.after + 1
    db.close()


def test_pages_of_a_long_catch_up_carry_the_same_end(path: Path, source: Primary) -> None:
    at = source.head()
    shell(path, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<25) INSERT INTO pens(pen) SELECT 'p'||i FROM n")
    header, rows = source.frame(at, limit=10)
    shell(path, "INSERT INTO pens(pen) VALUES('later')")
    assert (header.upto, len(list(rows))) == (at.seq + 25, 10)
    middle = Position(at.epoch, at.seq + 10, int(shell(path, f"SELECT nonce FROM changelog WHERE seq={at.seq + 10}")))
    header, rows = source.frame(middle, upto=header.upto, limit=100)
    assert (header.upto, [r[0] for r in rows][-1]) == (at.seq + 25, at.seq + 25)


def test_a_file_replaced_under_a_reader_is_read_anew(tmp_path: Path, path: Path, source: Primary) -> None:
    shell(path, "INSERT INTO pens(pen) VALUES('old')")
    old = source.head()
    other = make_primary(tmp_path / "other.db", SCHEMA)
    shell(other, "INSERT INTO pens(pen) VALUES('new')")
    copy_file(other, tmp_path / "copy.db")
    (tmp_path / "copy.db").replace(path)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    assert source.head() == head_of(other) != old
    with pytest.raises(PositionMismatch) as refused:
        source.frame(old)
    assert not refused.value.facts["descends"]
    with source.snapshot() as db:
        assert db.execute("SELECT pen FROM pens").fetchall() == [("new",)]


@pytest.mark.parametrize("damage", ["removed", "text", "empty", "another database"])
def test_a_file_that_is_away_or_damaged_is_said_to_be(tmp_path: Path, path: Path, source: Primary, damage: str) -> None:
    source.head()
    copy_file(path, tmp_path / "good.db")
    path.unlink()
    if damage == "text":
        path.write_text("this is no database at all\n" * 500)
    elif damage == "empty":
        path.touch()
    elif damage == "another database":
        make_database(path, "CREATE TABLE t(a)")
    with pytest.raises((DamagedFile, NotAPrimary)):
        source.head()
    path.unlink(missing_ok=True)
    (tmp_path / "good.db").replace(path)
    source.head()


def test_the_copy_is_one_commit_and_carries_its_position(tmp_path: Path, path: Path, source: Primary) -> None:
    run_sql(path, "INSERT INTO pens(id, size) VALUES(1, 0), (2, 0)")
    stop = threading.Event()

    def write() -> None:
        db = connect(path)
        while not stop.is_set():
            with db:
                db.execute("UPDATE pens SET size=size+1 WHERE id=1")
                db.execute("UPDATE pens SET size=size+1 WHERE id=2")
        db.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for n in range(12):
            target = tmp_path / f"{n}.db"
            position = source.copy_to(target)
            db = connect(target)
            assert Position.of_head(db) == position
            assert one(db, "SELECT count(DISTINCT size) FROM pens") == 1
            assert 2 * one(db, "SELECT max(size) FROM pens") == position.seq - 3
            db.close()
    finally:
        stop.set()
        writer.join()


# --- waiting


def test_a_waiter_wakes_soon_after_the_commit_of_a_shell_and_not_before(path: Path, source: Primary) -> None:
    at, woke = source.head().seq, threading.Event()
    moment: list[float] = []

    def wait() -> None:
        source.commits.wait(at, 20)
        moment.append(time.monotonic())
        woke.set()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        shell(path, "CREATE TEMP TABLE x(a); UPDATE pens SET pen='nobody' WHERE 0; BEGIN; INSERT INTO pens(pen) VALUES('no'); ROLLBACK;")
        assert not woke.wait(0.4)
        db = connect(path)
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO pens(pen) VALUES('A')")
        assert not woke.wait(0.2)
        db.execute("COMMIT")
        committed = time.monotonic()
        assert woke.wait(10)
        assert moment[0] - committed < 0.2
        db.close()
        woke.clear()
    finally:
        source.commits.close()
        thread.join()


def test_a_waiter_whose_change_came_first_returns_at_once(path: Path, source: Primary) -> None:
    at = source.head().seq
    shell(path, "INSERT INTO pens(pen) VALUES('A')")
    began = time.monotonic()
    source.commits.wait(at, 20)
    assert time.monotonic() - began < 2


def test_ddl_alone_wakes_a_waiter(path: Path, source: Primary) -> None:
    at = source.head().seq
    thread = threading.Thread(target=source.commits.wait, args=(at, 20))
    began = time.monotonic()
    thread.start()
    shell(path, "CREATE INDEX i ON pens(pen)")
    thread.join(10)
    assert not thread.is_alive() and time.monotonic() - began < 5


def test_waiting_ends_in_time_when_asked_to_stop_and_when_the_file_goes(path: Path, source: Primary) -> None:
    began = time.monotonic()
    source.commits.wait(source.head().seq, 0.3)
    assert 0.25 < time.monotonic() - began < 3
    stopping = threading.Event()
    stopping.set()
    source.commits.wait(source.head().seq, 20, stopping)
    thread = threading.Thread(target=source.commits.wait, args=(source.head().seq, 20))
    thread.start()
    source.commits.close()
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - began < 10


def test_many_wait_and_all_wake(path: Path, source: Primary) -> None:
    at = source.head().seq
    threads = [threading.Thread(target=source.commits.wait, args=(at, 20)) for _ in range(12)]
    for thread in threads:
        thread.start()
    wait_until(lambda: source.commits._waiting == 12)
    began = time.monotonic()
    shell(path, "INSERT INTO pens(pen) VALUES('A')")
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads) and time.monotonic() - began < 3


def test_nobody_looks_at_the_file_while_nobody_waits(path: Path, source: Primary) -> None:
    source.commits.wait(source.head().seq, 0.05)
    began = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - began < 0.05


# --- durable before it is served


SERVER = """
import os, sys
from changelog.primary import Primary
from changelog.position import Position
source = Primary(sys.argv[1])
source.head()
at = Position.parse(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
header, chunks = source.encoded_frame(at)
for chunk in chunks:
    os.write(1, b"FIRST BYTES " + chunk)
"""


def test_the_wal_is_on_the_disk_before_the_first_byte_is_served(tmp_path: Path, path: Path) -> None:
    if not shutil.which("strace"):
        pytest.skip("strace is not here")
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=fdatasync,fsync,write", "-s", "40", "-o", str(trace)]
    server = subprocess.Popen(
        [*command, sys.executable, "-c", SERVER, str(path), str(head_of(path))],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin and server.stdout
    assert server.stdout.readline() == "ready\n"
    shell(path, "PRAGMA synchronous=OFF; INSERT INTO pens(pen) VALUES('A')")  # a careless writer, who syncs nothing
    output, _ = server.communicate("\n", timeout=60)
    assert "FIRST BYTES" in output
    served = trace.read_text().split('"ready', 1)[1]
    if "Operation not permitted" in served:
        pytest.skip("strace may not trace here")
    before = served.split("FIRST BYTES")[0]
    assert re.search(rf"fdatasync\(\d+<{re.escape(str(path))}-wal>\)\s*= 0", before), served


def test_opening_and_closing_the_wal_drops_no_lock(path: Path, source: Primary) -> None:
    """What syncs the -wal must not be what ends a writer's lock in the same process."""
    db = connect(path)
    with db:
        db.execute("INSERT INTO pens(pen) VALUES('A')")
        source.head()
        busy = subprocess.run(["sqlite3", str(path), "INSERT INTO pens(pen) VALUES('B')"], capture_output=True, text=True, check=False)
        assert "locked" in busy.stderr
    db.close()


def test_strangers_are_refused_and_descendants_taken(tmp_path: Path, path: Path) -> None:
    epoch = head_of(path).epoch
    other = make_primary(tmp_path / "other.db", SCHEMA)
    for name, accepted, refused in (("a", None, False), ("b", epoch, True)):
        copy = tmp_path / name
        source = Primary(other)
        source.copy_to(copy)
        source.close()
        if refused:
            with pytest.raises(Stranger, match="accept"):
                fit_out(copy, accepted)
        else:
            assert fit_out(copy, accepted) == head_of(other)
    with pytest.raises(apsw.SQLError):
        run_sql(tmp_path / "b", "SELECT * FROM changelog_position")  # what was refused was not fitted out either


def test_a_file_that_somebody_took_out_of_wal_mode_is_put_back(path: Path, source: Primary) -> None:
    assert shell(path, "PRAGMA journal_mode=DELETE") == "delete\n"
    source.head()
    assert shell(path, "PRAGMA journal_mode") == "wal\n"
