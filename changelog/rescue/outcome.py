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
    """What was done: whether each change, by its seq, inserted, updated or deleted, was there already, came and went, or was left out.

    `first` and `last` are the seqs of it in the primary's log, 0 where nothing was written.
    """

    path: Path
    outcomes: dict[int, tuple[str, str]] = field(default_factory=dict)  # (table, what), the table of a change of the schema being ""
    conflicts: list[Disagreement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    first: int = 0
    last: int = 0

    @property
    def tables(self) -> dict[str, Counter[str]]:
        """How many changes of each table came to what."""
        counted: dict[str, Counter[str]] = {}
        for table, what in self.outcomes.values():
            counted.setdefault(table, Counter())[what] += 1
        return counted

    def note(self, change: Change, what: str) -> None:
        """What became of a change."""
        self.outcomes[change.seq] = (change.table if change.op in DONE else ""), what

    def refuse(self, change: Change, reason: str) -> None:
        """One that is left out, and said."""
        self.note(change, LEFT_OUT)
        self.conflicts.append(Disagreement(change.seq, change.table if change.op in DONE else "", change.op, change.key, reason))

    def after(self, earlier: Adopted) -> bool:
        """Take in what an earlier pass did; returns whether this one came any further."""
        mine = self.outcomes
        self.outcomes = {seq: found if earlier.outcomes[seq][1] == LEFT_OUT else earlier.outcomes[seq] for seq, found in mine.items()}
        return self.outcomes != earlier.outcomes
