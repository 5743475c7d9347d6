"""Who writes: a key, or the person for whom an office does."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from flask import g, request

from changelog.errors import BadRequest, Forbidden
from pi.keys import OFFICE

LONGEST_NAME = 80  # characters


@dataclass(frozen=True, slots=True)
class Caller:
    """`actor` signs the changelog; `who` stands in the rows (recorded_by, updated_by)."""

    actor: str
    who: str


def caller() -> Caller:
    """Who sends the current request, whose key has been admitted.

    An office names a person in `X-Actor`, percent-encoded where it is not plain ASCII. Raises Forbidden for other keys, and BadRequest.
    """
    named = request.headers.get("X-Actor")
    if named is None:
        return Caller(f"api:{g.key.name}", g.key.name)
    if g.key.role != OFFICE:
        raise Forbidden(f"only a key of the role {OFFICE} may name somebody in X-Actor; {g.key.name!r} has the role {g.key.role}")
    try:
        name = unquote(named, errors="strict")
    except UnicodeDecodeError as exc:
        raise BadRequest("X-Actor must be percent-encoded UTF-8") from exc
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise BadRequest(f"X-Actor must name somebody in 1 to {LONGEST_NAME} printable characters, without spaces at its ends")
    return Caller(f"office:{name}", name)
