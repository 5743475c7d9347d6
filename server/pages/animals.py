"""The animals that a page lists: which ones the address asks for, and in which order, as parts that are quick to page through.

An order has an index, and so has each filter; but few pairs of them have one together. So before a list is read it is looked up how many
animals a filter leaves. A few are put in order here; many are met soon on a walk through the index of the order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import apsw
from flask import request

from changelog.connection import rows
from changelog.errors import BadRequest
from server.pages.routes import begins, chosen_order, search_text
from server.paging import PAGE_SIZE, Page, Part, like, page_of_parts, rows_of

FEW = 500  # animals that are put in order quicker than they are found on a walk

COLUMNS = """c.id, c.cattle_id, c.lf_tag, c.uhf_tag, c.sex, c.weight, c.health_status, c.status, c.induction_date, c.batch_id, c.pen_id,
  b.batch_number, p.pen_number, c.notes"""
ALL = f"SELECT {COLUMNS} FROM cattle c LEFT JOIN batches b ON b.id=c.batch_id LEFT JOIN pens p ON p.id=c.pen_id WHERE "

ORDERS = {"number": "c.cattle_id", "batch": "b.batch_number", "pen": "p.pen_number", "weight": "c.weight", "induction": "c.induction_date"}
NEWEST = "newest"
SORTS = (*ORDERS, NEWEST)
# The same rows read in the order of their owner: CROSS JOIN has SQLite begin with it.
BY_OWNER = {
    "batch": f"SELECT {COLUMNS} FROM batches b CROSS JOIN cattle c LEFT JOIN pens p ON p.id=c.pen_id WHERE c.batch_id=b.id AND ",
    "pen": f"SELECT {COLUMNS} FROM pens p CROSS JOIN cattle c LEFT JOIN batches b ON b.id=c.batch_id WHERE c.pen_id=p.id AND ",
}
# Owners that rows name and that are not there (a shell checks no foreign key): where the numbers of owners have a gap, it is leapt
# from one number that rows name to the next.
MISSING = """WITH RECURSIVE each(i) AS (
    SELECT min({column}) FROM cattle
    UNION SELECT (SELECT min({column}) FROM cattle WHERE {column}>o.id) FROM {table} o WHERE o.id+1 NOT IN (SELECT id FROM {table})
    UNION SELECT (SELECT min({column}) FROM cattle WHERE {column}>i) FROM each WHERE i NOT IN (SELECT id FROM {table}))
  SELECT i FROM each WHERE i NOT IN (SELECT id FROM {table})"""
OWNERS = {
    "batch": ("c.batch_id", MISSING.format(column="batch_id", table="batches")),
    "pen": ("c.pen_id", MISSING.format(column="pen_id", table="pens")),
}

TAGS = ("lf_tag", "uhf_tag", "cattle_id")
# A prefix is a range over the indexes that the farm has anyway.
BEGIN_IDS = " UNION ALL ".join(f"SELECT id FROM cattle WHERE {tag}>=?1 AND {tag}<?2" for tag in TAGS) + (
    " UNION ALL SELECT c.id FROM batches b CROSS JOIN cattle c WHERE b.batch_number>=?1 AND b.batch_number<?2 AND c.batch_id=b.id"
)
IN_TAGS = " OR ".join(f"+c.{tag}>=? AND +c.{tag}<?" for tag in TAGS)
TAGS_LIKE = " OR ".join(f"c.{tag} LIKE ? ESCAPE '\\'" for tag in TAGS)
BEGIN = f"({IN_TAGS} OR +c.batch_id IN (SELECT id FROM batches WHERE batch_number>=? AND batch_number<?))"
CONTAIN = f"({TAGS_LIKE} OR +c.batch_id IN (SELECT id FROM batches WHERE batch_number LIKE ? ESCAPE '\\'))"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The animals that are asked for: a search, a status, the ids of a batch and of a pen, and the order (`descending`: from its end)."""

    text: str = ""
    status: str = ""
    batch: int | None = None
    pen: int | None = None
    sort: str = NEWEST
    descending: bool = True

    @property
    def narrowed(self) -> bool:
        """Whether more is asked for than all of the page's own animals."""
        return bool(self.text or self.status)


@dataclass(frozen=True, slots=True)
class Listed:
    """What was found: the parts of the list, and whether the search had to look inside the texts since nothing begins with it."""

    parts: Sequence[Part]
    ascending: bool
    contains: bool = False


NOBODY = Listed([Part(f"{ALL} 0", (), None, "c.id")], ascending=False)


def wanted_animals(batch: int | None = None, pen: int | None = None) -> Wanted:
    """What the address of this request asks for. Raises BadRequest."""
    status = request.args.get("status", "")
    sort, descending = chosen_order(SORTS, f"-{NEWEST}")
    return Wanted(search_text(), status, batch, pen, sort, descending)


def animals_page(db: apsw.Connection, wanted: Wanted, size: int = PAGE_SIZE) -> tuple[Page, bool]:
    """One page of them, and whether the search had to look inside the texts."""
    listed = listed_animals(db, wanted)
    page = page_of_parts(db, listed.parts, request.args, ascending=listed.ascending, size=size)
    return page, listed.contains


