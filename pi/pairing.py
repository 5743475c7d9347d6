"""Joining a server to this Pi: a code that is good once, for minutes, brings the server a key of its own.

The code is 60 random bits, read from this terminal and typed on the server, which sends it only to who shows the certificate whose
fingerprint stands beside it. In pi.db stands its salted hash. Five wrong ones, from anywhere, end it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import click
from flask import Blueprint, Response, jsonify, request

from changelog.companion import BUSY
from changelog.connection import connect
from changelog.errors import BadRequest, DroverError, Forbidden, NotFound, Unauthorized, Unavailable
from changelog.node.access import RateLimit, json_body
from changelog.node.settings import Settings, prepare_data_dir
from changelog.storage import UNWRITTEN
from pi.certificate import fingerprint_of, lan_addresses, require_tls
from pi.farm import make_file
from pi.keys import OFFICE, check_name, insert_key, make_table, role_of_name, rotate_key

LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # of a code: none that is easily taken for another
CODE_LENGTH = 12  # letters, of 5 bits each
TRIES = 5  # wrong codes, after which a pairing is over
ASKED = 1.0  # a second and address, after which a code is answered 429
LARGEST_BODY = 255  # bytes
ROLES = (OFFICE, "replica")  # that a server may have

logger = logging.getLogger(__name__)

_SCHEMA = """CREATE TABLE IF NOT EXISTS pairing (
  one INTEGER PRIMARY KEY CHECK (one = 1),  -- there is one at a time
  name TEXT NOT NULL,                        -- of the key that it brings
  role TEXT NOT NULL,
  salt BLOB NOT NULL,
  hash BLOB NOT NULL,                        -- SHA-256 of salt and code
  began REAL NOT NULL,                       -- s since this machine was started: the only clock of a Pi that nobody sets
  lasts REAL NOT NULL,                       -- s
  tries INTEGER NOT NULL                     -- wrong ones that are left
)"""


def since_start() -> float:
    """Seconds since this machine was started, the same for all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Pairing:
    """The pairing in pi.db, for one command or one request."""

    def __init__(self, path: Path, clock: Callable[[], float] = since_start) -> None:
        """`clock` is for tests. Raises DamagedFile."""
        make_file(path)
        self._db, self._clock = connect(path, create=True, patience=BUSY), clock
        self._db.execute(_SCHEMA)
        make_table(self._db)

    def close(self) -> None:
        """Close pi.db."""
        self._db.close()

    def begin(self, name: str, role: str, lasts: float) -> str:
        """Let somebody have a key of this name and role within `lasts` s; returns the code. One that is open already ends.

        Raises BadRequest, and Forbidden where the name has another role.
        """
        check_name(name)
        code = "".join(secrets.choice(LETTERS) for _ in range(CODE_LENGTH))
        salt = secrets.token_bytes(16)
        with self._db:
            if (known := role_of_name(self._db, name)) not in (None, role):
                raise Forbidden(f"the key {name!r} has the role {known}: choose another name, or revoke it first")
            row = (name, role, salt, _hash(salt, code), self._clock(), lasts, TRIES)
            self._db.execute("INSERT OR REPLACE INTO pairing VALUES(1,?,?,?,?,?,?,?)", row)
        return "-".join(code[start : start + 4] for start in range(0, CODE_LENGTH, 4))

    def redeem(self, code: str) -> tuple[str, str, str]:
        """Name, role and text of the key that this code brings, once. Raises NotFound where none is open, Unauthorized for a wrong code.

        A name that has a key gets a second one. Raises Conflict where it has two.
        """
        refusal: DroverError | None = None
        with self._db:
            row = self._db.execute("SELECT name, role, salt, hash, began, lasts, tries FROM pairing").fetchone()
            if row is None:
                raise NotFound("no pairing is open here: `python -m pi pair` on the Pi opens one, and each code is good once")
            name, role, salt, stored, began, lasts, tries = row
            if not 0 <= self._clock() - began < lasts:  # a clock that stands before it is that of a machine started anew
                raise NotFound(f"the code has expired after {lasts / 60:g} minutes: `python -m pi pair` on the Pi prints another one")
            if tries < 1:
                raise NotFound(f"this pairing ended after {TRIES} wrong codes: `python -m pi pair` on the Pi prints another one")
            if hmac.compare_digest(stored, _hash(salt, plain(code))):
                key = insert_key(self._db, name, role) if role_of_name(self._db, name) is None else rotate_key(self._db, name)
                self._db.execute("DELETE FROM pairing")
            else:
                self._db.execute("UPDATE pairing SET tries=tries-1")
                refusal = Unauthorized(f"that is not the code which the Pi has printed; tries left: {tries - 1}")
        if refusal:
            raise refusal
        return name, role, key


