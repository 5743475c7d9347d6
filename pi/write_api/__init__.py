"""The write API: besides LoRa the only way by which programs change herd data.

A reply names the position of its write, so that a caller can wait for it on the replica. A change of a row may carry `expected`, an object
with the values that the caller saw in it: where one of them is another by now, nothing is written, and the 409 shows the `present` row.
With an `Idempotency-Key` a write may be sent again until an answer comes, and is written once: see pi/repeats.py.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import closing
from functools import partial
from typing import Any

import apsw
from flask import Blueprint, Response, g, jsonify, request

from changelog.connection import connect
from changelog.errors import BadRequest
from changelog.position import Position
from changelog.values import for_json
from pi.ingest import require_farm
from pi.jobs import Job
from pi.keys import ROLES, Keys
from pi.repeats import Repeats, Reply, refuse_written
from pi.write_api import batches, cattle, pens, users
from pi.write_api.callers import caller
from pi.writer import Writer

FACTS = ("field", "present", "outcome", "written", "pen", "capacity", "animals", "animal")  # of errors, for the caller

KEY_PATTERN = "[A-Za-z0-9_-]{8,64}"  # of an Idempotency-Key


def blueprint(writer: Writer, keys: Keys, repeats: Repeats) -> Blueprint:
    """The routes of the write API; they need a key that may write, and answer 404 while the database has no farm tables."""
    routes = Blueprint("write_api", __name__, url_prefix="/api")

    @routes.get("/key")
    @keys.require(*ROLES)
    def key() -> Response:
        """Whose key this is, and whether it may write."""
        return jsonify(success=True, name=g.key.name, role=g.key.role, writes=g.key.may("writer"))

    @routes.before_request
    def check() -> None:
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            require_farm(writer)
            keys.admit("writer")

    def write(name: str, job: Job[dict[str, Any]], status: int = 200) -> tuple[Response, int]:
        actor = caller().actor
        repeat_of = request.headers.get("Idempotency-Key")

        def run(since: Position | None) -> Reply:
            written = writer.write(job if since is None else partial(_unless_written, job, since, actor), actor)
            row = {column: for_json(value) for column, value in written.value.items()}
            return status, {"success": True, name: row, "position": str(written.position)}

        if repeat_of is None:
            answered, reply = run(None)
        elif not re.fullmatch(KEY_PATTERN, repeat_of):
            raise BadRequest("an Idempotency-Key has 8 to 64 letters, digits, - and _")
        else:
            answered, reply = repeats.answer(f"{g.key.name}/{repeat_of}", _digest(actor), lambda: _head(writer), run)
        return jsonify(reply), answered

    for module in (pens, batches, cattle, users):
        module.add_routes(routes, write)
    return routes


def _unless_written(job: Job[dict[str, Any]], since: Position, actor: str, db: apsw.Connection) -> dict[str, Any]:
    refuse_written(db, since, actor)
    return job(db)


def _digest(actor: str) -> bytes:
    """Of what is asked for: the same for a repetition. The body has been checked, so it is small and was read whole."""
    parts = (request.method, request.path, actor, g.get("body", ""))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


def _head(writer: Writer) -> Position:
    with closing(connect(writer.path, readonly=True)) as db:
        return Position.of_head(db)
