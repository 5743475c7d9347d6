"""What a primary did since it went back in time: which of its rows are new, and where the older ones are now."""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from changelog.connection import one
from changelog.rescue.common import nonce_at
from changelog.rescue.lives import Change, Identity, Values, read_changes

ADOPTED = "adopted: "  # how the actor begins of what was played back


@dataclass(eq=False)
class Born:
    """A row that the primary made since: all that it was, and where it is now (None: deleted)."""

    table: str
    gen: int
    states: list[Values]
    row: Identity | None
    adopted: bool  # it was played back, or changed by that, not only typed


class Since:
    """Read from the primary's own log, from the newest row on that it shares with the lost changes.

    `known` is False where that log no longer reaches back so far: then nothing is known of any row.
    """

    def __init__(self, db: apsw.Connection, common: int, nonce: int | None) -> None:
        self.known = nonce is not None and nonce_at(db, common) == nonce and (one(db, "SELECT min(seq) FROM changelog") or 0) <= common + 1
        self.renumbered = not self.known  # whether rowids that nothing else stands for may have changed
        self.born: list[Born] = []
        self._fresh: dict[tuple[str, Identity], Born] = {}
        self._origin: dict[tuple[str, Identity], Identity] = {}
        self._now: dict[tuple[str, Identity], Identity | None] = {}
        if self.known:
            for change in read_changes(db, common):
                self.follow(change)

    def follow(self, change: Change) -> Born | None:
        """Take in one more change that the primary made; returns the row when it is a new one's."""
        table, before, after = change.table, change.before, change.after
        self.renumbered |= change.op == "B"
        if before is None:
            return self._bear(change) if after is not None else None
        born = self._fresh.pop((table, before), None)
        if born is not None:
            born.row = after
            born.adopted |= _is_adopted(change)
            if after is not None:
                born.states.append(change.new.values)
                self._fresh[table, after] = born
            return born
        if before != after:
            origin = self._origin.pop((table, before), before)
            self._now[table, origin] = after
            if after is not None:
                self._origin[table, after] = origin
        return None

    def place(self, table: str, identity: Identity) -> Identity | None:
        """Where the row is now that had this identity when the primary went back; None when it is gone."""
        return self._now.get((table, identity), identity)

    def at(self, table: str, identity: Identity) -> Born | None:
        """The row of this identity, if it was made since."""
        return self._fresh.get((table, identity))

    def _bear(self, change: Change) -> Born:
        born = Born(change.table, change.gen, [change.new.values], change.after, _is_adopted(change))
        self.born.append(born)
        if change.after is not None:
            self._fresh[change.table, change.after] = born
        return born


def _is_adopted(change: Change) -> bool:
    return isinstance(change.actor, str) and change.actor.startswith(ADOPTED)
