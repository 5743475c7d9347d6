"""The changelog of one database, seen from inside a connection: its head, its epoch, and who signs what was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from changelog.connection import one


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
