"""The first page: the farm in numbers, each leading to the list that shows it, and what happened last."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import apsw
from flask import render_template

from changelog.connection import one
from server.login import signed_in
from server.office import office
from server.pages.payloads import PAYLOAD_STATES, hours_of
from server.pages.pens import pens_of
from server.pages.routes import pages
from server.story import latest_stories
from server.tallies import COUNTED

FULLEST = 8  # pens
STORIES = 15


@pages.get("/office/")
@signed_in
def dashboard(db: apsw.Connection) -> str:
    """The farm at a glance."""
    herd, fullest = office().tallies.herd(db), office().tallies.pens_by_occupancy(db)
    return render_template(
        "dashboard.html",
        herd=herd,
        batches=one(db, "SELECT count(*) FROM batches"),
        pens=pens_of(db, [row_id for _, row_id in fullest[:FULLEST]]),
        pen_count=len(fullest),
        today=payloads_of_day(db, datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)),
        stories=latest_stories(db, STORIES),
    )


def payloads_of_day(db: apsw.Connection, day: datetime) -> dict[str, Any]:
    """How many payloads came first on the UTC day that begins at `day`, by status; `more`: in one hour or other even more."""
    hours = hours_of(db, day)
    counts = {status: sum(hour.counts.get(status, 0) for hour in hours) for status in PAYLOAD_STATES}
    return {"day": f"{day:%Y-%m-%d}", "more": any(hour.total >= COUNTED for hour in hours), "counts": counts}
