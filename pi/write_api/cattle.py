"""/api/cattle: animals, their pen, tags and weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint

from changelog.errors import BadRequest
from pi import herd
from pi.write_api.bodies import (
    LONGEST_NOTES,
    Body,
    Check,
    checked,
    prose,
    radio_text,
    read_body,
    read_change,
    row_id,
    row_id_or_none,
    takes,
    text,
    time,
)
from pi.write_api.callers import caller
from pi.write_api.routes import Write

MAX_WEIGHT = 5_000  # kg


@takes(type="number", exclusiveMinimum=0, maximum=MAX_WEIGHT, description="kg")
def kilograms(body: Body, name: str) -> float:
    """A weight in kg. Raises BadRequest."""
    weight = body.get(name)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MAX_WEIGHT:
        raise BadRequest(f"{name} must be a number of kg over 0 and up to {MAX_WEIGHT}", field=name)
    return float(weight)


TAGS: dict[str, Check] = {"lf_tag": radio_text(100), "uhf_tag": radio_text(100)}
FACTS: dict[str, Check] = {
    "batch_id": row_id,
    "cattle_id": text(100, needed=True),
    "sex": text(20),
    "health_status": text(50),
    "notes": prose(LONGEST_NOTES),
    "status": text(20, needed=True),
}
ANIMAL = {**FACTS, **TAGS}
ANIMAL_REQUIRED = ("batch_id", "cattle_id")
MOVE: dict[str, Check] = {"pen_id": row_id_or_none}
WEIGHT: dict[str, Check] = {"weight": kilograms, "recorded_at": time, "recorded_by": text(100)}
WEIGHT_REQUIRED = ("weight",)


def add_routes(routes: Blueprint, write: Write) -> None:
    """Make, change and delete animals, move them, pair their tags and record their weights."""

    @routes.post("/cattle")
    def add_animal() -> Any:
        animal = checked(read_body(*ANIMAL), ANIMAL, ANIMAL_REQUIRED)
        return write("animal", partial(herd.add_animal, values=animal, now=herd.utc_now()), 201)

    @routes.patch("/cattle/<int:animal_id>")
    def change_animal(animal_id: int) -> Any:
        changes, expected = read_change(FACTS)
        return write("animal", partial(herd.change_animal, animal_id=animal_id, changes=changes, expected=expected, now=herd.utc_now()))

    @routes.delete("/cattle/<int:animal_id>")
    def delete_animal(animal_id: int) -> Any:
        return write("deleted", partial(herd.delete_animal, animal_id=animal_id))

    @routes.post("/cattle/<int:animal_id>/move")
    def move(animal_id: int) -> Any:
        change, expected = read_change(MOVE)
        return write("animal", partial(herd.move_animal, animal_id=animal_id, **change, expected=expected, now=herd.utc_now()))

    @routes.post("/cattle/<int:animal_id>/tags")
    def pair(animal_id: int) -> Any:
        tags, expected = read_change(TAGS)
        by = caller().who
        return write("animal", partial(herd.pair_tags, animal_id=animal_id, tags=tags, by=by, expected=expected, now=herd.utc_now()))

    @routes.post("/cattle/<int:animal_id>/weights")
    def record_weight(animal_id: int) -> Any:
        now = herd.utc_now()
        record = checked(read_body(*WEIGHT), WEIGHT, WEIGHT_REQUIRED)
        job = partial(
            herd.record_weight,
            animal_id=animal_id,
            weight=record["weight"],
            recorded_at=record.get("recorded_at") or now,
            recorded_by=record.get("recorded_by") or caller().who,
            now=now,
        )
        return write("weight", job, 201)
