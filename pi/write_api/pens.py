"""/api/pens."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint

from pi import herd
from pi.write_api.bodies import Check, checked, prose, read_body, read_change, text, whole
from pi.write_api.routes import Write

MAX_CAPACITY = 100_000  # animals

CHECKS: dict[str, Check] = {
    "pen_number": text(50, needed=True),
    "capacity": whole(0, MAX_CAPACITY, "of animals"),
    "description": prose(1_000),
}
REQUIRED = ("pen_number", "capacity")


def add_routes(routes: Blueprint, write: Write) -> None:
    """Make, change and delete pens."""

    @routes.post("/pens")
    def add_pen() -> Any:
        pen = checked(read_body(*CHECKS), CHECKS, REQUIRED)
        return write("pen", partial(herd.add_pen, **{"description": None, **pen}, now=herd.utc_now()), 201)

    @routes.patch("/pens/<int:pen_id>")
    def change_pen(pen_id: int) -> Any:
        changes, expected = read_change(CHECKS)
        return write("pen", partial(herd.change_pen, pen_id=pen_id, changes=changes, expected=expected, now=herd.utc_now()))

    @routes.delete("/pens/<int:pen_id>")
    def delete_pen(pen_id: int) -> Any:
        return write("deleted", partial(herd.delete_pen, pen_id=pen_id))
