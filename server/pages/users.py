"""Who may sign in: the list, for admins."""

from __future__ import annotations

import apsw
from flask import g, render_template, request

from changelog.errors import Forbidden
from changelog.values import is_yes
from server.login import USABLE_HASH, signed_in
from server.pages.routes import pages
from server.paging import page_of

ADMINS_ONLY = "Users are for admins. Your own password is yours to change."


@pages.get("/office/users")
@signed_in
def users(db: apsw.Connection) -> str:
    """All users by name. Raises Forbidden."""
    require_admin()
    sql = f"""SELECT id, username, role, is_active, password_hash GLOB '{USABLE_HASH}*' AS has_password, created_at, updated_at
                FROM users WHERE 1"""
    page = page_of(db, sql, (), request.args, keys=("username", "id"), ascending=True)
    for each in page.rows:
        each.is_active = is_yes(each.is_active)
    return render_template("users.html", page=page)


def require_admin() -> None:
    """Raises Forbidden unless an admin is signed in."""
    if not g.user.is_admin:
        raise Forbidden(ADMINS_ONLY)
