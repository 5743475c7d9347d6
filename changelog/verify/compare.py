"""Two databases compared: where each stands, the digest of each table, and the rows and columns in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apsw

from changelog.apply import mark
from changelog.audit import is_replica
from changelog.errors import NotAPrimary
from changelog.install import is_installed, masks_of
from changelog.position import Position
from changelog.render import MASK
from changelog.replay import position_of
from changelog.schema import Table, identifier, read_tables, schema_objects
from changelog.values import RawText, Value, encode_row, exact_rows, for_json
from changelog.verify.digest import TableDigest, digest_tables, row_names, table_rows

Row = tuple[Value, ...]
Progress = Callable[[str], object]  # (table that is being compared)


@dataclass
class TableDifference:
    """How one table differs: how many rows, and the first of them."""

    table: str
    digests: tuple[TableDigest | None, TableDigest | None]
    reason: str = ""  # why its rows are not compared one by one
    only_a: int = 0
    only_b: int = 0
    changed: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)  # {key, only} or {key, columns: {name: [a, b]}}


@dataclass
class Comparison:
    """What `diff` prints."""

    positions: tuple[str | None, str | None]
    tables: dict[str, tuple[TableDigest | None, TableDigest | None]]
    schema: list[str]  # objects that are not alike, as "index pens_by_name: only in A"
    differences: list[TableDifference]

    @property
    def identical(self) -> bool:
        """Whether both hold the same."""
        return not self.schema and not self.differences


def compare(a: apsw.Connection, b: apsw.Connection, limit: int, progress: Progress = lambda table: None) -> Comparison:
    """Compare two databases, each within a read transaction of the caller. At most `limit` rows of each table are named."""
    digests_a, digests_b = digest_tables(a), digest_tables(b)
    found = {name: (digests_a.get(name), digests_b.get(name)) for name in sorted(digests_a.keys() | digests_b.keys())}
    masks = {m.lower() for db in (a, b) for m in masks_of(db)}
    differences = []
    for name, pair in found.items():
        if pair[0] != pair[1]:
            progress(name)
            difference = TableDifference(name, pair)
            _explain(difference, (a, b), masks, limit)
            differences.append(difference)
    return Comparison((_position(a), _position(b)), found, _schema_differences(a, b), differences)


def _position(db: apsw.Connection) -> str | None:
    """Where a database stands, or None where it is neither primary nor replica."""
    if not is_installed(db):
        return None
    try:
        return str(position_of(db) if is_replica(db) else Position.of_head(db))
    except NotAPrimary:
        return None


def _schema_differences(a: apsw.Connection, b: apsw.Connection) -> list[str]:
    left, right = ({(o[0], o[1]): o[2:] for o in schema_objects(db)} for db in (a, b))
    unlike = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    where = {(False, True): "only in B", (True, False): "only in A", (True, True): "defined otherwise"}
    return [f"{kind} {name}: {where[(kind, name) in left, (kind, name) in right]}" for kind, name in unlike]


def _explain(found: TableDifference, both: tuple[apsw.Connection, apsw.Connection], masks: set[str], limit: int) -> None:
    left, right = (next((t for t in read_tables(db) if t.name == found.table), None) for db in both)
    if left is None or right is None:
        found.reason = f"the table is only in {'A' if left else 'B'}"
    elif row_names(left) != row_names(right) or left.gen != right.gen:
        found.reason = f"the columns are {', '.join(row_names(left))} in A and {', '.join(row_names(right))} in B"
    else:
        hidden = {name for name in row_names(left) if f"{left.name}.{name}".lower() in masks}
        _compare_rows(found, _Side(both[0], left), _Side(both[1], right), hidden, limit)


class _Side:
    """One table of one database, and its rows by key."""

    def __init__(self, db: apsw.Connection, table: Table) -> None:
        self._db, self.table = db, table
        self.names = row_names(table)
        self.key_at = [self.names.index(c.name) for c in table.primary_key] if table.key_slots else [0]
        self._collations = [c.key_collation for c in table.primary_key] if table.key_slots else ["BINARY"]

    def all(self) -> Iterator[Row]:
        """Every row."""
        return table_rows(self._db, self.table)

    def key(self, row: Row) -> Row:
        """What tells a row from the others."""
        return tuple(row[i] for i in self.key_at)

    def like(self, row: Row) -> Row | None:
        """The row here that has the key of a row from the other side, as SQLite compares keys."""
        tests = [
            f"{identifier(self.names[i])}={mark(type(row[i]) is RawText)} COLLATE {identifier(collation)}"
            for i, collation in zip(self.key_at, self._collations, strict=True)
        ]
        columns = [identifier(name) for name in self.names]
        return next(exact_rows(self._db, columns, f"FROM {identifier(self.table.name)} WHERE {' AND '.join(tests)}", self.key(row)), None)


def _compare_rows(found: TableDifference, a: _Side, b: _Side, hidden: set[str], limit: int) -> None:
    for row in a.all():
        other = b.like(row)
        if other is None:
            found.only_a += 1
            _note(found, limit, {"key": _key(a, row), "only": "A"})
        elif encode_row(row) != encode_row(other):
            found.changed += 1
            columns = {
                name: [MASK, MASK] if name in hidden else [for_json(mine), for_json(theirs)]
                for name, mine, theirs in zip(a.names, row, other, strict=True)
                if encode_row((mine,)) != encode_row((theirs,))
            }
            _note(found, limit, {"key": _key(a, row), "columns": columns})
    for row in b.all():
        if a.like(row) is None:
            found.only_b += 1
            _note(found, limit, {"key": _key(b, row), "only": "B"})


def _note(found: TableDifference, limit: int, difference: dict[str, Any]) -> None:
    if len(found.rows) < limit:
        found.rows.append(difference)


def _key(side: _Side, row: Row) -> Any:
    values = [for_json(v) for v in side.key(row)]
    return values[0] if len(values) == 1 else values
