"""Hashes over many rows, computed inside SQLite: its own sha3_agg() reads a million rows in one step, in which Python's lock is free.

A digest made row by row in Python takes twice the time, and all of that from the threads that write. apsw brings sha3_agg() along as an
extension; where it is missing, the same hash is computed here, so that both sides agree in any case.

The hash of a column is SHA3-224 over its values in key order, each as

    N                          NULL
    I and 8 bytes              integer, big-endian
    F and 8 bytes              real, IEEE 754 big-endian (-0.0 is not 0.0)
    T, length, colon, bytes    text in UTF-8, or whatever bytes it holds
    B, length, colon, bytes    blob

In a UTF-16 database, where SQLite would make other characters of broken text, text is hashed as the blob of its bytes, and whether each
value is text as a column of its own. The digest of rows is the hash over the hashes of their columns.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import apsw
import apsw.sqlite_extra

from changelog.values import RawText, Value, encode_row, exact_rows

BITS = 224  # of sha3: the shortest is the quickest
DIGEST_BYTES = 8  # of a digest that crosses the wire
HASH_BYTES = 8  # of the hash of one row
COLUMNS_AT_ONCE = 900  # SQLite answers with 2000 columns at most

_EXTENSION = "shathree"


def row_hash(row: tuple[Value, ...]) -> str:
    """The hash of one row, to the bit, in hex."""
    return hashlib.blake2b(encode_row(row).encode(), digest_size=HASH_BYTES).hexdigest()


def rows_digest(db: apsw.Connection, terms: Sequence[str], source: str, bindings: tuple[Value, ...] = ()) -> tuple[int, str]:
    """(how many rows, digest in hex) of `SELECT terms source`, where `source` is FROM, WHERE and a total ORDER BY. "" without rows."""
    expressions = [e for term in terms for e in _hashed(term, db.pragma("encoding") != "UTF-8")]
    total, count = hashlib.sha256(), 0
    column_hashes = _in_sqlite if _has_sha3(db) else _in_python
    for start in range(0, len(expressions), COLUMNS_AT_ONCE):
        count, found = column_hashes(db, expressions[start : start + COLUMNS_AT_ONCE], source, bindings)
        for each in found:
            total.update(each)
    return count, total.digest()[:DIGEST_BYTES].hex() if count else ""


def _hashed(term: str, as_bytes: bool) -> list[str]:
    if not as_bytes:
        return [term]
    return [f"CASE typeof({term}) WHEN 'text' THEN CAST({term} AS BLOB) ELSE {term} END", f"typeof({term})='text'"]


def _has_sha3(db: apsw.Connection) -> bool:
    """Whether this connection knows sha3_agg(); it is taught to it at the first call."""
    for _ in range(2):
        try:
            db.execute("SELECT sha3_agg(0)").fetchall()
            return True
        except apsw.SQLError:
            if not _teach(db):
                return False
    return False


def _teach(db: apsw.Connection) -> bool:
    if not apsw.sqlite_extra.has(_EXTENSION):
        return False
    try:
        apsw.sqlite_extra.load(db, _EXTENSION)
    except (apsw.ExtensionLoadingError, apsw.SQLError, apsw.sqlite_extra.NotAvailable):
        return False
    return True


def _in_sqlite(db: apsw.Connection, expressions: Sequence[str], source: str, bindings: tuple[Value, ...]) -> tuple[int, list[bytes]]:
    # sha3_agg depends on the order of its rows, so SQLite keeps the ORDER BY of a subquery (for count() alone it would not).
    inner = ",".join(f"{e} AS h{i}" for i, e in enumerate(expressions))
    outer = ",".join(f"sha3_agg(h{i},{BITS})" for i in range(len(expressions)))
    found: Any = db.execute(f"SELECT count(*),{outer} FROM (SELECT {inner} {source})", bindings).fetchall()[0]
    return found[0], list(found[1:]) if found[0] else []


def _in_python(db: apsw.Connection, expressions: Sequence[str], source: str, bindings: tuple[Value, ...]) -> tuple[int, list[bytes]]:
    """The same, a row at a time."""
    hashes, count = [hashlib.sha3_224() for _ in expressions], 0
    updates: list[Callable[[bytes], None]] = [h.update for h in hashes]
    for row in exact_rows(db, expressions, source, bindings):
        count += 1
        for update, value in zip(updates, row, strict=True):
            update(_encoded(value))
    return count, [h.digest() for h in hashes] if count else []


def _encoded(value: Value) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, int):
        return b"I" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"F" + struct.pack(">d", value)
    data = value.encode() if isinstance(value, str) else value
    kind = b"T" if isinstance(value, str | RawText) else b"B"
    return b"%s%d:%s" % (kind, len(data), data)
