"""Reading the log of a primary: from a position, in one snapshot's bounds, exactly as it was written."""

from __future__ import annotations

from collections.abc import Iterator

import apsw

from changelog.connection import one
from changelog.errors import HistoryTrimmed, PositionMismatch
from changelog.facts import facts_of
from changelog.install import slot_count
from changelog.layout import slot_names
from changelog.position import Position, ancestors_of, epoch_of
from changelog.schema import committed_schema_hash
from changelog.values import Value, exact_rows
from changelog.wire import FACTS, Header

READ_ROWS = 1_000  # rows read in one go, each in a snapshot of its own: a slow reader of the stream holds none


def check_position(db: apsw.Connection, position: Position) -> None:
    """Whether a replica at `position` is on this primary's history.

    Raises PositionMismatch (facts: epoch, head, oldest, and whether our history descends from that epoch) or HistoryTrimmed.
    """
    now = Position.of_head(db)
    epoch, head, oldest = now.epoch, now.seq, one(db, "SELECT min(seq) FROM changelog")
    facts = {"epoch": epoch, "oldest": oldest, "head": head, "descends": descends(db, position.epoch)}
    if position.epoch != epoch:
        raise PositionMismatch(f"the epoch is {epoch} now, not {position.epoch}", **facts)
    if position.seq > head:
        raise PositionMismatch(f"seq {position.seq} is past the head, which is {head}: this primary has lost changes", **facts)
    nonce = known_nonce(db, position.seq)
    if nonce is not None and nonce != position.check:
        raise PositionMismatch(f"seq {position.seq} is another write here: this primary went back in time", **facts)
    if nonce is None or position.seq < oldest - 1:
        raise HistoryTrimmed(f"the changes after seq {position.seq} are gone: the oldest is {oldest}", **facts)


def descends(db: apsw.Connection, epoch: str) -> bool:
    """Whether this log's history contains that of `epoch`."""
    return epoch == epoch_of(db) or epoch in ancestors_of(db)


def frame_header(db: apsw.Connection, after: Position, upto: int | None = None, upto_check: int | None = None) -> Header:
    """The header of the frame that leads a replica at `after` to `upto`, the newest commit of this snapshot if None.

    The snapshot is the caller's transaction: only so is the head a commit boundary. An earlier `upto` is one because the replica was told
    so before; with `upto_check`, the nonce there, it is one of this history and not of another that this primary had then.
    """
    check_position(db, after)
    head = one(db, "SELECT max(seq) FROM changelog")
    if upto is None:
        upto = head
    elif not after.seq <= upto <= head:
        raise PositionMismatch(f"upto {upto} is not between {after.seq} and the head, {head}", epoch=after.epoch, head=head, descends=True)
    nonce = known_nonce(db, upto)
    if nonce is None:
        raise HistoryTrimmed(f"the changes up to seq {upto} are gone", epoch=after.epoch, head=head)
    if upto_check not in (None, nonce):
        message = f"seq {upto} is another write here: this primary went back in time"
        raise PositionMismatch(message, epoch=after.epoch, head=head, descends=True)
    schema = committed_schema_hash(db) if upto == head else None
    return Header(after.epoch, after.seq, after.check, upto, nonce, schema, **facts_of(db))


def read_log(db: apsw.Connection, after: int, upto: int, limit: int = READ_ROWS) -> list[tuple[Value, ...]]:
    """Up to `limit` log rows after seq `after`, each as FACTS followed by the slots that its op fills.

    Raises HistoryTrimmed when rows have gone meanwhile.
    """
    rows = list(log_rows(db, "WHERE seq>? AND seq<=? ORDER BY seq", (after, min(upto, after + limit))))
    if len(rows) != min(upto - after, limit):
        raise HistoryTrimmed(f"the changes after seq {after} are gone")
    return rows


def log_rows(db: apsw.Connection, clauses: str, bindings: tuple[Value, ...] = ()) -> Iterator[tuple[Value, ...]]:
    """Log rows as `read_log` gives them, chosen by the SQL `clauses`: a WHERE and a total ORDER BY."""
    widths, slots = _widths(db), slot_count(db)
    for row in exact_rows(db, [*FACTS, *slot_names(slots)], f"FROM changelog {clauses}", bindings):
        yield _filled(row, widths.get((row[4], row[7]), 0), slots)


def _widths(db: apsw.Connection) -> dict[tuple[Value, Value], int]:
    return {(tbl, gen): n for tbl, gen, n in db.execute("SELECT tbl, gen, count(*) FROM changelog_cols GROUP BY tbl, gen")}


def _filled(row: tuple[Value, ...], width: int, slots: int) -> tuple[Value, ...]:
    first = len(FACTS)
    new, old = row[first : first + width], row[first + slots : first + slots + width]
    return row[:first] + {"I": new, "U": new + old, "D": old, "X": row[first : first + 1]}.get(str(row[5]), ())


def known_nonce(db: apsw.Connection, seq: int) -> int | None:
    """The nonce of the write at `seq`: of its row, or, when that is trimmed, of the last one that was and of acknowledged ones."""
    nonce = one(db, "SELECT nonce FROM changelog WHERE seq=?", (seq,))
    if nonce is None:
        nonce = one(db, "SELECT value FROM changelog_meta WHERE name IN ('trimmed','anchor') AND seq=?", (seq,))
    return nonce
