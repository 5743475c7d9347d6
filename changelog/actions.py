"""What the foreign keys of a schema do by themselves: rows that they change or delete when the row changes or goes to which they refer.

SQLite does it before the AFTER triggers of that row, and also for a row that a REPLACE kills.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apsw

from changelog.connection import rows

_ACTIONS = ("CASCADE", "SET NULL", "SET DEFAULT")


@dataclass(frozen=True)
class Actions:
    """What is done to other rows when the rows of one table change or go."""

    followed: tuple[str, ...]  # the columns whose new value ON UPDATE carries on
    on_delete: bool
    revisit: bool  # it may come back to this table, and so to the very row that is being written

    def __bool__(self) -> bool:
        return self.on_delete or bool(self.followed)


class References:
    """The foreign keys of a database that do something. `triggered` are the tables with triggers of an application."""

    def __init__(self, db: apsw.Connection, triggered: Iterable[str]) -> None:
        found = rows(
            db,
            f"""SELECT f."table", s.name, f."to", f.on_update IN {_ACTIONS}, f.on_delete IN {_ACTIONS}
                FROM sqlite_schema s, pragma_foreign_key_list(s.name) f
                WHERE s.type='table' AND (f.on_update IN {_ACTIONS} OR f.on_delete IN {_ACTIONS})""",
        )
        self._found = [(parent.lower(), child.lower(), to and to.lower(), *acts) for parent, child, to, *acts in found]
        self._triggered = {name.lower() for name in triggered}

    def actions(self, table: str, columns: Iterable[tuple[str, int]]) -> Actions:
        """What they do for `table`; `columns` are its names with their places in the primary key."""
        acting = [(to, on_update, on_delete) for parent, _, to, on_update, on_delete in self._found if parent == table.lower()]
        named = {to for to, on_update, _ in acting if on_update}  # None means the primary key
        followed = tuple(name for name, pk in columns if name.lower() in named or (pk and None in named))
        return Actions(followed, any(on_delete for *_, on_delete in acting), bool(acting) and self._come_back(table.lower()))

    def _come_back(self, table: str) -> bool:
        """By a circle, or perhaps by a trigger of an application on the way."""
        reached, new = set[str](), {table}
        while new:
            new = {child for parent, child, *_ in self._found if parent in new} - reached
            reached |= new
        return table in reached or not reached.isdisjoint(self._triggered)
