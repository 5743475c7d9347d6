"""Forms: a new pen, a pen's facts, and a pen that goes."""

from __future__ import annotations

from typing import Any

import apsw

from server.pages.forms.fields import Field, WholeNumber
from server.pages.forms.form import Form, Request, form_page, pens_page, row_or_404
from server.pages.routes import ROW_ID

FIELDS = (
    Field("pen_number", "Pen", "The number or name by which everybody knows it.", required=True, longest=50),
    WholeNumber("capacity", "Capacity", "How many animals find place in it.", required=True),
    Field("description", "Description", longest=1_000, kind="textarea"),
)
PEN = """SELECT id, pen_number, capacity, description, (SELECT count(*) FROM cattle WHERE pen_id=p.id) AS animals FROM pens p WHERE id=?"""


@form_page("/office/pens/new", "new_pen")
class NewPen(Form):
    """Make a pen."""

    heading, button, guarded = "New pen", "Make the pen", False
    fields = FIELDS

    def load(self, db: apsw.Connection) -> None:
        """There is nothing yet."""
        self.back = pens_page(), "Pens"

    def request(self, values: dict[str, Any]) -> Request:
        """All of it."""
        return Request("POST", "/pens", values)

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """Among the pens."""
        return self.back[0], f"Pen {reply['pen']['pen_number']} was made."


class OnePen(Form):
    """About a pen that is there."""

    def __init__(self, number: int) -> None:
        self.number = number

    def load(self, db: apsw.Connection) -> None:
        """The pen."""
        self.row = row_or_404(db, PEN, self.number, "pen")
        self.back = pens_page(), "Pens"


@form_page(f"/office/pens/<{ROW_ID}:number>/edit", "edit_pen")
class EditPen(OnePen):
    """Change a pen's facts."""

    fields = FIELDS

    def load(self, db: apsw.Connection) -> None:
        """The pen."""
        super().load(db)
        self.heading = f"Pen {self.row['pen_number']}"

    def request(self, values: dict[str, Any]) -> Request:
        """What was changed."""
        return Request("PATCH", f"/pens/{self.number}", values)

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """Among the pens."""
        return self.back[0], f"Pen {reply['pen']['pen_number']} was changed."


@form_page(f"/office/pens/<{ROW_ID}:number>/delete", "delete_pen")
class DeletePen(OnePen):
    """Delete a pen in which no animal is."""

    button, danger = "Delete the pen", True

    def load(self, db: apsw.Connection) -> None:
        """The pen, and who is in it."""
        super().load(db)
        self.heading = f"Delete pen {self.row['pen_number']}"
        inside = self.row["animals"]
        self.sentence = (
            f"{inside} animals are in it: the Pi deletes only a pen that is empty. Move them first."
            if inside
            else "The pen is empty. It will be gone from all lists; the changelog keeps what it was."
        )

    def request(self, values: dict[str, Any]) -> Request:
        """The pen goes."""
        return Request("DELETE", f"/pens/{self.number}")

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """Among the pens that are left."""
        return self.back[0], f"Pen {reply['deleted']['pen_number']} was deleted."
