"""Declared foreign keys, by which a lost row names another one that may bear another number now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apsw

from changelog.connection import rows
from changelog.rescue.lives import Identity, Values, identity
from changelog.schema import Table
from changelog.values import RawText

_ITSELF = RawText(b"itself")  # no value of a key that a row could bear


class References:
    """For each table the slots that name a row of another one (or of its own) by its key."""

    def __init__(self, db: apsw.Connection, tables: Iterable[Table]) -> None:
        known = {t.name.lower(): t for t in tables}
        self._of = {t.name: list(_read(db, t, known)) for t in known.values()}

    def of(self, table: str, values: Values) -> Iterator[tuple[str, tuple[int, ...], Identity]]:
        """(parent table, slots, the parent's identity) of every reference that a row with these values makes."""
        for parent, slots in self._of.get(table, []):
            if all(values[i] is not None for i in slots):
                yield parent, slots, identity([values[i] for i in slots])

    def to_itself(self, table: str, values: Values, key: Identity | None) -> list[tuple[int, ...]]:
        """The slots by which a row that `key` identifies names itself."""
        return [slots for parent, slots, named in self.of(table, values) if parent == table and named == key]

    def relative(self, table: str, values: Values, key: Identity | None, changed: Values | None = None) -> Values:
        """`changed`, or `values` themselves, where the row names itself without its key, which may be another one elsewhere."""
        itself = {slot for slots in self.to_itself(table, values, key) for slot in slots}
        return tuple(_ITSELF if i in itself else v for i, v in enumerate(values if changed is None else changed))


def _read(db: apsw.Connection, table: Table, known: dict[str, Table]) -> Iterator[tuple[str, tuple[int, ...]]]:
    slots = {c.name.lower(): i for i, c in enumerate(table.columns)}
    found: dict[int, list[tuple[str, str, str | None]]] = {}
    for number, parent, child, column in rows(
        db, 'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq', (table.name,)
    ):
        found.setdefault(number, []).append((parent, child, column))
    for parts in found.values():
        parent = known.get(parts[0][0].lower())
        if parent is None or parent.keyed_by_rowid:  # it names no key of a table that we follow: its values go as they are
            continue
        key = [c.name.lower() for c in parent.primary_key]
        named = [column.lower() if column else key[i] for i, (_, _, column) in enumerate(parts)]
        by_column = {column: slots.get(child.lower()) for column, (_, child, _) in zip(named, parts, strict=True)}
        in_order = tuple(slot for slot in map(by_column.get, key) if slot is not None)
        if sorted(named) == sorted(key) and len(in_order) == len(key):
            yield parent.name, in_order
