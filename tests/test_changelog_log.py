"""Who signed what, and the log as people and other programs read it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from changelog_parts import REPOSITORY, follow, make_primary, make_replica, shell, shell_run

from changelog.connection import connect, rows
from changelog.log import head, signed
from changelog.primary import Primary
from changelog.reader import read_log
from changelog.render import as_change, columns_of, newest_rows, table_objects
from changelog.schema import read_tables

SCHEMA = """
CREATE TABLE pens(id INTEGER PRIMARY KEY, pen TEXT UNIQUE, secret);
CREATE TABLE notes(body);
CREATE TABLE pair(a, b, c, PRIMARY KEY(b, a));
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_primary(tmp_path / "p.db", SCHEMA, masks=["pens.secret"])


@pytest.fixture
def db(path: Path) -> Iterator[apsw.Connection]:
    made = connect(path)
    yield made
    made.close()


def actors(db: apsw.Connection) -> list[Any]:
    return [actor for (actor,) in rows(db, "SELECT actor FROM changelog WHERE op<>'B' ORDER BY seq")]


# --- signatures


def test_each_actor_of_a_transaction_signs_what_it_wrote_and_no_more(db: apsw.Connection) -> None:
    db.execute("INSERT INTO notes VALUES('a shell, before')")
    with db:
        db.execute("INSERT INTO notes VALUES('unsigned')")
        with signed(db, "radio"):
            db.execute("INSERT INTO notes VALUES(1),(2)")
        db.execute("INSERT INTO notes VALUES('between')")
        with signed(db, "alice"):
            db.execute("DELETE FROM notes WHERE body=1")
    db.execute("INSERT INTO notes VALUES('a shell, after')")
    assert actors(db) == [None, None, "radio", "radio", None, "alice", None]


def test_work_within_work_keeps_the_inner_signature(db: apsw.Connection) -> None:
    with db, signed(db, "import"):
        db.execute("INSERT INTO notes VALUES(1)")
        with signed(db, "alice"):
            db.execute("INSERT INTO notes VALUES(2)")
        db.execute("INSERT INTO notes VALUES(3)")
    assert actors(db) == ["import", "alice", "import"]


def test_what_was_rolled_back_leaves_no_signature_behind(db: apsw.Connection) -> None:
    with db:
        db.execute("INSERT INTO notes VALUES('kept')")
        with pytest.raises(ZeroDivisionError), db, signed(db, "bob"):
            db.execute("INSERT INTO notes VALUES('lost')")
            raise ZeroDivisionError
        with signed(db, "alice"):
            db.execute("INSERT INTO notes VALUES('takes the same seq')")
    assert actors(db) == [None, "alice"]
    assert rows(db, "SELECT seq FROM changelog") == [(1,), (2,), (3,)]


def test_signing_nothing_changes_nothing(db: apsw.Connection) -> None:
    before = head(db)
    with db, signed(db, "nobody"):
        db.execute("UPDATE notes SET body=1")
    assert head(db) == before and actors(db) == []


@pytest.mark.parametrize("actor", ["", "O'Brien", 'a"b', "日本 🐄", "a\nb", "x" * 5000])
def test_any_name_signs_and_is_on_the_replica(tmp_path: Path, path: Path, db: apsw.Connection, actor: str) -> None:
    replica = make_replica(path, tmp_path / "r.db")
    with db, signed(db, actor):
        db.execute("INSERT INTO notes VALUES(1)")
    follow(path, replica)
    other = connect(replica)
    assert actors(other) == [actor]
    assert rows(other, "SELECT DISTINCT actor FROM changelog_audit") == [(actor,)]
    other.close()


# --- as JSON


def changes(path: Path, *, masked: bool = True) -> list[dict[str, Any]]:
    with Primary(path).snapshot() as db:
        columns = columns_of(db)
        found = [as_change(row, columns, masked=masked) for row in read_log(db, 1, head(db)) if row[5] in "IUD"]
    return json.loads(json.dumps(found, allow_nan=False))


def newest(path: Path, after: int) -> dict[str, Any]:
    with Primary(path).snapshot() as db:
        found = newest_rows(read_log(db, after, head(db)), columns_of(db), [t.name for t in read_tables(db)])
    return json.loads(json.dumps(found, allow_nan=False))


def test_a_change_shows_the_key_and_what_changed_before_and_the_whole_row_after(path: Path) -> None:
    shell(path, "INSERT INTO pens VALUES(1,'A','s'); UPDATE pens SET pen='B' WHERE id=1; UPDATE pens SET id=2; DELETE FROM pens;")
    told = [(c["op"], c["key"], c["old"], c["new"]) for c in changes(path, masked=False)]
    assert told == [
        ("I", 1, {}, {"id": 1, "pen": "A", "secret": "s"}),
        ("U", 1, {"id": 1, "pen": "A"}, {"id": 1, "pen": "B", "secret": "s"}),
        ("U", 1, {"id": 1}, {"id": 2, "pen": "B", "secret": "s"}),
        ("D", 2, {"id": 2, "pen": "B", "secret": "s"}, {}),
    ]


