"""Counts by hour as bars: where each stands in a picture of fixed size, so that the template only draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

HOURS = 24
STEP, HEIGHT = 30, 100  # of an hour, in the picture's own units
GAP = 4
PICTURE = {"step": STEP, "width": STEP * HOURS, "height": HEIGHT}


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour from `begin` on (UTC text), and how often each word came in it."""

    begin: str
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Of all words."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Bar:
    """One piece of the bar of an hour."""

    word: str
    x: float
    y: float
    width: float
    height: float


def bars(hours: Sequence[Hour], words: Sequence[str]) -> list[tuple[Hour, list[Bar]]]:
    """For each hour the pieces of its bar, one upon the other in the order of `words`; the highest bar fills the picture."""
    most = max([hour.total for hour in hours] or [0]) or 1
    return [(hour, list(_pieces(hour, place, words, most))) for place, hour in enumerate(hours)]


def _pieces(hour: Hour, place: int, words: Sequence[str], most: int) -> Iterator[Bar]:
    top = float(HEIGHT)
    for word in words:
        height = round(HEIGHT * hour.counts.get(word, 0) / most, 1)
        if height:
            top -= height
            yield Bar(word, place * STEP + GAP / 2, round(top, 1), STEP - GAP, height)
