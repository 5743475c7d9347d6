"""How many rows of what a copy of the farm has, for the log."""

from __future__ import annotations

from pathlib import Path

from changelog.connection import connect, one
from changelog.schema import identifier, read_tables

FIRST_NAMED = ("batches", "cattle", "pens")


def row_counts(path: Path) -> dict[str, int]:
    """The rows of each table in the file."""
    db = connect(path, readonly=True)
    try:
        return {t.name: one(db, f"SELECT count(*) FROM {identifier(t.name)}") for t in read_tables(db)}
    finally:
        db.close()


def named(counts: dict[str, int]) -> str:
    """The same in words, what matters most first."""
    first = [name for name in FIRST_NAMED if name in counts]
    return ", ".join(f"{counts[name]} {name}" for name in [*first, *(n for n in counts if n not in first)])
