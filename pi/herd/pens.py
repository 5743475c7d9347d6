"""Pens, and how many animals stand in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apsw

from changelog.connection import one
from changelog.errors import BadRequest, Conflict
from pi.herd.rows import PENS, Row, delete_row, guarded_row, insert_row, read_row, update_row


def add_pen(db: apsw.Connection, pen_number: str, capacity: int, description: str | None, now: str) -> Row:
    """Make a pen and return its row. Raises Conflict when the number is taken."""
    return insert_row(db, PENS, {"pen_number": pen_number, "capacity": capacity, "description": description}, now)


def change_pen(db: apsw.Connection, pen_id: int, changes: Mapping[str, Any], now: str, expected: Mapping[str, Any] | None = None) -> Row:
    """Give a pen the values of `changes` (pen_number, capacity, description) and return its row. Raises NotFound and Conflict."""
    return update_row(db, PENS, guarded_row(db, PENS, pen_id, expected), changes, now)


def delete_pen(db: apsw.Connection, pen_id: int) -> Row:
    """Delete an empty pen and return the row that it had. Raises NotFound, and Conflict while animals are in it."""
    return delete_row(db, PENS, read_row(db, PENS, pen_id), {"animals": ("cattle", "pen_id")})


def refuse_full(db: apsw.Connection, pen_id: int) -> None:
    """Raises Conflict when one more active animal finds no place in this pen, and BadRequest when there is no such pen."""
    row = db.execute("SELECT pen_number, capacity FROM pens WHERE id=?", (pen_id,)).fetchone()
    if row is None:
        raise BadRequest(f"there is no pen with the id {pen_id}", field="pen_id")
    number, capacity = row
    inside = one(db, "SELECT count(*) FROM cattle WHERE pen_id=? AND status='active'", (pen_id,))
    if isinstance(capacity, int | float) and inside >= capacity:
        facts: dict[str, Any] = {"pen": number, "capacity": capacity, "animals": inside, "field": "pen_id"}
        raise Conflict(f"pen {number} is full: its capacity is {capacity}, and {inside} active animals stand in it", **facts)
