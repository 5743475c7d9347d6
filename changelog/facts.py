"""What belongs to a database and is in no table: the AUTOINCREMENT counters (an ignored INSERT burns ids), and two header fields.

They change without a change in the log, and every frame brings them as they are on the primary when it is made. So a replica that has
others than its primary may be late; but one that has others than the last frame brought was written by somebody else. What that brought is
kept in changelog_meta.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import apsw

from changelog.connection import one
from changelog.schema import sequences_of

PRAGMAS = ("user_version", "application_id")


class Altered(NamedTuple):
    """A fact that is not what the last frame brought. `kind` is sqlite_sequence or pragma."""

    kind: str
    name: str
    here: Any
    brought: Any


def facts_of(db: apsw.Connection) -> dict[str, Any]:
    """{user_version, application_id, sequences} of this database."""
    return {**{name: db.pragma(name) for name in PRAGMAS}, "sequences": sequences_of(db)}


def follow_facts(db: apsw.Connection, facts: dict[str, Any]) -> None:
    """Make the facts of a replica those that its primary has, and keep them. Within the caller's transaction."""
    ours = sequences_of(db)
    for name in {**ours, **facts["sequences"]}:
        seq = facts["sequences"].get(name)
        if ours.get(name) != seq:
            db.execute("DELETE FROM sqlite_sequence WHERE name=?", (name,))
            if seq is not None:
                db.execute("INSERT INTO sqlite_sequence(name,seq) VALUES(?,?)", (name, seq))
    for pragma in PRAGMAS:
        if db.pragma(pragma) != facts[pragma]:
            db.pragma(pragma, facts[pragma])
    keep_facts(db, facts)


def keep_facts(db: apsw.Connection, facts: dict[str, Any]) -> None:
    """Remember what was brought; writes only what is new. Within the caller's transaction."""
    text = json.dumps([*(facts[name] for name in PRAGMAS), facts["sequences"]], sort_keys=True)
    if one(db, "SELECT value FROM changelog_meta WHERE name='facts'") != text:
        db.execute("DELETE FROM changelog_meta WHERE name='facts'")
        db.execute("INSERT INTO changelog_meta(name,value) VALUES('facts',?)", (text,))


def altered_facts(db: apsw.Connection) -> Iterator[Altered]:
    """The facts of a replica that somebody else has changed."""
    text = one(db, "SELECT value FROM changelog_meta WHERE name='facts'")
    if text is None:  # no frame has been replayed yet
        return
    *pragmas, sequences = json.loads(text)
    for name, brought in zip(PRAGMAS, pragmas, strict=True):
        if db.pragma(name) != brought:
            yield Altered("pragma", name, db.pragma(name), brought)
    ours = sequences_of(db)
    for name in sorted(ours.keys() | sequences.keys()):
        if ours.get(name) != sequences.get(name):
            yield Altered("sqlite_sequence", name, ours.get(name), sequences.get(name))


def restore_fact(db: apsw.Connection, fact: Altered) -> None:
    """Make it again what was brought. Within the caller's transaction."""
    if fact.kind == "pragma":
        db.pragma(fact.name, fact.brought)
        return
    db.execute("DELETE FROM sqlite_sequence WHERE name=?", (fact.name,))
    if fact.brought is not None:
        db.execute("INSERT INTO sqlite_sequence(name,seq) VALUES(?,?)", (fact.name, fact.brought))
