"""Installing: what it refuses, what it keeps, what it hides, on every kind of file, and that nothing is left of it afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import apsw
import pytest
from changelog_parts import (
    assert_alike,
    contents,
    follow,
    make_database,
    make_primary,
    make_replica,
    run_sql,
    shell,
    shell_run,
    story,
)

from changelog.connection import connect, one, rows
from changelog.errors import CannotCapture, NotAPrimary
from changelog.install import install, schema_changes, schema_moved, script, uninstall
from changelog.layout import MIN_SLOTS
from changelog.position import Position, ancestors_of
from changelog.reconcile import reconcile
from changelog.schema import read_tables

PENS = "CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT UNIQUE, secret TEXT);"


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- names of ours that somebody else has


TAKEN = {
    "table changelog": "CREATE TABLE changelog(a); INSERT INTO changelog VALUES('theirs')",
    "table changelog_stash": "CREATE TABLE changelog_stash(a)",
    "table Changelog_Meta": "CREATE TABLE Changelog_Meta(b)",
    "tables changelog and changelog_meta": "CREATE TABLE changelog(a); CREATE TABLE changelog_meta(b)",
    "view changelog": "CREATE VIEW changelog AS SELECT 1 AS a",
    "view changelog_cols": "CREATE VIEW changelog_cols AS SELECT 1 AS a",
    "view changelog_audit": "CREATE VIEW changelog_audit AS SELECT 1 AS a",
    "table changelog_audit": "CREATE TABLE changelog_audit(a)",
    "view changelog_of_pens": "CREATE VIEW changelog_of_pens AS SELECT 1 AS a",
    "table changelog_of_pens": "CREATE TABLE changelog_of_pens(a)",
    "index changelog": "CREATE INDEX changelog ON pens(secret)",
    "trigger _changelog_x": "CREATE TRIGGER _changelog_x AFTER INSERT ON pens BEGIN SELECT 1; END",
}


@pytest.mark.parametrize("taken", TAKEN)
def test_a_database_that_owns_one_of_our_names_is_refused_and_not_a_byte_of_it_changes(tmp_path: Path, taken: str) -> None:
    path = tmp_path / "theirs.db"
    shell(path, PENS + TAKEN[taken])
    before = file_digest(path)
    db = connect(path)
    with pytest.raises(CannotCapture, match=r"(?i)changelog.*rename"):
        install(db)
    db.close()
    assert file_digest(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["theirs.db"]


@pytest.mark.parametrize("taken", TAKEN)
def test_triggers_sql_refuses_the_same_names_and_not_a_byte_changes(tmp_path: Path, taken: str) -> None:
    plain = make_database(tmp_path / "plain.db", PENS)
    db = connect(plain)
    sql = script(read_tables(db), [])
    db.close()
    path = tmp_path / "theirs.db"
    shell(path, PENS + TAKEN[taken])
    before = file_digest(path)
    assert shell_run(path, sql).returncode != 0
    assert file_digest(path) == before


def test_uninstalling_from_a_database_that_is_no_primary_takes_nothing_from_it(tmp_path: Path) -> None:
    path = make_database(tmp_path / "theirs.db", TAKEN["table changelog"])
    db = connect(path)
    with pytest.raises(NotAPrimary):
        uninstall(db)
    assert rows(db, "SELECT a FROM changelog") == [("theirs",)]
    db.close()


def test_a_refused_mask_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    shell(path, PENS)
    before = file_digest(path)
    db = connect(path)
    for mask, reason in {"pens.nothing": "no such column", "nothing": "table.column", "pens.id": "key"}.items():
        with pytest.raises(CannotCapture, match=reason):
            install(db, [mask])
    db.close()
    assert file_digest(path) == before


# --- masks


def test_a_masked_value_is_shown_in_neither_view_and_kept_exactly_in_the_log(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "p.db", PENS, masks=["PENS.Secret"])
    run_sql(
        path,
        "INSERT INTO pens VALUES(1,'A','hunter2'),(2,'B',NULL)",
        "UPDATE pens SET secret='swordfish' WHERE id=1",
        "DELETE FROM pens",
    )
    shown = shell(path, "SELECT * FROM changelog_audit; SELECT * FROM changelog_of_pens;")
    assert "***" in shown and "hunter2" not in shown and "swordfish" not in shown
    assert shell(path, "SELECT old, new FROM changelog_audit WHERE op='U' AND col='secret'") == "***|***\n"
    assert shell(path, "SELECT count(*) FROM changelog_audit WHERE col='secret' AND new IS NULL AND op='I'") == "1\n"  # NULL is no secret
    assert shell(path, "SELECT n2 FROM changelog WHERE op='U'") == "swordfish\n"


def test_masks_stay_over_a_new_installation_until_others_are_given(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "p.db", PENS, masks=["pens.secret"])
    db = connect(path)
    db.execute("INSERT INTO pens VALUES(1,'A','hunter2')")
    install(db)
    assert "hunter2" not in shell(path, "SELECT * FROM changelog_audit; SELECT * FROM changelog_of_pens;")
    db.execute("ALTER TABLE pens ADD COLUMN more")
    reconcile(db)
    assert "hunter2" not in shell(path, "SELECT * FROM changelog_audit; SELECT * FROM changelog_of_pens;")
    db.execute("UPDATE pens SET secret='swordfish'")
    assert "swordfish" not in shell(path, "SELECT * FROM changelog_audit; SELECT * FROM changelog_of_pens;")
    install(db, [])
    assert "swordfish" in shell(path, "SELECT * FROM changelog_of_pens;")
    db.close()


def test_a_mask_whose_column_is_renamed_or_gone_does_not_stop_the_reconciliation_and_reveals_nothing(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "p.db", PENS, masks=["pens.secret"])
    db = connect(path)
    db.execute("INSERT INTO pens VALUES(1,'A','hunter2')")
    db.execute("ALTER TABLE pens RENAME COLUMN secret TO hidden")
    try:
        reconcile(db)
    except CannotCapture as refusal:  # to stop and say so is right as well: never to go on and show it
        assert "pens.secret" in str(refusal)
    else:
        assert "hunter2" not in shell(path, "SELECT * FROM changelog_audit; SELECT * FROM changelog_of_pens;")
    finally:
        db.close()


# --- installing again


def test_each_installation_begins_an_epoch_that_names_all_before_it_and_keeps_log_and_rows(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "p.db", PENS)
    db = connect(path)
    ends = {}
    for n in range(3):
        db.execute("INSERT INTO pens(pen) VALUES(?)", (f"P{n}",))
        end = Position.of_head(db)
        ends[end.epoch] = end.seq
        install(db)
    now = Position.of_head(db)
    assert now.epoch not in ends
    assert ancestors_of(db) == ends
    assert now.seq == one(db, "SELECT count(*) FROM changelog")  # nothing lost, no gap
    assert rows(db, "SELECT n1 FROM changelog WHERE op='I' ORDER BY seq") == [("P0",), ("P1",), ("P2",)]
    assert one(db, "SELECT count(*) FROM pens") == 3
    db.close()


def test_triggers_sql_in_the_shell_makes_the_same_schema_as_install_and_runs_twice(tmp_path: Path) -> None:
    sql = PENS + 'CREATE TABLE "a ""b" (k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE UNIQUE INDEX i ON pens(lower(pen)) WHERE pen<>\'\';'
    ours, theirs = make_primary(tmp_path / "a.db", sql), tmp_path / "b.db"
    shell(theirs, sql + "INSERT INTO pens VALUES(1,'A','x')")
    db = connect(ours)
    text = script(read_tables(db), [])
    wanted = set(rows(db, "SELECT type, name, tbl_name, sql FROM sqlite_schema"))
    db.close()
    first = shell(theirs, text)
    epoch = shell(theirs, "SELECT value FROM changelog_meta WHERE name='epoch'")
    shell(theirs, "UPDATE pens SET pen='B'")
    second = shell(theirs, text)
    assert first == second == "wal\n"
    db = connect(theirs)
    assert set(rows(db, "SELECT type, name, tbl_name, sql FROM sqlite_schema")) == wanted
    assert not schema_moved(db)
    assert epoch.strip() in ancestors_of(db)
    assert rows(db, "SELECT op, o1, n1 FROM changelog WHERE op<>'B'") == [("U", "A", "B")]
    db.close()


def test_triggers_sql_of_a_database_without_tables_runs(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    shell(path, script([], []))
    db = connect(path)
    assert Position.of_head(db).seq == 1
    db.close()


# --- leaving


@pytest.mark.parametrize("autoincrement", ["", " AUTOINCREMENT"])
def test_uninstalling_leaves_not_a_trace_in_the_schema(tmp_path: Path, autoincrement: str) -> None:
    sql = f"CREATE TABLE t(id INTEGER PRIMARY KEY{autoincrement}, v); CREATE TABLE u(a, b, UNIQUE(a, b)); CREATE VIEW w AS SELECT * FROM t;"
    sql += "CREATE TRIGGER theirs AFTER INSERT ON t BEGIN DELETE FROM u; END; INSERT INTO t VALUES(7,'x');"
    path = make_database(tmp_path / "p.db", sql)
    db = connect(path)
    listed = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name<>'sqlite_sequence' ORDER BY 1, 2"
    before = rows(db, listed)
    install(db)
    db.execute("UPDATE t SET v='y'")
    uninstall(db)
    assert rows(db, listed) == before
    if db.table_exists("main", "sqlite_sequence"):  # SQLite itself never takes this table away again
        assert rows(db, "SELECT name, seq FROM sqlite_sequence") == ([("t", 7)] if autoincrement else [])
    db.execute("INSERT INTO t(v) VALUES('z')")
    with pytest.raises(NotAPrimary):
        schema_moved(db)
    assert one(db, "PRAGMA integrity_check") == "ok"
    db.close()


# --- kinds of files and tables: what is written is on the replica, written by 3.40


ODD = ['a"b', "c'd", "e f", "select", "ünï", "日本", "[x]", "x", "y", "e", "c", "new", "OLD", "`q`", "semi;colon", "--", "%s", "1st"]
ODD += ["x" * 300, "changelog_users", "_changelog", "o0", "tbl"]


def test_odd_names_of_tables_and_columns_are_captured_to_the_letter(tmp_path: Path) -> None:
    quoted = ['"' + n.replace('"', '""') + '"' for n in ODD]
    columns = ", ".join(f"{q} UNIQUE" if i < 3 else q for i, q in enumerate(quoted))
    creates = "".join(f"CREATE TABLE {q}({columns}, PRIMARY KEY({q}, {quoted[-1]}));" for q in quoted)
    primary = make_primary(tmp_path / "p.db", creates)
    replica = make_replica(primary, tmp_path / "r.db")
    shell(
        primary,
        "".join(
            f"INSERT INTO {q}({quoted[0]}) VALUES('1'),('2'); UPDATE {q} SET {quoted[1]}=5 WHERE {quoted[0]}='1';"
            f"REPLACE INTO {q}({quoted[0]},{quoted[1]}) VALUES('2',5); SELECT count(*) FROM \"changelog_of_{q[1:]};"
            for q in quoted
        ),
    )
    follow(primary, replica)
    assert_alike(primary, replica)
    assert [op for op, _, _ in story(primary)] == ["I", "I", "U", "D", "D", "I"] * len(ODD)
    db = connect(primary)
    assert {t for (t,) in rows(db, "SELECT DISTINCT tbl FROM changelog_audit")} == set(ODD)
    uninstall(db)
    assert {t for (t,) in rows(db, "SELECT name FROM sqlite_schema WHERE type='table'")} == set(ODD) | (
        {"sqlite_sequence"} if db.table_exists("main", "sqlite_sequence") else set()
    )
    db.close()


KINDS = {
    "without rowid": ("CREATE TABLE t(a TEXT, b INT, v, PRIMARY KEY(b, a)) WITHOUT ROWID", "a,b,v"),
    "integer key desc": ("CREATE TABLE t(a INTEGER PRIMARY KEY DESC, b, v)", "a,b,v"),
    "rowid hidden by a column": ("CREATE TABLE t(rowid TEXT, b, v)", "rowid,b,v"),
    "rowid and oid hidden": ("CREATE TABLE t(rowid TEXT, OID, v)", "rowid,oid,v"),
    "all hidden, with a key": ("CREATE TABLE t(rowid TEXT NOT NULL PRIMARY KEY, oid, _rowid_)", "rowid,oid,_rowid_"),
    "rowid is the name of the key": ("CREATE TABLE t(rowid INTEGER PRIMARY KEY, b, v)", "rowid,b,v"),
    "nocase column, binary key": (
        "CREATE TABLE t(a TEXT COLLATE NOCASE NOT NULL, b, v, PRIMARY KEY(a COLLATE BINARY))",
        "a,b,v",
    ),
    "nocase column, binary key, without rowid": (
        "CREATE TABLE t(a TEXT COLLATE NOCASE, b, v, PRIMARY KEY(a COLLATE BINARY)) WITHOUT ROWID",
        "a,b,v",
    ),
    "binary column, nocase key": ("CREATE TABLE t(a TEXT NOT NULL, b, v, PRIMARY KEY(a COLLATE NOCASE))", "a,b,v"),
    "strict": ("CREATE TABLE t(a TEXT PRIMARY KEY, b ANY, v ANY) STRICT", "a,b,v"),
}
LETTERS = """
INSERT INTO t({c}) VALUES('1',1,'p'),('2',2,'q');
INSERT OR IGNORE INTO t({c}) VALUES('3',3,'a');
UPDATE t SET {b}={b}+10 WHERE {b}>1;
UPDATE OR REPLACE t SET {a}='2' WHERE {a}='1';
DELETE FROM t WHERE {b}=13;
"""
CASES = """
INSERT OR IGNORE INTO t({c}) VALUES('a',21,'x'),('A',22,'y'),('b',23,'z');
UPDATE t SET {v}='changed' WHERE {b}=21;
UPDATE t SET {v}='other' WHERE {b}=22;
UPDATE OR REPLACE t SET {a}='B' WHERE {b}=23;
UPDATE OR REPLACE t SET {a}='a' WHERE {b}=22;
REPLACE INTO t({c}) VALUES('A',24,'w');
DELETE FROM t WHERE {b}=24;
"""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key_is_followed(tmp_path: Path, kind: str) -> None:
    schema, columns = KINDS[kind]
    a, b, v = columns.split(",")
    primary = make_primary(tmp_path / "p.db", schema)
    replica = make_replica(primary, tmp_path / "r.db")
    for sql in (LETTERS, CASES) if "key desc" not in kind and kind != "rowid is the name of the key" else (LETTERS,):
        shell(primary, sql.format(c=columns, a=a, b=b, v=v))
        follow(primary, replica)
        assert_alike(primary, replica)


def test_a_table_whose_rows_nothing_identifies_is_refused_by_name(tmp_path: Path) -> None:
    path = make_database(tmp_path / "p.db", "CREATE TABLE hidden(rowid, oid, _rowid_)")
    db = connect(path)
    with pytest.raises(CannotCapture, match=r"hidden.*primary key"):
        install(db)
    db.close()


@pytest.mark.parametrize(
    "before", ["PRAGMA encoding='UTF-16le'", "PRAGMA encoding='UTF-16be'", "PRAGMA page_size=512", "PRAGMA page_size=65536"]
)
def test_text_encodings_and_page_sizes_are_followed(tmp_path: Path, before: str) -> None:
    primary = make_primary(tmp_path / "p.db", PENS, before)
    replica = make_replica(primary, tmp_path / "r.db")
    shell(
        primary, "INSERT INTO pens VALUES(1,'žluťoučký 🐄','a'),(2,'\x01',NULL),(3,'a'||char(0)||'b',x'00ff'); UPDATE pens SET secret=pen;"
    )
    follow(primary, replica)
    assert_alike(primary, replica)


@pytest.mark.parametrize("columns", [MIN_SLOTS, MIN_SLOTS + 1, 400, 990])
def test_wide_tables_are_followed_and_readable_in_the_shell(tmp_path: Path, columns: int) -> None:
    names = [f"c{i}" for i in range(columns)]
    primary = make_primary(tmp_path / "p.db", f"CREATE TABLE t({names[0]} INTEGER PRIMARY KEY, {','.join(names[1:])})")
    replica = make_replica(primary, tmp_path / "r.db")
    shell(
        primary,
        f"INSERT INTO t VALUES({','.join(str(i) for i in range(columns))}); INSERT INTO t(c0) VALUES(NULL);"
        f"UPDATE t SET {names[-1]}='last' WHERE c0=0; REPLACE INTO t(c0,c1) VALUES(1,2); DELETE FROM t WHERE c0=1;",
    )
    follow(primary, replica)
    assert_alike(primary, replica)
    asked = f"SELECT old, new FROM changelog_audit WHERE op='U' AND col='{names[-1]}'; SELECT count(*) FROM changelog_of_t;"
    assert shell(primary, asked) == shell(replica, asked) == f"{columns - 1}|last\n6\n"


def test_a_table_that_grows_beyond_the_slots_widens_the_log_and_old_rows_stay_readable(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "p.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    db = connect(path)
    db.execute("INSERT INTO t VALUES(1,'old')")
    with schema_changes(db):
        for i in range(40):
            db.execute(f"ALTER TABLE t ADD COLUMN c{i}")
    db.execute("UPDATE t SET c39='new'")
    db.close()
    assert shell(path, "SELECT op, col, new FROM changelog_audit WHERE new IN ('old','new')") == "I|v|old\nU|c39|new\n"
    replica = make_replica(path, tmp_path / "r.db")
    shell(path, "INSERT INTO t(c38) VALUES(5)")
    follow(path, replica)
    assert_alike(path, replica)


def test_more_columns_than_the_log_can_hold_are_refused_by_the_name_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    shell(path, f"CREATE TABLE ok(a); CREATE TABLE enormous({','.join(f'c{i}' for i in range(1500))})")
    before = file_digest(path)
    db = connect(path)
    with pytest.raises(CannotCapture, match="enormous"):
        install(db)
    db.close()
    assert file_digest(path) == before


def test_full_text_tables_and_their_shadows_are_left_alone_and_go_on_working(tmp_path: Path) -> None:
    sql = "CREATE VIRTUAL TABLE notes USING fts5(body); INSERT INTO notes VALUES('wet hay');" + PENS
    path = make_primary(tmp_path / "p.db", sql)
    db = connect(path)
    on = {t for (t,) in rows(db, "SELECT DISTINCT tbl_name FROM sqlite_schema WHERE type='trigger'")}
    db.close()
    assert on == {"pens"}
    shell(path, "INSERT INTO notes VALUES('dry hay'); INSERT INTO notes(notes) VALUES('optimize'); INSERT INTO pens(pen) VALUES('A');")
    assert shell(path, "SELECT count(*) FROM notes WHERE notes MATCH 'hay'") == "2\n"
    assert story(path) == [("I", "pens", 1)]


# --- writers with other settings


WRITERS = {
    "trusted_schema off": "PRAGMA trusted_schema=OFF;",
    "recursive_triggers on": "PRAGMA recursive_triggers=ON;",
    "foreign keys on": "PRAGMA foreign_keys=ON;",
    "defensive": ".dbconfig defensive on\n",
    "double quotes are names": ".dbconfig dqs_dml off\n.dbconfig dqs_ddl off\n",
    "legacy alter table": "PRAGMA legacy_alter_table=ON;",
    "reverse order": "PRAGMA reverse_unordered_selects=ON;",
    "temporary tables under our names": "".join(
        f"CREATE TEMP TABLE {n}(a CHECK(0));" for n in ("changelog", "changelog_stash", "changelog_cols", "changelog_meta", "pens")
    ),
}


@pytest.mark.parametrize("settings", WRITERS)
def test_a_writer_with_other_settings_writes_and_is_logged(tmp_path: Path, settings: str) -> None:
    primary = make_primary(tmp_path / "p.db", PENS)
    replica = make_replica(primary, tmp_path / "r.db")
    shell(
        primary,
        WRITERS[settings] + "INSERT INTO main.pens VALUES(1,'A','x'),(2,'B','y'),(3,'C','z');"
        "REPLACE INTO main.pens VALUES(4,'A','w'); UPDATE OR REPLACE main.pens SET id=2 WHERE id=3; DELETE FROM main.pens WHERE id=2;",
    )
    assert [(op, key) for op, _, key in story(primary)] == [
        ("I", 1), ("I", 2), ("I", 3), ("D", 1), ("I", 4), ("D", 2), ("U", 3), ("D", 2),
    ]  # fmt: skip
    follow(primary, replica)
    assert_alike(primary, replica)


@pytest.mark.parametrize("clause", ["", "OR ABORT", "OR FAIL", "OR ROLLBACK", "OR IGNORE", "OR REPLACE"])
def test_a_statement_that_fails_halfway_is_logged_as_far_as_it_came(tmp_path: Path, clause: str) -> None:
    primary = make_primary(tmp_path / "p.db", PENS + "INSERT INTO pens VALUES(2,'B','x');")
    replica = make_replica(primary, tmp_path / "r.db")
    plain = make_database(tmp_path / "plain.db", PENS + "INSERT INTO pens VALUES(2,'B','x');")
    sql = f"BEGIN; INSERT INTO pens VALUES(7,'G','v'); INSERT {clause} INTO pens VALUES(8,'H','v'),(9,'B','v'),(10,'I','v'); COMMIT;"
    said = []
    for path in (primary, plain):
        done = shell_run(path, ".bail off\n" + sql.replace("; ", ";\n"))
        said.append((done.stdout, [line for line in done.stderr.splitlines() if "constraint" in line]))
    assert said[0] == said[1]
    assert contents(primary)["table pens"] == contents(plain)["table pens"]
    follow(primary, replica)
    assert_alike(primary, replica)


def test_what_a_statement_reports_is_the_same_with_our_triggers(tmp_path: Path) -> None:
    asked = (
        "INSERT INTO pens(pen) VALUES('A'),('B') RETURNING id, pen; SELECT last_insert_rowid(), changes();"
        "UPDATE pens SET secret='s' RETURNING *; SELECT changes();"
        "REPLACE INTO pens(pen) VALUES('B'); SELECT last_insert_rowid(), changes();"
        "INSERT INTO pens(pen) VALUES('A') ON CONFLICT(pen) DO UPDATE SET secret='t' RETURNING *; SELECT last_insert_rowid(), changes();"
        "DELETE FROM pens; SELECT changes();"
    )
    plain = make_database(tmp_path / "plain.db", PENS)
    assert shell(make_primary(tmp_path / "p.db", PENS), asked) == shell(plain, asked)


def test_a_write_through_an_attached_name_is_logged_in_the_file_it_changes(tmp_path: Path) -> None:
    first, second = make_primary(tmp_path / "a.db", PENS), make_primary(tmp_path / "b.db", PENS)
    shell(
        ":memory:",
        f"ATTACH '{first}' AS one; ATTACH '{second}' AS two;"
        "INSERT INTO two.pens VALUES(1,'A','x'); REPLACE INTO two.pens VALUES(2,'A','y');",
    )
    assert story(first) == []
    assert story(second) == [("I", "pens", 1), ("D", "pens", 1), ("I", "pens", 2)]
    shell(first, f"ATTACH '{second}' AS two; INSERT INTO pens VALUES(5,'E','x'); DELETE FROM two.pens;")
    assert story(first) == [("I", "pens", 5)]
    assert story(second)[-1] == ("D", "pens", 2)


def test_dropping_a_column_in_the_shell_is_refused_with_the_command_that_does_it(tmp_path: Path) -> None:
    path = make_primary(tmp_path / "p.db", PENS)
    refused = shell_run(path, "ALTER TABLE pens DROP COLUMN secret;")
    assert refused.returncode != 0
    assert "python -m changelog ddl" in refused.stderr
    db = connect(path)
    assert not schema_moved(db)  # refused means: nothing happened
    db.close()


@pytest.mark.parametrize("ddl", ["nonsense", "CREATE TABLE bad(rowid, oid, _rowid_)", "CREATE VIEW changelog AS SELECT 1"])
def test_schema_changes_that_fail_leave_the_capture_as_it_was(tmp_path: Path, ddl: str) -> None:
    path = make_primary(tmp_path / "p.db", PENS)
    db = connect(path)
    before = rows(db, "SELECT * FROM sqlite_schema"), Position.of_head(db)
    with pytest.raises((CannotCapture, apsw.SQLError)), schema_changes(db):
        db.execute("DROP TABLE pens")
        db.execute(ddl)
    assert (rows(db, "SELECT * FROM sqlite_schema"), Position.of_head(db)) == before
    assert not schema_moved(db)
    db.execute("INSERT INTO pens(pen) VALUES('A')")
    db.close()
    assert story(path) == [("I", "pens", 1)]


def test_a_key_in_an_order_that_only_its_own_program_knows_is_refused_by_name(tmp_path: Path) -> None:
    own = apsw.Connection(str(tmp_path / "p.db"))
    own.create_collation("farm", lambda a, b: (a > b) - (a < b))
    own.execute("CREATE TABLE t(a TEXT COLLATE farm NOT NULL PRIMARY KEY)")
    own.close()
    db = connect(tmp_path / "p.db")
    try:
        with pytest.raises(CannotCapture, match="farm"):
            install(db)
    finally:
        db.close()


def test_a_trigger_of_the_application_that_somebody_broke_stops_nothing(tmp_path: Path) -> None:
    trigger = "CREATE TRIGGER app AFTER INSERT ON pens BEGIN INSERT INTO gone VALUES(NEW.pen); END"
    path = make_primary(tmp_path / "p.db", f"{PENS}; CREATE TABLE gone(a); {trigger}; INSERT INTO pens(pen) VALUES('A')")
    run_sql(path, "DROP TABLE gone", "UPDATE pens SET pen='B'")
    db = connect(path)
    install(db)
    with pytest.raises(apsw.SQLError, match="gone"):
        db.execute("INSERT INTO pens(pen) VALUES('C')")
    db.close()
    assert story(path) == [("U", "pens", 1)]
