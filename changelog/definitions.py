"""What an X row says of a schema, checked before any of it is run: the text comes from another machine.

Every definition is rehearsed in a database of its own, in memory and empty, where nothing but the making of that one object is allowed:
so a text that would do anything else, or make something else than it says, never meets the replica.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import apsw

from changelog.connection import connect, rows
from changelog.errors import Divergence
from changelog.schema import is_ours

LONGEST_DEFINITION = 4 * 2**20  # bytes: many times what the widest table needs

Object = tuple[str, str, str, str]  # type, name, table, sql

KINDS = ("table", "index", "view", "trigger")
_CREATIONS = {
    apsw.SQLITE_CREATE_TABLE: "table",
    apsw.SQLITE_CREATE_INDEX: "index",
    apsw.SQLITE_CREATE_VIEW: "view",
    apsw.SQLITE_CREATE_TRIGGER: "trigger",
}
_SCHEMA_ROWS = (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_READ)
_IN_EXPRESSIONS = (apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_REINDEX)


@dataclass(frozen=True)
class Change:
    """A change of the schema: the objects as they are then, and of tables that go on the names and columns that they had."""

    objects: tuple[Object, ...]
    tables: dict[str, str]  # name then -> name before
    columns: dict[str, list[tuple[str, str | None]]]  # of those tables: (name then, name before)
    masks: tuple[str, ...]
    hash: str

    @classmethod
    def parse(cls, text: Any) -> Change:
        """What the n0 of an X row says. Raises Divergence for what is none, or touches what is ours."""
        try:
            facts = json.loads(text)
            change = cls(
                tuple((kind, name, table, sql) for kind, name, table, sql in facts["objects"]),
                dict(facts["tables"]),
                {table: [(now, before) for now, before in pairs] for table, pairs in facts["columns"].items()},
                tuple(facts["masks"]),
                facts["hash"],
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise Divergence(f"what an X row says is no schema: {type(exc).__name__}: {exc}") from exc
        change._check()
        return change

    def _check(self) -> None:
        before = [name for pairs in self.columns.values() for _, name in pairs if name is not None]
        after = [name for pairs in self.columns.values() for name, _ in pairs]
        texts = [*(word for each in self.objects for word in each), *self.tables, *self.tables.values(), *before, *after, *self.masks]
        if not all(type(text) is str and "\0" not in text for text in (*texts, self.hash)):
            raise Divergence("what an X row says is no schema: a name in it is no text")
        for kind, name, table, _ in self.objects:
            if kind not in KINDS or _is_reserved(kind, name) or _is_reserved("table", table):
                raise Divergence(f"an X row defines the {kind[:20]} {name[:80]!r} of {table[:80]!r}, which is no object of an application")
        named = [(kind, name.lower()) for kind, name, _, _ in self.objects]
        if len(set(named)) != len(named):
            raise Divergence("an X row defines an object twice")
        known = {name for kind, name, _, _ in self.objects if kind == "table"}
        if not known >= {*self.tables, *self.columns} or any(_is_reserved("table", old) for old in self.tables.values()):
            raise Divergence("an X row renames or alters a table that it does not define")


def rehearse(change: Change, here: set[Object], virtual: set[str]) -> None:
    """Make all objects in an empty database. Raises Divergence where one of those that are not `here` yet does not become what it says.

    `virtual`: the virtual tables that are here. No log carries their rows, so none comes by a log.
    """
    with closing(connect(":memory:", create=True, scratch=True)) as db:
        db.limit(apsw.SQLITE_LIMIT_SQL_LENGTH, LONGEST_DEFINITION)
        for each in change.objects:
            if each[1] in virtual and each in here:
                continue
            try:
                make(db, each)
            except (Divergence, apsw.Error) as exc:
                if each not in here:  # what is here may have been made by another SQLite, or before what it needs was dropped
                    raise Divergence(f"the {each[0]} {each[1]!r} of the primary is refused: {exc}", name=each[1]) from exc
        made = set(rows(db, "SELECT type, name, tbl_name, sql FROM sqlite_schema"))
    for each in change.objects:
        if each not in made | here:
            raise Divergence(f"the definition of the {each[0]} {each[1]!r} makes something else", name=each[1])


def make(db: apsw.Connection, wanted: Object) -> None:
    """Run the definition of one object, which can do nothing else: no second statement, no other name, no other file, no reading of rows.

    Raises Divergence, and what SQLite raises.
    """
    kind, name, _, sql = wanted
    if not isinstance(sql, str):
        raise Divergence("its definition is no text")
    statements = 0

    def only_one(_cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
        nonlocal statements
        statements += 1
        if statements > 1:
            raise Divergence("there is more than one statement in its definition")
        return True

    def allowed(action: int, first: str | None, second: str | None, database: str | None, _inner: str | None) -> int:
        if action in _CREATIONS:
            right = (_CREATIONS[action] == kind and first == name) or _is_automatic(action, first)
            return apsw.SQLITE_OK if right and database == "main" else apsw.SQLITE_DENY
        if action in _SCHEMA_ROWS and first in ("sqlite_master", "sqlite_schema", "sqlite_sequence"):
            return apsw.SQLITE_OK
        return apsw.SQLITE_OK if action in _IN_EXPRESSIONS else apsw.SQLITE_DENY

    cursor = db.cursor()
    cursor.exec_trace = only_one
    db.authorizer = allowed
    try:
        cursor.execute(sql)
    finally:
        db.authorizer = None


def _is_automatic(action: int, name: str | None) -> bool:
    """What SQLite makes by itself: the counter of AUTOINCREMENT and the indexes of constraints."""
    return action in (apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_INDEX) and str(name).startswith("sqlite_")


def _is_reserved(kind: str, name: str) -> bool:
    """Whether only SQLite or the changelog may have an object of this name. (Tables, views and indexes share their names.)"""
    ours = is_ours(kind, name) or (kind != "trigger" and (is_ours("table", name) or is_ours("view", name)))
    return ours or name.lower().startswith("sqlite_")
