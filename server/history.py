"""What the changelog knows of one animal: every change of its row and of the rows that belong to it, and where it stood when.

It knows animals that are gone, too. All is found by index: an animal's own changes by their key, those of its weights and former tags by
the column that names the animal (see `server/indexes.py`, which has that column where the farm's schema has it).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw

from changelog.connection import one, rows
from server.indexes import OWNED
from server.paging import Page, Part, Row, page_of_parts, rows_of
from server.show import NEVER_SHOWN, OWN_COLUMNS

CHANGES = 30  # on a page
OWNED_TABLES = ("weight_records", "pair_history")
MOST_STAYS = 50


@dataclass(frozen=True, slots=True)
class Stay:
    """An animal was in a pen or a batch (`kind`), `since` and `until` (UTC): None where it is still there, or the log begins later."""

    kind: str
    number: Any
    since: str | None
    until: str | None
    known: bool = True  # whether the log tells when it began


def history_page(db: apsw.Connection, animal: int, arguments: Mapping[str, str]) -> Page:
    """A page of changes, the newest first: seq, at, actor, tbl, op, key, and `cells` [(column, old, new)]. Raises BadRequest."""
    terms, bindings = _changes_of(db, animal)
    sql = f"SELECT l.seq, l.at, l.actor, l.tbl, l.op, l.key FROM changelog l WHERE l.seq IN ({terms})"
    page = page_of_parts(db, [Part(sql, bindings, None, "l.seq")], arguments, size=CHANGES)
    cells = cells_of(db, [row.seq for row in page.rows])
    for row in page.rows:
        row.cells = cells.get(row.seq, [])
    return page


def cells_of(db: apsw.Connection, seqs: Sequence[int]) -> dict[int, list[tuple[str, Any, Any]]]:
    """Of each of these changes, the columns that it wrote with the values before and after, masked; a nothing that stayed is none."""
    found: dict[int, list[tuple[str, Any, Any]]] = {}
    sql = "SELECT seq, col, old, new FROM changelog_audit WHERE seq IN (SELECT value FROM json_each(?))"
    for row in rows_of(db, sql, (json.dumps(list(seqs)),)):
        told = row.col is not None and not row.col.endswith(NEVER_SHOWN) and row.col not in OWN_COLUMNS
        if told and not (row.old is None and row.new is None):
            found.setdefault(row.seq, []).append((row.col, row.old, row.new))
    return found


def last_known(db: apsw.Connection, animal: int) -> Row | None:
    """An animal that is not there, as the log last knew it: at, actor, op, and `values` by column. None where the log never did."""
    newest = "SELECT seq, at, actor, op FROM changelog WHERE tbl='cattle' AND key=? ORDER BY seq DESC LIMIT 1"
    found = rows_of(db, newest, (animal,))
    if not found:
        return None
    side = "old" if found[0].op == "D" else "new"
    cells = rows_of(db, f"SELECT col, {side} AS value FROM changelog_audit WHERE seq=?", (found[0].seq,))
    found[0].values = {cell.col: cell.value for cell in cells}
    return found[0]


def stays_of(db: apsw.Connection, animal: int, now: Mapping[str, Any] | None) -> list[Stay]:
    """The pens and batches in which the animal was, the newest first; `now` are its pen_id and batch_id where it still exists."""
    stays = [stay for column in ("pen_id", "batch_id") for stay in _stays(db, animal, column, now)]
    return sorted(stays, key=lambda stay: (stay.until is None, stay.until or "", stay.since or ""), reverse=True)[:MOST_STAYS]


def _stays(db: apsw.Connection, animal: int, column: str, now: Mapping[str, Any] | None) -> Iterator[Stay]:
    kind = column.removesuffix("_id")
    place: Any = None
    since, known = None, False
    for at, op, old, new in _moves(db, animal, column):
        before = place if known else old
        if before is not None and op != "I":
            yield Stay(kind, before, since, at, known)
        place, since, known = (None if op == "D" else new), at, True
    if not known and now is not None:
        place = now[column]
    if place is not None and now is not None:
        yield Stay(kind, place, since, None, known)


def _moves(db: apsw.Connection, animal: int, column: str) -> list[tuple[Any, ...]]:
    """(at, op, old, new) of each change that wrote this column of the animal, oldest first."""
    found: list[tuple[Any, ...]] = []
    for gen, pos in rows(db, "SELECT gen, pos FROM changelog_cols WHERE tbl='cattle' AND col=?", (column,)):
        sql = f"""SELECT seq, at, op, o{pos} AS old, n{pos} AS new FROM changelog
                  WHERE tbl='cattle' AND key=? AND gen=? AND (op<>'U' OR substr(chg, {pos + 1}, 1)='1') ORDER BY seq"""
        found += [(move.seq, move.at, move.op, move.old, move.new) for move in rows_of(db, sql, (animal, gen))]
    return [tuple(rest) for _, *rest in sorted(found, key=lambda move: move[0])]


def _changes_of(db: apsw.Connection, animal: int) -> tuple[str, list[Any]]:
    """SQL for the seqs of all changes of the animal and of what belongs to it, and its values."""
    terms, bindings = ["SELECT seq FROM changelog WHERE tbl='cattle' AND key=?"], [animal]
    for table in OWNED_TABLES:
        for gen, pos in rows(db, "SELECT gen, pos FROM changelog_cols WHERE tbl=? AND col='cattle_id'", (table,)):
            for side in "no":
                terms.append(f"SELECT seq FROM changelog WHERE {OWNED} AND tbl='{table}' AND {side}{pos}=? AND gen=?")
                bindings += [animal, gen]
    return " UNION ".join(terms), bindings


class Named(NamedTuple):
    """What a row is called, and whether it is there."""

    name: Any
    here: bool


def names_of(db: apsw.Connection, table: str, column: str, ids: Iterable[Any]) -> dict[Any, Named]:
    """What rows of a table are called, by id: by their `column` now, or as the log last knew the ones that are gone."""
    wanted = {number for number in ids if isinstance(number, int)}
    sql = f"SELECT id, {column} AS name FROM {table} WHERE id IN (SELECT value FROM json_each(?))"
    names = {row.id: Named(row.name, True) for row in rows_of(db, sql, (json.dumps(sorted(wanted)),))} if wanted else {}
    for gone in wanted - names.keys():
        sql = "SELECT max(seq) FROM changelog WHERE tbl=? AND key=? AND op='D'"
        seq = one(db, sql, (table, gone))
        found = rows_of(db, "SELECT old FROM changelog_audit WHERE seq=? AND col=?", (seq, column)) if seq else []
        if found:
            names[gone] = Named(found[0].old, False)
    return names
