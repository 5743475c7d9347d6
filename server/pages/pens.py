"""The pens and how full they are, and one pen with its animals."""

from __future__ import annotations

import json

import apsw
from flask import render_template, request, url_for

from changelog.connection import one
from changelog.errors import NotFound
from server.login import signed_in
from server.office import office
from server.pages.animals import animals_page, status_choices, wanted_animals
from server.pages.routes import ROW_ID, chosen_order, pages, stated
from server.paging import Page, Part, Row, page_of_parts, page_of_sorted, rows_of

PENS = "SELECT p.id, p.pen_number, p.capacity, p.description FROM pens p WHERE "
BY_NUMBER = Part(f"{PENS} 1", (), "p.pen_number", "p.id")
SORTS = ("number", "occupancy")


@pages.get("/office/pens")
@signed_in
def pens(db: apsw.Connection) -> str:
    """The pens, with how many active animals stand in each: by number, or the fullest first."""
    sort, descending = chosen_order(SORTS, "number")
    if sort == "occupancy":
        page = page_of_sorted(office().tallies.pens_by_occupancy(db, descending), request.args)
        page = Page(pens_of(db, [row.id for row in page.rows]), page.back, page.onward)
    else:
        page = page_of_parts(db, [BY_NUMBER], request.args, ascending=not descending)
        count_animals(db, page.rows)
    arguments = stated(sort=request.args.get("sort"))
    empty = not page.rows and not one(db, "SELECT 1 FROM pens LIMIT 1")
    return render_template("pens.html", page=page, sort=sort, descending=descending, arguments=arguments, empty=empty)


@pages.get(f"/office/pens/<{ROW_ID}:number>")
@signed_in
def pen(db: apsw.Connection, number: int) -> str:
    """One pen and the animals in it, the newest first unless the address says otherwise. Raises NotFound."""
    found = pens_of(db, [number])
    if not found:
        raise NotFound("There is no such pen: it may have been removed on the Pi.")
    wanted = wanted_animals(pen=number)
    page, contains = animals_page(db, wanted)
    arguments = stated(q=wanted.text, status=wanted.status, sort=request.args.get("sort"))
    choices = status_choices(db, "pen_id", number, arguments, url_for("pages.pen", number=number))
    return render_template("pen.html", pen=found[0], page=page, wanted=wanted, contains=contains, arguments=arguments, choices=choices)


def pens_of(db: apsw.Connection, numbers: list[int]) -> list[Row]:
    """The pens with these ids, in this order."""
    found = {row.id: row for row in rows_of(db, f"{PENS} p.id IN (SELECT value FROM json_each(?))", (json.dumps(numbers),))}
    pens = [found[number] for number in numbers if number in found]
    count_animals(db, pens)
    return pens


def count_animals(db: apsw.Connection, pens: list[Row]) -> None:
    """Add `animals`, the active ones, to each of these pens."""
    counts = office().tallies.herd(db).pens
    for each in pens:
        each.animals = counts.get(each.id, 0)
