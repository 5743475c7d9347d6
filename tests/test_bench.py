"""The benchmark measures what it says: a short run keeps its guards, and what breaks one is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scripts.bench import __main__ as bench
from scripts.bench.figures import Bound, Figure, Limit, Spread, beside, in_turns, read_bounds, single
from scripts.bench.ground import Ground
from scripts.bench.plot import plot, write_plots
from scripts.bench.table import BEGIN, END, markdown, put_into

ROOT = Path(__file__).parents[1]
SHORT = ("capture", "catchup", "audit", "log", "bootstrap", "wire", "ingest", "worker", "card", "memory", "pages")
COUNTED_BY = {"card": "strace"}  # parts that need a program which a machine may lack


def test_a_short_run_keeps_its_guards(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.bench", "--quick", "--folder", tmp_path, "--json", tmp_path / "found.json", *SHORT]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-6_000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["machine"]["CPU"] and not any(figure["broken"] for figure in found["figures"])
    measured = {figure["name"] for figure in found["figures"]}
    there = {part for part in SHORT if shutil.which(COUNTED_BY.get(part, "python3"))}
    guarded = {name for name, bound in read_bounds().items() if bound.guard and name.partition(".")[0] in there}
    assert guarded <= measured, "a guard that nothing meets guards nothing"


def part(values: list[float]) -> Iterator[Figure]:
    """Gives the first of these that is left."""
    yield single("fake.cost", "ms", [values.pop(0)], series="fake, ms", axis="rows", at=10)


def run(monkeypatch: pytest.MonkeyPatch, values: list[float], *words: str) -> Result:
    def fake(_: Ground) -> Iterator[Figure]:
        if not values:
            raise KeyboardInterrupt
        return part(values)

    monkeypatch.setitem(bench.PARTS, "capture", fake)
    monkeypatch.setattr(
        bench, "read_bounds", lambda targets: {"fake.cost": Bound((Limit("median", True, 1),), (Limit("median", True, 5),), "")}
    )
    monkeypatch.setattr(bench, "machine", lambda folder: {"CPU": "one", "date": "today"})
    return CliRunner().invoke(bench.main, [*words, "capture"])


def test_a_part_that_breaks_a_guard_is_measured_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, [9, 3])
    assert done.exit_code == 0 and "capture once more" in done.output and "targets missed: fake.cost" in done.output


def test_a_guard_that_is_broken_twice_is_an_exit_code_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, [9, 8])
    assert done.exit_code == 1 and re.search(r"FAILED: fake.cost is not ≤ 5", done.output)


def test_a_run_that_is_cut_short_writes_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = run(monkeypatch, [3], "--json", str(tmp_path / "found.json"), "capture")
    assert done.exit_code == 1 and "cut short" in done.output
    [figure] = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert figure["measured"]["median"] == 3 and figure["reached"] is False


def test_a_part_that_cannot_be_measured_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Ground) -> Iterator[Figure]:
        raise OSError("no such device")
        yield

    monkeypatch.setitem(bench.PARTS, "audit", broken)
    done = run(monkeypatch, [1], "audit")
    assert done.exit_code == 1 and "audit was not measured: OSError: no such device" in done.output and "fake.cost" in done.output


def test_a_ratio_is_that_of_pairs_where_both_were_measured_in_turns() -> None:
    ours, theirs = [1.0, 20.0, 3.0], [1.0, 10.0, 3.0]  # the machine was slow in the middle
    assert in_turns("x.y", "ms", ours, "peer", theirs).value("ratio") == 1
    assert beside("x.y", "ms", ours, "peer", theirs).value("ratio") == 1
    assert in_turns("x.y", "ms", ours, "peer", theirs).ratio == Spread(1, None, 1, 2, 3)


@pytest.mark.parametrize("words", ["median_at_best", "mean_at_most", "ratio"])
def test_a_limit_that_says_nothing_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Limit.of(words, 1)


def test_the_table_takes_the_place_of_the_former_one_and_of_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nbehind\n")
    drawn = ["scripts/bench/plots/push-to-replicas.svg"]
    text = markdown([single("fake.cost", "ms", [3], claim=30)], read_bounds(), {"CPU": "one", "date": "today"}, drawn)
    for _ in range(2):
        put_into(readme, text)
    assert readme.read_text() == f"before\n{BEGIN}\n{text}{END}\nbehind\n"
    assert "| cost | 3 ms |  | the document says 30 (10 x) |" in text and "CPU one" in text
    assert f"![How the cost grows: push to replicas]({drawn[0]})" in text


def test_readme_has_a_place_for_the_table() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)


def test_a_drawing_shows_every_point_on_logarithmic_axes(tmp_path: Path) -> None:
    points = [(10_000.0, 20.0), (100_000.0, 20.0), (1_000_000.0, 200.0)]
    root = ET.fromstring(plot("copy, µs a row", "rows", points))
    circles = [(float(each.get("cx", 0)), float(each.get("cy", 0))) for each in root.iter("{http://www.w3.org/2000/svg}circle")]
    (x0, y0), (x1, y1), (x2, y2) = circles
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 == y1 > y2
    figures = [single("a.b", "ms", [y], series="copy, ms", axis="rows", at=x) for x, y in points]
    [path] = write_plots(tmp_path, [*figures, single("c.d", "ms", [1], series="alone, ms", axis="rows", at=1)])
    assert path.name == "copy.svg" and "prefers-color-scheme: dark" in path.read_text()
