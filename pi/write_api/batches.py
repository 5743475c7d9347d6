"""/api/batches."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint

from pi import herd
from pi.write_api.bodies import LONGEST_NOTES, Check, checked, day, prose, radio_text, read_body, read_change, text
from pi.write_api.routes import Write

CHECKS: dict[str, Check] = {
    "batch_number": radio_text(50, needed=True),
    "induction_date": day,
    "source": text(100),
    "notes": prose(LONGEST_NOTES),
}
REQUIRED = ("batch_number",)


def add_routes(routes: Blueprint, write: Write) -> None:
    """Make, change and delete batches."""

    @routes.post("/batches")
    def add_batch() -> Any:
        batch = checked(read_body(*CHECKS), CHECKS, REQUIRED)
        return write("batch", partial(herd.add_batch, values=batch, now=herd.utc_now()), 201)

    @routes.patch("/batches/<int:batch_id>")
    def change_batch(batch_id: int) -> Any:
        changes, expected = read_change(CHECKS)
        return write("batch", partial(herd.change_batch, batch_id=batch_id, changes=changes, expected=expected, now=herd.utc_now()))

    @routes.delete("/batches/<int:batch_id>")
    def delete_batch(batch_id: int) -> Any:
        return write("deleted", partial(herd.delete_batch, batch_id=batch_id))
