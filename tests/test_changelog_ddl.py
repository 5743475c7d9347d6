"""DDL as part of the log: what is typed on the primary is repeated on the replica in the order of the log, or begins a new epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from changelog_parts import contents, follow, frame_of, make_primary, make_replica, shell

from changelog.asof.past import Past
from changelog.connection import connect, one, remove_database, rows
from changelog.errors import BadRequest, Divergence, NotAPrimary
from changelog.install import schema_moved
from changelog.position import Position
from changelog.primary import Primary
from changelog.pull import pull_file
from changelog.reconcile import reconcile, run_ddl
from changelog.replay import connect_replica, position_of, replay
from changelog.values import encode_row
from changelog.wire import decode_frame
from scripts.fuzz_wire import sealed

SCHEMA = """CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT UNIQUE, capacity);
CREATE TABLE tags(tag TEXT, at TEXT);
CREATE INDEX tags_at ON tags(at);
INSERT INTO pens VALUES(1,'A',10),(2,'B',20); INSERT INTO tags VALUES('x','1'),('x','1')"""

FOLLOWED = {
    "a column": ("ALTER TABLE pens ADD COLUMN yard TEXT DEFAULT 'n'; INSERT INTO pens VALUES(3,'C',1,'s')", "column pens.yard added"),
    "a column of NULLs instead of its default": ("ALTER TABLE pens ADD COLUMN n DEFAULT 5; UPDATE pens SET n=NULL", "column pens.n added"),
    "a generated column": ("ALTER TABLE pens ADD COLUMN half AS (capacity/2)", "column pens.half added"),
    "a column's name": ("ALTER TABLE pens RENAME capacity TO head; UPDATE pens SET head=7", "column pens.capacity renamed to head"),
    "a table's name": ("ALTER TABLE tags RENAME TO ears; INSERT INTO ears VALUES('y','2')", "table tags renamed to ears"),
    "a table": ("CREATE TABLE feed(k TEXT PRIMARY KEY, kg) WITHOUT ROWID; INSERT INTO feed VALUES('hay',1)", "table feed created"),
    "a table gone": ("DROP TABLE tags", "table tags dropped"),
    "an index": ("CREATE INDEX pens_by_capacity ON pens(capacity); UPDATE pens SET capacity=3", "index pens_by_capacity created"),
    "an index gone": ("DROP INDEX tags_at", "index tags_at dropped"),
    "a view": ("CREATE VIEW big AS SELECT * FROM pens WHERE capacity>10", "view big created"),
    "tables that change names": (
        "ALTER TABLE pens RENAME TO t; ALTER TABLE tags RENAME TO pens; ALTER TABLE t RENAME TO tags; INSERT INTO pens VALUES('z','3')",
        "table tags renamed to pens",
    ),
}

RESTARTED = {
    "a rebuilt table": "CREATE TABLE n(id, pen, capacity); INSERT INTO n SELECT * FROM pens; DROP TABLE pens; ALTER TABLE n RENAME TO pens",
    "a table that came and went": "CREATE TABLE brief(a); DROP TABLE brief",
    "VACUUM of rows without a key": "DELETE FROM tags WHERE rowid=1; VACUUM; UPDATE tags SET at='9'",
    "rows under a unique index that capture did not know": "CREATE UNIQUE INDEX one ON pens(capacity); REPLACE INTO pens VALUES(9,'Z',10)",
    "rows under a trigger that is newer than ours": """CREATE TRIGGER late AFTER INSERT ON pens BEGIN UPDATE pens SET capacity=0; END;
        INSERT INTO pens VALUES(9,'Z',10)""",
}


@pytest.fixture
def primary(tmp_path: Path) -> Path:
    return make_primary(tmp_path / "primary.db", SCHEMA, masks=["pens.pen"])


@pytest.fixture
def replica(primary: Path, tmp_path: Path) -> Path:
    return make_replica(primary, tmp_path / "replica.db")


def seen(path: Path, do: Callable[[apsw.Connection], object]) -> None:
    with closing(connect(path)) as db:
        do(db)


def epoch(path: Path) -> str:
    with closing(connect(path)) as db:
        return Position.of_head(db).epoch


@pytest.mark.parametrize("change", FOLLOWED)
def test_the_replica_repeats_what_the_shell_did(primary: Path, replica: Path, change: str) -> None:
    sql, words = FOLLOWED[change]
    before = epoch(primary)
    shell(primary, sql)
    seen(primary, reconcile)
    follow(primary, replica)
    assert contents(replica) == contents(primary)
    assert epoch(primary) == before
    assert words in shell(replica, "SELECT key FROM changelog_audit WHERE op='X'")
    follow(primary, replica)  # an empty frame: the schemas are alike
    with closing(connect(primary)) as db:
        assert not schema_moved(db)


@pytest.mark.parametrize("change", RESTARTED)
def test_what_the_log_cannot_hold_exactly_begins_a_new_epoch(primary: Path, replica: Path, change: str) -> None:
    with closing(connect(primary)) as db:
        quiet = Position.of_head(db).seq
    before = epoch(primary)
    shell(primary, RESTARTED[change])
    seen(primary, lambda db: reconcile(db, quiet))
    assert epoch(primary) != before
    with closing(connect(primary)) as db:
        assert one(db, "SELECT value FROM changelog_meta WHERE name='ancestor'") == before


def test_a_unique_index_and_a_trigger_are_followed_where_nothing_was_written_meanwhile(primary: Path, replica: Path) -> None:
    with closing(connect(primary)) as db:
        quiet = Position.of_head(db).seq
    before = epoch(primary)
    shell(primary, "CREATE UNIQUE INDEX one ON pens(capacity); CREATE TRIGGER late AFTER INSERT ON pens BEGIN DELETE FROM tags; END")
    seen(primary, lambda db: reconcile(db, quiet))
    shell(primary, "REPLACE INTO pens VALUES(9,'Z',10)")
    follow(primary, replica)
    assert contents(replica) == contents(primary)
    assert epoch(primary) == before


def test_without_knowing_since_when_nothing_was_written_a_trigger_begins_a_new_epoch(primary: Path) -> None:
    before = epoch(primary)
    shell(primary, "CREATE TRIGGER late AFTER INSERT ON pens BEGIN DELETE FROM tags; END")
    seen(primary, reconcile)
    assert epoch(primary) != before


def test_a_dump_played_into_a_new_file_begins_a_new_epoch(tmp_path: Path) -> None:
    primary, replica = make_primary(tmp_path / "p.db", "CREATE TABLE t(x); INSERT INTO t VALUES(1),(2),(3)"), tmp_path / "r.db"
    shell(primary, "DELETE FROM t WHERE x=1")
    with closing(Primary(primary)) as source:
        pull_file(source, replica)
    dump, before = shell(primary, ".dump"), epoch(primary)
    remove_database(primary)
    shell(primary, dump)  # which gives the rows other rowids, and nothing else identifies them
    shell(primary, "DELETE FROM t WHERE x=3")
    with closing(Primary(primary)) as source:
        pull_file(source, replica)
    assert epoch(primary) != before
    assert contents(replica) == contents(primary)


def test_a_column_is_dropped_by_the_command_and_its_history_stays(primary: Path, replica: Path) -> None:
    shell(primary, "UPDATE pens SET capacity=11 WHERE id=1")
    seen(primary, lambda db: run_ddl(db, "ALTER TABLE pens DROP COLUMN capacity"))
    shell(primary, "UPDATE pens SET pen='AA' WHERE id=1")
    follow(primary, replica)
    assert contents(replica) == contents(primary)
    for path in (primary, replica):
        assert shell(path, "SELECT old, new FROM changelog_audit WHERE col='capacity' AND op='U'") == "10|11\n"


def test_the_command_refuses_what_changes_no_schema_and_undoes_it(primary: Path) -> None:
    before = contents(primary)
    with closing(connect(primary)) as db, pytest.raises(BadRequest, match="one CREATE, ALTER or DROP"):
        run_ddl(db, "DELETE FROM pens")
    assert contents(primary) == before
    shell(primary, "INSERT INTO pens VALUES(5,'E',1)")
    assert shell(primary, "SELECT op FROM changelog ORDER BY seq DESC LIMIT 1") == "I\n"  # the triggers are there


def test_a_table_named_like_the_shadow_of_a_virtual_one_is_followed_like_any_other(tmp_path: Path) -> None:
    old = "CREATE VIRTUAL TABLE docs USING fts5(body); CREATE TABLE docs_old(id INTEGER PRIMARY KEY, x); INSERT INTO docs_old VALUES(1,1)"
    primary, replica = make_primary(tmp_path / "p.db", old), tmp_path / "r.db"
    with closing(Primary(primary)) as source:
        pull_file(source, replica)
        shell(primary, "CREATE TABLE docs_new(id INTEGER PRIMARY KEY, x); INSERT INTO docs_new VALUES(1,2); UPDATE docs_old SET x=3")
        assert pull_file(source, replica).reason == ""
        shell(primary, "DELETE FROM docs_new; DELETE FROM docs_old")
        assert pull_file(source, replica).reason == ""
    assert contents(replica) == contents(primary)
    with closing(connect(replica, readonly=True)) as db, db:
        past = Past(db, one(db, "SELECT seq FROM changelog WHERE tbl='docs_new' AND op='I'"))
        assert [list(past.rows_of(past.table(name))) for name in ("docs_new", "docs_old")] == [[{"id": 1, "x": 2}], [{"id": 1, "x": 3}]]


def test_the_command_runs_beside_virtual_tables(tmp_path: Path) -> None:
    primary = make_primary(
        tmp_path / "p.db", SCHEMA + "; CREATE VIRTUAL TABLE words USING fts5(body); CREATE VIRTUAL TABLE o USING fts5(x)"
    )
    replica = make_replica(primary, tmp_path / "r.db")
    with closing(connect(primary)) as db:
        assert run_ddl(db, "ALTER TABLE pens DROP COLUMN capacity") is None
        assert run_ddl(db, "CREATE TABLE words_of(a INTEGER PRIMARY KEY)") is None
    follow(primary, replica)
    assert contents(replica) == contents(primary)


@pytest.mark.parametrize(
    "ddl",
    [
        "DROP TABLE changelog",
        "DROP TABLE changelog_meta",
        "DROP VIEW changelog_audit",
        "ALTER TABLE changelog ADD COLUMN mine",
        "ALTER TABLE changelog RENAME TO mine",
        "ALTER TABLE tags RENAME TO changelog_position",
        "CREATE TABLE changelog_position(a)",
        "CREATE VIEW changelog_of_nothing AS SELECT 1",
        "CREATE INDEX changelog_local_mine ON pens(pen)",
        "CREATE TRIGGER _changelog_mine AFTER INSERT ON pens BEGIN SELECT 1; END",
    ],
)
def test_the_command_changes_nothing_of_the_changelog_itself(primary: Path, ddl: str) -> None:
    with closing(connect(primary)) as db:
        before = rows(db, "SELECT * FROM sqlite_schema"), rows(db, "SELECT * FROM changelog_meta")
        with pytest.raises(BadRequest, match="changelog's own"):
            run_ddl(db, ddl)
        assert (rows(db, "SELECT * FROM sqlite_schema"), rows(db, "SELECT * FROM changelog_meta")) == before


def test_a_mask_goes_with_its_column(primary: Path, replica: Path) -> None:
    shell(primary, "ALTER TABLE pens RENAME pen TO name; ALTER TABLE pens RENAME TO yards; INSERT INTO yards VALUES(7,'secret',1)")
    seen(primary, reconcile)
    follow(primary, replica)
    shell(primary, "UPDATE yards SET name='other' WHERE id=7")
    follow(primary, replica)
    for path in (primary, replica):
        assert "secret" not in shell(path, "SELECT * FROM changelog_audit; SELECT * FROM changelog_of_yards")
        assert shell(path, "SELECT old, new FROM changelog_audit WHERE col='name' AND op='U'") == "***|***\n"


def test_the_view_of_a_table_shows_what_was_before_a_column_was_added(primary: Path, replica: Path) -> None:
    shell(primary, "UPDATE pens SET capacity=1 WHERE id=1; ALTER TABLE pens ADD COLUMN yard; UPDATE pens SET yard='s' WHERE id=1")
    seen(primary, reconcile)
    shell(primary, "UPDATE pens SET yard='n' WHERE id=1")
    follow(primary, replica)
    for path in (primary, replica):
        assert shell(path, "SELECT capacity, yard FROM changelog_of_pens WHERE key=1 ORDER BY seq").startswith("1|\n")
        assert shell(path, "SELECT yard, old_yard FROM changelog_of_pens WHERE key=1 ORDER BY seq DESC LIMIT 1") == "n|s\n"


def test_a_replica_is_not_taken_for_a_primary(primary: Path, replica: Path) -> None:
    before = contents(replica)
    with closing(Primary(replica)) as source, pytest.raises(NotAPrimary, match="replica"):
        source.head()
    with closing(connect(replica)) as db, pytest.raises(NotAPrimary, match="replica"):
        reconcile(db)
    assert contents(replica) == before


LIES = {
    "a second statement": "CREATE TABLE x(a); DELETE FROM pens",
    "no definition": "DELETE FROM pens",
    "an attached file": "ATTACH 'other.db' AS other",
    "not SQL": "CREATE TABLE (",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_schema_change_from_a_lying_primary_changes_nothing(primary: Path, replica: Path, lie: str) -> None:
    shell(primary, "CREATE TABLE x(a)")
    seen(primary, reconcile)
    with closing(connect_replica(replica)) as db:
        head, row, end = frame_of(primary, position_of(db)).splitlines()
        values = json.loads(row)
        change = json.loads(values[11])
        change["objects"] = [[kind, name, table, LIES[lie] if name == "x" else sql] for kind, name, table, sql in change["objects"]]
        values[11] = json.dumps(change)
        frame = sealed(b"\n".join([head, encode_row(tuple(values)).encode(), end, b""]))
        before = contents(replica)
        with pytest.raises(Divergence):
            replay(db, *decode_frame([frame]))
        assert rows(db, "SELECT count(*) FROM pens") == [(2,)]
    assert contents(replica) == before
