"""Full-text indexes on a replica: an FTS5 table over a captured table is kept up as that table is replayed.

No trigger captures a virtual table, and the application's triggers that fill its index are silent on a replica. But an external-content
index (https://sqlite.org/fts5.html, section 4.4.3) holds nothing that its content table does not: so TEMP triggers, which belong to the
replaying connection alone, do here what the application's did there. Other virtual tables come with snapshots only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import apsw

from changelog.connection import rows
from changelog.schema import Table, identifier

_WORD = r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|\w+)"""
_FTS5 = re.compile(r"\s*CREATE\s+VIRTUAL\s+TABLE\b.*?\bUSING\s+fts5\s*\((.*)\)\s*", re.IGNORECASE | re.DOTALL)
_CONTENT = re.compile(rf"(?:^|,)\s*content\s*=\s*{_WORD}", re.IGNORECASE)
_CONTENT_ROWID = re.compile(rf"(?:^|,)\s*content_rowid\s*=\s*{_WORD}", re.IGNORECASE)


@dataclass(frozen=True)
class _Index:
    """An external-content FTS5 table."""

    name: str
    content: str
    rowid: str
    columns: tuple[str, ...]


def keep_indexes(db: apsw.Connection, tables: list[Table]) -> set[str]:
    """Make the TEMP triggers for all indexes over `tables`; returns the names of the tables that have one."""
    leave_indexes(db)
    captured = {table.name.lower(): table for table in tables}
    indexed = set()
    for index in _indexes(db):
        table = captured.get(index.content.lower())
        if table and {c.lower() for c in index.columns} <= {c.name.lower() for c in table.all_columns}:
            for sql in _triggers(index, table):
                db.execute(sql)
            indexed.add(table.name)
    return indexed


def leave_indexes(db: apsw.Connection) -> None:
    """Drop those TEMP triggers: the next replay makes them again."""
    for (name,) in rows(db, "SELECT name FROM sqlite_temp_schema WHERE type='trigger' AND name LIKE 'changelog\\_fts\\_%' ESCAPE '\\'"):
        db.execute(f"DROP TRIGGER temp.{identifier(name)}")


def rebuild_indexes(db: apsw.Connection, table: str) -> None:
    """Fill the indexes over `table` anew: its rows were changed in another way than by replay."""
    for index in _indexes(db):
        if index.content.lower() == table.lower():
            name = identifier(index.name)
            db.execute(f"INSERT INTO {name}({name}) VALUES('rebuild')")


def _indexes(db: apsw.Connection) -> Iterator[_Index]:
    for name, sql in rows(db, "SELECT name, sql FROM sqlite_schema WHERE type='table' AND rootpage=0"):
        arguments = _FTS5.fullmatch(sql)
        content = _CONTENT.search(arguments[1]) if arguments else None
        if arguments and content and _plain(content[1]):
            rowid = _CONTENT_ROWID.search(arguments[1])
            columns = rows(db, "SELECT name FROM pragma_table_xinfo(?) WHERE hidden=0 ORDER BY cid", (name,))
            yield _Index(name, _plain(content[1]), _plain(rowid[1]) if rowid else "rowid", tuple(c for (c,) in columns))


def _triggers(index: _Index, table: Table) -> Iterator[str]:
    fts, columns = identifier(index.name), "".join(f",{identifier(c)}" for c in index.columns)

    def values(row: str) -> str:
        return ",".join(f"{row}.{identifier(c)}" for c in (index.rowid, *index.columns))

    enter = f"INSERT INTO {fts}(rowid{columns}) VALUES({values('NEW')});"
    leave = f"INSERT INTO {fts}({fts},rowid{columns}) VALUES('delete',{values('OLD')});"
    for event, body in (("INSERT", enter), ("DELETE", leave), ("UPDATE", f"{leave} {enter}")):
        name = identifier(f"changelog_fts_{event}_{index.name}")
        yield f"CREATE TEMP TRIGGER {name} AFTER {event} ON main.{identifier(table.name)} BEGIN {body} END"


def _plain(word: str) -> str:
    """A name without its quotes."""
    for opening, closing in ("''", '""', "``"):
        if word.startswith(opening):
            return word[1:-1].replace(opening + closing, closing)
    return word[1:-1] if word.startswith("[") else word
