"""Applying log rows: for each shape of row the SQL that repeats it on the tables, and the SQL that keeps it in the replica's own log."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import apsw

from changelog.errors import CannotCapture, Divergence
from changelog.fulltext import keep_indexes
from changelog.reshape import reshape
from changelog.schema import Table, identifier, read_tables, tables_with_triggers
from changelog.storage import is_outage
from changelog.values import RawText
from changelog.wire import FACTS, Page, Row

_Known = tuple[int, dict[tuple[str, int], Table], set[str]]  # schema_version, tables by (name, gen), who needs whole rows
_KNOWN: WeakKeyDictionary[apsw.Connection, _Known] = WeakKeyDictionary()


class Applier:
    """Applies pages of log rows to the tables and to the replica's own log, inside the caller's transaction."""

    def __init__(self, db: apsw.Connection, log_only: bool = False) -> None:
        self._db = db
        self._cursor = db.cursor()
        self._log_only = log_only
        self._shapes: dict[Any, _Shape] = {}
        self.reshaped = False  # whether an X row has changed the schema
        self._recall_schema()

    def apply(self, pages: Iterable[Page]) -> Row | None:
        """Apply every row and return the last one. Raises Divergence at the first surprise, and what a full disk raises."""
        last = None
        for page in pages:
            last = page.rows[-1]
            for rows in _cut_at_ddl(page.rows) if page.ddl else [page.rows]:
                try:
                    if rows[0][5] == "X":
                        self._apply_ddl(rows[0])
                    else:
                        self._apply_rows(rows, page.raw)
                except (apsw.Error, CannotCapture, TypeError, ValueError, KeyError, OverflowError) as exc:
                    if is_outage(exc):
                        raise  # a full disk, or one that fails, says nothing about the log
                    where = f"seq {rows[0][0]} to {rows[-1][0]}"
                    raise Divergence(f"{where}: {type(exc).__name__}: {exc}", seq=rows[0][0]) from exc
        return last

    def _recall_schema(self) -> None:
        """The schema as the frame before left it: to read it takes longer than to apply one row."""
        version = self._db.pragma("schema_version")
        known = _KNOWN.get(self._db)
        if known is not None and known[0] == version:
            _, self._tables, self._triggered = known
            self._indexed: set[str] = set()
            return
        self._look_at_schema()
        # Not from within a transaction that has changed it: what is rolled back gives its number to the next change. And not with
        # full-text indexes, whose triggers others take away.
        if not self._indexed:
            _KNOWN[self._db] = version, self._tables, self._triggered

    def _look_at_schema(self) -> None:
        tables = read_tables(self._db)
        self._tables = {(t.name, t.gen): t for t in tables}
        self._indexed = keep_indexes(self._db, tables)
        self._triggered = tables_with_triggers(self._db) | {t.name for t in tables if t.actions.revisit}
        self._shapes = {}

    def _apply_ddl(self, row: Row) -> None:
        if len(row) != len(FACTS) + 1:
            raise Divergence(f"seq {row[0]}: a change of the schema has {len(row) - len(FACTS)} values, not one", seq=row[0])
        self.reshaped = True
        reshape(self._db, row[len(FACTS)])
        self._look_at_schema()
        names = [*FACTS, "n0"]
        self._cursor.execute(f"INSERT OR ABORT INTO changelog({','.join(names)}) VALUES({','.join('?' * len(names))})", row)

    def _apply_rows(self, rows: list[Row], raw: bool) -> None:
        execute, shapes, log_only, indexed = self._cursor.execute, self._shapes, self._log_only, self._indexed
        before, expected = self._db.total_changes(), 0
        used = set()
        for row in rows:
            shape = (not raw and shapes.get((row[4], row[5], row[7], row[8]))) or self._shape(row, raw)
            if len(row) != shape.length:
                raise Divergence(f"seq {row[0]}: the row does not fit the columns of table {row[4]}", seq=row[0])
            if shape.apply and not log_only:
                execute(shape.apply, shape.arguments(row))
                expected += 1
                if row[4] in indexed and self._db.changes() == 1:
                    expected = self._db.total_changes() - before  # what its full-text index needed counts as changes, too
            shape.pending.append(row)
            used.add(shape)
        for shape in used:  # the order of rows in the log is their seq, whatever the order of writing
            self._cursor.executemany(shape.log, shape.pending)
            shape.pending = []
        if self._db.total_changes() - before != expected + len(rows):
            raise Divergence(f"seq {rows[0][0]} to {rows[-1][0]}: a row that changed on the primary is not on the replica", seq=rows[0][0])

    def _shape(self, row: Row, raw: bool) -> _Shape:
        key: tuple[Any, ...] = (row[4], row[5], row[7], row[8])
        raw_at = tuple(i for i, v in enumerate(row) if type(v) is RawText) if raw else ()
        if raw_at:
            key = (*key, raw_at)
        found = self._shapes.get(key)
        if found is None:
            table = self._tables.get((row[4], row[7]))
            if table is None:
                raise Divergence(f"seq {row[0]}: table {row[4]} does not exist here with these columns", seq=row[0])
            found = self._shapes[key] = _Shape.of(row, table, raw_at, whole=table.name in self._triggered)
        return found


def _cut_at_ddl(rows: list[Row]) -> Iterator[list[Row]]:
    """The rows in runs; each X is one of its own."""
    for is_ddl, run in groupby(rows, key=lambda row: row[5] == "X"):
        if is_ddl:
            yield from ([row] for row in run)
        else:
            yield list(run)


@dataclass(eq=False)
class _Shape:
    """What rows of one shape have in common: table, op, column list and changed columns, and so their SQL."""

    length: int
    log: str  # takes the whole row
    apply: str | None
    arguments: Callable[[Row], Any]  # picks out of a row what `apply` takes
    pending: list[Row] = field(default_factory=list)  # applied, not yet in the log

    @classmethod
    def of(cls, row: Row, table: Table, raw_at: tuple[int, ...], whole: bool) -> _Shape:
        kinds = {"I": "n", "U": "no", "D": "o"}[row[5]]
        width = len(table.columns)
        if row[5] == "U" and not re.fullmatch(rf"[01]{{{width}}}", row[8] or ""):
            raise Divergence(f"seq {row[0]}: the row does not fit the columns of table {table.name}", seq=row[0])
        names = [*FACTS, *(f"{kind}{i}" for kind in kinds for i in range(width))]
        marks = [mark(i in raw_at) for i in range(len(names))]
        sql, picked = _apply_sql(table, row, marks, whole)
        log = f"INSERT OR ABORT INTO changelog({','.join(names)}) VALUES({','.join(marks)})"
        return cls(len(names), log, sql, _picker(picked))


def mark(raw: bool) -> str:
    """The parameter for a value; apsw binds no text that is not UTF-8."""
    return "CAST(? AS TEXT)" if raw else "?"


def _apply_sql(table: Table, row: Row, marks: list[str], whole: bool) -> tuple[str | None, list[int]]:
    """The statement that applies `row` to its table, and which fields of the row it takes.

    OR ABORT everywhere: a constraint of the schema may say REPLACE or IGNORE, and the log already holds what that did.
    An UPDATE sets what changed and no more, because to set an unchanged key or indexed column costs as much as to insert the row; but
    the `whole` row where the table has triggers of its own: one that ran BEFORE may have changed the row, and OLD does not show it. So
    may the action of a foreign key, for a row that a REPLACE killed first.
    """
    op, width, first = row[5], len(table.columns), len(FACTS)
    name, columns = identifier(table.name), [identifier(c.name) for c in table.columns]
    rowid = identifier(table.rowid or "")
    old = first + width if op == "U" else first  # where the old values begin
    keys = [(columns[slot], old + slot, table.columns[slot].key_collation) for slot in table.key_slots] or [(rowid, 10, "BINARY")]
    where = " AND ".join(f"{column}={marks[at]} COLLATE {identifier(collation)}" for column, at, collation in keys)
    if op == "D":
        return f"DELETE FROM {name} WHERE {where}", [at for _, at, _ in keys]
    values = [(c, first + i) for i, c in enumerate(columns) if op == "I" or whole or row[8][i] == "1"]
    if table.keyed_by_rowid:
        values.append((rowid, 9))
    if op == "I":
        into, given = ",".join(c for c, _ in values), ",".join(marks[at] for _, at in values)
        return f"INSERT OR ABORT INTO {name}({into}) VALUES({given})", [at for _, at in values]
    if not values:
        return None, []
    assigned = ",".join(f"{c}={marks[at]}" for c, at in values)
    return f"UPDATE OR ABORT {name} SET {assigned} WHERE {where}", [at for _, at in values] + [at for _, at, _ in keys]


def _picker(picked: list[int]) -> Callable[[Row], Any]:
    return itemgetter(*picked) if len(picked) > 1 else lambda row: tuple(row[at] for at in picked)
