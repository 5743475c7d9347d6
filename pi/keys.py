"""API keys, in pi.db: the Pi's own database, which is not replicated. (Acknowledgements stand there too: `changelog/acks.py`.)

A key is 256 random bits, shown once and stored as its SHA-256. When it was last used is written at most once a minute: a write per poll
would wear out the SD card.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import apsw
from flask import g, request

from changelog.connection import connect, one
from changelog.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthorized, Unavailable
from changelog.node.access import RateLimit
from pi.farm import make_file

logger = logging.getLogger(__name__)

ROLES = ("replica", "device", "writer", "metrics", "office")
OFFICE = "office"
COVERS = {OFFICE: ("replica", "writer")}  # an office may what these may, and says for whom it writes
LONGEST_NAME = 80  # characters
WRITE_EVERY = 60.0  # s between two writes of the same key's last use
BUSY = 500  # ms that a request may wait for somebody who holds pi.db locked
WRONG_KEYS = 10.0  # a second and address, after which a wrong key is answered 429

_NOW = "strftime('%Y-%m-%dT%H:%M:%S','now')"
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS keys (
  name TEXT PRIMARY KEY,
  role TEXT NOT NULL,
  hash BLOB NOT NULL UNIQUE,                 -- SHA-256 of the key
  created_at TEXT NOT NULL DEFAULT ({_NOW}),
  last_used_at TEXT                          -- to the minute
);
"""

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Key:
    """Who asks: the name of a key and its role."""

    name: str
    role: str

    def may(self, *roles: str) -> bool:
        """Whether this key opens what is there for one of `roles`."""
        return any(role in roles for role in (self.role, *COVERS.get(self.role, ())))


class Keys:
    """The keys of one pi.db, for many threads. Keys added or revoked by a command count at once."""

    def __init__(self, path: str | os.PathLike[str], *, checkpoints: bool = False) -> None:
        """`checkpoints`: this is the process that serves, which is the one that checkpoints pi.db."""
        make_file(path)
        self._db = connect(path, create=True, checkpoints=checkpoints)
        self._db.set_busy_timeout(BUSY)
        self._db.execute(_SCHEMA)
        self._lock = threading.Lock()
        self._closed = False
        self._version = -1
        self._by_hash: dict[bytes, Key] = {}
        self._written: dict[str, float] = {}  # key name -> time.monotonic() of the last write
        self._wrong = RateLimit(WRONG_KEYS, WRONG_KEYS)

    def close(self) -> None:
        """Close pi.db."""
        with self._lock:
            self._closed = True
            self._db.close()

    def add(self, name: str, role: str) -> str:
        """Make a key and return it: the only time that it is seen. Raises BadRequest and Conflict."""
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
            raise BadRequest(f"a key's name has 1 to {LONGEST_NAME} printable characters and no spaces at its ends")
        if role not in ROLES:
            raise BadRequest(f"there is no role {role!r}; choose one of {', '.join(ROLES)}")
        key = f"hxb_{secrets.token_urlsafe(32)}"
        try:
            with self._lock:
                self._db.execute("INSERT INTO keys(name, role, hash) VALUES(?,?,?)", (name, role, _hash(key)))
        except apsw.ConstraintError as exc:
            raise Conflict(f"there is a key named {name!r} already; revoke it first, or choose another name") from exc
        return key

    def revoke(self, name: str) -> None:
        """Forget a key. Raises NotFound."""
        with self._lock:
            self._db.execute("DELETE FROM keys WHERE name=?", (name,))
            if not self._db.changes():
                raise NotFound(f"there is no key named {name!r}; `python -m pi key list` shows them")

    def rows(self) -> list[dict[str, Any]]:
        """name, role, created_at and last_used_at of every key."""
        with self._lock:
            cursor = self._db.execute("SELECT name, role, created_at, last_used_at FROM keys ORDER BY name")
            return [dict(zip(("name", "role", "created_at", "last_used_at"), row, strict=True)) for row in cursor]

    def role_of(self, header: str | None) -> Key:
        """The key that an X-API-Key header holds. Raises Unauthorized, and Unavailable once this is closed."""
        if not header:
            raise Unauthorized("a key is needed, in the header X-API-Key: `python -m pi key add NAME --role ROLE` on the Pi makes one")
        digest = _hash(header)
        with self._lock:
            if self._closed:  # requests may still come in while the process ends
                raise Unavailable("this Pi is stopping")
            key = next((key for stored, key in self._known().items() if hmac.compare_digest(stored, digest)), None)
            if key is None:
                raise Unauthorized("this key is not known here: `python -m pi key list` on the Pi shows the names of those that are")
            if self._due(key.name):
                self._note(f"UPDATE keys SET last_used_at={_NOW} WHERE name=?", (key.name,))
        return key

    def still_admits(self, header: str, *roles: str) -> bool:
        """Whether the key in this header is known, and `may` what one of `roles` does; that is no use of it.

        Raises Unavailable once this is closed.
        """
        digest = _hash(header)
        with self._lock:
            if self._closed:
                raise Unavailable("this Pi is stopping")
            return any(hmac.compare_digest(stored, digest) and key.may(*roles) for stored, key in self._known().items())

    def require(self, *roles: str) -> Callable[[View], View]:
        """Decorates a route: only a key that `may` what one of `roles` does gets in, and stands in `g.key`.

        Raises Unauthorized, Forbidden and TooMany.
        """

        def decorate(view: View) -> View:
            @wraps(view)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                self.admit(*roles)
                return view(*args, **kwargs)

            return cast(View, guarded)

        return decorate

    def admit(self, *roles: str) -> Key:
        """The key of the current request, also put in `g.key`. Raises Unauthorized, Forbidden and TooMany."""
        header = request.headers.get("X-API-Key")
        try:
            key = self.role_of(header)
        except Unauthorized:
            if header:
                self._wrong.check(request.remote_addr or "")  # who guesses is slowed down
            raise
        if not key.may(*roles):
            raise Forbidden(f"the key {key.name!r} has the role {key.role}; this needs {' or '.join(roles)}")
        g.key = key
        return key

    def _note(self, sql: str, bindings: tuple[object, ...]) -> None:
        """Write what is good to know but not worth failing a request for, such as while somebody holds pi.db locked in a shell."""
        try:
            self._db.execute(sql, bindings)
        except (apsw.BusyError, apsw.FullError, apsw.IOError, apsw.ReadOnlyError) as exc:
            logger.warning("pi.db could not be written: %s", exc)

    def _known(self) -> dict[bytes, Key]:
        """All keys, read again when another process has written to pi.db; our own writes are seen through total_changes."""
        version = one(self._db, "PRAGMA data_version") + (self._db.total_changes() << 32)
        if version != self._version:
            self._by_hash = {row[0]: Key(row[1], row[2]) for row in self._db.execute("SELECT hash, name, role FROM keys")}
            self._version = version
        return self._by_hash

    def _due(self, name: str) -> bool:
        """Whether the last write of this key's use is a minute ago; if so it counts as written now."""
        now = time.monotonic()
        if now - self._written.get(name, -WRITE_EVERY) < WRITE_EVERY:
            return False
        self._written[name] = now
        return True


def _hash(key: str) -> bytes:
    # What a header may hold beyond ASCII must hash to something, not raise: no such key is ever stored.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
