"""What came of playing lost changes back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from changelog.audit import printable, shown
from changelog.rescue.lives import Change
from changelog.values import Value, for_json

DONE = {"I": "inserted", "U": "updated", "D": "deleted"}
THERE, CAME_AND_WENT, LEFT_OUT = "already there", "came and went", "left out"


@dataclass(frozen=True)
class Disagreement:
    """A lost change that could not be played back, and why. What is there now stays."""

    seq: int
    table: str
    op: str
    key: Value
    reason: str

    def __str__(self) -> str:
        """In words, on one line."""
        return printable(f"seq {self.seq}: {self.op} {self.table} {shown(for_json(self.key))}: {self.reason}")


@dataclass
class Adopted:
    """What was done, by table: how many changes were inserted, updated, deleted, were there already, came and went, or were left out.

    `first` and `last` are the seqs of it in the primary's log, 0 where nothing was written.
    """

    path: Path
    tables: dict[str, Counter[str]] = field(default_factory=dict)
    conflicts: list[Disagreement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    first: int = 0
    last: int = 0

    def count(self, change: Change, what: str) -> None:
        """One more."""
        self.tables.setdefault(change.table if change.op in DONE else "", Counter())[what] += 1

    def refuse(self, change: Change, reason: str) -> None:
        """One that is left out, and said."""
        self.count(change, LEFT_OUT)
        self.conflicts.append(Disagreement(change.seq, change.table if change.op in DONE else "", change.op, change.key, reason))
