"""Declared foreign keys, by which a lost row names another one that may bear another number now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apsw

from changelog.connection import rows
from changelog.rescue.lives import Change, Identity, Life, Naming, Values, identity
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

    def name_all(self, changes: Iterable[Change]) -> None:
        """Find out, for every state of every row, which rows it named at that time: keys may have been given to one row after another."""
        changes = list(changes)
        living: dict[tuple[str, Identity | None], Life] = {}
        born = [((c.table, c.after), c.life) for c in changes if c.op == "I" and c.life]
        later = dict(reversed(born))
        for change in changes:
            if change.life is not None:
                change.old.names = self._named(change.table, change.old.values, living, later)
                living.pop((change.table, change.before), None)
                if change.after is not None:
                    living[change.table, change.after] = change.life
                change.new.names = self._named(change.table, change.new.values, living, later)

    def _named(
        self, table: str, values: Values, living: dict[tuple[str, Identity | None], Life], later: dict[tuple[str, Identity | None], Life]
    ) -> list[Naming]:
        found = self.of(table, values) if values else ()
        return [Naming(parent, slots, key, living.get((parent, key)), later.get((parent, key))) for parent, slots, key in found]

    def relative(self, table: str, values: Values, key: Identity | None) -> Values:
        """The values, where the row names itself without its key, which may be another one elsewhere."""
        itself = [slots for parent, slots, named in self.of(table, values) if parent == table and named == key]
        return without(values, itself)


def without(values: Values, itself: Iterable[tuple[int, ...]]) -> Values:
    """The values, with a mark in these slots."""
    marked = {slot for slots in itself for slot in slots}
    return tuple(_ITSELF if i in marked else v for i, v in enumerate(values))


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
