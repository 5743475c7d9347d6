"""How costs grow, as an SVG that needs nothing else: a curve for each series of figures, on two logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from scripts.bench.figures import Figure
from scripts.bench.table import number

WIDTH, HEIGHT = 420, 260  # of one plot
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 34, 44
# Grey is read on white and on black; the colour of the curve likewise.
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #57606a } .title { font-weight: 600 }
.grid { stroke: #8c959f; stroke-opacity: .35 } .curve { stroke: #0969da; fill: none; stroke-width: 2 } .point { fill: #0969da }
@media (prefers-color-scheme: dark) { text { fill: #adbac7 } .curve { stroke: #539bf5 } .point { fill: #539bf5 } }
</style>"""

Point = tuple[float, float]


def write_plots(folder: Path, figures: Sequence[Figure]) -> list[Path]:
    """A file for each series of two points at least; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    series: dict[tuple[str, str], list[Point]] = {}
    for figure in figures:
        if figure.series and figure.at is not None and figure.measured.median > 0:
            series.setdefault((figure.series, figure.axis), []).append((figure.at, figure.measured.median))
    written = []
    for (title, axis), points in series.items():
        if len(points) > 1:
            written.append(folder / f"{title.partition(',')[0].replace(' ', '-').lower()}.svg")
            written[-1].write_text(plot(title, axis, sorted(points)), encoding="utf-8")
    return written


def plot(title: str, axis: str, points: Sequence[Point]) -> str:
    """One curve."""
    across, up = ticks([x for x, _ in points]), ticks([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return _on(x, across, LEFT, WIDTH - RIGHT), _on(y, up, HEIGHT - BOTTOM, TOP)

    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">', STYLE]
    told = "; ".join(f"{number(x)} {axis}: {number(y)}" for x, y in points)
    lines.append(f"<title>{escape(f'{title} ({told})')}</title>")
    lines.append(f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>')
    for tick in up:
        y = place(across[0], tick)[1]
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in across:
        x = place(tick, up[0])[0]
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        lines.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{short(tick)}</text>')
    lines.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(axis)}</text>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    lines.append(f'<polyline class="curve" points="{path}"/>')
    for point in points:
        x, y = place(*point)
        anchor = "end" if x > WIDTH - RIGHT - 30 else "middle"
        lines.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
        lines.append(f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="{anchor}">{number(point[1])}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def ticks(values: Sequence[float]) -> list[float]:
    """The powers of ten that enclose these values: at least two."""
    low, high = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def short(value: float) -> str:
    """100000 as 100k."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _on(value: float, marks: Sequence[float], first: float, last: float) -> float:
    """Where it stands between the first and the last of the marks."""
    low, high = math.log10(marks[0]), math.log10(marks[-1])
    return first + (math.log10(value) - low) / (high - low) * (last - first)
