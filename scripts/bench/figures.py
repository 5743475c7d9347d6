"""What one measurement found, in short, beside its peer; and how that stands to its bounds."""

from __future__ import annotations

import gc
import statistics
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOUNDS = Path(__file__).with_name("bounds.toml")
ENOUGH = 100  # samples, from which on a 99th percentile says something


@dataclass(frozen=True, slots=True)
class Spread:
    """Samples in short: p99 is None where there are too few for it."""

    median: float
    p99: float | None
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Of one sample at least."""
        found = sorted(samples)
        p99 = found[int(0.99 * (len(found) - 1))] if len(found) >= ENOUGH else None
        return cls(statistics.median(found), p99, found[0], found[-1], len(found))


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity that was measured. `ratio` is ours over the peer's; `claim` is what the user's document says of it, in the same unit.

    Figures of one `series` are points of a curve, each `at` a size in the words of `axis`.
    """

    name: str  # its key in bounds.toml
    unit: str
    measured: Spread
    peer: str = ""
    of_peer: Spread | None = None
    ratio: Spread | None = None
    claim: float | None = None
    series: str = ""
    axis: str = ""
    at: float | None = None

    def value(self, statistic: str) -> float | None:
        """Its `median`, `p99`, `ratio`, or `gain` over the document's claim; None where it has none."""
        if statistic == "gain":
            return self.claim / self.measured.median if self.claim is not None else None
        if statistic == "ratio":
            return self.ratio.median if self.ratio else None
        found: float | None = getattr(self.measured, statistic)
        return found

    def as_json(self) -> dict[str, Any]:
        """All of it, and what came of its bounds."""

        def facts(spread: Spread | None) -> dict[str, Any] | None:
            return None if spread is None else {name: getattr(spread, name) for name in Spread.__slots__}

        plain = {name: getattr(self, name) for name in ("name", "unit", "peer", "claim", "series", "axis", "at")}
        return plain | {"measured": facts(self.measured), "of_peer": facts(self.of_peer), "ratio": facts(self.ratio)}


def single(name: str, unit: str, samples: Sequence[float], **more: Any) -> Figure:
    """A figure without a peer."""
    return Figure(name, unit, Spread.of(samples), **more)


def beside(
    name: str, unit: str, ours: Sequence[float], peer: str, theirs: Sequence[float], *, ratios: Sequence[float] = (), **more: Any
) -> Figure:
    """A figure with its peer. Without `ratios` that of the medians."""
    found = ratios or [statistics.median(ours) / statistics.median(theirs)]
    return Figure(name, unit, Spread.of(ours), peer, Spread.of(theirs), Spread.of(found), **more)


def in_turns(name: str, unit: str, ours: Sequence[float], peer: str, theirs: Sequence[float], **more: Any) -> Figure:
    """The same where both were measured in turns: the ratios are those of each pair."""
    return beside(name, unit, ours, peer, theirs, ratios=[a / b for a, b in zip(ours, theirs, strict=True)], **more)


def took(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds by this clock."""
    gc.collect()
    began = clock()
    work()
    return clock() - began


@dataclass(frozen=True, slots=True)
class Limit:
    """A statistic and what it may be at most, or at least."""

    statistic: str
    at_most: bool
    than: float

    @classmethod
    def of(cls, words: str, than: float) -> Limit:
        """From a line of bounds.toml, such as `ratio_at_most = 1.3`. Raises ValueError."""
        statistic, _, way = words.partition("_at_")
        if statistic not in ("median", "p99", "ratio", "gain") or way not in ("most", "least"):
            raise ValueError(f"{words} is no limit")
        return cls(statistic, way == "most", float(than))

    def holds(self, figure: Figure) -> bool | None:
        """None where the figure lacks that statistic."""
        found = figure.value(self.statistic)
        return None if found is None else found <= self.than if self.at_most else found >= self.than

    def __str__(self) -> str:
        word = {"median": "", "gain": "claim / ours "}.get(self.statistic, f"{self.statistic} ")
        return f"{word}{'≤' if self.at_most else '≥'} {self.than:g}"


@dataclass(frozen=True, slots=True)
class Bound:
    """What is to be reached, what must not get worse in a short run on a busy machine, and why the latter is what it is."""

    target: tuple[Limit, ...]
    guard: tuple[Limit, ...]
    why: str

    def reached(self, figure: Figure) -> bool | None:
        """Whether every target is; None where there is none."""
        told = [held for limit in self.target if (held := limit.holds(figure)) is not None]
        return all(told) if told else None

    def broken(self, figure: Figure) -> list[str]:
        """The guards that the figure breaks."""
        return [str(limit) for limit in self.guard if limit.holds(figure) is False]


NO_BOUND = Bound((), (), "")


def read_bounds(path: Path = BOUNDS, targets: bool = True) -> Mapping[str, Bound]:
    """By the name of the figure; without `targets` the guards alone: a short run proves none. Raises ValueError, KeyError."""
    with path.open("rb") as file:
        found = tomllib.load(file)
    return {
        name: Bound(
            tuple(Limit.of(*each) for each in one.get("target", {}).items() if targets),
            tuple(Limit.of(*each) for each in one.get("guard", {}).items()),
            one["why"],
        )
        for name, one in found.items()
    }
