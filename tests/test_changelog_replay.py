"""Replay: exact, strict, and whole or not at all."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from changelog_parts import (
    REPOSITORY,
    assert_alike,
    contents,
    damage,
    follow,
    frame_of,
    log_of,
    make_primary,
    make_replica,
    run_sql,
    shell,
)

from changelog.connection import connect, one, rows
from changelog.errors import BrokenFrame, DamagedFile, Divergence, DroverError
from changelog.install import schema_changes
from changelog.position import Position
from changelog.primary import Primary
from changelog.replay import CHECKPOINT_BYTES, checkpoint, connect_replica, position_of, replay
from changelog.wire import FACTS, decode_frame

SCHEMA = """
CREATE TABLE pens(id INTEGER PRIMARY KEY AUTOINCREMENT, pen TEXT UNIQUE ON CONFLICT REPLACE, size REAL NOT NULL DEFAULT 0 CHECK(size<100));
CREATE TABLE tags(tag TEXT NOT NULL PRIMARY KEY ON CONFLICT IGNORE, pen INTEGER REFERENCES pens(id) ON DELETE CASCADE, x) WITHOUT ROWID;
CREATE TABLE notes(body, x);
INSERT INTO pens(pen) VALUES('A'),('B'),('C');
INSERT INTO tags VALUES('t1',1,NULL),('t2',2,NULL);
INSERT INTO notes VALUES('n',1),('n',1);
"""


class Pair:
    """A primary, and a replica that stands at its head."""

    def __init__(self, folder: Path, schema: str = SCHEMA) -> None:
        self.primary = make_primary(folder / "p.db", schema)
        self.replica = make_replica(self.primary, folder / "r.db")
        self.start = self.position()

    def position(self) -> Position:
        db = connect_replica(self.replica)
        try:
            return position_of(db)
        finally:
            db.close()

    def follow(self) -> None:
        follow(self.primary, self.replica)
        assert_alike(self.primary, self.replica)

    def frame(self) -> list[Any]:
        """The lines of the frame that leads the replica on, parsed."""
        lines = [json.loads(line) for line in frame_of(self.primary, self.position()).splitlines()]
        del lines[-1]["crc32"]  # of lines that are written anew
        return lines

    def give(self, lines: list[Any]) -> Position:
        """Replay a frame of these lines."""
        db = connect_replica(self.replica)
        try:
            return replay(db, *decode_frame([b"".join(json.dumps(line).encode() + b"\n" for line in lines)]))
        finally:
            db.close()

    def everything(self) -> Any:
        db = connect(self.replica)
        try:
            meta = (
                rows(db, "SELECT * FROM changelog_meta"),
                rows(db, "SELECT * FROM changelog_cols"),
                rows(db, "SELECT * FROM changelog_position"),
            )
            return contents(self.replica), log_of(self.replica), meta, rows(db, "SELECT * FROM sqlite_schema")
        finally:
            db.close()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


# --- exact


@pytest.mark.parametrize(("frames", "rows_each"), [(1, 20_000), (40, 500)], ids=["one long frame", "many short ones"])
def test_pages_do_not_stay_in_memory_however_much_was_replayed(pair: Pair, frames: int, rows_each: int) -> None:
    db, numbers = connect_replica(pair.replica), f"WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows_each})"
    for _ in range(frames):
        shell(pair.primary, f"INSERT INTO notes(body) {numbers} SELECT hex(zeroblob(250)) FROM n")
        replay(db, *decode_frame([frame_of(pair.primary, position_of(db))]))
    assert db.status(apsw.SQLITE_DBSTATUS_CACHE_USED)[0] < 6e6 < one(db, "SELECT sum(length(body)) FROM notes")
    db.close()


VALUES = ["NULL", "0", "-1", "9223372036854775807", "-9223372036854775808"]
VALUES += ["0.1+0.2", "1e-320", "5e-324", "1.7976931348623157e308", "9e999", "-9e999", "1.0", "'12'", "' 12 '", "'1e3'", "''", "'it''s'"]
VALUES += ["'a'||char(0)||'b'", "char(128004)", '\'{"b":"00"}\'', "'{'", "'true'", "char(10)||char(13)", "hex(zeroblob(60000))"]
VALUES += ["CAST(x'61ff62' AS TEXT)", "CAST(x'eda080' AS TEXT)", "CAST(x'00' AS TEXT)", "x''", "x'00ff'", "zeroblob(100000)"]


@pytest.mark.parametrize("affinity", ["", "TEXT", "INTEGER", "REAL", "NUMERIC", "BLOB", "TEXT COLLATE NOCASE"])
def test_every_storage_class_under_every_affinity_reaches_the_replica_to_the_bit(tmp_path: Path, affinity: str) -> None:
    pair = Pair(
        tmp_path, f"CREATE TABLE t(id INTEGER PRIMARY KEY, v {affinity}); CREATE TABLE k(v {affinity} PRIMARY KEY, w) WITHOUT ROWID"
    )
    shell(pair.primary, "".join(f"INSERT INTO t(v) VALUES({v});" for v in VALUES))
    # -0.0 can only stand in a column without affinity, and only a writer with parameters can put it there
    db = connect(pair.primary)
    db.execute("INSERT INTO t(v) VALUES(?),(?)", (-0.0, 0.0))
    db.close()
    pair.follow()
    # each value turns into each neighbour, and is a key
    shell(
        pair.primary,
        "UPDATE t SET v=(SELECT b.v FROM t b WHERE b.id=t.id+1); INSERT OR REPLACE INTO k SELECT v, id FROM t WHERE v IS NOT NULL;",
    )
    pair.follow()
    shell(
        pair.primary, "UPDATE k SET w=w+1; UPDATE OR REPLACE k SET v=v||'x' WHERE typeof(v)='text'; DELETE FROM k WHERE w%2; DELETE FROM t;"
    )
    pair.follow()


def test_half_a_surrogate_pair_in_a_utf16_database_arrives_as_it_is(tmp_path: Path) -> None:
    """SQLite makes another character of it when asked for UTF-8, without a word."""
    primary = make_primary(tmp_path / "p.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)", "PRAGMA encoding='UTF-16le'")
    replica = make_replica(primary, tmp_path / "r.db")
    shell(primary, "INSERT INTO t(v) VALUES(CAST(x'00d84100' AS TEXT)),(CAST(x'00dc' AS TEXT)),('whole 🐄'); UPDATE t SET v=v||'x';")
    follow(primary, replica)
    asked = "SELECT hex(v) FROM t; SELECT hex(n1), hex(o1) FROM changelog;"
    assert shell(replica, asked) == shell(primary, asked)


def test_the_sign_of_zero_arrives_where_a_zero_becomes_another(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    run_sql(pair.primary, "INSERT INTO t VALUES(1,0.0),(2,0)")
    pair.follow()
    db = connect(pair.primary)
    db.execute("UPDATE t SET v=?", (-0.0,))
    db.close()
    pair.follow()
    db = connect(pair.replica)
    assert [repr(v) for (v,) in rows(db, "SELECT v FROM t")] == ["-0.0", "-0.0"]
    db.close()


def test_the_counters_and_the_header_fields_follow(pair: Pair) -> None:
    shell(
        pair.primary,
        "INSERT INTO pens(pen) VALUES('D'); DELETE FROM pens WHERE pen='D'; INSERT OR IGNORE INTO pens(id,pen,size) VALUES(NULL,'E',500);"
        "PRAGMA user_version=42; PRAGMA application_id=-5; UPDATE notes SET x=2;",
    )
    pair.follow()
    db = connect(pair.replica)
    assert (db.pragma("user_version"), db.pragma("application_id")) == (42, -5)
    db.close()
    # and where no row moved at all
    shell(pair.primary, "PRAGMA user_version=43; UPDATE sqlite_sequence SET seq=1000 WHERE name='pens';")
    pair.follow()
    shell(pair.primary, "INSERT INTO pens(pen) VALUES('F')")
    pair.follow()


def test_a_counter_that_begins_or_is_reset_follows(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, v)")
    shell(pair.primary, "INSERT OR IGNORE INTO a VALUES(7,NULL); DELETE FROM a;")
    pair.follow()
    shell(pair.primary, "DELETE FROM sqlite_sequence WHERE name='a'; INSERT INTO a(v) VALUES(1);")
    pair.follow()
    shell(pair.primary, "DELETE FROM a; DELETE FROM sqlite_sequence WHERE name='a'")
    pair.follow()


def test_conflict_clauses_of_the_schema_do_not_act_on_the_replica(pair: Pair) -> None:
    shell(
        pair.primary,
        "INSERT INTO pens(pen,size) VALUES('A',5); UPDATE pens SET pen='B' WHERE pen='C';"
        "INSERT INTO tags VALUES('t1',2,'ignored'),('t3',2,'new');",
    )
    pair.follow()


def test_checks_foreign_keys_and_triggers_of_the_schema_do_not_act_on_the_replica(tmp_path: Path) -> None:
    trigger = """
      CREATE TRIGGER busy AFTER INSERT ON pens BEGIN INSERT INTO notes VALUES(NEW.pen, 'by trigger'); UPDATE pens SET size=size+1; END;
      CREATE TRIGGER gone AFTER DELETE ON pens BEGIN INSERT INTO notes VALUES(OLD.pen, 'gone'); END;"""
    pair = Pair(tmp_path, SCHEMA + trigger)
    shell(pair.primary, "INSERT INTO pens(pen) VALUES('D'); DELETE FROM pens WHERE pen='A';")  # foreign keys off: tags keep their pen
    pair.follow()
    shell(pair.primary, "PRAGMA foreign_keys=ON; DELETE FROM pens WHERE pen='B';")
    pair.follow()
    shell(pair.primary, "PRAGMA ignore_check_constraints=ON; UPDATE pens SET size=5000;")
    pair.follow()
    assert "by trigger" in shell(pair.replica, "SELECT x FROM notes")


def test_duplicate_rows_without_a_key_are_followed_one_by_one(pair: Pair) -> None:
    shell(
        pair.primary,
        "UPDATE notes SET x=2 WHERE rowid=2; DELETE FROM notes WHERE rowid=1; UPDATE notes SET rowid=900; INSERT INTO notes VALUES('n',2);",
    )
    pair.follow()


def test_a_transaction_of_many_pages_arrives_whole(pair: Pair) -> None:
    shell(
        pair.primary,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<6000)"
        " INSERT INTO notes SELECT 'row '||i, CASE i%500 WHEN 0 THEN CAST(x'ff' AS TEXT) ELSE i END FROM n;"
        "UPDATE notes SET x=x||'.' WHERE rowid%3=0; DELETE FROM notes WHERE rowid%7=0;",
    )
    pair.follow()


# --- strict


def at(lines: list[Any], seq: int) -> list[Any]:
    return next(line for line in lines[1:-1] if line[0] == seq)


Change = Callable[[list[Any], int], None]
FIRST, KEY = len(FACTS), FACTS.index("key")


def lies() -> Iterator[tuple[str, Change]]:
    """What somebody may do to the frame of PAIR_SQL, whose first row has seq `first`."""

    def fact(name: str, value: Any) -> Change:
        return lambda lines, first: at(lines, first).__setitem__(FACTS.index(name), value)

    def head(**facts: Any) -> Change:
        return lambda lines, _: lines[0].update(facts)

    yield "another epoch", head(epoch="f" * 32)
    yield "another check", head(check=1)
    yield "another schema", head(schema="0" * 32)
    yield "an unknown table", fact("tbl", "nothing")
    yield "sqlite_master", fact("tbl", "sqlite_master")
    yield "sqlite_sequence", fact("tbl", "sqlite_sequence")
    yield "our own tables", fact("tbl", "changelog_meta")
    yield "SQL for a table", fact("tbl", 'pens"; DROP TABLE pens; --')
    yield "another column list", fact("gen", 5)
    yield "gen that no table has", fact("gen", -1)
    yield "a row too narrow", lambda lines, first: at(lines, first).pop()
    yield "a row too wide", lambda lines, first: at(lines, first).append(None)
    yield "an enormous row", lambda lines, first: at(lines, first).extend([None] * 100_000)
    yield "an update without its flags", lambda lines, first: at(lines, first + 1).__setitem__(FACTS.index("chg"), None)
    yield "an update with too many flags", lambda lines, first: at(lines, first + 1).__setitem__(FACTS.index("chg"), "1" * 9)
    yield "an update with SQL for flags", lambda lines, first: at(lines, first + 1).__setitem__(FACTS.index("chg"), "1'0")
    yield "an update of a missing row", lambda lines, first: at(lines, first + 1).__setitem__(FIRST + 3, 999)
    yield "a delete of a missing row", lambda lines, first: at(lines, first + 2).__setitem__(FIRST, 999)
    yield "an insert of an existing row", lambda lines, first: at(lines, first).__setitem__(FIRST, 2)
    yield "an insert of an existing unique value", lambda lines, first: at(lines, first).__setitem__(FIRST + 1, "B")
    yield "a NULL in a key", lambda lines, first: at(lines, first + 2).__setitem__(FIRST, None)
    yield "a NULL where none may be", lambda lines, first: at(lines, first).__setitem__(FIRST + 2, None)
    yield "text for an INTEGER PRIMARY KEY", lambda lines, first: at(lines, first).__setitem__(FIRST, "seven")
    yield "an integer beyond 64 bits", lambda lines, first: at(lines, first).__setitem__(FIRST + 1, 2**63)
    yield "a nonce beyond 64 bits", fact("nonce", 2**64)
    yield "half of a surrogate pair", lambda lines, first: at(lines, first).__setitem__(FIRST + 1, "\ud800")
    yield "a list for a value", lambda lines, first: at(lines, first).__setitem__(FIRST + 1, [1])
    yield "an object for a value", lambda lines, first: at(lines, first).__setitem__(FIRST + 1, {"x": 1})
    yield "a bool for a value", lambda lines, first: at(lines, first).__setitem__(FIRST + 1, True)
    yield (
        "a row of a table without a key, without its rowid",
        lambda lines, first: at(lines, first + 4).__setitem__(FACTS.index("orid"), None),
    )
    yield "an end that says less", lambda lines, _: lines[-1].update(count=4)
    yield "no end", lambda lines, _: lines.pop()
    yield "only the beginning", lambda lines, _: lines.__delitem__(slice(3, None))
    yield "the last row missing", lambda lines, _: lines.__delitem__(-2)


LIES = dict(lies())
# Each kind of change, on each kind of key; the lies above count on this order.
PAIR_SQL = (
    "INSERT INTO pens(id,pen,size) VALUES(50,'N',5); UPDATE pens SET size=7 WHERE id=2; DELETE FROM pens WHERE id=1;"
    "INSERT INTO notes VALUES('new',3); DELETE FROM notes WHERE rowid=1; UPDATE tags SET x=1 WHERE tag='t1';"
)


@pytest.mark.parametrize("lie", LIES)
def test_a_frame_that_does_not_fit_is_refused_and_nothing_changes(pair: Pair, lie: str) -> None:
    shell(pair.primary, PAIR_SQL)
    lines = pair.frame()
    before = pair.everything()
    LIES[lie](lines, pair.start.seq + 1)
    with pytest.raises((Divergence, BrokenFrame)):
        pair.give(lines)
    assert pair.everything() == before
    pair.follow()  # and the true frame still goes in


def test_a_frame_goes_in_once(pair: Pair) -> None:
    shell(pair.primary, PAIR_SQL)
    lines = pair.frame()
    pair.give(lines)
    before = pair.everything()
    with pytest.raises(Divergence):
        pair.give(lines)
    assert pair.everything() == before


def test_a_frame_of_later_rows_is_refused(pair: Pair) -> None:
    db = connect(pair.primary)
    db.execute("INSERT INTO notes VALUES('first',1)")
    middle = Position.of_head(db)
    db.execute("INSERT INTO notes VALUES('second',1)")
    db.close()
    before = pair.everything()
    with pytest.raises(Divergence):
        pair.give([json.loads(line) for line in frame_of(pair.primary, middle).splitlines()])
    assert pair.everything() == before


@pytest.mark.parametrize("wrong", ["UPDATE pens SET size=50 WHERE id=2", "DELETE FROM notes", "INSERT INTO pens(id,pen) VALUES(50,'mine')"])
def test_what_somebody_changed_on_the_replica_is_not_overwritten_in_silence(pair: Pair, wrong: str) -> None:
    """A changed value is found by the digest; a missing or additional row is found by replay."""
    damage(pair.replica, wrong)
    shell(pair.primary, PAIR_SQL)
    before = pair.everything()
    if "size=50" in wrong:
        follow(pair.primary, pair.replica)
        return
    with pytest.raises(Divergence):
        follow(pair.primary, pair.replica)
    assert pair.everything() == before


def test_a_replica_whose_schema_somebody_changed_is_refused(pair: Pair) -> None:
    run_sql(pair.replica, "CREATE INDEX mine ON notes(x)")
    shell(pair.primary, PAIR_SQL)
    before = pair.everything()
    with pytest.raises(Divergence, match="schema"):
        follow(pair.primary, pair.replica)
    assert pair.everything() == before


def test_indexes_of_the_replica_alone_are_no_difference(pair: Pair) -> None:
    run_sql(pair.replica, "CREATE INDEX changelog_local_x ON notes(x)")
    shell(pair.primary, PAIR_SQL)
    follow(pair.primary, pair.replica)


def test_a_reader_that_breaks_in_the_middle_leaves_nothing(pair: Pair) -> None:
    shell(pair.primary, PAIR_SQL)
    frame = frame_of(pair.primary, pair.position())
    before = pair.everything()

    def breaking() -> Iterator[bytes]:
        yield from frame.splitlines(keepends=True)[:4]
        raise ConnectionResetError

    db = connect_replica(pair.replica)
    with pytest.raises(ConnectionResetError):
        replay(db, *decode_frame(breaking()))
    db.close()
    assert pair.everything() == before


def test_a_file_that_is_no_replica_is_said_to_be_none(tmp_path: Path, pair: Pair) -> None:
    with pytest.raises(DamagedFile, match="not a replica"):
        connect_replica(pair.primary)
    (tmp_path / "text").write_text("no database at all, but long enough to be looked at " * 100)
    (tmp_path / "empty").touch()
    for name in ("text", "empty", "nothing"):
        with pytest.raises(DamagedFile):
            connect_replica(tmp_path / name)


def test_random_damage_to_a_frame_never_raises_anything_but_ours_and_never_half_applies(pair: Pair) -> None:
    shell(pair.primary, PAIR_SQL)
    frame = frame_of(pair.primary, pair.position())
    before, chance = pair.everything(), random.Random(5)
    db = connect_replica(pair.replica)
    refused = 0
    for _ in range(400):
        data = bytearray(frame)
        for _ in range(chance.choice([1, 2])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        db.execute("SAVEPOINT look")  # what does go in is taken back: a changed letter in a text is for TLS to find
        try:
            replay(db, *decode_frame([bytes(data)]))
        except DroverError:
            refused += 1
            assert one(db, "SELECT seq FROM changelog_position") == pair.start.seq
        db.execute("ROLLBACK TO look")
        db.execute("RELEASE look")
    db.close()
    assert refused > 100
    assert pair.everything() == before


# --- kill -9


FOLLOWER = """
import sys
from changelog.primary import Primary
from changelog.replay import connect_replica, position_of, replay
from changelog.wire import decode_frame
source, db = Primary(sys.argv[1]), connect_replica(sys.argv[2])
head = source.head().seq
while (at := position_of(db)).seq < head:
    print(at.seq, flush=True)
    replay(db, *decode_frame(source.encoded_frame(at, min(head, at.seq + 1500))[1]))
