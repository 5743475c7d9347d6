"""/api/users, for offices: new passwords, and what else admins do with users."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import apsw
from flask import Blueprint, g

from changelog.errors import BadRequest, Forbidden
from pi import herd
from pi.herd.users import ROLES
from pi.jobs import Job
from pi.keys import OFFICE
from pi.write_api.bodies import Body, Check, checked, read_body, read_change, takes, text, whole
from pi.write_api.callers import LONGEST_NAME, caller
from pi.write_api.routes import Write

# As werkzeug's generate_password_hash writes it: scrypt:N:r:p$salt$64 bytes in hex.
_HASH = re.compile(r"scrypt:(\d{1,7}):(\d{1,2}):(\d{1,2})\$[A-Za-z0-9]{8,64}\$[0-9a-f]{128}", re.ASCII)
_MEMORY = (2**24, 2**27)  # bytes that a check may take (128 * N * r): not less than werkzeug's half, not what would stop a small server


@takes(type="string", enum=list(ROLES))
def role(body: Body, name: str) -> str:
    """The role of a user. Raises BadRequest."""
    value = body.get(name)
    if not isinstance(value, str) or value not in ROLES:
        raise BadRequest(f"{name} must be one of {', '.join(ROLES)}", field=name)
    return value


@takes(type="string", pattern=f"^{_HASH.pattern}$", description="a hash of werkzeug's scrypt, never a password")
def password_hash(body: Body, name: str) -> str:
    """A hash that werkzeug made of a password, neither cheaper nor dearer to check than it makes them. Raises BadRequest."""
    value = body.get(name)
    match = _HASH.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise BadRequest(f"{name} must be a hash of werkzeug's scrypt, never a password", field=name)
    cost, block, parallel = (int(part) for part in match.groups())
    if cost & (cost - 1) or not _MEMORY[0] <= 128 * cost * block <= _MEMORY[1] or not 1 <= parallel <= 4:
        raise BadRequest(f"{name} has parameters of scrypt that are not taken here: leave werkzeug's own", field=name)
    return str(value)


USER: dict[str, Check] = {"username": text(LONGEST_NAME, needed=True), "password_hash": password_hash, "role": role}
USER_CHANGE: dict[str, Check] = {"role": role, "is_active": whole(0, 1, "")}
PASSWORD: dict[str, Check] = {"password_hash": password_hash}


def add_routes(routes: Blueprint, write: Write) -> None:
    """Change a password, make a user, change one."""

    @routes.post("/users/<name>/password")
    def set_password(name: str) -> Any:
        person = _person()
        change, expected = read_change(PASSWORD)
        seen = (expected or {}).get("password_hash")
        if seen is not None and not isinstance(seen, str):
            raise BadRequest("expected.password_hash must be the hash that was seen")
        now = herd.utc_now()

        def job(db: apsw.Connection) -> dict[str, Any]:
            herd.set_password(db, name, change["password_hash"], now, seen)
            return herd.find_user(db, name)

        return write("user", job if person == name else _by_admin(person, job))

    @routes.post("/users")
    def add_user() -> Any:
        person = _person()
        user = checked(read_body(*USER), USER, required=tuple(USER))
        return write("user", _by_admin(person, partial(herd.add_user, **user, now=herd.utc_now())), 201)

    @routes.patch("/users/<int:user_id>")
    def change_user(user_id: int) -> Any:
        person = _person()
        changes, expected = read_change(USER_CHANGE)
        job = partial(herd.change_user, user_id=user_id, changes=changes, expected=expected, now=herd.utc_now())
        return write("user", _by_admin(person, job))


def _person() -> str | None:
    """For whom an office asks. Raises Forbidden for other keys."""
    if g.key.role != OFFICE:
        raise Forbidden(f"the key {g.key.name!r} has the role {g.key.role}; this needs {OFFICE}")
    asking = caller()
    return asking.who if asking.actor.startswith(f"{OFFICE}:") else None


def _by_admin(person: str | None, job: Job[dict[str, Any]]) -> Job[dict[str, Any]]:
    """`job`, if `person` is an admin: the Pi's own users tell. Raises Forbidden."""
    if person is None:
        raise Forbidden("X-Actor must name who asks: an admin, or the user whose password it is")

    def guarded(db: apsw.Connection) -> dict[str, Any]:
        herd.require_admin(db, person)
        return job(db)

    return guarded
