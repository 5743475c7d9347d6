"""The first page: the farm in numbers, each leading to the list that shows it, and what happened last."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import apsw
from flask import render_template

from changelog.connection import one, rows
from server.login import signed_in
from server.office import office
from server.pages.payloads import PAYLOAD_STATES
from server.pages.pens import by_occupancy, pens_of
from server.pages.routes import pages
from server.story import latest_stories

FULLEST = 8  # pens
STORIES = 15
MOST_COUNTED = 9_999  # payloads of a day and a status


@pages.get("/office/")
@signed_in
def dashboard(db: apsw.Connection) -> str:
    """The farm at a glance."""
    herd = office().tallies.of(db)
    fullest = by_occupancy(db)
    return render_template(
        "dashboard.html",
        herd=herd,
        batches=one(db, "SELECT count(*) FROM batches"),
        pens=pens_of(db, [row_id for _, row_id in fullest[:FULLEST]]),
        pen_count=len(fullest),
        today=payloads_of_day(db, f"{datetime.now(UTC):%Y-%m-%d}"),
        stories=latest_stories(db, STORIES),
    )


def payloads_of_day(db: apsw.Connection, day: str) -> dict[str, Any]:
    """How many payloads came first on this UTC day (YYYY-MM-DD), by status, counted as far as it matters."""
    newest = "SELECT status FROM lora_payload_buffer WHERE received_at>=? AND received_at<? LIMIT ?"
    counted = rows(db, f"SELECT status, count(*) FROM ({newest}) GROUP BY status", (day, f"{day}U", MOST_COUNTED + 1))
    found = dict(counted)
    return {"day": day, "more": sum(found.values()) > MOST_COUNTED, "counts": {status: found.get(status, 0) for status in PAYLOAD_STATES}}
