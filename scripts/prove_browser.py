#!/usr/bin/env python3
"""From a commit on the Pi to the changed cell in a real browser: `scripts/prove_browser.py [COMMITS=200] [--by shell|writer] [--p99 100]`.

A Pi and a server run as processes, with TLS between them; Chromium shows a batch of fifty animals. Every commit sets the weight of one of
them. Python's clock is read when the commit has returned, the browser's (the same machine's) when the cell has its new text. Beside it is
printed what of that lies between the event in the page and the cell. The exit code is 1 unless the p99 of both is within --p99.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from farm_processes import PASSWORD, USER, Farm, Seed
from playwright.sync_api import Page, sync_playwright

from changelog.connection import connect

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
ANIMALS = 50
WAIT = 10_000  # ms for one change

# When each weight was first seen in a cell, and when the page was last told something, in ms of Unix time.
WATCH = """
() => {
  const now = () => performance.timeOrigin + performance.now();
  const waiting = new Map();
  window.seen = {};
  window.fetches = 0;
  const plain = window.fetch;
  window.fetch = (...all) => { window.fetches += 1; return plain(...all); };
  window.appears = (weight) => new Promise((done) => { weight in window.seen ? done() : waiting.set(String(weight), done); });
  const see = (weight) => {
    if (weight in window.seen) return;
    window.seen[weight] = now();
    waiting.get(weight)?.();
  };
  const look = () => {
    for (const cell of document.querySelectorAll("td[data-label=Weight]")) see(String(parseFloat(cell.textContent)));
  };
  new MutationObserver(look).observe(document.getElementById("list"), { subtree: true, childList: true, characterData: true });
}
"""
# The page's own sockets, before the page opens one: when a weight was told of.
SPY = """
window.told = {};
const Plain = WebSocket;
window.WebSocket = class extends Plain {
  constructor(...all) {
    super(...all);
    this.addEventListener("message", ({ data }) => {
      const found = typeof data === "string" && /"new":\\{.*?"weight":([0-9.]+)/.exec(data);
      if (found) window.told[Number(found[1])] ??= performance.timeOrigin + performance.now();
    });
  }
};
"""


@click.command(help=__doc__)
@click.argument("commits", default=200)
@click.option("--rate", default=4.0, show_default=True, help="Commits a second at most.")
@click.option("--by", type=click.Choice(["shell", "writer"]), default="shell", show_default=True, help="Plain SQL, or the Pi's own API.")
@click.option("--p99", default=100.0, show_default=True, help="ms within which 99 of 100 must be on the page.")
def main(commits: int, rate: float, by: str, p99: float) -> None:
    """The command line."""
    if shutil.which("chromium") is None:
        sys.exit("error: chromium is needed: sudo apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="drover-browser-") as name:
        whole, told = cells(Path(name), commits, rate, by)
    good = report(f"commit ({by}) -> changed cell", whole, p99)
    good &= report("event in the page -> changed cell", told, p99) and len(told) == commits
    print("all held" if good else "NOT all held")
    sys.exit(0 if good else 1)


def cells(folder: Path, commits: int, rate: float, by: str = "shell") -> tuple[list[float], list[float]]:
    """A farm in `folder` with a browser before it: the ms from each commit to its cell, and from the page's event to its cell."""
    with sync_playwright() as playwright:
        farm = Farm(folder, Seed(folder / "seed"))
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            farm.pi.start()
            farm.fill(ANIMALS)
            farm.server.start()
            farm.assert_identical()
            page = browser.new_page(base_url=farm.server.url)
            page.add_init_script(SPY)
            open_the_batch(page)
            return measure(page, writer(farm, by), commits, rate)
        finally:
            browser.close()
            farm.close()


def open_the_batch(page: Page) -> None:
    """Sign in, and wait until the socket is up."""
    page.goto("/office/login?next=/office/batches/1")
    page.get_by_label("User name").fill(USER)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.locator("#connection[data-state=live]").wait_for(timeout=WAIT)
    page.evaluate(WATCH)


def writer(farm: Farm, by: str) -> Callable[[int, float], float]:
    """What sets the weight of an animal; it gives when that was committed, in ms of Unix time."""
    if by == "shell":
        db = connect(farm.pi.database)

        def typed(animal: int, weight: float) -> float:
            db.execute("UPDATE cattle SET weight=? WHERE id=?", (weight, animal))
            return time.time() * 1000

        return typed
    made = farm.pi.command("key", "add", "proof", "--role", "writer")
    key = made.stdout.strip()

    def asked(animal: int, weight: float) -> float:
        answer = farm.ask("POST", f"/api/cattle/{animal}/weights", key, json={"weight": weight})
        assert answer.ok, answer.text
        return time.time() * 1000

    return asked


def measure(page: Page, commit: Callable[[int, float], float], commits: int, rate: float) -> tuple[list[float], list[float]]:
    """The ms from each commit to its cell, and from the page's event to its cell."""
    began: dict[int, float] = {}
    for number in range(commits):
        weight = 1_000 + number
        due = time.monotonic() + 1 / rate
        began[weight] = commit(number % ANIMALS + 1, weight)
        page.evaluate("weight => window.appears(weight)", weight)
        time.sleep(max(0.0, due - time.monotonic()))
    found: dict[str, Any] = page.evaluate("({ seen: window.seen, told: window.told, fetches: window.fetches })")
    print(f"{commits} commits, {found['fetches']} fetches of the page")
    seen, told = found["seen"], found["told"]
    return [seen[str(w)] - at for w, at in began.items()], [seen[str(w)] - told[str(w)] for w in began if str(w) in told]


def report(what: str, times: list[float], limit: float) -> bool:
    """Print the distribution; whether its p99 is within the limit."""
    if len(times) < 2:
        print(f"{what:<36} no figures")
        return False
    parts = statistics.quantiles(times, n=100, method="inclusive")
    print(
        f"{what:<36} {len(times)} times: p50 {parts[49]:.1f} ms, p90 {parts[89]:.1f} ms, p99 {parts[98]:.1f} ms, worst {max(times):.1f} ms"
    )
    return parts[98] <= limit


if __name__ == "__main__":
    main()
