"""Where a log is not whole: what was trimmed before its first row, and the gaps that a replica's own log may have.

A gap comes about when a replica whose rows were not kept by its primary took a snapshot: the log of the snapshot begins later than that of
the replica ended. It is a row ('gap', first missing seq, last missing seq) of changelog_meta.
"""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from changelog.connection import one, rows
from changelog.errors import HistoryTrimmed


@dataclass(frozen=True, slots=True)
class Gap:
    """The seqs that are missing between two rows of a log."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"the changes from seq {self.first} to {self.last} are not in this log"


def gaps_of(db: apsw.Connection) -> list[Gap]:
    """The gaps of this log, oldest first."""
    return [Gap(*found) for found in rows(db, "SELECT value, seq FROM changelog_meta WHERE name='gap' ORDER BY seq")]


def trimmed_upto(db: apsw.Connection) -> int:
    """The last seq before the log's first row: 0 where the log goes back to its birth."""
    return (one(db, "SELECT min(seq) FROM changelog") or 1) - 1


def unbroken_after(db: apsw.Connection, seq: int) -> int:
    """The seq behind which every row up to `seq` is here: that of the last row before it that was trimmed or lies in a gap, or 0."""
    return max([trimmed_upto(db), *(gap.last for gap in gaps_of(db) if gap.last <= seq)])


def check_unbroken(db: apsw.Connection, seq: int, head: int) -> None:
    """Whether all changes from `seq` to `head` are here. Raises HistoryTrimmed, saying which are not."""
    [(oldest, count)] = rows(db, "SELECT min(seq), count(*) FROM changelog WHERE seq>?", (seq,))
    if count == head - seq:
        return
    later = [gap for gap in gaps_of(db) if gap.last > seq]
    if later:
        raise HistoryTrimmed(f"{later[-1]} (they were gone when it took a snapshot): nothing before seq {later[-1].last} can be rebuilt")
    if oldest == seq + 1:  # somebody deleted rows
        raise HistoryTrimmed(f"rows are missing from the log of this file after seq {seq}: `python -m changelog doctor` says more")
    raise HistoryTrimmed(f"the log of this file begins at seq {oldest}: what was before seq {oldest - 1} is gone")
