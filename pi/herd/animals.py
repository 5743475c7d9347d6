"""Animals: their facts, pen, tags and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apsw

from changelog.connection import one
from changelog.errors import BadRequest, Conflict
from pi.herd.pens import refuse_full
from pi.herd.rows import ANIMALS, Row, delete_row, guarded_row, insert_row, read_row, remember_pair, update_row

ACTIVE = "active"  # the status of an animal that takes a place in its pen
TAGS = ("lf_tag", "uhf_tag")
REFERRING = {"weights": ("weight_records", "cattle_id"), "earlier pairs of tags": ("pair_history", "cattle_id")}

Seen = Mapping[str, Any] | None


def add_animal(db: apsw.Connection, values: Mapping[str, Any], now: str) -> Row:
    """Make an animal and return its row. Raises BadRequest without its batch, Conflict when its name or a tag is taken."""
    _require_batch(db, values["batch_id"])
    for tag in TAGS:
        _refuse_tag(db, tag, values.get(tag), None)
    return insert_row(db, ANIMALS, {"induction_date": now, **values}, now)


def change_animal(db: apsw.Connection, animal_id: int, changes: Mapping[str, Any], now: str, expected: Seen = None) -> Row:
    """Give an animal the values of `changes` (not tags, pen or weight) and return its row.

    Raises NotFound, BadRequest without its batch, and Conflict: a taken name, or one that becomes active in a pen that is full.
    """
    row = guarded_row(db, ANIMALS, animal_id, expected)
    if "batch_id" in changes:
        _require_batch(db, changes["batch_id"])
    if row["pen_id"] is not None and row["status"] != ACTIVE and changes.get("status") == ACTIVE:
        refuse_full(db, row["pen_id"])
    return update_row(db, ANIMALS, row, changes, now)


def delete_animal(db: apsw.Connection, animal_id: int) -> Row:
    """Delete an animal to which nothing refers and return the row that it had. Raises NotFound and Conflict."""
    return delete_row(db, ANIMALS, read_row(db, ANIMALS, animal_id), REFERRING)


def move_animal(db: apsw.Connection, animal_id: int, pen_id: int | None, now: str, expected: Seen = None) -> Row:
    """Move an animal to a pen, or with None out of its pen, and return its row. Where it stands already, nothing happens.

    Raises NotFound, BadRequest when there is no such pen, and Conflict when it is full: of animals that are active, as only they count.
    """
    row = guarded_row(db, ANIMALS, animal_id, expected)
    if pen_id is not None and pen_id != row["pen_id"]:
        if row["status"] == ACTIVE:
            refuse_full(db, pen_id)
        elif one(db, "SELECT 1 FROM pens WHERE id=?", (pen_id,)) is None:
            raise BadRequest(f"there is no pen with the id {pen_id}", field="pen_id")
    return update_row(db, ANIMALS, row, {"pen_id": pen_id}, now)


def pair_tags(db: apsw.Connection, animal_id: int, tags: Mapping[str, str | None], *, by: str, now: str, expected: Seen = None) -> Row:
    """Give an animal other tags (lf_tag, uhf_tag; None takes one off) and return its row; the pair that it had becomes history.

    Raises NotFound, and Conflict naming the animal that carries a tag already.
    """
    row = guarded_row(db, ANIMALS, animal_id, expected)
    new = {tag: value for tag, value in tags.items() if value != row[tag]}
    for tag, value in new.items():
        _refuse_tag(db, tag, value, animal_id)
    if new and any(row[tag] is not None for tag in TAGS):
        remember_pair(db, animal_id, now, by)
    return update_row(db, ANIMALS, row, new, now)


def record_weight(db: apsw.Connection, animal_id: int, weight: float, *, recorded_at: str, recorded_by: str | None, now: str) -> Row:
    """Record a weight (kg) of an animal, and on the animal itself when it is its newest. Raises NotFound."""
    row = read_row(db, ANIMALS, animal_id)
    newest = one(db, "SELECT max(recorded_at) FROM weight_records WHERE cattle_id=?", (animal_id,))
    db.execute(
        "INSERT INTO weight_records(cattle_id, weight, recorded_at, recorded_by, created_at, updated_at) VALUES(?,?,?,?,?,?)",
        (animal_id, weight, recorded_at, recorded_by, now, now),
    )
    record_id = db.last_insert_rowid()
    if newest is None or recorded_at >= str(newest):
        update_row(db, ANIMALS, row, {"weight": weight}, now)
    return {"id": record_id, "cattle_id": animal_id, "weight": weight, "recorded_at": recorded_at, "recorded_by": recorded_by}


def _require_batch(db: apsw.Connection, batch_id: int) -> None:
    if one(db, "SELECT 1 FROM batches WHERE id=?", (batch_id,)) is None:
        raise BadRequest(f"there is no batch with the id {batch_id}", field="batch_id")


def _refuse_tag(db: apsw.Connection, tag: str, value: str | None, own_id: int | None) -> None:
    """Raises Conflict when another animal carries this tag."""
    other = None if value is None else one(db, f"SELECT cattle_id FROM cattle WHERE {tag}=? AND id IS NOT ?", (value, own_id))
    if other is not None:
        kind = tag.removesuffix("_tag").upper()
        raise Conflict(f"the {kind} tag {value} is on animal {other}: take it off there first", animal=other, field=tag)
