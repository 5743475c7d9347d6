"""A change of the schema for people: which tables, indexes, views and triggers it made, altered, renamed and removed."""

from __future__ import annotations

import json
from dataclasses import dataclass

import apsw

from changelog.connection import one


@dataclass(frozen=True, slots=True)
class SchemaPart:
    """One object that the change touched: what happened to it in words, and its SQL before and after ("" where it was not there)."""

    words: str
    before: str
    after: str


def schema_parts(db: apsw.Connection, seq: int) -> list[SchemaPart]:
    """What the change of the schema at `seq` did, object by object."""
    text = one(db, "SELECT n0 FROM changelog WHERE seq=? AND op='X'", (seq,))
    if text is None:
        return []
    change = json.loads(text)
    before = {(kind, name): sql for kind, name, _, sql in change["before"]}
    renamed = dict(change["tables"])  # name now: name before
    parts = []
    for kind, name, _, sql in change["objects"]:
        then = renamed.get(name) if kind == "table" else name
        old = before.pop((kind, then), None) if then is not None else None
        if old is None:
            parts.append(SchemaPart(f"{kind} {name} was created", "", sql or ""))
        elif then != name:
            parts.append(SchemaPart(f"{kind} {then} is called {name} now", old or "", sql or ""))
        elif old != sql:
            parts.append(SchemaPart(_altered(kind, name, change["columns"].get(name, [])), old or "", sql or ""))
    return parts + [SchemaPart(f"{kind} {name} was removed", sql or "", "") for (kind, name), sql in before.items()]


def _altered(kind: str, name: str, columns: list[tuple[str, str | None]]) -> str:
    told = [f"got the column {now}" if then is None else f"its column {then} is called {now} now" for now, then in columns if now != then]
    return f"{kind} {name}: {', '.join(told)}" if told else f"{kind} {name} was altered"
