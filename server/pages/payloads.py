"""What the radio sent."""

from __future__ import annotations

from collections.abc import Mapping

import apsw
from flask import render_template, request

from changelog.connection import one
from changelog.errors import BadRequest
from server.login import signed_in
from server.pages.routes import pages
from server.paging import page_of

COUNTED = 999  # payloads
PAYLOAD_STATES = ("received", "processed", "error")


@pages.get("/office/payloads")
@signed_in
def payloads(db: apsw.Connection) -> str:
    """What the radio sent, the newest first, of one status or of all."""
    status = wanted_status(request.args)
    sql = f"SELECT * FROM lora_payload_buffer WHERE {'status=?' if status else '1'}"
    page = page_of(db, sql, [status] if status else [], request.args, keys=("id",))
    counts = {each: _some(db, each) if each != "processed" else None for each in PAYLOAD_STATES}
    return render_template("payloads.html", page=page, status=status, states=PAYLOAD_STATES, counts=counts)


def wanted_status(arguments: Mapping[str, str]) -> str:
    """The status that the address asks for, or nothing. Raises BadRequest."""
    status = arguments.get("status", "")
    if status and status not in PAYLOAD_STATES:
        raise BadRequest(f"A payload's status is one of {', '.join(PAYLOAD_STATES)}.")
    return status


def _some(db: apsw.Connection, status: str) -> int | str:
    """How many payloads have this status, counted as far as it matters."""
    many = one(db, "SELECT count(*) FROM (SELECT 1 FROM lora_payload_buffer WHERE status=? LIMIT ?)", (status, COUNTED + 1))
    return many if many <= COUNTED else f"{COUNTED}+"
