"""Forms about one animal: its weight, pen, tags, notes and other facts."""

from __future__ import annotations

from typing import Any

import apsw

from server.pages.forms.fields import Choice, Decimal, Field, Moment
from server.pages.forms.form import Form, Request, animals_page, form_page, row_or_404
from server.pages.routes import ROW_ID
from server.paging import rows_of

LONGEST_NOTES = 10_000  # characters; the Pi takes no more
SEXES = ("Heifer", "Steer", "Bull", "Cow")
HEALTH = ("Healthy", "Sick", "Treated", "Lame")
STATUSES = ("active", "exported", "sold", "dead")

ANIMAL = """SELECT id, cattle_id, sex, weight, health_status, lf_tag, uhf_tag, pen_id, notes, status FROM cattle WHERE id=?"""
PENS = """SELECT p.id, p.pen_number, p.capacity,
                 (SELECT count(*) FROM cattle c WHERE c.pen_id=p.id AND c.status='active') AS animals
            FROM pens p ORDER BY p.pen_number, p.id"""


class OneAnimal(Form):
    """About one animal."""

    title = ""

    def __init__(self, number: int) -> None:
        self.number = number

    def load(self, db: apsw.Connection) -> None:
        """The animal."""
        self.row = row_or_404(db, ANIMAL, self.number, "animal")
        self.name = str(self.row["cattle_id"])
        self.heading = f"{self.title} {self.name}"
        self.back = animals_page(self.number), f"Animal {self.name}"

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """At the animal."""
        return self.back[0], f"Animal {self.name} was changed."


@form_page(f"/office/cattle/<{ROW_ID}:number>/weight", "record_weight")
class Weight(OneAnimal):
    """Record a weight."""

    title, button, guarded = "Weight of", "Record the weight", False
    fields = (
        Decimal("weight", "Weight in kg", required=True),
        Moment("recorded_at", "Weighed at", "Leave it empty for now, or give day and time, such as 2024-01-15 10:30."),
    )

    def load(self, db: apsw.Connection) -> None:
        """The animal, and what it weighed."""
        super().load(db)
        weight = self.row["weight"]
        self.sentence = f"Its newest weight is {weight:g} kg." if isinstance(weight, int | float) else "It has no weight yet."
        self.row = {}

    def request(self, values: dict[str, Any]) -> Request:
        """A weight more."""
        return Request("POST", f"/cattle/{self.number}/weights", {name: value for name, value in values.items() if value is not None})

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """At the animal."""
        return self.back[0], f"{reply['weight']['weight']:g} kg recorded for animal {self.name}."


@form_page(f"/office/cattle/<{ROW_ID}:number>/move", "move_animal")
class Move(OneAnimal):
    """Move an animal to a pen, or out of its pen."""

    title, button = "Move", "Move the animal"

    def load(self, db: apsw.Connection) -> None:
        """The animal and all pens."""
        super().load(db)
        pens = rows_of(db, PENS)
        self.pens = {str(pen.id): str(pen.pen_number) for pen in pens}
        choices = [("", "in no pen"), *((str(pen.id), f"{pen.pen_number}: {pen.animals} of {pen.capacity}") for pen in pens)]
        hint = "Beside each: how many active animals stand in it, and how many find place."
        self.fields = (Choice("pen_id", "Pen", hint, choices=choices),)

    def request(self, values: dict[str, Any]) -> Request:
        """Into the pen."""
        return Request("POST", f"/cattle/{self.number}/move", values)

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """At the animal."""
        pen = self.pens.get(str(reply["animal"]["pen_id"]))
        return self.back[0], f"Animal {self.name} is in pen {pen} now." if pen else f"Animal {self.name} is in no pen now."


@form_page(f"/office/cattle/<{ROW_ID}:number>/tags", "change_tags")
class Tags(OneAnimal):
    """Give an animal other tags."""

    title, button = "Tags of", "Save the tags"
    sentence = "The pair that it wears now is kept in its history. A tag that another animal wears is refused."
    fields = (
        Field("lf_tag", "LF tag", "Empty: it wears none.", autocomplete="off"),
        Field("uhf_tag", "UHF tag", "Empty: it wears none.", autocomplete="off"),
    )

    def request(self, values: dict[str, Any]) -> Request:
        """The tags that are other ones."""
        return Request("POST", f"/cattle/{self.number}/tags", values)

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """At the animal."""
        tags = " and ".join(str(tag) for tag in (reply["animal"]["lf_tag"], reply["animal"]["uhf_tag"]) if tag is not None)
        return self.back[0], f"Animal {self.name} wears {tags or 'no tags'} now."


class Facts(OneAnimal):
    """Some columns of an animal."""

    def request(self, values: dict[str, Any]) -> Request:
        """What was changed."""
        return Request("PATCH", f"/cattle/{self.number}", values)


@form_page(f"/office/cattle/<{ROW_ID}:number>/notes", "animal_notes")
class Notes(Facts):
    """Write about an animal."""

    title = "Notes on"
    fields = (Field("notes", "Notes", longest=LONGEST_NOTES, kind="textarea"),)


@form_page(f"/office/cattle/<{ROW_ID}:number>/edit", "edit_animal")
class EditAnimal(Facts):
    """Change what an animal is."""

    title = "Animal"
    fields = (
        Field("sex", "Sex", "Empty: not known.", longest=20, suggestions=SEXES),
        Field("health_status", "Health", "Empty: not known.", longest=50, suggestions=HEALTH),
        Field("status", "Status", "Only active animals take a place in a pen.", required=True, longest=20, suggestions=STATUSES),
    )
