"""What a comparison of a replica with its primary found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from changelog.errors import Divergence
from changelog.position import Position

NAMED = 1_000  # differences that a report names
MOST_DIFFERENCES = 20_000  # rows; where more differ, a snapshot is quicker


@dataclass
class Report:
    """`differences` are as `naming.Names` has them, the first NAMED of them; `differing` counts them all, by table."""

    position: Position | None = None  # at which the two sides were last compared
    tables: int = 0
    rows: int = 0  # of all tables
    log_rows: int = 0  # of the log, as far as both have it
    ranges: int = 0  # compared, of all rounds
    rounds: int = 0  # questions to the primary
    repaired: int = 0  # rows and facts
    differing: Counter[str] = field(default_factory=Counter)
    differences: list[dict[str, Any]] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether nothing differed."""
        return not self.differing

    def note(self, difference: dict[str, Any]) -> None:
        """Count a difference, and name it unless there are many. Raises Divergence when there are more than a repair is for."""
        self.differing[difference["table"]] += 1
        if len(self.differences) < NAMED:
            self.differences.append(difference)
        if self.differing.total() > MOST_DIFFERENCES:
            raise Divergence(f"more than {MOST_DIFFERENCES} rows differ from the primary: a snapshot is quicker than a repair")

    def facts(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "position": str(self.position) if self.position else None,
            "identical": self.identical,
            "tables": self.tables,
            "rows": self.rows,
            "log_rows": self.log_rows,
            "ranges": self.ranges,
            "rounds": self.rounds,
            "differing": dict(self.differing),
            "differences": self.differences,
            "repaired": self.repaired,
        }
