"""What a schema says that capture and replay must know: tables, their stored columns, what identifies a row and what makes it unique."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import apsw

from changelog.actions import Actions, References
from changelog.connection import one, rows
from changelog.errors import CannotCapture

_OURS = {
    "table": re.compile(r"changelog|changelog_(cols|meta|stash|position)"),
    "view": re.compile(r"changelog_audit|changelog_of_.*", re.DOTALL),
    "trigger": re.compile(r"_changelog_.*", re.DOTALL),
    "index": re.compile(r"changelog_local_.*", re.DOTALL),  # what only a replica has: the indexes that its pages need
}

_ROWID_NAMES = ("rowid", "_rowid_", "oid")

_HASHES: WeakKeyDictionary[apsw.Connection, tuple[int, str]] = WeakKeyDictionary()  # schema_version, and the hash of that schema

MAX_COLUMNS = 994  # of a table: the log has two slots for each beside its facts, and SQLite 2000 columns at most


def identifier(name: str) -> str:
    """`name` as SQL text: the one place where a name meets SQL. Raises CannotCapture for what no SQL text can carry."""
    if "\0" in name:
        raise CannotCapture(f"a name with a NUL character cannot be captured: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string literal, for the triggers, which cannot take parameters."""
    if "\0" in text:
        raise CannotCapture(f"a name with a NUL character cannot be captured: {text!r}")
    return "'" + text.replace("'", "''") + "'"


def is_ours(kind: str, name: str) -> bool:
    """Whether a schema object belongs to the changelog, and so is neither captured nor part of the schema that two sides compare."""
    return bool(_OURS[kind].fullmatch(name.lower()))


@dataclass(frozen=True)
class Column:
    """A column as SQLite has it. `pk` counts from 1 within the primary key, 0 outside it."""

    name: str
    affinity: str
    collation: str
    notnull: bool
    pk: int
    key_collation: str  # of the primary key's index, which may say another than the column's
    generated: bool
    default: str | None = None  # as SQL text


@dataclass(frozen=True)
class UniqueKey:
    """One thing that makes rows unique: terms as SQL text with their collation, and the WHERE text of a partial index."""

    terms: tuple[tuple[str, str], ...]
    where: str | None
    plain: bool  # every term is a stored column of the table, and there is no WHERE


@dataclass(frozen=True)
class Table:
    """A table that triggers can capture."""

    name: str
    all_columns: tuple[Column, ...]
    without_rowid: bool
    strict: bool
    rowid: str | None  # a name by which the rowid can be reached, if there is one
    ipk: str | None  # the INTEGER PRIMARY KEY column, which is the rowid
    uniques: tuple[UniqueKey, ...]
    actions: Actions

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The stored columns, in slot order: generated ones are computed again by the replica."""
        return tuple(c for c in self.all_columns if not c.generated)

    @cached_property
    def primary_key(self) -> tuple[Column, ...]:
        """The declared key's columns, in key order."""
        return tuple(sorted((c for c in self.columns if c.pk), key=lambda c: c.pk))

    @cached_property
    def keyed_by_rowid(self) -> bool:
        """Without a key that is never NULL only the rowid tells two rows apart. (Shipping rowids of other tables would be wrong: VACUUM
        renumbers them.)"""
        if self.without_rowid or self.ipk:
            return False
        return not self.primary_key or not all(c.notnull for c in self.primary_key)

    @cached_property
    def gen(self) -> int:
        """Which column list the slots of a log row follow: a hash of it, never a counter, so that an old triggers.sql cannot lie."""
        text = json.dumps([[c.name, c.pk] for c in self.columns] + [self.keyed_by_rowid])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")

    @cached_property
    def key_slots(self) -> tuple[int, ...]:
        """The slots that identify a row; empty where the rowid does."""
        return () if self.keyed_by_rowid else tuple(self.columns.index(c) for c in self.primary_key)


def read_tables(db: apsw.Connection) -> list[Table]:
    """All tables that can be captured, by name. Raises CannotCapture for one whose rows nothing identifies.

    Virtual tables and their shadows are left out: a trigger on an FTS5 shadow table crashes SQLite.
    """
    found = rows(
        db,
        """SELECT name, wr, strict FROM pragma_table_list
           WHERE schema='main' AND type='table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name""",
    )
    references = References(db, tables_with_triggers(db))
    return [_read_table(db, name, bool(wr), bool(strict), references) for name, wr, strict in found if not is_ours("table", name)]


def tables_with_triggers(db: apsw.Connection) -> set[str]:
    """The names of the tables that have triggers of an application."""
    found = rows(
        db,
        """SELECT s.name, t.name FROM sqlite_schema t JOIN sqlite_schema s ON s.type='table' AND s.name=t.tbl_name COLLATE NOCASE
           WHERE t.type='trigger'""",
    )
    return {table for table, trigger in found if not is_ours("trigger", trigger)}


def virtual_tables(db: apsw.Connection) -> list[str]:
    """The virtual tables: no trigger can capture them, only a snapshot carries them."""
    return [name for (name,) in rows(db, "SELECT name FROM pragma_table_list WHERE schema='main' AND type='virtual' ORDER BY name")]


def schema_objects(db: apsw.Connection) -> list[tuple[str, str, str, str]]:
    """(type, name, table, sql) of everything that both sides must have alike: all but ours, in a stable order."""
    found = rows(
        db,
        """SELECT type, name, tbl_name, sql FROM sqlite_schema
           WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type, name""",
    )
    return [(kind, name, table, sql) for kind, name, table, sql in found if not is_ours(kind, name)]


