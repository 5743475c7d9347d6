"""Form: notes on a batch."""

from __future__ import annotations

from typing import Any

import apsw
from flask import url_for

from server.pages.forms.animals import LONGEST_NOTES
from server.pages.forms.fields import Field
from server.pages.forms.form import Form, Request, form_page, row_or_404
from server.pages.routes import ROW_ID


@form_page(f"/office/batches/<{ROW_ID}:number>/notes", "batch_notes")
class BatchNotes(Form):
    """Write about a batch."""

    fields = (Field("notes", "Notes", longest=LONGEST_NOTES, kind="textarea"),)

    def __init__(self, number: int) -> None:
        self.number = number

    def load(self, db: apsw.Connection) -> None:
        """The batch."""
        self.row = row_or_404(db, "SELECT id, batch_number, notes FROM batches WHERE id=?", self.number, "batch")
        self.heading = f"Notes on batch {self.row['batch_number']}"
        self.back = url_for("pages.batch", number=self.number), f"Batch {self.row['batch_number']}"

    def request(self, values: dict[str, Any]) -> Request:
        """The notes."""
        return Request("PATCH", f"/batches/{self.number}", values)

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """At the batch."""
        return self.back[0], f"The notes on batch {reply['batch']['batch_number']} were saved."
