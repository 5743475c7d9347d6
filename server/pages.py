"""The office pages: every one is read from the replica in one snapshot, and says of when its rows are."""

from __future__ import annotations

import json
from typing import Any

import apsw
from flask import Blueprint, flash, g, redirect, render_template, request, url_for

from changelog.connection import one
from changelog.errors import BadRequest, Forbidden, NotFound
from changelog.rescue.lost import list_rescued
from server.login import signed_in
from server.office import office
from server.paging import Page, Row, like, page_of, rows_of
from server.show import NEVER_SHOWN
from server.status import request_resync

LONGEST_SEARCH = 100  # characters
RECENT_CHANGES = 25
HISTORY_LINES = 30
NEWEST_BATCH = ("b.induction_date", "b.id")
COUNTED = 999  # payloads
PAYLOAD_STATES = ("received", "processed", "error")

pages = Blueprint("pages", __name__)

BATCHES = "SELECT b.id, b.batch_number, b.induction_date, b.source, b.notes FROM batches b WHERE "

ANIMALS = """
SELECT c.id, c.cattle_id, c.lf_tag, c.uhf_tag, c.sex, c.weight, c.health_status, c.status, c.induction_date, p.pen_number
  FROM cattle c LEFT JOIN pens p ON p.id=c.pen_id WHERE c.batch_id=?"""

TAGS = ("lf_tag", "uhf_tag", "cattle_id")
# A prefix is a range over the indexes that the farm has anyway.
TAG_BEGINS = " UNION ALL ".join(f"SELECT batch_id FROM cattle WHERE {tag}>=? AND {tag}<?" for tag in TAGS)
TAG_CONTAINS = " OR ".join(f"c.{tag} LIKE ? ESCAPE '\\'" for tag in TAGS)
LAST_CHARACTER = "\U0010ffff"


@pages.get("/")
@pages.get("/office/")
def start() -> Any:
    """The first page of the office."""
    return redirect(url_for("pages.batches"))


@pages.get("/office/batches")
@signed_in
def batches(db: apsw.Connection) -> str:
    """All batches, the newest first, or those that a search finds by number or by a tag of an animal in them."""
    text = _search_text()
    page, contains = _found_batches(db, text) if text else (page_of(db, f"{BATCHES} 1", (), request.args, keys=NEWEST_BATCH), False)
    _count_animals(db, page.rows)
    empty = not page.rows and not one(db, "SELECT 1 FROM batches LIMIT 1")
    return render_template("batches.html", page=page, q=text, contains=contains, empty=empty)


@pages.get(f"/office/batches/<int(max={2**63 - 1}):number>")
@signed_in
def batch(db: apsw.Connection, number: int) -> str:
    """One batch and its animals, the newest first; a status or a search narrows them. Raises NotFound."""
    found = rows_of(db, f"{BATCHES} b.id=?", (number,))
    if not found:
        raise NotFound("There is no such batch: it may have been removed on the Pi.")
    text, status = _search_text(), request.args.get("status", "")
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


@pages.get("/office/payloads")
@signed_in
def payloads(db: apsw.Connection) -> str:
    """What the radio sent, the newest first, of one status or of all."""
    status = request.args.get("status", "")
    if status and status not in PAYLOAD_STATES:
        raise BadRequest(f"A payload's status is one of {', '.join(PAYLOAD_STATES)}.")
    sql = f"SELECT * FROM lora_payload_buffer WHERE {'status=?' if status else '1'}"
    page = page_of(db, sql, [status] if status else [], request.args, keys=("id",))
    counts = {each: _some(db, each) if each != "processed" else None for each in PAYLOAD_STATES}
    return render_template("payloads.html", page=page, status=status, states=PAYLOAD_STATES, counts=counts)


@pages.get("/office/pens")
@signed_in
def pens(db: apsw.Connection) -> str:
    """The pens, with how many active animals stand in each."""
    sql = """SELECT p.id, p.pen_number, p.capacity, p.description,
                    (SELECT count(*) FROM cattle c WHERE c.pen_id=p.id AND c.status='active') AS animals
               FROM pens p WHERE 1"""
    return render_template("pens.html", page=page_of(db, sql, (), request.args, keys=("p.pen_number", "p.id"), ascending=True))


@pages.get("/office/replication")
@signed_in
def replication(db: apsw.Connection) -> str:
    """How the replica follows the Pi: state, lag, history, and what the changelog last recorded."""
    store, settings = office().store, office().settings
    return render_template(
        "replication.html",
        totals=store.totals(),
        history=store.history(HISTORY_LINES),
        changes=recent_changes(db),
        rescued=list_rescued(settings.data_dir),
        settings=settings,
    )


@pages.post("/office/replication/resync")
@signed_in
def resync(db: apsw.Connection) -> Any:
    """Ask the sync service for a bootstrap; admins only."""
    if not g.user.is_admin:
        raise Forbidden("A resync is for admins.")
    request_resync(f"asked for by {g.user.username}")
    flash("A fresh copy of the whole database was asked for. The pages go on with the old rows until it is here.")
    return redirect(url_for("pages.replication"))


def recent_changes(db: apsw.Connection, limit: int = RECENT_CHANGES) -> list[Row]:
    """The newest changes: seq, at, actor, tbl, op, key, and `columns` [(name, old, new)]."""
    newest = rows_of(db, "SELECT seq, at, actor, tbl, op, key FROM changelog ORDER BY seq DESC LIMIT ?", (limit,))
    since = newest[-1].seq if newest else 0
    details: dict[int, list[tuple[str, Any, Any]]] = {}
    for row in rows_of(db, "SELECT seq, col, old, new FROM changelog_audit WHERE seq>=?", (since,)):
        if not row.col.endswith(NEVER_SHOWN):  # shown nowhere, even where nobody masked it
            details.setdefault(row.seq, []).append((row.col, row.old, row.new))
    for row in newest:
        row.columns = details.get(row.seq, [])
    return newest


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


def _some(db: apsw.Connection, status: str) -> int | str:
    """How many payloads have this status, counted as far as it matters."""
    many = one(db, "SELECT count(*) FROM (SELECT 1 FROM lora_payload_buffer WHERE status=? LIMIT ?)", (status, COUNTED + 1))
    return many if many <= COUNTED else f"{COUNTED}+"


def _search_text() -> str:
    text = request.args.get("q", "").strip()
    if len(text) > LONGEST_SEARCH:
        raise BadRequest(f"A search may have {LONGEST_SEARCH} characters.")
    return text
