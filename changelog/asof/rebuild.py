"""A database made anew out of what `past` knows: a file, or one table of it in memory, with SQLite's own defaults and generated columns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import apsw

from changelog.apply import mark
from changelog.asof.past import Past
from changelog.connection import connect, remove_database, sync_path
from changelog.definitions import make
from changelog.errors import CannotRebuild, Conflict, Divergence, NotFound
from changelog.schema import Table, identifier, sequences_of
from changelog.values import RawText, Value

KEPT_PRAGMAS = ("user_version", "application_id")


def write_file(source: apsw.Connection, past: Past, target: Path) -> list[str]:
    """Write the whole database of then to the new file `target`; returns what is not in it, in words.

    Raises Conflict when there is such a file, and CannotRebuild with all that stands in the way; then nothing is left behind.
    """
    if target.exists():
        raise Conflict(f"{target} exists already: name a new file")
    if not target.absolute().parent.is_dir():
        raise NotFound(f"there is no folder {target.absolute().parent}")
    incoming = target.with_name(f"{target.name}.incoming")
    try:
        db = _created(source, past, incoming)
        try:
            _fill_all(db, past)
            notes = _finish(source, db, past)
            db.pragma("journal_mode", "wal")
        finally:
            db.close()
        sync_path(incoming)
        incoming.replace(target)
        sync_path(target.absolute().parent)
    finally:
        remove_database(incoming)
    return notes


def in_memory(source: apsw.Connection, past: Past, table: Table, found: Iterable[dict[str, Value]]) -> apsw.Connection:
    """A database that holds these rows of one table."""
    db = _created(source, past, ":memory:")
    with db:
        _insert(db, table, found)
    return db


def _created(source: apsw.Connection, past: Past, path: Path | str) -> apsw.Connection:
    """A new database with the tables of then, empty."""
    db = connect(path, create=True, scratch=True)
    for pragma in ("encoding", "page_size"):
        db.pragma(pragma, source.pragma(pragma))
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    db.pragma("ignore_check_constraints", True)  # as replay does: somebody may have
    for each in past.objects:
        if each[0] == "table":
            make(db, each)
    return db


def _fill_all(db: apsw.Connection, past: Past) -> None:
    lost = []
    with db:
        for table in past.tables.values():
            try:
                _insert(db, table, past.rows_of(table))
            except CannotRebuild as exc:
                lost.append(exc.message)
        if lost:
            raise CannotRebuild("\n".join(lost))


def _finish(source: apsw.Connection, db: apsw.Connection, past: Past) -> list[str]:
    """Indexes, views and triggers, and what is taken as it is now."""
    notes = [f"the virtual table {name} is not in it: no log holds its rows" for name in past.virtual]
    with db:
        for each in past.objects:
            kind, name, _, _ = each
            if kind != "table":
                try:
                    make(db, each)
                except (apsw.SQLError, apsw.AuthError, Divergence) as exc:  # it needs what only the application has
                    notes.append(f"the {kind} {name} is not in it: {exc}")
        for name in sequences_of(db):
            db.execute("UPDATE sqlite_sequence SET seq=max(seq,?) WHERE name=?", (sequences_of(source).get(name, 0), name))
        for pragma in KEPT_PRAGMAS:
            db.pragma(pragma, source.pragma(pragma))
    return notes


def _insert(db: apsw.Connection, table: Table, found: Iterable[dict[str, Value]]) -> None:
    name = identifier(table.name)
    for row in found:
        columns = ",".join(map(identifier, row))
        marks = ",".join(mark(type(value) is RawText) for value in row.values())
        db.execute(f"INSERT OR ABORT INTO {name}({columns}) VALUES({marks})", tuple(row.values()))
