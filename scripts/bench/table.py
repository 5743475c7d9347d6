"""Figures as lines for a terminal, as a table for README, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.bench.figures import NO_BOUND, Bound, Figure, Spread

BEGIN, END = "<!-- figures: scripts/bench.sh --readme -->", "<!-- end of the figures -->"
HEAD = ("", "median", "p99 or longest", "beside it", "ratio", "target", "")
WORDS = {True: "reached", False: "**missed**", None: ""}

Bounds = Mapping[str, Bound]


def number(value: float | None) -> str:
    """With three digits that mean something."""
    if value is None:
        return ""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def line(figure: Figure, bound: Bound) -> str:
    """For a terminal."""
    found = figure.measured
    words = f"{figure.name:<44} {number(found.median):>8} {figure.unit:<14}"
    if found.count > 1:
        words += f" {_range(found)}"
    if figure.of_peer:
        words += f"  {figure.peer} {number(figure.of_peer.median)}"
    if figure.ratio:
        words += f"  ratio {_ratio(figure.ratio)}"
    if figure.claim is not None:
        words += f"  document {number(figure.claim)}: {number(figure.value('gain'))} x"
    if bound.target:
        words += f"  [{', '.join(map(str, bound.target))}: {WORDS[bound.reached(figure)].strip('*')}]"
    return words


def _range(spread: Spread) -> str:
    p99 = f", p99 {number(spread.p99)}" if spread.p99 is not None else ""
    return f"({number(spread.low)} to {number(spread.high)}{p99})"


def _ratio(spread: Spread) -> str:
    around = f" ({number(spread.low)} to {number(spread.high)})" if spread.count > 1 else ""
    return f"{number(spread.median)}{around}"


def markdown(figures: Sequence[Figure], bounds: Bounds, facts: Mapping[str, str], drawn: Sequence[str] = ()) -> str:
    """The machine, the table part by part, and the drawings at these paths."""
    parts: dict[str, list[Figure]] = {}
    for figure in figures:
        parts.setdefault(figure.name.partition(".")[0], []).append(figure)
    told = [f"Measured {facts['date']} in one run: {', '.join(f'{name} {text}' for name, text in facts.items() if name != 'date')}.", ""]
    told += [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for part, found in parts.items():
        told.append(f"| **{part}** |{' |' * (len(HEAD) - 1)}")
        told += [f"| {' | '.join(_cells(figure, bounds.get(figure.name, NO_BOUND)))} |" for figure in found]
    pictures = " ".join(f"![How the cost grows: {Path(path).stem.replace('-', ' ')}]({path})" for path in drawn)
    return "\n".join([*told, *(["", pictures] if drawn else [])]) + "\n"


def _cells(figure: Figure, bound: Bound) -> Sequence[str]:
    found = figure.measured
    most = found.p99 if found.p99 is not None else found.high if found.count > 1 else None
    peers = [f"{figure.peer}: {number(figure.of_peer.median)}"] if figure.of_peer else []
    peers += [f"the document says {number(figure.claim)} ({number(figure.value('gain'))} x)"] if figure.claim is not None else []
    return (
        _label(figure),
        f"{number(found.median)} {figure.unit}",
        number(most),
        ", ".join(peers),
        _ratio(figure.ratio) if figure.ratio else "",
        ", ".join(map(str, bound.target)),
        WORDS[bound.reached(figure)],
    )


def _label(figure: Figure) -> str:
    """Its name without the part, with its place on the curve where that does not stand in it."""
    name = figure.name.partition(".")[2]
    if figure.at is None or any(char.isdigit() for char in name):
        return name
    return f"{name}, {figure.at:,.0f} {figure.axis}"


def as_json(figures: Sequence[Figure], bounds: Bounds, facts: Mapping[str, str]) -> str:
    """All that was found, the machine, and what came of the bounds."""
    found: list[dict[str, Any]] = []
    for figure in figures:
        bound = bounds.get(figure.name, NO_BOUND)
        more = {"target": [str(limit) for limit in bound.target], "reached": bound.reached(figure), "broken": bound.broken(figure)}
        found.append(figure.as_json() | more)
    return json.dumps({"machine": facts, "figures": found}, indent=1, ensure_ascii=False) + "\n"


def put_into(readme: Path, text: str) -> None:
    """Replace what stands between the two marks. Raises ValueError where they are missing."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} has no marks for the figures")
    readme.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
