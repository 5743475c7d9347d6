"""One row as it stood right after some change, out of the log and of what is there now.

The newest change of the row up to that seq tells it whole; where the log does not reach so far back, the first one after it tells what was
before; and a row that no change has touched since is what it is now. What was written before an epoch began, and nobody saw, lies between
the births: nothing is told across one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import apsw

from changelog.asof.lineage import Lineage
from changelog.connection import one
from changelog.errors import BadRequest, CannotRebuild
from changelog.gaps import gaps_of, trimmed_upto, unbroken_after
from changelog.render import MASK
from changelog.schema import Table, identifier, read_tables
from changelog.values import exact_rows
from server.audit.changes import Change, births, names_of, read_change, touching
from server.show import NEVER_SHOWN

Source = Literal["change", "next", "now"]


@dataclass(frozen=True, slots=True)
class Standing:
    """A row right after `seq`: `cells` as (column, value, part of the key), or None where there was none.

    `source` says what tells it: the `change` up to then, the `next` one after it, or what is there `now`.
    """

    seq: int
    table: str
    key: Any
    cells: list[tuple[str, Any, bool]] | None
    source: Source
    change: Change | None = None


def standing(db: apsw.Connection, of: Change, seq: int) -> Standing:
    """The row that `of` changed, as it stood right after `seq`. Raises BadRequest and CannotRebuild."""
    head = one(db, "SELECT max(seq) FROM changelog") or 0
    if not 0 <= seq <= head:
        raise BadRequest(f"There is no change {seq} here yet: the newest is {head}.")
    trimmed = trimmed_upto(db)
    if seq < trimmed:
        raise CannotRebuild(f"The log of this copy begins at change {trimmed + 1}: what stood here before that is not known.")
    lineage, key = Lineage(db), of.key_after if seq >= of.seq else of.key
    born = births(db)
    low = max([unbroken_after(db, seq) + 1, *(birth for birth in born if birth <= seq)])
    gap = next((gap for gap in gaps_of(db) if gap.last > seq), None)
    if gap is not None and gap.first <= seq:
        raise CannotRebuild(f"The changes from {gap.first} to {gap.last} are not in the log of this copy, so it cannot tell this row then.")
    high = min([head, *(birth - 1 for birth in born if birth > seq), *([gap.first - 1] if gap else [])])
    spans = list(names_of(lineage, of.seq, of.tbl))
    name = next((name for name, first, last in spans if first <= seq <= last), of.tbl)
    for table, first, last in reversed(spans):
        found = touching(db, table, key, max(first, low), min(last, seq), newest=True)
        if found:
            change = read_change(db, found)
            there = change.op in ("I", "U") and change.key_after == key
            cells = [(cell.column, cell.new, cell.is_key) for cell in change.cells] if there else None
            return Standing(seq, name, key, cells, "change", change)
    for table, first, last in spans:
        found = touching(db, table, key, max(first, seq + 1), min(last, high), newest=False)
        if found:
            change = read_change(db, found)
            there = change.op in ("U", "D") and change.key == key
            cells = [(cell.column, cell.old, cell.is_key) for cell in change.cells] if there else None
            return Standing(seq, name, key, cells, "next", change)
    if high < head:
        raise CannotRebuild(_unknown(seq, high, gap is not None))
    present = spans[-1][0] if spans else name
    return Standing(seq, present, key, _now(db, lineage, present, key), "now")


def _unknown(seq: int, high: int, gap: bool) -> str:
    if gap:
        return f"The log of this copy has a gap after change {high}, and no change before that touches this row: it cannot tell it."
    return (
        f"A new epoch began at change {high + 1}, because rows may have been written unseen before it; and between change {seq} and that"
        " one nothing touched this row. So the log cannot tell what it was then."
    )


def _now(db: apsw.Connection, lineage: Lineage, name: str, key: Any) -> list[tuple[str, Any, bool]] | None:
    """The row with this key as it is now, masked."""
    table = next((table for table in read_tables(db) if table.name == name), None)
    if table is None:
        raise CannotRebuild(f"The table {name} is not there any more, and no change since then touched this row: the log cannot tell it.")
    columns = [column.name for column in table.columns]
    where, bindings = key_condition(table, key)
    found = list(exact_rows(db, [identifier(column) for column in columns], f"FROM {identifier(name)} WHERE {where} LIMIT 1", bindings))
    if not found:
        return None
    masks = {mask.lower() for mask in lineage.masks}
    masked = {column for column in columns if column.endswith(NEVER_SHOWN) or f"{name}.{column}".lower() in masks}
    values = [MASK if column in masked and value is not None else value for column, value in zip(columns, found[0], strict=True)]
    return [(column.name, value, bool(column.pk)) for column, value in zip(table.columns, values, strict=True)]


def key_condition(table: Table, key: Any) -> tuple[str, tuple[Any, ...]]:
    """The row that the log calls `key`, as a condition on its table."""
    names = [identifier(column.name) for column in table.primary_key]
    if not names:
        return f"{table.rowid}=?", (key,)
    if len(names) == 1:
        return f"{names[0]} IS ?", (key,)
    return "||','||".join(f"quote({name})" for name in names) + "=?", (key,)
