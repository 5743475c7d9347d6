"""/api/users: a person's own new password, from an office. All else about users is done by command on the Pi."""

from __future__ import annotations

import re
from typing import Any

import apsw
from flask import Blueprint, g

from changelog.errors import BadRequest, Forbidden
from pi import herd
from pi.keys import OFFICE
from pi.write_api.bodies import Body, read_change
from pi.write_api.callers import caller
from pi.write_api.routes import Write

# As werkzeug's generate_password_hash writes it: scrypt:N:r:p$salt$64 bytes in hex.
_HASH = re.compile(r"scrypt:(\d{1,7}):(\d{1,2}):(\d{1,2})\$[A-Za-z0-9]{8,64}\$[0-9a-f]{128}", re.ASCII)
_MEMORY = (2**24, 2**27)  # bytes that a check may take (128 * N * r): not less than werkzeug's half, not what would stop a small server


def add_routes(routes: Blueprint, write: Write) -> None:
    """Change a password."""

    @routes.post("/users/<name>/password")
    def set_password(name: str) -> Any:
        if g.key.role != OFFICE:
            raise Forbidden(f"the key {g.key.name!r} has the role {g.key.role}; this needs {OFFICE}")
        if caller().actor != f"{OFFICE}:{name}":
            raise Forbidden("people change their own password here: X-Actor must name the user")
        change, expected = read_change({"password_hash": password_hash})
        seen = (expected or {}).get("password_hash")
        if seen is not None and not isinstance(seen, str):
            raise BadRequest("expected.password_hash must be the hash that was seen")
        now = herd.utc_now()

        def job(db: apsw.Connection) -> dict[str, Any]:
            herd.set_password(db, name, change["password_hash"], now, seen)
            return {"username": name, "updated_at": now}

        return write("user", job)


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