def test_a_masked_column_is_hidden_from_events_too(path: Path) -> None:
    shell(path, "INSERT INTO pens VALUES(1,'A','hunter2'),(2,'B',NULL); UPDATE pens SET secret='swordfish' WHERE id=1; DELETE FROM pens;")
    text = json.dumps(changes(path))
    assert "hunter2" not in text and "swordfish" not in text and "***" in text
    assert changes(path)[1]["new"]["secret"] is None
    assert "swordfish" in json.dumps(changes(path, masked=False))


def test_values_that_json_cannot_say_are_in_envelopes(path: Path) -> None:
    shell(path, "INSERT INTO notes VALUES(x'00ff'),(9007199254740993),(9e999),(CAST(x'ff' AS TEXT)),(0.1),('{\"b\":\"00\"}');")
    assert [c["new"]["body"] for c in changes(path)] == [
        {"b": "00ff"},
        {"i": "9007199254740993"},
        {"r": "inf"},
        {"t": "ff"},
        0.1,
        '{"b":"00"}',
    ]
    with Primary(path).snapshot() as db:
        notes = next(t for t in read_tables(db) if t.name == "notes")
        assert json.loads(json.dumps(list(table_objects(db, notes))))[0] == {"rowid": 1, "body": {"b": "00ff"}}


def test_the_newest_rows_of_a_reply_are_what_the_changes_come_to(path: Path) -> None:
    shell(path, "INSERT INTO pens VALUES(1,'A',0),(2,'B',0),(3,'C',0); INSERT INTO pair VALUES(1,2,3);")
    with Primary(path).snapshot() as db:
        at = head(db)
    shell(
        path,
        "UPDATE pens SET pen='A2' WHERE id=1; UPDATE pens SET pen='A3' WHERE id=1;"  # the last of two
        "DELETE FROM pens WHERE id=2; INSERT INTO pens VALUES(2,'B2',0);"  # gone and back
        "UPDATE pens SET id=30 WHERE id=3;"  # another key
        "INSERT INTO pens VALUES(4,'D',0); DELETE FROM pens WHERE id=4;"  # came and went
        "UPDATE pair SET a=9; INSERT INTO notes VALUES('x'),('x'); DELETE FROM notes WHERE rowid=1;",
    )
    found = newest(path, at)
    assert sorted((r["id"], r["pen"]) for r in found["data"]["pens"]) == [(1, "A3"), (2, "B2"), (30, "C")]
    assert sorted(found["deleted"]["pens"]) == [3, 4]
    assert found["data"]["pair"] == [{"a": 9, "b": 2, "c": 3}]
    assert found["data"]["notes"] == [{"body": "x"}]
    assert found["counts"] == {"notes": 1, "pair": 1, "pens": 3}


def test_a_reply_without_changes_counts_every_table(path: Path) -> None:
    assert newest(path, 1) == {"data": {"notes": [], "pair": [], "pens": []}, "counts": {"notes": 0, "pair": 0, "pens": 0}, "deleted": {}}


# --- the command line


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "changelog", *map(str, arguments)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def test_the_commands_make_a_primary_show_it_and_take_it_away(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    shell(path, "CREATE TABLE t(a); CREATE VIRTUAL TABLE f USING fts5(x);")
    assert command("status", path).returncode == 1
    made = command("install", path)
    assert (made.returncode, made.stdout.startswith("1 tables are captured")) == (0, True) and "virtual table f" in made.stderr
    shell(path, "INSERT INTO t VALUES(1)")
    facts = json.loads(command("status", "--json", path).stdout)
    assert (facts["head"], facts["oldest"], facts["tables"], facts["schema_moved"]) == (2, 1, ["t"], False)
    assert command("head", path).stdout.startswith(f"{facts['epoch']}/2/")
    assert command("uninstall", path).returncode == 2
    assert command("uninstall", "--yes", path).returncode == 0
    assert shell(path, "SELECT name FROM sqlite_schema WHERE name LIKE '%changelog%'") == ""


@pytest.mark.parametrize("verb", [["install"], ["status"], ["head"], ["triggers"], ["uninstall", "--yes"]])
@pytest.mark.parametrize("what", ["text", "taken"])
def test_a_command_that_fails_says_why_in_one_line(tmp_path: Path, verb: list[str], what: str) -> None:
    path = tmp_path / "p.db"
    if what == "text":
        path.write_text("no database " * 1000)
    else:
        shell(path, "CREATE TABLE changelog(a)")
    done = command(*verb, path)
    if (verb, what) == (["triggers"], "taken"):
        return  # prints the text for another file
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr


def test_the_command_that_a_refused_drop_column_names_does_it(tmp_path: Path, path: Path) -> None:
    shell(path, "INSERT INTO pair VALUES(1,2,3)")
    refused = shell_run(path, "ALTER TABLE pair DROP COLUMN c;")
    assert "python -m changelog ddl FILE SQL" in refused.stderr
    done = command("ddl", path, "ALTER TABLE pair DROP COLUMN c")
    assert done.returncode == 0, done.stderr
    shell(path, "UPDATE pair SET a=5")
    assert shell(path, "SELECT col, old, new FROM changelog_audit WHERE op='U'") == "a|1|5\n"