def listed_animals(db: apsw.Connection, wanted: Wanted) -> Listed:
    """The list of all that are wanted."""
    contains = False
    if wanted.text:
        ids = _some(db, BEGIN_IDS, begins(wanted.text))
        contains = not ids
        if ids and len(ids) <= FEW:
            return _few(wanted, ids)
    elif _needs_a_look(wanted):
        terms, values = _filters(wanted, "", "")
        ids = _some(db, f"SELECT c.id FROM cattle c WHERE {terms}", values)
        if len(ids) <= FEW:
            return _few(wanted, ids)
    return _many(wanted, contains)


def _needs_a_look(wanted: Wanted) -> bool:
    """Whether no index has both the filter and the order."""
    if wanted.sort == NEWEST:
        return False
    return wanted.batch is not None or wanted.pen is not None or bool(wanted.status and wanted.sort in OWNERS)


def _some(db: apsw.Connection, sql: str, bindings: Sequence[Any]) -> list[int]:
    """The ids that a query gives, none twice, as far as it matters."""
    return list(dict.fromkeys(row_id for (row_id,) in rows(db, f"{sql} LIMIT {FEW + 1}", tuple(bindings))))


def _few(wanted: Wanted, ids: list[int]) -> Listed:
    terms, values = _filters(wanted, "+", "+")
    sql, bindings = f"{ALL} c.id IN (SELECT value FROM json_each(?)) AND {terms}", (json.dumps(ids), *values)
    if wanted.sort == NEWEST:
        return Listed([Part(sql, bindings, None, "c.id")], not wanted.descending)
    key = ORDERS[wanted.sort]
    unknown = [f"{key} IS NULL"]
    if wanted.sort in OWNERS:
        owner, _ = OWNERS[wanted.sort]
        unknown = [f"{owner} IS NULL", f"{owner} IS NOT NULL AND {key} IS NULL"]
    parts = [Part(f"{sql} AND {key} IS NOT NULL", bindings, f"+{key}", "c.id")]
    return Listed([*parts, *(Part(f"{sql} AND {test}", bindings, None, "c.id") for test in unknown)], not wanted.descending)


def _many(wanted: Wanted, contains: bool) -> Listed:
    # A leading + keeps SQLite from choosing the index of a filter, and sorting all that it gives.
    by_filter = wanted.sort == NEWEST
    terms, values = _filters(wanted, "" if by_filter else "+", "")
    if wanted.text:
        text_terms, text_values = _text(wanted.text, contains)
        terms, values = f"{terms} AND {text_terms}", (*values, *text_values)
    if by_filter:
        return Listed([Part(f"{ALL} {terms}", values, None, "c.id")], not wanted.descending, contains)
    key = ORDERS[wanted.sort]
    if wanted.sort in OWNERS:
        owner, missing = OWNERS[wanted.sort]
        known, unknown = f"{BY_OWNER[wanted.sort]} {terms}", [f"{owner} IS NULL", f"{owner} IN ({missing})"]
    else:
        known, unknown = f"{ALL} {key} IS NOT NULL AND {terms}", [f"{key} IS NULL"]
    parts = [Part(known, values, key, "c.id"), *(Part(f"{ALL} {test} AND {terms}", values, None, "c.id") for test in unknown)]
    return Listed(parts, not wanted.descending, contains)


def _filters(wanted: Wanted, owner: str, status: str) -> tuple[str, tuple[Any, ...]]:
    """The conditions on columns, those on owners and the one on the status with this sign before them, and their values."""
    given = ((owner, "batch_id", wanted.batch), (owner, "pen_id", wanted.pen), (status, "status", wanted.status or None))
    chosen = [(f"{sign}c.{name}=?", value) for sign, name, value in given if value is not None]
    return " AND ".join(term for term, _ in chosen) or "1", tuple(value for _, value in chosen)


def _text(text: str, contains: bool) -> tuple[str, tuple[str, ...]]:
    if contains:
        return CONTAIN, (f"%{like(text)}%",) * (len(TAGS) + 1)
    return BEGIN, begins(text) * (len(TAGS) + 1)


def status_choices(db: apsw.Connection, owner: str, number: int, arguments: dict[str, Any], address: str) -> list[tuple[Any, ...]]:
    """The statuses of the animals with this `owner` (batch_id or pen_id): value, label, how many, address of the page with them."""
    sql = f"SELECT status, count(*) AS animals FROM cattle WHERE {owner}=? GROUP BY status ORDER BY status"
    counts = [(row.status, row.animals) for row in rows_of(db, sql, (number,))]
    others = {name: value for name, value in arguments.items() if name != "status"}
    choices: list[tuple[Any, ...]] = [("", "All", sum(animals for _, animals in counts), _with(address, others))]
    return choices + [
        (status, status.capitalize(), animals, _with(address, others | {"status": status}))
        for status, animals in counts
        if status and isinstance(status, str)  # what else there is has no address, and stands under "All"
    ]


def _with(address: str, arguments: dict[str, Any]) -> str:
    return f"{address}?{urlencode(arguments)}" if arguments else address


def number_of(db: apsw.Connection, table: str, column: str, number: str) -> int | None:
    """The id of the batch or pen that has this number. Raises BadRequest when it is too long to be one."""
    if len(number) > 255:
        raise BadRequest("A number may have 255 characters.")
    found = rows(db, f"SELECT id FROM {table} WHERE {column}=?", (number,))
    return found[0][0] if found else None
