"""API keys, in pi.db: the Pi's own database, which is not replicated. (Acknowledgements stand there too: `changelog/acks.py`.)

A key is 256 random bits, shown once and stored as its SHA-256. Under one name there may be two while it is rotated: the newer one, and the
older one until that is retired. When each was last used, and from where, is written at most once a minute: a write per poll would wear
out the SD card.
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

from changelog.companion import Companion
from changelog.connection import one, rows
from changelog.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthorized, Unavailable
from changelog.node.access import RateLimit
from changelog.storage import UNWRITTEN
from pi.farm import make_file

logger = logging.getLogger(__name__)

ROLES = ("replica", "device", "writer", "metrics", "office")
OFFICE = "office"
COVERS = {OFFICE: ("replica", "writer")}  # an office may what these may, and says for whom it writes
LONGEST_NAME = 80  # characters
WRITE_EVERY = 60.0  # s between two writes of the same key's last use
WRONG_KEYS = 10.0  # a second and address, after which a wrong key is answered 429

_MAPPED = "::ffff:"  # before an IPv4 address, where the Pi listens on ::
_NOW = "strftime('%Y-%m-%dT%H:%M:%S','now')"
_SCHEMA = f"""
CREATE TABLE keys (
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  hash BLOB NOT NULL UNIQUE,                 -- SHA-256 of the key
  created_at TEXT NOT NULL DEFAULT ({_NOW}),
  last_used_at TEXT,                         -- to the minute
  last_used_from TEXT,                       -- address of who used it then
  older INTEGER NOT NULL DEFAULT 0 CHECK (older IN (0, 1)),  -- 1: a newer one of this name is there, and this one is to be retired
  PRIMARY KEY (name, older)                  -- so there are never more than two
);
"""
_COLUMNS = ("name", "role", "created_at", "last_used_at", "last_used_from", "older")

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
        self._file = Companion(path, checkpoints=checkpoints)
        make_table(self._db)
        self._lock = threading.Lock()
        self._closed = False
        self._version = -1
        self._by_hash: dict[bytes, Key] = {}
        self._written: dict[bytes, float] = {}  # hash of a key -> time.monotonic() of the last write
        self._wrong = RateLimit(WRONG_KEYS, WRONG_KEYS)

    def close(self) -> None:
        """Close pi.db."""
        with self._lock:
            self._closed = True
            self._file.close()

    @property
    def _db(self) -> apsw.Connection:
        return self._file.db

    def add(self, name: str, role: str) -> str:
        """Make a key and return it: the only time that it is seen. Raises BadRequest and Conflict."""
        with self._lock, self._db:
            key = insert_key(self._db, name, role)
        return key

    def rotate(self, name: str) -> str:
        """Make a newer key of this name, with the same role, and return it; the one before works until `retire`.

        Raises NotFound, and Conflict where there are two already.
        """
        with self._lock, self._db:
            key = rotate_key(self._db, name)
        return key

    def retire(self, name: str, *, unused_too: bool = False) -> None:
        """Forget the older of two keys. Raises NotFound, and Conflict where the newer one was never used, unless `unused_too`."""
        with self._lock, self._db:
            newer = self._db.execute("SELECT last_used_at FROM keys WHERE name=? AND NOT older", (name,)).fetchone()
            if newer is not None and newer[0] is None and not unused_too:
                raise Conflict(f"nobody has used the newer key of {name!r} yet: whoever has the older one would be shut out")
            self._db.execute("DELETE FROM keys WHERE name=? AND older", (name,))
            if not self._db.changes():
                raise NotFound(f"there is no older key of {name!r}; `python -m pi key list` shows what there is")

    def revoke(self, name: str) -> None:
        """Forget the key of this name, or both. Raises NotFound."""
        with self._lock:
            self._db.execute("DELETE FROM keys WHERE name=?", (name,))
            if not self._db.changes():
                raise NotFound(f"there is no key named {name!r}; `python -m pi key list` shows them")

    def rows(self) -> list[dict[str, Any]]:
        """name, role, created_at, last_used_at, last_used_from and `older` (true for one to be retired) of every key, the older first."""
        with self._lock:
            cursor = self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM keys ORDER BY name, older DESC")
            return [dict(zip(_COLUMNS, row, strict=True)) | {"older": bool(row[-1])} for row in cursor]

    def role_of(self, header: str | None, address: str | None = None) -> Key:
        """The key that an X-API-Key header holds, used from this address. Raises Unauthorized, and Unavailable once this is closed."""
        if not header:
            raise Unauthorized("a key is needed, in the header X-API-Key: `python -m pi key add NAME --role ROLE` on the Pi makes one")
        digest = _hash(header)
        with self._lock:
            if self._closed:  # requests may still come in while the process ends
                raise Unavailable("this Pi is stopping")
            key = next((key for stored, key in self._known().items() if hmac.compare_digest(stored, digest)), None)
            if key is None:
                raise Unauthorized("this key is not known here: `python -m pi key list` on the Pi shows the names of those that are")
            if self._due(digest):
                self._note(f"UPDATE keys SET last_used_at={_NOW}, last_used_from=? WHERE hash=?", (address, digest))
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

    def version(self) -> int:
        """Another number when pi.db has been written to, by whomever: as long as it stays, all keys do. Raises Unavailable once closed."""
        with self._lock:
            if self._closed:
                raise Unavailable("this Pi is stopping")
            return self._counted()

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
        header, address = request.headers.get("X-API-Key"), (request.remote_addr or "").removeprefix(_MAPPED)
        try:
            key = self.role_of(header, address or None)
        except Unauthorized:
            if header:
                self._wrong.check(address)  # who guesses is slowed down
            raise
        if not key.may(*roles):
            raise Forbidden(f"the key {key.name!r} has the role {key.role}; this needs {' or '.join(roles)}")
        g.key = key
        return key

    def _note(self, sql: str, bindings: tuple[object, ...]) -> None:
        """Write what is good to know but not worth failing a request for, such as while somebody holds pi.db locked in a shell."""
        try:
            with self._file.watched() as db:
                db.execute(sql, bindings)
        except UNWRITTEN as exc:
            logger.warning("pi.db could not be written: %s", exc)

    def _known(self) -> dict[bytes, Key]:
        """All keys, read again when another process has written to pi.db; our own writes are seen through total_changes."""
        version = self._counted()
        if version != self._version:
            with self._file.watched() as db:
                self._by_hash = {row[0]: Key(row[1], row[2]) for row in db.execute("SELECT hash, name, role FROM keys")}
            self._version = version
        return self._by_hash

    def _counted(self) -> int:
        with self._file.watched() as db:
            version: int = one(db, "PRAGMA data_version") + (db.total_changes() << 32) + (self._file.lives << 96)
        return version

    def _due(self, digest: bytes) -> bool:
        """Whether the last write of this key's use is a minute ago; if so it counts as written now."""
        now = time.monotonic()
        if now - self._written.get(digest, -WRITE_EVERY) < WRITE_EVERY:
            return False
        self._written[digest] = now
        return True


