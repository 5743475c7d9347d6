"""Triggers that keep everybody but replay from writing to a replica, a slip in the sqlite3 shell too: such a row would be a doubt.

Replay goes round them, for its connection runs no triggers of a file (`pass_guards`). They are a replica's alone: neither
captured, nor compared, nor in a digest; a file that is made a primary loses them with the rest of what is ours.
"""

from __future__ import annotations

import re

import apsw

from changelog.connection import rows
from changelog.schema import identifier, literal

MESSAGE = (
    "this file is a replica: its primary writes here, and nobody else."
    " Write there; to cut the two apart for good: python -m changelog install FILE"
)

_GUARD = re.compile(r"_changelog_guard_(?:insert|update|delete)_.*", re.DOTALL)
_EVENTS = ("INSERT", "UPDATE", "DELETE")


def is_guard(trigger: str) -> bool:
    """Whether this is the name of a guard."""
    return bool(_GUARD.fullmatch(trigger))


def pass_guards(db: apsw.Connection) -> None:
    """Let this connection write to a replica: no trigger of a file runs on it from here on, only TEMP ones."""
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)


def keep_guards(db: apsw.Connection) -> None:
    """Within a transaction: three guards on each ordinary table of a replica, those of the log too; only what is missing is written."""
    have, wanted = _present(db), _wanted(db)
    for name, sql in have.items():
        if wanted.get(name) != sql:  # of a table that bore the name before, or that has another one now
            db.execute(f"DROP TRIGGER {identifier(name)}")
    for name, sql in wanted.items():
        if have.get(name) != sql:
            db.execute(sql)


def drop_guards(db: apsw.Connection) -> None:
    """Within a transaction: take them away, for a change of the schema or for good."""
    for name in _present(db):
        db.execute(f"DROP TRIGGER {identifier(name)}")


def unguarded_tables(db: apsw.Connection) -> list[str]:
    """The tables of a replica that lack a guard."""
    have = _present(db)
    return [table for table in _tables(db) if any(have.get(_name(table, event)) != _trigger(table, event) for event in _EVENTS)]


def _present(db: apsw.Connection) -> dict[str, str]:
    return {name: sql for name, sql in rows(db, "SELECT name, sql FROM sqlite_schema WHERE type='trigger'") if is_guard(name)}


def _wanted(db: apsw.Connection) -> dict[str, str]:
    return {_name(table, event): _trigger(table, event) for table in _tables(db) for event in _EVENTS}


def _tables(db: apsw.Connection) -> list[str]:
    """No virtual tables and shadows: SQLite allows no triggers on the first, and crashes on those of the second."""
    ordinary = "SELECT name FROM pragma_table_list WHERE schema='main' AND type='table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    return [name for (name,) in rows(db, f"{ordinary} ORDER BY name")]


def _name(table: str, event: str) -> str:
    return f"_changelog_guard_{event.lower()}_{table}"


def _trigger(table: str, event: str) -> str:
    # No WHEN and no function: the shell of 3.40 must be able to prepare it. RAISE(ABORT) holds against OR IGNORE and OR REPLACE, too.
    return (
        f"CREATE TRIGGER {identifier(_name(table, event))} BEFORE {event} ON {identifier(table)}"
        f" BEGIN SELECT RAISE(ABORT, {literal(MESSAGE)}); END"
    )
