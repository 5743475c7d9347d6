"""Which changes somebody asks for: what stands in the address of the page, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from changelog.audit import UNKNOWN, keys, moment
from changelog.errors import BadRequest

KINDS = {"created": ("I",), "changed": ("U",), "removed": ("D",), "schema": ("X", "B")}
FIELDS = ("table", "key", "column", "actor", "kind", "from", "before")
LONGEST_FIELD = 200  # characters


@dataclass(frozen=True)
class Chosen:
    """What is asked for; "" and None are "any". `since` is inclusive and `until` is not, both as the log writes a time."""

    table: str = ""
    key: str = ""
    column: str = ""
    actor: str = ""
    kind: str = ""
    since: str | None = None
    until: str | None = None
    typed: Mapping[str, str] = field(default_factory=dict)  # as it stands in the address, for the form and for links
    problem: str = ""  # what is wrong with it: then nothing is looked for

    @property
    def ops(self) -> Sequence[str]:
        """The `op`s of the log that are asked for."""
        return KINDS.get(self.kind) or tuple(op for ops in KINDS.values() for op in ops)

    @property
    def keys(self) -> list[Any]:
        """The values that the typed key may stand for."""
        return keys(self.key)

    @property
    def by(self) -> str | None:
        """The actor that is asked for, as the log has it: None is one that did not say."""
        return None if self.actor == UNKNOWN else self.actor

    @property
    def narrows(self) -> bool:
        """Whether anything is asked for but the newest."""
        return bool(self.typed)


def chosen_from(arguments: Mapping[str, str]) -> Chosen:
    """What the address asks for. Nothing raises: what cannot be understood is said in `problem`."""
    typed = {name: arguments[name].strip() for name in FIELDS if arguments.get(name, "").strip()}
    given: dict[str, Any] = {name: typed.get(name, "") for name in FIELDS[:5]}
    try:
        for name, text in typed.items():
            if len(text) > LONGEST_FIELD or "\0" in text:
                raise BadRequest(f"What is typed as {name} is too long: {LONGEST_FIELD} characters at most.")
        if given["kind"] not in ("", *KINDS):
            raise BadRequest(f"A kind of change is one of {', '.join(KINDS)}, not “{given['kind']}”.")
        return Chosen(**given, since=_time(typed, "from"), until=_time(typed, "before"), typed=typed)
    except BadRequest as exc:
        return Chosen(typed={name: text[:LONGEST_FIELD] for name, text in typed.items()}, problem=exc.message)


def _time(typed: Mapping[str, str], name: str) -> str | None:
    text = typed.get(name)
    if text is None:
        return None
    try:
        at = None if text.isdigit() else moment(text)
    except (BadRequest, OverflowError):
        at = None
    if not isinstance(at, str):
        raise BadRequest(f"“{text[:40]}” is no time: write it in UTC, like 2026-11-23T16:20.")
    return at