def make_table(db: apsw.Connection) -> None:
    """The table of keys; one of the time when a name had one key is taken over with all its keys."""
    if "older" in _columns(db):
        return
    with db:
        columns = _columns(db)  # again, under the lock: another process may have been quicker
        if not columns:
            db.execute(_SCHEMA)
        elif "older" not in columns:
            same = "name, role, hash, created_at, last_used_at"
            db.execute("ALTER TABLE keys RENAME TO earlier_keys")
            db.execute(_SCHEMA)
            db.execute(f"INSERT INTO keys({same}) SELECT {same} FROM earlier_keys; DROP TABLE earlier_keys")


def _columns(db: apsw.Connection) -> list[str]:
    return [name for (name,) in rows(db, "SELECT name FROM pragma_table_info('keys')")]


def insert_key(db: apsw.Connection, name: str, role: str) -> str:
    """Make the first key of a name, in the transaction of `db`, and return it. Raises BadRequest and Conflict."""
    check_name(name)
    if role not in ROLES:
        raise BadRequest(f"there is no role {role!r}; choose one of {', '.join(ROLES)}")
    if role_of_name(db, name) is not None:
        raise Conflict(f"there is a key named {name!r} already; rotate it, revoke it first, or choose another name")
    return _insert(db, name, role)


def rotate_key(db: apsw.Connection, name: str) -> str:
    """Make the second key of a name, likewise. Raises NotFound and Conflict."""
    role = role_of_name(db, name)
    if role is None:
        raise NotFound(f"there is no key named {name!r}; `python -m pi key list` shows them")
    try:
        db.execute("UPDATE keys SET older=1 WHERE name=?", (name,))
    except apsw.ConstraintError as exc:
        raise Conflict(f"there are two keys named {name!r}: end the older one first, `python -m pi key retire`") from exc
    return _insert(db, name, role)


def check_name(name: str) -> None:
    """Raises BadRequest for what no key may be called."""
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise BadRequest(f"a key's name has 1 to {LONGEST_NAME} printable characters and no spaces at its ends")


def role_of_name(db: apsw.Connection, name: str) -> str | None:
    """The role of the keys of this name, None where there is none."""
    role: str | None = one(db, "SELECT role FROM keys WHERE name=?", (name,))
    return role


def _insert(db: apsw.Connection, name: str, role: str) -> str:
    key = f"hxb_{secrets.token_urlsafe(32)}"
    db.execute("INSERT INTO keys(name, role, hash) VALUES(?,?,?)", (name, role, _hash(key)))
    return key


def _hash(key: str) -> bytes:
    # What a header may hold beyond ASCII must hash to something, not raise: no such key is ever stored.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
