"""Which rows of now are lost ones already: played back before, or typed again by somebody."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from changelog.rescue.lives import Identity, Values
from changelog.rescue.present import PresentTable, same
from changelog.rescue.references import References
from changelog.rescue.since import Born, Since

LEVELS = 3  # of sureness, see Twins.find


class Twins:
    """A lost insert was made after the primary's newest shared row, so only a row that was made since can be the same one.

    It is when it agrees, as it is (or as it was, if it was played back before), in every column but its own number and what SQLite computes
    for a new row, such as a time; and each row stands for one lost row only. Where the primary's log does not tell which rows are new, any
    row may be, and must agree in the computed columns too.
    """

    def __init__(self, since: Since, references: References) -> None:
        self._since, self._references = since, references
        self._taken: set[Born] = set()
        self._told: dict[str, dict[Any, list[Born]]] = {}

    def find(self, table: PresentTable, own: Identity | None, states: Sequence[Values], level: int) -> Born | None:
        """The row that stands for a lost one, the likeliest if there are several. `states`: its own, relative to itself, the newest first.

        `level` says how sure it must be: 0 it was all the same from birth on, 1 it is like the lost one at last, 2 it was like it once.
        """
        told, best, rank = self._index(table), None, (-LEVELS, False, False)
        for state in states:
            for born in told.get(self._tell(table, state, own), []):
                if born not in self._taken and (born.adopted or self._is_now(table, born, state, own)):
                    ours = self._states(born)
                    found = (-self._level(table, born, states, own), born.row == own, any(alike(state, each) for each in ours))
                    if -found[0] <= level and (best is None or found > rank):
                        best, rank = born, found
        if best is not None:
            self._taken.add(best)
        return best

    def _level(self, table: PresentTable, born: Born, states: Sequence[Values], own: Identity | None) -> int:
        ours = self._states(born)
        if len(ours) == len(states) and all(map(alike, reversed(ours), states)):
            return 0
        return 1 if self._tell(table, ours[-1], born.row) == self._tell(table, states[0], own) else 2

    def _is_now(self, table: PresentTable, born: Born, state: Values, own: Identity | None) -> bool:
        return born.row is not None and self._tell(table, self._states(born)[-1], born.row) == self._tell(table, state, own)

    def take(self, born: Born | None) -> None:
        """This row stands for a lost one."""
        if born is not None:
            self._taken.add(born)

    def tell(self, table: PresentTable, born: Born) -> None:
        """A row has just been made, or changed."""
        told = self._index(table)
        mine = told.setdefault(self._tell(table, self._states(born)[-1], born.row), [])
        if born not in mine:
            mine.append(born)

    def _index(self, table: PresentTable) -> dict[Any, list[Born]]:
        name = table.table.name
        if name not in self._told:
            self._told[name] = {}
            for born in self._every(table):
                for state in self._states(born):
                    self._told[name].setdefault(self._tell(table, state, born.row), []).append(born)
        return self._told[name]

    def _every(self, table: PresentTable) -> Iterable[Born]:
        name, gen = table.table.name, table.table.gen
        if self._since.known:
            return [born for born in self._since.born if (born.table, born.gen) == (name, gen)]
        return (Born(name, gen, [values], row, False) for row, values in table.all())

    def _tell(self, table: PresentTable, values: Values, row: Identity | None) -> Any:
        slots = table.telling if self._since.known else table.but_number
        if not slots:
            return row  # nothing but its number
        return tuple((type(values[i]), repr(values[i])) for i in slots)

    def _states(self, born: Born) -> list[Values]:
        return [self._references.relative(born.table, state, born.row) for state in born.states]


def alike(one_row: Values, other: Values) -> bool:
    """Whether two rows are the same to the bit."""
    return all(map(same, one_row, other))
