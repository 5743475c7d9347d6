"""The command line of the benchmark: see `scripts/bench.sh --help`."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.bench import audit, bootstrap, capture, card, catchup, idle, ingest, pages, realtime, ship  # noqa: E402  # of tests, too
from scripts.bench.figures import NO_BOUND, Figure, read_bounds  # noqa: E402
from scripts.bench.ground import Ground, Sizes  # noqa: E402
from scripts.bench.machine import machine  # noqa: E402
from scripts.bench.plot import write_plots  # noqa: E402
from scripts.bench.table import Bounds, as_json, line, markdown, put_into  # noqa: E402

PARTS: dict[str, Callable[[Ground], Iterator[Figure]]] = {
    "capture": capture.capture,
    "catchup": catchup.catchup,
    "audit": audit.audit,
    "log": audit.log_size,
    "bootstrap": bootstrap.bootstrap,
    "realtime": realtime.realtime,
    "browser": realtime.browser,
    "wire": realtime.wire,
    "sync": realtime.syncs,
    "ingest": ingest.ingest,
    "worker": ingest.worker,
    "card": card.card,
    "memory": bootstrap.memory,
    "pages": pages.pages,
    "idle": idle.idle,
    "push": idle.push,
    "start": idle.start,
    "ship": ship.ship,
}
PLOTS = Path("scripts/bench/plots")
TRIES = 2  # of a part that breaks a guard


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)), metavar="[PART]...")
@click.option("--quick", is_flag=True, help="Small sizes, about a minute in all, and CPU time where that will do: for a busy machine.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures to this file.")
@click.option("--svg", type=click.Path(path_type=Path, file_okay=False), help="Draw in this folder how each cost grows.")
@click.option("--readme", is_flag=True, help="Put the table into README.md, and the drawings where that looks for them.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False, exists=True), help="On the disk that is to be measured.")
def main(parts: tuple[str, ...], *, quick: bool, json_file: Path | None, svg: Path | None, readme: bool, folder: Path | None) -> None:
    """Measure what Drover costs, each figure beside its peer or limit, in one run.

    Without a PART all of them: capture, catchup, audit, log, bootstrap, realtime, browser, wire, sync, ingest, worker, card, memory, pages,
    idle, push, start, ship. Each prints as it goes. Ctrl-C ends it, and what was measured until then is written all the same. Exit code 1
    when a figure breaks its guard (scripts/bench/bounds.toml) twice.
    """
    bounds, figures, broken = read_bounds(targets=not quick), list[Figure](), list[str]()
    with tempfile.TemporaryDirectory(prefix="drover-bench-", dir=folder, ignore_cleanup_errors=True) as work:
        facts = machine(Path(work))
        click.echo("\n".join(f"{name:<14} {text}" for name, text in facts.items()))
        ground = Ground(Path(work), Sizes.quick() if quick else Sizes(), click.echo, time.process_time if quick else time.perf_counter)
        try:
            for name in parts or PARTS:
                broken += _measure(name, ground, bounds, figures)
        except KeyboardInterrupt:
            click.echo("\ncut short")
            broken.append("cut short")
    if json_file:
        json_file.write_text(as_json(figures, bounds, facts), encoding="utf-8")
    for path in write_plots(svg, figures) if svg else ():
        click.echo(f"drawn: {path}")
    if readme:
        drawn = [str(path.relative_to(ROOT)) for path in write_plots(ROOT / PLOTS, figures)]
        put_into(ROOT / "README.md", markdown(figures, bounds, facts, drawn))
    missed = [figure.name for figure in figures if bounds.get(figure.name, NO_BOUND).reached(figure) is False]
    click.echo(f"{len(figures)} figures; targets missed: {', '.join(missed) or 'none'}")
    for words in broken:
        click.echo(f"FAILED: {words}")
    sys.exit(bool(broken))


def _measure(name: str, ground: Ground, bounds: Bounds, figures: list[Figure]) -> list[str]:
    """Run a part, again when it breaks a guard; adds its figures, and returns what it breaks the last time."""
    for attempt in range(TRIES):
        began, found, broken = time.monotonic(), list[Figure](), list[str]()
        click.echo(f"-- {name}{' once more' if attempt else ''}")
        try:
            for figure in PARTS[name](ground):
                bound = bounds.get(figure.name, NO_BOUND)
                found.append(figure)
                click.echo(line(figure, bound))
                broken += [f"{figure.name} is not {limit}: {line(figure, NO_BOUND)}" for limit in bound.broken(figure)]
        except Exception as exc:  # one part that cannot be measured here does not end the others
            traceback.print_exc()
            broken.append(f"{name} was not measured: {type(exc).__name__}: {exc}")
        finally:
            figures += [] if broken and attempt + 1 < TRIES else found
        click.echo(f"   {time.monotonic() - began:.0f} s")
        if not broken:
            return []
    return broken


if __name__ == "__main__":
    main()
