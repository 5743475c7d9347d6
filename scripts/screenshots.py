#!/usr/bin/env python3
"""Takes the pictures of README anew from a running demo: `.venv/bin/python scripts/screenshots.py PASSWORD` (needs Debian's chromium)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).with_name("screenshots")
HEIGHTS = {1200: 640, 390: 780}  # px of a window, by its width: a desk and a phone
PICTURES = (("batches", 1200), ("replication", 1200), ("batches/1", 390), ("payloads", 390))
LARGEST = 150_000  # bytes of one picture
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@click.command()
@click.argument("password")
@click.option("--user", default="admin", show_default=True)
@click.option("--address", default="http://localhost:5000", show_default=True)
def main(password: str, user: str, address: str) -> None:
    """Sign in and photograph each page at each width."""
    browser_path = shutil.which("chromium")
    if browser_path is None:
        sys.exit("error: chromium is needed: sudo apt-get install chromium")
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        for name, width in PICTURES:
            size = {"width": width, "height": HEIGHTS[width]}
            page = browser.new_context(base_url=address, viewport=size, timezone_id="UTC", locale="en-US").new_page()
            sign_in(page, user, password)
            page.goto(f"/office/{name}")
            photograph(page, FOLDER / f"{name.replace('/', '-')}-{width}.png")
        browser.close()


def sign_in(page: Page, user: str, password: str) -> None:
    """Through the form, as people do."""
    page.goto("/office/login")
    page.get_by_label("User name").fill(user)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")
    page.wait_for_url("**/office/")


def photograph(page: Page, path: Path) -> None:
    """What the window shows now."""
    page.wait_for_load_state("networkidle")
    page.screenshot(path=path)
    size = path.stat().st_size
    click.echo(f"{path} {size} bytes")
    if size > LARGEST:
        sys.exit(f"error: {path} has more than {LARGEST} bytes")


if __name__ == "__main__":
    main()
