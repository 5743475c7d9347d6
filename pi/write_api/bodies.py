"""The checks of what callers send: each returns a value as the tables hold it, or raises BadRequest naming the `field`.

A check carries the JSON schema of what it takes, from which the description of the API is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from flask import g, request

from changelog.errors import BadRequest
from changelog.node.access import json_body

BODY = 131_072  # bytes of a request: the longest notes, and those that were seen
EXPECTED = "expected"  # the member that holds what the caller saw
LONGEST_NOTES = 10_000  # characters
UNSEEN = "has a character in it that cannot be seen"

_TIME = re.compile(r"(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_BLANK = "[ \\t\\n]*"
_NO_CONTROLS = "[^\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f]*"  # what cannot be printed besides, no pattern says shortly
_PROSE = re.compile("[^\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]*")  # no halves of a character either
_PRINTABLE_ASCII = re.compile(r"[!-9;-~](?:[ -9;-~]*[!-9;-~])?", re.ASCII)  # what a payload can name: no colon

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """What looks at one member of a body. `schema` says what it takes, as far as a JSON schema can."""

    look: Callable[[Body, str], Any]
    schema: dict[str, Any] = field(default_factory=dict)

    def __call__(self, body: Body, name: str) -> Any:
        """The value of the member `name`. Raises BadRequest."""
        return self.look(body, name)


def takes(**schema: Any) -> Callable[[Callable[[Body, str], Any]], Check]:
    """Decorates a check with the JSON schema of what it takes."""
    return lambda look: Check(look, schema)


def read_body(*names: str) -> Body:
    """The JSON object of the request, which may have these members. Raises BadRequest."""
    body = json_body(request, BODY)
    g.body = json.dumps(body, sort_keys=True)
    if not body:
        raise BadRequest(f"the object is empty; it takes {', '.join(names)}")
    unknown = sorted(set(body) - set(names))
    if unknown:
        raise BadRequest(f"{unknown[0][:80]!r} is not known here; the object takes {', '.join(names)}")
    return body


def read_change(checks: Mapping[str, Check], required: tuple[str, ...] = ()) -> tuple[Body, Body | None]:
    """The checked values of a request that changes a row, and what the caller saw of it. Raises BadRequest, as `checked` does."""
    body = read_body(*checks, EXPECTED)
    expected = body.pop(EXPECTED, None)
    if expected is not None and not isinstance(expected, dict):
        raise BadRequest("expected must be an object with the values that were seen")
    if not body:
        raise BadRequest(f"nothing is to be changed; the object takes {', '.join(checks)}")
    return checked(body, checks, required), expected


def checked(body: Body, checks: Mapping[str, Check], required: tuple[str, ...] = ()) -> Body:
    """The values of `body`, each by its own check. Raises BadRequest, also where one that is `required` is missing."""
    for name in required:
        if name not in body:
            raise BadRequest(f"{name} is missing", field=name)
    return {name: checks[name](body, name) for name in body}


def text(longest: int, *, needed: bool = False) -> Check:
    """A text without control characters and outer spaces, or None for null and, where it is not `needed`, nothing."""

    allowed = f"^{_NO_CONTROLS}[^ \\t\\n]{_NO_CONTROLS}$" if needed else f"^{_NO_CONTROLS}$"

    @takes(type="string" if needed else ["string", "null"], maxLength=longest, pattern=allowed)
    def check(body: Body, name: str) -> str | None:
        value = body.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > longest):
            raise BadRequest(f"{name} must be a text of at most {longest} characters", field=name)
        if value is not None and not value.replace("\n", " ").replace("\t", " ").isprintable():
            raise BadRequest(f"{name} {UNSEEN}", field=name)
        value = (value or "").strip() or None
        if needed and not value:
            raise BadRequest(f"{name} must not be empty", field=name)
        return value

    return check


def prose(longest: int) -> Check:
    """What people write about something, in any language: also spaces that do not break, and signs that join others or turn their way.

    No control characters, and None for null and nothing.
    """

    @takes(type=["string", "null"], maxLength=longest, pattern=f"^{_NO_CONTROLS}$")
    def check(body: Body, name: str) -> str | None:
        value = body.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > longest):
            raise BadRequest(f"{name} must be a text of at most {longest} characters", field=name)
        if value is not None and not _PROSE.fullmatch(value):
            raise BadRequest(f"{name} {UNSEEN}", field=name)
        return (value or "").strip() or None

    return check


def radio_text(longest: int, *, needed: bool = False) -> Check:
    """A text that a payload can name too: printable ASCII without a colon."""
    plain = text(longest, needed=needed)

    core = _PRINTABLE_ASCII.pattern if needed else f"({_PRINTABLE_ASCII.pattern})?"
    words = "printable ASCII without a colon, as the radio sends it"

    @takes(**plain.schema | {"pattern": f"^{_BLANK}{core}{_BLANK}$", "description": words})
    def check(body: Body, name: str) -> str | None:
        value: str | None = plain(body, name)
        if value is not None and not _PRINTABLE_ASCII.fullmatch(value):
            raise BadRequest(f"{name} must be printable ASCII without a colon, as the radio sends it", field=name)
        return value

    return check


def whole(low: int, high: int, unit: str) -> Check:
    """A whole number."""

    @takes(type="integer", minimum=low, maximum=high)
    def check(body: Body, name: str) -> int:
        value = body.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadRequest(f"{name} must be a whole number {unit} from {low} to {high}", field=name)
        return value

    return check


@takes(type="integer", minimum=1, maximum=2**63 - 1)
def row_id(body: Body, name: str) -> int:
    """The id of a row."""
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise BadRequest(f"{name} must be the id of a row", field=name)
    return value


@takes(**row_id.schema | {"type": ["integer", "null"]})
def row_id_or_none(body: Body, name: str) -> int | None:
    """The id of a row, or null."""
    return None if body.get(name) is None else row_id(body, name)


@takes(type="string", format="date", pattern=f"^{_DATE.pattern}$")
def day(body: Body, name: str) -> str:
    """A date."""
    value = body.get(name)
    try:
        if isinstance(value, str) and _DATE.fullmatch(value):
            return date.fromisoformat(value).isoformat()
    except ValueError:
        pass
    raise BadRequest(f"{name} must be a date such as 2024-01-15", field=name)


@takes(type=["string", "null"], pattern=f"^{_TIME.pattern}Z?$", description="UTC, such as 2024-01-15T10:30:00")
def time(body: Body, name: str) -> str | None:
    """A UTC time as the tables hold it, or None for null and nothing; a Z at its end is allowed."""
    value = body.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, str) and _TIME.fullmatch(value.removesuffix("Z")):
            return datetime.fromisoformat(value.removesuffix("Z")).isoformat()
    except ValueError:  # no such day
        pass
    raise BadRequest(f"{name} must be a UTC time such as 2024-01-15T10:30:00", field=name)
