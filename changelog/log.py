"""The changelog of one database, seen from inside a connection: its head, its epoch, and who signs what was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from changelog.connection import one
from changelog.schema import identifier

SAMPLE = 200  # rows that the size of the log is worked out from
ROW_OVERHEAD = 12  # bytes of a row beside its values: its length, its seq, its place on the page


def head(db: apsw.Connection) -> int:
    """The newest seq. In one snapshot this is always a commit boundary; 0 only where nothing is installed."""
    return one(db, "SELECT max(seq) FROM changelog") or 0


@contextmanager
def signed(db: apsw.Connection, actor: str) -> Iterator[None]:
    """Within an open transaction: the changes that the block writes get `actor`, those before and after it, and those signed in it, do not.

    A context row that the triggers would read costs 4 KB of WAL a commit and mislabels everybody when somebody forgets to clear it.
    """
    before = head(db)
    yield
    db.execute("UPDATE changelog SET actor=? WHERE seq>? AND actor IS NULL", (actor, before))


def approximate_bytes(db: apsw.Connection) -> int:
    """How many bytes the log takes, from a sample of its rows spread over it: exact figures need a scan."""
    columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info('changelog')")]
    first, last = one(db, "SELECT min(seq) FROM changelog"), one(db, "SELECT max(seq) FROM changelog")
    if first is None:
        return 0
    values = "+".join(f"ifnull(octet_length({identifier(name)}),0)" for name in columns)
    step = max(1, (last - first + 1) // SAMPLE)
    mean = one(
        db,
        f"""WITH RECURSIVE at(seq) AS (SELECT ?1 UNION ALL SELECT seq+?3 FROM at WHERE seq+?3<=?2)
            SELECT avg({values}) FROM at CROSS JOIN changelog USING(seq)""",
        (first, last, step),
    )
    return round((mean + len(columns) + ROW_OVERHEAD) * (last - first + 1))
