"""A Pi whose changes of the schema do more than they say: nothing of them is ever run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Response
from lying_pi import Barn, changed

from changelog import wire
from changelog.connection import connect, one, rows
from changelog.ddl import Image, schema_list
from changelog.schema import schema_hash


@pytest.fixture(scope="module")
def barn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Barn]:
    made = Barn(tmp_path_factory.mktemp("barn"))
    yield made
    made.close()


def x_frame(barn: Barn, *, objects: list[Any] | None = None, add: list[Any] | None = None, **others: Any) -> bytes:
    """A frame whose one row changes the schema; by default to the one that is here."""
    before = barn.pi.write("UPDATE pens SET capacity=capacity+1 WHERE pen_number='P1'")
    header, row, end = barn.pi.frame(before).splitlines(keepends=True)
    with closing(connect(barn.pi.folder / "farm.db", readonly=True)) as db:
        here = [list(each) for each in schema_list(Image.of(db))]
        tables = {name: name for kind, name, _, _ in here if kind == "table"}
        columns = {name: [[c, c] for (c,) in rows(db, "SELECT name FROM pragma_table_info(?)", (name,))] for name in tables}
        change = {"before": here, "objects": (objects or here) + (add or []), "tables": tables, "columns": columns, "masks": []}
        change["hash"] = schema_hash(db)
    facts = json.loads(row)
    x_row = [facts[0], facts[1], facts[2], None, None, "X", "forged", None, None, None, None, json.dumps({**change, **others})]
    return changed([header], 0, schema=None) + json.dumps(x_row).encode() + b"\n" + end


EVIL = "DELETE FROM cattle; DELETE FROM pens"
SMUGGLED: dict[str, list[Any]] = {
    "two statements": ["table", "x", "x", "CREATE TABLE x(a); DROP TABLE pens"],
    "a second statement behind a comment": ["table", "x", "x", "CREATE TABLE x(a) -- \n; DELETE FROM pens"],
    "a table out of rows": ["table", "x", "x", "CREATE TABLE x AS SELECT * FROM users"],
    "a table out of endless rows": [
        "table",
        "x",
        "x",
        "CREATE TABLE x AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT * FROM n",
    ],
    "a virtual table": ["table", "x", "x", "CREATE VIRTUAL TABLE x USING fts5(a)"],
    "a table beside": ["table", "x", "x", "CREATE TEMP TABLE x(a)"],
    "a trigger beside, on the log": [
        "trigger",
        "x",
        "changelog",
        f"CREATE TEMP TRIGGER x AFTER INSERT ON main.changelog BEGIN {EVIL}; END",
    ],
    "a trigger beside, on a table": ["trigger", "x", "pens", f"CREATE TEMP TRIGGER x AFTER INSERT ON main.pens BEGIN {EVIL}; END"],
    "a trigger on the log": ["trigger", "x", "changelog", f"CREATE TRIGGER x AFTER INSERT ON changelog BEGIN {EVIL}; END"],
    "a trigger on the position": ["trigger", "x", "pens", f"CREATE TRIGGER x AFTER DELETE ON changelog_position BEGIN {EVIL}; END"],
    "a trigger of ours": [
        "trigger",
        "_changelog_guard_insert_pens",
        "pens",
        f"CREATE TRIGGER _changelog_guard_insert_pens AFTER INSERT ON pens BEGIN {EVIL}; END",
    ],
    "an attached file": ["table", "x", "x", "ATTACH '/tmp/hostile-pi-was-here.db' AS x"],
    "a create that is none": ["table", "x", "x", "CREATE"],
    "a text that is none": ["table", "x", "x", 5],
    "a table under another name": ["table", "x", "x", "CREATE TABLE y(a)"],
    "a view that is a table": ["view", "x", "x", "CREATE TABLE x(a)"],
    "the log anew": ["table", "changelog", "changelog", "CREATE TABLE changelog(seq INTEGER PRIMARY KEY)"],
    "the position anew": ["table", "changelog_position", "changelog_position", "CREATE TABLE changelog_position(x)"],
    "a view of ours": ["view", "changelog_audit", "changelog_audit", "CREATE VIEW changelog_audit AS SELECT 1"],
    "the schema table": ["table", "sqlite_master", "sqlite_master", "CREATE TABLE sqlite_master(a)"],
    "the counters": ["table", "sqlite_sequence", "sqlite_sequence", "CREATE TABLE sqlite_sequence(name, seq)"],
    "a kind of which there is none": ["pragma", "x", "x", "PRAGMA writable_schema=ON"],
    "three thousand columns": ["table", "x", "x", f"CREATE TABLE x({','.join(f'c{i}' for i in range(3_000))})"],
    "1500 columns, more than a log holds": [
        "table",
        "x",
        "x",
        f"CREATE TABLE x(id INTEGER PRIMARY KEY, {','.join(f'c{i}' for i in range(1_500))})",
    ],
    "a million columns": ["table", "x", "x", f"CREATE TABLE x({','.join(f'c{i}' for i in range(1_000_000))})"],
    "an index that loads a library": ["index", "x", "pens", "CREATE INDEX x ON pens(load_extension('x'))"],
    "a table that nothing identifies": ["table", "x", "x", "CREATE TABLE x(rowid, _rowid_, oid)"],
    "a name with a NUL": ["table", "x\0", "x\0", "CREATE TABLE x(a)"],
}


@pytest.mark.parametrize("lie", SMUGGLED)
def test_a_definition_that_does_more_than_it_says_is_never_run(barn: Barn, lie: str) -> None:
    barn.refuses(x_frame(barn, add=[SMUGGLED[lie]]), "divergence")
    assert not Path("/tmp/hostile-pi-was-here.db").exists()
    barn.heals()


def rewritten(sql: str) -> Callable[[Barn], bytes]:
    """The table pens under another definition, its rows being what they were."""

    def lie(barn: Barn) -> bytes:
        with closing(connect(barn.pi.folder / "farm.db", readonly=True)) as db:
            here = [list(each) for each in schema_list(Image.of(db))]
        return x_frame(barn, objects=[[k, n, t, sql if (k, n) == ("table", "pens") else s] for k, n, t, s in here])

    return lie


CHANGES: dict[str, Callable[[Barn], bytes]] = {
    "no schema at all": lambda barn: re.sub(rb', "\{.*\}"\]', b"]", x_frame(barn)),
    "two schemas": lambda barn: re.sub(rb'"\]\n', b'", 5]\n', x_frame(barn)),
    "JSON that is none": lambda barn: x_frame(barn).replace(b'"{', b'"{{'),
    "a schema that is a list": lambda barn: re.sub(rb'"\{.*\}"', b'"[]"', x_frame(barn)),
    "a schema nested deeply": lambda barn: re.sub(rb'"\{.*\}"', lambda _: b'"' + b"[" * 300_000 + b'"', x_frame(barn)),
    "no objects": lambda barn: x_frame(barn, objects=[["table"]]),
    "objects that are a text": lambda barn: x_frame(barn, **{"columns": "pens"}),
    "tables that are a list": lambda barn: x_frame(barn, tables=["pens"]),
    "the position under another name": lambda barn: x_frame(barn, tables={"pens": "changelog_position"}),
    "the log under another name": lambda barn: x_frame(barn, tables={"pens": "changelog"}),
    "a table out of nothing": lambda barn: x_frame(barn, tables={"pens": "nowhere"}),
    "two tables out of one": lambda barn: x_frame(barn, tables={"pens": "pens", "cattle": "pens"}),
    "the log without its columns": lambda barn: x_frame(barn, columns={"changelog": [["seq", "seq"]]}),
    "columns that are numbers": lambda barn: x_frame(barn, columns={"pens": [[1, 2]]}),
    "a mask that is a list": lambda barn: x_frame(barn, masks=[[]]),
    "a mask that is SQL": lambda barn: x_frame(barn, masks=["x'); DROP TABLE pens; --"], hash="0"),
    "a hash that is another": lambda barn: x_frame(barn, hash="0" * 32),
    "pens without rowids": rewritten("CREATE TABLE pens(id INTEGER PRIMARY KEY, pen_number TEXT) WITHOUT ROWID"),
    "pens with a key more": rewritten("CREATE TABLE pens(id INTEGER PRIMARY KEY, pen_number TEXT UNIQUE, capacity UNIQUE, x UNIQUE)"),
    "pens as a virtual table": rewritten("CREATE VIRTUAL TABLE pens USING fts5(a)"),
    "pens as two statements": rewritten("CREATE TABLE pens(id INTEGER PRIMARY KEY); DELETE FROM cattle"),
    "pens as no table": rewritten("DELETE FROM cattle"),
}


@pytest.mark.parametrize("lie", CHANGES)
def test_a_change_of_the_schema_that_is_none_is_refused_as_a_whole(barn: Barn, lie: str) -> None:
    frame = CHANGES[lie](barn)
    barn.refuses(frame, "divergence")
    barn.heals()


def test_an_honest_change_of_the_schema_is_repeated(barn: Barn) -> None:
    """So that what the forged ones above share with it is no reason to refuse them."""
    frame = x_frame(barn, masks=["users.password_hash"])
    barn.pi.lie = lambda path: Response(frame, mimetype=wire.MEDIA_TYPE) if path == "/changes" else None
    assert barn.office.sync.step()
    barn.pi.lie = lambda path: None
    with closing(connect(barn.replica, readonly=True)) as db:
        assert one(db, "SELECT key FROM changelog WHERE op='X'") == "forged"
    assert barn.office.sync.step()  # the Pi has another write at that seq: a snapshot mends it
    barn.heals()
