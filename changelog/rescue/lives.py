"""Lost changes in the order in which they were made, and the lives of rows that they tell: born, changed, ended, under whatever key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import apsw

from changelog.reader import log_rows
from changelog.render import Columns, columns_of, sides
from changelog.values import Value

Values = tuple[Value, ...]
Identity = tuple[tuple[type, Value], ...]  # a key's values with their types: 1 is not 1.0 here, and text not the blob of its bytes


@dataclass(eq=False)
class Naming:
    """A reference: the slots by which a row names another one of table `parent`, whose key is `key`.

    `life` is what the lost changes tell of that row, None where they had not touched it; then `later` is the first row that they made under
    this key afterwards.
    """

    parent: str
    slots: tuple[int, ...]
    key: Identity
    life: Life | None
    later: Life | None


@dataclass(eq=False)
class State:
    """A whole row at one time, and which rows it named then."""

    values: Values
    names: list[Naming] = field(default_factory=list)


@dataclass(eq=False)
class Change:
    """One log row. `before` and `after` identify the row that it changed; what did not exist then is None, and its values are empty."""

    seq: int
    actor: Value
    table: str
    op: str
    key: Value
    gen: int
    chg: str
    old: State
    new: State
    columns: list[tuple[str, int, bool]]  # name, place in the key, masked
    before: Identity | None
    after: Identity | None
    life: Life | None = None


@dataclass(eq=False)
class Life:
    """What happened to one row, as long as its table had one list of columns."""

    changes: list[Change] = field(default_factory=list)

    @property
    def born(self) -> bool:
        """Whether the row was made by these changes."""
        return self.changes[0].op == "I"

    @property
    def ended(self) -> bool:
        """Whether these changes deleted it."""
        return self.changes[-1].op == "D"

    @property
    def final(self) -> State:
        """The row after the last of them, or before its end."""
        last = self.changes[-1]
        return last.old if self.ended else last.new

    def states(self) -> list[State]:
        """All that the row was, the newest first."""
        found = [change.new for change in self.changes if change.op != "D"]
        return [*reversed(found), *([] if self.born else [self.changes[0].old])]


def read_changes(db: apsw.Connection, after: int = 0) -> list[Change]:
    """The changes of a log after seq `after`, each of a row with its life."""
    names, living, found = columns_of(db), dict[tuple[str, int, Identity | None], Life](), []
    for row in log_rows(db, "WHERE seq>? ORDER BY seq", (after,)):
        change = _change(row, names)
        found.append(change)
        if change.op in ("I", "U", "D"):
            life = living.pop((change.table, change.gen, change.before), None) if change.before is not None else None
            change.life = life = life or Life()
            life.changes.append(change)
            if change.after is not None:
                living[change.table, change.gen, change.after] = life
    return found


def identity(values: Sequence[Value]) -> Identity:
    """The values of a key as what identifies a row."""
    return tuple((type(v), v) for v in values)


def _change(row: Values, columns: Columns) -> Change:
    names = columns.get((str(row[4]), int(str(row[7] or 0))), [])
    new, old = (tuple(side) for side in sides(row, len(names)))
    key = sorted((pk, i) for i, (_, pk, _) in enumerate(names) if pk)
    by_rowid = row[9] is not None or row[10] is not None

    def of(values: Values, rowid: Value) -> Identity | None:
        return None if not values else identity([rowid] if by_rowid else [values[i] for _, i in key])

    before, after = of(old, row[10]), of(new, row[9])
    if row[5] == "U":  # the log has the old values of what changed
        old = tuple(o if changed == "1" else n for o, n, changed in zip(old, new, str(row[8]), strict=True))
    return Change(
        seq=int(str(row[0])),
        actor=row[3],
        table=str(row[4]),
        op=str(row[5]),
        key=row[6],
        gen=int(str(row[7] or 0)),
        chg=str(row[8] or ""),
        old=State(old),
        new=State(new),
        columns=names,
        before=before,
        after=after,
    )
