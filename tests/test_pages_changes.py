"""The pages of the changelog and of the first copy in a real browser: filters, one change, a row of then, and a bar that moves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cutting_proxy import Behaviour, CuttingProxy
from farm_processes import Farm
from office_browser import session_of
from office_farm import PASSWORD, make_replica, running_server
from playwright.sync_api import Browser, BrowserContext, Page, expect

from changelog.connection import connect

SOON = 20_000  # ms for a Pi that is asked every half second, on a busy machine


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pen 2 was changed twice: change by change, the second one by the scale."""
    path = tmp_path_factory.mktemp("office") / "replica.db"
    db = make_replica(path, batches=40, animals=2)
    with db:
        db.execute("UPDATE pens SET capacity=41 WHERE id=2")
    with db:
        db.execute("UPDATE pens SET capacity=42 WHERE id=2")
        db.execute("UPDATE changelog SET actor='scale' WHERE seq=(SELECT max(seq) FROM changelog)")
        db.execute("UPDATE changelog_position SET seq=(SELECT max(seq) FROM changelog)")
    db.close()
    return path


@pytest.fixture(scope="module")
def address(replica: Path) -> Iterator[str]:
    with running_server(replica.parent) as address:
        yield address


@pytest.fixture(scope="module")
def session(browser: Browser, address: str) -> Any:
    return session_of(browser, address, "admin", PASSWORD)


def head(replica: Path) -> int:
    db = connect(replica, readonly=True)
    try:
        return int(db.execute("SELECT max(seq) FROM changelog").fetchall()[0][0])
    finally:
        db.close()


def test_filters_are_typed_and_stand_in_the_address(page: Page) -> None:
    page.goto("/office/")
    page.get_by_role("link", name="Changes", exact=True).click()
    page.get_by_label("Table").select_option("pens")
    page.get_by_label("Who").fill("scale")
    page.get_by_label("Column").fill("capacity")
    page.get_by_label("From (UTC)").fill("2020-01-01T00:00:00")
    page.get_by_role("button", name="Show").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("changed pen 2: capacity 41 → 42")
    assert "actor=scale" in page.url
    page.reload()
    expect(page.get_by_label("Who")).to_have_value("scale")
    expect(page.get_by_label("From (UTC)")).to_have_value(re.compile("2020-01-01T00:00"))
    page.get_by_role("link", name="Show all").click()
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Onward").click()
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Back").click()
    expect(page.get_by_role("link", name="Back")).to_have_count(0)


def test_what_cannot_be_read_as_a_time_is_kept(context: BrowserContext) -> None:
    page = context.new_page()
    page.goto("/office/changes?from=yesterday&actor=scale")
    expect(page.get_by_role("alert")).to_contain_text("“yesterday” is no time")
    expect(page.get_by_label("From (UTC)")).to_have_value("yesterday")
    expect(page.get_by_label("Who")).to_have_value("scale")
    page.close()


def test_a_change_leads_through_the_life_of_its_row(page: Page, replica: Path) -> None:
    newest = head(replica)
    page.goto(f"/office/changes/{newest}")
    moved = page.locator("tr.moved")
    expect(moved).to_have_count(1)
    expect(moved).to_contain_text("capacity")
    expect(moved.locator("td")).to_have_text([re.compile("41"), re.compile("42")])
    page.get_by_role("link", name="Its change before").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("Change"))
    expect(page.locator("tr.moved td").first).to_have_text(re.compile("40"))
    page.get_by_role("link", name="Its next change").click()
    page.get_by_role("link", name="The row as it was at this change").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("pens 2 as it was at change"))
    expect(page.get_by_role("row").filter(has_text="capacity")).to_contain_text("42")
    page.get_by_label("As it was at change").fill(str(newest - 1))
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("row").filter(has_text="capacity")).to_contain_text("41")


def test_the_shown_command_is_folded_and_can_be_read(page: Page, replica: Path) -> None:
    page.goto(f"/office/changes/{head(replica)}")
    command = page.locator("details.shell code")
    expect(command).to_be_hidden()
    page.get_by_text("The same in the shell").click()
    expect(command).to_contain_text("SELECT at, actor, tbl, op, key, col, old, new FROM changelog_audit")


def test_a_new_change_appears_by_itself(page: Page, replica: Path) -> None:
    page.goto("/office/changes?table=pens")
    db = connect(replica)
    with db:
        db.execute("UPDATE pens SET description='just now' WHERE id=1")
        db.execute("UPDATE changelog_position SET seq=(SELECT max(seq) FROM changelog)")
    db.close()
    expect(page.locator("tbody tr").first).to_contain_text("just now", timeout=SOON)


BAR_SEEN = """setInterval(() => {
  const bar = document.getElementById("arrived");
  if (bar?.hasAttribute("value")) sessionStorage.bars = `${sessionStorage.bars ?? ""} ${bar.value / bar.max}`;
}, 20)"""


def test_the_page_of_the_first_copy_becomes_the_office_by_itself(browser: Browser, farm: Farm) -> None:
    """The Pi is away at first, then behind a slow line: the page says so, its bar moves, and the login appears."""
    farm.fill(6_000)
    with CuttingProxy(int(farm.pi.settings["PI_PORT"]), behaviour=Behaviour(delay=0.1, piece=8 * 1024)) as proxy:
        farm.server.settings["REMOTE_PI_PORT"] = proxy.port
        farm.server.start()
        page = browser.new_page()
        page.add_init_script(BAR_SEEN)
        page.goto(f"{farm.server.url}/office/")
        expect(page.get_by_text("The Pi does not answer.")).to_be_visible(timeout=SOON)
        assert "localhost" not in page.content()
        farm.pi.start()
        expect(page.get_by_text("The first copy of the farm arrives.")).to_be_visible(timeout=SOON)
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible(timeout=SOON)
        bars = [float(bar) for bar in page.evaluate("sessionStorage.bars").split()]
        assert bars == sorted(bars)
        assert len(set(bars)) > 2
        page.close()