print("done", flush=True)
"""


def test_whenever_the_process_is_killed_the_position_says_what_the_rows_are(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE INDEX i ON t(v);")
    insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<40000) INSERT INTO t(v) SELECT hex(randomblob(8)) FROM n"
    shell(pair.primary, insert)
    chance, seen, done = random.Random(11), set(), False
    for _ in range(8):
        command = [sys.executable, "-c", FOLLOWER, str(pair.primary), str(pair.replica)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout
            done = "done\n" in [child.stdout.readline() for _ in range(chance.choice([1, 2, 4]))]
            try:
                child.wait(timeout=chance.uniform(0, 0.1))
            except subprocess.TimeoutExpired:
                child.kill()
        db = connect(pair.replica)
        reached = one(db, "SELECT seq FROM changelog_position")
        assert one(db, "SELECT max(seq) FROM changelog") == reached
        assert one(db, "SELECT count(*) FROM t") == reached - pair.start.seq
        assert one(db, "SELECT max(id) FROM t") in (reached - pair.start.seq, None)
        assert one(db, "PRAGMA integrity_check") == "ok"
        db.close()
        seen.add(reached)
        if done or len(seen) > 3:
            break
    assert len(seen) > 1
    pair.follow()


# --- the log itself is on the replica


def test_the_audit_tells_the_same_story_on_both_sides(pair: Pair) -> None:
    shell(pair.primary, PAIR_SQL)
    pair.follow()
    asked = "SELECT * FROM changelog_audit; SELECT * FROM changelog_of_pens; SELECT * FROM changelog_of_notes;"
    assert shell(pair.replica, asked) == shell(pair.primary, asked)
    assert "unknown writer" in shell(pair.replica, asked)


def test_rows_of_an_older_column_list_stay_readable_on_the_replica(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    db = connect(pair.primary)
    db.execute("INSERT INTO notes VALUES('before',1)")
    with schema_changes(db):
        db.execute("ALTER TABLE notes ADD COLUMN extra DEFAULT 'e'")
    db.execute("INSERT INTO notes VALUES('after',2,'f')")
    db.close()
    again = make_replica(pair.primary, tmp_path / "again.db")
    asked = "SELECT col, new FROM changelog_audit WHERE op='I' AND tbl='notes' ORDER BY seq, col"
    assert shell(again, asked) == "body|before\nx|1\nbody|after\nextra|f\nx|2\n"


def test_the_primary_s_log_may_be_signed_with_text_that_is_not_utf8(pair: Pair) -> None:
    shell(
        pair.primary,
        "INSERT INTO notes VALUES('x',1); UPDATE changelog SET actor=CAST(x'4af67267' AS TEXT) WHERE seq=(SELECT max(seq) FROM changelog);",
    )
    pair.follow()


def test_replay_survives_a_primary_that_it_reads_from_the_same_process(pair: Pair) -> None:
    """Reader and replica in one process, as in `pull`: neither may drop the other's locks."""
    source, db = Primary(pair.primary), connect_replica(pair.replica)
    for i in range(5):
        shell(pair.primary, f"INSERT INTO notes VALUES('round',{i})")
        replay(db, *decode_frame(source.encoded_frame(position_of(db))[1]))
    assert one(db, "SELECT count(*) FROM notes WHERE body='round'") == 5
    with pytest.raises(apsw.BusyError):
        locked = apsw.Connection(str(pair.replica))
        with db:
            locked.execute("BEGIN IMMEDIATE")
    locked.close()
    db.close()
    source.close()
    assert_alike(pair.primary, pair.replica)