def schema_hash(db: apsw.Connection) -> str:
    """A digest of `schema_objects`: equal on both sides, or replay must not go on."""
    return hashlib.sha256(json.dumps(schema_objects(db)).encode()).hexdigest()[:32]


def committed_schema_hash(db: apsw.Connection) -> str:
    """`schema_hash` of a transaction that has not changed the schema: remembered, for a sixth of a millisecond counts in each commit.

    Not where it has: what is rolled back gives its schema_version to the next change.
    """
    version = db.pragma("schema_version")
    known = _HASHES.get(db)
    if known is None or known[0] != version:
        known = _HASHES[db] = version, schema_hash(db)
    return known[1]


def sequences_of(db: apsw.Connection) -> dict[str, int]:
    """The AUTOINCREMENT counters of the tables that are not ours."""
    if not db.table_exists("main", "sqlite_sequence"):
        return {}
    found = rows(db, "SELECT name, seq FROM sqlite_sequence WHERE typeof(name)='text' AND typeof(seq)='integer'")
    return {name: seq for name, seq in found if not is_ours("table", name)}


def _read_table(db: apsw.Connection, name: str, without_rowid: bool, strict: bool, references: References) -> Table:
    columns = tuple(_read_columns(db, name, strict))
    if len(columns) > MAX_COLUMNS:
        raise CannotCapture(f"table {name}: {len(columns)} columns are too many, the changelog holds {MAX_COLUMNS}", table=name)
    taken = {c.name.lower() for c in columns}
    declared = [c for c in columns if c.pk]
    ipk = declared[0].name if len(declared) == 1 and not without_rowid and _is_ipk(db, name) else None
    rowid = None if without_rowid else ipk or next((n for n in _ROWID_NAMES if n not in taken), None)
    uniques = tuple(_read_uniques(db, name, columns))
    table = Table(name, columns, without_rowid, strict, rowid, ipk, uniques, references.actions(name, ((c.name, c.pk) for c in columns)))
    if table.keyed_by_rowid and rowid is None:
        raise CannotCapture(
            f"table {name}: no key identifies its rows, and columns named rowid, _rowid_ and oid hide the rowid; give it a primary key",
            table=name,
        )
    return table


def _read_columns(db: apsw.Connection, table: str, strict: bool) -> Iterator[Column]:
    key = "SELECT x.name, x.coll FROM pragma_index_list(?) i, pragma_index_xinfo(i.name) x WHERE i.origin='pk' AND x.key"
    key_collations = dict(rows(db, key, (table,)))
    for name, declared, notnull, pk, hidden, default in rows(
        db, 'SELECT name, type, "notnull", pk, hidden, dflt_value FROM pragma_table_xinfo(?) ORDER BY cid', (table,)
    ):
        collation = db.column_metadata("main", table, name)[1]
        affinity = "BLOB" if strict and declared.upper() == "ANY" else _affinity(declared)
        key_collation = key_collations.get(name, collation)
        yield Column(name, affinity, collation.upper(), bool(notnull), pk, key_collation, hidden in (2, 3), default)


def _affinity(declared: str) -> str:
    """Column affinity by SQLite's rules (https://sqlite.org/datatype3.html, section 3.1)."""
    text = declared.upper()
    if "INT" in text:
        return "INTEGER"
    if any(word in text for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in text or not text:
        return "BLOB"
    if any(word in text for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def _is_ipk(db: apsw.Connection, table: str) -> bool:
    """A single-column key is the rowid exactly when SQLite made no index for it (`INTEGER PRIMARY KEY DESC` looks like one and is not)."""
    return not rows(db, "SELECT 1 FROM pragma_index_list(?) WHERE origin='pk'", (table,))


def _read_uniques(db: apsw.Connection, table: str, columns: tuple[Column, ...]) -> Iterator[UniqueKey]:
    stored = {c.name for c in columns if not c.generated}
    for index, partial in rows(db, 'SELECT name, partial FROM pragma_index_list(?) WHERE "unique"', (table,)):
        parts = rows(db, "SELECT cid, name, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno", (index,))
        sql = one(db, "SELECT sql FROM sqlite_schema WHERE type='index' AND name=?", (index,))
        texts, where = _index_terms(sql) if sql else ([], None)
        terms = tuple((identifier(name) if cid >= 0 else texts[i], coll) for i, (cid, name, coll) in enumerate(parts))
        plain = not partial and all(cid >= 0 and name in stored for cid, name, _ in parts)
        yield UniqueKey(terms, where if partial else None, plain)


_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|[\w$\x80-\U0010ffff]+|\s+|.""",
    re.DOTALL,
)


def _index_terms(sql: str) -> tuple[list[str], str | None]:
    """The texts between the parentheses of a CREATE INDEX, one a term, and the text after its WHERE."""
    tokens = [" " if t.startswith(("--", "/*")) else t for t in _TOKEN.findall(sql)]
    start = tokens.index("(")
    terms: list[list[str]] = []
    term: list[str] = []
    depth, end = 0, len(tokens)
    for i in range(start, len(tokens)):
        token = tokens[i]
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0:
            end = i
            break
        if depth == 1 and token == ",":
            terms.append(term)
            term = []
        elif i > start:
            term.append(token)
    terms.append(term)
    rest = [i for i in range(end, len(tokens)) if tokens[i].upper() == "WHERE"]
    return [_without_direction(t) for t in terms], "".join(tokens[rest[0] + 1 :]).strip() if rest else None


def _without_direction(tokens: list[str]) -> str:
    words = [t for t in tokens if t.strip()]
    if words and words[-1].upper() in ("ASC", "DESC"):
        last = max(i for i, t in enumerate(tokens) if t.strip())
        tokens = tokens[:last]
    return "".join(tokens).strip()
