"""A renewal of the certificate that no server notices: the next one is announced over connections that the present one protects.

Each answer of the sync API names both. A server that finds an unknown one fetches it, trusts it beside the present one, and says so; it
stands in pi.db who has said it.
"""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass

import apsw
from flask import Blueprint, Response, g, jsonify, request

from changelog.acks import read_acks
from changelog.connection import connect, rows
from changelog.errors import BadRequest, ConfigError, NotFound
from changelog.node.access import json_body
from changelog.node.certificates import ANNOUNCED
from changelog.node.settings import Settings
from changelog.node.tls import Stamp, stamp_of
from pi.certificate import fingerprint_of
from pi.keys import Keys

LARGEST_BODY = 255  # bytes
LONGEST_ID = 64  # characters of a replica's id
MOST = 200  # replicas that are remembered: a client may make up ids

_SCHEMA = """CREATE TABLE IF NOT EXISTS pinned (  -- which replica trusts which next certificate
  replica_id TEXT PRIMARY KEY,
  key_name TEXT NOT NULL,                       -- of the API key that it used
  fingerprint TEXT NOT NULL,
  at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S','now'))
)"""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Fingerprints of the certificate in use, and of the next one where there is one."""

    present: str
    next: str | None


class Renewal:
    """The certificates of this Pi, as it announces them. For many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stamps: tuple[Stamp, ...] = ()
        self._header = ""
        self._lock = threading.Lock()

    def announce(self, response: Response) -> Response:
        """Name the certificates in this answer, where it is one of the sync API."""
        if self._settings.pi_tls and request.path.startswith("/api/sync/") and (header := self._named()):
            response.headers[ANNOUNCED] = header
        return response

    def _named(self) -> str:
        stamps = tuple(map(stamp_of, (self._settings.pi_cert, self._settings.next_cert, self._settings.next_key)))
        with self._lock:
            if stamps != self._stamps:
                try:
                    found = certificates(self._settings)
                except ConfigError:  # the files are being replaced: the next answer tells
                    return ""
                self._header, self._stamps = ",".join(filter(None, (found.present, found.next))), stamps
            return self._header


def certificates(settings: Settings) -> Certificates:
    """Which there are. Raises ConfigError when one cannot be read.

    The next one first, and by its file alone: in the middle of a switch it is still named, or already the present one, but never missing.
    """
    following = fingerprint_of(settings.next_cert) if settings.next_cert.exists() else None
    present = fingerprint_of(settings.pi_cert)
    return Certificates(present, following if following != present else None)


def blueprint(settings: Settings, keys: Keys) -> Blueprint:
    """GET and POST /api/sync/certificate: the next certificate, and that a replica trusts it."""
    routes = Blueprint("renewal", __name__, url_prefix="/api/sync")

    @routes.before_request
    def check_tls() -> None:
        if not settings.pi_tls:
            raise NotFound("this Pi serves plain http (PI_TLS=False): it has no certificate")

    @routes.get("/certificate")
    @keys.require("replica")
    def certificate() -> Response:
        try:
            pem = settings.next_cert.read_text(encoding="ascii")
        except FileNotFoundError:
            pem = None
        return jsonify(success=True, present=fingerprint_of(settings.pi_cert), next=pem)

    @routes.post("/certificate")
    @keys.require("replica")
    def pinned() -> Response:
        shown = json_body(request, LARGEST_BODY).get("pinned")
        replica_id = request.headers.get("X-Replica-Id", "")[:LONGEST_ID]
        if not replica_id or not isinstance(shown, str):
            raise BadRequest('send {"pinned": FINGERPRINT}, and the replica\'s id in X-Replica-Id')
        counts = shown == certificates(settings).next
        if counts:
            with closing(_open(settings)) as db, db:
                db.execute(
                    "INSERT OR REPLACE INTO pinned(replica_id, key_name, fingerprint) VALUES(?,?,?)", (replica_id, g.key.name, shown)
                )
                db.execute(f"DELETE FROM pinned WHERE rowid NOT IN (SELECT rowid FROM pinned ORDER BY at DESC LIMIT {MOST})")
        return jsonify(success=True, counts=counts)

    return routes


def who_has(settings: Settings, shown: str) -> dict[str, bool]:
    """Of each replica that is known: whether it trusts the next certificate, by its fingerprint."""
    if not settings.pi_db.exists():
        return {}
    with closing(_open(settings)) as db:
        has = {replica_id for (replica_id,) in rows(db, "SELECT replica_id FROM pinned WHERE fingerprint=?", (shown,))}
    return {ack.replica_id: ack.replica_id in has for ack in read_acks(settings.pi_db)}


def _open(settings: Settings) -> apsw.Connection:
    db = connect(settings.pi_db)
    db.execute(_SCHEMA)
    return db
