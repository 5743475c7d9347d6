"""Repair: the rows of a replica that differ, put right inside the caller's transaction. Its log and its position stay what they are."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from changelog.apply import mark
from changelog.errors import DamagedFile, Divergence
from changelog.fulltext import leave_indexes, rebuild_indexes
from changelog.schema import identifier
from changelog.values import RawText, encode_row
from changelog.verify.ranges import LOG, Row, Scope, same_key
from changelog.wire import FACTS

_NONCE = FACTS.index("nonce")


def replace_rows(db: apsw.Connection, scope: Scope, wrong: Sequence[Row], right: Sequence[Row]) -> None:
    """Delete the rows `wrong` and insert `right`. First all that is wrong: two rows may have each other's unique value.

    OR REPLACE, because a row that stands in the way of a right one is wrong itself, and its turn comes.
    Raises Divergence where a row cannot be stored, DamagedFile where the file or an index is broken.
    """
    try:
        leave_indexes(db)
        for row in wrong:
            _delete(db, scope, row)
        for row in right:
            _insert(db, scope, row)
        if scope.name != LOG:
            rebuild_indexes(db, scope.name)
    except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as exc:
        raise DamagedFile(f"table {scope.name} cannot be repaired row by row, the file is damaged: {exc}") from exc
    except apsw.Error as exc:
        raise Divergence(f"table {scope.name} cannot be repaired row by row: {type(exc).__name__}: {exc}") from exc


def strays(db: apsw.Connection, scope: Scope, right: Sequence[Row]) -> list[int]:
    """The seqs of log rows older than what is compared that carry the nonce of one of `right`: that row, under a seq that went wrong."""
    found: list[int] = []
    for row in right:
        sql = "SELECT seq FROM changelog WHERE seq<? AND nonce=?"
        found += [seq for (seq,) in db.execute(sql, (scope.floor, row[_NONCE]))]
    return found


def _delete(db: apsw.Connection, scope: Scope, row: Row) -> None:
    where, key = same_key(scope, scope.key_of(row))
    db.execute(f"DELETE FROM {identifier(scope.name)} {where}", key)
    if db.changes() != 1:
        raise DamagedFile(f"table {scope.name}: the row {encode_row(key)} was read and cannot be found by its key: an index is damaged")


def _insert(db: apsw.Connection, scope: Scope, row: Row) -> None:
    known = [i for i, term in enumerate(scope.terms) if term != "NULL"]  # the log of the primary may have more slots than ours
    if any(value is not None for i, value in enumerate(row) if i not in known):
        raise Divergence("a log row of the primary has more values than the log here can hold")
    names = ",".join(identifier(scope.columns[i]) for i in known)
    marks = ",".join(mark(type(row[i]) is RawText) for i in known)
    db.execute(f"INSERT OR REPLACE INTO {identifier(scope.name)}({names}) VALUES({marks})", [row[i] for i in known])