class Following:
    """A pair whose replica is written on one connection that stays open, as the server's."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.db, self.source = pair, connect_replica(pair.replica), Primary(pair.primary)

    def frame(self) -> bytes:
        return b"".join(self.source.encoded_frame(position_of(self.db))[1])

    def follow(self) -> None:
        replay(self.db, *decode_frame([self.frame()]))

    def close(self) -> None:
        self.db.close()
        self.source.close()


@pytest.fixture
def following(tmp_path: Path) -> Iterator[Following]:
    made = Following(Pair(tmp_path, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"))
    yield made
    made.close()


def test_the_wal_is_moved_into_the_file_when_it_has_grown_and_not_at_each_commit_from_then_on(following: Following) -> None:
    run_sql(following.pair.primary, "CREATE TABLE large(id INTEGER PRIMARY KEY, text)")
    written, moved = 0, set()
    before = following.pair.replica.stat().st_mtime_ns
    for _ in range(90):
        run_sql(following.pair.primary, "INSERT INTO large(text) VALUES(hex(randomblob(60000)))")
        following.follow()
        written += 2 * 120_000  # in the table, and in the log
        checkpoint(following.db)
        moved.add(following.pair.replica.stat().st_mtime_ns)
    times = len(moved - {before})
    assert 0 < times <= written // CHECKPOINT_BYTES + 1


@pytest.mark.parametrize("changes", range(1, 9))  # with one of these the schema has the number that it had in the transaction
def test_what_is_remembered_of_the_schema_is_not_that_of_a_transaction_which_was_rolled_back(
    following: Following, tmp_path: Path, changes: int
) -> None:
    """Its number, schema_version, is given to the next change."""
    primary, other = following.pair.primary, tmp_path / "other.db"
    run_sql(primary, "PRAGMA wal_checkpoint(TRUNCATE)")
    subprocess.run(["cp", primary, other], check=True)  # the same history so far; from here on it has another table t
    run_sql(other, "ALTER TABLE t ADD COLUMN w", "INSERT INTO t VALUES(1, 2, 3)")
    cut = frame_of(other, position_of(following.db))
    with pytest.raises(BrokenFrame):
        replay(following.db, *decode_frame([cut[: cut.rindex(b"\n", 0, -1) + 1]]))
    run_sql(following.pair.replica, *(f"CREATE INDEX changelog_local_{number} ON t(v)" for number in range(changes)))  # as the server does
    run_sql(primary, "INSERT INTO t VALUES(1, 2)")
    following.follow()
    assert contents(primary) == contents(following.pair.replica)


def test_the_remembered_hash_is_that_of_the_present_schema_on_both_sides(following: Following) -> None:
    for change in ("INSERT INTO t(v) VALUES(1)", "ALTER TABLE t ADD COLUMN w", "INSERT INTO t VALUES(7, 1, 2)", "CREATE INDEX i ON t(w)"):
        run_sql(following.pair.primary, change)
        following.follow()
        assert_alike(following.pair.primary, following.pair.replica)
    run_sql(following.pair.replica, "DROP INDEX i")
    run_sql(following.pair.primary, "INSERT INTO t(v) VALUES(3)")
    with pytest.raises(Divergence, match="schema"):
        following.follow()


def test_a_full_disk_is_no_divergence_and_nothing_has_happened(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    run_sql(pair.primary, "INSERT INTO notes SELECT zeroblob(100000), 1 FROM tags, pens")
    lines, db = pair.frame(), connect_replica(pair.replica)
    try:
        db.pragma("max_page_count", one(db, "PRAGMA page_count") + 10)  # what SQLite says then is what it says of a full disk
        with pytest.raises(apsw.FullError):
            replay(db, *decode_frame([b"".join(json.dumps(line).encode() + b"\n" for line in lines)]))
    finally:
        db.close()
    assert pair.position() == pair.start
    pair.follow()
