"""All animals: searched, filtered, sorted, a page at a time."""

from __future__ import annotations

import apsw
from flask import render_template, request

from changelog.connection import one
from server.login import signed_in
from server.office import office
from server.pages.animals import Wanted, animals_page, number_of, wanted_animals
from server.pages.routes import pages, stated
from server.paging import Page


@pages.get("/office/cattle")
@signed_in
def cattle(db: apsw.Connection) -> str:
    """The list of all animals, the newest first unless the address says otherwise."""
    names, wanted = wanted_cattle(db)
    page, contains = animals_page(db, wanted) if wanted else (Page([]), False)
    arguments = stated(q=request.args.get("q", "").strip(), status=request.args.get("status"), **names, sort=request.args.get("sort"))
    narrowed = bool(arguments.keys() - {"sort"})
    return render_template(
        "cattle.html",
        page=page,
        wanted=wanted or Wanted(),
        names=names,
        missing=[name for name in names if wanted is None],
        arguments=arguments,
        narrowed=narrowed,
        contains=contains,
        statuses=office().tallies.herd(db).statuses,
        empty=not page.rows and not one(db, "SELECT 1 FROM cattle LIMIT 1"),
    )


def wanted_cattle(db: apsw.Connection) -> tuple[dict[str, str], Wanted | None]:
    """The numbers of batch and pen that the address names, and what it asks for; None where there is no such batch or pen."""
    names = {name: number for name in ("batch", "pen") if (number := request.args.get(name, "").strip())}
    ids = {name: number_of(db, *NUMBERS[name], number) for name, number in names.items()}
    if None in ids.values():
        wanted_animals()  # what else is wrong in the address is said all the same
        return names, None
    return names, wanted_animals(**ids)


NUMBERS = {"batch": ("batches", "batch_number"), "pen": ("pens", "pen_number")}
