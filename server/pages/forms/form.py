"""A form of the office: shown, checked, sent to the Pi, and shown again as the row that came back from there.

Nothing is written here. What was typed goes to the Pi's write API; the page then waits until the replica has the change. A form holds two
things that nobody sees: what stood in its fields when it was shown, so that two people do not overwrite each other, and a key by which the
Pi knows a repetition, so that it may be sent again after an answer was lost.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import apsw
from flask import flash, g, redirect, render_template, request, url_for

from changelog.errors import DroverError, Forbidden, NotFound
from server.login import keeping, sign_in_again, signed_in
from server.office import office
from server.pages.forms.fields import Field, Typed, changed, plain
from server.pages.forms.words import in_words, why_closed
from server.pages.routes import pages
from server.paging import rows_of
from server.pi_writer import Written
from server.replica import FileGone

PATIENCE = 3.0  # s that a page waits for its change to come back
JSON_SAFE = (str, int, float, type(None))  # values that a form can remember

_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the Pi."""

    method: str
    path: str
    body: dict[str, Any] | None = None


class Form:
    """One form, for one request. Subclasses say what is in it."""

    heading = ""
    button = "Save"
    danger = False  # whether the button destroys something
    sentence = ""  # above the fields
    fields: Sequence[Field] = ()
    back: tuple[str, str] = ("/office/", "Back")  # where it leads when nothing is to be written: address and name
    signs_in = False  # whether its passwords are those of who is signed in: password managers want to know whose
    guarded: ClassVar[bool] = True  # whether the row was there before, so that what was seen of it is sent along

    row: Mapping[str, Any] = {}  # what it is about, as the replica has it

    def load(self, db: apsw.Connection) -> None:
        """Read what the form is about. Raises NotFound."""

    def request(self, values: dict[str, Any]) -> Request:
        """What to ask of the Pi for these values: of a guarded form those that were changed, else all."""
        raise NotImplementedError

    def check(self, typed: Typed, values: dict[str, Any]) -> None:
        """Note in `typed.errors` what is wrong with values that are right each for itself."""

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """Where to go when it is written, and what to say there."""
        raise NotImplementedError

    def page(self, typed: Typed | None = None, message: str = "", status: int = 200, key: str = "") -> Any:
        """The form as a page."""
        typed = typed or Typed({f.name: f.show(self.row.get(f.name)) for f in self.fields}, self._seen())
        closed = why_closed()
        wrong = next((f.name for f in self.fields if f.name in typed.errors), None)
        first = wrong or (self.fields[0].name if self.fields and not message else None)
        parts = {"form": self, "typed": typed, "message": message, "first": first, "closed": closed}
        page = render_template("form.html", **parts, seen=json.dumps(typed.seen), key=key or secrets.token_hex(16))
        return page, status

    def send(self) -> Any:
        """Write what was typed, and go where it can be seen; or show the form again, with the reason and all that was typed."""
        typed = Typed({f.name: plain(request.form.get(f.name, "")) for f in self.fields}, self._seen_then())
        given = request.form.get("key", "")
        key = given if _KEY.fullmatch(given) else secrets.token_hex(16)
        if "resume" in request.form:  # typed before the session ended, and not yet sent in this one
            return self.page(typed, key=key)
        if why_closed() is not None:
            return self.page(typed, status=Forbidden.status, key=key)
        wanted = changed(self.fields, typed, self.row)
        if self.guarded and self.fields and not wanted:
            flash("Nothing was changed.")
            return redirect(self.back[0], 303)
        values = self._parsed(typed, wanted if self.guarded else self.fields)
        try:
            if not typed.errors:
                self.check(typed, values)
            if typed.errors:
                return self.page(typed, status=400, key=key)
            asked = self.request(values)
            if self.guarded and asked.body is not None:
                asked.body["expected"] = {name: typed.seen[name] for name in values if name in typed.seen}
            written = self.write(asked, key)
        except DroverError as exc:
            return self._refused(exc, typed, key)
        return self._shown(written)

    def kept(self) -> dict[str, str]:
        """What of this request may be shown again after another login: all but passwords. Some forms know their fields only later."""
        secret = {f.name for f in self.fields if f.kind == "password"}
        return {name: text for name, text in request.form.items() if name not in secret}

    def write(self, asked: Request, key: str) -> Written:
        """Ask the Pi. Raises what it refuses with, and Unreachable."""
        writer = office().writer
        assert writer is not None
        return writer.send(asked.method, asked.path, asked.body, actor=g.user.username, key=key)

    def _parsed(self, typed: Typed, fields: Sequence[Field]) -> dict[str, Any]:
        values = {}
        for f in fields:
            try:
                values[f.name] = f.parse(typed.texts[f.name])
            except ValueError as exc:
                typed.errors[f.name] = str(exc)
        return values

    def _shown(self, written: Written) -> Any:
        target, told = self.done(written.reply)
        if not office().state.wait_for(written.position.epoch, written.position.seq, PATIENCE):
            told += " The Pi has written it; it has not come back to this server yet, and appears here as soon as it has."
        flash(told)
        return redirect(target, 303)

    def _refused(self, exc: DroverError, typed: Typed, key: str) -> Any:
        """The same form again."""
        present, outcome = exc.facts.get("present"), exc.facts.get("outcome")
        name = str(exc.facts.get("field"))
        message, status = in_words(exc), exc.status if 400 <= exc.status < 500 else 503
        if isinstance(present, dict):
            moved = [f for f in self.fields if f.name in typed.seen and present.get(f.name) != typed.seen[f.name]]
            typed.errors |= {f.name: f"This is “{f.show(present.get(f.name)) or 'empty'}” by now." for f in moved}
            typed.seen |= {f.name: present.get(f.name) for f in moved}
            message += " If you send it again, what you typed replaces that."
        elif name in typed.texts:
            typed.errors[name], message = message, ""
        return self.page(typed, message, status, secrets.token_hex(16) if outcome else key)

    def _seen(self) -> dict[str, Any]:
        return {f.name: self.row[f.name] for f in self.fields if isinstance(self.row.get(f.name, b""), JSON_SAFE)}

    def _seen_then(self) -> dict[str, Any]:
        """What was in the fields when the form was shown, as the form itself remembers."""
        names = {f.name for f in self.fields}
        try:
            seen = json.loads(request.form.get("seen", ""))
            return {name: value for name, value in seen.items() if name in names and isinstance(value, JSON_SAFE)}
        except (ValueError, AttributeError, RecursionError):
            return self._seen()


