"""Forms for admins: a new user, a new password for one who forgot theirs, and what a user may."""

from __future__ import annotations

from typing import Any

import apsw
from flask import g, url_for

from changelog.errors import Forbidden
from server.pages.forms.account import NEW_PASSWORD, PasswordForm, fresh_key, hash_of
from server.pages.forms.fields import Field, OneOf
from server.pages.forms.form import Form, Request, form_page, row_or_404
from server.pages.routes import ROW_ID
from server.pages.users import require_admin
from server.pi_writer import Written

ROLES = (("user", "user"), ("admin", "admin"))
ROLE = OneOf("role", "Role", "An admin makes users, and may fetch a fresh copy of the farm.", choices=ROLES)


@form_page("/office/users/new", "new_user")
class NewUser(PasswordForm):
    """Make a user."""

    heading, button, guarded = "New user", "Make the user", False
    fields = (
        Field("username", "User name", required=True, longest=80),
        ROLE,
        *NEW_PASSWORD,
    )

    def load(self, db: apsw.Connection) -> None:
        """There is nothing yet. Raises Forbidden."""
        require_admin()
        self.back = url_for("pages.users"), "Users"

    def request(self, values: dict[str, Any]) -> Request:
        """With the hash of the password."""
        return Request("POST", "/users", {"username": values["username"], "role": values["role"], "password_hash": hash_of(values)})

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """Among the users."""
        return self.back[0], f"User {reply['user']['username']} was made."


@form_page(f"/office/users/<{ROW_ID}:number>/password", "reset_password")
class ResetPassword(PasswordForm):
    """Give a user who forgot it a new password."""

    button, guarded = "Set the password", False
    sentence = "Tell it to nobody but this user, who can change it then. All sessions of this user end."
    fields = NEW_PASSWORD

    def __init__(self, number: int) -> None:
        self.number = number

    def load(self, db: apsw.Connection) -> None:
        """The user. Raises Forbidden and NotFound."""
        require_admin()
        self.row = row_or_404(db, "SELECT username FROM users WHERE id=?", self.number, "user")
        if self.row["username"] == g.user.username:
            raise Forbidden(f"Your own password is changed with the old one: {url_for('pages.change_password')}")
        self.heading = f"New password for {self.row['username']}"
        self.back = url_for("pages.users"), "Users"

    def request(self, values: dict[str, Any]) -> Request:
        """With the hash of the password."""
        return Request("POST", "/users/password", {"username": self.row["username"], "password_hash": hash_of(values)})

    def write(self, asked: Request, key: str) -> Written:
        """Ask the Pi. Raises what it refuses with, and Unreachable."""
        return super().write(asked, fresh_key())

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """Among the users."""
        return self.back[0], f"{reply['user']['username']} has a new password."


@form_page(f"/office/users/<{ROW_ID}:number>/edit", "edit_user")
class EditUser(Form):
    """Say what a user may."""

    fields = (ROLE, OneOf("is_active", "May sign in", choices=(("1", "yes"), ("0", "no"))))
    sentence = "A change ends the sessions of this user."

    def __init__(self, number: int) -> None:
        self.number = number

    def load(self, db: apsw.Connection) -> None:
        """The user. Raises Forbidden and NotFound."""
        require_admin()
        self.row = row_or_404(db, "SELECT id, username, role, is_active FROM users WHERE id=?", self.number, "user")
        self.heading = f"User {self.row['username']}"
        self.back = url_for("pages.users"), "Users"

    def request(self, values: dict[str, Any]) -> Request:
        """What was changed."""
        body = {name: int(value) if name == "is_active" else value for name, value in values.items()}
        return Request("PATCH", f"/users/{self.number}", body)

    def done(self, reply: dict[str, Any]) -> tuple[str, str]:
        """Among the users."""
        return self.back[0], f"User {reply['user']['username']} was changed."
