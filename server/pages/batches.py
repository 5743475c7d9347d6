"""The list of batches with its search, and one batch with its animals."""

from __future__ import annotations

import json
from typing import Any

import apsw
from flask import render_template, request

from changelog.connection import one
from changelog.errors import NotFound
from server.login import signed_in
from server.pages.routes import ROW_ID, pages, search_text
from server.paging import Page, Row, like, page_of, rows_of

NEWEST_BATCH = ("b.induction_date", "b.id")

BATCHES = "SELECT b.id, b.batch_number, b.induction_date, b.source, b.notes FROM batches b WHERE "

ANIMALS = """
SELECT c.id, c.cattle_id, c.lf_tag, c.uhf_tag, c.sex, c.weight, c.health_status, c.status, c.induction_date, p.pen_number
  FROM cattle c LEFT JOIN pens p ON p.id=c.pen_id WHERE c.batch_id=?"""

TAGS = ("lf_tag", "uhf_tag", "cattle_id")
# A prefix is a range over the indexes that the farm has anyway.
TAG_BEGINS = " UNION ALL ".join(f"SELECT batch_id FROM cattle WHERE {tag}>=? AND {tag}<?" for tag in TAGS)
TAG_CONTAINS = " OR ".join(f"c.{tag} LIKE ? ESCAPE '\\'" for tag in TAGS)
LAST_CHARACTER = "\U0010ffff"


@pages.get("/office/batches")
@signed_in
def batches(db: apsw.Connection) -> str:
    """All batches, the newest first, or those that a search finds by number or by a tag of an animal in them."""
    text = search_text()
    page, contains = _found_batches(db, text) if text else (page_of(db, f"{BATCHES} 1", (), request.args, keys=NEWEST_BATCH), False)
    _count_animals(db, page.rows)
    empty = not page.rows and not one(db, "SELECT 1 FROM batches LIMIT 1")
    return render_template("batches.html", page=page, q=text, contains=contains, empty=empty)


@pages.get(f"/office/batches/<{ROW_ID}:number>")
@signed_in
def batch(db: apsw.Connection, number: int) -> str:
    """One batch and its animals, the newest first; a status or a search narrows them. Raises NotFound."""
    found = rows_of(db, f"{BATCHES} b.id=?", (number,))
    if not found:
        raise NotFound("There is no such batch: it may have been removed on the Pi.")
    text, status = search_text(), request.args.get("status", "")
    bindings: tuple[Any, ...]
    sql, bindings = ANIMALS, (number,)
    if status:
        sql, bindings = f"{sql} AND c.status=?", (*bindings, status)
    if text:
        sql, bindings = f"{sql} AND ({TAG_CONTAINS})", (*bindings, *(f"%{like(text)}%",) * len(TAGS))
    _count_animals(db, found)
    counts = rows_of(db, "SELECT status, count(*) AS animals FROM cattle WHERE batch_id=? GROUP BY status ORDER BY status", (number,))
    page = page_of(db, sql, bindings, request.args, keys=("c.id",))
    return render_template("batch.html", batch=found[0], page=page, counts=counts, q=text, status=status)


def _found_batches(db: apsw.Connection, text: str) -> tuple[Page, bool]:
    """The batches whose number contains `text` or with an animal whose tag begins with it; if there are none, contains it: then True."""
    inside = f"%{like(text)}%"
    begins = (TAG_BEGINS, (text, text + LAST_CHARACTER) * len(TAGS))
    contains = (f"SELECT batch_id FROM cattle c WHERE {TAG_CONTAINS}", (inside,) * len(TAGS))
    for tags, bindings in (begins, contains):
        sql = f"{BATCHES} (b.batch_number LIKE ? ESCAPE '\\' OR b.id IN ({tags}))"
        page = page_of(db, sql, (inside, *bindings), request.args, keys=NEWEST_BATCH)
        if page.rows:
            break
    return page, bool(page.rows) and tags is not TAG_BEGINS


def _count_animals(db: apsw.Connection, batches: list[Row]) -> None:
    """Add `animals` and `active` to each of these batches, counted in one index."""
    counted = db.execute(
        """SELECT batch_id, count(*), sum(status='active') FROM cattle
           WHERE batch_id IN (SELECT value FROM json_each(?)) GROUP BY batch_id""",
        (json.dumps([batch.id for batch in batches]),),
    )
    counts = {batch: (animals, active) for batch, animals, active in counted}
    for batch in batches:
        batch.animals, batch.active = counts.get(batch.id, (0, 0))
