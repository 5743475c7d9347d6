"""Who may log in to the office."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apsw

from changelog.connection import one
from changelog.errors import Conflict, Forbidden, NotFound
from changelog.values import is_yes
from pi.herd.rows import USERS, Row, guarded_row, read_row, update_row

ROLES = ("admin", "user")


def add_user(db: apsw.Connection, username: str, password_hash: str, role: str, now: str) -> Row:
    """Make a user and return its row, without the hash. Raises Conflict when the name is taken."""
    if one(db, "SELECT 1 FROM users WHERE username=?", (username,)):
        again = f"`python -m pi user password {username}` gives it a new password"
        raise Conflict(f"there is a user {username} already; {again}", field="username")
    db.execute(
        "INSERT INTO users(username, password_hash, role, created_at, updated_at) VALUES(?,?,?,?,?)",
        (username, password_hash, role, now, now),
    )
    return read_row(db, USERS, db.last_insert_rowid())


def change_user(db: apsw.Connection, user_id: int, changes: Mapping[str, Any], now: str, expected: Mapping[str, Any] | None = None) -> Row:
    """Give a user the values of `changes` (role, is_active) and return its row. Raises NotFound, and Conflict: the last admin stays."""
    row = guarded_row(db, USERS, user_id, expected)
    if not _is_admin({**row, **changes}):
        _keep_an_admin(db, row)
    return update_row(db, USERS, row, changes, now)


def set_password(db: apsw.Connection, username: str, password_hash: str, now: str, seen: str | None = None) -> None:
    """Give a user another password. Raises NotFound, and Conflict when its hash is not the one that was `seen`."""
    user_id = find_user(db, username)["id"]
    if seen is not None and one(db, "SELECT password_hash FROM users WHERE id=?", (user_id,)) != seen:
        raise Conflict(f"the password of {username} was changed meanwhile: sign in with the newer one first")
    db.execute("UPDATE users SET password_hash=?, updated_at=? WHERE id=?", (password_hash, now, user_id))


def remove_user(db: apsw.Connection, username: str) -> None:
    """Delete a user; what it did keeps its name. Raises NotFound, and Conflict: the last admin stays."""
    row = find_user(db, username)
    _keep_an_admin(db, row)
    db.execute("DELETE FROM users WHERE id=?", (row["id"],))


def find_user(db: apsw.Connection, username: str) -> Row:
    """The row of a user, without the hash. Raises NotFound."""
    user_id = one(db, "SELECT id FROM users WHERE username=?", (username,))
    if user_id is None:
        raise NotFound(f"there is no user {username}; `python -m pi user list` shows them")
    return read_row(db, USERS, user_id)


def require_admin(db: apsw.Connection, username: str) -> None:
    """Raises Forbidden unless this user is an admin who may log in."""
    if one(db, "SELECT 1 FROM users WHERE username=? AND role='admin' AND is_active", (username,)) is None:
        raise Forbidden(f"{username} is no admin of this farm")


def _is_admin(row: Row) -> bool:
    return row["role"] == "admin" and is_yes(row["is_active"])


def _keep_an_admin(db: apsw.Connection, row: Row) -> None:
    """Raises Conflict when this user is the only admin who is active."""
    others = "SELECT 1 FROM users WHERE role='admin' AND is_active AND id<>?"
    if _is_admin(row) and one(db, others, (row["id"],)) is None:
        raise Conflict(f"{row['username']} is the last active admin: make another one first")
