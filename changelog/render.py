"""Log rows as people and other programs read them: one function, for the JSON API, events and commands alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw

from changelog.connection import rows
from changelog.schema import Table
from changelog.values import for_json
from changelog.verify.digest import row_names, table_rows
from changelog.wire import FACTS

MASK = "***"

Columns = dict[tuple[str, int], list[tuple[str, int, bool]]]


def columns_of(db: apsw.Connection) -> Columns:
    """The slots of every table and column list in the log: (name, place in the key or 0, masked)."""
    columns: Columns = {}
    for tbl, gen, col, pk, mask in rows(db, "SELECT tbl, gen, col, pk, mask FROM changelog_cols ORDER BY tbl, gen, pos"):
        columns.setdefault((tbl, gen), []).append((col, pk, bool(mask)))
    return columns


def as_change(row: Sequence[Any], columns: Columns, *, masked: bool, shown_as: Callable[[Any], Any] = for_json) -> dict[str, Any]:
    """{seq, at, actor, table, op, key, old, new}; `old` holds the key and what changed, `new` the whole row.

    `masked` hides the values of masked columns; `shown_as` makes of each value what stands here, by default what JSON can hold.
    """
    facts = dict(zip(FACTS, row, strict=False))
    names = columns.get((facts["tbl"], facts["gen"]), [])
    width, op, (new, old) = len(names), facts["op"], sides(row, len(names))
    shown = [i for i, (_, pk, _) in enumerate(names) if op != "U" or pk or facts["chg"][i] == "1"]
    if op == "U":  # where the rowid tells rows apart, the log has no old key unless it changed
        old = [before if changed == "1" else after for before, after, changed in zip(old, new, facts["chg"], strict=False)]

    def side(taken: Iterable[int], given: Any) -> dict[str, Any]:
        return {names[i][0]: MASK if masked and names[i][2] and given[i] is not None else shown_as(given[i]) for i in taken}

    return {
        "seq": facts["seq"],
        "at": shown_as(facts["at"]),
        "actor": shown_as(facts["actor"]),  # whatever a shell wrote there
        "table": facts["tbl"],
        "op": op,
        "key": shown_as(facts["key"]),
        "old": side(shown, old) if old else {},
        "new": side(range(width), new) if new else {},
    }


def newest_rows(found: Iterable[Sequence[Any]], columns: Columns, tables: Iterable[str]) -> dict[str, Any]:
    """What some log rows come to: `data` (the newest row of each key), `counts` (0 included) and `deleted` (keys), by table."""
    data: dict[str, dict[Any, Any]] = {name: {} for name in tables}
    deleted: dict[str, dict[Any, Any]] = {}
    for row in found:
        table, key = row[4], row[6]
        if table not in data:
            continue
        names = columns.get((table, row[7]), [])
        before, after = identities(row, names)
        if before is not None:
            data[table].pop(before, None)
            deleted.setdefault(table, {})[before] = for_json(key)
        if after is not None:
            deleted.get(table, {}).pop(after, None)
            data[table][after] = {name: for_json(v) for (name, _, _), v in zip(names, sides(row, len(names))[0], strict=True)}
    return {
        "data": {name: list(kept.values()) for name, kept in data.items()},
        "counts": {name: len(kept) for name, kept in data.items()},
        "deleted": {name: list(gone.values()) for name, gone in deleted.items() if gone},
    }


def sides(row: Sequence[Any], width: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """The new and the old values of a log row."""
    op, values = row[5], row[len(FACTS) :]
    return (values[:width] if op in ("I", "U") else ()), (values[width:] if op == "U" else values if op == "D" else ())


def identities(row: Sequence[Any], names: list[tuple[str, int, bool]]) -> tuple[Any, Any]:
    """What identifies the row before and after the change, None where there is none. The rowid where it is logged, the key else."""
    new, old = sides(row, len(names))
    if row[9] is not None or row[10] is not None:
        return row[10], row[9]
    key = [i for i, (_, pk, _) in enumerate(names) if pk]
    return (tuple(old[i] for i in key) if old else None), (tuple(new[i] for i in key) if new else None)


def table_objects(db: apsw.Connection, table: Table) -> Iterable[dict[str, Any]]:
    """All rows of a table as JSON objects, with the rowid where only that tells rows apart."""
    names = row_names(table)
    for row in table_rows(db, table):
        yield dict(zip(names, map(for_json, row), strict=True))
