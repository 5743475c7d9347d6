"""DDL on a replica: the schema that an X row carries, made out of the one that is here. One rule for every kind of change.

Tables keep their rows: they are renamed, lose columns, and take the exact text of their new definition, which is all that ADD COLUMN and
RENAME COLUMN are. Everything else is made anew from its text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import apsw

from changelog.connection import one, rows
from changelog.definitions import Change, Object, rehearse
from changelog.errors import Divergence
from changelog.guard import drop_guards, keep_guards
from changelog.install import describe
from changelog.schema import identifier, is_ours, schema_hash, virtual_tables

_PASSING = "changelog_passing_"  # names that tables bear while they change names with each other


def reshape(db: apsw.Connection, text: str) -> None:
    """Within a transaction: bring the schema to what the X row with this n0 says. Raises Divergence where it does not come to that."""
    change = Change.parse(text)
    here = set(_objects(db))
    rehearse(change, here, set(virtual_tables(db)))
    _check_origins(change, here)
    shapes = {now: _shape(db, before) for now, before in change.tables.items()}
    drop_guards(db)  # they would be looked at by each ALTER TABLE, and a table may come under the name that another had
    _drop_what_changed(db, change)
    _rename_tables(db, change.tables)
    _drop_columns(db, change.columns)
    _write_texts(db, change.objects)
    _create_what_is_new(db, change.objects)
    describe(db, change.masks)
    keep_guards(db)
    if shapes != {now: _shape(db, now) for now in change.tables}:
        raise Divergence("a table was rebuilt under other keys: its rows are not as its definition says")
    if schema_hash(db) != change.hash:
        raise Divergence("the schema of the primary could not be repeated here")


def _check_origins(change: Change, here: set[Object]) -> None:
    """Only tables that are here can go on, each of them once."""
    known, origins = {name for kind, name, _, _ in here if kind == "table"}, list(change.tables.values())
    if not known.issuperset(origins) or len(set(origins)) != len(origins):
        raise Divergence("an X row goes on with a table that is not here")


def _shape(db: apsw.Connection, table: str) -> tuple[bool, int]:
    """What no ALTER TABLE changes: whether there are rowids, and how many indexes belong to constraints."""
    indexes = one(db, "SELECT count(*) FROM pragma_index_list(?) WHERE origin<>'c'", (table,))
    return one(db, "SELECT wr FROM pragma_table_list WHERE schema='main' AND name=?", (table,)), indexes


def _objects(db: apsw.Connection) -> list[Object]:
    return rows(db, "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")


def _drop_what_changed(db: apsw.Connection, change: Change) -> None:
    """Views and triggers all, for they may stand in the way of what follows; indexes and tables that are no more.

    Virtual tables and their shadows have no log: when one of them changes, a new epoch begins.
    """
    kept_indexes = {(name, sql) for kind, name, _, sql in change.objects if kind == "index"}
    uncaptured = rows(db, "SELECT name FROM pragma_table_list WHERE schema='main' AND type IN ('virtual','shadow')")
    kept_tables = {*change.tables.values(), *(name for (name,) in uncaptured)}
    for wanted in ("trigger", "view", "index", "table"):
        for kind, name, _, sql in _objects(db):
            local = kind == "index" and is_ours(kind, name)  # the server makes its own indexes again
            mine = is_ours(kind, name) and not local
            kept = (kind == "index" and (name, sql) in kept_indexes and not local) or (kind == "table" and name in kept_tables)
            if kind == wanted and not mine and not kept:
                db.execute(f"DROP {kind} {identifier(name)}")


def _rename_tables(db: apsw.Connection, tables: dict[str, str]) -> None:
    renamed = [(new, old) for new, old in tables.items() if new != old]
    db.pragma("legacy_alter_table", True)  # nothing but the name: the texts of everything come with the change
    try:
        for number, (_, old) in enumerate(renamed):
            db.execute(f"ALTER TABLE {identifier(old)} RENAME TO {identifier(f'{_PASSING}{number}')}")
        for number, (new, _) in enumerate(renamed):
            db.execute(f"ALTER TABLE {identifier(f'{_PASSING}{number}')} RENAME TO {identifier(new)}")
    finally:
        db.pragma("legacy_alter_table", False)


def _drop_columns(db: apsw.Connection, columns: dict[str, list[tuple[str, str | None]]]) -> None:
    for table, pairs in columns.items():
        kept = {before for _, before in pairs}
        for (name,) in rows(db, "SELECT name FROM pragma_table_xinfo(?)", (table,)):
            if name not in kept:
                db.execute(f"ALTER TABLE {identifier(table)} DROP COLUMN {identifier(name)}")


def _write_texts(db: apsw.Connection, objects: Sequence[Object]) -> None:
    """Set the definitions of tables and indexes that went on (https://sqlite.org/lang_altertable.html, the last section)."""
    db.pragma("writable_schema", True)
    try:
        for kind, name, _, sql in objects:
            if kind in ("table", "index"):
                db.execute("UPDATE sqlite_schema SET sql=? WHERE type=? AND name=? AND sql<>?", (sql, kind, name, sql))
    finally:
        db.execute("PRAGMA writable_schema=RESET")


def _create_what_is_new(db: apsw.Connection, objects: Sequence[Object]) -> None:
    for kind, name, _, sql in objects:
        if not one(db, "SELECT 1 FROM sqlite_schema WHERE type=? AND name=?", (kind, name)):
            _create(db, sql)


def _create(db: apsw.Connection, sql: str) -> None:
    """Run one CREATE statement and nothing else: this text comes from another machine."""
    if not re.match(r"\s*CREATE\b", sql, re.IGNORECASE):
        raise Divergence(f"no definition of a schema object: {sql[:60]!r}")
    statements: list[str] = []

    def only_the_first(_cursor: apsw.Cursor, statement: str, _bindings: object) -> bool:
        statements.append(statement)
        return len(statements) == 1

    cursor = db.cursor()
    cursor.exec_trace = only_the_first
    cursor.execute(sql)
