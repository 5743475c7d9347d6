"""The part of the description by which servers join a Pi and go on trusting it."""

from __future__ import annotations

from changelog.node.openapi import FLAG, TEXT, TIME, Schema, an_object, answer, operation, or_null, parameter, success
from pi.openapi.reading import KEYED, opened_by
from pi.pairing import ROLES
from pi.renewal import LONGEST_ID


def paths() -> Schema:
    """Pairing and the renewal of the certificate."""
    return {"/api/pair": {"post": _pair()}, "/api/sync/certificate": {"get": _certificate(), "post": _pinned()}}


def _pair() -> Schema:
    reply = success(name=TEXT, role={"enum": list(ROLES)}, key=TEXT | {"description": "shown this once"}, timestamp=TIME)
    body = an_object({"code": TEXT | {"description": "as `python -m pi pair` prints it; good once, and over TLS only"}})
    answers = {201: answer("A key of its own for a server.", reply)}
    return operation("join", "Join this Pi", answers, (400, 401, 403, 404, 409, 413, 429, 503), tag="joining", body=body)


def _certificate() -> Schema:
    reply = answer("The certificates.", success(present=TEXT, next=or_null(TEXT) | {"description": "PEM, where there is a next one"}))
    words = "The certificate that comes next"
    return operation("certificate", words, {200: reply}, (*KEYED, 404), tag="joining", security=opened_by("replica"))


def _pinned() -> Schema:
    reply = answer("Whether that is the next one.", success(counts=FLAG))
    name = parameter("X-Replica-Id", TEXT, f"which replica says so, in {LONGEST_ID} characters", "header")
    body = an_object({"pinned": TEXT | {"description": "the fingerprint"}})
    statuses, opened = (400, *KEYED, 404, 413), opened_by("replica")
    return operation(
        "pinned", "Say that a replica trusts it", {200: reply}, statuses, tag="joining", security=opened, parameters=(name,), body=body
    )
