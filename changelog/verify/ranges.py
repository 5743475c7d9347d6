"""Tables, and the log, cut into ranges of keys: what two sides compare range by range, each in its own file.

A range is all rows whose key is greater than `after` and not greater than `upto`, in the order and the collations of the key itself;
None is no limit. Keys cross the wire as lists of values (see `values.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apsw

from changelog.apply import mark
from changelog.connection import one
from changelog.errors import BrokenFrame
from changelog.install import slot_count
from changelog.layout import slot_names
from changelog.schema import Table, identifier, read_tables
from changelog.values import RawText, Value, decode_value, encode_value, exact_rows
from changelog.verify.digest import row_names
from changelog.verify.hashing import rows_digest
from changelog.wire import FACTS

LOG = "changelog"
LEAST_ROWS = 32  # of a range: smaller ones would cost more bytes than the rows that they spare
LONGEST_KEY = 2_000  # characters or bytes of a key between two ranges
KEYS_TRIED = 16  # rows looked at in one go for a key that may stand between two ranges

Key = tuple[Value, ...]
Row = tuple[Value, ...]


@dataclass(frozen=True)
class Scope:
    """What is compared row by row: a table or the log. `terms` are SQL, one for each of `columns`; the key is the columns at `key_at`."""

    name: str
    columns: tuple[str, ...]
    terms: tuple[str, ...]
    key_at: tuple[int, ...]
    collations: tuple[str | None, ...]  # of the key's columns; None where the column's own is the key's
    by_rowid: bool
    floor: int | None = None  # of the log: rows with a lower seq are not compared

    def key_of(self, row: Row) -> Key:
        """What tells a row from the others."""
        return tuple(row[i] for i in self.key_at)

    @property
    def source(self) -> str:
        """FROM. Where the rowid orders the rows no index is to be asked: it could differ from the table, and the table is what counts."""
        return f"FROM {identifier(self.name)}{' NOT INDEXED' if self.by_rowid else ''}"

    @property
    def keys(self) -> list[str]:
        """The key as SQL terms, with the collations that order it."""
        named = zip((self.terms[i] for i in self.key_at), self.collations, strict=True)
        return [f"{term} COLLATE {identifier(collation)}" if collation else term for term, collation in named]


@dataclass(frozen=True)
class Range:
    """The rows of one scope between two keys."""

    after: Key | None = None
    upto: Key | None = None


@dataclass(frozen=True)
class Part:
    """A range with how many rows one side has in it, and their digest ("" without rows)."""

    range: Range
    rows: int
    digest: str


def scopes_of(db: apsw.Connection, floor: int, slots: int | None = None) -> dict[str, Scope]:
    """The captured tables and the log, by name. The log begins at seq `floor`; `slots` are its value slots of each kind (default: all)."""
    found = {table.name: table_scope(table) for table in read_tables(db)}
    return found | {LOG: log_scope(db, floor, slots)}


def table_scope(table: Table) -> Scope:
    """A captured table."""
    names = row_names(table)
    key = table.primary_key if table.key_slots else ()
    at = tuple(names.index(c.name) for c in key) or (0,)
    collations = tuple(None if c.collation == c.key_collation.upper() else c.key_collation for c in key) or (None,)
    by_rowid = table.keyed_by_rowid or table.ipk is not None
    return Scope(table.name, tuple(names), tuple(identifier(n) for n in names), at, collations, by_rowid)


def log_scope(db: apsw.Connection, floor: int, slots: int | None = None) -> Scope:
    """The log, from seq `floor` on."""
    own = slot_count(db)
    columns = (*FACTS, *slot_names(own if slots is None else slots))
    have = {*FACTS, *slot_names(own)}
    return Scope(LOG, columns, tuple(c if c in have else "NULL" for c in columns), (0,), (None,), True, floor)


def condition(scope: Scope, range_: Range) -> tuple[str, Key]:
    """WHERE and its values: the rows of a range."""
    after, upto = range_.after, range_.upto
    if scope.floor is not None:
        after = (max(scope.floor - 1, after[0] if after and isinstance(after[0], int) else scope.floor - 1),)
    tests = [t for key, operator in ((after, ">"), (upto, "<=")) if key is not None for t in _beyond(scope, key, operator)]
    if not tests:
        return "", ()
    return f"WHERE {' AND '.join(sql for sql, _ in tests)}", tuple(v for _, values in tests for v in values)


def _beyond(scope: Scope, key: Key, operator: str) -> Iterator[tuple[str, Key]]:
    if len(key) == 1:
        yield f"{scope.keys[0]}{operator}?", key
        return
    if any(scope.collations):  # SQLite uses no index for row values with a COLLATE, but for the first of them alone
        yield f"{scope.keys[0]}{operator[0]}=?", key[:1]
    yield f"({','.join(scope.keys)}){operator}({','.join('?' * len(key))})", key


def ordered(scope: Scope, range_: Range) -> tuple[str, Key]:
    """FROM, WHERE and ORDER BY, and the values: the rows of a range in key order."""
    where, bindings = condition(scope, range_)
    return f"{scope.source} {where} ORDER BY {','.join(scope.keys)}", bindings


def rows_in(db: apsw.Connection, scope: Scope, range_: Range) -> Iterator[Row]:
    """The rows of a range, in key order."""
    yield from exact_rows(db, scope.terms, *ordered(scope, range_))


def count_in(db: apsw.Connection, scope: Scope, range_: Range) -> int:
    """How many rows a range has."""
    where, bindings = condition(scope, range_)
    return one(db, f"SELECT count(*) {scope.source} {where}", bindings)


def part_of(db: apsw.Connection, scope: Scope, range_: Range) -> Part:
    """How many rows a range has here, and their digest."""
    source, bindings = ordered(scope, range_)
    return Part(range_, *rows_digest(db, scope.terms, source, bindings))


def split(db: apsw.Connection, scope: Scope, range_: Range, parts: int) -> Iterator[Part]:
    """Cut a range into at most `parts` of about the same number of rows, none smaller than LEAST_ROWS. At least one part."""
    left = count_in(db, scope, range_)
    step = max(LEAST_ROWS, -(-left // parts))
    after = range_.after
    while left > step and (upto := _key_at(db, scope, Range(after, range_.upto), step - 1)) is not None:
        part = part_of(db, scope, Range(after, upto))
        yield part
        after, left = upto, left - part.rows
    yield part_of(db, scope, Range(after, range_.upto))


def _key_at(db: apsw.Connection, scope: Scope, range_: Range, skip: int) -> Key | None:
    """The key of the row after the first `skip` ones, or of the next one whose key may stand between two ranges; None at the end.

    Not every key may: text that is not UTF-8 is not compared by SQLite as it was stored when it is a parameter, and some keys are long.
    """
    source, bindings = ordered(scope, range_)
    names = [f"k{i}" for i in range(len(scope.key_at))]
    terms = ",".join(f"{scope.terms[at]} AS {name}" for at, name in zip(scope.key_at, names, strict=True))
    while True:
        window = f"FROM (SELECT {terms} {source} LIMIT {KEYS_TRIED} OFFSET {skip})"
        found = list(exact_rows(db, names, window, bindings))
        for key in found:
            if not any(isinstance(v, RawText) or (isinstance(v, str | bytes) and len(v) > LONGEST_KEY) for v in key):
                return key
        if len(found) < KEYS_TRIED:
            return None
        skip += KEYS_TRIED


def same_key(scope: Scope, key: Key) -> tuple[str, Key]:
    """WHERE and its values: the row with this key, as SQLite compares keys."""
    tests = [f"{term}={mark(type(v) is RawText)}" for term, v in zip(scope.keys, key, strict=True)]
    return f"WHERE {' AND '.join(tests)}", key


def decode_key(value: Any) -> Key | None:
    """A key as it crossed the wire. Raises BrokenFrame."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise BrokenFrame(f"not a key: {str(value)[:60]}")
    return tuple(decode_value(v) for v in value)


def encode_key(key: Key | None) -> Any:
    """A key for the wire."""
    return None if key is None else [encode_value(v) for v in key]
