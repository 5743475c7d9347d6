"""What a name in the log meant when it was written: tables and columns followed through every rename, by the X rows."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from itertools import count
from typing import Any

import apsw

from changelog.connection import rows
from changelog.ddl import Image, schema_list
from changelog.install import masks_of
from changelog.render import Columns, columns_of

Objects = list[tuple[str, str, str, str]]  # (type, name, table, sql) in the order of creation


class Names:
    """The tables and columns between two changes of the schema; each has a number that it keeps whatever it is called."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self.tables: dict[str, int] = {}
        self.columns: dict[int, dict[str, int]] = {}

    def table(self, name: str) -> int:
        """The number of a table. One that later schemas do not know has been dropped, and gets a number of its own."""
        if name not in self.tables:
            self.tables[name] = next(self._numbers)
        return self.tables[name]

    def column(self, table: int, name: str) -> int:
        """The number of a column."""
        known = self.columns.setdefault(table, {})
        if name not in known:
            known[name] = next(self._numbers)
        return known[name]

    def before(self, change: dict[str, Any]) -> Names:
        """The names as they were before the X row with this n0."""
        past = Names(self._numbers)
        for kind, name, _, _ in change["objects"]:
            if kind == "table":
                self.table(name)
        for now, then in change["tables"].items():
            number = past.tables[then] = self.table(now)
            pairs = change["columns"].get(now, [])
            past.columns[number] = {old: self.column(number, new) for new, old in pairs if old is not None}
            for new, _ in pairs:
                self.column(number, new)
        return past

    def masked(self, masks: list[str]) -> set[int]:
        """The numbers of the columns that these masks, each table.column, name."""
        hidden = {mask.lower() for mask in masks}
        named = ((f"{table}.{c}", number) for table, t in self.tables.items() for c, number in self.columns.get(t, {}).items())
        return {number for name, number in named if name.lower() in hidden}


class Lineage:
    """All names of a log. Across the birth of an epoch a name is taken to mean what it means now: nothing says that it does not."""

    def __init__(self, db: apsw.Connection) -> None:
        self.now = names = Names(count())
        present = Image.of(db)
        for kind, name, _, _ in schema_list(present):
            if kind == "table":
                for column, _ in present.columns[name]:
                    names.column(names.table(name), column)
        self.masks = masks_of(db)
        self._masked = names.masked(self.masks)
        self._columns = columns_of(db)
        self._by_name = {mask.lower() for mask in self.masks}
        self._slots: dict[tuple[int, Any, Any], list[tuple[str, int, bool]]] = {}
        self._numbers: dict[tuple[int, Any, Any], tuple[int, list[int]]] = {}
        self._names, self.changes = [names], []
        self._present: Objects = schema_list(present)
        for seq, text in rows(db, "SELECT seq, n0 FROM changelog WHERE op='X' ORDER BY seq DESC"):
            change = json.loads(text)
            self.changes.append((seq, change))
            past = names.before(change)
            self._masked |= names.masked(change["masks"])
            self._names.append(past)
            names = past
        self._names.reverse()
        self.changes.reverse()

    def at(self, seq: int) -> Names:
        """The names right after `seq`."""
        return self._names[self._stage(seq)]

    def schema_at(self, seq: int) -> Objects:
        """The application's schema right after `seq`."""
        stage = self._stage(seq)
        return self._present if stage == len(self.changes) else [tuple(o) for o in self.changes[stage][1]["before"]]

    def slots(self, seq: int, table: Any, gen: Any) -> list[tuple[str, int, bool]]:
        """The slots of a log row as (column, place in the key or 0, masked); masked is what has a mask now, had one then, or since."""
        key = (self._stage(seq), table, gen)
        if key not in self._slots:
            found = self._columns.get((table, gen), [])
            self._slots[key] = [(name, pk, self.is_masked(seq, table, gen, name)) for name, pk, _ in found]
        return self._slots[key]

    def numbers(self, seq: int, table: Any, gen: Any) -> tuple[int, list[int]]:
        """The numbers of a log row's table and of its slots' columns."""
        key = (self._stage(seq), table, gen)
        if key not in self._numbers:
            names = self.at(seq)
            number = names.table(table)
            self._numbers[key] = number, [names.column(number, name) for name, _, _ in self._columns.get((table, gen), [])]
        return self._numbers[key]

    def is_masked(self, seq: int, table: Any, gen: Any, column: str) -> bool:
        """Whether people are not to see this column of that time."""
        names = self.at(seq)
        if f"{table}.{column}".lower() in self._by_name or names.column(names.table(table), column) in self._masked:
            return True
        return any(masked for name, _, masked in self._columns.get((table, gen), []) if name == column)

    def columns(self, seq: int, table: Any, gen: Any) -> Columns:
        """The same as `render` takes it."""
        return {(table, gen): self.slots(seq, table, gen)}

    def _stage(self, seq: int) -> int:
        return bisect_right(self.changes, seq, key=lambda change: change[0])
