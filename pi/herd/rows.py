"""One row of the herd: read, guarded, changed, and what refers to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import apsw

from changelog.connection import one
from changelog.errors import BadRequest, Conflict, NotFound

LARGEST_ID = 2**63 - 1  # that SQLite can hold

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A table of the herd: what one row of it is called, by which column people know it, and its columns."""

    table: str
    noun: str
    name: str
    columns: tuple[str, ...]


PENS = Kind("pens", "pen", "pen_number", ("id", "pen_number", "capacity", "description", "created_at", "updated_at"))
BATCHES = Kind(
    "batches",
    "batch",
    "batch_number",
    ("id", "batch_number", "induction_date", "source", "source_type", "notes", "created_at", "updated_at"),
)
ANIMALS = Kind(
    "cattle",
    "animal",
    "cattle_id",
    (
        "id", "batch_id", "cattle_id", "sex", "weight", "health_status", "lf_tag", "uhf_tag", "pen_id", "notes", "status",
        "induction_date", "created_at", "updated_at",
    ),
)  # fmt: skip
USERS = Kind("users", "user", "username", ("id", "username", "role", "is_active", "created_at", "updated_at"))  # never the hash


def utc_now() -> str:
    """The present time as all tables hold it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def read_row(db: apsw.Connection, kind: Kind, row_id: int) -> Row:
    """The row with this id; text that is not UTF-8 is read with replacement characters. Raises NotFound."""
    if row_id > LARGEST_ID:
        raise NotFound(f"there is no {kind.noun} with an id of more than {LARGEST_ID}")
    sql = f"SELECT {{}} FROM {kind.table} WHERE id=?"
    try:
        found = db.execute(sql.format(", ".join(kind.columns)), (row_id,)).fetchone()
    except UnicodeDecodeError:
        texts = (f"CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) ELSE {c} END" for c in kind.columns)
        raw: Any = db.execute(sql.format(", ".join(texts)), (row_id,)).fetchone()
        found = tuple(value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in raw)
    if found is None:
        raise NotFound(f"there is no {kind.noun} with the id {row_id}")
    return dict(zip(kind.columns, found, strict=True))


def guarded_row(db: apsw.Connection, kind: Kind, row_id: int, expected: Mapping[str, Any] | None) -> Row:
    """The row, if it still has the values that the caller saw. Raises NotFound, BadRequest, and Conflict with the `present` row."""
    row = read_row(db, kind, row_id)
    if unknown := sorted(set(expected or {}) - set(row)):
        raise BadRequest(f"expected names {unknown[0][:80]!r}, which is no column of a {kind.noun}")
    moved = [name for name, seen in (expected or {}).items() if row[name] != seen]
    if moved:
        now = ", ".join(f"{name} is {in_words(row[name])} now" for name in moved)
        raise Conflict(f"{kind.noun} {row[kind.name]} was changed meanwhile: {now}. Nothing was written", present=row, field=moved[0])
    return row


def insert_row(db: apsw.Connection, kind: Kind, values: Mapping[str, Any], now: str) -> Row:
    """A new row with these values; returns it whole. Raises Conflict when its name is taken."""
    refuse_taken(db, kind, values[kind.name], None)
    named = {**values, "created_at": now, "updated_at": now}
    db.execute(f"INSERT INTO {kind.table}({', '.join(named)}) VALUES({', '.join('?' * len(named))})", tuple(named.values()))
    return read_row(db, kind, db.last_insert_rowid())


def update_row(db: apsw.Connection, kind: Kind, row: Row, changes: Mapping[str, Any], now: str) -> Row:
    """Give `row` the values of `changes`; what changes nothing writes nothing. Returns it whole. Raises Conflict when its name is taken."""
    new = {name: value for name, value in changes.items() if row[name] != value}
    if not new:
        return row
    if kind.name in new:
        refuse_taken(db, kind, new[kind.name], row["id"])
    new["updated_at"] = now
    db.execute(f"UPDATE {kind.table} SET {', '.join(f'{name}=?' for name in new)} WHERE id=?", (*new.values(), row["id"]))
    return read_row(db, kind, row["id"])


def delete_row(db: apsw.Connection, kind: Kind, row: Row, referring: Mapping[str, tuple[str, str]]) -> Row:
    """Delete `row` and return it. `referring`: what else may refer to it, in words: (table, column). Raises Conflict naming what does."""
    counted = {
        words: one(db, f"SELECT count(*) FROM {table} WHERE {column}=?", (row["id"],)) for words, (table, column) in referring.items()
    }
    found = " and ".join(f"{count} {words}" for words, count in counted.items() if count)
    if found:
        raise Conflict(f"{kind.noun} {row[kind.name]} cannot be deleted: {found} refer to it")
    db.execute(f"DELETE FROM {kind.table} WHERE id=?", (row["id"],))
    return row


def refuse_taken(db: apsw.Connection, kind: Kind, name: str, own_id: int | None) -> None:
    """Raises Conflict when another row has this name."""
    if one(db, f"SELECT 1 FROM {kind.table} WHERE {kind.name}=? AND id IS NOT ?", (name, own_id)):
        article = "an" if kind.noun[0] in "aeiou" else "a"
        raise Conflict(f"there is {article} {kind.noun} {name} already", field=kind.name)


def remember_pair(db: apsw.Connection, animal_id: int, now: str, by: str) -> None:
    """Put the pair that an animal carries into pair_history, before it gets another."""
    db.execute(
        """INSERT INTO pair_history(cattle_id, lf_tag, uhf_tag, paired_at, unpaired_at, updated_by, created_at, updated_at)
           SELECT id, lf_tag, uhf_tag, ifnull((SELECT max(unpaired_at) FROM pair_history WHERE cattle_id=c.id), induction_date), ?, ?, ?, ?
           FROM cattle c WHERE id=?""",
        (now, by, now, now, animal_id),
    )


def in_words(value: Any) -> str:
    """A value inside a sentence."""
    if value is None:
        return "empty"
    text = str(value)
    return repr(text if len(text) <= 60 else text[:59] + "…") if isinstance(value, str) else text
