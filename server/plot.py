"""Weights over time as a drawing: where each point, tick and label stands. The template only writes it down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

WIDTH, HEIGHT = 640, 240  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 68, 16, 16, 34  # margins, for the labels
STEPS = 4  # about so many lines across
STEP_SIZES = (1, 2, 5, 10)
DATES = 4  # labels along the time

HEAVIEST = 1e300  # kg, to either side of nothing: what is worked out of greater numbers may be no number

Weighing = tuple[datetime, float]  # UTC, kg


@dataclass(frozen=True, slots=True)
class Point:
    """One weighing: where it stands and what it says."""

    x: float
    y: float
    at: str
    weight: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at a place of an axis."""

    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    """The whole drawing. `path` is the line through the points, as the attribute `points` of a polyline."""

    points: Sequence[Point]
    path: str
    across: Sequence[Tick]
    along: Sequence[Tick]
    gain: float | None  # kg a day, from the first weighing to the last

    width, height, left, right, bottom = WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM


def weighing(recorded_at: object, weight: object) -> Weighing | None:
    """What a row says, or None where its values are no time and no weight."""
    if not isinstance(weight, (int, float)) or not abs(weight) <= HEAVIEST:
        return None
    try:
        at = datetime.fromisoformat(str(recorded_at))
        return (at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)), float(weight)
    except (ValueError, OverflowError):
        return None


def plot_of(weighings: Sequence[Weighing]) -> Plot | None:
    """The drawing of these weighings in order of time; None of fewer than two."""
    if len(weighings) < 2:
        return None
    times, weights = [at for at, _ in weighings], [weight for _, weight in weighings]
    first, last = times[0], times[-1]
    span = max((last - first) / timedelta(seconds=1), 1.0)
    lines = _lines(min(weights), max(weights))
    low, high = lines[0], lines[-1]

    def x(at: datetime) -> float:
        return round(LEFT + (at - first) / timedelta(seconds=1) / span * (WIDTH - LEFT - RIGHT), 1)

    def y(weight: float) -> float:
        return round(HEIGHT - BOTTOM - (weight - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    points = [Point(x(at), y(weight), f"{at:%Y-%m-%d}", weight) for at, weight in weighings]
    dates = [first + (last - first) * part / (DATES - 1) for part in range(DATES)]
    along = {f"{at:%Y-%m-%d}": Tick(x(at), f"{at:%Y-%m-%d}") for at in dates}
    path = " ".join(f"{point.x},{point.y}" for point in points)
    return Plot(points, path, [Tick(y(line), f"{line:g}") for line in lines], list(along.values()), daily_gain(weighings[0], weighings[-1]))


def daily_gain(before: Weighing, after: Weighing) -> float | None:
    """kg a day between two weighings; None where less than half a day lies between them."""
    days = (after[0] - before[0]) / timedelta(days=1)
    return (after[1] - before[1]) / days if days >= 0.5 else None


def _lines(lowest: float, highest: float) -> list[float]:
    """Round numbers, evenly spaced, that enclose both."""
    room = max(highest - lowest, abs(highest) / 100, 1.0) / STEPS
    magnitude = 10.0 ** math.floor(math.log10(room))
    step = next(size * magnitude for size in STEP_SIZES if size * magnitude >= room)
    first, last = math.floor(lowest / step), math.ceil(highest / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]
