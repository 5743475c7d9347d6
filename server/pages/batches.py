"""The list of batches with its search, and one batch with its animals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import apsw
from flask import render_template, request, url_for

from changelog.connection import one, rows
from changelog.errors import NotFound
from server.login import signed_in
from server.pages.animals import FEW, TAGS, animals_page, status_choices, wanted_animals
from server.pages.routes import ROW_ID, begins, chosen_order, pages, search_text, stated
from server.paging import Part, Row, like, page_of_parts, rows_of

BATCHES = "SELECT b.id, b.batch_number, b.induction_date, b.source, b.notes FROM batches b WHERE "
ORDERS = {"newest": "b.induction_date", "number": "b.batch_number"}

# A prefix is a range over the indexes that the farm has anyway.
TAG_BEGINS = " UNION ALL ".join(f"SELECT batch_id FROM cattle WHERE {tag}>=? AND {tag}<?" for tag in TAGS)
WITH_TAG = "EXISTS (SELECT 1 FROM cattle c WHERE c.batch_id=b.id AND ({}))"
WITH_TAG_BEGINNING = WITH_TAG.format(" OR ".join(f"+c.{tag}>=? AND +c.{tag}<?" for tag in TAGS))
WITH_TAG_CONTAINING = WITH_TAG.format(" OR ".join(f"c.{tag} LIKE ? ESCAPE '\\'" for tag in TAGS))


@pages.get("/office/batches")
@signed_in
def batches(db: apsw.Connection) -> str:
    """All batches, the newest first, or those that a search finds by number or by a tag of an animal in them."""
    text = search_text()
    sort, descending = chosen_order(ORDERS, "-newest")
    page, contains = None, False
    for parts, inside in listed_batches(db, text, sort):
        page, contains = page_of_parts(db, parts, request.args, ascending=not descending), inside
        if page.rows:
            break
    assert page is not None
    count_animals(db, page.rows)
    return render_template(
        "batches.html",
        page=page,
        q=text,
        sort=sort,
        descending=descending,
        arguments=stated(q=text, sort=request.args.get("sort")),
        contains=contains and bool(page.rows),
        empty=not page.rows and not one(db, "SELECT 1 FROM batches LIMIT 1"),
    )


@pages.get(f"/office/batches/<{ROW_ID}:number>")
@signed_in
def batch(db: apsw.Connection, number: int) -> str:
    """One batch and its animals, the newest first; a status, a search or another order narrow them. Raises NotFound."""
    found = rows_of(db, f"{BATCHES} b.id=?", (number,))
    if not found:
        raise NotFound("There is no such batch: it may have been removed on the Pi.")
    wanted = wanted_animals(batch=number)
    page, contains = animals_page(db, wanted)
    arguments = stated(q=wanted.text, status=wanted.status, sort=request.args.get("sort"))
    choices = status_choices(db, "batch_id", number, arguments, url_for("pages.batch", number=number))
    found[0].animals = choices[0][2]
    return render_template("batch.html", batch=found[0], page=page, wanted=wanted, contains=contains, arguments=arguments, choices=choices)


def forget_lost(db: apsw.Connection, named: Sequence[Row]) -> None:
    """Take `batch_id` from those of these rows that name a batch which is not there: it has no page."""
    numbers = {row.batch_id for row in named if isinstance(row.batch_id, int)}
    found = rows(db, "SELECT id FROM batches WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(sorted(numbers)),))
    here = {number for (number,) in found}
    for row in named:
        row.batch_id = row.batch_id if row.batch_id in here else None


def listed_batches(db: apsw.Connection, text: str, sort: str) -> list[tuple[Sequence[Part], bool]]:
    """The list as parts, and whether the search looks inside the tags: the second list counts only where the first one is empty."""
    if not text:
        return [(_parts("1", (), sort), False)]
    inside = f"%{like(text)}%"
    ids = {batch for (batch,) in rows(db, f"{TAG_BEGINS} LIMIT ?", (*begins(text) * len(TAGS), FEW + 1))}
    beginning: str
    bindings: tuple[str, ...]
    if len(ids) <= FEW:
        beginning, bindings = "b.id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),)
    else:  # so many that each batch is asked by itself
        beginning, bindings = WITH_TAG_BEGINNING, begins(text) * len(TAGS)
    number = "b.batch_number LIKE ? ESCAPE '\\'"
    return [
        (_parts(f"({number} OR {beginning})", (inside, *bindings), sort), False),
        (_parts(WITH_TAG_CONTAINING, (inside,) * len(TAGS), sort), True),
    ]


def _parts(terms: str, bindings: tuple[Any, ...], sort: str) -> list[Part]:
    key = ORDERS[sort]
    return [Part(f"{BATCHES} {key} {test} AND {terms}", bindings, name, "b.id") for test, name in (("IS NOT NULL", key), ("IS NULL", None))]


def count_animals(db: apsw.Connection, batches: list[Row]) -> None:
    """Add `animals` and `active` to each of these batches, counted in one index."""
    counted = db.execute(
        """SELECT batch_id, count(*), sum(status='active') FROM cattle
           WHERE batch_id IN (SELECT value FROM json_each(?)) GROUP BY batch_id""",
        (json.dumps([batch.id for batch in batches]),),
    )
    counts = {batch: (animals, active) for batch, animals, active in counted}
    for batch in batches:
        batch.animals, batch.active = counts.get(batch.id, (0, 0))
