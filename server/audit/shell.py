"""The same in the shell: what a page shows, as a command that can be copied. Values are quoted so that they stay values.

A here-document takes everything as it is but a line that ends it; so what is not printable is written in hex.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from changelog.schema import identifier, read_tables
from changelog.values import RawText
from server.audit.changes import Change
from server.audit.chosen import Chosen
from server.audit.standing import Standing, key_condition
from server.show import NEVER_SHOWN

END = "SQL"


def command(path: Path, sql: str) -> str:
    """A command for a terminal that runs `sql` on the file at `path`."""
    return f"sqlite3 -readonly -box {shlex.quote(str(path))} <<'{END}'\n{sql};\n{END}"


def quoted(value: Any) -> str:
    """A value as SQL text."""
    if value is None:
        return "NULL"
    if isinstance(value, RawText):
        return f"CAST(x'{value.hex()}' AS TEXT)"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'" if value.isprintable() else f"CAST(x'{value.encode().hex()}' AS TEXT)"
    if isinstance(value, float) and math.isinf(value):
        return "9e999" if value > 0 else "-9e999"
    return repr(value)


def sql_of_list(chosen: Chosen, seqs: Sequence[int]) -> str:
    """The changes of one page, which are those from the oldest to the newest of `seqs` that fit."""
    terms = []
    if chosen.table:
        terms.append(f"tbl={quoted(chosen.table)}")
    if chosen.key:
        terms.append(f"key IN ({', '.join(map(quoted, chosen.keys))})")
    if chosen.column:
        terms.append(f"col={quoted(chosen.column)} COLLATE NOCASE")
    if chosen.actor:
        terms.append(f"actor={quoted(chosen.actor)}")
    if chosen.kind:
        terms.append(f"op IN ({', '.join(map(quoted, chosen.ops))})")
    terms += [f"at{test}{quoted(at)}" for test, at in ((">=", chosen.since), ("<", chosen.until)) if at is not None]
    if seqs:
        terms.append(f"seq BETWEEN {min(seqs)} AND {max(seqs)}")
    where = f"\n WHERE {' AND '.join(terms)}" if terms else ""
    return f"SELECT seq, at, actor, tbl, op, key, col, old, new FROM changelog_audit{where}\n ORDER BY seq DESC"


def sql_of_change(change: Change) -> str:
    """One change, a line for each column that it changed; of the schema, the statement's effect as JSON."""
    if change.op in ("X", "B"):
        return f"SELECT seq, at, op, key, n0 FROM changelog WHERE seq={change.seq}"
    return f"SELECT at, actor, tbl, op, key, col, old, new FROM changelog_audit WHERE seq={change.seq}"


def sql_of_row(db: apsw.Connection, found: Standing) -> str | None:
    """One row as it stood, from where `found` has it; None where the shell would need more than one statement."""
    if found.cells is None:
        return None
    tables = {table.name: table for table in read_tables(db)}
    names = [column for column, _, _ in found.cells]
    shown = [name for name in names if not name.endswith(NEVER_SHOWN)]
    if found.source == "now":
        where, _ = key_condition(tables[found.table], found.key)  # ends with the one "?" that stands for the key
        condition = where.removesuffix("?") + quoted(found.key)
        return f"SELECT {', '.join(map(identifier, shown))}\n  FROM {identifier(found.table)} WHERE {condition}"
    change = found.change
    if change is None or change.tbl not in tables or not set(names) <= {column.name for column in tables[change.tbl].columns}:
        return None  # the views show the columns of today
    view = identifier(f"changelog_of_{change.tbl}")
    if found.source == "change":
        return f"SELECT {', '.join(map(identifier, shown))}\n  FROM {view} WHERE seq={change.seq}"
    old = [identifier(f"old_{name}") for name in shown]
    if change.op == "U":
        bits = [f"substr(chg,{names.index(name) + 1},1)='1'" for name in shown]
        old = [f"iif({bit}, {then}, {identifier(now)})" for bit, then, now in zip(bits, old, shown, strict=True)]
    columns = ", ".join(f"{then} AS {identifier(now)}" for then, now in zip(old, shown, strict=True))
    return f"SELECT {columns}\n  FROM {view} WHERE seq={change.seq}"
