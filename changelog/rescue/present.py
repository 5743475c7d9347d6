"""One table as it is now, row by row: found, inserted, updated and deleted by what identifies a row, whatever the table is like."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import apsw

from changelog.apply import mark
from changelog.connection import one
from changelog.rescue.lives import Identity, Values, identity
from changelog.schema import Table, UniqueKey, identifier
from changelog.values import RawText, Value, exact_rows

_CALL = re.compile(r"\w\s*\(|\bcurrent_(date|time|timestamp)\b", re.IGNORECASE)


def same(one_value: Value, other: Value) -> bool:
    """Whether two values are the same to the bit."""
    if type(one_value) is not type(other) or one_value != other:
        return False
    return not isinstance(one_value, float) or math.copysign(1, one_value) == math.copysign(1, float(str(other)))


class PresentTable:
    """A table of the database `db`."""

    def __init__(self, db: apsw.Connection, table: Table) -> None:
        self.table = table
        self._db = db
        self._name = identifier(table.name)
        self._columns = [identifier(c.name) for c in table.columns]
        self._key = [(self._columns[i], table.columns[i].key_collation) for i in table.key_slots]
        self._key = self._key or [(identifier(table.rowid or ""), "BINARY")]
        unique = {term for u in table.uniques for term, _ in u.terms}
        self.but_number = tuple(i for i, c in enumerate(table.columns) if c.name != table.ipk)
        # What two rows have in common when one was typed again: all but the number that SQLite gave, and what it computed, such as a time.
        self.telling = tuple(
            i
            for i, c in enumerate(table.columns)
            if c.name != table.ipk and (self._columns[i] in unique or not _CALL.search(re.sub(r"'(?:[^']|'')*'", "''", c.default or "")))
        )

    def read(self, row: Identity) -> Values | None:
        """The row's stored values, or None when there is none."""
        where, values = self._where(row)
        return next(exact_rows(self._db, self._columns, f"FROM {self._name} WHERE {where}", values), None)

    def all(self) -> Iterator[tuple[Identity, Values]]:
        """Every row."""
        keys = [name for name, _ in self._key]
        order = ",".join(f"{name} COLLATE {identifier(collation)}" for name, collation in self._key)
        for row in exact_rows(self._db, [*keys, *self._columns], f"FROM {self._name} ORDER BY {order}"):
            yield identity(row[: len(keys)]), row[len(keys) :]

    def identity_of(self, values: Values, rowid: Value) -> Identity:
        """What identifies a row with these values."""
        return identity([values[i] for i in self.table.key_slots] or [rowid])

    def identity_after(self, row: Identity, assigned: Mapping[int, Value]) -> Identity:
        """What identifies it when these columns have been set."""
        if not self.table.key_slots:
            return row
        return identity([assigned.get(i, v) for i, (_, v) in zip(self.table.key_slots, row, strict=True)])

    def insert(self, values: Values, rowid: Value) -> Identity | None:
        """Insert a row, under another number where a row has its number already. None when a trigger of somebody's forbade it."""
        row = dict(zip(self._columns, values, strict=True))
        number = identifier(self.table.ipk) if self.table.ipk else None
        if self.table.keyed_by_rowid:
            number = identifier(self.table.rowid or "")
            row[number] = rowid
        if number and one(self._db, f"SELECT 1 FROM {self._name} WHERE {number}=?", (row[number],)):
            row[number] = None
        marks = ",".join(mark(type(v) is RawText) for v in row.values())
        self._db.execute(f"INSERT OR ABORT INTO {self._name}({','.join(row)}) VALUES({marks})", tuple(row.values()))
        if not self._db.changes():
            return None
        return identity([self._db.last_insert_rowid()]) if number else self.identity_of(values, None)

    def update(self, row: Identity, assigned: Mapping[int, Value]) -> bool:
        """Set some columns, by their slots. False when a trigger of somebody's forbade it."""
        where, key = self._where(row)
        sets = ",".join(f"{self._columns[i]}={mark(type(v) is RawText)}" for i, v in assigned.items())
        self._db.execute(f"UPDATE OR ABORT {self._name} SET {sets} WHERE {where}", (*assigned.values(), *key))
        return bool(self._db.changes())

    def delete(self, row: Identity) -> bool:
        """Delete the row. False when a trigger of somebody's forbade it."""
        where, key = self._where(row)
        self._db.execute(f"DELETE FROM {self._name} WHERE {where}", key)
        return bool(self._db.changes())

    def in_the_way(self, values: Values) -> dict[Identity, list[str]]:
        """The rows that already have what must be unique in a row of these values, each with the columns."""
        found: dict[Identity, list[str]] = {}
        for unique in self.table.uniques:
            for row in self._taken(unique, values):
                found.setdefault(row, []).append(", ".join(c.name for c in self.table.columns if identifier(c.name) in dict(unique.terms)))
        return found

    def _taken(self, unique: UniqueKey, values: Values) -> list[Identity]:
        if not unique.plain:
            return []
        given = dict(zip(self._columns, values, strict=True))
        terms = [(term, collation, given[term]) for term, collation in unique.terms]
        where = " AND ".join(f"{term}={mark(type(v) is RawText)} COLLATE {identifier(collation)}" for term, collation, v in terms)
        keys = [name for name, _ in self._key]
        found = exact_rows(self._db, keys, f"FROM {self._name} WHERE {where} ORDER BY 1", tuple(v for _, _, v in terms))
        return [identity(row) for row in found]

    def _where(self, row: Identity) -> tuple[str, Values]:
        tests = (f"{n}={mark(kind is RawText)} COLLATE {identifier(c)}" for (n, c), (kind, _) in zip(self._key, row, strict=True))
        return " AND ".join(tests), tuple(v for _, v in row)
