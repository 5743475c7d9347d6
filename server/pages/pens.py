"""The pens."""

from __future__ import annotations

import apsw
from flask import render_template, request

from server.login import signed_in
from server.pages.routes import pages
from server.paging import page_of


@pages.get("/office/pens")
@signed_in
def pens(db: apsw.Connection) -> str:
    """The pens, with how many active animals stand in each."""
    sql = """SELECT p.id, p.pen_number, p.capacity, p.description,
                    (SELECT count(*) FROM cattle c WHERE c.pen_id=p.id AND c.status='active') AS animals
               FROM pens p WHERE 1"""
    return render_template("pens.html", page=page_of(db, sql, (), request.args, keys=("p.pen_number", "p.id"), ascending=True))
