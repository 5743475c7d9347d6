"""Form: one's own new password. The password itself never leaves this server."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import apsw
from flask import g, request, url_for
from werkzeug.security import generate_password_hash

from changelog.errors import Unreachable
from server.login import is_allowed, keep_signed_in
from server.pages.forms.fields import Field, Typed
from server.pages.forms.form import Form, Request, form_page
from server.pi_writer import Written

SHORTEST = 8  # characters
NEW_PASSWORD = (
    Field("new", "New password", f"At least {SHORTEST} characters.", True, 1_000, "password", autocomplete="new-password"),
    Field("again", "New password again", required=True, kind="password", longest=1_000, autocomplete="new-password"),
)


class PasswordForm(Form):
    """A form with passwords in it, which are taken as they were typed, spaces and all."""

    def _parsed(self, typed: Typed, fields: Sequence[Field]) -> dict[str, Any]:
        typed.texts |= {f.name: request.form.get(f.name, "") for f in fields if f.kind == "password"}
        return super()._parsed(typed, fields)

    def check(self, typed: Typed, values: dict[str, Any]) -> None:
        """The new password is one."""
        if len(values["new"]) < SHORTEST:
            typed.errors["new"] = f"A password has at least {SHORTEST} characters."
        elif values["new"] != values["again"]:
            typed.errors["again"] = "This is not the same as the new password."


def hash_of(values: dict[str, Any]) -> str:
    """What the Pi keeps of the new password."""
    return generate_password_hash(values["new"], method="scrypt")


def fresh_key() -> str:
    """By which the Pi knows the request: a hash has new salt each time, so a repetition is no repetition."""
    return secrets.token_hex(16)


@form_page("/office/account/password", "change_password")
class ChangePassword(PasswordForm):
    """Change the password of who is signed in."""

    heading, button, guarded = "Change your password", "Change the password", False
    signs_in = True
    fields = (
        Field("old", "Old password", required=True, kind="password", longest=1_000, autocomplete="current-password"),
        *NEW_PASSWORD,
    )

    def load(self, db: apsw.Connection) -> None:
        """Whose it is."""
        self.back = url_for("pages.batches"), "Batches"
        self.sentence = f"For the user {g.user.username}. All other sessions of this user end; this one goes on."

    def check(self, typed: Typed, values: dict[str, Any]) -> None:
        """The old one fits, and the new one is one. Raises TooMany for who guesses."""
        super().check(typed, values)
        if not typed.errors and not is_allowed(g.user, g.user.username, values["old"]):
            typed.errors["old"] = "This is not your password."

    def request(self, values: dict[str, Any]) -> Request:
        """The new hash in the place of the one that was checked."""
        seen = {"password_hash": g.user.password_hash}
        return Request("POST", "/users/password", {"username": g.user.username, "password_hash": hash_of(values), "expected": seen})

    def write(self, asked: Request, key: str) -> Written:
        """Ask the Pi; this session goes on with the new hash when that comes back. Raises what the Pi refuses with, and Unreachable."""
        assert asked.body is not None
        after = replace(g.user, password_hash=asked.body["password_hash"])
        try:
            written = super().write(asked, fresh_key())
        except Unreachable as exc:
            if exc.facts.get("sent"):
                keep_signed_in(after)
            raise
        keep_signed_in(after)
        return written

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """At the first page."""
        return self.back[0], "Your password was changed. Your other sessions have ended."
