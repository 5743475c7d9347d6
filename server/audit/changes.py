"""Changes as the pages tell them: cell by cell, masked, with the epoch they belong to and their neighbours in the life of the same row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import apsw

from changelog.asof.lineage import Lineage
from changelog.connection import one, rows
from changelog.errors import NotFound
from changelog.reader import log_rows
from changelog.render import MASK, sides
from changelog.wire import FACTS
from server.show import NEVER_SHOWN


@dataclass(frozen=True, slots=True)
class Cell:
    """One column of a changed row; a side on which there is no row holds None."""

    column: str
    old: Any
    new: Any
    changed: bool
    is_key: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `cells` are all columns of its row; of a change of the schema or a birth there are none."""

    seq: int
    at: str
    actor: Any
    tbl: Any
    op: str
    key: Any
    gen: Any
    cells: list[Cell]
    key_after: Any  # what `key` is afterwards: another where the change gave the row another key

    @property
    def columns(self) -> list[tuple[str, Any, Any]]:
        """What changed, as (name, old, new)."""
        return [(cell.column, cell.old, cell.new) for cell in self.cells if cell.changed]


def read_changes(db: apsw.Connection, seqs: Sequence[int]) -> list[Change]:
    """These changes, the newest first. Seqs that the log does not hold are left out."""
    lineage = Lineage(db)
    found = log_rows(db, "WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq DESC", (json.dumps(list(seqs)),))
    return [_told(db, row, lineage) for row in found]


def read_change(db: apsw.Connection, seq: int) -> Change:
    """One change. Raises NotFound, saying why it is not there."""
    found = read_changes(db, [seq])
    if found:
        return found[0]
    [(first, last)] = rows(db, "SELECT min(seq), max(seq) FROM changelog")
    if last is not None and seq > last:
        raise NotFound(f"There is no change {seq} yet: the newest here is {last}.")
    raise NotFound(f"Change {seq} is not in the log of this copy, which begins at change {first}.")


def newest_changes(db: apsw.Connection, limit: int) -> list[Change]:
    """The newest changes."""
    return read_changes(db, [seq for (seq,) in rows(db, "SELECT seq FROM changelog ORDER BY seq DESC LIMIT ?", (limit,))])


def epoch_at(db: apsw.Connection, seq: int) -> str | None:
    """The epoch that a change belongs to."""
    ancestor = "SELECT value FROM changelog_meta WHERE name='ancestor' AND seq>=? ORDER BY seq LIMIT 1"
    return one(db, ancestor, (seq,)) or one(db, "SELECT value FROM changelog_meta WHERE name='epoch'")


def births(db: apsw.Connection) -> list[int]:
    """The seqs at which the epochs began."""
    begun = "SELECT seq FROM changelog_meta WHERE name='epoch' UNION SELECT seq+1 FROM changelog_meta WHERE name='ancestor' ORDER BY 1"
    return [int(seq) for (seq,) in rows(db, begun)]


def neighbours(db: apsw.Connection, change: Change) -> tuple[int | None, int | None]:
    """The changes of the same row before and after this one, whatever the row's key and its table were called then."""
    if change.op not in ("I", "U", "D"):
        return None, None
    spans = list(names_of(Lineage(db), change.seq, change.tbl))
    before = (touching(db, name, change.key, low, min(high, change.seq - 1), newest=True) for name, low, high in reversed(spans))
    after = (touching(db, name, change.key_after, max(low, change.seq + 1), high, newest=False) for name, low, high in spans)
    return next(filter(None, before), None), next(filter(None, after), None)


def names_of(lineage: Lineage, seq: int, table: Any) -> Iterator[tuple[str, int, int]]:
    """What a table that was called so at `seq` was called when: (name, first seq, last seq), the oldest first."""
    number = lineage.at(seq).table(table)
    bounds = [0, *(at for at, _ in lineage.changes), 2**62]
    for low, high in pairwise(bounds):
        for name, other in lineage.at(low).tables.items():
            if other == number:
                yield name, low, high - 1


def touching(db: apsw.Connection, table: str, key: Any, low: int, high: int, *, newest: bool) -> int | None:
    """The newest or the oldest change from seq `low` to `high` of the row that had this key before it, or got it by it."""
    if low > high:
        return None
    pick, order = ("max", "DESC") if newest else ("min", "ASC")
    had = f"SELECT seq FROM changelog WHERE tbl=? AND key IS ? AND seq BETWEEN ? AND ? ORDER BY seq {order} LIMIT 1"
    got = f"""SELECT seq FROM changelog WHERE op='U' AND key IS NOT n0 AND tbl=? AND n0 IS ? AND seq BETWEEN ? AND ? AND substr(chg,1,1)='1'
              AND EXISTS(SELECT 1 FROM changelog_cols c WHERE c.tbl=changelog.tbl AND c.gen=changelog.gen AND c.pos=0 AND c.pk=1)
              ORDER BY seq {order} LIMIT 1"""
    bindings = (table, key, low, high)
    return one(db, f"SELECT {pick}(seq) FROM (SELECT seq FROM ({had}) UNION ALL SELECT seq FROM ({got}))", (*bindings, *bindings))


def _told(db: apsw.Connection, row: Sequence[Any], lineage: Lineage) -> Change:
    facts = dict(zip(FACTS, row, strict=False))
    seq, op, key = int(facts["seq"]), str(facts["op"]), facts["key"]
    slots = lineage.slots(seq, facts["tbl"], facts["gen"]) if op in ("I", "U", "D") else []
    new, old = sides(row, len(slots))
    moved = [op != "U" or str(facts["chg"])[place : place + 1] == "1" for place in range(len(slots))]
    if op == "U":  # what did not change stands among the new values only
        old = [before if changed else after for before, after, changed in zip(old, new, moved, strict=True)]
    cells = []
    for place, (name, pk, masked) in enumerate(slots):
        before, after = (side[place] if side else None for side in (old, new))
        if masked or name.endswith(NEVER_SHOWN):
            before, after = (None if value is None else MASK for value in (before, after))
        cells.append(Cell(name, before, after, moved[place], bool(pk)))
    key_after = _key_of(db, slots, new, moved) if op == "U" else None
    return Change(seq, facts["at"], facts["actor"], facts["tbl"], op, key, facts["gen"], cells, key if key_after is None else key_after)


def _key_of(db: apsw.Connection, slots: Sequence[tuple[str, int, bool]], values: Sequence[Any], moved: Sequence[bool]) -> Any:
    """The key that an update gave its row, as the log would write it; None where it left the key alone."""
    key = [place for _, place in sorted((pk, place) for place, (_, pk, _) in enumerate(slots) if pk)]
    if not any(moved[place] for place in key):
        return None
    if len(key) == 1:
        return values[key[0]]
    return one(db, "SELECT " + "||','||".join("quote(?)" for _ in key), [values[place] for place in key])