def form_page(rule: str, endpoint: str) -> Callable[[type[Form]], type[Form]]:
    """Decorates a Form: it stands at the address `rule`, whose arguments it is made with."""

    def decorate(kind: type[Form]) -> type[Form]:
        def view(**arguments: Any) -> Any:
            form = kind(**arguments)
            try:
                elsewhere = _load(form=form)
            except FileGone:
                elsewhere = _load(form=form)  # nothing was written yet: once more, from the copy that replaces it
            if elsewhere is not None:
                return sign_in_again(form.kept()) if request.method == "POST" else elsewhere
            # Outside the snapshot, which must not be held while the page waits for the next one.
            return form.send() if request.method == "POST" else form.page()

        keeping.add(f"{pages.name}.{endpoint}")
        pages.add_url_rule(rule, endpoint, view, methods=["GET", "POST"])
        return kind

    return decorate


@signed_in
def _load(db: apsw.Connection, form: Form) -> None:
    form.load(db)


def row_or_404(db: apsw.Connection, sql: str, number: int, noun: str) -> dict[str, Any]:
    """The one row that `sql` gives for this id. Raises NotFound."""
    found = rows_of(db, sql, (number,))
    if not found:
        raise NotFound(f"There is no such {noun}: it may have been removed on the Pi.")
    return vars(found[0])


def animals_page(number: int) -> str:
    """The address of an animal's page."""
    return f"/office/cattle/{number}"


def pens_page() -> str:
    """The address of the list of pens."""
    return url_for("pages.pens")
