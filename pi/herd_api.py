"""The write API for pens and weights: besides LoRa the only way by which programs change herd data.

A reply names the position of its write, so that a caller can wait for it on the replica.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from changelog.errors import BadRequest
from changelog.node.access import json_body
from pi import herd
from pi.ingest import require_farm
from pi.keys import Keys
from pi.writer import Job, Writer

BODY = 65_536  # bytes of a request
MAX_CAPACITY = 100_000  # animals
MAX_WEIGHT = 5_000  # kg

_TIME = re.compile(r"(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d", re.ASCII)
_ID = "int(max=9223372036854775807)"  # what SQLite can hold; a larger one is no route


def blueprint(writer: Writer, keys: Keys) -> Blueprint:
    """The routes of the write API; every one needs a writer key, and answers 404 while the database has no farm tables."""
    routes = Blueprint("herd", __name__, url_prefix="/api")

    @routes.before_request
    def check() -> None:
        require_farm(writer)
        keys.admit("writer")

    def write(name: str, job: Job[dict[str, Any]], status: int = 200) -> tuple[Response, int]:
        written = writer.write(job, f"api:{g.key.name}")
        return jsonify({"success": True, name: written.value, "position": str(written.position)}), status

    @routes.post("/pens")
    def add_pen() -> tuple[Response, int]:
        pen = _pen(_body("pen_number", "capacity", "description"))
        for name in ("pen_number", "capacity"):
            if name not in pen:
                raise BadRequest(f"{name} is missing")
        return write("pen", partial(herd.add_pen, **{"description": None, **pen}, now=herd.utc_now()), 201)

    @routes.patch(f"/pens/<{_ID}:pen_id>")
    def change_pen(pen_id: int) -> tuple[Response, int]:
        changes = _pen(_body("pen_number", "capacity", "description"))
        return write("pen", partial(herd.change_pen, pen_id=pen_id, changes=changes, now=herd.utc_now()))

    @routes.delete(f"/pens/<{_ID}:pen_id>")
    def delete_pen(pen_id: int) -> tuple[Response, int]:
        return write("deleted", partial(herd.delete_pen, pen_id=pen_id))

    @routes.post(f"/cattle/<{_ID}:animal_id>/weights")
    def record_weight(animal_id: int) -> tuple[Response, int]:
        body = _body("weight", "recorded_at", "recorded_by")
        weight = body.get("weight")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MAX_WEIGHT:
            raise BadRequest(f"weight must be a number of kg over 0 and up to {MAX_WEIGHT}")
        now = herd.utc_now()
        job = partial(
            herd.record_weight,
            animal_id=animal_id,
            weight=float(weight),
            recorded_at=_time(body.get("recorded_at")) or now,
            recorded_by=_text(body, "recorded_by", 100) or g.key.name,
            now=now,
        )
        return write("weight", job, 201)

    return routes


def _body(*names: str) -> dict[str, Any]:
    """The JSON object of the request, which may have these members. Raises BadRequest."""
    body = json_body(request, BODY)
    if not body:
        raise BadRequest(f"the object is empty; it takes {', '.join(names)}")
    unknown = sorted(set(body) - set(names))
    if unknown:
        raise BadRequest(f"{unknown[0][:80]!r} is not known here; the object takes {', '.join(names)}")
    return body


def _pen(body: dict[str, Any]) -> dict[str, Any]:
    """The values of a pen in `body`, checked. Raises BadRequest."""
    pen: dict[str, Any] = {}
    if "pen_number" in body:
        pen["pen_number"] = _text(body, "pen_number", 50)
        if not pen["pen_number"]:
            raise BadRequest("pen_number must not be empty")
    if "capacity" in body:
        capacity = body["capacity"]
        if isinstance(capacity, bool) or not isinstance(capacity, int) or not 0 <= capacity <= MAX_CAPACITY:
            raise BadRequest(f"capacity must be a whole number of animals from 0 to {MAX_CAPACITY}")
        pen["capacity"] = capacity
    if "description" in body:
        pen["description"] = _text(body, "description", 1_000)
    return pen


def _text(body: dict[str, Any], name: str, longest: int) -> str | None:
    """A text without control characters and outer spaces, or None for null and nothing. Raises BadRequest."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > longest or not value.replace("\n", " ").isprintable():
        raise BadRequest(f"{name} must be a text of at most {longest} characters")
    return value.strip()


def _time(value: Any) -> str | None:
    """A UTC time as the tables hold it, or None for null and nothing; a Z at its end is allowed. Raises BadRequest."""
    if value is None:
        return None
    if not isinstance(value, str) or not _TIME.fullmatch(value.removesuffix("Z")):
        raise BadRequest("recorded_at must be a UTC time such as 2024-01-15T10:30:00")
    return value.removesuffix("Z")
