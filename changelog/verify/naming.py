"""How two rows differ, in words for people: the columns, with what masks hide hidden."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import apsw

from changelog.connection import rows
from changelog.install import masks_of
from changelog.render import MASK
from changelog.values import encode_row, for_json
from changelog.verify.ranges import LOG, Key, Row, Scope
from changelog.wire import FACTS

HERE, THERE = "here", "primary"  # where a row is that the other side does not have


class Names:
    """Differences as {table, key, columns: {name: [here, on the primary]}} or {table, key, only}, ready for JSON."""

    def __init__(self, db: apsw.Connection) -> None:
        """The masks are those of the database."""
        self._masks = {mask.lower() for mask in masks_of(db)}
        self._slots: dict[tuple[Any, Any], list[bool]] = {}
        for tbl, gen, mask in rows(db, "SELECT tbl, gen, mask FROM changelog_cols ORDER BY tbl, gen, pos"):
            self._slots.setdefault((tbl, gen), []).append(bool(mask))

    def only(self, scope: Scope, row: Row, where: str) -> dict[str, Any]:
        """A row that one side has alone."""
        return {"table": scope.name, "key": shown_key(scope.key_of(row)), "only": where}

    def changed(self, scope: Scope, here: Row, there: Row) -> dict[str, Any]:
        """A row that both have, and its columns that are not alike."""
        hidden = self._hidden(scope, (here, there))
        columns = {
            name: [MASK, MASK] if name in hidden else [for_json(mine), for_json(theirs)]
            for name, mine, theirs in zip(scope.columns, here, there, strict=True)
            if encode_row((mine,)) != encode_row((theirs,))
        }
        return {"table": scope.name, "key": shown_key(scope.key_of(there)), "columns": columns}

    def _hidden(self, scope: Scope, both: tuple[Row, Row]) -> Collection[str]:
        if scope.name != LOG:
            return {name for name in scope.columns if f"{scope.name}.{name}".lower() in self._masks}
        tbl, gen = FACTS.index("tbl"), FACTS.index("gen")
        masks = [self._slots.get((row[tbl], row[gen]), []) for row in both]
        return {f"{kind}{i}" for found in masks for i, mask in enumerate(found) if mask for kind in "no"}


def shown_key(key: Key) -> Any:
    """A key of one column as its value, of several as a list."""
    values = [for_json(v) for v in key]
    return values[0] if len(values) == 1 else values


def counted(rows: int) -> str:
    """So many rows, in words."""
    return f"{rows} row{'' if rows == 1 else 's'}"


def sentence(difference: dict[str, Any]) -> str:
    """A difference on one line."""
    where = f"{difference['table']} {difference['key']!r}"
    if "only" in difference:
        return f"{where}: " + ("missing here" if difference["only"] == THERE else "only here")
    columns = difference["columns"].items()
    return f"{where}: " + ", ".join(f"{name} {mine!r} here, {theirs!r} on the primary" for name, (mine, theirs) in columns)
