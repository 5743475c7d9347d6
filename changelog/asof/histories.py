"""What the log tells of single rows around some seq: the first change after it, and the newest one up to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apsw

from changelog.asof.lineage import Lineage
from changelog.connection import one
from changelog.reader import READ_ROWS, read_log
from changelog.render import identities, sides
from changelog.values import RawText, Value

Identity = tuple[Any, ...]
Progress = Callable[[int, int], object]  # (log rows read, of how many)


@dataclass(slots=True)
class Known:
    """What the log tells of one row: its values by column number, or None where it was not there."""

    values: dict[int, Value] | None
    written: bool = False  # from a change before the seq: a column that it does not have was added since, and holds its default


@dataclass
class History:
    """What the log tells of one table."""

    after: dict[Identity, Known] = field(default_factory=dict)  # by the first change after the seq
    before: dict[Identity, Known] = field(default_factory=dict)  # by the newest change up to it


class LogRows:
    """Reads the log for the histories of some tables, which are known by their numbers in the lineage."""

    def __init__(self, db: apsw.Connection, lineage: Lineage, progress: Progress) -> None:
        self._db, self._lineage, self._progress = db, lineage, progress

    def read_after(self, histories: Mapping[int, History], seq: int, upto: int) -> None:
        """Of each row that was touched after `seq` and up to `upto`: how it was before that."""
        for row in self._forwards(seq, upto):
            number, columns, before, after = self._touched(row)
            if number in histories:
                found = histories[number].after
                if before is not None and before not in found:
                    found[before] = Known(_before(row, columns))
                if after is not None:
                    found.setdefault(after, Known(None))

    def read_before(self, histories: Mapping[int, History], seq: int, birth: int, every: Mapping[int, bool]) -> None:
        """Backwards from `seq` to the epoch's birth: how each row was left by its newest change.

        `every` names the tables to look at: for all their rows, or for those only that were touched after `seq`.
        """
        pending = {number: set(histories[number].after) for number, whole in every.items() if not whole}
        endless = any(every.values())
        left = sum(map(len, pending.values()))
        for row in self._backwards(seq, birth) if endless or left else ():
            number, columns, before, after = self._touched(row)
            if number not in every:
                continue
            found, asked = histories[number].before, pending.get(number)
            new = sides(row, len(columns))[0]
            reached = Known(dict(zip(columns, new, strict=True)) if new else None, written=True)
            for identity, known in ((after, reached), (before, Known(None, written=True))):
                if identity is not None and identity not in found and (asked is None or identity in asked):
                    found[identity] = known
                    left -= 1
            if not endless and not left:
                return

    def _touched(self, row: tuple[Value, ...]) -> tuple[int, list[int], Identity | None, Identity | None]:
        """The table of a log row, its columns, and the row before and after the change; table -1 for a row that is no change of one."""
        if row[5] not in ("I", "U", "D"):
            return -1, [], None, None
        seq = int(str(row[0]))
        number, columns = self._lineage.numbers(seq, row[4], row[7])
        before, after = identities(row, self._lineage.slots(seq, row[4], row[7]))
        return number, columns, _wrapped(before), _wrapped(after)

    def _forwards(self, after: int, upto: int) -> Iterator[tuple[Value, ...]]:
        for start in range(after, upto, READ_ROWS):
            self._progress(start - after, upto - after)
            yield from read_log(self._db, start, min(upto, start + READ_ROWS))

    def _backwards(self, upto: int, birth: int) -> Iterator[tuple[Value, ...]]:
        gap = (
            one(self._db, "SELECT max(seq) FROM changelog_meta WHERE name='gap' AND seq<=?", (upto,)) or 0
        )  # a replica's log may have some
        oldest = max(birth, gap, one(self._db, "SELECT min(seq) FROM changelog") - 1)
        for end in range(upto, oldest, -READ_ROWS):
            self._progress(upto - end, upto - oldest)
            yield from reversed(read_log(self._db, max(oldest, end - READ_ROWS), end))


def exact(identity: Identity) -> Identity:
    """Hashed apart: a blob and a text of the same bytes, which are two keys."""
    return tuple(("text", bytes(v)) if type(v) is RawText else v for v in identity)


def _wrapped(identity: Any) -> Identity | None:
    return identity if identity is None else exact(identity) if isinstance(identity, tuple) else (identity,)


def _before(row: tuple[Value, ...], columns: list[int]) -> dict[int, Value] | None:
    """The whole row before an update or a delete, by column number: what an update did not change stands among the new values."""
    new, old = sides(row, len(columns))
    if row[5] == "U":
        changed = str(row[8])
        old = [o if changed[i] == "1" else n for i, (n, o) in enumerate(zip(new, old, strict=True))]
    return dict(zip(columns, old, strict=True))