def plain(code: str) -> str:
    """A code as it was made, whatever somebody typed: letters of either size, hyphens, O for 0, I and L for 1."""
    typed = "".join(char for char in code.upper() if char.isalnum())
    return typed.translate(str.maketrans("OIL", "011"))


def blueprint(settings: Settings) -> Blueprint:
    """POST /api/pair: a key for who has the code. It needs no other one."""
    routes = Blueprint("pairing", __name__)
    limit = RateLimit(ASKED, TRIES)

    @routes.post("/api/pair")
    def pair() -> tuple[Response, int]:
        if not request.is_secure:
            raise Forbidden("pairing needs TLS: code and key would be read by others")
        limit.check(request.remote_addr or "")
        code = json_body(request, LARGEST_BODY).get("code")
        if not isinstance(code, str):
            raise BadRequest('send {"code": CODE}, as `python -m pi pair` prints it')
        try:
            with closing(Pairing(settings.pi_db)) as pairing:
                name, role, key = pairing.redeem(code)
        except Unauthorized:
            logger.warning("a wrong code for pairing address=%s", request.remote_addr)
            raise
        except UNWRITTEN as exc:
            raise Unavailable("pi.db cannot be written just now: try again") from exc
        logger.info("a server was paired: it has a key %s with the role %s now address=%s", name, role, request.remote_addr)
        return jsonify(success=True, name=name, role=role, key=key, timestamp=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())), 201

    return routes


@click.command()
@click.option("--name", default=OFFICE, show_default=True, help="Of the key that the server gets; a name that has one gets a second one.")
@click.option("--role", type=click.Choice(ROLES), default=OFFICE, show_default=True, help="replica: the office only reads.")
@click.option("--minutes", type=click.FloatRange(0.1, 60), default=10, show_default=True, help="For which the code is good.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def pair(settings: Settings, name: str, role: str, minutes: float, as_json: bool) -> None:
    """Let one server join this Pi: print what is to be typed there."""
    require_tls(settings)
    prepare_data_dir(settings)
    with closing(Pairing(settings.pi_db)) as pairing:
        code = pairing.begin(name, role, 60 * minutes)
    hosts = _addresses(settings)
    found = {"host": hosts[0], "port": settings.pi_port, "fingerprint": fingerprint_of(settings.pi_cert), "code": code, "hosts": hosts}
    if as_json:
        click.echo(json.dumps(found))
        return
    at = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
    click.echo(f"type on the server, within {minutes:g} minutes:\n")
    click.echo(f"  .venv/bin/python -m server pair {at}:{settings.pi_port} --fingerprint {found['fingerprint']}\n")
    click.echo(f"it asks for this code, which is good once: {code}")
    if hosts[1:]:
        click.echo(f"this Pi may also be reached as {', '.join(hosts[1:])}")
    if not _answers(hosts[0], settings.pi_port):
        click.echo(f"nothing answers on {at}:{settings.pi_port} yet: start the Pi (python -m pi serve)", err=True)


def _addresses(settings: Settings) -> list[str]:
    """Where a server may find this Pi, the likeliest first."""
    if settings.pi_bind not in ("0.0.0.0", "::"):
        return [settings.pi_bind]
    host = socket.gethostname()
    return [*(address for address in lan_addresses() if "%" not in address), host, f"{host}.local"]


def _answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def _hash(salt: bytes, code: str) -> bytes:
    return hashlib.sha256(salt + code.encode("utf-8", "surrogatepass")).digest()
