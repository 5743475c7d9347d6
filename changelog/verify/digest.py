"""Digests of what a database holds, independent of its page layout: how two sides at one position are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import apsw

from changelog.schema import Table, identifier, read_tables
from changelog.values import Value, encode_row, exact_rows


@dataclass(frozen=True)
class TableDigest:
    """How many rows a table has, and the SHA-256 over them in key order."""

    rows: int
    digest: str


def digest_tables(db: apsw.Connection) -> dict[str, TableDigest]:
    """The digest of every captured table, by name. Within the caller's transaction, so that it belongs to one position."""
    return {table.name: digest_table(db, table) for table in read_tables(db)}


def digest_table(db: apsw.Connection, table: Table) -> TableDigest:
    """The digest of one table: every stored value to the bit, and the rowid where only that tells rows apart."""
    total, count = hashlib.sha256(), 0
    for row in table_rows(db, table):
        total.update(encode_row(row).encode() + b"\n")
        count += 1
    return TableDigest(count, total.hexdigest())


def row_names(table: Table) -> list[str]:
    """What makes up a row here: the rowid first where it is the key, then the stored columns."""
    return [*([table.rowid] if table.keyed_by_rowid and table.rowid else []), *(c.name for c in table.columns)]


def table_rows(db: apsw.Connection, table: Table) -> Iterator[tuple[Value, ...]]:
    """All rows in key order, text that is not UTF-8 included."""
    columns = [identifier(name) for name in row_names(table)]
    key = (f"{identifier(c.name)} COLLATE {identifier(c.key_collation)}" for c in table.primary_key)
    order = ",".join(key) if table.key_slots else columns[0]
    return exact_rows(db, columns, f"FROM {identifier(table.name)} ORDER BY {order}")
