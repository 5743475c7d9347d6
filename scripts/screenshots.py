#!/usr/bin/env python3
"""Takes the pictures of README anew from a running demo: `.venv/bin/python scripts/screenshots.py PASSWORD` (needs Debian's chromium).

So that there is something to see, it first types into the Pi's database what a farm does in some months: pens, weights, moves, new tags.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).with_name("screenshots")
HEIGHTS = {1200: 640, 390: 780}  # px of a window, by its width: a desk and a phone
PICTURES = (  # the address under /office/, the window's width, and whether the system is set to dark
    ("", 1200, False),
    ("cattle/1", 1200, False),
    ("changes", 1200, False),
    ("replication", 1200, True),
    ("payloads", 1200, False),
    ("cattle/1", 390, True),
    ("batches", 390, False),
)
LARGEST = 150_000  # bytes of one picture
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

ANIMAL = "(SELECT min(id) FROM cattle)"
MONTHS = """
INSERT OR IGNORE INTO pens(pen_number, capacity, description)
  VALUES('P1', 12, 'by the gate'), ('P2', 20, 'behind the barn'), ('P3', 8, 'sick bay'), ('P4', 40, NULL);
UPDATE cattle SET pen_id=1 + id % 4, sex=CASE id % 3 WHEN 0 THEN 'Steer' ELSE 'Heifer' END, weight=240 + 7 * (id % 23) WHERE pen_id IS NULL;
"""
MONTH = f"""
INSERT INTO weight_records(cattle_id, weight, recorded_at, recorded_by)
  SELECT {ANIMAL}, {{weight}}, strftime('%Y-%m-%dT07:30:00', 'now', '-{{days}} days'), 'anna';
UPDATE cattle SET weight={{weight}}, pen_id=1 + {{days}} / 45 % 4 WHERE id={ANIMAL};
"""
SIGNED = """BEGIN IMMEDIATE; CREATE TEMP TABLE head AS SELECT max(seq) AS seq FROM changelog; {}
UPDATE changelog SET actor='office:anna' WHERE seq>(SELECT seq FROM head); COMMIT; DROP TABLE temp.head;"""


@click.command()
@click.argument("password")
@click.option("--user", default="admin", show_default=True)
@click.option("--address", default="http://localhost:5000", show_default=True)
@click.option("--farm", default="data/farm.db", show_default=True, help="The Pi's database, which gets some months of changes.")
def main(password: str, user: str, address: str, farm: str) -> None:
    """Sign in and photograph each page at each width."""
    browser_path = shutil.which("chromium")
    if browser_path is None:
        sys.exit("error: chromium is needed: sudo apt-get install chromium")
    furnish(farm)
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        for name, width, dark in PICTURES:
            context = browser.new_context(
                base_url=address,
                viewport={"width": width, "height": HEIGHTS[width]},
                color_scheme="dark" if dark else "light",
                timezone_id="UTC",
                locale="en-US",
            )
            page = context.new_page()
            sign_in(page, user, password)
            page.goto(f"/office/{name}")
            photograph(page, FOLDER / f"{name.replace('/', '-') or 'dashboard'}-{width}.png")
        browser.close()


def furnish(farm: str) -> None:
    """What happens on a farm in half a year, typed into the shell."""
    months = [SIGNED.format(MONTH.format(weight=260 + 1.15 * (180 - days) - days % 7, days=days)) for days in range(180, -1, -20)]
    typed = "".join([SIGNED.format(MONTHS), *months])
    subprocess.run(["sqlite3", "-bail", "-cmd", ".timeout 8000", farm], input=typed, text=True, check=True)


def sign_in(page: Page, user: str, password: str) -> None:
    """Through the form, as people do."""
    page.goto("/office/login")
    page.get_by_label("User name").fill(user)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")
    page.wait_for_url("**/office/")


def photograph(page: Page, path: Path) -> None:
    """What the window shows now."""
    page.wait_for_load_state("load")
    page.wait_for_timeout(1500)  # ms: the plot draws what it was told, and marks of new rows fade
    page.screenshot(path=path)
    size = path.stat().st_size
    click.echo(f"{path} {size} bytes")
    if size > LARGEST:
        sys.exit(f"error: {path} has more than {LARGEST} bytes")


if __name__ == "__main__":
    main()
