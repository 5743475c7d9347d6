"""Who may log in to the office."""

from __future__ import annotations

import apsw

from changelog.connection import one
from changelog.errors import Conflict, NotFound

ROLES = ("admin", "user")


def add_user(db: apsw.Connection, username: str, password_hash: str, role: str, now: str) -> None:
    """Make a user. Raises Conflict when the name is taken."""
    if one(db, "SELECT 1 FROM users WHERE username=?", (username,)):
        raise Conflict(f"there is a user {username} already; `python -m pi user password {username}` gives it a new password")
    db.execute(
        "INSERT INTO users(username, password_hash, role, created_at, updated_at) VALUES(?,?,?,?,?)",
        (username, password_hash, role, now, now),
    )


def set_password(db: apsw.Connection, username: str, password_hash: str, now: str, seen: str | None = None) -> None:
    """Give a user another password. Raises NotFound, and Conflict when its hash is not the one that was `seen`."""
    known = _require(db, username, "password_hash")
    if seen is not None and known != seen:
        raise Conflict(f"the password of {username} was changed meanwhile: sign in with the newer one first")
    db.execute("UPDATE users SET password_hash=?, updated_at=? WHERE username=?", (password_hash, now, username))


def set_role(db: apsw.Connection, username: str, role: str, now: str) -> None:
    """Give a user another role. Raises NotFound, and Conflict when nobody were left who is an admin."""
    if role != "admin":
        _keep_an_admin(db, username)
    if _require(db, username, "role") != role:
        db.execute("UPDATE users SET role=?, updated_at=? WHERE username=?", (role, now, username))


def set_active(db: apsw.Connection, username: str, active: bool, now: str) -> None:
    """Let a user log in, or not. Raises NotFound, and Conflict when nobody were left who is an admin."""
    if not active:
        _keep_an_admin(db, username)
    if bool(_require(db, username, "is_active")) != active:
        db.execute("UPDATE users SET is_active=?, updated_at=? WHERE username=?", (int(active), now, username))


def remove_user(db: apsw.Connection, username: str) -> None:
    """Delete a user; what it did keeps its name. Raises NotFound, and Conflict when nobody were left who is an admin."""
    _keep_an_admin(db, username)
    db.execute("DELETE FROM users WHERE username=?", (username,))


def _keep_an_admin(db: apsw.Connection, username: str) -> None:
    """Raises NotFound, and Conflict when this user is the only admin who is active."""
    _require(db, username, "id")
    others = "SELECT count(*) FROM users WHERE role='admin' AND is_active AND username<>?"
    last = one(db, "SELECT role='admin' AND is_active FROM users WHERE username=?", (username,)) and not one(db, others, (username,))
    if last:
        raise Conflict(f"{username} is the last active admin: make another one first, `python -m pi user role NAME admin`")


def _require(db: apsw.Connection, username: str, column: str) -> object:
    """The value of a user's column. Raises NotFound."""
    found = db.execute(f"SELECT {column} FROM users WHERE username=?", (username,)).fetchone()
    if found is None:
        raise NotFound(f"there is no user {username}; `python -m pi user list` shows them")
    return found[0]
